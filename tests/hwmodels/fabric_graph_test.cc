// Links and routes, by hand and over all systems.
#include "hwmodels/fabric_graph.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "hwmodels/fabric.h"
#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

using testing::ElementsAre;
using testing::Pair;

FabricDimension dimension(const char* name, LinkTopology topology, std::int64_t size,
                          double gigabytes_per_second, double microseconds = 1.0) {
  FabricDimension d;
  d.name = name;
  d.topology = topology;
  d.size = size;
  d.bandwidth = base::BytesPerSecond{gigabytes_per_second * 1e9};
  d.latency = base::Seconds{microseconds * 1e-6};
  return d;
}

SystemSpec system_of(std::vector<FabricDimension> fabric) {
  SystemSpec s;
  s.name = "sketch";
  s.fabric = std::move(fabric);
  return s;
}

// A board mesh, a mesh of boards, a Clos of cabinets: the Atlas 950 with small cabinets.
SystemSpec cabinets(std::int64_t side = 4, std::int64_t cabinet_count = 2) {
  const double ports = 56.0 * static_cast<double>(side - 1);
  return system_of({dimension("x", LinkTopology::kFullMesh, side, ports, 0.75),
                    dimension("y", LinkTopology::kFullMesh, side, ports, 0.75),
                    dimension("clos", LinkTopology::kClos, cabinet_count, 224, 1.5)});
}

// Two nodes of four devices on a switch, joined by their NICs.
SystemSpec nodes(bool rails) {
  SystemSpec s = system_of({dimension("nvlink", LinkTopology::kSwitch, 4, 450),
                            dimension("nic", LinkTopology::kSwitch, 2, 50, 3.0)});
  s.fabric[1].scale_up = false;
  s.fabric[1].rails = rails;
  return s;
}

std::map<std::string, double> shares(const FabricGraph& graph, std::int64_t from, std::int64_t to) {
  Route route;
  graph.route(from, to, route);
  std::map<std::string, double> out;
  for (const LinkShare& l : route.links()) out[graph.name(l.link)] += l.share;
  return out;
}

double latency(const FabricGraph& graph, std::int64_t from, std::int64_t to) {
  Route route;
  graph.route(from, to, route);
  return route.latency();
}

TEST(FabricGraph, ASwitchIsAPortOutAndAPortInPerDevice) {
  const FabricGraph graph(system_of({dimension("nvlink", LinkTopology::kSwitch, 8, 450)}), 0.8, 8);
  EXPECT_EQ(graph.link_count(), 16U);
  EXPECT_THAT(shares(graph, 2, 5),
              ElementsAre(Pair("nvlink 2 out", 1.0), Pair("nvlink 5 in", 1.0)));
  Route route;
  graph.route(2, 5, route);
  for (const LinkShare& l : route.links()) EXPECT_DOUBLE_EQ(graph.rate(l.link), 360e9);
  EXPECT_DOUBLE_EQ(route.latency(), 1e-6);
}

TEST(FabricGraph, NothingMovesFromADeviceToItself) {
  const FabricGraph graph(cabinets(), 1.0, 32);
  for (const std::int64_t device : {0, 17, 31}) {
    EXPECT_TRUE(shares(graph, device, device).empty());
    EXPECT_EQ(latency(graph, device, device), 0.0);
  }
}

TEST(FabricGraph, AMeshHasALinkPerOrderedPair) {
  const FabricGraph graph(system_of({dimension("x", LinkTopology::kFullMesh, 4, 168)}), 1.0, 4);
  EXPECT_EQ(graph.link_count(), 12U);
  EXPECT_THAT(shares(graph, 3, 1), ElementsAre(Pair("x 3 to 1", 1.0)));
  EXPECT_THAT(shares(graph, 1, 3), ElementsAre(Pair("x 1 to 3", 1.0)));
  Route route;
  graph.route(0, 3, route);
  EXPECT_DOUBLE_EQ(graph.rate(route.links()[0].link), 56e9);
}

TEST(FabricGraph, DirectGoesAlongTheInnerMeshFirst) {
  const FabricGraph graph(cabinets(), 1.0, 16, FabricRouting::kDirect);
  // From (1, 0) to (3, 2).
  EXPECT_THAT(shares(graph, 1, 11), ElementsAre(Pair("x 1 to 3", 1.0), Pair("y 3 to 11", 1.0)));
  EXPECT_DOUBLE_EQ(latency(graph, 1, 11), 1.5e-6);
}

TEST(FabricGraph, TwoPathsCarryHalfEach) {
  const FabricGraph graph(cabinets(), 1.0, 16, FabricRouting::kTwoPath);
  EXPECT_THAT(shares(graph, 1, 11), ElementsAre(Pair("x 1 to 3", 0.5), Pair("x 9 to 11", 0.5),
                                                Pair("y 1 to 9", 0.5), Pair("y 3 to 11", 0.5)));
  // Neighbours have their own link.
  EXPECT_THAT(shares(graph, 1, 3), ElementsAre(Pair("x 1 to 3", 1.0)));
}

TEST(FabricGraph, AllPathBalancesAUniformAllToAllOverMeshesAndSwitchPorts) {
  const SystemSpec cabinet = cabinets(8, 1);
  // 49 of 63 peers are no neighbours: 49 f / 224 = (7 + 49 (1 - f)) / 392.
  const double expected = (1.0 / 7.0) / (49.0 / 224.0 + 49.0 / 392.0);
  EXPECT_DOUBLE_EQ(detour_share(cabinet, FabricRouting::kAllPath), expected);
  EXPECT_NEAR(expected, 0.4156, 5e-5);
  EXPECT_EQ(detour_share(cabinet, FabricRouting::kTwoPath), 0.0);

  const FabricGraph graph(cabinet, 1.0, 64, FabricRouting::kAllPath);
  const auto links = shares(graph, 0, 9);
  EXPECT_DOUBLE_EQ(links.at("clos 0 out"), expected);
  EXPECT_DOUBLE_EQ(links.at("clos 9 in"), expected);
  EXPECT_DOUBLE_EQ(links.at("x 0 to 1"), 0.5 * (1.0 - expected));
  EXPECT_EQ(links.size(), 6U);
  EXPECT_EQ(shares(graph, 0, 1).size(), 1U);
}

TEST(FabricGraph, AllPathWithoutSwitchesAroundTheMeshesIsTwoPath) {
  SystemSpec meshes = cabinets();
  meshes.fabric.pop_back();
  EXPECT_EQ(detour_share(meshes, FabricRouting::kAllPath), 0.0);
  const FabricGraph all(meshes, 1.0, 16, FabricRouting::kAllPath);
  const FabricGraph two(meshes, 1.0, 16, FabricRouting::kTwoPath);
  EXPECT_EQ(shares(all, 0, 5), shares(two, 0, 5));
}

TEST(FabricGraph, AClosLeadsStraightToADeviceInAnotherGroup) {
  const FabricGraph graph(cabinets(), 1.0, 32);
  EXPECT_THAT(shares(graph, 1, 16 + 11),
              ElementsAre(Pair("clos 1 out", 1.0), Pair("clos 27 in", 1.0)));
  EXPECT_DOUBLE_EQ(latency(graph, 1, 27), 1.5e-6);
}

TEST(FabricGraph, OversubscribedUpLinksArePoolsOfAGroup) {
  SystemSpec s = cabinets();
  s.fabric[2].oversubscription = {2.0, 2.0, 2.0};
  const FabricGraph graph(s, 0.5, 32);
  EXPECT_THAT(shares(graph, 1, 27),
              ElementsAre(Pair("clos 1 out", 1.0), Pair("clos 27 in", 1.0),
                          Pair("clos group 0 up", 1.0), Pair("clos group 1 down", 1.0)));
  Route route;
  graph.route(1, 27, route);
  EXPECT_DOUBLE_EQ(graph.rate(route.links()[0].link), 112e9);
  EXPECT_DOUBLE_EQ(graph.rate(route.links()[1].link), 16 * 224e9 / 2.0 * 0.5);
}

TEST(FabricGraph, WithRailsATransferFirstGoesToTheDeviceOfTheDestinationsPlace) {
  const FabricGraph rails(nodes(true), 1.0, 8);
  EXPECT_THAT(shares(rails, 1, 6),
              ElementsAre(Pair("nic 2 out", 1.0), Pair("nic 6 in", 1.0), Pair("nvlink 1 out", 1.0),
                          Pair("nvlink 2 in", 1.0)));
  EXPECT_DOUBLE_EQ(latency(rails, 1, 6), 4e-6);
  EXPECT_EQ(shares(rails, 2, 6).size(), 2U);
  const FabricGraph any(nodes(false), 1.0, 8);
  EXPECT_THAT(shares(any, 1, 6), ElementsAre(Pair("nic 1 out", 1.0), Pair("nic 6 in", 1.0)));
  EXPECT_DOUBLE_EQ(latency(any, 1, 6), 3e-6);
}

TEST(FabricGraph, ASecondSwitchLevelUsesThePortsOfTheFirst) {
  const SystemSpec s = test_support::hardware("cloudmatrix384").system;
  const FabricGraph graph(s, 1.0, 768);
  EXPECT_THAT(shares(graph, 0, 1), ElementsAre(Pair("package 0 to 1", 1.0)));
  EXPECT_THAT(shares(graph, 0, 5),
              ElementsAre(Pair("unified_bus 0 out", 1.0), Pair("unified_bus 5 in", 1.0)));
  EXPECT_THAT(shares(graph, 0, 767),
              ElementsAre(Pair("unified_bus 0 out", 1.0), Pair("unified_bus 767 in", 1.0)));
  EXPECT_LT(latency(graph, 0, 1), latency(graph, 0, 5));
  EXPECT_LT(latency(graph, 0, 5), latency(graph, 0, 767));
  EXPECT_EQ(graph.link_count(), 768U + 2U * 768U);
}

TEST(FabricGraph, UpLinksOfASharedLevelLimitItsGroup) {
  SystemSpec s = test_support::hardware("cloudmatrix384").system;
  s.fabric[2].oversubscription = {4.0, 4.0, 4.0};
  const FabricGraph graph(s, 1.0, 768);
  const auto links = shares(graph, 0, 767);
  EXPECT_EQ(links.count("unified_bus_l2 group 0 up"), 1U);
  EXPECT_EQ(links.count("unified_bus_l2 group 47 down"), 1U);
  EXPECT_EQ(shares(graph, 0, 5).size(), 2U);
}

TEST(FabricGraph, EveryRouteLeadsFromItsSourceToItsDestination) {
  for (const std::string& name : list_configs(test_support::configs(), "systems")) {
    const SystemSpec s = test_support::hardware(name).system;
    const std::int64_t devices = std::min<std::int64_t>(s.devices(), 192);
    for (const FabricRouting routing :
         {FabricRouting::kDirect, FabricRouting::kTwoPath, FabricRouting::kAllPath}) {
      const FabricGraph graph(s, 1.0, devices, routing);
      for (std::int64_t to = 0; to < devices; to += 7) {
        for (std::int64_t from = 0; from < devices; from += 5) {
          if (from == to) continue;
          Route route;
          graph.route(from, to, route);
          // As many bytes leave the source and reach the destination as are sent.
          double first = 0.0;
          double last = 0.0;
          for (const LinkShare& l : route.links()) {
            ASSERT_LT(l.link, graph.link_count());
            const std::string link = graph.name(l.link);
            if (link.find(fmt::format(" {} ", from)) != std::string::npos) first += l.share;
            if (link.ends_with(fmt::format(" to {}", to)) ||
                link.ends_with(fmt::format(" {} in", to))) {
              last += l.share;
            }
          }
          ASSERT_NEAR(first, 1.0, 1e-12) << name << ' ' << from << ' ' << to;
          ASSERT_NEAR(last, 1.0, 1e-12) << name << ' ' << from << ' ' << to;
          ASSERT_GT(route.latency(), 0.0);
        }
      }
    }
  }
}

TEST(FabricGraph, ItGrowsWithDevicesAndNotWithPairs) {
  const SystemSpec s = test_support::hardware("atlas_950_8192").system;
  const FabricGraph graph(s, 1.0, 8192);
  EXPECT_EQ(graph.link_count(), 8192U * (14U + 2U));
}

TEST(FabricGraph, APartOfAMeshStillHasTheDevicesThatRoutesPass) {
  const FabricGraph graph(cabinets(), 1.0, 6);
  // From (1, 1) to (2, 0), half of it through device 6 = (2, 1).
  EXPECT_THAT(shares(graph, 5, 2), testing::Contains(Pair("x 5 to 6", 0.5)));
}

TEST(FabricGraph, HostLinksAreOneEachWayPerDevice) {
  FabricGraph graph(nodes(false), 1.0, 8);
  EXPECT_FALSE(graph.has_host_links());
  const LinkId before = graph.link_count();
  graph.add_host_links(64e9);
  EXPECT_EQ(graph.link_count(), before + 16);
  EXPECT_EQ(graph.name(graph.to_host(3)), "host 3 out");
  EXPECT_EQ(graph.name(graph.from_host(3)), "host 3 in");
  EXPECT_EQ(graph.dimension(graph.to_host(3)), FabricGraph::kHost);
  EXPECT_EQ(graph.rate(graph.from_host(0)), 64e9);
}

TEST(FabricGraph, AMessageTakesWholeGranulesOfTheCoarsestDimension) {
  SystemSpec s = cabinets();
  s.fabric[1].granularity = base::Bytes{128.0};
  const FabricGraph graph(s, 1.0, 16);
  Route route;
  graph.route(0, 1, route);
  EXPECT_EQ(route.padded(100.0), 100.0);
  graph.route(0, 5, route);
  EXPECT_EQ(route.padded(100.0), 128.0);
  EXPECT_EQ(route.padded(128.0), 128.0);
  EXPECT_EQ(route.padded(129.0), 256.0);
}

TEST(FabricGraph, MoreDevicesThanThereAreIsAnErrorThatCountsBoth) {
  EXPECT_EQ(base::thrown<base::UnsupportedError>([] { FabricGraph(nodes(true), 1.0, 9); }),
            "sketch has 8 devices; 9 are needed");
}

}  // namespace
}  // namespace foretoken::hwmodels
