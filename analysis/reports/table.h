// Plain tables and their writers: text for terminals, Markdown, CSV.
#pragma once

#include <string>
#include <vector>

namespace foretoken::analysis {

struct Column {
  std::string name;
  bool number = false;  // aligned right
};

struct Table {
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;  // as many cells as columns
};

std::string to_text(const Table& table);
std::string to_markdown(const Table& table);
std::string to_csv(const Table& table);  // RFC 4180

}  // namespace foretoken::analysis
