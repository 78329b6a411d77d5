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

struct FabricDimension {
  std::string name;
  LinkTopology topology = LinkTopology::kSwitch;
  std::int64_t size = 1;           // devices (or groups of the inner dimensions) it joins
  base::BytesPerSecond bandwidth;  // per device and direction, all its ports of this dimension
  base::Seconds latency;           // one way, device to device
  base::Ranged oversubscription{1.0, 1.0, 1.0};
  bool scale_up = true;  // load/store memory semantics (inside the super-node)
  std::string source;
};

struct SystemSpec {
  std::string name;
  std::string title;
  std::string chip;                      // configs/chips/<chip>.yaml
  std::int64_t devices_per_package = 1;  // a device is what runs one rank
  std::int64_t devices_per_node = 1;     // devices under one host
  std::vector<FabricDimension> fabric;   // innermost first; the sizes multiply to the device count
  base::Bytes host_memory;               // per device
  std::string host_source;
  base::Ranged power_watts;  // per device, host and network share included, full load
  std::string power_source;
  std::string note;

  [[nodiscard]] std::int64_t devices() const;
  // Devices that reach each other with memory semantics: the product of the scale-up dimensions.
  [[nodiscard]] std::int64_t scale_up_domain() const;
};

void describe(base::ConfigVisitor& v, SystemSpec& system);

}  // namespace foretoken::hwmodels
