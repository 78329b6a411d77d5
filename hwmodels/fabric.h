// Closed-form cost of traffic on a system's fabric.
#pragma once

#include <cstdint>

#include "hwmodels/hardware.h"

namespace foretoken::hwmodels {

// Time the busiest device's links are occupied, split by where the links are, and the flight time.
struct LinkTime {
  double scale_up = 0.0;   // s
  double scale_out = 0.0;  // s
  double latency = 0.0;    // s, one way through every dimension used
};

// Every one of `ranks` devices sends `bytes` in equal parts to the others, on the routes of
// `FabricGraph`. Ranks fill the innermost dimension first, so a fabric of meshes carries
// (1 - 1/size) of the traffic on each dimension's links. Exact for whole groups. Throws
// UnsupportedError when the system has fewer devices.
LinkTime all_to_all(const Hardware& hardware, const Rates& rates, double bytes, std::int64_t ranks);

// Neighbouring pipeline stages of `stride` ranks each.
LinkTime send(const Hardware& hardware, const Rates& rates, double bytes, std::int64_t stride);

}  // namespace foretoken::hwmodels
