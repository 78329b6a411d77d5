// When each task ran, and where the time went.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/base/units.h"
#include "sim/task/task_graph.h"

namespace foretoken::task {

// Times of one task relative to the start of its segment's first repetition. `start` is when the
// task left its queue (its latency begins), `end` when it finished. It started when `waited_for`
// ended, the dependency or queue predecessor that finished last; kNoTask where it waited for none.
struct TaskTimes {
  base::Seconds start{};
  base::Seconds end{};
  TaskId waited_for = kNoTask;
};

// What a task waited for while it was on the critical path.
inline constexpr std::uint32_t kBoundByLatency = 0xffffffffu;

// Time on the critical path attributed to one bound: a resource, or latency.
struct Share {
  std::uint32_t bound = kBoundByLatency;  // ResourceId or kBoundByLatency
  base::Seconds time;
};

struct SegmentTimes {
  base::Seconds duration;  // of one repetition
};

// Both sums over `critical` and over `label_time` are `total`, and no `busy` exceeds it, to
// rounding.
struct Timeline {
  base::Seconds total;                 // of all segments and repetitions
  std::vector<TaskTimes> tasks;        // one per task of the graph
  std::vector<SegmentTimes> segments;  // one per segment
  std::vector<base::Seconds> busy;     // per resource, over all repetitions
  std::vector<base::Seconds>
      critical;  // per resource: critical-path time bound by it; latency last
  std::vector<base::Seconds> label_time;  // per label: critical-path time, indexed by LabelId
};

// Sizes `out` for `graph`, keeping its capacity, and zeroes every sum. `busy` is filled: it follows
// from the graph alone.
void reset(Timeline& out, const TaskGraph& graph);

}  // namespace foretoken::task
