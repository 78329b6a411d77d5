// Hyper-connections as tile programs: their values against the functional reference, faults made on
// purpose, and what their time does when a design or a chip changes.
#include "hwmodels/kernels/hyper.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/tile/vector_cost.h"
#include "hwmodels/value/verify_hyper.h"
#include "sim/base/error.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using tile::CoreRates;
using value::Comparison;
using workloads::Dtype;

constexpr const char* kSystems[] = {"hgx_h200", "hgx_b200", "atlas_950_1024", "cloudmatrix384"};

std::vector<HyperDesign> designs() {
  return {{},
          {.tile_tokens = 5,
           .tile_k = 64,
           .stages = 1,
           .splits = 7,
           .finish_tokens = 3,
           .rows = 2,
           .columns = 128,
           .slots = 3},
          {.fused = true, .tile_tokens = 4, .tile_k = 64, .splits = 5},
          {.fused = true, .tile_tokens = 16, .splits = 1, .slots = 1}};
}

double seconds(const tile::Kernel& kernel, const CoreRates& chip) {
  tile::Recorder recorder(chip);
  recorder.record(kernel);
  return tile::Evaluator().evaluate(recorder).seconds;
}

double pre_seconds(const HyperProblem& p, const HyperDesign& d, const CoreRates& chip) {
  double t = 0.0;
  for (const HyperPass pass : hyper_passes(d)) t += seconds(HyperPreKernel(p, d, chip, pass), chip);
  return t;
}

TEST(HyperPreKernel, WeightsAndCollapseEqualTheReference) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const HyperDesign& design : designs()) {
      for (const std::int64_t tokens : {1, 19}) {
        for (const bool head : {false, true}) {
          for (const Dtype compute : {hyper_compute(chip), Dtype::kBf16}) {
            // A width no tile divides; FP32 out shows what BF16 would hide.
            const HyperProblem p{.tokens = tokens,
                                 .hidden = head ? 250 : 256,
                                 .head = head,
                                 .norm = tokens > 1,
                                 .compute = compute,
                                 .output = tokens > 1 ? Dtype::kBf16 : Dtype::kFp32};
            const Comparison c = value::verify_hyper_pre(design, chip, {p});
            EXPECT_TRUE(within(c, value::hyper_pre_tolerance(compute)))
                << system << " fused " << design.fused << " tokens " << tokens << " head " << head
                << ": " << c.max_relative << " " << c.rms_relative << " " << c.hazard;
          }
        }
      }
    }
  }
}

TEST(HyperPreKernel, OperandsOfTwelveBitsLoseMoreThanTheirSums) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const auto error = [&](Dtype compute) {
    const HyperProblem p{.tokens = 16, .hidden = 512, .compute = compute, .output = Dtype::kFp32};
    return value::verify_hyper_pre({}, chip, {p}).rms_relative;
  };
  EXPECT_LT(error(Dtype::kBf16), 1e-5);  // the matrix is BF16 in the reference too
  EXPECT_GT(error(Dtype::kTf32), 1e-5);
  EXPECT_LT(error(Dtype::kTf32), 1e-3);
}

TEST(HyperPostKernel, UpdateEqualsTheReference) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const HyperDesign& design : designs()) {
      for (const std::int64_t tokens : {1, 19, 150}) {
        for (const std::int64_t hidden : {250, 384}) {
          const Comparison c =
              value::verify_hyper_post(design, chip, {{.tokens = tokens, .hidden = hidden}});
          EXPECT_TRUE(within(c, value::hyper_post_tolerance()))
              << system << " " << tokens << ": " << c.max_relative << " " << c.rms_relative << " "
              << c.hazard;
        }
      }
    }
  }
}

TEST(HyperPreKernel, FaultsAreCaught) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    const HyperDesign design{.rows = 1, .slots = 2};
    const HyperProblem p{.tokens = 300, .hidden = 64, .compute = hyper_compute(chip)};
    const value::Tolerance tolerance = value::hyper_pre_tolerance(p.compute);
    EXPECT_TRUE(within(value::verify_hyper_pre(design, chip, {p}), tolerance));
    for (const HyperFault fault : {HyperFault::kSwapSinkhorn, HyperFault::kFewIterations,
                                   HyperFault::kSinglePost, HyperFault::kEarlyLoad}) {
      const Comparison c = value::verify_hyper_pre(design, chip, {p}, fault);
      EXPECT_FALSE(within(c, tolerance)) << system << " fault " << static_cast<int>(fault) << " "
                                         << c.max_relative << " " << c.rms_relative;
      EXPECT_EQ(fault == HyperFault::kEarlyLoad, !c.hazard.empty()) << c.hazard;
    }
  }
}

TEST(HyperPostKernel, FaultsAreCaught) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const HyperDesign design{.rows = 1, .slots = 2};
  const HyperProblem p{.tokens = 300, .hidden = 128};
  EXPECT_FALSE(within(value::verify_hyper_post(design, chip, {p}, HyperFault::kTransposeMix),
                      value::hyper_post_tolerance()));
  const Comparison early = value::verify_hyper_post(design, chip, {p}, HyperFault::kEarlyLoad);
  EXPECT_NE(early.hazard, "");
}

TEST(HyperPreKernel, TakesNoLessThanTheRoofline) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const std::int64_t hidden : {4096, 7168}) {
      for (const std::int64_t tokens : {1, 128, 2048, 8192}) {
        const HyperProblem p{.tokens = tokens, .hidden = hidden, .compute = hyper_compute(chip)};
        const HyperDesign design;
        const double pre = pre_seconds(p, design, chip);
        const double post = seconds(HyperPostKernel(p, design, chip), chip);
        const double matrix = 4.0 * 24.0 * static_cast<double>(p.wide());
        const double streams = 2.0 * static_cast<double>(tokens * p.wide());
        EXPECT_GE(pre, matrix / chip.memory) << system;
        const double flops = 2.0 * 24.0 * static_cast<double>(tokens * p.wide());
        EXPECT_GE(pre, flops / (chip.matrix[static_cast<std::size_t>(p.compute)] * chip.cores));
        if (2.0 * streams > chip.cache_capacity) {
          EXPECT_GE(pre, (2.25 * streams + matrix) / chip.memory) << system;
          EXPECT_GE(post, 2.25 * streams / chip.memory) << system;
        }
        EXPECT_GE(post, chip.launch + chip.start);
      }
    }
  }
}

TEST(HyperPostKernel, ManyTokensAreBoundByMemory) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    const HyperProblem p{.tokens = 32768, .hidden = 4096};
    const HyperDesign design;
    const double bytes = 9.0 * 2.0 * 32768 * 4096;
    EXPECT_LT(seconds(HyperPostKernel(p, design, chip), chip), 1.15 * bytes / chip.memory)
        << system;
  }
}

TEST(HyperPreKernel, SplitsOfTheChannelsHelpFewTokens) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    const HyperProblem p{.tokens = 1, .hidden = 7168, .compute = hyper_compute(chip)};
    const HyperDesign whole{.splits = 1};
    const HyperDesign some{.splits = 8};
    const HyperDesign many{.splits = 32};
    EXPECT_GT(pre_seconds(p, whole, chip), 2.0 * pre_seconds(p, some, chip)) << system;
    EXPECT_GT(pre_seconds(p, some, chip), pre_seconds(p, many, chip)) << system;
  }
}

TEST(HyperPreKernel, OneLaunchSavesOneForFewTokensAndStarvesCoresForMany) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    const HyperDesign split;
    const HyperDesign fused{.fused = true, .tile_tokens = 8, .tile_k = 64};
    HyperProblem p{.tokens = 1, .hidden = 4096, .compute = hyper_compute(chip)};
    EXPECT_LT(pre_seconds(p, fused, chip), pre_seconds(p, split, chip)) << system;
    p.tokens = 2048;
    EXPECT_GT(pre_seconds(p, fused, chip), pre_seconds(p, split, chip)) << system;
  }
}

TEST(HyperPreKernel, SinkhornIsAChainOfSteps) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const HyperDesign design;
  const auto finish = [&](std::int64_t tokens, std::int64_t iterations) {
    const HyperProblem p{.tokens = tokens, .hidden = 4096, .iterations = iterations};
    return seconds(HyperPreKernel(p, design, chip, HyperPass::kFinish), chip);
  };
  // Ten iterations of a row and a column step, each a sum, an addition and a division that wait for
  // one another; as long for a core's four tokens as for one.
  const double chain = tile::vector_cost(tile::VectorKind::kGroupSum).chain +
                       tile::vector_cost(tile::VectorKind::kAdd).chain +
                       tile::vector_cost(tile::VectorKind::kGroupDiv).chain;
  const double ten = 10.0 * 2.0 * chain * chip.vector_latency;
  EXPECT_NEAR(finish(1, 60) - finish(1, 50), ten, 0.01 * ten);
  EXPECT_NEAR(finish(512, 60) - finish(512, 50), ten, 0.01 * ten);
}

TEST(HyperPreKernel, FewerStagesWaitForMemory) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    const HyperProblem p{.tokens = 64, .hidden = 7168, .compute = hyper_compute(chip)};
    const auto project = [&](std::int64_t stages) {
      const HyperDesign design{.stages = stages};
      return seconds(HyperPreKernel(p, design, chip, HyperPass::kProject), chip);
    };
    EXPECT_GT(project(1), 1.2 * project(3)) << system;
    EXPECT_GE(project(3), project(6)) << system;
  }
}

TEST(HyperPreKernel, RefusesWhatDoesNotFit) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const HyperDesign design{.fused = true, .tile_tokens = 64};
  const HyperProblem p{.tokens = 512, .hidden = 7168};
  EXPECT_THROW(pre_seconds(p, design, chip), base::UnsupportedError);
  const HyperProblem nine{.tokens = 1, .streams = 9, .hidden = 128};
  EXPECT_THROW(HyperPostKernel(nine, design, chip), base::UnsupportedError);
}

TEST(HyperPreKernel, EveryItemIsInAClassAndEveryByteReadOnce) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const std::int64_t tokens : {1, 63, 65, 777}) {
      for (const HyperDesign& design : designs()) {
        const HyperProblem p{.tokens = tokens, .hidden = 1024, .compute = hyper_compute(chip)};
        for (const HyperPass pass : hyper_passes(design)) {
          const HyperPreKernel kernel(p, design, chip, pass);
          tile::Recorder recorder(chip);
          recorder.record(kernel);
          std::int64_t items = 0;
          for (const tile::TileProgram& program : recorder.programs()) items += program.items;
          EXPECT_EQ(items, kernel.launch().items);
          const double streams = 2.0 * static_cast<double>(tokens * p.wide());
          const double passes = pass == HyperPass::kFused ? 2.0 : 1.0;
          EXPECT_NEAR(recorder.tensors().front().loaded, passes * streams, 1.0) << system;
        }
      }
    }
  }
}

TEST(HyperKernels, PricingTakesMicroseconds) {
  const auto host = [](const tile::Kernel& kernel, const CoreRates& chip) {
    tile::Recorder recorder(chip);
    tile::Evaluator evaluator;
    std::vector<double> runs;
    for (int i = 0; i < 15; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      recorder.record(kernel);
      evaluator.evaluate(recorder);
      runs.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    std::nth_element(runs.begin(), runs.begin() + 7, runs.end());
    return runs[7];
  };
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const std::int64_t tokens : {1, 2048, 65536}) {
      const HyperProblem p{.tokens = tokens, .hidden = 4096, .compute = hyper_compute(chip)};
      const HyperDesign design;
      for (const HyperPass pass : hyper_passes(design)) {
        EXPECT_LT(host(HyperPreKernel(p, design, chip, pass), chip), 250e-6) << system;
      }
      EXPECT_LT(host(HyperPostKernel(p, design, chip), chip), 250e-6) << system;
    }
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
