// Row-wise and element-wise chains as one tile program: norms, rotation, Hadamard, quantisation,
// the gated activation, cache insertion, embedding; and the choice of the likeliest token.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

// Schedule of a chain over rows.
struct RowDesign {
  std::string name{};
  std::int64_t rows = 64;  // of one iteration, at most: fewer where memory ends or cores would idle
  std::int64_t columns = 8192;  // of one vector step, and of a work item where rows can be cut
  std::int64_t slots = 3;       // of input and output buffers: loads of the next rows overlap
  std::int64_t iterations = 0;  // of one work item; 0: spread evenly over the cores
};
void describe(base::ConfigVisitor& v, RowDesign& design);

// Equal blocks dealt to work items: evenly to `items`, or `per` to each.
class RowBlocks {
 public:
  RowBlocks() = default;
  // `units` rows in blocks of `size`; per 0: over `cores`. Each work item's blocks are worked on
  // `parts` times, in column parts; part runs fastest.
  RowBlocks(std::int64_t units, std::int64_t size, std::int64_t per, double cores,
            std::int64_t parts = 1);

  [[nodiscard]] std::int64_t items() const { return items_ * parts_; }
  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] std::int64_t parts() const { return parts_; }
  [[nodiscard]] std::int64_t part(std::int64_t item) const { return item % parts_; }
  [[nodiscard]] std::int64_t first_row(std::int64_t item) const { return first(item) * size_; }
  // Whole blocks of an item, and rows of a last partial one.
  [[nodiscard]] std::int64_t whole(std::int64_t item) const;
  [[nodiscard]] std::int64_t rest(std::int64_t item) const;
  [[nodiscard]] std::int64_t rows(std::int64_t item) const {
    return whole(item) * size_ + rest(item);
  }
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const;

 private:
  [[nodiscard]] std::int64_t first(std::int64_t item) const;
  [[nodiscard]] std::int64_t count(std::int64_t item) const;

  std::int64_t units_ = 0;
  std::int64_t size_ = 1;
  std::int64_t parts_ = 1;
  std::int64_t blocks_ = 0;
  std::int64_t items_ = 0;  // row items
  std::int64_t each_ = 0;   // blocks of an item, the first more_ have one more
  std::int64_t more_ = 0;
};
// Into how many equal multiples of 128 columns `width` is cut: `wanted` or the next lower count,
// but at least `least` where that can be; 1 where none can.
std::int64_t even_parts(std::int64_t width, std::int64_t wanted, std::int64_t least = 1);

enum class RowStep : std::uint8_t {
  kSwiglu,    // first: the input row holds gates, then ups
  kResidual,  // adds tensor "residual"
  kNorm,      // RMSNorm of each head (of the row where there is one head)
  kRotate,    // RoPE on the last `rotary` channels of each head
  kHadamard,  // of each head
  kRound,     // to `dtype` and on in FP32
  kQuantise,  // last: block scales of `block` columns in the output's format
};

struct RowStage {
  RowStep step = RowStep::kRound;
  bool weight = false;   // kNorm: times a weight per channel; kSwiglu: times a weight per row
  bool keep = false;     // kResidual: the sum leaves too, as tensor "residual_out" in BF16
  bool inverse = false;  // kRotate
  double limit = 0.0;    // kSwiglu: clamp, 0 none
  workloads::Dtype dtype = workloads::Dtype::kBf16;  // kRound
  std::int64_t block = 0;                            // kQuantise
};
inline constexpr std::size_t kRowStages = 8;

// `rows` tokens of `heads` heads of `width` channels through `stages`.
struct RowProblem {
  std::int64_t rows = 0;
  std::int64_t heads = 1;
  std::int64_t width = 0;
  std::array<RowStage, kRowStages> stages{};
  std::int64_t stage_count = 0;
  workloads::Dtype input = workloads::Dtype::kBf16;
  workloads::Dtype output = workloads::Dtype::kBf16;
  double eps = 1e-6;
  std::int64_t rotary = 64;
  std::int64_t positions = 0;   // rows of the table of cosines and sines
  std::int64_t table_rows = 0;  // > 0: input rows are looked up by "indices" in a table
  std::int64_t copies = 1;      // of each row in the output: one per residual stream
  // > 0: rows go to the entries "slots" names of a cache of so many; its first `plain` channels are
  // quantised, the others stay BF16 in a tensor of their own.
  std::int64_t cache_rows = 0;
  std::int64_t plain = 0;
  double entry_padding = 0.0;  // bytes of an entry beyond elements and scales
  double scale_bytes = 0.0;    // of the output's format, per block
  bool input_in_cache = true;  // left there by the kernel before

  [[nodiscard]] std::span<const RowStage> chain() const {
    return {stages.data(), static_cast<std::size_t>(stage_count)};
  }
  RowProblem& then(const RowStage& stage);
};

// The chains of V4's layers.
RowProblem norm_chain(std::int64_t rows, std::int64_t width, workloads::Dtype output);
RowProblem residual_norm_chain(std::int64_t rows, std::int64_t width);
RowProblem quantise_chain(std::int64_t rows, std::int64_t width);  // FP8, 1 x 128
// Head by head: norm and rotation of queries; rotation back and quantisation of outputs.
RowProblem query_chain(std::int64_t rows, std::int64_t heads, std::int64_t width,
                       std::int64_t positions);
RowProblem output_chain(std::int64_t rows, std::int64_t heads, std::int64_t width,
                        std::int64_t positions);
// Norm, rotation, FP8 of all but the rotary channels, into the cache.
RowProblem entry_chain(std::int64_t rows, std::int64_t width, std::int64_t positions,
                       std::int64_t cache_rows);
// Rotation, Hadamard, FP4: queries of the indexer; with the norm before, its keys.
RowProblem index_query_chain(std::int64_t rows, std::int64_t heads, std::int64_t width,
                             std::int64_t positions);
RowProblem index_key_chain(std::int64_t rows, std::int64_t width, std::int64_t positions,
                           std::int64_t cache_rows);
// [rows, 2 * width] in; FP8 out unless `output` is another format.
RowProblem swiglu_chain(std::int64_t rows, std::int64_t width, double limit,
                        workloads::Dtype output = workloads::Dtype::kFp8);
RowProblem embedding_chain(std::int64_t rows, std::int64_t width, std::int64_t vocabulary,
                           std::int64_t streams);

// Mistakes made on purpose, for tests of the verifier.
enum class RowFault : std::uint8_t {
  kNone,
  kScaleFloor,     // the MX rule instead of DeepSeek's (made by the quantiser, not by the kernel)
  kRotateForward,  // where the chain rotates back
  kEarlyLoad,      // rows arrive a stage before their slot is free
  kWideNorm,       // one norm over all heads
  kSwapHalves,     // of SwiGLU
};

// Throws UnsupportedError for a chain or design that cannot be run.
class RowKernel final : public tile::Kernel {
 public:
  RowKernel(const RowProblem& problem, const RowDesign& design, const tile::CoreRates& chip,
            RowFault fault = RowFault::kNone);

  [[nodiscard]] std::string_view name() const override { return "row"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

  [[nodiscard]] const RowBlocks& blocks() const { return blocks_; }

 private:
  RowProblem problem_;
  const RowDesign* design_;
  RowFault fault_;
  double room_ = 0.0;            // B of the cache that a tensor may take and still be found there
  std::int64_t part_width_ = 0;  // columns of a work item
  std::int64_t step_width_ = 0;  // and of a vector step
  RowBlocks blocks_;
};

// The likeliest token of each row of logits, ties to the lower one: the maximum of each part of the
// row, then, when there are several, of the parts.
class ArgmaxKernel final : public tile::Kernel {
 public:
  ArgmaxKernel(std::int64_t rows, std::int64_t vocabulary, workloads::Dtype input,
               const RowDesign& design, const tile::CoreRates& chip);
  [[nodiscard]] std::string_view name() const override { return "argmax"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;
  // Of a row; one needs no second kernel.
  [[nodiscard]] std::int64_t parts() const { return parts_; }

 private:
  std::int64_t rows_, vocabulary_;
  workloads::Dtype input_;
  const RowDesign* design_;
  std::int64_t parts_ = 1;
  std::int64_t width_ = 0;
  double room_ = 0.0;
  RowBlocks blocks_;
};

class ArgmaxPartsKernel final : public tile::Kernel {
 public:
  ArgmaxPartsKernel(std::int64_t rows, std::int64_t parts, const RowDesign& design,
                    const tile::CoreRates& chip);
  [[nodiscard]] std::string_view name() const override { return "argmax_parts"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  std::int64_t rows_, parts_, slots_;
  RowBlocks blocks_;
};

}  // namespace foretoken::hwmodels::kernels
