// Hyper-connections as tile programs: the mixing weights from all residual streams with their
// Sinkhorn projection and the collapse to the layer's input, the update of the streams, and the
// merge before the head.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "hwmodels/kernels/row.h"
#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

struct HyperDesign {
  std::string name{};
  bool fused = false;  // one launch: the last split of a tile waits for the others and finishes it
  std::int64_t tile_tokens = 128;   // of the projection
  std::int64_t tile_k = 64;         // channels of one iteration of the projection
  std::int64_t stages = 6;          // slots of its operands
  std::int64_t splits = 148;        // parts of the channels at most; as many as fill the cores
  std::int64_t finish_tokens = 64;  // that share a core's Sinkhorn steps, at most
  std::int64_t rows = 4;            // tokens of one iteration of collapse and update, at most
  std::int64_t columns = 2048;      // channels of one work item of the update, at most
  std::int64_t slots = 3;           // of streams in collapse and update, at most
};
void describe(base::ConfigVisitor& v, HyperDesign& design);

inline constexpr std::int64_t kHyperStreams = 8;  // at most

struct HyperProblem {
  std::int64_t tokens = 0;
  std::int64_t streams = 4;
  std::int64_t hidden = 0;
  std::int64_t iterations = 20;  // row and column steps of Sinkhorn each
  bool head = false;             // the merge before the head: input weights only
  bool norm = false;             // RMSNorm of the layer's input, fused
  workloads::Dtype compute = workloads::Dtype::kTf32;  // BF16: the matrix is stored so
  workloads::Dtype output = workloads::Dtype::kBf16;   // of the layer's input
  double rms_eps = 1e-6;
  double eps = 1e-6;
  double norm_eps = 1e-6;

  [[nodiscard]] std::int64_t wide() const { return streams * hidden; }
  [[nodiscard]] std::int64_t outputs() const { return head ? streams : (2 + streams) * streams; }
};
// FP32 operands as the chip's matrix unit takes them.
workloads::Dtype hyper_compute(const tile::CoreRates& chip);

// Mistakes made on purpose, for tests of the verifier.
enum class HyperFault : std::uint8_t {
  kNone,
  kSwapSinkhorn,   // rows where columns belong
  kFewIterations,  // half of them
  kTransposeMix,   // the update contracts the second index
  kSinglePost,     // output weights without their factor two
  kEarlyLoad,      // streams arrive a stage before their slot is free
};

enum class HyperPass : std::uint8_t {
  kProject,  // products of streams and matrix, and the streams' squares, in parts
  kFinish,   // their sum, the mixing weights, the collapse
  kFused,
};
// The launches of a design, in order.
std::span<const HyperPass> hyper_passes(const HyperDesign& design);

// Weights and collapse. Tensors: "streams" [tokens, streams * hidden] BF16, "matrix" [outputs,
// streams * hidden], "base" [1, outputs], "scale" [1, 3 or 1], "mix_parts" and "square_parts"
// between the launches; out come "post" [tokens, streams], "comb" [tokens, streams^2], "output"
// [tokens, hidden].
class HyperPreKernel final : public tile::Kernel {
 public:
  HyperPreKernel(const HyperProblem& problem, const HyperDesign& design,
                 const tile::CoreRates& chip, HyperPass pass, HyperFault fault = HyperFault::kNone);

  [[nodiscard]] std::string_view name() const override;
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

  [[nodiscard]] std::int64_t splits() const { return splits_; }

 private:
  struct Shared;
  [[nodiscard]] std::int64_t parts() const { return pass_ == HyperPass::kFinish ? 1 : splits_; }
  void project(tile::Machine& m, const Shared& s) const;
  void add_parts(tile::Machine& m, const Shared& s) const;
  void mix(tile::Machine& m, const Shared& s) const;
  void collapse(tile::Machine& m, const Shared& s) const;

  HyperProblem problem_;
  const HyperDesign* design_;
  HyperPass pass_;
  HyperFault fault_;
  double room_ = 0.0;
  std::int64_t tokens_ = 0;  // of a work item
  std::int64_t rows_ = 1;    // of an iteration of the collapse
  std::int64_t slots_ = 1;   // of its streams
  std::int64_t splits_ = 1;
};

// x'_k = post_k y + sum_j comb_jk x_j. Tensors: "streams", "layer_output" [tokens, hidden], "post",
// "comb"; out comes "streams_out".
class HyperPostKernel final : public tile::Kernel {
 public:
  HyperPostKernel(const HyperProblem& problem, const HyperDesign& design,
                  const tile::CoreRates& chip, HyperFault fault = HyperFault::kNone);

  [[nodiscard]] std::string_view name() const override { return "hyper_post"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  HyperProblem problem_;
  std::int64_t slots_;
  HyperFault fault_;
  double room_;
  std::int64_t width_ = 0;
  RowBlocks blocks_;
};

}  // namespace foretoken::hwmodels::kernels
