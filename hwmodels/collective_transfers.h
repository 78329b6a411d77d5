// The algorithms of collectives and expert traffic as transfers between devices, for `simulate`:
// who sends what to whom after which other transfer. The closed forms of collectives.h and
// expert_traffic.h are what these take on a group of like devices.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hwmodels/cluster.h"
#include "hwmodels/collectives.h"
#include "hwmodels/expert_traffic.h"
#include "hwmodels/system_spec.h"

namespace foretoken::hwmodels {

struct Transfer {
  std::int64_t source = 0;
  std::int64_t destination = 0;
  double bytes = 0.0;
  double start = 0.0;  // s before the flight
};

// Transfers in an order in which each comes after those it waits for.
class TransferPlan {
 public:
  using Id = std::uint32_t;

  Id add(const Transfer& transfer, std::span<const Id> after);

  [[nodiscard]] std::span<const Transfer> transfers() const { return transfers_; }
  // What transfer `id` waits for.
  [[nodiscard]] std::span<const Id> after(Id id) const {
    return std::span(after_).subspan(first_[id], first_[id + 1] - first_[id]);
  }

 private:
  std::vector<Transfer> transfers_;
  std::vector<Id> after_;
  std::vector<std::uint32_t> first_{0};
};

// Adds the plan to the graph: each transfer takes its route's links, and those that wait for
// nothing else wait for `dependencies`. Returns the tasks in the plan's order.
std::vector<task::TaskId> add_transfers(task::TaskGraph& graph, task::LabelId label,
                                        const FabricGraph& fabric,
                                        const ClusterResources& resources, const TransferPlan& plan,
                                        std::span<const task::TaskId> dependencies = {});

// Devices 0 to ranks - 1. `hop`: what a step takes besides its flight. `pieces`: the vector is cut
// into so many, which follow each other through the steps; one piece makes dimensions wait for each
// other, many keep all of them busy, as the closed form has it.
//
// Rings in switched dimensions, everyone to everyone in meshes, dimension by dimension: a scatter
// begins with the innermost, a gather with the outermost. `bytes` as in collectives.h. All-to-all
// is one transfer for each pair.
TransferPlan collective_transfers(const SystemSpec& system, CollectiveOp op, double bytes,
                                  std::int64_t ranks, double hop = 0.0, std::int64_t pieces = 1);

// Rows of the low-latency form straight to their rank; of the normal form, first to the device of
// the same place in each scale-up domain, and from there on.
TransferPlan expert_transfers(const Hardware& hardware, const TrafficShape& shape,
                              const TrafficDesign& design, std::int64_t pieces = 1);

}  // namespace foretoken::hwmodels
