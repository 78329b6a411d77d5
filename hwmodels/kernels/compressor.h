// The compressors of CSA and HCA layers and of the indexer as a tile program (facts 3.7, 4):
// softmax pooling of a block of tokens per channel, RMSNorm, RoPE at the block's first token, and
// the entry packed as the cache stores it. Decode (one token a sequence, the block's tokens in an
// FP32 state) and prefill (many blocks of a prompt) are one program.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "hwmodels/kernels/sequences.h"
#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

// How an entry is stored.
enum class CompressedFormat : std::uint8_t {
  kBf16,
  kFp8Rope,  // FP8 with a scale for 64 channels, the rotary channels BF16: keys of attention
  kFp4,      // Hadamard, then FP4 with a scale for 32: keys of the index
  kFp8,      // Hadamard, then FP8 with one FP32 scale: the same, wider
};

struct CompressorProblem {
  std::span<const SequenceGroup> sequences{};  // `queries` are the new tokens
  std::int64_t ratio = 4;                      // tokens of a block
  std::int64_t width = 512;                    // channels of an entry
  bool overlap = true;                         // an entry also pools the block before
  std::int64_t rope = 64;                      // rotary channels, the last
  CompressedFormat entry = CompressedFormat::kFp8Rope;
  workloads::Dtype projection = workloads::Dtype::kFp32;
  double eps = 1e-6;  // of the norm

  [[nodiscard]] std::int64_t projected() const { return overlap ? 2 * width : width; }
  [[nodiscard]] std::int64_t slots() const { return overlap ? 2 * ratio : ratio; }
};

// Schedule of a compressor.
struct CompressorDesign {
  std::string name{};
  std::int64_t blocks = 8;      // of a sequence that one item pools; with overlap at least two
  std::int64_t channels = 512;  // of one iteration
  std::int64_t stages = 3;      // slots of the token buffers
};
void describe(base::ConfigVisitor& v, CompressorDesign& design);
CompressorDesign default_compressor_design(const CompressorProblem& problem);

// Mistakes made on purpose, for tests of the verification.
enum class CompressorFault : std::uint8_t {
  kNone,
  kHalvesSwapped,  // the first half of the channels is taken for the current block
  kLastPosition,   // RoPE at the block's last token
  kScaleFloor,     // FP4 and FP8 scales by the MX rule
  kEarlyReuse,     // tokens are loaded into a slot that is still to be read
};

// Tensors: "values" and "scores" [token, projected], "bias" [ratio, projected], "norm" [1, width],
// "angles" [position, rope] (cosine and sine side by side), "entry_rows" [entry, 1] with the row of
// "entries" (and "entry_rope") each goes to. The state is a ring: token t of a sequence has row
// t mod slots of its `slots` rows of "state_values" and "state_scores" (bias included), read before
// the kernel changes it under the names "state_values_out" and "state_scores_out".
class CompressorKernel final : public tile::Kernel {
 public:
  CompressorKernel(const CompressorProblem& problem, const CompressorDesign& design,
                   const tile::CoreRates& chip, CompressorFault fault = CompressorFault::kNone);

  [[nodiscard]] std::string_view name() const override { return "compressor"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

  [[nodiscard]] std::int64_t tokens() const { return tokens_; }
  [[nodiscard]] std::int64_t sequences() const { return sequences_; }
  [[nodiscard]] std::int64_t entries() const { return entries_; }
  [[nodiscard]] std::int64_t positions() const { return positions_; }

 private:
  struct Place {
    const SequenceGroup* group = nullptr;
    std::int64_t sequence = 0;     // among all
    std::int64_t first_token = 0;  // of the sequence, among all tokens
    std::int64_t first_entry = 0;  // of the item, among all entries
    std::int64_t first_block = 0;
    std::int64_t blocks = 0;
    bool keeps = false;  // updates the state
  };
  [[nodiscard]] Place place(std::int64_t index) const;
  [[nodiscard]] std::int64_t emitted(const SequenceGroup& g) const;
  [[nodiscard]] std::int64_t items(const SequenceGroup& g) const;

  CompressorProblem problem_;
  const CompressorDesign* design_;
  CompressorFault fault_;
  std::int64_t blocks_ = 1;    // of an item
  std::int64_t channels_ = 1;  // of an iteration
  double cache_capacity_ = 0.0;
  std::int64_t items_ = 0;
  std::int64_t tokens_ = 0;
  std::int64_t sequences_ = 0;
  std::int64_t entries_ = 0;
  std::int64_t positions_ = 0;
};

}  // namespace foretoken::hwmodels::kernels
