// Expert waves as task graphs, simulated: one rank for all, and all ranks on their links.
#include "hwmodels/expert_waves_graph.h"

#include <gtest/gtest.h>

#include "sim/engine/simulate.h"
#include "sim/task/estimate.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels {
namespace {

using test_support::hardware;

struct Layered {
  Layered(const std::string& system, std::int64_t tokens, std::int64_t ranks)
      : hw(hardware(system)), rates(derive_rates(hw)) {
    layer.tokens = tokens;
    layer.hidden = 4096;
    layer.inner = 2048;
    layer.experts = 256;
    layer.topk = 6;
    layer.ranks = ranks;
    pricing.use(hw, rates, hw.kernels.expert_layer);
  }
  double closed(bool pairwise) {
    return pricing
        .time(layer, {.schedule = pairwise ? ExpertSchedule::kPairwise : ExpertSchedule::kWaves})
        .seconds;
  }
  static double simulated(const task::TaskGraph& graph) {
    task::Timeline timeline;
    engine::simulate(graph, timeline);
    return timeline.total.value();
  }
  Hardware hw;
  Rates rates;
  ExpertLayer layer;
  ExpertPricing pricing;
};

TEST(ExpertGraph, OfOneRankTakesTheClosedFormsTime) {
  for (const char* system : {"gb200_nvl72", "atlas_950_cabinet"}) {
    for (const std::int64_t tokens : {1, 64, 1024, 8192}) {
      for (const bool pairwise : {false, true}) {
        Layered l(system, tokens, 8);
        const double closed = l.closed(pairwise);
        const double run = Layered::simulated(expert_rank_graph(l.pricing, l.layer, pairwise));
        EXPECT_NEAR(run, closed, 0.01 * closed) << system << " " << tokens << " " << pairwise;
      }
    }
  }
}

TEST(ExpertGraph, OfAllRanksTakesOneRanksTimeWhereAllAreAlike) {
  for (const char* system : {"hgx_b200", "atlas_950_cabinet", "cloudmatrix384"}) {
    for (const std::int64_t tokens : {16, 1024, 8192}) {
      Layered l(system, tokens, 8);
      if (l.hw.chip.family == "ascend_2201") {
        l.layer.activation = l.layer.weight = l.layer.compute = workloads::Dtype::kInt8;
      }
      const double one = Layered::simulated(expert_rank_graph(l.pricing, l.layer, false));
      const double all = Layered::simulated(expert_ranks_graph(l.pricing, l.layer, false));
      EXPECT_NEAR(all, one, 0.01 * one) << system << " " << tokens;
    }
  }
}

TEST(ExpertGraph, EndsOnAllAlikeRanksAtTheSameTime) {
  Layered l("hgx_b200", 512, 8);
  const task::TaskGraph graph = expert_ranks_graph(l.pricing, l.layer, false);
  task::Timeline timeline;
  engine::simulate(graph, timeline);
  double first = 1e9;
  double last = 0.0;
  for (std::size_t i = 0; i < graph.tasks().size(); ++i) {
    if (stage_of(graph.tasks()[i].label) != ExpertStage::kFinish) continue;
    first = std::min(first, timeline.tasks[i].end.value());
    last = std::max(last, timeline.tasks[i].end.value());
  }
  EXPECT_NEAR(first, last, 1e-9);
}

TEST(ExpertGraph, SendsWhatThePairsAsk) {
  Layered l("hgx_b200", 2048, 8);
  const task::TaskGraph graph = expert_ranks_graph(l.pricing, l.layer, false);
  const FabricGraph fabric(l.hw.system, l.rates.link_efficiency, 8);
  double arriving = 0.0;
  double returning = 0.0;
  for (const task::Task& t : graph.tasks()) {
    const ExpertStage stage = stage_of(t.label);
    if (stage != ExpertStage::kArrive && stage != ExpertStage::kReturn) continue;
    for (const task::Demand& d : graph.demands(t)) {
      const LinkId link = d.resource - 8 * kExpertUnits;
      (stage == ExpertStage::kArrive ? arriving : returning) += d.busy.value() * fabric.rate(link);
    }
  }
  // A pair that leaves its rank passes a port out and a port in.
  const double pairs = 8.0 * 2048 * 6 * 7 / 8 * 2;
  EXPECT_NEAR(arriving, pairs * sent_bytes(l.layer), 1e-9 * arriving);
  EXPECT_NEAR(returning, pairs * returned_bytes(l.layer), 1e-9 * returning);
}

TEST(ExpertGraph, ComputesAWaveAfterItsTokensAndReturnsItAfterItsFirstProduct) {
  Layered l("hgx_b200", 1024, 8);
  const task::TaskGraph graph = expert_ranks_graph(l.pricing, l.layer, false);
  task::Timeline timeline;
  engine::simulate(graph, timeline);
  int checked = 0;
  for (std::size_t i = 0; i < graph.tasks().size(); ++i) {
    const task::Task& t = graph.tasks()[i];
    const ExpertStage stage = stage_of(t.label);
    if (stage != ExpertStage::kFirst && stage != ExpertStage::kReturn) continue;
    bool found = false;
    for (const task::TaskId d : graph.dependencies(t)) {
      const task::LabelId label = graph.tasks()[d].label;
      const ExpertStage wanted =
          stage == ExpertStage::kFirst ? ExpertStage::kArrive : ExpertStage::kFirst;
      found = found || (stage_of(label) == wanted && wave_of(label) == wave_of(t.label));
      EXPECT_GE(timeline.tasks[i].end.value(), timeline.tasks[d].end.value());
    }
    EXPECT_TRUE(found);
    ++checked;
  }
  EXPECT_GT(checked, 16);
}

TEST(ExpertGraph, OfSkewedRanksWaitsForTheSlowest) {
  Layered even("hgx_b200", 2048, 8);
  const double balanced = Layered::simulated(expert_ranks_graph(even.pricing, even.layer, false));
  ExpertLayer skewed = even.layer;
  for (std::int64_t r = 0; r < 8; ++r) skewed.rows.push_back(rows_of(even.layer, r));
  for (std::size_t e = 0; e < 32; ++e) {
    skewed.rows[0][e] *= 2;
    skewed.rows[7][e] = 0;
  }
  const double slow = Layered::simulated(expert_ranks_graph(even.pricing, skewed, false));
  EXPECT_GT(slow, 1.5 * balanced);
  EXPECT_NEAR(slow, even.pricing.time(skewed, {}).seconds, 0.06 * slow);
}

}  // namespace
}  // namespace foretoken::hwmodels
