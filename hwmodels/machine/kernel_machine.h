// A chip as an event-driven machine that runs a kernel's tile programs: cores with load, store,
// matrix, vector and exchange engines, which share cache and memory. On SystemC, through the
// engine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "sim/task/task_graph.h"
#include "sim/task/timeline.h"

namespace foretoken::hwmodels::machine {

// One bar of a timeline: a step on an engine of a core that stands for `cores` alike.
struct Span {
  std::uint32_t group = 0;
  tile::Engine engine = tile::Engine::kLoad;
  tile::StepKind kind = tile::StepKind::kLoad;
  tile::VectorKind vector = tile::VectorKind::kCopy;
  double start = 0.0;  // s since the launch
  double end = 0.0;
};

struct SimulatedKernel {
  double seconds = 0.0;  // launch included
  // Busy and idle of the engines of each core group, and of the shared resources.
  std::vector<double> busy;
  std::vector<std::string> resources;
  std::vector<std::int64_t> group_cores;
  std::uint64_t events = 0;
  std::int64_t merged_iterations = 1;  // iterations of long loops that were run as one
  std::int64_t merged_items = 1;       // alike items of a core that were run as one
  std::vector<Span> spans;             // when asked for
};

// Cores that deal with the same items in the same order run as one group, whose demands on what is
// shared count for all of them. Storage is kept from run to run.
class KernelMachine {
 public:
  KernelMachine();

  // Runs what `recorder` recorded, dealt to cores as `evaluator` found when it evaluated the same
  // recording with keep_items(true).
  SimulatedKernel simulate(const tile::Recorder& recorder, const tile::Evaluator& evaluator,
                           bool spans = false);

  // Alike items in a row are run as one of their length, and so are iterations of long loops, so
  // that about this many tasks are simulated at most.
  void limit_tasks(std::int64_t limit) { task_limit_ = limit; }

 private:
  // Who fills and reads a buffer's slot.
  struct Slot {
    std::vector<task::TaskId> writers;   // of what is there, parts side by side
    std::vector<task::TaskId> readers;   // of it
    std::vector<task::TaskId> freed_by;  // readers of what was there before

    void clear() {
      writers.clear();
      readers.clear();
      freed_by.clear();
    }
  };

  void sort_waits();
  void build(const tile::Recorder& recorder, const tile::Evaluator& evaluator);
  void add_group(const tile::Recorder& recorder, const tile::Evaluator& evaluator,
                 const tile::CoreGroup& group, std::uint32_t index);

  std::vector<task::TaskGraph> graph_;  // of the resources of this many groups; one in use
  task::Timeline timeline_;
  std::vector<Span> spans_;  // per task of the graph, times not filled in
  std::vector<Slot> slots_;
  std::vector<task::TaskId> waits_;
  std::vector<task::TaskId> last_;  // per engine: its last step
  std::int64_t merged_ = 1;
  std::int64_t stretch_ = 1;
  std::int64_t task_limit_ = 60'000;
};

}  // namespace foretoken::hwmodels::machine
