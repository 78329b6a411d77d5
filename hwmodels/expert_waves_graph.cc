#include "hwmodels/expert_waves_graph.h"

#include <algorithm>
#include <functional>

namespace foretoken::hwmodels {

namespace {

using task::Demand;
using task::TaskId;

// Tasks of one layer; `arrive` and `leave` add the transfers of a wave.
struct Builder {
  ExpertPricing& pricing;
  const ExpertLayer& layer;
  bool pairwise;
  task::TaskGraph& graph;
  ClusterResources resources;

  using Transfer = std::function<TaskId(std::uint32_t rank, const ExpertWave& wave,
                                        task::LabelId label, std::span<const TaskId> after)>;

  void product(std::uint32_t rank, const ProductCost& c, ExpertStage stage, std::int64_t wave,
               double latency, std::span<const TaskId> after, TaskId& out) {
    const std::array<Demand, 4> demands = {
        {{resources.unit(rank, RankUnit::kMatrix), base::Seconds{c.matrix}},
         {resources.unit(rank, RankUnit::kVector), base::Seconds{c.vector}},
         {resources.unit(rank, RankUnit::kMemory), base::Seconds{c.loads}},
         {rank * resources.units + kExchangeUnit, base::Seconds{c.exchange}}}};
    out = graph.add(expert_label(stage, wave), rank, base::Seconds{latency}, demands, after);
  }

  [[nodiscard]] double flight() const {
    return wave_traffic(pricing.hardware(), pricing.rates(), 1.0, layer.ranks).latency;
  }

  void build(const Transfer& arrive, const Transfer& leave) {
    const double handshake = pricing.design().handshake.value;
    const double begin = pricing.start(layer) - handshake;
    const double reduce = pricing.finish(layer) - handshake;
    graph.begin_segment(0, 1);
    std::vector<TaskId> all;
    for (std::uint32_t r = 0; r < resources.ranks; ++r) {
      all.push_back(
          graph.add(expert_label(ExpertStage::kPrepare, 0), r, base::Seconds{begin}, {}, {}));
    }
    const TaskId ready = graph.add(expert_label(ExpertStage::kHandshake, 0), task::kNoQueue,
                                   base::Seconds{handshake}, {}, all);
    all.clear();
    for (std::uint32_t r = 0; r < resources.ranks; ++r) {
      const std::vector<std::int64_t> rows = rows_of(layer, r);
      const std::vector<ExpertWave> waves = pricing.waves(layer, rows);
      std::vector<TaskId> first(waves.size());
      std::vector<TaskId> done = {ready};
      TaskId arrived = ready;
      TaskId returned = ready;
      const auto second = [&](std::size_t w) {
        const auto wave = static_cast<std::int64_t>(w);
        // Tiles of the second product leave as they are finished, after those of earlier waves.
        const std::array<TaskId, 2> free = {first[pairwise ? waves.size() - 1 : w], returned};
        const TaskId out = leave(r, waves[w], expert_label(ExpertStage::kReturn, wave), free);
        returned = out;
        TaskId computed = 0;
        product(r, waves[w].product[1], ExpertStage::kSecond, wave,
                pairwise && w == 0 ? pricing.rates().launch : 0.0, {&first[w], 1}, computed);
        done = {out, computed};
      };
      for (std::size_t w = 0; w < waves.size(); ++w) {
        const auto wave = static_cast<std::int64_t>(w);
        arrived = arrive(r, waves[w], expert_label(ExpertStage::kArrive, wave), {&arrived, 1});
        product(r, waves[w].product[0], ExpertStage::kFirst, wave,
                w == 0 ? waves[w].product[0].tile : 0.0, {&arrived, 1}, first[w]);
        if (!pairwise) second(w);
      }
      if (pairwise) {
        for (std::size_t w = 0; w < waves.size(); ++w) second(w);
      }
      // The last tile's results still have to fly.
      const double last = waves.empty() ? 0.0 : waves.back().product[1].tile + flight();
      all.push_back(
          graph.add(expert_label(ExpertStage::kFinish, 0), r, base::Seconds{last}, {}, done));
    }
    const TaskId finished = graph.add(expert_label(ExpertStage::kHandshake, 1), task::kNoQueue,
                                      base::Seconds{handshake}, {}, all);
    for (std::uint32_t r = 0; r < resources.ranks; ++r) {
      graph.add(expert_label(ExpertStage::kReduce, 0), r, base::Seconds{reduce}, {},
                {&finished, 1});
    }
  }
};

double remote_pairs(const ExpertLayer& layer, const ExpertWave& wave) {
  return static_cast<double>(wave.pairs) * static_cast<double>(layer.ranks - 1) /
         static_cast<double>(layer.ranks);
}

// Requests of later waves are on their way already; of what returns, only the end has to wait.
bool waits_for_flight(bool arrives, task::LabelId label) { return arrives && wave_of(label) == 0; }

}  // namespace

task::TaskGraph expert_rank_graph(ExpertPricing& pricing, const ExpertLayer& layer, bool pairwise) {
  ClusterResources resources;
  resources.ranks = 1;
  resources.units = kExpertUnits;
  resources.links = 1;
  std::vector<std::string> names(kRankUnitNames.begin(), kRankUnitNames.end());
  names.emplace_back("exchange");
  names.emplace_back("links");
  task::TaskGraph graph(names, 1);
  Builder build{pricing, layer, pairwise, graph, resources};
  const auto transfer = [&](double row_bytes, bool arrives) {
    return [&, row_bytes, arrives](std::uint32_t, const ExpertWave& wave, task::LabelId label,
                                   std::span<const TaskId> after) {
      const LinkTime t = wave_traffic(pricing.hardware(), pricing.rates(),
                                      remote_pairs(layer, wave) * row_bytes, layer.ranks);
      const Demand demand{resources.link(0), base::Seconds{std::max(t.scale_up, t.scale_out)}};
      return graph.add(label, task::kNoQueue,
                       base::Seconds{waits_for_flight(arrives, label) ? t.latency : 0.0},
                       {&demand, 1}, after);
    };
  };
  build.build(transfer(sent_bytes(layer), true), transfer(returned_bytes(layer), false));
  return graph;
}

task::TaskGraph expert_ranks_graph(ExpertPricing& pricing, const ExpertLayer& layer,
                                   bool pairwise) {
  const FabricGraph fabric(pricing.hardware().system, pricing.rates().link_efficiency, layer.ranks);
  ClusterResources resources;
  resources.ranks = static_cast<std::uint32_t>(layer.ranks);
  resources.units = kExpertUnits;
  resources.links = fabric.link_count();
  const std::array<std::string_view, 1> more = {"exchange"};
  task::TaskGraph graph(resource_names(resources, fabric, more), resources.ranks);
  Builder build{pricing, layer, pairwise, graph, resources};
  Traffic traffic(fabric, resources);
  const auto transfer = [&](double row_bytes, bool arrives) {
    return [&, row_bytes, arrives](std::uint32_t rank, const ExpertWave& wave, task::LabelId label,
                                   std::span<const TaskId> after) {
      traffic.clear();
      const double bytes =
          static_cast<double>(wave.pairs) / static_cast<double>(layer.ranks) * row_bytes;
      for (std::uint32_t other = 0; other < resources.ranks; ++other) {
        if (other == rank) continue;
        traffic.add(arrives ? other : rank, arrives ? rank : other, bytes);
      }
      return graph.add(label, task::kNoQueue,
                       waits_for_flight(arrives, label) ? traffic.latency() : base::Seconds{0.0},
                       traffic.demands(), after);
    };
  };
  build.build(transfer(sent_bytes(layer), true), transfer(returned_bytes(layer), false));
  return graph;
}

}  // namespace foretoken::hwmodels
