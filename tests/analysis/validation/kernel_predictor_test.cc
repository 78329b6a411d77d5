#include "analysis/validation/kernel_predictor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "sim/base/error.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::validation {
namespace {

using testing::HasSubstr;

const std::filesystem::path kConfigs = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "configs";

std::string refusal(const Case& c) {
  KernelPredictor predictor(kConfigs);
  return base::thrown<base::UnsupportedError>([&] { predictor.predict(c); });
}

Prediction predict(const Case& c) {
  KernelPredictor predictor(kConfigs);
  EXPECT_TRUE(predictor.handles(c));
  return predictor.predict(c);
}

AttentionModuleCase module_on(const std::string& chip) {
  AttentionModuleCase c;
  c.origin.system = chip;
  c.model = "deepseek-v4-flash";
  c.weight_dtype = "fp8_block";
  c.kv_dtype = "fp8";
  c.local_heads = 64;
  c.history = 8192;
  return c;
}

TEST(KernelPredictor, AProductTakesItsLaunchAndItsRoofline) {
  const Case c = DenseGemmCase{{"h200_sxm", "", ""}, "bf16", 8192, 8192, 8192};
  const Prediction p = predict(c);
  EXPECT_GT(p.time.value(), 2.0 * 8192.0 * 8192.0 * 8192.0 / 989e12);
  EXPECT_LT(p.time.value(), 4.0 * 8192.0 * 8192.0 * 8192.0 / 989e12);
  EXPECT_LT(p.low.value(), p.time.value());
  EXPECT_GT(p.high.value(), p.time.value());
}

TEST(KernelPredictor, AHyperConnectionCountsBothCallsOfALayer) {
  HyperConnectionCase c{{"b200_sxm", "", ""}, workloads::HyperPhase::kPre, 1, 4, 4096, 20, 64};
  const double one = predict(c).time.value();
  c.sites = 2;
  EXPECT_DOUBLE_EQ(predict(c).time.value(), 2.0 * one);
}

TEST(KernelPredictor, AnAttentionModuleGrowsWithItsHistory) {
  for (const auto kind : {workloads::AttentionKind::kCsa, workloads::AttentionKind::kHca}) {
    AttentionModuleCase c = module_on("b200_sxm");
    c.kind = kind;
    c.ratio = kind == workloads::AttentionKind::kCsa ? 4 : 128;
    c.sequences = 64;
    const double near = predict(c).time.value();
    c.history = 1048576;
    EXPECT_GT(predict(c).time.value(), near);
  }
}

TEST(KernelPredictor, TensorParallelModulesDoLess) {
  AttentionModuleCase c = module_on("h200_sxm");
  c.sequences = 256;
  const double whole = predict(c).time.value();
  c.tp = 8;
  c.local_heads = 8;
  EXPECT_LT(predict(c).time.value(), whole);
}

TEST(KernelPredictor, OtherKernelsAreModelledToo) {
  const Origin origin{"b200_sxm", "", ""};
  EXPECT_GT(predict(GroupedGemmCase{origin, "fp8_block", 4, 128, 4096, 7168}).time.value(), 0.0);
  EXPECT_GT(predict(RoutedExpertsCase{origin, "", "w4a8_mxfp4_mxfp8", "balanced", 128, 7168, 3072,
                                      384, 6, 1, 8})
                .time.value(),
            0.0);
  EXPECT_GT(
      predict(IndexLogitsCase{origin, "deepseek-v4-flash", "fp8", 64, 4, 8, 1, 8192}).time.value(),
      0.0);
  // No entry is complete yet: a launch.
  EXPECT_GT(
      predict(IndexLogitsCase{origin, "deepseek-v4-flash", "fp8", 64, 4, 8, 1, 0}).time.value(),
      0.0);
  EXPECT_GT(predict(TopKCase{origin, "deepseek-v4-flash", "", 4, 8, 1, 8192}).time.value(), 0.0);
  EXPECT_GT(predict(SparseAttentionCase{origin, "deepseek-v4-pro", "fp8", 128, 128, 8, 1, 8192})
                .time.value(),
            0.0);
}

// The rank that gets most is measured: with many tokens it takes longer than an even share, with
// few it reads fewer experts.
TEST(KernelPredictor, SkewedExpertsArePricedByTheSlowestRank) {
  const auto seconds = [](const char* routing, std::int64_t tokens) {
    return predict(RoutedExpertsCase{{"b200_sxm", "", ""},
                                     "",
                                     "w4a8_mxfp4_mxfp8",
                                     routing,
                                     tokens,
                                     7168,
                                     3072,
                                     384,
                                     6,
                                     1,
                                     8})
        .time.value();
  };
  const double many = seconds("power_law_1.2", 131072) / seconds("balanced", 131072);
  EXPECT_GT(many, 1.5);
  EXPECT_LT(many, 2.2);
  EXPECT_LT(seconds("power_law_1.2", 128), 0.85 * seconds("balanced", 128));
  EXPECT_GT(seconds("power_law_sampled_1.9", 131072), seconds("balanced", 131072));
}

TEST(KernelPredictor, WhatItCannotModelSaysWhatIsMissing) {
  EXPECT_EQ(refusal(DenseGemmCase{{"x100", "", ""}, "fp8", 1, 1, 1}),
            "no chip 'x100' in configs/chips");
  EXPECT_EQ(refusal(DenseGemmCase{{"../systems/hgx_h200", "", ""}, "fp8", 1, 1, 1}),
            "no chip '../systems/hgx_h200' in configs/chips");
  EXPECT_EQ(refusal(DenseGemmCase{{"h200_sxm", "", ""}, "int3", 1, 1, 1}),
            "products in 'int3' are not modelled");
  EXPECT_THAT(refusal(DenseGemmCase{{"h200_sxm", "", ""}, "nvfp4", 64, 64, 64}),
              HasSubstr("h200_sxm has no fp4 peak"));
  const std::int64_t most = std::int64_t{1} << 40;
  EXPECT_EQ(refusal(DenseGemmCase{{"h200_sxm", "", ""}, "fp8", most, most, most}),
            "the case is too large to be counted exactly");
  RoutedExpertsCase experts{{"b200_sxm", "", ""}, "", "fp8", "lognormal_1", 1, 8, 8, 8, 1, 1, 1};
  EXPECT_EQ(refusal(experts), "expert popularity 'lognormal_1' is not modelled");
  AttentionModuleCase module = module_on("h200_sxm");
  module.model = "kimi-k3";
  EXPECT_EQ(refusal(module), "no model 'kimi-k3' in configs/models");
  module = module_on("h200_sxm");
  module.local_heads = 128;
  EXPECT_THAT(refusal(module), HasSubstr("do not add up"));
  module = module_on("h200_sxm");
  module.history = most;
  EXPECT_EQ(refusal(module), "the context is too long to be counted exactly");
  EXPECT_THAT(refusal(HyperConnectionCase{
                  {"b200_sxm", "", ""}, workloads::HyperPhase::kPre, 1, most, 4096, 20, 1}),
              HasSubstr("streams is not modelled"));
  module = module_on("h200_sxm");
  module.sequences = most;
  EXPECT_EQ(refusal(module), "the case is too large to be counted exactly");
}

CollectiveCase gather_on(const std::string& chip, std::int64_t ranks, std::int64_t elements) {
  return {{chip, "nccl", ""}, "all_gather", "fp16", ranks, elements};
}

ExpertTrafficCase dispatch_on(const std::string& chip, std::int64_t nodes, std::int64_t tokens) {
  ExpertTrafficCase c;
  c.origin = {chip, "", "deepep"};
  c.low_latency = true;
  c.dtype = "fp8";
  c.nodes = nodes;
  c.ranks = nodes * 8;
  c.tokens_per_rank = tokens;
  c.hidden = 7168;
  c.topk = 8;
  c.experts = 256;
  return c;
}

TEST(KernelPredictor, CollectivesRunOnASystemOfTheChip) {
  KernelPredictor predictor(kConfigs);
  const Prediction p = predictor.predict(gather_on("h200_sxm", 8, std::int64_t{1} << 28));
  // 470 MB through a link of 450 GB/s.
  EXPECT_GT(p.time.value(), 470e6 / 450e9);
  EXPECT_LT(p.time.value(), 2.0 * 470e6 / 450e9);
  EXPECT_LT(p.low.value(), p.time.value());
  EXPECT_GT(p.high.value(), p.time.value());
  EXPECT_THAT(refusal(gather_on("h200_sxm", 1, 256)), HasSubstr("moves nothing"));
  EXPECT_THAT(refusal(gather_on("mi300", 8, 256)), HasSubstr("mi300"));
  CollectiveCase broadcast = gather_on("h200_sxm", 8, 256);
  broadcast.op = "broadcast";
  EXPECT_EQ(refusal(broadcast), "collective 'broadcast' is not modelled");
  broadcast = gather_on("h200_sxm", 8, 256);
  broadcast.dtype = "fp8";
  EXPECT_EQ(refusal(broadcast), "collectives of 'fp8' are not modelled");
}

TEST(KernelPredictor, NodesOfARackAreInOneDomainAndBoardsAreJoinedByTheNetwork) {
  KernelPredictor predictor(kConfigs);
  const auto seconds = [&](const char* chip, std::int64_t nodes) {
    return predictor.predict(dispatch_on(chip, nodes, 256)).time.value();
  };
  EXPECT_GT(seconds("h200_sxm", 2), 2.0 * seconds("h200_sxm", 1));
  EXPECT_LT(seconds("gb200", 2), 1.5 * seconds("gb200", 1));
  EXPECT_GT(seconds("h200_sxm", 128), seconds("h200_sxm", 2));
}

TEST(KernelPredictor, BandwidthsCountRowsThatStayToo) {
  KernelPredictor predictor(kConfigs);
  const Prediction rows = predictor.predict(dispatch_on("h200_sxm", 1, 128));
  EXPECT_DOUBLE_EQ(rows.counted_bytes, 128.0 * 8.0 * 7392.0);
  ExpertTrafficCase c = dispatch_on("h800_sxm", 2, 4096);
  c.low_latency = false;
  c.link = "RDMA";
  const double network = predictor.predict(c).counted_bytes;
  EXPECT_NEAR(network, 4096.0 * 7392.0 * 1.99, 4096.0 * 7392.0 * 0.01);  // nearly both nodes
  c.link = "NVLink";
  EXPECT_GT(predictor.predict(c).counted_bytes, 2.0 * network);
  c.dtype = "mxint4";
  EXPECT_EQ(refusal(c), "rows in 'mxint4' are not modelled");
}

TEST(KernelPredictor, FusedTrafficIsForOthers) {
  KernelPredictor predictor(kConfigs);
  EXPECT_FALSE(predictor.handles(MegaMoeCase{}));
  EXPECT_FALSE(predictor.handles(EngineStepCase{}));
}

}  // namespace
}  // namespace foretoken::analysis::validation
