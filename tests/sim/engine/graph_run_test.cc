#include "sim/engine/graph_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/sim/task/graph_spec.h"

namespace foretoken::engine {
namespace {

using base::Seconds;
using foretoken::test_support::build;
using foretoken::test_support::GraphSpec;
using testing::ElementsAre;
using testing::IsEmpty;
using namespace base::literals;

std::vector<Seconds> event_times(const task::TaskGraph& graph, bool expand_repeats = false) {
  GraphRun run;
  task::Timeline timeline;
  std::vector<Seconds> times;
  for (run.begin(graph, timeline, expand_repeats); !run.done(); run.step()) {
    times.push_back(run.next_time());
  }
  return times;
}

TEST(GraphRun, HasAnEventWhereALatencyEndsAndWhereATaskFinishes) {
  EXPECT_THAT(event_times(build(1, 1, {{.latency = 1_s, .demands = {{0, 2_s}}}})),
              ElementsAre(1_s, 3_s));
  EXPECT_THAT(event_times(build(1, 1, {{.demands = {{0, 2_s}}}})), ElementsAre(2_s));
  EXPECT_THAT(event_times(build(1, 1, {{.latency = 1_s}})), ElementsAre(1_s));
}

TEST(GraphRun, IsDoneAtOnceWhenNothingTakesTime) {
  EXPECT_THAT(event_times(build(GraphSpec{})), IsEmpty());
  EXPECT_THAT(event_times(build(1, 1, {{}, {}, {}})), IsEmpty());
}

TEST(GraphRun, HandlesEventsOfOneTimeTogether) {
  EXPECT_THAT(event_times(build(2, 2,
                                {{.queue = 0, .demands = {{0, 1_s}}},
                                 {.queue = 1, .demands = {{1, 1_s}}},
                                 {.queue = 0, .demands = {{0, 1_s}}}})),
              ElementsAre(1_s, 2_s));
}

TEST(GraphRun, RunsOneRepetitionUnlessToldToExpand) {
  GraphSpec spec;
  spec.segments.push_back({.tasks = {{.demands = {{0, 1_s}}}}, .repeat = 3});
  spec.segments.push_back({.tasks = {{}}, .repeat = 2});
  spec.segments.push_back({.tasks = {{.latency = 2_s}}, .repeat = 2});
  EXPECT_THAT(event_times(build(spec)), ElementsAre(1_s, 3_s));
  EXPECT_THAT(event_times(build(spec), true), ElementsAre(1_s, 2_s, 3_s, 5_s, 7_s));
}

TEST(GraphRun, CanBeginAgainBeforeItIsDone) {
  const task::TaskGraph graph =
      build(1, 2, {{.queue = 0, .demands = {{0, 1_s}}}, {.queue = 1, .demands = {{0, 1_s}}}});
  GraphRun run;
  task::Timeline timeline;
  run.begin(graph, timeline, false);
  run.begin(graph, timeline, false);
  EXPECT_EQ(run.next_time(), 2_s);
  run.step();
  EXPECT_TRUE(run.done());
  EXPECT_EQ(timeline.total, 2_s);
}

}  // namespace
}  // namespace foretoken::engine
