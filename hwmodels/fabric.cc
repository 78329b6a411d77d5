#include "hwmodels/fabric.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "hwmodels/fabric_graph.h"
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
  const std::vector<FabricDimension>& fabric = h.system.fabric;
  const FabricRouting routing = h.system.routing;
  const double detour = detour_share(h.system, routing);
  std::array<std::int64_t, kMostDimensions> extent;
  std::int64_t left = ranks;
  unsigned spread = 0;  // dimensions with more than one of the ranks
  for (std::size_t d = 0; d < fabric.size(); ++d) {
    extent[d] = std::min(left, fabric[d].size);
    left = (left + fabric[d].size - 1) / fabric[d].size;
    if (extent[d] > 1) spread |= 1U << d;
  }
  // With the part a rank keeps for itself, coordinates of source and destination are independent.
  const double with_self = bytes * static_cast<double>(ranks) / static_cast<double>(ranks - 1);
  std::array<double, kMostDimensions> crossing{};  // bytes a rank sends through each dimension
  std::array<double, kMostDimensions> ports{};     // and out of each dimension's ports
  for (unsigned differs = spread; differs != 0; differs = (differs - 1) & spread) {
    double part = with_self;
    for (std::size_t d = 0; d < fabric.size(); ++d) {
      if ((spread >> d & 1U) == 0) continue;
      const double same = 1.0 / static_cast<double>(extent[d]);
      part *= (differs >> d & 1U) != 0 ? 1.0 - same : same;
    }
    const RoutePlan plan = plan_route(h.system, routing, detour, differs);
    for (const RoutePlan::Way& way : plan.used()) {
      for (std::size_t i = 0; i < way.count; ++i) {
        const std::size_t d = way.dimensions[i];
        ports[port_owner(h.system, d)] += part * way.share;
        if (!way.inside) crossing[d] += part * way.share;
      }
    }
    out.latency = std::max(out.latency, flight(h.system, plan));
  }
  for (std::size_t d = 0; d < fabric.size(); ++d) {
    double busy = 0.0;
    if (fabric[d].topology == LinkTopology::kFullMesh) {
      busy = crossing[d] / dimension_rate(fabric[d], rates.link_efficiency, extent[d] - 1);
    } else {
      busy = ports[d] / (fabric[d].bandwidth.value() * rates.link_efficiency);
      // Levels above that are reached through these ports pass these pools too.
      double up = crossing[d];
      for (std::size_t e = d + 1; e < fabric.size() && fabric[e].shares_ports; ++e) {
        up += crossing[e];
      }
      busy = std::max(busy, up / dimension_rate(fabric[d], rates.link_efficiency, 1));
    }
    if (crossing[d] == 0.0 && ports[d] == 0.0) continue;
    double& slot = fabric[d].scale_up ? out.scale_up : out.scale_out;
    slot = std::max(slot, busy);
  }
  return out;
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
