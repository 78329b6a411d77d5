#include "analysis/calibration/transfer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/calibration/report.h"
#include "tests/analysis/calibration/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::calibration {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Chips "a" and "b", made with the same constants but that b's matrix units are slower than its own
// file knows; "c" has another dtype too.
class TransferOfTwo : public testing::Test {
 protected:
  TransferOfTwo() {
    predictor_.calibrate("a", constants(0.7, 0.6, 3e-6));
    predictor_.calibrate("b", constants(0.7, 0.5, 3e-6));
    rows_ = measured_by(predictor_, "a", "bf16", Noise(0.1, 1));
    for (Row& row : measured_by(predictor_, "b", "bf16", Noise(0.1, 2))) rows_.push_back(row);
  }

  Roofline predictor_;
  std::vector<Row> rows_;
  validation::Calibrations start_{{"a", constants(0.9, 0.9, 1.5e-6)},
                                  {"b", constants(0.9, 0.9, 1.5e-6)}};
};

TEST_F(TransferOfTwo, AHeldOutChipIsPredictedFromTheOthers) {
  const HeldOut h = hold_out("b", rows_, {"a", "b"}, {}, start_, predictor_);
  EXPECT_THAT(h.fit.chips, ElementsAre("a"));
  EXPECT_EQ(h.fit.rows, 24u);
  ASSERT_EQ(h.classes.size(), 1u);
  EXPECT_EQ(h.classes.front().n, 24u);
  // Compute-bound rows are predicted at 0.6 and run at 0.5: at most 1/6 too fast, less the noise.
  EXPECT_LT(h.classes.front().worst_abs_error, 1.0 - 0.5 / 0.6 / 1.1 / 1.1);
  EXPECT_GT(h.classes.front().worst_abs_error, 0.1);
  EXPECT_TRUE(h.own.empty());
}

TEST_F(TransferOfTwo, TheRowsOfTheHeldOutChipDoNotMatterToTheFit) {
  const HeldOut one = hold_out("b", rows_, {"a", "b"}, {}, start_, predictor_);
  for (Row& row : rows_) {
    if (row.chip == "b") row.measured *= 3.0;
  }
  const HeldOut two = hold_out("b", rows_, {"a", "b"}, {}, start_, predictor_);
  ASSERT_EQ(one.fit.constants.size(), two.fit.constants.size());
  for (std::size_t i = 0; i < one.fit.constants.size(); ++i) {
    EXPECT_EQ(one.fit.constants[i].fitted.value, two.fit.constants[i].fitted.value);
  }
  for (std::size_t i = 0; i < one.classes.front().ratios.size(); ++i) {
    EXPECT_NEAR(two.classes.front().ratios[i] * 3.0, one.classes.front().ratios[i], 1e-9);
  }
}

TEST_F(TransferOfTwo, ConstantsFromTheChipsOwnFileAreNamed) {
  const HeldOut h = hold_out("b", rows_, {"a", "b"}, {"latency.launch"}, start_, predictor_);
  EXPECT_THAT(h.own, ElementsAre("efficiency.memory", "efficiency.matrix.bf16"));
}

TEST_F(TransferOfTwo, ErrorsAreTheUnionOfWhatWasLeftOut) {
  const Transfer t = transfer(rows_, {"a", "b"}, {}, start_, predictor_);
  ASSERT_EQ(t.held_out.size(), 2u);
  ASSERT_TRUE(t.errors.classes.contains("dense_gemm/bf16"));
  const validation::ClassErrors& e = t.errors.classes.at("dense_gemm/bf16");
  EXPECT_EQ(e.n, 48);
  EXPECT_THAT(e.chips, ElementsAre("a", "b"));
  EXPECT_LT(e.q05, 1.0);
  EXPECT_GT(e.q95, 1.0);
  ASSERT_EQ(t.coverage.size(), 1u);
  EXPECT_GE(t.coverage.front().own, 0.88);
  EXPECT_EQ(t.coverage.front().n_others, 48u);
  EXPECT_LT(t.coverage.front().others, t.coverage.front().own);
  // Only compute-bound rows move, by 0.6 / 0.5 and the noise of the fits.
  EXPECT_GT(t.errors.inherited, 1.05);
  EXPECT_LT(t.errors.inherited, 1.25);
}

TEST_F(TransferOfTwo, ReportsSayWhichRowsWereFitted) {
  const Transfer t = transfer(rows_, {"a", "b"}, {}, start_, predictor_);
  const std::string text = transfer_markdown(t, {"t.csv", "foretoken calibrate"});
  EXPECT_THAT(text, HasSubstr("Fitted on b, predicting a:"));
  EXPECT_THAT(text, HasSubstr("Fitted on a, predicting b:"));
  EXPECT_THAT(text, HasSubstr("Fitted on a, b; how well the constants fit"));
  Calibrated c;
  c.fit = t.all;
  c.fitted = t.all_classes;
  c.transfer = t;
  EXPECT_THAT(to_text(c), HasSubstr("rows left out: fitted on a, predicting b"));
  EXPECT_THAT(to_json(c), HasSubstr("\"role\": \"held_out\""));
}

TEST_F(TransferOfTwo, TakesTwoChipsAndConstants) {
  EXPECT_THAT(
      base::thrown<base::UsageError>([&] { transfer(rows_, {"a"}, {}, start_, predictor_); }),
      HasSubstr("two chips"));
  EXPECT_THAT(base::thrown<base::UsageError>([&] {
                transfer(rows_, {"a", "b"}, {"none"}, start_, predictor_);
              }),
              HasSubstr("constants to fit"));
}

TEST_F(TransferOfTwo, ClassesWithFewRowsHaveNoQuantiles) {
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    if (i % 12 == 0) rows_[i].class_name = "rare";
  }
  const Transfer t = transfer(rows_, {"a", "b"}, {}, start_, predictor_);
  EXPECT_FALSE(t.errors.classes.contains("rare"));
  EXPECT_EQ(t.coverage.size(), 2u);
}

TEST(Residuals, StatisticsByHand) {
  std::vector<Row> rows(3);
  const std::vector<double> residuals = {std::log(0.5), std::log(1.0), std::log(1.2)};
  const auto all = by_class(rows, residuals);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_NEAR(all[0].median_signed_error, 0.0, 1e-12);
  EXPECT_NEAR(all[0].median_abs_error, 0.2, 1e-12);
  EXPECT_NEAR(all[0].p90_abs_error, 0.44, 1e-12);  // rank 1.8 of 0, 0.2, 0.5
  EXPECT_NEAR(all[0].worst_abs_error, 0.5, 1e-12);
}

}  // namespace
}  // namespace foretoken::analysis::calibration
