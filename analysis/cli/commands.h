// What each command of the program does, free of argument parsing: results to `out`, notes to
// `err`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "hwmodels/system_spec.h"
#include "reference/model/checkpoint_writer.h"
#include "reference/model/convert_checkpoint.h"
#include "reference/study/precision_study.h"
#include "sim/base/error.h"
#include "workloads/count.h"

namespace foretoken::analysis::cli {

enum class Format : std::uint8_t { kTable, kJson, kCsv };

struct Context {
  std::filesystem::path configs;
  Format format = Format::kTable;
  std::ostream& out;
  std::ostream& err;
};

struct CountOptions {
  std::string model;
  std::vector<std::int64_t> contexts;
  workloads::Phase phase = workloads::Phase::kDecode;
  std::string precision;  // of KV bytes and weights; empty = as released
  workloads::PrecisionWeights weights = workloads::kFp8Equivalent;
};
base::ExitCode count(const Context& context, const CountOptions& options);

struct StepOptions {
  std::string model;
  std::string system;
  workloads::Phase phase = workloads::Phase::kDecode;
  std::int64_t batch = 1;
  std::int64_t context = 1;
  std::int64_t cached = 0;        // prefill: tokens already in the cache
  std::int64_t draft_tokens = 0;  // decode
  std::string plan;               // empty = data and expert parallel over the scale-up domain
  std::string precision = "release";
  std::string stack = "serving";
  double memory_share = 0.9;
  bool simulate = false;
  bool all_devices = false;  // simulated together, instead of one that stands for them
  std::optional<hwmodels::FabricRouting> routing;  // empty = as the system says
  std::int64_t instances = 1;                      // copies of the plan, all devices only
  bool strided = false;                            // copies dealt out over devices
  std::optional<std::int64_t> cache_to;            // first device of a decode pool
  double tolerance = 0.0;                          // of sharing, all devices only
  std::string timeline;                            // file for Perfetto; empty = none
  std::int64_t timeline_devices = 8;
};
base::ExitCode step(const Context& context, const StepOptions& options);

struct TraceOptions {
  StepOptions step;        // system, stack and evaluator unused
  std::int64_t rank = -1;  // -1 = the rank with the largest share
  std::string file;        // "-" = standard output
};
base::ExitCode trace(const Context& context, const TraceOptions& options);

struct RunOptions {
  std::string scenario;
  std::string folder;  // empty = out/<scenario name>
  std::vector<std::string> overrides;
  bool print_config = false;
  std::string command;  // as typed, for the report
};
base::ExitCode run(const Context& context, const RunOptions& options);

struct ReferenceCommand {
  std::string checkpoint;
  std::string tokens;
  std::string trace;  // file of the executed operators; "-" = standard output
  reference::SessionOptions session;
  // Instead of a run: what a quantiser costs over context length.
  std::optional<reference::Study> study;
  std::string report;   // Markdown file of the study; empty = none
  std::string command;  // as typed, for the report
};
// Runs the functional model on a checkpoint.
base::ExitCode run_reference(const Context& context, const ReferenceCommand& options);

struct CheckpointCommand {
  // Either random weights for a configuration,
  std::string model;
  std::uint64_t seed = 0;
  // or another checkpoint's weights, quantised or (with `dequantise`) decoded.
  reference::ConvertSource from;
  reference::QuantiseFormats quantise;
  std::optional<workloads::Dtype> dequantise;
  reference::CheckpointTarget target;
};
// Writes a checkpoint: with random weights, or another one's in other formats.
base::ExitCode write_checkpoint(const Context& context, const CheckpointCommand& options);

base::ExitCode list(const Context& context, const std::string& what);

// Predictions against published measurements (analysis/validation/).
struct ValidateOptions {
  std::vector<std::string> files;  // empty = every table of configs/measurements
  std::string folder;              // for report.md, results.json, results.csv; empty = none
  std::string command;             // as typed, for the report
};
base::ExitCode validate(const Context& context, const ValidateOptions& options);

// Fits constants of calibrations to measurements (analysis/calibration/).
struct CalibrateOptions {
  std::vector<std::string> chips;   // share the fitted values
  std::vector<std::string> data;    // empty = every table of configs/measurements
  std::vector<std::string> fitted;  // names of constants; empty = all that the data depend on
  std::string held_out;             // one of `chips`, predicted from the others; empty = none
  std::string out;                  // calibration file of one chip, folder of several; empty = none
  std::string errors;               // file for the errors of left-out chips; empty = none
  std::string report;               // Markdown file of the transfer test; empty = none
  std::string command;              // as typed, for what is written
};
base::ExitCode calibrate(const Context& context, const CalibrateOptions& options);

// Tile programs (analysis/kernels/).
base::ExitCode kernel_list(const Context& context);

struct KernelRunOptions {
  std::string design;  // a name in configs/designs, or a file
  std::string chip;
  std::string shape_name;          // empty = the design's first on that chip
  std::vector<std::string> shape;  // key=value, changing it
  bool simulate = false;
  bool steps = false;
  std::string timeline;  // file for Chrome trace JSON; empty = none
};
base::ExitCode kernel_run(const Context& context, const KernelRunOptions& options);

struct KernelVerifyOptions {
  std::vector<std::string> designs;  // empty = all of configs/designs
  std::string chip;                  // empty = one of each family
  std::string pair;                  // a design to compare the only one with; empty = none
};
base::ExitCode kernel_verify(const Context& context, const KernelVerifyOptions& options);

struct KernelCheckOptions {
  std::vector<std::string> designs;  // folders, files or names
  std::string baseline;
  double tolerance = 0.02;
  bool update = false;
  std::vector<std::string> chips;  // empty = all of the designs' families
};
base::ExitCode kernel_check(const Context& context, const KernelCheckOptions& options);

// Writes the JSON Schemas of all configuration files into `folder`.
base::ExitCode schema(const Context& context, const std::string& folder);

}  // namespace foretoken::analysis::cli
