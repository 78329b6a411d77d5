// One layer of routed experts spread over ranks: tokens travel to the ranks of their experts, two
// products with SwiGLU between them, results travel back. Priced for fused kernels that work in
// waves of experts and for the forms they replace: separate kernels one after another, two half
// batches, and each product overlapped with its own traffic. docs/expert-waves.md has the formulas.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hwmodels/fabric.h"
#include "hwmodels/hardware.h"
#include "hwmodels/op_cost.h"

namespace foretoken::hwmodels {

// A layer's shape and where its pairs are.
struct ExpertLayer {
  std::int64_t tokens = 0;  // per rank
  std::int64_t hidden = 1;
  std::int64_t inner = 1;
  std::int64_t experts = 1;  // of the layer
  std::int64_t topk = 1;
  std::int64_t ranks = 1;
  workloads::Dtype activation = workloads::Dtype::kFp8;
  workloads::Dtype weight = workloads::Dtype::kFp4;
  workloads::Dtype compute = workloads::Dtype::kFp8;
  // Pairs of each expert held by a rank, by rank; empty: as evenly as they go.
  std::vector<std::vector<std::int64_t>> rows{};

  [[nodiscard]] std::int64_t local_experts() const { return (experts + ranks - 1) / ranks; }
  [[nodiscard]] std::int64_t pairs() const { return tokens * topk; }  // that leave a rank's tokens
};

// Rows of the experts of `rank`.
std::vector<std::int64_t> rows_of(const ExpertLayer& layer, std::int64_t rank);

// Throws UnsupportedError for what cannot be: more choices than experts, counts beyond 63 bits.
void require_possible(const ExpertLayer& layer);

enum class ExpertSchedule : std::uint8_t {
  kSerial,    // separate kernels, one after another
  kTwoBatch,  // the same kernels on two halves of the tokens: one travels while the other computes
  kPairwise,  // dispatch under the first product, combine under the second
  kWaves,     // in waves of experts: one computes, the next arrives, finished ones return
};
inline constexpr std::array<std::string_view, 4> kExpertScheduleNames = {"serial", "two_batch",
                                                                         "pairwise", "waves"};

// How separate kernels move tokens (kSerial, kTwoBatch).
enum class SeparateForm : std::uint8_t {
  // Counts are exchanged first; a token goes once to each rank and is copied to its experts there.
  kNormal,
  kLowLatency,  // every pair goes straight to its place in a buffer of its expert
};

struct ExpertPlan {
  ExpertSchedule schedule = ExpertSchedule::kWaves;
  SeparateForm form = SeparateForm::kNormal;
  // The host reads the counts before it launches what depends on them, so that launches up to the
  // first product are exposed.
  bool host_waits = false;
};

// What a stage of a pipeline over experts takes if nothing holds it up. Seconds.
struct WaveStages {
  double arrive = 0.0;
  double first = 0.0;    // product, with what its epilogue hides
  double between = 0.0;  // activation and cast that nothing hides
  double second = 0.0;
  double leave = 0.0;
};

// Time of all waves from the first byte asked for to the last one back. Arrivals and returns share
// the links, the products a rank's units.
double serial_time(std::span<const WaveStages> waves);
// All first products before any second one; a wave is then a chunk of both.
double pairwise_time(std::span<const WaveStages> waves);
double waves_time(std::span<const WaveStages> waves);

// Tokens that an expert of the layer expects.
double expected_rows(const ExpertLayer& layer);

// What one rank's products of one wave ask of its resources. Seconds at the achieved rate.
struct ProductCost {
  double memory = 0.0;
  double cache = 0.0;
  double loads = 0.0;  // both, which share the way to the cores
  double matrix = 0.0;
  double vector = 0.0;
  double exchange = 0.0;
  double tile = 0.0;     // of one tile on its core while all cores work
  double seconds = 0.0;  // launched by itself, with the launch

  [[nodiscard]] double busiest() const;
};

// A wave of one rank's experts.
struct ExpertWave {
  std::int64_t first = 0;  // expert
  std::int64_t count = 0;
  std::int64_t pairs = 0;
  std::array<ProductCost, 2> product;
};

// Where the time goes; the parts add up to `seconds`.
struct ExpertTime {
  double seconds = 0.0;
  double launch = 0.0;
  double prepare = 0.0;    // quantising the tokens
  double handshake = 0.0;  // of all ranks, before and after
  double host = 0.0;       // launches the GPU waits for
  double order = 0.0;      // expert order, copies to and from it (separate kernels)
  double compute = 0.0;    // products and activation
  double traffic = 0.0;    // of tokens that no product hides
  double tiles = 0.0;      // first and last tile
  double reduce = 0.0;     // sum over a token's experts
  std::string_view bound;  // what fused products wait for: memory, cache, matrix, ..., link
  std::int64_t experts_per_wave = 0;
  std::int64_t waves = 0;
  std::int64_t tile_tokens = 0;
  std::int64_t pairs = 0;  // of the slowest rank
  double link = 0.0;       // s that the links are busy
};

// Bytes of a row on its way to an expert, with its block scales, and of a result on its way back.
double sent_bytes(const ExpertLayer& layer);
double returned_bytes(const ExpertLayer& layer);

// Links of the busiest rank while every rank sends `bytes` to the others. All that is known here
// about how dispatch and combine use the fabric.
LinkTime wave_traffic(const Hardware& hardware, const Rates& rates, double bytes,
                      std::int64_t ranks);

// Prices layers on one kind of hardware, whose rates must stay. Tiles and waves are those of its
// kernels.expert_waves. Reusable.
class ExpertPricing {
 public:
  void use(const Hardware& hardware, const Rates& rates) {
    use(hardware, rates, hardware.kernels.expert_layer);
  }
  void use(const Hardware& hardware, const Rates& rates, const ExpertLayerDesign& design);

  // Of the slowest rank.
  ExpertTime time(const ExpertLayer& layer, const ExpertPlan& plan);
  // Of one rank with such rows.
  ExpertTime rank_time(const ExpertLayer& layer, const ExpertPlan& plan,
                       std::span<const std::int64_t> rows);

  [[nodiscard]] std::int64_t experts_per_wave(const ExpertLayer& layer) const;
  // Of one rank, in the order of its experts; those with pairs.
  std::vector<ExpertWave> waves(const ExpertLayer& layer, std::span<const std::int64_t> rows);
  // As many waves as asked for, with as even a number of experts as they go; 0: by the rule. Also
  // those without pairs. Replaces `out`; repeated calls take nothing from the heap.
  void waves(const ExpertLayer& layer, std::span<const std::int64_t> rows, std::int64_t count,
             std::vector<ExpertWave>& out);
  [[nodiscard]] std::int64_t waves_by_rule(const ExpertLayer& layer, std::int64_t experts) const;
  // Before the first token is asked for, and after the last result is back.
  double start(const ExpertLayer& layer);
  double prepare(const ExpertLayer& layer);  // of it: quantising the tokens
  double finish(const ExpertLayer& layer);

  [[nodiscard]] const Hardware& hardware() const { return *hardware_; }
  [[nodiscard]] const Rates& rates() const { return *rates_; }
  [[nodiscard]] const ExpertLayerDesign& design() const { return *design_; }

 private:
  ProductCost product(const ExpertLayer& layer, std::span<const std::int64_t> rows, int which,
                      bool fused);
  ExpertTime separate(const ExpertLayer& layer, const ExpertPlan& plan,
                      std::span<const std::int64_t> rows);
  ExpertTime fused(const ExpertLayer& layer, const ExpertPlan& plan,
                   std::span<const std::int64_t> rows);
  double kernel(const tile::Kernel& kernel);  // with its launch
  double op(const workloads::Op& op);         // with its launch

  const Hardware* hardware_ = nullptr;
  const Rates* rates_ = nullptr;
  const ExpertLayerDesign* design_ = nullptr;
  tile::CoreRates core_;      // of the cores that multiply
  kernels::GemmDesign gemm_;  // with the tile in hand
  KernelCosts costs_;
  tile::Recorder recorder_{core_};
  tile::Evaluator evaluator_;
  // Waves of a layer mostly hold the same rows.
  struct Shape {
    std::int64_t hidden = 0, inner = 0, tile = 0;
    workloads::Dtype activation{}, weight{}, compute{};
    bool operator==(const Shape&) const = default;
  };
  struct Known {
    int which = 0;
    bool fused = false;
    std::vector<kernels::GroupRun> groups;
    ProductCost cost;
  };
  static constexpr std::size_t kManyKnown = 64;
  void forget();  // costs, and keeps their storage

  Shape shape_;
  std::vector<Known> known_;  // the first known_count_
  std::size_t known_count_ = 0;
  std::vector<std::int64_t> sorted_;
  std::vector<kernels::GroupRun> groups_;
};

}  // namespace foretoken::hwmodels
