#include "analysis/calibration/calibration_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <sstream>

#include "sim/base/config.h"
#include "sim/base/config_tree.h"
#include "sim/base/text.h"

namespace foretoken::analysis::calibration {

namespace {

constexpr std::size_t kWidth = 100;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

bool is_comment(const std::string& line) {
  const std::size_t at = line.find_first_not_of(' ');
  return at != std::string::npos && line[at] == '#';
}

// Lines [first, last) of the file, from 0.
struct Span {
  int first = 0;
  int last = 0;
};

struct Place {
  Span lines;  // with the comment above
  std::string indent;
  std::string key;
};

// Where "efficiency.matrix.fp8" is written. The entry ends where the next line is indented no more
// than its key. Nothing where the file writes its maps in one line.
std::optional<Place> find(const base::ConfigTree& root, const std::string& name,
                          const std::vector<std::string>& lines) {
  const base::ConfigTree* map = &root;
  std::string rest = name;
  for (;;) {
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    const std::string key = rest.substr(0, dot);
    const auto entry = std::find_if(map->entries.begin(), map->entries.end(),
                                    [&](const auto& e) { return e.first == key; });
    if (entry == map->entries.end()) return std::nullopt;
    if (dot < rest.size()) {
      map = &entry->second;
      rest = rest.substr(dot + 1);
      continue;
    }
    const auto index = static_cast<std::size_t>(std::distance(map->entries.begin(), entry));
    const auto [line, column] = map->key_positions[index];
    Place place;
    place.lines.first = line - 1;
    place.indent = std::string(static_cast<std::size_t>(column - 1), ' ');
    place.key = key;
    const std::string& at = lines[static_cast<std::size_t>(line - 1)];
    if (at.find_first_not_of(' ') != static_cast<std::size_t>(column - 1)) return std::nullopt;
    place.lines.last = line;
    const auto size = static_cast<int>(lines.size());
    while (place.lines.last < size) {
      const std::string& next = lines[static_cast<std::size_t>(place.lines.last)];
      const std::size_t first = next.find_first_not_of(' ');
      if (first == std::string::npos || first <= place.indent.size()) break;
      ++place.lines.last;
    }
    while (place.lines.first > 0 &&
           is_comment(lines[static_cast<std::size_t>(place.lines.first - 1)])) {
      --place.lines.first;
    }
    return place;
  }
}

std::string percent(double share) { return fmt::format("{:+.1f} %", 100.0 * share); }

std::string entry_of(const FittedConstant& c, const Place& place) {
  std::string comment =
      fmt::format("Fitted: moved by 10 % down and up, the loss rises by {} and {}.",
                  percent(c.rise_down), percent(c.rise_up));
  if (c.at_bound) comment += " At the bound of its search.";
  if (std::min(c.rise_down, c.rise_up) < kSettled) comment += " The data do not settle it.";
  std::string out = wrapped(comment, place.indent + "# ", kWidth);
  const auto text = [&](double value) { return to_text(c.constant, value); };
  if (c.constant.has_range) {
    out += fmt::format("{}{}: {{ value: {}, low: {}, high: {} }}\n", place.indent, place.key,
                       text(c.fitted.value), text(c.fitted.low), text(c.fitted.high));
  } else {
    out += fmt::format("{}{}: {}\n", place.indent, place.key, text(c.fitted.value));
  }
  return out;
}

std::string head_of(const std::string& chip, const Fit& fit, const Provenance& from,
                    const std::string& source, const std::string& file) {
  std::string out = wrapped(
      fmt::format("{}: constants marked 'Fitted' are fitted; the others are as they were in {}.",
                  chip, file),
      "# ", kWidth);
  out += "name: " + chip + "\nbasis: calibrated\ndata: >-\n";
  out += wrapped(fmt::format("{} rows of {} in {}, of each case the fastest stack. Loss {:.4f} "
                             "before, {:.4f} after. Ranges: where the loss, one constant moved "
                             "alone, has risen by {:.0f} %.",
                             fit.rows, fmt::join(fit.chips, " and "), from.data, fit.loss_before,
                             fit.loss_after, 100.0 * kRangeRise),
                 "  ", kWidth);
  out += "command: " + base::quote_json(from.command) + "\n";
  out += "source: " + source + "\n";
  return out;
}

}  // namespace

std::string wrapped(const std::string& text, const std::string& indent, std::size_t width) {
  std::string out;
  std::string line = indent;
  std::istringstream in(text);
  for (std::string word; in >> word;) {
    const bool first = line.size() == indent.size();
    if (!first && line.size() + 1 + word.size() > width) {
      out += line + "\n";
      line = indent + word;
    } else {
      line += (first ? "" : " ") + word;
    }
  }
  return out + line + "\n";
}

std::string calibration_text(const std::string& chip, const Fit& fit, const Provenance& from,
                             const std::string& path, const std::string& before) {
  const base::ConfigFile file = base::parse_yaml(path, before);
  const auto old = base::read_config<hwmodels::Calibration>(file);
  std::vector<std::string> lines = lines_of(before);
  // Replaced from the end, so that lines before keep their numbers.
  struct Edit {
    Span lines;
    std::string text;
  };
  std::vector<Edit> edits;
  for (const FittedConstant& c : fit.constants) {
    if (std::find(c.chips.begin(), c.chips.end(), chip) == c.chips.end()) continue;
    const std::optional<Place> place = find(file.root, c.constant.name, lines);
    if (!place) {
      throw base::ConfigError(
          {path, 0, 0}, fmt::format("'{}' does not stand in a line of its own", c.constant.name));
    }
    edits.push_back({place->lines, entry_of(c, *place)});
  }
  const std::optional<Place> body = find(file.root, "efficiency", lines);
  if (!body)
    throw base::ConfigError({path, 0, 0}, "'efficiency' does not stand in a line of its own");
  std::sort(edits.begin(), edits.end(),
            [](const Edit& a, const Edit& b) { return a.lines.first < b.lines.first; });
  std::string out =
      head_of(chip, fit, from, old.basis == base::Basis::kCalibrated ? old.source : "derived",
              path.substr(path.rfind('/') + 1));
  auto next = edits.begin();
  for (int line = body->lines.first; line < static_cast<int>(lines.size()); ++line) {
    if (next != edits.end() && line == next->lines.first) {
      out += next->text;
      line = next->lines.last - 1;
      ++next;
      continue;
    }
    out += lines[static_cast<std::size_t>(line)] + "\n";
  }
  // What is written can be read.
  base::read_config<hwmodels::Calibration>(base::parse_yaml(chip + ".yaml", out));
  return out;
}

std::string error_table_text(const validation::ErrorTable& table) {
  std::string out =
      "# How far predictions were off on rows of chips that were left out of the fit, by kernel "
      "class.\n# Written by the command below; do not edit.\nname: errors\ndata: >-\n";
  out += wrapped(table.data, "  ", kWidth);
  out += "command: " + base::quote_json(table.command) + "\ninherited:\n";
  out += fmt::format("  widen: {:.3f}\n  because: >-\n", table.inherited);
  out += wrapped(table.inherited_because, "    ", kWidth);
  out += table.classes.empty() ? "classes: {}\n" : "classes:\n";
  for (const auto& [name, c] : table.classes) {
    out += fmt::format("  {}: {{ n: {}, q05: {:.4f}, q95: {:.4f}, widen: {:.3f}, chips: [{}] }}\n",
                       name, c.n, c.q05, c.q95, c.widen, fmt::join(c.chips, ", "));
  }
  base::read_config<validation::ErrorTable>(base::parse_yaml("errors.yaml", out));
  return out;
}

}  // namespace foretoken::analysis::calibration
