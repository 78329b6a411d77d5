// Matrix products as tile programs: dense, batched and grouped, in BF16, FP8 (per tensor or block
// scaled), MXFP4 x FP8 and MXFP4 x MXFP4, with the activation of expert layers in the epilogue.
#pragma once

#include <cstdint>
#include <span>
#include <string>
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

// Schedule of a matrix product. Weight rows are the tile's rows, tokens its columns.
struct GemmDesign {
  std::string name{};
  std::int64_t tile_rows = 128;
  std::vector<std::int64_t> tile_columns = {128};  // the one of least modelled time is taken
  std::int64_t tile_k = 64;                        // elements of one iteration
  std::int64_t stages = 4;
  std::int64_t split_k = 1;       // at most; as many as fill the cores
  std::int64_t accumulators = 1;  // 2: the epilogue overlaps the next tile
  std::int64_t multicast = 1;     // neighbouring cores that share token tiles
  bool persistent = false;
  ScalePath scales = ScalePath::kUnit;
};
void describe(base::ConfigVisitor& v, GemmDesign& design);

// Tokens of one group times its weights [n, k]. `rows` of all groups are stored one after another.
struct GemmProblem {
  std::span<const std::int64_t> group_rows{};  // tokens per group; dense: one group
  std::int64_t n = 0;
  std::int64_t k = 0;
  workloads::Dtype activation = workloads::Dtype::kBf16;
  workloads::Dtype weight = workloads::Dtype::kBf16;
  workloads::Dtype compute = workloads::Dtype::kBf16;
  workloads::Dtype output = workloads::Dtype::kBf16;
  std::int64_t fp8_block = 128;  // 0: one scale per tensor
  std::int64_t fp4_block = 32;
  double fp4_scale_bytes = 1.0;  // per block
  Epilogue epilogue = Epilogue::kStore;
  double swiglu_limit = 0.0;         // clamp of gate and up; 0: none
  bool activations_in_cache = true;  // left there by the kernel before
};

class GemmKernel final : public tile::Kernel {
 public:
  // `chip` decides the tile among the design's and whether FP4 weights are widened.
  GemmKernel(const GemmProblem& problem, const GemmDesign& design, const tile::CoreRates& chip);

  [[nodiscard]] std::string_view name() const override { return "gemm"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

  [[nodiscard]] std::int64_t splits() const { return splits_; }
  [[nodiscard]] std::int64_t tile_columns() const { return columns_; }
  // Tokens of all groups.
  [[nodiscard]] std::int64_t tokens() const { return tokens_; }

 private:
  struct Place {
    std::int64_t group = 0;
    std::int64_t first_token = 0;  // of the tile, among all tokens
    std::int64_t tokens = 0;       // in the tile
    std::int64_t row = 0;          // first weight row within the group
    std::int64_t split = 0;
  };
  [[nodiscard]] Place place(std::int64_t index) const;
  void choose_tile(const tile::CoreRates& chip);
  [[nodiscard]] std::int64_t column_tiles(std::int64_t columns) const;

  GemmProblem problem_;
  const GemmDesign* design_;
  bool widen_ = false;
  std::int64_t tokens_ = 0;
  std::int64_t rows_ = 0;       // of a tile
  std::int64_t columns_ = 0;    // of a tile
  std::int64_t row_tiles_ = 0;  // of a group
  std::int64_t splits_ = 1;
  double cache_capacity_ = 0.0;
};

// Adds the partial sums of a split product and rounds them: [splits, tokens, n] FP32 in.
class SplitReduceKernel final : public tile::Kernel {
 public:
  SplitReduceKernel(std::int64_t splits, std::int64_t tokens, std::int64_t n,
                    workloads::Dtype output)
      : splits_(splits), tokens_(tokens), n_(n), output_(output) {}
  [[nodiscard]] std::string_view name() const override { return "split_reduce"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  std::int64_t splits_, tokens_, n_;
  workloads::Dtype output_;
};

}  // namespace foretoken::hwmodels::kernels
