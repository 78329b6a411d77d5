// Core attention against golden values and the formula in double, and what must hold for any
// softmax average with a sink.
#include "reference/ops/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/reference/formats/golden_data.h"
#include "tests/reference/ops/golden_integers.h"
#include "tests/reference/ops/operator_cases.h"

namespace foretoken::reference {
namespace {

template <class N>
using Row = std::vector<typename N::T>;

// One query over one run of keys without gaps.
template <class N>
struct Case {
  AttentionShape shape;
  Row<N> q;                 // [heads, key_width]
  Row<N> keys;              // [count, key_width]
  std::vector<float> sink;  // [heads], or empty: none

  [[nodiscard]] std::int64_t count() const {
    return static_cast<std::int64_t>(keys.size()) / shape.key_width;
  }
};

constexpr double kLargest = 2.0;  // magnitude of any channel of a key

template <class N>
Case<N> any_case(Random& random, std::int64_t fewest = 1) {
  const std::int64_t width = any_size(1, 20);
  Case<N> c;
  c.shape = {.heads = any_size(1, 6),
             .key_width = width,
             .value_width = any_size(1, width),
             .scale = 1.0 / std::sqrt(static_cast<double>(width))};
  c.q = random.row<N>(c.shape.heads * width, 2.0);
  c.keys = random.row<N>(any_size(fewest, 30) * width, kLargest);
  if (random.between(0, 3) > 0) c.sink = random.plain<float>(c.shape.heads, 2.0);
  return c;
}

template <class N>
Row<N> attended(const Case<N>& c, const std::vector<KeyRun<typename N::T>>& runs) {
  // Not zero, so that what is not written shows.
  Row<N> out(static_cast<std::size_t>(c.shape.heads * c.shape.value_width), typename N::T{77});
  attend<typename N::T, typename N::Acc>(N::kNumerics, c.shape, c.q.data(), runs,
                                         c.sink.empty() ? nullptr : c.sink.data(), out.data());
  return out;
}

template <class N>
KeyRun<typename N::T> run_of(const Case<N>& c) {
  return {.data = c.keys.data(), .stride = c.shape.key_width, .count = c.count(), .rows = {}};
}

template <class N>
Row<N> attended(const Case<N>& c) {
  return attended<N>(c, {run_of(c)});
}

// Facts 3.5.
template <class N>
std::vector<double> by_formula(const Case<N>& c) {
  std::vector<double> out;
  const std::int64_t width = c.shape.key_width;
  for (std::int64_t h = 0; h < c.shape.heads; ++h) {
    std::vector<double> z;
    for (std::int64_t j = 0; j < c.count(); ++j) {
      double dot = 0.0;
      for (std::int64_t i = 0; i < width; ++i) {
        dot += static_cast<double>(c.q[h * width + i]) * static_cast<double>(c.keys[j * width + i]);
      }
      z.push_back(dot * c.shape.scale);
    }
    const double most = *std::max_element(z.begin(), z.end());
    double denominator = 0.0;
    for (double& logit : z) denominator += logit = std::exp(logit - most);
    if (!c.sink.empty()) denominator += std::exp(static_cast<double>(c.sink[h]) - most);
    for (std::int64_t i = 0; i < c.shape.value_width; ++i) {
      double sum = 0.0;
      for (std::int64_t j = 0; j < c.count(); ++j) {
        sum += z[j] / denominator * static_cast<double>(c.keys[j * width + i]);
      }
      out.push_back(sum);
    }
  }
  return out;
}

// Channels of q and k up to 2, so a logit is a sum of `width` terms up to 4 / sqrt(width); its
// error is a relative one of the weights. In BF16 these are stored narrow too.
template <class N>
double slack(const Case<N>& c) {
  const auto width = static_cast<double>(c.shape.key_width);
  const double logit = (width + 4.0) * 4.0 * std::sqrt(width) * N::kComputed;
  const double weights = 2.0 * logit + (N::kBf16 ? N::kNarrow : 0.0) +
                         static_cast<double>(c.count() + 20) * 2.0 * N::kComputed;
  return kLargest * (2.0 * weights + N::kNarrow);
}

template <class N>
void expect_golden() {
  const golden::Tensors tensors("components/components.safetensors");
  const auto q = tensors.floats("sparse_attn.q");
  const auto kv = tensors.floats("sparse_attn.kv");
  const auto index = golden::integers("components/components.safetensors", "sparse_attn.idx");
  const auto o = tensors.floats("sparse_attn.o");
  Case<N> c;
  c.shape = {.heads = 4, .key_width = 32, .value_width = 32, .scale = 1.0 / std::sqrt(32.0)};
  c.keys = Row<N>(kv.begin(), kv.end());
  c.sink = tensors.floats("sparse_attn.sink");
  ASSERT_EQ(index.size(), 12U * 70U);
  for (std::int64_t t = 0; t < 12; ++t) {
    std::vector<std::int32_t> rows;
    for (std::int64_t i = 0; i < 70; ++i) {
      if (index[t * 70 + i] >= 0) rows.push_back(index[t * 70 + i]);
    }
    c.q.assign(q.begin() + t * 4 * 32, q.begin() + (t + 1) * 4 * 32);
    auto run = run_of(c);
    run.rows = rows;
    EXPECT_LE(distance(attended<N>(c, {run}), slice(o, t * 4 * 32, 4 * 32)), 1e-6) << "token " << t;
  }
}

TEST(AttendGolden, SelectedKeysGiveTheReleasedOutput) {
  expect_golden<Exact>();
  expect_golden<Stored32>();
  expect_golden<Hardware>();
}

template <class N>
class Attend : public testing::Test {};
TYPED_TEST_SUITE(Attend, AllNumbers, NumbersName);

TYPED_TEST(Attend, IsTheFormula) {
  using N = TypeParam;
  EXPECT_TRUE(holds("softmax with a sink in the denominator", [] {
    Random random = any_random();
    const auto c = any_case<N>(random);
    const auto out = attended(c);
    RC_ASSERT(distance(out, by_formula(c)) <= slack(c));
    RC_ASSERT(storable<N>(out));
  }));
}

TYPED_TEST(Attend, HeadsDoNotSeeEachOther) {
  using N = TypeParam;
  EXPECT_TRUE(holds("bits of each head alone, in any order", [] {
    Random random = any_random();
    const auto c = any_case<N>(random);
    const auto out = attended(c);
    const auto order = random.permutation(c.shape.heads);
    auto moved = c;
    moved.q = reordered(c.q, c.shape.key_width, order);
    if (!c.sink.empty()) moved.sink = reordered(c.sink, 1, order);
    RC_ASSERT(same(attended(moved), reordered(out, c.shape.value_width, order)));
    const std::int64_t h = random.between(0, c.shape.heads - 1);
    auto alone = c;
    alone.shape.heads = 1;
    alone.q = slice(c.q, h * c.shape.key_width, c.shape.key_width);
    if (!c.sink.empty()) alone.sink = {c.sink[h]};
    RC_ASSERT(same(attended(alone), slice(out, h * c.shape.value_width, c.shape.value_width)));
  }));
}

TYPED_TEST(Attend, DoesNotSeeTheOrderOfKeys) {
  using N = TypeParam;
  EXPECT_TRUE(holds("keys", [] {
    Random random = any_random();
    const auto c = any_case<N>(random);
    auto moved = c;
    moved.keys = reordered(c.keys, c.shape.key_width, random.permutation(c.count()));
    const double sums = static_cast<double>(c.count() + 4) * 4.0 * N::kComputed;
    RC_ASSERT(distance(attended(moved), attended(c)) <= kLargest * (sums + 2.0 * N::kNarrow));
  }));
}

TYPED_TEST(Attend, GatheredRowsAreContiguousCopies) {
  using N = TypeParam;
  EXPECT_TRUE(holds("rows, runs and strides, bit for bit", [] {
    Random random = any_random();
    using T = typename N::T;
    auto c = any_case<N>(random);
    const std::int64_t width = c.shape.key_width;
    // A padded cache; what lies between the keys must not count.
    const std::int64_t stride = width + random.between(0, 3);
    Row<N> cache(static_cast<std::size_t>(c.count() * stride), std::numeric_limits<T>::quiet_NaN());
    for (std::int64_t r = 0; r < c.count(); ++r) {
      std::copy_n(c.keys.begin() + r * width, width, cache.begin() + r * stride);
    }
    std::vector<std::int32_t> rows;  // with repetitions
    const std::int64_t picked = random.between(1, 20);
    for (std::int64_t i = 0; i < picked; ++i) {
      rows.push_back(static_cast<std::int32_t>(random.between(0, c.count() - 1)));
    }
    const std::int64_t leading = random.between(0, c.count());
    const auto gathered = attended<N>(
        c, {{.data = cache.data(), .stride = stride, .count = leading, .rows = {}},
            {.data = cache.data(), .stride = stride, .count = 0, .rows = {}},
            {.data = cache.data(), .stride = stride, .count = c.count(), .rows = rows}});
    const std::vector<std::int64_t> order(rows.begin(), rows.end());
    auto copied = c;
    copied.keys = slice(c.keys, 0, leading * width);
    const auto tail = reordered(c.keys, width, order);
    copied.keys.insert(copied.keys.end(), tail.begin(), tail.end());
    RC_ASSERT(same(gathered, attended(copied)));
  }));
}

TYPED_TEST(Attend, ASinkFarBelowIsNoSink) {
  using N = TypeParam;
  EXPECT_TRUE(holds("sink of -1e30", [] {
    Random random = any_random();
    auto c = any_case<N>(random);
    c.sink.clear();
    const auto without = attended(c);
    c.sink.assign(static_cast<std::size_t>(c.shape.heads), -1e30F);
    RC_ASSERT(same(attended(c), without));
  }));
}

TYPED_TEST(Attend, WeightsSumToOneWithoutASink) {
  using N = TypeParam;
  EXPECT_TRUE(holds("equal values come out", [] {
    Random random = any_random();
    auto c = any_case<N>(random);
    c.sink.clear();
    // The last channel tells the keys apart, and is no value.
    c.shape.key_width += 1;
    c.shape.value_width = c.shape.key_width - 1;
    const auto value = random.row<N>(c.shape.value_width, kLargest);
    c.q = random.row<N>(c.shape.heads * c.shape.key_width, 2.0);
    const std::int64_t count = random.between(1, 30);
    c.keys.clear();
    for (std::int64_t j = 0; j < count; ++j) {
      c.keys.insert(c.keys.end(), value.begin(), value.end());
      c.keys.push_back(random.row<N>(1, kLargest)[0]);
    }
    const auto out = attended(c);
    for (std::int64_t h = 0; h < c.shape.heads; ++h) {
      const auto head = slice(out, h * c.shape.value_width, c.shape.value_width);
      RC_ASSERT(distance(head, value) <=
                kLargest * ((N::kBf16 ? 2.0 : 1.0) * N::kNarrow +
                            static_cast<double>(count + 4) * 2.0 * N::kComputed));
    }
  }));
}

TYPED_TEST(Attend, StaysWithinTheValues) {
  using N = TypeParam;
  EXPECT_TRUE(holds("hull of the values and of zero, if there is a sink", [] {
    Random random = any_random();
    auto c = any_case<N>(random);
    c.q = times(c.q, std::exp2(random.between(-3, 5)));  // from an average to a single winner
    const auto out = attended(c);
    // A narrow weight may exceed the one in the sum.
    const double extra = kLargest * ((N::kBf16 ? 2.0 : 1.0) * N::kNarrow +
                                     static_cast<double>(c.count() + 4) * 2.0 * N::kComputed);
    for (std::int64_t i = 0; i < c.shape.value_width; ++i) {
      double low = c.sink.empty() ? HUGE_VAL : 0.0;
      double high = c.sink.empty() ? -HUGE_VAL : 0.0;
      for (std::int64_t j = 0; j < c.count(); ++j) {
        const auto value = static_cast<double>(c.keys[j * c.shape.key_width + i]);
        low = std::fmin(low, value);
        high = std::fmax(high, value);
      }
      for (std::int64_t h = 0; h < c.shape.heads; ++h) {
        const auto value = static_cast<double>(out[h * c.shape.value_width + i]);
        RC_ASSERT(value >= low - extra);
        RC_ASSERT(value <= high + extra);
      }
    }
  }));
}

TYPED_TEST(Attend, ALargeSinkTakesEverything) {
  using N = TypeParam;
  EXPECT_TRUE(holds("zero", [] {
    Random random = any_random();
    auto c = any_case<N>(random);
    // Logits stay below 4 sqrt(20) = 18. The second exponential is beyond float.
    c.sink.assign(static_cast<std::size_t>(c.shape.heads),
                  random.between(0, 1) == 0 ? 80.0F : 2e3F);
    const Row<N> zeros(static_cast<std::size_t>(c.shape.heads * c.shape.value_width));
    RC_ASSERT(distance(attended(c), zeros) <= 60.0 * std::exp(-60.0));
  }));
}

TYPED_TEST(Attend, ASinkTakesItsShareOfTheWeight) {
  using N = TypeParam;
  // Three keys of logit 0 with value 1, and a sink of ln 5: 3 / 8.
  Case<N> c;
  c.shape = {.heads = 1, .key_width = 2, .value_width = 1, .scale = 1.0};
  c.q = {0, 1};
  c.keys = {1, 0, 1, 0, 1, 0};
  c.sink = {static_cast<float>(std::log(5.0))};
  EXPECT_NEAR(static_cast<double>(attended(c)[0]), 0.375, 1e-7);
}

TYPED_TEST(Attend, AKeyTwiceCountsTwice) {
  using N = TypeParam;
  EXPECT_TRUE(holds("duplicates", [] {
    Random random = any_random();
    auto c = any_case<N>(random);
    // ln 2 more on the logit does the same, through a channel of its own.
    const std::int64_t width = c.shape.key_width;
    const std::int64_t twice = random.between(0, c.count() - 1);
    const std::vector<std::int32_t> rows{static_cast<std::int32_t>(twice)};
    const auto whole = run_of(c);
    auto again = whole;
    again.rows = rows;
    const auto doubled = attended<N>(c, {whole, again});
    Case<N> raised;
    raised.shape = c.shape;
    raised.shape.key_width = width + 1;
    raised.sink = c.sink;
    for (std::int64_t h = 0; h < c.shape.heads; ++h) {
      const auto head = slice(c.q, h * width, width);
      raised.q.insert(raised.q.end(), head.begin(), head.end());
      raised.q.push_back(static_cast<typename N::T>(std::log(2.0) / c.shape.scale));
    }
    for (std::int64_t j = 0; j < c.count(); ++j) {
      const auto key = slice(c.keys, j * width, width);
      raised.keys.insert(raised.keys.end(), key.begin(), key.end());
      raised.keys.push_back(j == twice ? typename N::T{1} : typename N::T{0});
    }
    RC_ASSERT(distance(doubled, by_formula(raised)) <= slack(raised) + 4.0 * N::kWide);
  }));
}

TYPED_TEST(Attend, WithoutKeysGivesZeros) {
  using N = TypeParam;
  Random random(2);
  Case<N> c;
  c.shape = {.heads = 3, .key_width = 5, .value_width = 4, .scale = 1.0};
  c.q = random.row<N>(3 * 5, 2.0);
  c.keys = random.row<N>(7 * 5, kLargest);
  c.sink.assign(static_cast<std::size_t>(c.shape.heads), 1.0F);
  const Row<N> zeros(static_cast<std::size_t>(c.shape.heads * c.shape.value_width));
  EXPECT_EQ(attended<N>(c, {}), zeros);
  auto run = run_of(c);
  run.count = 0;
  EXPECT_EQ(attended<N>(c, {run, run}), zeros);
  c.sink.clear();
  EXPECT_EQ(attended<N>(c, {run}), zeros);
}

TYPED_TEST(Attend, IsLinearInTheValues) {
  using N = TypeParam;
  EXPECT_TRUE(holds("channels that no query looks at", [] {
    Random random = any_random();
    auto c = any_case<N>(random);
    const std::int64_t width = c.shape.key_width;
    const std::int64_t values = c.shape.value_width;
    for (std::int64_t i = 0; i < c.shape.heads * width; ++i) {
      if (i % width < values) c.q[i] = 0;
    }
    const auto out = attended(c);
    auto scaled = c;
    const double factor = std::ldexp(-1.0, static_cast<int>(random.between(-6, 6)));
    for (std::int64_t i = 0; i < c.count() * width; ++i) {
      if (i % width < values) scaled.keys[i] = static_cast<typename N::T>(c.keys[i] * factor);
    }
    RC_ASSERT(same(attended(scaled), times(out, factor)));
    // And fewer values are the first of them.
    auto fewer = c;
    fewer.shape.value_width = random.between(1, values);
    const auto first = attended(fewer);
    for (std::int64_t h = 0; h < c.shape.heads; ++h) {
      RC_ASSERT(same(slice(first, h * fewer.shape.value_width, fewer.shape.value_width),
                     slice(out, h * values, fewer.shape.value_width)));
    }
  }));
}

TYPED_TEST(Attend, ManyKeysAndHeadsGiveTheBitsOfEachHeadAlone) {
  using N = TypeParam;
  Case<N> c;
  c.shape = {.heads = 16, .key_width = 64, .value_width = 48, .scale = 0.125};
  Random random(19);
  c.q = random.row<N>(16 * 64, 2.0);
  c.keys = random.row<N>(1500 * 64, kLargest);
  c.sink = random.plain<float>(16, 2.0);
  const auto out = attended(c);
  EXPECT_LE(distance(out, by_formula(c)), slack(c));
  for (std::int64_t h = 0; h < 16; ++h) {
    auto alone = c;
    alone.shape.heads = 1;
    alone.q = slice(c.q, h * 64, 64);
    alone.sink = {c.sink[h]};
    EXPECT_EQ(attended(alone), slice(out, h * 48, 48)) << h;
  }
}

// Facts 3.5: weights go into the value product as BF16, while their sum stays wide. The weight of
// all keys but the first is a little under half a unit above 2^-6 and rounds down, which takes
// nearly 2^-8 from the average; with one rounding at the end it would be 1.
template <class N>
void expect_narrow_weights() {
  const std::int64_t count = 4000;
  Case<N> c;
  c.shape = {.heads = 1, .key_width = 2, .value_width = 1, .scale = 1.0};
  c.q = {0, 1};
  c.keys = {1, 0};
  const double logit = std::log(0x1p-6 * (1.0 + 0.99 * 0x1p-8));
  for (std::int64_t j = 0; j < count; ++j) {
    c.keys.push_back(1);
    c.keys.push_back(static_cast<typename N::T>(logit));
  }
  EXPECT_EQ(static_cast<double>(attended(c)[0]), 1.0 - 0x1p-8);
}

TEST(AttendBf16, WeightsAreRoundedForTheValueProductOnly) {
  expect_narrow_weights<ExactBf16>();
  expect_narrow_weights<HardwareBf16>();
}

}  // namespace
}  // namespace foretoken::reference
