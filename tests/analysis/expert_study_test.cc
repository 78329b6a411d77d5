// What overlap is worth in theory, and the study's files.
#include "analysis/expert_study.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "analysis/reports/expert_report.h"
#include "sim/base/error.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::analysis {
namespace {

using test_support::configs;

TEST(OverlapTheory, HidesTrafficUpToTwiceTheInnerWidthInFlopPerByte) {
  EXPECT_DOUBLE_EQ(flops_per_byte(1.0, 3072), 6144.0);  // V4-Pro: 1 GB/s hides 6.1 TFLOP/s
  EXPECT_DOUBLE_EQ(flops_per_byte(1.0, 2048), 4096.0);  // V4-Flash
  EXPECT_DOUBLE_EQ(overlap_times({1.0, 0.0, 0}).waves_speedup(), 2.0);
  EXPECT_DOUBLE_EQ(overlap_times({0.5, 0.0, 0}).waves_speedup(), 1.5);
  EXPECT_DOUBLE_EQ(overlap_times({2.0, 0.0, 0}).waves_speedup(), 1.5);
}

TEST(OverlapTheory, GivesPairwiseOverlapOneAndAHalfFromHalfToTwice) {
  for (const double ratio : {0.5, 0.92, 1.0, 1.4, 2.0}) {
    EXPECT_NEAR(overlap_times({ratio, 0.0, 0}).pairwise_speedup(), 1.5, 1e-12);
  }
  EXPECT_LT(overlap_times({0.3, 0.0, 0}).pairwise_speedup(), 1.5);
  EXPECT_LT(overlap_times({3.0, 0.0, 0}).pairwise_speedup(), 1.5);
}

TEST(OverlapTheory, FindsWhereWavesGiveThePublishedSpeedup) {
  double ratio = 0.0;
  ASSERT_TRUE(ratio_for_waves(1.92, 0.0, 0, ratio));
  EXPECT_NEAR(ratio, 0.92, 1e-9);
  EXPECT_NEAR(flops_per_byte(ratio, 2048), 3768.0, 1.0);
  // Three waves, as drawn in the report, expose too much.
  EXPECT_FALSE(ratio_for_waves(1.92, 0.0, 3, ratio));
  EXPECT_TRUE(ratio_for_waves(1.92, 0.0, 32, ratio));
}

TEST(OverlapTheory, FindsTheActivationForBothPublishedSpeedups) {
  OverlapSolution s;
  ASSERT_TRUE(activation_for_both(1.92, 1.42, 0, s));
  EXPECT_NEAR(s.waves_speedup, 1.92, 1e-6);
  EXPECT_NEAR(s.pairwise_speedup, 1.42, 1e-6);
  // By hand: r = 0.92 (1 + a) and 1.92 (1 + a) = 1.42 (2/3 + a + 2 r / 3).
  EXPECT_NEAR(s.at.activation, 0.27606, 1e-5);
  EXPECT_NEAR(s.at.ratio, 1.17398, 1e-5);
  EXPECT_FALSE(activation_for_both(1.92, 1.42, 3, s));
}

TEST(OverlapTheory, ApproachesTheLimitWithMoreWaves) {
  double last = 10.0;
  for (const std::int64_t waves : {1, 2, 4, 16, 256, 4096}) {
    const double t = overlap_times({0.92, 0.1, waves}).waves;
    EXPECT_LT(t, last);
    last = t;
  }
  EXPECT_NEAR(last, overlap_times({0.92, 0.1, 0}).waves, 1e-3);
}

struct Study : testing::Test {
  static const ExpertStudyResult& result() {
    static const ExpertStudyResult kept = [] {
      ExpertStudyResult r =
          run_expert_study(load_expert_study("expert-waves", configs(), {}), configs());
      r.command = "foretoken run expert-waves";
      return r;
    }();
    return kept;
  }
};

TEST_F(Study, IsWithinItsTargetOfThePublishedSpeedups) {
  int compared = 0;
  for (const SpeedupPoint& p : result().practice) {
    if (p.published == 0.0) continue;
    ++compared;
    EXPECT_NEAR(p.speedup.value, p.published, 0.15) << p.model << " " << p.tokens;
  }
  EXPECT_EQ(compared, 8);
}

TEST_F(Study, GivesEverySpeedupAnInterval) {
  for (const SpeedupPoint& p : result().practice) {
    EXPECT_LT(p.speedup.low, p.speedup.value);
    EXPECT_GT(p.speedup.high, p.speedup.value);
    EXPECT_GT(p.speedup.value, 1.0) << p.system;
    EXPECT_LT(p.fused_seconds.low, p.fused.seconds);
  }
}

TEST_F(Study, WritesTheSamePointsInEveryForm) {
  const auto json = nlohmann::json::parse(expert_json(result()));
  EXPECT_EQ(json["practice"].size(), result().practice.size());
  EXPECT_EQ(json["theory"].size(), result().theory.size());
  EXPECT_NEAR(json["practice"][0]["speedup"].get<double>(), result().practice[0].speedup.value,
              1e-12);
  const std::string csv = expert_csv(result());
  EXPECT_EQ(static_cast<std::size_t>(std::count(csv.begin(), csv.end(), '\n')),
            1 + result().practice.size() + result().theory.size());
  EXPECT_THAT(expert_markdown(result()), testing::HasSubstr("| deepseek-v4-pro"));
  const std::string html = expert_html(result());
  EXPECT_THAT(html, testing::HasSubstr("</html>"));
  EXPECT_THAT(html, testing::Not(testing::HasSubstr("http")));
}

TEST(ExpertStudyFile, IsReadOrRefusedWithItsPlace) {
  EXPECT_TRUE(is_expert_study("expert-waves", configs()));
  EXPECT_FALSE(is_expert_study("v4-context-length", configs()));
  EXPECT_FALSE(is_expert_study("no-such-scenario", configs()));
  const ExpertStudy s = load_expert_study("expert-waves", configs(), {"practice.tokens=[4]"});
  EXPECT_THAT(s.tokens, testing::ElementsAre(4));
  EXPECT_THROW(load_expert_study("expert-waves", configs(), {"practice.tokens=[0]"}),
               base::ConfigError);
  EXPECT_THROW(load_expert_study("expert-waves", configs(), {"theory.wave=3"}), base::ConfigError);
}

}  // namespace
}  // namespace foretoken::analysis
