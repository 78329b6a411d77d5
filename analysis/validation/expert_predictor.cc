#include "analysis/validation/expert_predictor.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "analysis/cost.h"
#include "sim/base/error.h"
#include "sim/base/text.h"
#include "workloads/model_spec.h"
#include "workloads/routing_load.h"

namespace foretoken::analysis::validation {

namespace h = hwmodels;
namespace w = workloads;
using base::UnsupportedError;
using w::Dtype;

namespace {

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

bool names(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// Sources of a benchmark's random choices are not known; one draw stands for them, the one whose
// slowest rank has the median load.
constexpr std::int64_t kDraws = 64;

}  // namespace

h::Hardware system_of(const std::string& chip, std::int64_t ranks,
                      const std::filesystem::path& configs) {
  const std::vector<std::string> chips = h::list_configs(configs, "chips");
  if (std::find(chips.begin(), chips.end(), chip) == chips.end()) {
    throw UnsupportedError(fmt::format("no chip {} in configs/chips", base::quote(chip)));
  }
  std::optional<h::Hardware> best;
  const auto fits = [&](const h::Hardware& one) { return one.system.scale_up_domain() >= ranks; };
  for (const std::string& name : h::list_configs(configs, "systems")) {
    h::Hardware one = h::load_hardware(name, configs);
    if (one.system.chip != chip) continue;
    const bool better =
        !best ||
        (fits(one) &&
         (!fits(*best) || one.system.scale_up_domain() < best->system.scale_up_domain())) ||
        (!fits(one) && !fits(*best) && one.system.devices() > best->system.devices());
    if (better) best = std::move(one);
  }
  if (!best) {
    throw UnsupportedError(fmt::format("no system of {} in configs/systems", base::quote(chip)));
  }
  h::SystemSpec& system = best->system;
  if (system.devices() < ranks && !system.fabric.empty()) {
    h::FabricDimension& outermost = system.fabric.back();
    const std::int64_t node = system.devices() / outermost.size;
    outermost.size = (ranks + node - 1) / node;
  }
  return std::move(*best);
}

ExpertPredictor::ExpertPredictor(std::filesystem::path configs) : configs_(std::move(configs)) {}

bool ExpertPredictor::handles(const Case& c) const {
  return std::holds_alternative<MegaMoeCase>(c);
}

h::ExpertPlan expert_plan(const MegaMoeCase& c) {
  const std::string by = lower(c.origin.kernel_source);
  h::ExpertPlan plan;
  if (!c.fused) {
    plan.schedule = h::ExpertSchedule::kSerial;
    plan.form = names(by, "low-latency") ? h::SeparateForm::kLowLatency : h::SeparateForm::kNormal;
    // Dispatch for throughput returns how many tokens came, which the host waits for.
    plan.host_waits = plan.form == h::SeparateForm::kNormal;
    return plan;
  }
  if (names(by, "nvfp4") || names(by, "ikr") || names(by, "combine_")) {
    throw UnsupportedError(fmt::format("{} is not modelled", base::quote(c.origin.kernel_source)));
  }
  plan.schedule =
      names(by, "two-kernel") ? h::ExpertSchedule::kPairwise : h::ExpertSchedule::kWaves;
  return plan;
}

h::ExpertLayer expert_layer(const MegaMoeCase& c, const std::filesystem::path& configs) {
  h::ExpertLayer layer;
  layer.tokens = c.tokens_per_rank;
  layer.ranks = c.ep;
  layer.hidden = c.hidden;
  layer.inner = c.inner;
  layer.experts = c.experts;
  layer.topk = c.topk;
  if (c.hidden == 0 || c.inner == 0 || c.experts == 0 || c.topk == 0) {
    const std::vector<std::string> known = w::list_models(configs);
    if (std::find(known.begin(), known.end(), c.model) == known.end()) {
      throw UnsupportedError(fmt::format("no model {} in configs/models", base::quote(c.model)));
    }
    const w::ModelSpec model = w::load_model(c.model, configs);
    if (c.hidden == 0) layer.hidden = model.hidden;
    if (c.inner == 0) layer.inner = model.expert_inner;
    if (c.experts == 0) layer.experts = model.experts;
    if (c.topk == 0) layer.topk = model.experts_per_token;
  }
  const std::string& p = c.precision;
  layer.activation = layer.compute = Dtype::kFp8;
  if (p.starts_with("w4a8_mxfp4") || p == "fp8 act x fp4 weight") {
    layer.weight = Dtype::kFp4;
  } else if (p == "fp8 x fp8" || p == "mxfp8" || p == "fp8" || p == "fp8_block") {
    layer.weight = Dtype::kFp8;
  } else {
    throw UnsupportedError(fmt::format("expert layers in {} are not modelled", base::quote(p)));
  }
  h::require_possible(layer);
  // Tables that say nothing tell of random choices.
  const w::RoutingSpec routing =
      c.routing.empty() ? w::RoutingSpec(w::Routing::kUniform) : w::routing_distribution(c.routing);
  if (routing.kind == w::Routing::kBalanced) return layer;
  w::RoutingCase one;
  one.routing = routing;
  one.experts = layer.experts;
  one.topk = layer.topk;
  one.tokens = layer.tokens * layer.ranks;
  const w::RoutingGenerator generator(one);
  const std::uint64_t draw = w::load_percentiles(one, layer.ranks, 0, kDraws).typical_draw;
  const std::vector<std::int64_t> pairs = generator.pairs(draw);
  const w::Placement placement = w::contiguous_placement(layer.experts, layer.ranks);
  std::vector<std::vector<std::int64_t>> rows(static_cast<std::size_t>(layer.ranks));
  for (std::size_t e = 0; e < pairs.size(); ++e) {
    rows[static_cast<std::size_t>(placement.slots[e].rank)].push_back(pairs[e]);
  }
  // A rank's time follows its pairs or its experts that have any: the ranks with the most of each.
  const auto most = [&](auto&& weight) {
    return *std::max_element(rows.begin(), rows.end(),
                             [&](const auto& a, const auto& b) { return weight(a) < weight(b); });
  };
  const auto sum = [](const std::vector<std::int64_t>& r) {
    std::int64_t total = 0;
    for (const std::int64_t x : r) total += x;
    return total;
  };
  const auto touched = [](const std::vector<std::int64_t>& r) {
    return std::count_if(r.begin(), r.end(), [](std::int64_t x) { return x > 0; });
  };
  layer.rows = {most(sum)};
  if (const auto other = most(touched); other != layer.rows.front()) layer.rows.push_back(other);
  return layer;
}

const ExpertPredictor::System& ExpertPredictor::system(const std::string& chip,
                                                       std::int64_t ranks) {
  std::unique_ptr<System>& known = systems_[fmt::format("{} {}", chip, ranks)];
  if (known == nullptr) {
    auto loaded = std::make_unique<System>();
    loaded->hardware = system_of(chip, ranks, configs_);
    loaded->rates.push_back(h::derive_rates(loaded->hardware));
    for (int constant = 0; constant < h::kConstants; ++constant) {
      for (const int side : {-1, 1}) {
        h::Tuning tuning{};
        tuning[static_cast<std::size_t>(constant)] = side;
        loaded->rates.push_back(h::derive_rates(loaded->hardware, tuning));
      }
    }
    known = std::move(loaded);
  }
  return *known;
}

Prediction ExpertPredictor::predict(const Case& any) {
  const MegaMoeCase& c = std::get<MegaMoeCase>(any);
  const h::ExpertPlan plan = expert_plan(c);
  const System& on = system(c.origin.system, c.ep);
  const h::ExpertLayer layer = expert_layer(c, configs_);
  const bool sm120 = names(lower(c.origin.kernel_source), "sm120");
  if (sm120) throw UnsupportedError("kernels of workstation parts are not modelled");
  h::ExpertLayerDesign design = on.hardware.kernels.expert_layer;
  h::ExpertPricing pricing;
  const auto seconds = [&](const h::Rates& rates) {
    pricing.use(on.hardware, rates, design);
    return pricing.time(layer, plan).seconds;
  };
  const double value = seconds(on.rates.front());
  Spread spread;
  for (std::size_t i = 1; i < on.rates.size(); ++i) spread.add(value, seconds(on.rates[i]));
  const base::Ranged handshake = design.handshake;
  for (const double moved : {handshake.low, handshake.high}) {
    design.handshake.value = moved;
    spread.add(value, seconds(on.rates.front()));
  }
  const base::Interval interval = spread.around(value);
  return {base::Seconds{value}, base::Seconds{interval.low}, base::Seconds{interval.high},
          on.hardware.basis()};
}

}  // namespace foretoken::analysis::validation
