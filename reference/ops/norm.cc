#include "reference/ops/norm.h"

#include <algorithm>
#include <cmath>

#include "reference/kernels/parallel.h"

namespace foretoken::reference {

template <class T, class Acc>
void rms_norm(const Numerics<T, Acc>& numerics, const T* x, const T* weight, double eps,
              std::int64_t rows, std::int64_t width, T* y) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* in = x + r * width;
    T* out = y + r * width;
    const Acc mean = sum_of_squares<Acc>(in, width) / static_cast<Acc>(width);
    const Acc scale = Acc{1} / std::sqrt(mean + static_cast<Acc>(eps));
    for (std::int64_t i = 0; i < width; ++i) {
      out[i] = numerics.narrow(static_cast<Acc>(weight[i]) * (static_cast<Acc>(in[i]) * scale));
    }
  }
}

template <class T, class Acc>
void head_norm(const Numerics<T, Acc>& numerics, T* x, double eps, std::int64_t rows,
               std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r) {
    T* row = x + r * width;
    Acc scale;
    if (numerics.bf16) {
      Acc sum = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        const Acc v = static_cast<Acc>(row[i]);
        sum += static_cast<Acc>(numerics.narrow(v * v));
      }
      const T mean = numerics.narrow(sum / static_cast<Acc>(width));
      const T shifted = numerics.narrow(static_cast<Acc>(mean) + static_cast<Acc>(eps));
      scale = static_cast<Acc>(numerics.narrow(Acc{1} / std::sqrt(static_cast<Acc>(shifted))));
    } else {
      const Acc mean = sum_of_squares<Acc>(row, width) / static_cast<Acc>(width);
      scale = Acc{1} / std::sqrt(mean + static_cast<Acc>(eps));
    }
    for (std::int64_t i = 0; i < width; ++i) {
      row[i] = numerics.narrow(static_cast<Acc>(row[i]) * scale);
    }
  }
}

template <class T, class Acc>
void layer_norm(const Numerics<T, Acc>& numerics, const T* x, const T* weight, const T* bias,
                double eps, std::int64_t rows, std::int64_t width, T* y) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* in = x + r * width;
    Acc mean = 0;
    for (std::int64_t i = 0; i < width; ++i) mean += static_cast<Acc>(in[i]);
    mean /= static_cast<Acc>(width);
    Acc variance = 0;
    for (std::int64_t i = 0; i < width; ++i) {
      const Acc d = static_cast<Acc>(in[i]) - mean;
      variance += d * d;
    }
    variance /= static_cast<Acc>(width);
    const Acc scale = Acc{1} / std::sqrt(variance + static_cast<Acc>(eps));
    for (std::int64_t i = 0; i < width; ++i) {
      const Acc centred = (static_cast<Acc>(in[i]) - mean) * scale;
      y[r * width + i] =
          numerics.narrow(centred * static_cast<Acc>(weight[i]) + static_cast<Acc>(bias[i]));
    }
  }
}

template <class T, class Acc>
void swiglu(const Numerics<T, Acc>& numerics, const T* gate, const T* up, const T* row_weight,
            double limit, std::int64_t rows, std::int64_t width, T* y) {
  const Acc bound = static_cast<Acc>(limit);
  const bool clamp = limit > 0.0;
  parallel_for(rows, 16 * rows * width, [&](std::int64_t r) {
    const Acc weight = row_weight == nullptr ? Acc{1} : static_cast<Acc>(row_weight[r]);
    for (std::int64_t i = r * width; i < (r + 1) * width; ++i) {
      Acc g = static_cast<Acc>(gate[i]);
      Acc u = static_cast<Acc>(up[i]);
      if (clamp) {
        g = std::min(g, bound);
        u = std::min(std::max(u, -bound), bound);
      }
      const Acc silu = g / (Acc{1} + std::exp(-g));
      y[i] = numerics.narrow(silu * u * weight);
    }
  });
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                                                               \
  template void rms_norm(const Numerics<T, A>&, const T*, const T*, double, std::int64_t,         \
                         std::int64_t, T*);                                                       \
  template void head_norm(const Numerics<T, A>&, T*, double, std::int64_t, std::int64_t);         \
  template void layer_norm(const Numerics<T, A>&, const T*, const T*, const T*, double,           \
                           std::int64_t, std::int64_t, T*);                                       \
  template void swiglu(const Numerics<T, A>&, const T*, const T*, const T*, double, std::int64_t, \
                       std::int64_t, T*);
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
