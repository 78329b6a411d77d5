// Matrix products as tile programs: their values against a product in double, their hazards, and
// what their time does when a design or a chip changes.
#include "hwmodels/kernels/gemm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/verify_gemm.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using tile::CoreRates;
using value::GemmCase;
using workloads::Dtype;

double seconds(const tile::Kernel& kernel, const CoreRates& chip) {
  tile::Recorder recorder(chip);
  recorder.record(kernel);
  return tile::Evaluator().evaluate(recorder).seconds;
}

const std::array kSystems = {"hgx_h200", "hgx_b200", "atlas_950_1024"};

testing::AssertionResult verified(const GemmDesign& d, const CoreRates& chip, const GemmCase& c) {
  const value::Comparison result = value::verify_gemm(d, chip, c);
  if (within(result, value::gemm_tolerance(c.output))) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << result.hazard << " max " << result.max_relative << " rms " << result.rms_relative;
}

bool multiplies(const CoreRates& chip, GemmFormat format) {
  return chip.matrix[static_cast<std::size_t>(problem_of(format).compute)] > 0.0;
}

TEST(GemmKernel, ComputesTheProductInEveryFormatAndFamily) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (std::size_t f = 0; f < kGemmFormatNames.size(); ++f) {
      const auto format = static_cast<GemmFormat>(f);
      if (!multiplies(chip, format)) continue;
      for (const Epilogue epilogue : {Epilogue::kStore, Epilogue::kSwiglu}) {
        const GemmDesign design{.tiles = {{.weights = 128, .tokens = 64}}};
        EXPECT_TRUE(verified(design, chip,
                             {.groups = {{5, 1}, {0, 1}, {130, 1}, {33, 2}},
                              .n = 320,
                              .format = format,
                              .epilogue = epilogue,
                              .swiglu_limit = 2.0}))
            << system << " " << kGemmFormatNames[f];
      }
    }
  }
}

TEST(GemmKernel, BlockScalesOnVectorUnitsGiveTheSameProduct) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const GemmDesign design{.scales = ScalePath::kVector};
  EXPECT_TRUE(verified(design, chip,
                       {.groups = {{70, 1}}, .n = 256, .k = 512, .format = GemmFormat::kFp8Block}));
}

TEST(GemmKernel, RoundsItsOutputAsTheReferenceDoes) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const Dtype output : {Dtype::kBf16, Dtype::kFp8}) {
      EXPECT_TRUE(verified({}, chip,
                           {.groups = {{70, 2}},
                            .n = 512,
                            .format = GemmFormat::kFp8Block,
                            .output = output,
                            .epilogue = Epilogue::kSwiglu}))
          << system << " " << to_string(output);
    }
  }
}

TEST(GemmKernel, SplitsOfTheDepthAddUp) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const std::vector<GroupRun> rows = {{3, 1}};
  const GemmProblem problem{.groups = rows, .n = 256, .k = 2048, .output = Dtype::kFp32};
  const GemmDesign design{.tiles = {{.tokens = 16}}, .split_k = 8};
  ASSERT_GT(GemmKernel(problem, design, chip).splits(), 1);
  EXPECT_TRUE(verified(design, chip, {.groups = {{3, 1}}, .n = 256, .k = 2048}));
}

// Parts of a sum have no activation and no scale of their own.
TEST(GemmKernel, DepthIsNotSplitWhereTheEpilogueNeedsWholeSums) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const GemmDesign design{.tiles = {{.tokens = 16}}, .split_k = 8};
  GemmCase c{.groups = {{3, 1}}, .n = 256, .k = 2048, .format = GemmFormat::kFp8Block};
  c.output = Dtype::kFp8;
  EXPECT_TRUE(verified(design, chip, c));
  c.epilogue = Epilogue::kSwiglu;
  EXPECT_TRUE(verified(design, chip, c));
  c.output = Dtype::kFp32;
  EXPECT_TRUE(verified(design, chip, c));
}

TEST(GemmKernel, MistakesMadeOnPurposeAreFound) {
  const CoreRates chip = test_support::core_rates_of("hgx_b200");
  const GemmDesign design{.tiles = {{.tokens = 16}}, .split_k = 8};
  const auto fails = [&](const GemmCase& c, GemmFault fault) {
    EXPECT_TRUE(verified(design, chip, c));
    const value::Comparison result = value::verify_gemm(design, chip, c, fault);
    EXPECT_FALSE(within(result, value::gemm_tolerance(c.output)));
    return result.hazard;
  };
  EXPECT_THAT(fails({.groups = {{3, 1}}, .n = 64, .k = 8192}, GemmFault::kSlotEarly),
              testing::HasSubstr("of buffer weight_tile is read for iteration 0 but holds"));
  EXPECT_THAT(fails({.groups = {{5, 1}, {0, 1}, {33, 2}}}, GemmFault::kTailLeftOut),
              testing::HasSubstr("of output were never written"));
  EXPECT_EQ(fails({.groups = {{3, 1}}, .n = 256, .k = 2048}, GemmFault::kPartsNotAdded), "");
  EXPECT_EQ(
      fails({.groups = {{70, 1}}, .n = 512, .format = GemmFormat::kFp8Block, .output = Dtype::kFp8},
            GemmFault::kScaleFloor),
      "");
}

TEST(GemmKernel, TakesNoLessThanTheRoofline) {
  for (const char* system : {"hgx_h200", "hgx_b200", "atlas_950_1024"}) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const std::int64_t m : {1, 64, 1024, 8192}) {
      const std::vector<GroupRun> rows = {{m, 1}};
      const GemmProblem p{.groups = rows, .n = 4096, .k = 7168};
      const GemmDesign design{
          .tiles = {{.tokens = 16}, {.tokens = 64}, {.tokens = 128}, {.tokens = 256}}};
      const GemmKernel kernel(p, design, chip);
      const double t = seconds(kernel, chip);
      const double flops = 2.0 * static_cast<double>(m) * 4096 * 7168;
      EXPECT_GE(t, flops / (chip.matrix[static_cast<std::size_t>(Dtype::kBf16)] * chip.cores));
      EXPECT_GE(t, 2.0 * 4096 * 7168 / chip.memory);
    }
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
