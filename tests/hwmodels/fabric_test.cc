// Traffic on fabrics, by hand.
#include "hwmodels/fabric.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hwmodels/collectives.h"
#include "hwmodels/fabric_graph.h"
#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

namespace w = workloads;

constexpr double kMegabyte = 1e6;

FabricDimension dimension(LinkTopology topology, std::int64_t size, double gigabytes_per_second,
                          bool scale_up = true) {
  FabricDimension d;
  d.topology = topology;
  d.size = size;
  d.bandwidth = base::BytesPerSecond{gigabytes_per_second * 1e9};
  d.latency = base::Seconds{1e-6};
  d.scale_up = scale_up;
  return d;
}

Hardware with(std::vector<FabricDimension> fabric) {
  Hardware h;
  h.system.name = "sketch";
  h.system.fabric = std::move(fabric);
  return h;
}

Hardware two_meshes() {
  return with(
      {dimension(LinkTopology::kFullMesh, 8, 392), dimension(LinkTopology::kFullMesh, 8, 392)});
}

Hardware four_boards(bool rails = true) {
  Hardware h = with(
      {dimension(LinkTopology::kSwitch, 8, 450), dimension(LinkTopology::kSwitch, 4, 50, false)});
  h.system.fabric[1].rails = rails;
  return h;
}

const Rates kPerfect = [] {
  Rates r;
  r.link_efficiency = 1.0;
  return r;
}();

TEST(AllToAll, AMeshOfMeshesCarriesSevenEighthsOfTheTrafficInEachDimension) {
  const LinkTime t = all_to_all(two_meshes(), kPerfect, 63 * kMegabyte, 64);
  // 64 MB with the part kept; 56 MB change their column, and as many their row.
  EXPECT_DOUBLE_EQ(t.scale_up, 56e6 / 392e9);
  EXPECT_EQ(t.scale_out, 0.0);
  EXPECT_DOUBLE_EQ(t.latency, 2e-6);
}

TEST(AllToAll, TheCabinetMovesAsItsPortMapSays) {
  const Hardware h = test_support::hardware("atlas_950_cabinet");
  const LinkTime t = all_to_all(h, kPerfect, 63 * kMegabyte, 64);
  EXPECT_DOUBLE_EQ(t.scale_up, 56e6 / 392e9);
  EXPECT_DOUBLE_EQ(t.latency, 1.5e-6);
}

TEST(AllToAll, ASwitchCarriesEveryByteOnce) {
  const Hardware h = with({dimension(LinkTopology::kSwitch, 8, 450)});
  for (const std::int64_t ranks : {2, 4, 8}) {
    EXPECT_NEAR(all_to_all(h, kPerfect, kMegabyte, ranks).scale_up, 1e6 / 450e9, 1e-18);
  }
}

TEST(AllToAll, APartOfAMeshUsesOnlyTheLinksToItsPeers) {
  // Four of eight: three links of 56 GB/s carry a third of the traffic each.
  const LinkTime t = all_to_all(two_meshes(), kPerfect, 3 * kMegabyte, 4);
  EXPECT_DOUBLE_EQ(t.scale_up, 1e6 / 56e9);
  EXPECT_DOUBLE_EQ(t.latency, 1e-6);
}

TEST(AllToAll, AcrossNodesTheNetworkCardsCarryWhatLeavesTheNode) {
  const LinkTime t = all_to_all(four_boards(), kPerfect, 31 * kMegabyte, 32);
  EXPECT_DOUBLE_EQ(t.scale_up, 28e6 / 450e9);
  EXPECT_DOUBLE_EQ(t.scale_out, 24e6 / 50e9);
  const LinkTime half = all_to_all(four_boards(), kPerfect, 15 * kMegabyte, 16);
  EXPECT_DOUBLE_EQ(half.scale_out, 8e6 / 50e9);
}

TEST(AllToAll, WithoutRailsWhatLeavesTheNodeStaysOffItsSwitch) {
  const LinkTime t = all_to_all(four_boards(false), kPerfect, 31 * kMegabyte, 32);
  EXPECT_DOUBLE_EQ(t.scale_up, 7e6 / 450e9);
  EXPECT_DOUBLE_EQ(t.scale_out, 24e6 / 50e9);
  EXPECT_DOUBLE_EQ(t.latency, 1e-6);
}

TEST(AllToAll, AllPathSharesTheTrafficOfACabinetBetweenMeshesAndClosPorts) {
  Hardware h = test_support::hardware("atlas_950_cabinet");
  h.system.routing = FabricRouting::kAllPath;
  const double before = 56e6 / 392e9;
  const double detour = detour_share(h.system, FabricRouting::kAllPath);
  const LinkTime t = all_to_all(h, kPerfect, 63 * kMegabyte, 64);
  EXPECT_NEAR(t.scale_up, 49e6 * detour / 224e9, 1e-15);
  EXPECT_NEAR(t.scale_up, before * (1.0 - 0.875 * detour), 1e-15);
}

TEST(AllToAll, ASwitchLevelAboveUsesTheSamePorts) {
  // 15 peers: one in the package, fourteen through the ports, of which none are lost to levels.
  const Hardware node = test_support::hardware("atlas_a3_server");
  const LinkTime t = all_to_all(node, kPerfect, 15 * kMegabyte, 16);
  EXPECT_DOUBLE_EQ(t.scale_up, 14e6 / 196e9);
  const Hardware pod = test_support::hardware("cloudmatrix384");
  EXPECT_DOUBLE_EQ(all_to_all(pod, kPerfect, 767 * kMegabyte, 768).scale_up, 766e6 / 196e9);
}

TEST(AllToAll, OneRankMovesNothing) {
  const LinkTime t = all_to_all(two_meshes(), kPerfect, kMegabyte, 1);
  EXPECT_EQ(t.scale_up + t.scale_out + t.latency, 0.0);
}

TEST(AllToAll, MoreRanksThanDevicesIsAnErrorThatCountsBoth) {
  EXPECT_EQ(base::thrown<base::UnsupportedError>(
                [] { all_to_all(two_meshes(), kPerfect, kMegabyte, 65); }),
            "sketch has 64 devices; 65 are needed");
}

TEST(AllToAll, HalfTheBandwidthTakesTwiceAsLong) {
  Hardware slow = two_meshes();
  for (FabricDimension& d : slow.system.fabric) d.bandwidth = d.bandwidth * 0.5;
  EXPECT_DOUBLE_EQ(all_to_all(slow, kPerfect, kMegabyte, 64).scale_up,
                   2.0 * all_to_all(two_meshes(), kPerfect, kMegabyte, 64).scale_up);
  Rates half = kPerfect;
  half.link_efficiency = 0.5;
  EXPECT_DOUBLE_EQ(all_to_all(two_meshes(), half, kMegabyte, 64).scale_up,
                   2.0 * all_to_all(two_meshes(), kPerfect, kMegabyte, 64).scale_up);
}

TEST(AllToAll, OversubscriptionDividesTheBandwidth) {
  Hardware h = with({dimension(LinkTopology::kClos, 96, 400)});
  const double before = all_to_all(h, kPerfect, kMegabyte, 96).scale_up;
  h.system.fabric[0].oversubscription = {2.0, 2.0, 2.0};
  EXPECT_DOUBLE_EQ(all_to_all(h, kPerfect, kMegabyte, 96).scale_up, 2.0 * before);
}

TEST(AllToAll, TheSlowestDimensionOfAKindDecides) {
  Hardware h = two_meshes();
  h.system.fabric[1].bandwidth = base::BytesPerSecond{196e9};
  EXPECT_DOUBLE_EQ(all_to_all(h, kPerfect, 63 * kMegabyte, 64).scale_up, 56e6 / 196e9);
}

TEST(AllReduce, SmallVectorsGoInOneShotAndLargeOnesInTwo) {
  const Hardware h = with({dimension(LinkTopology::kSwitch, 8, 450)});
  const LinkTime small = fused_collective(h, kPerfect, CollectiveOp::kAllReduce, 1e3, 8).links;
  EXPECT_DOUBLE_EQ(small.scale_up, 7e3 / 450e9);  // everything to seven others
  EXPECT_DOUBLE_EQ(small.latency, 1e-6);
  const LinkTime large = fused_collective(h, kPerfect, CollectiveOp::kAllReduce, 100e6, 8).links;
  EXPECT_DOUBLE_EQ(large.scale_up, 2.0 * 100e6 * 7.0 / 8.0 / 450e9);
  EXPECT_GE(large.latency, 2e-6);
}

TEST(AllReduce, AnEighthMoreBytesNeverTakesLess) {
  const Hardware h = test_support::hardware("hgx_h200");
  const Rates r = derive_rates(h);
  double last = 0.0;
  for (double bytes = 1e3; bytes < 1e9; bytes *= 1.125) {
    const Cost c = cost(
        w::Collective{w::CollectiveKind::kAllReduce, static_cast<std::int64_t>(bytes), 8}, h, r);
    const double time = c[Unit::kScaleUp] + c.latency;
    EXPECT_GE(time, last) << bytes;
    last = time;
  }
}

TEST(AllReduce, OneRankIsFree) {
  const LinkTime t =
      fused_collective(two_meshes(), kPerfect, CollectiveOp::kAllReduce, kMegabyte, 1).links;
  EXPECT_EQ(t.scale_up + t.scale_out + t.latency, 0.0);
}

TEST(AllGather, EveryRankSendsItsPartToAllOthers) {
  const Hardware h = with({dimension(LinkTopology::kSwitch, 8, 450)});
  EXPECT_DOUBLE_EQ(
      fused_collective(h, kPerfect, CollectiveOp::kAllGather, 8 * kMegabyte, 8).links.scale_up,
      7e6 / 450e9);
}

TEST(Send, UsesOneLinkOfTheDimensionInWhichTheNeighbourLies) {
  EXPECT_DOUBLE_EQ(send(two_meshes(), kPerfect, kMegabyte, 1).scale_up, 1e6 / 56e9);
  EXPECT_DOUBLE_EQ(send(two_meshes(), kPerfect, kMegabyte, 8).scale_up, 1e6 / 56e9);
  const LinkTime inside = send(four_boards(), kPerfect, kMegabyte, 4);
  EXPECT_DOUBLE_EQ(inside.scale_up, 1e6 / 450e9);
  EXPECT_EQ(inside.scale_out, 0.0);
  const LinkTime outside = send(four_boards(), kPerfect, kMegabyte, 8);
  EXPECT_EQ(outside.scale_up, 0.0);
  EXPECT_DOUBLE_EQ(outside.scale_out, 1e6 / 50e9);
  EXPECT_DOUBLE_EQ(outside.latency, 1e-6);
}

}  // namespace
}  // namespace foretoken::hwmodels
