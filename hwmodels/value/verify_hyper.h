// Hyper-connection kernels against the functional reference.
#pragma once

#include "hwmodels/kernels/hyper.h"
#include "hwmodels/value/verify.h"

namespace foretoken::hwmodels::value {

// Small and seeded. Residual matrices start far from doubly stochastic, so that twenty Sinkhorn
// iterations do not forget where they began.
struct HyperCase {
  kernels::HyperProblem problem;
  unsigned seed = 1;
};
// Layer input, output weights and residual matrix together (the merge: its output).
Comparison verify_hyper_pre(const kernels::HyperDesign& design, const tile::CoreRates& chip,
                            const HyperCase& c,
                            kernels::HyperFault fault = kernels::HyperFault::kNone);
// The streams after the update.
Comparison verify_hyper_post(const kernels::HyperDesign& design, const tile::CoreRates& chip,
                             const HyperCase& c,
                             kernels::HyperFault fault = kernels::HyperFault::kNone);

// What right programs stay within, by the operands of the projection (BF16: those as stored).
Tolerance hyper_pre_tolerance(workloads::Dtype compute);
Tolerance hyper_post_tolerance();

}  // namespace foretoken::hwmodels::value
