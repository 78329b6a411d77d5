// A system's fabric as directed links, and which of them a transfer takes: what traffic is
// simulated on. docs/fabrics.md says what is assumed.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hwmodels/system_spec.h"

namespace foretoken::hwmodels {

// Dimensions a transfer goes through, in order, on each of the ways it takes. Follows from the set
// of dimensions in which its ends differ.
struct RoutePlan {
  struct Way {
    double share = 1.0;  // of the bytes
    std::uint8_t count = 0;
    std::array<std::uint8_t, kMostDimensions> dimensions{};
    // Turns round in the first switch of its only dimension: both ends are in one group of it.
    bool inside = false;
  };
  std::array<Way, 3> ways;
  std::uint8_t count = 0;

  [[nodiscard]] std::span<const Way> used() const { return {ways.data(), count}; }
};

// Bit d of `differs` says that the ends differ in dimension d. `detour` is the share of a transfer
// between devices of a mesh that are no neighbours which all_path sends through switches.
RoutePlan plan_route(const SystemSpec& system, FabricRouting routing, double detour,
                     unsigned differs);

// The share with which a uniform all-to-all among the devices of the meshes keeps mesh links and
// switch ports busy equally long: 0 where routing is not all_path or the system has no two meshes
// inside a switched dimension.
double detour_share(const SystemSpec& system, FabricRouting routing);

// Seconds from the first byte sent to the first received, on the slowest way.
double flight(const SystemSpec& system, const RoutePlan& plan);

// The dimension whose ports a transfer through switched dimension `d` uses.
std::size_t port_owner(const SystemSpec& system, std::size_t d);

// Whether the links from the groups inside dimension `d` up to its switches can hold traffic back.
bool has_pools(const SystemSpec& system, std::size_t d);

using LinkId = std::uint32_t;

struct LinkShare {
  LinkId link = 0;
  double share = 1.0;  // of the transfer's bytes
};

// Links of one transfer. A link may stand in it twice.
class Route {
 public:
  static constexpr std::size_t kMost = std::size_t{12} * kMostDimensions;

  [[nodiscard]] std::span<const LinkShare> links() const { return {links_.data(), count_}; }
  [[nodiscard]] double latency() const { return latency_; }  // s
  // What a message of `bytes` occupies: a whole number of granules of the coarsest dimension.
  [[nodiscard]] double padded(double bytes) const {
    return granule_ <= 1.0 ? bytes : std::ceil(bytes / granule_) * granule_;
  }

 private:
  friend class FabricGraph;
  std::array<LinkShare, kMost> links_;
  std::size_t count_ = 0;
  double latency_ = 0.0;
  double granule_ = 1.0;  // B
};

// Directed links of the first `devices` devices (rounded up so that every device a route passes is
// there). A switched dimension has a port out and a port in per device; a full mesh a link for
// every ordered pair of a group; a switched dimension that is oversubscribed also one pool of links
// up and one down per group of the dimensions inside it. Memory grows with devices, not with pairs.
class FabricGraph {
 public:
  // Throws UnsupportedError when the system has fewer devices.
  FabricGraph(const SystemSpec& system, double link_efficiency, std::int64_t devices,
              FabricRouting routing);
  FabricGraph(const SystemSpec& system, double link_efficiency, std::int64_t devices)
      : FabricGraph(system, link_efficiency, devices, system.routing) {}

  // Adds a link to and a link from host memory for every device, of `rate` bytes per second each.
  void add_host_links(double rate);

  [[nodiscard]] std::int64_t devices() const { return devices_; }
  [[nodiscard]] LinkId link_count() const { return static_cast<LinkId>(rates_.size()); }
  [[nodiscard]] double rate(LinkId link) const { return rates_[link]; }  // B/s
  // Index into the system's dimensions; kHost for host links.
  static constexpr std::size_t kHost = kMostDimensions;
  [[nodiscard]] std::size_t dimension(LinkId link) const;
  [[nodiscard]] std::string name(LinkId link) const;
  [[nodiscard]] LinkId to_host(std::int64_t device) const;
  [[nodiscard]] LinkId from_host(std::int64_t device) const;
  [[nodiscard]] bool has_host_links() const { return host_first_ != kNone; }

  // Replaces `route` by the links from one device to another: none, and no latency, to itself.
  void route(std::int64_t source, std::int64_t destination, Route& route) const;

  [[nodiscard]] const SystemSpec& system() const { return system_; }
  [[nodiscard]] FabricRouting routing() const { return routing_; }
  [[nodiscard]] double detour() const { return detour_; }

 private:
  static constexpr LinkId kNone = 0xffffffffu;
  struct Dimension {
    std::int64_t size = 1;
    std::int64_t stride = 1;  // devices of the dimensions inside it
    bool mesh = false;
    std::size_t owner = 0;
    LinkId ports = kNone;  // mesh links, or ports out followed by ports in
    LinkId pools = kNone;  // up, followed by down
    LinkId end = 0;
  };
  struct Planned {
    RoutePlan plan;
    double latency = 0.0;
    double granule = 1.0;
  };

  LinkId add_links(std::int64_t count, double rate);
  [[nodiscard]] std::int64_t groups(const Dimension& d) const {
    return (slots_ + d.stride - 1) / d.stride;
  }

  SystemSpec system_;
  FabricRouting routing_;
  double detour_;
  std::int64_t devices_;
  std::int64_t slots_ = 1;  // devices that have links
  std::vector<Dimension> dimensions_;
  std::vector<Planned> plans_;  // by the set of dimensions in which the ends differ
  std::vector<double> rates_;
  LinkId host_first_ = kNone;
};

}  // namespace foretoken::hwmodels
