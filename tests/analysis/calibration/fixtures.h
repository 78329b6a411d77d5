// A predictor of products that is easy to compute by hand, and measurements it made itself.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "analysis/calibration/fit.h"
#include "sim/base/error.h"

namespace foretoken::analysis::calibration {

inline const std::filesystem::path kConfigs =
    std::filesystem::path(FORETOKEN_SOURCE_DIR) / "configs";

// launch + the longer of 2 m n k FLOPs at 1 PFLOP/s x matrix.bf16 and k n bytes at 4 TB/s x memory.
// Refuses products of 99 rows.
class Roofline : public validation::TunablePredictor {
 public:
  [[nodiscard]] bool handles(const validation::Case& c) const override {
    return std::holds_alternative<validation::DenseGemmCase>(c);
  }
  validation::Prediction predict(const validation::Case& c) override {
    const base::Seconds t = time(c);
    return {t, t, t, base::Basis::kCalibrated};
  }
  void calibrate(const std::string& chip, const hwmodels::Calibration& constants) override {
    constants_[chip] = constants;
  }
  base::Seconds time(const validation::Case& any) override {
    const auto& c = std::get<validation::DenseGemmCase>(any);
    if (c.m == 99) throw base::UnsupportedError("99 rows are refused");
    const hwmodels::Calibration& own = constants_[c.origin.system];
    const double mn = static_cast<double>(c.m) * static_cast<double>(c.n);
    const double kn = static_cast<double>(c.k) * static_cast<double>(c.n);
    const auto bf16 = static_cast<std::size_t>(workloads::Dtype::kBf16);
    return base::Seconds{
        own.launch_latency.value +
        std::max(2.0 * mn * static_cast<double>(c.k) / (1e15 * own.matrix_efficiency[bf16].value),
                 kn / (4e12 * own.memory_efficiency.value))};
  }

 private:
  validation::Calibrations constants_;
};

inline hwmodels::Calibration constants(double memory, double bf16, double launch) {
  hwmodels::Calibration c;
  c.memory_efficiency = {memory, memory, memory};
  c.matrix_efficiency[static_cast<std::size_t>(workloads::Dtype::kBf16)] = {bf16, bf16, bf16};
  c.launch_latency = {launch, launch, launch};
  return c;
}

// Multiplicative noise between 1 / (1 + size) and 1 + size, the same for the same seed.
class Noise {
 public:
  Noise(double size, std::uint64_t seed) : size_(size), state_(seed) {}
  double next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    const double uniform = static_cast<double>(state_ >> 11u) * 0x1p-53;
    return std::exp((2.0 * uniform - 1.0) * std::log1p(size_));
  }

 private:
  double size_;
  std::uint64_t state_;
};

// Products from launch-bound to memory- and compute-bound, as `predictor` has them now, times
// noise. A chip's name doubles as its table's.
inline std::vector<Row> measured_by(validation::TunablePredictor& predictor,
                                    const std::string& chip, const std::string& dtype,
                                    Noise noise) {
  std::vector<Row> rows;
  for (const std::int64_t m : {1, 64, 512, 8192}) {
    for (const std::int64_t n : {256, 4096, 16384}) {
      for (const std::int64_t k : {512, 7168}) {
        Row row;
        row.file = chip + ".csv";
        row.line = static_cast<int>(rows.size()) + 2;
        row.chip = chip;
        row.class_name = "dense_gemm/" + dtype;
        row.measured_case = validation::DenseGemmCase{{chip, "", ""}, dtype, m, n, k};
        row.measured = predictor.time(row.measured_case).value() * noise.next();
        rows.push_back(std::move(row));
      }
    }
  }
  return rows;
}

}  // namespace foretoken::analysis::calibration
