// Rounding a magnitude to a format's grid with two additions, for loops over activation rows: no
// branches and no table, so that the compiler vectorises it.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace foretoken::reference {

// The grid of a narrow format: `mantissa_bits` after the leading one, spacing constant below the
// smallest normal value, `max` the largest finite one.
struct E4m3Grid {
  static constexpr int kMantissaBits = 3;
  static constexpr double kSmallestNormal = 0.015625;
  static constexpr double kMax = 448.0;
};
struct E2m1Grid {
  static constexpr int kMantissaBits = 1;
  static constexpr double kSmallestNormal = 1.0;
  static constexpr double kMax = 6.0;
};

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
template <class T>
inline constexpr BitsOf<T> kSignBit = BitsOf<T>{1} << (sizeof(T) * 8 - 1);

template <class T>
inline T magnitude_of(T value) {
  return std::bit_cast<T>(static_cast<BitsOf<T>>(std::bit_cast<BitsOf<T>>(value) & ~kSignBit<T>));
}

// The grid value nearest to `value`, ties to even, saturating at Grid::kMax; the sign of zero and
// NaN are kept. Adding 2^(p + e - m) to a magnitude with leading exponent e, where p is T's own
// number of mantissa bits and m the grid's, leaves a sum whose last place is the grid's spacing, so
// the addition itself rounds to nearest even; subtracting it again is exact.
template <class Grid, class T>
inline T round_to_grid(T value) {
  constexpr int kOwnBits = std::numeric_limits<T>::digits - 1;
  constexpr auto kShift = static_cast<T>(std::int64_t{1} << (kOwnBits - Grid::kMantissaBits));
  constexpr BitsOf<T> kExponentField = std::bit_cast<BitsOf<T>>(std::numeric_limits<T>::infinity());
  constexpr auto kLow = static_cast<T>(Grid::kSmallestNormal);
  constexpr auto kHigh = static_cast<T>(Grid::kMax);

  const BitsOf<T> sign = std::bit_cast<BitsOf<T>>(value) & kSignBit<T>;
  const T magnitude = magnitude_of(value);
  const T normal = magnitude > kLow ? magnitude : kLow;  // kLow for NaN, which the sum carries on
  const T leading =
      std::bit_cast<T>(static_cast<BitsOf<T>>(std::bit_cast<BitsOf<T>>(normal) & kExponentField));
  const T anchor = leading * kShift;
  T rounded = (magnitude + anchor) - anchor;
  rounded = magnitude > kHigh ? kHigh : rounded;
  return std::bit_cast<T>(static_cast<BitsOf<T>>(std::bit_cast<BitsOf<T>>(rounded) | sign));
}

}  // namespace foretoken::reference
