#include "analysis/validation/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/analysis/validation/fixtures.h"

namespace foretoken::analysis::validation {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

Validation small() {
  const base::CsvTable tables[] = {base::parse_csv(
      "in/a.csv",
      "system,framework,dtype,m,n,k,latency_us\nb200_sxm,s,fp8,1,8,8,4\nb200_sxm,t,fp8,1,8,8,5\n"
      "b200_sxm,s,bf16,99,8,8,5\n")};
  FixedPredictor fixed(5e-6);
  Predictor* const predictors[] = {&fixed};
  return validate(tables, "configs", predictors);
}

TEST(ValidationReport, JsonHasARowForEveryMeasurementAndASummaryByClass) {
  const Json all = Json::parse(to_json(small()));
  ASSERT_EQ(all["rows"].size(), 3u);
  const Json& first = all["rows"][0];
  EXPECT_EQ(first["file"], "in/a.csv");
  EXPECT_EQ(first["row"], 1);
  EXPECT_EQ(first["line"], 2);
  EXPECT_EQ(first["class"], "dense_gemm/fp8");
  EXPECT_EQ(first["unit"], "us");
  EXPECT_EQ(first["measured"], 4.0);
  EXPECT_NEAR(first["predicted"], 5.0, 1e-12);
  EXPECT_NEAR(first["low"], 2.5, 1e-12);
  EXPECT_NEAR(first["high"], 10.0, 1e-12);
  EXPECT_EQ(first["basis"], "calibrated");
  EXPECT_NEAR(first["signed_error"], 0.25, 1e-12);
  EXPECT_EQ(all["rows"][1]["class"], "dense_gemm/fp8 (other stacks)");
  EXPECT_EQ(all["rows"][1]["fastest"], false);
  EXPECT_EQ(all["rows"][1]["stack"], "t");
  EXPECT_EQ(all["rows"][2]["skipped"], "99 rows are refused");
  EXPECT_FALSE(all["rows"][2].contains("predicted"));

  ASSERT_EQ(all["summary"].size(), 3u);
  const Json& skipped = all["summary"][0];
  EXPECT_EQ(skipped["class"], "dense_gemm/bf16");
  EXPECT_EQ(skipped["n"], 0);
  EXPECT_EQ(skipped["skipped"], 1);
  EXPECT_TRUE(skipped["median_signed_error"].is_null());
  const Json& fast = all["summary"][1];
  for (const char* key :
       {"median_signed_error", "median_abs_error", "p90_abs_error", "worst_abs_error"}) {
    EXPECT_NEAR(fast[key], 0.25, 1e-12) << key;
  }
  EXPECT_EQ(fast["interval_coverage"], 1.0);
}

TEST(ValidationReport, TextHasTheSummaryAndTheReasons) {
  const std::string text = to_text(small());
  EXPECT_THAT(text,
              HasSubstr("a.csv  dense_gemm/fp8                 1        0                +25 %"));
  EXPECT_THAT(text, HasSubstr("a.csv  dense_gemm/bf16        1  99 rows are refused"));
}

TEST(ValidationReport, CsvHasEveryRow) {
  const std::string csv = to_csv(small());
  EXPECT_THAT(csv,
              HasSubstr("file,row,line,class,case,stack,unit,measured,predicted,low,high,basis,"
                        "signed_error,skipped\n"));
  EXPECT_THAT(csv, HasSubstr("in/a.csv,3,4,dense_gemm/bf16,b200_sxm bf16 m 99 n 8 k 8,s,us,5,,,,,,"
                             "99 rows are refused\n"));
}

TEST(ValidationReport, MarkdownNamesTheCommand) {
  const std::string text = to_markdown(small(), "foretoken validate a.csv");
  EXPECT_THAT(text, HasSubstr("Made with `foretoken validate a.csv`."));
  EXPECT_THAT(text, HasSubstr("| dense_gemm/fp8 (other stacks) |"));
  EXPECT_THAT(text, HasSubstr("## Rows that are not compared"));
}

}  // namespace
}  // namespace foretoken::analysis::validation
