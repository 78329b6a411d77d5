// One run of a task graph, event by event; knows no clock but the times of its events.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/base/units.h"
#include "sim/engine/event_heap.h"
#include "sim/engine/fair_share.h"
#include "sim/task/timeline.h"

namespace foretoken::engine {

// Times are doubles counted from the start of a repetition, so that a run does not depend on when
// it starts, nor one repetition on those before it. Storage is kept from run to run.
class GraphRun {
 public:
  // Graph and timeline must stay until done() or the next begin().
  void begin(const task::TaskGraph& graph, task::Timeline& out, bool expand_repeats,
             double tolerance = 0.0);

  [[nodiscard]] bool done() const { return segment_ == segment_count_; }
  // Of the next event, since begin(). Only while not done().
  [[nodiscard]] base::Seconds next_time() const { return elapsed_ + events_.top_time(); }
  // Handles all events of next_time().
  void step();

 private:
  struct State {
    std::uint32_t pending = 0;  // predecessors that have not finished
    std::uint32_t slowdowns = kNone;
    bool in_service = false;
    double speed = 0.0;
    task::ResourceId limit = kNotSlowed;
    base::Seconds remaining;  // service left at `since`, at speed 1
    base::Seconds since;
  };
  // Time a task spent below the speed it has alone, per limiting resource: a linked list per task.
  struct Slowdown {
    task::ResourceId limit = kNotSlowed;
    base::Seconds time;
    std::uint32_t next = kNone;
  };
  static constexpr std::uint32_t kNone = 0xffffffffu;

  void find_successors();
  void run_segments();
  bool start_repetition();
  void end_repetition();
  void start(task::TaskId id, base::Seconds now);
  void enter_service(task::TaskId id, base::Seconds now);
  void finish(task::TaskId id, base::Seconds now);
  void settle(base::Seconds now);
  void put_off(base::Seconds now);
  void progress(task::TaskId id, base::Seconds now);
  void attribute_critical_path(double weight);

  const task::TaskGraph* graph_ = nullptr;
  task::Timeline* out_ = nullptr;
  bool expand_repeats_ = false;
  double tolerance_ = 0.0;
  bool overdue_ = false;  // sharing changed and has not been worked out
  base::Seconds due_;     // by then it must be
  std::size_t segment_ = 0;
  std::size_t segment_count_ = 0;
  std::uint32_t repetition_ = 0;
  std::uint32_t unfinished_ = 0;  // tasks of this repetition
  base::Seconds elapsed_;         // repetitions run before this one
  base::Seconds last_end_;        // in this repetition
  EventHeap events_;
  FairShare share_;
  std::vector<State> states_;  // per task
  std::vector<std::uint32_t>
      successor_end_;  // per task; its list starts where the previous one ends
  std::vector<task::TaskId> successors_;
  std::vector<task::TaskId> ready_;
  std::vector<task::TaskId> waiting_;  // past their latency, not yet sharing
  std::vector<Slowdown> slowdowns_;    // of this repetition
};

}  // namespace foretoken::engine
