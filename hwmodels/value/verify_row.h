// Row kernels against the functional reference: chains over rows, the likeliest token, and the rows
// of expert layers.
#pragma once

#include <cstdint>

#include "hwmodels/kernels/moe_rows.h"
#include "hwmodels/kernels/row.h"
#include "hwmodels/value/verify.h"

namespace foretoken::hwmodels::value {

// Small and seeded. Of a cache, one row in eight is left out (slot -1).
struct RowCase {
  kernels::RowProblem problem;
  unsigned seed = 1;
};
Comparison verify_row(const kernels::RowDesign& design, const tile::CoreRates& chip,
                      const RowCase& c, kernels::RowFault fault = kernels::RowFault::kNone);

// What a right chain stays within, by the format of its output.
Tolerance row_tolerance(workloads::Dtype output);

// Recall is the share of rows whose likeliest token was found.
struct ArgmaxCase {
  std::int64_t rows = 0;
  std::int64_t vocabulary = 0;
  workloads::Dtype input = workloads::Dtype::kFp32;
  unsigned seed = 1;
};
Comparison verify_argmax(const kernels::RowDesign& design, const tile::CoreRates& chip,
                         const ArgmaxCase& c);

// Orders random choices by expert, moves rows there, and sums the experts' rows again. Recall is
// the share of choices that went to their right place.
struct MoeRowsCase {
  kernels::MoeRowsProblem problem;
  unsigned seed = 1;
};
Comparison verify_moe_rows(const kernels::MoeRowsDesign& design, const tile::CoreRates& chip,
                           const MoeRowsCase& c,
                           kernels::MoeRowsFault fault = kernels::MoeRowsFault::kNone);

}  // namespace foretoken::hwmodels::value
