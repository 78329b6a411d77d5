// The constants of a calibration by name, as its description lists them: "efficiency.memory",
// "efficiency.matrix.fp8", "latency.launch". A constant added to the description can be fitted
// without a change here.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "hwmodels/calibration.h"
#include "sim/base/quantity.h"

namespace foretoken::analysis::calibration {

// Values in SI units, picojoules where the file counts them.
struct Constant {
  std::string name;
  std::string doc;
  base::UnitKind unit = base::UnitKind::kNumber;
  base::Ranged value;      // 0 where the file leaves an optional one out
  bool has_range = false;  // whether the file can hold one
  double least = 0.0;      // physical bounds of a fit, both above 0
  double most = 0.0;
};

// Those of every calibration, in the order of the file; zero values where `calibration` has none.
std::vector<Constant> constants_of(hwmodels::Calibration calibration);

// Sets the constants of `values` that the calibration has (above 0); names it does not have are
// left alone. The range of each becomes that value alone.
void set_constants(hwmodels::Calibration& calibration, const std::map<std::string, double>& values);
// The same with a range.
void set_constants(hwmodels::Calibration& calibration,
                   const std::map<std::string, base::Ranged>& values);

// "0.93", "1.8 us"; `value` to four digits.
std::string to_text(const Constant& constant, double value);

}  // namespace foretoken::analysis::calibration
