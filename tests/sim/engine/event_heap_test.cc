#include "sim/engine/event_heap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace foretoken::engine {
namespace {

using base::Seconds;

constexpr std::uint32_t kTasks = 50;

TEST(EventHeap, GivesTheEarliestFirstAndTheLowestIdOnATie) {
  EventHeap heap;
  heap.reset(4);
  heap.set(3, Seconds{1.0});
  heap.set(0, Seconds{2.0});
  heap.set(2, Seconds{1.0});
  heap.set(1, Seconds{0.5});
  std::vector<task::TaskId> order;
  while (!heap.empty()) order.push_back(heap.pop());
  EXPECT_THAT(order, testing::ElementsAre(1, 2, 3, 0));
}

TEST(EventHeap, ResetForgetsEvents) {
  EventHeap heap;
  heap.reset(1);
  heap.set(0, Seconds{1.0});
  heap.reset(2);
  EXPECT_TRUE(heap.empty());
}

TEST(EventHeap, AgreesWithASortedListWhileTimesMove) {
  std::mt19937_64 random(7);
  EventHeap heap;
  heap.reset(kTasks);
  std::map<task::TaskId, double> expected;
  for (int i = 0; i < 20000; ++i) {
    if (random() % 3 != 0) {
      const auto id = static_cast<task::TaskId>(random() % kTasks);
      const auto time = static_cast<double>(random() % 100);
      heap.set(id, Seconds{time});
      expected[id] = time;
    } else if (!expected.empty()) {
      const auto first =
          std::min_element(expected.begin(), expected.end(),
                           [](const auto& a, const auto& b) { return a.second < b.second; });
      ASSERT_EQ(heap.top_time(), Seconds{first->second});
      ASSERT_EQ(heap.pop(), first->first);
      expected.erase(first);
    }
    ASSERT_EQ(heap.empty(), expected.empty());
  }
}

}  // namespace
}  // namespace foretoken::engine
