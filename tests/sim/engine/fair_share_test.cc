#include "sim/engine/fair_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/sim/task/graph_spec.h"

namespace foretoken::engine {
namespace {

using foretoken::test_support::build;
using foretoken::test_support::TaskSpec;
using task::TaskGraph;
using task::TaskId;
using testing::UnorderedElementsAre;
using namespace base::literals;

// Of the random case.
constexpr std::uint32_t kResources = 8;
constexpr std::uint32_t kTasks = 40;

void enter_all(FairShare& share, const TaskGraph& graph) {
  share.reset(graph);
  for (TaskId id = 0; id < graph.tasks().size(); ++id) share.enter(id);
  share.update();
}

TEST(FairShare, ATaskAloneIsNotSlowed) {
  const TaskGraph graph = build(2, 1, {{.demands = {{0, 1_us}, {1, 3_us}}}});
  FairShare share;
  enter_all(share, graph);
  EXPECT_EQ(share.speed(0), 1.0);
  EXPECT_EQ(share.limit(0), kNotSlowed);
}

TEST(FairShare, EqualTasksGetEqualSpeed) {
  const TaskGraph graph =
      build(1, 3, {{.demands = {{0, 1_us}}}, {.demands = {{0, 1_us}}}, {.demands = {{0, 1_us}}}});
  FairShare share;
  enter_all(share, graph);
  for (TaskId id = 0; id < 3; ++id) {
    EXPECT_DOUBLE_EQ(share.speed(id), 1.0 / 3.0);
    EXPECT_EQ(share.limit(id), 0u);
  }
}

// Each needs a third of resource 0 for as long as it runs: together they just fit.
TEST(FairShare, TasksThatFitTogetherAreNotSlowed) {
  std::vector<TaskSpec> tasks;
  for (task::ResourceId own = 1; own <= 3; ++own) {
    tasks.push_back({.queue = own, .demands = {{0, 1_us}, {own, 3_us}}});
  }
  const TaskGraph graph = build(4, 4, tasks);
  FairShare share;
  enter_all(share, graph);
  for (TaskId id = 0; id < 3; ++id) EXPECT_EQ(share.speed(id), 1.0);
}

// Resource 0 is full at 1/2 and fixes tasks 0 and 1. Task 1 then takes 1/4 of resource 1, half of
// its speed, and leaves 3/4 to task 2.
TEST(FairShare, WhatASlowedTaskLeavesGoesToTheOthers) {
  const TaskGraph graph = build(
      2, 3,
      {{.demands = {{0, 1_us}}}, {.demands = {{0, 2_us}, {1, 1_us}}}, {.demands = {{1, 3_us}}}});
  FairShare share;
  enter_all(share, graph);
  EXPECT_DOUBLE_EQ(share.speed(0), 0.5);
  EXPECT_DOUBLE_EQ(share.speed(1), 0.5);
  EXPECT_DOUBLE_EQ(share.speed(2), 0.75);
  EXPECT_EQ(share.limit(1), 0u);
  EXPECT_EQ(share.limit(2), 1u);
}

TEST(FairShare, OnlyConnectedTasksChange) {
  const TaskGraph graph = build(3, 5,
                                {{.demands = {{0, 1_us}}},
                                 {.demands = {{0, 1_us}}},
                                 {.demands = {{1, 1_us}}},
                                 {.demands = {{1, 1_us}}},
                                 {.demands = {{0, 1_us}, {2, 2_us}}}});
  FairShare share;
  share.reset(graph);
  for (TaskId id = 0; id < 4; ++id) share.enter(id);
  share.update();
  EXPECT_THAT(share.changed(), UnorderedElementsAre(0, 1, 2, 3));
  share.enter(4);
  share.update();
  EXPECT_THAT(share.changed(), UnorderedElementsAre(0, 1, 4));
  share.leave(4);
  share.update();
  EXPECT_THAT(share.changed(), UnorderedElementsAre(0, 1));
  EXPECT_DOUBLE_EQ(share.speed(0), 0.5);
  share.leave(1);
  share.update();
  EXPECT_THAT(share.changed(), UnorderedElementsAre(0));
  EXPECT_EQ(share.speed(0), 1.0);
}

// Max-min fair: nothing is overloaded, and a slowed task has a full resource on which nobody is
// faster. Changing the set step by step gives what a fresh start gives.
TEST(FairShare, IsMaxMinFairHoweverItIsReached) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::vector<TaskSpec> tasks;
    for (std::uint32_t i = 0; i < kTasks; ++i) {
      TaskSpec spec;
      const auto demands = 1 + random() % 3;
      for (std::uint64_t d = 0; d < demands; ++d) {
        spec.demands.push_back({static_cast<task::ResourceId>(random() % kResources),
                                base::Seconds{1e-6 * static_cast<double>(1 + random() % 100)}});
      }
      tasks.push_back(spec);
    }
    const TaskGraph graph = build(kResources, 1, tasks);

    FairShare share;
    share.reset(graph);
    std::set<TaskId> in_service;
    for (int step = 0; step < 200; ++step) {
      for (auto changes = 1 + random() % 3; changes > 0; --changes) {
        const auto id = static_cast<TaskId>(random() % kTasks);
        if (in_service.erase(id) != 0) {
          share.leave(id);
          share.update();
        } else if (in_service.size() < 12) {
          share.enter(id);
          in_service.insert(id);
        }
      }
      share.update();

      std::vector<double> load(kResources, 0.0);
      std::vector<double> fastest(kResources, 0.0);
      for (const TaskId id : in_service) {
        for (const task::Demand& demand : graph.demands(graph.tasks()[id])) {
          load[demand.resource] += share.speed(id) * (demand.busy / graph.tasks()[id].service);
          fastest[demand.resource] = std::max(fastest[demand.resource], share.speed(id));
        }
      }
      for (const double l : load) ASSERT_LE(l, 1.0 + 1e-9);
      FairShare fresh;
      fresh.reset(graph);
      for (const TaskId id : in_service) fresh.enter(id);
      fresh.update();
      for (const TaskId id : in_service) {
        ASSERT_GT(share.speed(id), 0.0);
        ASSERT_LE(share.speed(id), 1.0);
        if (share.limit(id) == kNotSlowed) {
          ASSERT_EQ(share.speed(id), 1.0);
        } else {
          ASSERT_NEAR(load[share.limit(id)], 1.0, 1e-9);
          ASSERT_NEAR(share.speed(id), fastest[share.limit(id)], 1e-9);
        }
        ASSERT_NEAR(share.speed(id), fresh.speed(id), 1e-12);
      }
    }
  }
}

}  // namespace
}  // namespace foretoken::engine
