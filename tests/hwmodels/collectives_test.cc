// Collectives in closed form, by hand and over the shipped systems.
#include "hwmodels/collectives.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

constexpr CollectiveOp kAll[] = {CollectiveOp::kAllReduce, CollectiveOp::kAllGather,
                                 CollectiveOp::kReduceScatter, CollectiveOp::kAllToAll};

Hardware with(std::vector<FabricDimension> fabric) {
  Hardware h;
  h.system.name = "sketch";
  h.system.fabric = std::move(fabric);
  return h;
}

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

Hardware eight() { return with({dimension(LinkTopology::kSwitch, 8, 400)}); }

// Launch 5 us, a step 2 us (one of flight), half of the link with flags and 0.8 without.
Rates round() {
  Rates r;
  r.link_efficiency = 0.5;
  r.communication.launch = 5e-6;
  r.communication.hop = 1e-6;
  r.communication.flagged = 0.5;
  r.communication.bulk = 0.8;
  return r;
}

TEST(LibraryCollective, ARingTakesAStepForEachOtherRankAndTwiceThatToReduceAndGather) {
  const CollectiveTime gather =
      library_collective(eight(), round(), CollectiveOp::kAllGather, 8e3, 8);
  EXPECT_EQ(gather.algorithm, CollectiveAlgorithm::kRing);
  EXPECT_TRUE(gather.flagged);
  EXPECT_NEAR(gather.seconds(), 5e-6 + 7 * 2e-6 + 7e3 / 200e9, 1e-12);
  const CollectiveTime reduce =
      library_collective(eight(), round(), CollectiveOp::kAllReduce, 8e3, 8);
  EXPECT_NEAR(reduce.seconds(), 5e-6 + 14 * 2e-6 + 14e3 / 200e9, 1e-12);
}

TEST(LibraryCollective, LargeVectorsGoInBulkAndWaitAtEachHandOver) {
  const CollectiveTime t =
      library_collective(eight(), round(), CollectiveOp::kReduceScatter, 800e6, 8);
  EXPECT_FALSE(t.flagged);
  const double busy = 700e6 / 320e9;
  EXPECT_NEAR(t.links.scale_up, busy, 1e-12);
  // Five steps to begin, seven round, and pieces of the best size at 0.7 steps each.
  EXPECT_NEAR(t.links.latency, 5e-6 + (5 + 7) * 2e-6 + 2.0 * std::sqrt(0.7 * 2e-6 * busy), 1e-12);
}

TEST(LibraryCollective, CoresThatWriteSlowerThanTheLinkDecide) {
  Rates r = round();
  r.communication.copy = 0.5;
  r.communication.flagged = 0.1;
  // Two ranks: half of the vector is sent and half copied.
  const CollectiveTime t = library_collective(eight(), r, CollectiveOp::kAllGather, 800e6, 2);
  EXPECT_NEAR(t.links.scale_up, 800e6 / 200e9, 1e-12);
}

TEST(LibraryCollective, SwitchesThatAddCarryEachVectorUpAndOnePartBack) {
  Rates r = round();
  EXPECT_NE(library_collective(eight(), r, CollectiveOp::kAllReduce, 800e6, 8).algorithm,
            CollectiveAlgorithm::kInSwitch);
  r.communication.in_switch = 0.75;
  EXPECT_NE(library_collective(eight(), r, CollectiveOp::kAllReduce, 800e6, 8).algorithm,
            CollectiveAlgorithm::kInSwitch);
  Hardware adding = eight();
  adding.system.fabric[0].reduces = true;
  const CollectiveTime t = library_collective(adding, r, CollectiveOp::kAllReduce, 800e6, 8);
  EXPECT_EQ(t.algorithm, CollectiveAlgorithm::kInSwitch);
  EXPECT_NEAR(t.links.scale_up, 900e6 / 300e9, 1e-12);
  EXPECT_EQ(library_collective(adding, r, CollectiveOp::kAllReduce, 800e6, 2).algorithm,
            CollectiveAlgorithm::kRing);
}

TEST(LibraryCollective, PairsAreBoundByTheCoresThatServeOnePeer) {
  Rates r = round();
  r.communication.pair_rate = 100e9;
  r.communication.flagged = 0.1;
  const CollectiveTime two = library_collective(eight(), r, CollectiveOp::kAllToAll, 800e6, 2);
  EXPECT_NEAR(two.links.scale_up, 400e6 / 100e9, 1e-12);
  const CollectiveTime all = library_collective(eight(), r, CollectiveOp::kAllToAll, 800e6, 8);
  EXPECT_NEAR(all.links.scale_up, 700e6 / 320e9, 1e-12);
}

TEST(LibraryCollective, AMeshSendsToAllPeersAtOnce) {
  const Hardware mesh = with({dimension(LinkTopology::kFullMesh, 8, 400)});
  const CollectiveTime t = library_collective(mesh, round(), CollectiveOp::kAllGather, 8e3, 8);
  EXPECT_NEAR(t.seconds(), 5e-6 + 2e-6 + 7e3 / 200e9, 1e-12);
  // Half of the mesh has three of seven links.
  const CollectiveTime half = library_collective(mesh, round(), CollectiveOp::kAllGather, 800e6, 4);
  EXPECT_NEAR(half.links.scale_up, 600e6 / (320e9 * 3.0 / 7.0), 1e-12);
}

TEST(LibraryCollective, OuterLinksCarryOnePartForEachDeviceInside) {
  const Hardware h = with(
      {dimension(LinkTopology::kSwitch, 8, 400), dimension(LinkTopology::kSwitch, 4, 50, false)});
  Rates r = round();
  r.communication.nic = 0.9;
  const CollectiveTime t = library_collective(h, r, CollectiveOp::kAllGather, 800e6, 32);
  EXPECT_NEAR(t.links.scale_out, 75e6 / (50e9 * 0.8), 1e-12);
}

TEST(FusedCollective, SmallVectorsGoInOneShotAndLargeOnesInTwo) {
  Rates r = round();
  r.collective = 3e-6;
  const CollectiveTime small = fused_collective(eight(), r, CollectiveOp::kAllReduce, 1e3, 8);
  EXPECT_EQ(small.algorithm, CollectiveAlgorithm::kOneShot);
  EXPECT_NEAR(small.seconds(), 4e-6 + 7e3 / 200e9, 1e-12);
  const CollectiveTime large = fused_collective(eight(), r, CollectiveOp::kAllReduce, 100e6, 8);
  EXPECT_EQ(large.algorithm, CollectiveAlgorithm::kTwoShot);
  EXPECT_NEAR(large.seconds(), 8e-6 + 175e6 / 200e9, 1e-12);
}

TEST(FastestCollective, NoneIsFasterThanTheLinks) {
  for (const char* system : {"hgx_h200", "hgx_a100", "gb300_nvl72", "cloudmatrix384"}) {
    const Hardware h = test_support::hardware(system);
    const Rates r = derive_rates(h);
    double rate = 0.0;
    for (const FabricDimension& d : h.system.fabric) rate += d.bandwidth.value();
    for (const CollectiveOp op : kAll) {
      for (const std::int64_t ranks : {2, 4, 8}) {
        for (double bytes = 1e3; bytes < 1e10; bytes *= 4.0) {
          const double least =
              bytes * static_cast<double>(ranks - 1) / static_cast<double>(ranks) / rate;
          EXPECT_GT(fastest_collective(h, r, op, bytes, ranks).seconds(), least)
              << system << " " << ranks << " " << bytes;
        }
      }
    }
  }
}

TEST(LibraryCollective, MoreBytesASlowerLinkAndLongerFlightsNeverTakeLess) {
  for (const char* system : {"hgx_h200", "hgx_a100", "gb200_nvl72", "atlas_950_cabinet"}) {
    const Hardware h = test_support::hardware(system);
    const Rates r = derive_rates(h);
    Hardware slow = h;
    Hardware far = h;
    for (FabricDimension& d : slow.system.fabric) d.bandwidth = d.bandwidth * 0.9;
    for (FabricDimension& d : far.system.fabric) d.latency = d.latency * 1.5;
    for (const CollectiveOp op : kAll) {
      for (const std::int64_t ranks : {2, 4, 8}) {
        double last = 0.0;
        for (double bytes = 256.0; bytes < 4e9; bytes *= 1.25) {
          const double t = library_collective(h, r, op, bytes, ranks).seconds();
          EXPECT_GE(t, last) << system << " " << ranks << " " << bytes;
          last = t;
          EXPECT_GE(library_collective(slow, r, op, bytes, ranks).seconds(), t);
          EXPECT_GT(library_collective(far, r, op, bytes, ranks).seconds(), t);
        }
      }
    }
  }
}

TEST(LibraryCollective, MoreRanksOfASwitchNeverTakeLessOnAVectorOfOneSize) {
  const Hardware h = test_support::hardware("gb200_nvl72");
  Rates r = derive_rates(h);
  r.communication.copy = 100.0;  // the cores of two ranks are slower than the links
  r.communication.pair_rate = r.communication.flagged_pair_rate = 1e15;
  for (const CollectiveOp op : {CollectiveOp::kAllGather, CollectiveOp::kAllToAll}) {
    for (double bytes = 1e3; bytes < 1e9; bytes *= 10.0) {
      double last = 0.0;
      for (std::int64_t ranks = 2; ranks <= 72; ++ranks) {
        const double t = library_collective(h, r, op, bytes, ranks).seconds();
        EXPECT_GE(t, last * (1.0 - 1e-12)) << ranks << " " << bytes;
        last = t;
      }
    }
  }
}

TEST(LibraryCollective, OneRankIsFreeAndMoreThanThereAreIsAnError) {
  for (const CollectiveOp op : kAll) {
    EXPECT_EQ(library_collective(eight(), round(), op, 1e6, 1).seconds(), 0.0);
    EXPECT_EQ(base::thrown<base::UnsupportedError>(
                  [&] { library_collective(eight(), round(), op, 1e6, 9); }),
              "sketch has 8 devices; 9 are needed");
  }
}

}  // namespace
}  // namespace foretoken::hwmodels
