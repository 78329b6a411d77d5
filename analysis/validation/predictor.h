// What predicts a measured case. One implementation per kind of work; tests bring their own.
#pragma once

#include "analysis/validation/cases.h"
#include "sim/base/evidence.h"
#include "sim/base/units.h"

namespace foretoken::analysis::validation {

struct Prediction {
  base::Seconds time;
  base::Seconds low;  // 90 % interval around it
  base::Seconds high;
  base::Basis basis = base::Basis::kAssumed;
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

}  // namespace foretoken::analysis::validation
