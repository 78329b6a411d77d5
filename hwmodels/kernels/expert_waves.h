// An expert layer as one persistent kernel of each rank: choices are counted and announced, tokens
// cross the links, both products run in waves of experts while later tokens still arrive and
// finished rows return, and each token's rows are summed at its owner.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hwmodels/kernels/gemm.h"
#include "hwmodels/kernels/moe_rows.h"
#include "hwmodels/kernels/row.h"
#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

// Who moves a token to the rank that holds its expert.
enum class DispatchForm : std::uint8_t {
  kPull,  // that rank reads it, when it knows who announced what
  kPush,  // the token's owner writes it, when it knows what all others write
};

struct ExpertWavesDesign {
  std::string name{};
  std::int64_t wave_experts = 0;  // of this rank that form a wave; 0: by rule
  std::int64_t ahead = 1;         // waves whose tokens are asked for before this one's products
  DispatchForm dispatch = DispatchForm::kPull;
  std::int64_t dispatch_rows = 32;  // tokens of a work item that moves them
  std::int64_t dispatch_block = 4;  // and of one iteration
  std::int64_t dispatch_slots = 4;  // iterations in flight
  std::int64_t pairs = 64;          // token-expert pairs counted together, at most
  std::int64_t single_pairs = 128;  // up to so many, one core counts all of them
  std::int64_t publish_rows = 64;   // tokens whose choices are written to their experts' ranks
  std::int64_t sum_columns = 2048;  // of a work item that sums returned rows
  std::int64_t sum_slots = 3;
  // Of both products. Tiles in the order of max_tokens; wave_tile() takes one for the layer.
  GemmDesign product{};
};
void describe(base::ConfigVisitor& v, ExpertWavesDesign& design);

// Mistakes made on purpose, for tests of the verifier.
enum class ExpertWavesFault : std::uint8_t {
  kNone,
  kWaveEarly,       // the first product does not wait for its wave's tokens
  kSecondEarly,     // the second product does not wait for the first
  kSumEarly,        // the sum does not wait for the rows that return
  kRowsOverlap,     // an expert's rows begin one too early, on another expert's last
  kWrongSource,     // tokens are taken from the next rank
  kWrongSlot,       // rows return to the slots of other tokens
  kWeightTwice,     // both products weight their rows
  kWeightLeftOut,   // neither does
  kDropped,         // an expert's last token finds no room
  kAnnouncedEarly,  // counts are announced before they are written
  kFlagsKept,       // flags keep what earlier layers left in them
  kReturnedEarly,   // rows are said to have left before the second product is done
};

// One rank's share of a layer. Tensors that all ranks reach have the same size on each.
struct ExpertWavesProblem {
  std::int64_t rank = 0;
  std::int64_t ranks = 1;
  std::int64_t tokens = 0;    // of this rank
  std::int64_t capacity = 0;  // tokens that a rank has room for
  std::int64_t pool = 0;      // rows that it has room for when they arrive; 0: as many as do
  std::int64_t choices = 0;   // experts of a token
  std::int64_t experts = 0;   // of all ranks, which hold equal parts in order
  std::int64_t hidden = 0;
  std::int64_t inner = 0;  // of an expert
  GemmFormat format = GemmFormat::kFp4Fp8;
  double swiglu_limit = 10.0;
  // [ranks, experts]: tokens of each rank that chose each expert. Copied.
  std::span<const std::int64_t> counts{};
  std::int64_t layer = 0;  // layers that ran before, which decides the set of flags
  ExpertWavesFault fault = ExpertWavesFault::kNone;

  [[nodiscard]] std::int64_t local_experts() const { return experts / ranks; }
};

// Counts of `tokens` tokens a rank that spread over all experts as evenly as whole tokens can.
std::vector<std::int64_t> balanced_counts(std::int64_t ranks, std::int64_t experts,
                                          std::int64_t tokens, std::int64_t choices);

// The tile of a layer in which an expert expects so many tokens: the first whose max_tokens is not
// passed by more than a half (facts 10.2). All ranks know that number before they know who chose
// what.
const GemmTile& wave_tile(const ExpertWavesDesign& design, double tokens_per_expert);

// The schedule of such a layer's products, with that tile alone. Keeps the storage of `product`.
void wave_product(const ExpertWavesDesign& design, double tokens_per_expert, GemmDesign& product);

// Experts that form a wave, which a design may state. Else by the rule of DeepGEMM's fused kernel
// (facts 10.2): the fewest experts whose first product has two tiles for every core, then, up to
// twice as many, those that fill the cores' last round best. All where an expert has less than a
// token on average. `inner`: channels of an expert.
std::int64_t experts_per_wave(const ExpertWavesDesign& design, std::int64_t local_experts,
                              double tokens_per_expert, std::int64_t inner, double cores);

enum class WavePhase : std::uint8_t {
  kClean,     // zero the flags that the next layer uses
  kCount,     // pairs of each expert, per block
  kPlace,     // where in its expert's list each pair stands
  kPublish,   // lists, to the ranks that hold the experts
  kAnnounce,  // counts, likewise
  kDispatch,  // tokens
  kFirst,     // gate and up, activation, cast
  kSecond,    // down, to the owner's buffer
  kReturned,  // that all rows have left
  kSum,       // of a token's rows
  kFinish,    // nothing of this layer is on its way any more
};
inline constexpr std::array<std::string_view, 11> kWavePhaseNames = {
    "clean",         "count",          "place",    "publish", "announce", "dispatch",
    "first product", "second product", "returned", "sum",     "finish"};

// Tensors, [rows, columns]; those of all ranks are marked shared:
//   tokens           shared, [capacity, hidden], as quantised for the first product
//   experts          [tokens * choices, 1]; router_weights [tokens, choices]
//   weights_up       [local experts * 2 inner, hidden], gates above ups of each expert
//   weights_down     [local experts * hidden, inner]
//   block_counts, places, group_rows: as ExpertOrderKernel
//   lists            token row, return row and weight of each pair. Where tokens are pulled:
//   shared,
//                    [local experts * ranks * capacity, 3], by expert and source; where they are
//                    pushed: [tokens * choices, 3], by expert
//   announced        shared, [list_experts(), ranks]: pairs by expert and source
//   pool             [pool_rows(), hidden], tokens in the order of local experts and sources;
//                    row_weights and row_places [pool_rows(), 1] beside it; shared where pushed
//   hidden           [pool_rows(), inner]
//   returned         shared, [capacity * choices, hidden]
//   output           [tokens, hidden]
// Flags are zero before the first layer and kept from layer to layer in two sets, for even and odd
// ones: a rank may begin a layer while another still sums the last one's rows.
class ExpertWavesKernel final : public tile::Kernel {
 public:
  // Throws UnsupportedError for what cannot be run.
  ExpertWavesKernel(const ExpertWavesProblem& problem, const ExpertWavesDesign& design,
                    const tile::CoreRates& chip);
  ExpertWavesKernel(const ExpertWavesKernel&) = delete;
  ExpertWavesKernel& operator=(const ExpertWavesKernel&) = delete;

  [[nodiscard]] std::string_view name() const override { return "expert_waves"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;
  [[nodiscard]] std::string item_name(std::int64_t index) const override;

  // What an item does, and for which wave (0 outside of waves).
  struct Role {
    WavePhase phase = WavePhase::kClean;
    std::int64_t wave = 0;
    std::int64_t within = 0;  // its number among those of phase and wave
  };
  [[nodiscard]] Role role(std::int64_t index) const;

  [[nodiscard]] std::int64_t waves() const { return waves_; }
  [[nodiscard]] std::int64_t wave_experts() const { return wave_experts_; }
  [[nodiscard]] std::int64_t pool_rows() const { return pool_rows_; }
  [[nodiscard]] std::int64_t counters() const { return counters_; }
  // Experts whose counts a rank learns: its own where it pulls, all where it pushes.
  [[nodiscard]] std::int64_t list_experts() const;
  [[nodiscard]] const GemmKernel& first() const { return *first_; }
  [[nodiscard]] const GemmKernel& second() const { return *second_; }
  // Columns of the activation that share a scale.
  [[nodiscard]] std::int64_t hidden_block() const { return hidden_block_; }

 private:
  // Items of one phase and wave, which are dealt in a row.
  struct Segment {
    WavePhase phase = WavePhase::kClean;
    std::int64_t wave = 0;
    std::int64_t first = 0;
    std::int64_t count = 0;
  };
  // Tokens of one expert that one item moves.
  struct Move {
    std::int64_t expert = 0;  // of all
    std::int64_t first = 0;   // among those of the expert here (pull) or of this rank (push)
    std::int64_t rows = 0;
  };

  [[nodiscard]] std::int64_t pairs_of(std::int64_t rank, std::int64_t expert) const {
    return counts_[static_cast<std::size_t>(rank * problem_.experts + expert)];
  }
  [[nodiscard]] bool pulls() const { return design_->dispatch == DispatchForm::kPull; }
  [[nodiscard]] std::int64_t wave_begin(std::int64_t wave) const;  // local expert
  [[nodiscard]] std::int64_t flag(std::int64_t rank, std::int64_t local) const;
  // Items of a product that belong to the wave: a range of its own numbers.
  [[nodiscard]] std::int64_t first_of_wave(const GemmKernel& product, std::int64_t wave) const;
  [[nodiscard]] Move move_of(std::int64_t wave, std::int64_t within) const;
  [[nodiscard]] std::int64_t moves_to(std::int64_t source, std::int64_t rank,
                                      std::int64_t wave) const;
  [[nodiscard]] std::int64_t arrivals(std::int64_t wave) const;  // signals that complete it
  void add_segment(WavePhase phase, std::int64_t wave, std::int64_t count);
  void product_classes(const GemmKernel& product, const Segment& segment,
                       tile::FunctionRef<void(const tile::WorkClass&)> visit) const;

  void publish(tile::Machine& m, std::int64_t index) const;
  void announce(tile::Machine& m, std::int64_t to) const;
  void pull(tile::Machine& m, const Move& move, std::int64_t wave) const;
  void push(tile::Machine& m, const Move& move, std::int64_t wave) const;
  void sum(tile::Machine& m, std::int64_t index) const;
  [[nodiscard]] tile::TensorSpec tokens_tensor(tile::Home home) const;
  [[nodiscard]] tile::TensorSpec pool_tensor() const;
  [[nodiscard]] tile::TensorSpec pool_column(std::string_view name) const;

  ExpertWavesProblem problem_;
  const ExpertWavesDesign* design_;
  GemmDesign product_;  // with the layer's tile
  std::vector<std::int64_t> counts_;
  std::vector<GroupRun> groups_;         // tokens of each local expert
  std::vector<std::int64_t> group_row_;  // where they begin in the pool; one more at the end
  MoeRowsProblem order_;
  MoeRowsDesign order_design_;
  std::optional<ExpertOrderKernel> count_pass_;
  std::optional<ExpertOrderKernel> place_pass_;
  std::optional<GemmKernel> first_;
  std::optional<GemmKernel> second_;
  RowBlocks publish_;
  RowBlocks sum_;
  std::int64_t sum_width_ = 0;
  std::int64_t counters_ = 0;
  std::int64_t wave_experts_ = 1;
  std::int64_t waves_ = 1;
  std::int64_t pool_rows_ = 0;
  std::int64_t hidden_block_ = 0;
  std::int64_t flags_ = 0;       // of one set
  double received_share_ = 0.0;  // of the rows computed here, those of other ranks
  double sent_share_ = 0.0;      // of this rank's pairs, those computed elsewhere
  double room_ = 0.0;            // B of the cache that a tensor may take and still be found there
  std::vector<Segment> segments_;
};

}  // namespace foretoken::hwmodels::kernels
