#include "analysis/calibration/transfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "analysis/end_to_end.h"
#include "sim/base/error.h"

namespace foretoken::analysis::calibration {

namespace v = validation;

namespace {

std::vector<Row> rows_on(std::span<const Row> rows, const std::vector<std::string>& chips) {
  std::vector<Row> out;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(out), [&](const Row& row) {
    return std::find(chips.begin(), chips.end(), row.chip) != chips.end();
  });
  return out;
}

std::vector<double> residuals_with(const std::map<std::string, base::Ranged>& values,
                                   std::span<const Row> rows, const std::vector<std::string>& chips,
                                   const v::Calibrations& start, v::TunablePredictor& predictor) {
  for (const std::string& chip : chips) {
    hwmodels::Calibration c = start.at(chip);
    set_constants(c, values);
    predictor.calibrate(chip, c);
  }
  std::vector<double> residuals = residuals_of(rows, predictor);
  for (const std::string& chip : chips) predictor.calibrate(chip, start.at(chip));
  return residuals;
}

std::vector<std::string> without(const std::vector<std::string>& chips, const std::string& one) {
  std::vector<std::string> others;
  std::copy_if(chips.begin(), chips.end(), std::back_inserter(others),
               [&](const std::string& c) { return c != one; });
  return others;
}

// How many measurements lie inside the interval of their prediction, both relative to it.
std::size_t covered(const v::ErrorTable& table, const std::string& class_name,
                    const std::vector<double>& ratios) {
  const auto interval = v::observed_interval(table, class_name, base::Basis::kCalibrated, 1.0);
  if (!interval) return 0;
  return static_cast<std::size_t>(std::count_if(ratios.begin(), ratios.end(), [&](double ratio) {
    return interval->low <= 1.0 / ratio && 1.0 / ratio <= interval->high;
  }));
}

struct Left {
  std::vector<double> ratios;
  std::vector<std::string> chips;
};

// Ratios of the left-out rows by class; `except`'s rows left away.
std::map<std::string, Left> left_out(const std::vector<HeldOut>& all, const std::string& except) {
  std::map<std::string, Left> out;
  for (const HeldOut& h : all) {
    if (h.chip == except) continue;
    for (const ClassResiduals& c : h.classes) {
      Left& left = out[c.class_name];
      left.ratios.insert(left.ratios.end(), c.ratios.begin(), c.ratios.end());
      left.chips.push_back(h.chip);
    }
  }
  return out;
}

v::ErrorTable table_of(const std::map<std::string, Left>& left) {
  v::ErrorTable table;
  for (const auto& [name, one] : left) {
    if (one.ratios.size() < v::kFewestRows) continue;
    table.classes[name] = v::class_errors(one.ratios, one.chips);
  }
  return table;
}

std::vector<Coverage> coverage_of(const std::vector<HeldOut>& all, const v::ErrorTable& table) {
  std::vector<Coverage> out;
  for (const auto& [name, left] : left_out(all, "")) {
    Coverage c;
    c.class_name = name;
    c.n = left.ratios.size();
    c.own = static_cast<double>(covered(table, name, left.ratios)) / static_cast<double>(c.n);
    std::size_t inside = 0;
    for (const HeldOut& h : all) {
      const v::ErrorTable others = table_of(left_out(all, h.chip));
      if (!others.classes.contains(name)) continue;
      for (const ClassResiduals& one : h.classes) {
        if (one.class_name != name) continue;
        c.n_others += one.n;
        inside += covered(others, name, one.ratios);
      }
    }
    if (c.n_others > 0) {
      c.others = static_cast<double>(inside) / static_cast<double>(c.n_others);
    }
    out.push_back(c);
  }
  return out;
}

}  // namespace

std::vector<ClassResiduals> by_class(std::span<const Row> rows, std::span<const double> residuals) {
  std::map<std::string, std::vector<double>> ratios;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ratios[rows[i].class_name].push_back(std::exp(residuals[i]));
  }
  std::vector<ClassResiduals> out;
  for (auto& [name, values] : ratios) {
    std::vector<double> signed_errors;
    std::vector<double> errors;
    for (const double ratio : values) {
      signed_errors.push_back(ratio - 1.0);
      errors.push_back(std::abs(ratio - 1.0));
    }
    out.push_back({name, values.size(), quantile(signed_errors, 0.5), quantile(errors, 0.5),
                   quantile(errors, 0.9), quantile(errors, 1.0), std::move(values)});
  }
  return out;
}

std::vector<ClassResiduals> apply(const Fit& fit, std::span<const Row> rows,
                                  const std::vector<std::string>& chips,
                                  const v::Calibrations& start, v::TunablePredictor& predictor) {
  const std::vector<Row> mine = rows_on(rows, chips);
  // The chips it was fitted on keep their own values of the others.
  const bool own = std::all_of(chips.begin(), chips.end(), [&](const std::string& c) {
    return std::find(fit.chips.begin(), fit.chips.end(), c) != fit.chips.end();
  });
  return by_class(mine, residuals_with(own ? fit.values() : fit.values_for_others(), mine, chips,
                                       start, predictor));
}

HeldOut hold_out(const std::string& chip, std::span<const Row> rows,
                 const std::vector<std::string>& chips, const std::vector<std::string>& names,
                 const v::Calibrations& start, v::TunablePredictor& predictor) {
  const std::vector<std::string> others = without(chips, chip);
  if (others.empty()) throw base::UsageError("no chip is left to fit when one is held out");
  HeldOut out{chip, fit(rows, others, names, start, predictor), {}, {}};
  out.classes = apply(out.fit, rows, {chip}, start, predictor);
  const auto fitted = out.fit.values_for_others();
  for (const std::string& name : constants_used(rows, {chip}, {}, start, predictor)) {
    if (!fitted.contains(name)) out.own.push_back(name);
  }
  return out;
}

Transfer transfer(std::span<const Row> rows, const std::vector<std::string>& chips,
                  const std::vector<std::string>& names, const v::Calibrations& start,
                  v::TunablePredictor& predictor) {
  if (chips.size() < 2) throw base::UsageError("leaving a chip out takes two chips or more");
  if (!names.empty() && names.front() == kNoConstant) {
    throw base::UsageError("leaving chips out takes constants to fit");
  }
  Transfer out;
  out.chips = chips;
  out.all = fit(rows, chips, names, start, predictor);
  out.all_classes = apply(out.all, rows, chips, start, predictor);
  for (const std::string& chip : chips) {
    out.held_out.push_back(hold_out(chip, rows, chips, names, start, predictor));
  }
  out.errors = table_of(left_out(out.held_out, ""));
  out.coverage = coverage_of(out.held_out, out.errors);

  std::vector<double> moves;
  for (const HeldOut& h : out.held_out) {
    // With two chips, the chip's own fit is the one that the other was predicted from.
    const auto same = std::find_if(out.held_out.begin(), out.held_out.end(), [&](const HeldOut& o) {
      return o.fit.chips == std::vector<std::string>{h.chip};
    });
    const Fit own =
        same != out.held_out.end() ? same->fit : fit(rows, {h.chip}, names, start, predictor);
    const std::vector<Row> mine = rows_on(rows, {h.chip});
    const std::vector<double> with_own =
        residuals_with(own.values(), mine, {h.chip}, start, predictor);
    const std::vector<double> with_others =
        residuals_with(h.fit.values_for_others(), mine, {h.chip}, start, predictor);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      moves.push_back(std::abs(with_own[i] - with_others[i]));
    }
  }
  out.errors.inherited = std::exp(quantile(moves, 0.9));
  out.errors.inherited_because = fmt::format(
      "the constants of a chip that was not measured are those of another; 90 % of {} predictions "
      "moved by less than this factor when a chip's own constants were exchanged for those of the "
      "other chips. It comes on top of errors that are already those of left-out chips, because a "
      "chip of another make is further away than these are from each other",
      moves.size());
  return out;
}

std::vector<InheritedCheck> check_inherited(const v::ErrorTable& table, std::span<const Row> rows,
                                            v::Predictor& predictor) {
  struct Group {
    std::vector<double> signed_errors;
    std::vector<double> errors;
    double inside = 0.0;
  };
  std::map<std::pair<std::string, std::string>, Group> groups;
  v::ObservedIntervals observed(predictor, table);
  for (const Row& row : rows) {
    const v::Prediction p = observed.predict(row.measured_case);
    const double error = p.time.value() / row.measured - 1.0;
    Group& group = groups[{row.chip, row.class_name}];
    group.signed_errors.push_back(error);
    group.errors.push_back(std::abs(error));
    if (p.low.value() <= row.measured && row.measured <= p.high.value()) group.inside += 1.0;
  }
  std::vector<InheritedCheck> out;
  for (const auto& [key, group] : groups) {
    const std::size_t n = group.errors.size();
    out.push_back({key.first, key.second, n, quantile(group.signed_errors, 0.5),
                   quantile(group.errors, 0.5), group.inside / static_cast<double>(n)});
  }
  return out;
}

}  // namespace foretoken::analysis::calibration
