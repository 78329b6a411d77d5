// How fast tasks progress that ask for the same resources at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sim/task/task_graph.h"

namespace foretoken::engine {

// Bound of a task that runs as fast as it would alone.
inline constexpr task::ResourceId kNotSlowed = 0xffffffffu;

// Max-min fair speeds by progressive filling. A task's speed is relative to the one it has alone,
// in (0, 1]; at speed x it loads each of its resources with x * demand / service, and no resource
// is loaded beyond 1. A resource that would not be full even with all its tasks at speed 1 slows
// nobody, so that a change reaches only the tasks connected to it through contended resources.
class FairShare {
 public:
  // Forgets all tasks; `graph` must stay until the next reset.
  void reset(const task::TaskGraph& graph);
  // A task with demands enters or leaves service. Speeds are valid again after update().
  void enter(task::TaskId task);
  void leave(task::TaskId task);
  void update();
  // Enters a task none of whose resources is in use, at the speed it has alone, with no need of an
  // update; false, and nothing done, where it would meet others or be slowed by itself.
  bool enter_alone(task::TaskId task);
  // Whether one of its resources slows tasks down, by the last update.
  [[nodiscard]] bool slows_others(task::TaskId task) const;

  // Tasks in service whose speed or limit the last update() changed, each once.
  [[nodiscard]] std::span<const task::TaskId> changed() const { return changed_; }
  [[nodiscard]] double speed(task::TaskId task) const { return flows_[task].speed; }
  // The resource that keeps the task below the speed it has alone, or kNotSlowed.
  [[nodiscard]] task::ResourceId limit(task::TaskId task) const { return flows_[task].limit; }

 private:
  struct Flow {
    double speed = 0.0;  // 0 before its first update()
    task::ResourceId limit = kNotSlowed;
    std::uint64_t reached = 0;  // update that reached it
    std::uint64_t fixed = 0;    // update that fixed its speed below 1
  };
  struct Member {
    task::TaskId task = 0;
    std::uint32_t demand = 0;  // index into the graph's demands
  };
  struct Resource {
    std::vector<Member> members;  // tasks in service that use it
    double spare = 0.0;           // capacity not yet given away while filling
    double open_weight = 0.0;     // load at speed 1 of the members whose speed is not fixed yet
    std::uint32_t open = 0;       // their number
    bool dirty = false;           // its members changed
    bool contended = false;       // its members at speed 1 would overload it
    std::uint64_t reached = 0;
  };
  struct Level {
    double speed = 0.0;
    task::ResourceId resource = 0;
  };

  void mark_dirty(task::ResourceId resource);
  void reach_members(const Resource& resource);
  void reach_if_contended(task::ResourceId id);
  void find_connected();
  void fill();
  void fix(task::TaskId id, double speed, task::ResourceId limit);
  void assign(task::TaskId id, double speed, task::ResourceId limit);

  const task::TaskGraph* graph_ = nullptr;
  std::uint64_t epoch_ = 0;          // number of the current update
  std::vector<Flow> flows_;          // per task
  std::vector<Resource> resources_;  // per resource
  std::vector<double> weight_;       // per demand of the graph: demand / service
  std::vector<std::uint32_t> slot_;  // per demand of the graph: place among the members
  std::vector<task::ResourceId> dirty_;
  std::vector<task::TaskId> entered_;
  std::vector<task::TaskId> connected_;      // tasks the update may change
  std::vector<task::ResourceId> contended_;  // contended resources among them
  std::vector<Level> levels_;                // heap: lowest speed, then lowest id, on top
  std::vector<task::TaskId> changed_;
};

}  // namespace foretoken::engine
