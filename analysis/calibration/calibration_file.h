// Calibration files as a fit writes them.
#pragma once

#include <string>

#include "analysis/calibration/fit.h"
#include "analysis/validation/error_table.h"

namespace foretoken::analysis::calibration {

// What the files a command writes say about themselves.
struct Provenance {
  std::string data;     // the tables
  std::string command;  // as typed
};

// The text of configs/calibration/<chip>.yaml: `before`, the file the chip had, with the fitted
// constants in place of the old ones, each with its range and what supports it; comments and values
// of everything else stay. Throws ConfigError where `before` cannot be read.
std::string calibration_text(const std::string& chip, const Fit& fit, const Provenance& from,
                             const std::string& path, const std::string& before);

// The text of configs/calibration/errors.yaml.
std::string error_table_text(const validation::ErrorTable& table);

// `text` as lines of at most `width` columns, each after `indent`.
std::string wrapped(const std::string& text, const std::string& indent, std::size_t width);

}  // namespace foretoken::analysis::calibration
