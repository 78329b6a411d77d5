// Expert choice against the rules of the text, written down here on their own.
#include "reference/ops/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "tests/reference/formats/golden_data.h"
#include "tests/reference/ops/operator_cases.h"

namespace foretoken::reference {
namespace {

using testing::ElementsAre;

template <class N>
struct Choice {
  std::vector<std::int32_t> experts;
  std::vector<typename N::T> weights;
};

template <class N>
Choice<N> routed(const RouterShape& shape, const std::vector<typename N::T>& logits,
                 const std::vector<float>& bias = {}, const std::vector<std::int32_t>& fixed = {}) {
  Choice<N> choice;
  choice.experts.resize(static_cast<std::size_t>(shape.topk));
  choice.weights.resize(static_cast<std::size_t>(shape.topk));
  route(N::kNumerics, shape, logits.data(), bias.empty() ? nullptr : bias.data(),
        fixed.empty() ? nullptr : fixed.data(), choice.experts.data(), choice.weights.data());
  return choice;
}

template <class T>
std::vector<double> scores_of(Scoring scoring, const std::vector<T>& logits) {
  std::vector<double> scores;
  double sum = 0.0;
  for (const T logit : logits) sum += std::exp(static_cast<double>(logit));
  for (const T stored : logits) {
    const auto logit = static_cast<double>(stored);
    switch (scoring) {
      case Scoring::kSqrtSoftplus:
        scores.push_back(std::sqrt(std::log(1.0 + std::exp(logit))));
        break;
      case Scoring::kSigmoid:
        scores.push_back(1.0 / (1.0 + std::exp(-logit)));
        break;
      case Scoring::kSoftmax:
        scores.push_back(std::exp(logit) / sum);
        break;
    }
  }
  return scores;
}

std::vector<std::int32_t> best_first(const std::vector<double>& scores) {
  std::vector<std::int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order,
                           [&](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
  return order;
}

// No two numbers so close that rounding could exchange them.
bool well_apart(std::vector<double> values) {
  std::ranges::sort(values);
  for (std::size_t i = 1; i < values.size(); ++i) {
    if (values[i] - values[i - 1] < 1e-5) return false;
  }
  return true;
}

TEST(SqrtSoftplus, IsTheReleasedScore) {
  const golden::Tensors tensors("components/components.safetensors");
  const auto logits = tensors.floats("router.logit");
  const auto expected = tensors.floats("router.sqrtsoftplus");
  ASSERT_EQ(logits.size(), 55U);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    // At -100 the released e^x is a subnormal float, half a unit of which is felt as 2e-24.
    const double tolerance = 3e-7 * expected[i] + 2e-24;
    EXPECT_NEAR(sqrt_softplus(static_cast<double>(logits[i])), expected[i], tolerance) << logits[i];
    EXPECT_NEAR(sqrt_softplus(logits[i]), expected[i], tolerance) << logits[i];
  }
}

TEST(SqrtSoftplus, GivesThePublishedValues) {
  const std::vector<double> expected{0.356270, 0.559698, 0.832555, 1.145976, 1.458399};
  for (int i = 0; i < 5; ++i) {
    EXPECT_NEAR(sqrt_softplus(i - 2.0), expected[i], 0.5e-6);
    EXPECT_NEAR(sqrt_softplus(static_cast<float>(i) - 2.0F), expected[i], 0.6e-6);
  }
}

template <class Acc>
void check_sqrt_softplus(double tolerance) {
  EXPECT_TRUE(holds("f^2 = ln(1 + e^x) without overflow, increasing", [&] {
    Random random = any_random();
    const auto x = static_cast<Acc>(random.uniform(-80.0, 2000.0));
    const auto value = static_cast<double>(sqrt_softplus(x));
    const auto exact = static_cast<double>(x);
    const double softplus = exact > 40.0 ? exact + std::exp(-exact) : std::log1p(std::exp(exact));
    RC_ASSERT(std::fabs(value / std::sqrt(softplus) - 1.0) <= tolerance);
    RC_ASSERT(sqrt_softplus(x + Acc{1}) > sqrt_softplus(x));
  }));
}

TEST(SqrtSoftplus, IsAccurateFarOut) {
  check_sqrt_softplus<double>(1e-15);
  check_sqrt_softplus<float>(5e-7);
}

template <class N>
class Router : public testing::Test {};
TYPED_TEST_SUITE(Router, AllNumbers, NumbersName);

template <class N>
struct Case {
  RouterShape shape;
  std::vector<typename N::T> logits;
  std::vector<float> bias;
};

template <class N>
Case<N> any_case(Random& random) {
  Case<N> c;
  c.shape.experts = any_size(1, 24);
  c.shape.topk = any_size(1, c.shape.experts);
  constexpr std::array kScorings{Scoring::kSqrtSoftplus, Scoring::kSigmoid, Scoring::kSoftmax};
  c.shape.scoring = kScorings[random.between(0, 2)];
  c.shape.normalise = random.between(0, 3) > 0;
  c.shape.scale = random.uniform(0.5, 3.0);
  c.logits = random.plain<typename N::T>(c.shape.experts, 5.0);
  if (random.between(0, 2) > 0) c.bias = random.plain<float>(c.shape.experts, 1.0);
  return c;
}

template <class N>
std::vector<double> ranks_of(const Case<N>& c) {
  auto ranked = scores_of(c.shape.scoring, c.logits);
  for (std::size_t e = 0; e < c.bias.size(); ++e) ranked[e] += c.bias[e];
  return ranked;
}

// Facts 3.9: scores without bias, normalised over the chosen, times the scale.
template <class N>
std::vector<double> weights_of(const Case<N>& c, const std::vector<std::int32_t>& experts) {
  const auto scores = scores_of(c.shape.scoring, c.logits);
  std::vector<double> weights;
  weights.reserve(experts.size());
  double sum = 0.0;
  for (const std::int32_t e : experts) sum += scores[e];
  for (const std::int32_t e : experts) {
    weights.push_back(scores[e] / (c.shape.normalise ? sum : 1.0) * c.shape.scale);
  }
  return weights;
}

// Weights stay below the scale of 3, or scores of about 2.3 times it.
template <class N>
double slack(const RouterShape& shape) {
  return 7.0 * (6.0 * N::kWide + static_cast<double>(shape.experts + 16) * N::kComputed);
}

TYPED_TEST(Router, TakesTheBestBiasedScoresAndWeighsByTheUnbiasedOnes) {
  using N = TypeParam;
  EXPECT_TRUE(holds("choice and weights", [] {
    Random random = any_random();
    const auto c = any_case<N>(random);
    const auto ranks = ranks_of(c);
    RC_PRE(well_apart(ranks));
    auto expected = best_first(ranks);
    expected.resize(static_cast<std::size_t>(c.shape.topk));
    const auto choice = routed<N>(c.shape, c.logits, c.bias);
    RC_ASSERT(choice.experts == expected);
    RC_ASSERT(distance(choice.weights, weights_of(c, expected)) <= slack<N>(c.shape));
  }));
}

TYPED_TEST(Router, NormalisedWeightsSumToTheScale) {
  using N = TypeParam;
  EXPECT_TRUE(holds("sum", [] {
    Random random = any_random();
    auto c = any_case<N>(random);
    c.shape.normalise = true;
    const auto choice = routed<N>(c.shape, c.logits, c.bias);
    double sum = 0.0;
    for (const auto weight : choice.weights) {
      RC_ASSERT(weight > 0);
      sum += static_cast<double>(weight);
    }
    RC_ASSERT(std::fabs(sum - c.shape.scale) <=
              slack<N>(c.shape) * static_cast<double>(c.shape.topk));
  }));
}

TYPED_TEST(Router, BiasDoesNotEnterTheWeights) {
  using N = TypeParam;
  EXPECT_TRUE(holds("same choice, same bits", [] {
    Random random = any_random();
    const auto c = any_case<N>(random);
    const auto choice = routed<N>(c.shape, c.logits, c.bias);
    // A bias that fixes the choice and its order outright.
    std::vector<float> forcing(static_cast<std::size_t>(c.shape.experts));
    for (std::int64_t i = 0; i < c.shape.topk; ++i) {
      forcing[choice.experts[i]] = static_cast<float>(1000 * (c.shape.topk - i));
    }
    const auto forced = routed<N>(c.shape, c.logits, forcing);
    RC_ASSERT(forced.experts == choice.experts);
    RC_ASSERT(same(forced.weights, choice.weights));
    // A table of the same experts gives the same weights too.
    const auto fixed = routed<N>(c.shape, c.logits, {}, choice.experts);
    RC_ASSERT(fixed.experts == choice.experts);
    RC_ASSERT(same(fixed.weights, choice.weights));
  }));
}

TYPED_TEST(Router, EqualBiasesChangeNothing) {
  using N = TypeParam;
  EXPECT_TRUE(holds("shift", [] {
    Random random = any_random();
    auto c = any_case<N>(random);
    c.bias.clear();
    RC_PRE(well_apart(ranks_of(c)));
    const auto choice = routed<N>(c.shape, c.logits);
    const std::vector<float> bias(c.logits.size(), static_cast<float>(random.uniform(-2.0, 2.0)));
    const auto shifted = routed<N>(c.shape, c.logits, bias);
    RC_ASSERT(shifted.experts == choice.experts);
    RC_ASSERT(same(shifted.weights, choice.weights));
  }));
}

TYPED_TEST(Router, KeepsTheOrderOfATable) {
  using N = TypeParam;
  EXPECT_TRUE(holds("hash layers", [] {
    Random random = any_random();
    const auto c = any_case<N>(random);
    const auto order = random.permutation(c.shape.experts);
    const std::vector<std::int32_t> fixed(order.begin(), order.begin() + c.shape.topk);
    // Not even a bias that would choose others changes a table.
    const auto choice = routed<N>(c.shape, c.logits, c.bias, fixed);
    RC_ASSERT(choice.experts == fixed);
    RC_ASSERT(distance(choice.weights, weights_of(c, fixed)) <= slack<N>(c.shape));
  }));
}

TYPED_TEST(Router, PermutedExpertsGiveThePermutedChoice) {
  using N = TypeParam;
  EXPECT_TRUE(holds("renamed experts", [] {
    Random random = any_random();
    const auto c = any_case<N>(random);
    RC_PRE(well_apart(ranks_of(c)));
    const auto order = random.permutation(c.shape.experts);
    const auto choice = routed<N>(c.shape, c.logits, c.bias);
    const auto moved = routed<N>(c.shape, reordered(c.logits, 1, order),
                                 c.bias.empty() ? c.bias : reordered(c.bias, 1, order));
    for (std::int64_t i = 0; i < c.shape.topk; ++i) {
      RC_ASSERT(order[moved.experts[i]] == choice.experts[i]);
    }
    RC_ASSERT(distance(moved.weights, choice.weights) <= slack<N>(c.shape));
  }));
}

TYPED_TEST(Router, TiesGoToTheLowerNumber) {
  using N = TypeParam;
  for (const Scoring scoring : {Scoring::kSqrtSoftplus, Scoring::kSigmoid, Scoring::kSoftmax}) {
    const RouterShape shape{.experts = 6, .topk = 3, .scoring = scoring};
    EXPECT_THAT(routed<N>(shape, {1, 1, 1, 1, 1, 1}).experts, ElementsAre(0, 1, 2));
    EXPECT_THAT(routed<N>(shape, {0, 2, 1, 2, 1, 1}).experts, ElementsAre(1, 3, 2));
    // Equal groups: the first ones stay.
    const RouterShape grouped{
        .experts = 6, .topk = 3, .scoring = scoring, .groups = 3, .kept_groups = 2};
    EXPECT_THAT(routed<N>(grouped, {1, 1, 1, 1, 1, 1}).experts, ElementsAre(0, 1, 2));
    EXPECT_THAT(routed<N>(grouped, {1, 1, 0, 0, 1, 1}).experts, ElementsAre(0, 1, 4));
  }
}

// Facts 5: equal groups ranked by the sum of their two best biased scores; experts of the best
// groups only.
template <class N>
struct Grouped {
  std::set<std::int64_t> kept;
  std::vector<std::int32_t> experts;
  bool clear = true;  // no near ties
};

template <class N>
Grouped<N> by_group_rule(const Case<N>& c) {
  const auto ranks = ranks_of(c);
  const std::int64_t size = c.shape.experts / c.shape.groups;
  std::vector<double> group_ranks;
  for (std::int64_t g = 0; g < c.shape.groups; ++g) {
    auto members = slice(ranks, g * size, size);
    std::ranges::sort(members, std::greater<>());
    group_ranks.push_back(members[0] + (size > 1 ? members[1] : 0.0));
  }
  Grouped<N> result;
  result.clear = well_apart(ranks) && well_apart(group_ranks);
  const auto groups = best_first(group_ranks);
  result.kept.insert(groups.begin(), groups.begin() + c.shape.kept_groups);
  for (const std::int32_t e : best_first(ranks)) {
    if (result.kept.contains(e / size) &&
        static_cast<std::int64_t>(result.experts.size()) < c.shape.topk) {
      result.experts.push_back(e);
    }
  }
  return result;
}

TYPED_TEST(Router, ChoosesWithinTheBestGroups) {
  using N = TypeParam;
  int differs = 0;
  EXPECT_TRUE(holds("group-limited choice", [&] {
    Random random = any_random();
    auto c = any_case<N>(random);
    const std::int64_t size = any_size(1, 6);
    c.shape.groups = any_size(2, 6);
    c.shape.kept_groups = any_size(1, c.shape.groups);
    c.shape.experts = size * c.shape.groups;
    c.shape.topk = any_size(1, size * c.shape.kept_groups);
    c.logits = random.plain<typename N::T>(c.shape.experts, 5.0);
    if (!c.bias.empty()) c.bias = random.plain<float>(c.shape.experts, 1.0);
    const auto expected = by_group_rule(c);
    RC_PRE(expected.clear);
    const auto choice = routed<N>(c.shape, c.logits, c.bias);
    for (const std::int32_t e : choice.experts) RC_ASSERT(expected.kept.contains(e / size));
    RC_ASSERT(choice.experts == expected.experts);
    RC_ASSERT(distance(choice.weights, weights_of(c, expected.experts)) <= slack<N>(c.shape));
    auto free = c.shape;
    free.groups = 1;
    if (routed<N>(free, c.logits, c.bias).experts != choice.experts) ++differs;
  }));
  EXPECT_GT(differs, 100);  // or the groups were no restriction
}

TYPED_TEST(Router, AGroupCountsByItsTwoBest) {
  using N = TypeParam;
  // The best single score is in group 0, the best pair in group 1, the best sum in group 2.
  const RouterShape shape{
      .experts = 9, .topk = 2, .scoring = Scoring::kSigmoid, .groups = 3, .kept_groups = 1};
  EXPECT_THAT(routed<N>(shape, {9, -9, -9, 2, 2, -9, 1, 1, 1}).experts, ElementsAre(3, 4));
}

TYPED_TEST(Router, GroupsStandWhenEveryBiasedScoreIsNegative) {
  using N = TypeParam;
  const RouterShape shape{
      .experts = 4, .topk = 2, .scoring = Scoring::kSigmoid, .groups = 2, .kept_groups = 1};
  const std::vector<float> bias{-9, -8, -7, -6};
  EXPECT_THAT(routed<N>(shape, {0, 0, 0, 0}, bias).experts, ElementsAre(3, 2));
}

TYPED_TEST(Router, SoftmaxDoesNotOverflow) {
  using N = TypeParam;
  const RouterShape shape{
      .experts = 3, .topk = 2, .scoring = Scoring::kSoftmax, .normalise = false};
  const auto choice = routed<N>(shape, {2000, 2001, -2000});
  EXPECT_THAT(choice.experts, ElementsAre(1, 0));
  EXPECT_NEAR(static_cast<double>(choice.weights[0]), 1.0 / (1.0 + std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(static_cast<double>(choice.weights[1]), 1.0 / (1.0 + std::exp(1.0)), 1e-6);
}

}  // namespace
}  // namespace foretoken::reference
