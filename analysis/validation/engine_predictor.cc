#include "analysis/validation/engine_predictor.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "hwmodels/hardware.h"
#include "sim/base/csv.h"
#include "sim/base/error.h"
#include "sim/base/text.h"
#include "workloads/model_spec.h"

namespace foretoken::analysis::validation {

namespace {

void require_known(const std::vector<std::string>& names, const std::string& name,
                   std::string_view what) {
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    throw base::UnsupportedError(fmt::format("no {} {} in configs", what, base::quote(name)));
  }
}

}  // namespace

EnginePredictor::EnginePredictor(std::filesystem::path configs) : configs_(std::move(configs)) {}

bool EnginePredictor::handles(const Case& c) const {
  return std::holds_alternative<EngineStepCase>(c);
}

Prediction EnginePredictor::predict(const Case& any) {
  const auto& c = std::get<EngineStepCase>(any);
  require_known(workloads::list_models(configs_), c.step.model, "model");
  require_known(hwmodels::list_configs(configs_, "systems"), c.step.system, "system");
  require_known(hwmodels::list_configs(configs_, "stacks"), c.step.stack, "stack");
  base::Interval modelled;
  try {
    modelled = modelled_range(c.step, configs_);
  } catch (const base::UsageError& error) {  // degrees beyond what a plan may have
    throw base::UnsupportedError(error.what());
  }
  if (!known_) {
    known_ = validate_end_to_end(
        base::read_csv(configs_ / "measurements" / "end-to-end-decode.csv"), configs_);
  }
  const base::Interval overhead = transferred_overhead(*known_, c.step.system);
  const double n = c.tokens_per_step;
  return {base::Seconds{modelled.value * overhead.value / n},
          base::Seconds{modelled.low * overhead.low / n},
          base::Seconds{modelled.high * overhead.high / n}, base::Basis::kCalibrated};
}

}  // namespace foretoken::analysis::validation
