// The transfer test: how well constants fitted on some chips predict another one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "analysis/calibration/fit.h"
#include "analysis/validation/error_table.h"

namespace foretoken::analysis::calibration {

// predicted / measured - 1 of some rows of one class.
struct ClassResiduals {
  std::string class_name;
  std::size_t n = 0;
  double median_signed_error = 0.0;
  double median_abs_error = 0.0;
  double p90_abs_error = 0.0;
  double worst_abs_error = 0.0;
  std::vector<double> ratios;  // predicted / measured, in the order of the rows
};

// By class, sorted.
std::vector<ClassResiduals> by_class(std::span<const Row> rows, std::span<const double> residuals);

// Residuals of the rows of `chips` when each chip's own calibration in `start` takes the fit's
// values; chips it was not fitted on also take what its chips have of the kept constants.
std::vector<ClassResiduals> apply(const Fit& fit, std::span<const Row> rows,
                                  const std::vector<std::string>& chips,
                                  const validation::Calibrations& start,
                                  validation::TunablePredictor& predictor);

// One chip left out.
struct HeldOut {
  std::string chip;
  Fit fit;                              // on all the others
  std::vector<ClassResiduals> classes;  // of the chip's rows
  // Constants that the chip's rows depend on and the fit does not give: from the chip's own file.
  std::vector<std::string> own;
};

// `names` as in fit().
HeldOut hold_out(const std::string& chip, std::span<const Row> rows,
                 const std::vector<std::string>& chips, const std::vector<std::string>& names,
                 const validation::Calibrations& start, validation::TunablePredictor& predictor);

// Share of left-out measurements inside an interval.
struct Coverage {
  std::string class_name;
  std::size_t n = 0;
  double own = 0.0;  // intervals of all left-out rows, the measured ones among them
  // Intervals of the rows of other chips only, as a chip would meet them that was never measured;
  // of the n_others rows for which there is such an interval.
  std::size_t n_others = 0;
  double others = 0.0;
};

// Rows of chips that no fit saw, predicted with the constants they inherit, against the intervals
// of the table.
struct InheritedCheck {
  std::string chip;
  std::string class_name;
  std::size_t n = 0;
  double median_signed_error = 0.0;
  double median_abs_error = 0.0;
  double interval_coverage = 0.0;
};

struct Transfer {
  std::vector<std::string> chips;
  Fit all;                                  // on all chips
  std::vector<ClassResiduals> all_classes;  // residuals of the rows it was fitted to
  std::vector<HeldOut> held_out;            // each chip once
  validation::ErrorTable errors;            // without data and command
  std::vector<Coverage> coverage;
  std::vector<InheritedCheck> inherited;  // filled by whoever has such rows
};

// Leaves each of at least two chips out in turn. Quantiles are of the union of what was left out;
// the factor for inherited constants is the 90 % quantile of how far a prediction moves when a
// chip's own fit is exchanged for that of the others.
Transfer transfer(std::span<const Row> rows, const std::vector<std::string>& chips,
                  const std::vector<std::string>& names, const validation::Calibrations& start,
                  validation::TunablePredictor& predictor);

std::vector<InheritedCheck> check_inherited(const validation::ErrorTable& table,
                                            std::span<const Row> rows,
                                            validation::Predictor& predictor);

}  // namespace foretoken::analysis::calibration
