// What predicts a measured case. One implementation per kind of work; tests bring their own.
#pragma once

#include <map>
#include <string>

#include "analysis/validation/cases.h"
#include "hwmodels/calibration.h"
#include "sim/base/evidence.h"
#include "sim/base/units.h"

namespace foretoken::analysis::validation {

struct Prediction {
  base::Seconds time;
  base::Seconds low;  // 90 % interval around it
  base::Seconds high;
  base::Basis basis = base::Basis::kAssumed;
  // What a bandwidth of this case counts; 0 where none is defined.
  double counted_bytes = 0.0;
};

class Predictor {
 public:
  virtual ~Predictor() = default;

  // Whether cases of this kind are modelled at all.
  [[nodiscard]] virtual bool handles(const Case& c) const = 0;
  // Of a case it handles. Throws UnsupportedError when this one cannot be modelled; the text
  // becomes the reason the row is skipped.
  virtual Prediction predict(const Case& c) = 0;
};

// Fitted constants held in memory, by chip; they stand for the chip's file in configs/calibration.
using Calibrations = std::map<std::string, hwmodels::Calibration>;

// A predictor whose constants can be exchanged between predictions: what a fit needs.
class TunablePredictor : public Predictor {
 public:
  // From now on predictions on the chip use these constants. Whatever does not depend on them
  // (chips, models, counted work) is kept, so that a fit can try thousands.
  virtual void calibrate(const std::string& chip, const hwmodels::Calibration& constants) = 0;
  // predict(c).time alone, without the work of an interval.
  virtual base::Seconds time(const Case& c) = 0;
};

}  // namespace foretoken::analysis::validation
