#include "analysis/validation/validation.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <map>

#include "sim/base/error.h"

namespace foretoken::analysis::validation {

namespace {

std::string not_modelled(const Case& c) {
  if (std::holds_alternative<MegaMoeCase>(c)) {
    return "fused expert waves are not modelled at kernel level yet";
  }
  return "this kind of kernel is not modelled yet";
}

// A time, or the bandwidth that a time and the case's bytes make.
Comparison in_unit(const Prediction& p, const Unit& unit) {
  if (unit.seconds > 0.0) {
    return {p.time.value() / unit.seconds, p.low.value() / unit.seconds,
            p.high.value() / unit.seconds, p.basis};
  }
  if (unit.name != kBandwidth || p.counted_bytes <= 0.0) {
    throw base::UnsupportedError(fmt::format("values in {} are not modelled", unit.name));
  }
  const double gigabytes = p.counted_bytes / 1e9;
  return {gigabytes / p.time.value(), gigabytes / p.high.value(), gigabytes / p.low.value(),
          p.basis};
}

// Fills the row's comparison or its reason for having none.
void predict(ValidationRow& row, const Measurement& m, std::span<Predictor* const> predictors) {
  if (const auto* skipped = std::get_if<SkippedCase>(&m.measured)) {
    row.skipped = skipped->reason;
    return;
  }
  for (Predictor* predictor : predictors) {
    if (!predictor->handles(m.measured)) continue;
    try {
      const Prediction p = predictor->predict(m.measured);
      const Comparison c = in_unit(p, m.unit);
      const double error = c.predicted / row.measured;
      if (std::isfinite(error) && c.predicted > 0.0 && std::isfinite(c.low) &&
          std::isfinite(c.high)) {
        row.comparison = c;
      } else {
        row.skipped = "prediction and measurement are too far apart for a ratio";
      }
    } catch (const base::UnsupportedError& error) {
      row.skipped = error.what();
    }
    return;
  }
  row.skipped = not_modelled(m.measured);
}

std::vector<ValidationRow> engine_rows(const EndToEndResult& r) {
  std::vector<ValidationRow> rows;
  for (const EndToEndRow& e : r.rows) {
    ValidationRow row;
    row.file = r.file;
    row.row = static_cast<int>(rows.size()) + 1;
    row.line = e.line;
    row.class_name = "end_to_end_decode/" + e.system;
    row.label = e.label;
    row.unit = "ms";
    row.measured = e.measured * 1e3;
    row.skipped = e.skipped;
    if (e.skipped.empty()) {
      row.comparison =
          Comparison{e.predicted * 1e3, e.low * 1e3, e.high * 1e3, base::Basis::kCalibrated};
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

ErrorStatistics statistics(std::span<const ValidationRow* const> rows) {
  std::vector<double> signed_errors;
  std::vector<double> errors;
  std::size_t covered = 0;
  for (const ValidationRow* row : rows) {
    if (!row->comparison) continue;
    signed_errors.push_back(row->signed_error());
    errors.push_back(std::abs(row->signed_error()));
    covered += row->covered() ? 1 : 0;
  }
  ErrorStatistics s;
  s.n = errors.size();
  if (s.n == 0) return s;
  s.median_signed_error = quantile(signed_errors, 0.5);
  s.median_abs_error = quantile(errors, 0.5);
  s.p90_abs_error = quantile(errors, 0.9);
  s.worst_abs_error = quantile(errors, 1.0);
  s.interval_coverage = static_cast<double>(covered) / static_cast<double>(s.n);
  return s;
}

std::vector<bool> fastest_stacks(std::span<const Measurement> measurements) {
  // The shortest time (largest bandwidth) of each case, and whose it is.
  std::map<std::array<std::string, 3>, const Measurement*> best;
  const auto case_of = [](const Measurement& m) {
    return std::array{class_of(m.measured), label_of(m.measured), m.unit.name};
  };
  const auto faster = [](const Measurement& a, const Measurement& b) {
    return a.unit.seconds > 0.0 ? a.value < b.value : a.value > b.value;
  };
  const auto readable = [](const Measurement& m) {
    return !std::holds_alternative<SkippedCase>(m.measured);
  };
  for (const Measurement& m : measurements) {
    if (!readable(m)) continue;
    const Measurement*& known = best[case_of(m)];
    if (known == nullptr || faster(m, *known)) known = &m;
  }
  std::vector<bool> fastest;
  fastest.reserve(measurements.size());
  for (const Measurement& m : measurements) {
    fastest.push_back(!readable(m) || origin_of(best.at(case_of(m))->measured).stack() ==
                                          origin_of(m.measured).stack());
  }
  return fastest;
}

std::vector<ValidationRow> compare(const std::string& file,
                                   std::span<const Measurement> measurements,
                                   std::span<Predictor* const> predictors) {
  std::vector<ValidationRow> rows;
  const std::vector<bool> fastest = fastest_stacks(measurements);
  rows.reserve(measurements.size());
  for (const Measurement& m : measurements) {
    ValidationRow& row = rows.emplace_back();
    row.file = file;
    row.row = m.row;
    row.line = m.line;
    row.class_name = class_of(m.measured);
    row.label = label_of(m.measured);
    row.stack = origin_of(m.measured).stack();
    row.measured = m.value;
    row.unit = m.unit.name;
    row.fastest = fastest[rows.size() - 1];
    if (!row.fastest) row.class_name += kOtherStacks;
    predict(row, m, predictors);
  }
  return rows;
}

std::vector<ClassSummary> summarize(std::span<const ValidationRow> rows) {
  std::vector<std::string> files;
  std::map<std::string, std::map<std::string, std::vector<const ValidationRow*>>> by_class;
  for (const ValidationRow& row : rows) {
    if (!by_class.contains(row.file)) files.push_back(row.file);
    by_class[row.file][row.class_name].push_back(&row);
  }
  std::vector<ClassSummary> out;
  for (const std::string& file : files) {
    for (const auto& [name, members] : by_class[file]) {
      ClassSummary s{file, name, 0, statistics(members)};
      s.skipped = members.size() - s.errors.n;
      out.push_back(std::move(s));
    }
  }
  return out;
}

Validation validate(std::span<const base::CsvTable> tables, const std::filesystem::path& configs,
                    std::span<Predictor* const> predictors) {
  Validation all;
  for (const base::CsvTable& table : tables) {
    const TableKind kind = recognise(table);
    std::vector<ValidationRow> rows;
    if (kind == TableKind::kEngineSteps) {
      all.engines.push_back(validate_end_to_end(table, configs));
      rows = engine_rows(all.engines.back());
    } else {
      rows = compare(table.path, read_measurements(table, kind), predictors);
    }
    all.rows.insert(all.rows.end(), rows.begin(), rows.end());
  }
  all.summary = summarize(all.rows);
  return all;
}

}  // namespace foretoken::analysis::validation
