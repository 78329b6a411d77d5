#include "reference/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

namespace foretoken::reference {

std::vector<float> rope_frequencies(std::int64_t dim, double theta, const Yarn& yarn) {
  if (dim <= 0 || dim % 2 != 0) throw std::invalid_argument("rotary width has to be even");
  const std::int64_t half = dim / 2;
  std::vector<float> out(static_cast<std::size_t>(half));
  // Which frequency makes `turns` turns over the original length.
  const auto index_of_turns = [&](double turns) {
    return static_cast<double>(dim) *
           std::log(yarn.original_positions / (turns * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(theta));
  };
  double low = 0.0;
  double high = 0.0;
  const bool stretched = yarn.factor != 1.0 && yarn.original_positions > 0.0;
  if (stretched) {
    low = std::max(std::floor(index_of_turns(yarn.beta_fast)), 0.0);
    high = std::min(std::ceil(index_of_turns(yarn.beta_slow)), static_cast<double>(dim - 1));
    if (low == high) high += 0.001;  // as the release: no division by zero
  }
  for (std::int64_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    const auto power = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    float frequency = 1.0F / power;
    if (stretched) {
      const float ramp = std::clamp(
          (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F,
          1.0F);
      const float smooth = 1.0F - ramp;
      frequency =
          frequency / static_cast<float>(yarn.factor) * (1.0F - smooth) + frequency * smooth;
    }
    out[static_cast<std::size_t>(i)] = frequency;
  }
  return out;
}

Rope::Rope(std::int64_t dim, double theta, const Yarn& yarn)
    : frequencies_(rope_frequencies(dim, theta, yarn)) {}

template <class T, class Acc>
void Rope::rotate(const Numerics<T, Acc>& numerics, T* x, std::int64_t position, bool inverse,
                  RopeLayout layout) const {
  rotate_heads(numerics, x, 1, 0, position, inverse, layout);
}

template <class T, class Acc>
void Rope::rotate_heads(const Numerics<T, Acc>& numerics, T* x, std::int64_t heads,
                        std::int64_t stride, std::int64_t position, bool inverse,
                        RopeLayout layout) const {
  const auto half = static_cast<std::int64_t>(frequencies_.size());
  const bool interleaved = layout == RopeLayout::kInterleaved;
  for (std::int64_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * frequencies_[static_cast<std::size_t>(i)];
    const auto cosine = static_cast<Acc>(std::cos(angle));
    const auto sine = static_cast<Acc>(inverse ? -std::sin(angle) : std::sin(angle));
    T* real = x + (interleaved ? 2 * i : i);
    T* imaginary = x + (interleaved ? 2 * i + 1 : i + half);
    for (std::int64_t h = 0; h < heads; ++h, real += stride, imaginary += stride) {
      const Acc re = static_cast<Acc>(*real);
      const Acc im = static_cast<Acc>(*imaginary);
      *real = numerics.narrow(re * cosine - im * sine);
      *imaginary = numerics.narrow(re * sine + im * cosine);
    }
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                                                            \
  template void Rope::rotate(const Numerics<T, A>&, T*, std::int64_t, bool, RopeLayout) const; \
  template void Rope::rotate_heads(const Numerics<T, A>&, T*, std::int64_t, std::int64_t,      \
                                   std::int64_t, bool, RopeLayout) const;
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
