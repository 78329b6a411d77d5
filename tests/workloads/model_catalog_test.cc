#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/workloads/test_support.h"

namespace foretoken::workloads {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(LoadModel, FindsEveryListedNameWithItsTitle) {
  const auto names = list_models(configs_folder());
  EXPECT_THAT(names, ElementsAre("deepseek-v3.2", "deepseek-v4-flash", "deepseek-v4-pro",
                                 "deepseek-v4.1-flash"));
  for (const std::string& name : names) EXPECT_EQ(load_model(name, configs_folder()).name, name);
  EXPECT_EQ(pro().title, "DeepSeek-V4-Pro");
  EXPECT_EQ(v32().title, "DeepSeek-V3.2");
}

// model_spec.h: "A name from configs/models (with or without .json)".
TEST(LoadModel, AcceptsANameWithItsExtension) {
  EXPECT_EQ(load_model("deepseek-v4-pro.json", configs_folder()).name, "deepseek-v4-pro");
}

TEST(LoadModel, NamesAFileByItsStemOrItsFolder) {
  const auto models = configs_folder() / "models";
  EXPECT_EQ(load_model((models / "deepseek-v4-pro.json").string(), "/nowhere").name,
            "deepseek-v4-pro");
}

TEST(LoadModel, ListsWhatItKnowsWhenItDoesNotKnowAName) {
  const std::string message =
      thrown<base::ConfigError>([] { (void)load_model("deepseek-v5", configs_folder()); });
  EXPECT_THAT(message, AllOf(HasSubstr("deepseek-v5"), HasSubstr("no such model"),
                             HasSubstr("deepseek-v4-flash, deepseek-v4-pro")));
}

TEST(LoadModel, ReportsUnusablePathsAsBadInput) {
  for (const std::string& path : std::vector<std::string>{
           "", ".", "..", "/", "/no/such/config.json", "no-such.json", "../configs",
           "deepseek-v4-pro/", std::string(5'000, 'm'), std::string(5'000, 'm') + ".json"}) {
    EXPECT_NE(thrown<base::ConfigError>([&] { (void)load_model(path, configs_folder()); }), "")
        << path;
  }
}

TEST(ListModels, IsEmptyWhereThereIsNoFolder) {
  EXPECT_TRUE(list_models("/no/such/folder").empty());
}

}  // namespace
}  // namespace foretoken::workloads
