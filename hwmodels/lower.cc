#include "hwmodels/lower.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <bitset>

#include "sim/base/error.h"

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

// Part of the one kernel that experts and their traffic are in waves.
bool is_fused(Role role) {
  return is_expert(role) || role == Role::kDispatch || role == Role::kCombine;
}

// Rows over the experts of a rank: those without any between the others, so that waves are alike.
void spread_rows(const w::GroupedGemm& op, std::vector<std::int64_t>& rows) {
  rows.clear();
  std::int64_t hit = 0;
  for (std::int64_t i = 0; i < op.groups; ++i) {
    const std::int64_t with = (i + 1) * op.active / op.groups;
    rows.push_back(with == hit ? 0 : with * op.rows / op.active - hit * op.rows / op.active);
    hit = with;
  }
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
    for (FusedCost& c : fused_costs_) c.valid = false;
    remembered_hardware_ = &hardware;
    remembered_rates_ = rates;
    costs_.use(hardware, remembered_rates_);
  }
  separate_queues_ = plan.overlap != w::Overlap::kNone;
  for (std::size_t i = 0; i < ops.blocks.size(); ++i) {
    const w::Block& block = ops.blocks[i];
    graph_.begin_segment(static_cast<task::LabelId>(i), block.repeat);
    fused_ = find_fused_layer(ops, block, plan);
    gather_kernels(ops, block, plan, stack);
    emit_block(rates);
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
    const bool fused = fused_ && is_fused(node.role);
    if (fused || !present.test(w::index_of(role))) role = node.role;
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
    if (fused) {
      // Priced as a whole; `cost` is of what else the kernel does.
      kernel.cost.communication = !is_expert(role);
    } else {
      add_remembered_cost(node, loss_of(node.op, plan, stack), kernel.cost);
    }
    for (std::uint8_t d = 0; d < node.dependency_count; ++d) {
      const std::uint32_t other = kernel_of_[node.dependencies[d] - block.first];
      if (other == k) continue;
      std::uint32_t& latest = kernel.after[kernels_[other].queue()];
      if (latest == kNone || other > latest) latest = other;
    }
  }
}

bool Lowering::find_fused_layer(const w::OpGraph& ops, const w::Block& block,
                                const w::ParallelPlan& plan) {
  const bool pairwise = plan.overlap == w::Overlap::kPairwise;
  if (plan.overlap != w::Overlap::kWaves && !pairwise) return false;
  const w::Dispatch* dispatch = nullptr;
  const w::GroupedGemm* first = nullptr;
  bool returns = false;
  fused_layer_ = {.waves = plan.waves, .quantises = true, .pairwise = pairwise};
  for (const w::OpNode& node : ops.ops(block)) {
    if (node.role == Role::kDispatch) dispatch = std::get_if<w::Dispatch>(&node.op);
    if (node.role == Role::kExpertGateUp) first = std::get_if<w::GroupedGemm>(&node.op);
    if (node.role == Role::kCombine) returns = true;
    if (node.role == Role::kQuantFfn) fused_layer_.quantises = false;
  }
  // Experts without traffic are no such kernel.
  if (dispatch == nullptr || first == nullptr || !returns) return false;
  fused_layer_.dispatch = *dispatch;
  fused_layer_.first = *first;
  const Hardware& hardware = costs_.hardware();
  if (hardware.kernels.expert_layer.name.empty()) {
    throw base::UnsupportedError(
        fmt::format("{} has no kernel design of an expert layer in waves", hardware.chip.name));
  }
  fused_cost_ = &remembered_fused_cost();
  return true;
}

const Lowering::FusedCost& Lowering::remembered_fused_cost() {
  if (fused_costs_.empty()) fused_costs_.resize(kFusedPlaces);
  const FusedLayer& layer = fused_layer_;
  const auto most = static_cast<std::size_t>(layer.waves > 0 ? layer.waves : layer.first.groups);
  if (most > fused_waves_) {
    fused_waves_ = std::bit_ceil(most);
    for (FusedCost& c : fused_costs_) c.waves.reserve(fused_waves_);
    expert_waves_.reserve(fused_waves_);
  }
  const std::uint64_t mark = mark_of(w::Op{layer.first}) + mark_of(w::Op{layer.dispatch});
  FusedCost& c = fused_costs_[mark % kFusedPlaces];
  if (!c.valid || !(c.layer == layer)) {
    c.valid = false;  // stays so if the chip cannot do it
    price(layer, c);
    c.layer = layer;
    c.valid = true;
  }
  return c;
}

void Lowering::price(const FusedLayer& layer, FusedCost& out) {
  const w::Dispatch& d = layer.dispatch;
  const w::GroupedGemm& g = layer.first;
  const Hardware& hardware = costs_.hardware();
  const Rates& rates = costs_.rates();
  const ExpertLayer l{.tokens = d.tokens,
                      .hidden = d.hidden,
                      .inner = g.n / 2,
                      .experts = g.groups * d.ranks,
                      .topk = d.tokens > 0 ? d.pairs / d.tokens : 1,
                      .ranks = d.ranks,
                      .activation = g.activation,
                      .weight = g.weight,
                      .compute = g.compute};
  pricing_.use(hardware, rates, hardware.kernels.expert_layer);
  spread_rows(g, fused_rows_);
  pricing_.waves(l, fused_rows_, layer.waves, expert_waves_);

  const double handshake = pricing_.design().handshake.value;
  const auto remote = static_cast<double>(d.remote);
  const LinkTime in = wave_traffic(hardware, rates, remote * sent_bytes(l), d.ranks);
  const LinkTime back = wave_traffic(hardware, rates, remote * returned_bytes(l), d.ranks);
  out.start = rates.launch + handshake + (layer.quantises ? pricing_.prepare(l) : 0.0) + in.latency;
  out.second = layer.pairwise ? rates.launch : 0.0;
  out.tile = 0.0;
  double last_tile = 0.0;
  out.sum = Cost{};
  out.sum[Unit::kMemory] = pricing_.finish(l) - handshake;
  out.waves.clear();
  for (const ExpertWave& wave : expert_waves_) {
    FusedWave& f = out.waves.emplace_back();
    const double share =
        g.rows > 0 ? static_cast<double>(wave.pairs) / static_cast<double>(g.rows) : 0.0;
    f.arrive[Unit::kScaleUp] = share * in.scale_up;
    f.arrive[Unit::kScaleOut] = share * in.scale_out;
    f.leave[Unit::kScaleUp] = share * back.scale_up;
    f.leave[Unit::kScaleOut] = share * back.scale_out;
    for (std::size_t p = 0; p < f.product.size(); ++p) {
      const ProductCost& c = wave.product[p];
      f.product[p][Unit::kMatrix] = c.matrix;
      f.product[p][Unit::kVector] = c.vector;
      f.product[p][Unit::kMemory] = c.memory;
      f.product[p][Unit::kCache] = c.cache;
      f.seconds[p] = c.busiest();
    }
    if (wave.pairs == 0) continue;
    if (out.tile == 0.0) out.tile = wave.product[0].tile;
    last_tile = wave.product[1].tile;
  }
  out.finish = last_tile + back.latency + handshake;
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

void Lowering::emit_block(const Rates& rates) {
  arrivals_.clear();
  results_.clear();
  for (std::size_t k = 0; k < kernels_.size(); ++k) {
    Kernel& kernel = kernels_[k];
    if (!fused_ || !is_fused(kernel.role)) {
      kernel.task = emit(kernel, kernel.cost, rates.launch + kernel.cost.latency, 0.0, kNone);
    } else if (kernel.role == Role::kDispatch) {
      emit_arrivals(k);
    } else if (kernel.role == Role::kCombine) {
      emit_returns(k);
    } else {
      emit_products(k);
    }
  }
}

// Of the one kernel with experts and traffic, all waves' tokens. They are ahead of all results on
// the links: nothing waits longer for that, as both have to be over before the kernel ends.
void Lowering::emit_arrivals(std::size_t k) {
  Kernel& kernel = kernels_[k];
  for (const FusedWave& wave : fused_cost_->waves) {
    const double latency = arrivals_.empty() ? fused_cost_->start : 0.0;
    arrivals_.push_back(emit(kernel, wave.arrive, latency, 0.0, kNone));
  }
  kernel.task = arrivals_.back();
}

// Both products of each wave, at the first expert kernel. What is between them is in an epilogue.
void Lowering::emit_products(std::size_t k) {
  Kernel& kernel = kernels_[k];
  const bool pairwise = fused_cost_->layer.pairwise;
  const std::vector<FusedWave>& waves = fused_cost_->waves;
  if (results_.empty()) {
    Kernel first = kernel;
    Kernel second;
    second.role = Role::kExpertDown;
    const auto emit_second = [&](std::size_t i) {
      computed_ = emit(second, waves[i].product[1], i == 0 ? fused_cost_->second : 0.0,
                       waves[i].seconds[1], kNone);
    };
    for (std::size_t i = 0; i < waves.size(); ++i) {
      computed_ = emit(first, waves[i].product[0], i == 0 ? fused_cost_->tile : 0.0,
                       waves[i].seconds[0], arrivals_[i]);
      first.after = {kNone, kNone};
      if (pairwise) continue;
      results_.push_back(computed_);
      emit_second(i);
    }
    for (std::size_t i = 0; pairwise && i < waves.size(); ++i) {
      results_.push_back(computed_);
      emit_second(i);
    }
  }
  kernel.task = computed_;
}

// Results leave as tiles of the second product are finished. The end waits for all of them.
void Lowering::emit_returns(std::size_t k) {
  Kernel& kernel = kernels_[k];
  const Kernel whole = kernel;
  for (std::size_t i = 0; i < fused_cost_->waves.size(); ++i) {
    emit(kernel, fused_cost_->waves[i].leave, i == 0 ? fused_cost_->second : 0.0, 0.0, results_[i]);
  }
  Cost sum = fused_cost_->sum;
  for (const Kernel& part : kernels_) {
    if (!is_fused(part.role)) continue;
    for (std::size_t i = 0; i < sum.busy.size(); ++i) sum.busy[i] += part.cost.busy[i];
    sum.latency = std::max(sum.latency, part.cost.latency);
  }
  kernel.task = emit(whole, sum, fused_cost_->finish + sum.latency, 0.0, kNone);
}

task::TaskId Lowering::emit(const Kernel& kernel, const Cost& c, double latency, double own,
                            std::uint32_t extra_dependency) {
  std::array<task::Demand, kUnits> demands;
  std::size_t count = 0;
  for (std::size_t i = 0; i < c.busy.size(); ++i) {
    if (c.busy[i] > 0.0) {
      demands[count++] = {static_cast<task::ResourceId>(i), base::Seconds{c.busy[i]}};
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
  const auto label = static_cast<task::LabelId>(kernel.role);
  if (own > 0.0) {
    return graph_.add_group(label, queue, base::Seconds{latency}, base::Seconds{own},
                            {demands.data(), count}, {dependencies.data(), waits});
  }
  return graph_.add(label, queue, base::Seconds{latency}, {demands.data(), count},
                    {dependencies.data(), waits});
}

}  // namespace foretoken::hwmodels
