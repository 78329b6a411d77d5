// Work as demands on resources: what `estimate` evaluates in closed form and `simulate` runs on
// SystemC. Knows no chip and no model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sim/base/units.h"

namespace foretoken::task {

using ResourceId = std::uint32_t;
using QueueId = std::uint32_t;
using TaskId = std::uint32_t;
using LabelId = std::uint32_t;

inline constexpr TaskId kNoTask = 0xffffffffu;
// A task on no queue waits for its dependencies alone.
inline constexpr QueueId kNoQueue = 0xffffffffu;

// The time a task would keep a resource busy if it had it for itself. Demands are held in seconds
// rather than bytes or FLOPs because one resource serves many kinds at different rates (a matrix
// unit has one peak per dtype); see docs/decisions/0002-demands-in-seconds.md.
struct Demand {
  ResourceId resource = 0;
  base::Seconds busy;
};

// A task runs once its dependencies and the task before it in its queue have finished. It first
// waits out its latency (launch, pipeline fill, link flight time), during which it holds no
// resource, and then serves all its demands at once, in proportion: alone it takes latency +
// service.
struct Task {
  LabelId label = 0;
  QueueId queue = 0;
  base::Seconds latency;
  base::Seconds service;               // the largest demand, or what add() was given; 0: no demands
  ResourceId bottleneck = 0;           // resource of the largest demand, the first one on a tie
  TaskId queue_predecessor = kNoTask;  // the task before it in its queue, in the same segment
  std::uint32_t first_demand = 0;
  std::uint32_t demand_count = 0;
  std::uint32_t first_dependency = 0;
  std::uint32_t dependency_count = 0;
};

// A run of tasks that starts when everything before it has finished and is executed `repeat` times
// in a row. Dependencies stay inside their segment. Layers of one kind are one segment, so that
// cost grows with distinct layers.
struct Segment {
  TaskId first = 0;
  std::uint32_t count = 0;
  std::uint32_t repeat = 1;
  LabelId label = 0;
};

// Flat and reusable: clear() keeps the capacity, so rebuilding a graph of the same shape does not
// touch the heap.
class TaskGraph {
 public:
  TaskGraph(std::vector<std::string> resources, std::uint32_t queue_count);

  void clear();
  // Starts a segment; the tasks added until the next call belong to it. `repeat` must be positive.
  void begin_segment(LabelId label, std::uint32_t repeat);
  // Adds a task to the current segment. Demands of zero are dropped, and those on one resource
  // added up; negative or non-finite numbers and dependencies outside the segment or not before the
  // task are assertion failures.
  TaskId add(LabelId label, QueueId queue, base::Seconds latency, std::span<const Demand> demands,
             std::span<const TaskId> dependencies);
  // A task that stands for several alike side by side: `demands` are those of all of them, `own` is
  // what one takes when nothing is shared. With demands above `own` the tasks slow each other down,
  // which `simulate` finds; `estimate` takes `own`. `own` must be positive if there are demands.
  TaskId add_group(LabelId label, QueueId queue, base::Seconds latency, base::Seconds own,
                   std::span<const Demand> demands, std::span<const TaskId> dependencies);

  [[nodiscard]] std::span<const std::string> resources() const { return resources_; }
  [[nodiscard]] std::uint32_t queue_count() const { return queue_count_; }
  // One more than the largest label of a task or segment.
  [[nodiscard]] std::uint32_t label_count() const { return label_count_; }
  [[nodiscard]] std::span<const Task> tasks() const { return tasks_; }
  [[nodiscard]] std::span<const Segment> segments() const { return segments_; }
  [[nodiscard]] std::span<const Demand> demands(const Task& t) const {
    return std::span(demands_).subspan(t.first_demand, t.demand_count);
  }
  [[nodiscard]] std::span<const TaskId> dependencies(const Task& t) const {
    return std::span(dependencies_).subspan(t.first_dependency, t.dependency_count);
  }
  // All demands of all tasks, where Task::first_demand points.
  [[nodiscard]] std::span<const Demand> demands() const { return demands_; }
  // What one repetition of a segment (by its index) demands of each resource.
  [[nodiscard]] std::span<const base::Seconds> segment_demand(std::size_t segment) const {
    return std::span(segment_demand_).subspan(segment * resources_.size(), resources_.size());
  }

 private:
  std::vector<std::string> resources_;
  std::uint32_t queue_count_;
  std::uint32_t label_count_ = 0;
  std::vector<Task> tasks_;
  std::vector<Segment> segments_;
  std::vector<Demand> demands_;
  std::vector<TaskId> dependencies_;
  std::vector<base::Seconds> segment_demand_;  // segments x resources
  std::vector<TaskId> last_in_queue_;          // per queue, of the current segment
  std::vector<std::uint32_t> last_demand_;     // per resource: index of its newest demand
};

}  // namespace foretoken::task
