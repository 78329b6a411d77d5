// Rotary frequencies and tables against the released model's and against the formula in double; the
// rotation's geometry.
#include "reference/ops/rope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/reference/formats/golden_data.h"
#include "tests/reference/ops/golden_integers.h"
#include "tests/reference/ops/operator_cases.h"

namespace foretoken::reference {
namespace {

const std::string kComponents = "components/components.safetensors";
constexpr std::int64_t kDim = 64;
constexpr Yarn kCompressed{.factor = 16.0, .original_positions = 65536.0};
constexpr Yarn kLong32{.factor = 40.0, .original_positions = 4096.0};  // V3.2

template <class N>
using Row = std::vector<typename N::T>;

template <class N>
Row<N> rotated(const Rope& rope, Row<N> x, std::int64_t position, bool inverse = false,
               RopeLayout layout = RopeLayout::kInterleaved) {
  rope.rotate(N::kNumerics, x.data(), position, inverse, layout);
  return x;
}

void expect_same_bits(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(actual[i]), std::bit_cast<std::uint32_t>(expected[i]))
        << "frequency " << i << ": " << actual[i] << " and " << expected[i];
  }
}

TEST(RopeGolden, FrequenciesAreTheReleasedOnesBitForBit) {
  const golden::Tensors tensors(kComponents);
  expect_same_bits(rope_frequencies(kDim, 10000.0, {}), tensors.floats("rope.main.inv_freq"));
  expect_same_bits(rope_frequencies(kDim, 160000.0, {}),
                   tensors.floats("rope.compress.inv_freq_unscaled"));
  expect_same_bits(rope_frequencies(kDim, 160000.0, kCompressed),
                   tensors.floats("rope.compress.inv_freq"));
}

// Rotating (1, 0) gives (cos, sin), and no rounding comes on top.
void expect_table(const Rope& rope, const std::string& name) {
  const golden::Tensors tensors(kComponents);
  const auto positions = golden::integers(kComponents, "rope.positions");
  const auto cosines = tensors.floats(name + ".cos");
  const auto sines = tensors.floats(name + ".sin");
  ASSERT_EQ(positions.size(), 9U);
  for (std::size_t p = 0; p < positions.size(); ++p) {
    std::vector<float> x(kDim);
    for (std::int64_t i = 0; i < kDim; i += 2) x[i] = 1.0F;
    x = rotated<Hardware>(rope, x, positions[p]);
    for (std::size_t i = 0; i < kDim / 2; ++i) {
      // Float sines of two libraries: half a unit at 1 each.
      EXPECT_NEAR(x[2 * i], cosines[p * kDim / 2 + i], 6e-8) << positions[p] << " channel " << i;
      EXPECT_NEAR(x[2 * i + 1], sines[p * kDim / 2 + i], 6e-8) << positions[p] << " channel " << i;
    }
  }
}

TEST(RopeGolden, SinesAndCosinesAreTheReleasedTables) {
  expect_table(Rope(kDim, 10000.0, {}), "rope.main");
  expect_table(Rope(kDim, 160000.0, kCompressed), "rope.compress");
}

template <class N>
void expect_golden_rotation() {
  const golden::Tensors tensors(kComponents);
  const auto positions = golden::integers(kComponents, "rope.positions");
  const auto x = tensors.floats("rope.apply.x");
  const auto y = tensors.floats("rope.apply.y");
  const Rope rope(kDim, 160000.0, kCompressed);
  for (std::size_t p = 0; p < positions.size(); ++p) {
    const auto first = static_cast<std::int64_t>(p) * kDim;
    Row<N> row(x.begin() + first, x.begin() + first + kDim);
    row = rotated<N>(rope, row, positions[p]);
    EXPECT_LE(distance(row, slice(y, first, kDim)), 1e-6) << "position " << positions[p];
  }
}

TEST(RopeGolden, RotationIsTheReleasedOne) {
  expect_golden_rotation<Exact>();
  expect_golden_rotation<Stored32>();
  expect_golden_rotation<Hardware>();
}

TEST(RopeFrequencies, AreThePublishedOnes) {
  struct Line {
    std::size_t i;
    double compressed;
    double window;
    double long32;
  };
  const std::vector<Line> table{
      {0, 1.000000000e+00, 1.000000000e+00, 1.000000000e+00},
      {1, 6.876560219e-01, 7.498942093e-01, 7.498942093e-01},
      {10, 2.364354023e-02, 5.623413252e-02, 5.623413252e-02},
      {15, 3.635538584e-03, 1.333521432e-02, 8.334508951e-03},
      {16, 2.265625000e-03, 1.000000000e-02, 5.500000000e-03},
      {20, 2.969777783e-04, 3.162277660e-03, 7.905694150e-04},
      {24, 1.953125000e-05, 1.000000000e-03, 2.500000000e-05},
      {25, 5.372312671e-06, 7.498942093e-04, 1.874735523e-05},
      {31, 5.680529037e-07, 1.333521432e-04, 3.333803580e-06},
  };
  const auto compressed = rope_frequencies(kDim, 160000.0, kCompressed);
  const auto window = rope_frequencies(kDim, 10000.0, {});
  const auto long32 = rope_frequencies(kDim, 10000.0, kLong32);
  for (const Line& line : table) {
    // Three float roundings, before the ramp's.
    EXPECT_NEAR(compressed[line.i] / line.compressed, 1.0, 4e-7) << line.i;
    EXPECT_NEAR(window[line.i] / line.window, 1.0, 2e-7) << line.i;
    EXPECT_NEAR(long32[line.i] / line.long32, 1.0, 4e-7) << line.i;
  }
}

// low .. high is where YaRN blends: 15 .. 25 for V4, 10 .. 23 for V3.2.
void expect_ramp(double theta, const Yarn& yarn, std::size_t low, std::size_t high) {
  const auto plain = rope_frequencies(kDim, theta, {});
  const auto stretched = rope_frequencies(kDim, theta, yarn);
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const double ratio = static_cast<double>(stretched[i]) / plain[i];
    if (i <= low) {
      EXPECT_EQ(stretched[i], plain[i]) << i;
    } else if (i >= high) {
      EXPECT_NEAR(ratio * yarn.factor, 1.0, 2e-7) << i;
    } else {
      const double ramp = static_cast<double>(i - low) / static_cast<double>(high - low);
      EXPECT_NEAR(ratio, 1.0 - ramp + ramp / yarn.factor, 2e-6) << i;
    }
  }
}

TEST(RopeFrequencies, AreStretchedOverTheRampOnly) {
  expect_ramp(160000.0, kCompressed, 15, 25);
  expect_ramp(10000.0, kLong32, 10, 23);
}

// Five positions are less than one turn of any frequency, so both ends of the ramp are at 0.
TEST(RopeFrequencies, JumpWhereTheRampHasNoLength) {
  const auto plain = rope_frequencies(8, 10000.0, {});
  const auto stretched = rope_frequencies(8, 10000.0, {.factor = 4.0, .original_positions = 5.0});
  EXPECT_EQ(stretched, (std::vector<float>{plain[0], plain[1] / 4, plain[2] / 4, plain[3] / 4}));
}

TEST(RopeFrequencies, NeedAnEvenWidth) {
  EXPECT_THROW(rope_frequencies(0, 10000.0, {}), std::invalid_argument);
  EXPECT_THROW(rope_frequencies(-2, 10000.0, {}), std::invalid_argument);
  EXPECT_THROW(rope_frequencies(7, 10000.0, {}), std::invalid_argument);
  EXPECT_EQ(Rope(10, 10000.0, {}).dim(), 10);
}

TEST(RopeFrequencies, AreTheFormulaForAnyConfiguration) {
  EXPECT_TRUE(holds("YaRN", [] {
    Random random = any_random();
    const std::int64_t dim = 2 * any_size(1, 64);
    const double theta = std::exp(random.uniform(std::log(500.0), std::log(1e6)));
    const Yarn yarn{.factor = std::exp(random.uniform(0.0, std::log(64.0))),
                    .original_positions = std::exp2(random.uniform(5.0, 18.0)),
                    .beta_fast = random.uniform(8.0, 64.0),
                    .beta_slow = random.uniform(0.5, 4.0)};
    const auto z = [&](double turns) {
      return static_cast<double>(dim) *
             std::log(yarn.original_positions / (2.0 * std::numbers::pi * turns)) /
             (2.0 * std::log(theta));
    };
    const double low = std::max(std::floor(z(yarn.beta_fast)), 0.0);
    const double high = std::min(std::ceil(z(yarn.beta_slow)), static_cast<double>(dim - 1));
    RC_PRE(low < high);
    const auto frequencies = rope_frequencies(dim, theta, yarn);
    RC_ASSERT(static_cast<std::int64_t>(frequencies.size()) == dim / 2);
    for (std::int64_t i = 0; i < dim / 2; ++i) {
      const double plain =
          std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      const double ramp =
          std::min(std::max((static_cast<double>(i) - low) / (high - low), 0.0), 1.0);
      const double expected = plain * ((1.0 - ramp) + ramp / yarn.factor);
      // A float exponent is off by up to 2^-25, felt ln(theta) < 14 times; cancellation in 1 - ramp
      // near the ramp's end is divided by the factor there.
      RC_ASSERT(std::fabs(static_cast<double>(frequencies[i]) / expected - 1.0) <=
                1e-6 + 2e-7 * yarn.factor);
    }
  }));
}

template <class N>
class RopeRotation : public testing::Test {};
TYPED_TEST_SUITE(RopeRotation, AllNumbers, NumbersName);

RopeLayout any_layout(Random& random) {
  return random.between(0, 1) == 0 ? RopeLayout::kInterleaved : RopeLayout::kHalves;
}

// Where the two channels of pair i lie.
std::pair<std::int64_t, std::int64_t> pair_at(RopeLayout layout, std::int64_t dim, std::int64_t i) {
  if (layout == RopeLayout::kInterleaved) return {2 * i, 2 * i + 1};
  return {i, i + dim / 2};
}

template <class N>
double unit() {
  return N::kNarrow + 4.0 * std::max(N::kComputed, 0x1p-24);  // sines are float always
}

TYPED_TEST(RopeRotation, TurnsEveryPairByPositionTimesFrequency) {
  using N = TypeParam;
  EXPECT_TRUE(holds("(x + iy) e^(i t f)", [] {
    Random random = any_random();
    const std::int64_t dim = 2 * any_size(1, 32);
    const Rope rope(dim, 10000.0, {});
    const std::int64_t position = random.between(0, 1 << 20);
    const RopeLayout layout = any_layout(random);
    const auto x = random.row<N>(dim, 4.0);
    const auto y = rotated<N>(rope, x, position, false, layout);
    for (std::int64_t i = 0; i < dim / 2; ++i) {
      // The release's tables: the angle is one float product.
      const float angle = static_cast<float>(position) * rope.frequencies()[i];
      const auto [first, second] = pair_at(layout, dim, i);
      const double re = static_cast<double>(x[first]);
      const double im = static_cast<double>(x[second]);
      const double cosine = std::cos(static_cast<double>(angle));
      const double sine = std::sin(static_cast<double>(angle));
      const double tolerance = unit<N>() * std::hypot(re, im);
      RC_ASSERT(std::fabs(static_cast<double>(y[first]) - (re * cosine - im * sine)) <= tolerance);
      RC_ASSERT(std::fabs(static_cast<double>(y[second]) - (re * sine + im * cosine)) <= tolerance);
    }
    RC_ASSERT(storable<N>(y));
  }));
}

TYPED_TEST(RopeRotation, KeepsTheLengthOfEveryPair) {
  using N = TypeParam;
  EXPECT_TRUE(holds("norms", [] {
    Random random = any_random();
    const std::int64_t dim = 2 * any_size(1, 32);
    const Rope rope(dim, 160000.0, kCompressed);
    const RopeLayout layout = any_layout(random);
    const auto x = random.row<N>(dim, 4.0);
    const auto y =
        rotated<N>(rope, x, random.between(0, 1 << 20), random.between(0, 1) == 1, layout);
    for (std::int64_t i = 0; i < dim / 2; ++i) {
      const auto [first, second] = pair_at(layout, dim, i);
      const double before =
          std::hypot(static_cast<double>(x[first]), static_cast<double>(x[second]));
      const double after =
          std::hypot(static_cast<double>(y[first]), static_cast<double>(y[second]));
      RC_ASSERT(std::fabs(before - after) <= 2.0 * unit<N>() * before);
    }
  }));
}

TYPED_TEST(RopeRotation, TurnsBack) {
  using N = TypeParam;
  EXPECT_TRUE(holds("inverse", [] {
    Random random = any_random();
    const std::int64_t dim = 2 * any_size(1, 32);
    const Rope rope(dim, 10000.0, {});
    const RopeLayout layout = any_layout(random);
    const std::int64_t position = random.between(0, 1 << 20);
    const auto x = random.row<N>(dim, 4.0);
    const auto there = rotated<N>(rope, x, position, false, layout);
    RC_ASSERT(distance(rotated<N>(rope, there, position, true, layout), x) <=
              3.0 * unit<N>() * 4.0 * std::numbers::sqrt2);
    // Backwards is the conjugate: exchanging the two channels of a pair makes one of the other.
    const auto exchanged = [&](const Row<N>& row) {
      Row<N> result = row;
      for (std::int64_t i = 0; i < dim / 2; ++i) {
        const auto [first, second] = pair_at(layout, dim, i);
        result[first] = row[second];
        result[second] = row[first];
      }
      return result;
    };
    RC_ASSERT(distance(rotated<N>(rope, exchanged(x), position, true, layout), exchanged(there)) <=
              2.0 * unit<N>() * 4.0 * std::numbers::sqrt2);
  }));
}

TYPED_TEST(RopeRotation, LeavesPositionZeroAlone) {
  using N = TypeParam;
  EXPECT_TRUE(holds("identity", [] {
    Random random = any_random();
    const std::int64_t dim = 2 * any_size(1, 32);
    const auto x = random.row<N>(dim, 4.0);
    const Rope rope(dim, 160000.0, kCompressed);
    RC_ASSERT(same(rotated<N>(rope, x, 0, random.between(0, 1) == 1, any_layout(random)), x));
  }));
}

TYPED_TEST(RopeRotation, HalvesAreAPermutationOfInterleavedPairs) {
  using N = TypeParam;
  EXPECT_TRUE(holds("layouts", [] {
    Random random = any_random();
    const std::int64_t dim = 2 * any_size(1, 32);
    const Rope rope(dim, 10000.0, {});
    const std::int64_t position = random.between(0, 1 << 20);
    const bool inverse = random.between(0, 1) == 1;
    const auto x = random.row<N>(dim, 4.0);
    const auto to_halves = [&](const Row<N>& row) {
      Row<N> result(row.size());
      for (std::int64_t i = 0; i < dim / 2; ++i) {
        result[i] = row[2 * i];
        result[i + dim / 2] = row[2 * i + 1];
      }
      return result;
    };
    RC_ASSERT(same(rotated<N>(rope, to_halves(x), position, inverse, RopeLayout::kHalves),
                   to_halves(rotated<N>(rope, x, position, inverse))));
  }));
}

TYPED_TEST(RopeRotation, TurnsHeadsAlikeAndOnlyTheirRotaryChannels) {
  using N = TypeParam;
  EXPECT_TRUE(holds("heads", [] {
    Random random = any_random();
    const std::int64_t dim = 2 * any_size(1, 16);
    const std::int64_t heads = any_size(1, 5);
    const std::int64_t stride = dim + any_size(0, 5);
    const Rope rope(dim, 10000.0, {});
    const std::int64_t position = random.between(0, 1 << 20);
    const bool inverse = random.between(0, 1) == 1;
    const RopeLayout layout = any_layout(random);
    const auto x = random.row<N>(heads * stride, 4.0);
    auto expected = x;
    for (std::int64_t h = 0; h < heads; ++h) {
      const auto alone = rotated<N>(rope, slice(x, h * stride, dim), position, inverse, layout);
      std::copy(alone.begin(), alone.end(), expected.begin() + h * stride);
    }
    auto together = x;
    rope.rotate_heads(N::kNumerics, together.data(), heads, stride, position, inverse, layout);
    RC_ASSERT(same(together, expected));
  }));
}

TYPED_TEST(RopeRotation, ProductsDependOnTheDistanceOnly) {
  using N = TypeParam;
  EXPECT_TRUE(holds("q(t) . k(s) = q(t + d) . k(s + d)", [] {
    Random random = any_random();
    const std::int64_t dim = 2 * any_size(1, 32);
    const Rope rope(dim, 10000.0, {});
    const RopeLayout layout = any_layout(random);
    const auto q = random.row<N>(dim, 1.0);
    const auto k = random.row<N>(dim, 1.0);
    const std::int64_t t = random.between(0, 300);
    const std::int64_t s = random.between(0, 300);
    const std::int64_t shift = random.between(0, 300);
    const auto dot = [&](std::int64_t q_position, std::int64_t k_position) {
      const auto a = rotated<N>(rope, q, q_position, false, layout);
      const auto b = rotated<N>(rope, k, k_position, false, layout);
      double sum = 0.0;
      for (std::int64_t i = 0; i < dim; ++i) {
        sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      }
      return sum;
    };
    double norms = 0.0;
    for (std::int64_t i = 0; i < dim; ++i) {
      norms += static_cast<double>(q[i]) * static_cast<double>(q[i]) +
               static_cast<double>(k[i]) * static_cast<double>(k[i]);
    }
    // An angle below 600 is a float product, so off by up to 600 * 2^-24; four of them.
    const double tolerance = (4.0 * 600.0 * 0x1p-24 + 4.0 * unit<N>()) * norms;
    RC_ASSERT(std::fabs(dot(t, s) - dot(t + shift, s + shift)) <= tolerance);
  }));
}

}  // namespace
}  // namespace foretoken::reference
