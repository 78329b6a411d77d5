// In which numbers the reference computes: what is stored between operators, and what is
// accumulated inside them.
#pragma once

#include <cstdint>

#include "reference/formats/float_formats.h"

namespace foretoken::reference {

// Storage of activations between operators.
enum class Carrier : std::uint8_t {
  kF64,   // nothing is rounded
  kF32,   // every stored value is rounded to FP32
  kBf16,  // as released: BF16 where the release stores BF16, FP32 where it stores FP32
};

// What happens inside an operator.
enum class Arithmetic : std::uint8_t {
  kExact,     // FP64 throughout, rounded once when stored: the ground truth
  kHardware,  // FP32, matrix products in the order of the release's kernels (facts 2.2)
};

// T holds stored values, Acc is computed in: (double, double), (float, double) or (float, float).
template <class T, class Acc>
struct Numerics {
  bool bf16 = false;

  // Places where the release stores FP32: router scores, compressor state, mHC mixes, logits.
  [[nodiscard]] T wide(Acc value) const { return static_cast<T>(value); }
  // Places where it stores BF16.
  [[nodiscard]] T narrow(Acc value) const {
    const T stored = static_cast<T>(value);
    return bf16 ? static_cast<T>(round_bf16(static_cast<float>(stored))) : stored;
  }
};

// Every template of the operators exists for these pairs.
#define FORETOKEN_FOR_NUMERICS(macro) macro(double, double) macro(float, double) macro(float, float)

// Sum of squares in eight interleaved chains, folded in a fixed order: the same for every caller,
// and short enough for the processor to overlap.
template <class Acc, class T>
Acc sum_of_squares(const T* x, std::int64_t n) {
  Acc lane[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) {
      const Acc v = static_cast<Acc>(x[i + j]);
      lane[j] += v * v;
    }
  }
  for (int j = 0; i + j < n; ++j) {
    const Acc v = static_cast<Acc>(x[i + j]);
    lane[j] += v * v;
  }
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

}  // namespace foretoken::reference
