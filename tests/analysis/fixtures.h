// What the tests of the analysis share: deployments by name, a small scenario with its result.
#pragma once

#include <string>

#include "analysis/context_sweep.h"
#include "analysis/reports/sweep_json.h"
#include "analysis/scenario.h"
#include "analysis/step.h"
#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::test_support {

// Owns what a Subject or a Deployment points to.
struct Served {
  workloads::ModelSpec model;
  hwmodels::Hardware hardware;
  hwmodels::Stack stack;
  workloads::Precision precision;

  Served(const std::string& model_name, const std::string& system, const std::string& recipe)
      : model(test_support::model(model_name)),
        hardware(test_support::hardware(system)),
        stack(hwmodels::load_stack("serving", configs())),
        precision(test_support::precision(recipe, model)) {}

  [[nodiscard]] analysis::Deployment deployment(const std::string& plan, bool draft = false) const {
    return {&model, &hardware, &stack, precision, workloads::parse_plan(plan), draft};
  }
  [[nodiscard]] analysis::Subject subject() const { return {&model, &hardware, &stack, precision}; }
};

inline workloads::Batch decode(std::int64_t sequences, std::int64_t context) {
  return analysis::decode_batch(sequences, context, {});
}

inline workloads::Batch prefill(std::int64_t sequences, std::int64_t tokens) {
  workloads::Batch b;
  b.phase = workloads::Phase::kPrefill;
  b.sequences = sequences;
  b.context = b.new_tokens = tokens;
  return b;
}

// Two models on two systems at two contexts, one of which does not fit: every status but a missed
// limit.
inline analysis::Scenario small_scenario() {
  return analysis::load_scenario(
             "v4-context-length", configs(),
             {"name=small", "models=[deepseek-v4-flash, deepseek-v3.2]", "contexts=[8K, 128K]",
              "systems=[{name: hgx_h200, precision: fp8-index}, "
              "{name: atlas_950_cabinet, precision: ascend-950}]",
              "curve_points=3"})
      .scenario;
}

}  // namespace foretoken::test_support
