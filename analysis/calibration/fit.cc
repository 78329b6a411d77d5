#include "analysis/calibration/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>

#include "analysis/validation/validation.h"
#include "hwmodels/hardware.h"
#include "sim/base/error.h"
#include "sim/base/text.h"

namespace foretoken::analysis::calibration {

namespace v = validation;

namespace {

bool contains(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

}  // namespace

std::vector<Row> predicted_rows(std::span<const base::CsvTable> tables,
                                const std::vector<std::string>& chips,
                                v::TunablePredictor& predictor) {
  std::vector<Row> rows;
  for (const base::CsvTable& table : tables) {
    const v::TableKind kind = v::recognise(table);
    if (kind == v::TableKind::kEngineSteps) continue;
    const std::vector<v::Measurement> measurements = v::read_measurements(table, kind);
    const std::vector<bool> fastest = v::fastest_stacks(measurements);
    for (std::size_t i = 0; i < measurements.size(); ++i) {
      const v::Measurement& m = measurements[i];
      if (!fastest[i] || m.unit.seconds <= 0.0 || !predictor.handles(m.measured)) continue;
      const std::string chip = v::origin_of(m.measured).system;
      if (!chips.empty() && !contains(chips, chip)) continue;
      Row row{table.path, m.line, chip, v::class_of(m.measured), m.value * m.unit.seconds,
              m.measured};
      try {
        const double ratio = predictor.time(m.measured).value() / row.measured;
        if (std::isfinite(ratio) && ratio > 0.0) rows.push_back(std::move(row));
      } catch (const base::UnsupportedError&) {
        continue;  // validate names it
      }
    }
  }
  return rows;
}

std::vector<Row> rows_of(std::span<const base::CsvTable> tables,
                         const std::vector<std::string>& chips, v::TunablePredictor& predictor) {
  std::vector<Row> rows = predicted_rows(tables, chips, predictor);
  for (const std::string& chip : chips) {
    if (std::none_of(rows.begin(), rows.end(), [&](const Row& r) { return r.chip == chip; })) {
      throw base::UnsupportedError(
          fmt::format("the data have no row of {} that is modelled", base::quote(chip)));
    }
  }
  return rows;
}

std::vector<double> residuals_of(std::span<const Row> rows, v::TunablePredictor& predictor) {
  std::vector<double> out;
  out.reserve(rows.size());
  for (const Row& row : rows) {
    out.push_back(std::log(predictor.time(row.measured_case).value() / row.measured));
  }
  return out;
}

double loss_of(double residual) {
  const double size = std::abs(residual);
  return size < kTurn ? size * size / (2.0 * kTurn) : size - kTurn / 2.0;
}

double loss_of(std::span<const Row> rows, std::span<const double> residuals) {
  assert(rows.size() == residuals.size());
  struct Mean {
    double sum = 0.0;
    double n = 0.0;
  };
  std::map<std::string, Mean> classes;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Mean& mean = classes[rows[i].class_name];
    mean.sum += loss_of(residuals[i]);
    mean.n += 1.0;
  }
  double total = 0.0;
  for (const auto& [name, mean] : classes) total += mean.sum / mean.n;
  return classes.empty() ? 0.0 : total / static_cast<double>(classes.size());
}

std::map<std::string, base::Ranged> Fit::values() const {
  std::map<std::string, base::Ranged> out;
  for (const FittedConstant& c : constants) out[c.constant.name] = c.fitted;
  return out;
}

std::map<std::string, base::Ranged> Fit::values_for_others() const {
  std::map<std::string, base::Ranged> out = values();
  for (const auto& [name, value] : kept) out[name] = {value, value, value};
  return out;
}

v::Calibrations load_calibrations(const std::vector<std::string>& chips,
                                  const std::filesystem::path& configs) {
  v::Calibrations out;
  for (const std::string& chip : chips) {
    out[chip] = hwmodels::load_chip(chip, configs).calibration;
  }
  return out;
}

void require_constants(const std::vector<std::string>& names) {
  std::vector<std::string> known;
  for (const Constant& c : constants_of({})) known.push_back(c.name);
  for (const std::string& name : names) {
    if (contains(known, name) || (name == kNoConstant && names.size() == 1)) continue;
    throw base::UsageError(
        fmt::format("no constant {}{}", base::quote(name), base::did_you_mean(name, known)));
  }
}

namespace {

// The loss as a function of the logarithms of the constants.
class Objective {
 public:
  Objective(std::span<const Row> rows, const std::vector<std::string>& chips,
            const v::Calibrations& start, v::TunablePredictor& predictor)
      : rows_(rows), chips_(chips), start_(start), predictor_(predictor) {}

  double operator()(const std::map<std::string, double>& values) {
    ++evaluations;
    for (const std::string& chip : chips_) {
      hwmodels::Calibration c = start_.at(chip);
      set_constants(c, values);
      predictor_.calibrate(chip, c);
    }
    return loss_of(rows_, residuals_of(rows_, predictor_));
  }
  void restore() {
    for (const std::string& chip : chips_) predictor_.calibrate(chip, start_.at(chip));
  }

  std::size_t evaluations = 0;

 private:
  std::span<const Row> rows_;
  const std::vector<std::string>& chips_;
  const v::Calibrations& start_;
  v::TunablePredictor& predictor_;
};

struct Point {
  std::vector<double> logs;
  double loss = 0.0;
};

// Hooke and Jeeves: moves along each axis, then along the sum of the last moves; where no axis
// helps, along diagonals, because constants trade off (a slower launch for a shorter fill). Steps
// begin at a fifth and end at half a percent.
class PatternSearch {
 public:
  using Loss = std::function<double(const std::vector<double>&)>;
  PatternSearch(std::vector<double> least, std::vector<double> most, Loss loss)
      : least_(std::move(least)), most_(std::move(most)), loss_(std::move(loss)) {}

  Point run(std::vector<double> from) {
    best_ = {clamped(std::move(from)), 0.0};
    best_.loss = loss_(best_.logs);
    // Long steps again from where short ones ended, until that no longer helps.
    for (int restart = 0; restart < kMostRestarts; ++restart) {
      const double before = best_.loss;
      descend();
      if (best_.loss > before * (1.0 - 1e-3)) break;
    }
    return best_;
  }

 private:
  static constexpr double kFirstStep = 0.2;
  static constexpr double kLastStep = 0.004;
  static constexpr int kMostRounds = 200;
  static constexpr int kMostRestarts = 10;

  void descend() {
    std::vector<double> steps(best_.logs.size(), kFirstStep);
    for (int round = 0; round < kMostRounds && !done(steps); ++round) {
      const std::vector<double> before = best_.logs;
      bool moved = along_axes(steps);
      if (moved) {
        std::vector<double> on = best_.logs;
        for (std::size_t i = 0; i < on.size(); ++i) on[i] += best_.logs[i] - before[i];
        try_point(std::move(on));
        continue;
      }
      moved = along_diagonals(steps);
      if (moved) continue;
      for (double& step : steps) step /= 2.0;
    }
  }

  static bool done(const std::vector<double>& steps) {
    return steps.empty() || *std::max_element(steps.begin(), steps.end()) < kLastStep;
  }

  [[nodiscard]] std::vector<double> clamped(std::vector<double> logs) const {
    for (std::size_t i = 0; i < logs.size(); ++i)
      logs[i] = std::clamp(logs[i], least_[i], most_[i]);
    return logs;
  }

  bool try_point(std::vector<double> logs) {
    Point next{clamped(std::move(logs)), 0.0};
    if (next.logs == best_.logs) return false;
    next.loss = loss_(next.logs);
    // A move that changes nothing else is none: ties would let idle constants drift.
    if (!(next.loss < best_.loss * (1.0 - 1e-7))) return false;
    best_ = std::move(next);
    return true;
  }

  bool along_axes(const std::vector<double>& steps) {
    bool moved = false;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      for (const double sign : {1.0, -1.0}) {
        std::vector<double> logs = best_.logs;
        logs[i] += sign * steps[i];
        if (!try_point(std::move(logs))) continue;
        moved = true;
        break;
      }
    }
    return moved;
  }

  // Twice as many diagonals as axes, others at every call: signs from a linear congruential
  // generator with a fixed seed.
  bool along_diagonals(const std::vector<double>& steps) {
    if (steps.size() < 2) return false;
    for (std::size_t d = 0; d < 2 * steps.size(); ++d) {
      std::vector<double> offset;
      for (const double step : steps) {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        offset.push_back(step * (static_cast<double>((state_ >> 33u) % 3u) - 1.0));
      }
      for (const double sign : {1.0, -1.0}) {
        std::vector<double> logs = best_.logs;
        for (std::size_t i = 0; i < logs.size(); ++i) logs[i] += sign * offset[i];
        if (try_point(std::move(logs))) return true;
      }
    }
    return false;
  }

  std::vector<double> least_;
  std::vector<double> most_;
  Loss loss_;
  Point best_;
  std::uint64_t state_ = 1;
};

// How far, as a logarithm, `at` can go before the loss has risen to `level`; at most `most`.
double reach(const std::function<double(double)>& at, double level, double most) {
  double inside = 0.0;
  double outside = 0.01;
  while (outside < most && at(outside) <= level) {
    inside = outside;
    outside *= 2.0;
  }
  if (outside >= most) {
    if (at(most) <= level) return most;
    outside = most;
  }
  for (int i = 0; i < 5; ++i) {
    const double middle = (inside + outside) / 2.0;
    (at(middle) <= level ? inside : outside) = middle;
  }
  return inside;
}

// The constants to fit with their first values, and which were asked for in vain.
struct Selection {
  std::vector<FittedConstant> constants;
  std::vector<std::string> idle;
};

Selection select(const std::vector<std::string>& names, const std::vector<std::string>& chips,
                 const v::Calibrations& start, Objective& objective) {
  Selection out;
  const double before = objective({});
  for (const Constant& listed : constants_of({})) {
    if (!names.empty() && !contains(names, listed.name)) continue;
    FittedConstant f{listed, {}, false, 0.0, 0.0, {}, {}};
    double logs = 0.0;
    for (const std::string& chip : chips) {
      for (const Constant& c : constants_of(start.at(chip))) {
        if (c.name != listed.name || c.value.value <= 0.0) continue;
        logs += std::log(c.value.value);
        f.chips.push_back(chip);
        f.before.push_back(c.value.value);
      }
    }
    bool used = false;
    if (!f.chips.empty()) {
      const double value = std::exp(logs / static_cast<double>(f.chips.size()));
      f.constant.value = {value, value, value};
      // Moved each way from every chip's own value; by a lot, as a resource may bind on either
      // side.
      for (const double factor : {1.0 / 3.0, 1.0 / kMove, kMove, 3.0}) {
        used = used || std::abs(objective({{listed.name, value * factor}}) -
                                objective({{listed.name, value}})) > 1e-9 * before;
      }
    }
    if (used) {
      out.constants.push_back(std::move(f));
    } else if (!names.empty()) {
      out.idle.push_back(listed.name);
    }
  }
  return out;
}

// The search over the constants of a fit, which it fills in.
class Search {
 public:
  Search(Fit& fit, Objective& objective) : fit_(fit), objective_(objective) {
    for (const FittedConstant& c : fit.constants) {
      best_.logs.push_back(std::log(c.constant.value.value));
    }
  }

  [[nodiscard]] double loss() const { return best_.loss; }

  void run() {
    std::vector<double> least;
    std::vector<double> most;
    for (const FittedConstant& c : fit_.constants) {
      least.push_back(std::log(c.constant.least));
      most.push_back(std::log(c.constant.most));
    }
    const auto searched = [this](const std::vector<double>& logs) {
      double moves = 0.0;
      for (std::size_t i = 0; i < logs.size(); ++i) {
        const double move = logs[i] - std::log(fit_.constants[i].constant.value.value);
        moves += move * move;
      }
      return loss_at(logs) + kStay * moves;
    };
    best_ = PatternSearch(std::move(least), std::move(most), searched).run(best_.logs);
    best_.loss = loss_at(best_.logs);
  }

  // Leaves constants that the rows do not settle to the chips' own values.
  void give_back() {
    const double most = best_.loss * (1.0 + kKeepRise);
    bool any = false;
    while (!fit_.constants.empty()) {
      std::size_t cheapest = 0;
      double least = std::numeric_limits<double>::max();
      for (std::size_t i = 0; i < fit_.constants.size(); ++i) {
        const double without = loss_at(best_.logs, i);
        if (without >= least) continue;
        least = without;
        cheapest = i;
      }
      if (least > most) break;
      const auto at = static_cast<std::ptrdiff_t>(cheapest);
      const Constant& gone = fit_.constants[cheapest].constant;
      fit_.kept[gone.name] = gone.value.value;
      fit_.constants.erase(fit_.constants.begin() + at);
      best_.logs.erase(best_.logs.begin() + at);
      best_.loss = least;
      any = true;
    }
    if (any) run();
  }

  // How well each constant is known.
  void describe_constants() {
    // A loss of nothing, as of rows that the predictor itself made, still leaves a width.
    const double level = best_.loss + std::max(kRangeRise * best_.loss, 1e-4);
    const double unit = std::max(best_.loss, 1e-9);
    for (std::size_t i = 0; i < fit_.constants.size(); ++i) {
      FittedConstant& c = fit_.constants[i];
      const auto moved = [&](double by) {
        std::vector<double> at = best_.logs;
        at[i] += by;
        return loss_at(at);
      };
      const double value = best_.logs[i];
      const double least = std::log(c.constant.least);
      const double most = std::log(c.constant.most);
      c.at_bound = value <= least + 1e-9 || value >= most - 1e-9;
      c.rise_down = (moved(-std::log(kMove)) - best_.loss) / unit;
      c.rise_up = (moved(std::log(kMove)) - best_.loss) / unit;
      const auto down = [&](double by) { return moved(-by); };
      c.fitted = {std::exp(value),
                  std::exp(value - reach(down, level, std::max(0.0, value - least))),
                  std::exp(value + reach(moved, level, std::max(0.0, most - value)))};
    }
  }

 private:
  static constexpr std::size_t kAll = static_cast<std::size_t>(-1);

  // With every constant but one at these logarithms; that one is each chip's own.
  double loss_at(const std::vector<double>& logs, std::size_t without = kAll) {
    std::map<std::string, double> values;
    for (std::size_t i = 0; i < logs.size(); ++i) {
      if (i != without) values[fit_.constants[i].constant.name] = std::exp(logs[i]);
    }
    return objective_(values);
  }

  Fit& fit_;
  Objective& objective_;
  Point best_;
};

std::vector<Row> rows_on(std::span<const Row> all, const std::vector<std::string>& chips) {
  std::vector<Row> rows;
  std::copy_if(all.begin(), all.end(), std::back_inserter(rows),
               [&](const Row& row) { return contains(chips, row.chip); });
  return rows;
}

}  // namespace

std::vector<std::string> constants_used(std::span<const Row> all,
                                        const std::vector<std::string>& chips,
                                        const std::vector<std::string>& names,
                                        const v::Calibrations& start,
                                        v::TunablePredictor& predictor) {
  const std::vector<Row> rows = rows_on(all, chips);
  Objective objective(rows, chips, start, predictor);
  std::vector<std::string> used;
  for (const FittedConstant& c : select(names, chips, start, objective).constants) {
    used.push_back(c.constant.name);
  }
  objective.restore();
  return used;
}

Fit fit(std::span<const Row> all, const std::vector<std::string>& chips,
        const std::vector<std::string>& names, const v::Calibrations& start,
        v::TunablePredictor& predictor) {
  require_constants(names);
  const std::vector<Row> rows = rows_on(all, chips);
  if (rows.empty()) throw base::UnsupportedError("there are no rows to fit to");
  Objective objective(rows, chips, start, predictor);
  Fit out;
  out.chips = chips;
  out.rows = rows.size();
  out.loss_before = objective({});
  Selection selection = select(names, chips, start, objective);
  out.constants = std::move(selection.constants);
  out.idle = std::move(selection.idle);

  Search search(out, objective);
  search.run();
  if (names.empty()) search.give_back();
  out.loss_after = search.loss();
  search.describe_constants();
  out.evaluations = objective.evaluations;
  objective.restore();
  return out;
}

}  // namespace foretoken::analysis::calibration
