// What simulating many devices costs: pair transfers on one switch, and a layer of V4-Pro's experts
// on whole super-nodes, from a cabinet to 8,192 devices.
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "hwmodels/cluster_step.h"
#include "sim/base/config.h"
#include "sim/engine/simulate.h"
#include "workloads/precision.h"

namespace foretoken {
namespace {

namespace hw = hwmodels;
namespace w = workloads;

const std::filesystem::path kConfigs = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "configs";

// 64 ranks on one 900 GB/s switch: 58 times a dispatch of 3.67 MB and a combine of 7.34 MB a rank,
// every pair a transfer of its own: 467,712 of them.
void pair_transfers(benchmark::State& state) {
  hw::SystemSpec system;
  system.name = "switch";
  system.fabric.resize(1);
  system.fabric[0].name = "link";
  system.fabric[0].size = 64;
  system.fabric[0].bandwidth = base::BytesPerSecond{900e9};
  system.fabric[0].latency = base::Seconds{1e-6};
  const hw::FabricGraph fabric(system, 1.0, 64);
  const hw::ClusterResources resources{.ranks = 0, .links = fabric.link_count()};
  task::TaskGraph graph(hw::resource_names(resources, fabric), 0);
  hw::Traffic traffic(fabric, resources);
  task::Timeline timeline;
  std::size_t transfers = 0;
  for (auto _ : state) {
    graph.clear();
    transfers = 0;
    for (int layer = 0; layer < 58; ++layer) {
      for (const double bytes : {3.67e6, 7.34e6}) {
        graph.begin_segment(0, 1);
        for (std::int64_t from = 0; from < 64; ++from) {
          for (std::int64_t to = 0; to < 64; ++to) {
            if (from == to) continue;
            traffic.clear();
            traffic.add(from, to, bytes / 63.0);
            hw::add_transfer(graph, 0, traffic, {});
            ++transfers;
          }
        }
      }
    }
    engine::simulate(graph, timeline);
  }
  state.counters["transfers"] = static_cast<double>(transfers);
  state.counters["us_a_step"] = timeline.total.value() * 1e6;
}

// Power-law popularity of experts, dealt at random, and what of it each rank's tokens choose.
hw::PairMatrix popular(std::int64_t ranks, const w::ModelSpec& model, double tokens, double alpha,
                       unsigned seed) {
  std::mt19937 random(seed);
  std::vector<double> share(static_cast<std::size_t>(model.experts));
  double sum = 0.0;
  for (std::size_t i = 0; i < share.size(); ++i) {
    sum += share[i] = std::pow(static_cast<double>(i + 1), -alpha);
  }
  std::shuffle(share.begin(), share.end(), random);
  const double pairs = tokens * static_cast<double>(model.experts_per_token) / sum;
  hw::PairMatrix out;
  out.ranks = ranks;
  for (std::int64_t s = 0; s < ranks; ++s) {
    for (std::int64_t d = 0; d < ranks; ++d) {
      double mean = 0.0;
      for (std::int64_t e = d * model.experts / ranks; e < (d + 1) * model.experts / ranks; ++e) {
        mean += share[static_cast<std::size_t>(e)] * pairs;
      }
      out.pairs.push_back(std::poisson_distribution<int>(mean)(random));
    }
  }
  out.touched.assign(static_cast<std::size_t>(ranks), model.experts / ranks);
  return out;
}

struct LayerCase {
  const char* system;
  const char* precision;
  std::int64_t ranks;      // of an expert-parallel group
  std::int64_t instances;  // groups
  hw::FabricRouting routing;
  bool strided = false;
  double alpha = 0.0;  // 0: all experts alike
};

// One MoE layer, 32 sequences a rank, four waves, with its graph built anew.
void moe_layer(benchmark::State& state, const LayerCase& c) {
  const hw::Hardware hardware = hw::load_hardware(c.system, kConfigs);
  const hw::Rates rates = hw::derive_rates(hardware);
  const w::ModelSpec model = w::load_model("deepseek-v4-pro", kConfigs);
  const w::Precision precision =
      w::resolve(base::load_config<w::PrecisionRecipe>(kConfigs / "precision" /
                                                       (std::string(c.precision) + ".yaml")),
                 model);
  const hw::Stack stack = hw::load_stack("serving", kConfigs);
  w::ParallelPlan plan;
  plan.dp = plan.ep = c.ranks;
  plan.overlap = w::Overlap::kWaves;
  w::Batch batch;
  batch.sequences = 32 * c.ranks;
  batch.context = 8192;
  std::vector<hw::PairMatrix> loads;
  for (std::int64_t i = 0; c.alpha > 0.0 && i < c.instances; ++i) {
    loads.push_back(popular(c.ranks, model, 32.0, c.alpha, static_cast<unsigned>(i)));
  }
  task::Timeline timeline;
  std::size_t tasks = 0;
  for (auto _ : state) {
    hw::ClusterStep step(model, precision, plan, hardware, rates, stack,
                         {.instances = c.instances,
                          .strided = c.strided,
                          .routing = c.routing,
                          .only_block = "moe"});
    step.build(batch, loads);
    engine::simulate(step.graph(), timeline);
    tasks = step.graph().tasks().size();
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  state.counters["devices"] = static_cast<double>(c.ranks * c.instances);
  state.counters["tasks"] = static_cast<double>(tasks);
  state.counters["us_a_layer"] = timeline.total.value() * 1e6;
  state.counters["peak_MB"] = static_cast<double>(usage.ru_maxrss) / 1024.0;
}

using hw::FabricRouting;
const LayerCase kSymmetry = {"atlas_950_8192", "ascend-950", 64, 1, FabricRouting::kAllPath};
const LayerCase kCloudMatrix = {"cloudmatrix384", "int8", 384, 2, FabricRouting::kTwoPath};
const LayerCase kCloudMatrixPopular = {"cloudmatrix384",        "int8", 384, 2,
                                       FabricRouting::kTwoPath, false,  0.5};
const LayerCase kDealtOut = {"atlas_950_8192",        "ascend-950", 64, 128,
                             FabricRouting::kAllPath, true};
const LayerCase kPopular = {"atlas_950_8192",        "ascend-950", 64, 128,
                            FabricRouting::kAllPath, false,        0.5};
const LayerCase kPopularDealtOut = {"atlas_950_8192",        "ascend-950", 64, 128,
                                    FabricRouting::kAllPath, true,         0.5};

// Cost against devices: groups of 64, alike or not.
void cabinets(benchmark::State& state) {
  moe_layer(state, {"atlas_950_8192", "ascend-950", 64, state.range(0), FabricRouting::kAllPath});
}
void popular_cabinets(benchmark::State& state) {
  moe_layer(state, {"atlas_950_8192", "ascend-950", 64, state.range(0), FabricRouting::kAllPath,
                    false, 0.5});
}

BENCHMARK(pair_transfers)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(moe_layer, by_symmetry, kSymmetry)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(moe_layer, cloudmatrix384, kCloudMatrix)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(moe_layer, cloudmatrix384_popular, kCloudMatrixPopular)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(cabinets)->RangeMultiplier(2)->Range(1, 128)->Unit(benchmark::kMillisecond);
BENCHMARK(popular_cabinets)->RangeMultiplier(2)->Range(1, 128)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(moe_layer, dealt_out_over_cabinets, kDealtOut)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(moe_layer, popular_in_cabinets, kPopular)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(moe_layer, popular_dealt_out, kPopularDealtOut)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace foretoken

BENCHMARK_MAIN();
