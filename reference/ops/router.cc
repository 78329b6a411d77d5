#include "reference/ops/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/ops/selection.h"

namespace foretoken::reference {

template <class Acc>
Acc sqrt_softplus(Acc x) {
  // ln(1 + e^x) = x + ln(1 + e^-x)
  return std::sqrt(x > Acc{0} ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)));
}

template <class T, class Acc>
void route(const Numerics<T, Acc>& numerics, const RouterShape& shape, const T* logits,
           const float* bias, const std::int32_t* fixed, std::int32_t* indices, T* weights) {
  const auto experts = static_cast<std::size_t>(shape.experts);
  thread_local std::vector<T> scores;
  thread_local std::vector<T> ranked;
  thread_local std::vector<std::int32_t> chosen;
  scores.resize(experts);
  if (shape.scoring == Scoring::kSoftmax) {
    const Acc most = static_cast<Acc>(*std::max_element(logits, logits + experts));
    Acc sum = 0;
    for (std::size_t e = 0; e < experts; ++e) sum += std::exp(static_cast<Acc>(logits[e]) - most);
    for (std::size_t e = 0; e < experts; ++e) {
      scores[e] = numerics.wide(std::exp(static_cast<Acc>(logits[e]) - most) / sum);
    }
  } else {
    for (std::size_t e = 0; e < experts; ++e) {
      const Acc x = static_cast<Acc>(logits[e]);
      scores[e] = numerics.wide(
          shape.scoring == Scoring::kSigmoid ? Acc{1} / (Acc{1} + std::exp(-x)) : sqrt_softplus(x));
    }
  }
  if (fixed != nullptr) {
    std::copy(fixed, fixed + shape.topk, indices);
  } else {
    ranked = scores;
    if (bias != nullptr) {
      for (std::size_t e = 0; e < experts; ++e) {
        ranked[e] = numerics.wide(static_cast<Acc>(scores[e]) + static_cast<Acc>(bias[e]));
      }
    }
    if (shape.groups > 1) {
      // A group ranks by the sum of its two best scores; experts of the others drop out.
      const std::int64_t size = shape.experts / shape.groups;
      std::vector<T> group_scores(static_cast<std::size_t>(shape.groups));
      for (std::int64_t g = 0; g < shape.groups; ++g) {
        top_k(ranked.data() + g * size, size, 2, chosen);
        Acc sum = 0;
        for (const std::int32_t i : chosen)
          sum += static_cast<Acc>(ranked[static_cast<std::size_t>(g * size + i)]);
        group_scores[static_cast<std::size_t>(g)] = numerics.wide(sum);
      }
      std::vector<std::int32_t> kept;
      top_k(group_scores.data(), shape.groups, shape.kept_groups, kept);
      for (std::int64_t g = 0; g < shape.groups; ++g) {
        if (std::find(kept.begin(), kept.end(), g) != kept.end()) continue;
        std::fill_n(ranked.begin() + g * size, size, -std::numeric_limits<T>::infinity());
      }
    }
    top_k(ranked.data(), shape.experts, shape.topk, chosen);
    std::copy(chosen.begin(), chosen.end(), indices);
  }
  Acc sum = 0;
  for (std::int64_t i = 0; i < shape.topk; ++i) {
    sum += static_cast<Acc>(scores[static_cast<std::size_t>(indices[i])]);
  }
  for (std::int64_t i = 0; i < shape.topk; ++i) {
    Acc weight = static_cast<Acc>(scores[static_cast<std::size_t>(indices[i])]);
    if (shape.normalise) weight /= sum;
    weights[i] = numerics.wide(weight * static_cast<Acc>(shape.scale));
  }
}

template double sqrt_softplus(double);
template float sqrt_softplus(float);
// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                                                      \
  template void route(const Numerics<T, A>&, const RouterShape&, const T*, const float*, \
                      const std::int32_t*, std::int32_t*, T*);
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
