#include "sim/base/config_tree.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "tests/sim/base/test_support.h"

namespace foretoken::base {
namespace {

using Kind = ConfigTree::Kind;

std::string read_refusal(const std::filesystem::path& path, const ConfigLimits& limits = {}) {
  return config_error([&] { read_config_file(path, limits); });
}

TEST(ConfigFile, IsReadByItsExtension) {
  const ScratchFolder folder;
  EXPECT_EQ(read_config_file(folder.write("a.json", "{\"a\": 1}")).root.find("a")->scalar, "1");
  EXPECT_EQ(read_config_file(folder.write("a.yaml", "a: 1")).root.find("a")->scalar, "1");
  EXPECT_EQ(read_config_file(folder.write("b.yml", "{\"a\": 1,}")).root.find("a")->scalar, "1");
  const std::filesystem::path upper = folder.write("a.JSON", "a: 1");
  EXPECT_EQ(read_refusal(upper), upper.string() + ":1:1: error: invalid literal 'a'");
}

TEST(ConfigFile, IsRefusedWhenItCannotBeRead) {
  const ScratchFolder folder;
  const std::string missing = (folder / "none.yaml").string();
  EXPECT_EQ(read_refusal(missing),
            missing + ": error: cannot open the file: No such file or directory");
  EXPECT_EQ(read_refusal(folder.path()),
            folder.path().string() + ": error: is a folder, not a file");
  const std::string under = folder.write("f", "x").string() + "/a.yaml";
  EXPECT_EQ(read_refusal(under), under + ": error: cannot open the file: Not a directory");
  EXPECT_NE(read_refusal(""), "");
}

TEST(ConfigFile, IsRefusedBeforeReadingWhenTooLarge) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.yaml", "a: 12345").string();
  EXPECT_EQ(read_refusal(path, {.file_bytes = 8}), "");
  EXPECT_EQ(read_refusal(path, {.file_bytes = 7}),
            path + ": error: the file has 8 bytes; at most 7 are read");
}

TEST(ConfigFile, IsRefusedWhenItNeverEnds) {
  EXPECT_EQ(read_refusal("/dev/zero"), "/dev/zero: error: the file has more than 16777216 bytes");
}

class Overrides : public ::testing::Test {
 protected:
  std::string refusal(std::string_view assignment) {
    return thrown<UsageError>([&] { apply_override(file_, assignment); });
  }

  ConfigFile file_ = parse_yaml("f.yaml",
                                "batch: 8\n"
                                "plan: {tp: 4}\n"
                                "none:\n"
                                "memory: [{name: hbm}, {name: l2}]\n"
                                "models: {deepseek-v3.2: {layers: 61}}\n");
};

TEST_F(Overrides, ReplaceAValue) {
  apply_override(file_, "batch=16");
  EXPECT_EQ(file_.root.find("batch")->scalar, "16");
  EXPECT_EQ(file_.root.find("batch")->line, 0);
  EXPECT_EQ(file_.root.key_positions[0], (std::pair{0, 0}));
  EXPECT_EQ(file_.root.entries.size(), 5U);
}

TEST_F(Overrides, CreateMissingMaps) {
  apply_override(file_, "a.b.c=4.8 TB/s");
  EXPECT_EQ(file_.root.find("a")->find("b")->find("c")->scalar, "4.8 TB/s");
  apply_override(file_, "none.x=1");
  EXPECT_EQ(file_.root.find("none")->find("x")->scalar, "1");
  EXPECT_EQ(file_.root.entries.size(), file_.root.key_positions.size());
}

TEST_F(Overrides, ReachIntoLists) {
  apply_override(file_, "memory[1].name=l3");
  EXPECT_EQ(file_.root.find("memory")->items[1].find("name")->scalar, "l3");
  apply_override(file_, "memory[0]={name: sram}");
  EXPECT_EQ(file_.root.find("memory")->items[0].find("name")->scalar, "sram");
}

TEST_F(Overrides, FindKeysWithDots) {
  apply_override(file_, "models.deepseek-v3.2.layers=3");
  EXPECT_EQ(file_.root.find("models")->find("deepseek-v3.2")->find("layers")->scalar, "3");
}

TEST_F(Overrides, ParseTheirValueAsYaml) {
  apply_override(file_, "plan={tp: 2, ep: [1, \"2\"]}");
  const ConfigTree& plan = *file_.root.find("plan");
  ASSERT_EQ(plan.kind, Kind::kMap);
  EXPECT_TRUE(plan.find("ep")->items[1].quoted);
  EXPECT_EQ(plan.find("ep")->items[1].line, 0);
  apply_override(file_, "batch=");
  EXPECT_EQ(file_.root.find("batch")->kind, Kind::kNull);
  apply_override(file_, "plan.tp=a=b");
  EXPECT_EQ(file_.root.find("plan")->find("tp")->scalar, "a=b");
}

TEST_F(Overrides, AreRefusedWhenTheyDoNotFit) {
  EXPECT_EQ(refusal("batch"), "--set 'batch': expected key.path=value");
  EXPECT_EQ(refusal("=1"), "--set '=1': the key is empty");
  EXPECT_EQ(refusal("batch.x=1"), "--set 'batch.x=1': 'batch' is not a map");
  EXPECT_EQ(refusal("batch[0]=1"), "--set 'batch[0]=1': 'batch' is not a list");
  EXPECT_EQ(refusal("memory[2].name=x"), "--set 'memory[2].name=x': 'memory' has 2 items");
  EXPECT_EQ(refusal("memory[x].name=1"), "--set 'memory[x].name=1': 'x' is not an index");
  EXPECT_EQ(refusal("memory[-1]=1"), "--set 'memory[-1]=1': '-1' is not an index");
  EXPECT_EQ(refusal("memory[0=1"), "--set 'memory[0=1': '[' without ']'");
  EXPECT_EQ(refusal("memory[0]name=1"), "--set 'memory[0]name=1': expected '.' or '[' at 'name'");
  EXPECT_EQ(refusal("a..b=1"), "--set 'a..b=1': a key is empty");
  EXPECT_EQ(refusal("a.=1"), "--set 'a.=1': a key is empty");
  EXPECT_EQ(refusal(".a=1"), "--set '.a=1': a key is empty");
  EXPECT_EQ(refusal("batch=[1"), "--set 'batch=[1': this list is not closed with ']'");
  EXPECT_EQ(refusal("batch=*x"), "--set 'batch=*x': aliases (*name) are not accepted");
  EXPECT_NE(refusal("memory[99999999999999999999].x=1"), "");
}

TEST_F(Overrides, AreRefusedWhenTheyNestTooDeep) {
  std::string path = "a";
  for (int i = 0; i < 100'000; ++i) path += ".a";
  EXPECT_NE(refusal(path + "=1").find("the path is too deep"), std::string::npos);
}

}  // namespace
}  // namespace foretoken::base
