#include "analysis/validation/kernel_predictor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "analysis/cost.h"
#include "hwmodels/collectives.h"
#include "hwmodels/expert_traffic.h"
#include "hwmodels/kernels/gemm.h"
#include "hwmodels/kernels/moe_rows.h"
#include "hwmodels/lower.h"
#include "hwmodels/op_cost.h"
#include "sim/base/error.h"
#include "sim/base/text.h"
#include "sim/task/estimate.h"
#include "workloads/positions.h"
#include "workloads/precision.h"
#include "workloads/routing_load.h"

namespace foretoken::analysis::validation {

namespace w = workloads;
using base::UnsupportedError;
using w::Dtype;
using w::Role;

namespace {

// Counts are exact in 63 bits; larger cases are refused before they are counted. A factor of 2^8
// stays for bytes of an element and for what an operator does to each.
constexpr double kMostWork = 3.6e16;  // 2^55

constexpr std::int64_t kMostStreams = 64;

void require_countable(std::initializer_list<std::int64_t> factors) {
  double product = 1.0;
  for (const std::int64_t f : factors) product *= static_cast<double>(std::max<std::int64_t>(f, 1));
  if (product > kMostWork) throw UnsupportedError("the case is too large to be counted exactly");
}

struct Formats {
  Dtype activation;
  Dtype weight;
  Dtype compute;
};

Formats formats_of(const std::string& dtype) {
  if (dtype == "bf16" || dtype == "fp16") return {Dtype::kBf16, Dtype::kBf16, Dtype::kBf16};
  if (dtype == "fp8" || dtype == "fp8_block") return {Dtype::kFp8, Dtype::kFp8, Dtype::kFp8};
  if (dtype == "nvfp4" || dtype == "mxfp4") return {Dtype::kFp4, Dtype::kFp4, Dtype::kFp4};
  if (dtype == "int8") return {Dtype::kInt8, Dtype::kInt8, Dtype::kInt8};
  if (dtype.starts_with("w4a8_mxfp4")) return {Dtype::kFp8, Dtype::kFp4, Dtype::kFp8};
  throw UnsupportedError(fmt::format("products in {} are not modelled", base::quote(dtype)));
}

// Indexer keys in FP4 as released where the chip multiplies it, else in FP8.
w::Precision attention_precision(const w::ModelSpec& model, const hwmodels::ChipSpec& chip) {
  w::PrecisionRecipe recipe;
  if (!chip.supports(Dtype::kFp4)) recipe.index = w::FormatChoice::kFp8;
  if (!chip.supports(Dtype::kTf32)) recipe.mix = w::MixChoice::kHf32;
  return w::resolve(recipe, model);
}

w::Positions positions_of(const auto& c) {
  w::Positions p;
  p.spans[0] = {c.sequences, c.history, c.new_tokens};
  return p;
}

// A kernel that reads little and writes little.
double small_kernel(const hwmodels::Rates& rates) {
  const hwmodels::tile::CoreRates& core = rates.core;
  return core.launch + core.start + core.memory_latency + core.cache_latency;
}

// Rows that the experts of one rank get, as the collectors of the tables make them.
struct ExpertLoad {
  std::vector<hwmodels::kernels::GroupRun> groups;
  std::int64_t pairs = 0;
};
ExpertLoad expert_load(const RoutedExpertsCase& c) {
  ExpertLoad load;
  const std::int64_t experts = (c.experts + c.ep - 1) / c.ep;
  const auto add = [&](std::int64_t rows, std::int64_t count) {
    if (rows <= 0 || count <= 0) return;
    load.groups.push_back({rows, count});
    load.pairs += rows * count;
  };
  const w::RoutingSpec routing = w::routing_distribution(c.routing);
  if (routing.kind != w::Routing::kBalanced) {
    // The collector draws one popularity and measures the rank that gets most.
    const w::RoutingCase one{
        .routing = routing, .experts = c.experts, .topk = c.topk, .tokens = c.tokens};
    const std::uint64_t draw = w::load_percentiles(one, c.ep).typical_draw;
    const w::RankLoad slowest = w::slowest_rank(w::RoutingGenerator(one), one, c.ep, 0, draw);
    for (const std::int64_t n : slowest.rows) {
      if (load.groups.empty() || load.groups.back().rows != n) load.groups.push_back({n, 0});
      ++load.groups.back().count;
    }
    load.pairs = slowest.pairs;
    return load;
  }
  if (c.ep > 1 && c.topk == 8 && c.experts == 256) {
    // V3's group-limited choice on one-hot scores: ties go to the first experts, so that every
    // token brings four choices to the same four experts of this rank and one spread over all.
    const std::int64_t tied = std::min<std::int64_t>(4, experts);
    const std::int64_t hit = std::min(experts, c.tokens + tied);
    add(c.tokens + c.tokens / experts, tied);
    add(std::max<std::int64_t>(1, c.tokens / experts), hit - tied);
    return load;
  }
  const std::int64_t pairs = std::max<std::int64_t>(1, (c.tokens * c.topk + c.ep / 2) / c.ep);
  const std::int64_t hit = std::min(pairs, experts);
  add(pairs / hit + 1, pairs % hit);
  add(pairs / hit, hit - pairs % hit);
  return load;
}

void require_positions(const auto& c) {
  // Sums over positions grow with their square; every token meets weights of up to 2^27 elements.
  if (c.history + c.new_tokens > (std::int64_t{1} << 31)) {
    throw UnsupportedError("the context is too long to be counted exactly");
  }
  require_countable({c.sequences, c.new_tokens, c.history + c.new_tokens, std::int64_t{1} << 10});
  require_countable({c.sequences, c.new_tokens, std::int64_t{1} << 25});
}

// What a measured attention module leaves out of its half layer.
bool outside_module(Role role) {
  switch (role) {
    case Role::kHcAttnPre:
    case Role::kAttnNorm:
    case Role::kAttnAllReduce:
    case Role::kContextGather:
    case Role::kHcAttnPost:
    case Role::kAttnResidual:
      return true;
    default:
      return false;
  }
}

}  // namespace

KernelPredictor::KernelPredictor(std::filesystem::path configs, Calibrations calibrations)
    : configs_(std::move(configs)), calibrations_(std::move(calibrations)) {
  for (const char* name : {"serving", "vllm", "sglang", "trtllm"}) {
    stacks_.emplace(name, hwmodels::load_stack(name, configs_));
  }
}

// The stack a framework's name and version belong to.
const hwmodels::Stack& KernelPredictor::stack(const Origin& origin) const {
  for (const auto& [name, stack] : stacks_) {
    if (origin.framework.starts_with(name)) return stack;
  }
  return stacks_.at("serving");
}

bool KernelPredictor::handles(const Case& c) const {
  return std::holds_alternative<DenseGemmCase>(c) || std::holds_alternative<GroupedGemmCase>(c) ||
         std::holds_alternative<RoutedExpertsCase>(c) ||
         std::holds_alternative<AttentionModuleCase>(c) ||
         std::holds_alternative<IndexLogitsCase>(c) || std::holds_alternative<TopKCase>(c) ||
         std::holds_alternative<SparseAttentionCase>(c) ||
         std::holds_alternative<HyperConnectionCase>(c) ||
         std::holds_alternative<CollectiveCase>(c) || std::holds_alternative<ExpertTrafficCase>(c);
}

Prediction KernelPredictor::predict(const Case& c) {
  return std::visit([this](const auto& one) { return time_of(one); }, c);
}

base::Seconds KernelPredictor::time(const Case& c) {
  value_only_ = true;
  try {
    const Prediction p = predict(c);
    value_only_ = false;
    return p.time;
  } catch (...) {
    value_only_ = false;
    throw;
  }
}

void KernelPredictor::calibrate(const std::string& name, const hwmodels::Calibration& constants) {
  calibrations_[name] = constants;
  // With the designs of each stack.
  for (auto& [key, known] : chips_) {
    if (known == nullptr || known->hardware.chip.name != name) continue;
    known->hardware.calibration = constants;
    known->derive();
  }
}

void KernelPredictor::Chip::derive() {
  rates.assign(1, hwmodels::derive_rates(hardware));
  for (int constant = 0; constant < hwmodels::kConstants; ++constant) {
    for (const int side : {-1, 1}) {
      hwmodels::Tuning tuning{};
      tuning[static_cast<std::size_t>(constant)] = side;
      rates.push_back(hwmodels::derive_rates(hardware, tuning));
    }
  }
}

template <class Other>
Prediction KernelPredictor::time_of(const Other&) {
  throw UnsupportedError("not a kernel");
}

const KernelPredictor::Chip& KernelPredictor::chip(const Origin& origin, bool paged) {
  const std::string& name = origin.system;
  const hwmodels::Stack& on = stack(origin);
  std::unique_ptr<Chip>& known = chips_[name + " " + on.name + (paged ? " paged" : "")];
  if (known == nullptr) {
    auto loaded = std::make_unique<Chip>();
    loaded->hardware = hwmodels::load_chip(name, configs_);
    hwmodels::apply(on, loaded->hardware, configs_);
    const auto given = calibrations_.find(name);
    if (given != calibrations_.end()) loaded->hardware.calibration = given->second;
    if (paged) loaded->hardware.kernels.prefill_index = loaded->hardware.kernels.decode_index;
    loaded->derive();
    known = std::move(loaded);
  }
  return *known;
}

const KernelPredictor::Chip& KernelPredictor::system_of(const std::string& name,
                                                        std::int64_t devices) {
  std::unique_ptr<Chip>& known = chips_[fmt::format("{} with {} devices", name, devices)];
  if (known != nullptr) return *known;
  hwmodels::Hardware best;
  for (const std::string& system : hwmodels::list_configs(configs_, "systems")) {
    hwmodels::Hardware h = hwmodels::load_hardware(system, configs_);
    if (h.chip.name != name) continue;
    if (best.system.fabric.empty() || h.system.scale_up_domain() > best.system.scale_up_domain()) {
      best = std::move(h);
    }
  }
  if (best.system.fabric.empty()) {
    (void)hwmodels::load_chip(name, configs_);  // throws for an unknown one
    throw UnsupportedError(fmt::format("no system of {} in configs/systems", name));
  }
  hwmodels::FabricDimension& outermost = best.system.fabric.back();
  if (best.system.devices() < devices && !outermost.scale_up) {
    const std::int64_t domain = best.system.devices() / outermost.size;
    outermost.size = (devices + domain - 1) / domain;
  }
  auto loaded = std::make_unique<Chip>();
  loaded->hardware = std::move(best);
  const auto given = calibrations_.find(name);
  if (given != calibrations_.end()) loaded->hardware.calibration = given->second;
  loaded->derive();
  known = std::move(loaded);
  return *known;
}

const w::ModelSpec& KernelPredictor::model(const std::string& name) {
  const auto known = models_.find(name);
  if (known != models_.end()) return known->second;
  const std::vector<std::string> names = w::list_models(configs_);
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    throw UnsupportedError(fmt::format("no model {} in configs/models", base::quote(name)));
  }
  return models_.emplace(name, w::load_model(name, configs_)).first->second;
}

template <class Evaluate>
Prediction KernelPredictor::over_tunings(const Chip& chip, Evaluate&& seconds) const {
  const double value = seconds(chip.rates.front());
  if (value_only_) {
    const base::Seconds time{value};
    return {time, time, time, chip.hardware.basis()};
  }
  Spread spread;
  for (std::size_t i = 1; i < chip.rates.size(); ++i) spread.add(value, seconds(chip.rates[i]));
  const base::Interval interval = spread.around(value);
  return {base::Seconds{value}, base::Seconds{interval.low}, base::Seconds{interval.high},
          chip.hardware.basis()};
}

double KernelPredictor::seconds_of(const Chip& chip, const hwmodels::Rates& rates,
                                   std::span<const w::Op> ops) {
  hwmodels::KernelCosts costs;
  costs.use(chip.hardware, rates);
  double seconds = 0.0;
  for (const w::Op& op : ops) {
    hwmodels::Cost c;
    costs.add(op, c);
    seconds += rates.launch + c.latency + *std::max_element(c.busy.begin(), c.busy.end());
  }
  return seconds;
}

Prediction KernelPredictor::kernels(const Chip& chip, std::span<const w::Op> ops,
                                    double times) const {
  return over_tunings(
      chip, [&](const hwmodels::Rates& rates) { return seconds_of(chip, rates, ops) * times; });
}

// A linear layer as measured: activations in 8 or 4 bits are quantised by a kernel before.
Prediction KernelPredictor::time_of(const DenseGemmCase& c) {
  require_countable({c.m, c.n, c.k});
  const Formats f = formats_of(c.dtype);
  const Chip& on = chip(c.origin);
  std::vector<w::Op> ops;
  if (f.activation != Dtype::kBf16) {
    ops.push_back(w::VectorOp{w::VectorKind::kQuantise, c.m, c.k, Dtype::kBf16, f.activation});
  }
  const bool blocks = c.dtype == "fp8_block";
  ops.push_back(w::Gemm{c.m, c.n, c.k, 1, f.activation, f.weight, f.compute, Dtype::kBf16,
                        blocks ? std::int64_t{128} : std::int64_t{0}});
  const hwmodels::Stack& by = stack(c.origin);
  double extra_rows = 0.0;
  double extra_kernels = 0.0;
  if (blocks && std::find(by.scale_families.begin(), by.scale_families.end(),
                          on.hardware.chip.family) != by.scale_families.end()) {
    extra_kernels = static_cast<double>(by.scale_kernels);
    extra_rows = by.scale_seconds_per_row * static_cast<double>(c.n);
  }
  return over_tunings(on, [&](const hwmodels::Rates& rates) {
    return seconds_of(on, rates, ops) + extra_kernels * small_kernel(rates) + extra_rows;
  });
}

Prediction KernelPredictor::time_of(const GroupedGemmCase& c) {
  require_countable({c.groups, c.rows_per_group, c.n, c.k});
  require_countable({c.groups, c.n, c.k});
  const Formats f = formats_of(c.dtype);
  const w::Op op = w::GroupedGemm{c.groups * c.rows_per_group,
                                  c.groups,
                                  c.groups,
                                  c.n,
                                  c.k,
                                  f.activation,
                                  f.weight,
                                  f.compute,
                                  Dtype::kBf16};
  return kernels(chip(c.origin), {&op, 1}, 1.0);
}

Prediction KernelPredictor::time_of(const RoutedExpertsCase& c) {
  if (c.ep > c.experts || c.tp > c.inner || c.topk > c.experts) {
    throw UnsupportedError("more ranks or choices than experts");
  }
  require_countable({c.tokens, c.topk, c.hidden, c.inner});
  require_countable({c.experts, c.hidden, c.inner});
  const Chip& on = chip(c.origin);
  const std::int64_t inner = (c.inner + c.tp - 1) / c.tp;
  const Formats f = formats_of(c.dtype);
  const ExpertLoad load = expert_load(c);
  const bool native = on.hardware.chip.supports(Dtype::kFp4) && f.weight == Dtype::kFp4;
  const hwmodels::Stack& by = stack(c.origin);
  hwmodels::kernels::MoeRowsProblem rows;
  rows.tokens = c.tokens;
  rows.choices = c.topk;
  rows.experts = (c.experts + c.ep - 1) / c.ep;
  rows.hidden = c.hidden;
  rows.capacity = std::max<std::int64_t>(1, load.pairs);
  rows.moved = f.activation == Dtype::kFp4 ? Dtype::kFp8 : f.activation;
  hwmodels::KernelCosts costs;
  return over_tunings(on, [&](const hwmodels::Rates& rates) {
    costs.use(on.hardware, rates);
    const auto seconds = [&](const hwmodels::tile::Kernel& kernel) {
      hwmodels::Cost cost;
      costs.add_kernel(kernel, true, cost);
      return rates.launch + cost.latency + *std::max_element(cost.busy.begin(), cost.busy.end());
    };
    const auto product = [&](std::int64_t n, std::int64_t k) {
      hwmodels::kernels::GemmProblem p;
      p.groups = load.groups;
      p.n = n;
      p.k = k;
      p.activation = f.activation;
      p.weight = f.weight;
      p.compute = f.compute;
      const hwmodels::KernelSet& set = on.hardware.kernels;
      const hwmodels::kernels::GemmDesign& design = f.compute == Dtype::kFp4  ? set.grouped_fp4
                                                    : f.weight == Dtype::kFp4 ? set.grouped_fp4_fp8
                                                                              : set.grouped_fp8;
      return seconds(hwmodels::kernels::GemmKernel(p, design, rates.core));
    };
    double total = product(2 * inner, c.hidden) + product(c.hidden, inner);
    total += static_cast<double>(native ? by.expert_kernels_fp4 : by.expert_kernels) *
             small_kernel(rates);
    const auto& moves = on.hardware.kernels.expert_rows;
    total += seconds(hwmodels::kernels::PermuteKernel(rows, moves, rates.core));
    total += seconds(hwmodels::kernels::FinaliseKernel(rows, moves, rates.core));
    if (!native) {
      const w::Op activation =
          w::VectorOp{w::VectorKind::kSwiglu, std::max<std::int64_t>(1, load.pairs), inner,
                      Dtype::kBf16, f.activation};
      total += seconds_of(on, rates, {&activation, 1});
    }
    return total;
  });
}

// One call after another, as the library's own benchmark times them.
Prediction KernelPredictor::time_of(const CollectiveCase& c) {
  using hwmodels::CollectiveOp;
  CollectiveOp op;
  if (c.op == "all_reduce") {
    op = CollectiveOp::kAllReduce;
  } else if (c.op == "all_gather") {
    op = CollectiveOp::kAllGather;
  } else if (c.op == "reduce_scatter") {
    op = CollectiveOp::kReduceScatter;
  } else if (c.op == "alltoall" || c.op == "all_to_all") {
    op = CollectiveOp::kAllToAll;
  } else {
    throw UnsupportedError(fmt::format("collective {} is not modelled", base::quote(c.op)));
  }
  if (c.dtype != "fp16" && c.dtype != "bf16") {
    throw UnsupportedError(fmt::format("collectives of {} are not modelled", base::quote(c.dtype)));
  }
  if (c.ranks < 2) throw UnsupportedError("a collective of one rank moves nothing");
  const Chip& on = system_of(c.origin.system, c.ranks);
  const double bytes = 2.0 * static_cast<double>(c.elements);
  return over_tunings(on, [&](const hwmodels::Rates& rates) {
    return hwmodels::library_collective(on.hardware, rates, op, bytes, c.ranks).seconds();
  });
}

Prediction KernelPredictor::time_of(const ExpertTrafficCase& c) {
  hwmodels::TrafficShape shape;
  if (c.dtype == "fp8") {
    shape.element = Dtype::kFp8;
  } else if (c.dtype == "int8") {
    shape.element = Dtype::kInt8;
  } else if (c.dtype == "bf16" || c.dtype == "fp16") {
    shape.element = Dtype::kBf16;
  } else {
    throw UnsupportedError(fmt::format("rows in {} are not modelled", base::quote(c.dtype)));
  }
  std::int64_t ranks = c.ranks;
  if (c.nodes > 0) {
    const std::int64_t node = system_of(c.origin.system, 1).hardware.system.devices_per_node;
    require_countable({c.nodes, node});
    ranks = c.nodes * node;
  }
  if (ranks < 2) throw UnsupportedError("expert traffic of one rank moves nothing");
  require_countable({c.tokens_per_rank, c.topk, c.hidden, ranks});
  shape.combine = c.combine;
  shape.tokens = c.tokens_per_rank;
  shape.topk = static_cast<double>(c.topk);
  shape.experts = c.experts;
  shape.hidden = c.hidden;
  shape.ranks = ranks;
  hwmodels::TrafficDesign design;
  design.form = c.low_latency ? hwmodels::TrafficForm::kLowLatency : hwmodels::TrafficForm::kNormal;
  design.cores = c.cores;
  // The second version of DeepEP moves rows with the copy engine of a core.
  design.bulk_copies = c.origin.kernel_source.starts_with("DeepEP V2");
  const Chip& on = system_of(c.origin.system, ranks);
  double counted = 0.0;
  Prediction p = over_tunings(on, [&](const hwmodels::Rates& rates) {
    const hwmodels::TrafficTime t = hwmodels::expert_traffic(on.hardware, rates, shape, design);
    const bool network =
        c.link.empty() ? ranks > on.hardware.system.scale_up_domain() : c.link == "RDMA";
    counted = t.row_bytes * (c.low_latency ? t.rows : network ? t.node_rows : t.rank_rows);
    return t.seconds();
  });
  p.counted_bytes = counted;
  return p;
}

w::OpGraph KernelPredictor::attention_half(const Chip& chip, const AttentionModuleCase& c) {
  w::ModelSpec one = model(c.model);
  const auto layer = std::find_if(one.layers.begin(), one.layers.end(), [&](const w::LayerSpec& l) {
    return l.attention == c.kind && l.ratio == c.ratio;
  });
  if (layer == one.layers.end()) {
    throw UnsupportedError(fmt::format("{} has no such layer with ratio {}", c.model, c.ratio));
  }
  if (c.tp > one.heads || one.heads / c.tp != c.local_heads) {
    throw UnsupportedError(fmt::format("{} of {} heads at tensor parallelism {} do not add up",
                                       c.local_heads, one.heads, c.tp));
  }
  const w::LayerSpec chosen = *layer;
  one.layers = {chosen};
  one.classify();
  w::ParallelPlan plan;
  plan.tp = c.tp;
  plan.ep = c.tp;
  w::require_possible(plan, one);
  w::Batch batch;
  batch.phase = c.phase;
  batch.sequences = c.sequences;
  batch.new_tokens = c.new_tokens;
  batch.context = c.history + c.new_tokens;
  batch.last_chunk = false;
  w::OpGraph all;
  w::build_graph(one, attention_precision(one, chip.hardware.chip), plan, batch, c.tp - 1, all);
  const auto half = std::find_if(all.blocks.begin(), all.blocks.end(), [&](const w::Block& b) {
    return b.name == w::attention_block_name(chosen);
  });
  if (half == all.blocks.end()) throw UnsupportedError("the layer has no attention of its own");

  constexpr std::uint32_t kGone = 0xffffffffu;
  w::OpGraph graph;
  std::vector<std::uint32_t> moved;  // index of each node of the half in `graph`
  for (const w::OpNode& node : all.ops(*half)) {
    if (outside_module(node.role)) {
      moved.push_back(kGone);
      continue;
    }
    w::OpNode kept = node;
    kept.dependency_count = 0;
    for (std::uint8_t d = 0; d < node.dependency_count; ++d) {
      const std::uint32_t to = moved[node.dependencies[d] - half->first];
      if (to != kGone) kept.dependencies[kept.dependency_count++] = to;
    }
    moved.push_back(static_cast<std::uint32_t>(graph.nodes.size()));
    graph.nodes.push_back(kept);
  }
  graph.blocks.push_back({half->name, 0, static_cast<std::uint32_t>(graph.nodes.size()), 1});
  graph.order.push_back({0, 0});
  return graph;
}

Prediction KernelPredictor::time_of(const AttentionModuleCase& c) {
  require_positions(c);
  if (c.weight_dtype != "fp8_block" && !c.weight_dtype.empty()) {
    throw UnsupportedError(
        fmt::format("attention weights in {} are not modelled", base::quote(c.weight_dtype)));
  }
  if (c.kv_dtype != "fp8" && !c.kv_dtype.empty()) {
    throw UnsupportedError(fmt::format("KV in {} is not modelled", base::quote(c.kv_dtype)));
  }
  const Chip& on = chip(c.origin);
  const w::OpGraph graph = attention_half(on, c);
  hwmodels::Lowering lowering;
  task::Timeline timeline;
  return over_tunings(on, [&](const hwmodels::Rates& rates) {
    lowering.lower(graph, {}, on.hardware, rates, stack(c.origin));
    task::estimate(lowering.graph(), timeline);
    return timeline.total.value();
  });
}

Prediction KernelPredictor::time_of(const IndexLogitsCase& c) {
  require_positions(c);
  const w::ModelSpec& m = model(c.model);
  if (m.index_heads == 0) throw UnsupportedError(fmt::format("{} has no indexer", c.model));
  const Formats f = formats_of(c.dtype);
  w::PrecisionRecipe recipe;
  recipe.index = f.compute == Dtype::kFp4 ? w::FormatChoice::kFp4 : w::FormatChoice::kFp8;
  const w::Positions p = positions_of(c);
  const w::Op op = w::IndexLogits{p.tokens(),
                                  m.index_heads,
                                  m.index_dim,
                                  p.entries(c.ratio),
                                  p.distinct(c.ratio) * w::resolve(recipe, m).index_entry_bytes,
                                  f.compute,
                                  c.sequences,
                                  c.ratio};
  return kernels(chip(c.origin, true), {&op, 1}, 1.0);
}

Prediction KernelPredictor::time_of(const TopKCase& c) {
  require_positions(c);
  const w::ModelSpec& m = model(c.model);
  const w::Positions p = positions_of(c);
  const w::Op op = w::TopK{p.tokens(), p.entries(c.ratio), m.index_topk, c.sequences, c.ratio};
  return kernels(chip(c.origin), {&op, 1}, 1.0);
}

Prediction KernelPredictor::time_of(const SparseAttentionCase& c) {
  require_positions(c);
  const w::ModelSpec& m = model(c.model);
  const w::Positions p = positions_of(c);
  const Chip& on = chip(c.origin);
  if (c.heads > m.heads) {
    throw UnsupportedError(fmt::format("{} has {} heads, not {}", c.model, m.heads, c.heads));
  }
  const w::Precision precision = attention_precision(m, on.hardware.chip);
  const bool sparse = c.ratio < 128;
  const std::int64_t window = p.entries_capped(1, m.window);
  const std::int64_t entries =
      sparse ? p.entries_capped(c.ratio, m.index_topk) : p.entries(c.ratio);
  const w::Op op =
      w::Attention{p.tokens(),
                   c.heads,
                   m.head_dim,
                   m.head_dim,
                   window + entries,
                   window * precision.window_entry_bytes + entries * precision.main_entry_bytes,
                   p.distinct_window(m.window) * precision.window_entry_bytes +
                       p.distinct(c.ratio) * precision.main_entry_bytes,
                   precision.attention,
                   Dtype::kBf16,
                   sparse,
                   c.new_tokens <= 4,  // a decode step with drafts; more tokens are a prompt
                   true};
  return kernels(on, {&op, 1}, 1.0);
}

Prediction KernelPredictor::time_of(const HyperConnectionCase& c) {
  if (c.streams > kMostStreams) {
    throw UnsupportedError(fmt::format("mHC of {} streams is not modelled", c.streams));
  }
  require_countable({c.tokens, c.streams, c.hidden, (2 + c.streams) * c.streams});
  require_countable({c.sites, c.sinkhorn_iterations, c.tokens, c.streams, c.streams});
  const Chip& on = chip(c.origin);
  const Dtype mix = on.hardware.chip.supports(Dtype::kTf32) ? Dtype::kTf32 : Dtype::kHf32;
  const w::Op op = w::HyperConnection{
      c.phase, c.tokens, c.streams, c.hidden, (2 + c.streams) * c.streams, c.sinkhorn_iterations,
      mix};
  return kernels(on, {&op, 1}, static_cast<double>(c.sites));
}

}  // namespace foretoken::analysis::validation
