#include "analysis/validation/report.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

namespace foretoken::analysis::validation {

using Json = nlohmann::ordered_json;

namespace {

std::string signed_percent(double share) { return fmt::format("{:+.0f} %", 100.0 * share); }
std::string percent(double share) { return fmt::format("{:.0f} %", 100.0 * share); }
std::string name_of(const std::string& file) {
  return std::filesystem::path(file).filename().string();
}

// A table without its lines of engine steps, which have tables of their own.
bool is_engine_file(const Validation& v, const std::string& file) {
  for (const EndToEndResult& r : v.engines) {
    if (r.file == file) return true;
  }
  return false;
}

Json row_json(const ValidationRow& row) {
  Json out{{"file", row.file},        {"row", row.row},    {"line", row.line},
           {"class", row.class_name}, {"case", row.label}, {"stack", row.stack},
           {"fastest", row.fastest},  {"unit", row.unit}};
  out["measured"] = row.measured > 0.0 ? Json(row.measured) : Json(nullptr);
  if (row.comparison) {
    out["predicted"] = row.comparison->predicted;
    out["low"] = row.comparison->low;
    out["high"] = row.comparison->high;
    out["basis"] = base::to_string(row.comparison->basis);
    out["signed_error"] = row.signed_error();
  } else {
    out["skipped"] = row.skipped;
  }
  return out;
}

Json summary_json(const ClassSummary& s) {
  const auto number = [&](double value) { return s.errors.n > 0 ? Json(value) : Json(nullptr); };
  return {{"file", s.file},
          {"class", s.class_name},
          {"n", s.errors.n},
          {"skipped", s.skipped},
          {"median_signed_error", number(s.errors.median_signed_error)},
          {"median_abs_error", number(s.errors.median_abs_error)},
          {"p90_abs_error", number(s.errors.p90_abs_error)},
          {"worst_abs_error", number(s.errors.worst_abs_error)},
          {"interval_coverage", number(s.errors.interval_coverage)}};
}

Json engine_json(const EndToEndResult& r) {
  Json systems = Json::array();
  for (const EndToEndSummary& s : r.systems) {
    systems.push_back({{"system", s.system},
                       {"fit", s.fit},
                       {"n", s.n},
                       {"overhead", s.overhead},
                       {"overhead_of_others", s.transferred}});
  }
  return {{"file", r.file},
          {"serving_overhead", r.overhead},
          {"least", r.least},
          {"most", r.most},
          {"systems", systems}};
}

}  // namespace

Table summary_table(const Validation& v) {
  Table t;
  t.columns = {{"file"},
               {"class"},
               {"n", true},
               {"skipped", true},
               {"median signed error", true},
               {"median abs error", true},
               {"p90", true},
               {"worst", true},
               {"inside interval", true}};
  for (const ClassSummary& s : v.summary) {
    if (is_engine_file(v, s.file)) continue;
    const ErrorStatistics& e = s.errors;
    const auto cell = [&](std::string text) { return e.n > 0 ? std::move(text) : "–"; };
    t.rows.push_back({name_of(s.file), s.class_name, fmt::format("{}", e.n),
                      fmt::format("{}", s.skipped), cell(signed_percent(e.median_signed_error)),
                      cell(percent(e.median_abs_error)), cell(percent(e.p90_abs_error)),
                      cell(percent(e.worst_abs_error)), cell(percent(e.interval_coverage))});
  }
  return t;
}

Table skip_table(const Validation& v) {
  std::map<std::tuple<std::string, std::string, std::string>, std::size_t> reasons;
  for (const ValidationRow& row : v.rows) {
    if (row.comparison || is_engine_file(v, row.file)) continue;
    ++reasons[{name_of(row.file), row.class_name, row.skipped}];
  }
  Table t;
  t.columns = {{"file"}, {"class"}, {"skipped", true}, {"because"}};
  for (const auto& [key, count] : reasons) {
    t.rows.push_back(
        {std::get<0>(key), std::get<1>(key), fmt::format("{}", count), std::get<2>(key)});
  }
  return t;
}

Table row_table(const Validation& v) {
  Table t;
  t.columns = {
      {"file"},       {"row", true}, {"line", true},         {"class"},           {"case"},
      {"stack"},      {"unit"},      {"measured", true},     {"predicted", true}, {"low", true},
      {"high", true}, {"basis"},     {"signed_error", true}, {"skipped"}};
  for (const ValidationRow& row : v.rows) {
    std::vector<std::string> cells = {row.file,
                                      fmt::format("{}", row.row),
                                      fmt::format("{}", row.line),
                                      row.class_name,
                                      row.label,
                                      row.stack,
                                      row.unit,
                                      row.measured > 0.0 ? fmt::format("{}", row.measured) : ""};
    if (row.comparison) {
      const Comparison& c = *row.comparison;
      for (const double value : {c.predicted, c.low, c.high}) {
        cells.push_back(fmt::format("{}", value));
      }
      cells.emplace_back(base::to_string(c.basis));
      cells.push_back(fmt::format("{}", row.signed_error()));
      cells.emplace_back();
    } else {
      cells.insert(cells.end(), 5, "");
      cells.push_back(row.skipped);
    }
    t.rows.push_back(std::move(cells));
  }
  return t;
}

Table engine_summary_table(const EndToEndResult& r) {
  Table t;
  t.columns = {{"system"},
               {"role"},
               {"n", true},
               {"measured / modelled", true},
               {"overhead of the others", true},
               {"median signed error", true},
               {"median abs error", true},
               {"p90", true},
               {"worst", true}};
  for (const EndToEndSummary& s : r.systems) {
    t.rows.push_back({s.system, s.fit ? "fit" : "held out", fmt::format("{}", s.n),
                      fmt::format("{:.2f}", s.overhead), fmt::format("{:.2f}", s.transferred),
                      signed_percent(s.median_signed_error), percent(s.median_abs_error),
                      percent(s.p90_abs_error), percent(s.worst_abs_error)});
  }
  return t;
}

Table engine_row_table(const EndToEndResult& r) {
  Table t;
  t.columns = {{"line", true},
               {"system"},
               {"case"},
               {"measured ms", true},
               {"modelled ms", true},
               {"ratio", true},
               {"predicted ms", true},
               {"error", true}};
  for (const EndToEndRow& row : r.rows) {
    if (!row.skipped.empty()) {
      t.rows.push_back({fmt::format("{}", row.line), row.system,
                        row.label + ": skipped, " + row.skipped,
                        fmt::format("{:.2f}", row.measured * 1e3), "–", "–", "–", "–"});
      continue;
    }
    t.rows.push_back(
        {fmt::format("{}", row.line), row.system, row.label,
         fmt::format("{:.2f}", row.measured * 1e3), fmt::format("{:.2f}", row.modelled * 1e3),
         fmt::format("{:.2f}", row.overhead()), fmt::format("{:.2f}", row.predicted * 1e3),
         signed_percent(row.signed_error())});
  }
  return t;
}

std::string engine_overhead_line(const EndToEndResult& r) {
  return fmt::format(
      "serving overhead (median of measured / modelled over the fit rows): {:.2f}; all rows lie "
      "between {:.2f} and {:.2f}\n",
      r.overhead, r.least, r.most);
}

std::string to_text(const Validation& v) {
  std::string out;
  const auto section = [&](const std::string& text) { out += (out.empty() ? "" : "\n") + text; };
  if (const Table t = summary_table(v); !t.rows.empty()) section(analysis::to_text(t));
  if (const Table t = skip_table(v); !t.rows.empty()) section(analysis::to_text(t));
  for (const EndToEndResult& r : v.engines) {
    section(analysis::to_text(engine_summary_table(r)));
    section(analysis::to_text(engine_row_table(r)));
    section(engine_overhead_line(r));
  }
  return out;
}

std::string to_json(const Validation& v) {
  Json rows = Json::array();
  for (const ValidationRow& row : v.rows) rows.push_back(row_json(row));
  Json summary = Json::array();
  for (const ClassSummary& s : v.summary) summary.push_back(summary_json(s));
  Json all{{"rows", std::move(rows)}, {"summary", std::move(summary)}};
  if (!v.engines.empty()) {
    Json engines = Json::array();
    for (const EndToEndResult& r : v.engines) engines.push_back(engine_json(r));
    all["engines"] = std::move(engines);
  }
  return all.dump(2) + "\n";
}

std::string to_csv(const Validation& v) { return analysis::to_csv(row_table(v)); }

std::string to_markdown(const Validation& v, const std::string& command) {
  std::string out = "# Predictions against measurements\n\nMade with `" + command + "`.\n";
  out +=
      "Errors are predicted / measured - 1. Where several software stacks measured the same case, "
      "the\nfastest stands for the hardware; the rows of the others are in the classes `(other "
      "stacks)`. The\n90th percentile is interpolated between ranks. Inside interval: the share of "
      "measurements inside\nthe stated 90 % interval.\n";
  if (const Table t = summary_table(v); !t.rows.empty()) out += "\n" + analysis::to_markdown(t);
  if (const Table t = skip_table(v); !t.rows.empty()) {
    out += "\n## Rows that are not compared\n\n" + analysis::to_markdown(t);
  }
  for (const EndToEndResult& r : v.engines) {
    out += "\n## Decode steps of whole engines, " + name_of(r.file) + "\n\n";
    out += analysis::to_markdown(engine_summary_table(r)) + "\n";
    out += analysis::to_markdown(engine_row_table(r)) + "\n" + engine_overhead_line(r);
  }
  return out;
}

}  // namespace foretoken::analysis::validation
