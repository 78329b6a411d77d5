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

std::int64_t count_cell(const base::CsvTable& t, const base::CsvRow& row, std::string_view column,
                        std::int64_t least) {
  std::int64_t value = 0;
  try {
    value = base::parse_count(t.cell(row, column));
  } catch (const std::invalid_argument& error) {
    throw base::ConfigError({t.path, row.line, 1}, fmt::format("'{}': {}", column, error.what()));
  }
  if (value < least || value > kMost) {
    throw base::ConfigError({t.path, row.line, 1},
                            fmt::format("'{}' must be between {} and {}", column, least, kMost));
  }
  return value;
}

double positive_cell(const base::CsvTable& t, const base::CsvRow& row, std::string_view column) {
  double value = 0.0;
  try {
    value = base::parse_quantity(t.cell(row, column), base::UnitKind::kNumber);
  } catch (const std::invalid_argument& error) {
    throw base::ConfigError({t.path, row.line, 1}, fmt::format("'{}': {}", column, error.what()));
  }
  if (!(value > 0.0)) {
    throw base::ConfigError({t.path, row.line, 1}, fmt::format("'{}' must be positive", column));
  }
  return value;
}

double modelled_step(const base::CsvTable& t, const base::CsvRow& row, const fs::path& configs) {
  const w::ModelSpec model = w::load_model(t.cell(row, "model"), configs);
  const hwmodels::Hardware hardware = hwmodels::load_hardware(t.cell(row, "system"), configs);
  const hwmodels::Stack stack = hwmodels::load_stack("serving", configs);
  const auto recipe = base::load_config<w::PrecisionRecipe>(configs / "precision" /
                                                            (t.cell(row, "precision") + ".yaml"));
  const w::ParallelPlan plan = w::parse_plan(t.cell(row, "plan"));
  const Speculation speculation{count_cell(t, row, "draft_tokens", 0)};
  StepEvaluator evaluator(
      {&model, &hardware, &stack, w::resolve(recipe, model), plan, speculation.draft_tokens > 0});
  const std::int64_t batch = count_cell(t, row, "batch", 1);
  return evaluator
      .estimate(decode_batch((batch + plan.pp - 1) / plan.pp, count_cell(t, row, "context", 1),
                             speculation))
      .time.value();
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

EndToEndResult validate_end_to_end(const base::CsvTable& table, const fs::path& configs) {
  EndToEndResult r;
  r.file = table.path;
  for (const base::CsvRow& row : table.rows) {
    EndToEndRow out;
    out.line = row.line;
    out.system = table.cell(row, "system");
    out.label =
        fmt::format("{} {} batch {} context {}", table.cell(row, "model"), table.cell(row, "plan"),
                    table.cell(row, "batch"), table.cell(row, "context"));
    const std::string& role = table.cell(row, "role");
    if (role != "fit" && role != "held_out") {
      throw base::ConfigError({table.path, row.line, 1},
                              fmt::format("'role' is '{}'; known: fit, held_out", role));
    }
    out.fit = role == "fit";
    out.measured = positive_cell(table, row, "step_ms") * 1e-3;
    try {
      out.modelled = modelled_step(table, row, configs);
    } catch (const base::UnsupportedError& error) {
      out.skipped = error.what();
    } catch (const base::UsageError& error) {
      throw base::ConfigError({table.path, row.line, 1}, error.what());
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
    std::vector<double> others;
    for (const EndToEndRow& other : r.rows) {
      if (other.fit && other.skipped.empty() && other.system != row.system) {
        others.push_back(other.overhead());
      }
    }
    row.predicted = row.modelled * (others.empty() ? 1.0 : quantile(others, 0.5));
  }
  summarize(r);
  return r;
}

}  // namespace foretoken::analysis
