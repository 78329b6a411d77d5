#include "sim/task/timeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/sim/task/graph_spec.h"

namespace foretoken::task {
namespace {

using foretoken::test_support::GraphSpec;
using namespace base::literals;

TEST(Timeline, BusyTimeIsTheDemandOfAllRepetitions) {
  GraphSpec spec{.resources = 2, .queues = 1, .segments = {}};
  spec.segments.push_back({.tasks = {{.demands = {{0, 1_us}, {1, 2_us}}}}, .repeat = 3});
  spec.segments.push_back({.tasks = {{.demands = {{0, 4_us}}}}, .repeat = 2});
  Timeline timeline;
  reset(timeline, build(spec));
  EXPECT_DOUBLE_EQ(timeline.busy[0].value(), 11e-6);
  EXPECT_DOUBLE_EQ(timeline.busy[1].value(), 6e-6);
}

TEST(Timeline, ResetForgetsTheGraphBefore) {
  Timeline timeline;
  timeline.total = 1_s;
  timeline.critical = {1_s, 1_s, 1_s, 1_s, 1_s};
  timeline.label_time.assign(9, 1_s);
  reset(timeline, foretoken::test_support::build(2, 1, {{.label = 1}}));
  EXPECT_EQ(timeline.total, 0_s);
  EXPECT_THAT(timeline.critical, testing::ElementsAre(0_s, 0_s, 0_s));
  EXPECT_THAT(timeline.label_time, testing::ElementsAre(0_s, 0_s));
  EXPECT_EQ(timeline.tasks.size(), 1u);
  EXPECT_EQ(timeline.segments.size(), 1u);
}

}  // namespace
}  // namespace foretoken::task
