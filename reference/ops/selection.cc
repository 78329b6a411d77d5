#include "reference/ops/selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "reference/kernels/matmul.h"

namespace foretoken::reference {

template <class T, class Acc>
void index_scores(const Numerics<T, Acc>& numerics, const T* q, const T* weights,
                  std::int64_t heads, std::int64_t width, const T* keys, std::int64_t visible,
                  bool narrow_scores, T* scores) {
  constexpr std::int64_t kBlock = 1024;  // keys at a time, so that the products stay in cache
  thread_local std::vector<Acc> products;
  thread_local std::vector<Acc> sums;
  products.resize(static_cast<std::size_t>(heads * std::min(visible, kBlock)));
  for (std::int64_t first = 0; first < visible; first += kBlock) {
    const std::int64_t n = std::min(kBlock, visible - first);
    WeightView view;
    view.format = sizeof(T) == 8 ? WeightView::Format::kF64 : WeightView::Format::kF32;
    view.data = keys + first * width;
    view.rows = n;
    view.columns = width;
    matmul<T, Acc>(q, heads, width, view, products.data());
    sums.assign(static_cast<std::size_t>(n), Acc{0});
    for (std::int64_t h = 0; h < heads; ++h) {
      const Acc weight = static_cast<Acc>(weights[h]);
      const Acc* row = products.data() + h * n;
      if (numerics.bf16) {
        // The release rounds the product and the weighted score to BF16 on the way.
        for (std::int64_t s = 0; s < n; ++s) {
          const Acc dot = std::max(static_cast<Acc>(numerics.narrow(row[s])), Acc{0});
          sums[static_cast<std::size_t>(s)] += static_cast<Acc>(numerics.narrow(dot * weight));
        }
      } else {
        for (std::int64_t s = 0; s < n; ++s) {
          sums[static_cast<std::size_t>(s)] += weight * std::max(row[s], Acc{0});
        }
      }
    }
    for (std::int64_t s = 0; s < n; ++s) {
      const Acc sum = sums[static_cast<std::size_t>(s)];
      T stored = numerics.wide(sum);
      if (narrow_scores) stored = static_cast<T>(round_bf16(static_cast<float>(stored)));
      scores[first + s] = stored;
    }
  }
}

template <class T>
void top_k(const T* scores, std::int64_t n, std::int64_t k, std::vector<std::int32_t>& out) {
  const auto better = [scores](std::int32_t a, std::int32_t b) {
    const T x = scores[a];
    const T y = scores[b];
    if (std::isnan(x) || std::isnan(y)) {
      if (std::isnan(x) != std::isnan(y)) return std::isnan(y);
      return a < b;
    }
    if (x != y) return x > y;
    return a < b;
  };
  out.resize(static_cast<std::size_t>(n));
  std::iota(out.begin(), out.end(), 0);
  const auto keep = static_cast<std::ptrdiff_t>(std::min(n, k));
  if (keep < n) std::nth_element(out.begin(), out.begin() + keep, out.end(), better);
  out.resize(static_cast<std::size_t>(keep));
  std::sort(out.begin(), out.end(), better);
}

template void top_k(const double*, std::int64_t, std::int64_t, std::vector<std::int32_t>&);
template void top_k(const float*, std::int64_t, std::int64_t, std::vector<std::int32_t>&);
// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                                                   \
  template void index_scores(const Numerics<T, A>&, const T*, const T*, std::int64_t, \
                             std::int64_t, const T*, std::int64_t, bool, T*);
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
