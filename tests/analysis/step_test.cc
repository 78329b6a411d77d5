// One engine step: the closed form against the simulation, and how time and memory move.
#include "analysis/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "sim/base/error.h"
#include "tests/analysis/fixtures.h"
#include "tests/sim/task/allocation_counter.h"
#include "workloads/count.h"

namespace foretoken::analysis {
namespace {

using test_support::decode;
using test_support::prefill;
using test_support::Served;

struct Row {
  const char* model;
  const char* system;
  const char* precision;
  std::vector<std::string> plans;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> all = {
      {"deepseek-v4-pro", "gb300_nvl72", "release", {"dp=32", "tp=2,dp=16", "tp=8"}},
      {"deepseek-v4-flash", "hgx_h200", "fp8-index", {"dp=8", "tp=4,dp=2"}},
      {"deepseek-v4-flash", "atlas_950_cabinet", "ascend-950", {"dp=64", "tp=1"}},
      {"deepseek-v4.1-flash", "cloudmatrix384", "int8", {"dp=64"}},
      {"deepseek-v3.2", "hgx_b200", "release", {"dp=8", "tp=8"}},
      {"deepseek-v3.2", "hgx_h200_x4", "fp8-index", {"tp=8,pp=4", "dp=32"}},
  };
  return all;
}

template <class F>
void for_each_step(F&& f) {
  for (const Row& row : rows()) {
    const Served s(row.model, row.system, row.precision);
    for (const std::string& plan : row.plans) {
      for (const char* overlap : {"none", "shared", "waves"}) {
        StepEvaluator evaluator(s.deployment(plan + ",overlap=" + overlap));
        const std::int64_t dp = evaluator.deployment().plan.dp;
        for (const workloads::Batch& batch :
             {decode(dp, 8192), decode(64 * dp, 131072), prefill(dp, 4096)}) {
          SCOPED_TRACE(std::string(row.model) + " on " + row.system + " " + plan + " " + overlap +
                       " x" + std::to_string(batch.sequences));
          f(evaluator, batch, std::string(overlap));
        }
      }
    }
  }
}

TEST(Step, TheClosedFormEqualsTheSimulationWithoutOverlapAndIsNeverAboveItWithOverlap) {
  int equal = 0;
  int all = 0;
  for_each_step([&](StepEvaluator& e, const workloads::Batch& b, const std::string& overlap) {
    const double quick = e.estimate(b).time.value();
    const double full = e.simulate(b).time.value();
    if (overlap == "none") {
      EXPECT_NEAR(full, quick, 1e-9 * quick);
    }
    EXPECT_GE(full, quick * (1.0 - 1e-9));
    // Contention of two queues at most doubles a step.
    EXPECT_LE(full, 2.0 * quick);
    ++all;
    if (std::abs(full - quick) <= 1e-9 * quick) ++equal;
  });
  EXPECT_GE(equal, all / 3);
}

TEST(Step, SharesSumToOneAndNoUnitIsBusyLongerThanTheStep) {
  for_each_step([](StepEvaluator& e, const workloads::Batch& b, const std::string&) {
    const StepResult r = e.estimate(b);
    EXPECT_NEAR(std::accumulate(r.shares.begin(), r.shares.end(), 0.0), 1.0, 1e-9);
    for (const double u : r.utilisation) {
      EXPECT_GE(u, 0.0);
      EXPECT_LE(u, 1.0 + 1e-9);
    }
    EXPECT_EQ(r.shares[static_cast<std::size_t>(r.bound())],
              *std::max_element(r.shares.begin(), r.shares.end()));
  });
}

TEST(Step, WaitingAtBarriersStretchesDecodeAndNotTheHost) {
  Served s("deepseek-v4-flash", "atlas_950_cabinet", "ascend-950");
  const auto times = [&] {
    StepEvaluator e(s.deployment("dp=64"));
    const StepResult decoded = e.estimate(decode(64, 8192));
    EXPECT_NEAR(std::accumulate(decoded.shares.begin(), decoded.shares.end(), 0.0), 1.0, 1e-9);
    return std::pair(decoded.time.value(), e.estimate(prefill(64, 4096)).time.value());
  };
  const auto [decoded, prefilled] = times();
  s.stack.waiting = {0.2, 0.2, 0.2};
  const auto [waited, prefilled_again] = times();
  const double host = hwmodels::derive_rates(s.hardware).step;
  EXPECT_NEAR((waited - host) / (decoded - host), 1.25, 1e-9);
  EXPECT_EQ(prefilled_again, prefilled);
}

TEST(Step, EveryStageOfAPipelineAddsItsHostTime) {
  Served s("deepseek-v3.2", "hgx_h200_x4", "fp8-index");
  const auto time = [&](const char* plan) {
    StepEvaluator e(s.deployment(plan));
    const StepResult r = e.estimate(decode(4, 8192));
    EXPECT_NEAR(std::accumulate(r.shares.begin(), r.shares.end(), 0.0), 1.0, 1e-9);
    return r.time.value();
  };
  const double alone = time("tp=8");
  const double piped = time("tp=8,pp=4");
  s.stack.stage_host = {1e-3, 1e-3, 1e-3};
  EXPECT_EQ(time("tp=8"), alone);
  EXPECT_NEAR(time("tp=8,pp=4") - piped, 4e-3, 1e-9);
}

TEST(Step, NeverFasterThanReadingTheActiveWeightsOnce) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  StepEvaluator e(s.deployment("dp=8"));
  // At 1024 sequences every expert is hit: a rank reads all of its weights.
  const MemoryUse use = memory_use(s.deployment("dp=8"), 8192, 0.9);
  const hwmodels::Rates r = hwmodels::derive_rates(s.hardware);
  const double embedding =
      static_cast<double>(workloads::count_weight_bytes(s.model, s.precision).embedding);
  EXPECT_GE(e.estimate(decode(1024, 8192)).time.value(), (use.weights - embedding) / r.memory);
}

TEST(Step, TheTimeGrowsWithTheBatchAndTheContext) {
  for (const Row& row : rows()) {
    const Served s(row.model, row.system, row.precision);
    for (const std::string& plan : row.plans) {
      StepEvaluator e(s.deployment(plan + ",overlap=waves"));
      const std::int64_t dp = e.deployment().plan.dp;
      double last = 0.0;
      for (std::int64_t n = 1; n <= 256; n *= 2) {
        const double t = e.estimate(decode(n * dp, 32768)).time.value();
        EXPECT_GE(t, last * (1.0 - 1e-12)) << row.model << " " << plan << " " << n;
        last = t;
      }
      last = 0.0;
      for (std::int64_t context = 1024; context <= 1048576; context *= 2) {
        const double t = e.estimate(decode(4 * dp, context)).time.value();
        // A split of the keys may change by a step; the trend is up.
        EXPECT_GE(t, 0.98 * last) << row.model << " " << plan << " " << context;
        last = t;
      }
    }
  }
}

TEST(Step, FasterConstantsNeverMakeAStepSlower) {
  for (const Row& row : rows()) {
    const Served s(row.model, row.system, row.precision);
    const Deployment d = s.deployment(row.plans.front());
    StepEvaluator central(d);
    const auto batch = decode(16 * d.plan.dp, 32768);
    const double middle = central.estimate(batch).time.value();
    // A library's choice of tiles may turn on a constant, and then costs up to so much.
    constexpr double kChoice = 1e-3;
    for (int constant = 0; constant < hwmodels::kConstants; ++constant) {
      for (const int side : {-1, 1}) {
        hwmodels::Tuning tuning{};
        tuning[static_cast<std::size_t>(constant)] = side;
        const double t = StepEvaluator(d, tuning).estimate(batch).time.value();
        if (side < 0) {
          EXPECT_GE(t, middle * (1.0 - kChoice)) << row.model << " constant " << constant;
        } else {
          EXPECT_LE(t, middle * (1.0 + kChoice)) << row.model << " constant " << constant;
        }
      }
    }
  }
}

TEST(Step, ARepeatedEstimateTakesNothingFromTheHeap) {
  const Served s("deepseek-v4-pro", "gb300_nvl72", "release");
  StepEvaluator e(s.deployment("dp=64,overlap=waves", true));
  Speculation speculation;
  speculation.draft_tokens = 3;
  e.estimate(decode_batch(64 * 32, 131072, speculation));
  e.estimate(prefill(64, 8192));
  const auto before = test_support::allocations();
  for (std::int64_t n = 1; n < 20; ++n) {
    e.estimate(decode_batch(64 * n, 8192 * n, speculation));
    e.estimate(prefill(64, 256 * n));
  }
  EXPECT_EQ(test_support::allocations().made, before.made);
}

TEST(MemoryUse, IsWeightsByPlanAndCacheBySequence) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  const workloads::WeightBytes b = workloads::count_weight_bytes(s.model, s.precision);
  const auto real = [](std::int64_t v) { return static_cast<double>(v); };
  const MemoryUse one = memory_use(s.deployment("tp=1"), 8192, 0.9);
  EXPECT_DOUBLE_EQ(one.weights, real(b.routed + b.split + b.replicated));
  EXPECT_DOUBLE_EQ(one.per_sequence, real(workloads::count_kv(s.model, s.precision, 8192).total));
  EXPECT_DOUBLE_EQ(one.capacity, 0.9 * 141e9);
  // 256 experts over eight ranks: 32 each.
  EXPECT_DOUBLE_EQ(memory_use(s.deployment("dp=8"), 8192, 0.9).weights,
                   real(b.routed) / 8.0 + real(b.split + b.replicated));
  EXPECT_DOUBLE_EQ(memory_use(s.deployment("tp=8"), 8192, 0.9).weights,
                   real(b.routed + b.split) / 8.0 + real(b.replicated));
  // Experts that do not divide: the fullest rank has ceil(256 / 6) = 43.
  EXPECT_DOUBLE_EQ(memory_use(s.deployment("dp=6"), 8192, 0.9).weights,
                   real(b.routed) * 43.0 / 256.0 + real(b.split + b.replicated));
  // 16 more slots: 272 over eight ranks.
  EXPECT_DOUBLE_EQ(memory_use(s.deployment("dp=8,replicas=16"), 8192, 0.9).weights,
                   real(b.routed) * 34.0 / 256.0 + real(b.split + b.replicated));
  // Half the layers on each of two stages.
  const MemoryUse staged = memory_use(s.deployment("dp=8,pp=2"), 8192, 0.9);
  EXPECT_DOUBLE_EQ(staged.weights, (real(b.routed) / 8.0 + real(b.split + b.replicated)) / 2.0);
  EXPECT_DOUBLE_EQ(staged.per_sequence, one.per_sequence / 2.0);
}

TEST(MemoryUse, MoreExpertRanksHoldFewerWeightsEach) {
  const Served s("deepseek-v4-pro", "atlas_950_cabinet", "ascend-950");
  double last = 1e18;
  for (const char* plan : {"dp=1", "dp=2", "dp=4", "dp=8", "dp=16", "dp=32", "dp=64"}) {
    const double weights = memory_use(s.deployment(plan), 8192, 0.9).weights;
    EXPECT_LT(weights, last) << plan;
    last = weights;
  }
}

TEST(MemoryUse, TheDraftModuleIsLoadedOnlyWhenItDrafts) {
  for (const char* name : {"deepseek-v4-pro", "deepseek-v4.1-flash", "deepseek-v3.2"}) {
    const Served s(name, "gb300_nvl72", "release");
    const MemoryUse without = memory_use(s.deployment("dp=8", false), 8192, 0.9);
    const MemoryUse with = memory_use(s.deployment("dp=8", true), 8192, 0.9);
    EXPECT_GT(with.weights, without.weights) << name;
    EXPECT_GT(with.per_sequence, without.per_sequence) << name;
  }
}

TEST(SequencesThatFit, AreWholeOnesBesideTheWeights) {
  EXPECT_EQ(sequences_that_fit({.weights = 60.0, .per_sequence = 3.0, .capacity = 100.0}), 13);
  EXPECT_EQ(sequences_that_fit({.weights = 61.0, .per_sequence = 3.0, .capacity = 100.0}), 13);
  EXPECT_EQ(sequences_that_fit({.weights = 61.1, .per_sequence = 3.0, .capacity = 100.0}), 12);
  EXPECT_EQ(sequences_that_fit({.weights = 98.0, .per_sequence = 3.0, .capacity = 100.0}),
            std::nullopt);
  EXPECT_EQ(sequences_that_fit({.weights = 101.0, .per_sequence = 3.0, .capacity = 100.0}),
            std::nullopt);
}

TEST(Step, APlanTheModelCannotTakeIsAnErrorBeforeAnyStep) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  EXPECT_THAT(base::thrown<base::UnsupportedError>([&] { StepEvaluator e(s.deployment("tp=3")); }),
              testing::HasSubstr("deepseek-v4-flash cannot run as TP3"));
}

TEST(Step, MoreRanksThanTheSystemHasIsAnError) {
  const Served s("deepseek-v4-flash", "hgx_h200", "fp8-index");
  StepEvaluator e(s.deployment("dp=16"));
  EXPECT_THROW(e.estimate(decode(16, 8192)), base::UnsupportedError);
}

}  // namespace
}  // namespace foretoken::analysis
