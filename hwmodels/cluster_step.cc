#include "hwmodels/cluster_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "hwmodels/fabric.h"
#include "sim/base/error.h"

namespace foretoken::hwmodels {

namespace w = workloads;
using task::TaskId;
using w::Role;

namespace {

constexpr auto kScaleUp = static_cast<task::ResourceId>(Unit::kScaleUp);
constexpr auto kScaleOut = static_cast<task::ResourceId>(Unit::kScaleOut);
constexpr auto kHost = static_cast<task::ResourceId>(Unit::kHost);
static_assert(static_cast<int>(Unit::kMatrix) == static_cast<int>(RankUnit::kMatrix) &&
              static_cast<int>(Unit::kCache) == static_cast<int>(RankUnit::kCache));

double demand_of(const task::TaskGraph& graph, const task::Task& task, task::ResourceId unit) {
  for (const task::Demand& d : graph.demands(task)) {
    if (d.resource == unit) return d.busy.value();
  }
  return 0.0;
}

// How long the busier of a rank's links are in use.
double time_on_links(const task::TaskGraph& graph, const task::Task& task) {
  return std::max(demand_of(graph, task, kScaleUp), demand_of(graph, task, kScaleOut));
}

bool same(const w::OpGraph& a, const w::OpGraph& b) {
  return a.blocks.size() == b.blocks.size() &&
         std::equal(a.nodes.begin(), a.nodes.end(), b.nodes.begin(), b.nodes.end(),
                    [](const w::OpNode& x, const w::OpNode& y) {
                      return x.role == y.role && x.op == y.op;
                    });
}

// The rank's rows and experts as the matrix has them, and what its own tokens send.
void apply(const PairMatrix& load, std::int64_t rank, const w::Block& block, w::OpGraph& ops) {
  const auto rows = static_cast<std::int64_t>(std::llround(load.held_by(rank)));
  const std::int64_t touched = load.touched[static_cast<std::size_t>(rank)];
  for (std::uint32_t i = block.first; i < block.first + block.count; ++i) {
    w::OpNode& node = ops.nodes[i];
    if (node.component == w::Component::kDraft) continue;
    if (node.role == Role::kExpertGateUp || node.role == Role::kExpertDown) {
      auto& op = std::get<w::GroupedGemm>(node.op);
      op.rows = rows;
      op.active = std::min(touched, rows);
    } else if (node.role == Role::kExpertSwiglu) {
      std::get<w::VectorOp>(node.op).rows = rows;
    } else if (node.role == Role::kDispatch) {
      auto& op = std::get<w::Dispatch>(node.op);
      op.remote = op.pairs - op.pairs / op.ranks;
    } else if (node.role == Role::kCombine) {
      auto& op = std::get<w::Combine>(node.op);
      op.remote = op.pairs - op.pairs / op.ranks;
    }
  }
}

Hardware routed(Hardware hardware, FabricRouting routing) {
  hardware.system.routing = routing;
  return hardware;
}

std::int64_t devices_needed(const w::ParallelPlan& plan, const ClusterOptions& options) {
  std::int64_t devices = plan.devices() * options.instances;
  if (options.cache_to) devices = std::max(devices, *options.cache_to + devices);
  return devices;
}

FabricGraph with_hosts(const SystemSpec& system, const Rates& rates, std::int64_t devices,
                       FabricRouting routing) {
  FabricGraph fabric(system, rates.link_efficiency, devices, routing);
  fabric.add_host_links(rates.host);
  return fabric;
}

// Leaves the nodes of one kind of block; the others stay as blocks without nodes.
void keep_only(const std::string& name, w::OpGraph& ops) {
  std::vector<w::OpNode> kept;
  for (w::Block& block : ops.blocks) {
    const auto nodes = ops.ops(block);
    const auto first = static_cast<std::uint32_t>(kept.size());
    if (block.name == name) {
      kept.insert(kept.end(), nodes.begin(), nodes.end());
      for (std::size_t i = first; i < kept.size(); ++i) {
        for (std::uint8_t d = 0; d < kept[i].dependency_count; ++d) {
          kept[i].dependencies[d] += first - block.first;
        }
      }
    } else {
      block.count = 0;
    }
    block.first = first;
  }
  ops.nodes = std::move(kept);
}

}  // namespace

PairMatrix pair_matrix(const w::ExpertLoad& load) {
  PairMatrix out;
  out.ranks = load.placement.ranks;
  out.pairs.assign(load.rank_pairs.begin(), load.rank_pairs.end());
  out.touched = load.touched_by_rank();
  return out;
}

double PairMatrix::sent_by(std::int64_t source) const {
  double sum = 0.0;
  for (std::int64_t d = 0; d < ranks; ++d) sum += at(source, d);
  return sum;
}

double PairMatrix::held_by(std::int64_t destination) const {
  double sum = 0.0;
  for (std::int64_t s = 0; s < ranks; ++s) sum += at(s, destination);
  return sum;
}

ClusterStep::ClusterStep(const w::ModelSpec& model, const w::Precision& precision,
                         const w::ParallelPlan& plan, const Hardware& hardware, const Rates& rates,
                         const Stack& stack, ClusterOptions options)
    : model_(model),
      precision_(precision),
      plan_(plan),
      hardware_(routed(hardware, options.routing)),
      rates_(rates),
      stack_(stack),
      options_(std::move(options)),
      devices_(devices_needed(plan, options_)),
      fabric_(with_hosts(hardware.system, rates, devices_, options_.routing)),
      resources_{.ranks = static_cast<std::uint32_t>(devices_), .links = fabric_.link_count()},
      traffic_(fabric_, resources_) {}

std::int64_t ClusterStep::device(std::int64_t instance, std::int64_t stage,
                                 std::int64_t rank) const {
  const std::int64_t inside = stage * plan_.stage_ranks() + rank;
  return options_.strided ? inside * options_.instances + instance
                          : instance * plan_.devices() + inside;
}

bool ClusterStep::takes_load(const w::Block& block) const {
  return plan_.routing.kind != w::Routing::kHash || block.name == "moe+hash";
}

void ClusterStep::find_classes(const w::Batch& batch, std::span<const PairMatrix> loads) {
  const std::int64_t ranks = plan_.stage_ranks();
  if (!loads.empty() && plan_.ep != ranks) {
    throw base::UnsupportedError(
        fmt::format("unlike experts need experts over all {} ranks of a stage; the plan has EP{}",
                    ranks, plan_.ep));
  }
  patterns_ = loads.empty() ? 1
                            : std::min<std::int64_t>(options_.instances,
                                                     static_cast<std::int64_t>(loads.size()));
  classes_.clear();
  class_index_.clear();
  w::OpGraph ops;
  for (std::int64_t pattern = 0; pattern < patterns_; ++pattern) {
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      w::build_graph(model_, precision_, plan_, batch, rank, ops);
      if (!options_.only_block.empty()) keep_only(options_.only_block, ops);
      for (const w::Block& block : ops.blocks) {
        if (loads.empty() || !takes_load(block)) continue;
        apply(loads[static_cast<std::size_t>(pattern)], rank, block, ops);
      }
      // Like ranks mostly are neighbours.
      std::size_t c = classes_.size();
      const std::size_t oldest =
          loads.empty() ? 0 : classes_.size() - std::min<std::size_t>(classes_.size(), 4);
      while (c > oldest && !same(classes_[c - 1].ops, ops)) --c;
      if (c == oldest) {
        lowering_.lower(ops, plan_, hardware_, rates_, stack_);
        classes_.push_back({ops, lowering_.graph()});
        c = classes_.size();
      }
      class_index_.push_back(static_cast<std::uint32_t>(c - 1));
    }
  }
  // The one with the most blocks first: a head that only the last context-parallel rank has.
  std::size_t fullest = 0;
  for (std::size_t c = 1; c < classes_.size(); ++c) {
    if (classes_[c].ops.blocks.size() > classes_[fullest].ops.blocks.size()) fullest = c;
  }
  if (fullest != 0) {
    std::swap(classes_[0], classes_[fullest]);
    for (std::uint32_t& c : class_index_) {
      c = c == 0 ? static_cast<std::uint32_t>(fullest) : c == fullest ? 0U : c;
    }
  }
}

void ClusterStep::build(const w::Batch& batch, std::span<const PairMatrix> loads) {
  find_classes(batch, loads);
  if (!graph_) {
    graph_ = std::make_unique<task::TaskGraph>(resource_names(resources_, fabric_),
                                               2 * static_cast<std::uint32_t>(devices_));
  }
  graph_->clear();
  places_.clear();
  parts_.clear();
  const w::OpGraph& ops = this->ops();
  // Runs of each block in each stage, in the order in which they first come.
  struct Runs {
    Part part;
    std::uint32_t count = 0;
  };
  std::vector<Runs> runs;
  std::int64_t stage = 0;
  for (const w::BlockRun& run : ops.order) {
    const w::Block& block = ops.blocks[run.block];
    if (!options_.only_block.empty() && block.name != options_.only_block) continue;
    const auto found = std::find_if(runs.begin(), runs.end(), [&](const Runs& r) {
      return r.part.block == run.block && r.part.stage == stage;
    });
    if (found == runs.end()) {
      runs.push_back({{run.block, stage}, 1});
    } else if (options_.only_block.empty()) {
      ++found->count;
    }
    if (block.count > 0 && ops.ops(block).front().role == Role::kStageSend) ++stage;
  }
  if (runs.empty()) {
    throw base::UnsupportedError(
        fmt::format("{} has no block '{}' in this step", model_.name, options_.only_block));
  }
  for (const Runs& r : runs) {
    graph_->begin_segment(r.part.block, r.count);
    parts_.push_back(r.part);
    emit_segment(r.part.block, r.part.stage, loads);
  }
}

TaskId ClusterStep::add(task::LabelId label, task::QueueId queue, base::Seconds latency,
                        std::span<const task::Demand> demands, std::span<const TaskId> after,
                        Place place, base::Seconds own) {
  places_.push_back(place);
  if (own > base::Seconds{}) return graph_->add_group(label, queue, latency, own, demands, after);
  return graph_->add(label, queue, latency, demands, after);
}

ClusterStep::Exchange ClusterStep::exchange_of(Role role, const w::OpGraph& ops,
                                               const w::Block& block) const {
  Exchange e;
  switch (role) {
    case Role::kAttnAllReduce:
    case Role::kFfnAllReduce:
    case Role::kTokenGather:
    case Role::kLogitsGather:
      e = {Group::kTensor, plan_.tp, 1};
      break;
    case Role::kContextGather:
      e = {Group::kContext, plan_.cp, plan_.tp};
      for (const w::OpNode& node : ops.ops(block)) {
        const auto* op = std::get_if<w::Collective>(&node.op);
        if (node.role == role && op != nullptr && op->kind == w::CollectiveKind::kSendRecv) {
          e.group = Group::kContextRing;
          e.members = 1;
        }
      }
      break;
    case Role::kStageSend:
      e = {Group::kStage, 1, 1};
      break;
    default:
      e = {Group::kExpert, plan_.ep, 1};
      break;
  }
  // One byte to each of the others, or to the next.
  LinkTime t;
  if (e.group == Group::kStage || e.group == Group::kContextRing) {
    t = send(hardware_, rates_, 1.0, e.group == Group::kStage ? plan_.stage_ranks() : 1);
  } else if (e.members > 1) {
    t = all_to_all(hardware_, rates_, static_cast<double>(e.members - 1), e.members);
  }
  e.unit = std::max(t.scale_up, t.scale_out);
  return e;
}

std::int64_t ClusterStep::leader(const Exchange& e, std::int64_t rank) const {
  switch (e.group) {
    case Group::kStage:
      return rank;
    case Group::kContext:
    case Group::kContextRing:
      return rank - rank / plan_.tp % plan_.cp * plan_.tp;
    case Group::kTensor:
    case Group::kExpert:
      return rank / e.members * e.members;
  }
  return rank;
}

// Tasks of one block in the order of the class's own graph; each on every rank before the next.
struct ClusterStep::Emitter {
  ClusterStep& step;
  std::size_t segment;
  std::int64_t stage;
  std::span<const PairMatrix> loads;
  const w::Block& block;
  std::size_t count;  // tasks of a rank
  std::int64_t ranks, instances;
  // [task][instance][rank]: what ran there, and what stands for all that reach the rank.
  std::vector<TaskId> done, arrived;
  std::vector<std::uint8_t> pushed;
  std::vector<Exchange> exchanges;
  // Of the latest exchange: what it waited for, and the joins of its groups, by leader.
  std::vector<std::uint32_t> waited;
  std::vector<TaskId> ready;
  std::vector<TaskId> after;
  std::vector<task::Demand> demands;

  Emitter(ClusterStep& s, std::size_t number, std::int64_t at_stage,
          std::span<const PairMatrix> unlike)
      : step(s),
        segment(number),
        stage(at_stage),
        loads(unlike),
        block(s.ops().blocks[number]),
        count(s.classes_.front().graph.segments()[number].count),
        ranks(s.plan_.stage_ranks()),
        instances(s.options_.instances) {
    const auto all = static_cast<std::size_t>(instances * ranks);
    done.assign(count * all, task::kNoTask);
    arrived.assign(count * all, task::kNoTask);
    pushed.assign(count, 0);
    exchanges.resize(count);
    ready.assign(all, task::kNoTask);
  }

  [[nodiscard]] std::size_t at(std::size_t t, std::int64_t instance, std::int64_t rank) const {
    return (t * static_cast<std::size_t>(instances) + static_cast<std::size_t>(instance)) *
               static_cast<std::size_t>(ranks) +
           static_cast<std::size_t>(rank);
  }

  // The rank's own task, or nullptr where its step lacks the block.
  [[nodiscard]] const task::Task* task_of(const Class& c, std::size_t t) const {
    if (segment >= c.graph.segments().size()) return nullptr;
    const task::Segment& s = c.graph.segments()[segment];
    if (s.count != count) {
      throw base::UnsupportedError(fmt::format(
          "ranks whose {} block has unlike kernels cannot be simulated together", block.name));
    }
    return &c.graph.tasks()[s.first + t];
  }

  // What `rank` waits for when it waits for task t: all flows of the group where they are pushed.
  TaskId wait_for(std::size_t t, std::int64_t instance, std::int64_t rank) {
    const TaskId own = done[at(t, instance, rank)];
    if (pushed[t] == 0) return own;
    const Exchange& e = exchanges[t];
    const std::int64_t first = step.leader(e, rank);
    TaskId& all = arrived[at(t, instance, first)];
    if (all == task::kNoTask) {
      std::vector<TaskId> flows;
      for (std::int64_t m = 0; m < e.members; ++m) {
        flows.push_back(done[at(t, instance, first + m * e.step)]);
      }
      all = step.add(kJoin, task::kNoQueue, base::Seconds{}, {}, flows, {});
    }
    return all;
  }

  void gather_waits(const Class& c, const task::Task& task, std::int64_t instance,
                    std::int64_t rank) {
    for (const TaskId d : c.graph.dependencies(task)) {
      const TaskId id = wait_for(d - c.graph.segments()[segment].first, instance, rank);
      if (id != task::kNoTask) after.push_back(id);
    }
  }

  void gather_units(const Class& c, const task::Task& task, std::int64_t device) {
    demands.clear();
    for (const task::Demand& d : c.graph.demands(task)) {
      if (d.resource == kScaleUp || d.resource == kScaleOut) continue;
      const task::ResourceId resource =
          d.resource == kHost ? step.resources_.link(step.fabric_.from_host(device))
                              : step.resources_.unit(static_cast<std::uint32_t>(device),
                                                     static_cast<RankUnit>(d.resource));
      demands.push_back({resource, d.busy});
    }
  }

  void emit(const task::Task& task, std::size_t t, std::int64_t instance, std::int64_t rank,
            bool communication) {
    const auto device = static_cast<std::uint32_t>(step.device(instance, stage, rank));
    // What waits for more than the resources it shares does so here, too.
    const base::Seconds own = communication ? base::Seconds{} : task.service;
    done[at(t, instance, rank)] = step.add(task.label, 2 * device + task.queue, task.latency,
                                           demands, after, {device, communication}, own);
  }

  void emit_alone(std::size_t t, std::int64_t instance, std::int64_t rank) {
    const Class& c = step.class_of(instance, rank);
    const task::Task* task = task_of(c, t);
    if (task == nullptr) return;
    after.clear();
    gather_waits(c, *task, instance, rank);
    const std::int64_t device = step.device(instance, stage, rank);
    gather_units(c, *task, device);
    const Exchange& e = exchanges[t];
    if (e.unit > 0.0 && e.members == 1) {
      // To the next stage, or the next of a ring.
      const double bytes = time_on_links(c.graph, *task) / e.unit;
      std::int64_t to = device;
      if (e.group == Group::kStage) {
        to = step.device(instance, stage + 1, rank);
      } else {
        const std::int64_t first = step.leader(e, rank);
        const std::int64_t place = (rank - first) / e.step;
        to = step.device(instance, stage, first + (place + 1) % step.plan_.cp * e.step);
      }
      add_flow(device, to, bytes);
    }
    emit(*task, t, instance, rank, e.unit > 0.0);
  }

  void add_flow(std::int64_t from, std::int64_t to, double bytes) {
    step.traffic_.clear();
    step.traffic_.add(from, to, bytes);
    const auto links = step.traffic_.demands();
    demands.insert(demands.end(), links.begin(), links.end());
  }

  void emit_group(std::size_t t, std::int64_t instance, std::int64_t first, bool known) {
    const Exchange& e = exchanges[t];
    TaskId& go = ready[static_cast<std::size_t>(instance * ranks + first)];
    if (!known) {
      after.clear();
      for (std::int64_t m = 0; m < e.members; ++m) {
        const std::int64_t rank = first + m * e.step;
        const Class& c = step.class_of(instance, rank);
        const task::Task* task = task_of(c, t);
        if (task != nullptr) gather_waits(c, *task, instance, rank);
      }
      std::sort(after.begin(), after.end());
      after.erase(std::unique(after.begin(), after.end()), after.end());
      go = after.empty() ? task::kNoTask
                         : step.add(kJoin, task::kNoQueue, base::Seconds{}, {}, after, {});
    }
    const PairMatrix* load = nullptr;
    if (!loads.empty() && e.group == Group::kExpert && step.takes_load(block)) {
      load = &loads[static_cast<std::size_t>(instance) % loads.size()];
    }
    // A byte to each of the others, times this, is what a member's tokens move.
    std::vector<double> each(static_cast<std::size_t>(e.members), 0.0);
    for (std::int64_t m = 0; m < e.members; ++m) {
      const std::int64_t rank = first + m * e.step;
      const Class& c = step.class_of(instance, rank);
      const task::Task* task = task_of(c, t);
      if (task == nullptr) continue;
      double& bytes = each[static_cast<std::size_t>(m)];
      bytes = time_on_links(c.graph, *task) / e.unit;
      // Shares of the pairs, a mean of one.
      if (load != nullptr) bytes *= static_cast<double>(e.members) / load->sent_by(m);
    }
    for (std::int64_t m = 0; m < e.members; ++m) {
      const std::int64_t rank = first + m * e.step;
      const Class& c = step.class_of(instance, rank);
      const task::Task* task = task_of(c, t);
      if (task == nullptr) continue;
      const std::int64_t device = step.device(instance, stage, rank);
      gather_units(c, *task, device);
      step.traffic_.clear();
      for (std::int64_t other = 0; other < e.members; ++other) {
        if (other == m) continue;
        const std::int64_t peer = step.device(instance, stage, first + other * e.step);
        // Pulled: the other's tokens. Pushed: results of the other's tokens.
        double bytes = each[static_cast<std::size_t>(other)];
        if (load != nullptr) bytes *= load->at(other, m);
        if (bytes == 0.0) continue;
        if (pushed[t] != 0) {
          step.traffic_.add(device, peer, bytes);
        } else {
          step.traffic_.add(peer, device, bytes);
        }
      }
      const auto links = step.traffic_.demands();
      demands.insert(demands.end(), links.begin(), links.end());
      after.clear();
      if (go != task::kNoTask) after.push_back(go);
      emit(*task, t, instance, rank, true);
    }
  }

  void run() {
    for (std::size_t t = 0; t < count; ++t) {
      const Class& front = step.classes_.front();
      const task::Segment& shape = front.graph.segments()[segment];
      const task::Task& like = front.graph.tasks()[shape.first + t];
      bool moving = false;
      for (const Class& c : step.classes_) {
        const task::Task* task = task_of(c, t);
        moving = moving || (task != nullptr && time_on_links(c.graph, *task) > 0.0);
      }
      Exchange& e = exchanges[t];
      if (moving) e = step.exchange_of(static_cast<Role>(like.label), front.ops, block);
      if (e.members == 1) {
        for (std::int64_t i = 0; i < instances; ++i) {
          for (std::int64_t rank = 0; rank < ranks; ++rank) emit_alone(t, i, rank);
        }
        continue;
      }
      pushed[t] = static_cast<Role>(like.label) == Role::kCombine ? 1 : 0;
      std::vector<std::uint32_t> waits;
      for (const TaskId d : front.graph.dependencies(like)) waits.push_back(d - shape.first);
      waits.push_back(static_cast<std::uint32_t>(e.group));
      const bool known = waits == waited;
      waited = waits;
      for (std::int64_t i = 0; i < instances; ++i) {
        for (std::int64_t rank = 0; rank < ranks; ++rank) {
          if (step.leader(e, rank) == rank) emit_group(t, i, rank, known);
        }
      }
    }
  }
};

void ClusterStep::emit_segment(std::size_t segment, std::int64_t stage,
                               std::span<const PairMatrix> loads) {
  Emitter(*this, segment, stage, loads).run();
  const bool experts = ops().blocks[segment].name.starts_with("moe");
  if (options_.cache_to && experts) emit_cache_transfer(stage);
}

void ClusterStep::emit_cache_transfer(std::int64_t stage) {
  for (std::int64_t i = 0; i < options_.instances; ++i) {
    for (std::int64_t rank = 0; rank < plan_.stage_ranks(); ++rank) {
      const std::int64_t from = device(i, stage, rank);
      traffic_.clear();
      traffic_.add(from, *options_.cache_to + from, options_.cache_bytes);
      add(kCacheTransfer, task::kNoQueue, traffic_.latency(), traffic_.demands(), {},
          {static_cast<std::uint32_t>(from), true});
    }
  }
}

std::vector<LinkUse> link_use(const ClusterStep& step, std::span<const base::Seconds> busy,
                              base::Seconds total) {
  const FabricGraph& fabric = step.fabric();
  const std::size_t dimensions = fabric.system().fabric.size();
  struct Sum {
    double busy = 0.0, most = 0.0;
    std::int64_t count = 0;
  };
  std::vector<Sum> sums(dimensions + 1);
  for (LinkId link = 0; link < fabric.link_count(); ++link) {
    const std::size_t d = std::min(fabric.dimension(link), dimensions);
    const double share = busy[step.resources().link(link)] / total;
    sums[d].busy += share;
    sums[d].most = std::max(sums[d].most, share);
    ++sums[d].count;
  }
  std::vector<LinkUse> out;
  for (std::size_t d = 0; d <= dimensions; ++d) {
    const Sum& s = sums[d];
    if (s.count == 0) continue;
    out.push_back({d < dimensions ? fabric.system().fabric[d].name : "host",
                   s.busy / static_cast<double>(s.count), s.most});
  }
  return out;
}

}  // namespace foretoken::hwmodels
