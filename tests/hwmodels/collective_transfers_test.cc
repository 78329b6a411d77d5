// Collectives as transfers, simulated, against their closed forms.
#include "hwmodels/collective_transfers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "sim/engine/simulate.h"
#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

constexpr CollectiveOp kRings[] = {CollectiveOp::kAllReduce, CollectiveOp::kAllGather,
                                   CollectiveOp::kReduceScatter};

// Nothing lost and no times but flights: what is left of a closed form is links and steps.
Rates perfect() {
  Rates r;
  r.core_memory = 1e18;
  r.communication.flagged = 1.0;
  r.communication.bulk = 1.0;
  return r;
}

task::Timeline simulated(const SystemSpec& system, std::int64_t ranks, const TransferPlan& plan) {
  const FabricGraph fabric(system, 1.0, ranks);
  const ClusterResources resources{.ranks = 0, .links = fabric.link_count()};
  task::TaskGraph graph(resource_names(resources, fabric), 0);
  graph.begin_segment(0, 1);
  add_transfers(graph, 0, fabric, resources, plan);
  task::Timeline timeline;
  engine::simulate(graph, timeline);
  return timeline;
}

double busiest(const task::Timeline& t) {
  double most = 0.0;
  for (const base::Seconds busy : t.busy) most = std::max(most, busy.value());
  return most;
}

struct Place {
  const char* system;
  std::int64_t ranks;
};

TEST(CollectiveTransfers, InOneDimensionSimulationTakesTheClosedForm) {
  // Switches of 8 and 72, a board's mesh, a Clos.
  for (const Place p :
       {Place{"hgx_h200", 2}, Place{"hgx_h200", 8}, Place{"gb200_nvl72", 72},
        Place{"atlas_950_cabinet", 8}, Place{"atlas_950_cabinet", 4}, Place{"atlas_850e", 32}}) {
    const Hardware h = test_support::hardware(p.system);
    for (const CollectiveOp op : kRings) {
      for (const double bytes : {1e4, 1e8}) {
        Rates r = perfect();
        r.communication.hop = 0.5e-6;
        const CollectiveTime closed = library_collective(h, r, op, bytes, p.ranks);
        ASSERT_TRUE(closed.flagged);
        const task::Timeline t =
            simulated(h.system, p.ranks,
                      collective_transfers(h.system, op, bytes, p.ranks, r.communication.hop));
        EXPECT_NEAR(t.total.value(), closed.seconds(), 1e-9 * closed.seconds())
            << p.system << ' ' << p.ranks << ' ' << static_cast<int>(op);
      }
    }
  }
}

TEST(CollectiveTransfers, AnAllToAllTakesTheClosedForm) {
  for (const Place p : {Place{"hgx_h200", 8}, Place{"hgx_h200_x4", 32},
                        Place{"atlas_950_cabinet", 64}, Place{"cloudmatrix384", 32}}) {
    const Hardware h = test_support::hardware(p.system);
    const double bytes = 64e6;
    const task::Timeline t = simulated(
        h.system, p.ranks, collective_transfers(h.system, CollectiveOp::kAllToAll, bytes, p.ranks));
    const double sent = bytes * static_cast<double>(p.ranks - 1) / static_cast<double>(p.ranks);
    const LinkTime closed = exchange(h, perfect(), sent, p.ranks, 1.0, 1.0);
    const double busy = std::max(closed.scale_up, closed.scale_out);
    EXPECT_NEAR(busiest(t), busy, 1e-9 * busy) << p.system;
    EXPECT_LE(t.total.value(), busy + closed.latency + 0.2 * busy) << p.system;
  }
}

TEST(CollectiveTransfers, InManyPiecesAllDimensionsAreBusyAtOnce) {
  for (const Place p : {Place{"atlas_950_cabinet", 64}, Place{"hgx_h200_x4", 32}}) {
    const Hardware h = test_support::hardware(p.system);
    const double bytes = 256e6;
    const CollectiveTime closed =
        library_collective(h, perfect(), CollectiveOp::kAllGather, bytes, p.ranks);
    const double busy = std::max(closed.links.scale_up, closed.links.scale_out);
    const auto seconds = [&](std::int64_t pieces) {
      return simulated(h.system, p.ranks,
                       collective_transfers(h.system, CollectiveOp::kAllGather, bytes, p.ranks, 0.0,
                                            pieces))
          .total.value();
    };
    EXPECT_GT(seconds(1), 1.05 * busy) << p.system;
    EXPECT_GE(seconds(16), busy) << p.system;
    // A piece leaves once the one before has arrived: its flight, of 4 us at most, is the handover.
    EXPECT_LT(seconds(16), 1.1 * busy + closed.links.latency + 16 * 4e-6) << p.system;
    EXPECT_LT(seconds(16), seconds(1)) << p.system;
  }
}

TEST(CollectiveTransfers, EveryRankSendsAndGetsWhatTheOperatorCounts) {
  for (const Place p : {Place{"hgx_h200_x4", 32}, Place{"atlas_950_cabinet", 64}}) {
    const SystemSpec system = test_support::hardware(p.system).system;
    for (const CollectiveOp op : kRings) {
      const TransferPlan plan = collective_transfers(system, op, 64e6, p.ranks, 0.0, 2);
      std::map<std::int64_t, double> sent;
      std::map<std::int64_t, double> got;
      for (const Transfer& t : plan.transfers()) {
        sent[t.source] += t.bytes;
        got[t.destination] += t.bytes;
      }
      const double phases = op == CollectiveOp::kAllReduce ? 2.0 : 1.0;
      const double n = static_cast<double>(p.ranks);
      for (std::int64_t rank = 0; rank < p.ranks; ++rank) {
        EXPECT_NEAR(sent[rank], phases * 64e6 * (n - 1.0) / n, 1.0);
        EXPECT_NEAR(got[rank], sent[rank], 1.0);
      }
    }
  }
}

TrafficShape layer(std::int64_t ranks, std::int64_t tokens) {
  TrafficShape s;
  s.tokens = tokens;
  s.topk = 8.0;
  s.experts = 256;
  s.hidden = 7168;
  s.ranks = ranks;
  return s;
}

TEST(ExpertTransfers, InsideADomainSimulationTakesTheClosedForm) {
  for (const Place p : {Place{"hgx_h200", 8}, Place{"gb200_nvl72", 32}, Place{"atlas_850e", 32},
                        Place{"atlas_950_cabinet", 8}, Place{"cloudmatrix384", 16}}) {
    const Hardware h = test_support::hardware(p.system);
    for (const TrafficForm form : {TrafficForm::kLowLatency, TrafficForm::kNormal}) {
      Rates r = perfect();
      r.communication.core_copy = 1e18;
      const TrafficTime closed = expert_traffic(h, r, layer(p.ranks, 4096), {.form = form});
      const task::Timeline t =
          simulated(h.system, p.ranks, expert_transfers(h, layer(p.ranks, 4096), {.form = form}));
      EXPECT_NEAR(busiest(t), closed.links.scale_up, 1e-9 * closed.links.scale_up)
          << p.system << ' ' << static_cast<int>(form);
      EXPECT_GE(t.total.value(), closed.links.scale_up);
      EXPECT_LE(t.total.value(), closed.seconds() + 0.05 * closed.links.scale_up) << p.system;
    }
  }
}

TEST(ExpertTransfers, BetweenNodesRowsAreForwardedWhileOthersArrive) {
  const Hardware h = test_support::hardware("hgx_h200_x4");
  const TrafficDesign normal{.form = TrafficForm::kNormal};
  const TrafficTime closed = expert_traffic(h, perfect(), layer(32, 4096), normal);
  const auto seconds = [&](std::int64_t pieces) {
    return simulated(h.system, 32, expert_transfers(h, layer(32, 4096), normal, pieces))
        .total.value();
  };
  EXPECT_GT(seconds(1), closed.links.scale_out + 0.9 * closed.links.scale_up);
  EXPECT_GE(seconds(16), closed.links.scale_out);
  EXPECT_LT(seconds(16), 1.08 * closed.seconds());
}

TEST(CollectiveTransfers, PartsOfGroupsAreRefused) {
  const SystemSpec system = test_support::hardware("hgx_h200_x4").system;
  EXPECT_THAT(base::thrown<base::UnsupportedError>(
                  [&] { collective_transfers(system, CollectiveOp::kAllGather, 1e6, 12); }),
              testing::HasSubstr("parts of groups"));
}

}  // namespace
}  // namespace foretoken::hwmodels
