#include "hwmodels/fabric.h"

#include <fmt/format.h>

#include <algorithm>

#include "sim/base/error.h"

namespace foretoken::hwmodels {

namespace {

// Bytes per second a device can move through a dimension when it talks to `peers` of its members.
double dimension_rate(const FabricDimension& d, double efficiency, std::int64_t peers) {
  double rate = d.bandwidth.value() * efficiency / d.oversubscription.value;
  if (d.topology == LinkTopology::kFullMesh && d.size > 1) {
    // Each peer has its own link; those to members outside the group stay idle.
    rate *= static_cast<double>(std::min(peers, d.size - 1)) / static_cast<double>(d.size - 1);
  }
  return rate;
}

void require_devices(const Hardware& h, std::int64_t ranks) {
  if (ranks > h.system.devices()) {
    throw base::UnsupportedError(
        fmt::format("{} has {} devices; {} are needed", h.system.name, h.system.devices(), ranks));
  }
}

}  // namespace

LinkTime all_to_all(const Hardware& h, const Rates& rates, double bytes, std::int64_t ranks) {
  LinkTime out;
  if (ranks <= 1) return out;
  require_devices(h, ranks);
  // With the part a rank keeps for itself, coordinates of source and destination are independent.
  const double with_self = bytes * static_cast<double>(ranks) / static_cast<double>(ranks - 1);
  std::int64_t left = ranks;
  for (const FabricDimension& d : h.system.fabric) {
    if (left <= 1) break;
    const std::int64_t extent = std::min(left, d.size);
    left = (left + d.size - 1) / d.size;
    if (extent <= 1) continue;
    const double crossing = with_self * (1.0 - 1.0 / static_cast<double>(extent));
    const double busy = crossing / dimension_rate(d, rates.link_efficiency, extent - 1);
    double& slot = d.scale_up ? out.scale_up : out.scale_out;
    slot = std::max(slot, busy);
    out.latency += d.latency.value();
  }
  return out;
}

LinkTime all_reduce(const Hardware& h, const Rates& rates, double bytes, std::int64_t ranks) {
  const double peers = static_cast<double>(ranks - 1);
  const LinkTime one = all_to_all(h, rates, bytes * peers, ranks);
  LinkTime two = all_to_all(h, rates, 2.0 * bytes * peers / static_cast<double>(ranks), ranks);
  // The second shot waits for the first: one more flight and one more collective floor.
  two.latency = ranks > 1 ? 2.0 * two.latency + rates.collective : 0.0;
  const auto time = [&](const LinkTime& t) {
    return std::max(t.scale_up, t.scale_out) + t.latency;
  };
  return time(one) <= time(two) ? one : two;
}

LinkTime all_gather(const Hardware& h, const Rates& rates, double bytes, std::int64_t ranks) {
  return all_to_all(h, rates, bytes * static_cast<double>(ranks - 1), ranks);
}

LinkTime send(const Hardware& h, const Rates& rates, double bytes, std::int64_t stride) {
  LinkTime out;
  std::int64_t reach = 1;
  for (const FabricDimension& d : h.system.fabric) {
    reach *= d.size;
    if (stride < reach || &d == &h.system.fabric.back()) {
      double& slot = d.scale_up ? out.scale_up : out.scale_out;
      slot = bytes / dimension_rate(d, rates.link_efficiency, 1);
      out.latency = d.latency.value();
      break;
    }
  }
  return out;
}

}  // namespace foretoken::hwmodels
