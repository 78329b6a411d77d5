#include "hwmodels/fabric_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "sim/base/error.h"

namespace foretoken::hwmodels {

namespace {

bool is_mesh(const FabricDimension& d) { return d.topology == LinkTopology::kFullMesh; }

// A switched dimension without rails leads straight to the destination, wherever that stands in its
// group; otherwise to the device of the sender's place there.
bool reaches_any(const FabricDimension& d) { return !is_mesh(d) && !d.rails; }

bool has(unsigned set, std::size_t d) { return (set >> d & 1U) != 0; }

// The switched dimension around the innermost meshes, whose ports are a way between two devices
// inside it; the number of dimensions if there is none.
std::size_t detour_dimension(const SystemSpec& system) {
  for (std::size_t d = 0; d < system.fabric.size(); ++d) {
    const FabricDimension& dimension = system.fabric[d];
    if (is_mesh(dimension)) continue;
    return d >= 2 && reaches_any(dimension) && dimension.scale_up ? d : system.fabric.size();
  }
  return system.fabric.size();
}

std::size_t outermost_reaching_any(const SystemSpec& system, unsigned differs) {
  for (std::size_t d = system.fabric.size(); d-- > 0;) {
    if (has(differs, d) && reaches_any(system.fabric[d])) return d;
  }
  return system.fabric.size();
}

}  // namespace

std::size_t port_owner(const SystemSpec& system, std::size_t d) {
  while (system.fabric[d].shares_ports) --d;
  return d;
}

bool has_pools(const SystemSpec& system, std::size_t d) {
  const FabricDimension& dimension = system.fabric[d];
  return !is_mesh(dimension) && dimension.bandwidth.value() / dimension.oversubscription.value <
                                    system.fabric[port_owner(system, d)].bandwidth.value();
}

RoutePlan plan_route(const SystemSpec& system, FabricRouting routing, double detour,
                     unsigned differs) {
  RoutePlan plan;
  if (differs == 0) return plan;
  const std::size_t dimensions = system.fabric.size();
  const std::size_t jump = outermost_reaching_any(system, differs);
  RoutePlan::Way& first = plan.ways[0];
  std::array<std::uint8_t, kMostDimensions> meshes;
  std::size_t mesh_count = 0;
  for (std::size_t d = jump == dimensions ? 0 : jump; d < dimensions; ++d) {
    if (!has(differs, d)) continue;
    if (is_mesh(system.fabric[d])) meshes[mesh_count++] = static_cast<std::uint8_t>(d);
    first.dimensions[first.count++] = static_cast<std::uint8_t>(d);
  }
  plan.count = 1;
  if (routing == FabricRouting::kDirect || mesh_count < 2) return plan;

  RoutePlan::Way& second = plan.ways[1] = first;
  for (std::size_t i = 0; i < second.count; ++i) {
    if (is_mesh(system.fabric[second.dimensions[i]])) second.dimensions[i] = meshes[--mesh_count];
  }
  plan.count = 2;
  const std::size_t out = detour_dimension(system);
  const bool within = out < dimensions && (differs >> out) == 0;
  const double through_switch = within ? detour : 0.0;
  first.share = second.share = 0.5 * (1.0 - through_switch);
  if (through_switch > 0.0) {
    RoutePlan::Way& third = plan.ways[2];
    third.share = through_switch;
    third.dimensions[third.count++] = static_cast<std::uint8_t>(out);
    third.inside = true;
    plan.count = 3;
  }
  return plan;
}

double detour_share(const SystemSpec& system, FabricRouting routing) {
  if (routing != FabricRouting::kAllPath) return 0.0;
  const std::size_t out = detour_dimension(system);
  if (out == system.fabric.size()) return 0.0;
  // Shares of all pairs, a device with itself included. `alone` are those with itself.
  double alone = 1.0;
  for (std::size_t d = 0; d < out; ++d) {
    alone /= static_cast<double>(system.fabric[d].size);
  }
  double neighbours = 0.0;
  for (std::size_t d = 0; d < out; ++d) {
    neighbours += alone * static_cast<double>(system.fabric[d].size - 1);
  }
  const double others = 1.0 - alone - neighbours;
  if (others <= 0.0) return 0.0;
  const double outside = others / system.fabric[out].bandwidth.value();
  double share = 0.0;
  for (std::size_t d = 0; d < out; ++d) {
    const auto size = static_cast<double>(system.fabric[d].size);
    const double crossing = 1.0 - 1.0 / size;
    const double far = crossing - alone * (size - 1.0);
    const double rate =
        system.fabric[d].bandwidth.value() / system.fabric[d].oversubscription.value;
    // (crossing - share far) / rate = share others / port rate; the slowest mesh decides.
    share = std::max(share, crossing / rate / (outside + far / rate));
  }
  return std::min(share, 1.0);
}

double flight(const SystemSpec& system, const RoutePlan& plan) {
  double longest = 0.0;
  for (const RoutePlan::Way& way : plan.used()) {
    double latency = 0.0;
    for (std::size_t i = 0; i < way.count; ++i) {
      latency += system.fabric[way.dimensions[i]].latency.value();
    }
    longest = std::max(longest, latency);
  }
  return longest;
}

FabricGraph::FabricGraph(const SystemSpec& system, double link_efficiency, std::int64_t devices,
                         FabricRouting routing)
    : system_(system),
      routing_(routing),
      detour_(detour_share(system, routing)),
      devices_(devices) {
  assert(link_efficiency > 0.0 && devices > 0);
  if (devices > system.devices()) {
    throw base::UnsupportedError(
        fmt::format("{} has {} devices; {} are needed", system.name, system.devices(), devices));
  }
  const std::size_t count = system.fabric.size();
  dimensions_.resize(count);
  std::int64_t left = devices;
  std::int64_t stride = 1;
  for (std::size_t i = 0; i < count; ++i) {
    Dimension& d = dimensions_[i];
    d.size = system.fabric[i].size;
    d.stride = stride;
    d.mesh = is_mesh(system.fabric[i]);
    d.owner = port_owner(system, i);
    stride *= d.size;
    slots_ *= std::min(left, d.size);
    left = (left + d.size - 1) / d.size;
  }
  const std::size_t out = detour_ > 0.0 ? detour_dimension(system) : count;
  for (std::size_t i = 0; i < count; ++i) {
    Dimension& d = dimensions_[i];
    const FabricDimension& f = system.fabric[i];
    const double rate = f.bandwidth.value() * link_efficiency;
    const double limited = rate / f.oversubscription.value;
    if (d.mesh && d.size > 1) {
      d.ports = add_links(slots_ * (d.size - 1), limited / static_cast<double>(d.size - 1));
    } else if (!d.mesh && (d.size > 1 || i == out)) {
      // Ports of a dimension whose only user is a level above it are there as well.
      if (d.owner == i) d.ports = add_links(2 * slots_, rate);
      if (has_pools(system, i)) {
        d.pools = add_links(2 * groups(d), limited * static_cast<double>(d.stride));
      }
    } else if (!d.mesh && i + 1 < count && dimensions_[i + 1].owner == i) {
      d.ports = add_links(2 * slots_, rate);
    }
    d.end = link_count();
  }
  plans_.resize(std::size_t{1} << count);
  for (unsigned differs = 0; differs < plans_.size(); ++differs) {
    Planned& planned = plans_[differs];
    planned.plan = plan_route(system, routing, detour_, differs);
    planned.latency = flight(system, planned.plan);
    for (const RoutePlan::Way& way : planned.plan.used()) {
      for (std::size_t i = 0; i < way.count; ++i) {
        planned.granule =
            std::max(planned.granule, system.fabric[way.dimensions[i]].granularity.value());
      }
    }
  }
}

LinkId FabricGraph::add_links(std::int64_t count, double rate) {
  const LinkId first = link_count();
  rates_.resize(rates_.size() + static_cast<std::size_t>(count), rate);
  return first;
}

void FabricGraph::add_host_links(double rate) {
  assert(rate > 0.0 && !has_host_links());
  host_first_ = add_links(2 * slots_, rate);
}

LinkId FabricGraph::to_host(std::int64_t device) const {
  assert(has_host_links());
  return host_first_ + static_cast<LinkId>(device);
}

LinkId FabricGraph::from_host(std::int64_t device) const {
  assert(has_host_links());
  return host_first_ + static_cast<LinkId>(slots_ + device);
}

std::size_t FabricGraph::dimension(LinkId link) const {
  for (std::size_t i = 0; i < dimensions_.size(); ++i) {
    if (link < dimensions_[i].end) return i;
  }
  return kHost;
}

std::string FabricGraph::name(LinkId link) const {
  const std::size_t i = dimension(link);
  if (i == kHost) {
    const std::int64_t at = static_cast<std::int64_t>(link) - host_first_;
    return at < slots_ ? fmt::format("host {} out", at) : fmt::format("host {} in", at - slots_);
  }
  const Dimension& d = dimensions_[i];
  const std::string& dimension_name = system_.fabric[i].name;
  if (d.pools != kNone && link >= d.pools) {
    const std::int64_t at = static_cast<std::int64_t>(link) - d.pools;
    const std::int64_t up = groups(d);
    return at < up ? fmt::format("{} group {} up", dimension_name, at)
                   : fmt::format("{} group {} down", dimension_name, at - up);
  }
  const std::int64_t at = static_cast<std::int64_t>(link) - d.ports;
  if (!d.mesh) {
    return at < slots_ ? fmt::format("{} {} out", dimension_name, at)
                       : fmt::format("{} {} in", dimension_name, at - slots_);
  }
  const std::int64_t from = at / (d.size - 1);
  const std::int64_t place = from / d.stride % d.size;
  const std::int64_t slot = at % (d.size - 1);
  const std::int64_t peer = slot < place ? slot : slot + 1;
  return fmt::format("{} {} to {}", dimension_name, from, from + (peer - place) * d.stride);
}

void FabricGraph::route(std::int64_t source, std::int64_t destination, Route& route) const {
  assert(source >= 0 && source < slots_ && destination >= 0 && destination < slots_);
  route.count_ = 0;
  unsigned differs = 0;
  std::int64_t a = source;
  std::int64_t b = destination;
  for (std::size_t i = 0; i < dimensions_.size(); ++i) {
    const std::int64_t size = dimensions_[i].size;
    if (size == 1) continue;
    if (a % size != b % size) differs |= 1U << i;
    a /= size;
    b /= size;
  }
  const Planned& planned = plans_[differs];
  route.latency_ = planned.latency;
  route.granule_ = planned.granule;
  const auto use = [&](LinkId link, double share) { route.links_[route.count_++] = {link, share}; };
  const auto slots = static_cast<LinkId>(slots_);
  for (const RoutePlan::Way& way : planned.plan.used()) {
    std::int64_t at = source;
    for (std::size_t step = 0; step < way.count; ++step) {
      const std::size_t i = way.dimensions[step];
      const Dimension& d = dimensions_[i];
      if (d.mesh) {
        const std::int64_t from = at / d.stride % d.size;
        const std::int64_t to = destination / d.stride % d.size;
        use(d.ports + static_cast<LinkId>(at * (d.size - 1) + (to < from ? to : to - 1)),
            way.share);
        at += (to - from) * d.stride;
        continue;
      }
      // Up to the first device of this place, or to the destination's place in its group.
      const std::int64_t group = d.stride * d.size;
      const std::int64_t next =
          reaches_any(system_.fabric[i])
              ? at / group * group + destination % group
              : at + (destination / d.stride % d.size - at / d.stride % d.size) * d.stride;
      use(dimensions_[d.owner].ports + static_cast<LinkId>(at), way.share);
      if (!way.inside) {
        for (std::size_t level = d.owner; level <= i; ++level) {
          const Dimension& pool = dimensions_[level];
          if (pool.pools == kNone) continue;
          use(pool.pools + static_cast<LinkId>(at / pool.stride), way.share);
          use(pool.pools + static_cast<LinkId>(groups(pool) + next / pool.stride), way.share);
        }
      }
      use(dimensions_[d.owner].ports + slots + static_cast<LinkId>(next), way.share);
      at = next;
    }
    assert(at == destination);
  }
}

}  // namespace foretoken::hwmodels
