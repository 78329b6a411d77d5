// Predicts decode steps of whole engines: kernels times the overhead found on other systems.
#pragma once

#include <filesystem>
#include <optional>

#include "analysis/end_to_end.h"
#include "analysis/validation/predictor.h"

namespace foretoken::analysis::validation {

// The overheads are those of configs/measurements/end-to-end-decode.csv; the rows of the system in
// question are left out.
class EnginePredictor : public Predictor {
 public:
  explicit EnginePredictor(std::filesystem::path configs);

  [[nodiscard]] bool handles(const Case& c) const override;
  Prediction predict(const Case& c) override;

 private:
  std::filesystem::path configs_;
  std::optional<EndToEndResult> known_;  // read when first needed
};

}  // namespace foretoken::analysis::validation
