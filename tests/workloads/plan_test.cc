#include "workloads/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/workloads/test_support.h"

namespace foretoken::workloads {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string usage_error(std::string_view text) {
  return thrown<base::UsageError>([&] { (void)parse_plan(text); });
}
std::string refusal(std::string_view text, const ModelSpec& model) {
  return thrown<base::UnsupportedError>([&] { require_possible(parse_plan(text), model); });
}

TEST(ParsePlan, ReadsEveryKeyAndSpreadsExpertsOverTheStage) {
  const ParallelPlan p = parse_plan("tp=2,dp=4,cp=8,pp=3,overlap=waves,waves=5,routing=balanced");
  EXPECT_EQ(p, (ParallelPlan{.tp = 2,
                             .dp = 4,
                             .cp = 8,
                             .pp = 3,
                             .ep = 64,
                             .overlap = Overlap::kWaves,
                             .waves = 5,
                             .routing = Routing::kBalanced}));
  EXPECT_EQ(p.stage_ranks(), 64);
  EXPECT_EQ(p.devices(), 192);
  EXPECT_EQ(parse_plan("ep=1,tp=8").ep, 1);
  EXPECT_EQ(parse_plan("dp=1K").dp, 1024);
  EXPECT_EQ(parse_plan("overlap=none").overlap, Overlap::kNone);
  EXPECT_EQ(parse_plan("ep=8,dp=8,routing=power_law:1.2,replicas=16"),
            (ParallelPlan{.dp = 8, .ep = 8, .routing = {Routing::kPowerLaw, 1.2}, .replicas = 16}));
  EXPECT_EQ(parse_plan("replicas=0"), ParallelPlan{});
  EXPECT_EQ(parse_plan(""), ParallelPlan{});
}

TEST(ParsePlan, SaysWhatIsWrong) {
  EXPECT_EQ(usage_error("tp"), "plan: 'tp' is not of the form key=value");
  EXPECT_THAT(usage_error("xp=2"), AllOf(HasSubstr("unknown key 'xp'"), HasSubstr("tp, dp, cp")));
  EXPECT_THAT(usage_error("tp=0"), HasSubstr("between 1 and 1048576"));
  EXPECT_THAT(usage_error("tp=-1"), HasSubstr("tp"));
  EXPECT_THAT(usage_error("tp=two"), HasSubstr("plan: 'tp'"));
  EXPECT_THAT(usage_error("tp="), HasSubstr("plan: 'tp'"));
  EXPECT_THAT(usage_error("tp=99999999999999999999999"), HasSubstr("plan: 'tp'"));
  EXPECT_THAT(usage_error("overlap=some"),
              AllOf(HasSubstr("'some'"), HasSubstr("none, shared, waves")));
  EXPECT_THAT(usage_error("routing="), HasSubstr("balanced, uniform, hash"));
  EXPECT_THAT(usage_error("routing=zipf"), HasSubstr("exponent"));
  EXPECT_THAT(usage_error("replicas=-1"), HasSubstr("replicas"));
  EXPECT_THAT(usage_error("replicas=2M"), HasSubstr("between 0 and 1048576"));
  EXPECT_THAT(usage_error(",tp=2"), HasSubstr("key=value"));
  EXPECT_THAT(usage_error("tp=2,,dp=2"), HasSubstr("key=value"));
  EXPECT_THAT(usage_error("tp=1048576,dp=1048576,cp=1048576,pp=1048576"), HasSubstr("more than"));
}

// A key given twice is a mistake, as in a configuration file; so is a comma with nothing after it.
TEST(ParsePlan, RefusesRepeatedKeysAndATrailingComma) {
  EXPECT_THAT(usage_error("tp=2,tp=4"), HasSubstr("'tp'"));
  EXPECT_NE(usage_error("tp=2,"), "");
}

TEST(PlanText, NamesTheDegreesAboveOne) {
  EXPECT_EQ(to_string(ParallelPlan{}), "single device");
  EXPECT_EQ(to_string(parse_plan("dp=64")), "DP64 EP64");
  EXPECT_EQ(to_string(parse_plan("tp=8,pp=2")), "TP8 PP2 EP8");
  EXPECT_EQ(to_string(parse_plan("cp=4,ep=4")), "CP4 EP4");
}

TEST(RequirePossible, AcceptsTheUsualDeployments) {
  for (const ModelSpec* m : all_models()) {
    for (const char* plan : {"", "tp=8", "dp=64", "tp=2,dp=16", "cp=4", "tp=8,ep=1", "pp=4,tp=4"}) {
      EXPECT_EQ(refusal(plan, *m), "") << m->name << plan;
    }
  }
}

TEST(RequirePossible, NamesWhatDoesNotDivide) {
  EXPECT_THAT(refusal("tp=3", pro()),
              AllOf(HasSubstr("deepseek-v4-pro"), HasSubstr("TP3"), HasSubstr("128 heads")));
  EXPECT_THAT(refusal("tp=16", flash()), HasSubstr("8 output groups"));
  EXPECT_THAT(refusal("ep=8", flash()), HasSubstr("EP8 does not divide the 1 ranks"));
  EXPECT_THAT(refusal("dp=8,ep=4", flash()), HasSubstr("need plain tensor parallelism"));
  EXPECT_THAT(refusal("dp=512", flash()), HasSubstr("256 experts"));
  EXPECT_THAT(refusal("pp=62", pro()), HasSubstr("61 layers"));
  EXPECT_THAT(refusal("replicas=1", pro()), HasSubstr("1 replicas of 384 experts"));
  EXPECT_EQ(refusal("dp=2,replicas=384", pro()), "");
  EXPECT_THAT(refusal("dp=2,replicas=385", pro()), HasSubstr("than EP2 can hold"));
  ParallelPlan by_file = parse_plan("dp=2");
  RoutingData data{.file = "counts.txt", .popularity = {1.0, 2.0}, .choices = {1}, .topk = 1};
  by_file.routing = Routing::kPopularity;
  by_file.routing.data = std::make_shared<const RoutingData>(data);
  EXPECT_THAT(thrown<base::UnsupportedError>([&] { require_possible(by_file, pro()); }),
              HasSubstr("counts.txt gives the popularity of 2 experts, not of 384"));
  by_file.routing.kind = Routing::kRecorded;
  EXPECT_THAT(thrown<base::UnsupportedError>([&] { require_possible(by_file, pro()); }),
              HasSubstr("counts.txt records 1 choices of a token, not 6"));
  EXPECT_THAT(refusal("tp=4", edited_model("deepseek-v4-flash", {{"moe_intermediate_size", "6"}})),
              HasSubstr("expert width 6"));
  EXPECT_THAT(refusal("tp=4", edited_model("deepseek-v3.2", {{"intermediate_size", "18"}})),
              HasSubstr("dense width 18"));
}

}  // namespace
}  // namespace foretoken::workloads
