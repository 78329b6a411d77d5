// Rotary position embedding with YaRN, on part of a row's channels, forwards and backwards.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/ops/numerics.h"

namespace foretoken::reference {

// YaRN's stretching of the slow frequencies (facts 3.3); factor 1 = none.
struct Yarn {
  double factor = 1.0;
  double original_positions = 0.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
};

// Frequencies in FP32 as the release computes them: theta^(-2i/dim), stretched by YaRN over the
// ramp between floor(z(beta_fast)) and ceil(z(beta_slow)), both clamped to [0, dim - 1]. dim even
// (else std::invalid_argument).
std::vector<float> rope_frequencies(std::int64_t dim, double theta, const Yarn& yarn);

enum class RopeLayout : std::uint8_t {
  kInterleaved,  // channels 2i and 2i + 1 are a pair
  kHalves,       // channels i and i + dim / 2
};

class Rope {
 public:
  Rope() = default;
  Rope(std::int64_t dim, double theta, const Yarn& yarn);

  [[nodiscard]] std::int64_t dim() const {
    return 2 * static_cast<std::int64_t>(frequencies_.size());
  }
  [[nodiscard]] const std::vector<float>& frequencies() const { return frequencies_; }

  // Rotates `dim` channels at `x` by the angles position * frequency, or back. Angle, sine and
  // cosine are FP32 as in the release's tables, in every arithmetic; the product is computed in
  // Acc.
  template <class T, class Acc>
  void rotate(const Numerics<T, Acc>& numerics, T* x, std::int64_t position, bool inverse = false,
              RopeLayout layout = RopeLayout::kInterleaved) const;

  // The same for `heads` rows that lie `stride` apart, computing sines and cosines once.
  template <class T, class Acc>
  void rotate_heads(const Numerics<T, Acc>& numerics, T* x, std::int64_t heads, std::int64_t stride,
                    std::int64_t position, bool inverse = false,
                    RopeLayout layout = RopeLayout::kInterleaved) const;

 private:
  std::vector<float> frequencies_;
};

}  // namespace foretoken::reference
