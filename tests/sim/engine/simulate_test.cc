#include "sim/engine/simulate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <stdexcept>
#include <systemc>

#include "sim/task/estimate.h"
#include "tests/sim/task/allocation_counter.h"
#include "tests/sim/task/graph_spec.h"

namespace foretoken::engine {
namespace {

using base::Seconds;
using foretoken::test_support::build;
using foretoken::test_support::GraphSpec;
using foretoken::test_support::random_spec;
using foretoken::test_support::RandomShape;
using foretoken::test_support::TaskSpec;
using task::TaskGraph;
using task::TaskId;
using task::Timeline;
using namespace base::literals;

constexpr Seconds kPicosecond{1e-12};
constexpr std::uint32_t kWaves = 10;

Timeline simulated(const TaskGraph& graph, const SimulateOptions& options = {}) {
  Timeline out;
  simulate(graph, out, options);
  return out;
}

Timeline estimated(const TaskGraph& graph) {
  Timeline out;
  task::estimate(graph, out);
  return out;
}

double sum(const std::vector<Seconds>& times) {
  return std::accumulate(times.begin(), times.end(), Seconds{}).value();
}

// Equal, but for the rounding of doubles.
void expect_time(Seconds actual, Seconds expected) {
  EXPECT_NEAR(actual.value(), expected.value(), 1e-12 * expected.value());
}

// The kernel's clock, at its default resolution.
sc_dt::uint64 picoseconds() { return sc_core::sc_time_stamp().value(); }

// --- closed forms ---

TEST(Engine, AnEmptyGraphTakesNoTime) {
  Timeline out;
  EXPECT_EQ(simulate(build(GraphSpec{}), out).events, 0u);
  EXPECT_EQ(out.total, 0_s);
  EXPECT_EQ(simulate(build(1, 1, {}), out).events, 0u);
  EXPECT_EQ(out.total, 0_s);
}

TEST(Engine, TasksThatTakeNoTimeFinishAtOnce) {
  const Timeline t = simulated(build(1, 2, {{.queue = 0}, {.queue = 1, .after = {0}}}));
  EXPECT_EQ(t.total, 0_s);
  EXPECT_EQ(t.tasks[1].end, 0_s);
}

TEST(Engine, AChainTakesTheSumOfItsParts) {
  const Timeline t = simulated(build(2, 1,
                                     {{.latency = 1_us, .demands = {{0, 2_us}}},
                                      {.latency = 1_us},
                                      {.demands = {{0, 1_us}, {1, 4_us}}}}));
  expect_time(t.tasks[1].start, 3_us);
  expect_time(t.tasks[2].start, 4_us);
  expect_time(t.total, 8_us);
  expect_time(t.critical[0], 2_us);
  expect_time(t.critical[1], 4_us);
  expect_time(t.critical[2], 2_us);
}

TEST(Engine, AJoinWaitsForTheSlowestBranch) {
  const Timeline t =
      simulated(build(4, 4,
                      {{.queue = 0, .demands = {{0, 1_us}}},
                       {.queue = 1, .demands = {{1, 5_us}}, .after = {0}, .label = 1},
                       {.queue = 2, .demands = {{2, 3_us}}, .after = {0}, .label = 2},
                       {.queue = 3, .demands = {{3, 2_us}}, .after = {1, 2}, .label = 3}}));
  expect_time(t.tasks[3].start, 6_us);
  expect_time(t.total, 8_us);
  expect_time(t.label_time[1], 5_us);
  EXPECT_EQ(t.label_time[2], 0_us);
}

// Wave i is sent while wave i - 1 is computed: one wave of the faster side is left uncovered.
TEST(Engine, WavesOnTwoQueuesTakeTheSlowerSidePlusOneWaveOfTheOther) {
  for (const auto& [send, compute] : {std::pair{2_us, 3_us}, {3_us, 2_us}, {2_us, 2_us}}) {
    std::vector<TaskSpec> tasks;
    for (TaskId i = 0; i < kWaves; ++i) {
      tasks.push_back({.queue = 0, .demands = {{0, send}}});
      tasks.push_back({.queue = 1, .demands = {{1, compute}}, .after = {2 * i}});
    }
    expect_time(simulated(build(2, 2, tasks)).total,
                kWaves * std::max(send, compute) + std::min(send, compute));
  }
}

// --- sharing ---

TEST(Engine, TwoTasksShareAResourceEqually) {
  const Timeline t = simulated(
      build(1, 2, {{.queue = 0, .demands = {{0, 1_us}}}, {.queue = 1, .demands = {{0, 1_us}}}}));
  expect_time(t.tasks[0].end, 2_us);
  expect_time(t.tasks[1].end, 2_us);
}

TEST(Engine, TheLongerTaskSpeedsUpWhenTheShorterOneFinishes) {
  const Timeline t = simulated(
      build(1, 2, {{.queue = 0, .demands = {{0, 1_us}}}, {.queue = 1, .demands = {{0, 3_us}}}}));
  expect_time(t.tasks[0].end, 2_us);
  expect_time(t.tasks[1].end, 4_us);
}

TEST(Engine, ATaskThatNeedsHalfAResourceLeavesTheOtherHalf) {
  const Timeline t = simulated(build(3, 2,
                                     {{.queue = 0, .demands = {{0, 1_us}, {1, 2_us}}},
                                      {.queue = 1, .demands = {{0, 1_us}, {2, 2_us}}}}));
  expect_time(t.total, 2_us);
}

// By hand, speeds of tasks 0, 1, 2:
//   0 to 2 us:   resource 0 is full at 1/2, 1/2; resource 1 leaves 3/4 to task 2. Task 0 is done.
//   2 to 3.5 us: resource 1 (1/2 of task 1's speed, all of task 2's) is full at 2/3. Task 1 is
//   done. 3.5 to 4 us: task 2 serves its last 0.5 us alone.
TEST(Engine, ThreeTasksOnTwoResourcesShareMaxMinFairly) {
  const Timeline t = simulated(build(2, 3,
                                     {{.queue = 0, .demands = {{0, 1_us}}, .label = 0},
                                      {.queue = 1, .demands = {{0, 2_us}, {1, 1_us}}, .label = 1},
                                      {.queue = 2, .demands = {{1, 3_us}}, .label = 2}}));
  expect_time(t.tasks[0].end, 2_us);
  expect_time(t.tasks[1].end, 3.5_us);
  expect_time(t.tasks[2].end, 4_us);
  expect_time(t.critical[1], 4_us);
  expect_time(t.label_time[2], 4_us);
}

TEST(Engine, LatencyHoldsNoResource) {
  const Timeline t = simulated(build(1, 2,
                                     {{.queue = 0, .demands = {{0, 2_us}}},
                                      {.queue = 1, .latency = 2_us, .demands = {{0, 1_us}}}}));
  expect_time(t.tasks[0].end, 2_us);
  expect_time(t.tasks[1].end, 3_us);
}

TEST(Engine, AResourceIsBusyAPicosecondBeforeATaskEndsAndFreeWhenItDoes) {
  const auto run = [](Seconds arrival) {
    return simulated(build(1, 2,
                           {{.queue = 0, .demands = {{0, 1_us}}},
                            {.queue = 1, .latency = arrival, .demands = {{0, 1_us}}}}));
  };
  const Timeline free = run(1_us);
  EXPECT_EQ(free.tasks[0].end, 1_us);
  expect_time(free.tasks[1].end, 2_us);
  // The last picosecond of the first task is shared, so it takes two.
  const Timeline busy = run(1_us - kPicosecond);
  EXPECT_NEAR(busy.tasks[0].end.value(), (1_us + kPicosecond).value(), 1e-15);
  EXPECT_NEAR(busy.tasks[1].end.value(), 2e-6, 1e-15);
}

TEST(Engine, TimeInServiceCountsForTheResourceThatSlowsATask) {
  // Memory is asked for 1.5 times its capacity: task 0, matrix-bound alone, ends at 3 us.
  const Timeline t = simulated(build(
      2, 2,
      {{.queue = 0, .demands = {{0, 2_us}, {1, 1_us}}}, {.queue = 1, .demands = {{1, 2_us}}}}));
  expect_time(t.total, 3_us);
  EXPECT_EQ(t.critical[0], 0_us);
  expect_time(t.critical[1], 3_us);
}

TEST(Engine, TimeAtFullSpeedCountsForTheLargestDemand) {
  // Slowed to 2/3 by memory for the first 1.5 us, then alone with 1 us of 2 us left.
  const Timeline t = simulated(build(
      2, 2,
      {{.queue = 0, .demands = {{0, 2_us}, {1, 1_us}}}, {.queue = 1, .demands = {{1, 1_us}}}}));
  expect_time(t.tasks[1].end, 1.5_us);
  expect_time(t.total, 2.5_us);
  expect_time(t.critical[0], 1_us);
  expect_time(t.critical[1], 1.5_us);
}

// --- the kernel ---

TEST(Engine, TheKernelsClockAdvancesByTheTimeSimulated) {
  Timeline out;
  const TaskGraph graph = build(1, 1, {{.latency = 1_us, .demands = {{0, 2_us}}}});
  for (int i = 0; i < 3; ++i) {
    const auto before = picoseconds();
    simulate(graph, out);
    EXPECT_EQ(picoseconds() - before, 3000000u);
  }
}

TEST(Engine, RoundingToPicosecondsDoesNotAddUp) {
  // Two thirds of a picosecond over each; rounded one by one they would gain 333 ps.
  const std::vector<TaskSpec> tasks(1000,
                                    TaskSpec{.latency = Seconds{(1000.0 + 2.0 / 3.0) * 1e-12}});
  const auto before = picoseconds();
  const Timeline t = simulated(build(0, 1, tasks));
  expect_time(t.total, Seconds{1000.0 * (1000.0 + 2.0 / 3.0) * 1e-12});
  EXPECT_EQ(picoseconds() - before, 1000667u);
}

TEST(Engine, TimesBelowAPicosecondAreKept) {
  const Timeline t =
      simulated(build(0, 1, {{.latency = Seconds{3e-13}}, {.latency = Seconds{3e-13}}}));
  expect_time(t.total, Seconds{6e-13});
}

TEST(Engine, WakesOncePerEvent) {
  Timeline out;
  // Three completions, two of them together.
  const TaskGraph graph = build(2, 2,
                                {{.queue = 0, .demands = {{0, 1_us}}},
                                 {.queue = 1, .demands = {{1, 2_us}}},
                                 {.queue = 0, .demands = {{0, 1_us}}}});
  EXPECT_EQ(simulate(graph, out).events, 2u);
}

TEST(Engine, ARunBeyondTheClockIsRefusedAndTheNextOneWorks) {
  Timeline out;
  const TaskGraph forever = build(0, 1, {{.latency = Seconds{300.0 * 86400.0}}});
  const TaskGraph too_long_later = build(0, 1, {{.latency = 1_us}, {.latency = Seconds{1e30}}});
  const TaskGraph brief = build(0, 1, {{.latency = 1_us}});
  EXPECT_THROW(simulate(forever, out), std::overflow_error);
  simulate(brief, out);
  expect_time(out.total, 1_us);
  EXPECT_THROW(simulate(too_long_later, out), std::overflow_error);
  simulate(brief, out);
  expect_time(out.total, 1_us);
}

TEST(Engine, KeepsSystemCReportsOffStdout) {
  simulated(build(0, 1, {{.latency = 1_us}}));
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  SC_REPORT_INFO("test", "a remark");
  SC_REPORT_WARNING("test", "a warning");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::AllOf(testing::HasSubstr("a warning"),
                             testing::Not(testing::HasSubstr("a remark"))));
}

TEST(Engine, ThousandsOfSimulationsInOneProcessDoNotGrow) {
  std::vector<TaskGraph> graphs;
  for (std::uint64_t seed = 0; seed < 20; ++seed) graphs.push_back(build(random_spec(seed)));
  Timeline out;
  const auto round = [&] {
    for (const TaskGraph& graph : graphs) {
      simulate(graph, out);
      simulate(graph, out, {.expand_repeats = true});
    }
  };
  for (int warm_up = 0; warm_up < 3; ++warm_up) round();
  const auto before = foretoken::test_support::allocations();
  for (int i = 0; i < 100; ++i) round();  // 4000 runs
  EXPECT_EQ(foretoken::test_support::allocations().live, before.live);
}

// --- properties over random graphs ---

template <class Check>
void for_each_random_graph(const RandomShape& shape, Check check) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    check(random_spec(seed, shape));
  }
}

TEST(EngineOnRandomGraphs, EqualsTheEstimateWithoutContention) {
  for_each_random_graph({.private_resources = true}, [](const GraphSpec& spec) {
    const TaskGraph graph = build(spec);
    const Timeline full = simulated(graph);
    const Timeline quick = estimated(graph);
    expect_time(full.total, quick.total);
    for (std::size_t i = 0; i < full.tasks.size(); ++i) {
      EXPECT_EQ(full.tasks[i].start, quick.tasks[i].start);
      EXPECT_EQ(full.tasks[i].end, quick.tasks[i].end);
      EXPECT_EQ(full.tasks[i].waited_for, quick.tasks[i].waited_for);
    }
    for (std::size_t i = 0; i < full.critical.size(); ++i) {
      EXPECT_NEAR(full.critical[i].value(), quick.critical[i].value(), 1e-12 * quick.total.value());
    }
    for (std::size_t i = 0; i < full.label_time.size(); ++i) {
      EXPECT_NEAR(full.label_time[i].value(), quick.label_time[i].value(),
                  1e-12 * quick.total.value());
    }
  });
}

TEST(EngineOnRandomGraphs, IsNeverFasterThanTheEstimate) {
  for_each_random_graph({}, [](const GraphSpec& spec) {
    const TaskGraph graph = build(spec);
    const Timeline full = simulated(graph);
    const Timeline quick = estimated(graph);
    const double rounding = 1e-12 * full.total.value();
    EXPECT_GE(full.total.value(), quick.total.value() - rounding);
    for (std::size_t i = 0; i < full.tasks.size(); ++i) {
      EXPECT_GE(full.tasks[i].end.value(), quick.tasks[i].end.value() - rounding);
    }
  });
}

TEST(EngineOnRandomGraphs, ServesNoMoreThanEachResourceCan) {
  for_each_random_graph({}, [](const GraphSpec& spec) {
    const TaskGraph graph = build(spec);
    const Timeline t = simulated(graph);
    for (std::size_t s = 0; s < graph.segments().size(); ++s) {
      for (const Seconds demand : graph.segment_demand(s)) {
        EXPECT_LE(demand.value(), t.segments[s].duration.value() * (1.0 + 1e-12));
      }
    }
    for (const Seconds busy : t.busy) EXPECT_LE(busy.value(), t.total.value() * (1.0 + 1e-12));
  });
}

TEST(EngineOnRandomGraphs, RunsTasksInQueueOrderAndAfterTheirDependencies) {
  for_each_random_graph({}, [](const GraphSpec& spec) {
    const TaskGraph graph = build(spec);
    const Timeline t = simulated(graph);
    for (TaskId id = 0; id < graph.tasks().size(); ++id) {
      const task::Task& task = graph.tasks()[id];
      Seconds ready;
      if (task.queue_predecessor != task::kNoTask) ready = t.tasks[task.queue_predecessor].end;
      for (const TaskId dependency : graph.dependencies(task)) {
        ready = std::max(ready, t.tasks[dependency].end);
      }
      EXPECT_EQ(t.tasks[id].start, ready);
      EXPECT_GE((t.tasks[id].end - t.tasks[id].start).value(),
                (task.latency + task.service).value() * (1.0 - 1e-9));
    }
  });
}

// Each queue has one resource and each task one demand, so that the service intervals of a resource
// are known from the timeline.
TEST(EngineOnRandomGraphs, BusyPlusIdleEqualsElapsed) {
  for_each_random_graph({.segments = 1}, [](GraphSpec spec) {
    spec.resources = spec.queues;
    spec.segments[0].repeat = 1;
    for (TaskSpec& task : spec.segments[0].tasks) task.demands = {{task.queue, 1_us}};
    const TaskGraph graph = build(spec);
    const Timeline t = simulated(graph);
    for (std::size_t r = 0; r < spec.resources; ++r) {
      Seconds idle;
      Seconds free_since;
      for (TaskId id = 0; id < graph.tasks().size(); ++id) {
        if (graph.tasks()[id].queue != r) continue;
        idle += t.tasks[id].start + graph.tasks()[id].latency - free_since;
        free_since = t.tasks[id].end;
      }
      idle += t.total - free_since;
      EXPECT_NEAR((t.busy[r] + idle).value(), t.total.value(), 1e-12 * t.total.value());
    }
  });
}

TEST(EngineOnRandomGraphs, WhatIsCriticalAddsUpToTheTotal) {
  for_each_random_graph({}, [](const GraphSpec& spec) {
    const Timeline t = simulated(build(spec));
    EXPECT_NEAR(sum(t.critical), t.total.value(), 1e-12 * t.total.value());
    EXPECT_NEAR(sum(t.label_time), t.total.value(), 1e-12 * t.total.value());
  });
}

// 64 flows that share one resource and end one by one.
TaskGraph staircase() {
  std::vector<TaskSpec> tasks;
  for (std::uint32_t i = 0; i < 64; ++i) {
    tasks.push_back({.queue = i, .demands = {{0, Seconds{1e-6 * (1.0 + 0.01 * i)}}}});
  }
  return build(1, 64, tasks);
}

TEST(Engine, AToleranceSavesUpdatesAndLosesLittle) {
  const TaskGraph graph = staircase();
  const double exact = simulated(graph).total.value();
  double last = 0.0;
  for (const double tolerance : {1e-6, 1e-3, 1e-2}) {
    const double rough = simulated(graph, {.tolerance = tolerance}).total.value();
    EXPECT_GE(rough, exact * (1.0 - 1e-12));
    EXPECT_LE(rough, exact * (1.0 + 2.0 * tolerance));
    EXPECT_GE(rough, last);
    last = rough;
  }
  EXPECT_GT(last, exact);
}

TEST(EngineOnRandomGraphs, AToleranceMovesTimesByNoMoreThanItsShareOfEachLink) {
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    const GraphSpec spec = random_spec(seed, {});
    const TaskGraph graph = build(spec);
    std::size_t most = 0;
    for (const auto& segment : spec.segments) most = std::max(most, segment.tasks.size());
    const Timeline exact = simulated(graph);
    constexpr double kTolerance = 1e-4;
    const Timeline rough = simulated(graph, {.tolerance = kTolerance});
    EXPECT_NEAR(rough.total.value(), exact.total.value(),
                kTolerance * static_cast<double>(2 * most) * exact.total.value())
        << seed;
    for (std::size_t r = 0; r < rough.busy.size(); ++r) {
      EXPECT_LE(rough.busy[r].value(), rough.total.value() * (1.0 + 1e-9)) << seed;
    }
    EXPECT_NEAR(sum(rough.critical), rough.total.value(), 1e-9 * rough.total.value()) << seed;
  }
}

TEST(EngineOnRandomGraphs, ExpandedRepeatsGiveTheSameAnswer) {
  for_each_random_graph({}, [](const GraphSpec& spec) {
    const TaskGraph graph = build(spec);
    const Timeline once = simulated(graph);
    const Timeline all = simulated(graph, {.expand_repeats = true});
    expect_time(all.total, once.total);
    for (std::size_t i = 0; i < once.tasks.size(); ++i) {
      EXPECT_EQ(all.tasks[i].end, once.tasks[i].end);
    }
    for (std::size_t i = 0; i < once.critical.size(); ++i) {
      EXPECT_NEAR(all.critical[i].value(), once.critical[i].value(), 1e-12 * once.total.value());
    }
    for (std::size_t i = 0; i < once.label_time.size(); ++i) {
      EXPECT_NEAR(all.label_time[i].value(), once.label_time[i].value(),
                  1e-12 * once.total.value());
    }
  });
}

TEST(EngineOnRandomGraphs, GivesTheSameBitsEveryTime) {
  for_each_random_graph({}, [](const GraphSpec& spec) {
    const Timeline a = simulated(build(spec));
    const Timeline b = simulated(build(spec));
    EXPECT_EQ(a.total, b.total);
    EXPECT_EQ(a.critical, b.critical);
    EXPECT_EQ(a.label_time, b.label_time);
    for (std::size_t i = 0; i < a.tasks.size(); ++i) {
      EXPECT_EQ(a.tasks[i].start, b.tasks[i].start);
      EXPECT_EQ(a.tasks[i].end, b.tasks[i].end);
    }
  });
}

TEST(EngineOnRandomGraphs, LessWorkIsNeverSlowerOnOneQueue) {
  for_each_random_graph({.queues = 1, .segments = 1}, [](const GraphSpec& spec) {
    const Seconds before = simulated(build(spec)).total;
    for (std::size_t i = 0; i < spec.segments[0].tasks.size(); ++i) {
      GraphSpec less = spec;
      std::vector<task::Demand>& demands = less.segments[0].tasks[i].demands;
      if (demands.empty()) continue;
      demands.pop_back();
      EXPECT_LE(simulated(build(less)).total.value(), before.value() * (1.0 + 1e-12));
    }
  });
}

TEST(EngineOnRandomGraphs, TimesScaleWithTheGraph) {
  for_each_random_graph({}, [](const GraphSpec& spec) {
    const Seconds once = simulated(build(spec)).total;
    expect_time(simulated(build(scaled(spec, 8.0))).total, 8.0 * once);
    const Seconds odd = simulated(build(scaled(spec, 3.7))).total;
    EXPECT_NEAR(odd.value(), 3.7 * once.value(), 1e-9 * odd.value());
  });
}

}  // namespace
}  // namespace foretoken::engine
