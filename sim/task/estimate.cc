#include "sim/task/estimate.h"

#include <cstddef>

#include "sim/task/critical_path.h"

namespace foretoken::task {
namespace {

struct PathEnd {
  TaskId task = kNoTask;  // the one that finishes last, the lowest id on a tie
  base::Seconds time;
};

// Fills the times of a segment's tasks, each alone on its resources.
PathEnd longest_path(const TaskGraph& graph, const Segment& segment, TaskTimes* times) {
  const Task* const tasks = graph.tasks().data();
  TaskId last = kNoTask;
  double last_end = -1.0;
  for (TaskId id = segment.first; id < segment.first + segment.count; ++id) {
    const Task& task = tasks[id];
    const auto [start, waited_for] = readiness(graph, task, times);
    // In the order in which `simulate` adds, so that the two agree to the last bit.
    const double end = start.value() + task.latency.value() + task.service.value();
    // Field by field: as one value it would be put together on the stack, and wait there.
    times[id].start = start;
    times[id].end = base::Seconds{end};
    times[id].waited_for = waited_for;
    if (end > last_end) {
      last = id;
      last_end = end;
    }
  }
  return {last, base::Seconds{last == kNoTask ? 0.0 : last_end}};
}

}  // namespace

void estimate(const TaskGraph& graph, Timeline& out) {
  reset(out, graph);
  const std::size_t resources = graph.resources().size();
  for (std::size_t s = 0; s < graph.segments().size(); ++s) {
    const Segment& segment = graph.segments()[s];
    const double repeat = segment.repeat;
    const PathEnd path = longest_path(graph, segment, out.tasks.data());

    base::Seconds latency;
    walk_critical_path(out.tasks, path.task, [&](TaskId id) {
      const Task& task = graph.tasks()[id];
      latency += task.latency;
      out.critical[task.bottleneck] += task.service * repeat;  // zero without demands
      out.label_time[task.label] += (task.latency + task.service) * repeat;
    });
    out.critical[resources] += latency * repeat;

    // Tasks that overlap in time share; a resource is busy at least as long as all of them
    // together.
    double duration = path.time.value();
    std::size_t fullest = resources;
    const auto demand = graph.segment_demand(s);
    for (std::size_t r = 0; r < resources; ++r) {
      if (demand[r].value() > duration) {
        duration = demand[r].value();
        fullest = r;
      }
    }
    if (fullest != resources) {
      const base::Seconds excess{(duration - path.time.value()) * repeat};
      out.critical[fullest] += excess;
      out.label_time[graph.tasks()[path.task].label] += excess;
    }
    out.segments[s].duration = base::Seconds{duration};
    out.total += base::Seconds{duration * repeat};
  }
}

}  // namespace foretoken::task
