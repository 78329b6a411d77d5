// The narrow number formats a checkpoint is stored in and a kernel multiplies in, one value at a
// time: exact decoding, rounding to nearest with ties to even.
//
// Formulas: OCP Microscaling Formats v1.0 (E2M1, E2M3, E3M2, E4M3FN, E5M2, E8M0), IEEE 754 (BF16 as
// its upper half). Encoders take a double, so that nothing is rounded twice.
#pragma once

#include <bit>
#include <cstdint>

namespace foretoken::reference {

// What a value beyond the largest finite one becomes. Hardware conversions and every DeepSeek
// kernel saturate, infinity included; ml_dtypes and the OFP8 text's other mode give NaN (E4M3FN) or
// infinity (E5M2).
enum class Overflow : std::uint8_t { kSaturate, kSpecial };

float decode_e2m1(std::uint8_t code);  // upper four bits ignored
float decode_e2m3(std::uint8_t code);  // upper two bits ignored
float decode_e3m2(std::uint8_t code);
float decode_e4m3(std::uint8_t code);  // FN variant: no infinity, 0x7f and 0xff are NaN
float decode_e5m2(std::uint8_t code);
float decode_e8m0(std::uint8_t code);  // 2^(code - 127); 255 is NaN
float decode_bf16(std::uint16_t code);
float decode_f16(std::uint16_t code);

// Formats without NaN (E2M1, E2M3, E3M2) always saturate; NaN becomes the zero of the opposite
// sign, so usually negative zero, as ml_dtypes has it.
std::uint8_t encode_e2m1(double value);
std::uint8_t encode_e2m3(double value);
std::uint8_t encode_e3m2(double value);
std::uint8_t encode_e4m3(double value, Overflow overflow = Overflow::kSaturate);
std::uint8_t encode_e5m2(double value, Overflow overflow = Overflow::kSaturate);
// Nearest power of two, the tie 1.5 * 2^k up, as ml_dtypes rounds; zero, negative, NaN and anything
// from 1.5 * 2^127 on give 255. Below 2^-126 it is ml_dtypes' rule too, though not the nearest:
// code 1 above 2^-127, else code 0.
std::uint8_t encode_e8m0(double value);
// The smallest power of two that is not below `value`; zero, negative, NaN and anything above 2^127
// give 255.
std::uint8_t encode_e8m0_ceil(double value);
// Beyond the largest finite value: infinity, as IEEE 754 rounds. NaN keeps its sign only.
std::uint16_t encode_bf16(double value);
std::uint16_t encode_f16(double value);

// The nearest value of the format, with the sign of zero kept; NaN stays NaN.
// Inline, so that a loop over a row is vectorised where it stands.
inline float round_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16U) & 1U)) & 0xffff0000U;
  const std::uint32_t nan = (bits & 0x80000000U) | 0x7fc00000U;
  return std::bit_cast<float>((bits & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
}
double round_e4m3(double value);  // saturating
double round_e2m1(double value);  // saturating

}  // namespace foretoken::reference
