#include "workloads/positions.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "workloads/plan.h"

namespace foretoken::workloads {
namespace {

TEST(Positions, VisibleEntriesFollowThePublishedTable) {
  struct Row {
    std::int64_t t, window_first, csa, hca;
  };
  for (const Row& row : std::vector<Row>{{0, 0, 0, 0},
                                         {2, 0, 0, 0},
                                         {3, 0, 1, 0},
                                         {7, 0, 2, 0},
                                         {126, 0, 31, 0},
                                         {127, 0, 32, 1},
                                         {128, 1, 32, 1},
                                         {255, 128, 64, 2},
                                         {256, 129, 64, 2}}) {
    const Positions p{{Span{1, row.t, 1}}};
    EXPECT_EQ(p.entries(4), row.csa) << row.t;
    EXPECT_EQ(p.entries(128), row.hca) << row.t;
    EXPECT_EQ(p.entries_capped(1, 128), row.t - row.window_first + 1) << row.t;
    EXPECT_EQ(p.distinct_window(128), row.t - row.window_first + 1) << row.t;
  }
}

TEST(Positions, WindowKeysOfAPromptAreTheClosedForm) {
  for (const std::int64_t s : {128, 129, 1000, 100'000}) {
    EXPECT_EQ((Positions{{Span{1, 0, s}}}.entries_capped(1, 128)), 128 * s - 8128) << s;
  }
}

TEST(Positions, SumsAgreeWithWalkingOverEveryQuery) {
  std::mt19937_64 random(20261122);
  const auto draw = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (int trial = 0; trial < 3000; ++trial) {
    Positions p;
    for (Span& s : p.spans) {
      s = {draw(0, 4), draw(0, trial % 2 == 0 ? 40 : 3000), draw(0, trial % 3 == 0 ? 5 : 600)};
    }
    const std::int64_t m = trial % 4 == 0 ? 1 : draw(1, 130);
    const std::int64_t cap = draw(1, 300);
    const std::int64_t window = draw(1, 200);
    const std::int64_t tail = draw(0, 400);
    std::int64_t tokens = 0, entries = 0, capped = 0, emitted = 0, distinct = 0,
                 distinct_capped = 0;
    std::int64_t distinct_window = 0, tail_entries = 0;
    for (const Span& s : p.spans) {
      std::set<std::int64_t> seen;
      std::int64_t last_sees = 0;
      for (std::int64_t t = s.first; t < s.first + s.tokens; ++t) {
        tokens += s.sequences;
        entries += s.sequences * ((t + 1) / m);
        capped += s.sequences * std::min((t + 1) / m, cap);
        emitted += s.sequences * ((t + 1) % m == 0 ? 1 : 0);
        last_sees = (t + 1) / m;
        for (std::int64_t k = std::max<std::int64_t>(0, t - window + 1); k <= t; ++k)
          seen.insert(k);
        if (t >= s.first + s.tokens - tail) tail_entries += s.sequences * ((t + 1) / m);
      }
      if (s.tokens > 0) {
        distinct += s.sequences * last_sees;
        distinct_capped += s.sequences * std::min(last_sees, cap);
        distinct_window += s.sequences * static_cast<std::int64_t>(seen.size());
      }
    }
    ASSERT_EQ(p.tokens(), tokens);
    ASSERT_EQ(p.entries(m), entries);
    ASSERT_EQ(p.entries_capped(m, cap), capped);
    ASSERT_EQ(p.emitted(m), emitted);
    ASSERT_EQ(p.distinct(m), distinct);
    ASSERT_EQ(p.distinct_capped(m, cap), distinct_capped);
    ASSERT_EQ(p.distinct_window(window), distinct_window);
    ASSERT_EQ(p.last(tail).entries(m), tail_entries);
    // Cutting at any two positions loses and repeats nothing.
    const std::int64_t a = draw(0, 2000), b = a + draw(0, 2000);
    ASSERT_EQ(
        p.between(0, a).entries(m) + p.between(a, b).entries(m) + p.between(b, 10'000).entries(m),
        entries);
    ASSERT_EQ(p.between(a, b).tokens() + p.between(0, a).tokens() + p.between(b, 10'000).tokens(),
              tokens);
  }
}

TEST(Share, DealsEvenlyInOrderAndLosesNothing) {
  std::mt19937_64 random(7);
  for (int trial = 0; trial < 2000; ++trial) {
    const std::int64_t total = std::uniform_int_distribution<std::int64_t>(0, 5000)(random);
    const std::int64_t parts = std::uniform_int_distribution<std::int64_t>(1, 97)(random);
    std::int64_t sum = 0, largest = 0;
    for (std::int64_t i = 0; i < parts; ++i) {
      const std::int64_t mine = share(total, parts, i);
      ASSERT_GE(mine, total / parts);
      ASSERT_LE(mine, (total + parts - 1) / parts);
      largest = std::max(largest, mine);
      sum += mine;
    }
    ASSERT_EQ(sum, total);
    ASSERT_EQ(share(total, parts, parts - 1), largest);
  }
}

}  // namespace
}  // namespace foretoken::workloads
