// Predicted against measured step times of whole engines, and the serving overhead they imply.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "sim/base/csv.h"
#include "sim/base/evidence.h"
#include "sim/base/units.h"

namespace foretoken::analysis {

// A decode step of a whole engine, in this project's names.
struct EndToEndCase {
  std::string system;             // in configs/systems
  std::string model;              // in configs/models
  std::string precision;          // in configs/precision
  std::string stack = "serving";  // in configs/stacks
  std::string plan;               // as parse_plan reads it
  std::int64_t batch = 1;
  std::int64_t context = 1;
  std::int64_t draft_tokens = 0;

  [[nodiscard]] std::string label() const;  // model, plan, batch, context
};

// The step's time as modelled: its kernels, and what the stack is known to lose against them.
// Throws UnsupportedError when the case cannot be modelled, and UsageError for a plan that cannot
// be read.
//
// The sequences of a step pass the stages of a pipeline together. `side` moves every loss of the
// stack to the end of its range that gives the shortest (-1) or the longest time (+1).
base::Seconds modelled_step(const EndToEndCase& c, const std::filesystem::path& configs,
                            int side = 0);
// The step, with the shortest and the longest as its ends.
base::Interval modelled_range(const EndToEndCase& c, const std::filesystem::path& configs);

struct EndToEndRow {
  int line = 0;
  std::string system;
  std::string label;       // model, plan, batch, context
  bool fit = false;        // used for the overhead
  double measured = 0.0;   // s
  double modelled = 0.0;   // s: kernels and the stack's losses
  double predicted = 0.0;  // s: modelled times the overhead found on the other systems' fit rows
  // s: the same with the stack's losses at the ends of their ranges and with the least and the most
  // overhead of the other systems.
  double low = 0.0;
  double high = 0.0;
  std::string skipped;  // why it could not be modelled; else empty

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

// Reads a table with the columns role, system, model, precision, stack, plan, batch, context,
// draft_tokens, step_ms (configs/measurements/end-to-end-decode.csv) and models every row. A
// system's predictions use the median overhead of the fit rows of all other systems, so that no
// system is judged by itself. A row that cannot be modelled is kept with its reason. Throws
// ConfigError for malformed rows.
EndToEndResult validate_end_to_end(const base::CsvTable& table,
                                   const std::filesystem::path& configs);

// Overheads of the modelled rows of systems other than `system`: the median of the fit rows, and
// the range of all. 1 where there are none.
base::Interval transferred_overhead(const EndToEndResult& result, const std::string& system);

// Rank-based quantile of unsorted values, 0 <= q <= 1, interpolated between neighbours.
double quantile(std::vector<double> values, double q);

}  // namespace foretoken::analysis
