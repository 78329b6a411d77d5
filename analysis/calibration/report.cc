#include "analysis/calibration/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

namespace foretoken::analysis::calibration {

using Json = nlohmann::ordered_json;

namespace {

std::string signed_percent(double share) { return fmt::format("{:+.0f} %", 100.0 * share); }
std::string percent(double share) { return fmt::format("{:.0f} %", 100.0 * share); }
std::string names(const std::vector<std::string>& all) {
  return fmt::format("{}", fmt::join(all, ", "));
}
std::string title_of(const HeldOut& h) {
  return fmt::format("fitted on {}, predicting {}", names(h.fit.chips), h.chip);
}

// What a reader has to know about a constant's fit; empty where it is sound.
std::string remark(const FittedConstant& c) {
  std::string out;
  if (c.at_bound) out = "at its bound";
  if (std::min(c.rise_down, c.rise_up) < kSettled)
    out += (out.empty() ? "" : "; ") + std::string("not settled");
  return out;
}

std::string before_of(const FittedConstant& c) {
  std::vector<std::string> all;
  for (const double value : c.before) {
    std::string text = to_text(c.constant, value);
    if (std::find(all.begin(), all.end(), text) == all.end()) all.push_back(std::move(text));
  }
  return names(all);
}

std::string loss_line(const Fit& fit) {
  return fmt::format(
      "loss {:.4f} before, {:.4f} after ({} rows of {}, {} constants, {} evaluations)\n",
      fit.loss_before, fit.loss_after, fit.rows, names(fit.chips), fit.constants.size(),
      fit.evaluations);
}

std::string left_line(const Fit& fit) {
  std::string out;
  if (!fit.kept.empty()) {
    std::vector<std::string> kept;
    for (const auto& [name, value] : fit.kept) kept.push_back(name);
    out = "left as they were, as the rows do not settle them: " + names(kept) + "\n";
  }
  if (!fit.idle.empty()) {
    out += "left as they were, as no row depends on them: " + names(fit.idle) + "\n";
  }
  return out;
}

// What the prediction of a left-out chip still takes from that chip's own file.
std::string own_line(const HeldOut& h) {
  return h.own.empty() ? "" : "Still from the file of " + h.chip + ": " + names(h.own) + ".\n";
}

Json residuals_json(const std::string& role, const std::vector<std::string>& chips,
                    const std::vector<ClassResiduals>& classes) {
  Json out = Json::array();
  for (const ClassResiduals& c : classes) {
    out.push_back({{"role", role},
                   {"chips", chips},
                   {"class", c.class_name},
                   {"n", c.n},
                   {"median_signed_error", c.median_signed_error},
                   {"median_abs_error", c.median_abs_error},
                   {"p90_abs_error", c.p90_abs_error},
                   {"worst_abs_error", c.worst_abs_error}});
  }
  return out;
}

Json fit_json(const Fit& fit) {
  Json constants = Json::array();
  for (const FittedConstant& c : fit.constants) {
    Json before = Json::object();
    for (std::size_t i = 0; i < c.chips.size(); ++i) before[c.chips[i]] = c.before[i];
    constants.push_back({{"name", c.constant.name},
                         {"unit", c.constant.unit == base::UnitKind::kSeconds ? "s" : ""},
                         {"before", std::move(before)},
                         {"after", c.fitted.value},
                         {"low", c.fitted.low},
                         {"high", c.fitted.high},
                         {"bounds", {c.constant.least, c.constant.most}},
                         {"at_bound", c.at_bound},
                         {"loss_rise_10_percent_down", c.rise_down},
                         {"loss_rise_10_percent_up", c.rise_up}});
  }
  return {{"chips", fit.chips},
          {"rows", fit.rows},
          {"loss_before", fit.loss_before},
          {"loss_after", fit.loss_after},
          {"evaluations", fit.evaluations},
          {"constants", std::move(constants)},
          {"idle", fit.idle},
          {"kept", fit.kept}};
}

Json held_out_json(const HeldOut& h) {
  return {{"chip", h.chip},
          {"fit", fit_json(h.fit)},
          {"residuals", residuals_json("held_out", {h.chip}, h.classes)},
          {"own", h.own}};
}

Json transfer_json(const Transfer& t) {
  Json held = Json::array();
  for (const HeldOut& h : t.held_out) held.push_back(held_out_json(h));
  Json errors = Json::array();
  for (const auto& [name, c] : t.errors.classes) {
    errors.push_back({{"class", name},
                      {"n", c.n},
                      {"q05", c.q05},
                      {"q95", c.q95},
                      {"widen", c.widen},
                      {"chips", c.chips}});
  }
  Json coverage = Json::array();
  for (const Coverage& c : t.coverage) {
    coverage.push_back(
        {{"class", c.class_name},
         {"n", c.n},
         {"interval_coverage", c.own},
         {"n_others", c.n_others},
         {"interval_coverage_others", c.n_others > 0 ? Json(c.others) : Json(nullptr)}});
  }
  return {{"held_out", std::move(held)},
          {"errors", std::move(errors)},
          {"inherited_widen", t.errors.inherited},
          {"coverage", std::move(coverage)}};
}

Table transfer_constants(const Transfer& t) {
  std::vector<std::pair<std::string, const Fit*>> fits = {{"all", &t.all}};
  for (const HeldOut& h : t.held_out) fits.emplace_back(names(h.fit.chips), &h.fit);
  Table out;
  out.columns = {{"constant"}, {"present files", true}};
  for (const auto& [name, fit] : fits) out.columns.push_back({"fitted on " + name, true});
  // Every constant that some fit gives, in the order of the files.
  for (const Constant& listed : constants_of({})) {
    const FittedConstant* first = nullptr;
    for (const auto& [name, fit] : fits) {
      for (const FittedConstant& f : fit->constants) {
        if (f.constant.name == listed.name && first == nullptr) first = &f;
      }
    }
    if (first == nullptr) continue;
    const FittedConstant& c = *first;
    std::vector<std::string> cells = {c.constant.name, before_of(c)};
    for (const auto& [name, fit] : fits) {
      const auto found = std::find_if(fit->constants.begin(), fit->constants.end(),
                                      [&](auto& o) { return o.constant.name == c.constant.name; });
      if (found == fit->constants.end()) {
        cells.emplace_back("–");
        continue;
      }
      const std::string note = remark(*found);
      cells.push_back(to_text(c.constant, found->fitted.value) +
                      (note.empty() ? "" : " (" + note + ")"));
    }
    out.rows.push_back(std::move(cells));
  }
  return out;
}

Table coverage_table(const Transfer& t) {
  Table out;
  out.columns = {{"class"},
                 {"n", true},
                 {"5 %", true},
                 {"95 %", true},
                 {"widened for few rows", true},
                 {"inside interval", true},
                 {"inside interval of the other chips", true}};
  for (const Coverage& c : t.coverage) {
    const auto errors = t.errors.classes.find(c.class_name);
    std::vector<std::string> cells = {c.class_name, fmt::format("{}", c.n)};
    if (errors == t.errors.classes.end()) {
      cells.insert(cells.end(), 4, "–");
    } else {
      cells.push_back(fmt::format("{:.2f}", errors->second.q05));
      cells.push_back(fmt::format("{:.2f}", errors->second.q95));
      cells.push_back(fmt::format("{:.2f}", errors->second.widen));
      cells.push_back(percent(c.own));
    }
    cells.push_back(c.n_others > 0 ? percent(c.others) : "–");
    out.rows.push_back(std::move(cells));
  }
  return out;
}

Table inherited_table(const Transfer& t) {
  Table out;
  out.columns = {{"chip"},
                 {"class"},
                 {"n", true},
                 {"median signed error", true},
                 {"median abs error", true},
                 {"inside interval", true}};
  for (const InheritedCheck& c : t.inherited) {
    out.rows.push_back({c.chip, c.class_name, fmt::format("{}", c.n),
                        signed_percent(c.median_signed_error), percent(c.median_abs_error),
                        percent(c.interval_coverage)});
  }
  return out;
}

}  // namespace

Table constant_table(const Fit& fit) {
  Table t;
  t.columns = {{"constant"},   {"before", true}, {"after", true},         {"low", true},
               {"high", true}, {"bounds", true}, {"loss at -10 %", true}, {"loss at +10 %", true},
               {"remark"}};
  for (const FittedConstant& c : fit.constants) {
    const auto text = [&](double value) { return to_text(c.constant, value); };
    t.rows.push_back({c.constant.name, before_of(c), text(c.fitted.value), text(c.fitted.low),
                      text(c.fitted.high), text(c.constant.least) + " to " + text(c.constant.most),
                      fmt::format("{:+.1f} %", 100.0 * c.rise_down),
                      fmt::format("{:+.1f} %", 100.0 * c.rise_up), remark(c)});
  }
  return t;
}

Table residual_table(const std::vector<ClassResiduals>& classes) {
  Table t;
  t.columns = {
      {"class"},     {"n", true},    {"median signed error", true}, {"median abs error", true},
      {"p90", true}, {"worst", true}};
  for (const ClassResiduals& c : classes) {
    t.rows.push_back({c.class_name, fmt::format("{}", c.n), signed_percent(c.median_signed_error),
                      percent(c.median_abs_error), percent(c.p90_abs_error),
                      percent(c.worst_abs_error)});
  }
  return t;
}

std::string to_text(const Calibrated& c) {
  std::string out = analysis::to_text(constant_table(c.fit)) + "\n";
  out += loss_line(c.fit) + left_line(c.fit);
  out += fmt::format("\nrows {} ({}): {}\n",
                     c.fit.constants.empty() ? "predicted with the present constants" : "fitted to",
                     names(c.fit.chips),
                     c.fit.constants.empty()
                         ? "this run fitted nothing"
                         : "they say how well the constants fit, not how good a prediction is");
  out += analysis::to_text(residual_table(c.fitted));
  if (c.held_out) {
    out += fmt::format("\nrows left out ({}): nothing was fitted to them\n", c.held_out->chip);
    out += analysis::to_text(residual_table(c.held_out->classes)) + own_line(*c.held_out);
  }
  if (c.transfer) {
    for (const HeldOut& h : c.transfer->held_out) {
      out += fmt::format("\nrows left out: {}\n", title_of(h));
      out += analysis::to_text(residual_table(h.classes)) + own_line(h);
    }
    out += "\nintervals on left-out rows\n" + analysis::to_text(coverage_table(*c.transfer));
    out += fmt::format("inherited constants: widened by a further factor of {:.2f}\n",
                       c.transfer->errors.inherited);
  }
  return out;
}

std::string to_json(const Calibrated& c) {
  Json all{{"command", c.from.command}, {"data", c.from.data}, {"fit", fit_json(c.fit)}};
  all["residuals"] =
      residuals_json(c.fit.constants.empty() ? "present" : "fitted", c.fit.chips, c.fitted);
  if (c.held_out) {
    for (Json& row : residuals_json("held_out", {c.held_out->chip}, c.held_out->classes)) {
      all["residuals"].push_back(std::move(row));
    }
  }
  if (c.transfer) all["transfer"] = transfer_json(*c.transfer);
  return all.dump(2) + "\n";
}

std::string transfer_markdown(const Transfer& t, const Provenance& from) {
  std::string out = "# From chip to chip: predictions of chips left out of the fit\n\nMade with `" +
                    from.command + "`.\n";
  out += wrapped(
      "Errors are predicted / measured - 1 on the fastest stack of each case. One set of "
      "constants is fitted to the rows of some chips and then predicts a chip whose rows it never "
      "saw, with that chip's datasheet facts. Constants that the rows do not settle are those the "
      "fitted chips had; what none of their rows depends on is named under the table. Only the "
      "tables of left-out chips say how good predictions are. The fit minimises the mean over "
      "classes of Huber's function of log(predicted / measured).",
      "", 130);
  out += "\n## Errors on left-out chips\n";
  for (const HeldOut& h : t.held_out) {
    std::string title = title_of(h);
    title.front() = 'F';
    out += "\n" + title + ":\n\n" + analysis::to_markdown(residual_table(h.classes));
    const std::string own = own_line(h);
    if (!own.empty()) out += "\n" + wrapped(own, "", 130);
  }
  out += "\n## Intervals on left-out rows\n\n";
  out += wrapped(
      fmt::format(
          "Quantiles of predicted / measured over all left-out rows, as "
          "`configs/calibration/errors.yaml` holds them. The last column is the honest one: "
          "each chip's rows against intervals made from the left-out rows of the other chips. "
          "Where constants are inherited, both sides are widened by a further factor of "
          "{:.2f}.",
          t.errors.inherited),
      "", 130);
  out += "\n" + analysis::to_markdown(coverage_table(t));
  if (!t.inherited.empty()) {
    out += "\n## Chips that were in no fit\n\nPredicted with the constants they inherit:\n\n";
    out += analysis::to_markdown(inherited_table(t));
  }
  out += fmt::format(
      "\n## Rows fitted to\n\nFitted on {}; how well the constants fit, not how good a "
      "prediction is:\n\n",
      names(t.all.chips));
  out += analysis::to_markdown(residual_table(t.all_classes));
  out += "\n## Constants\n\n";
  out += wrapped(
      fmt::format(
          "At its bound: the search stopped at a physical limit, so a mechanism is missing or "
          "the constant does not bind. Not settled: a move by 10 % one way raises the loss by "
          "less than {:.1f} %.",
          100.0 * kSettled),
      "", 130);
  out += "\n" + analysis::to_markdown(transfer_constants(t));
  return out;
}

}  // namespace foretoken::analysis::calibration
