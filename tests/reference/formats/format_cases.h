// The formats under test as a list, and an encoder that finds the nearest value by searching the
// decoded codes: slow, and with no arithmetic in common with the encoders.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "reference/formats/float_formats.h"

namespace foretoken::reference {

struct FormatCase {
  std::string name;
  std::uint32_t sign_code;  // the sign bit's place; magnitudes are the codes below it
  std::uint32_t max_code;   // largest finite magnitude
  std::uint32_t beyond;     // what a larger magnitude becomes
  float (*decode)(std::uint32_t);
  std::uint32_t (*encode)(double);
};

inline std::vector<FormatCase> format_cases() {
  using Code = std::uint32_t;
  return {
      {"e2m1", 0x8, 0x7, 0x7, [](Code c) { return decode_e2m1(static_cast<std::uint8_t>(c)); },
       [](double v) -> Code { return encode_e2m1(v); }},
      {"e2m3", 0x20, 0x1f, 0x1f, [](Code c) { return decode_e2m3(static_cast<std::uint8_t>(c)); },
       [](double v) -> Code { return encode_e2m3(v); }},
      {"e3m2", 0x20, 0x1f, 0x1f, [](Code c) { return decode_e3m2(static_cast<std::uint8_t>(c)); },
       [](double v) -> Code { return encode_e3m2(v); }},
      {"e4m3", 0x80, 0x7e, 0x7e, [](Code c) { return decode_e4m3(static_cast<std::uint8_t>(c)); },
       [](double v) -> Code { return encode_e4m3(v); }},
      {"e4m3 special", 0x80, 0x7e, 0x7f,
       [](Code c) { return decode_e4m3(static_cast<std::uint8_t>(c)); },
       [](double v) -> Code { return encode_e4m3(v, Overflow::kSpecial); }},
      {"e5m2", 0x80, 0x7b, 0x7b, [](Code c) { return decode_e5m2(static_cast<std::uint8_t>(c)); },
       [](double v) -> Code { return encode_e5m2(v); }},
      {"e5m2 special", 0x80, 0x7b, 0x7c,
       [](Code c) { return decode_e5m2(static_cast<std::uint8_t>(c)); },
       [](double v) -> Code { return encode_e5m2(v, Overflow::kSpecial); }},
      {"bf16", 0x8000, 0x7f7f, 0x7f80,
       [](Code c) { return decode_bf16(static_cast<std::uint16_t>(c)); },
       [](double v) -> Code { return encode_bf16(v); }},
      {"f16", 0x8000, 0x7bff, 0x7c00,
       [](Code c) { return decode_f16(static_cast<std::uint16_t>(c)); },
       [](double v) -> Code { return encode_f16(v); }},
  };
}

// Halfway from magnitude `code` to the next one up; past the largest, to where it would be if the
// format went on. Exact in double.
inline double midpoint_above(const FormatCase& format, std::uint32_t code) {
  const double value = format.decode(code);
  if (code < format.max_code) return 0.5 * (value + format.decode(code + 1));
  return value + 0.5 * (value - format.decode(code - 1));
}

// Magnitudes grow with their codes, so the nearest one is found by bisection.
inline std::uint32_t nearest_code(const FormatCase& format, double value) {
  const double magnitude = std::fabs(value);
  std::uint32_t low = 0;
  std::uint32_t high = format.max_code;
  while (low < high) {
    const std::uint32_t middle = (low + high + 1) / 2;
    if (format.decode(middle) <= magnitude) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const double midpoint = midpoint_above(format, low);
  const bool up = magnitude > midpoint || (magnitude == midpoint && low % 2 == 1);
  std::uint32_t code = up ? low + 1 : low;
  if (code > format.max_code) code = format.beyond;
  return code | (std::signbit(value) ? format.sign_code : 0U);
}

}  // namespace foretoken::reference
