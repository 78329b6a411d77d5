#include "reference/formats/float_formats.h"

#include <array>
#include <cstddef>

#include "reference/formats/round_to_grid.h"

namespace foretoken::reference {
namespace {

constexpr int kDoubleMantissaBits = 52;
constexpr int kDoubleBias = 1023;
constexpr std::uint64_t kDoubleMantissaMask = (std::uint64_t{1} << kDoubleMantissaBits) - 1;
constexpr std::uint64_t kDoubleInfinity = std::uint64_t{0x7ff} << kDoubleMantissaBits;

// Sign, exponent and mantissa, from the top bit down.
struct Layout {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  std::uint32_t max_code;  // of the largest finite magnitude

  [[nodiscard]] constexpr std::uint32_t sign_code() const {
    return 1U << static_cast<unsigned>(exponent_bits + mantissa_bits);
  }
};
constexpr Layout kE2m1{2, 1, 1, 0x7};
constexpr Layout kE2m3{2, 3, 1, 0x1f};
constexpr Layout kE3m2{3, 2, 3, 0x1f};
constexpr Layout kE4m3{4, 3, 7, 0x7e};
constexpr Layout kE5m2{5, 2, 15, 0x7b};
constexpr Layout kBf16{8, 7, 127, 0x7f7f};
constexpr Layout kF16{5, 10, 15, 0x7bff};

constexpr double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + kDoubleBias)
                               << kDoubleMantissaBits);
}

// A finite code's value. Exact: no format here has more bits than float.
constexpr float decode_finite(const Layout& layout, std::uint32_t code) {
  const std::uint32_t hidden = 1U << static_cast<unsigned>(layout.mantissa_bits);
  const std::uint32_t mantissa = code & (hidden - 1);
  const auto exponent = static_cast<int>((code & (layout.sign_code() - 1)) >>
                                         static_cast<unsigned>(layout.mantissa_bits));
  const double significand = exponent == 0 ? mantissa : mantissa + hidden;
  const double magnitude = significand * power_of_two((exponent == 0 ? 1 : exponent) - layout.bias -
                                                      layout.mantissa_bits);
  return static_cast<float>((code & layout.sign_code()) != 0 ? -magnitude : magnitude);
}

// A quiet NaN or an infinity with the code's sign, as float bits.
constexpr float special(const Layout& layout, std::uint32_t code, std::uint32_t magnitude_bits) {
  return std::bit_cast<float>(magnitude_bits |
                              ((code & layout.sign_code()) != 0 ? 0x80000000U : 0U));
}
constexpr std::uint32_t kFloatNan = 0x7fc00000U;
constexpr std::uint32_t kFloatInfinity = 0x7f800000U;

template <std::size_t Size>
constexpr std::array<float, Size> finite_table(const Layout& layout) {
  std::array<float, Size> table{};
  for (std::uint32_t code = 0; code < Size; ++code) table[code] = decode_finite(layout, code);
  return table;
}

constexpr std::array<float, 256> e4m3_table() {
  std::array<float, 256> table = finite_table<256>(kE4m3);
  for (const std::uint32_t code : {0x7fU, 0xffU}) table[code] = special(kE4m3, code, kFloatNan);
  return table;
}

constexpr std::array<float, 256> e5m2_table() {
  std::array<float, 256> table = finite_table<256>(kE5m2);
  for (const std::uint32_t sign : {0x00U, 0x80U}) {
    table[sign | 0x7cU] = special(kE5m2, sign, kFloatInfinity);
    for (std::uint32_t code = 0x7d; code <= 0x7f; ++code) {
      table[sign | code] = special(kE5m2, sign, kFloatNan);
    }
  }
  return table;
}

constexpr std::array<float, 16> kE2m1Values = finite_table<16>(kE2m1);
constexpr std::array<float, 64> kE2m3Values = finite_table<64>(kE2m3);
constexpr std::array<float, 64> kE3m2Values = finite_table<64>(kE3m2);
constexpr std::array<float, 256> kE4m3Values = e4m3_table();
constexpr std::array<float, 256> kE5m2Values = e5m2_table();

// Code of the finite magnitude with these double bits, rounded once to nearest even. The exponent
// may grow beyond the format's; a carry out of the mantissa moves to the next exponent by itself.
constexpr std::uint32_t round_magnitude(const Layout& layout, std::uint64_t bits) {
  const int exponent = static_cast<int>(bits >> kDoubleMantissaBits) - kDoubleBias;
  const int smallest = 1 - layout.bias;
  const bool subnormal = exponent < smallest;
  const int shift =
      kDoubleMantissaBits - layout.mantissa_bits + (subnormal ? smallest - exponent : 0);
  // Less than half the smallest subnormal. Takes in zero and every subnormal double.
  if (shift > kDoubleMantissaBits + 1) return 0;
  const std::uint64_t significand =
      (bits & kDoubleMantissaMask) | (std::uint64_t{1} << kDoubleMantissaBits);
  const std::uint64_t half_less_one = (std::uint64_t{1} << static_cast<unsigned>(shift - 1)) - 1;
  const std::uint64_t odd = (significand >> static_cast<unsigned>(shift)) & 1U;
  const auto rounded = static_cast<std::uint32_t>((significand + half_less_one + odd) >>
                                                  static_cast<unsigned>(shift));
  const auto above_smallest = static_cast<std::uint32_t>(subnormal ? 0 : exponent - smallest);
  return rounded + (above_smallest << static_cast<unsigned>(layout.mantissa_bits));
}

// `overflow_code` is the magnitude code of what lies beyond the largest finite value.
constexpr std::uint32_t encode(const Layout& layout, double value, std::uint32_t overflow_code,
                               std::uint32_t nan_code) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint64_t magnitude = bits & ~kSignBit<double>;
  const std::uint32_t sign = (bits & kSignBit<double>) != 0 ? layout.sign_code() : 0U;
  if (magnitude > kDoubleInfinity) return nan_code ^ sign;
  if (magnitude == kDoubleInfinity) return overflow_code | sign;
  const std::uint32_t code = round_magnitude(layout, magnitude);
  return (code > layout.max_code ? overflow_code : code) | sign;
}

constexpr std::uint32_t encode_without_specials(const Layout& layout, double value) {
  return encode(layout, value, layout.max_code, layout.sign_code());
}

constexpr std::uint8_t kE8m0Nan = 255;
constexpr int kE8m0Bias = 127;

}  // namespace

float decode_e2m1(std::uint8_t code) { return kE2m1Values[code & 0xfU]; }
float decode_e2m3(std::uint8_t code) { return kE2m3Values[code & 0x3fU]; }
float decode_e3m2(std::uint8_t code) { return kE3m2Values[code & 0x3fU]; }
float decode_e4m3(std::uint8_t code) { return kE4m3Values[code]; }
float decode_e5m2(std::uint8_t code) { return kE5m2Values[code]; }

float decode_e8m0(std::uint8_t code) {
  if (code == kE8m0Nan) return std::bit_cast<float>(kFloatNan);
  if (code == 0) return std::bit_cast<float>(0x00400000U);  // 2^-127, subnormal in float
  return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 23U);
}

float decode_bf16(std::uint16_t code) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 16U);
}

float decode_f16(std::uint16_t code) {
  const std::uint32_t magnitude = code & 0x7fffU;
  if (magnitude > 0x7c00U) return special(kF16, code, kFloatNan);
  if (magnitude == 0x7c00U) return special(kF16, code, kFloatInfinity);
  return decode_finite(kF16, code);
}

std::uint8_t encode_e2m1(double value) {
  return static_cast<std::uint8_t>(encode_without_specials(kE2m1, value));
}

std::uint8_t encode_e2m3(double value) {
  return static_cast<std::uint8_t>(encode_without_specials(kE2m3, value));
}

std::uint8_t encode_e3m2(double value) {
  return static_cast<std::uint8_t>(encode_without_specials(kE3m2, value));
}

std::uint8_t encode_e4m3(double value, Overflow overflow) {
  const std::uint32_t beyond = overflow == Overflow::kSaturate ? kE4m3.max_code : 0x7fU;
  return static_cast<std::uint8_t>(encode(kE4m3, value, beyond, 0x7f));
}

std::uint8_t encode_e5m2(double value, Overflow overflow) {
  const std::uint32_t beyond = overflow == Overflow::kSaturate ? kE5m2.max_code : 0x7cU;
  return static_cast<std::uint8_t>(encode(kE5m2, value, beyond, 0x7e));
}

std::uint8_t encode_e8m0(double value) {
  if (!(value > 0.0)) return kE8m0Nan;
  if (value >= 0x1.8p127) return kE8m0Nan;
  if (value < 0x1p-126) return value > 0x1p-127 ? 1 : 0;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const auto code = static_cast<std::uint32_t>(bits >> kDoubleMantissaBits) -
                    static_cast<std::uint32_t>(kDoubleBias - kE8m0Bias);
  constexpr std::uint64_t kHalf = std::uint64_t{1} << (kDoubleMantissaBits - 1);
  return static_cast<std::uint8_t>(code + ((bits & kDoubleMantissaMask) >= kHalf ? 1U : 0U));
}

std::uint8_t encode_e8m0_ceil(double value) {
  if (!(value > 0.0) || value > 0x1p127) return kE8m0Nan;
  if (value <= 0x1p-127) return 0;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const auto code = static_cast<std::uint32_t>(bits >> kDoubleMantissaBits) -
                    static_cast<std::uint32_t>(kDoubleBias - kE8m0Bias);
  return static_cast<std::uint8_t>(code + ((bits & kDoubleMantissaMask) != 0 ? 1U : 0U));
}

std::uint16_t encode_bf16(double value) {
  return static_cast<std::uint16_t>(encode(kBf16, value, 0x7f80, 0x7fc0));
}

std::uint16_t encode_f16(double value) {
  return static_cast<std::uint16_t>(encode(kF16, value, 0x7c00, 0x7e00));
}

double round_e4m3(double value) { return round_to_grid<E4m3Grid>(value); }

double round_e2m1(double value) { return round_to_grid<E2m1Grid>(value); }

}  // namespace foretoken::reference
