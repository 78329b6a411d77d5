// Tables in CSV files, with the position of every row for messages.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "sim/base/error.h"

namespace foretoken::base {

struct CsvRow {
  int line = 0;  // 1-based, where the row starts
  std::vector<std::string> cells;
};

// RFC 4180 with a header row; lines that start with '#' outside quotes are comments.
struct CsvTable {
  std::string path;
  std::vector<std::string> columns;
  std::vector<CsvRow> rows;  // as many cells as columns

  // The cell of a column; throws ConfigError when there is no such column.
  [[nodiscard]] const std::string& cell(const CsvRow& row, std::string_view column) const;
  [[nodiscard]] bool has(std::string_view column) const;
};

// Throws ConfigError with the line: unterminated quotes, rows of another width, no header, NUL
// bytes, more than 64 MiB.
CsvTable read_csv(const std::filesystem::path& path);
CsvTable parse_csv(std::string path, std::string_view text);

}  // namespace foretoken::base
