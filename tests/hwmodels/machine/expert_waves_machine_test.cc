// The kernel of a fused expert layer, recorded and run on the chip as a machine, against what the
// closed form of layers over ranks asks for the same schedule.
#include <gtest/gtest.h>

#include "hwmodels/expert_waves.h"
#include "hwmodels/kernels/expert_waves.h"
#include "hwmodels/machine/kernel_machine.h"
#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::machine {
namespace {

using kernels::GemmFormat;

constexpr std::int64_t kRanks = 8;

struct Times {
  double kernel = 0.0;  // s, without its launch
  double closed = 0.0;
};

// One rank of a layer, its exchange free: products, and what stands before and after them. Weights
// of short rows cost no more, power limits nothing: the kernel knows neither.
Times times_of(const std::string& system, GemmFormat format, ExpertLayer layer) {
  Hardware hw = test_support::hardware(system);
  Rates rates = derive_rates(hw);
  tile::CoreRates& chip = rates.core;
  chip.power_limit = 0.0;
  chip.link = 1e30;
  chip.link_latency = 0.0;
  const kernels::GemmProblem formats = problem_of(format);
  layer.activation = formats.activation;
  layer.weight = formats.weight;
  layer.compute = formats.compute;
  hw.kernels.expert_layer.short_row.value = 1.0;

  ExpertPricing pricing;
  pricing.use(hw, rates);
  const ExpertTime t = pricing.time(layer, {});

  const std::vector<std::int64_t> counts =
      kernels::balanced_counts(layer.ranks, layer.experts, layer.tokens, layer.topk);
  const kernels::ExpertWavesKernel kernel({.ranks = layer.ranks,
                                           .tokens = layer.tokens,
                                           .capacity = layer.tokens,
                                           .choices = layer.topk,
                                           .experts = layer.experts,
                                           .hidden = layer.hidden,
                                           .inner = layer.inner,
                                           .format = format,
                                           .counts = counts},
                                          hw.kernels.expert_waves, chip);
  // The same tile, the same waves.
  EXPECT_EQ(t.experts_per_wave, kernel.wave_experts()) << system << " " << layer.tokens;
  EXPECT_EQ(t.tile_tokens, kernel.first().tile().tokens) << system << " " << layer.tokens;
  tile::Recorder recorder(chip);
  recorder.record(kernel);
  tile::Evaluator evaluator;
  evaluator.keep_items(true);
  evaluator.evaluate(recorder);
  KernelMachine machine;
  return {machine.simulate(recorder, evaluator).seconds - chip.launch,
          t.compute + t.tiles + t.reduce};
}

TEST(ExpertWavesMachine, ProductsOfTheKernelTakeWhatTheClosedFormSays) {
  struct Case {
    const char* system;
    GemmFormat format;
    double low, high;  // closed form over the machine, less one
  };
  for (const Case& c : {
           // The closed form adds the first and the last tile and lets memory and cache hinder each
           // other; a core's tiles in turn, the order of pairs and the pool are the kernel's alone.
           Case{"hgx_b200", GemmFormat::kFp4Fp8, -0.04, 0.06},
           Case{"hgx_h200", GemmFormat::kFp8Block, -0.02, 0.08},
           // The closed form takes the busiest unit. On these a core's units take turns: vector
           // cores
           // that widen FP4 weights hold slots meanwhile, and the accumulator has room for one
           // large
           // tile, whose results leave before the next one begins.
           Case{"atlas_950_cabinet", GemmFormat::kFp4Fp8, -0.30, -0.18},
           Case{"cloudmatrix384", GemmFormat::kBf16, -0.22, 0.03},
       }) {
    for (const std::int64_t tokens : {16, 128, 1024, 8192}) {
      const Times t = times_of(c.system, c.format,
                               {.tokens = tokens,
                                .hidden = 7168,
                                .inner = 3072,
                                .experts = 384,
                                .topk = 6,
                                .ranks = kRanks});
      const double error = t.closed / t.kernel - 1.0;
      EXPECT_GE(error, c.low) << c.system << " " << tokens;
      EXPECT_LE(error, c.high) << c.system << " " << tokens;
    }
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::machine
