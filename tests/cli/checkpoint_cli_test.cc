// `foretoken checkpoint`: what it writes, and how wrong requests end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/cli/shell.h"

namespace foretoken {
namespace {

namespace fs = std::filesystem;
using base::content_of;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;
using Json = nlohmann::json;

std::string tiny(const std::string& name) {
  return "--model '" + std::string(FORETOKEN_SOURCE_DIR) + "/tests/reference/data/configs/" + name +
         "' ";
}

TEST(CheckpointCli, WritesConvertsAndRunsACheckpoint) {
  const Shell foretoken;
  const Outcome written = foretoken("checkpoint " + tiny("tiny-v4-pro.json") +
                                    "--out a --shard-size 2MB --format json");
  ASSERT_EQ(written.code, 0) << written.err;
  EXPECT_EQ(written.err, "");
  const Json report = Json::parse(written.out);
  EXPECT_EQ(report["tensors"], 512);
  EXPECT_GT(report["files"], 3);
  EXPECT_EQ(report["out"], "a");
  EXPECT_TRUE(fs::exists(foretoken.folder / "a/model.safetensors.index.json"));

  ASSERT_EQ(foretoken("checkpoint --from a --dequantise bf16 --out b").code, 0);
  EXPECT_THAT(content_of(foretoken.folder / "b/config.json"),
              testing::Not(HasSubstr("quantization_config")));
  ASSERT_EQ(foretoken("checkpoint --from b --quantise experts=mxfp4,linear=fp8 --out c").code, 0);
  foretoken.folder.write("t.json", "[1, 2, 3, 4, 5]");
  ASSERT_EQ(foretoken("reference --checkpoint a --tokens t.json --out a.st").code, 0);
  ASSERT_EQ(foretoken("reference --checkpoint c --tokens t.json --out c.st").code, 0);
  EXPECT_EQ(content_of(foretoken.folder / "a.st"), content_of(foretoken.folder / "c.st"));
}

TEST(CheckpointCli, TheSeedIsZeroUnlessGiven) {
  const Shell foretoken;
  const std::string model = tiny("tiny-v3.2.json");
  ASSERT_EQ(foretoken("checkpoint " + model + "--out a").code, 0);
  ASSERT_EQ(foretoken("checkpoint " + model + "--out b --seed 0").code, 0);
  ASSERT_EQ(foretoken("checkpoint " + model + "--out c --seed 1").code, 0);
  const auto tensors = [&](const std::string& name) {
    return content_of(foretoken.folder / name / "model.safetensors");
  };
  EXPECT_EQ(tensors("a"), tensors("b"));
  EXPECT_NE(tensors("a"), tensors("c"));
}

TEST(CheckpointCli, WrongCommandLinesEndWithTwo) {
  const Shell foretoken;
  ASSERT_EQ(foretoken("checkpoint " + tiny("tiny-v3.2.json") + "--out there").code, 0);
  const std::string model = tiny("tiny-v3.2.json");
  for (const std::string& line :
       std::vector<std::string>{"",
                                "--out x",
                                model,
                                model + "--out x --seed -1",
                                model + "--out x --seed one",
                                model + "--out x --shard-size 0 B",
                                model + "--out x --shard-size 2",
                                model + "--out x --shard-size 2GB/s",
                                model + "--out x --from there",
                                model + "--out x --quantise linear=fp8",
                                model + "--out x --dequantise f32",
                                model + "--out x --config c.json",
                                "--from there --out x",
                                "--from there --out x --seed 1",
                                "--from there --out x --quantise linear=mxfp4",
                                "--from there --out x --quantise fp8",
                                "--from there --out x --quantise router=fp8",
                                "--from there --out x --quantise =",
                                "--from there --out x --quantise experts=int4",
                                "--from there --out x --quantise experts=none,linear=none",
                                "--from there --out x --dequantise fp16",
                                "--from there --out x --dequantise f32 --quantise linear=fp8",
                                "--from there --out there --dequantise f32 --force",
                                model + "--out there"}) {
    SCOPED_TRACE(line);
    expect_refused(foretoken("checkpoint " + line), 2, StartsWith("foretoken: "));
    EXPECT_FALSE(fs::exists(foretoken.folder / "x"));
  }
  EXPECT_EQ(foretoken("checkpoint " + model + "--out there --force").code, 0);
}

TEST(CheckpointCli, BadInputEndsWithThreeAndImpossibleRequestsWithFour) {
  const Shell foretoken;
  foretoken.folder.write("plain", "kept");
  foretoken.folder.write("bad.json", "{\"model_type\": \"deepseek_v4\"}");
  const std::string model = tiny("tiny-v3.2.json");
  expect_refused(foretoken("checkpoint --model deepseek-v9 --out x"), 3,
                 HasSubstr("no such model"));
  expect_refused(foretoken("checkpoint --model ./none.json --out x"), 3, HasSubstr("none.json"));
  expect_refused(foretoken("checkpoint --model ./bad.json --out x"), 3, StartsWith("./bad.json"));
  expect_refused(foretoken("checkpoint --model . --out x"), 3, StartsWith(".: error: "));
  expect_refused(foretoken("checkpoint " + model + "--out plain"), 3,
                 StartsWith("plain: error: is a file"));
  expect_refused(foretoken("checkpoint " + model + "--out plain/x"), 3, HasSubstr("plain"));
  expect_refused(foretoken("checkpoint " + model + "--out /proc/none"), 3,
                 StartsWith("/proc/none: error: "));
  expect_refused(foretoken("checkpoint --from none --dequantise f32 --out x"), 3,
                 StartsWith("none: error: no such folder"));
  expect_refused(foretoken("checkpoint --model deepseek-v4.1-flash --out x"), 4, HasSubstr("V4.1"));
  expect_refused(foretoken("checkpoint --model deepseek-v4-pro --out x"), 4,
                 AllOf(HasSubstr("x: the checkpoint takes"), HasSubstr("the disk has room for")));
  ASSERT_EQ(foretoken("checkpoint " + model + "--out q").code, 0);
  expect_refused(foretoken("checkpoint --from q --quantise linear=fp8 --out x"), 4,
                 AllOf(HasSubstr("tensor 'model.layers.0."), HasSubstr("is F8_E4M3 already")));
  EXPECT_EQ(content_of(foretoken.folder / "plain"), "kept");
  EXPECT_FALSE(fs::exists(foretoken.folder / "x"));
}

}  // namespace
}  // namespace foretoken
