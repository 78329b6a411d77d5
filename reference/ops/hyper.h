// Manifold-constrained hyper-connections: how several residual streams feed a sublayer and take its
// output back, and how they merge before the head (facts 3.2, 3.10).
#pragma once

#include <cstdint>

#include "reference/ops/numerics.h"

namespace foretoken::reference {

// Parameters of one sublayer: mixing matrix [(2 + n) * n, n * hidden], base and three scales.
struct HyperWeights {
  const float* matrix = nullptr;
  const float* base = nullptr;
  const float* scale = nullptr;
};

struct HyperShape {
  std::int64_t streams = 4;
  std::int64_t hidden = 0;
  std::int64_t sinkhorn_iterations = 20;
  double rms_eps = 1e-6;
  double eps = 1e-6;

  [[nodiscard]] std::int64_t mixes() const { return (2 + streams) * streams; }
};

// Where the intermediate results of one token go.
template <class T>
struct HyperMix {
  T* mixes;  // [(2 + n) * n], before scale and base
  T* pre;    // [n]
  T* post;   // [n]
  T* comb;   // [n, n]
};

// The rows of a square matrix to almost doubly stochastic: row softmax plus eps, a column step,
// then iterations - 1 times a row step and a column step, every division by sum plus eps. Columns
// end up summing to one, rows only approximately.
template <class Acc>
void sinkhorn(Acc* matrix, std::int64_t n, std::int64_t iterations, double eps);

// pre, post and comb of one token from its mixes.
template <class T, class Acc>
void hyper_weights(const Numerics<T, Acc>& numerics, const HyperShape& shape,
                   const HyperWeights& weights, const HyperMix<T>& mix);

// `tokens` tokens: mixes of the streams x [tokens, n, hidden] and the sublayer's input
// u [tokens, hidden] = sum_j pre_j x_j. mix.* point at the first token's.
template <class T, class Acc>
void hyper_pre(const Numerics<T, Acc>& numerics, const HyperShape& shape,
               const HyperWeights& weights, const T* x, std::int64_t tokens, const HyperMix<T>& mix,
               T* u);

// x'_k = post_k y + sum_j comb_jk x_j, in place.
template <class T, class Acc>
void hyper_post(const Numerics<T, Acc>& numerics, const HyperShape& shape, const T* y,
                const T* post, const T* comb, std::int64_t tokens, T* x);

// The merge before the head: matrix [n, n * hidden], base [n], one scale.
template <class T, class Acc>
void hyper_head(const Numerics<T, Acc>& numerics, const HyperShape& shape,
                const HyperWeights& weights, const T* x, std::int64_t tokens, T* u);

}  // namespace foretoken::reference
