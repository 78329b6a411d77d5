// Expert choice: scores, selection, weights (facts 3.9; V3.2's groups: facts 5).
#pragma once

#include <cstdint>
#include <vector>

#include "reference/ops/numerics.h"

namespace foretoken::reference {

enum class Scoring : std::uint8_t { kSqrtSoftplus, kSigmoid, kSoftmax };

struct RouterShape {
  std::int64_t experts = 0;
  std::int64_t topk = 0;
  Scoring scoring = Scoring::kSqrtSoftplus;
  bool normalise = true;         // weights of the chosen sum to `scale`
  double scale = 1.0;            // routed_scaling_factor
  std::int64_t groups = 1;       // V3.2: experts in equal groups,
  std::int64_t kept_groups = 1;  // of which the best stay
};

// sqrt(ln(1 + e^x)), without overflow.
template <class Acc>
Acc sqrt_softplus(Acc x);

// One token. `logits` [experts] as stored; `bias` [experts] or null joins the selection only;
// `fixed` [topk] or null are experts given by a table. Fills indices and weights [topk]: chosen
// experts best first (or in the table's order), ties to the lower number.
template <class T, class Acc>
void route(const Numerics<T, Acc>& numerics, const RouterShape& shape, const T* logits,
           const float* bias, const std::int32_t* fixed, std::int32_t* indices, T* weights);

}  // namespace foretoken::reference
