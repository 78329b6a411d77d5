#include "analysis/validation/validation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "sim/base/error.h"
#include "tests/analysis/validation/fixtures.h"

namespace foretoken::analysis::validation {
namespace {

using testing::ElementsAre;

// A row measured at `measured` and predicted at `predicted`, with the interval of one around it.
ValidationRow row_of(double measured, double predicted) {
  ValidationRow row;
  row.file = "t.csv";
  row.class_name = "k";
  row.measured = measured;
  row.comparison = Comparison{predicted, predicted - 1.0, predicted + 1.0, base::Basis::kAssumed};
  return row;
}

ErrorStatistics statistics_of(const std::deque<ValidationRow>& rows) {
  std::vector<const ValidationRow*> pointers;
  pointers.reserve(rows.size());
  for (const ValidationRow& row : rows) pointers.push_back(&row);
  return statistics(pointers);
}

TEST(Validation, StatisticsByHand) {
  // Errors -50 %, -10 %, 0, +20 %, +100 %; the interval of 1 around holds 9 and 10.
  const ErrorStatistics s =
      statistics_of({row_of(10, 5), row_of(10, 9), row_of(10, 10), row_of(10, 12), row_of(10, 20)});
  EXPECT_EQ(s.n, 5u);
  EXPECT_DOUBLE_EQ(s.median_signed_error, 0.0);
  EXPECT_DOUBLE_EQ(s.median_abs_error, 0.2);
  // Rank 0.9 x 4 = 3.6 of 0, 0.1, 0.2, 0.5, 1: 0.5 + 0.6 x 0.5.
  EXPECT_NEAR(s.p90_abs_error, 0.8, 1e-12);
  EXPECT_DOUBLE_EQ(s.worst_abs_error, 1.0);
  EXPECT_DOUBLE_EQ(s.interval_coverage, 0.4);
}

TEST(Validation, StatisticsLeaveSkippedRowsOut) {
  ValidationRow skipped;
  skipped.skipped = "why";
  EXPECT_EQ(statistics_of({skipped}).n, 0u);
  EXPECT_EQ(statistics_of({skipped, row_of(1, 1)}).n, 1u);
}

Measurement gemm(double us, std::int64_t m, const std::string& stack) {
  Measurement x;
  x.value = us;
  x.unit = {"us", 1e-6};
  x.measured = DenseGemmCase{{"b200_sxm", stack, ""}, "fp8", m, 8, 8};
  return x;
}

std::vector<ValidationRow> compared(const std::vector<Measurement>& all) {
  FixedPredictor fixed(10e-6);
  Predictor* const predictors[] = {&fixed};
  return compare("t.csv", all, predictors);
}

TEST(Validation, TheFastestStackStandsForTheHardware) {
  const auto rows = compared(
      {gemm(8, 1, "a"), gemm(5, 1, "b"), gemm(9, 1, "c"), gemm(7, 2, "a"), gemm(5.1, 1, "b")});
  std::vector<bool> fastest;
  std::vector<std::string> classes;
  for (const ValidationRow& row : rows) {
    fastest.push_back(row.fastest);
    classes.push_back(row.class_name);
  }
  // A stack's second run of the same case stays beside its first.
  EXPECT_THAT(fastest, ElementsAre(false, true, false, true, true));
  EXPECT_EQ(classes[0], "dense_gemm/fp8 (other stacks)");
  EXPECT_EQ(classes[1], "dense_gemm/fp8");
  EXPECT_DOUBLE_EQ(rows[0].signed_error(), 0.25);
  EXPECT_DOUBLE_EQ(rows[1].signed_error(), 1.0);

  const auto summary = summarize(rows);
  ASSERT_EQ(summary.size(), 2u);
  EXPECT_EQ(summary[0].class_name, "dense_gemm/fp8");
  EXPECT_EQ(summary[0].errors.n, 3u);
  EXPECT_EQ(summary[1].class_name, "dense_gemm/fp8 (other stacks)");
  EXPECT_EQ(summary[1].errors.n, 2u);
}

TEST(Validation, PredictionsAreGivenInTheUnitOfTheMeasurement) {
  Measurement x = gemm(0.02, 1, "a");
  x.unit = {"ms", 1e-3};
  const auto rows = compared({x});
  EXPECT_DOUBLE_EQ(rows[0].comparison->predicted, 0.01);
  EXPECT_DOUBLE_EQ(rows[0].comparison->low, 0.005);
  EXPECT_DOUBLE_EQ(rows[0].comparison->high, 0.02);
  EXPECT_TRUE(rows[0].covered());
  EXPECT_EQ(rows[0].unit, "ms");
}

TEST(Validation, ABandwidthIsWhatTheTimeAndTheBytesMake) {
  Measurement x = gemm(60.0, 1, "a");  // 10 us, 5 to 20 us, and no bytes
  x.unit = {std::string(kBandwidth), 0.0};
  EXPECT_EQ(compared({x})[0].skipped, "values in GB/s are not modelled");
  class Counting : public FixedPredictor {
   public:
    Counting() : FixedPredictor(10e-6) {}
    Prediction predict(const Case& c) override {
      Prediction p = FixedPredictor::predict(c);
      p.counted_bytes = 1e6;
      return p;
    }
  } counting;
  Predictor* const one = &counting;
  const auto rows = compare("t.csv", {&x, 1}, {&one, 1});
  EXPECT_DOUBLE_EQ(rows[0].comparison->predicted, 100.0);
  EXPECT_DOUBLE_EQ(rows[0].comparison->low, 50.0);
  EXPECT_DOUBLE_EQ(rows[0].comparison->high, 200.0);
}

TEST(Validation, OfBandwidthsTheLargestIsTheHardwares) {
  Measurement time = gemm(100.0, 1, "a");
  Measurement slow = gemm(50.0, 1, "a");
  Measurement fast = gemm(60.0, 1, "b");
  slow.unit = fast.unit = {std::string(kBandwidth), 0.0};
  const std::vector<Measurement> all = {time, slow, fast};
  EXPECT_THAT(fastest_stacks(all), ElementsAre(true, false, true));
}

TEST(Validation, WhatNobodyModelsIsSkippedByName) {
  Measurement wave = gemm(1, 1, "a");
  wave.measured = MegaMoeCase{};
  Measurement reduce = gemm(1, 1, "a");
  reduce.measured = CollectiveCase{};
  Measurement unread = gemm(1, 1, "a");
  unread.measured = SkippedCase{{}, "k", "label", "'m' is empty"};
  Measurement refused = gemm(1, 99, "a");
  const auto rows = compared({wave, reduce, unread, refused});
  EXPECT_EQ(rows[0].skipped, "fused expert waves are not modelled at kernel level yet");
  EXPECT_EQ(rows[1].skipped, "this kind of kernel is not modelled yet");
  EXPECT_EQ(rows[2].skipped, "'m' is empty");
  EXPECT_EQ(rows[3].skipped, "99 rows are refused");
  for (const ValidationRow& row : rows) EXPECT_FALSE(row.comparison.has_value());
  EXPECT_EQ(summarize(rows).size(), 4u);
}

TEST(Validation, ARatioThatIsNoNumberIsSkipped) {
  Measurement x = gemm(1e-320, 1, "a");
  const auto rows = compared({x});
  EXPECT_EQ(rows[0].skipped, "prediction and measurement are too far apart for a ratio");
}

TEST(Validation, EveryRowOfEveryTableComesBack) {
  const base::CsvTable gemms = base::parse_csv(
      "a.csv", "system,dtype,m,n,k,latency_us\nb200_sxm,fp8,1,8,8,5\nx,fp8,,8,8,5\n");
  const base::CsvTable mhc = base::parse_csv(
      "b.csv", "system,op,hc_mult,hidden,num_tokens,latency_us\nb200_sxm,pre,4,4096,1,5\n");
  FixedPredictor fixed(5e-6);
  Predictor* const predictors[] = {&fixed};
  const base::CsvTable tables[] = {gemms, mhc};
  const Validation v = validate(tables, "configs", predictors);
  ASSERT_EQ(v.rows.size(), 3u);
  EXPECT_EQ(v.rows[1].row, 2);
  EXPECT_EQ(v.rows[1].line, 3);
  ASSERT_EQ(v.summary.size(), 3u);
  EXPECT_EQ(v.summary[0].class_name, "dense_gemm");
  EXPECT_EQ(v.summary[0].skipped, 1u);
  EXPECT_EQ(v.summary[1].class_name, "dense_gemm/fp8");
  EXPECT_EQ(v.summary[2].file, "b.csv");
}

}  // namespace
}  // namespace foretoken::analysis::validation
