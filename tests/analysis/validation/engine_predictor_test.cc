#include "analysis/validation/engine_predictor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sim/base/error.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::validation {
namespace {

const std::filesystem::path kConfigs = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "configs";

EngineStepCase step() {
  EngineStepCase c;
  c.step = {.system = "atlas_850e",
            .model = "deepseek-v4-flash",
            .precision = "ascend-950",
            .stack = "cann",
            .plan = "dp=16,ep=16,overlap=none,routing=balanced",
            .batch = 16,
            .context = 8192,
            .draft_tokens = 3};
  return c;
}

std::string refusal(const EngineStepCase& c) {
  EnginePredictor predictor(kConfigs);
  return base::thrown<base::UnsupportedError>([&] { predictor.predict(c); });
}

TEST(EnginePredictor, UsesTheOverheadOfOtherSystems) {
  const EndToEndResult known = validate_end_to_end(
      base::read_csv(kConfigs / "measurements" / "end-to-end-decode.csv"), kConfigs);
  EnginePredictor predictor(kConfigs);
  EngineStepCase c = step();
  ASSERT_TRUE(predictor.handles(c));
  const Prediction p = predictor.predict(c);
  const auto row = std::find_if(known.rows.begin(), known.rows.end(),
                                [](const EndToEndRow& r) { return r.system == "atlas_850e"; });
  ASSERT_NE(row, known.rows.end());
  EXPECT_DOUBLE_EQ(p.time.value(), row->predicted);
  EXPECT_DOUBLE_EQ(p.low.value(), row->low);
  EXPECT_DOUBLE_EQ(p.high.value(), row->high);
  EXPECT_LE(p.low.value(), p.time.value());
  EXPECT_LE(p.time.value(), p.high.value());
  // The time of a token, where a step yields several.
  c.tokens_per_step = 2.0;
  EXPECT_DOUBLE_EQ(predictor.predict(c).time.value(), p.time.value() / 2.0);
}

TEST(EnginePredictor, ARangeSpansTheLossesOfTheStack) {
  const EndToEndCase c = step().step;  // 950DT waits 0.05 to 0.2 of its kernels' time
  const base::Interval t = modelled_range(c, kConfigs);
  EXPECT_EQ(t.value, modelled_step(c, kConfigs).value());
  const double host = 100e-6;
  EXPECT_NEAR((t.value - host) / (t.low - host), 0.95 / 0.85, 1e-9);
  EXPECT_NEAR((t.high - host) / (t.value - host), 0.85 / 0.80, 1e-9);
}

// Each system predicted with what is left over on the others.
TEST(EnginePredictor, DecodeOn950dtAndGb200HoldsWithinATenth) {
  const EndToEndResult known = validate_end_to_end(
      base::read_csv(kConfigs / "measurements" / "end-to-end-decode.csv"), kConfigs);
  int seen = 0;
  for (const EndToEndSummary& s : known.systems) {
    if (s.system != "atlas_850e" && s.system != "gb200_nvl72") continue;
    ++seen;
    EXPECT_LE(s.median_abs_error, 0.10) << s.system;
    EXPECT_EQ(s.skipped, 0U) << s.system;
  }
  EXPECT_EQ(seen, 2);
}

TEST(EnginePredictor, AnUnknownStackIsNamed) {
  EngineStepCase c = step();
  c.step.stack = "none";
  EXPECT_EQ(refusal(c), "no stack 'none' in configs");
}

TEST(EnginePredictor, WhatItCannotModelSaysWhatIsMissing) {
  EngineStepCase c = step();
  c.step.model = "deepseek-r1";
  EXPECT_EQ(refusal(c), "no model 'deepseek-r1' in configs");
  c = step();
  c.step.system = "../chips/h200_sxm";
  EXPECT_EQ(refusal(c), "no system '../chips/h200_sxm' in configs");
  c = step();
  c.step.plan = "dp=128,ep=128";
  EXPECT_EQ(refusal(c), "atlas_850e has 96 devices; the plan needs 128");
  c = step();
  c.step.plan = "dp=99999999999";
  EXPECT_NE(refusal(c), "");
  c = step();
  c.step.batch = std::int64_t{1} << 40;
  EXPECT_EQ(refusal(c), "the step is too large to be counted exactly");
  c = step();
  c.step.draft_tokens = std::int64_t{1} << 31;
  EXPECT_EQ(refusal(c), "the step is too large to be counted exactly");
  c = step();
  c.step.batch = c.step.context = std::int64_t{1} << 30;
  EXPECT_EQ(refusal(c), "the step is too large to be counted exactly");
}

}  // namespace
}  // namespace foretoken::analysis::validation
