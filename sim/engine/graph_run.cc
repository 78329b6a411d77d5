#include "sim/engine/graph_run.h"

#include <algorithm>
#include <cassert>

#include "sim/task/critical_path.h"

namespace foretoken::engine {

using base::Seconds;
using task::Task;
using task::TaskId;

void GraphRun::begin(const task::TaskGraph& graph, task::Timeline& out, bool expand_repeats,
                     double tolerance) {
  assert(tolerance >= 0.0);
  graph_ = &graph;
  out_ = &out;
  expand_repeats_ = expand_repeats;
  tolerance_ = tolerance;
  overdue_ = false;
  waiting_.clear();
  segment_ = 0;
  segment_count_ = graph.segments().size();
  repetition_ = 0;
  elapsed_ = {};
  reset(out, graph);
  events_.reset(graph.tasks().size());
  share_.reset(graph);
  states_.resize(graph.tasks().size());
  find_successors();
  run_segments();
}

// Lists by counting: every task's successors, through dependencies and queues, side by side.
void GraphRun::find_successors() {
  const auto tasks = graph_->tasks();
  successor_end_.assign(tasks.size(), 0);
  const auto for_each_edge = [&](auto visit) {
    for (TaskId id = 0; id < tasks.size(); ++id) {
      if (tasks[id].queue_predecessor != task::kNoTask) visit(tasks[id].queue_predecessor, id);
      for (const TaskId dependency : graph_->dependencies(tasks[id])) visit(dependency, id);
    }
  };
  std::uint32_t edges = 0;
  for_each_edge([&](TaskId from, TaskId) {
    ++successor_end_[from];
    ++edges;
  });
  successors_.resize(edges);
  std::uint32_t begin = 0;
  for (std::uint32_t& end : successor_end_) {
    const std::uint32_t count = end;
    end = begin;
    begin += count;
  }
  for_each_edge([&](TaskId from, TaskId to) { successors_[successor_end_[from]++] = to; });
}

// Starts repetitions until one has something to wait for.
void GraphRun::run_segments() {
  while (!done() && start_repetition()) end_repetition();
}

// Returns whether the repetition is over already.
bool GraphRun::start_repetition() {
  const task::Segment& segment = graph_->segments()[segment_];
  unfinished_ = segment.count;
  last_end_ = {};
  slowdowns_.clear();
  for (TaskId id = segment.first; id < segment.first + segment.count; ++id) {
    const Task& task = graph_->tasks()[id];
    states_[id] = State{};
    states_[id].pending =
        task.dependency_count + (task.queue_predecessor == task::kNoTask ? 0u : 1u);
    if (states_[id].pending == 0) ready_.push_back(id);
  }
  settle(Seconds{});
  return unfinished_ == 0;
}

void GraphRun::end_repetition() {
  const task::Segment& segment = graph_->segments()[segment_];
  const double weight = expand_repeats_ ? 1.0 : segment.repeat;
  if (repetition_ == 0) out_->segments[segment_].duration = last_end_;
  out_->total += last_end_ * weight;
  attribute_critical_path(weight);
  elapsed_ += last_end_;
  ++repetition_;
  if (!expand_repeats_ || repetition_ == segment.repeat) {
    repetition_ = 0;
    ++segment_;
  }
}

void GraphRun::step() {
  const Seconds now = events_.top_time();
  while (!events_.empty() && events_.top_time() == now) {
    const TaskId id = events_.pop();
    if (states_[id].in_service) {
      progress(id, now);
      if (tolerance_ > 0.0 && share_.slows_others(id)) put_off(now);
      share_.leave(id);
      finish(id, now);
    } else {
      enter_service(id, now);
    }
  }
  settle(now);
  if (unfinished_ == 0) {
    end_repetition();
    run_segments();
  }
}

void GraphRun::start(TaskId id, Seconds now) {
  const Task& task = graph_->tasks()[id];
  const task::Readiness ready = task::readiness(*graph_, task, out_->tasks.data());
  assert(ready.time == now);
  out_->tasks[id].start = ready.time;
  out_->tasks[id].waited_for = ready.waited_for;
  if (task.latency.value() > 0.0) {
    events_.set(id, now + task.latency);
  } else {
    enter_service(id, now);
  }
}

void GraphRun::enter_service(TaskId id, Seconds now) {
  const Task& task = graph_->tasks()[id];
  if (task.demand_count == 0) {
    finish(id, now);
    return;
  }
  State& state = states_[id];
  state.in_service = true;
  state.remaining = task.service;
  state.since = now;
  if (tolerance_ == 0.0) {
    share_.enter(id);
  } else if (share_.enter_alone(id)) {
    state.speed = 1.0;
    events_.set(id, now + state.remaining);
  } else {
    waiting_.push_back(id);
    put_off(now);
  }
}

void GraphRun::put_off(Seconds now) {
  if (overdue_) return;
  overdue_ = true;
  due_ = now + now * tolerance_;
}

void GraphRun::finish(TaskId id, Seconds now) {
  out_->tasks[id].end = now;
  last_end_ = now;
  --unfinished_;
  const std::uint32_t begin = id == 0 ? 0 : successor_end_[id - 1];
  for (std::uint32_t i = begin; i < successor_end_[id]; ++i) {
    if (--states_[successors_[i]].pending == 0) ready_.push_back(successors_[i]);
  }
}

// Starts what is ready, then moves the ends of the tasks that this speeds up or slows down.
void GraphRun::settle(Seconds now) {
  while (!ready_.empty()) {
    const TaskId id = ready_.back();
    ready_.pop_back();
    start(id, now);
  }
  if (tolerance_ > 0.0) {
    // As long as something else happens in time, sharing can wait for it.
    if (!overdue_ || (!events_.empty() && events_.top_time() < due_)) return;
    overdue_ = false;
    for (const TaskId id : waiting_) share_.enter(id);
    waiting_.clear();
  }
  share_.update();
  for (const TaskId id : share_.changed()) {
    State& state = states_[id];
    progress(id, now);
    state.limit = share_.limit(id);
    if (state.speed == share_.speed(id)) continue;
    state.speed = share_.speed(id);
    events_.set(id, now + state.remaining / state.speed);
  }
}

// Accounts for the time since the last change of the task's speed.
void GraphRun::progress(TaskId id, Seconds now) {
  State& state = states_[id];
  const Seconds time = now - state.since;
  if (time.value() == 0.0) return;
  state.since = now;
  state.remaining = std::max(Seconds{}, state.remaining - time * state.speed);
  if (state.limit == kNotSlowed) return;
  if (state.slowdowns != kNone && slowdowns_[state.slowdowns].limit == state.limit) {
    slowdowns_[state.slowdowns].time += time;
    return;
  }
  slowdowns_.push_back({state.limit, time, state.slowdowns});
  state.slowdowns = static_cast<std::uint32_t>(slowdowns_.size() - 1);
}

// A critical task's latency counts as latency; its time in service for the resource that slowed it,
// or for the one it needs most while nothing did.
void GraphRun::attribute_critical_path(double weight) {
  task::Timeline& out = *out_;
  const task::Segment& segment = graph_->segments()[segment_];
  const TaskId last = task::last_task(segment, out.tasks);
  task::walk_critical_path(out.tasks, last, [&](TaskId id) {
    const Task& task = graph_->tasks()[id];
    const Seconds time = out.tasks[id].end - out.tasks[id].start;
    out.label_time[task.label] += time * weight;
    if (task.demand_count == 0) {
      out.critical.back() += time * weight;
      return;
    }
    Seconds service = time - task.latency;
    out.critical.back() += task.latency * weight;
    for (std::uint32_t i = states_[id].slowdowns; i != kNone; i = slowdowns_[i].next) {
      out.critical[slowdowns_[i].limit] += slowdowns_[i].time * weight;
      service -= slowdowns_[i].time;
    }
    out.critical[task.bottleneck] += std::max(Seconds{}, service) * weight;
  });
}

}  // namespace foretoken::engine
