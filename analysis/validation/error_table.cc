#include "analysis/validation/error_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <utility>

#include "analysis/end_to_end.h"
#include "sim/base/named_config.h"

namespace foretoken::analysis::validation {

using base::ConfigVisitor;
using base::UnitKind;

namespace {

constexpr base::RealRange kRatio{.min = 1e-6, .max = 1e6};
constexpr base::RealRange kAtLeastOne{.min = 1.0, .max = 1e6, .open_low = false};

void describe_class(ConfigVisitor& v, ClassErrors& c) {
  v.integer({"n", "rows"}, c.n, {.min = 1});
  v.real({"q05", "5 % quantile of predicted / measured"}, c.q05, UnitKind::kNumber, kRatio);
  v.real({"q95", "95 % quantile"}, c.q95, UnitKind::kNumber, kRatio);
  v.real({"widen", "factor on the half-width of the logarithms, for few rows"}, c.widen,
         UnitKind::kNumber, kAtLeastOne);
  v.texts({"chips", "whose rows these are, each left out of the fit"}, c.chips,
          {.min = 1, .max = 100});
  v.check(c.q05 <= c.q95, "q95", "'q95' is below 'q05'");
}

// 95 % quantile of Student's distribution: exact for one and two degrees of freedom, else the
// expansion in 1/n about the normal quantile (Abramowitz and Stegun 26.7.5), within 0.3 % from
// three on.
double student95(double degrees) {
  if (degrees < 1.5) return std::tan(0.45 * std::numbers::pi);
  if (degrees < 2.5) return 0.9 * std::sqrt(2.0 / (1.0 - 0.81));
  constexpr double kNormal = 1.6448536269514722;
  const double z2 = kNormal * kNormal;
  const double g1 = (z2 + 1.0) * kNormal / 4.0;
  const double g2 = ((5.0 * z2 + 16.0) * z2 + 3.0) * kNormal / 96.0;
  const double g3 = (((3.0 * z2 + 19.0) * z2 + 17.0) * z2 - 15.0) * kNormal / 384.0;
  return kNormal + ((g3 / degrees + g2) / degrees + g1) / degrees;
}

}  // namespace

void describe(ConfigVisitor& v, ErrorTable& t) {
  v.text({"name", "errors: the file's name"}, t.name);
  v.text({"data", "the measurements, and how they were left out"}, t.data);
  v.text({"command", "the command that wrote this file"}, t.command);
  base::group(v, {"inherited", "for chips whose constants are not their own, basis assumed"}, [&] {
    v.real({"widen", "factor on both sides of their intervals"}, t.inherited, UnitKind::kNumber,
           kAtLeastOne);
    v.text({"because", "where the factor is from"}, t.inherited_because);
  });
  base::table(v, {"classes", "kernel classes as validate names them"}, t.classes, describe_class,
              {.min = 0, .max = 10'000});
}

ErrorTable load_error_table(const std::filesystem::path& configs) {
  const std::filesystem::path path = configs / "calibration" / "errors.yaml";
  std::error_code error;
  ErrorTable table;
  if (std::filesystem::exists(path, error)) table = base::load_named<ErrorTable>(path);
  std::vector<std::filesystem::path> more;
  for (const auto& entry :
       std::filesystem::directory_iterator(configs / "calibration" / "errors", error)) {
    if (entry.path().extension() == ".yaml") more.push_back(entry.path());
  }
  std::sort(more.begin(), more.end());
  for (const std::filesystem::path& file : more) {
    for (auto& [name, errors] : base::load_named<ErrorTable>(file).classes) {
      table.classes.insert_or_assign(name, errors);
    }
  }
  return table;
}

ClassErrors class_errors(std::span<const double> ratios, std::vector<std::string> chips) {
  if (ratios.size() < kFewestRows) {
    throw std::invalid_argument(fmt::format("{} rows are too few for quantiles", ratios.size()));
  }
  const std::vector<double> values(ratios.begin(), ratios.end());
  const auto n = static_cast<double>(values.size());
  ClassErrors c;
  c.n = static_cast<std::int64_t>(values.size());
  c.q05 = quantile(values, 0.05);
  c.q95 = quantile(values, 0.95);
  c.widen = student95(n - 1.0) * std::sqrt(1.0 + 1.0 / n) / student95(1e12);
  c.chips = std::move(chips);
  return c;
}

std::optional<base::Interval> observed_interval(const ErrorTable& table,
                                                const std::string& class_name, base::Basis basis,
                                                double value) {
  const auto found = table.classes.find(class_name);
  if (found == table.classes.end()) return std::nullopt;
  const ClassErrors& c = found->second;
  const double low = std::log(c.q05);
  const double high = std::log(c.q95);
  const double centre = (low + high) / 2.0;
  double half = (high - low) / 2.0 * c.widen;
  if (basis == base::Basis::kAssumed) half += std::log(table.inherited);
  return base::Interval{std::min(value, value * std::exp(-centre - half)), value,
                        std::max(value, value * std::exp(half - centre))};
}

ObservedIntervals::ObservedIntervals(Predictor& inner, ErrorTable table)
    : inner_(inner), table_(std::move(table)) {}

bool ObservedIntervals::handles(const Case& c) const { return inner_.handles(c); }

Prediction ObservedIntervals::predict(const Case& c) {
  Prediction p = inner_.predict(c);
  if (const auto interval = observed_interval(table_, class_of(c), p.basis, p.time.value())) {
    p.low = base::Seconds{interval->low};
    p.high = base::Seconds{interval->high};
  }
  return p;
}

}  // namespace foretoken::analysis::validation
