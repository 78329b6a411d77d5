// What hardware, power and list-price tokens cost. Files: configs/prices/*.yaml.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "sim/base/config.h"

namespace foretoken::analysis {

// What one system costs. Either price may be absent (amount.value == 0), not both.
struct SystemPrice {
  base::Price rental_per_device_hour;
  base::Price purchase_per_device;  // server and scale-up fabric share included
  std::string source;
  std::string reason;  // when a value is assumed: why, and from what
};

struct HardwarePrices {
  std::string date;
  base::Ranged cny_per_usd;
  base::Ranged electricity_usd_per_kwh;
  base::Ranged pue;                           // facility power over IT power
  base::Ranged life_years;                    // straight-line depreciation
  base::Ranged availability;                  // share of hours in service
  base::Ranged network_adder;                 // share of the purchase price, scale-out and storage
  base::Ranged maintenance_per_year;          // share of the purchase price
  base::Ranged host_memory_usd_per_gb_month;  // DRAM that holds cached prefixes
  std::string source;
  std::map<std::string, SystemPrice> systems;
};

void describe(base::ConfigVisitor& v, HardwarePrices& prices);

// List prices of one model per million tokens; zero where not published.
struct ListPrice {
  std::string model;
  std::string currency;
  double input = 0.0;
  double input_cache_hit = 0.0;
  double output = 0.0;
  std::string note;
};

struct ListPrices {
  std::string date;
  std::string source;
  std::vector<ListPrice> prices;
};

void describe(base::ConfigVisitor& v, ListPrices& prices);

}  // namespace foretoken::analysis
