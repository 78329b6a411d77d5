#include "hwmodels/lower.h"

#include <algorithm>
#include <bitset>

#include "hwmodels/expert_waves.h"

namespace foretoken::hwmodels {

namespace w = workloads;
using w::Role;

namespace {

// The stack's loss at an operator: how much longer it takes inside an engine than alone.
double loss_of(const w::Op& op, const w::ParallelPlan& plan, const Stack& stack) {
  const auto* product = std::get_if<w::GroupedGemm>(&op);
  const bool slow =
      product != nullptr && product->weight == w::Dtype::kFp4 && plan.overlap != w::Overlap::kWaves;
  return slow ? 1.0 / stack.fp4_expert_rate.value : 1.0;
}

bool is_expert(Role role) {
  return role == Role::kExpertGateUp || role == Role::kExpertSwiglu || role == Role::kExpertDown;
}

// A number by which operators of one role usually differ: of tokens, rows, keys or bytes.
std::uint64_t mark_of(const w::Op& op) {
  struct Marks {
    static std::uint64_t mix(std::int64_t a, std::int64_t b = 0) {
      const std::uint64_t x = static_cast<std::uint64_t>(a) * 0x9e3779b97f4a7c15u +
                              static_cast<std::uint64_t>(b) * 0xc2b2ae3d27d4eb4fu;
      return x >> 32;
    }
    std::uint64_t operator()(const w::Gemm& o) const { return mix(o.m, o.n); }
    std::uint64_t operator()(const w::GroupedGemm& o) const { return mix(o.rows, o.active); }
    std::uint64_t operator()(const w::Attention& o) const { return mix(o.queries, o.keys); }
    std::uint64_t operator()(const w::IndexLogits& o) const { return mix(o.queries, o.entries); }
    std::uint64_t operator()(const w::TopK& o) const { return mix(o.queries, o.entries); }
    std::uint64_t operator()(const w::Compress& o) const { return mix(o.tokens, o.emitted); }
    std::uint64_t operator()(const w::HyperConnection& o) const { return mix(o.tokens); }
    std::uint64_t operator()(const w::VectorOp& o) const { return mix(o.rows, o.width); }
    std::uint64_t operator()(const w::Route& o) const { return mix(o.tokens); }
    std::uint64_t operator()(const w::Dispatch& o) const { return mix(o.tokens, o.remote); }
    std::uint64_t operator()(const w::Combine& o) const { return mix(o.tokens, o.remote); }
    std::uint64_t operator()(const w::Collective& o) const { return mix(o.bytes, o.ranks); }
    std::uint64_t operator()(const w::Lookup& o) const { return mix(o.tokens); }
  };
  return std::visit(Marks{}, op);
}

}  // namespace

Lowering::Lowering() : graph_({kUnitNames.begin(), kUnitNames.end()}, 2) {}

void Lowering::lower(const w::OpGraph& ops, const w::ParallelPlan& plan, const Hardware& hardware,
                     const Rates& rates, const Stack& stack) {
  graph_.clear();
  if (remembered_hardware_ != &hardware || !(remembered_rates_ == rates)) {
    for (std::vector<Remembered>& places : remembered_) {
      for (Remembered& r : places) r.valid = false;
    }
    remembered_hardware_ = &hardware;
    remembered_rates_ = rates;
    costs_.use(hardware, remembered_rates_);
  }
  separate_queues_ = plan.overlap != w::Overlap::kNone;
  for (std::size_t i = 0; i < ops.blocks.size(); ++i) {
    const w::Block& block = ops.blocks[i];
    graph_.begin_segment(static_cast<task::LabelId>(i), block.repeat);
    gather_kernels(ops, block, plan, stack);
    emit_block(plan, rates);
  }
}

void Lowering::gather_kernels(const w::OpGraph& ops, const w::Block& block,
                              const w::ParallelPlan& plan, const Stack& stack) {
  const auto nodes = ops.ops(block);
  kernels_.clear();
  kernel_of_.clear();
  std::bitset<w::kRoles> present;
  for (const w::OpNode& node : nodes) present.set(w::index_of(node.role));
  kernel_by_role_.fill(kNone);
  for (const w::OpNode& node : nodes) {
    Role role = stack.host[w::index_of(node.role)];
    if (!present.test(w::index_of(role))) role = node.role;
    std::uint32_t k = kernel_by_role_[w::index_of(role)];
    if (k != kNone) {
      // A kernel cannot wait for one that starts after it.
      for (std::uint8_t d = 0; d < node.dependency_count; ++d) {
        if (kernel_of_[node.dependencies[d] - block.first] > k) k = kNone;
        if (k == kNone) break;
      }
      if (k == kNone) role = node.role;
    }
    if (k == kNone) {
      k = static_cast<std::uint32_t>(kernels_.size());
      kernels_.emplace_back().role = role;
      kernel_by_role_[w::index_of(role)] = k;
    }
    kernel_of_.push_back(k);
    Kernel& kernel = kernels_[k];
    if (node.role == Role::kExpertGateUp) rule_waves_ = waves_by_rule(node.op);
    add_remembered_cost(node, loss_of(node.op, plan, stack), kernel.cost);
    for (std::uint8_t d = 0; d < node.dependency_count; ++d) {
      const std::uint32_t other = kernel_of_[node.dependencies[d] - block.first];
      if (other == k) continue;
      std::uint32_t& latest = kernel.after[kernels_[other].queue()];
      if (latest == kNone || other > latest) latest = other;
    }
  }
}

// Of the rank whose first products these are.
std::int64_t Lowering::waves_by_rule(const w::Op& op) const {
  const auto* product = std::get_if<w::GroupedGemm>(&op);
  if (product == nullptr || product->groups <= 0) return 1;
  ExpertLayer layer;
  layer.tokens = product->rows;
  layer.experts = product->groups;
  layer.inner = std::max<std::int64_t>(1, product->n / 2);
  const Hardware& hardware = costs_.hardware();
  const std::int64_t each =
      experts_per_wave(hardware.kernels.expert_layer, layer, hardware.chip.cores);
  return (product->groups + each - 1) / each;
}

void Lowering::add_remembered_cost(const w::OpNode& node, double loss, Cost& sum) {
  std::vector<Remembered>& places = remembered_[w::index_of(node.role)];
  if (places.empty()) places.resize(kPlaces);
  Remembered& r = places[mark_of(node.op) % kPlaces];
  if (!r.valid || !(r.op == node.op)) {
    r.valid = false;  // stays so if the chip cannot do it
    r.cost = Cost{};
    costs_.add(node.op, r.cost);
    r.op = node.op;
    r.valid = true;
  }
  for (std::size_t i = 0; i < sum.busy.size(); ++i) sum.busy[i] += r.cost.busy[i] * loss;
  // What shares a kernel shares its start and its end.
  sum.latency = std::max(sum.latency, r.cost.latency * loss);
  sum.communication = sum.communication || r.cost.communication;
}

// What a dispatch or combine inside a larger kernel keeps of its latency: the library's start falls
// away.
double Lowering::flight_of(const Kernel& kernel, const Rates& rates) {
  const double start = std::max(0.0, rates.communication.expert_start - rates.launch);
  return std::max(0.0, kernel.cost.latency - start);
}

void Lowering::emit_block(const w::ParallelPlan& plan, const Rates& rates) {
  const std::int64_t count = plan.waves > 0 ? plan.waves : rule_waves_;
  const bool pairs = plan.overlap == w::Overlap::kPairwise && count > 1;
  const bool waves = (plan.overlap == w::Overlap::kWaves || pairs) && count > 1;
  arrivals_.clear();
  results_.clear();
  for (std::size_t k = 0; k < kernels_.size(); ++k) {
    Kernel& kernel = kernels_[k];
    const double start = rates.launch;
    if (waves && kernel.role == Role::kDispatch) {
      const double scale = 1.0 / static_cast<double>(count);
      const double first = start + rates.collective + flight_of(kernel, rates);
      for (std::int64_t i = 0; i < count; ++i) {
        // One fused kernel: only its first wave pays the launch, the floor and the first flight.
        arrivals_.push_back(emit(kernel, kernel.cost, i == 0 ? first : 0.0, scale, kNone));
      }
      kernel.task = arrivals_.back();
    } else if (waves && !arrivals_.empty() && is_expert(kernel.role)) {
      if (pairs) {
        emit_part(k, count, rates);
      } else {
        if (results_.empty()) emit_waves(k, count, rates);
        kernel.task = results_.back();
      }
    } else if (waves && !results_.empty() && kernel.role == Role::kCombine) {
      const double scale = 1.0 / static_cast<double>(count);
      const double flight = flight_of(kernel, rates);
      for (std::int64_t i = 0; i < count; ++i) {
        kernel.task = emit(kernel, kernel.cost, i == 0 ? flight : 0.0, scale,
                           results_[static_cast<std::size_t>(i)]);
      }
    } else {
      kernel.task = emit(kernel, kernel.cost, start + kernel.cost.latency, 1.0, kNone);
    }
  }
}

// The first product in parts that wait for theirs to arrive, the second in parts that leave one by
// one, what is between them whole.
void Lowering::emit_part(std::size_t k, std::int64_t parts, const Rates& rates) {
  Kernel& kernel = kernels_[k];
  const bool first = kernel.role == Role::kExpertGateUp;
  if (!first && kernel.role != Role::kExpertDown) {
    kernel.task = emit(kernel, kernel.cost, rates.launch + kernel.cost.latency, 1.0, kNone);
    return;
  }
  results_.clear();
  for (std::int64_t i = 0; i < parts; ++i) {
    // One kernel with its traffic: launched with dispatch, or anew.
    const double start = i > 0 ? 0.0 : first ? rates.memory_latency : rates.launch;
    results_.push_back(emit(kernel, kernel.cost, start, 1.0 / static_cast<double>(parts),
                            first ? arrivals_[static_cast<std::size_t>(i)] : kNone));
    if (!first) kernel.after = {kNone, kNone};
  }
  kernel.task = results_.back();
}

// Experts in waves, inside one kernel with dispatch and combine: wave i starts when its tokens are
// here.
void Lowering::emit_waves(std::size_t first_expert, std::int64_t waves, const Rates& rates) {
  Cost all;
  Kernel merged = kernels_[first_expert];
  for (const Kernel& kernel : kernels_) {
    if (!is_expert(kernel.role)) continue;
    for (std::size_t i = 0; i < all.busy.size(); ++i) all.busy[i] += kernel.cost.busy[i];
  }
  for (std::int64_t i = 0; i < waves; ++i) {
    results_.push_back(emit(merged, all, i == 0 ? rates.memory_latency : 0.0,
                            1.0 / static_cast<double>(waves),
                            arrivals_[static_cast<std::size_t>(i)]));
    merged.after = {kNone, kNone};
  }
}

task::TaskId Lowering::emit(const Kernel& kernel, const Cost& c, double latency, double scale,
                            std::uint32_t extra_dependency) {
  std::array<task::Demand, kUnits> demands;
  std::size_t count = 0;
  for (std::size_t i = 0; i < c.busy.size(); ++i) {
    if (c.busy[i] > 0.0) {
      demands[count++] = {static_cast<task::ResourceId>(i), base::Seconds{c.busy[i] * scale}};
    }
  }
  std::array<task::TaskId, 3> dependencies;
  std::size_t waits = 0;
  const bool wave_input = extra_dependency != kNone;
  for (std::size_t q = 0; q < kernel.after.size(); ++q) {
    if (kernel.after[q] == kNone) continue;
    // A wave waits for its own part of the kernel before it, not for all of it.
    if (wave_input && (kernels_[kernel.after[q]].role == Role::kDispatch ||
                       is_expert(kernels_[kernel.after[q]].role))) {
      continue;
    }
    dependencies[waits++] = kernels_[kernel.after[q]].task;
  }
  if (wave_input) dependencies[waits++] = extra_dependency;
  const task::QueueId queue =
      separate_queues_ && kernel.cost.communication ? kCommunicationQueue : kComputeQueue;
  return graph_.add(static_cast<task::LabelId>(kernel.role), queue, base::Seconds{latency},
                    {demands.data(), count}, {dependencies.data(), waits});
}

}  // namespace foretoken::hwmodels
