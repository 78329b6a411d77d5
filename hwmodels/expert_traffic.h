// Tokens to the ranks of their experts and results back, in closed form: which bytes cross which
// links, who copies them, and how long it takes. docs/collectives.md has the formulas.
#pragma once

#include <cstdint>

#include "hwmodels/fabric.h"
#include "hwmodels/hardware.h"
#include "workloads/dtype.h"

namespace foretoken::hwmodels {

enum class TrafficForm : std::uint8_t {
  kLowLatency,  // a row for each (token, expert) pair, straight to the expert's buffer
  kNormal,      // a row for each rank, one for each node over the network, forwarded inside
};
enum class TrafficTransport : std::uint8_t {
  kPush,  // the sender writes rows and then counts
  kPull,  // counts first, then the receiver reads: one more flight, nothing announced per row
};
enum class CopyEngine : std::uint8_t { kCores, kCollectiveEngine };

// How a library moves rows.
struct TrafficDesign {
  TrafficForm form = TrafficForm::kLowLatency;
  TrafficTransport transport = TrafficTransport::kPush;
  CopyEngine engine = CopyEngine::kCores;
  // Cores that copy, taken from compute meanwhile; 0: all of them in the low-latency form, 24 (or
  // all, if fewer) in the normal one. The collective engine takes none.
  std::int64_t cores = 0;
  // Whether cores move rows with bulk copies that bypass their registers: a core then passes what
  // its port does.
  bool bulk_copies = false;
};

// One rank's share of an evenly routed layer.
struct TrafficShape {
  bool combine = false;
  std::int64_t tokens = 1;  // of this rank
  double topk = 1.0;
  std::int64_t experts = 0;  // of the layer; 0: many
  std::int64_t hidden = 1;
  workloads::Dtype element = workloads::Dtype::kFp8;
  std::int64_t ranks = 1;
};

struct TrafficTime {
  TrafficForm form = TrafficForm::kLowLatency;
  LinkTime links;      // latency: start, flight, announcements
  double cores = 0.0;  // s that the copying cores are busy
  double cores_taken = 0.0;
  double row_bytes = 0.0;
  // Rows of one rank's tokens, those that stay included: sent, to different ranks, to different
  // scale-up domains.
  double rows = 0.0;
  double rank_rows = 0.0;
  double node_rows = 0.0;

  [[nodiscard]] double seconds() const;
};

// A dispatched row of the low-latency form begins with the index of its token. B.
inline constexpr double kTrafficRowHeader = 16.0;

// Bytes of a row with its scales: FP8 has 4 B for 128 elements, INT8 4 B a row.
double traffic_row_bytes(workloads::Dtype element, std::int64_t hidden);

// Expected number of different groups among `groups` equal ones that a token's `topk` different
// experts of `experts` lie in, all choices alike; experts 0: many.
double distinct_groups(std::int64_t groups, double topk, std::int64_t experts);

// Throws UnsupportedError when the system has fewer devices, or the chip no such engine.
TrafficTime expert_traffic(const Hardware& hardware, const Rates& rates, const TrafficShape& shape,
                           const TrafficDesign& design);

// The faster form of those a library has, copied by cores.
TrafficTime fastest_traffic(const Hardware& hardware, const Rates& rates,
                            const TrafficShape& shape);

}  // namespace foretoken::hwmodels
