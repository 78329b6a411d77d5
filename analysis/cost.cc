#include "analysis/cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "sim/base/error.h"

namespace foretoken::analysis {

namespace {
constexpr double kHoursPerYear = 8760.0;
}  // namespace

double load_factor(const StepResult& step) {
  double idle = 1.0;
  for (const hwmodels::Unit u :
       {hwmodels::Unit::kMatrix, hwmodels::Unit::kVector, hwmodels::Unit::kMemory,
        hwmodels::Unit::kScaleUp, hwmodels::Unit::kScaleOut}) {
    idle *= 1.0 - std::clamp(step.utilisation[static_cast<std::size_t>(u)], 0.0, 1.0);
  }
  return kIdlePowerShare + (1.0 - kIdlePowerShare) * (1.0 - idle);
}

HourlyPrice hourly_price(const HardwarePrices& prices, const hwmodels::Hardware& hardware,
                         Ownership ownership, double load, const PriceTuning& tuning) {
  const auto found = prices.systems.find(hardware.system.name);
  if (found == prices.systems.end()) {
    throw base::UnsupportedError(fmt::format("no price for system {}", hardware.system.name));
  }
  const auto side = [&](PriceInput i) { return tuning[static_cast<std::size_t>(i)]; };
  const auto low_is_cheap = [&](const base::Ranged& r, PriceInput i) {
    return side(i) == 0 ? r.value : side(i) > 0 ? r.low : r.high;
  };
  const auto high_is_cheap = [&](const base::Ranged& r, PriceInput i) {
    return side(i) == 0 ? r.value : side(i) > 0 ? r.high : r.low;
  };
  const double cny = high_is_cheap(prices.cny_per_usd, PriceInput::kExchange);
  const base::Price& price = ownership == Ownership::kRental ? found->second.rental_per_device_hour
                                                             : found->second.purchase_per_device;
  if (price.amount.value <= 0.0) {
    throw base::UnsupportedError(
        fmt::format("no {} price for system {}",
                    ownership == Ownership::kRental ? "rental" : "purchase", hardware.system.name));
  }
  const double usd =
      low_is_cheap(price.amount, PriceInput::kHardware) / (price.currency == "CNY" ? cny : 1.0);
  HourlyPrice out;
  out.cny_per_usd = cny;
  out.kilowatts = low_is_cheap(hardware.system.power_watts, PriceInput::kPower) * 1e-3 * load *
                  low_is_cheap(prices.pue, PriceInput::kPue);
  if (ownership == Ownership::kRental) {
    out.usd = usd;
    return out;
  }
  const double hours =
      kHoursPerYear * high_is_cheap(prices.availability, PriceInput::kAvailability);
  const double capital = usd * (1.0 + low_is_cheap(prices.network_adder, PriceInput::kNetwork)) /
                         (high_is_cheap(prices.life_years, PriceInput::kLife) * hours);
  const double upkeep =
      usd * low_is_cheap(prices.maintenance_per_year, PriceInput::kMaintenance) / hours;
  out.electricity =
      out.kilowatts * low_is_cheap(prices.electricity_usd_per_kwh, PriceInput::kElectricity);
  out.usd = capital + upkeep + out.electricity;
  return out;
}

void Spread::add(double value, double other) {
  const double log = std::log(other / value);
  (log < 0.0 ? down_ : up_) += log * log;
}

void Spread::add_relative(double low_factor, double high_factor) {
  add(1.0, low_factor);
  add(1.0, high_factor);
}

void Spread::merge(const Spread& other) {
  down_ += other.down_;
  up_ += other.up_;
}

double Spread::down() const { return std::sqrt(down_); }
double Spread::up() const { return std::sqrt(up_); }

base::Interval Spread::around(double value) const {
  return {value * std::exp(-down()), value, value * std::exp(up())};
}

Spread Spread::inverse() const {
  Spread s;
  s.down_ = up_;
  s.up_ = down_;
  return s;
}

}  // namespace foretoken::analysis
