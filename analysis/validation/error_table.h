// How far predictions of each kernel class were off on rows that nothing was fitted to, and the
// intervals that follow. File: configs/calibration/errors.yaml, written by `foretoken calibrate
// --errors`.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "analysis/validation/predictor.h"
#include "sim/base/config.h"

namespace foretoken::analysis::validation {

// Of predicted / measured, over the rows of chips that were left out of the fit.
struct ClassErrors {
  std::int64_t n = 0;
  double q05 = 1.0;
  double q95 = 1.0;
  // Factor on the half-width of the logarithms for the few rows it rests on.
  double widen = 1.0;
  std::vector<std::string> chips;  // left out in turn
};

struct ErrorTable {
  std::string name;
  std::string data;
  std::string command;
  // Further factor on both sides for chips whose constants are inherited, basis assumed.
  double inherited = 1.0;
  std::string inherited_because;
  std::map<std::string, ClassErrors> classes;
};

void describe(base::ConfigVisitor& v, ErrorTable& table);

// configs/calibration/errors.yaml, and the classes of configs/calibration/errors/*.yaml: of kernels
// whose rows `calibrate` does not fit. A table without classes where there is no such file.
ErrorTable load_error_table(const std::filesystem::path& configs);

// The smallest number of rows that a class's quantiles are stated for.
inline constexpr std::size_t kFewestRows = 5;

// Quantiles of the ratios predicted / measured, interpolated between ranks, and the factor that a
// normal distribution known from n values only asks for: Student's 95 % quantile of n - 1 degrees
// of freedom x sqrt(1 + 1/n), over the normal one. 1.35 for 5 rows, 1.08 for 20, 1.01 for 100.
// Throws std::invalid_argument for fewer than kFewestRows.
ClassErrors class_errors(std::span<const double> ratios, std::vector<std::string> chips);

// The 90 % interval of a time predicted as `value`: value / q95 to value / q05, both sides widened
// as the table says, and containing `value`. Nothing for a class that the table lacks.
std::optional<base::Interval> observed_interval(const ErrorTable& table,
                                                const std::string& class_name, base::Basis basis,
                                                double value);

// A predictor whose intervals are the observed ones where the table has the class; others keep
// theirs.
class ObservedIntervals : public Predictor {
 public:
  ObservedIntervals(Predictor& inner, ErrorTable table);

  [[nodiscard]] bool handles(const Case& c) const override;
  Prediction predict(const Case& c) override;

 private:
  Predictor& inner_;
  ErrorTable table_;
};

}  // namespace foretoken::analysis::validation
