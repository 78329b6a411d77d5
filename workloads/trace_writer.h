// The op trace as JSON lines: one header line, then one operator a line in the order they run.
#pragma once

#include <iosfwd>

#include "workloads/op_graph.h"

namespace foretoken::workloads {

struct TraceHeader {
  std::string_view model;
  ParallelPlan plan;
  Batch batch;
  std::int64_t rank = 0;
};

// Every run of every block is written out, so ids and dependencies are global: `deps` of a block's
// first operators name the last operator of the run before.
void write_trace(const TraceHeader& header, const OpGraph& graph, std::ostream& out);

}  // namespace foretoken::workloads
