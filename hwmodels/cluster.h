// The resources of many devices in one task graph: the units of every rank, then the fabric's
// links; and transfers between ranks as tasks on them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hwmodels/fabric_graph.h"
#include "sim/task/task_graph.h"

namespace foretoken::hwmodels {

// Units a rank has to itself, links not among them, in the order of their resources. Lookups in
// host memory go over the fabric's host links.
enum class RankUnit : std::uint8_t { kMatrix, kVector, kMemory, kCache };
inline constexpr std::uint32_t kRankUnits = 4;
inline constexpr std::array<std::string_view, kRankUnits> kRankUnitNames = {"matrix", "vector",
                                                                            "memory", "cache"};

// Numbers the resources: unit u of rank r first, then links. `units` may exceed kRankUnits: what
// lies above is the caller's.
struct ClusterResources {
  std::uint32_t ranks = 0;
  std::uint32_t units = kRankUnits;
  LinkId links = 0;

  [[nodiscard]] task::ResourceId unit(std::uint32_t rank, RankUnit u) const {
    return rank * units + static_cast<std::uint32_t>(u);
  }
  [[nodiscard]] task::ResourceId link(LinkId l) const { return ranks * units + l; }
  [[nodiscard]] bool is_link(task::ResourceId r) const { return r >= ranks * units; }
  [[nodiscard]] std::uint32_t count() const { return ranks * units + links; }
};

// Names for a TaskGraph: "12 matrix", "board_mesh 3 to 4". Units above kRankUnits take `more`.
std::vector<std::string> resource_names(const ClusterResources& resources,
                                        const FabricGraph& fabric,
                                        std::span<const std::string_view> more = {});

// Collects what one task moves between devices: demands on links and the longest flight. Reused
// from task to task.
class Traffic {
 public:
  Traffic(const FabricGraph& fabric, const ClusterResources& resources)
      : fabric_(&fabric), resources_(resources) {}

  void clear() {
    demands_.clear();
    latency_ = 0.0;
  }
  // One message between devices. From a device to itself nothing moves.
  void add(std::int64_t source, std::int64_t destination, double bytes);
  // `bytes` over one link: to or from host memory.
  void add_link(LinkId link, double bytes);

  // May name a link more than once; TaskGraph::add adds up.
  [[nodiscard]] std::span<const task::Demand> demands() const { return demands_; }
  [[nodiscard]] base::Seconds latency() const { return base::Seconds{latency_}; }

 private:
  const FabricGraph* fabric_;
  ClusterResources resources_;
  Route route_;
  std::vector<task::Demand> demands_;
  double latency_ = 0.0;
};

// Adds what `traffic` holds as one task on no queue: its flight, then all its links at once, in
// proportion. `start` is what precedes the flight (a launch).
task::TaskId add_transfer(task::TaskGraph& graph, task::LabelId label, const Traffic& traffic,
                          std::span<const task::TaskId> dependencies,
                          base::Seconds start = base::Seconds{});

}  // namespace foretoken::hwmodels
