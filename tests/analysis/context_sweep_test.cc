// The main job: answers, costs and identities between them.
#include "analysis/context_sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "analysis/reports/context_sweep_report.h"
#include "tests/analysis/fixtures.h"

namespace foretoken::analysis {
namespace {

namespace fs = std::filesystem;
using test_support::configs;
using test_support::small_scenario;

const SweepResult& small() {
  static const SweepResult result = run_context_sweep(small_scenario(), configs());
  return result;
}

void expect_ordered(const base::Interval& i) {
  EXPECT_TRUE(std::isfinite(i.low) && std::isfinite(i.high));
  EXPECT_GT(i.low, 0.0);
  EXPECT_LE(i.low, i.value);
  EXPECT_LE(i.value, i.high);
}

TEST(ContextSweep, HasOnePointForEveryModelSystemAndContext) {
  EXPECT_EQ(small().points.size(), 8U);
  EXPECT_EQ(small().models.size(), 2U);
  EXPECT_EQ(small().hardware.size(), 2U);
}

TEST(ContextSweep, EveryIntervalIsOrdered) {
  for (const SweepPoint& p : small().points) {
    if (!p.priced()) continue;
    for (const base::Interval& i : {p.usd_per_device_hour, p.usd.output, p.usd.cached_input,
                                    p.cny.output, p.joules_per_output_token}) {
      expect_ordered(i);
    }
    if (p.prefill.status != PointStatus::kOk) continue;
    for (const base::Interval& i : {p.usd.input, p.cny.input, p.joules_per_input_token}) {
      expect_ordered(i);
    }
  }
}

TEST(ContextSweep, CostsFollowFromHourlyPriceThroughputAndUtilisation) {
  const double sold = small().scenario.utilisation.value;
  int priced = 0;
  for (const SweepPoint& p : small().points) {
    if (!p.priced()) continue;
    ++priced;
    const double rate = p.decode.tokens_per_second_per_device();
    EXPECT_NEAR(p.usd.output.value, p.usd_per_device_hour.value / (3600.0 * rate * sold) * 1e6,
                1e-9 * p.usd.output.value);
    EXPECT_NEAR(p.cny.output.value / p.usd.output.value, 7.1, 1e-9);
    // The power of a device at this load, at the meter.
    const double watts =
        small().hardware[p.system].system.power_watts.value * 1.2 * load_factor(p.decode.step);
    EXPECT_NEAR(p.joules_per_output_token.value, watts / rate, 1e-9 * watts / rate);
    EXPECT_LT(p.usd.cached_input.value, p.usd.input.value);
  }
  EXPECT_GE(priced, 6);
}

TEST(ContextSweep, BreakEvenIsWhereTheListPricePays) {
  int listed = 0;
  for (const SweepPoint& p : small().points) {
    if (!p.priced()) continue;
    ASSERT_EQ(p.break_even_hour_usd.has_value(), p.list_output_usd.has_value());
    if (!p.list_output_usd) continue;
    ++listed;
    // At that hourly price, output costs its list price.
    EXPECT_NEAR(*p.break_even_hour_usd / p.usd_per_device_hour.value,
                *p.list_output_usd / p.usd.output.value, 1e-9);
    // At that share of sold hours, too.
    EXPECT_NEAR(*p.break_even_utilisation,
                small().scenario.utilisation.value * p.usd.output.value / *p.list_output_usd, 1e-9);
  }
  EXPECT_GT(listed, 0);
}

TEST(ContextSweep, AnswersAreTheCheapestPointsWithinTheLimit) {
  for (std::size_t m = 0; m < small().models.size(); ++m) {
    for (const std::int64_t context : small().scenario.contexts) {
      std::vector<std::pair<double, std::size_t>> able;
      for (std::size_t i = 0; i < small().points.size(); ++i) {
        const SweepPoint& p = small().points[i];
        if (p.model == m && p.context == context && p.priced() &&
            p.decode.status == PointStatus::kOk) {
          able.emplace_back(p.usd.output.value, i);
        }
      }
      std::sort(able.begin(), able.end());
      const Answer* answer = nullptr;
      for (const Answer& a : small().answers) {
        if (a.model == m && a.context == context) answer = &a;
      }
      ASSERT_EQ(answer != nullptr, !able.empty());
      if (answer == nullptr) continue;
      EXPECT_EQ(answer->best, able[0].second);
      ASSERT_EQ(answer->runner_up.has_value(), able.size() > 1);
      if (able.size() == 1) {
        EXPECT_EQ(answer->certainty, "only");
        continue;
      }
      EXPECT_EQ(*answer->runner_up, able[1].second);
      const SweepPoint& a = small().points[able[0].second];
      const SweepPoint& b = small().points[able[1].second];
      const double deviations = 1.645 * std::log(b.usd.output.value / a.usd.output.value) /
                                std::hypot(a.own_output_spread.up(), b.own_output_spread.down());
      const double probability = 0.5 * std::erfc(-deviations / std::sqrt(2.0));
      EXPECT_EQ(answer->certainty, probability >= 0.95  ? "clear"
                                   : probability >= 0.8 ? "likely"
                                                        : "open");
    }
  }
}

TEST(ContextSweep, TheBasisIsTheWeakestOfItsParts) {
  for (const SweepPoint& p : small().points) {
    EXPECT_GE(p.basis, small().hardware[p.system].basis());
    // Acceptance was measured on V4-Pro only.
    EXPECT_EQ(p.basis, base::Basis::kAssumed);
  }
}

TEST(ContextSweep, AMissingPriceLeavesThePointWithoutCosts) {
  Scenario s = small_scenario();
  s.models = {"deepseek-v4-flash"};
  s.contexts = {8192};
  s.ownership = Ownership::kRental;
  const SweepResult r = run_context_sweep(s, configs());
  for (const SweepPoint& p : r.points) {
    if (p.price_problem.empty()) continue;
    EXPECT_FALSE(p.priced());
    EXPECT_TRUE(p.runs());
    EXPECT_FALSE(p.break_even_hour_usd.has_value());
  }
}

TEST(ContextSweep, TheSameScenarioGivesTheSameBytes) {
  const SweepResult again = run_context_sweep(small_scenario(), configs());
  const Sources sources = load_sources(configs());
  EXPECT_EQ(sweep_json(again, sources), sweep_json(small(), sources));
  EXPECT_EQ(sweep_csv(again), sweep_csv(small()));
  EXPECT_EQ(sweep_markdown(again), sweep_markdown(small()));
}

TEST(ContextSweep, TheHashNamesWhatTheResultDependsOn) {
  const auto hash = [](auto&& change) {
    Scenario s = small_scenario();
    s.models = {"deepseek-v4-flash"};
    s.contexts = {8192};
    change(s);
    return run_context_sweep(s, configs()).config_hash;
  };
  const std::string before = hash([](Scenario&) {});
  EXPECT_EQ(before.size(), 16U);
  EXPECT_EQ(hash([](Scenario&) {}), before);
  EXPECT_NE(hash([](Scenario& s) { s.rules.waves = 2; }), before);
  EXPECT_NE(hash([](Scenario& s) { s.stack = "unfused"; }), before);
  EXPECT_NE(hash([](Scenario& s) { s.systems[0].name = "hgx_h100"; }), before);
}

// Only the stack's name is in it.
TEST(ContextSweep, TheHashChangesWithTheStacksContent) {
  const base::ScratchFolder folder;
  fs::copy(configs(), folder / "configs", fs::copy_options::recursive);
  Scenario s = small_scenario();
  s.models = {"deepseek-v4-flash"};
  s.contexts = {8192};
  const std::string before = run_context_sweep(s, folder / "configs").config_hash;
  const fs::path file = folder / "configs/stacks/serving.yaml";
  std::string text = base::content_of(file);
  text.replace(text.find("  attn_norm: hc_attn_pre"), 24, "  ffn_norm: hc_ffn_pre");
  text.replace(text.rfind("  ffn_norm: hc_ffn_pre"), 22, "");
  std::ofstream(file, std::ios::binary) << text;
  EXPECT_NE(run_context_sweep(s, folder / "configs").config_hash, before);
}

TEST(ContextSweep, ASystemsOwnStackTakesTheScenariosPlace) {
  const auto decode = [](const std::string& stack) {
    Scenario s = small_scenario();
    s.models = {"deepseek-v4-flash"};
    s.contexts = {8192};
    s.systems = {{"atlas_950_cabinet", "ascend-950", stack}};
    s.plans = {"dp=64"};
    s.rules.plans = {workloads::parse_plan("dp=64")};
    return run_context_sweep(s, configs());
  };
  const SweepResult scenarios = decode("");
  const SweepResult own = decode("cann");  // waits at barriers
  ASSERT_EQ(own.points.front().decode.status, PointStatus::kOk);
  EXPECT_LT(own.points.front().decode.tokens_per_second(),
            0.95 * scenarios.points.front().decode.tokens_per_second());
  // The range of what it loses widens the step's.
  EXPECT_GT(own.points.front().decode.step_spread.down(),
            scenarios.points.front().decode.step_spread.down());
  EXPECT_NE(own.config_hash, scenarios.config_hash);
  EXPECT_THAT(own.source_ids, testing::Contains("ubep-paper"));
}

TEST(Golden, TheSmallScenarioIsAsReviewed) {
  const fs::path golden = fs::path(FORETOKEN_SOURCE_DIR) / "tests/golden/context_sweep_small.csv";
  // Six digits: a change of model shows, a change of compiler does not.
  std::string now;
  std::string cell;
  const auto flush = [&] {
    char* end = nullptr;
    const double value = std::strtod(cell.c_str(), &end);
    if (!cell.empty() && *end == '\0' && cell.find_first_of(".e") != std::string::npos) {
      char text[32];
      std::snprintf(text, sizeof text, "%.6g", value);
      cell = text;
    }
    now += cell;
    cell.clear();
  };
  for (const char c : sweep_csv(small())) {
    if (c == ',' || c == '\n') {
      flush();
      now += c;
    } else {
      cell += c;
    }
  }
  if (std::getenv("FORETOKEN_UPDATE_GOLDENS") != nullptr) {
    fs::create_directories(golden.parent_path());
    std::ofstream(golden, std::ios::binary) << now;
  }
  EXPECT_EQ(base::content_of(golden), now) << "build the target update-goldens, review the diff";
}

}  // namespace
}  // namespace foretoken::analysis
