// Closed-form evaluation of a task graph: microseconds of host time, for sweeps over millions of
// cases.
#pragma once

#include "sim/task/timeline.h"

namespace foretoken::task {

// Longest path through each segment with tasks of one queue in order and every task alone on its
// resources: a task takes its latency plus its largest demand. Exact where no two tasks that
// overlap in time ask for the same resource beyond its capacity; otherwise a lower bound on
// `simulate`, never below the total demand on any one resource of a segment (that bound is applied
// per segment). Where it is applied, task times still are those of the longest path; the excess
// counts as critical time of that resource and of the last critical task's label. `out` is reused:
// no heap growth once its vectors have grown to the graph's size.
void estimate(const TaskGraph& graph, Timeline& out);

}  // namespace foretoken::task
