#include "sim/task/task_graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "tests/sim/task/allocation_counter.h"

namespace foretoken::task {
namespace {

using base::Seconds;
using namespace base::literals;

TaskGraph two_resources() { return TaskGraph({"matrix", "memory"}, 2); }

TEST(TaskGraph, KnowsTheLargestDemandAndItsResource) {
  TaskGraph graph = two_resources();
  graph.begin_segment(0, 1);
  const std::array demands{Demand{0, 2_us}, Demand{1, 3_us}};
  const TaskId id = graph.add(0, 0, 1_us, demands, {});
  EXPECT_EQ(graph.tasks()[id].service, 3_us);
  EXPECT_EQ(graph.tasks()[id].bottleneck, 1u);
}

TEST(TaskGraph, NamesTheFirstOfTwoEqualDemands) {
  TaskGraph graph = two_resources();
  graph.begin_segment(0, 1);
  const std::array demands{Demand{1, 2_us}, Demand{0, 2_us}};
  const TaskId id = graph.add(0, 0, {}, demands, {});
  EXPECT_EQ(graph.tasks()[id].bottleneck, 1u);
}

TEST(TaskGraph, DropsDemandsOfZero) {
  TaskGraph graph = two_resources();
  graph.begin_segment(0, 1);
  const std::array demands{Demand{0, 0_us}, Demand{1, 0_us}};
  const TaskId id = graph.add(0, 0, 1_us, demands, {});
  EXPECT_TRUE(graph.demands(graph.tasks()[id]).empty());
  EXPECT_EQ(graph.tasks()[id].service, 0_us);
}

TEST(TaskGraph, AddsUpDemandsOfOneTaskOnOneResource) {
  TaskGraph graph = two_resources();
  graph.begin_segment(0, 1);
  const std::array demands{Demand{0, 2_us}, Demand{1, 3_us}, Demand{0, 4_us}};
  const TaskId first = graph.add(0, 0, {}, demands, {});
  const TaskId second = graph.add(0, 0, {}, demands, {});
  for (const TaskId id : {first, second}) {
    const Task& task = graph.tasks()[id];
    ASSERT_EQ(graph.demands(task).size(), 2u);
    EXPECT_DOUBLE_EQ(graph.demands(task)[0].busy.value(), 6e-6);
    EXPECT_EQ(task.service, graph.demands(task)[0].busy);
  }
}

TEST(TaskGraph, AddsUpDemandsAfterClear) {
  TaskGraph graph = two_resources();
  const std::array demands{Demand{1, 1_us}, Demand{0, 2_us}};
  for (int build = 0; build < 3; ++build) {
    graph.clear();
    graph.begin_segment(0, 1);
    const TaskId id = graph.add(0, 0, {}, demands, {});
    ASSERT_EQ(graph.demands(graph.tasks()[id]).size(), 2u);
    EXPECT_EQ(graph.segment_demand(0)[0], 2_us);
    EXPECT_EQ(graph.segment_demand(0)[1], 1_us);
  }
}

TEST(TaskGraph, LinksEachTaskToTheOneBeforeItInItsQueue) {
  TaskGraph graph = two_resources();
  graph.begin_segment(0, 1);
  const TaskId a = graph.add(0, 0, {}, {}, {});
  const TaskId b = graph.add(0, 1, {}, {}, {});
  const TaskId c = graph.add(0, 0, {}, {}, {});
  EXPECT_EQ(graph.tasks()[a].queue_predecessor, kNoTask);
  EXPECT_EQ(graph.tasks()[b].queue_predecessor, kNoTask);
  EXPECT_EQ(graph.tasks()[c].queue_predecessor, a);
}

TEST(TaskGraph, QueuesStartAfreshInEachSegment) {
  TaskGraph graph = two_resources();
  graph.begin_segment(0, 1);
  graph.add(0, 0, {}, {}, {});
  graph.begin_segment(0, 1);
  const TaskId id = graph.add(0, 0, {}, {}, {});
  EXPECT_EQ(graph.tasks()[id].queue_predecessor, kNoTask);
}

TEST(TaskGraph, SumsTheDemandOfEachSegment) {
  TaskGraph graph = two_resources();
  const std::array demands{Demand{0, 1_us}, Demand{1, 2_us}};
  graph.begin_segment(0, 5);
  graph.add(0, 0, {}, demands, {});
  graph.add(0, 1, {}, demands, {});
  graph.begin_segment(0, 1);
  graph.add(0, 0, {}, std::span(demands).first(1), {});
  EXPECT_THAT(graph.segment_demand(0), testing::ElementsAre(2_us, 4_us));
  EXPECT_THAT(graph.segment_demand(1), testing::ElementsAre(1_us, 0_us));
}

TEST(TaskGraph, CountsTheLabelsOfTasksAndSegments) {
  TaskGraph graph = two_resources();
  EXPECT_EQ(graph.label_count(), 0u);
  graph.begin_segment(2, 1);
  EXPECT_EQ(graph.label_count(), 3u);
  graph.add(7, 0, {}, {}, {});
  EXPECT_EQ(graph.label_count(), 8u);
  graph.clear();
  EXPECT_EQ(graph.label_count(), 0u);
}

TEST(TaskGraph, KeepsDependenciesAndSegmentsInOrder) {
  TaskGraph graph = two_resources();
  graph.begin_segment(1, 3);
  const TaskId a = graph.add(0, 0, {}, {}, {});
  const TaskId b = graph.add(0, 1, {}, {}, {});
  const std::array after{b, a};
  const TaskId c = graph.add(0, 0, {}, {}, after);
  EXPECT_THAT(graph.dependencies(graph.tasks()[c]), testing::ElementsAre(b, a));
  ASSERT_EQ(graph.segments().size(), 1u);
  EXPECT_EQ(graph.segments()[0].first, 0u);
  EXPECT_EQ(graph.segments()[0].count, 3u);
  EXPECT_EQ(graph.segments()[0].repeat, 3u);
  EXPECT_EQ(graph.segments()[0].label, 1u);
}

TEST(TaskGraph, RebuildingAGraphOfTheSameShapeDoesNotTouchTheHeap) {
  TaskGraph graph = two_resources();
  const std::array demands{Demand{0, 1_us}, Demand{1, 2_us}};
  const auto rebuild = [&] {
    graph.clear();
    for (int s = 0; s < 7; ++s) {
      graph.begin_segment(0, 2);
      TaskId last = graph.add(0, 0, 1_us, demands, {});
      for (int i = 0; i < 25; ++i) last = graph.add(1, 1, 1_us, demands, std::array{last});
    }
  };
  rebuild();
  const auto before = foretoken::test_support::allocations();
  for (int i = 0; i < 100; ++i) rebuild();
  EXPECT_EQ(foretoken::test_support::allocations().made, before.made);
}

#ifndef NDEBUG
TEST(TaskGraphDeathTest, RejectsWhatIsNoTask) {
  TaskGraph graph = two_resources();
  EXPECT_DEATH(graph.add(0, 0, {}, {}, {}), "segments_");
  graph.begin_segment(0, 1);
  const TaskId first = graph.add(0, 0, {}, {}, {});
  graph.begin_segment(0, 1);
  EXPECT_DEATH(graph.add(0, 0, {}, {}, std::array{first}), "dependency");
  EXPECT_DEATH(graph.add(0, 0, {}, {}, std::array{TaskId{1}}), "dependency");
  EXPECT_DEATH(graph.add(0, 2, {}, {}, {}), "queue");
  EXPECT_DEATH(graph.add(0, 0, Seconds{-1.0}, {}, {}), "latency");
  const Seconds never{std::numeric_limits<double>::infinity()};
  EXPECT_DEATH(graph.add(0, 0, {}, std::array{Demand{0, never}}, {}), "busy");
  EXPECT_DEATH(graph.add(0, 0, {}, std::array{Demand{2, 1_us}}, {}), "resource");
  EXPECT_DEATH(graph.begin_segment(0, 0), "repeat");
}
#endif

}  // namespace
}  // namespace foretoken::task
