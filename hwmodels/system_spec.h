// A system as data: how many chips, how they are joined, what feeds them. Files:
// configs/systems/*.yaml.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hwmodels/chip_spec.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels {

// One dimension of the fabric. Devices are numbered with the first dimension fastest.
enum class LinkTopology : std::uint8_t {
  kSwitch,    // every device one hop from every other, non-blocking
  kFullMesh,  // a direct link to each of the size - 1 peers
  kClos,      // switched in levels, with `oversubscription`
};

// Which links a transfer takes where several ways lead to its destination.
enum class FabricRouting : std::uint8_t {
  kDirect,   // one way: dimension by dimension, innermost first
  kTwoPath,  // half of the bytes through the meshes in that order, half in the opposite one
  kAllPath,  // and, between devices of a mesh that are no neighbours, part of them through the
             // ports of the switched dimension outside the meshes
};

struct FabricDimension {
  std::string name;
  LinkTopology topology = LinkTopology::kSwitch;
  std::int64_t size = 1;           // devices (or groups of the inner dimensions) it joins
  base::BytesPerSecond bandwidth;  // per device and direction, all its ports of this dimension
  base::Seconds latency;           // one way, device to device
  base::Ranged oversubscription{1.0, 1.0, 1.0};
  bool scale_up = true;  // load/store memory semantics (inside the super-node)
  // A port reaches only the ports of the same place in the other groups; a transfer to another
  // place first goes over the inner dimensions to the device of that place.
  bool rails = false;
  // The level above the switches of the dimension inside it: a transfer leaves through that
  // dimension's ports.
  bool shares_ports = false;
  bool reduces = false;          // its switches can add up what passes through them
  base::Bytes granularity{1.0};  // a message takes a whole number of these
  std::string source;
};

inline constexpr std::size_t kMostDimensions = 8;

struct SystemSpec {
  std::string name;
  std::string title;
  std::string chip;                      // configs/chips/<chip>.yaml
  std::int64_t devices_per_package = 1;  // a device is what runs one rank
  std::int64_t devices_per_node = 1;     // devices under one host
  std::vector<FabricDimension> fabric;   // innermost first; the sizes multiply to the device count
  FabricRouting routing = FabricRouting::kTwoPath;
  base::Bytes host_memory;  // per device
  std::string host_source;
  base::Ranged power_watts;  // per device, host and network share included, full load
  std::string power_source;
  std::string note;

  [[nodiscard]] std::int64_t devices() const;
  // Devices that reach each other with memory semantics: the product of the scale-up dimensions.
  [[nodiscard]] std::int64_t scale_up_domain() const;
  // The innermost dimension that leaves the package.
  [[nodiscard]] const FabricDimension& outside_package() const;
};

void describe(base::ConfigVisitor& v, SystemSpec& system);

}  // namespace foretoken::hwmodels
