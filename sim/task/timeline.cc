#include "sim/task/timeline.h"

#include <cstddef>

namespace foretoken::task {

void reset(Timeline& out, const TaskGraph& graph) {
  const std::size_t resources = graph.resources().size();
  out.total = {};
  out.tasks.resize(graph.tasks().size());
  out.segments.resize(graph.segments().size());
  out.busy.assign(resources, {});
  out.critical.assign(resources + 1, {});
  out.label_time.assign(graph.label_count(), {});
  for (std::size_t s = 0; s < graph.segments().size(); ++s) {
    const double repeat = graph.segments()[s].repeat;
    const auto demand = graph.segment_demand(s);
    for (std::size_t r = 0; r < resources; ++r) out.busy[r] += demand[r] * repeat;
  }
}

}  // namespace foretoken::task
