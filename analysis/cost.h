// What an hour of a device costs, and what power it draws.
#pragma once

#include <array>
#include <cstdint>

#include "analysis/prices.h"
#include "analysis/step.h"
#include "sim/base/evidence.h"

namespace foretoken::analysis {

enum class Ownership : std::uint8_t { kRental, kOwned };

// Inputs of the hourly price that are known only to a range.
enum class PriceInput : std::uint8_t {
  kHardware,  // purchase or rental price
  kLife,
  kAvailability,
  kNetwork,
  kMaintenance,
  kElectricity,
  kPue,
  kPower,
  kExchange
};
inline constexpr int kPriceInputs = 9;
// -1 = the dearer end, 0 = the value, 1 = the cheaper end.
using PriceTuning = std::array<int, kPriceInputs>;

struct HourlyPrice {
  double usd = 0.0;          // one device, one hour, at the given load
  double electricity = 0.0;  // USD of it
  double kilowatts = 0.0;    // at the meter: PUE included
  double cny_per_usd = 0.0;
};

// Share of full-load power a step draws: the idle share, and the rest in proportion to how long any
// of matrix unit, vector unit, memory or links is busy.
double load_factor(const StepResult& step);
inline constexpr double kIdlePowerShare =
    0.3;  // of all-in power: chip idle 10-20 % of TDP, fans, hosts

// Rental includes power (an hour is an hour); owned is capital over life and availability, network
// and maintenance on top, and electricity at `load`. Throws UnsupportedError when the price file
// has no price of this kind for the system.
HourlyPrice hourly_price(const HardwarePrices& prices, const hwmodels::Hardware& hardware,
                         Ownership ownership, double load, const PriceTuning& tuning = {});

// Combines independent relative deviations into an interval around `value`: the square root of the
// sum of squares of the logarithms, on each side.
class Spread {
 public:
  // `other` is the result with one input moved to the end of its range.
  void add(double value, double other);
  void add_relative(double low_factor, double high_factor);
  void merge(const Spread& other);
  [[nodiscard]] base::Interval around(double value) const;
  // Logarithmic half-widths of the range on each side.
  [[nodiscard]] double down() const;
  [[nodiscard]] double up() const;
  // The interval of 1 / value.
  [[nodiscard]] Spread inverse() const;

 private:
  double down_ = 0.0;  // sum of squared logarithms
  double up_ = 0.0;
};

}  // namespace foretoken::analysis
