#include "hwmodels/system_spec.h"

namespace foretoken::hwmodels {

using base::ConfigVisitor;
using base::Need;
using base::UnitKind;

std::int64_t SystemSpec::devices() const {
  std::int64_t product = 1;
  for (const FabricDimension& d : fabric) product *= d.size;
  return product;
}

std::int64_t SystemSpec::scale_up_domain() const {
  std::int64_t product = 1;
  for (const FabricDimension& d : fabric) {
    if (d.scale_up) product *= d.size;
  }
  return product;
}

const FabricDimension& SystemSpec::outside_package() const {
  std::int64_t product = 1;
  for (const FabricDimension& d : fabric) {
    product *= d.size;
    if (product > devices_per_package) return d;
  }
  return fabric.back();
}

namespace {
constexpr std::array<std::string_view, 3> kRoutingNames = {"direct", "two_path", "all_path"};
constexpr std::array<std::string_view, 3> kTopologyNames = {"switch", "full_mesh", "clos"};
constexpr std::int64_t kMostDevices = 1'048'576;
}  // namespace

void describe(ConfigVisitor& v, SystemSpec& system) {
  v.text({"name", "the name other files use; equals the file's name"}, system.name);
  v.text({"title", "the name people use"}, system.title);
  v.text({"chip", "name of a file in configs/chips"}, system.chip);
  v.integer({"devices_per_package", "dies that run a rank of their own, per package"},
            system.devices_per_package, {.min = 1, .max = 16});
  v.integer({"devices_per_node", "devices under one host"}, system.devices_per_node,
            {.min = 1, .max = 1024});
  base::list(
      v, {"fabric", "dimensions, innermost first; their sizes multiply to the device count"},
      system.fabric,
      [](ConfigVisitor& w, FabricDimension& d) {
        w.text({"name", "of the links"}, d.name);
        base::choice(w, {"topology", "how the size members are joined"}, d.topology,
                     kTopologyNames);
        w.integer({"size", "devices, or groups of the inner dimensions, it joins"}, d.size,
                  {.min = 1, .max = kMostDevices});
        base::quantity(w, {"bandwidth", "per device and direction, all ports of this dimension"},
                       d.bandwidth);
        base::quantity(w, {"latency", "one way, device to device"}, d.latency);
        w.ranged({"oversubscription", "of the upper levels; 1 is non-blocking", Need::kOptional},
                 d.oversubscription, UnitKind::kNumber,
                 {.min = 1.0, .max = 64.0, .open_low = false});
        w.boolean({"scale_up", "memory semantics, inside the super-node"}, d.scale_up);
        w.boolean({"rails", "a port reaches only those of the same place in the other groups",
                   Need::kOptional},
                  d.rails);
        w.boolean(
            {"shares_ports", "a switch level above the dimension inside it, through its ports",
             Need::kOptional},
            d.shares_ports);
        w.boolean({"reduces", "its switches can add up what passes through them", Need::kOptional},
                  d.reduces);
        base::quantity(w,
                       {"granularity", "a message takes a whole number of these", Need::kOptional},
                       d.granularity);
        const bool switched = d.topology != LinkTopology::kFullMesh;
        w.check(switched || !d.rails, "rails", "a full mesh has no rails");
        w.check(switched || !d.shares_ports, "shares_ports", "a full mesh has links of its own");
        w.check(switched || !d.reduces, "reduces", "a full mesh has no switches");
        w.text({"source", "id in configs/sources.yaml"}, d.source);
      },
      {.min = 1, .max = kMostDimensions});
  bool has_inner_ports = true;
  for (std::size_t i = 0; i < system.fabric.size(); ++i) {
    if (!system.fabric[i].shares_ports) continue;
    has_inner_ports = has_inner_ports && i > 0 && !system.fabric[i].rails &&
                      !system.fabric[i - 1].rails &&
                      system.fabric[i - 1].topology != LinkTopology::kFullMesh;
  }
  v.check(has_inner_ports, "fabric",
          "shares_ports needs a switched dimension without rails just inside");
  base::choice(v, {"routing", "ways through the fabric", Need::kOptional}, system.routing,
               kRoutingNames);
  std::int64_t devices = 1;
  bool small_enough = true;
  for (const FabricDimension& d : system.fabric) {
    devices *= d.size;
    if (devices > kMostDevices) {
      small_enough = false;
      break;
    }
  }
  v.check(small_enough, "fabric", "the sizes multiply to more than 1048576 devices");
  base::group(v, {"host", "memory of the hosts"}, [&] {
    base::quantity(v, {"memory_per_device", "host memory usable per device"}, system.host_memory,
                   base::kNonNegative);
    v.text({"source", "id in configs/sources.yaml"}, system.host_source);
  });
  base::group(v, {"power", "at full load"}, [&] {
    v.ranged({"per_device", "host, network and conversion share included"}, system.power_watts,
             UnitKind::kWatts, {});
    v.text({"source", "id in configs/sources.yaml"}, system.power_source);
  });
  v.text({"note", "what a reader must know", Need::kOptional}, system.note);
}

}  // namespace foretoken::hwmodels
