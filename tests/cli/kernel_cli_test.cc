// The kernel command as its users run it.
#include <nlohmann/json.hpp>

#include "tests/cli/shell.h"

namespace foretoken {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;
using Json = nlohmann::json;

const std::string kCheck = "kernel check hopper_gemm_bf16 --chip h200_sxm --baseline b.json ";

TEST(KernelCli, ListsDesignsWithKernelFamiliesAndTitle) {
  const Shell foretoken;
  const Outcome o = foretoken("kernel list --format json");
  ASSERT_EQ(o.code, 0) << o.err;
  bool found = false;
  for (const Json& d : Json::parse(o.out)) {
    found = found || (d["design"] == "hopper_gemm_bf16" && d["kernel"] == "gemm" &&
                      d["families"][0] == "hopper" && !d["title"].empty());
  }
  EXPECT_TRUE(found);
  EXPECT_THAT(foretoken("list designs").out, HasSubstr("hopper_gemm_bf16\n"));
}

TEST(KernelCli, RunsADesignWithABreakdownThatAddsUp) {
  const Shell foretoken;
  for (const char* evaluator : {"estimate", "simulate"}) {
    const Outcome o = foretoken(
        "kernel run hopper_gemm_bf16 --chip h200_sxm --shape m=100,n=1536 --shape k=7168 "
        "--show-steps --format json --evaluator " +
        std::string(evaluator));
    ASSERT_EQ(o.code, 0) << o.err;
    const Json r = Json::parse(o.out);
    EXPECT_EQ(r["shape"], "format=bf16 m=100 n=1536 k=7168 groups=1 swiglu=false");
    EXPECT_EQ(r["evaluator"], evaluator);
    double sum = 0.0;
    for (const auto& [part, us] : r["parts_us"].items()) sum += us.get<double>();
    EXPECT_NEAR(sum, r["latency_us"], 1e-6);
    EXPECT_EQ(r["parts_us"].size(), 9u);
    EXPECT_GT(r["launches"][0]["steps"].size(), 3u);
    EXPECT_GT(r["launches"][0]["core_memory"]["operand"]["used_bytes"], 0.0);
    EXPECT_EQ(foretoken("kernel run hopper_gemm_bf16 --chip h200_sxm --shape m=100,n=1536 "
                        "--shape k=7168 --show-steps --format json --evaluator " +
                        std::string(evaluator))
                  .out,
              o.out);
  }
  EXPECT_THAT(foretoken("kernel run hopper_gemm_bf16 --chip h200_sxm --format csv").out,
              StartsWith("design,chip,case,shape,evaluator,latency_us,matrix_us"));
}

TEST(KernelCli, WritesATimelineThatIsJson) {
  const Shell foretoken;
  const Outcome o = foretoken("kernel run top_k --chip b200_sxm --timeline t.json");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(o.err, HasSubstr("wrote t.json"));
  EXPECT_GT(Json::parse(base::content_of(foretoken.folder / "t.json"))["traceEvents"].size(), 3u);
  foretoken.folder.write("plain", "");
  expect_refused(foretoken("kernel run top_k --chip b200_sxm --timeline plain/t.json"), 3,
                 HasSubstr("plain"));
}

TEST(KernelCli, MistakesEndWithTheirCodes) {
  const Shell foretoken;
  const std::string run = "kernel run hopper_gemm_bf16 --chip h200_sxm ";
  for (const char* line :
       {"kernel", "kernel walk", "kernel run", "kernel run hopper_gemm_bf16", "kernel check",
        "kernel check hopper_gemm_bf16", "kernel verify row top_k --pair hyper"}) {
    expect_refused(foretoken(line), 2, StartsWith("foretoken: "));
  }
  expect_refused(foretoken(run + "--shape m=0"), 2, HasSubstr("--shape: 'm'"));
  expect_refused(foretoken(run + "--case none"), 2, HasSubstr("there are decode_output/bf16"));
  expect_refused(foretoken(kCheck + "--tolerance 2us"), 2, HasSubstr("--tolerance: "));
  expect_refused(foretoken(kCheck + "--tolerance=-1%"), 2, HasSubstr("--tolerance: "));
  expect_refused(foretoken("kernel verify row --pair top_k"), 2, HasSubstr("--pair: "));
  expect_refused(foretoken("kernel run none --chip h200_sxm"), 3,
                 AllOf(HasSubstr("no such design"), HasSubstr("hopper_gemm_bf16")));
  expect_refused(foretoken("kernel run hopper_gemm_bf16 --chip h300"), 3,
                 AllOf(HasSubstr("no such chip"), HasSubstr("h200_sxm")));
  expect_refused(foretoken("kernel verify none"), 3, HasSubstr("no such design"));
  expect_refused(foretoken(kCheck), 3, StartsWith("b.json: error: "));
  expect_refused(foretoken("kernel check . --baseline b.json"), 3, HasSubstr("holds no designs"));
  expect_refused(foretoken(run + "--shape format=fp8"), 4, HasSubstr("offers bf16, not fp8"));
}

TEST(KernelCli, ADesignOfAnotherFamilyRunsWithANoteOrIsRefused) {
  const Shell foretoken;
  const Outcome o = foretoken("kernel run hopper_gemm_bf16 --chip b200_sxm");
  EXPECT_EQ(o.code, 0);
  EXPECT_THAT(o.err, HasSubstr("written for hopper"));
  const Outcome refused = foretoken("kernel run blackwell_gemm_fp4 --chip h200_sxm");
  EXPECT_EQ(refused.code, 4);
  EXPECT_THAT(refused.err, HasSubstr("h200_sxm"));
}

TEST(KernelCli, VerifiesADesignAndAPair) {
  const Shell foretoken;
  const Outcome one = foretoken("kernel verify top_k --chip b200_sxm --format json");
  ASSERT_EQ(one.code, 0) << one.out;
  for (const Json& r : Json::parse(one.out)["rows"]) {
    EXPECT_TRUE(r["passed"]);
    EXPECT_EQ(r["recall"], 1.0);
  }
  const Outcome two =
      foretoken("kernel verify hopper_gemm_fp8_block --pair ascend_3510_gemm --format json");
  ASSERT_EQ(two.code, 0) << two.out << two.err;
  for (const Json& r : Json::parse(two.out)["rows"]) {
    EXPECT_EQ(r["bit_equal"], r["different"] == 0);
    EXPECT_GT(r["elements"], 0);
  }
}

TEST(KernelCli, GatesAgainstABaselineItWrote) {
  const Shell foretoken;
  ASSERT_EQ(foretoken(kCheck + "--update").code, 0);
  const std::string written = base::content_of(foretoken.folder / "b.json");
  EXPECT_EQ(foretoken(kCheck).code, 0);
  ASSERT_EQ(foretoken(kCheck + "--update").code, 0);
  EXPECT_EQ(base::content_of(foretoken.folder / "b.json"), written);

  Json faster = Json::parse(written);
  for (Json& e : faster["entries"]) {
    e["latency_us"] = e["latency_us"].get<double>() * 0.9;
  }
  foretoken.folder.write("b.json", faster.dump());
  const Outcome slower = foretoken(kCheck + "--tolerance 2%");
  EXPECT_EQ(slower.code, 1);
  EXPECT_THAT(slower.out, HasSubstr("SLOWER"));
  EXPECT_EQ(foretoken(kCheck + "--tolerance 20%").code, 0);

  foretoken.folder.write("b.json", "{\"version\": 1, \"entries\": []}");
  const Outcome empty = foretoken(kCheck);
  EXPECT_EQ(empty.code, 1);
  EXPECT_THAT(empty.err, HasSubstr("nothing was compared"));
  foretoken.folder.write("b.json", "{\"version\": 1}");
  expect_refused(foretoken(kCheck), 3, HasSubstr("b.json:1:1: error: missing key 'entries'"));
}

TEST(KernelCli, ADesignThatCannotBeVerifiedFailsTheGateAndKeepsTheBaseline) {
  Shell foretoken;
  foretoken.copy_configs();
  foretoken.edit("designs/blackwell_gemm_fp4.yaml", "[blackwell, rubin]", "[hopper]");
  const std::string check = "kernel check blackwell_gemm_fp4 --baseline b.json ";
  const Outcome o = foretoken(check + "--update");
  EXPECT_EQ(o.code, 1);
  EXPECT_THAT(o.out, HasSubstr("FAILED: blackwell_gemm_fp4 on h100_sxm"));
  EXPECT_THAT(o.err, HasSubstr("b.json is as it was"));
  EXPECT_FALSE(std::filesystem::exists(foretoken.folder / "b.json"));
  EXPECT_EQ(foretoken("kernel verify blackwell_gemm_fp4").code, 1);
}

TEST(KernelCli, ABaselineThatCannotBeWrittenIsBadInput) {
  const Shell foretoken;
  foretoken.folder.write("plain", "");
  const Outcome o =
      foretoken("kernel check hopper_gemm_bf16 --chip h200_sxm --update --baseline plain/b.json");
  EXPECT_EQ(o.code, 3);
  EXPECT_THAT(o.err, HasSubstr("plain"));
}

TEST(KernelCli, TheShippedDesignsPassTheirGate) {
  const Shell foretoken;
  const std::string designs = (foretoken.configs / "designs").string();
  const Outcome o =
      foretoken("kernel check " + designs + " --baseline " + designs + "/baseline.json");
  EXPECT_EQ(o.code, 0) << o.out << o.err;
}

}  // namespace
}  // namespace foretoken
