#include "reference/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "reference/kernels/matmul.h"

namespace foretoken::reference {

template <class T, class Acc>
void attend(const Numerics<T, Acc>& numerics, const AttentionShape& shape, const T* q,
            std::span<const KeyRun<T>> keys, const float* sink, T* out) {
  thread_local std::vector<T> gathered;
  thread_local std::vector<Acc> weights;
  thread_local std::vector<Acc> sums;
  std::int64_t n = 0;
  for (const KeyRun<T>& run : keys) n += run.size();
  if (n == 0) {
    std::fill(out, out + shape.heads * shape.value_width, T{0});
    return;
  }
  const std::int64_t width = shape.key_width;
  gathered.resize(static_cast<std::size_t>(n * width));
  T* to = gathered.data();
  for (const KeyRun<T>& run : keys) {
    for (std::int64_t i = 0; i < run.size(); ++i) {
      const std::int64_t row = run.rows.empty() ? i : run.rows[static_cast<std::size_t>(i)];
      std::memcpy(to, run.data + row * run.stride, static_cast<std::size_t>(width) * sizeof(T));
      to += width;
    }
  }

  WeightView view;
  view.format = sizeof(T) == 8 ? WeightView::Format::kF64 : WeightView::Format::kF32;
  view.data = gathered.data();
  view.rows = n;
  view.columns = width;
  weights.resize(static_cast<std::size_t>(shape.heads * n));
  matmul<T, Acc>(q, shape.heads, width, view, weights.data());

  const Acc scale = static_cast<Acc>(shape.scale);
  sums.resize(static_cast<std::size_t>(shape.heads));
  for (std::int64_t h = 0; h < shape.heads; ++h) {
    Acc* z = weights.data() + h * n;
    Acc most = -std::numeric_limits<Acc>::infinity();
    for (std::int64_t j = 0; j < n; ++j) most = std::max(most, z[j] *= scale);
    Acc sum = 0;
    for (std::int64_t j = 0; j < n; ++j) sum += z[j] = std::exp(z[j] - most);
    if (numerics.bf16) {
      for (std::int64_t j = 0; j < n; ++j) z[j] = static_cast<Acc>(numerics.narrow(z[j]));
    }
    if (sink != nullptr) sum += std::exp(static_cast<Acc>(sink[h]) - most);
    sums[static_cast<std::size_t>(h)] = sum;
  }
  // The value product: [heads, n] times the first value_width channels of the keys.
  thread_local std::vector<Acc> product;
  product.resize(static_cast<std::size_t>(shape.heads * shape.value_width));
  view.transposed = true;
  view.rows = shape.value_width;
  view.columns = n;
  view.stride = width;
  matmul<Acc, Acc>(weights.data(), shape.heads, n, view, product.data());
  for (std::int64_t h = 0; h < shape.heads; ++h) {
    const Acc sum = sums[static_cast<std::size_t>(h)];
    for (std::int64_t i = h * shape.value_width; i < (h + 1) * shape.value_width; ++i) {
      out[i] = numerics.narrow(product[static_cast<std::size_t>(i)] / sum);
    }
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                                            \
  template void attend(const Numerics<T, A>&, const AttentionShape&, const T*, \
                       std::span<const KeyRun<T>>, const float*, T*);
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
