// Hourly prices by hand, the algebra of spreads, and the power a step draws.
#include "analysis/cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/fixtures.h"

namespace foretoken::analysis {
namespace {

struct PriceSketch {
  HardwarePrices prices;
  hwmodels::Hardware hardware;

  PriceSketch() {
    prices.cny_per_usd = {7.0, 6.0, 8.0};
    prices.electricity_usd_per_kwh = {0.10, 0.05, 0.20};
    prices.pue = {1.2, 1.1, 1.5};
    prices.life_years = {4.0, 3.0, 5.0};
    prices.availability = {0.9, 0.8, 1.0};
    prices.network_adder = {0.1, 0.0, 0.2};
    prices.maintenance_per_year = {0.05, 0.03, 0.08};
    hardware.system.name = "sketch";
    hardware.system.power_watts = {1000.0, 800.0, 1200.0};
    SystemPrice& p = prices.systems["sketch"];
    p.rental_per_device_hour = {{2.0, 1.0, 4.0}, "USD"};
    p.purchase_per_device = {{31536.0, 30000.0, 40000.0}, "USD"};
  }
  [[nodiscard]] HourlyPrice at(Ownership o, double load, const PriceTuning& t = {}) const {
    return hourly_price(prices, hardware, o, load, t);
  }
};

TEST(HourlyPrice, RentalIncludesPower) {
  const PriceSketch s;
  const HourlyPrice full = s.at(Ownership::kRental, 1.0);
  EXPECT_DOUBLE_EQ(full.usd, 2.0);
  EXPECT_DOUBLE_EQ(full.kilowatts, 1.2);
  EXPECT_DOUBLE_EQ(s.at(Ownership::kRental, 0.3).usd, 2.0);
}

TEST(HourlyPrice, OwnedIsCapitalUpkeepAndElectricity) {
  const PriceSketch s;
  const HourlyPrice p = s.at(Ownership::kOwned, 0.5);
  const double hours = 8760.0 * 0.9;
  EXPECT_NEAR(p.kilowatts, 0.6, 1e-12);
  EXPECT_NEAR(p.electricity, 0.06, 1e-12);
  EXPECT_NEAR(p.usd, 31536.0 * 1.1 / (4.0 * hours) + 31536.0 * 0.05 / hours + 0.06, 1e-12);
  EXPECT_NEAR(p.usd, 1.1 + 0.2 + 0.06, 1e-9);  // 31536 = 4 x 0.9 x 8760
}

TEST(HourlyPrice, YuanAreConvertedAtTheExchangeRate) {
  PriceSketch s;
  s.prices.systems["sketch"].rental_per_device_hour = {{14.0, 14.0, 14.0}, "CNY"};
  EXPECT_DOUBLE_EQ(s.at(Ownership::kRental, 1.0).usd, 2.0);
  EXPECT_DOUBLE_EQ(s.at(Ownership::kRental, 1.0).cny_per_usd, 7.0);
  PriceTuning cheap{};
  cheap[static_cast<std::size_t>(PriceInput::kExchange)] = 1;
  EXPECT_DOUBLE_EQ(s.at(Ownership::kRental, 1.0, cheap).usd, 14.0 / 8.0);
}

TEST(HourlyPrice, TheCheaperEndOfEveryInputIsNeverDearer) {
  const PriceSketch s;
  for (const Ownership o : {Ownership::kRental, Ownership::kOwned}) {
    for (int i = 0; i < kPriceInputs; ++i) {
      PriceTuning cheap{};
      PriceTuning dear{};
      cheap[static_cast<std::size_t>(i)] = 1;
      dear[static_cast<std::size_t>(i)] = -1;
      EXPECT_LE(s.at(o, 0.7, cheap).usd, s.at(o, 0.7).usd) << i;
      EXPECT_GE(s.at(o, 0.7, dear).usd, s.at(o, 0.7).usd) << i;
      EXPECT_LE(s.at(o, 0.7, cheap).kilowatts, s.at(o, 0.7).kilowatts) << i;
    }
  }
}

TEST(HourlyPrice, AMissingPriceIsNamed) {
  PriceSketch s;
  s.prices.systems["sketch"].purchase_per_device = {};
  EXPECT_EQ(base::thrown<base::UnsupportedError>([&] { (void)s.at(Ownership::kOwned, 1.0); }),
            "no purchase price for system sketch");
  s.prices.systems.clear();
  EXPECT_EQ(base::thrown<base::UnsupportedError>([&] { (void)s.at(Ownership::kRental, 1.0); }),
            "no price for system sketch");
}

TEST(Spread, OneInputGivesItsOwnRange) {
  Spread s;
  s.add(10.0, 8.0);
  s.add(10.0, 15.0);
  const base::Interval i = s.around(10.0);
  EXPECT_NEAR(i.low, 8.0, 1e-12);
  EXPECT_DOUBLE_EQ(i.value, 10.0);
  EXPECT_NEAR(i.high, 15.0, 1e-12);
}

TEST(Spread, IndependentInputsAddLikeSquaredLogarithms) {
  Spread a;
  a.add_relative(0.5, 2.0);
  Spread b;
  b.add_relative(0.5, 2.0);
  a.merge(b);
  const double width = std::sqrt(2.0) * std::log(2.0);
  EXPECT_NEAR(a.up(), width, 1e-12);
  EXPECT_NEAR(a.down(), width, 1e-12);
  EXPECT_NEAR(a.around(1.0).high, std::exp(width), 1e-12);
}

TEST(Spread, NothingAddedIsNoRange) {
  const Spread none;
  EXPECT_EQ(none.around(3.0).low, 3.0);
  EXPECT_EQ(none.around(3.0).high, 3.0);
  Spread same;
  same.add(2.0, 2.0);
  EXPECT_EQ(same.up() + same.down(), 0.0);
}

TEST(Spread, TheInverseIsTheIntervalOfTheReciprocal) {
  Spread s;
  s.add_relative(0.8, 1.5);
  const base::Interval i = s.around(4.0);
  const base::Interval r = s.inverse().around(0.25);
  EXPECT_NEAR(r.low, 1.0 / i.high, 1e-12);
  EXPECT_NEAR(r.high, 1.0 / i.low, 1e-12);
  EXPECT_NEAR(s.inverse().inverse().around(4.0).high, i.high, 1e-12);
}

TEST(LoadFactor, LiesBetweenIdleAndFullPower) {
  StepResult step;
  EXPECT_DOUBLE_EQ(load_factor(step), kIdlePowerShare);
  step.utilisation.fill(1.0);
  EXPECT_DOUBLE_EQ(load_factor(step), 1.0);
  step.utilisation.fill(0.0);
  step.utilisation[static_cast<std::size_t>(hwmodels::Unit::kMemory)] = 0.5;
  EXPECT_DOUBLE_EQ(load_factor(step), kIdlePowerShare + (1.0 - kIdlePowerShare) * 0.5);
  step.utilisation[static_cast<std::size_t>(hwmodels::Unit::kMatrix)] = 0.5;
  EXPECT_DOUBLE_EQ(load_factor(step), kIdlePowerShare + (1.0 - kIdlePowerShare) * 0.75);
  step.utilisation.fill(2.0);  // rounding above one is clamped
  EXPECT_DOUBLE_EQ(load_factor(step), 1.0);
}

// Its comment counts any link; the network is one.
TEST(LoadFactor, TheNetworkDrawsPowerLikeTheScaleUpLinks) {
  StepResult step;
  step.utilisation[static_cast<std::size_t>(hwmodels::Unit::kScaleOut)] = 0.5;
  EXPECT_GT(load_factor(step), kIdlePowerShare);
}

TEST(Prices, EverySystemHasAPriceAndNoPriceIsOfAnUnknownSystem) {
  const auto prices = base::load_config<HardwarePrices>(test_support::configs() / "prices" /
                                                        "hardware-2026-11.yaml");
  std::vector<std::string> names;
  for (const auto& [name, price] : prices.systems) names.push_back(name);
  EXPECT_THAT(names, testing::UnorderedElementsAreArray(
                         hwmodels::list_configs(test_support::configs(), "systems")));
}

}  // namespace
}  // namespace foretoken::analysis
