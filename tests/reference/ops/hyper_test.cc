// Hyper-connections against golden values of the released model, against the text's formulas in
// double, and under exchanges of streams.
#include "reference/ops/hyper.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/reference/formats/golden_data.h"
#include "tests/reference/ops/operator_cases.h"

namespace foretoken::reference {
namespace {

const std::string kComponents = "components/components.safetensors";

template <class N>
using Row = std::vector<typename N::T>;

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// Results of hyper_pre or hyper_weights for some tokens.
template <class T>
struct Mixed {
  std::vector<T> mixes, pre, post, comb, u;

  Mixed(const HyperShape& shape, std::int64_t tokens)
      : mixes(static_cast<std::size_t>(tokens * shape.mixes())),
        pre(static_cast<std::size_t>(tokens * shape.streams)),
        post(pre.size()),
        comb(static_cast<std::size_t>(tokens * shape.streams * shape.streams)),
        u(static_cast<std::size_t>(tokens * shape.hidden)) {}
  HyperMix<T> out() { return {mixes.data(), pre.data(), post.data(), comb.data()}; }
};

struct Parameters {
  std::vector<float> matrix, base, scale;
  [[nodiscard]] HyperWeights view() const { return {matrix.data(), base.data(), scale.data()}; }
};

Parameters any_parameters(Random& random, const HyperShape& shape) {
  const auto width = static_cast<double>(shape.streams * shape.hidden);
  return {random.plain<float>(shape.mixes() * shape.streams * shape.hidden, 2.0 / std::sqrt(width)),
          random.plain<float>(shape.mixes(), 1.0), random.plain<float>(3, 1.5)};
}

HyperShape any_shape() {
  return {
      .streams = any_size(1, 5), .hidden = any_size(1, 24), .sinkhorn_iterations = any_size(1, 20)};
}

template <class N>
Mixed<typename N::T> before(const HyperShape& shape, const Parameters& parameters,
                            const Row<N>& x) {
  const auto tokens = static_cast<std::int64_t>(x.size()) / (shape.streams * shape.hidden);
  Mixed<typename N::T> mixed(shape, tokens);
  hyper_pre(N::kNumerics, shape, parameters.view(), x.data(), tokens, mixed.out(), mixed.u.data());
  return mixed;
}

template <class N>
Row<N> after(const HyperShape& shape, const Row<N>& y, const Row<N>& post, const Row<N>& comb,
             Row<N> x) {
  const auto tokens = static_cast<std::int64_t>(y.size()) / shape.hidden;
  hyper_post(N::kNumerics, shape, y.data(), post.data(), comb.data(), tokens, x.data());
  return x;
}

template <class N>
Row<N> merged(const HyperShape& shape, const Parameters& parameters, const Row<N>& x) {
  const auto tokens = static_cast<std::int64_t>(x.size()) / (shape.streams * shape.hidden);
  Row<N> u(static_cast<std::size_t>(tokens * shape.hidden));
  hyper_head(N::kNumerics, shape, parameters.view(), x.data(), tokens, u.data());
  return u;
}

// --- Sinkhorn ------------------------------------------------------------------------------------

using Square = std::vector<std::vector<double>>;

void divide_rows(Square& m, double eps) {
  for (auto& row : m) {
    double sum = 0.0;
    for (const double value : row) sum += value;
    for (double& value : row) value /= sum + eps;
  }
}

Square transposed(const Square& m) {
  Square result(m.size(), std::vector<double>(m.size()));
  for (std::size_t j = 0; j < m.size(); ++j) {
    for (std::size_t k = 0; k < m.size(); ++k) result[k][j] = m[j][k];
  }
  return result;
}

// Facts 3.2, step 4; column steps are row steps of the transpose.
Square projected(Square m, std::int64_t iterations, double eps) {
  for (auto& row : m) {
    const double most = *std::max_element(row.begin(), row.end());
    double sum = 0.0;
    for (double& value : row) sum += value = std::exp(value - most);
    for (double& value : row) value = value / sum + eps;
  }
  for (std::int64_t i = 0; i < iterations; ++i) {
    if (i > 0) divide_rows(m, eps);
    m = transposed(m);
    divide_rows(m, eps);
    m = transposed(m);
  }
  return m;
}

template <class Acc>
struct SinkhornOf {
  std::vector<Acc> matrix;
  double row_error = 0.0;
  double column_error = 0.0;
};

template <class Acc>
SinkhornOf<Acc> sinkhorn_of(std::vector<Acc> logits, std::int64_t n, std::int64_t iterations = 20) {
  sinkhorn(logits.data(), n, iterations, 1e-6);
  SinkhornOf<Acc> result{.matrix = std::move(logits)};
  for (std::int64_t a = 0; a < n; ++a) {
    double row = 0.0;
    double column = 0.0;
    for (std::int64_t b = 0; b < n; ++b) {
      row += static_cast<double>(result.matrix[a * n + b]);
      column += static_cast<double>(result.matrix[b * n + a]);
    }
    result.row_error = std::fmax(result.row_error, std::fabs(row - 1.0));
    result.column_error = std::fmax(result.column_error, std::fabs(column - 1.0));
  }
  return result;
}

const std::vector<double> kExampleLogits{1, 0, -1, 2, 0.5, 0.25, 0, -0.5, -2, 1, 3, 0, 0, 0, 0, 4};
const std::vector<double> kExample{0.498953, 0.242999, 0.040918, 0.217127, 0.406930, 0.419550,
                                   0.149555, 0.023966, 0.008426, 0.224009, 0.757604, 0.009966,
                                   0.085690, 0.113441, 0.051923, 0.748940};

TEST(Sinkhorn, GivesTheWorkedExample) {
  EXPECT_LE(distance(sinkhorn_of(kExampleLogits, 4).matrix, kExample), 0.5e-6 + 1e-12);
  const std::vector<float> single(kExampleLogits.begin(), kExampleLogits.end());
  EXPECT_LE(distance(sinkhorn_of(single, 4).matrix, kExample), 1e-6);
}

template <class Acc>
void check_sinkhorn(double tolerance) {
  EXPECT_TRUE(holds("the text's steps", [&] {
    Random random = any_random();
    const std::int64_t n = any_size(1, 6);
    const std::int64_t iterations = any_size(1, 20);
    const auto logits = random.plain<Acc>(n * n, 4.0);
    Square expected(static_cast<std::size_t>(n));
    for (std::int64_t j = 0; j < n; ++j) {
      expected[j].assign(logits.begin() + j * n, logits.begin() + (j + 1) * n);
    }
    expected = projected(expected, iterations, 1e-6);
    std::vector<double> flat;
    for (const auto& row : expected) flat.insert(flat.end(), row.begin(), row.end());
    RC_ASSERT(distance(sinkhorn_of(logits, n, iterations).matrix, flat) <= tolerance);
  }));
}

TEST(Sinkhorn, FollowsTheTextForAnySizeAndCount) {
  check_sinkhorn<double>(1e-13);
  check_sinkhorn<float>(2e-6);
}

template <class Acc>
std::vector<Acc> normal_logits(Random& random, double deviation) {
  std::vector<Acc> logits(16);
  for (Acc& logit : logits) logit = static_cast<Acc>(random.normal(deviation));
  return logits;
}

template <class Acc>
void check_sums() {
  EXPECT_TRUE(holds("columns sum to one", [] {
    Random random = any_random();
    const double magnitude = std::exp2(random.uniform(-2.0, 10.0));
    RC_ASSERT(sinkhorn_of(random.plain<Acc>(16, magnitude), 4).column_error <= 1e-5);
  }));
  Random random(4);
  double mild = 0.0;
  double extreme = 0.0;
  for (int i = 0; i < 500; ++i) {
    mild = std::fmax(mild, sinkhorn_of(normal_logits<Acc>(random, 0.5), 4).row_error);
    extreme = std::fmax(extreme, sinkhorn_of(normal_logits<Acc>(random, 25.0), 4).row_error);
  }
  // What the eps in the divisors leaves, and a rounding.
  EXPECT_LE(mild, 2e-6);
  EXPECT_GE(extreme, 0.04);
  EXPECT_LE(extreme, 0.15);
}

TEST(Sinkhorn, EndsWithColumnsThatSumToOneWhileRowsDoSoOnlyForMildLogits) {
  check_sums<double>();
  check_sums<float>();
}

// Five per cent, as the golden data's own report has it.
TEST(Sinkhorn, LeavesTheRowsOfTheGoldenMixesAsFarOffAsTheReleasedOnes) {
  const golden::Tensors tensors(kComponents);
  const auto mixes = tensors.floats("hc.mixes");
  const auto base = tensors.floats("hc.base");
  const float scale = tensors.floats("hc.scale")[2];
  double worst = 0.0;
  for (std::int64_t t = 0; t < 64; ++t) {
    std::vector<double> logits;
    for (std::int64_t i = 8; i < 24; ++i) logits.push_back(mixes[t * 24 + i] * scale + base[i]);
    worst = std::fmax(worst, sinkhorn_of(logits, 4).row_error);
  }
  EXPECT_NEAR(worst, 0.05008, 1e-5);
}

// --- Weights -------------------------------------------------------------------------------------

template <class N>
void expect_golden_weights() {
  const golden::Tensors tensors(kComponents);
  const HyperShape shape{.streams = 4, .hidden = 32};
  const auto mixes = tensors.floats("hc.mixes");
  const Parameters parameters{
      .matrix = {}, .base = tensors.floats("hc.base"), .scale = tensors.floats("hc.scale")};
  Mixed<typename N::T> mixed(shape, 64);
  mixed.mixes.assign(mixes.begin(), mixes.end());
  ASSERT_EQ(mixes.size(), 64U * 24U);
  for (std::int64_t t = 0; t < 64; ++t) {
    hyper_weights(N::kNumerics, shape, parameters.view(),
                  {mixed.mixes.data() + t * 24, mixed.pre.data() + t * 4, mixed.post.data() + t * 4,
                   mixed.comb.data() + t * 16});
  }
  EXPECT_LE(distance(mixed.pre, tensors.floats("hc.pre")), 2e-7);
  EXPECT_LE(distance(mixed.post, tensors.floats("hc.post")), 4e-7);
  EXPECT_LE(distance(mixed.comb, tensors.floats("hc.comb")), 1e-6);

  const auto residual = tensors.floats("hc.post.residual");
  const auto y = tensors.floats("hc.post.x");
  const auto post = tensors.floats("hc.post");
  const auto comb = tensors.floats("hc.comb");
  const auto next =
      after<N>(shape, Row<N>(y.begin(), y.end()), Row<N>(post.begin(), post.end()),
               Row<N>(comb.begin(), comb.end()), Row<N>(residual.begin(), residual.end()));
  EXPECT_LE(distance(next, tensors.floats("hc.post.y")), 2e-6);
}

TEST(HyperGolden, WeightsAndNewStreamsAreTheReleasedOnes) {
  expect_golden_weights<Exact>();
  expect_golden_weights<Stored32>();
  expect_golden_weights<Hardware>();
}

template <class N>
class Hyper : public testing::Test {};
TYPED_TEST_SUITE(Hyper, AllNumbers, NumbersName);

TYPED_TEST(Hyper, MixesAndWeightsFollowTheText) {
  using N = TypeParam;
  EXPECT_TRUE(holds("steps 1 to 5", [] {
    Random random = any_random();
    const HyperShape shape = any_shape();
    const std::int64_t n = shape.streams;
    const std::int64_t wide = n * shape.hidden;
    const Parameters parameters = any_parameters(random, shape);
    const auto x = random.row<N>(wide, 3.0);
    const auto mixed = before<N>(shape, parameters, x);

    double squares = 0.0;
    for (const auto value : x) squares += static_cast<double>(value) * static_cast<double>(value);
    const double root = std::sqrt(squares / static_cast<double>(wide) + 1e-6);
    std::vector<double> m(static_cast<std::size_t>(shape.mixes()));
    for (std::int64_t i = 0; i < shape.mixes(); ++i) {
      double magnitudes = 0.0;
      for (std::int64_t k = 0; k < wide; ++k) {
        const double product =
            static_cast<double>(parameters.matrix[i * wide + k]) * static_cast<double>(x[k]);
        m[i] += product;
        magnitudes += std::fabs(product);
      }
      m[i] /= root;
      const double tolerance = (static_cast<double>(wide + 12) * N::kComputed * magnitudes) / root +
                               N::kWide * std::fabs(m[i]);
      RC_ASSERT(std::fabs(static_cast<double>(mixed.mixes[i]) - m[i]) <= tolerance);
      m[i] = static_cast<double>(mixed.mixes[i]);  // so that errors do not add up below
    }
    const auto logit = [&](std::int64_t i, std::size_t part) {
      return static_cast<double>(parameters.scale[part]) * m[i] +
             static_cast<double>(parameters.base[i]);
    };
    // Logits stay below 20 or so, and a sigmoid is no steeper than its argument.
    const double close = 40.0 * N::kComputed + 2.0 * N::kWide;
    for (std::int64_t j = 0; j < n; ++j) {
      RC_ASSERT(std::fabs(static_cast<double>(mixed.pre[j]) - (sigmoid(logit(j, 0)) + 1e-6)) <=
                close);
      RC_ASSERT(std::fabs(static_cast<double>(mixed.post[j]) - 2.0 * sigmoid(logit(n + j, 1))) <=
                2.0 * close);
    }
    Square square(static_cast<std::size_t>(n));
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t k = 0; k < n; ++k) square[j].push_back(logit(2 * n + n * j + k, 2));
    }
    square = projected(square, shape.sinkhorn_iterations, 1e-6);
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t k = 0; k < n; ++k) {
        RC_ASSERT(std::fabs(static_cast<double>(mixed.comb[j * n + k]) - square[j][k]) <=
                  100.0 * N::kComputed + 2.0 * N::kWide);
      }
    }
    for (std::int64_t i = 0; i < shape.hidden; ++i) {
      double sum = 0.0;
      for (std::int64_t j = 0; j < n; ++j) {
        sum += static_cast<double>(mixed.pre[j]) * static_cast<double>(x[j * shape.hidden + i]);
      }
      RC_ASSERT(std::fabs(static_cast<double>(mixed.u[i]) - sum) <=
                N::kNarrow * std::fabs(sum) + 40.0 * N::kComputed);
    }
    RC_ASSERT(storable<N>(mixed.u));
  }));
}

TYPED_TEST(Hyper, InputWeightsHaveAFloorAndOutputWeightsHaveNone) {
  using N = TypeParam;
  using T = typename N::T;
  const HyperShape shape{.streams = 2, .hidden = 1};
  Parameters parameters{
      .matrix = std::vector<float>(16), .base = std::vector<float>(8), .scale = {1, 1, 1}};
  Row<N> x{1, 1};
  std::fill_n(parameters.base.begin(), 4, -1000.0F);
  const auto shut = before<N>(shape, parameters, x);
  EXPECT_EQ(shut.pre, Row<N>(2, static_cast<T>(static_cast<typename N::Acc>(1e-6))));
  EXPECT_EQ(shut.post, Row<N>(2));
  std::fill_n(parameters.base.begin(), 4, 1000.0F);
  const auto open = before<N>(shape, parameters, x);
  EXPECT_LE(distance(open.pre, std::vector<double>(2, 1.0 + 1e-6)), 2.0 * N::kWide);
  EXPECT_EQ(open.post, Row<N>(2, T{2}));
  const auto half = before<N>(
      shape, {.matrix = std::vector<float>(16), .base = std::vector<float>(8), .scale = {1, 1, 1}},
      x);
  EXPECT_LE(distance(half.pre, std::vector<double>(2, 0.5 + 1e-6)), 2.0 * N::kWide);
  EXPECT_EQ(half.post, Row<N>(2, T{1}));
}

TYPED_TEST(Hyper, MixesDoNotSeeTheScaleOfTheStreams) {
  using N = TypeParam;
  EXPECT_TRUE(holds("2^k X as X", [] {
    Random random = any_random();
    HyperShape shape = any_shape();
    shape.rms_eps = 0.0;
    const Parameters parameters = any_parameters(random, shape);
    const auto x = random.row<N>(shape.streams * shape.hidden, 3.0);
    const double factor = std::ldexp(1.0, static_cast<int>(random.between(-12, 12)));
    const auto one = before<N>(shape, parameters, x);
    const auto other = before<N>(shape, parameters, times(x, factor));
    RC_ASSERT(same(other.mixes, one.mixes));
    RC_ASSERT(same(other.comb, one.comb));
    RC_ASSERT(same(other.u, times(one.u, factor)));
  }));
}

// The parameters of streams taken in another order.
Parameters reordered_parameters(const Parameters& from, const HyperShape& shape,
                                const std::vector<std::int64_t>& order) {
  const std::int64_t n = shape.streams;
  std::vector<std::int64_t> rows(order);  // pre, post, comb, in the new order
  for (const std::int64_t j : order) rows.push_back(n + j);
  for (const std::int64_t j : order) {
    for (const std::int64_t k : order) rows.push_back(2 * n + n * j + k);
  }
  Parameters to;
  to.scale = from.scale;
  for (const std::int64_t row : rows) {
    to.base.push_back(from.base[row]);
    const auto inputs = reordered(slice(from.matrix, row * n * shape.hidden, n * shape.hidden),
                                  shape.hidden, order);
    to.matrix.insert(to.matrix.end(), inputs.begin(), inputs.end());
  }
  return to;
}

TYPED_TEST(Hyper, ExchangedStreamsGiveExchangedResults) {
  using N = TypeParam;
  EXPECT_TRUE(holds("permutations", [] {
    Random random = any_random();
    const HyperShape shape = any_shape();
    const std::int64_t n = shape.streams;
    const Parameters parameters = any_parameters(random, shape);
    const auto x = random.row<N>(n * shape.hidden, 3.0);
    const auto y = random.row<N>(shape.hidden, 3.0);
    const auto order = random.permutation(n);
    const auto moved = reordered(x, shape.hidden, order);
    const auto one = before<N>(shape, parameters, x);
    const auto other = before<N>(shape, reordered_parameters(parameters, shape, order), moved);

    // Sums run in another order: a mix of up to 10 shifts by `wide` roundings of its terms.
    const double slack =
        static_cast<double>(n * shape.hidden + 20) * 40.0 * N::kComputed + 40.0 * N::kWide;
    RC_ASSERT(distance(other.pre, reordered(one.pre, 1, order)) <= slack);
    RC_ASSERT(distance(other.post, reordered(one.post, 1, order)) <= slack);
    std::vector<std::int64_t> cells;
    for (const std::int64_t j : order) {
      for (const std::int64_t k : order) cells.push_back(n * j + k);
    }
    RC_ASSERT(distance(other.comb, reordered(one.comb, 1, cells)) <= 4.0 * slack);
    RC_ASSERT(distance(other.u, one.u) <= 15.0 * (slack + N::kNarrow * 2.0));

    const auto next = after<N>(shape, y, one.post, one.comb, x);
    const auto next_moved = after<N>(shape, y, other.post, other.comb, moved);
    RC_ASSERT(distance(next_moved, reordered(next, shape.hidden, order)) <=
              60.0 * slack + 40.0 * N::kNarrow);
  }));
}

TYPED_TEST(Hyper, NewStreamsFollowTheText) {
  using N = TypeParam;
  EXPECT_TRUE(holds("x'_k = post_k y + sum_j C_jk x_j", [] {
    Random random = any_random();
    const HyperShape shape = any_shape();
    const std::int64_t n = shape.streams;
    const std::int64_t d = shape.hidden;
    const auto x = random.row<N>(n * d, 3.0);
    const auto y = random.row<N>(d, 3.0);
    const auto post = random.plain<typename N::T>(n, 2.0);
    const auto comb = random.plain<typename N::T>(n * n, 1.0);
    const auto next = after<N>(shape, y, post, comb, x);
    for (std::int64_t k = 0; k < n; ++k) {
      for (std::int64_t i = 0; i < d; ++i) {
        double expected = static_cast<double>(post[k]) * static_cast<double>(y[i]);
        for (std::int64_t j = 0; j < n; ++j) {
          expected += static_cast<double>(comb[j * n + k]) * static_cast<double>(x[j * d + i]);
        }
        RC_ASSERT(std::fabs(static_cast<double>(next[k * d + i]) - expected) <=
                  N::kNarrow * std::fabs(expected) + 200.0 * N::kComputed);
      }
    }
    RC_ASSERT(storable<N>(next));
  }));
}

TYPED_TEST(Hyper, OneCellCarriesItsRowsStreamToItsColumnsStream) {
  using N = TypeParam;
  using T = typename N::T;
  const HyperShape shape{.streams = 4, .hidden = 1};
  const Row<N> x{1, 2, 3, 4};
  for (std::int64_t j = 0; j < 4; ++j) {
    for (std::int64_t k = 0; k < 4; ++k) {
      Row<N> comb(16);
      comb[j * 4 + k] = T{1};
      Row<N> expected(4);
      expected[k] = x[j];
      EXPECT_EQ(after<N>(shape, {5}, Row<N>(4), comb, x), expected) << j << " to " << k;
      Row<N> post(4);
      post[k] = T{1};
      expected[k] += 5;
      EXPECT_EQ(after<N>(shape, {5}, post, comb, x), expected) << j << " to " << k;
    }
  }
}

TYPED_TEST(Hyper, NewStreamsAreLinearInOutputAndStreams) {
  using N = TypeParam;
  EXPECT_TRUE(holds("linear", [] {
    Random random = any_random();
    const HyperShape shape = any_shape();
    const std::int64_t n = shape.streams;
    const std::int64_t d = shape.hidden;
    const auto x = random.row<N>(n * d, 3.0);
    const auto y = random.row<N>(d, 3.0);
    const auto post = random.plain<typename N::T>(n, 2.0);
    const auto comb = random.plain<typename N::T>(n * n, 1.0);
    const auto both = after<N>(shape, y, post, comb, x);
    RC_ASSERT(same(after<N>(shape, times(y, -4.0), post, comb, times(x, -4.0)), times(both, -4.0)));
    auto sum = after<N>(shape, y, post, comb, Row<N>(x.size()));
    const auto of_streams = after<N>(shape, Row<N>(y.size()), post, comb, x);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += of_streams[i];
    RC_ASSERT(distance(both, sum) <= 40.0 * N::kNarrow + 200.0 * N::kWide);
    // And in post and comb.
    RC_ASSERT(same(after<N>(shape, y, times(post, 2.0), times(comb, 2.0), x), times(both, 2.0)));
  }));
}

TYPED_TEST(Hyper, HeadMergeFollowsTheText) {
  using N = TypeParam;
  EXPECT_TRUE(holds("sigmoid(a m + b) + eps", [] {
    Random random = any_random();
    const HyperShape shape = any_shape();
    const std::int64_t wide = shape.streams * shape.hidden;
    const Parameters parameters = any_parameters(random, shape);
    const auto x = random.row<N>(wide, 3.0);
    const auto u = merged<N>(shape, parameters, x);
    double squares = 0.0;
    for (const auto value : x) squares += static_cast<double>(value) * static_cast<double>(value);
    const double root = std::sqrt(squares / static_cast<double>(wide) + 1e-6);
    std::vector<double> sum(static_cast<std::size_t>(shape.hidden));
    for (std::int64_t j = 0; j < shape.streams; ++j) {
      double m = 0.0;
      for (std::int64_t k = 0; k < wide; ++k) {
        m += static_cast<double>(parameters.matrix[j * wide + k]) * static_cast<double>(x[k]);
      }
      const double pre = sigmoid(static_cast<double>(parameters.scale[0]) * m / root +
                                 static_cast<double>(parameters.base[j])) +
                         1e-6;
      for (std::int64_t i = 0; i < shape.hidden; ++i) {
        sum[i] += pre * static_cast<double>(x[j * shape.hidden + i]);
      }
    }
    const double slack =
        15.0 * (static_cast<double>(wide + 20) * 10.0 * N::kComputed + 10.0 * N::kWide);
    RC_ASSERT(distance(u, sum) <= slack + 15.0 * N::kNarrow);
    RC_ASSERT(storable<N>(u));
    // The same merge as in front of a sublayer.
    RC_ASSERT(same(u, before<N>(shape, parameters, x).u));
  }));
}

TYPED_TEST(Hyper, HeadMergeDoesNotSeeTheOrderOfStreams) {
  using N = TypeParam;
  EXPECT_TRUE(holds("permutations", [] {
    Random random = any_random();
    const HyperShape shape = any_shape();
    const Parameters parameters = any_parameters(random, shape);
    const auto x = random.row<N>(shape.streams * shape.hidden, 3.0);
    const auto order = random.permutation(shape.streams);
    const auto moved = merged<N>(shape, reordered_parameters(parameters, shape, order),
                                 reordered(x, shape.hidden, order));
    const double slack = static_cast<double>(x.size() + 20) * 10.0 * N::kComputed + 10.0 * N::kWide;
    RC_ASSERT(distance(moved, merged<N>(shape, parameters, x)) <=
              15.0 * (slack + 2.0 * N::kNarrow));
  }));
}

TYPED_TEST(Hyper, TokensDoNotSeeEachOther) {
  using N = TypeParam;
  EXPECT_TRUE(holds("bits", [] {
    Random random = any_random();
    const HyperShape shape = any_shape();
    const std::int64_t n = shape.streams;
    const std::int64_t d = shape.hidden;
    const std::int64_t tokens = any_size(1, 20);
    const Parameters parameters = any_parameters(random, shape);
    const auto x = random.row<N>(tokens * n * d, 3.0);
    const auto y = random.row<N>(tokens * d, 3.0);
    const auto all = before<N>(shape, parameters, x);
    const auto all_merged = merged<N>(shape, parameters, x);
    const auto all_next = after<N>(shape, y, all.post, all.comb, x);
    const std::int64_t t = random.between(0, tokens - 1);
    const auto streams = slice(x, t * n * d, n * d);
    const auto one = before<N>(shape, parameters, streams);
    RC_ASSERT(same(one.mixes, slice(all.mixes, t * shape.mixes(), shape.mixes())));
    RC_ASSERT(same(one.pre, slice(all.pre, t * n, n)));
    RC_ASSERT(same(one.post, slice(all.post, t * n, n)));
    RC_ASSERT(same(one.comb, slice(all.comb, t * n * n, n * n)));
    RC_ASSERT(same(one.u, slice(all.u, t * d, d)));
    RC_ASSERT(same(merged<N>(shape, parameters, streams), slice(all_merged, t * d, d)));
    RC_ASSERT(same(after<N>(shape, slice(y, t * d, d), one.post, one.comb, streams),
                   slice(all_next, t * n * d, n * d)));
  }));
}

// Enough work for every threshold behind which more threads join in.
TYPED_TEST(Hyper, ManyTokensGiveWhatOneGives) {
  using N = TypeParam;
  const HyperShape shape{.streams = 4, .hidden = 64};
  const std::int64_t n = 4;
  const std::int64_t d = 64;
  const std::int64_t tokens = 5000;
  Random random(3);
  const Parameters parameters = any_parameters(random, shape);
  const auto x = random.row<N>(tokens * n * d, 3.0);
  const auto y = random.row<N>(tokens * d, 3.0);
  const auto all = before<N>(shape, parameters, x);
  const auto all_next = after<N>(shape, y, all.post, all.comb, x);
  for (std::int64_t t = 0; t < tokens; t += 617) {
    const auto streams = slice(x, t * n * d, n * d);
    const auto one = before<N>(shape, parameters, streams);
    EXPECT_EQ(one.mixes, slice(all.mixes, t * 24, 24));
    EXPECT_EQ(one.comb, slice(all.comb, t * 16, 16));
    EXPECT_EQ(one.u, slice(all.u, t * d, d));
    EXPECT_EQ(after<N>(shape, slice(y, t * d, d), one.post, one.comb, streams),
              slice(all_next, t * n * d, n * d));
  }
}

}  // namespace
}  // namespace foretoken::reference
