#include "analysis/validation/kernel_predictor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "analysis/cost.h"
#include "hwmodels/lower.h"
#include "sim/base/error.h"
#include "sim/base/text.h"
#include "sim/task/estimate.h"
#include "workloads/positions.h"
#include "workloads/precision.h"

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

KernelPredictor::KernelPredictor(std::filesystem::path configs)
    : configs_(std::move(configs)), stack_(hwmodels::load_stack("serving", configs_)) {}

bool KernelPredictor::handles(const Case& c) const {
  return std::holds_alternative<DenseGemmCase>(c) || std::holds_alternative<GroupedGemmCase>(c) ||
         std::holds_alternative<RoutedExpertsCase>(c) ||
         std::holds_alternative<AttentionModuleCase>(c) ||
         std::holds_alternative<IndexLogitsCase>(c) || std::holds_alternative<TopKCase>(c) ||
         std::holds_alternative<SparseAttentionCase>(c) ||
         std::holds_alternative<HyperConnectionCase>(c);
}

Prediction KernelPredictor::predict(const Case& c) {
  return std::visit([this](const auto& one) { return time_of(one); }, c);
}

template <class Other>
Prediction KernelPredictor::time_of(const Other&) {
  throw UnsupportedError("not a kernel");
}

const KernelPredictor::Chip& KernelPredictor::chip(const std::string& name) {
  std::unique_ptr<Chip>& known = chips_[name];
  if (known == nullptr) {
    auto loaded = std::make_unique<Chip>();
    loaded->hardware = hwmodels::load_chip(name, configs_);
    loaded->rates.push_back(hwmodels::derive_rates(loaded->hardware));
    for (int constant = 0; constant < hwmodels::kConstants; ++constant) {
      for (const int side : {-1, 1}) {
        hwmodels::Tuning tuning{};
        tuning[static_cast<std::size_t>(constant)] = side;
        loaded->rates.push_back(hwmodels::derive_rates(loaded->hardware, tuning));
      }
    }
    known = std::move(loaded);
  }
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
Prediction KernelPredictor::over_tunings(const Chip& chip, Evaluate&& seconds) {
  const double value = seconds(chip.rates.front());
  Spread spread;
  for (std::size_t i = 1; i < chip.rates.size(); ++i) spread.add(value, seconds(chip.rates[i]));
  const base::Interval interval = spread.around(value);
  return {base::Seconds{value}, base::Seconds{interval.low}, base::Seconds{interval.high},
          chip.hardware.basis()};
}

Prediction KernelPredictor::kernels(const Chip& chip, std::span<const w::Op> ops, double times) {
  return over_tunings(chip, [&](const hwmodels::Rates& rates) {
    double seconds = 0.0;
    for (const w::Op& op : ops) {
      const hwmodels::Cost c = hwmodels::cost(op, chip.hardware, rates);
      seconds +=
          rates.launch + c.latency + *std::max_element(c.busy.begin(), c.busy.end());
    }
    return seconds * times;
  });
}

Prediction KernelPredictor::time_of(const DenseGemmCase& c) {
  require_countable({c.m, c.n, c.k});
  const Formats f = formats_of(c.dtype);
  const w::Op op = w::Gemm{c.m, c.n, c.k, 1, f.activation, f.weight, f.compute, Dtype::kBf16};
  return kernels(chip(c.origin.system), {&op, 1}, 1.0);
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
  return kernels(chip(c.origin.system), {&op, 1}, 1.0);
}

Prediction KernelPredictor::time_of(const RoutedExpertsCase& c) {
  if (!c.routing.empty() && c.routing != "balanced") {
    throw UnsupportedError(
        fmt::format("expert popularity {} is not modelled", base::quote(c.routing)));
  }
  if (c.ep > c.experts || c.tp > c.inner || c.topk > c.experts) {
    throw UnsupportedError("more ranks or choices than experts");
  }
  require_countable({c.tokens, c.topk, c.hidden, c.inner});
  require_countable({c.experts, c.hidden, c.inner});
  const std::int64_t experts = (c.experts + c.ep - 1) / c.ep;
  const std::int64_t inner = (c.inner + c.tp - 1) / c.tp;
  const std::int64_t pairs = (c.tokens * c.topk + c.ep - 1) / c.ep;
  const std::int64_t active = std::min(pairs, experts);
  const Formats f = formats_of(c.dtype);
  const std::vector<w::Op> ops = {
      w::VectorOp{w::VectorKind::kQuantise, c.tokens, c.hidden, Dtype::kBf16, f.activation},
      w::GroupedGemm{pairs, experts, active, 2 * inner, c.hidden, f.activation, f.weight, f.compute,
                     f.activation},
      w::GroupedGemm{pairs, experts, active, c.hidden, inner, f.activation, f.weight, f.compute,
                     Dtype::kBf16}};
  return kernels(chip(c.origin.system), ops, 1.0);
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
  const Chip& on = chip(c.origin.system);
  const w::OpGraph graph = attention_half(on, c);
  hwmodels::Lowering lowering;
  task::Timeline timeline;
  return over_tunings(on, [&](const hwmodels::Rates& rates) {
    lowering.lower(graph, {}, on.hardware, rates, stack_);
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
  return kernels(chip(c.origin.system), {&op, 1}, 1.0);
}

Prediction KernelPredictor::time_of(const TopKCase& c) {
  require_positions(c);
  const w::ModelSpec& m = model(c.model);
  const w::Positions p = positions_of(c);
  const w::Op op = w::TopK{p.tokens(), p.entries(c.ratio), m.index_topk, c.sequences, c.ratio};
  return kernels(chip(c.origin.system), {&op, 1}, 1.0);
}

Prediction KernelPredictor::time_of(const SparseAttentionCase& c) {
  require_positions(c);
  const w::ModelSpec& m = model(c.model);
  const w::Positions p = positions_of(c);
  const Chip& on = chip(c.origin.system);
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
  const Chip& on = chip(c.origin.system);
  const Dtype mix = on.hardware.chip.supports(Dtype::kTf32) ? Dtype::kTf32 : Dtype::kHf32;
  const w::Op op = w::HyperConnection{
      c.phase, c.tokens, c.streams, c.hidden, (2 + c.streams) * c.streams, c.sinkhorn_iterations,
      mix};
  return kernels(on, {&op, 1}, static_cast<double>(c.sites));
}

}  // namespace foretoken::analysis::validation
