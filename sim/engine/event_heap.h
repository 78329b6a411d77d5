// The engine's own event queue: the next time of each task, with times that can be moved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/base/units.h"
#include "sim/task/task_graph.h"

namespace foretoken::engine {

// A binary heap of tasks that knows where each one stands. A task is in it at most once; the
// earliest time is on top, the lowest id on a tie. Storage is kept between runs.
class EventHeap {
 public:
  void reset(std::size_t task_count) {
    entries_.clear();
    position_.assign(task_count, kAbsent);
  }

  [[nodiscard]] bool empty() const { return entries_.empty(); }
  [[nodiscard]] base::Seconds top_time() const { return entries_.front().time; }

  // Inserts a task, or moves it to another time.
  void set(task::TaskId task, base::Seconds time) {
    if (position_[task] == kAbsent) {
      entries_.push_back({time, task});
      position_[task] = static_cast<std::uint32_t>(entries_.size() - 1);
      sift_up(position_[task]);
    } else {
      const std::uint32_t at = position_[task];
      const Entry entry{time, task};
      const bool earlier = before(entry, entries_[at]);
      entries_[at] = entry;
      earlier ? sift_up(at) : sift_down(at);
    }
  }

  task::TaskId pop() {
    const task::TaskId task = entries_.front().task;
    position_[task] = kAbsent;
    const Entry moved = entries_.back();
    entries_.pop_back();
    if (!entries_.empty()) {
      place(0, moved);
      sift_down(0);
    }
    return task;
  }

 private:
  struct Entry {
    base::Seconds time;
    task::TaskId task = 0;
  };
  static constexpr std::uint32_t kAbsent = 0xffffffffu;

  static bool before(const Entry& a, const Entry& b) {
    return a.time.value() < b.time.value() || (a.time.value() == b.time.value() && a.task < b.task);
  }
  void place(std::size_t at, const Entry& entry) {
    entries_[at] = entry;
    position_[entry.task] = static_cast<std::uint32_t>(at);
  }
  void sift_up(std::size_t at) {
    const Entry entry = entries_[at];
    while (at > 0) {
      const std::size_t parent = (at - 1) / 2;
      if (!before(entry, entries_[parent])) break;
      place(at, entries_[parent]);
      at = parent;
    }
    place(at, entry);
  }
  void sift_down(std::size_t at) {
    const Entry entry = entries_[at];
    for (;;) {
      std::size_t child = 2 * at + 1;
      if (child >= entries_.size()) break;
      if (child + 1 < entries_.size() && before(entries_[child + 1], entries_[child])) ++child;
      if (!before(entries_[child], entry)) break;
      place(at, entries_[child]);
      at = child;
    }
    place(at, entry);
  }

  std::vector<Entry> entries_;
  std::vector<std::uint32_t> position_;  // per task
};

}  // namespace foretoken::engine
