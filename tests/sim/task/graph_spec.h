// Task graphs as editable values, and random ones, for tests of both evaluators.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "sim/task/task_graph.h"

namespace foretoken::test_support {

struct TaskSpec {
  task::QueueId queue = 0;
  base::Seconds latency{};
  std::vector<task::Demand> demands{};
  std::vector<task::TaskId> after{};  // counted within the segment
  task::LabelId label = 0;
};

struct SegmentSpec {
  std::vector<TaskSpec> tasks{};
  std::uint32_t repeat = 1;
};

struct GraphSpec {
  std::uint32_t resources = 1;
  std::uint32_t queues = 1;
  std::vector<SegmentSpec> segments{};
};

inline task::TaskGraph build(const GraphSpec& spec) {
  task::TaskGraph graph(std::vector<std::string>(spec.resources, "resource"), spec.queues);
  for (const SegmentSpec& segment : spec.segments) {
    graph.begin_segment(0, segment.repeat);
    const auto first = static_cast<task::TaskId>(graph.tasks().size());
    for (const TaskSpec& task : segment.tasks) {
      std::vector<task::TaskId> after = task.after;
      for (task::TaskId& id : after) id += first;
      graph.add(task.label, task.queue, task.latency, task.demands, after);
    }
  }
  return graph;
}

// One segment that runs once.
inline task::TaskGraph build(std::uint32_t resources, std::uint32_t queues,
                             std::vector<TaskSpec> tasks) {
  GraphSpec spec;
  spec.resources = resources;
  spec.queues = queues;
  spec.segments.push_back({.tasks = std::move(tasks), .repeat = 1});
  return build(spec);
}

// The same with every latency and demand multiplied.
inline GraphSpec scaled(GraphSpec spec, double factor) {
  for (SegmentSpec& segment : spec.segments) {
    for (TaskSpec& task : segment.tasks) {
      task.latency *= factor;
      for (task::Demand& demand : task.demands) demand.busy *= factor;
    }
  }
  return spec;
}

struct RandomShape {
  std::uint32_t resources = 5;
  std::uint32_t queues = 4;
  std::uint32_t segments = 3;
  std::uint32_t max_tasks = 25;  // per segment
  // Each queue has resources of its own, so that nothing is contended.
  bool private_resources = false;
};

inline GraphSpec random_spec(std::uint64_t seed, const RandomShape& shape = {}) {
  std::mt19937_64 random(seed);
  // Not std::uniform_int_distribution, whose numbers differ between libraries.
  const auto below = [&](std::uint64_t n) { return static_cast<std::uint32_t>(random() % n); };
  const auto duration = [&] { return base::Seconds{1e-9 * (1 + below(20000))}; };

  GraphSpec spec;
  spec.queues = shape.queues;
  spec.resources = shape.private_resources ? 2 * shape.queues : shape.resources;
  for (std::uint32_t s = 0; s < shape.segments; ++s) {
    SegmentSpec segment{.tasks = {}, .repeat = 1 + below(4)};
    const std::uint32_t count = 1 + below(shape.max_tasks);
    for (std::uint32_t id = 0; id < count; ++id) {
      TaskSpec task{.queue = below(shape.queues),
                    .latency = {},
                    .demands = {},
                    .after = {},
                    .label = below(6)};
      if (below(2) == 0) task.latency = duration();
      const std::uint32_t demand_count = below(4);
      for (std::uint32_t d = 0; d < demand_count; ++d) {
        const std::uint32_t resource =
            shape.private_resources ? 2 * task.queue + below(2) : below(spec.resources);
        task.demands.push_back({resource, duration()});
      }
      const std::uint32_t dependency_count = id == 0 ? 0 : below(3);
      for (std::uint32_t d = 0; d < dependency_count; ++d) task.after.push_back(below(id));
      segment.tasks.push_back(std::move(task));
    }
    spec.segments.push_back(std::move(segment));
  }
  return spec;
}

}  // namespace foretoken::test_support
