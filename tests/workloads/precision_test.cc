#include "workloads/precision.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <string>

#include "sim/base/config.h"
#include "sim/base/config_print.h"
#include "tests/workloads/test_support.h"

namespace foretoken::workloads {
namespace {

PrecisionRecipe recipe_named(const std::string& name) {
  return base::load_config<PrecisionRecipe>(configs_folder() / "precision" / (name + ".yaml"));
}

TEST(Precision, EntriesOfTheReleaseHaveThePublishedSizes) {
  const Precision p = release_precision(pro());
  EXPECT_EQ(p.main_entry_bytes, 584);
  EXPECT_EQ(p.window_entry_bytes, 584);
  EXPECT_EQ(p.index_entry_bytes, 68);
  EXPECT_EQ(release_precision(flash()).main_entry_bytes, 584);
  EXPECT_EQ(release_precision(v32()).main_entry_bytes, 656);
  EXPECT_EQ(release_precision(v32()).index_entry_bytes, 132);
  const Precision p41 = release_precision(v41());
  EXPECT_EQ(p41.main_entry_bytes, 288);
  EXPECT_EQ(p41.window_entry_bytes, 528);
  EXPECT_EQ(p41.index_entry_bytes, 68);
}

TEST(Precision, ReleaseMultipliesFp4ExpertsInFp8AndAttentionInBf16) {
  const Precision p = release_precision(pro());
  EXPECT_EQ(p.linear_weight, Dtype::kFp8);
  EXPECT_EQ(p.linear_compute, Dtype::kFp8);
  EXPECT_EQ(p.expert_weight, Dtype::kFp4);
  EXPECT_EQ(p.expert_compute, Dtype::kFp8);
  EXPECT_EQ(p.attention, Dtype::kBf16);
  EXPECT_EQ(p.index, Dtype::kFp4);
  EXPECT_EQ(p.mix, Dtype::kTf32);
  EXPECT_EQ(p.fp8_block, 128);
  EXPECT_EQ(release_precision(v41()).fp8_block, 32);
  EXPECT_EQ(release_precision(v32()).expert_weight, Dtype::kFp8);
  EXPECT_EQ(release_precision(v32()).index, Dtype::kFp8);
}

TEST(Precision, Int8RecipeKeepsBf16EntriesAndInt8IndexKeys) {
  const Precision p = resolve(recipe_named("int8"), pro());
  EXPECT_EQ(p.main_entry_bytes, 1024);
  EXPECT_EQ(p.window_entry_bytes, 1024);
  EXPECT_EQ(p.index_entry_bytes, 132);
  EXPECT_EQ(p.linear_weight, Dtype::kInt8);
  EXPECT_EQ(p.linear_compute, Dtype::kInt8);
  EXPECT_EQ(p.expert_weight, Dtype::kInt8);
  EXPECT_EQ(p.expert_compute, Dtype::kInt8);
  EXPECT_EQ(p.index, Dtype::kInt8);
  EXPECT_EQ(p.mix, Dtype::kHf32);
  EXPECT_EQ(resolve(recipe_named("int8"), v32()).main_entry_bytes, 1152);
}

TEST(Precision, Fp8IndexRecipeChangesTheIndexKeysAlone) {
  const Precision release = release_precision(flash());
  const Precision p = resolve(recipe_named("fp8-index"), flash());
  EXPECT_EQ(p.index, Dtype::kFp8);
  EXPECT_EQ(p.index_entry_bytes, 132);
  EXPECT_EQ(p.main_entry_bytes, release.main_entry_bytes);
  EXPECT_EQ(p.expert_weight, Dtype::kFp4);
  EXPECT_EQ(p.expert_compute, Dtype::kFp8);
}

TEST(Precision, Bf16RecipeWidensEverything) {
  const Precision p = resolve(recipe_named("bf16"), pro());
  for (const Dtype d :
       {p.linear_weight, p.linear_compute, p.expert_weight, p.expert_compute, p.index}) {
    EXPECT_EQ(d, Dtype::kBf16);
  }
  EXPECT_EQ(p.main_entry_bytes, 1024);
  EXPECT_EQ(p.index_entry_bytes, 256);
}

TEST(PrecisionRecipe, EveryFileReadsAndPrintsBackUnchanged) {
  std::set<std::string> seen;
  for (const auto& entry : std::filesystem::directory_iterator(configs_folder() / "precision")) {
    auto recipe = base::load_config<PrecisionRecipe>(entry.path());
    EXPECT_EQ(recipe.name, entry.path().stem().string());
    const std::string printed = base::print_config(recipe);
    auto again = base::read_config<PrecisionRecipe>(base::parse_yaml("printed.yaml", printed));
    EXPECT_EQ(base::print_config(again), printed) << entry.path();
    EXPECT_EQ(again.title, recipe.title);
    EXPECT_EQ(again.expert_compute, recipe.expert_compute);
    EXPECT_EQ(again.mix, recipe.mix);
    seen.insert(recipe.name);
  }
  EXPECT_TRUE(seen.contains("release"));
  EXPECT_GE(seen.size(), 5u);
}

TEST(PrecisionRecipe, ReleaseFileIsTheDefault) {
  const PrecisionRecipe file = recipe_named("release");
  const PrecisionRecipe none;
  EXPECT_EQ(file.linear, none.linear);
  EXPECT_EQ(file.expert_weight, none.expert_weight);
  EXPECT_EQ(file.expert_compute, none.expert_compute);
  EXPECT_EQ(file.cache, none.cache);
  EXPECT_EQ(file.index, none.index);
  EXPECT_EQ(file.mix, none.mix);
}

TEST(WeightBytesOfAFormat, IncludeTheScales) {
  EXPECT_EQ(weight_bytes(Dtype::kFp4, 2, 3, 64, 128), 2 * (3 * 32 + 3 * 2));
  EXPECT_EQ(weight_bytes(Dtype::kFp4, 1, 3, 65, 128), 98 + 3 * 3);
  EXPECT_EQ(weight_bytes(Dtype::kFp8, 1, 128, 128, 128), 128 * 128 + 1);
  EXPECT_EQ(weight_bytes(Dtype::kFp8, 1, 129, 128, 128), 129 * 128 + 2);
  EXPECT_EQ(weight_bytes(Dtype::kFp8, 1, 128, 128, 32), 128 * 128 + 16);
  EXPECT_EQ(weight_bytes(Dtype::kInt8, 2, 5, 7, 128), 2 * (35 + 20));
  EXPECT_EQ(weight_bytes(Dtype::kInt4, 1, 5, 8, 128), 20 + 20);
  EXPECT_EQ(weight_bytes(Dtype::kBf16, 2, 5, 7, 128), 140);
  EXPECT_EQ(weight_bytes(Dtype::kFp32, 1, 5, 7, 128), 140);
}

}  // namespace
}  // namespace foretoken::workloads
