#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <ostream>

#include "analysis/calibration/calibration_file.h"
#include "analysis/calibration/report.h"
#include "analysis/calibration/transfer.h"
#include "analysis/cli/commands.h"
#include "analysis/cli/tables.h"
#include "analysis/validation/kernel_predictor.h"
#include "hwmodels/hardware.h"
#include "sim/base/csv.h"
#include "sim/base/output.h"

namespace foretoken::analysis::cli {

namespace c = calibration;
namespace fs = std::filesystem;

namespace {

std::string file_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw base::ConfigError({path.string(), 0, 0}, "cannot be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_calibrations(const Context& context, const std::string& out, const c::Calibrated& made) {
  const auto text = [&](const std::string& chip) {
    const fs::path before = hwmodels::calibration_file(
        hwmodels::load_chip(chip, context.configs).chip, context.configs);
    return c::calibration_text(chip, made.fit, made.from, before.string(), file_text(before));
  };
  if (made.fit.chips.size() == 1) {
    base::write_file(out, text(made.fit.chips.front()));
    return;
  }
  base::OutputSet files(out);
  for (const std::string& chip : made.fit.chips) files.add(chip + ".yaml", text(chip));
  files.commit();
}

void require_consistent(const CalibrateOptions& o) {
  for (const std::string& chip : o.chips) {
    if (std::count(o.chips.begin(), o.chips.end(), chip) > 1) {
      throw base::UsageError("--chip: " + chip + " is named twice");
    }
  }
  const bool transfers = !o.errors.empty() || !o.report.empty();
  if (!o.held_out.empty()) {
    if (std::find(o.chips.begin(), o.chips.end(), o.held_out) == o.chips.end()) {
      throw base::UsageError("--holdout: " + o.held_out + " is not one of --chip");
    }
    if (o.chips.size() < 2) throw base::UsageError("--holdout leaves no chip to fit");
    if (transfers) throw base::UsageError("--errors and --report leave out every chip in turn");
  }
  if (transfers && o.chips.size() < 2) {
    throw base::UsageError("--errors and --report take two chips or more");
  }
  c::require_constants(o.fitted);
}

}  // namespace

base::ExitCode calibrate(const Context& context, const CalibrateOptions& o) {
  if (context.format == Format::kCsv) {
    throw base::UsageError("calibrate prints table or json");
  }
  require_consistent(o);
  const validation::Calibrations start = c::load_calibrations(o.chips, context.configs);
  const std::vector<std::string> names = o.data.empty() ? all_tables(context.configs) : o.data;
  std::vector<base::CsvTable> tables;
  std::vector<std::string> used;
  tables.reserve(names.size());
  for (const std::string& name : names) tables.push_back(base::read_csv(name));
  validation::KernelPredictor predictor(context.configs);
  const std::vector<c::Row> rows = c::rows_of(tables, o.chips, predictor);
  for (const std::string& name : names) {
    if (std::any_of(rows.begin(), rows.end(), [&](const c::Row& r) { return r.file == name; })) {
      used.push_back(fs::path(name).filename().string());
    }
  }

  c::Calibrated made;
  made.from = {fmt::format("{}", fmt::join(used, ", ")), o.command};
  if (!o.held_out.empty()) {
    made.held_out = c::hold_out(o.held_out, rows, o.chips, o.fitted, start, predictor);
    made.fit = made.held_out->fit;
  } else if (!o.errors.empty() || !o.report.empty()) {
    made.transfer = c::transfer(rows, o.chips, o.fitted, start, predictor);
    made.fit = made.transfer->all;
  } else {
    made.fit = c::fit(rows, o.chips, o.fitted, start, predictor);
  }
  made.fitted = c::apply(made.fit, rows, made.fit.chips, start, predictor);

  if (!o.out.empty()) write_calibrations(context, o.out, made);
  if (made.transfer) {
    made.transfer->errors.data = fmt::format(
        "Rows of {} in {}: each chip's rows, predicted with constants fitted to the other chips' "
        "rows.",
        fmt::join(o.chips, ", "), made.from.data);
    made.transfer->errors.command = o.command;
    std::vector<c::Row> others = c::predicted_rows(tables, {}, predictor);
    std::erase_if(others, [&](const c::Row& row) {
      return std::find(o.chips.begin(), o.chips.end(), row.chip) != o.chips.end();
    });
    made.transfer->inherited = c::check_inherited(made.transfer->errors, others, predictor);
    if (!o.errors.empty()) {
      base::write_file(o.errors, c::error_table_text(made.transfer->errors));
    }
    if (!o.report.empty()) {
      base::write_file(o.report, c::transfer_markdown(*made.transfer, made.from));
    }
  }
  context.out << (context.format == Format::kJson ? c::to_json(made) : c::to_text(made));
  return base::ExitCode::kOk;
}

}  // namespace foretoken::analysis::cli
