// Index scores against their formula, and the top-k against a full sort.
#include "reference/ops/selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "reference/formats/float_formats.h"
#include "tests/reference/ops/operator_cases.h"

namespace foretoken::reference {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

template <class N>
using Row = std::vector<typename N::T>;

template <class N>
struct Query {
  std::int64_t heads = 0;
  std::int64_t width = 0;
  Row<N> q, weights;
};

template <class N>
Query<N> any_query(Random& random) {
  Query<N> query{.heads = any_size(1, 8), .width = any_size(1, 24), .q = {}, .weights = {}};
  query.q = random.row<N>(query.heads * query.width, 2.0);
  query.weights = random.row<N>(query.heads, 1.0);
  return query;
}

template <class N>
Row<N> scored(const Query<N>& query, const Row<N>& keys, bool narrow_scores = false) {
  const auto visible = static_cast<std::int64_t>(keys.size()) / query.width;
  Row<N> scores(static_cast<std::size_t>(visible));
  index_scores(N::kNumerics, query.q.data(), query.weights.data(), query.heads, query.width,
               keys.data(), visible, narrow_scores, scores.data());
  return scores;
}

template <class N>
class IndexScores : public testing::Test {};
TYPED_TEST_SUITE(IndexScores, AllNumbers, NumbersName);

// The sum over heads of |weight| times the product of magnitudes: what rounding is relative to.
template <class N>
double magnitude(const Query<N>& query, const Row<N>& keys, std::int64_t s) {
  double sum = 0.0;
  for (std::int64_t h = 0; h < query.heads; ++h) {
    double dot = 0.0;
    for (std::int64_t i = 0; i < query.width; ++i) {
      dot += std::fabs(static_cast<double>(query.q[h * query.width + i]) *
                       static_cast<double>(keys[s * query.width + i]));
    }
    sum += std::fabs(static_cast<double>(query.weights[h])) * dot;
  }
  return sum;
}

template <class N>
double unit(const Query<N>& query) {
  // In BF16 the dot product and its weighted value are stored narrow on the way.
  return (N::kBf16 ? 2.02 * N::kNarrow : 0.0) + N::kWide +
         static_cast<double>(query.width + query.heads + 4) * N::kComputed;
}

TYPED_TEST(IndexScores, AreTheFormula) {
  using N = TypeParam;
  EXPECT_TRUE(holds("sum_h w_h relu(q_h . k_s)", [] {
    Random random = any_random();
    const auto query = any_query<N>(random);
    const std::int64_t visible = any_size(0, 12);
    const auto keys = random.row<N>(visible * query.width, 2.0);
    const auto scores = scored(query, keys);
    const auto narrow = scored(query, keys, true);
    for (std::int64_t s = 0; s < visible; ++s) {
      double expected = 0.0;
      for (std::int64_t h = 0; h < query.heads; ++h) {
        double dot = 0.0;
        for (std::int64_t i = 0; i < query.width; ++i) {
          dot += static_cast<double>(query.q[h * query.width + i]) *
                 static_cast<double>(keys[s * query.width + i]);
        }
        if (dot > 0.0) expected += static_cast<double>(query.weights[h]) * dot;
      }
      RC_ASSERT(std::fabs(static_cast<double>(scores[s]) - expected) <=
                unit(query) * magnitude(query, keys, s));
      // Serving's scores are the same, rounded once more.
      RC_ASSERT(static_cast<double>(narrow[s]) ==
                static_cast<double>(round_bf16(static_cast<float>(scores[s]))));
    }
  }));
}

TYPED_TEST(IndexScores, AreLinearInTheWeights) {
  using N = TypeParam;
  EXPECT_TRUE(holds("linear", [] {
    Random random = any_random();
    auto query = any_query<N>(random);
    const std::int64_t visible = any_size(1, 12);
    const auto keys = random.row<N>(visible * query.width, 2.0);
    const auto scores = scored(query, keys);
    auto other = query;
    other.weights = times(query.weights, -8.0);
    RC_ASSERT(same(scored(other, keys), times(scores, -8.0)));
    other.weights = times(query.weights, 0.0);
    RC_ASSERT(same(scored(other, keys), times(scores, 0.0)));
    other.weights = random.row<N>(query.heads, 1.0);
    const auto of_other = scored(other, keys);
    auto sum = query;
    for (std::int64_t h = 0; h < query.heads; ++h) sum.weights[h] += other.weights[h];
    const auto of_sum = scored(sum, keys);
    for (std::int64_t s = 0; s < visible; ++s) {
      const double both = static_cast<double>(scores[s]) + static_cast<double>(of_other[s]);
      RC_ASSERT(std::fabs(static_cast<double>(of_sum[s]) - both) <=
                2.5 * unit(query) * (magnitude(query, keys, s) + magnitude(other, keys, s)));
    }
  }));
}

TYPED_TEST(IndexScores, DoNotSeeTheOrderOfHeads) {
  using N = TypeParam;
  EXPECT_TRUE(holds("heads", [] {
    Random random = any_random();
    const auto query = any_query<N>(random);
    const std::int64_t visible = any_size(1, 12);
    const auto keys = random.row<N>(visible * query.width, 2.0);
    const auto order = random.permutation(query.heads);
    auto other = query;
    other.q = reordered(query.q, query.width, order);
    other.weights = reordered(query.weights, 1, order);
    const auto scores = scored(query, keys);
    const auto moved = scored(other, keys);
    for (std::int64_t s = 0; s < visible; ++s) {
      // Products and their narrow stores are the same; only the sum runs differently.
      const double slack = 2.0 * N::kWide + 20.0 * N::kComputed;
      RC_ASSERT(std::fabs(static_cast<double>(moved[s]) - static_cast<double>(scores[s])) <=
                slack * magnitude(query, keys, s) * 1.01);
    }
  }));
}

TYPED_TEST(IndexScores, OfOneKeyDoNotDependOnTheOthers) {
  using N = TypeParam;
  EXPECT_TRUE(holds("keys", [] {
    Random random = any_random();
    const auto query = any_query<N>(random);
    const std::int64_t visible = any_size(1, 40);
    const auto keys = random.row<N>(visible * query.width, 2.0);
    const auto scores = scored(query, keys);
    const auto order = random.permutation(visible);
    RC_ASSERT(
        same(scored(query, reordered(keys, query.width, order)), reordered(scores, 1, order)));
    const std::int64_t fewer = random.between(1, visible);
    RC_ASSERT(same(scored(query, slice(keys, 0, fewer * query.width)), slice(scores, 0, fewer)));
  }));
}

TYPED_TEST(IndexScores, OfThousandsOfKeysAreThoseOfEachAlone) {
  using N = TypeParam;
  Random random(41);
  const Query<N> query{
      .heads = 8, .width = 32, .q = random.row<N>(8 * 32, 2.0), .weights = random.row<N>(8, 1.0)};
  const std::int64_t visible = 4099;
  const auto keys = random.row<N>(visible * query.width, 2.0);
  const auto scores = scored(query, keys);
  for (std::int64_t s = 0; s < visible; ++s) {
    ASSERT_EQ(scored(query, slice(keys, s * query.width, query.width))[0], scores[s]) << s;
  }
}

TYPED_TEST(IndexScores, AreZeroWhereEveryProductIsNegative) {
  using N = TypeParam;
  EXPECT_TRUE(holds("relu", [] {
    Random random = any_random();
    auto query = any_query<N>(random);
    auto keys = random.row<N>(5 * query.width, 2.0);
    for (auto& value : query.q) value = std::fabs(value);
    for (auto& value : keys) value = -std::fabs(value);
    RC_ASSERT(same(scored(query, keys), Row<N>(5)));
  }));
}

// Halves go to even: the first product, 1 + 2^-8, to 1 before it is weighted with 3; the weighted
// product 3 * 1.0078125 to 3.03125. Their sum stays wide.
template <class N>
void expect_released_roundings() {
  const Query<N> query{.heads = 2, .width = 2, .q = {1, 1, 1, 1.0F / 128}, .weights = {3, 3}};
  const Row<N> keys{1, 1.0F / 256, 1, 1};
  EXPECT_EQ(scored(query, keys), (Row<N>{3 + 3, 6 + 3.03125}));
  EXPECT_EQ(scored(query, keys, true), (Row<N>{6, 9}));
}

TEST(IndexScoresBf16, RoundProductAndWeightedProductAsTheReleaseDoes) {
  expect_released_roundings<ExactBf16>();
  expect_released_roundings<HardwareBf16>();
}

// --- Top-k ---------------------------------------------------------------------------------------

template <class T>
std::vector<std::int32_t> chosen(const std::vector<T>& scores, std::int64_t k) {
  std::vector<std::int32_t> out{7, 7, 7};  // what was there before must not matter
  top_k(scores.data(), static_cast<std::int64_t>(scores.size()), k, out);
  return out;
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
void check_top_k() {
  EXPECT_TRUE(holds("a full stable sort", [] {
    Random random = any_random();
    const std::int64_t n = any_size(0, 200);
    const std::int64_t k = any_size(0, 220);
    // Few different values make ties; now and then the odd ones.
    const std::int64_t variety = random.between(1, 300);
    std::vector<T> scores(static_cast<std::size_t>(n));
    for (T& score : scores) {
      score = static_cast<T>(random.between(-variety, variety)) / T{16};
      const std::int64_t odd = random.between(0, 30);
      if (odd == 0) score = static_cast<T>(kNan);
      if (odd == 1) score = static_cast<T>(kInfinity);
      if (odd == 2) score = static_cast<T>(-kInfinity);
      if (odd == 3) score = T{-0.0};
    }
    std::vector<std::int32_t> expected;
    for (std::int64_t i = 0; i < n; ++i) {
      if (!std::isnan(scores[i])) expected.push_back(static_cast<std::int32_t>(i));
    }
    std::ranges::stable_sort(expected,
                             [&](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
    for (std::int64_t i = 0; i < n; ++i) {
      if (std::isnan(scores[i])) expected.push_back(static_cast<std::int32_t>(i));
    }
    expected.resize(static_cast<std::size_t>(std::min(n, k)));
    RC_ASSERT(chosen(scores, k) == expected);
  }));
}

TEST(TopK, IsTheFrontOfAStableSort) {
  check_top_k<double>();
  check_top_k<float>();
}

TEST(TopK, TiesGoToTheLowerNumber) {
  EXPECT_THAT(chosen<double>({1, 2, 2, 1, 2}, 2), ElementsAre(1, 2));
  EXPECT_THAT(chosen<double>({1, 2, 2, 1, 2}, 4), ElementsAre(1, 2, 4, 0));
  EXPECT_THAT(chosen<float>({0, 0, 0, 0}, 2), ElementsAre(0, 1));
  EXPECT_THAT(chosen<double>({-0.0, 0.0}, 1), ElementsAre(0));
  EXPECT_THAT(chosen<double>({0.0, -0.0}, 1), ElementsAre(0));
}

TEST(TopK, RanksNanBelowEverything) {
  EXPECT_THAT(chosen<double>({kNan, -kInfinity, kNan, 3}, 3), ElementsAre(3, 1, 0));
  EXPECT_THAT(chosen<double>({kNan, kNan}, 5), ElementsAre(0, 1));
}

TEST(TopK, TakesWhatThereIs) {
  EXPECT_THAT(chosen<double>({1, 3, 2}, 10), ElementsAre(1, 2, 0));
  EXPECT_THAT(chosen<double>({1, 3, 2}, 0), IsEmpty());
  EXPECT_THAT(chosen<double>({}, 4), IsEmpty());
  EXPECT_THAT(chosen<double>({}, 0), IsEmpty());
}

TEST(TopK, PermutedScoresGiveThePermutedChoice) {
  EXPECT_TRUE(holds("distinct scores", [] {
    Random random = any_random();
    const std::int64_t n = any_size(1, 100);
    std::vector<double> scores(static_cast<std::size_t>(n));
    std::iota(scores.begin(), scores.end(), -20.0);
    const auto order = random.permutation(n);
    const std::int64_t k = random.between(0, n);
    const auto picked = chosen(reordered(scores, 1, order), k);
    for (std::int64_t i = 0; i < k; ++i) RC_ASSERT(order[picked[i]] == n - 1 - i);
  }));
}

}  // namespace
}  // namespace foretoken::reference
