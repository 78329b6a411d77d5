#include "sim/task/task_graph.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

namespace foretoken::task {
namespace {

[[maybe_unused]] bool is_duration(base::Seconds t) {
  return std::isfinite(t.value()) && t.value() >= 0.0;
}

}  // namespace

TaskGraph::TaskGraph(std::vector<std::string> resources, std::uint32_t queue_count)
    : resources_(std::move(resources)),
      queue_count_(queue_count),
      last_in_queue_(queue_count, kNoTask),
      last_demand_(resources_.size(), 0) {}

void TaskGraph::clear() {
  label_count_ = 0;
  tasks_.clear();
  segments_.clear();
  demands_.clear();
  dependencies_.clear();
  segment_demand_.clear();
}

void TaskGraph::begin_segment(LabelId label, std::uint32_t repeat) {
  assert(repeat > 0);
  segments_.push_back(
      {.first = static_cast<TaskId>(tasks_.size()), .count = 0, .repeat = repeat, .label = label});
  segment_demand_.resize(segment_demand_.size() + resources_.size());
  std::fill(last_in_queue_.begin(), last_in_queue_.end(), kNoTask);
  label_count_ = std::max(label_count_, label + 1);
}

TaskId TaskGraph::add(LabelId label, QueueId queue, base::Seconds latency,
                      std::span<const Demand> demands, std::span<const TaskId> dependencies) {
  assert(!segments_.empty());
  assert(queue < queue_count_ || queue == kNoQueue);
  assert(is_duration(latency));

  const auto id = static_cast<TaskId>(tasks_.size());
  Segment& segment = segments_.back();
  // Filled in place: put together on the stack and copied, it would wait for its own stores.
  Task& task = tasks_.emplace_back();
  task.label = label;
  task.queue = queue;
  task.latency = latency;
  task.queue_predecessor = queue == kNoQueue ? kNoTask : last_in_queue_[queue];
  task.first_demand = static_cast<std::uint32_t>(demands_.size());
  task.first_dependency = static_cast<std::uint32_t>(dependencies_.size());
  task.dependency_count = static_cast<std::uint32_t>(dependencies.size());

  base::Seconds* const total =
      segment_demand_.data() + (segment_demand_.size() - resources_.size());
  for (const Demand& demand : demands) {
    assert(demand.resource < resources_.size());
    assert(is_duration(demand.busy));
    if (demand.busy.value() == 0.0) continue;
    total[demand.resource] += demand.busy;
    // An index this task wrote says that it already has a demand on the resource.
    const std::uint32_t known = last_demand_[demand.resource];
    if (known >= task.first_demand && known < demands_.size() &&
        demands_[known].resource == demand.resource) {
      demands_[known].busy += demand.busy;
    } else {
      last_demand_[demand.resource] = static_cast<std::uint32_t>(demands_.size());
      demands_.push_back(demand);
    }
  }
  task.demand_count = static_cast<std::uint32_t>(demands_.size()) - task.first_demand;
  for (std::size_t i = task.first_demand; i < demands_.size(); ++i) {
    if (demands_[i].busy.value() <= task.service.value()) continue;
    task.service = demands_[i].busy;
    task.bottleneck = demands_[i].resource;
  }
  for ([[maybe_unused]] const TaskId dependency : dependencies) {
    assert(dependency >= segment.first && dependency < id);
  }
  dependencies_.insert(dependencies_.end(), dependencies.begin(), dependencies.end());

  ++segment.count;
  if (queue != kNoQueue) last_in_queue_[queue] = id;
  label_count_ = std::max(label_count_, label + 1);
  return id;
}

TaskId TaskGraph::add_group(LabelId label, QueueId queue, base::Seconds latency, base::Seconds own,
                            std::span<const Demand> demands, std::span<const TaskId> dependencies) {
  const TaskId id = add(label, queue, latency, demands, dependencies);
  assert(is_duration(own));
  if (tasks_[id].demand_count > 0) {
    assert(own.value() > 0.0);
    tasks_[id].service = own;
  }
  return id;
}

}  // namespace foretoken::task
