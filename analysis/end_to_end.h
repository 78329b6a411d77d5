// Predicted against measured step times of whole engines, and the serving overhead they imply.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sim/base/csv.h"

namespace foretoken::analysis {

struct EndToEndRow {
  int line = 0;
  std::string system;
  std::string label;       // model, plan, batch, context
  bool fit = false;        // used for the overhead
  double measured = 0.0;   // s
  double modelled = 0.0;   // s, kernels alone
  double predicted = 0.0;  // s: modelled times the overhead found on the other systems' fit rows
  std::string skipped;     // why it could not be modelled; else empty

  [[nodiscard]] double overhead() const { return measured / modelled; }
  [[nodiscard]] double signed_error() const { return predicted / measured - 1.0; }
};

struct EndToEndSummary {
  std::string system;
  bool fit = false;
  std::size_t n = 0;
  std::size_t skipped = 0;
  double overhead = 0.0;     // median of measured over modelled
  double transferred = 0.0;  // the overhead used for its predictions
  double median_signed_error = 0.0;
  double median_abs_error = 0.0;
  double p90_abs_error = 0.0;
  double worst_abs_error = 0.0;
};

struct EndToEndResult {
  std::string file;
  std::vector<EndToEndRow> rows;
  std::vector<EndToEndSummary> systems;
  double overhead = 0.0;  // median over all fit rows
  double least = 0.0;     // over all rows
  double most = 0.0;
};

// Reads a table with the columns role, system, model, precision, plan, batch, context,
// draft_tokens, step_ms (configs/measurements/end-to-end-decode.csv) and models every row. A
// system's predictions use the median overhead of the fit rows of all other systems, so that no
// system is judged by itself. A row that cannot be modelled is kept with its reason. Throws
// ConfigError for malformed rows.
EndToEndResult validate_end_to_end(const base::CsvTable& table,
                                   const std::filesystem::path& configs);

// Rank-based quantile of unsorted values, 0 <= q <= 1, interpolated between neighbours.
double quantile(std::vector<double> values, double q);

}  // namespace foretoken::analysis
