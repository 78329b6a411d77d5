// Predicts whole expert layers over ranks: fused waves, and separate kernels one after another.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "analysis/validation/predictor.h"
#include "hwmodels/expert_waves.h"
#include "hwmodels/hardware.h"

namespace foretoken::analysis::validation {

// A system of this chip on which so many ranks fit: the smallest whose scale-up domain holds them,
// else the largest, with as many nodes as are needed. Throws UnsupportedError when there is none.
hwmodels::Hardware system_of(const std::string& chip, std::int64_t ranks,
                             const std::filesystem::path& configs);

class ExpertPredictor : public Predictor {
 public:
  explicit ExpertPredictor(std::filesystem::path configs);

  [[nodiscard]] bool handles(const Case& c) const override;
  Prediction predict(const Case& c) override;

 private:
  // A system and its rates: as fitted first, then with one constant moved at a time.
  struct System {
    hwmodels::Hardware hardware;
    std::vector<hwmodels::Rates> rates;
  };
  const System& system(const std::string& chip, std::int64_t ranks);

  std::filesystem::path configs_;
  std::map<std::string, std::unique_ptr<System>> systems_;
};

// The layer that a case measures, with the rows of the ranks that can be the slowest.
hwmodels::ExpertLayer expert_layer(const MegaMoeCase& c, const std::filesystem::path& configs);
// How the measured implementation orders it. Throws UnsupportedError for one that is not modelled.
hwmodels::ExpertPlan expert_plan(const MegaMoeCase& c);

}  // namespace foretoken::analysis::validation
