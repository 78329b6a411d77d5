#include "sim/task/critical_path.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/sim/task/graph_spec.h"

namespace foretoken::task {
namespace {

using foretoken::test_support::build;
using testing::ElementsAre;
using testing::IsEmpty;
using namespace base::literals;

// Ends of tasks that started when they could.
std::vector<TaskTimes> times_of(const TaskGraph& graph, const std::vector<base::Seconds>& ends) {
  std::vector<TaskTimes> times(ends.size());
  for (TaskId id = 0; id < times.size(); ++id) {
    const Readiness ready = readiness(graph, graph.tasks()[id], times.data());
    times[id].start = ready.time;
    times[id].end = ends[id];
    times[id].waited_for = ready.waited_for;
  }
  return times;
}

std::vector<TaskId> path(const TaskGraph& graph, const std::vector<base::Seconds>& ends) {
  const std::vector<TaskTimes> times = times_of(graph, ends);
  std::vector<TaskId> visited;
  walk_critical_path(times, last_task(graph.segments()[0], times),
                     [&](TaskId id) { visited.push_back(id); });
  return visited;
}

TEST(CriticalPath, FollowsTheDependencyThatFinishedLast) {
  const TaskGraph graph = build(0, 3, {{.queue = 0}, {.queue = 1}, {.queue = 2, .after = {0, 1}}});
  EXPECT_THAT(path(graph, {1_us, 2_us, 3_us}), ElementsAre(2, 1));
  EXPECT_THAT(path(graph, {2_us, 1_us, 3_us}), ElementsAre(2, 0));
}

TEST(CriticalPath, FollowsTheQueueWhereItWasTheLastToLetGo) {
  const TaskGraph graph = build(0, 2, {{.queue = 0}, {.queue = 1}, {.queue = 0, .after = {1}}});
  EXPECT_THAT(path(graph, {2_us, 1_us, 3_us}), ElementsAre(2, 0));
  EXPECT_EQ(times_of(graph, {2_us, 1_us, 3_us})[2].start, 2_us);
}

TEST(CriticalPath, PrefersTheQueueThenTheFirstDependencyOnATie) {
  const TaskGraph graph = build(0, 4,
                                {{.queue = 0},
                                 {.queue = 1},
                                 {.queue = 2},
                                 {.queue = 0, .after = {1, 2}},
                                 {.queue = 3, .after = {2, 1}}});
  const std::vector<TaskTimes> times = times_of(graph, {1_us, 1_us, 1_us, 2_us, 2_us});
  EXPECT_EQ(times[3].waited_for, 0u);
  EXPECT_EQ(times[4].waited_for, 2u);
}

TEST(CriticalPath, KnowsADependencyThatTookNoTime) {
  const TaskGraph graph = build(0, 2, {{.queue = 0}, {.queue = 1, .after = {0}}});
  EXPECT_THAT(path(graph, {0_us, 1_us}), ElementsAre(1, 0));
}

TEST(CriticalPath, EndsWithTheLowestIdOfThoseThatFinishLast) {
  const TaskGraph graph = build(0, 3, {{.queue = 0}, {.queue = 1}, {.queue = 2}});
  EXPECT_THAT(path(graph, {1_us, 2_us, 2_us}), ElementsAre(1));
}

TEST(CriticalPath, OfAnEmptySegmentIsEmpty) { EXPECT_THAT(path(build(0, 1, {}), {}), IsEmpty()); }

}  // namespace
}  // namespace foretoken::task
