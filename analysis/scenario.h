// A scenario file: which models, systems and contexts, under which rules. Files:
// configs/scenarios/*.yaml.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "analysis/cost.h"
#include "analysis/serving_point.h"
#include "sim/base/config.h"

namespace foretoken::analysis {

enum class ScenarioKind : std::uint8_t { kContextSweep };

struct ScenarioSystem {
  std::string name;
  std::string precision;  // configs/precision/<name>.yaml
  std::string stack{};    // configs/stacks/<name>.yaml; empty: the scenario's
};

struct ScenarioSpeculation {
  std::string acceptance;  // configs/specdec/<name>.yaml
  std::int64_t draft_tokens = 0;
};

struct Scenario {
  ScenarioKind kind = ScenarioKind::kContextSweep;
  std::string name;
  std::string title;
  std::vector<std::string> models;
  std::vector<std::int64_t> contexts;
  std::vector<ScenarioSystem> systems;
  std::string stack;
  ServingRules rules;
  std::vector<std::string> plans;
  bool speculate = false;
  base::Ranged borrowed_acceptance{1.0, 1.0, 1.0};
  std::map<std::string, ScenarioSpeculation> speculation;
  std::string hardware_prices;
  std::string list_prices;
  Ownership ownership = Ownership::kOwned;
  base::Ranged utilisation{1.0, 1.0, 1.0};
  base::Seconds cache_retention;
  std::int64_t curve_points = 33;
};

void describe(base::ConfigVisitor& v, Scenario& scenario);

// Mean acceptance lengths by number of draft tokens, as measured on `model`.
struct AcceptanceTable {
  std::string name;
  std::string model;
  std::string method;
  std::string source;
  std::string licence;
  std::string note;
  std::vector<double> mean_acceptance_length;  // index 0: one draft token
};

void describe(base::ConfigVisitor& v, AcceptanceTable& table);

// `model` is where it will be used: on another model than the table's the borrowed range applies.
// Throws ConfigError when the table has no such number of draft tokens.
Speculation speculation_from(const AcceptanceTable& table, std::int64_t draft_tokens,
                             const std::string& model, const base::Ranged& borrowed);

// A scenario by path, or by name in configs/scenarios, with `overrides` ("key.path=value") applied.
// The file is kept for messages.
struct LoadedScenario {
  Scenario scenario;
  std::string path;
};
LoadedScenario load_scenario(const std::string& name_or_path, const std::filesystem::path& configs,
                             const std::vector<std::string>& overrides);

}  // namespace foretoken::analysis
