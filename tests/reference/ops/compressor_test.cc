// The compressor's state machine against the block formula of the text, written down here on its
// own, and what must hold for any softmax pooling.
#include "reference/ops/compressor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "tests/reference/ops/operator_cases.h"

namespace foretoken::reference {
namespace {

// What goes in: projections of `tokens` tokens and the biases of the places in a block.
template <class N>
struct Sequence {
  CompressorShape shape;
  std::int64_t tokens = 0;
  std::vector<typename N::Acc> values, scores;  // [tokens, projected]
  std::vector<float> bias;                      // [ratio, projected]
};

template <class N>
Sequence<N> any_sequence(Random& random, const CompressorShape& shape, std::int64_t tokens,
                         double score_magnitude = 3.0) {
  return {shape, tokens, random.plain<typename N::Acc>(tokens * shape.projected(), 2.0),
          random.plain<typename N::Acc>(tokens * shape.projected(), score_magnitude),
          random.plain<float>(shape.ratio * shape.projected(), 1.0)};
}

template <class N>
using Entries = std::vector<std::vector<typename N::T>>;

// Entries of the tokens first .. first + tokens - 1, at positions that start at `origin`.
template <class N>
Entries<N> compressed(const Sequence<N>& sequence, std::int64_t origin = 0,
                      std::int64_t first = 0) {
  CompressorState<typename N::T> state(sequence.shape);
  const std::int64_t projected = sequence.shape.projected();
  Entries<N> entries;
  std::vector<typename N::T> entry(static_cast<std::size_t>(sequence.shape.width));
  for (std::int64_t t = first; t < sequence.tokens; ++t) {
    const std::int64_t position = origin + t;
    const float* bias = sequence.bias.data() + position % sequence.shape.ratio * projected;
    if (state.push(N::kNumerics, position, sequence.values.data() + t * projected,
                   sequence.scores.data() + t * projected, bias, entry.data())) {
      entries.push_back(entry);
    }
  }
  return entries;
}

enum class Mistake : std::uint8_t { kNone, kHalvesSwapped, kBiasRowOff, kPreviousBlockIgnored };

// Facts 3.7: one softmax per channel over the tokens an entry pools.
template <class N>
std::vector<std::vector<double>> by_formula(const Sequence<N>& s,
                                            Mistake mistake = Mistake::kNone) {
  const std::int64_t m = s.shape.ratio;
  const std::int64_t w = s.shape.width;
  std::vector<std::vector<double>> entries;
  for (std::int64_t block = 0; (block + 1) * m <= s.tokens; ++block) {
    std::vector<double> entry;
    for (std::int64_t c = 0; c < w; ++c) {
      std::vector<std::pair<double, double>> slots;  // logit, value
      const auto add = [&](std::int64_t token, std::int64_t channel) {
        const std::int64_t place = (token + (mistake == Mistake::kBiasRowOff ? 1 : 0)) % m;
        const std::int64_t at = token * s.shape.projected() + channel;
        slots.emplace_back(static_cast<double>(s.scores[at]) +
                               static_cast<double>(s.bias[place * s.shape.projected() + channel]),
                           static_cast<double>(s.values[at]));
      };
      const bool swapped = mistake == Mistake::kHalvesSwapped;
      if (s.shape.overlap && block > 0 && mistake != Mistake::kPreviousBlockIgnored) {
        for (std::int64_t t = (block - 1) * m; t < block * m; ++t) add(t, swapped ? w + c : c);
      }
      for (std::int64_t t = block * m; t < (block + 1) * m; ++t) {
        add(t, s.shape.overlap && !swapped ? w + c : c);
      }
      double most = slots[0].first;
      for (const auto& [logit, value] : slots) most = std::fmax(most, logit);
      double weights = 0.0;
      double pooled = 0.0;
      for (const auto& [logit, value] : slots) {
        weights += std::exp(logit - most);
        pooled += std::exp(logit - most) * value;
      }
      entry.push_back(pooled / weights);
    }
    entries.push_back(entry);
  }
  return entries;
}

template <class A, class B>
double entries_apart(const std::vector<std::vector<A>>& a, const std::vector<std::vector<B>>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double most = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::fmax(most, distance(a[i], b[i]));
  return most;
}

// Values up to 2; scores stored with a relative error, which the exponential makes absolute.
template <class N>
double tolerance(const CompressorShape& shape, double score_magnitude) {
  const double logits = 4.0 * (score_magnitude + 1.0) * N::kWide;
  const double sums = static_cast<double>(shape.slots() + 8) * N::kComputed;
  return 2.0 * (N::kNarrow + 2.0 * logits + sums + 2.0 * N::kWide);
}

std::vector<CompressorShape> shapes() {
  return {{.ratio = 4, .width = 3, .overlap = true},  {.ratio = 128, .width = 2},
          {.ratio = 3, .width = 4, .overlap = false}, {.ratio = 5, .width = 2, .overlap = false},
          {.ratio = 4, .width = 3, .overlap = false}, {.ratio = 2, .width = 1, .overlap = false},
          {.ratio = 1, .width = 2, .overlap = false}, {.ratio = 1, .width = 2, .overlap = true},
          {.ratio = 3, .width = 2, .overlap = true}};
}

CompressorShape any_shape() {
  return {.ratio = any_size(1, 9), .width = any_size(1, 5), .overlap = any_size(0, 1) == 1};
}

template <class N>
class Compressor : public testing::Test {};
TYPED_TEST_SUITE(Compressor, AllNumbers, NumbersName);

TYPED_TEST(Compressor, IsTheBlockFormulaAtEveryLength) {
  using N = TypeParam;
  for (const CompressorShape& shape : shapes()) {
    Random random(17);
    auto sequence = any_sequence<N>(random, shape, 300);
    const auto expected = by_formula(sequence);
    for (std::int64_t length = 1; length <= 300; ++length) {
      sequence.tokens = length;
      const auto entries = compressed(sequence);
      ASSERT_EQ(static_cast<std::int64_t>(entries.size()), length / shape.ratio);
      const std::vector<std::vector<double>> due(
          expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(entries.size()));
      ASSERT_LE(entries_apart(entries, due), tolerance<N>(shape, 3.0))
          << "ratio " << shape.ratio << " length " << length;
    }
  }
}

TYPED_TEST(Compressor, IsTheBlockFormulaForAnyShape) {
  using N = TypeParam;
  EXPECT_TRUE(holds("softmax pooling", [] {
    Random random = any_random();
    const CompressorShape shape = any_shape();
    const double magnitude = std::exp2(random.uniform(-2.0, 6.0));
    const auto sequence = any_sequence<N>(random, shape, any_size(1, 30), magnitude);
    const auto entries = compressed(sequence);
    RC_ASSERT(entries_apart(entries, by_formula(sequence)) <= tolerance<N>(shape, magnitude));
    for (const auto& entry : entries) RC_ASSERT(storable<N>(entry));
  }));
}

// The tests above are worth something only if the formula can tell the usual mistakes.
TYPED_TEST(Compressor, DiffersFromTheUsualMistakes) {
  using N = TypeParam;
  Random random(23);
  const auto overlapping = any_sequence<N>(random, {.ratio = 4, .width = 3, .overlap = true}, 40);
  const auto plain = any_sequence<N>(random, {.ratio = 128, .width = 2}, 256);
  for (const Mistake mistake :
       {Mistake::kHalvesSwapped, Mistake::kBiasRowOff, Mistake::kPreviousBlockIgnored}) {
    EXPECT_GE(entries_apart(compressed(overlapping), by_formula(overlapping, mistake)), 0.2);
  }
  EXPECT_GE(entries_apart(compressed(plain), by_formula(plain, Mistake::kBiasRowOff)), 0.02);
  // The first block has no predecessor, so ignoring it changes later blocks only.
  EXPECT_LE(distance(compressed(overlapping)[0],
                     by_formula(overlapping, Mistake::kPreviousBlockIgnored)[0]),
            tolerance<N>(overlapping.shape, 3.0));
}

TYPED_TEST(Compressor, EntriesAppearAsTheVisibilityTableSays) {
  using N = TypeParam;
  struct Line {
    std::int64_t t;
    std::size_t csa;
    std::size_t hca;
  };
  const std::vector<Line> table{{0, 0, 0},    {2, 0, 0},    {3, 1, 0},    {7, 2, 0},   {126, 31, 0},
                                {127, 32, 1}, {128, 32, 1}, {255, 64, 2}, {256, 64, 2}};
  Random random(5);
  auto csa = any_sequence<N>(random, {.ratio = 4, .width = 1, .overlap = true}, 300);
  auto hca = any_sequence<N>(random, {.ratio = 128, .width = 1}, 300);
  for (const Line& line : table) {
    csa.tokens = line.t + 1;
    hca.tokens = line.t + 1;
    EXPECT_EQ(compressed(csa).size(), line.csa) << line.t;
    EXPECT_EQ(compressed(hca).size(), line.hca) << line.t;
  }
}

TYPED_TEST(Compressor, WholeBlocksOfShiftChangeNothing) {
  using N = TypeParam;
  EXPECT_TRUE(holds("positions", [] {
    Random random = any_random();
    const CompressorShape shape = any_shape();
    const auto sequence = any_sequence<N>(random, shape, any_size(1, 30));
    const std::int64_t shift = random.between(1, 100000) * shape.ratio;
    RC_ASSERT(compressed(sequence, shift) == compressed(sequence));
  }));
}

TYPED_TEST(Compressor, OnlyTheFirstEntryMissesItsPredecessor) {
  using N = TypeParam;
  EXPECT_TRUE(holds("a later start", [] {
    Random random = any_random();
    const CompressorShape shape = any_shape();
    const std::int64_t blocks = any_size(2, 6);
    const auto sequence = any_sequence<N>(random, shape, blocks * shape.ratio);
    const std::int64_t skipped = random.between(1, blocks - 1);
    const auto all = compressed(sequence);
    const auto late = compressed(sequence, 0, skipped * shape.ratio);
    RC_ASSERT(static_cast<std::int64_t>(late.size()) == blocks - skipped);
    for (std::int64_t i = 0; i < blocks - skipped; ++i) {
      const bool equal = late[i] == all[i + skipped];
      RC_ASSERT((equal || (shape.overlap && i == 0)));
    }
  }));
}

TYPED_TEST(Compressor, ConstantValuesComeOutConstant) {
  using N = TypeParam;
  EXPECT_TRUE(holds("constants", [] {
    Random random = any_random();
    const CompressorShape shape = any_shape();
    auto sequence = any_sequence<N>(random, shape, any_size(1, 30));
    const double constant = random.row<N>(1, 2.0)[0];
    std::ranges::fill(sequence.values, static_cast<typename N::Acc>(constant));
    for (const auto& entry : compressed(sequence)) {
      for (const auto value : entry) {
        RC_ASSERT(std::fabs(static_cast<double>(value) - constant) <=
                  (N::kNarrow + 40.0 * N::kComputed) * 2.0);
      }
    }
  }));
}

TYPED_TEST(Compressor, AConstantOnAllScoresOfAChannelChangesNothing) {
  using N = TypeParam;
  EXPECT_TRUE(holds("shifted scores", [] {
    Random random = any_random();
    const CompressorShape shape = any_shape();
    const auto sequence = any_sequence<N>(random, shape, any_size(1, 30));
    auto shifted = sequence;
    std::vector<double> constants;
    for (std::int64_t c = 0; c < shape.width; ++c) constants.push_back(random.uniform(-9.0, 9.0));
    for (std::size_t i = 0; i < shifted.scores.size(); ++i) {
      // Both halves of the channels feed the same softmax.
      shifted.scores[i] += static_cast<typename N::Acc>(constants[i % shape.width]);
    }
    RC_ASSERT(entries_apart(compressed(shifted), compressed(sequence)) <=
              2.0 * tolerance<N>(shape, 12.0));
  }));
}

TYPED_TEST(Compressor, EntriesLieBetweenTheValuesTheyPool) {
  using N = TypeParam;
  EXPECT_TRUE(holds("hull", [] {
    Random random = any_random();
    const CompressorShape shape = any_shape();
    const double magnitude = std::exp2(random.uniform(-2.0, 12.0));  // up to one winner
    const auto sequence = any_sequence<N>(random, shape, any_size(1, 30), magnitude);
    const auto entries = compressed(sequence);
    for (std::size_t b = 0; b < entries.size(); ++b) {
      for (std::int64_t c = 0; c < shape.width; ++c) {
        double low = HUGE_VAL;
        double high = -HUGE_VAL;
        const auto last = (static_cast<std::int64_t>(b) + 1) * shape.ratio;
        const auto first = std::max<std::int64_t>(0, last - shape.slots());
        for (std::int64_t t = first; t < last; ++t) {
          const bool previous = t < last - shape.ratio;
          const std::int64_t channel = shape.overlap && !previous ? shape.width + c : c;
          const auto value = static_cast<double>(sequence.values[t * shape.projected() + channel]);
          low = std::fmin(low, value);
          high = std::fmax(high, value);
        }
        const double slack = 2.0 * (N::kNarrow + 40.0 * N::kWide);
        RC_ASSERT(static_cast<double>(entries[b][c]) >= low - slack);
        RC_ASSERT(static_cast<double>(entries[b][c]) <= high + slack);
      }
    }
  }));
}

// Facts 4: values and scores with bias, row m + t mod m with overlap, else t mod m; unused rows
// hold value 0 and score -infinity; a complete block moves to the first rows.
TYPED_TEST(Compressor, KeepsTheTokensThatHaveNotLeft) {
  using N = TypeParam;
  using T = typename N::T;
  for (const CompressorShape& shape : shapes()) {
    Random random(31);
    const auto sequence = any_sequence<N>(random, shape, 3 * shape.ratio + 2);
    const std::int64_t projected = shape.projected();
    CompressorState<T> state(shape);
    std::vector<T> entry(static_cast<std::size_t>(shape.width));
    for (std::int64_t t = 0; t <= sequence.tokens; ++t) {  // before token t
      const auto size = static_cast<std::size_t>(shape.slots() * projected);
      std::vector<T> values(size);
      std::vector<T> scores(size, -std::numeric_limits<T>::infinity());
      const std::int64_t block = t / shape.ratio * shape.ratio;
      const std::int64_t first =
          shape.overlap ? std::max<std::int64_t>(block - shape.ratio, 0) : block;
      for (std::int64_t kept = first; kept < t; ++kept) {
        const std::int64_t row = kept - block + (shape.overlap ? shape.ratio : 0);
        for (std::int64_t i = 0; i < projected; ++i) {
          values[row * projected + i] = static_cast<T>(sequence.values[kept * projected + i]);
          const T score = static_cast<T>(sequence.scores[kept * projected + i]);
          scores[row * projected + i] = static_cast<T>(
              static_cast<typename N::Acc>(score) +
              static_cast<typename N::Acc>(sequence.bias[kept % shape.ratio * projected + i]));
        }
      }
      ASSERT_EQ(state.values(), values) << "ratio " << shape.ratio << " tokens " << t;
      ASSERT_EQ(state.scores(), scores) << "ratio " << shape.ratio << " tokens " << t;
      if (t == sequence.tokens) break;
      state.push(N::kNumerics, t, sequence.values.data() + t * projected,
                 sequence.scores.data() + t * projected,
                 sequence.bias.data() + t % shape.ratio * projected, entry.data());
    }
  }
}

TEST(CompressorState, HasThePublishedSizes) {
  const CompressorShape csa{.ratio = 4, .width = 512, .overlap = true};
  const CompressorShape indexer{.ratio = 4, .width = 128, .overlap = true};
  const CompressorShape hca{.ratio = 128, .width = 512};
  EXPECT_EQ(CompressorState<float>(csa).bytes(), 65'536);
  EXPECT_EQ(CompressorState<float>(indexer).bytes(), 16'384);
  EXPECT_EQ(CompressorState<float>(hca).bytes(), 524'288);
  EXPECT_EQ(CompressorState<double>(hca).bytes(), 524'288);  // as kept, not as computed
}

}  // namespace
}  // namespace foretoken::reference
