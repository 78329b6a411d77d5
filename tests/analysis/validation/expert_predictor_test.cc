// Whole expert layers as measured: which are modelled, on what, and how well.
#include "analysis/validation/expert_predictor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "analysis/validation/validation.h"
#include "sim/base/csv.h"
#include "sim/base/error.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::analysis::validation {
namespace {

using hwmodels::ExpertSchedule;
using test_support::configs;

MegaMoeCase gb200(const std::string& routing, std::int64_t ep, std::int64_t tokens) {
  return {.origin = {"gb200", "sglang-0.5.10", "sglang_jit"},
          .model = "deepseek-v4-pro",
          .precision = "w4a8_mxfp4_mxfp8",
          .routing = routing,
          .ep = ep,
          .tokens_per_rank = tokens,
          .hidden = 7168,
          .inner = 3072,
          .experts = 384,
          .topk = 6};
}

TEST(SystemOf, IsTheSmallestWhoseScaleUpDomainHoldsTheRanks) {
  EXPECT_EQ(system_of("b200_sxm", 8, configs()).system.name, "hgx_b200");
  EXPECT_EQ(system_of("gb200", 4, configs()).system.name, "gb200_nvl72");
  EXPECT_EQ(system_of("h200_sxm", 4, configs()).system.name, "hgx_h200");
  // More nodes where one is too small.
  const hwmodels::Hardware two = system_of("b200_sxm", 12, configs());
  EXPECT_GE(two.system.devices(), 12);
  EXPECT_EQ(two.system.scale_up_domain(), 8);
  EXPECT_THROW(system_of("no_such_chip", 8, configs()), base::UnsupportedError);
}

TEST(ExpertPlanOf, FollowsTheImplementation) {
  MegaMoeCase c = gb200("balanced", 8, 64);
  const auto named = [&](const char* implementation, bool fused) {
    c.origin.kernel_source = implementation;
    c.fused = fused;
    return expert_plan(c);
  };
  EXPECT_EQ(named("DeepGEMM Mega MoE fused", true).schedule, ExpertSchedule::kWaves);
  EXPECT_EQ(named("MegaMoE SM90 two-kernel (PR383)", true).schedule, ExpertSchedule::kPairwise);
  EXPECT_EQ(named("DeepEP high-throughput baseline", false).schedule, ExpertSchedule::kSerial);
  EXPECT_TRUE(named("DeepEP high-throughput baseline", false).host_waits);
  EXPECT_EQ(named("DeepEP low-latency baseline", false).form, hwmodels::SeparateForm::kLowLatency);
  EXPECT_FALSE(named("DeepEP low-latency baseline", false).host_waits);
  EXPECT_THROW(named("NVFP4 + combine_mxfp8", true), base::UnsupportedError);
}

TEST(ExpertLayerOf, PutsPairsWhereTheRoutingSays) {
  EXPECT_TRUE(expert_layer(gb200("balanced", 8, 64), configs()).rows.empty());
  const hwmodels::ExpertLayer skewed = expert_layer(gb200("power_law_1.2", 8, 4096), configs());
  ASSERT_FALSE(skewed.rows.empty());
  std::int64_t pairs = 0;
  for (const std::int64_t r : skewed.rows.front()) pairs += r;
  EXPECT_GT(pairs, 1.4 * 4096 * 6);
  EXPECT_EQ(skewed.rows.front().size(), 48u);
  EXPECT_THROW(expert_layer(gb200("moonlight", 8, 64), configs()), base::UnsupportedError);
  MegaMoeCase odd = gb200("balanced", 8, 64);
  odd.precision = "as named";
  EXPECT_THROW(expert_layer(odd, configs()), base::UnsupportedError);
}

TEST(ExpertPredictor, TakesTheShapesOfAnotherModelFromTheTable) {
  MegaMoeCase c = gb200("power_law_sampled_1.9", 16, 128);
  c.model = "kimi-k3 (control, not v4)";
  c.hidden = 3584;
  c.experts = 896;
  c.topk = 16;
  ExpertPredictor predictor(configs());
  const Prediction p = predictor.predict(c);
  EXPECT_GT(p.time.value(), 50e-6);
  EXPECT_LE(p.low, p.time);
  EXPECT_GE(p.high, p.time);
}

TEST(ExpertPredictor, SaysWhyItCannot) {
  ExpertPredictor predictor(configs());
  MegaMoeCase c = gb200("balanced", 8, 64);
  c.origin.system = "RTX PRO 6000D";
  EXPECT_THROW(predictor.predict(c), base::UnsupportedError);
  c = gb200("balanced", 8, 64);
  c.hidden = 0;
  c.model = "deepseek-v3 (control)";
  EXPECT_THROW(predictor.predict(c), base::UnsupportedError);
}

// Medians and 90th percentiles of the given rows; EP4 of GB200 is what two constants were fitted
// to.
TEST(ExpertPredictor, IsCloseToTheRowsItWasNotFittedTo) {
  ExpertPredictor predictor(configs());
  const std::array<Predictor*, 1> predictors = {&predictor};
  const auto errors = [&](const char* file, auto&& wanted) {
    const base::CsvTable table = base::read_csv((configs() / "measurements" / file).string());
    const Validation v = validate(std::array{table}, configs(), predictors);
    std::vector<const ValidationRow*> rows;
    for (const ValidationRow& r : v.rows) {
      if (wanted(r)) rows.push_back(&r);
    }
    return statistics(rows);
  };
  const ErrorStatistics eight = errors("v4_megamoe_aiconfigurator.csv", [](const auto& r) {
    return r.label.find(" EP8 ") != std::string::npos;
  });
  EXPECT_EQ(eight.n, 32u);
  EXPECT_LE(eight.median_abs_error, 0.08);
  EXPECT_LE(eight.p90_abs_error, 0.15);
  const ErrorStatistics fused =
      errors("v4_megamoe_pr_tables.csv", [](const auto& r) { return r.class_name == "megamoe"; });
  EXPECT_EQ(fused.n, 22u);
  EXPECT_LE(fused.median_abs_error, 0.08);
  EXPECT_LE(fused.p90_abs_error, 0.25);
  const ErrorStatistics apart = errors("v4_megamoe_pr_tables.csv", [](const auto& r) {
    return r.class_name.find("not fused") != std::string::npos;
  });
  EXPECT_EQ(apart.n, 23u);
  EXPECT_LE(apart.median_abs_error, 0.12);
  EXPECT_LE(apart.p90_abs_error, 0.30);
}

}  // namespace
}  // namespace foretoken::analysis::validation
