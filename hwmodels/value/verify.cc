#include "hwmodels/value/verify.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace foretoken::hwmodels::value {

void Comparison::add(std::span<const float> got, std::span<const double> want) {
  double norm = 0.0;
  double error = 0.0;
  double largest = 0.0;
  output.insert(output.end(), got.begin(), got.end());
  if (got.size() != want.size()) {
    max_relative = rms_relative = std::numeric_limits<double>::infinity();
    return;
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double d = std::abs(double{got[i]} - want[i]);
    // A number that is none counts as an endless difference.
    largest = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(largest, d);
    error += d * d;
    norm += want[i] * want[i];
  }
  if (got.empty()) return;
  const auto n = static_cast<double>(got.size());
  const double scale = norm > 0.0 ? std::sqrt(norm / n) : 1.0;
  max_relative = std::max(max_relative, largest / scale);
  const double rms =
      std::isfinite(error) ? std::sqrt(error / n) / scale : std::numeric_limits<double>::infinity();
  const auto before = static_cast<double>(elements);
  rms_relative = std::sqrt((rms_relative * rms_relative * before + rms * rms * n) / (before + n));
  elements += static_cast<std::int64_t>(got.size());
}

bool within(const Comparison& c, const Tolerance& t) {
  return c.hazard.empty() && c.max_relative <= t.max_relative && c.rms_relative <= t.rms_relative &&
         c.recall >= t.recall;
}

}  // namespace foretoken::hwmodels::value
