// Norms and the gated activation of experts, row by row.
#pragma once

#include <cstdint>

#include "reference/ops/numerics.h"

namespace foretoken::reference {

// y = w * x / sqrt(mean(x^2) + eps), statistics and product in Acc, stored narrow. x and y [rows,
// width], may be the same; w [width].
template <class T, class Acc>
void rms_norm(const Numerics<T, Acc>& numerics, const T* x, const T* weight, double eps,
              std::int64_t rows, std::int64_t width, T* y);

// The same without a weight: V4's queries, head by head. The release computes it in storage
// precision step by step (square, mean, root, product each rounded), which matters in BF16 only.
template <class T, class Acc>
void head_norm(const Numerics<T, Acc>& numerics, T* x, double eps, std::int64_t rows,
               std::int64_t width);

// y = (x - mean) / sqrt(variance + eps) * weight + bias: V3.2's indexer keys.
template <class T, class Acc>
void layer_norm(const Numerics<T, Acc>& numerics, const T* x, const T* weight, const T* bias,
                double eps, std::int64_t rows, std::int64_t width, T* y);

// silu(min(gate, limit)) * clamp(up, -limit, limit) * weight per row, stored narrow. limit 0 = no
// clamp; `row_weight` may be null (1).
template <class T, class Acc>
void swiglu(const Numerics<T, Acc>& numerics, const T* gate, const T* up, const T* row_weight,
            double limit, std::int64_t rows, std::int64_t width, T* y);

}  // namespace foretoken::reference
