#include "analysis/kernels/kernel_timing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/analysis/kernels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::kernels {
namespace {

using testing::HasSubstr;

double sum(const KernelTiming& t) { return std::accumulate(t.parts.begin(), t.parts.end(), 0.0); }

TEST(KernelTiming, PartsAddUpToTheTimeInBothEvaluators) {
  for (const auto& [name, on] :
       std::vector<std::pair<std::string, std::string>>{{"hopper_gemm_bf16", "h200_sxm"},
                                                        {"blackwell_gemm_fp8_block", "b200_sxm"},
                                                        {"ascend_3510_gemm", "ascend_950pr_32c"},
                                                        {"hopper_index_decode", "h200_sxm"},
                                                        {"top_k", "b200_sxm"}}) {
    const auto d = design(name);
    const KernelChip c = chip(on);
    for (const TimingCase& t : timing_cases(d, c.rates)) {
      if (t.name.starts_with("prefill")) continue;
      for (const bool simulate : {false, true}) {
        const KernelTiming timing = time_kernel(d, t.shape, c, {.simulate = simulate});
        EXPECT_NEAR(sum(timing), timing.seconds, 1e-9 * timing.seconds) << name << " " << t.name;
        for (const double part : timing.parts) EXPECT_GE(part, -1e-12) << name << " " << t.name;
        EXPECT_GE(timing.seconds, timing.busiest * (1.0 - 1e-9)) << name << " " << t.name;
        for (const double busy : {timing.matrix, timing.vector, timing.memory, timing.cache}) {
          EXPECT_GE(busy, 0.0);
          EXPECT_LE(busy, 1.0 + 1e-9) << name << " " << t.name;
        }
      }
    }
  }
}

TEST(KernelTiming, ASplitProductHasTwoLaunches) {
  const KernelTiming t =
      time_kernel(design("hopper_gemm_bf16"), GemmShape{.m = 64, .n = 1536, .k = 7168},
                  chip("h200_sxm"), {.steps = true});
  ASSERT_EQ(t.launches.size(), 2u);
  EXPECT_EQ(t.launches[0].kernel, "gemm");
  EXPECT_THAT(t.launches[0].chosen, HasSubstr("k in "));
  EXPECT_EQ(t.launches[1].kernel, "split_reduce");
  EXPECT_NEAR(t.launches[0].time.seconds + t.launches[1].time.seconds, t.seconds, 1e-15);
  EXPECT_FALSE(t.launches[0].steps.empty());
  EXPECT_EQ(t.launches[0].steps.front().operand, "activations -> token_tile");
  EXPECT_GT(t.launches[0].used[0], 0.0);
}

TEST(KernelTiming, WhatAChipLacksIsRefusedByName) {
  EXPECT_THAT(base::thrown<base::UnsupportedError>([] {
                (void)time_kernel(design("blackwell_gemm_fp4"),
                                  GemmShape{.format = hwmodels::kernels::GemmFormat::kFp4},
                                  chip("h200_sxm"));
              }),
              HasSubstr("h200_sxm: its matrix unit cannot multiply fp4"));
}

TEST(KernelTiming, UnknownNamesListTheKnownOnes) {
  EXPECT_THAT(base::config_error([] { (void)chip("h2000"); }), HasSubstr("h200_sxm"));
  EXPECT_THAT(base::config_error([] { (void)design("hopper"); }),
              HasSubstr("no such design; did you mean 'hyper'?; known: "));
}

}  // namespace
}  // namespace foretoken::analysis::kernels
