// Every code of every format, every BF16 input, the neighbourhood of every rounding boundary, and
// the special values.
#include "reference/formats/float_formats.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/reference/formats/format_cases.h"
#include "tests/reference/formats/golden_data.h"

namespace foretoken::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

template <class Decode>
void expect_decode_table(const std::string& file, std::size_t codes, Decode decode) {
  const auto rows = golden::read_csv_gz("number-formats/decode_" + file + ".csv.gz");
  ASSERT_EQ(rows.size(), codes);
  for (const auto& row : rows) {
    const auto code = static_cast<std::uint8_t>(std::stoul(row[0]));
    EXPECT_EQ(bits_of(decode(code)), golden::parse_hex(row[1])) << file << " code " << row[0];
  }
}

TEST(FloatFormats, DecodeTablesEqualMlDtypes) {
  expect_decode_table("e2m1fn", 16, decode_e2m1);
  expect_decode_table("e2m3fn", 64, decode_e2m3);
  expect_decode_table("e3m2fn", 64, decode_e3m2);
  expect_decode_table("e4m3fn", 256, decode_e4m3);
  expect_decode_table("e5m2", 256, decode_e5m2);
  expect_decode_table("e8m0fnu", 256, decode_e8m0);
}

TEST(FloatFormats, DecodeTablesOfTheFormatsFileAgree) {
  const golden::Tensors tensors("formats/formats.safetensors");
  const auto expect_table = [&](const std::string& name, auto decode) {
    const std::vector<float> values = tensors.floats(name);
    for (std::size_t code = 0; code < values.size(); ++code) {
      const float value = decode(static_cast<std::uint8_t>(code));
      if (std::isnan(values[code])) {
        EXPECT_TRUE(std::isnan(value)) << name << " " << code;
      } else {
        EXPECT_EQ(bits_of(value), bits_of(values[code])) << name << " " << code;
      }
    }
    return values.size();
  };
  EXPECT_EQ(expect_table("e4m3fn.decoded", decode_e4m3), 256U);
  EXPECT_EQ(expect_table("e2m1.decoded", decode_e2m1), 16U);
  EXPECT_EQ(expect_table("e8m0.decoded", decode_e8m0), 256U);
}

TEST(FloatFormats, UnusedUpperBitsAreIgnored) {
  EXPECT_EQ(decode_e2m1(0xf7), decode_e2m1(0x07));
  EXPECT_EQ(decode_e2m3(0xdf), decode_e2m3(0x1f));
  EXPECT_EQ(decode_e3m2(0xdf), decode_e3m2(0x1f));
}

TEST(FloatFormats, AllBf16InputsEncodeAsMlDtypesDoes) {
  const auto rows = golden::read_csv_gz("number-formats/encode_all_bf16.csv.gz");
  ASSERT_EQ(rows.size(), 65536U);
  for (const auto& row : rows) {
    const double value = decode_bf16(static_cast<std::uint16_t>(golden::parse_hex(row[0])));
    ASSERT_EQ(encode_e4m3(value, Overflow::kSpecial), golden::parse_hex(row[1])) << row[0];
    ASSERT_EQ(encode_e5m2(value, Overflow::kSpecial), golden::parse_hex(row[2])) << row[0];
    ASSERT_EQ(encode_e8m0(value), golden::parse_hex(row[3])) << row[0];
    ASSERT_EQ(encode_e2m1(value), golden::parse_hex(row[4])) << row[0];
    ASSERT_EQ(encode_e2m3(value), golden::parse_hex(row[5])) << row[0];
    ASSERT_EQ(encode_e3m2(value), golden::parse_hex(row[6])) << row[0];
  }
}

TEST(FloatFormats, RandomFloatsEncodeAsMlDtypesDoes) {
  const auto rows = golden::read_csv_gz("number-formats/encode_random_f32.csv.gz");
  ASSERT_EQ(rows.size(), 20000U);
  for (const auto& row : rows) {
    const auto value = std::bit_cast<float>(golden::parse_hex(row[0]));
    ASSERT_EQ(encode_bf16(value), golden::parse_hex(row[1])) << row[0];
    ASSERT_EQ(bits_of(round_bf16(value)), golden::parse_hex(row[1]) << 16U) << row[0];
    ASSERT_EQ(encode_e4m3(value, Overflow::kSpecial), golden::parse_hex(row[2])) << row[0];
    ASSERT_EQ(encode_e5m2(value, Overflow::kSpecial), golden::parse_hex(row[3])) << row[0];
    ASSERT_EQ(encode_e2m1(value), golden::parse_hex(row[4])) << row[0];
  }
}

TEST(FloatFormats, RoundingCasesAgreeWithAndWithoutSaturation) {
  const golden::Tensors tensors("formats/formats.safetensors");
  const auto e4m3 = tensors.floats("e4m3fn.round.input");
  const auto e4m3_special = tensors.bytes("e4m3fn.round.code_ml_dtypes");
  const auto e4m3_saturating = tensors.bytes("e4m3fn.round.code_saturating");
  ASSERT_EQ(e4m3.size(), 7556U);
  for (std::size_t i = 0; i < e4m3.size(); ++i) {
    ASSERT_EQ(encode_e4m3(e4m3[i], Overflow::kSpecial), e4m3_special[i]) << e4m3[i];
    ASSERT_EQ(encode_e4m3(e4m3[i]), e4m3_saturating[i]) << e4m3[i];
    ASSERT_EQ(round_e4m3(e4m3[i]), decode_e4m3(e4m3_saturating[i])) << e4m3[i];
  }
  const auto e2m1 = tensors.floats("e2m1.round.input");
  const auto e2m1_ml_dtypes = tensors.bytes("e2m1.round.code_ml_dtypes");
  const auto e2m1_saturating = tensors.bytes("e2m1.round.code_saturating");
  ASSERT_EQ(e2m1.size(), 6128U);
  for (std::size_t i = 0; i < e2m1.size(); ++i) {
    ASSERT_EQ(encode_e2m1(e2m1[i]), e2m1_ml_dtypes[i]) << e2m1[i];
    ASSERT_EQ(encode_e2m1(e2m1[i]), e2m1_saturating[i]) << e2m1[i];
    ASSERT_EQ(round_e2m1(e2m1[i]), decode_e2m1(e2m1_saturating[i])) << e2m1[i];
  }
}

TEST(FloatFormats, E8m0ScalesAgreeForNearestAndForCeiling) {
  const golden::Tensors tensors("formats/formats.safetensors");
  const auto input = tensors.floats("e8m0.encode.input");
  const auto nearest = tensors.bytes("e8m0.encode.code_ml_dtypes_rne");
  const auto ceiling = tensors.bytes("e8m0.encode.code_ceil_pow2");
  ASSERT_EQ(input.size(), 500U);
  for (std::size_t i = 0; i < input.size(); ++i) {
    EXPECT_EQ(encode_e8m0(input[i]), nearest[i]) << input[i];
    EXPECT_EQ(encode_e8m0_ceil(input[i]), ceiling[i]) << input[i];
  }
}

TEST(FloatFormats, EveryCodeSurvivesDecodingAndEncoding) {
  for (const FormatCase& format : format_cases()) {
    for (std::uint32_t code = 0; code < 2 * format.sign_code; ++code) {
      const bool finite = (code & (format.sign_code - 1)) <= format.max_code;
      if (!finite) continue;
      ASSERT_EQ(format.encode(format.decode(code)), code) << format.name;
    }
  }
  for (std::uint32_t code = 0; code < 255; ++code) {
    const float value = decode_e8m0(static_cast<std::uint8_t>(code));
    ASSERT_EQ(encode_e8m0(value), code);
    ASSERT_EQ(encode_e8m0_ceil(value), code);
  }
}

TEST(FloatFormats, EveryBoundaryRoundsToNearestAndItsTieToTheEvenCode) {
  for (const FormatCase& format : format_cases()) {
    for (std::uint32_t code = 0; code <= format.max_code; ++code) {
      const std::uint32_t above = code == format.max_code ? format.beyond : code + 1;
      const std::uint32_t even = code % 2 == 0 ? code : above;
      const double tie = midpoint_above(format, code);
      for (const double sign : {1.0, -1.0}) {
        const std::uint32_t sign_code = sign < 0 ? format.sign_code : 0U;
        ASSERT_EQ(format.encode(sign * std::nextafter(tie, 0.0)), code | sign_code)
            << format.name << " below " << tie;
        ASSERT_EQ(format.encode(sign * tie), even | sign_code) << format.name << " at " << tie;
        ASSERT_EQ(format.encode(sign * std::nextafter(tie, kInfinity)), above | sign_code)
            << format.name << " above " << tie;
      }
    }
  }
}

TEST(FloatFormats, DoublesAreNotRoundedTwice) {
  // Float would round each of these to the tie, and the tie to the even code below or above.
  EXPECT_EQ(encode_e4m3(1.0625 + 0x1p-40), encode_e4m3(1.125));
  EXPECT_EQ(encode_e4m3(1.1875 - 0x1p-40), encode_e4m3(1.125));
  EXPECT_EQ(encode_bf16(1.0 + 0x1p-8 + 0x1p-40), 0x3f81);
  EXPECT_EQ(encode_f16(1.0 + 0x1p-11 + 0x1p-40), 0x3c01);
  EXPECT_EQ(round_e4m3(1.0625 + 0x1p-40), 1.125);
  EXPECT_EQ(round_e2m1(0.25 + 0x1p-50), 0.5);
}

TEST(FloatFormats, OverflowSaturatesOrBecomesSpecial) {
  EXPECT_EQ(encode_e4m3(464.0, Overflow::kSpecial), 0x7e);
  EXPECT_EQ(encode_e4m3(464.5, Overflow::kSpecial), 0x7f);
  EXPECT_EQ(encode_e4m3(-1e300, Overflow::kSpecial), 0xff);
  EXPECT_EQ(encode_e4m3(480.0), 0x7e);
  EXPECT_EQ(encode_e4m3(kInfinity), 0x7e);
  EXPECT_EQ(encode_e4m3(-kInfinity), 0xfe);
  EXPECT_EQ(encode_e4m3(kInfinity, Overflow::kSpecial), 0x7f);
  EXPECT_EQ(encode_e5m2(61440.0, Overflow::kSpecial), 0x7c);
  EXPECT_EQ(encode_e5m2(61439.0, Overflow::kSpecial), 0x7b);
  EXPECT_EQ(encode_e5m2(kInfinity), 0x7b);
  EXPECT_EQ(encode_e5m2(-kInfinity, Overflow::kSpecial), 0xfc);
  EXPECT_EQ(encode_e2m1(1e300), 0x7);
  EXPECT_EQ(encode_bf16(1e300), 0x7f80);
  EXPECT_EQ(encode_f16(65519.0), 0x7bff);
  EXPECT_EQ(encode_f16(-65520.0), 0xfc00);
  EXPECT_EQ(round_bf16(std::numeric_limits<float>::max()), std::numeric_limits<float>::infinity());
  EXPECT_EQ(round_e4m3(kInfinity), 448.0);
  EXPECT_EQ(round_e4m3(-1e300), -448.0);
  EXPECT_EQ(round_e2m1(std::numeric_limits<double>::max()), 6.0);
}

TEST(FloatFormats, NanStaysNanWhereTheFormatHasOne) {
  EXPECT_EQ(encode_e4m3(kNan), 0x7f);
  EXPECT_EQ(encode_e4m3(-kNan), 0xff);
  EXPECT_EQ(encode_e5m2(kNan), 0x7e);
  EXPECT_EQ(encode_bf16(kNan), 0x7fc0);
  EXPECT_EQ(encode_bf16(-kNan), 0xffc0);
  EXPECT_EQ(encode_f16(kNan), 0x7e00);
  EXPECT_TRUE(std::isnan(decode_f16(0x7c01)));
  EXPECT_TRUE(std::isnan(round_e4m3(kNan)));
  EXPECT_TRUE(std::isnan(round_e2m1(kNan)));
  // A payload in the discarded half alone must not turn into infinity.
  EXPECT_TRUE(std::isnan(round_bf16(std::bit_cast<float>(0x7f800001U))));
  EXPECT_TRUE(std::isnan(round_bf16(std::bit_cast<float>(0xffffffffU))));
}

TEST(FloatFormats, NanBecomesTheOppositeZeroWhereTheFormatHasNone) {
  EXPECT_EQ(encode_e2m1(kNan), 0x8);
  EXPECT_EQ(encode_e2m1(-kNan), 0x0);
  EXPECT_EQ(encode_e2m3(kNan), 0x20);
  EXPECT_EQ(encode_e3m2(-kNan), 0x00);
}

TEST(FloatFormats, ZerosAndUnderflowKeepTheirSign) {
  for (const FormatCase& format : format_cases()) {
    for (const double tiny : {0.0, std::numeric_limits<double>::denorm_min(), 0x1p-1022, 1e-200}) {
      EXPECT_EQ(format.encode(tiny), 0U) << format.name;
      EXPECT_EQ(format.encode(-tiny), format.sign_code) << format.name;
    }
  }
  EXPECT_TRUE(std::signbit(round_e4m3(-1e-30)));
  EXPECT_TRUE(std::signbit(round_e2m1(-0.0)));
  EXPECT_TRUE(std::signbit(round_bf16(-0.0F)));
  EXPECT_FALSE(std::signbit(round_e4m3(1e-30)));
}

TEST(FloatFormats, E8m0HasNeitherZeroNorSign) {
  EXPECT_EQ(encode_e8m0(0.0), 255);
  EXPECT_EQ(encode_e8m0(-1.0), 255);
  EXPECT_EQ(encode_e8m0(kNan), 255);
  EXPECT_EQ(encode_e8m0(kInfinity), 255);
  EXPECT_EQ(encode_e8m0(1.5), 128);  // tie between codes 127 and 128
  EXPECT_EQ(encode_e8m0(3.0), 129);  // tie between codes 128 and 129
  EXPECT_EQ(encode_e8m0(std::nextafter(0x1.8p127, 0.0)), 254);
  EXPECT_EQ(encode_e8m0(0x1.8p127), 255);
  EXPECT_EQ(encode_e8m0(0x1p-127), 0);
  EXPECT_EQ(encode_e8m0(std::nextafter(0x1p-127, 1.0)), 1);
  EXPECT_EQ(encode_e8m0(1e-300), 0);
}

TEST(FloatFormats, E8m0CeilingNeverFallsBelowTheValue) {
  EXPECT_EQ(encode_e8m0_ceil(1.0), 127);
  EXPECT_EQ(encode_e8m0_ceil(std::nextafter(1.0, 2.0)), 128);
  EXPECT_EQ(encode_e8m0_ceil(std::nextafter(1.0, 0.0)), 127);
  EXPECT_EQ(encode_e8m0_ceil(0x1p127), 254);
  EXPECT_EQ(encode_e8m0_ceil(std::nextafter(0x1p127, kInfinity)), 255);
  EXPECT_EQ(encode_e8m0_ceil(0x1p-127), 0);
  EXPECT_EQ(encode_e8m0_ceil(std::nextafter(0x1p-127, 1.0)), 1);
  EXPECT_EQ(encode_e8m0_ceil(std::numeric_limits<double>::denorm_min()), 0);
  EXPECT_EQ(encode_e8m0_ceil(0.0), 255);
  EXPECT_EQ(encode_e8m0_ceil(-1.0), 255);
  EXPECT_EQ(encode_e8m0_ceil(kNan), 255);
  EXPECT_EQ(encode_e8m0_ceil(kInfinity), 255);
}

}  // namespace
}  // namespace foretoken::reference
