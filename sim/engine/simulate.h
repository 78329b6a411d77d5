// Event-driven evaluation of a task graph on SystemC, with queueing and sharing.
#pragma once

#include <cstdint>

#include "sim/task/timeline.h"

namespace foretoken::engine {

struct SimulateOptions {
  // Runs every repetition of every segment instead of the first one of each. The answer is the same
  // (a segment starts with all resources idle); tests check that.
  bool expand_repeats = false;
  // Share of the time since the repetition began by which a change of sharing may be put off, so
  // that many are made at once: a task that meets others on a resource may begin its service, and
  // those that were slowed may speed up, that much late. For large graphs of flows that end one by
  // one. 0 is exact.
  double tolerance = 0.0;
};

struct SimulateStats {
  std::uint64_t events = 0;  // SystemC activations of the engine's process
};

// Runs the graph: tasks enter service in queue order when their dependencies are done, wait out
// their latency, then progress at the highest rates that satisfy every resource, shared max-min
// fairly: all tasks in service speed up together until a resource is full, then those that use it
// are fixed, and so on; no task exceeds the speed it has alone. Equals `estimate` when nothing is
// contended. Critical time in service counts for the resource that slowed the task, or for the one
// of its largest demand while nothing did.
//
// May be called any number of times in one process; one module is elaborated on the first call,
// which must therefore come before any other sc_start(). Not thread-safe (SystemC is not), and not
// to be called from a SystemC process. The program may have its own main() and needs no sc_main.
// The kernel's clock goes on from call to call, 213 days in total at its picosecond resolution;
// std::overflow_error where a run would pass its end.
SimulateStats simulate(const task::TaskGraph& graph, task::Timeline& out,
                       const SimulateOptions& options = {});

}  // namespace foretoken::engine
