// Dispatch and combine in closed form: counts against enumeration, times by hand.
#include "hwmodels/expert_traffic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <set>

#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

using workloads::Dtype;

// Mean number of groups over all choices of `topk` of `experts`.
double enumerated(int groups, int topk, int experts) {
  double sum = 0.0;
  double choices = 0.0;
  for (unsigned mask = 0; mask < 1U << experts; ++mask) {
    if (std::popcount(mask) != topk) continue;
    std::set<int> hit;
    for (int e = 0; e < experts; ++e) {
      if ((mask >> e & 1U) != 0) hit.insert(e / (experts / groups));
    }
    sum += static_cast<double>(hit.size());
    choices += 1.0;
  }
  return sum / choices;
}

TEST(DistinctGroups, EqualsTheMeanOverAllChoices) {
  for (const int groups : {2, 4, 8, 16}) {
    for (const int topk : {1, 2, 3, 6, 8}) {
      EXPECT_NEAR(distinct_groups(groups, topk, 16), enumerated(groups, topk, 16), 1e-9)
          << groups << " " << topk;
    }
  }
}

TEST(DistinctGroups, ManyExpertsAreChosenIndependently) {
  EXPECT_NEAR(distinct_groups(8, 8.0, 0), 8.0 * (1.0 - std::pow(7.0 / 8.0, 8.0)), 1e-12);
  EXPECT_NEAR(distinct_groups(8, 8.0, 1'000'000), distinct_groups(8, 8.0, 0), 1e-4);
  EXPECT_EQ(distinct_groups(1, 8.0, 256), 1.0);
}

TEST(TrafficRowBytes, HoldScales) {
  EXPECT_EQ(traffic_row_bytes(Dtype::kFp8, 7168), 7168.0 + 224.0);
  EXPECT_EQ(traffic_row_bytes(Dtype::kInt8, 7168), 7172.0);
  EXPECT_EQ(traffic_row_bytes(Dtype::kBf16, 7168), 14336.0);
  EXPECT_EQ(traffic_row_bytes(Dtype::kFp4, 7168), 3584.0 + 224.0);
}

Hardware boards(std::int64_t nodes) {
  Hardware h;
  h.system.name = "sketch";
  h.chip.name = "round";
  h.chip.cores = 100;
  FabricDimension d;
  d.size = 8;
  d.bandwidth = base::BytesPerSecond{400e9};
  d.latency = base::Seconds{1e-6};
  FabricDimension nic = d;
  nic.size = nodes;
  nic.bandwidth = base::BytesPerSecond{50e9};
  nic.latency = base::Seconds{3e-6};
  nic.scale_up = false;
  h.system.fabric = {d, nic};
  return h;
}

Rates round() {
  Rates r;
  r.core_memory = 100e9;
  r.communication.expert_start = 10e-6;
  r.communication.rows = 0.5;
  r.communication.bulk = 0.8;
  return r;
}

TrafficShape shape(std::int64_t ranks, std::int64_t tokens, bool combine = false) {
  TrafficShape s;
  s.combine = combine;
  s.tokens = tokens;
  s.topk = 8;
  s.experts = 256;
  s.hidden = 7168;
  s.element = combine ? Dtype::kBf16 : Dtype::kFp8;
  s.ranks = ranks;
  return s;
}

TEST(ExpertTraffic, LowLatencySendsARowForEachPair) {
  const TrafficTime t = expert_traffic(boards(1), round(), shape(8, 128), {});
  EXPECT_EQ(t.rows, 1024.0);
  EXPECT_NEAR(t.links.scale_up, 1024.0 * 7.0 / 8.0 * 7408.0 / 200e9, 1e-12);
  EXPECT_NEAR(t.links.latency, 11e-6, 1e-12);
  const TrafficTime back = expert_traffic(boards(1), round(), shape(8, 128, true), {});
  EXPECT_NEAR(back.links.scale_up, 1024.0 * 7.0 / 8.0 * 14336.0 / 200e9, 1e-12);
}

TEST(ExpertTraffic, SmallRowsAreBoundByTheMessagesOfTheNetworkCard) {
  Rates r = round();
  TrafficShape s = shape(16, 128);
  const double rows = 512.0;  // half of the ranks are in the other node
  EXPECT_NEAR(expert_traffic(boards(2), r, s, {}).links.scale_out, rows * 7408.0 / 50e9, 1e-12);
  r.communication.nic_message = 1e-6;
  const TrafficTime t = expert_traffic(boards(2), r, s, {});
  EXPECT_NEAR(t.links.scale_out, rows * 1e-6, 1e-12);
  // And 128 experts there are told their counts.
  EXPECT_NEAR(t.links.latency - expert_traffic(boards(2), round(), s, {}).links.latency, 128e-6,
              1e-12);
}

TEST(ExpertTraffic, NormalSendsARowForEachRankAndOverTheNetworkForEachNode) {
  const TrafficDesign normal{.form = TrafficForm::kNormal};
  const TrafficTime one = expert_traffic(boards(1), round(), shape(8, 4096), normal);
  const double ranks = distinct_groups(8, 8, 256);
  EXPECT_NEAR(one.links.scale_up, 4096.0 * ranks * 7.0 / 8.0 * 7392.0 / 320e9, 1e-12);
  const TrafficTime four = expert_traffic(boards(4), round(), shape(32, 4096), normal);
  EXPECT_NEAR(four.links.scale_out, 4096.0 * distinct_groups(4, 8, 256) * 0.75 * 7392.0 / 50e9,
              1e-12);
  // Forwarded inside the node to every rank that wants the row.
  EXPECT_NEAR(four.links.scale_up,
              4096.0 * distinct_groups(32, 8, 256) * 7.0 / 8.0 * 7392.0 / 320e9, 1e-12);
}

TEST(ExpertTraffic, FewCoresCopyNoFasterThanTheyCanAndAreTakenFromCompute) {
  Rates r = round();
  r.communication.core_copy = 10e9;
  TrafficDesign d{.form = TrafficForm::kNormal, .cores = 10};
  const TrafficTime t = expert_traffic(boards(1), r, shape(8, 4096), d);
  EXPECT_EQ(t.cores_taken, 10.0);
  EXPECT_NEAR(t.cores, 2.0 * t.rank_rows * 7392.0 / 100e9, 1e-12);
  d.cores = 20;
  EXPECT_NEAR(expert_traffic(boards(1), r, shape(8, 4096), d).cores, t.cores / 2.0, 1e-12);
  d.bulk_copies = true;
  EXPECT_NEAR(expert_traffic(boards(1), r, shape(8, 4096), d).cores, t.cores / 20.0, 1e-12);
}

TEST(ExpertTraffic, ACollectiveEngineTakesNoCoresAndHasItsOwnRate) {
  const TrafficDesign d{.engine = CopyEngine::kCollectiveEngine};
  EXPECT_EQ(base::thrown<base::UnsupportedError>(
                [&] { expert_traffic(boards(1), round(), shape(8, 128), d); }),
            "round has no collective engine");
  Rates r = round();
  r.communication.row_time = 1e-6;
  r.communication.engine_rate = 20e9;
  r.communication.engine_start = 3e-6;
  const TrafficTime t = expert_traffic(boards(1), r, shape(8, 128), d);
  EXPECT_EQ(t.cores_taken, 0.0);
  EXPECT_EQ(t.cores, 0.0);
  EXPECT_NEAR(t.links.scale_up, 896.0 * 7408.0 / 20e9, 1e-12);
  EXPECT_NEAR(t.links.latency, 4e-6, 1e-12);
}

TEST(ExpertTraffic, PullingTakesOneMoreFlightAndAnnouncesNoRows) {
  Rates r = round();
  r.communication.nic_message = 0.1e-6;
  TrafficDesign pull;
  pull.transport = TrafficTransport::kPull;
  const TrafficTime near = expert_traffic(boards(1), r, shape(8, 128), {});
  EXPECT_NEAR(expert_traffic(boards(1), r, shape(8, 128), pull).seconds() - near.seconds(), 1e-6,
              1e-12);
  const TrafficTime far = expert_traffic(boards(2), r, shape(16, 128), {});
  EXPECT_NEAR(far.seconds() - expert_traffic(boards(2), r, shape(16, 128), pull).seconds(),
              12.8e-6 - 3e-6, 1e-12);
}

TEST(ExpertTraffic, MoreWorkOrASlowerLinkNeverTakesLess) {
  for (const char* system : {"hgx_h200_x4", "gb200_nvl72", "cloudmatrix384", "atlas_950_1024"}) {
    const Hardware h = test_support::hardware(system);
    const Rates r = derive_rates(h);
    Hardware slow = h;
    for (FabricDimension& d : slow.system.fabric) d.bandwidth = d.bandwidth * 0.9;
    for (const TrafficForm form : {TrafficForm::kLowLatency, TrafficForm::kNormal}) {
      for (const bool combine : {false, true}) {
        for (const std::int64_t ranks : {8, 16, 32}) {
          double last = 0.0;
          for (std::int64_t tokens = 1; tokens < 20000; tokens *= 3) {
            TrafficShape s = shape(ranks, tokens, combine);
            const double t = expert_traffic(h, r, s, {.form = form}).seconds();
            EXPECT_GE(t, last);
            last = t;
            EXPECT_GE(expert_traffic(slow, r, s, {.form = form}).seconds(), t);
            s.hidden += 512;
            EXPECT_GE(expert_traffic(h, r, s, {.form = form}).seconds(), t);
            s.topk += 1;
            EXPECT_GE(expert_traffic(h, r, s, {.form = form}).seconds(), t);
          }
        }
      }
    }
  }
}

TEST(ExpertTraffic, OneRankMovesNothing) {
  EXPECT_EQ(expert_traffic(boards(1), round(), shape(1, 128), {}).seconds(), 0.0);
}

}  // namespace
}  // namespace foretoken::hwmodels
