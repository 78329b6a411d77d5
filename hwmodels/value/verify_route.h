// Runs expert choice on real numbers and compares it with the reference.
#pragma once

#include <cstdint>

#include "hwmodels/kernels/route.h"
#include "hwmodels/value/verify.h"

namespace foretoken::hwmodels::value {

// A small batch; numbers follow from the seed.
struct RouteCase {
  std::int64_t tokens = 40;
  reference::RouterShape router{.experts = 256, .topk = 6, .scale = 1.5};
  bool bias = true;
  std::int64_t vocab = 0;  // of hash layers
  unsigned seed = 1;
};

// Compares weights in order; recall is the share of the right experts that were chosen.
Comparison verify_route(const kernels::RouteDesign& design, const tile::CoreRates& chip,
                        const RouteCase& test,
                        kernels::RouteFault fault = kernels::RouteFault::kNone);

Tolerance route_tolerance();

}  // namespace foretoken::hwmodels::value
