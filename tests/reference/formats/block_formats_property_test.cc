// What must hold for any block: idempotence, symmetry, error bounds, an orthogonal rotation, and a
// cast that never claims exactness falsely.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "reference/formats/block_formats.h"
#include "reference/formats/float_formats.h"
#include "tests/reference/formats/property.h"

namespace foretoken::reference {
namespace {

// Both simulated formats, in one carrier type.
template <class T>
void fake_quantise(std::vector<T>& row, std::int64_t group, bool fp8) {
  if (fp8) {
    fake_quantise_e4m3(std::span(row), group, kFp8Activation);
  } else {
    fake_quantise_e2m1(std::span(row), group, kFp4Index);
  }
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return std::ranges::equal(a, b,
                            [](T x, T y) { return x == y && std::signbit(x) == std::signbit(y); });
}

template <class T>
std::vector<T> scaled(const std::vector<T>& row, T factor) {
  std::vector<T> result = row;
  for (T& value : result) value *= factor;
  return result;
}

rc::Gen<std::int64_t> any_group() {
  return rc::gen::resize(rc::kNominalSize, rc::gen::element<std::int64_t>(32, 64, 96, 128));
}

template <class T>
void check_fake_quantise(bool fp8) {
  EXPECT_TRUE(holds("idempotent", [&] {
    const auto row = *any_row(96, -16, 8);
    const std::int64_t group = *any_group();
    std::vector<T> once(row.begin(), row.end());
    fake_quantise(once, group, fp8);
    std::vector<T> twice = once;
    fake_quantise(twice, group, fp8);
    RC_ASSERT(same_bits(once, twice));
  }));
  EXPECT_TRUE(holds("powers of two commute with it", [&] {
    // Above the floor of 1e-4, or the group's scale could not follow.
    auto row = *any_row(64, -12, 8);
    row[0] = 1.0F;
    row[32] = 1.0F;
    const auto factor = static_cast<T>(std::ldexp(1.0, *rc::gen::inRange(-8, 20)));
    std::vector<T> before(row.begin(), row.end());
    std::vector<T> after = before;
    before = scaled(before, factor);
    fake_quantise(before, 32, fp8);
    fake_quantise(after, 32, fp8);
    RC_ASSERT(same_bits(before, scaled(after, factor)));
  }));
  EXPECT_TRUE(holds("signs commute with it", [&] {
    const auto row = *any_row(96, -16, 8);
    std::vector<T> before(row.begin(), row.end());
    std::vector<T> after = before;
    before = scaled(before, T{-1});
    fake_quantise(before, 32, fp8);
    fake_quantise(after, 32, fp8);
    RC_ASSERT(same_bits(before, scaled(after, T{-1})));
  }));
  EXPECT_TRUE(holds("error within half a step", [&] {
    const auto row = *any_row(32, -16, 8);
    std::vector<T> result(row.begin(), row.end());
    fake_quantise(result, 32, fp8);
    double amax = 0.0;
    for (const float value : row) amax = std::max(amax, std::fabs(static_cast<double>(value)));
    const double scale = (fp8 ? kFp8Activation : kFp4Index).of(amax);
    // Relative half step of the mantissa, absolute half step below the smallest normal; and one
    // float rounding, because the scale comes from a rounded product.
    const double relative = fp8 ? 0x1p-4 : 0x1p-2;
    const double absolute = scale * (fp8 ? 0x1p-10 : 0x1p-2);
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double bound = std::fmax(relative * std::fabs(row[i]), absolute);
      RC_ASSERT(std::fabs(result[i] - row[i]) <= bound * (1 + 0x1p-20));
    }
  }));
}

TEST(FakeQuantiseProperty, E4m3InFloat) { check_fake_quantise<float>(true); }
TEST(FakeQuantiseProperty, E4m3InDouble) { check_fake_quantise<double>(true); }
TEST(FakeQuantiseProperty, E2m1InFloat) { check_fake_quantise<float>(false); }
TEST(FakeQuantiseProperty, E2m1InDouble) { check_fake_quantise<double>(false); }

TEST(FakeQuantiseProperty, IsDecodingWhatQuantisingStored) {
  EXPECT_TRUE(holds("codes times scales", [] {
    const auto row = *any_row(150, -20, 10);
    const std::int64_t group = *any_group();
    const bool power_of_two = *rc::gen::arbitrary<bool>();
    const GroupScale& scale = power_of_two ? kFp8Activation : kFp8ActivationUnrounded;
    std::vector<std::uint8_t> codes(row.size());
    std::vector<float> scales((row.size() + static_cast<std::size_t>(group) - 1) /
                              static_cast<std::size_t>(group));
    quantise_e4m3(row, group, scale, codes, scales);
    std::vector<float> expected(row.size());
    for (std::size_t i = 0; i < row.size(); ++i) {
      expected[i] = decode_e4m3(codes[i]) * scales[i / static_cast<std::size_t>(group)];
    }
    std::vector<float> simulated = row;
    fake_quantise_e4m3(std::span(simulated), group, scale);
    RC_ASSERT(same_bits(simulated, expected));
  }));
}

TEST(GroupScaleProperty, ScalesArePowersOfTwoJustLargeEnough) {
  EXPECT_TRUE(holds("scale", [] {
    const float amax = std::fabs(*any_float(-12, 100));
    for (const GroupScale& group_scale : {kFp8Activation, kFp4Index}) {
      const float scale = group_scale.of(amax);
      RC_ASSERT(std::ldexp(1.0F, std::ilogb(scale)) == scale);
      // The product with the rounded reciprocal may fall a rounding below the quotient.
      RC_ASSERT(amax <= scale * group_scale.max_element * (1 + 0x1p-23));
      RC_ASSERT(amax > 0.5 * scale * group_scale.max_element * (1 - 0x1p-23));
    }
  }));
}

TEST(Mxfp4Property, TheRulesDifferOnlyBetweenOneAndAHalfAndTwo) {
  EXPECT_TRUE(holds("scale bytes", [] {
    const auto row = *any_row(32, -20, 20);
    float amax = 0.0F;
    for (const float value : row) amax = std::max(amax, std::fabs(value));
    RC_PRE(amax > 0.0F);
    const double fraction = amax / std::ldexp(1.0, std::ilogb(amax));
    const int deepseek = encode_mxfp4(row, ScaleRule::kDeepseek).scale;
    const int mx = encode_mxfp4(row, ScaleRule::kMx).scale;
    // The float product rounds away excesses of one unit in the last place.
    RC_PRE(fraction <= 1.5 || fraction > 1.5 + 0x1p-22);
    RC_ASSERT(deepseek - mx == (fraction > 1.5 ? 1 : 0));
  }));
}

TEST(Mxfp4Property, DecodedBlocksEncodeToTheSameValues) {
  for (const ScaleRule rule : {ScaleRule::kDeepseek, ScaleRule::kMx}) {
    EXPECT_TRUE(holds("round trip", [rule] {
      const auto row = *any_row(32, -20, 20);
      std::vector<float> once(32);
      decode_mxfp4(encode_mxfp4(row, rule), once);
      std::vector<float> twice(32);
      decode_mxfp4(encode_mxfp4(once, rule), twice);
      RC_ASSERT(same_bits(once, twice));
    }));
  }
}

TEST(Mxfp4Property, TheDeepseekRuleIsTheIndexQuantiser) {
  EXPECT_TRUE(holds("same values", [] {
    auto row = *any_row(32, -20, 20);
    std::vector<float> block(32);
    decode_mxfp4(encode_mxfp4(row, ScaleRule::kDeepseek), block);
    fake_quantise_e2m1(std::span(row), 32, kFp4Index);
    RC_ASSERT(same_bits(block, row));
  }));
}

template <class T>
void check_hadamard(double tolerance) {
  EXPECT_TRUE(holds("twice is the identity, dot products stay", [&] {
    const auto size = std::size_t{1} << *rc::gen::inRange(0U, 9U);
    const auto a = *any_row(size, -4, 4);
    const auto b = *any_row(size, -4, 4);
    std::vector<T> rotated_a(a.begin(), a.end());
    std::vector<T> rotated_b(b.begin(), b.end());
    hadamard(std::span(rotated_a));
    hadamard(std::span(rotated_b));
    double dot = 0.0;
    double rotated_dot = 0.0;
    double norm_a = 0.0;
    double norm_b = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
      dot += static_cast<double>(a[i]) * b[i];
      rotated_dot += static_cast<double>(rotated_a[i]) * rotated_b[i];
      norm_a += static_cast<double>(a[i]) * a[i];
      norm_b += static_cast<double>(b[i]) * b[i];
    }
    RC_ASSERT(std::fabs(dot - rotated_dot) <= tolerance * std::sqrt(norm_a * norm_b));
    hadamard(std::span(rotated_a));
    for (std::size_t i = 0; i < size; ++i) {
      RC_ASSERT(std::fabs(rotated_a[i] - a[i]) <= tolerance * std::sqrt(norm_a));
    }
  }));
}

TEST(HadamardProperty, IsItsOwnInverseAndKeepsDotProductsInFloat) { check_hadamard<float>(4e-6); }
TEST(HadamardProperty, IsItsOwnInverseAndKeepsDotProductsInDouble) {
  check_hadamard<double>(1e-14);
}

TEST(LosslessCastProperty, ExactMeansEveryElementIsEqual) {
  EXPECT_TRUE(holds("exactness", [] {
    constexpr std::size_t kRows = 2;
    constexpr std::size_t kColumns = 64;
    constexpr std::size_t kSubBlocks = kRows * kColumns / 32;
    // Few kinds of codes, or each sub-block would hold a 0.5 and a 1.5.
    const auto kinds = *rc::gen::resize(rc::kNominalSize,
                                        rc::gen::container<std::vector<std::uint8_t>>(
                                            3, rc::gen::map(rc::gen::inRange(0, 16), [](int code) {
                                              return static_cast<std::uint8_t>(code);
                                            })));
    const auto codes =
        *rc::gen::container<std::vector<std::uint8_t>>(kRows * kColumns, rc::gen::elementOf(kinds));
    const int base = *rc::gen::resize(rc::kNominalSize, rc::gen::inRange(0, 230));
    const int spread = *rc::gen::resize(rc::kNominalSize, rc::gen::inRange(0, 22));
    const auto scales = *rc::gen::resize(
        rc::kNominalSize,
        rc::gen::container<std::vector<std::uint8_t>>(
            kSubBlocks, rc::gen::map(rc::gen::inRange(base, base + spread + 1),
                                     [](int scale) { return static_cast<std::uint8_t>(scale); })));
    std::vector<std::uint8_t> out(codes.size());
    const LosslessCast result = cast_fp4_to_fp8(codes, scales, kRows, kColumns, out);

    bool all_equal = true;
    bool all_normal = true;
    int largest = 0;
    int smallest = 255;
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const int scale = scales[i / 32];
      const double fp4 = std::ldexp(decode_e2m1(codes[i]), scale - 127);
      const double fp8 = std::ldexp(decode_e4m3(out[i]), result.scale - 127);
      all_equal = all_equal && fp4 == fp8 && std::signbit(fp4) == std::signbit(fp8);
      if (fp4 == 0.0) continue;
      all_normal = all_normal && (out[i] & 0x78U) != 0;
      largest = std::max(largest, scale);
      smallest = std::min(smallest, scale);
    }
    const int ratio = largest < smallest ? 0 : largest - smallest;
    RC_ASSERT(result.ratio_log2 == ratio);
    RC_ASSERT(result.exact == all_equal);
    RC_ASSERT(result.exact == (ratio <= result.exact_limit_log2));
    RC_ASSERT(result.exact_limit_log2 >= 14);
    RC_ASSERT(result.deepseek_condition == (ratio <= 11));
    if (result.deepseek_condition) RC_ASSERT(all_normal);
    RC_CLASSIFY(result.exact && ratio > 14, "exact beyond 2^14");
    RC_CLASSIFY(!result.exact, "not exact");
  }));
}

TEST(KvEntryProperty, UnpackingGivesWhatTheSimulatedCacheHolds) {
  EXPECT_TRUE(holds("round trip", [] {
    const auto [nope, rope] = *rc::gen::resize(
        rc::kNominalSize, rc::gen::pair(rc::gen::element<std::size_t>(64, 100, 192, 448),
                                        rc::gen::element<std::size_t>(0, 16, 64)));
    std::vector<float> entry = *any_row(nope + rope, -16, 8);
    for (std::size_t i = nope; i < entry.size(); ++i) entry[i] = round_bf16(entry[i]);
    const auto rope_channels = static_cast<std::int64_t>(rope);
    std::vector<std::uint8_t> bytes(
        static_cast<std::size_t>(kv_entry_bytes(static_cast<std::int64_t>(nope), rope_channels)));
    std::vector<float> unpacked(entry.size());
    pack_kv_entry(entry, rope_channels, bytes);
    unpack_kv_entry(bytes, rope_channels, unpacked);

    std::vector<float> simulated = entry;
    fake_quantise_e4m3(std::span(simulated).first(nope), 64, kFp8Activation);
    RC_ASSERT(same_bits(unpacked, simulated));

    // Packing what the simulation left loses nothing more.
    pack_kv_entry(simulated, rope_channels, bytes);
    unpack_kv_entry(bytes, rope_channels, unpacked);
    RC_ASSERT(same_bits(unpacked, simulated));
  }));
}

}  // namespace
}  // namespace foretoken::reference
