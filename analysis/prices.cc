#include "analysis/prices.h"

namespace foretoken::analysis {

using base::ConfigVisitor;
using base::Need;
using base::UnitKind;

void describe(ConfigVisitor& v, HardwarePrices& p) {
  v.text({"date", "when the prices were collected"}, p.date);
  v.text({"source", "id in configs/sources.yaml for the operating parameters"}, p.source);
  v.ranged({"cny_per_usd", "exchange rate"}, p.cny_per_usd, UnitKind::kNumber,
           {.min = 0.1, .max = 100.0});
  v.ranged({"electricity_usd_per_kwh", "at the meter"}, p.electricity_usd_per_kwh,
           UnitKind::kNumber, {.max = 10.0});
  v.ranged({"pue", "facility power over IT power"}, p.pue, UnitKind::kNumber,
           {.min = 1.0, .max = 5.0, .open_low = false});
  v.ranged({"life_years", "straight-line depreciation"}, p.life_years, UnitKind::kNumber,
           {.max = 30.0});
  v.ranged({"availability", "share of hours in service"}, p.availability, UnitKind::kNumber,
           base::kFraction);
  v.ranged({"network_adder", "scale-out network and storage over the purchase price"},
           p.network_adder, UnitKind::kNumber, {.max = 2.0, .open_low = false});
  v.ranged({"maintenance_per_year", "maintenance and staff over the purchase price"},
           p.maintenance_per_year, UnitKind::kNumber, {.max = 1.0, .open_low = false});
  v.ranged({"host_memory_usd_per_gb_month", "DRAM that holds cached prefixes"},
           p.host_memory_usd_per_gb_month, UnitKind::kNumber, {.max = 100.0, .open_low = false});
  base::table(
      v, {"systems", "by name of a file in configs/systems"}, p.systems,
      [](ConfigVisitor& w, SystemPrice& s) {
        w.money({"rental_per_device_hour", "USD or CNY", Need::kOptional},
                s.rental_per_device_hour);
        w.money({"purchase_per_device", "server and scale-up share included", Need::kOptional},
                s.purchase_per_device);
        w.text({"source", "id in configs/sources.yaml"}, s.source);
        w.text({"reason", "where a value is assumed: why", Need::kOptional}, s.reason);
        w.check(
            s.rental_per_device_hour.amount.value > 0.0 || s.purchase_per_device.amount.value > 0.0,
            "", "neither rental_per_device_hour nor purchase_per_device is given");
      },
      {.min = 1, .max = 1000});
}

void describe(ConfigVisitor& v, ListPrices& p) {
  v.text({"date", "when the prices were listed"}, p.date);
  v.text({"source", "id in configs/sources.yaml"}, p.source);
  base::list(v, {"prices", "per million tokens"}, p.prices, [](ConfigVisitor& w, ListPrice& l) {
    w.text({"model", "name"}, l.model);
    w.text({"currency", "USD or CNY"}, l.currency);
    w.check(l.currency == "USD" || l.currency == "CNY", "currency",
            "'currency' must be USD or CNY");
    w.real({"input", "cache miss"}, l.input, UnitKind::kNumber, base::kNonNegative);
    w.real({"input_cache_hit", "cached prefix", Need::kOptional}, l.input_cache_hit,
           UnitKind::kNumber, base::kNonNegative);
    w.real({"output", "generated"}, l.output, UnitKind::kNumber, base::kNonNegative);
    w.text({"note", "", Need::kOptional}, l.note);
  });
}

}  // namespace foretoken::analysis
