// The chain of tasks that a segment's duration is made of, found by walking back from its end.
#pragma once

#include <span>

#include "sim/task/task_graph.h"
#include "sim/task/timeline.h"

namespace foretoken::task {

// The task that ends a segment: the latest end, the lowest id on a tie; kNoTask in an empty
// segment.
inline TaskId last_task(const Segment& segment, std::span<const TaskTimes> times) {
  if (segment.count == 0) return kNoTask;
  TaskId last = segment.first;
  double end = times[last].end.value();
  for (TaskId id = segment.first + 1; id < segment.first + segment.count; ++id) {
    if (times[id].end.value() > end) {
      last = id;
      end = times[id].end.value();
    }
  }
  return last;
}

struct Readiness {
  base::Seconds time;
  TaskId waited_for = kNoTask;
};

// When a task can leave its queue, from the ends of those before it. Where several end at that time
// it waited for the queue predecessor, else for the dependency listed first.
inline Readiness readiness(const TaskGraph& graph, const Task& task, const TaskTimes* times) {
  TaskId waited_for = task.queue_predecessor;
  double time = waited_for == kNoTask ? 0.0 : times[waited_for].end.value();
  for (const TaskId dependency : graph.dependencies(task)) {
    const double end = times[dependency].end.value();
    if (end > time || waited_for == kNoTask) {
      waited_for = dependency;
      time = end;
    }
  }
  return {base::Seconds{time}, waited_for};
}

// Calls visit(TaskId) for each task on the critical path that ends with `last`, from the end back.
template <class Visit>
void walk_critical_path(std::span<const TaskTimes> times, TaskId last, Visit visit) {
  for (TaskId id = last; id != kNoTask; id = times[id].waited_for) visit(id);
}

}  // namespace foretoken::task
