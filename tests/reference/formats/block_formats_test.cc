// Whole blocks against published numbers, and the corners: empty and infinite blocks, short groups,
// the limits of the lossless cast, the bytes of a cache entry.
#include "reference/formats/block_formats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "reference/formats/float_formats.h"
#include "tests/reference/formats/golden_data.h"

namespace foretoken::reference {
namespace {

using testing::Each;
using testing::ElementsAreArray;
using testing::IsNan;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t kBlock = 32;

std::vector<std::uint32_t> bits_of(std::span<const float> values) {
  std::vector<std::uint32_t> bits(values.size());
  std::ranges::transform(values, bits.begin(),
                         [](float value) { return std::bit_cast<std::uint32_t>(value); });
  return bits;
}

std::vector<std::uint8_t> unpacked(const Mxfp4Block& block) {
  std::vector<std::uint8_t> codes;
  for (const std::uint8_t pair : block.codes) {
    codes.push_back(pair & 0xfU);
    codes.push_back(pair >> 4U);
  }
  return codes;
}

std::vector<float> decoded(const Mxfp4Block& block) {
  std::vector<float> values(kBlock);
  decode_mxfp4(block, values);
  return values;
}

template <class Value>
std::span<const Value> part(const std::vector<Value>& all, std::size_t index, std::size_t size) {
  return std::span<const Value>(all).subspan(index * size, size);
}

// 1,000 blocks against the scale bytes, codes and decoded values of one rule.
void expect_golden_blocks(ScaleRule rule, const std::string& prefix) {
  const golden::Tensors tensors("formats/formats.safetensors");
  const auto input = tensors.floats("mxfp4.input");
  const auto scales = tensors.bytes(prefix + ".scale");
  const auto codes = tensors.bytes(prefix + ".codes");
  const auto dequant = tensors.floats(prefix + ".dequant");
  ASSERT_EQ(input.size(), 1000 * kBlock);
  ASSERT_EQ(scales.size(), 1000U);
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const Mxfp4Block block = encode_mxfp4(part(input, i, kBlock), rule);
    ASSERT_EQ(block.scale, scales[i]) << prefix << " block " << i;
    ASSERT_THAT(unpacked(block), ElementsAreArray(part(codes, i, kBlock))) << "block " << i;
    ASSERT_THAT(bits_of(decoded(block)), ElementsAreArray(bits_of(part(dequant, i, kBlock))))
        << "block " << i;
  }
}

TEST(Mxfp4, BlocksUnderTheDeepseekRuleEqualTheGoldenOnes) {
  expect_golden_blocks(ScaleRule::kDeepseek, "mxfp4.deepseek");
}

TEST(Mxfp4, BlocksUnderTheMxRuleEqualTheGoldenOnes) {
  expect_golden_blocks(ScaleRule::kMx, "mxfp4.ocp");
}

TEST(Mxfp4, TileKernelsQuantisesTheSameBlocksAlike) {
  const golden::Tensors tensors("formats/formats.safetensors");
  const auto input = tensors.floats("mxfp4.input");
  const auto scales = tensors.bytes("mxfp4.tilekernels.scale");
  const auto codes = tensors.bytes("mxfp4.tilekernels.codes");
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const Mxfp4Block block = encode_mxfp4(part(input, i, kBlock), ScaleRule::kDeepseek);
    ASSERT_EQ(block.scale, scales[i]) << "block " << i;
    ASSERT_THAT(unpacked(block), ElementsAreArray(part(codes, i, kBlock))) << "block " << i;
  }
}

TEST(Mxfp4, MicroxcalingDiffersOnlyWhereItsFloatLogarithmRoundsUp) {
  const golden::Tensors tensors("formats/formats.safetensors");
  const auto input = tensors.floats("mxfp4.input");
  const auto dequant = tensors.floats("mxfp4.ocp.dequant_microxcaling_even");
  int differing = 0;
  for (std::size_t i = 0; i < input.size() / kBlock; ++i) {
    const auto values = decoded(encode_mxfp4(part(input, i, kBlock), ScaleRule::kMx));
    if (std::ranges::equal(values, part(dequant, i, kBlock))) continue;
    ++differing;
    float amax = 0.0F;
    for (const float value : part(input, i, kBlock)) amax = std::max(amax, std::fabs(value));
    const float next = std::nextafter(amax, kInfinity);
    EXPECT_EQ(std::ldexp(1.0F, std::ilogb(next)), next) << "block " << i;
  }
  EXPECT_EQ(differing, 24);
}

// The worked example: the largest magnitude, 7.5, lies where the two rules part.
const std::vector<float> kWorkedExample{0,      0.1F, -0.26F, 0.5F,  0.74F, -0.76F, 1.0F,  1.24F,
                                        -1.26F, 1.6F, 2.0F,   2.4F,  -2.6F, 3.0F,   3.4F,  -3.6F,
                                        4.0F,   4.9F, 5.1F,   -5.5F, 6.0F,  6.4F,   7.0F,  7.5F,
                                        0.2F,   0.3F, -0.4F,  0.05F, 1.75F, 2.5F,   -3.5F, 5.0F};

TEST(Mxfp4, WorkedExampleUnderTheDeepseekRule) {
  const Mxfp4Block block = encode_mxfp4(kWorkedExample, ScaleRule::kDeepseek);
  EXPECT_EQ(block.scale, 128);
  EXPECT_THAT(decoded(block), ElementsAreArray(std::vector<float>{
                                  0, 0, 0, 0,  1, -1, 1, 1, -1, 2, 2, 2, -3, 3, 3,  -4,
                                  4, 4, 6, -6, 6, 6,  8, 8, 0,  0, 0, 0, 2,  2, -4, 4}));
}

TEST(Mxfp4, WorkedExampleUnderTheMxRule) {
  const Mxfp4Block block = encode_mxfp4(kWorkedExample, ScaleRule::kMx);
  EXPECT_EQ(block.scale, 127);
  EXPECT_THAT(decoded(block),
              ElementsAreArray(std::vector<float>{
                  0, 0, -0.5F, 0.5F, 0.5F, -1, 1, 1, -1.5F, 1.5F, 2,     2, -3, 3, 3,  -4,
                  4, 4, 6,     -6,   6,    6,  6, 6, 0,     0.5F, -0.5F, 0, 2,  2, -4, 4}));
}

TEST(Mxfp4, TheLowNibbleIsTheFirstElement) {
  std::vector<float> values(kBlock, 0.0F);
  values[0] = 6.0F;
  values[3] = -0.5F;
  const Mxfp4Block block = encode_mxfp4(values, ScaleRule::kDeepseek);
  EXPECT_EQ(block.codes[0], 0x07);
  EXPECT_EQ(block.codes[1], 0x90);
}

TEST(Mxfp4, AllZeroBlocksGetEachRulesSmallestScale) {
  const std::vector<float> zeros(kBlock, 0.0F);
  EXPECT_EQ(encode_mxfp4(zeros, ScaleRule::kDeepseek).scale, 1);
  EXPECT_EQ(encode_mxfp4(zeros, ScaleRule::kMx).scale, 0);
  EXPECT_THAT(decoded(encode_mxfp4(zeros, ScaleRule::kMx)), Each(0.0F));
}

TEST(Mxfp4, NanOrInfinityMakesTheWholeBlockNan) {
  for (const float special : {kNan, kInfinity, -kInfinity}) {
    for (const ScaleRule rule : {ScaleRule::kDeepseek, ScaleRule::kMx}) {
      std::vector<float> values(kBlock, 1.0F);
      values[17] = special;
      const Mxfp4Block block = encode_mxfp4(values, rule);
      EXPECT_EQ(block.scale, 255);
      EXPECT_THAT(block.codes, Each(0));
      EXPECT_THAT(decoded(block), Each(IsNan()));
    }
  }
}

TEST(Mxfp4, ExtremeMagnitudesStayInRange) {
  std::vector<float> values(kBlock, std::numeric_limits<float>::max());
  EXPECT_EQ(encode_mxfp4(values, ScaleRule::kMx).scale, 127 + 125);
  EXPECT_EQ(encode_mxfp4(values, ScaleRule::kDeepseek).scale, 127 + 126);
  values.assign(kBlock, std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(encode_mxfp4(values, ScaleRule::kMx).scale, 0);
  EXPECT_THAT(decoded(encode_mxfp4(values, ScaleRule::kMx)), Each(0.0F));
}

TEST(Mxfp4, OnlyWholeBlocksAreTaken) {
  std::vector<float> values(31);
  EXPECT_THROW(encode_mxfp4(values, ScaleRule::kMx), std::invalid_argument);
  EXPECT_THROW(decode_mxfp4(Mxfp4Block{}, values), std::invalid_argument);
}

// Codes, scales and decoded values of rows quantised in groups.
struct GroupCase {
  std::string name;
  std::int64_t group;
};

TEST(Fp8Groups, CodesScalesAndValuesEqualTheGoldenOnes) {
  const golden::Tensors tensors("formats/formats.safetensors");
  const auto input = tensors.floats("fp8.input");
  constexpr std::size_t kRow = 128;
  for (const GroupCase& group_case :
       {GroupCase{"fp8.block128", 128}, GroupCase{"fp8.block64", 64}}) {
    const auto scale_bytes = tensors.bytes(group_case.name + ".scale_e8m0");
    const auto golden_codes = tensors.bytes(group_case.name + ".codes");
    const auto dequant = tensors.floats(group_case.name + ".dequant");
    const std::size_t groups = kRow / static_cast<std::size_t>(group_case.group);
    ASSERT_EQ(scale_bytes.size(), 128 * groups);
    for (std::size_t i = 0; i < 128; ++i) {
      const auto row = part(input, i, kRow);
      std::vector<std::uint8_t> codes(kRow);
      std::vector<float> scales(groups);
      quantise_e4m3(row, group_case.group, kFp8Activation, codes, scales);
      ASSERT_THAT(codes, ElementsAreArray(part(golden_codes, i, kRow))) << "row " << i;
      for (std::size_t g = 0; g < groups; ++g) {
        ASSERT_EQ(scales[g], decode_e8m0(scale_bytes[i * groups + g])) << "row " << i;
      }
      std::vector<float> simulated(row.begin(), row.end());
      fake_quantise_e4m3(std::span(simulated), group_case.group, kFp8Activation);
      ASSERT_THAT(bits_of(simulated), ElementsAreArray(bits_of(part(dequant, i, kRow))));
      std::vector<double> in_double(row.begin(), row.end());
      fake_quantise_e4m3(std::span(in_double), group_case.group, kFp8Activation);
      ASSERT_TRUE(std::ranges::equal(in_double, part(dequant, i, kRow))) << "row " << i;
    }
  }
}

TEST(Fp8Groups, UnroundedScalesAndTheirCodesEqualTheGoldenOnes) {
  const golden::Tensors tensors("formats/formats.safetensors");
  const auto input = tensors.floats("fp8.input");
  const auto golden_scales = tensors.floats("fp8.block128.unrounded.scale_f32");
  const auto golden_codes = tensors.bytes("fp8.block128.unrounded.codes");
  for (std::size_t i = 0; i < 128; ++i) {
    const auto row = part(input, i, 128);
    std::vector<std::uint8_t> codes(128);
    std::vector<float> scale(1);
    quantise_e4m3(row, 128, kFp8ActivationUnrounded, codes, scale);
    ASSERT_EQ(scale[0], golden_scales[i]) << "row " << i;
    ASSERT_THAT(codes, ElementsAreArray(part(golden_codes, i, 128))) << "row " << i;
    std::vector<float> simulated(row.begin(), row.end());
    fake_quantise_e4m3(std::span(simulated), 128, kFp8ActivationUnrounded);
    for (std::size_t j = 0; j < 128; ++j) {
      ASSERT_EQ(simulated[j], decode_e4m3(codes[j]) * scale[0]) << "row " << i;
    }
  }
}

TEST(Fp8Groups, InputsOfAQuantisedProductEqualTheGoldenOnes) {
  const golden::Tensors tensors("components/components.safetensors");
  const auto x = tensors.floats("gemm.x");
  const auto golden_codes = tensors.bytes("gemm.x.codes");
  const auto golden_scales = tensors.bytes("gemm.x.scale_e8m0");
  ASSERT_EQ(x.size(), 9U * 256U);
  for (std::size_t i = 0; i < 9; ++i) {
    std::vector<std::uint8_t> codes(256);
    std::vector<float> scales(2);
    quantise_e4m3(part(x, i, 256), 128, kFp8Activation, codes, scales);
    ASSERT_THAT(codes, ElementsAreArray(part(golden_codes, i, 256))) << "row " << i;
    ASSERT_EQ(encode_e8m0_ceil(scales[0]), golden_scales[2 * i]);
    ASSERT_EQ(encode_e8m0_ceil(scales[1]), golden_scales[2 * i + 1]);
  }
}

TEST(GroupScale, RoundsUpToAPowerOfTwoFromTheFloatProduct) {
  EXPECT_EQ(kFp8Activation.of(448.0), 1.0F);
  EXPECT_EQ(kFp8Activation.of(std::nextafter(448.0F, kInfinity)), 2.0F);
  EXPECT_EQ(kFp8Activation.of(447.0), 1.0F);
  EXPECT_EQ(kFp8Activation.of(224.0), 0.5F);
  EXPECT_EQ(kFp4Index.of(6.0), 1.0F);
  EXPECT_EQ(kFp4Index.of(6.1), 2.0F);
  EXPECT_EQ(kFp8ActivationUnrounded.of(449.0), 449.0F * static_cast<float>(1.0 / 448.0));
}

TEST(GroupScale, TheFloorKeepsScalesAwayFromZero) {
  EXPECT_EQ(kFp8Activation.of(0.0), 0x1p-22F);  // 1e-4 / 448 = 2.2e-7, and 2^-22 = 2.4e-7
  EXPECT_EQ(kFp8Activation.of(1e-5), kFp8Activation.of(1e-4));
  EXPECT_EQ(kFp8ActivationUnrounded.of(0.0), 1e-4F * static_cast<float>(1.0 / 448.0));
  EXPECT_EQ(kFp4Index.of(0.0), 0x1p-126F);
}

TEST(FakeQuantise, ALastGroupMayBeShorter) {
  std::vector<float> row(100, 3.3F);
  std::fill(row.begin() + 64, row.end(), 1000.7F);
  auto first = std::vector<float>(row.begin(), row.begin() + 64);
  auto last = std::vector<float>(row.begin() + 64, row.end());
  fake_quantise_e4m3(std::span(row), 64, kFp8Activation);
  fake_quantise_e4m3(std::span(first), 64, kFp8Activation);
  fake_quantise_e4m3(std::span(last), 36, kFp8Activation);
  first.insert(first.end(), last.begin(), last.end());
  EXPECT_EQ(row, first);
}

TEST(FakeQuantise, NanStaysWhereItIsAndInfinityTakesItsGroup) {
  std::vector<float> row(64, 1.0F);
  row[3] = kNan;
  row[40] = -kInfinity;
  for (const bool fp8 : {true, false}) {
    std::vector<float> result = row;
    if (fp8) {
      fake_quantise_e4m3(std::span(result), 32, kFp8Activation);
    } else {
      fake_quantise_e2m1(std::span(result), 32, kFp4Index);
    }
    for (std::size_t i = 0; i < 32; ++i) {
      if (i == 3) {
        EXPECT_TRUE(std::isnan(result[i]));
      } else {
        EXPECT_EQ(result[i], 1.0F);
      }
    }
    EXPECT_THAT(std::vector<float>(result.begin() + 32, result.end()), Each(IsNan()));
  }
}

TEST(FakeQuantise, DoublesBeyondFloatBehaveAsInfinity) {
  std::vector<double> row(32, 1.0);
  row[0] = 1e300;
  fake_quantise_e4m3(std::span(row), 32, kFp8Activation);
  EXPECT_THAT(row, Each(IsNan()));
}

TEST(FakeQuantise, AnEmptyRowIsLeftAloneAndAnEmptyGroupRefused) {
  std::vector<float> row;
  EXPECT_NO_THROW(fake_quantise_e4m3(std::span(row), 128, kFp8Activation));
  row.resize(4);
  EXPECT_THROW(fake_quantise_e4m3(std::span(row), 0, kFp8Activation), std::invalid_argument);
}

TEST(QuantiseE4m3, SizesMustMatch) {
  const std::vector<float> row(130, 1.0F);
  std::vector<std::uint8_t> codes(130);
  std::vector<float> scales(1);
  EXPECT_THROW(quantise_e4m3(row, 128, kFp8Activation, codes, scales), std::invalid_argument);
  scales.resize(2);
  EXPECT_NO_THROW(quantise_e4m3(row, 128, kFp8Activation, codes, scales));
  codes.resize(129);
  EXPECT_THROW(quantise_e4m3(row, 128, kFp8Activation, codes, scales), std::invalid_argument);
}

TEST(Hadamard, RowsOf128AreTheGoldenOnesUpToSummationOrder) {
  const golden::Tensors tensors("components/components.safetensors");
  const auto x = tensors.floats("hadamard128.x");
  const auto y = tensors.floats("hadamard128.y");
  ASSERT_EQ(x.size(), 6U * 128U);
  for (std::size_t i = 0; i < 6; ++i) {
    std::vector<float> row(x.begin() + static_cast<std::ptrdiff_t>(128 * i),
                           x.begin() + static_cast<std::ptrdiff_t>(128 * (i + 1)));
    hadamard(std::span(row));
    // Summed one after another there, in pairs here; values are about 1.
    for (std::size_t j = 0; j < 128; ++j) ASSERT_NEAR(row[j], y[128 * i + j], 2e-6) << "row " << i;
  }
}

TEST(Hadamard, IsTheSylvesterMatrixOverTheRootOfTheLength) {
  for (std::size_t n = 1; n <= 512; n *= 2) {
    for (std::size_t column = 0; column < n; ++column) {
      std::vector<double> unit(n, 0.0);
      unit[column] = 1.0;
      hadamard(std::span(unit));
      for (std::size_t row = 0; row < n; ++row) {
        const double sign = std::popcount(row & column) % 2 == 0 ? 1.0 : -1.0;
        ASSERT_DOUBLE_EQ(unit[row], sign / std::sqrt(static_cast<double>(n))) << n;
      }
    }
  }
}

TEST(Hadamard, OtherLengthsAreRefused) {
  for (const std::size_t n : {0U, 3U, 96U}) {
    std::vector<float> row(n, 1.0F);
    EXPECT_THROW(hadamard(std::span(row)), std::invalid_argument) << n;
  }
}

// One row of two sub-blocks, each filled with one code.
struct TwoBlocks {
  std::uint8_t first_code;
  std::uint8_t first_scale;
  std::uint8_t second_code;
  std::uint8_t second_scale;
};
LosslessCast cast(const TwoBlocks& blocks, std::vector<std::uint8_t>* out = nullptr) {
  std::vector<std::uint8_t> codes(2 * kBlock, blocks.first_code);
  std::fill(codes.begin() + kBlock, codes.end(), blocks.second_code);
  const std::vector<std::uint8_t> scales{blocks.first_scale, blocks.second_scale};
  std::vector<std::uint8_t> buffer(2 * kBlock);
  const LosslessCast result = cast_fp4_to_fp8(codes, scales, 1, 2 * kBlock, buffer);
  if (out != nullptr) *out = buffer;
  return result;
}
constexpr std::uint8_t kHalf = 1;
constexpr std::uint8_t kFour = 6;
constexpr std::uint8_t kSix = 7;

TEST(LosslessCast, TheLargestScaleMovesSixExponentsUp) {
  std::vector<std::uint8_t> out;
  const LosslessCast result = cast({kSix, 130, kHalf, 130}, &out);
  EXPECT_EQ(result.scale, 124);
  EXPECT_EQ(decode_e4m3(out[0]), 384.0F);
  EXPECT_EQ(decode_e4m3(out[kBlock]), 32.0F);
  EXPECT_EQ(result.ratio_log2, 0);
  EXPECT_EQ(result.exact_limit_log2, 14);
  EXPECT_TRUE(result.exact);
  EXPECT_TRUE(result.deepseek_condition);
}

TEST(LosslessCast, DeepseeksConditionEndsAtARatioOfTwoToTheEleventh) {
  EXPECT_TRUE(cast({kSix, 140, kHalf, 129}).deepseek_condition);
  EXPECT_FALSE(cast({kSix, 140, kHalf, 128}).deepseek_condition);
  EXPECT_TRUE(cast({kSix, 140, kHalf, 128}).exact);
}

TEST(LosslessCast, SubnormalsCarryItToARatioOfTwoToTheFourteenth) {
  std::vector<std::uint8_t> out;
  const LosslessCast at_limit = cast({kSix, 140, kHalf, 126}, &out);
  EXPECT_TRUE(at_limit.exact);
  EXPECT_EQ(at_limit.ratio_log2, 14);
  EXPECT_EQ(out[kBlock], 0x01);
  const LosslessCast beyond = cast({kSix, 140, kHalf, 125}, &out);
  EXPECT_FALSE(beyond.exact);
  EXPECT_EQ(beyond.exact_limit_log2, 14);
  EXPECT_EQ(out[kBlock], 0x00);  // half the smallest subnormal ties to even
}

TEST(LosslessCast, CodesWithoutLowBitsAllowMore) {
  EXPECT_EQ(cast({kSix, 140, kFour, 123}).exact_limit_log2, 17);
  EXPECT_TRUE(cast({kSix, 140, kFour, 123}).exact);
  EXPECT_FALSE(cast({kSix, 140, kFour, 122}).exact);
  EXPECT_EQ(cast({kFour, 123, kSix, 140}).exact_limit_log2, 17);
}

TEST(LosslessCast, AllZeroSubBlocksHaveNoSay) {
  const LosslessCast result = cast({kSix, 140, 0, 1});
  EXPECT_EQ(result.ratio_log2, 0);
  EXPECT_EQ(result.scale, 134);
  EXPECT_EQ(cast({kSix, 120, 8, 200}).scale, 114);  // negative zeros
  std::vector<std::uint8_t> out;
  const LosslessCast nothing = cast({0, 100, 8, 90}, &out);
  EXPECT_TRUE(nothing.exact);
  EXPECT_TRUE(nothing.deepseek_condition);
  EXPECT_EQ(nothing.scale, 94);
  EXPECT_EQ(out[0], 0x00);
  EXPECT_EQ(out[kBlock], 0x80);
}

TEST(LosslessCast, TheScaleStopsAtTheSmallestOne) {
  std::vector<std::uint8_t> out;
  const LosslessCast result = cast({kSix, 3, kHalf, 0}, &out);
  EXPECT_EQ(result.scale, 0);
  EXPECT_TRUE(result.exact);
  EXPECT_EQ(decode_e4m3(out[0]), 48.0F);
  EXPECT_EQ(decode_e4m3(out[kBlock]), 0.5F);
}

TEST(LosslessCast, ANanScaleIsNeverExact) {
  std::vector<std::uint8_t> out;
  const LosslessCast result = cast({kSix, 127, kHalf, 255}, &out);
  EXPECT_FALSE(result.exact);
  EXPECT_FALSE(result.deepseek_condition);
  EXPECT_EQ(result.scale, 121);
  EXPECT_EQ(decode_e4m3(out[0]), 384.0F);
  EXPECT_THAT(std::vector<std::uint8_t>(out.begin() + kBlock, out.end()), Each(0x7f));
}

TEST(LosslessCast, SizesMustMatch) {
  const std::vector<std::uint8_t> codes(64);
  const std::vector<std::uint8_t> scales(2);
  std::vector<std::uint8_t> out(64);
  EXPECT_THROW(cast_fp4_to_fp8(codes, scales, 1, 48, out), std::invalid_argument);
  EXPECT_THROW(cast_fp4_to_fp8(codes, scales, 2, 64, out), std::invalid_argument);
  EXPECT_THROW(cast_fp4_to_fp8(codes, std::span(scales).first(1), 1, 64, out),
               std::invalid_argument);
  EXPECT_NO_THROW(cast_fp4_to_fp8(codes, scales, 2, 32, out));
}

TEST(KvEntry, SizesAreCodesRopeAndScalesPaddedToEight) {
  EXPECT_EQ(kv_entry_bytes(448, 64), 584);  // 448 + 128 + 7 + 1
  EXPECT_EQ(kv_entry_bytes(512, 64), 648);  // 8 scales, no padding
  EXPECT_EQ(kv_entry_bytes(64, 0), 72);
  EXPECT_EQ(kv_entry_bytes(65, 2), 77);
  EXPECT_EQ(kv_entry_bytes(513, 0), 529);  // 9 scales and 7 bytes
  EXPECT_EQ(kv_entry_bytes(0, 64), 128);
  EXPECT_THROW(static_cast<void>(kv_entry_bytes(-1, 64)), std::invalid_argument);
}

TEST(KvEntry, BytesLieInTheirPlaces) {
  std::vector<float> entry(512, 0.0F);
  entry[0] = 448.0F;
  entry[64] = -896.0F;
  entry[448] = 1.0F;
  entry[511] = -2.0F;
  std::vector<std::uint8_t> bytes(584, 0xaa);
  pack_kv_entry(entry, 64, bytes);
  EXPECT_EQ(bytes[0], 0x7e);
  EXPECT_EQ(bytes[64], 0xfe);
  EXPECT_EQ(bytes[448], 0x80);
  EXPECT_EQ(bytes[449], 0x3f);
  EXPECT_EQ(bytes[574], 0x00);
  EXPECT_EQ(bytes[575], 0xc0);
  EXPECT_EQ(bytes[576], 127);
  EXPECT_EQ(bytes[577], 128);
  EXPECT_EQ(bytes[578], 127 - 22);  // the floor
  EXPECT_EQ(bytes[583], 0);
}

TEST(KvEntry, AnInfiniteChannelDecodesToANanGroup) {
  std::vector<float> entry(128, 1.0F);
  entry[5] = kInfinity;
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(kv_entry_bytes(128, 0)));
  pack_kv_entry(entry, 0, bytes);
  unpack_kv_entry(bytes, 0, entry);
  EXPECT_TRUE(std::isnan(entry[0]));
  EXPECT_TRUE(std::isnan(entry[5]));
  EXPECT_EQ(entry[64], 1.0F);
}

TEST(KvEntry, SizesMustMatch) {
  std::vector<float> entry(512);
  std::vector<std::uint8_t> bytes(583);
  EXPECT_THROW(pack_kv_entry(entry, 64, bytes), std::invalid_argument);
  EXPECT_THROW(unpack_kv_entry(bytes, 64, entry), std::invalid_argument);
  EXPECT_THROW(pack_kv_entry(entry, 513, bytes), std::invalid_argument);
}

}  // namespace
}  // namespace foretoken::reference
