// Published measurement tables of any of the known layouts, read by their column names into typed
// cases.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/validation/cases.h"
#include "sim/base/csv.h"

namespace foretoken::analysis::validation {

enum class TableKind : std::uint8_t {
  kDenseGemm,
  kGroupedGemmSurvey,  // gpu, kernel, groups, ...: DeepGEMM's own tables
  kRoutedExperts,
  kAttentionDecode,
  kAttentionPrefill,
  kSparseAttention,
  kHyperConnection,
  kCollectives,
  kLowLatencyTraffic,
  kTrafficSurvey,  // gpu, kernel, topology, ...: DeepEP's own tables
  kMegaMoe,
  kMegaMoeSurvey,
  kAscendKernels,
  kMatmul,
  kEngineSteps,  // configs/measurements/end-to-end-decode.csv
  kAscendEngines,
  kDisaggregatedEngines,
  kSaturatedServing,
  kEngineSurvey,  // table, phase, gpu, profile, metric, ...
};

std::string_view to_string(TableKind kind);
// What a table of that kind must have; others may be there too.
std::span<const std::string_view> columns_of(TableKind kind);

// The kind whose columns are all there; of several, the one with most columns. Throws ConfigError
// at the header, naming the kind that comes closest and the column it lacks.
TableKind recognise(const base::CsvTable& table);

struct Unit {
  std::string name;      // as in the table: "us", "ms", "GB/s", "tok/s"
  double seconds = 0.0;  // one of it; 0 = not a time
};

struct Measurement {
  int row = 0;   // data rows from 1
  int line = 0;  // in the file
  double value = 0.0;
  Unit unit;
  Case measured;
};

// The name of the unit of bandwidths.
inline constexpr std::string_view kBandwidth = "GB/s";

// One measurement for every row, two for a row that measures dispatch and combine. A row that
// leaves a field empty or is about something unknown becomes a SkippedCase. Throws ConfigError with
// file:line:column for a field that is no number of its kind, and for a measurement that is not
// positive. Not for kEngineSteps, which validate_end_to_end reads.
std::vector<Measurement> read_measurements(const base::CsvTable& table, TableKind kind);

// A whole number as programs print it, also "16.0" and "1.04858e+06", from `least` to 2^40. Throws
// std::invalid_argument with a one-line reason.
std::int64_t parse_whole(std::string_view text, std::int64_t least);
// A finite number above zero. Throws std::invalid_argument with a one-line reason.
double parse_positive(std::string_view text);

}  // namespace foretoken::analysis::validation
