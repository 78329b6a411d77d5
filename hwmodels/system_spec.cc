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

namespace {
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
        w.text({"source", "id in configs/sources.yaml"}, d.source);
      },
      {.min = 1, .max = 8});
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
