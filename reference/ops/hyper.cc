#include "reference/ops/hyper.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "reference/kernels/matmul.h"
#include "reference/kernels/parallel.h"

namespace foretoken::reference {

namespace {

template <class Acc>
Acc sigmoid(Acc x) {
  return Acc{1} / (Acc{1} + std::exp(-x));
}

// matrix * x / sqrt(mean(x^2) + eps) per token, `outputs` a token.
template <class T, class Acc>
void mix_streams(const Numerics<T, Acc>& numerics, const HyperShape& shape, const float* matrix,
                 std::int64_t outputs, const T* x, std::int64_t tokens, T* mixes) {
  const std::int64_t wide = shape.streams * shape.hidden;
  WeightView view;
  view.data = matrix;
  view.rows = outputs;
  view.columns = wide;
  std::vector<Acc> product(static_cast<std::size_t>(tokens * outputs));
  matmul<T, Acc>(x, tokens, wide, view, product.data());
  parallel_for(tokens, 2 * tokens * wide, [&](std::int64_t t) {
    const Acc mean = sum_of_squares<Acc>(x + t * wide, wide) / static_cast<Acc>(wide);
    const Acc scale = Acc{1} / std::sqrt(mean + static_cast<Acc>(shape.rms_eps));
    for (std::int64_t i = t * outputs; i < (t + 1) * outputs; ++i) {
      mixes[i] = numerics.wide(product[static_cast<std::size_t>(i)] * scale);
    }
  });
}

template <class T, class Acc>
void collapse(const Numerics<T, Acc>& numerics, const HyperShape& shape, const T* x, const T* pre,
              T* u) {
  for (std::int64_t i = 0; i < shape.hidden; ++i) {
    Acc sum = 0;
    for (std::int64_t j = 0; j < shape.streams; ++j) {
      sum += static_cast<Acc>(pre[j]) * static_cast<Acc>(x[j * shape.hidden + i]);
    }
    u[i] = numerics.narrow(sum);
  }
}

}  // namespace

template <class Acc>
void sinkhorn(Acc* matrix, std::int64_t n, std::int64_t iterations, double eps_value) {
  const Acc eps = static_cast<Acc>(eps_value);
  const auto columns = [&] {
    for (std::int64_t k = 0; k < n; ++k) {
      Acc sum = 0;
      for (std::int64_t j = 0; j < n; ++j) sum += matrix[j * n + k];
      for (std::int64_t j = 0; j < n; ++j) matrix[j * n + k] /= sum + eps;
    }
  };
  for (std::int64_t j = 0; j < n; ++j) {
    Acc* row = matrix + j * n;
    const Acc most = *std::max_element(row, row + n);
    Acc sum = 0;
    for (std::int64_t k = 0; k < n; ++k) sum += row[k] = std::exp(row[k] - most);
    for (std::int64_t k = 0; k < n; ++k) row[k] = row[k] / sum + eps;
  }
  columns();
  for (std::int64_t i = 1; i < iterations; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      Acc* row = matrix + j * n;
      Acc sum = 0;
      for (std::int64_t k = 0; k < n; ++k) sum += row[k];
      for (std::int64_t k = 0; k < n; ++k) row[k] /= sum + eps;
    }
    columns();
  }
}

template <class T, class Acc>
void hyper_weights(const Numerics<T, Acc>& numerics, const HyperShape& shape,
                   const HyperWeights& weights, const HyperMix<T>& mix) {
  const std::int64_t n = shape.streams;
  const auto logit = [&](std::int64_t i, int part) {
    return static_cast<Acc>(mix.mixes[i]) * static_cast<Acc>(weights.scale[part]) +
           static_cast<Acc>(weights.base[i]);
  };
  for (std::int64_t j = 0; j < n; ++j) {
    mix.pre[j] = numerics.wide(sigmoid(logit(j, 0)) + static_cast<Acc>(shape.eps));
    mix.post[j] = numerics.wide(Acc{2} * sigmoid(logit(n + j, 1)));
  }
  std::vector<Acc> square(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n * n; ++i)
    square[static_cast<std::size_t>(i)] = logit(2 * n + i, 2);
  sinkhorn(square.data(), n, shape.sinkhorn_iterations, shape.eps);
  for (std::int64_t i = 0; i < n * n; ++i) {
    mix.comb[i] = numerics.wide(square[static_cast<std::size_t>(i)]);
  }
}

template <class T, class Acc>
void hyper_pre(const Numerics<T, Acc>& numerics, const HyperShape& shape,
               const HyperWeights& weights, const T* x, std::int64_t tokens, const HyperMix<T>& mix,
               T* u) {
  const std::int64_t n = shape.streams;
  mix_streams(numerics, shape, weights.matrix, shape.mixes(), x, tokens, mix.mixes);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const HyperMix<T> one{mix.mixes + t * shape.mixes(), mix.pre + t * n, mix.post + t * n,
                          mix.comb + t * n * n};
    hyper_weights(numerics, shape, weights, one);
    collapse(numerics, shape, x + t * n * shape.hidden, one.pre, u + t * shape.hidden);
  }
}

template <class T, class Acc>
void hyper_post(const Numerics<T, Acc>& numerics, const HyperShape& shape, const T* y,
                const T* post, const T* comb, std::int64_t tokens, T* x) {
  const std::int64_t n = shape.streams;
  const std::int64_t d = shape.hidden;
  parallel_for(tokens, 2 * tokens * n * n * d, [&](std::int64_t t) {
    thread_local std::vector<Acc> mixed;
    mixed.resize(static_cast<std::size_t>(n));
    T* streams = x + t * n * d;
    for (std::int64_t i = 0; i < d; ++i) {
      const Acc out = static_cast<Acc>(y[t * d + i]);
      for (std::int64_t k = 0; k < n; ++k) {
        Acc sum = 0;
        for (std::int64_t j = 0; j < n; ++j) {
          sum += static_cast<Acc>(comb[(t * n + j) * n + k]) * static_cast<Acc>(streams[j * d + i]);
        }
        mixed[static_cast<std::size_t>(k)] = static_cast<Acc>(post[t * n + k]) * out + sum;
      }
      for (std::int64_t k = 0; k < n; ++k) {
        streams[k * d + i] = numerics.narrow(mixed[static_cast<std::size_t>(k)]);
      }
    }
  });
}

template <class T, class Acc>
void hyper_head(const Numerics<T, Acc>& numerics, const HyperShape& shape,
                const HyperWeights& weights, const T* x, std::int64_t tokens, T* u) {
  const std::int64_t n = shape.streams;
  std::vector<T> mixes(static_cast<std::size_t>(tokens * n));
  mix_streams(numerics, shape, weights.matrix, n, x, tokens, mixes.data());
  std::vector<T> pre(static_cast<std::size_t>(n));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t j = 0; j < n; ++j) {
      const Acc logit = static_cast<Acc>(mixes[static_cast<std::size_t>(t * n + j)]) *
                            static_cast<Acc>(weights.scale[0]) +
                        static_cast<Acc>(weights.base[j]);
      pre[static_cast<std::size_t>(j)] =
          numerics.wide(sigmoid(logit) + static_cast<Acc>(shape.eps));
    }
    collapse(numerics, shape, x + t * n * shape.hidden, pre.data(), u + t * shape.hidden);
  }
}

template void sinkhorn(double*, std::int64_t, std::int64_t, double);
template void sinkhorn(float*, std::int64_t, std::int64_t, double);
// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                                                                \
  template void hyper_weights(const Numerics<T, A>&, const HyperShape&, const HyperWeights&,       \
                              const HyperMix<T>&);                                                 \
  template void hyper_pre(const Numerics<T, A>&, const HyperShape&, const HyperWeights&, const T*, \
                          std::int64_t, const HyperMix<T>&, T*);                                   \
  template void hyper_post(const Numerics<T, A>&, const HyperShape&, const T*, const T*, const T*, \
                           std::int64_t, T*);                                                      \
  template void hyper_head(const Numerics<T, A>&, const HyperShape&, const HyperWeights&,          \
                           const T*, std::int64_t, T*);
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
