// Fits constants of a calibration to measured kernels: what is minimised, and the search.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/calibration/constants.h"
#include "analysis/validation/measurement_table.h"
#include "analysis/validation/predictor.h"

namespace foretoken::analysis::calibration {

// A measured time that the predictor can predict.
struct Row {
  std::string file;
  int line = 0;
  std::string chip;
  std::string class_name;
  double measured = 0.0;  // s
  validation::Case measured_case;
};

// The rows of the tables that were measured on these chips and that the predictor models, of the
// fastest stack each. Throws ConfigError for a table that cannot be read, UnsupportedError naming a
// chip that no such row is left of.
std::vector<Row> rows_of(std::span<const base::CsvTable> tables,
                         const std::vector<std::string>& chips,
                         validation::TunablePredictor& predictor);
// The same without the demand that every chip has some; of every chip where `chips` is empty.
std::vector<Row> predicted_rows(std::span<const base::CsvTable> tables,
                                const std::vector<std::string>& chips,
                                validation::TunablePredictor& predictor);

// log(predicted / measured) of each row, with the calibrations the predictor has now.
std::vector<double> residuals_of(std::span<const Row> rows,
                                 validation::TunablePredictor& predictor);

// Huber's function of the residual, scaled to grow as |residual|: quadratic below kTurn, where
// errors are noise, linear above, so that single kernels do not pull the constants.
inline constexpr double kTurn = 0.1;
double loss_of(double residual);
// The mean over classes of the mean over their rows: a class counts as one however many rows it
// has.
double loss_of(std::span<const Row> rows, std::span<const double> residuals);

// Added to the loss that is searched, per constant and squared logarithm of its move: of constants
// that the rows tell apart badly, such as two latencies that only occur in sum, it picks those near
// the present ones. A move by half costs 0.0002.
inline constexpr double kStay = 0.0005;

struct FittedConstant {
  Constant constant;    // its value is where the search began: the chips' geometric mean
  base::Ranged fitted;  // range: where the loss, this constant moved alone, has risen by kRangeRise
  bool at_bound = false;
  double rise_down = 0.0;          // relative rise of the loss when it is 10 % smaller
  double rise_up = 0.0;            // 10 % larger
  std::vector<std::string> chips;  // that have it
  std::vector<double> before;      // of each of them
};
inline constexpr double kMove = 1.1;
inline constexpr double kRangeRise = 0.05;
// A constant whose move by 10 % raises the loss by less is not settled by the data.
inline constexpr double kSettled = 0.001;
// Constants that nobody asked for by name go back to what the chips had, the least useful first, as
// long as the loss stays within this of its least.
inline constexpr double kKeepRise = 0.005;

struct Fit {
  std::vector<std::string> chips;
  std::vector<FittedConstant> constants;
  std::vector<std::string> idle;  // asked for, but no row depends on them: left as they were
  // Not settled by the rows, so left as they were; the value is the chips' geometric mean.
  std::map<std::string, double> kept;
  std::size_t rows = 0;
  double loss_before = 0.0;
  double loss_after = 0.0;
  std::size_t evaluations = 0;  // of all rows

  [[nodiscard]] std::map<std::string, base::Ranged> values() const;
  // For a chip that was not fitted: the values, and what the fitted chips have of the kept ones.
  [[nodiscard]] std::map<std::string, base::Ranged> values_for_others() const;
};

// The present calibration of each chip.
validation::Calibrations load_calibrations(const std::vector<std::string>& chips,
                                           const std::filesystem::path& configs);

// Throws UsageError, with a suggestion, for a name that no calibration has.
void require_constants(const std::vector<std::string>& names);

// In place of names: no constant at all.
inline constexpr std::string_view kNoConstant = "none";

// Of the constants that `names` allow, those that the rows of `chips` depend on.
std::vector<std::string> constants_used(std::span<const Row> rows,
                                        const std::vector<std::string>& chips,
                                        const std::vector<std::string>& names,
                                        const validation::Calibrations& start,
                                        validation::TunablePredictor& predictor);

// One value of each constant for all `chips`, from the rows measured on them; the other constants
// stay those of each chip's calibration in `start`. `names` empty: every constant that the rows
// settle; kNoConstant: none. The search is a pattern search on logarithms within the constants'
// bounds; it draws no random numbers, so equal input gives equal output. The predictor is left with
// the calibrations of `start`.
Fit fit(std::span<const Row> rows, const std::vector<std::string>& chips,
        const std::vector<std::string>& names, const validation::Calibrations& start,
        validation::TunablePredictor& predictor);

}  // namespace foretoken::analysis::calibration
