// Scenario files, overrides, acceptance tables and sources.
#include "analysis/scenario.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/sources.h"
#include "sim/base/config_print.h"
#include "tests/analysis/fixtures.h"

namespace foretoken::analysis {
namespace {

using base::config_error;
using test_support::configs;

Scenario with(const std::vector<std::string>& overrides) {
  return load_scenario("v4-context-length", configs(), overrides).scenario;
}

TEST(Scenario, TheMainOneReadsAsWritten) {
  const Scenario s = with({});
  EXPECT_EQ(s.models.size(), 4U);
  EXPECT_EQ(s.contexts.front(), 8192);
  EXPECT_EQ(s.contexts.back(), 1048576);
  EXPECT_DOUBLE_EQ(s.rules.tpot_limit.value(), 0.05);
  EXPECT_EQ(s.rules.chunk_tokens, 8192);
  EXPECT_EQ(s.rules.overlap, workloads::Overlap::kWaves);
  EXPECT_DOUBLE_EQ(s.cache_retention.value(), 3600.0);
  EXPECT_TRUE(s.rules.plans.empty());
}

TEST(Scenario, PrintsAndReadsBackTheSame) {
  const std::string printed = base::print_config(with({}));
  const auto again = base::read_config<Scenario>(base::parse_yaml("printed", printed));
  EXPECT_EQ(base::print_config(again), printed);
}

TEST(Scenario, OverridesReplaceValuesInPlace) {
  const Scenario s =
      with({"serving.tpot_limit=20 ms", "contexts=[1K]", "systems[0].name=hgx_h100"});
  EXPECT_DOUBLE_EQ(s.rules.tpot_limit.value(), 0.02);
  EXPECT_THAT(s.contexts, testing::ElementsAre(1024));
  EXPECT_EQ(s.systems[0].name, "hgx_h100");
}

TEST(Scenario, PlansTakeTheRulesOfTheScenarioUnlessTheySayOtherwise) {
  const Scenario s = with(
      {"serving.plans=['dp=8', 'dp=8,overlap=none,waves=2,routing=balanced']", "serving.waves=16"});
  ASSERT_EQ(s.rules.plans.size(), 2U);
  EXPECT_EQ(s.rules.plans[0].overlap, workloads::Overlap::kWaves);
  EXPECT_EQ(s.rules.plans[0].waves, 16);
  EXPECT_EQ(s.rules.plans[0].ep, 8);
  EXPECT_EQ(s.rules.plans[1].overlap, workloads::Overlap::kNone);
  EXPECT_EQ(s.rules.plans[1].waves, 2);
  EXPECT_EQ(s.rules.plans[1].routing, workloads::Routing::kBalanced);
}

TEST(Scenario, ContradictionsAreErrors) {
  const auto error = [](const std::string& assignment) {
    return config_error([&] { with({assignment}); });
  };
  EXPECT_THAT(error("contexts=[8K, 8192]"), testing::HasSubstr("'contexts' names a context twice"));
  EXPECT_THAT(error("models=[deepseek-v4-pro, deepseek-v4-pro]"),
              testing::HasSubstr("'models' names a model twice"));
  EXPECT_THAT(error("name=../up"), testing::HasSubstr("'name' may hold"));
  EXPECT_THAT(error("name=.hidden"), testing::HasSubstr("'name' may hold"));
  EXPECT_THAT(error("serving.tpot_limit=-1 ms"), testing::HasSubstr("tpot_limit"));
  EXPECT_THAT(error("serving.memory_share=1.5"), testing::HasSubstr("memory_share"));
  EXPECT_THAT(error("costs.utilisation=0"), testing::HasSubstr("utilisation"));
  EXPECT_THAT(error("contexts=[0]"), testing::HasSubstr("contexts"));
  EXPECT_THAT(error("serving.overlap=wave"), testing::HasSubstr("waves"));
  EXPECT_THAT(error("servin.waves=3"), testing::HasSubstr("unknown key 'servin'"));
}

TEST(Scenario, AnUnknownNameListsTheKnownOnes) {
  EXPECT_EQ(config_error([] { load_scenario("v5", configs(), {}); }),
            "v5: error: no such scenario; known: expert-waves, v4-context-length, or a path");
}

TEST(Acceptance, IsReadByTheNumberOfDrafts) {
  const auto t =
      base::load_config<AcceptanceTable>(configs() / "specdec" / "mtp-v4-pro-thinking-on.yaml");
  const base::Ranged borrowed{1.0, 0.85, 1.15};
  EXPECT_DOUBLE_EQ(speculation_from(t, 1, "deepseek-v4-pro", borrowed).acceptance_length, 1.79);
  EXPECT_DOUBLE_EQ(speculation_from(t, 3, "deepseek-v4-pro", borrowed).acceptance_length, 2.49);
  const Speculation none = speculation_from(t, 0, "deepseek-v4-pro", borrowed);
  EXPECT_EQ(none.draft_tokens, 0);
  EXPECT_EQ(none.acceptance_length, 1.0);
  EXPECT_THAT(config_error([&] { speculation_from(t, 9, "deepseek-v4-pro", borrowed); }),
              testing::HasSubstr("has no acceptance length for 9 draft tokens, only up to 8"));
}

TEST(Acceptance, BorrowedByAnotherModelItHasARange) {
  const auto t =
      base::load_config<AcceptanceTable>(configs() / "specdec" / "mtp-v4-pro-thinking-on.yaml");
  const Speculation own = speculation_from(t, 1, "deepseek-v4-pro", {0.9, 0.8, 1.1});
  EXPECT_EQ(own.low_factor, 1.0);
  EXPECT_EQ(own.high_factor, 1.0);
  const Speculation other = speculation_from(t, 1, "deepseek-v3.2", {0.9, 0.8, 1.1});
  EXPECT_DOUBLE_EQ(other.acceptance_length, 1.79 * 0.9);
  EXPECT_DOUBLE_EQ(other.low_factor, 0.8 / 0.9);
  EXPECT_DOUBLE_EQ(other.high_factor, 1.1 / 0.9);
}

TEST(Acceptance, NoTableYieldsMoreThanItsDraftsAndOne) {
  for (const std::string& n : hwmodels::list_configs(configs(), "specdec")) {
    const auto t = base::load_config<AcceptanceTable>(configs() / "specdec" / (n + ".yaml"));
    for (std::size_t i = 0; i < t.mean_acceptance_length.size(); ++i) {
      EXPECT_LE(t.mean_acceptance_length[i], static_cast<double>(i) + 2.0) << n;
    }
  }
}

TEST(Configs, PricesSpecdecAndSourcesPrintAndReadBackTheSame) {
  const auto same = [](const auto& value) {
    using T = std::decay_t<decltype(value)>;
    const std::string printed = base::print_config(value);
    EXPECT_EQ(base::print_config(base::read_config<T>(base::parse_yaml("p", printed))), printed);
  };
  same(load_sources(configs()));
  same(base::load_config<HardwarePrices>(configs() / "prices/hardware-2026-11.yaml"));
  same(base::load_config<ListPrices>(configs() / "prices/list-2026-04.yaml"));
  for (const std::string& n : hwmodels::list_configs(configs(), "specdec")) {
    same(base::load_config<AcceptanceTable>(configs() / "specdec" / (n + ".yaml")));
  }
}

TEST(Sources, AreFoundById) {
  const Sources s = load_sources(configs());
  ASSERT_NE(s.find("assumed"), nullptr);
  EXPECT_FALSE(s.find("assumed")->title.empty());
  EXPECT_EQ(s.find("nobody"), nullptr);
}

}  // namespace
}  // namespace foretoken::analysis
