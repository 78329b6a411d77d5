// Collectives on a system's fabric in closed form: which algorithm and protocol a library takes,
// and how long it needs. docs/collectives.md has the formulas.
#pragma once

#include <cstdint>
#include <string_view>

#include "hwmodels/fabric.h"
#include "hwmodels/hardware.h"

namespace foretoken::hwmodels {

enum class CollectiveOp : std::uint8_t { kAllReduce, kAllGather, kReduceScatter, kAllToAll };

enum class CollectiveAlgorithm : std::uint8_t {
  kRing,      // neighbour to neighbour, dimension by dimension
  kInSwitch,  // the switches add and multicast
  kPairs,     // every rank to every other
  kOneShot,   // one kernel: everyone reads everything
  kTwoShot,   // one kernel: reduce-scatter, then all-gather
};
std::string_view to_string(CollectiveAlgorithm algorithm);

struct CollectiveTime {
  CollectiveAlgorithm algorithm = CollectiveAlgorithm::kRing;
  bool flagged = false;  // small pieces that carry their flags, half of whose bytes are flags
  // Busy time of the links, and of what else bounds the flow (copying cores) as if it were links of
  // the innermost dimension. latency: launch, steps, flight, and pieces waiting for each other.
  LinkTime links;

  [[nodiscard]] double seconds() const;
};

// `bytes` is the whole vector: what is reduced, what a gather ends with, what a scatter begins
// with, what one rank of an all-to-all holds, its own part included. Ranks fill the innermost
// dimension first. Throws UnsupportedError when the system has fewer devices.

// The fastest of the library's algorithms and protocols, launch included.
CollectiveTime library_collective(const Hardware& hardware, const Rates& rates, CollectiveOp op,
                                  double bytes, std::int64_t ranks);

// The fastest of the kernels that engines bring along: no library call, one floor. Its launch is
// the caller's.
CollectiveTime fused_collective(const Hardware& hardware, const Rates& rates, CollectiveOp op,
                                double bytes, std::int64_t ranks);

// The faster of both, without a kernel's launch.
CollectiveTime fastest_collective(const Hardware& hardware, const Rates& rates, CollectiveOp op,
                                  double bytes, std::int64_t ranks);

// all_to_all with shares of the link's rate of its own inside and outside the scale-up domain.
LinkTime exchange(const Hardware& hardware, const Rates& rates, double bytes, std::int64_t ranks,
                  double scale_up_share, double scale_out_share);

}  // namespace foretoken::hwmodels
