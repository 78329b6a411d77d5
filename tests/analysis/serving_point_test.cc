// The operating point that is chosen: within its limits, and the best there is.
#include "analysis/serving_point.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <cmath>

#include "tests/analysis/fixtures.h"

namespace foretoken::analysis {
namespace {

using test_support::Served;

ServingRules rules_of(const std::vector<std::string>& plans = {}) {
  ServingRules r;
  for (const std::string& p : plans) r.plans.push_back(workloads::parse_plan(p));
  return r;
}

double tpot(const Served& s, const workloads::ParallelPlan& plan, std::int64_t batch,
            std::int64_t context, const Speculation& speculation, const ServingRules& rules) {
  StepEvaluator e(
      {&s.model, &s.hardware, &s.stack, s.precision, plan, speculation.draft_tokens > 0});
  return e.estimate(decode_batch(batch / plan.pp, context, speculation)).time.value() *
         rules.serving_overhead.value / speculation.acceptance_length;
}

TEST(BestDecode, TheBatchKeepsTheLimitAndOneMorePerRankBreaksItOrTheMemory) {
  Speculation spec;
  spec.draft_tokens = 1;
  spec.acceptance_length = 1.79;
  for (const double limit : {0.01, 0.03, 0.05, 0.2, 10.0}) {
    for (const std::int64_t context : {8192, 131072, 1048576}) {
      const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
      ServingRules rules = rules_of();
      rules.tpot_limit = base::Seconds{limit};
      rules.serving_overhead = {1.6, 1.3, 2.2};
      const DecodePoint p = best_decode(s.subject(), context, spec, rules);
      SCOPED_TRACE(std::to_string(limit) + " at " + std::to_string(context));
      ASSERT_EQ(p.status, PointStatus::kOk);
      EXPECT_TRUE(p.reason.empty());
      EXPECT_LE(p.tpot.value(), limit);
      EXPECT_DOUBLE_EQ(p.tpot.value(), tpot(s, p.plan, p.batch, context, spec, rules));
      EXPECT_LE(p.batch, p.max_batch);
      const std::int64_t more = p.batch + p.plan.dp * p.plan.pp;
      EXPECT_TRUE(more > p.max_batch || tpot(s, p.plan, more, context, spec, rules) > limit);
      // What it says fits does, and one more per rank does not.
      const double per_rank =
          std::floor(static_cast<double>(p.max_batch) / static_cast<double>(p.plan.dp));
      EXPECT_LE(p.memory.weights + per_rank * p.memory.per_sequence, p.memory.capacity);
      EXPECT_GT(p.memory.weights + (per_rank + 1.0) * p.memory.per_sequence, p.memory.capacity);
      const base::Interval i = p.tpot_spread.around(p.tpot.value());
      EXPECT_LT(i.low, i.value);
      EXPECT_LT(i.value, i.high);
    }
  }
}

TEST(BestDecode, NoCandidatePlanDoesBetter) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  const ServingRules all = rules_of();
  const DecodePoint best = best_decode(s.subject(), 131072, {}, all);
  for (const workloads::ParallelPlan& plan : candidate_plans(s.model, s.hardware.system, all)) {
    ServingRules one = all;
    one.plans = {plan};
    const DecodePoint p = best_decode(s.subject(), 131072, {}, one);
    if (p.status != PointStatus::kOk) continue;
    EXPECT_LE(p.tokens_per_second_per_device(), best.tokens_per_second_per_device() * (1.0 + 1e-12))
        << workloads::to_string(plan);
  }
}

TEST(BestDecode, AnUnreachableLimitGivesTheLowestTimeAndSaysSo) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  ServingRules rules = rules_of();
  rules.tpot_limit = base::Seconds{1e-6};
  const DecodePoint p = best_decode(s.subject(), 8192, {}, rules);
  EXPECT_EQ(p.status, PointStatus::kMissesTpot);
  EXPECT_EQ(p.batch, p.plan.dp);
  EXPECT_THAT(p.reason, testing::HasSubstr("above the limit of 1 us"));
  for (const workloads::ParallelPlan& plan : candidate_plans(s.model, s.hardware.system, rules)) {
    rules.plans = {plan};
    const DecodePoint other = best_decode(s.subject(), 8192, {}, rules);
    if (other.status == PointStatus::kMissesTpot) {
      EXPECT_LE(p.tpot, other.tpot);
    }
  }
}

TEST(BestDecode, WhatDoesNotFitIsSaidWithItsNeeds) {
  const Served s("deepseek-v4-pro", "hgx_h100", "fp8-index");
  const DecodePoint p = best_decode(s.subject(), 8192, {}, rules_of());
  EXPECT_EQ(p.status, PointStatus::kDoesNotFit);
  EXPECT_THAT(p.reason, testing::AllOf(testing::StartsWith("deepseek-v4-pro on hgx_h100"),
                                       testing::HasSubstr("are usable")));
  EXPECT_EQ(best_prefill(s.subject(), 8192, rules_of()).status, PointStatus::kDoesNotFit);
}

TEST(BestDecode, AMissingDtypeIsUnsupportedAndNamed) {
  const Served s("deepseek-v4-flash", "hgx_h200", "release");  // FP4 index scores on Hopper
  const DecodePoint d = best_decode(s.subject(), 8192, {}, rules_of());
  EXPECT_EQ(d.status, PointStatus::kUnsupported);
  EXPECT_THAT(d.reason, testing::StartsWith("h200_sxm has no fp4 peak"));
  EXPECT_EQ(best_prefill(s.subject(), 8192, rules_of()).status, PointStatus::kUnsupported);
}

TEST(BestDecode, APlanTheModelCannotTakeIsUnsupported) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  const DecodePoint p = best_decode(s.subject(), 8192, {}, rules_of({"tp=3"}));
  EXPECT_EQ(p.status, PointStatus::kUnsupported);
  EXPECT_THAT(p.reason, testing::HasSubstr("TP3"));
}

TEST(BestDecode, APlanOfMoreDevicesThanThereAreIsUnsupported) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  for (const char* plan : {"dp=16", "dp=8,pp=2", "tp=4,pp=4"}) {
    EXPECT_EQ(best_decode(s.subject(), 8192, {}, rules_of({plan})).status,
              PointStatus::kUnsupported)
        << plan;
    EXPECT_EQ(best_prefill(s.subject(), 8192, rules_of({plan})).status, PointStatus::kUnsupported)
        << plan;
  }
}

TEST(BestDecode, OneImpossiblePlanDoesNotHideAPossibleOne) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  for (const char* other : {"tp=3", "dp=16"}) {
    const DecodePoint p = best_decode(s.subject(), 8192, {}, rules_of({"dp=8", other}));
    EXPECT_EQ(p.status, PointStatus::kOk) << other;
    EXPECT_EQ(p.plan.dp, 8) << other;
  }
}

TEST(BestDecode, MoreTokensPerSequenceNeverRaiseThroughput) {
  const Served s("deepseek-v4-flash", "atlas_950_cabinet", "ascend-950");
  double last = 1e18;
  for (std::int64_t context = 8192; context <= 1048576; context *= 2) {
    const DecodePoint p = best_decode(s.subject(), context, {}, rules_of());
    ASSERT_EQ(p.status, PointStatus::kOk);
    EXPECT_LE(p.tokens_per_second_per_device(), last * 1.01) << context;
    last = p.tokens_per_second_per_device();
  }
}

TEST(CandidatePlans, StayWithinTheSystemAndTheExperts) {
  for (const char* system : {"hgx_h200", "gb300_nvl72", "cloudmatrix384", "atlas_950_8192"}) {
    const Served s("deepseek-v4-flash", system, "release");
    const auto plans = candidate_plans(s.model, s.hardware.system, rules_of());
    EXPECT_GE(plans.size(), 8U);
    for (std::size_t i = 0; i < plans.size(); ++i) {
      EXPECT_LE(plans[i].devices(), s.hardware.system.devices());
      EXPECT_LE(plans[i].ep, s.model.experts);
      for (std::size_t j = 0; j < i; ++j) EXPECT_FALSE(plans[i] == plans[j]);
    }
  }
}

TEST(PrefillTime, TheTrapezoidAgreesWithAllChunks) {
  for (const char* name : {"deepseek-v4-flash", "deepseek-v3.2", "deepseek-v4.1-flash"}) {
    const Served s(name, "hgx_b200", "release");
    StepEvaluator e(s.deployment("dp=8,overlap=waves"));
    for (const std::int64_t chunks : {1, 5, 8, 9, 10, 17, 64, 128}) {
      const std::int64_t chunk = 8192;
      const std::int64_t context = chunk * chunks - (chunks > 1 ? 100 : 0);
      double exact = 0.0;
      for (std::int64_t i = 0; i < chunks; ++i) {
        workloads::Batch b;
        b.phase = workloads::Phase::kPrefill;
        b.sequences = 8;
        b.context = std::min(context, (i + 1) * chunk);
        b.new_tokens = b.context - i * chunk;
        b.last_chunk = i == chunks - 1;
        exact += e.estimate(b).time.value();
      }
      EXPECT_NEAR(prefill_time(e, 8, context, chunk).value(), exact,
                  chunks <= 8 ? 1e-12 * exact : 0.01 * exact)
          << name << " " << chunks;
    }
  }
}

TEST(BestPrefill, ThroughputIsTokensOverTimeAndDevices) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  for (const std::int64_t context : {512, 8192, 100000}) {
    const PrefillPoint p = best_prefill(s.subject(), context, rules_of());
    ASSERT_EQ(p.status, PointStatus::kOk);
    EXPECT_NEAR(p.tokens_per_second_per_device,
                static_cast<double>(p.prompts * context) / p.time.value() /
                    static_cast<double>(p.plan.devices()),
                1e-6);
  }
}

TEST(BestPrefill, TakesNoLessThanTheSharesOfItsOverhead) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  ServingRules slow = rules_of();
  slow.serving_overhead = {2.0, 2.0, 2.0};
  EXPECT_NEAR(best_prefill(s.subject(), 8192, slow).time.value(),
              2.0 * best_prefill(s.subject(), 8192, rules_of()).time.value(), 1e-12);
}

}  // namespace
}  // namespace foretoken::analysis
