#include "analysis/calibration/fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>

#include "analysis/validation/kernel_predictor.h"
#include "tests/analysis/calibration/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::calibration {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const FittedConstant& find(const Fit& fit, const std::string& name) {
  const auto found = std::find_if(fit.constants.begin(), fit.constants.end(),
                                  [&](const auto& c) { return c.constant.name == name; });
  EXPECT_NE(found, fit.constants.end()) << name;
  return *found;
}

// Rows of chip "a" made with 0.7, 0.6, 3 us; the files say 0.9, 0.9, 1.5 us.
class FitOfARoofline : public testing::Test {
 protected:
  std::vector<Row> rows(double noise) {
    predictor_.calibrate("a", constants(0.7, 0.6, 3e-6));
    return measured_by(predictor_, "a", "bf16", Noise(noise, 1));
  }
  Fit fitted(const std::vector<Row>& rows, const std::vector<std::string>& names = {}) {
    return fit(rows, {"a"}, names, start_, predictor_);
  }

  Roofline predictor_;
  validation::Calibrations start_{{"a", constants(0.9, 0.9, 1.5e-6)}};
};

TEST_F(FitOfARoofline, RecoversTheConstantsThatMadeTheRows) {
  const Fit f = fitted(rows(0.0));
  EXPECT_NEAR(find(f, "efficiency.memory").fitted.value, 0.7, 0.02);
  EXPECT_NEAR(find(f, "efficiency.matrix.bf16").fitted.value, 0.6, 0.02);
  EXPECT_NEAR(find(f, "latency.launch").fitted.value * 1e6, 3.0, 0.1);
  EXPECT_EQ(f.constants.size(), 3u);
  EXPECT_EQ(f.rows, 24u);
  EXPECT_LT(f.loss_after, 1e-3);
  EXPECT_GT(f.loss_before, 0.1);
}

TEST_F(FitOfARoofline, RecoversThemThroughNoise) {
  const Fit f = fitted(rows(0.1));
  for (const auto& [name, truth] : std::map<std::string, double>{
           {"efficiency.memory", 0.7}, {"efficiency.matrix.bf16", 0.6}, {"latency.launch", 3e-6}}) {
    const base::Ranged& found = find(f, name).fitted;
    EXPECT_NEAR(found.value / truth, 1.0, 0.08) << name;
    EXPECT_LE(found.low, found.value);
    EXPECT_GE(found.high, found.value);
  }
  EXPECT_GT(find(f, "efficiency.memory").rise_up, 0.0);
  EXPECT_GT(find(f, "efficiency.memory").rise_down, 0.0);
}

TEST_F(FitOfARoofline, IsTheSameEveryTime) {
  const std::vector<Row> all = rows(0.2);
  const Fit one = fitted(all);
  const Fit two = fitted(all);
  ASSERT_EQ(one.constants.size(), two.constants.size());
  for (std::size_t i = 0; i < one.constants.size(); ++i) {
    EXPECT_EQ(one.constants[i].fitted.value, two.constants[i].fitted.value);
    EXPECT_EQ(one.constants[i].fitted.low, two.constants[i].fitted.low);
  }
  EXPECT_EQ(one.evaluations, two.evaluations);
}

TEST_F(FitOfARoofline, LeavesThePredictorAsItFoundIt) {
  const std::vector<Row> all = rows(0.1);
  fitted(all);
  const double after = predictor_.time(all.front().measured_case).value();
  predictor_.calibrate("a", start_.at("a"));
  EXPECT_EQ(after, predictor_.time(all.front().measured_case).value());
}

TEST_F(FitOfARoofline, StaysInsideTheBoundsAndSaysSo) {
  std::vector<Row> all = rows(0.0);
  for (Row& row : all) row.measured /= 10.0;  // faster than any memory
  const Fit f = fitted(all);
  for (const FittedConstant& c : f.constants) {
    EXPECT_GE(c.fitted.low, c.constant.least * (1.0 - 1e-9)) << c.constant.name;
    EXPECT_LE(c.fitted.high, c.constant.most * (1.0 + 1e-9)) << c.constant.name;
  }
  EXPECT_NEAR(find(f, "efficiency.memory").fitted.value, 1.1, 1e-9);
  EXPECT_TRUE(find(f, "efficiency.memory").at_bound);
}

TEST_F(FitOfARoofline, OnlyTheNamedConstantsMove) {
  const Fit f = fitted(rows(0.0), {"latency.launch", "latency.collective"});
  ASSERT_EQ(f.constants.size(), 1u);
  EXPECT_EQ(f.constants.front().constant.name, "latency.launch");
  EXPECT_THAT(f.constants.front().before, ElementsAre(1.5e-6));
  EXPECT_THAT(f.idle, ElementsAre("latency.collective"));
}

TEST_F(FitOfARoofline, NoneFitsNothing) {
  const Fit f = fitted(rows(0.0), {"none"});
  EXPECT_TRUE(f.constants.empty());
  EXPECT_EQ(f.loss_before, f.loss_after);
}

TEST_F(FitOfARoofline, WhatTheRowsDoNotSettleStaysAsItWas) {
  std::vector<Row> all = rows(0.3);
  // Launch-bound rows, and one of 24 that is not.
  std::erase_if(all, [](const Row& row) {
    const auto& c = std::get<validation::DenseGemmCase>(row.measured_case);
    return c.n > 256 || c.m > 64;
  });
  const Fit f = fitted(all);
  EXPECT_TRUE(f.kept.contains("efficiency.matrix.bf16"));
  EXPECT_DOUBLE_EQ(f.values_for_others().at("efficiency.matrix.bf16").value, 0.9);
}

TEST_F(FitOfARoofline, UnknownNamesAreRefusedWithASuggestion) {
  EXPECT_EQ(base::thrown<base::UsageError>([&] { fitted(rows(0.0), {"efficiency.memroy"}); }),
            "no constant 'efficiency.memroy'; did you mean 'efficiency.memory'?");
  EXPECT_THAT(base::thrown<base::UsageError>([&] {
                fitted(rows(0.0), {"none", "x"});
              }),
              HasSubstr("no constant 'none'"));
}

TEST_F(FitOfARoofline, NoRowsAreRefused) {
  EXPECT_EQ(base::thrown<base::UnsupportedError>([&] { fitted({}); }),
            "there are no rows to fit to");
}

TEST_F(FitOfARoofline, ChipsShareOneValue) {
  predictor_.calibrate("a", constants(0.7, 0.6, 3e-6));
  predictor_.calibrate("b", constants(0.7, 0.6, 3e-6));
  std::vector<Row> all = measured_by(predictor_, "a", "bf16", Noise(0.0, 1));
  for (Row& row : measured_by(predictor_, "b", "bf16", Noise(0.0, 1))) all.push_back(row);
  start_["b"] = constants(0.4, 0.9, 6e-6);
  const Fit f = fit(all, {"a", "b"}, {}, start_, predictor_);
  EXPECT_EQ(f.rows, 48u);
  EXPECT_NEAR(find(f, "efficiency.memory").fitted.value, 0.7, 0.02);
  EXPECT_THAT(find(f, "efficiency.memory").before, ElementsAre(0.9, 0.4));
  EXPECT_DOUBLE_EQ(find(f, "efficiency.memory").constant.value.value, 0.6);  // sqrt(0.9 x 0.4)
}

TEST(Loss, IsQuadraticNearZeroAndLinearBeyond) {
  EXPECT_DOUBLE_EQ(loss_of(0.0), 0.0);
  EXPECT_DOUBLE_EQ(loss_of(0.05), 0.0125);
  EXPECT_DOUBLE_EQ(loss_of(-0.1), 0.05);
  EXPECT_DOUBLE_EQ(loss_of(1.1), 1.05);
}

TEST(Loss, CountsEveryClassOnce) {
  std::vector<Row> rows(4);
  rows[3].class_name = "k";
  // Three rows of 0.3 - 0.05 and one of 1.05 - 0.05.
  EXPECT_NEAR(loss_of(rows, std::vector<double>{0.3, 0.3, 0.3, 1.05}), (0.25 + 1.0) / 2.0, 1e-12);
}

base::CsvTable table(const std::string& rows) {
  return base::parse_csv("t.csv", "system,framework,dtype,m,n,k,latency_us\n" + rows);
}

TEST(Rows, AreThoseOfTheFastestStackThatThePredictorKnows) {
  Roofline predictor;
  predictor.calibrate("a", constants(0.9, 0.9, 1e-6));
  predictor.calibrate("b", constants(0.9, 0.9, 1e-6));
  const base::CsvTable tables[] = {
      table("a,slow,bf16,8,8,8,9\na,fast,bf16,8,8,8,5\na,fast,bf16,99,8,8,5\n"
            "a,fast,bf16,,8,8,5\nb,fast,bf16,8,8,8,5\n")};
  const auto rows = rows_of(tables, {"a"}, predictor);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_DOUBLE_EQ(rows[0].measured, 5e-6);
  EXPECT_EQ(rows[0].line, 3);
  EXPECT_EQ(predicted_rows(tables, {}, predictor).size(), 2u);
}

TEST(Rows, AChipWithoutAnyIsRefused) {
  Roofline predictor;
  const base::CsvTable tables[] = {table("a,x,bf16,8,8,8,9\n")};
  predictor.calibrate("a", constants(0.9, 0.9, 1e-6));
  EXPECT_EQ(base::thrown<base::UnsupportedError>([&] {
              rows_of(tables, {"a", "b"}, predictor);
            }),
            "the data have no row of 'b' that is modelled");
  const base::CsvTable empty[] = {table("")};
  EXPECT_EQ(base::thrown<base::UnsupportedError>([&] { rows_of(empty, {"a"}, predictor); }),
            "the data have no row of 'a' that is modelled");
}

TEST(Fit, RecoversConstantsOfTheRealPredictor) {
  validation::KernelPredictor predictor(kConfigs);
  const validation::Calibrations start = load_calibrations({"h200_sxm"}, kConfigs);
  hwmodels::Calibration truth = start.at("h200_sxm");
  set_constants(truth, std::map<std::string, double>{{"efficiency.memory", 0.75},
                                                     {"efficiency.matrix.bf16", 0.7},
                                                     {"latency.launch", 2.5e-6}});
  predictor.calibrate("h200_sxm", truth);
  const std::vector<Row> rows = measured_by(predictor, "h200_sxm", "bf16", Noise(0.03, 7));
  const Fit f =
      fit(rows, {"h200_sxm"}, {"efficiency.memory", "efficiency.matrix.bf16", "latency.launch"},
          start, predictor);
  EXPECT_NEAR(find(f, "efficiency.memory").fitted.value, 0.75, 0.05);
  EXPECT_NEAR(find(f, "efficiency.matrix.bf16").fitted.value, 0.7, 0.05);
  EXPECT_NEAR(find(f, "latency.launch").fitted.value * 1e6, 2.5, 0.15);
}

TEST(KernelPredictorConstants, InMemoryStandForTheFile) {
  const validation::Case c = validation::DenseGemmCase{{"h200_sxm", "", ""}, "bf16", 1, 256, 256};
  validation::Calibrations slow = load_calibrations({"h200_sxm"}, kConfigs);
  const double launch = slow.at("h200_sxm").launch_latency.value;
  set_constants(slow.at("h200_sxm"), std::map<std::string, double>{{"latency.launch", 1e-3}});
  validation::KernelPredictor from_file(kConfigs);
  validation::KernelPredictor given(kConfigs, slow);
  const double before = from_file.time(c).value();
  EXPECT_NEAR(given.time(c).value() - before, 1e-3 - launch, 1e-9);
  EXPECT_DOUBLE_EQ(given.time(c).value(), given.predict(c).time.value());
  from_file.calibrate("h200_sxm", slow.at("h200_sxm"));
  EXPECT_DOUBLE_EQ(from_file.time(c).value(), given.time(c).value());
  EXPECT_LT(given.predict(c).low.value(), given.predict(c).time.value());
}

}  // namespace
}  // namespace foretoken::analysis::calibration
