// Runs the lightning indexer's scores on real numbers and compares them with the reference.
#pragma once

#include <cstdint>
#include <vector>

#include "hwmodels/kernels/index_logits.h"
#include "hwmodels/value/verify.h"

namespace foretoken::hwmodels::value {

// A small batch; numbers follow from the seed.
struct IndexLogitsCase {
  std::vector<kernels::SequenceGroup> sequences = {{.count = 2, .history = 1000, .queries = 2}};
  std::int64_t heads = 8;
  std::int64_t width = 64;
  std::int64_t ratio = 4;
  std::int64_t page = 16;
  workloads::Dtype key = workloads::Dtype::kFp8;
  workloads::Dtype compute = workloads::Dtype::kFp8;
  workloads::Dtype score = workloads::Dtype::kFp32;
  unsigned seed = 1;
};

// Every score that a query may see is compared; the others must be absent or -infinity.
Comparison verify_index_logits(const kernels::IndexLogitsDesign& design,
                               const tile::CoreRates& chip, const IndexLogitsCase& test,
                               kernels::IndexLogitsFault fault = kernels::IndexLogitsFault::kNone);

Tolerance index_logits_tolerance(workloads::Dtype score);

}  // namespace foretoken::hwmodels::value
