// Matrix products as tile programs: dense, batched and grouped, in BF16, FP8 (per tensor or block
// scaled), MXFP4 x FP8 and MXFP4 x MXFP4, with the activation of expert layers in the epilogue.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

// Where FP8 block scales meet the product.
enum class ScalePath : std::uint8_t {
  kUnit,    // inside the matrix unit (Blackwell, Ascend 3510)
  kVector,  // vector units add each block's product, scaled, to FP32 sums (Hopper)
};

enum class Epilogue : std::uint8_t {
  kStore,   // round (to FP8: with block scales) and store
  kSwiglu,  // the first n / 2 weight rows are gates, the others ups: silu(gate) * up, then as above
};

// Which operand runs along the rows of the matrix instruction; the other one is its columns.
enum class Side : std::uint8_t { kTokens, kWeights };

// A tile a library offers, and when it does.
struct GemmTile {
  std::int64_t weights = 128;  // weight rows
  std::int64_t tokens = 128;
  Side rows = Side::kWeights;
  std::int64_t min_tokens = 1;  // of the largest group
  std::int64_t max_tokens = 1'000'000'000'000;
  std::int64_t share_tokens = 1;   // neighbouring cores that receive the token tile from one read
  std::int64_t share_weights = 1;  // and the weight tile
  bool pair = false;     // two cores work on one instruction and hold half of its columns each
  bool spilled = false;  // promoted sums do not fit the registers and live in local memory
  // Taken before all others when its tiles fill the cores once: at least this share of them, at
  // most all. 0: never.
  double one_wave = 0.0;
};

// What is multiplied: activations and weights with their scales.
enum class GemmFormat : std::uint8_t {
  kBf16,
  kFp8,       // one scale per tensor
  kFp8Block,  // 1 x 128 scales of activations, 128 x 128 of weights
  kFp4Fp8,    // MXFP4 weights, block-scaled FP8 activations
  kFp4,       // MXFP4 both
};
inline constexpr std::array<std::string_view, 5> kGemmFormatNames = {"bf16", "fp8", "fp8_block",
                                                                     "fp4_fp8", "fp4"};

// In what order tiles are dealt, which decides what concurrent ones share in the cache.
enum class Raster : std::uint8_t { kGrouped, kLinear };

// Schedule of a matrix product.
struct GemmDesign {
  std::string name{};
  std::vector<GemmTile> tiles{GemmTile{}};  // the one of least modelled time is taken
  std::int64_t tile_k = 128;                // bytes of the narrower operand's row per iteration
  std::int64_t stages = 8;                  // slots of the operand buffers: as many as fit, at most
  std::int64_t split_k = 1;                 // parts of the contracted dimension, at most
  std::int64_t split_depth = 256;           // elements of a part, at least
  std::int64_t accumulators = 1;            // 2: the epilogue overlaps the next tile
  bool persistent = false;
  // Instructions work on the tokens that are there; else on whole tiles.
  bool exact_tiles = false;
  bool padded_loads = false;  // token tiles are read whole, whatever of them is there
  ScalePath scales = ScalePath::kUnit;
  Raster raster = Raster::kGrouped;
  std::vector<std::string> formats{};  // that the library offers (kGemmFormatNames); empty: all
};
void describe(base::ConfigVisitor& v, GemmDesign& design);

// `count` groups of `rows` tokens each.
struct GroupRun {
  std::int64_t rows = 0;
  std::int64_t count = 1;
};

// Mistakes made on purpose, for tests of the verifier.
enum class GemmFault : std::uint8_t {
  kNone,
  kSlotEarly,      // operands are loaded into a slot one iteration before it was read
  kScaleFloor,     // the output's block scales are rounded down instead of up
  kTailLeftOut,    // the last tokens of a group, fewer than a tile, are not computed
  kPartsNotAdded,  // of a split product only the first part reaches the output
};

// What a product's tensors are called, for a kernel that has several products.
struct GemmTensors {
  std::string_view weights = "weights";
  std::string_view activations = "activations";
  std::string_view output = "output";
  std::int64_t rows = 0;  // of activations and output; 0: as many as there are tokens
  // A tensor [rows, .] whose first column weights each row of the result before it is rounded.
  // Empty: none.
  std::string_view row_weights{};
  // A tensor [rows, .] whose first column says to which row of the output each row of the result
  // goes. Empty: rows stay where they are.
  std::string_view row_places{};
  std::int64_t place_rows = 0;  // of the output then
  tile::Home place_home = tile::Home::kMemory;
  double place_share = 1.0;  // of what goes to peers, what crosses the links
};

// Tokens of each group times its weights [n, k]. The tokens of all groups are stored one after
// another.
struct GemmProblem {
  std::span<const GroupRun> groups{};  // dense: one group
  std::int64_t n = 0;
  std::int64_t k = 0;
  workloads::Dtype activation = workloads::Dtype::kBf16;
  workloads::Dtype weight = workloads::Dtype::kBf16;
  workloads::Dtype compute = workloads::Dtype::kBf16;
  workloads::Dtype output = workloads::Dtype::kBf16;
  std::int64_t fp8_block = 128;  // 0: one scale per tensor
  double fp8_scale_bytes = 4.0;  // per block
  std::int64_t fp4_block = 32;
  double fp4_scale_bytes = 1.0;  // per block
  Epilogue epilogue = Epilogue::kStore;
  double swiglu_limit = 0.0;           // clamp of gate and up; 0: none
  bool activations_in_cache = true;    // left there by the kernel before
  GemmFault fault = GemmFault::kNone;  // a mistake made on purpose, for tests of the verifier
  GemmTensors tensors{};
};

// A problem with its formats set; its shape is left to fill in.
GemmProblem problem_of(GemmFormat format);

class GemmKernel final : public tile::Kernel {
 public:
  // `chip` decides the tile among the design's and whether FP4 weights are widened.
  GemmKernel(const GemmProblem& problem, const GemmDesign& design, const tile::CoreRates& chip);

  [[nodiscard]] std::string_view name() const override { return "gemm"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

  [[nodiscard]] std::int64_t splits() const { return splits_; }
  [[nodiscard]] const GemmTile& tile() const { return *tile_; }
  [[nodiscard]] std::int64_t stages() const { return stages_; }
  // Tokens of all groups.
  [[nodiscard]] std::int64_t tokens() const { return tokens_; }
  // Weight rows of a tile, tiles that a group's weights are cut into, elements of an iteration.
  [[nodiscard]] std::int64_t tile_rows() const { return rows_; }
  [[nodiscard]] std::int64_t row_tiles() const { return row_tiles_; }
  [[nodiscard]] std::int64_t tile_depth() const { return tile_k_; }

  // What an item works on.
  struct Place {
    std::int64_t group = 0;
    std::int64_t first_token = 0;  // of the tile, among all tokens
    std::int64_t tokens = 0;       // in the tile
    std::int64_t row = 0;          // first weight row within the group
    std::int64_t split = 0;
  };
  [[nodiscard]] Place place(std::int64_t index) const;

 private:
  void choose(const tile::CoreRates& chip);
  [[nodiscard]] std::int64_t token_tiles(std::int64_t tokens) const;
  [[nodiscard]] std::int64_t stages_of(const GemmTile& tile) const;
  [[nodiscard]] double memory_factor(const tile::CoreRates& chip) const;

  GemmProblem problem_;
  const GemmDesign* design_;
  const GemmTile* tile_ = nullptr;
  bool widen_ = false;
  bool promote_ = false;
  std::int64_t groups_ = 0;
  std::int64_t hit_ = 0;  // groups with tokens
  std::int64_t tokens_ = 0;
  std::int64_t most_tokens_ = 0;  // of a group
  std::int64_t rows_ = 0;         // weight rows of a tile
  std::int64_t row_tiles_ = 0;    // of a group
  std::int64_t tile_k_ = 0;       // elements
  std::int64_t stages_ = 1;
  std::int64_t splits_ = 1;
  double operand_room_ = 0.0;  // B of one core
  double reread_ = 1.0;        // what is read from memory over what is there
  double cache_capacity_ = 0.0;
};

// Adds the partial sums of a split product and rounds them: [splits, tokens, n] FP32 in.
class SplitReduceKernel final : public tile::Kernel {
 public:
  SplitReduceKernel(std::int64_t splits, std::int64_t tokens, std::int64_t n,
                    workloads::Dtype output, const tile::CoreRates& chip,
                    GemmFault fault = GemmFault::kNone);
  [[nodiscard]] std::string_view name() const override { return "split_reduce"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  std::int64_t splits_, tokens_, n_;
  workloads::Dtype output_;
  GemmFault fault_;
  std::int64_t columns_ = 0;  // of an item
  std::int64_t parts_ = 1;    // of a token
  std::int64_t rows_ = 1;     // tokens of an item
};

}  // namespace foretoken::hwmodels::kernels
