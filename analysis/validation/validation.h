// Predictions beside measurements, row by row, and how far off they are by kernel class.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "analysis/end_to_end.h"
#include "analysis/validation/measurement_table.h"
#include "analysis/validation/predictor.h"

namespace foretoken::analysis::validation {

// Predicted values, in the unit of the measurement.
struct Comparison {
  double predicted = 0.0;
  double low = 0.0;
  double high = 0.0;
  base::Basis basis = base::Basis::kAssumed;
};

struct ValidationRow {
  std::string file;
  int row = 0;   // data rows from 1
  int line = 0;  // in the file
  std::string class_name;
  std::string label;
  std::string stack;    // the software measured
  bool fastest = true;  // of the stacks that measured this case
  double measured = 0.0;
  std::string unit;
  std::optional<Comparison> comparison;
  std::string skipped;  // the reason where there is no comparison

  [[nodiscard]] double signed_error() const { return comparison->predicted / measured - 1.0; }
  [[nodiscard]] bool covered() const {
    return comparison->low <= measured && measured <= comparison->high;
  }
};

// Quantiles are interpolated between ranks: the median and the 90th percentile of n sorted values
// v[0..n-1] stand at 0.5 (n - 1) and 0.9 (n - 1).
struct ErrorStatistics {
  std::size_t n = 0;
  double median_signed_error = 0.0;
  double median_abs_error = 0.0;
  double p90_abs_error = 0.0;
  double worst_abs_error = 0.0;
  double interval_coverage = 0.0;  // share of measurements inside their interval
};
// Of the rows that have a comparison.
ErrorStatistics statistics(std::span<const ValidationRow* const> rows);

struct ClassSummary {
  std::string file;
  std::string class_name;
  std::size_t skipped = 0;
  ErrorStatistics errors;
};

struct Validation {
  std::vector<ValidationRow> rows;    // in the order of files and lines
  std::vector<ClassSummary> summary;  // per file, classes by name
  std::vector<EndToEndResult> engines;
};

// The class of rows that another stack was faster on.
inline constexpr std::string_view kOtherStacks = " (other stacks)";

// For each measurement of one file: whether its stack took the shortest time of all that measured
// the same case, and so stands for the hardware. True for rows that could not be read.
std::vector<bool> fastest_stacks(std::span<const Measurement> measurements);

// Compares each measurement with what the first predictor says that handles its kind. Rows of one
// file that measured the same case form a group: the stack with the shortest time stands for the
// hardware, the rows of the others go to a class of their own.
std::vector<ValidationRow> compare(const std::string& file,
                                   std::span<const Measurement> measurements,
                                   std::span<Predictor* const> predictors);
std::vector<ClassSummary> summarize(std::span<const ValidationRow> rows);

// Reads and compares every table. Throws ConfigError for a table that cannot be read.
Validation validate(std::span<const base::CsvTable> tables, const std::filesystem::path& configs,
                    std::span<Predictor* const> predictors);

}  // namespace foretoken::analysis::validation
