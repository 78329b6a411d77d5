#include "workloads/config_spelling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/workloads/test_support.h"
#include "workloads/model_spec.h"

namespace foretoken::workloads {
namespace {

std::filesystem::path data(const std::string& name) {
  return std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests/workloads/data" / name;
}

TEST(ConfigSpelling, TheInferenceFoldersConfigurationIsTheSameModel) {
  const ModelSpec& released = pro();
  const ModelSpec inference =
      read_model(read_model_config(data("DeepSeek-V4-Pro.inference-config.json")), released.name);
  EXPECT_EQ(fingerprint(inference), fingerprint(released));
}

TEST(ConfigSpelling, V32LacksTheDraftModuleOnly) {
  ModelSpec released = model_named("deepseek-v3.2");
  released.draft_layers.clear();
  const ModelSpec inference =
      read_model(read_model_config(data("DeepSeek-V3.2.inference-config.json")), released.name);
  EXPECT_EQ(fingerprint(inference), fingerprint(released));
}

TEST(ConfigSpelling, TheReleasesSpellingPassesUnchanged) {
  const auto path = configs_folder() / "models" / "deepseek-v4-pro.json";
  const base::ConfigFile before = base::read_config_file(path);
  const base::ConfigFile after = with_release_keys(base::read_config_file(path));
  EXPECT_EQ(before.root.entries.size(), after.root.entries.size());
  EXPECT_EQ(after.root.find("rope_scaling")->entries.size(),
            before.root.find("rope_scaling")->entries.size());
}

TEST(ConfigSpelling, ErrorsPointIntoTheFile) {
  const base::ConfigFile file =
      with_release_keys(base::parse_json("c.json", "{\"dim\": 64,\n \"n_layers\": \"two\"}"));
  try {
    read_model(file, "m");
    FAIL();
  } catch (const base::ConfigError& error) {
    EXPECT_EQ(error.position().line, 2);
  }
}

TEST(ConfigSpelling, FilesWithLittleInThemDoNotBreakIt) {
  for (const char* text : {"{\"dim\": 1}", "{\"dim\": 1, \"compress_ratios\": []}", "[]", "{}",
                           "{\"dim\": 1, \"compress_ratios\": 3, \"n_layers\": []}",
                           "{\"dim\": 1, \"dtype\": \"fp8\", \"compress_ratios\": {}}"}) {
    EXPECT_THROW(read_model(with_release_keys(base::parse_json("c.json", text)), "m"),
                 base::ConfigError)
        << text;
  }
}

}  // namespace
}  // namespace foretoken::workloads
