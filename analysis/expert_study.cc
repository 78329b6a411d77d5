#include "analysis/expert_study.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/cost.h"
#include "analysis/validation/error_table.h"
#include "hwmodels/hardware.h"
#include "sim/base/error.h"
#include "workloads/model_spec.h"

namespace foretoken::analysis {

namespace fs = std::filesystem;
namespace h = hwmodels;
namespace w = workloads;
using base::ConfigVisitor;
using base::Need;
using base::UnitKind;
using w::Dtype;

namespace {

// Of a pair's 3 h bytes dispatch is one part, of its 6 h d FLOPs the first product four.
constexpr double kDispatch = 1.0 / 3.0;
constexpr double kFirst = 2.0 / 3.0;

double bisect(double low, double high, auto&& below) {
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (below(middle) ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

}  // namespace

OverlapTimes overlap_times(const OverlapCase& c) {
  const double arrive = c.ratio * kDispatch;
  const double leave = c.ratio - arrive;
  const double second = 1.0 - kFirst;
  OverlapTimes t;
  t.serial = c.ratio + 1.0 + c.activation;
  if (c.waves == 0) {
    t.pairwise = std::max(arrive, kFirst) + c.activation + std::max(leave, second);
    t.waves = std::max(c.ratio, 1.0 + c.activation);
    return t;
  }
  const auto n = static_cast<double>(c.waves);
  const std::vector<h::WaveStages> waves(
      static_cast<std::size_t>(c.waves),
      {arrive / n, kFirst / n, c.activation / n, second / n, leave / n});
  t.pairwise = h::pairwise_time(waves);
  t.waves = h::waves_time(waves);
  return t;
}

double flops_per_byte(double ratio, std::int64_t inner) {
  return ratio * 2.0 * static_cast<double>(inner);
}

bool ratio_for_waves(double speedup, double activation, std::int64_t waves, double& ratio) {
  const auto at = [&](double r) { return overlap_times({r, activation, waves}).waves_speedup(); };
  // The speed-up rises until the links are as busy as the rest, then falls.
  const double peak = 1.0 + activation;
  if (at(peak) < speedup) return false;
  ratio = bisect(0.0, peak, [&](double r) { return at(r) < speedup; });
  return true;
}

bool activation_for_both(double waves_speedup, double pairwise_speedup, std::int64_t waves,
                         OverlapSolution& solution) {
  double ratio = 0.0;
  const auto pairwise = [&](double activation) {
    return ratio_for_waves(waves_speedup, activation, waves, ratio)
               ? overlap_times({ratio, activation, waves}).pairwise_speedup()
               : 0.0;
  };
  constexpr double kMost = 2.0;
  if (pairwise(0.0) < pairwise_speedup || pairwise(kMost) > pairwise_speedup) return false;
  const double activation =
      bisect(0.0, kMost, [&](double a) { return pairwise(a) > pairwise_speedup; });
  solution.pairwise_speedup = pairwise(activation);
  solution.at = {ratio, activation, waves};
  solution.waves_speedup = overlap_times(solution.at).waves_speedup();
  // Few waves reach the one speed-up only where the other is still too large.
  return std::abs(solution.pairwise_speedup - pairwise_speedup) < 1e-3;
}

void describe(ConfigVisitor& v, ExpertStudy& s) {
  std::string kind = "expert_waves";
  v.text({"kind", "expert_waves"}, kind);
  v.check(kind == "expert_waves", "kind", "'kind' is not expert_waves");
  v.text({"name", "names the output folder"}, s.name);
  v.check(!s.name.empty() && s.name.find('/') == std::string::npos && s.name.front() != '.', "name",
          "'name' names a folder");
  v.text({"title", "heads the report"}, s.title);
  base::group(v, {"theory", "perfect overlap over traffic / products"}, [&] {
    v.text({"model", "whose inner width turns ratios into FLOP per byte"}, s.theory_model);
    v.reals({"ratios", "time of traffic over time of products"}, s.ratios, UnitKind::kNumber,
            {.min = 0.0, .max = 1e3}, {.min = 1, .max = 1000});
    v.integers({"waves", "0: infinitely many"}, s.waves, {.min = 0, .max = 4096},
               {.min = 1, .max = 100});
    v.reals({"activations", "time between the products over theirs"}, s.activations,
            UnitKind::kNumber, {.min = 0.0, .max = 10.0, .open_low = false},
            {.min = 1, .max = 100});
    v.real({"waves_speedup", "to look for"}, s.waves_target, UnitKind::kNumber,
           {.min = 1.0, .max = 2.0});
    v.real({"pairwise_speedup", "to look for"}, s.pairwise_target, UnitKind::kNumber,
           {.min = 1.0, .max = 2.0});
  });
  base::group(v, {"practice", "modelled times"}, [&] {
    v.texts({"models", "names in configs/models"}, s.models, {.min = 1, .max = 100});
    v.integers({"tokens", "of a rank"}, s.tokens, {.min = 1, .max = 1 << 24},
               {.min = 1, .max = 100});
    base::list(v, {"systems", "and numbers of ranks"}, s.systems,
               [](ConfigVisitor& x, ExpertStudySystem& system) {
                 x.text({"name", "a file in configs/systems"}, system.name);
                 x.integers({"ranks", "that share the experts"}, system.ranks,
                            {.min = 1, .max = 8192}, {.min = 1, .max = 32});
               },
               {.min = 1, .max = 100});
  });
  base::list(v, {"published", "speed-ups of fused waves over separate kernels"}, s.published,
             [](ConfigVisitor& x, PublishedSpeedup& p) {
               x.text({"model", "a file in configs/models"}, p.model);
               x.text({"system", "a file in configs/systems"}, p.system);
               x.integer({"ranks", "that share the experts"}, p.ranks, {.min = 1, .max = 8192});
               x.integer({"tokens", "of a rank"}, p.tokens, {.min = 1, .max = 1 << 24});
               x.real({"speedup", "published"}, p.speedup, UnitKind::kNumber, {.max = 100.0});
             },
             {.min = 0, .max = 1000});
  v.text({"source", "of the published figures: id in configs/sources.yaml"}, s.source);
}

namespace {
fs::path scenario_path(const std::string& name_or_path, const fs::path& configs) {
  const bool is_path =
      name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".yaml");
  return is_path ? fs::path(name_or_path) : configs / "scenarios" / (name_or_path + ".yaml");
}
}  // namespace

bool is_expert_study(const std::string& name_or_path, const fs::path& configs) {
  const fs::path path = scenario_path(name_or_path, configs);
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return false;
  const base::ConfigFile file = base::read_config_file(path);
  const base::ConfigTree* kind = file.root.find("kind");
  return kind != nullptr && kind->scalar == "expert_waves";
}

ExpertStudy load_expert_study(const std::string& name_or_path, const fs::path& configs,
                              const std::vector<std::string>& overrides) {
  base::ConfigFile file = base::read_config_file(scenario_path(name_or_path, configs));
  for (const std::string& assignment : overrides) base::apply_override(file, assignment);
  return base::read_config<ExpertStudy>(file);
}

namespace {

// Formats the chip multiplies: FP8 tokens with FP4 weights as released where FP4 can be stored and
// FP8 multiplied, FP8 weights on chips that cannot widen FP4 on the way, else INT8.
void choose_formats(const h::Hardware& hardware, h::ExpertLayer& layer) {
  const bool fp8 = hardware.chip.supports(Dtype::kFp8);
  const bool fp4 = fp8 && hardware.chip.supports(Dtype::kFp4);
  layer.activation = layer.compute = fp8 ? Dtype::kFp8 : Dtype::kInt8;
  layer.weight = fp4 ? Dtype::kFp4 : layer.activation;
}

struct Times {
  h::ExpertTime fused, normal, low_latency, two_batch, pairwise;
};

Times times_of(h::ExpertPricing& pricing, const h::ExpertLayer& layer) {
  using S = h::ExpertSchedule;
  using F = h::SeparateForm;
  return {pricing.time(layer, {.schedule = S::kWaves}),
          pricing.time(layer, {.schedule = S::kSerial, .form = F::kNormal}),
          pricing.time(layer, {.schedule = S::kSerial, .form = F::kLowLatency}),
          pricing.time(layer, {.schedule = S::kTwoBatch, .form = F::kNormal}),
          pricing.time(layer, {.schedule = S::kPairwise})};
}

SpeedupPoint point(const h::Hardware& hardware, const w::ModelSpec& model,
                   const std::string& model_name, std::int64_t ranks, std::int64_t tokens,
                   const validation::ErrorTable& errors) {
  SpeedupPoint p;
  p.model = model_name;
  p.system = hardware.system.name;
  p.ranks = ranks;
  p.tokens = tokens;
  p.basis = hardware.basis();
  h::ExpertLayer layer;
  layer.tokens = tokens;
  layer.ranks = ranks;
  layer.hidden = model.hidden;
  layer.inner = model.expert_inner;
  layer.experts = model.experts;
  layer.topk = model.experts_per_token;
  choose_formats(hardware, layer);
  h::ExpertLayerDesign design = hardware.kernels.expert_layer;
  h::ExpertPricing pricing;
  const auto at = [&](const h::Rates& rates) {
    pricing.use(hardware, rates, design);
    return times_of(pricing, layer);
  };
  const Times t = at(h::derive_rates(hardware));
  p.fused = t.fused;
  p.normal = t.normal;
  p.low_latency = t.low_latency;
  p.two_batch = t.two_batch;
  p.pairwise = t.pairwise;
  const double ratio = t.normal.seconds / t.fused.seconds;
  Spread speedup;
  Spread seconds;
  const auto add = [&](const Times& other) {
    speedup.add(ratio, other.normal.seconds / other.fused.seconds);
    seconds.add(t.fused.seconds, other.fused.seconds);
  };
  for (int constant = 0; constant < h::kConstants; ++constant) {
    for (const int side : {-1, 1}) {
      h::Tuning tuning{};
      tuning[static_cast<std::size_t>(constant)] = side;
      add(at(h::derive_rates(hardware, tuning)));
    }
  }
  const h::Rates rates = h::derive_rates(hardware);
  for (const auto member : {&h::ExpertLayerDesign::handshake, &h::ExpertLayerDesign::short_row}) {
    const base::Ranged kept = design.*member;
    for (const double moved : {kept.low, kept.high}) {
      (design.*member).value = moved;
      add(at(rates));
    }
    design.*member = kept;
  }
  // What the model itself was off by where it was measured.
  const auto observed = [&](const char* kind) -> const validation::ClassErrors* {
    const auto found = errors.classes.find(kind);
    return found == errors.classes.end() ? nullptr : &found->second;
  };
  if (const validation::ClassErrors* e = observed("megamoe")) {
    speedup.add_relative(std::min(1.0, e->q05), std::max(1.0, e->q95));
    seconds.add_relative(std::min(1.0, 1.0 / e->q95), std::max(1.0, 1.0 / e->q05));
  }
  if (const validation::ClassErrors* e = observed("megamoe (not fused)")) {
    speedup.add_relative(std::min(1.0, 1.0 / e->q95), std::max(1.0, 1.0 / e->q05));
  }
  p.speedup = speedup.around(ratio);
  p.fused_seconds = seconds.around(t.fused.seconds);
  return p;
}

}  // namespace

ExpertStudyResult run_expert_study(const ExpertStudy& study, const fs::path& configs) {
  ExpertStudyResult result;
  result.study = study;
  for (const double activation : study.activations) {
    for (const std::int64_t waves : study.waves) {
      for (const double ratio : study.ratios) {
        const OverlapCase at{ratio, activation, waves};
        result.theory.push_back({at, overlap_times(at)});
      }
    }
  }
  const w::ModelSpec theory = w::load_model(study.theory_model, configs);
  const validation::ErrorTable errors = validation::load_error_table(configs);
  const auto add = [&](OverlapSolution one) {
    one.flops_per_byte = flops_per_byte(one.at.ratio, theory.expert_inner);
    result.solutions.push_back(one);
  };
  for (const std::int64_t waves : study.waves) {
    // Without activation waves alone, then with as much as it takes for both.
    double ratio = 0.0;
    if (ratio_for_waves(study.waves_target, 0.0, waves, ratio)) {
      const OverlapTimes t = overlap_times({ratio, 0.0, waves});
      add({{ratio, 0.0, waves}, 0.0, t.pairwise_speedup(), t.waves_speedup()});
    }
    OverlapSolution both;
    if (activation_for_both(study.waves_target, study.pairwise_target, waves, both)) add(both);
  }
  for (const ExpertStudySystem& s : study.systems) {
    const h::Hardware hardware = h::load_hardware(s.name, configs);
    h::ExpertLayer formats;
    choose_formats(hardware, formats);
    const double peak = hardware.chip.peak(formats.compute).value();
    const double link = hardware.system.outside_package().bandwidth.value();
    HardwareRatio one{s.name, peak / link, 0.0, {}};
    one.ratio = one.flops_per_byte / flops_per_byte(1.0, theory.expert_inner);
    one.times = overlap_times({one.ratio, 0.0, 0});
    result.hardware.push_back(one);
    for (const std::string& name : study.models) {
      const w::ModelSpec model = w::load_model(name, configs);
      for (const std::int64_t ranks : s.ranks) {
        for (const std::int64_t tokens : study.tokens) {
          SpeedupPoint p = point(hardware, model, name, ranks, tokens, errors);
          for (const PublishedSpeedup& known : study.published) {
            if (known.model == name && known.system == s.name && known.ranks == ranks &&
                known.tokens == tokens) {
              p.published = known.speedup;
            }
          }
          result.practice.push_back(std::move(p));
        }
      }
    }
  }
  return result;
}

}  // namespace foretoken::analysis
