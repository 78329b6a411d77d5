// The calibrate command as its users run it.
#include <nlohmann/json.hpp>

#include "tests/cli/shell.h"

namespace foretoken {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using Json = nlohmann::json;

// Products of two chips, twelve each.
std::string gemms() {
  std::string text = "system,framework,dtype,m,n,k,latency_us\n";
  for (const char* chip : {"h200_sxm", "b200_sxm"}) {
    for (const int m : {1, 64, 1024, 8192}) {
      for (const int n : {256, 4096, 16384}) {
        // 4 us and 800 TFLOP/s or 4 TB/s.
        const double flops = 2.0 * m * n * 7168.0 / 800e12;
        const double bytes = 2.0 * n * 7168.0 / 4e12;
        text += std::string(chip) + ",a,bf16," + std::to_string(m) + "," + std::to_string(n) +
                ",7168," + std::to_string(4.0 + 1e6 * std::max(flops, bytes)) + "\n";
      }
    }
  }
  return text;
}

class CalibrateCli : public testing::Test {
 protected:
  CalibrateCli() { foretoken.folder.write("t.csv", gemms()); }
  Shell foretoken;
};

TEST_F(CalibrateCli, PrintsConstantsAndResidualsByClass) {
  const Outcome o = foretoken("calibrate --chip h200_sxm --data t.csv");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(o.out, HasSubstr("efficiency.matrix.bf16"));
  EXPECT_THAT(o.out, HasSubstr("dense_gemm/bf16  12"));
  EXPECT_EQ(o.err, "");
}

TEST_F(CalibrateCli, TheSameDataGiveTheSameBytes) {
  const std::string line = "calibrate --chip h200_sxm,b200_sxm --data t.csv --format json";
  const Outcome one = foretoken(line);
  ASSERT_EQ(one.code, 0) << one.err;
  EXPECT_EQ(one.out, foretoken(line).out);
  const Json all = Json::parse(one.out);
  EXPECT_LT(all["fit"]["loss_after"], all["fit"]["loss_before"]);
  EXPECT_EQ(all["fit"]["rows"], 24);
  EXPECT_EQ(all["residuals"][0]["role"], "fitted");
  for (const Json& c : all["fit"]["constants"]) {
    EXPECT_GE(c["after"], c["bounds"][0].get<double>() * (1.0 - 1e-9)) << c;
    EXPECT_LE(c["after"], c["bounds"][1].get<double>() * (1.0 + 1e-9)) << c;
  }
}

TEST_F(CalibrateCli, AHeldOutChipIsReportedApart) {
  const Outcome o =
      foretoken("calibrate --chip h200_sxm,b200_sxm --holdout b200_sxm --data t.csv --format json");
  ASSERT_EQ(o.code, 0) << o.err;
  const Json all = Json::parse(o.out);
  EXPECT_EQ(all["fit"]["chips"], Json::array({"h200_sxm"}));
  ASSERT_EQ(all["residuals"].size(), 2u);
  EXPECT_EQ(all["residuals"][1]["role"], "held_out");
  EXPECT_EQ(all["residuals"][1]["chips"], Json::array({"b200_sxm"}));
}

TEST_F(CalibrateCli, TheFileItWritesIsUsed) {
  foretoken.copy_configs();
  const Outcome before = foretoken("validate t.csv --format json");
  const Outcome o =
      foretoken("calibrate --chip h200_sxm --data t.csv --out configs/calibration/h200_sxm.yaml");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(base::content_of(foretoken.configs / "calibration/h200_sxm.yaml"),
              HasSubstr("command: \"foretoken calibrate --chip h200_sxm --out "
                        "configs/calibration/h200_sxm.yaml --data t.csv\""));
  const Outcome after = foretoken("validate t.csv --format json");
  ASSERT_EQ(after.code, 0) << after.err;
  EXPECT_LT(Json::parse(after.out)["summary"][0]["median_abs_error"],
            Json::parse(before.out)["summary"][0]["median_abs_error"]);
}

TEST_F(CalibrateCli, OfSeveralChipsItWritesAFolder) {
  const Outcome o = foretoken("calibrate --chip h200_sxm,b200_sxm --data t.csv --out made");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(base::content_of(foretoken.folder / "made/h200_sxm.yaml"),
              HasSubstr("name: h200_sxm"));
  EXPECT_THAT(base::content_of(foretoken.folder / "made/b200_sxm.yaml"),
              HasSubstr("24 rows of h200_sxm and b200_sxm in t.csv"));
}

TEST_F(CalibrateCli, ErrorsOfLeftOutChipsBecomeTheIntervals) {
  foretoken.copy_configs();
  const Outcome o = foretoken(
      "calibrate --chip h200_sxm,b200_sxm --data t.csv --errors configs/calibration/errors.yaml "
      "--report transfer.md");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(base::content_of(foretoken.configs / "calibration/errors.yaml"),
              HasSubstr("dense_gemm/bf16: { n: 24,"));
  EXPECT_THAT(base::content_of(foretoken.folder / "transfer.md"),
              HasSubstr("Fitted on h200_sxm, predicting b200_sxm:"));
  const Json all = Json::parse(foretoken("validate t.csv --format json").out);
  const double low = all["rows"][0]["low"];
  const double predicted = all["rows"][0]["predicted"];
  const double other_low = all["rows"][20]["low"];
  const double other_predicted = all["rows"][20]["predicted"];
  EXPECT_NEAR(low / predicted, other_low / other_predicted, 1e-9);
}

TEST_F(CalibrateCli, WrongCommandLinesEndWithTwo) {
  const auto refuse = [&](const std::string& line, const std::string& message) {
    expect_refused(foretoken("calibrate --data t.csv " + line), 2, HasSubstr(message));
  };
  refuse("", "--chip is required");
  refuse("--chip h200_sxm --fit efficiency.memroy",
         "no constant 'efficiency.memroy'; did you mean 'efficiency.memory'?");
  refuse("--chip h200_sxm --holdout b200_sxm", "--holdout: b200_sxm is not one of --chip");
  refuse("--chip h200_sxm --holdout h200_sxm", "--holdout leaves no chip to fit");
  refuse("--chip h200_sxm,h200_sxm", "--chip: h200_sxm is named twice");
  refuse("--chip h200_sxm --errors e.yaml", "take two chips or more");
  refuse("--chip h200_sxm,b200_sxm --errors e.yaml --holdout b200_sxm", "every chip in turn");
  refuse("--chip h200_sxm --format csv", "calibrate prints table or json");
}

TEST_F(CalibrateCli, ChipsAndDataThatDoNotServeEndWithFourAndThree) {
  expect_refused(foretoken("calibrate --chip x100 --data t.csv"), 4, HasSubstr("no chip 'x100'"));
  expect_refused(foretoken("calibrate --chip h100_sxm --data t.csv"), 4,
                 HasSubstr("the data have no row of 'h100_sxm' that is modelled"));
  foretoken.folder.write("empty.csv", "system,dtype,m,n,k,latency_us\n");
  expect_refused(foretoken("calibrate --chip h200_sxm --data empty.csv"), 4,
                 HasSubstr("no row of 'h200_sxm'"));
  expect_refused(foretoken("calibrate --chip h200_sxm --data nowhere.csv"), 3,
                 StartsWith("nowhere.csv: error: no such"));
  foretoken.folder.write("bad.csv", "system,dtype,m,n,k,latency_us\nh200_sxm,bf16,1,1,1,-1\n");
  expect_refused(foretoken("calibrate --chip h200_sxm --data bad.csv"), 3,
                 StartsWith("bad.csv:2:"));
  expect_refused(foretoken("calibrate --chip h200_sxm --data t.csv --out t.csv/a.yaml"), 3,
                 HasSubstr("t.csv"));
}

}  // namespace
}  // namespace foretoken
