#include "reference/model/recorded_choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "reference/checkpoint/safetensors.h"
#include "sim/base/error.h"
#include "workloads/routing_load.h"

namespace foretoken::reference {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kGolden =
    std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests/reference/data/models/fp32_swiglu_clamp";

TEST(RecordedChoices, LoadRanksAsTheRouterChose) {
  const workloads::RoutingSpec spec =
      recorded_choices(kGolden / "expected.safetensors", "layers.2.ffn.gate.indices");
  const auto tokens = static_cast<std::int64_t>(spec.data->choices.size()) / spec.data->topk;
  const std::int64_t experts =
      *std::max_element(spec.data->choices.begin(), spec.data->choices.end()) + 1;
  // A whole round of the recording, wherever it starts, has every choice once.
  const workloads::RoutingGenerator generator({spec, experts, spec.data->topk, tokens});
  std::vector<std::int64_t> counts(static_cast<std::size_t>(experts), 0);
  for (const std::int32_t e : spec.data->choices) ++counts[static_cast<std::size_t>(e)];
  EXPECT_EQ(generator.pairs(3), counts);
  const workloads::ExpertLoad load =
      workloads::count_load(generator.choices(1, 3), workloads::contiguous_placement(experts, 2));
  EXPECT_EQ(load.slot_rows, counts);
  EXPECT_GT(*std::max_element(counts.begin(), counts.end()),
            *std::min_element(counts.begin(), counts.end()));
}

class ChoiceFile : public ::testing::Test {
 protected:
  std::string refusal(StorageDtype dtype, const std::vector<std::int32_t>& values,
                      const std::vector<std::int64_t>& shape) {
    {
      SafetensorsWriter writer(path_);
      const std::size_t tensor = writer.add("choice", dtype);
      writer.append(tensor, std::as_bytes(std::span(values)));
      writer.finish(tensor, shape);
      writer.commit();
    }
    try {
      (void)recorded_choices(path_, "choice");
    } catch (const base::ConfigError& error) {
      return error.what();
    }
    return "";
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() /
      (std::string("foretoken_choices_") +
       ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".safetensors");
};

TEST_F(ChoiceFile, IsRefusedForWhatIsNoChoice) {
  EXPECT_EQ(refusal(StorageDtype::kI32, {0, 1, 2, 3}, {2, 2}), "");
  EXPECT_THAT(refusal(StorageDtype::kI32, {0, 1, 2, 2}, {2, 2}),
              HasSubstr("'choice' chooses expert 2 twice for token 1"));
  EXPECT_EQ(refusal(StorageDtype::kI32, {0, 1, 1, 2}, {2, 2}), "");
  EXPECT_THAT(refusal(StorageDtype::kI32, {0, -1}, {1, 2}), HasSubstr("holds -1"));
  EXPECT_THAT(refusal(StorageDtype::kF32, {0, 1}, {1, 2}), HasSubstr("whole numbers"));
  EXPECT_THAT(refusal(StorageDtype::kI32, {0, 1}, {2}), HasSubstr("[tokens, choices]"));
  EXPECT_THAT(refusal(StorageDtype::kI32, {}, {0, 2}), HasSubstr("[tokens, choices]"));
  EXPECT_THROW((void)recorded_choices(kGolden / "expected.safetensors", "layers.99"),
               base::ConfigError);
}

}  // namespace
}  // namespace foretoken::reference
