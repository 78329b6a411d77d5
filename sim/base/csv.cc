#include "sim/base/csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <system_error>

namespace foretoken::base {

namespace {

constexpr std::uintmax_t kMostBytes = std::uintmax_t{64} << 20;

class CsvParser {
 public:
  CsvParser(const std::string& path, std::string_view text) : path_(path), text_(text) {}

  // Reads one row; false at the end of the text.
  bool next(CsvRow& row) {
    skip_comments();
    if (at_ >= text_.size()) return false;
    row.line = line_;
    row.cells.clear();
    for (;;) {
      row.cells.push_back(cell());
      if (at_ < text_.size() && text_[at_] == ',') {
        ++at_;
        continue;
      }
      end_line();
      return true;
    }
  }

 private:
  void skip_comments() {
    while (at_ < text_.size() && (text_[at_] == '#' || text_[at_] == '\n' || text_[at_] == '\r')) {
      while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      end_line();
    }
  }

  void end_line() {
    if (at_ < text_.size() && text_[at_] == '\r') ++at_;
    if (at_ < text_.size() && text_[at_] == '\n') {
      ++at_;
      ++line_;
    }
  }

  std::string cell() {
    std::string out;
    if (at_ < text_.size() && text_[at_] == '"') {
      const int start = line_;
      ++at_;
      for (;;) {
        if (at_ >= text_.size()) throw ConfigError({path_, start, 1}, "a quoted cell does not end");
        const char c = text_[at_++];
        if (c == '"') {
          if (at_ >= text_.size() || text_[at_] != '"') break;
          ++at_;
        }
        if (c == '\n') ++line_;
        out += c;
      }
      if (at_ < text_.size() && text_[at_] != ',' && text_[at_] != '\n' && text_[at_] != '\r') {
        throw ConfigError({path_, line_, 1}, "text after the closing quote of a cell");
      }
      return out;
    }
    while (at_ < text_.size() && text_[at_] != ',' && text_[at_] != '\n' && text_[at_] != '\r') {
      out += text_[at_++];
    }
    return out;
  }

  const std::string& path_;
  std::string_view text_;
  std::size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

bool CsvTable::has(std::string_view column) const {
  return std::find(columns.begin(), columns.end(), column) != columns.end();
}

const std::string& CsvTable::cell(const CsvRow& row, std::string_view column) const {
  const auto found = std::find(columns.begin(), columns.end(), column);
  if (found == columns.end()) {
    throw ConfigError({path, 1, 1}, fmt::format("there is no column '{}'", column));
  }
  return row.cells[static_cast<std::size_t>(found - columns.begin())];
}

CsvTable parse_csv(std::string path, std::string_view text) {
  CsvTable table;
  table.path = std::move(path);
  if (text.size() > kMostBytes) throw ConfigError({table.path, 0, 0}, "is larger than 64 MiB");
  if (text.find('\0') != std::string_view::npos) {
    throw ConfigError({table.path, 0, 0}, "holds a NUL byte: not a text file");
  }
  CsvParser parser(table.path, text);
  CsvRow row;
  if (!parser.next(row)) throw ConfigError({table.path, 1, 1}, "has no header row");
  table.columns = row.cells;
  while (parser.next(row)) {
    if (row.cells.size() != table.columns.size()) {
      throw ConfigError(
          {table.path, row.line, 1},
          fmt::format("{} cells where the header has {}", row.cells.size(), table.columns.size()));
    }
    table.rows.push_back(row);
  }
  return table;
}

CsvTable read_csv(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    throw ConfigError({path.string(), 0, 0}, "no such file");
  }
  if (std::filesystem::file_size(path, error) > kMostBytes) {
    throw ConfigError({path.string(), 0, 0}, "is larger than 64 MiB");
  }
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) throw ConfigError({path.string(), 0, 0}, "cannot be read");
  return parse_csv(path.string(), text.str());
}

}  // namespace foretoken::base
