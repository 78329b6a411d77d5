// What must hold for any number: nearest, monotone, symmetric, and the fast rounding equal to
// encoding and decoding.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "reference/formats/float_formats.h"
#include "tests/reference/formats/format_cases.h"
#include "tests/reference/formats/property.h"

namespace foretoken::reference {
namespace {

// Exponents that reach from below every format's subnormals to above its largest value.
rc::Gen<double> number_around(const FormatCase& format) {
  const int lowest = std::ilogb(format.decode(1)) - 4;
  const int highest = std::ilogb(format.decode(format.max_code)) + 3;
  return any_number(lowest, highest);
}

TEST(FloatFormatsProperty, EncodingGivesTheNearestCodeTiesToEven) {
  for (const FormatCase& format : format_cases()) {
    EXPECT_TRUE(holds(format.name + " nearest", [&] {
      const double value = *number_around(format);
      RC_ASSERT(format.encode(value) == nearest_code(format, value));
    }));
  }
}

TEST(FloatFormatsProperty, EncodingIsMonotone) {
  for (const FormatCase& format : format_cases()) {
    if (std::isnan(format.decode(format.beyond))) continue;
    EXPECT_TRUE(holds(format.name + " monotone", [&] {
      const double one = *number_around(format);
      const double other = *number_around(format);
      RC_ASSERT(format.decode(format.encode(std::fmin(one, other))) <=
                format.decode(format.encode(std::fmax(one, other))));
    }));
  }
}

TEST(FloatFormatsProperty, NegatingFlipsTheSignBitOnly) {
  for (const FormatCase& format : format_cases()) {
    EXPECT_TRUE(holds(format.name + " symmetric", [&] {
      const double value = *number_around(format);
      RC_ASSERT(format.encode(-value) == (format.encode(value) ^ format.sign_code));
    }));
  }
}

TEST(FloatFormatsProperty, ScalingByAPowerOfTwoScalesNormalResults) {
  EXPECT_TRUE(holds("e4m3", [] {
    const double value = *any_number(-6, 0);
    const int shift = *rc::gen::inRange(0, 8);
    RC_ASSERT(round_e4m3(std::ldexp(value, shift)) == std::ldexp(round_e4m3(value), shift));
  }));
  EXPECT_TRUE(holds("e2m1", [] {
    const double value = *any_number(0, 0);
    RC_ASSERT(round_e2m1(2 * value) == 2 * round_e2m1(value));
  }));
}

TEST(FloatFormatsProperty, RoundingEqualsEncodingAndDecoding) {
  EXPECT_TRUE(holds("e4m3", [] {
    const double value = *any_number(-20, 12);
    const double expected = decode_e4m3(encode_e4m3(value));
    RC_ASSERT(std::bit_cast<std::uint64_t>(round_e4m3(value)) ==
              std::bit_cast<std::uint64_t>(expected));
  }));
  EXPECT_TRUE(holds("e2m1", [] {
    const double value = *any_number(-10, 6);
    const double expected = decode_e2m1(encode_e2m1(value));
    RC_ASSERT(std::bit_cast<std::uint64_t>(round_e2m1(value)) ==
              std::bit_cast<std::uint64_t>(expected));
  }));
  EXPECT_TRUE(holds("bf16, any bit pattern", [] {
    const auto bits = *rc::gen::resize(rc::kNominalSize, rc::gen::arbitrary<std::uint32_t>());
    const auto value = std::bit_cast<float>(bits);
    const float expected = decode_bf16(encode_bf16(value));
    RC_ASSERT(std::bit_cast<std::uint32_t>(round_bf16(value)) ==
              std::bit_cast<std::uint32_t>(expected));
  }));
}

TEST(FloatFormatsProperty, EncodersTakeAnyBitPattern) {
  for (const FormatCase& format : format_cases()) {
    EXPECT_TRUE(holds(format.name + " total", [&] {
      const auto bits = *rc::gen::resize(rc::kNominalSize, rc::gen::arbitrary<std::uint64_t>());
      const auto value = std::bit_cast<double>(bits);
      const std::uint32_t code = format.encode(value);
      RC_ASSERT(code < 2 * format.sign_code);
      if (!std::isnan(value)) RC_ASSERT(code == nearest_code(format, value));
    }));
  }
}

TEST(FloatFormatsProperty, E8m0IsTheNearestPowerOfTwoAndCeilTheNextOneUp) {
  EXPECT_TRUE(holds("e8m0", [] {
    const double value = std::fabs(*any_number(-126, 126));
    const double below = std::ldexp(1.0, std::ilogb(value));
    const double nearest = decode_e8m0(encode_e8m0(value));
    RC_ASSERT(nearest == below || nearest == 2 * below);
    RC_ASSERT(std::fabs(nearest - value) <= std::fmin(value - below, 2 * below - value));
    const double above = decode_e8m0(encode_e8m0_ceil(value));
    RC_ASSERT(above == (value == below ? below : 2 * below));
  }));
}

}  // namespace
}  // namespace foretoken::reference
