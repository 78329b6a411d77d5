#include "sim/task/estimate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/sim/task/allocation_counter.h"
#include "tests/sim/task/graph_spec.h"

namespace foretoken::task {
namespace {

using base::Seconds;
using foretoken::test_support::build;
using foretoken::test_support::GraphSpec;
using foretoken::test_support::random_spec;
using foretoken::test_support::TaskSpec;
using namespace base::literals;

constexpr std::uint32_t kWaves = 10;

Timeline estimated(const TaskGraph& graph) {
  Timeline out;
  estimate(graph, out);
  return out;
}

double sum(const std::vector<Seconds>& times) {
  return std::accumulate(times.begin(), times.end(), Seconds{}).value();
}

TEST(Estimate, AnEmptyGraphTakesNoTime) {
  EXPECT_EQ(estimated(build(GraphSpec{})).total, 0_s);
  EXPECT_EQ(estimated(build(1, 1, {})).total, 0_s);
}

TEST(Estimate, ATaskTakesItsLatencyAndItsLargestDemand) {
  const Timeline t = estimated(build(2, 1, {{.latency = 1_us, .demands = {{0, 2_us}, {1, 3_us}}}}));
  EXPECT_DOUBLE_EQ(t.total.value(), 4e-6);
  EXPECT_EQ(t.tasks[0].start, 0_s);
  EXPECT_EQ(t.tasks[0].end, t.total);
  EXPECT_DOUBLE_EQ(t.critical[0].value(), 0.0);
  EXPECT_DOUBLE_EQ(t.critical[1].value(), 3e-6);
  EXPECT_DOUBLE_EQ(t.critical[2].value(), 1e-6);
}

TEST(Estimate, TasksOfOneQueueRunInOrder) {
  const Timeline t = estimated(build(
      1, 1,
      {{.latency = 1_us, .demands = {{0, 2_us}}}, {.latency = 1_us}, {.demands = {{0, 4_us}}}}));
  EXPECT_DOUBLE_EQ(t.tasks[1].start.value(), 3e-6);
  EXPECT_DOUBLE_EQ(t.tasks[2].start.value(), 4e-6);
  EXPECT_DOUBLE_EQ(t.total.value(), 8e-6);
}

TEST(Estimate, AJoinWaitsForTheSlowestBranch) {
  const Timeline t =
      estimated(build(4, 4,
                      {{.queue = 0, .demands = {{0, 1_us}}},
                       {.queue = 1, .demands = {{1, 5_us}}, .after = {0}, .label = 1},
                       {.queue = 2, .demands = {{2, 3_us}}, .after = {0}, .label = 2},
                       {.queue = 3, .demands = {{3, 2_us}}, .after = {1, 2}, .label = 3}}));
  EXPECT_DOUBLE_EQ(t.total.value(), 8e-6);
  EXPECT_DOUBLE_EQ(t.label_time[0].value(), 1e-6);
  EXPECT_DOUBLE_EQ(t.label_time[1].value(), 5e-6);
  EXPECT_DOUBLE_EQ(t.label_time[2].value(), 0.0);
  EXPECT_DOUBLE_EQ(t.label_time[3].value(), 2e-6);
}

// Wave i is sent while wave i - 1 is computed: one wave of the faster side is left uncovered.
TEST(Estimate, WavesOnTwoQueuesTakeTheSlowerSidePlusOneWaveOfTheOther) {
  for (const auto& [send, compute] : {std::pair{2_us, 3_us}, {3_us, 2_us}, {2_us, 2_us}}) {
    std::vector<TaskSpec> tasks;
    for (task::TaskId i = 0; i < kWaves; ++i) {
      tasks.push_back({.queue = 0, .demands = {{0, send}}});
      tasks.push_back({.queue = 1, .demands = {{1, compute}}, .after = {2 * i}});
    }
    const double expected =
        kWaves * std::max(send, compute).value() + std::min(send, compute).value();
    EXPECT_NEAR(estimated(build(2, 2, tasks)).total.value(), expected, 1e-18);
  }
}

TEST(Estimate, SegmentsRunOneAfterAnotherAndRepeat) {
  GraphSpec spec;
  spec.segments.push_back(
      {.tasks = {{.latency = 1_us, .demands = {{0, 2_us}}, .label = 1}}, .repeat = 10});
  spec.segments.push_back({.tasks = {}, .repeat = 5});
  spec.segments.push_back({.tasks = {{.demands = {{0, 4_us}}, .label = 2}}, .repeat = 1});
  const Timeline t = estimated(build(spec));
  EXPECT_DOUBLE_EQ(t.total.value(), 34e-6);
  EXPECT_DOUBLE_EQ(t.segments[0].duration.value(), 3e-6);
  EXPECT_DOUBLE_EQ(t.segments[1].duration.value(), 0.0);
  EXPECT_DOUBLE_EQ(t.segments[2].duration.value(), 4e-6);
  EXPECT_EQ(t.tasks[1].start, 0_s);
  EXPECT_DOUBLE_EQ(t.busy[0].value(), 24e-6);
  EXPECT_DOUBLE_EQ(t.critical[0].value(), 24e-6);
  EXPECT_DOUBLE_EQ(t.critical[1].value(), 10e-6);
  EXPECT_DOUBLE_EQ(t.label_time[1].value(), 30e-6);
  EXPECT_DOUBLE_EQ(t.label_time[2].value(), 4e-6);
}

TEST(Estimate, ASegmentIsNeverShorterThanTheDemandOnOneResource) {
  const Timeline t = estimated(
      build(2, 2,
            {{.queue = 0, .latency = 1_us, .demands = {{0, 2_us}}, .label = 1},
             {.queue = 1, .latency = 2_us, .demands = {{0, 2_us}, {1, 3_us}}, .label = 2}}));
  EXPECT_DOUBLE_EQ(t.total.value(), 5e-6);  // the path; the demand of 4 us is less

  const Timeline raised =
      estimated(build(2, 2,
                      {{.queue = 0, .latency = 1_us, .demands = {{0, 2_us}}, .label = 1},
                       {.queue = 1, .latency = 1_us, .demands = {{0, 4_us}, {1, 1_us}}, .label = 2},
                       {.queue = 0, .demands = {{0, 3_us}}, .label = 1}}));
  EXPECT_DOUBLE_EQ(raised.total.value(), 9e-6);  // the path is 6 us
  EXPECT_DOUBLE_EQ(raised.critical[0].value(), 8e-6);
  EXPECT_DOUBLE_EQ(raised.critical[2].value(), 1e-6);
  EXPECT_DOUBLE_EQ(raised.label_time[1].value(), 9e-6);
  EXPECT_DOUBLE_EQ(raised.label_time[2].value(), 0.0);
}

TEST(Estimate, WhatIsCriticalAddsUpToTheTotal) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const Timeline t = estimated(build(random_spec(seed)));
    const double rounding = 1e-12 * t.total.value();
    EXPECT_NEAR(sum(t.critical), t.total.value(), rounding) << "seed " << seed;
    EXPECT_NEAR(sum(t.label_time), t.total.value(), rounding) << "seed " << seed;
    for (const Seconds busy : t.busy) EXPECT_LE(busy.value(), t.total.value()) << "seed " << seed;
  }
}

TEST(Estimate, TimesScaleWithTheGraph) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const GraphSpec spec = random_spec(seed);
    const double once = estimated(build(spec)).total.value();
    EXPECT_DOUBLE_EQ(estimated(build(scaled(spec, 8.0))).total.value(), 8.0 * once);
  }
}

TEST(Estimate, OneTimelineServesManyGraphs) {
  Timeline reused;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const TaskGraph graph = build(random_spec(seed));
    estimate(graph, reused);
    const Timeline fresh = estimated(graph);
    EXPECT_EQ(reused.total, fresh.total);
    EXPECT_EQ(reused.critical, fresh.critical);
    EXPECT_EQ(reused.label_time, fresh.label_time);
    EXPECT_EQ(reused.busy, fresh.busy);
  }
}

TEST(Estimate, RepeatedCallsDoNotTouchTheHeap) {
  const TaskGraph large = build(random_spec(1, {.segments = 7, .max_tasks = 40}));
  const TaskGraph small = build(random_spec(2, {.segments = 2, .max_tasks = 10}));
  Timeline out;
  estimate(large, out);
  const auto before = foretoken::test_support::allocations();
  for (int i = 0; i < 1000; ++i) {
    estimate(large, out);
    estimate(small, out);
  }
  EXPECT_EQ(foretoken::test_support::allocations().made, before.made);
}

}  // namespace
}  // namespace foretoken::task
