#include "sim/engine/fair_share.h"

#include <algorithm>
#include <cassert>

namespace foretoken::engine {
namespace {

// Loads that add up to 1 on paper (three thirds) may exceed it by rounding.
constexpr double kFull = 1.0 + 1e-12;

}  // namespace

void FairShare::reset(const task::TaskGraph& graph) {
  graph_ = &graph;
  epoch_ = 0;
  flows_.assign(graph.tasks().size(), Flow{});
  weight_.resize(graph.demands().size());
  slot_.resize(graph.demands().size());
  resources_.resize(graph.resources().size());
  for (Resource& resource : resources_) {
    resource.members.clear();
    resource.dirty = false;
    resource.contended = false;
    resource.reached = 0;
  }
  dirty_.clear();
  entered_.clear();
  changed_.clear();
}

void FairShare::mark_dirty(task::ResourceId resource) {
  if (resources_[resource].dirty) return;
  resources_[resource].dirty = true;
  dirty_.push_back(resource);
}

void FairShare::enter(task::TaskId id) {
  const task::Task& task = graph_->tasks()[id];
  assert(task.demand_count > 0);
  flows_[id].speed = 0.0;
  flows_[id].limit = kNotSlowed;
  for (std::uint32_t i = task.first_demand; i < task.first_demand + task.demand_count; ++i) {
    const task::Demand& demand = graph_->demands()[i];
    std::vector<Member>& members = resources_[demand.resource].members;
    weight_[i] = demand.busy / task.service;
    slot_[i] = static_cast<std::uint32_t>(members.size());
    members.push_back({id, i});
    mark_dirty(demand.resource);
  }
  entered_.push_back(id);
}

void FairShare::leave(task::TaskId id) {
  const task::Task& task = graph_->tasks()[id];
  for (std::uint32_t i = task.first_demand; i < task.first_demand + task.demand_count; ++i) {
    const task::ResourceId resource = graph_->demands()[i].resource;
    std::vector<Member>& members = resources_[resource].members;
    members[slot_[i]] = members.back();
    slot_[members.back().demand] = slot_[i];
    members.pop_back();
    mark_dirty(resource);
  }
}

bool FairShare::enter_alone(task::TaskId id) {
  const task::Task& task = graph_->tasks()[id];
  assert(task.demand_count > 0);
  for (const task::Demand& demand : graph_->demands(task)) {
    if (!resources_[demand.resource].members.empty()) return false;
    if (demand.busy.value() > task.service.value() * kFull) return false;
  }
  flows_[id].speed = 1.0;
  flows_[id].limit = kNotSlowed;
  for (std::uint32_t i = task.first_demand; i < task.first_demand + task.demand_count; ++i) {
    const task::Demand& demand = graph_->demands()[i];
    Resource& resource = resources_[demand.resource];
    resource.contended = false;
    weight_[i] = demand.busy / task.service;
    slot_[i] = 0;
    resource.members.push_back({id, i});
  }
  return true;
}

bool FairShare::slows_others(task::TaskId id) const {
  for (const task::Demand& demand : graph_->demands(graph_->tasks()[id])) {
    if (resources_[demand.resource].contended) return true;
  }
  return false;
}

void FairShare::update() {
  ++epoch_;
  changed_.clear();
  find_connected();
  fill();
}

void FairShare::reach_members(const Resource& resource) {
  for (const Member& member : resource.members) {
    if (flows_[member.task].reached == epoch_) continue;
    flows_[member.task].reached = epoch_;
    connected_.push_back(member.task);
  }
}

void FairShare::reach_if_contended(task::ResourceId id) {
  Resource& resource = resources_[id];
  if (!resource.contended || resource.reached == epoch_) return;
  resource.reached = epoch_;
  contended_.push_back(id);
  reach_members(resource);
}

void FairShare::find_connected() {
  connected_.clear();
  contended_.clear();
  for (const task::ResourceId id : dirty_) {
    Resource& resource = resources_[id];
    resource.dirty = false;
    // Summed afresh: adding and subtracting over a long run would drift.
    double load = 0.0;
    for (const Member& member : resource.members) load += weight_[member.demand];
    const bool was_contended = resource.contended;
    resource.contended = load > kFull;
    if (was_contended && !resource.contended) reach_members(resource);
    reach_if_contended(id);
  }
  dirty_.clear();
  for (const task::TaskId id : entered_) {
    if (flows_[id].reached == epoch_) continue;
    flows_[id].reached = epoch_;
    connected_.push_back(id);
  }
  entered_.clear();
  for (std::size_t i = 0; i < connected_.size(); ++i) {  // grows while it is read
    for (const task::Demand& demand : graph_->demands(graph_->tasks()[connected_[i]])) {
      reach_if_contended(demand.resource);
    }
  }
}

void FairShare::fill() {
  const auto later = [](const Level& a, const Level& b) {
    return a.speed > b.speed || (a.speed == b.speed && a.resource > b.resource);
  };
  levels_.clear();
  for (const task::ResourceId id : contended_) {
    Resource& resource = resources_[id];
    resource.spare = 1.0;
    resource.open = static_cast<std::uint32_t>(resource.members.size());
    resource.open_weight = 0.0;
    for (const Member& member : resource.members) resource.open_weight += weight_[member.demand];
    levels_.push_back({1.0 / resource.open_weight, id});
  }
  std::make_heap(levels_.begin(), levels_.end(), later);

  double speed = 0.0;
  while (!levels_.empty()) {
    std::pop_heap(levels_.begin(), levels_.end(), later);
    Level& next = levels_.back();
    const task::ResourceId full = next.resource;
    const Resource& resource = resources_[full];
    if (resource.open == 0) {
      levels_.pop_back();
      continue;
    }
    // Tasks fixed since leave more to the others, so a level only ever rises.
    const double current = resource.spare / resource.open_weight;
    if (current > next.speed) {
      next.speed = current;
      std::push_heap(levels_.begin(), levels_.end(), later);
      continue;
    }
    levels_.pop_back();
    speed = std::max(speed, current);
    if (speed >= 1.0) break;
    for (const Member& member : resource.members) {
      if (flows_[member.task].fixed != epoch_) fix(member.task, speed, full);
    }
  }
  for (const task::TaskId id : connected_) {
    if (flows_[id].fixed != epoch_) assign(id, 1.0, kNotSlowed);
  }
}

void FairShare::fix(task::TaskId id, double speed, task::ResourceId limit) {
  flows_[id].fixed = epoch_;
  assign(id, speed, limit);
  const task::Task& task = graph_->tasks()[id];
  for (std::uint32_t i = task.first_demand; i < task.first_demand + task.demand_count; ++i) {
    Resource& resource = resources_[graph_->demands()[i].resource];
    if (!resource.contended) continue;
    resource.spare -= weight_[i] * speed;
    resource.open_weight -= weight_[i];
    --resource.open;
  }
}

void FairShare::assign(task::TaskId id, double speed, task::ResourceId limit) {
  Flow& flow = flows_[id];
  if (flow.speed == speed && flow.limit == limit) return;
  flow.speed = speed;
  flow.limit = limit;
  changed_.push_back(id);
}

}  // namespace foretoken::engine
