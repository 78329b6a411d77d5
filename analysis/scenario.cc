#include "analysis/scenario.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "hwmodels/hardware.h"
#include "sim/base/error.h"

namespace foretoken::analysis {

namespace fs = std::filesystem;
using base::ConfigVisitor;
using base::Need;
using base::UnitKind;

namespace {

constexpr std::array<std::string_view, 1> kKindNames = {"context_sweep"};
constexpr std::array<std::string_view, 4> kOverlapNames = {"none", "shared", "waves", "pairwise"};
constexpr std::array<std::string_view, 2> kRoutingNames = {"balanced", "uniform"};
constexpr std::array<std::string_view, 2> kOwnershipNames = {"rental", "owned"};
// One context beyond a million million positions helps nobody and would overflow counts.
constexpr std::int64_t kMostContext = std::int64_t{1} << 31;

template <class T>
bool all_different(const std::vector<T>& values) {
  return std::set<T>(values.begin(), values.end()).size() == values.size();
}

void describe_serving(ConfigVisitor& v, Scenario& s) {
  base::quantity(v, {"tpot_limit", "longest mean time per output token of one sequence"},
                 s.rules.tpot_limit);
  v.real({"memory_share", "of device memory for weights and cache; the rest is activations"},
         s.rules.memory_share, UnitKind::kNumber, base::kFraction);
  v.integer({"chunk", "prefill tokens per rank and step"}, s.rules.chunk_tokens,
            {.min = 1, .max = 1 << 24});
  base::choice(v, {"overlap", "how expert traffic overlaps with computation"}, s.rules.overlap,
               kOverlapNames);
  v.integer({"waves", "expert waves, with overlap: waves; 0: by the kernel's rule"}, s.rules.waves,
            {.min = 0, .max = 64});
  base::choice(v, {"routing", "which experts tokens choose"}, s.rules.routing, kRoutingNames);
  v.texts({"plans", "parallel plans to try, such as 'dp=8,ep=8'; empty: search", Need::kOptional},
          s.plans, {.min = 0, .max = 1000});
}

}  // namespace

void describe(ConfigVisitor& v, Scenario& s) {
  base::choice(v, {"kind", "what is computed"}, s.kind, kKindNames);
  v.text({"name", "names the output folder"}, s.name);
  bool plain = !s.name.empty() && s.name.front() != '.';
  for (const char c : s.name) {
    plain = plain &&
            (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.');
  }
  v.check(plain, "name", "'name' may hold letters, digits, '-', '_' and '.' only");
  v.text({"title", "heads the report"}, s.title);
  v.texts({"models", "names in configs/models, or paths of config.json files"}, s.models,
          {.min = 1, .max = 100});
  v.check(all_different(s.models), "models", "'models' names a model twice");
  v.integers({"contexts", "visible positions"}, s.contexts, {.min = 1, .max = kMostContext},
             {.min = 1, .max = 1000});
  v.check(all_different(s.contexts), "contexts", "'contexts' names a context twice");
  base::list(
      v, {"systems", "what to compare"}, s.systems,
      [](ConfigVisitor& w, ScenarioSystem& system) {
        w.text({"name", "a file in configs/systems"}, system.name);
        w.text({"precision", "a file in configs/precision"}, system.precision);
        w.text({"stack", "a file in configs/stacks in place of the scenario's", Need::kOptional},
               system.stack);
      },
      {.min = 1, .max = 1000});
  std::set<std::string> names;
  for (const ScenarioSystem& system : s.systems) names.insert(system.name + "/" + system.precision);
  v.check(names.size() == s.systems.size(), "systems", "'systems' lists a system twice");
  v.text({"stack", "which operators share a kernel: a file in configs/stacks"}, s.stack);
  base::group(v, {"serving", "rules of operation"}, [&] { describe_serving(v, s); });
  base::group(v, {"speculation", "draft tokens and how many are accepted"}, [&] {
    v.boolean({"enabled", "false: one token a step"}, s.speculate);
    v.ranged({"borrowed_range", "factor on acceptance measured on another model"},
             s.borrowed_acceptance, UnitKind::kNumber, {.max = 10.0});
    base::table(
        v, {"models", "by model name; a model not listed does not speculate"}, s.speculation,
        [](ConfigVisitor& w, ScenarioSpeculation& e) {
          w.text({"acceptance", "a file in configs/specdec"}, e.acceptance);
          w.integer({"draft_tokens", "proposed per step"}, e.draft_tokens, {.min = 0, .max = 64});
        });
  });
  base::group(v, {"costs", "of hardware and tokens"}, [&] {
    v.text({"hardware", "a file in configs/prices"}, s.hardware_prices);
    v.text({"list", "a file in configs/prices"}, s.list_prices);
    base::choice(v, {"ownership", "rental by the hour, or owned"}, s.ownership, kOwnershipNames);
    v.ranged({"utilisation", "share of hours in service that are sold"}, s.utilisation,
             UnitKind::kNumber, base::kFraction);
    base::quantity(v, {"cache_retention", "between two uses of a cached prefix"}, s.cache_retention,
                   base::kNonNegative);
  });
  base::group(v, {"uncertainty", "what is not covered by the constants' ranges"}, [&] {
    v.ranged({"serving_overhead", "measured over modelled step time of whole engines"},
             s.rules.serving_overhead, UnitKind::kNumber, {.max = 100.0});
  });
  v.integer({"curve_points", "contexts at which the count curves are drawn"}, s.curve_points,
            {.min = 2, .max = 10'000});
}

void describe(ConfigVisitor& v, AcceptanceTable& t) {
  v.text({"name", "equals the file's name"}, t.name);
  v.text({"model", "it was measured on"}, t.model);
  v.text({"method", "mtp or dspark"}, t.method);
  v.text({"source", "id in configs/sources.yaml"}, t.source);
  v.text({"licence", "of the data"}, t.licence);
  v.text({"note", "conditions", Need::kOptional}, t.note);
  v.reals({"mean_acceptance_length",
           "tokens a step yields, the verified one included, for 1, 2, ... draft tokens"},
          t.mean_acceptance_length, UnitKind::kNumber,
          {.min = 1.0, .max = 1000.0, .open_low = false}, {.min = 1, .max = 64});
}

Speculation speculation_from(const AcceptanceTable& table, std::int64_t draft_tokens,
                             const std::string& model, const base::Ranged& borrowed) {
  Speculation s;
  if (draft_tokens == 0) return s;
  if (draft_tokens > static_cast<std::int64_t>(table.mean_acceptance_length.size())) {
    throw base::ConfigError(
        {table.name, 0, 0},
        fmt::format("has no acceptance length for {} draft tokens, only up to {}", draft_tokens,
                    table.mean_acceptance_length.size()));
  }
  s.draft_tokens = draft_tokens;
  s.acceptance_length = table.mean_acceptance_length[static_cast<std::size_t>(draft_tokens - 1)];
  if (table.model != model) {
    s.acceptance_length = std::max(1.0, s.acceptance_length * borrowed.value);
    // A step yields its verified token at least.
    s.low_factor = std::max(1.0 / s.acceptance_length, borrowed.low / borrowed.value);
    s.high_factor = borrowed.high / borrowed.value;
  }
  return s;
}

namespace {

// A misspelt model would silently not speculate. Models of configs that this scenario leaves out
// are fine.
void require_known_speculation(const base::ConfigFile& file, const Scenario& s,
                               const fs::path& configs) {
  const std::vector<std::string> known = workloads::list_models(configs);
  const auto among = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  const base::ConfigTree* group = file.root.find("speculation");
  const base::ConfigTree* models = group == nullptr ? nullptr : group->find("models");
  if (models == nullptr) return;
  for (std::size_t i = 0; i < models->entries.size(); ++i) {
    const std::string& name = models->entries[i].first;
    if (among(s.models, name) || among(known, name)) continue;
    const auto [line, column] =
        i < models->key_positions.size() ? models->key_positions[i] : std::pair(0, 0);
    throw base::ConfigError(
        {file.path, line, column},
        fmt::format("'{}' in speculation.models is no model of this scenario or of configs/models",
                    name));
  }
}

}  // namespace

LoadedScenario load_scenario(const std::string& name_or_path, const fs::path& configs,
                             const std::vector<std::string>& overrides) {
  fs::path path = name_or_path;
  const bool is_path =
      name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".yaml");
  if (!is_path) path = configs / "scenarios" / (name_or_path + ".yaml");
  std::error_code error;  // a name too long for a file is an unknown one
  if (!is_path && !fs::exists(path, error)) {
    std::string known;
    for (const std::string& n : hwmodels::list_configs(configs, "scenarios")) {
      known += (known.empty() ? "" : ", ") + n;
    }
    throw base::ConfigError({name_or_path, 0, 0},
                            fmt::format("no such scenario; known: {}, or a path", known));
  }
  base::ConfigFile file = base::read_config_file(path);
  for (const std::string& assignment : overrides) base::apply_override(file, assignment);
  LoadedScenario loaded{base::read_config<Scenario>(file), path.string()};
  require_known_speculation(file, loaded.scenario, configs);
  for (std::size_t i = 0; i < loaded.scenario.plans.size(); ++i) {
    const std::string& text = loaded.scenario.plans[i];
    try {
      loaded.scenario.rules.plans.push_back(workloads::parse_plan(text));
    } catch (const base::UsageError& wrong) {
      const base::ConfigTree& where = file.root.find("serving")->find("plans")->items[i];
      throw base::ConfigError({loaded.path, where.line, where.column}, wrong.what());
    }
    workloads::ParallelPlan& plan = loaded.scenario.rules.plans.back();
    if (text.find("overlap") == std::string::npos) plan.overlap = loaded.scenario.rules.overlap;
    if (text.find("waves") == std::string::npos) plan.waves = loaded.scenario.rules.waves;
    if (text.find("routing") == std::string::npos) plan.routing = loaded.scenario.rules.routing;
  }
  return loaded;
}

}  // namespace foretoken::analysis
