// Transfers between devices, simulated on the fabric's links.
#include "hwmodels/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "hwmodels/fabric.h"
#include "sim/engine/simulate.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels {
namespace {

using task::TaskGraph;
using task::Timeline;

struct Message {
  std::int64_t source, destination;
  double bytes;
};

struct Outcome {
  Timeline timeline;
  double busiest = 0.0;  // s a link was busy
};

Outcome run(const FabricGraph& fabric, const std::vector<Message>& messages) {
  const ClusterResources resources{.ranks = 0, .links = fabric.link_count()};
  TaskGraph graph(resource_names(resources, fabric), 0);
  graph.begin_segment(0, 1);
  Traffic traffic(fabric, resources);
  for (const Message& m : messages) {
    traffic.clear();
    traffic.add(m.source, m.destination, m.bytes);
    add_transfer(graph, 0, traffic, {});
  }
  Outcome out;
  engine::simulate(graph, out.timeline);
  for (const base::Seconds busy : out.timeline.busy) {
    out.busiest = std::max(out.busiest, busy.value());
  }
  return out;
}

std::vector<Message> all_to_all_messages(std::int64_t ranks, double bytes) {
  std::vector<Message> out;
  for (std::int64_t a = 0; a < ranks; ++a) {
    for (std::int64_t b = 0; b < ranks; ++b) {
      if (a != b) out.push_back({a, b, bytes / static_cast<double>(ranks - 1)});
    }
  }
  return out;
}

std::vector<Message> random_messages(std::mt19937& random, std::int64_t ranks, int count) {
  std::vector<Message> out;
  for (int i = 0; i < count; ++i) {
    const auto a = static_cast<std::int64_t>(random() % static_cast<unsigned>(ranks));
    const auto b = static_cast<std::int64_t>(random() % static_cast<unsigned>(ranks));
    if (a != b) out.push_back({a, b, 1e4 * static_cast<double>(1 + random() % 1000)});
  }
  return out;
}

TEST(Cluster, ResourcesAreTheUnitsOfEveryRankAndThenTheLinks) {
  const SystemSpec system = test_support::hardware("hgx_h200").system;
  const FabricGraph fabric(system, 1.0, 8);
  const ClusterResources r{.ranks = 8, .links = fabric.link_count()};
  const std::vector<std::string> names = resource_names(r, fabric);
  ASSERT_EQ(names.size(), r.count());
  EXPECT_EQ(names[r.unit(3, RankUnit::kMemory)], "3 memory");
  EXPECT_EQ(names[r.link(2)], "nvlink 2 out");
  EXPECT_FALSE(r.is_link(r.unit(7, RankUnit::kCache)));
  EXPECT_TRUE(r.is_link(r.link(0)));
}

TEST(Cluster, ATransferAloneGetsTheRateOfItsSlowestLink) {
  const SystemSpec system = test_support::hardware("hgx_h200_x4").system;
  const FabricGraph fabric(system, 0.8, 32);
  const Outcome one = run(fabric, {{1, 30, 1e6}});
  // Rails: NVLink to device 6, its NIC to device 30.
  EXPECT_NEAR(one.timeline.total.value(), 4e-6 + 1e6 / (0.8 * 50e9), 1e-15);
}

TEST(Cluster, HalvesOnTwoPathsMoveAtTwiceTheRateOfALink) {
  const SystemSpec system = test_support::hardware("atlas_950_cabinet").system;
  const FabricGraph fabric(system, 1.0, 64);
  EXPECT_NEAR(run(fabric, {{0, 9, 1e6}}).timeline.total.value(), 1.5e-6 + 0.5e6 / 56e9, 1e-15);
}

// The closed form is what simulation finds, on every system in whole groups, on every routing.
TEST(Cluster, TheClosedFormOfAnAllToAllEqualsTheSimulatedOne) {
  int cases = 0;
  for (const std::string& name : list_configs(test_support::configs(), "systems")) {
    Hardware h = test_support::hardware(name);
    const Rates rates = derive_rates(h);
    for (const FabricRouting routing :
         {FabricRouting::kDirect, FabricRouting::kTwoPath, FabricRouting::kAllPath}) {
      h.system.routing = routing;
      std::int64_t ranks = 1;
      for (const FabricDimension& d : h.system.fabric) {
        if (d.size == 1) continue;
        ranks *= d.size;
        if (ranks > 128) break;
        const FabricGraph fabric(h.system, rates.link_efficiency, ranks);
        const LinkTime closed = all_to_all(h, rates, 1e6, ranks);
        const Outcome simulated = run(fabric, all_to_all_messages(ranks, 1e6));
        const double busy = std::max(closed.scale_up, closed.scale_out);
        if (routing == FabricRouting::kAllPath && ranks < 64 &&
            detour_share(h.system, routing) > 0) {
          continue;  // a board has no detours
        }
        EXPECT_NEAR(simulated.busiest, busy, 1e-9 * busy) << name << ' ' << ranks;
        ++cases;
      }
    }
  }
  EXPECT_GT(cases, 60);
}

TEST(Cluster, AUniformAllToAllKeepsItsBusiestLinkBusyFromTheFirstByteToTheLast) {
  for (const char* name :
       {"hgx_h200", "atlas_950_cabinet", "gb200_nvl72", "hgx_h20_141gb_x2", "atlas_a3_server"}) {
    Hardware h = test_support::hardware(name);
    const Rates rates = derive_rates(h);
    const std::int64_t ranks = h.system.devices();
    const FabricGraph fabric(h.system, rates.link_efficiency, ranks);
    const Outcome r = run(fabric, all_to_all_messages(ranks, 64e6));
    const LinkTime closed = all_to_all(h, rates, 64e6, ranks);
    const double busy = std::max(closed.scale_up, closed.scale_out);
    EXPECT_GE(r.timeline.total.value(), busy) << name;
    EXPECT_NEAR(r.timeline.total.value(), busy + closed.latency, 0.01 * busy) << name;
  }
}

TEST(Cluster, SymmetricRanksFinishTogether) {
  const SystemSpec system = test_support::hardware("atlas_950_cabinet").system;
  for (const FabricRouting routing : {FabricRouting::kTwoPath, FabricRouting::kAllPath}) {
    const FabricGraph fabric(system, 1.0, 64, routing);
    const std::vector<Message> messages = all_to_all_messages(64, 63e6);
    const Outcome r = run(fabric, messages);
    std::vector<double> end(64, 0.0);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      double& e = end[static_cast<std::size_t>(messages[i].destination)];
      e = std::max(e, r.timeline.tasks[i].end.value());
    }
    for (const double e : end) EXPECT_NEAR(e, end[0], 1e-12 * end[0]);
  }
}

TEST(Cluster, NoLinkCarriesMoreThanItsRateOverTheTimeItTook) {
  std::mt19937 random(1);
  for (const char* name : {"atlas_950_1024", "hgx_h200_x4", "cloudmatrix384"}) {
    SystemSpec system = test_support::hardware(name).system;
    for (FabricDimension& d : system.fabric) {
      if (d.topology == LinkTopology::kClos) d.oversubscription = {2.0, 2.0, 2.0};
    }
    const std::int64_t ranks = std::min<std::int64_t>(system.devices(), 128);
    const FabricGraph fabric(system, 0.7, ranks, FabricRouting::kAllPath);
    const Outcome r = run(fabric, random_messages(random, ranks, 800));
    EXPECT_LE(r.busiest, r.timeline.total.value());
  }
}

TEST(Cluster, WhatIsSentArrives) {
  std::mt19937 random(2);
  const SystemSpec system = test_support::hardware("atlas_950_1024").system;
  const FabricGraph fabric(system, 0.7, 128, FabricRouting::kAllPath);
  const std::vector<Message> messages = random_messages(random, 128, 500);
  const Outcome r = run(fabric, messages);
  double sent = 0.0;
  for (const Message& m : messages) sent += m.bytes;
  // Into each device: mesh links that end at it and ports in, less what it hands on.
  double net = 0.0;
  std::vector<double> into(128, 0.0);
  for (LinkId link = 0; link < fabric.link_count(); ++link) {
    const double bytes = r.timeline.busy[link].value() * fabric.rate(link);
    const std::string name = fabric.name(link);
    const std::size_t to = name.find(" to ");
    if (to != std::string::npos) {
      const std::size_t from = name.rfind(' ', to - 1);
      into[static_cast<std::size_t>(std::stoi(name.substr(to + 4)))] += bytes;
      into[static_cast<std::size_t>(std::stoi(name.substr(from + 1)))] -= bytes;
    } else {
      const bool in = name.ends_with(" in");
      const std::size_t last = name.rfind(' ');
      const std::size_t number = name.rfind(' ', last - 1);
      into[static_cast<std::size_t>(std::stoi(name.substr(number + 1)))] += in ? bytes : -bytes;
    }
  }
  for (const Message& m : messages) {
    into[static_cast<std::size_t>(m.destination)] -= m.bytes;
    into[static_cast<std::size_t>(m.source)] += m.bytes;
  }
  for (const double left : into) net = std::max(net, std::abs(left));
  EXPECT_LT(net, 1e-9 * sent);
}

TEST(Cluster, TimeNeverFallsWhenADimensionSlows) {
  std::mt19937 random(3);
  for (int round = 0; round < 40; ++round) {
    SystemSpec system =
        test_support::hardware(round % 2 == 0 ? "atlas_950_1024" : "hgx_h200_x4").system;
    const std::int64_t ranks = round % 2 == 0 ? 128 : 32;
    const auto routing = static_cast<FabricRouting>(round % 2);
    // All pairs at once, so that shares do not depend on who started first.
    const std::vector<Message> messages = random_messages(random, ranks, 200);
    const double before =
        run(FabricGraph(system, 1.0, ranks, routing), messages).timeline.total.value();
    FabricDimension& d = system.fabric[random() % system.fabric.size()];
    d.bandwidth = d.bandwidth * (0.3 + 0.6 * static_cast<double>(random() % 100) / 100.0);
    const double after =
        run(FabricGraph(system, 1.0, ranks, routing), messages).timeline.total.value();
    EXPECT_GE(after, before * (1.0 - 1e-9)) << round;
  }
}

TEST(Cluster, ARankTalksToItselfInNoTime) {
  const SystemSpec system = test_support::hardware("hgx_h200").system;
  EXPECT_EQ(run(FabricGraph(system, 1.0, 8), {{3, 3, 1e9}}).timeline.total.value(), 0.0);
}

TEST(Cluster, HostTrafficHoldsTheDevicesHostLink) {
  FabricGraph fabric(test_support::hardware("hgx_h200").system, 1.0, 8);
  fabric.add_host_links(50e9);
  const ClusterResources resources{.ranks = 0, .links = fabric.link_count()};
  TaskGraph graph(resource_names(resources, fabric), 0);
  graph.begin_segment(0, 1);
  Traffic traffic(fabric, resources);
  for (int i = 0; i < 2; ++i) {
    traffic.clear();
    traffic.add_link(fabric.from_host(2), 1e6);
    add_transfer(graph, 0, traffic, {}, base::Seconds{1e-6});
  }
  Timeline t;
  engine::simulate(graph, t);
  EXPECT_NEAR(t.total.value(), 1e-6 + 2e6 / 50e9, 1e-15);
}

}  // namespace
}  // namespace foretoken::hwmodels
