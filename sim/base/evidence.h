// How far a number can be trusted: where it came from, and the range it may lie in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace foretoken::base {

// From strongest to weakest; a prediction carries the weakest of its parts.
enum class Basis : std::uint8_t { kMeasured, kCalibrated, kBound, kAssumed };

constexpr Basis weakest(Basis a, Basis b) { return std::max(a, b); }

constexpr std::string_view to_string(Basis basis) {
  switch (basis) {
    case Basis::kMeasured:
      return "measured";
    case Basis::kCalibrated:
      return "calibrated";
    case Basis::kBound:
      return "bound";
    case Basis::kAssumed:
      return "assumed";
  }
  return "assumed";
}

// A prediction with the range it is expected to lie in: low <= value <= high.
struct Interval {
  double low = 0.0;
  double value = 0.0;
  double high = 0.0;
};

// An input that is known only to a range. In a file either one number (no range), or
// `{value: 0.91, low: 0.85, high: 0.94}`.
struct Ranged {
  double value = 0.0;
  double low = 0.0;
  double high = 0.0;
};

}  // namespace foretoken::base
