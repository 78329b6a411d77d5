// Norms and the gated activation against their formulas in double, and their symmetries.
#include "reference/ops/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/reference/ops/operator_cases.h"

namespace foretoken::reference {
namespace {

// eps from negligible to dominant.
double any_eps(Random& random) {
  const std::vector<double> choices{1e-20, 1e-6, 1e-2, 3.0};
  return choices[random.between(0, 3)];
}

template <class N>
using Row = std::vector<typename N::T>;

template <class T>
double mean_square(const std::vector<T>& x) {
  double sum = 0.0;
  for (const T value : x) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum / static_cast<double>(x.size());
}

template <class N>
Row<N> rms_normed(const Row<N>& x, const Row<N>& weight, double eps) {
  Row<N> y(x.size());
  const auto width = static_cast<std::int64_t>(weight.size());
  rms_norm(N::kNumerics, x.data(), weight.data(), eps, static_cast<std::int64_t>(x.size()) / width,
           width, y.data());
  return y;
}

template <class N>
Row<N> head_normed(Row<N> x, std::int64_t width, double eps) {
  head_norm(N::kNumerics, x.data(), eps, static_cast<std::int64_t>(x.size()) / width, width);
  return x;
}

template <class N>
Row<N> layer_normed(const Row<N>& x, const Row<N>& weight, const Row<N>& bias, double eps) {
  Row<N> y(x.size());
  const auto width = static_cast<std::int64_t>(weight.size());
  layer_norm(N::kNumerics, x.data(), weight.data(), bias.data(), eps,
             static_cast<std::int64_t>(x.size()) / width, width, y.data());
  return y;
}

template <class N>
class RmsNorm : public testing::Test {};
TYPED_TEST_SUITE(RmsNorm, AllNumbers, NumbersName);

TYPED_TEST(RmsNorm, IsTheFormula) {
  using N = TypeParam;
  EXPECT_TRUE(holds("w x / sqrt(mean(x^2) + eps)", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const auto x = random.row<N>(width, 3.0);
    const auto weight = random.row<N>(width, 2.0);
    const double eps = any_eps(random);
    const auto y = rms_normed<N>(x, weight, eps);
    const double root = std::sqrt(mean_square(x) + eps);
    for (std::int64_t i = 0; i < width; ++i) {
      const double expected = static_cast<double>(weight[i]) * static_cast<double>(x[i]) / root;
      const double unit = N::kNarrow + static_cast<double>(width + 8) * N::kComputed;
      RC_ASSERT(std::fabs(static_cast<double>(y[i]) - expected) <= unit * std::fabs(expected));
    }
    RC_ASSERT(storable<N>(y));
  }));
}

TYPED_TEST(RmsNorm, DoesNotSeeTheScaleOfItsInput) {
  using N = TypeParam;
  EXPECT_TRUE(holds("c x as x", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const auto x = random.row<N>(width, 3.0);
    const auto weight = random.row<N>(width, 2.0);
    const auto y = rms_normed<N>(x, weight, 0.0);
    // Powers of two shift every step and change no bit.
    const double power = std::ldexp(1.0, static_cast<int>(random.between(-20, 20)));
    RC_ASSERT(same(rms_normed<N>(times(x, power), weight, 0.0), y));
    RC_ASSERT(same(rms_normed<N>(times(x, -power), weight, 0.0), times(y, -1.0)));
    const auto scaled = times(x, random.uniform(0.1, 10.0));
    const double unit = 2.0 * N::kNarrow + static_cast<double>(width + 8) * 2.0 * N::kWide;
    const double largest = 2.0 * std::sqrt(static_cast<double>(width));
    RC_ASSERT(distance(rms_normed<N>(scaled, weight, 1e-30), y) <= unit * largest);
  }));
}

TYPED_TEST(RmsNorm, IsLinearInTheWeight) {
  using N = TypeParam;
  EXPECT_TRUE(holds("powers of two exactly, sums up to rounding", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const auto x = random.row<N>(width, 3.0);
    const auto a = random.row<N>(width, 2.0);
    const auto b = random.row<N>(width, 2.0);
    auto sum = a;
    for (std::int64_t i = 0; i < width; ++i) sum[i] += b[i];
    const auto of_a = rms_normed<N>(x, a, 1e-6);
    const auto of_b = rms_normed<N>(x, b, 1e-6);
    auto of_both = of_a;
    for (std::int64_t i = 0; i < width; ++i) of_both[i] += of_b[i];
    const double largest = 4.0 * std::sqrt(static_cast<double>(width));
    RC_ASSERT(distance(rms_normed<N>(x, sum, 1e-6), of_both) <=
              (2.0 * N::kNarrow + 16.0 * N::kWide) * largest);
    RC_ASSERT(same(rms_normed<N>(x, times(a, -4.0), 1e-6), times(of_a, -4.0)));
    RC_ASSERT(same(rms_normed<N>(x, times(a, 0.0), 1e-6), times(of_a, 0.0)));
  }));
}

TYPED_TEST(RmsNorm, TreatsRowsAloneAndInPlace) {
  using N = TypeParam;
  EXPECT_TRUE(holds("rows", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const std::int64_t rows = any_size(1, 5);
    const auto x = random.row<N>(rows * width, 3.0);
    const auto weight = random.row<N>(width, 2.0);
    auto together = x;
    rms_norm(N::kNumerics, together.data(), weight.data(), 1e-6, rows, width, together.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto alone = rms_normed<N>(slice(x, r * width, width), weight, 1e-6);
      RC_ASSERT(same(slice(together, r * width, width), alone));
    }
  }));
}

TYPED_TEST(RmsNorm, LeavesZerosZero) {
  using N = TypeParam;
  const Row<N> zeros(8);
  const Row<N> ones(8, typename N::T{1});
  EXPECT_EQ(rms_normed<N>(zeros, ones, 1e-6), zeros);
}

template <class N>
class HeadNorm : public testing::Test {};
TYPED_TEST_SUITE(HeadNorm, AllNumbers, NumbersName);

TYPED_TEST(HeadNorm, IsTheFormula) {
  using N = TypeParam;
  EXPECT_TRUE(holds("x / sqrt(mean(x^2) + eps)", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const auto x = random.row<N>(width, 3.0);
    const double eps = any_eps(random);
    const auto y = head_normed<N>(x, width, eps);
    const double root = std::sqrt(mean_square(x) + eps);
    // In BF16: squares, mean and sum with eps count half (they are under the root), then the root
    // and the product.
    const double stored = N::kBf16 ? 3.6 * N::kNarrow : N::kNarrow;
    const double unit = stored + static_cast<double>(width + 8) * N::kComputed;
    for (std::int64_t i = 0; i < width; ++i) {
      const double expected = static_cast<double>(x[i]) / root;
      RC_ASSERT(std::fabs(static_cast<double>(y[i]) - expected) <= unit * std::fabs(expected));
    }
    RC_ASSERT(storable<N>(y));
  }));
}

TYPED_TEST(HeadNorm, DoesNotSeeTheScaleOfItsInput) {
  using N = TypeParam;
  EXPECT_TRUE(holds("c x as x", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const auto x = random.row<N>(width, 3.0);
    const auto y = head_normed<N>(x, width, 0.0);
    const double power = std::ldexp(1.0, static_cast<int>(random.between(-20, 20)));
    RC_ASSERT(same(head_normed<N>(times(x, power), width, 0.0), y));
    RC_ASSERT(same(head_normed<N>(times(x, -power), width, 0.0), times(y, -1.0)));
  }));
}

TYPED_TEST(HeadNorm, TreatsRowsAlone) {
  using N = TypeParam;
  EXPECT_TRUE(holds("rows", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const std::int64_t rows = any_size(1, 5);
    const auto x = random.row<N>(rows * width, 3.0);
    const auto together = head_normed<N>(x, width, 1e-6);
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto alone = head_normed<N>(slice(x, r * width, width), width, 1e-6);
      RC_ASSERT(same(slice(together, r * width, width), alone));
    }
  }));
}

TYPED_TEST(HeadNorm, IsTheWeightedNormWithoutWeights) {
  using N = TypeParam;
  EXPECT_TRUE(holds("weights of one", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const auto x = random.row<N>(width, 3.0);
    const Row<N> ones(static_cast<std::size_t>(width), typename N::T{1});
    const auto weighted = rms_normed<N>(x, ones, 1e-6);
    const auto plain = head_normed<N>(x, width, 1e-6);
    // In BF16 the release rounds at more places here.
    const double largest = std::sqrt(static_cast<double>(width));
    const bool close =
        N::kBf16 ? distance(plain, weighted) <= 5.0 * N::kNarrow * largest : same(plain, weighted);
    RC_ASSERT(close);
  }));
}

// Small integers over eight: the sum of rounded squares is exact in any order.
template <class N>
void check_bf16_steps() {
  using T = typename N::T;
  using Acc = typename N::Acc;
  int rounded_once_differs = 0;
  EXPECT_TRUE(holds("each step rounded", [&] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 24);
    Row<N> x(static_cast<std::size_t>(width));
    for (T& value : x) value = static_cast<T>(random.between(1, 255)) / T{8};
    const double eps = any_eps(random);
    const auto narrow = [](Acc value) {
      return static_cast<Acc>(round_bf16(static_cast<float>(value)));
    };
    Acc sum = 0;
    for (const T value : x) sum += narrow(static_cast<Acc>(value) * static_cast<Acc>(value));
    const Acc mean = narrow(sum / static_cast<Acc>(width));
    const Acc root = narrow(Acc{1} / std::sqrt(narrow(mean + static_cast<Acc>(eps))));
    Row<N> expected;
    for (const T value : x) {
      expected.push_back(static_cast<T>(narrow(static_cast<Acc>(value) * root)));
    }
    RC_ASSERT(same(head_normed<N>(x, width, eps), expected));
    const Row<N> ones(x.size(), T{1});
    if (!same(rms_normed<N>(x, ones, eps), expected)) ++rounded_once_differs;
  }));
  EXPECT_GT(rounded_once_differs, 100);
}

TEST(HeadNormBf16, RoundsEachStepAsTheReleaseDoes) {
  check_bf16_steps<ExactBf16>();
  check_bf16_steps<HardwareBf16>();
}

template <class N>
class LayerNorm : public testing::Test {};
TYPED_TEST_SUITE(LayerNorm, AllNumbers, NumbersName);

TYPED_TEST(LayerNorm, IsTheFormula) {
  using N = TypeParam;
  EXPECT_TRUE(holds("(x - mean) / sqrt(variance + eps) w + b", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const auto x = random.row<N>(width, 3.0);
    const auto weight = random.row<N>(width, 2.0);
    const auto bias = random.row<N>(width, 2.0);
    const double eps = 1e-2 + any_eps(random);
    double mean = 0.0;
    for (const auto value : x) mean += static_cast<double>(value);
    mean /= static_cast<double>(width);
    double variance = 0.0;
    for (const auto value : x) variance += std::pow(static_cast<double>(value) - mean, 2);
    variance /= static_cast<double>(width);
    const auto y = layer_normed<N>(x, weight, bias, eps);
    for (std::int64_t i = 0; i < width; ++i) {
      const double expected = (static_cast<double>(x[i]) - mean) / std::sqrt(variance + eps) *
                                  static_cast<double>(weight[i]) +
                              static_cast<double>(bias[i]);
      // The mean's error is felt at up to 1 / sqrt(eps) = 10 times the input's magnitude.
      const double tolerance =
          N::kNarrow * std::fabs(expected) + static_cast<double>(width + 8) * 60.0 * N::kComputed;
      RC_ASSERT(std::fabs(static_cast<double>(y[i]) - expected) <= tolerance);
    }
    RC_ASSERT(storable<N>(y));
  }));
}

TYPED_TEST(LayerNorm, DoesNotSeeAShift) {
  using N = TypeParam;
  EXPECT_TRUE(holds("x + c as x", [] {
    Random random = any_random();
    const std::int64_t width = any_size(2, 40);
    // Multiples of 1/16 below 2, and shifts among them: the shifted row is exact in BF16 too.
    Row<N> x(static_cast<std::size_t>(width));
    for (auto& value : x) value = static_cast<typename N::T>(random.between(-16, 16)) / 16;
    const auto shift = static_cast<typename N::T>(random.between(-15, 15)) / 16;
    auto shifted = x;
    for (auto& value : shifted) value += shift;
    const auto weight = random.row<N>(width, 2.0);
    const auto bias = random.row<N>(width, 2.0);
    const double largest = 2.0 * std::sqrt(static_cast<double>(width)) + 2.0;
    const double unit = 2.0 * N::kNarrow + static_cast<double>(width + 8) * 40.0 * N::kComputed;
    RC_ASSERT(distance(layer_normed<N>(shifted, weight, bias, 1e-2),
                       layer_normed<N>(x, weight, bias, 1e-2)) <= unit * largest);
  }));
}

TYPED_TEST(LayerNorm, OfAConstantRowIsTheBias) {
  using N = TypeParam;
  const Row<N> x(16, typename N::T{3});
  Random random(7);
  const auto weight = random.row<N>(16, 2.0);
  const auto bias = random.row<N>(16, 2.0);
  EXPECT_EQ(layer_normed<N>(x, weight, bias, 1e-6), bias);
}

TYPED_TEST(LayerNorm, TreatsRowsAloneAndInPlace) {
  using N = TypeParam;
  EXPECT_TRUE(holds("rows", [] {
    Random random = any_random();
    const std::int64_t width = any_size(1, 40);
    const std::int64_t rows = any_size(1, 5);
    const auto x = random.row<N>(rows * width, 3.0);
    const auto weight = random.row<N>(width, 2.0);
    const auto bias = random.row<N>(width, 2.0);
    auto together = x;
    layer_norm(N::kNumerics, together.data(), weight.data(), bias.data(), 1e-6, rows, width,
               together.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto alone = layer_normed<N>(slice(x, r * width, width), weight, bias, 1e-6);
      RC_ASSERT(same(slice(together, r * width, width), alone));
    }
  }));
}

template <class N>
Row<N> activated(const Row<N>& gate, const Row<N>& up, const Row<N>& row_weight, double limit,
                 std::int64_t rows) {
  Row<N> y(gate.size());
  swiglu(N::kNumerics, gate.data(), up.data(), row_weight.empty() ? nullptr : row_weight.data(),
         limit, rows, static_cast<std::int64_t>(gate.size()) / rows, y.data());
  return y;
}

double silu(double x) { return x / (1.0 + std::exp(-x)); }

template <class N>
class Swiglu : public testing::Test {};
TYPED_TEST_SUITE(Swiglu, AllNumbers, NumbersName);

TYPED_TEST(Swiglu, IsTheFormula) {
  using N = TypeParam;
  EXPECT_TRUE(holds("silu(min(g, L)) clip(u, -L, L) w", [] {
    Random random = any_random();
    const std::int64_t rows = any_size(1, 4);
    const std::int64_t width = any_size(1, 20);
    const double limit = random.between(0, 3) == 0 ? 0.0 : random.uniform(0.5, 10.0);
    const auto gate = random.row<N>(rows * width, 14.0);
    const auto up = random.row<N>(rows * width, 14.0);
    const auto weight = random.plain<typename N::T>(rows, 1.0);
    const auto y = activated<N>(gate, up, weight, limit, rows);
    for (std::int64_t i = 0; i < rows * width; ++i) {
      double g = static_cast<double>(gate[i]);
      double u = static_cast<double>(up[i]);
      if (limit > 0.0) {
        if (g > limit) g = limit;
        if (u > limit) u = limit;
        if (u < -limit) u = -limit;
      }
      const double expected = silu(g) * u * static_cast<double>(weight[i / width]);
      // The exponential's argument is exact, so only a few operations round.
      const double unit = N::kNarrow + 12.0 * N::kComputed;
      RC_ASSERT(std::fabs(static_cast<double>(y[i]) - expected) <= unit * std::fabs(expected));
    }
    RC_ASSERT(storable<N>(y));
  }));
}

TYPED_TEST(Swiglu, ClampsTheGateFromAboveOnlyAndTheOtherFactorOnBothSides) {
  using N = TypeParam;
  const Row<N> gate{2, 2, -3, -3, -50, 100, 100, 100, -1000};
  const Row<N> up{9, -9, 9, 0.5, 1, 1, 100, -100, 1};
  const auto y = activated<N>(gate, up, {}, 1.0, 1);
  const std::vector<double> expected{silu(1.0),        -silu(1.0),  silu(-3.0),
                                     0.5 * silu(-3.0), silu(-50.0), silu(1.0),
                                     silu(1.0),        -silu(1.0),  0.0};
  EXPECT_LE(distance(y, expected), N::kNarrow + 4.0 * N::kComputed);
}

TYPED_TEST(Swiglu, IsBoundedByTheClamp) {
  using N = TypeParam;
  EXPECT_TRUE(holds("|y| <= L silu(L) |w|", [] {
    Random random = any_random();
    const double limit = random.uniform(1.0, 12.0);
    const auto gate = random.row<N>(16, 1e4);
    const auto up = random.row<N>(16, 1e4);
    const auto weight = random.plain<typename N::T>(1, 3.0);
    const double bound = std::fabs(static_cast<double>(weight[0])) * limit *
                         std::max(silu(limit), 0.2785);  // silu is never below -0.2785
    for (const auto value : activated<N>(gate, up, weight, limit, 1)) {
      RC_ASSERT(std::fabs(static_cast<double>(value)) <= bound * (1.0 + 2.0 * N::kNarrow + 1e-6));
    }
  }));
}

TYPED_TEST(Swiglu, IsLinearInTheOtherFactorAndInTheRowsWeight) {
  using N = TypeParam;
  EXPECT_TRUE(holds("linear", [] {
    Random random = any_random();
    const std::int64_t rows = any_size(1, 4);
    const std::int64_t width = any_size(1, 20);
    const auto gate = random.row<N>(rows * width, 6.0);
    const auto up = random.row<N>(rows * width, 6.0);
    const auto weight = random.plain<typename N::T>(rows, 1.0);
    const auto y = activated<N>(gate, up, weight, 0.0, rows);
    RC_ASSERT(same(activated<N>(gate, times(up, 0.0), weight, 0.0, rows), times(y, 0.0)));
    RC_ASSERT(same(activated<N>(gate, times(up, -8.0), weight, 0.0, rows), times(y, -8.0)));
    RC_ASSERT(same(activated<N>(gate, up, times(weight, -0.5), 0.0, rows), times(y, -0.5)));
    const Row<N> ones(static_cast<std::size_t>(rows), typename N::T{1});
    RC_ASSERT(same(activated<N>(gate, up, ones, 0.0, rows), activated<N>(gate, up, {}, 0.0, rows)));
  }));
}

TYPED_TEST(Swiglu, TreatsRowsAlone) {
  using N = TypeParam;
  EXPECT_TRUE(holds("rows", [] {
    Random random = any_random();
    const std::int64_t rows = any_size(1, 5);
    const std::int64_t width = any_size(1, 20);
    const auto gate = random.row<N>(rows * width, 6.0);
    const auto up = random.row<N>(rows * width, 6.0);
    const auto weight = random.plain<typename N::T>(rows, 1.0);
    const auto together = activated<N>(gate, up, weight, 5.0, rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      RC_ASSERT(same(slice(together, r * width, width),
                     activated<N>(slice(gate, r * width, width), slice(up, r * width, width),
                                  slice(weight, r, 1), 5.0, 1)));
    }
  }));
}

// Enough work for every threshold behind which more threads join in.
TYPED_TEST(Swiglu, ManyRowsGiveWhatOneGives) {
  using N = TypeParam;
  const std::int64_t rows = 1500;
  const std::int64_t width = 200;
  Random random(13);
  const auto gate = random.row<N>(rows * width, 6.0);
  const auto up = random.row<N>(rows * width, 6.0);
  const auto weight = random.plain<typename N::T>(rows, 1.0);
  const auto together = activated<N>(gate, up, weight, 5.0, rows);
  for (std::int64_t r = 0; r < rows; r += 97) {
    EXPECT_EQ(activated<N>(slice(gate, r * width, width), slice(up, r * width, width),
                           slice(weight, r, 1), 5.0, 1),
              slice(together, r * width, width));
  }
}

}  // namespace
}  // namespace foretoken::reference
