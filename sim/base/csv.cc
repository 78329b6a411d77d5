#include "sim/base/csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <system_error>

#include "sim/base/text.h"

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
    row.places.clear();
    for (;;) {
      row.places.push_back(place());
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
      next_line();
    }
  }

  void next_line() {
    ++line_;
    line_start_ = at_;
  }

  [[nodiscard]] CsvPlace place() const { return {line_, static_cast<int>(at_ - line_start_) + 1}; }

  std::string cell() {
    std::string out;
    if (at_ < text_.size() && text_[at_] == '"') {
      const CsvPlace start = place();
      ++at_;
      for (;;) {
        if (at_ >= text_.size()) {
          throw ConfigError({path_, start.line, start.column}, "a quoted cell does not end");
        }
        const char c = text_[at_++];
        if (c == '"') {
          if (at_ >= text_.size() || text_[at_] != '"') break;
          ++at_;
        }
        if (c == '\n') next_line();
        out += c;
      }
      if (at_ < text_.size() && text_[at_] != ',' && text_[at_] != '\n' && text_[at_] != '\r') {
        const CsvPlace here = place();
        throw ConfigError({path_, here.line, here.column},
                          "text after the closing quote of a cell");
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
  std::size_t line_start_ = 0;
};

}  // namespace

bool CsvTable::has(std::string_view column) const {
  return std::find(columns.begin(), columns.end(), column) != columns.end();
}

std::size_t CsvTable::index_of(std::string_view column) const {
  const auto found = std::find(columns.begin(), columns.end(), column);
  if (found == columns.end()) {
    throw ConfigError({path, header_line, 1}, fmt::format("there is no column '{}'", column));
  }
  return static_cast<std::size_t>(found - columns.begin());
}

const std::string& CsvTable::cell(const CsvRow& row, std::string_view column) const {
  return row.cells[index_of(column)];
}

Position CsvTable::position(const CsvRow& row, std::string_view column) const {
  const CsvPlace& place = row.places[index_of(column)];
  return {path, place.line, place.column};
}

CsvTable parse_csv(std::string path, std::string_view text) {
  CsvTable table;
  table.path = std::move(path);
  if (text.size() > kMostBytes) throw ConfigError({table.path, 0, 0}, "is larger than 64 MiB");
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  check_characters(table.path, text);
  CsvParser parser(table.path, text);
  CsvRow row;
  if (!parser.next(row)) throw ConfigError({table.path, 1, 1}, "has no header row");
  table.columns = row.cells;
  table.header_line = row.line;
  for (std::size_t i = 0; i < row.cells.size(); ++i) {
    if (std::find(row.cells.begin(), row.cells.begin() + static_cast<std::ptrdiff_t>(i),
                  row.cells[i]) != row.cells.begin() + static_cast<std::ptrdiff_t>(i)) {
      throw ConfigError({table.path, row.places[i].line, row.places[i].column},
                        fmt::format("two columns are called {}", quote(row.cells[i])));
    }
  }
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
