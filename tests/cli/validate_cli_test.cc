// The validate command as its users run it.
#include <nlohmann/json.hpp>

#include "tests/cli/shell.h"

namespace foretoken {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using Json = nlohmann::json;

const std::string kGemms =
    "system,framework,dtype,m,n,k,latency_us\n"
    "h200_sxm,a,fp8,64,4096,7168,20\n"
    "x100,a,fp8,64,4096,7168,20\n";

TEST(ValidateCli, ReadsATableByItsColumnsAndComparesEveryRow) {
  const Shell foretoken;
  foretoken.folder.write("t.csv", kGemms);
  const Outcome o = foretoken("validate t.csv --format json");
  ASSERT_EQ(o.code, 0) << o.err;
  const Json all = Json::parse(o.out);
  ASSERT_EQ(all["rows"].size(), 2u);
  EXPECT_GT(all["rows"][0]["predicted"], 0.0);
  EXPECT_EQ(all["rows"][1]["skipped"], "no chip 'x100' in configs/chips");
  EXPECT_EQ(all["summary"][0]["n"], 1);
  EXPECT_EQ(all["summary"][0]["skipped"], 1);
}

TEST(ValidateCli, WritesAReportWithTheCommand) {
  const Shell foretoken;
  foretoken.folder.write("t.csv", kGemms);
  const Outcome o = foretoken("validate t.csv --out made --format csv");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(base::content_of(foretoken.folder / "made/results.csv"), o.out);
  EXPECT_THAT(base::content_of(foretoken.folder / "made/report.md"),
              HasSubstr("`foretoken validate t.csv`"));
  EXPECT_EQ(Json::parse(base::content_of(foretoken.folder / "made/results.json"))["rows"].size(),
            2u);
}

TEST(ValidateCli, WithoutFilesItTakesEveryTableHere) {
  const Shell foretoken;
  const Outcome o = foretoken("validate --format json");
  ASSERT_EQ(o.code, 0) << o.err;
  const Json all = Json::parse(o.out);
  EXPECT_GT(all["rows"].size(), 2000u);
  for (const Json& row : all["rows"]) {
    EXPECT_NE(row.contains("predicted"), row.contains("skipped")) << row;
    EXPECT_FALSE(row["measured"].is_null()) << row;
  }
  EXPECT_TRUE(all.contains("engines"));
}

TEST(ValidateCli, TablesThatCannotBeReadEndWithThreeAndTheirPlace) {
  const Shell foretoken;
  const auto refuse = [&](const std::string& text, const std::string& message) {
    foretoken.folder.write("t.csv", text);
    expect_refused(foretoken("validate t.csv"), 3, StartsWith("t.csv" + message));
  };
  refuse("", ":1:1: error: has no header row");
  refuse("a,b\n", ":1:1: error: no known table");
  refuse("system,dtype,m,n,k,latency_us\nh200_sxm,fp8,1,1,1,-1\n", ":2:20: error: 'latency_us'");
  refuse("system,dtype,m,n,k,latency_us\nh200_sxm,fp8,1,1,1,1e400\n", ":2:20: error:");
  refuse("system,dtype,m,n,k,latency_us\n\xff,fp8,1,1,1,1\n", ":2:1: error: invalid UTF-8");
  refuse("system,dtype,m,n,k,m\n", ":1:20: error: two columns are called 'm'");
  expect_refused(foretoken("validate nowhere.csv"), 3, StartsWith("nowhere.csv: error: no such"));
}

}  // namespace
}  // namespace foretoken
