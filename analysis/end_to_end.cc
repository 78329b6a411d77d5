#include "analysis/end_to_end.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "analysis/serving_point.h"
#include "sim/base/quantity.h"
#include "workloads/precision.h"

namespace foretoken::analysis {

namespace fs = std::filesystem;
namespace w = workloads;

namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 31;
constexpr std::int64_t kMostDrafts = 1024;
constexpr double kMostKeys = 1099511627776.0;  // 2^40

std::int64_t count_cell(const base::CsvTable& t, const base::CsvRow& row, std::string_view column,
                        std::int64_t least) {
  std::int64_t value = 0;
  try {
    value = base::parse_count(t.cell(row, column));
  } catch (const std::invalid_argument& error) {
    throw base::ConfigError(t.position(row, column), fmt::format("'{}': {}", column, error.what()));
  }
  if (value < least || value > kMost) {
    throw base::ConfigError(t.position(row, column),
                            fmt::format("'{}' must be between {} and {}", column, least, kMost));
  }
  return value;
}

double positive_cell(const base::CsvTable& t, const base::CsvRow& row, std::string_view column) {
  double value = 0.0;
  try {
    value = base::parse_quantity(t.cell(row, column), base::UnitKind::kNumber);
  } catch (const std::invalid_argument& error) {
    throw base::ConfigError(t.position(row, column), fmt::format("'{}': {}", column, error.what()));
  }
  if (!(value > 0.0)) {
    throw base::ConfigError(t.position(row, column), fmt::format("'{}' must be positive", column));
  }
  return value;
}

EndToEndCase read_case(const base::CsvTable& t, const base::CsvRow& row) {
  return {.system = t.cell(row, "system"),
          .model = t.cell(row, "model"),
          .precision = t.cell(row, "precision"),
          .stack = t.cell(row, "stack"),
          .plan = t.cell(row, "plan"),
          .batch = count_cell(t, row, "batch", 1),
          .context = count_cell(t, row, "context", 1),
          .draft_tokens = count_cell(t, row, "draft_tokens", 0)};
}

void summarize(EndToEndResult& r) {
  std::map<std::string, std::vector<const EndToEndRow*>> by_system;
  for (const EndToEndRow& row : r.rows) by_system[row.system].push_back(&row);
  for (const auto& [system, rows] : by_system) {
    EndToEndSummary s;
    s.system = system;
    std::vector<double> signed_errors;
    std::vector<double> errors;
    std::vector<double> overheads;
    for (const EndToEndRow* row : rows) {
      if (!row->skipped.empty()) {
        ++s.skipped;
        continue;
      }
      ++s.n;
      s.fit = s.fit || row->fit;
      s.transferred = row->predicted / row->modelled;
      signed_errors.push_back(row->signed_error());
      errors.push_back(std::abs(row->signed_error()));
      overheads.push_back(row->overhead());
    }
    if (s.n > 0) {
      s.overhead = quantile(overheads, 0.5);
      s.median_signed_error = quantile(signed_errors, 0.5);
      s.median_abs_error = quantile(errors, 0.5);
      s.p90_abs_error = quantile(errors, 0.9);
      s.worst_abs_error = quantile(errors, 1.0);
    }
    r.systems.push_back(s);
  }
}

}  // namespace

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

std::string EndToEndCase::label() const {
  return fmt::format("{} {} batch {} context {}", model, plan, batch, context);
}

base::Interval modelled_range(const EndToEndCase& c, const fs::path& configs) {
  return {modelled_step(c, configs, -1).value(), modelled_step(c, configs).value(),
          modelled_step(c, configs, 1).value()};
}

base::Seconds modelled_step(const EndToEndCase& c, const fs::path& configs, int side) {
  // Counts of a step are exact in 63 bits; one layer's work on a key is below 2^20 bytes and FLOPs.
  const double keys = static_cast<double>(c.batch) * static_cast<double>(c.context) *
                      static_cast<double>(1 + c.draft_tokens);
  if (c.draft_tokens > kMostDrafts || c.batch > kMost || c.context > kMost || keys > kMostKeys) {
    throw base::UnsupportedError("the step is too large to be counted exactly");
  }
  const w::ModelSpec model = w::load_model(c.model, configs);
  hwmodels::Hardware hardware = hwmodels::load_hardware(c.system, configs);
  hwmodels::Stack stack = hwmodels::load_stack(c.stack, configs);
  if (side != 0) hwmodels::move_losses(stack, side);
  hwmodels::apply(stack, hardware, configs);
  const auto recipe =
      base::load_config<w::PrecisionRecipe>(configs / "precision" / (c.precision + ".yaml"));
  const w::ParallelPlan plan = w::parse_plan(c.plan);
  if (plan.devices() > hardware.system.devices()) {
    throw base::UnsupportedError(fmt::format("{} has {} devices; the plan needs {}", c.system,
                                             hardware.system.devices(), plan.devices()));
  }
  const Speculation speculation{c.draft_tokens};
  StepEvaluator evaluator(
      {&model, &hardware, &stack, w::resolve(recipe, model), plan, speculation.draft_tokens > 0});
  return evaluator.estimate(decode_batch(c.batch, c.context, speculation)).time;
}

base::Interval transferred_overhead(const EndToEndResult& result, const std::string& system) {
  std::vector<double> fitted;
  std::vector<double> all;
  for (const EndToEndRow& row : result.rows) {
    if (!row.skipped.empty() || row.system == system) continue;
    all.push_back(row.overhead());
    if (row.fit) fitted.push_back(row.overhead());
  }
  if (fitted.empty()) return {1.0, 1.0, 1.0};
  return {quantile(all, 0.0), quantile(fitted, 0.5), quantile(all, 1.0)};
}

EndToEndResult validate_end_to_end(const base::CsvTable& table, const fs::path& configs) {
  EndToEndResult r;
  r.file = table.path;
  for (const base::CsvRow& row : table.rows) {
    EndToEndRow out;
    out.line = row.line;
    const EndToEndCase step = read_case(table, row);
    out.system = step.system;
    out.label = step.label();
    const std::string& role = table.cell(row, "role");
    if (role != "fit" && role != "held_out") {
      throw base::ConfigError(table.position(row, "role"),
                              fmt::format("'role' is '{}'; known: fit, held_out", role));
    }
    out.fit = role == "fit";
    out.measured = positive_cell(table, row, "step_ms") * 1e-3;
    try {
      const base::Interval modelled = modelled_range(step, configs);
      out.modelled = modelled.value;
      out.low = modelled.low;
      out.high = modelled.high;
    } catch (const base::UnsupportedError& error) {
      out.skipped = error.what();
    } catch (const base::UsageError& error) {
      throw base::ConfigError(table.position(row, "plan"), error.what());
    }
    r.rows.push_back(std::move(out));
  }
  std::vector<double> fitted;
  std::vector<double> all;
  for (const EndToEndRow& row : r.rows) {
    if (!row.skipped.empty()) continue;
    all.push_back(row.overhead());
    if (row.fit) fitted.push_back(row.overhead());
  }
  r.overhead = quantile(fitted, 0.5);
  r.least = quantile(all, 0.0);
  r.most = quantile(all, 1.0);
  for (EndToEndRow& row : r.rows) {
    if (!row.skipped.empty()) continue;
    const base::Interval overhead = transferred_overhead(r, row.system);
    row.predicted = row.modelled * overhead.value;
    row.low *= overhead.low;
    row.high *= overhead.high;
  }
  summarize(r);
  return r;
}

}  // namespace foretoken::analysis
