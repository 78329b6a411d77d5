#include "analysis/validation/error_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/validation/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::validation {
namespace {

using testing::HasSubstr;

ErrorTable table(double q05, double q95, double widen, double inherited) {
  ErrorTable t;
  t.inherited = inherited;
  t.classes["dense_gemm/fp8"] = {100, q05, q95, widen, {"a"}};
  return t;
}

TEST(ErrorTable, QuantilesByHand) {
  // 21 values: ranks 1 and 19 from 0.
  std::vector<double> ratios;
  for (int i = 0; i <= 20; ++i) ratios.push_back(0.5 + 0.05 * i);
  const ClassErrors e = class_errors(ratios, {"a"});
  EXPECT_EQ(e.n, 21);
  EXPECT_NEAR(e.q05, 0.55, 1e-12);
  EXPECT_NEAR(e.q95, 1.45, 1e-12);
  // Student's 95 % quantile of 20 degrees of freedom, 1.7247, x sqrt(22/21) over 1.6449.
  EXPECT_NEAR(e.widen, 1.7247 * std::sqrt(22.0 / 21.0) / 1.6449, 1e-3);
}

TEST(ErrorTable, FewRowsWidenMore) {
  const std::vector<double> five = {0.9, 0.95, 1.0, 1.05, 1.1};
  // 2.1318 x sqrt(1.2) / 1.6449.
  EXPECT_NEAR(class_errors(five, {"a"}).widen, 1.4197, 5e-3);
  const std::vector<double> many(1000, 1.0);
  EXPECT_NEAR(class_errors(many, {"a"}).widen, 1.001, 1e-3);
  const std::vector<double> four(4, 1.0);
  EXPECT_THAT(base::thrown<std::invalid_argument>([&] { class_errors(four, {"a"}); }),
              HasSubstr("4 rows are too few"));
}

TEST(ErrorTable, IntervalsAreThePredictionOverTheQuantiles) {
  const auto i = observed_interval(table(0.8, 1.25, 1.0, 1.5), "dense_gemm/fp8",
                                   base::Basis::kCalibrated, 10.0);
  ASSERT_TRUE(i.has_value());
  EXPECT_NEAR(i->low, 8.0, 1e-12);
  EXPECT_NEAR(i->high, 12.5, 1e-12);
  EXPECT_FALSE(
      observed_interval(table(0.8, 1.25, 1.0, 1.5), "mhc_pre", base::Basis::kCalibrated, 10.0)
          .has_value());
}

TEST(ErrorTable, FewRowsWidenAboutTheMiddle) {
  // Middle 1 / 0.5, half-width a factor of 1.25, squared by widen 2.
  const auto i = observed_interval(table(0.4, 0.625, 2.0, 1.0), "dense_gemm/fp8",
                                   base::Basis::kCalibrated, 10.0);
  EXPECT_NEAR(i->high, 20.0 * 1.5625, 1e-9);
  EXPECT_DOUBLE_EQ(i->low, 10.0);  // 12.8, but an interval holds its prediction
}

TEST(ErrorTable, InheritedConstantsWidenBothSides) {
  const auto i =
      observed_interval(table(0.8, 1.25, 1.0, 1.5), "dense_gemm/fp8", base::Basis::kAssumed, 10.0);
  EXPECT_NEAR(i->low, 8.0 / 1.5, 1e-12);
  EXPECT_NEAR(i->high, 12.5 * 1.5, 1e-12);
}

TEST(ErrorTable, ReplacesTheIntervalsOfClassesItHas) {
  FixedPredictor fixed(10e-6);
  ObservedIntervals observed(fixed, table(0.8, 1.25, 1.0, 1.5));
  const Prediction p = observed.predict(DenseGemmCase{{"a", "", ""}, "fp8", 1, 1, 1});
  EXPECT_DOUBLE_EQ(p.time.value(), 10e-6);
  EXPECT_NEAR(p.low.value(), 8e-6, 1e-15);
  EXPECT_EQ(p.basis, base::Basis::kCalibrated);
  const Prediction other = observed.predict(DenseGemmCase{{"a", "", ""}, "bf16", 1, 1, 1});
  EXPECT_DOUBLE_EQ(other.low.value(), 5e-6);  // half, as the predictor says
  EXPECT_TRUE(observed.handles(DenseGemmCase{}));
  EXPECT_FALSE(observed.handles(CollectiveCase{}));
}

TEST(ErrorTable, TheFileOfTheProjectCanBeRead) {
  const std::filesystem::path configs = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "configs";
  const ErrorTable t = load_error_table(configs);
  EXPECT_FALSE(t.classes.empty());
  EXPECT_GE(t.inherited, 1.0);
  EXPECT_NE(t.command, "");
  // From a file of its own: expert layers are in no fit.
  EXPECT_TRUE(t.classes.contains("megamoe"));
  EXPECT_TRUE(load_error_table(configs / "models").classes.empty());
}

TEST(ErrorTable, QuantilesOutOfOrderAreRefused) {
  const std::string text =
      "name: errors\ndata: x\ncommand: x\ninherited: { widen: 1, because: x }\nclasses:\n"
      "  k: { n: 5, q05: 1.2, q95: 1.1, widen: 1, chips: [a] }\n";
  EXPECT_THAT(base::config_error(
                  [&] { base::read_config<ErrorTable>(base::parse_yaml("errors.yaml", text)); }),
              HasSubstr("errors.yaml:6:24: error: 'q95' is below 'q05'"));
}

}  // namespace
}  // namespace foretoken::analysis::validation
