// The inner product of a tile of inputs by a panel of weights, over any vector type. For the
// instruction sets' own translation units only, each of which gets its own copy.
//
// A vector type V has Scalar, kWidth, and static zero(), load(p), load_some(p, n), broadcast(p),
// fma(a, b, c), add(a, b), mul(a, b), store(p, v), store_some(p, v, n); `some` are the first n
// elements.
#pragma once

#include <cstdint>

#include "reference/kernels/matmul_kernels.h"

namespace foretoken::reference::detail {
namespace {

template <class V>
using Register = decltype(V::zero());

// A chain over `count` k for kRows x kVectors accumulators. Each of them is one chain of dependent
// operations, so there should be enough of them to fill the units' latency.
template <class V, int kRows, int kVectors, int kPanel>
[[gnu::always_inline]] inline void chain(const typename V::Scalar* panel,
                                         const typename V::Scalar* x, std::int64_t count,
                                         Register<V> (&sum)[kRows][kVectors]) {
#pragma GCC unroll 2
  for (std::int64_t k = 0; k < count; ++k) {
    Register<V> w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) w[v] = V::load(panel + k * kPanel + v * V::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Register<V> a = V::broadcast(x + k * kRows + r);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = V::fma(a, w[v], sum[r][v]);
    }
  }
}

template <class V, int kRows, int kVectors, int kPanel>
void tile(const TileJob<typename V::Scalar>& job) {
  using Scalar = typename V::Scalar;
  constexpr int kLast = kVectors - 1;
  const std::int64_t some = job.valid - kLast * V::kWidth;
  const auto load_y = [&](int r, int v) {
    if (job.first) return V::zero();
    const Scalar* p = job.y + r * job.y_stride + v * V::kWidth;
    return v < kLast ? V::load(p) : V::load_some(p, some);
  };
  const auto store_y = [&](int r, int v, Register<V> value) {
    Scalar* p = job.y + r * job.y_stride + v * V::kWidth;
    if (v < kLast) {
      V::store(p, value);
    } else {
      V::store_some(p, value, some);
    }
  };
  Register<V> sum[kRows][kVectors];
  if (job.block == 0) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = load_y(r, v);
    }
    chain<V, kRows, kVectors, kPanel>(job.panel, job.x, job.count, sum);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) store_y(r, v, sum[r][v]);
    }
    return;
  }
  // The second accumulators stay in the first-level cache: the registers are taken.
  alignas(64) Scalar total[kRows * kVectors * V::kWidth];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      V::store(total + (r * kVectors + v) * V::kWidth, load_y(r, v));
    }
  }
  for (std::int64_t k = 0; k < job.count; k += job.block) {
    const std::int64_t left = job.count - k;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = V::zero();
    }
    chain<V, kRows, kVectors, kPanel>(job.panel + k * kPanel, job.x + k * kRows,
                                      left < job.block ? left : job.block, sum);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        Scalar* p = total + (r * kVectors + v) * V::kWidth;
        V::store(p, V::add(V::load(p), sum[r][v]));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      store_y(r, v, V::load(total + (r * kVectors + v) * V::kWidth));
    }
  }
}

// Finds the instance for job.rows inputs and as many vectors as job.valid needs.
template <class V, int kPanel, int kRows, int kVectors = kPanel / V::kWidth>
void any_tile(const TileJob<typename V::Scalar>& job) {
  if constexpr (kVectors > 1) {
    if (job.valid <= (kVectors - 1) * V::kWidth) {
      return any_tile<V, kPanel, kRows, kVectors - 1>(job);
    }
  }
  if constexpr (kRows > 1) {
    if (job.rows < kRows) return any_tile<V, kPanel, kRows - 1, kVectors>(job);
  }
  tile<V, kRows, kVectors, kPanel>(job);
}

}  // namespace
}  // namespace foretoken::reference::detail
