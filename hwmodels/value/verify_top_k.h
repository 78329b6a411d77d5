// Runs the selection of the k largest scores on real numbers and compares it with the reference.
#pragma once

#include <cstdint>
#include <vector>

#include "hwmodels/kernels/top_k.h"
#include "hwmodels/value/verify.h"

namespace foretoken::hwmodels::value {

// How scores are spread.
enum class ScorePattern : std::uint8_t {
  kNormal,    // around zero
  kShifted,   // close together, far from zero: they share leading digits
  kTies,      // few different values, so that the rule for ties decides
  kMasked,    // a third is -infinity
  kAscending  // the largest stand last
};

// A small batch; numbers follow from the seed. `score` is the format served.
struct TopKCase {
  std::vector<kernels::SequenceGroup> sequences = {{.history = 4000}};
  std::int64_t ratio = 4;
  std::int64_t k = 64;
  workloads::Dtype score = workloads::Dtype::kBf16;
  ScorePattern pattern = ScorePattern::kNormal;
  unsigned seed = 1;
};

// Recall is the share of the right selection that was selected, over all rows; a number that is no
// entry the row sees, or is there twice, is an endless difference.
Comparison verify_top_k(const kernels::TopKDesign& design, const tile::CoreRates& chip,
                        const TopKCase& test, kernels::TopKFault fault = kernels::TopKFault::kNone);

// Selection is exact: the kernel compares the scores that are served, ties to the lower entry.
Tolerance top_k_tolerance();

}  // namespace foretoken::hwmodels::value
