// Writers for fits and transfer tests: tables, JSON, Markdown.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/calibration/calibration_file.h"
#include "analysis/calibration/fit.h"
#include "analysis/calibration/transfer.h"
#include "analysis/reports/table.h"

namespace foretoken::analysis::calibration {

// What `foretoken calibrate` found.
struct Calibrated {
  Provenance from;
  Fit fit;
  std::vector<ClassResiduals> fitted;  // the rows it was fitted to
  std::optional<HeldOut> held_out;     // then `fit` is without that chip
  std::optional<Transfer> transfer;
};

Table constant_table(const Fit& fit);
Table residual_table(const std::vector<ClassResiduals>& classes);

std::string to_text(const Calibrated& c);
std::string to_json(const Calibrated& c);
// The transfer test, with the command that made it.
std::string transfer_markdown(const Transfer& t, const Provenance& from);

}  // namespace foretoken::analysis::calibration
