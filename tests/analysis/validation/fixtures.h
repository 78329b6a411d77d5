// A predictor that gives every kernel the same time.
#pragma once

#include "analysis/validation/predictor.h"
#include "sim/base/error.h"

namespace foretoken::analysis::validation {

// Half to twice the time; refuses products of 99 rows, and knows no traffic.
class FixedPredictor : public Predictor {
 public:
  explicit FixedPredictor(double seconds) : seconds_(seconds) {}

  [[nodiscard]] bool handles(const Case& c) const override {
    return std::holds_alternative<DenseGemmCase>(c) ||
           std::holds_alternative<HyperConnectionCase>(c);
  }
  Prediction predict(const Case& c) override {
    const auto* gemm = std::get_if<DenseGemmCase>(&c);
    if (gemm != nullptr && gemm->m == 99) throw base::UnsupportedError("99 rows are refused");
    return {base::Seconds{seconds_}, base::Seconds{seconds_ / 2.0}, base::Seconds{seconds_ * 2.0},
            base::Basis::kCalibrated};
  }

 private:
  double seconds_;
};

}  // namespace foretoken::analysis::validation
