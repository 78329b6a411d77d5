#include "hwmodels/collectives.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>

namespace foretoken::hwmodels {

namespace {

// Structure of the protocols, in steps of one flagged hop; the same on every chip measured.
// A bulk transfer begins with asking for a buffer, its address, the first piece, its fence and the
// semaphore.
constexpr double kBulkStart = 5.0;
// Handing a bulk piece on: cutting a vector into k pieces costs k handovers, and filling the
// pipeline a k-th of its time. The best k costs twice the root of both.
constexpr double kHandover = 0.7;
// The same of a reduction in the switches, which goes up and down, and whose pieces wait for the
// slowest rank each time.
constexpr double kInSwitchHandovers = 16.0;
// A rank of an all-to-all posts its sends one after another.
constexpr double kNextPeer = 0.25;

double pipeline_fill(double handover, double busy) { return 2.0 * std::sqrt(handover * busy); }

double links(const LinkTime& t) { return std::max(t.scale_up, t.scale_out); }

struct Group {
  const Hardware& h;
  const CommunicationRates& c;
  std::int64_t ranks;

  // The dimension a step inside the smallest group takes: the first that leaves the package.
  [[nodiscard]] const FabricDimension& nearest() const {
    const auto& dimensions = h.system.fabric;
    const bool package = dimensions.size() > 1 && ranks > dimensions.front().size &&
                         dimensions.front().size == h.system.devices_per_package;
    return dimensions[package ? 1 : 0];
  }
  [[nodiscard]] double step() const { return c.hop + nearest().latency.value(); }
  [[nodiscard]] double link() const { return nearest().bandwidth.value(); }

  // Calls back with each dimension that has several of the ranks, and how many.
  template <class F>
  void for_each_dimension(F&& visit) const {
    std::int64_t left = ranks;
    for (const FabricDimension& d : h.system.fabric) {
      if (left <= 1) break;
      const std::int64_t extent = std::min(left, d.size);
      left = (left + d.size - 1) / d.size;
      if (extent > 1) visit(d, extent);
    }
  }

  // Steps of a gather or scatter one after another. Neighbours pass pieces round; the devices of a
  // mesh send to all their peers at once; trees join what lies outside the innermost dimension.
  [[nodiscard]] double steps_time() const {
    double time = 0.0;
    bool first = true;
    for_each_dimension([&](const FabricDimension& d, std::int64_t extent) {
      double steps = static_cast<double>(extent - 1);
      if (d.topology == LinkTopology::kFullMesh) {
        steps = 1.0;
      } else if (!first) {
        steps = std::min(steps, 2.0 * std::ceil(std::log2(static_cast<double>(extent))));
      }
      time += steps * (c.hop + d.latency.value());
      first = false;
    });
    return time;
  }

  // Links busy in a gather to, or a scatter of, `bytes`: a dimension joins what the inner ones hold
  // together, so that outer links carry a part for each device inside.
  [[nodiscard]] LinkTime gather(double bytes, double share) const {
    LinkTime out;
    for_each_dimension([&](const FabricDimension& d, std::int64_t extent) {
      const double count = static_cast<double>(extent);
      double rate = d.bandwidth.value() / d.oversubscription.value *
                    (d.scale_up ? share : std::min(share, c.nic));
      if (d.topology == LinkTopology::kFullMesh) {
        rate *= (count - 1.0) / static_cast<double>(d.size - 1);
      }
      double& slot = d.scale_up ? out.scale_up : out.scale_out;
      slot = std::max(slot, bytes * (count - 1.0) / count / rate);
      bytes /= count;
    });
    return out;
  }
};

void keep_faster(CollectiveTime& best, const CollectiveTime& other) {
  if (other.seconds() < best.seconds()) best = other;
}

CollectiveTime ring(const Group& g, double phases, double bytes, bool flagged) {
  CollectiveTime t;
  t.algorithm = CollectiveAlgorithm::kRing;
  t.flagged = flagged;
  t.links = g.gather(bytes, flagged ? g.c.flagged : g.c.bulk);
  t.links.scale_up *= phases;
  t.links.scale_out *= phases;
  t.links.latency = g.c.launch + phases * g.steps_time();
  if (flagged) return t;
  // Cores also write their own part into the result.
  const double n = static_cast<double>(g.ranks);
  const double written = bytes * (phases * (n - 1.0) + 1.0) / n;
  t.links.scale_up = std::max(t.links.scale_up, written / (g.link() * g.c.copy));
  t.links.latency += kBulkStart * g.step() + pipeline_fill(kHandover * g.step(), links(t.links));
  return t;
}

bool adds_in_switch(const Group& g) {
  const FabricDimension& d = g.h.system.fabric.front();
  // A library does not ask the switches for two ranks.
  return d.reduces && g.c.in_switch > 0.0 && g.ranks > 2 && g.ranks <= d.size && d.scale_up &&
         d.topology == LinkTopology::kSwitch;
}

// Each rank's links carry the whole vector up to the switches, once the part it owns reduced, and
// as much back.
CollectiveTime in_switch(const Group& g, double bytes) {
  CollectiveTime t;
  t.algorithm = CollectiveAlgorithm::kInSwitch;
  t.links.scale_up =
      bytes * (1.0 + 1.0 / static_cast<double>(g.ranks)) / (g.link() * g.c.in_switch);
  t.links.latency = g.c.launch + 2.0 * (kBulkStart + 1.0) * g.step() +
                    pipeline_fill(kInSwitchHandovers * kHandover * g.step(), t.links.scale_up);
  return t;
}

CollectiveTime pairs(const Group& g, const Rates& rates, double bytes, bool flagged) {
  const double n = static_cast<double>(g.ranks);
  CollectiveTime t;
  t.algorithm = CollectiveAlgorithm::kPairs;
  t.flagged = flagged;
  const double share = flagged ? g.c.flagged : g.c.bulk;
  t.links = exchange(g.h, rates, bytes * (n - 1.0) / n, g.ranks, share, std::min(share, g.c.nic));
  t.links.scale_up =
      std::max(t.links.scale_up, bytes / n / (flagged ? g.c.flagged_pair_rate : g.c.pair_rate));
  // Posting one send after another; the flights overlap.
  t.links.latency += g.c.launch + g.c.hop + kNextPeer * (n - 1.0) * g.step();
  if (!flagged) {
    t.links.latency += kBulkStart * g.step() + pipeline_fill(kHandover * g.step(), links(t.links));
  }
  return t;
}

}  // namespace

std::string_view to_string(CollectiveAlgorithm algorithm) {
  constexpr std::array<std::string_view, 5> kNames = {"ring", "in_switch", "pairs", "one_shot",
                                                      "two_shot"};
  return kNames[static_cast<std::size_t>(algorithm)];
}

double CollectiveTime::seconds() const {
  return std::max(links.scale_up, links.scale_out) + links.latency;
}

LinkTime exchange(const Hardware& h, const Rates& rates, double bytes, std::int64_t ranks,
                  double scale_up_share, double scale_out_share) {
  LinkTime t = all_to_all(h, rates, bytes, ranks);
  t.scale_up *= rates.link_efficiency / scale_up_share;
  t.scale_out *= rates.link_efficiency / scale_out_share;
  return t;
}

CollectiveTime library_collective(const Hardware& h, const Rates& rates, CollectiveOp op,
                                  double bytes, std::int64_t ranks) {
  CollectiveTime best;
  if (ranks <= 1) return best;
  // Throws when there are not so many devices.
  (void)all_to_all(h, rates, bytes, ranks);
  const Group g{h, rates.communication, ranks};
  if (op == CollectiveOp::kAllToAll) {
    best = pairs(g, rates, bytes, true);
    keep_faster(best, pairs(g, rates, bytes, false));
    return best;
  }
  const double phases = op == CollectiveOp::kAllReduce ? 2.0 : 1.0;
  best = ring(g, phases, bytes, true);
  keep_faster(best, ring(g, phases, bytes, false));
  if (op == CollectiveOp::kAllReduce && adds_in_switch(g)) keep_faster(best, in_switch(g, bytes));
  return best;
}

CollectiveTime fused_collective(const Hardware& h, const Rates& rates, CollectiveOp op,
                                double bytes, std::int64_t ranks) {
  CollectiveTime best;
  if (ranks <= 1) return best;
  const double share = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  const auto shot = [&](CollectiveAlgorithm algorithm, double sent, double rounds) {
    CollectiveTime t;
    t.algorithm = algorithm;
    t.links = exchange(h, rates, sent, ranks, rates.link_efficiency, rates.communication.nic);
    t.links.latency = rounds * (t.links.latency + rates.collective);
    return t;
  };
  switch (op) {
    case CollectiveOp::kAllReduce:
      best = shot(CollectiveAlgorithm::kOneShot, bytes * static_cast<double>(ranks - 1), 1.0);
      keep_faster(best, shot(CollectiveAlgorithm::kTwoShot, 2.0 * bytes * share, 2.0));
      break;
    case CollectiveOp::kAllGather:
    case CollectiveOp::kReduceScatter:
      best = shot(CollectiveAlgorithm::kOneShot, bytes * share, 1.0);
      break;
    case CollectiveOp::kAllToAll:
      best = shot(CollectiveAlgorithm::kPairs, bytes * share, 1.0);
      break;
  }
  return best;
}

CollectiveTime fastest_collective(const Hardware& h, const Rates& rates, CollectiveOp op,
                                  double bytes, std::int64_t ranks) {
  CollectiveTime library = library_collective(h, rates, op, bytes, ranks);
  library.links.latency = std::max(0.0, library.links.latency - rates.launch);
  const CollectiveTime fused = fused_collective(h, rates, op, bytes, ranks);
  return fused.seconds() < library.seconds() ? fused : library;
}

}  // namespace foretoken::hwmodels
