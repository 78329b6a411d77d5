#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <ostream>

#include "analysis/cli/commands.h"
#include "analysis/end_to_end.h"
#include "analysis/reports/table.h"

namespace foretoken::analysis::cli {

using Json = nlohmann::ordered_json;

namespace {

std::string percent(double share) { return fmt::format("{:+.0f} %", 100.0 * share); }

Table summary_table(const EndToEndResult& r) {
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
                      percent(s.median_signed_error),
                      fmt::format("{:.0f} %", 100.0 * s.median_abs_error),
                      fmt::format("{:.0f} %", 100.0 * s.p90_abs_error),
                      fmt::format("{:.0f} %", 100.0 * s.worst_abs_error)});
  }
  return t;
}

Table row_table(const EndToEndResult& r) {
  Table t;
  t.columns = {{"line", true},         {"system"},           {"case"},
               {"measured ms", true},  {"kernels ms", true}, {"ratio", true},
               {"predicted ms", true}, {"error", true}};
  for (const EndToEndRow& row : r.rows) {
    if (!row.skipped.empty()) {
      t.rows.push_back({fmt::format("{}", row.line), row.system,
                        row.label + ": skipped, " + row.skipped,
                        fmt::format("{:.2f}", row.measured * 1e3), "–", "–", "–", "–"});
      continue;
    }
    t.rows.push_back({fmt::format("{}", row.line), row.system, row.label,
                      fmt::format("{:.2f}", row.measured * 1e3),
                      fmt::format("{:.2f}", row.modelled * 1e3),
                      fmt::format("{:.2f}", row.overhead()),
                      fmt::format("{:.2f}", row.predicted * 1e3), percent(row.signed_error())});
  }
  return t;
}

Json to_json(const EndToEndResult& r) {
  Json rows = Json::array();
  for (const EndToEndRow& row : r.rows) {
    Json out{{"file", r.file},
             {"row", row.line},
             {"class", "end_to_end_decode/" + row.system},
             {"case", row.label},
             {"measured", row.measured}};
    if (row.skipped.empty()) {
      out["modelled"] = row.modelled;
      out["predicted"] = row.predicted;
      out["signed_error"] = row.signed_error();
      out["basis"] = "calibrated";
    } else {
      out["skipped"] = row.skipped;
    }
    rows.push_back(std::move(out));
  }
  Json summary = Json::array();
  for (const EndToEndSummary& s : r.systems) {
    summary.push_back({{"file", r.file},
                       {"class", "end_to_end_decode/" + s.system},
                       {"n", s.n},
                       {"skipped", s.skipped},
                       {"overhead", s.overhead},
                       {"median_signed_error", s.median_signed_error},
                       {"median_abs_error", s.median_abs_error},
                       {"p90_abs_error", s.p90_abs_error},
                       {"worst_abs_error", s.worst_abs_error}});
  }
  return Json{{"rows", rows}, {"summary", summary}, {"serving_overhead", r.overhead}};
}

}  // namespace

base::ExitCode validate(const Context& context, const std::vector<std::string>& files) {
  Json all = Json::array();
  for (const std::string& file : files) {
    const EndToEndResult r = validate_end_to_end(base::read_csv(file), context.configs);
    switch (context.format) {
      case Format::kJson:
        all.push_back(to_json(r));
        break;
      case Format::kCsv:
        context.out << to_csv(row_table(r));
        break;
      case Format::kTable:
        context.out << to_text(summary_table(r)) << "\n"
                    << to_text(row_table(r)) << "\n"
                    << fmt::format(
                           "serving overhead (median of measured / modelled over the fit rows): "
                           "{:.2f}; all rows lie between {:.2f} and {:.2f}\n",
                           r.overhead, r.least, r.most);
        break;
    }
  }
  if (context.format == Format::kJson) {
    context.out << (all.size() == 1 ? all[0] : all).dump(2) << "\n";
  }
  return base::ExitCode::kOk;
}

}  // namespace foretoken::analysis::cli
