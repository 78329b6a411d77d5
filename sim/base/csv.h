// Tables in CSV files, with the position of every row for messages.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "sim/base/error.h"

namespace foretoken::base {

// Where a cell starts, from 1; a quoted cell starts at its quote.
struct CsvPlace {
  int line = 0;
  int column = 0;
};

struct CsvRow {
  int line = 0;  // 1-based, where the row starts
  std::vector<std::string> cells;
  std::vector<CsvPlace> places;  // of the cells
};

// RFC 4180 with a header row; lines that start with '#' outside quotes are comments.
struct CsvTable {
  std::string path;
  std::vector<std::string> columns;
  int header_line = 1;
  std::vector<CsvRow> rows;  // as many cells as columns

  // The cell of a column; throws ConfigError when there is no such column.
  [[nodiscard]] const std::string& cell(const CsvRow& row, std::string_view column) const;
  [[nodiscard]] bool has(std::string_view column) const;
  // Where that cell starts, for messages.
  [[nodiscard]] Position position(const CsvRow& row, std::string_view column) const;

 private:
  [[nodiscard]] std::size_t index_of(std::string_view column) const;
};

// Throws ConfigError with the position: unterminated quotes, rows of another width, no header, a
// column named twice, bytes that are no UTF-8 text, more than 64 MiB. A byte order mark is skipped.
CsvTable read_csv(const std::filesystem::path& path);
CsvTable parse_csv(std::string path, std::string_view text);

}  // namespace foretoken::base
