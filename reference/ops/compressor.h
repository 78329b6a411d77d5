// The compressors of CSA and HCA layers and of the indexer: tokens go in one by one, a pooled entry
// comes out at the end of every block (facts 3.7, 4). Prefill and decode are the same machine.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/ops/numerics.h"

namespace foretoken::reference {

struct CompressorShape {
  std::int64_t ratio = 0;  // tokens a block
  std::int64_t width = 0;  // channels of an entry
  bool overlap = false;    // an entry also pools the block before (CSA, indexer)

  [[nodiscard]] std::int64_t projected() const { return overlap ? 2 * width : width; }
  [[nodiscard]] std::int64_t slots() const { return overlap ? 2 * ratio : ratio; }
};

// Values and biased scores of the tokens that have not left yet, `slots` rows of `projected`
// channels each. With overlap, rows 0 .. ratio-1 are the previous complete block and the rest the
// current one; the first half of the channels plays the role of the previous block, the second half
// that of the current one. Rows without a token hold value 0 and score -infinity.
template <class T>
class CompressorState {
 public:
  CompressorState() = default;
  explicit CompressorState(const CompressorShape& shape);

  [[nodiscard]] const CompressorShape& shape() const { return shape_; }

  // Takes the token at `position` (tokens come in order): its projections value and score
  // [projected] and the positional bias of its place in the block [projected]. Answers whether a
  // block is complete, and then fills entry [width].
  template <class Acc>
  bool push(const Numerics<T, Acc>& numerics, std::int64_t position, const Acc* value,
            const Acc* score, const float* bias, T* entry);

  // As kept: FP32 values and scores.
  [[nodiscard]] std::int64_t bytes() const {
    return 4 * static_cast<std::int64_t>(values_.size() + scores_.size());
  }
  [[nodiscard]] const std::vector<T>& values() const { return values_; }
  [[nodiscard]] const std::vector<T>& scores() const { return scores_; }

 private:
  CompressorShape shape_;
  std::vector<T> values_;
  std::vector<T> scores_;
};

}  // namespace foretoken::reference
