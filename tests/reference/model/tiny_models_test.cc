// Random checkpoints of small models of every family, V3.2 among them: the operators they run are
// the lowering's, their caches hold the bytes that `count` says, and no split of a prompt changes a
// bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "reference/model/random_checkpoint.h"
#include "tests/reference/model/model_fixtures.h"
#include "tests/reference/model/test_support.h"
#include "tests/reference/model/trace_lines.h"

namespace foretoken::reference::testing {
namespace {

struct TinyModel {
  std::string config;
  bool quantised;  // as the file has it, or without in BF16
};

std::ostream& operator<<(std::ostream& out, const TinyModel& tiny) { return out << tiny.config; }

std::vector<TinyModel> tiny_models(bool quantised) {
  return {{"tiny-v4-pro", quantised}, {"tiny-v4-flash", quantised}, {"tiny-v3.2", quantised}};
}

std::string tiny_name(const ::testing::TestParamInfo<TinyModel>& info) {
  std::string name = info.param.config;
  std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
  return name;
}

class TinyModels : public ::testing::TestWithParam<TinyModel> {
 protected:
  TinyModels()
      : loaded_(load_checkpoint(write(folder_, GetParam()))), tokens_(some_tokens(275, 512)) {
    options_.quantised_output_groups = true;  // as served, which is what the lowering prices
  }

  static std::filesystem::path write(const base::ScratchFolder& folder, const TinyModel& tiny) {
    auto json = nlohmann::json::parse(base::content_of(config_path(tiny.config + ".json")));
    if (!tiny.quantised) {
      json.erase("quantization_config");
      json.erase("expert_dtype");
    }
    write_random_checkpoint(folder.write("edited.json", json.dump(2)), 3,
                            {folder / "checkpoint", 2'000'000'000, false});
    return folder / "checkpoint";
  }

  [[nodiscard]] std::span<const std::int32_t> first(std::int64_t count) const {
    return std::span<const std::int32_t>(tokens_).first(static_cast<std::size_t>(count));
  }

  // All tensors of a run in the given steps.
  [[nodiscard]] std::unique_ptr<MemorySink> run(std::span<const std::int32_t> tokens,
                                                const std::vector<std::int64_t>& steps) const {
    const bool drafts = loaded_.model.family == workloads::Family::kDeepseekV4;
    const auto model = make_model(loaded_, options_, drafts);
    auto sink = std::make_unique<MemorySink>();
    run_steps(*model, tokens, steps, sink.get());
    return sink;
  }

  static void expect_equal(const MemorySink& a, const MemorySink& b, const std::string& what) {
    ASSERT_EQ(a.tensors.size(), b.tensors.size()) << what;
    for (const auto& [name, tensor] : a.tensors) {
      ASSERT_TRUE(tensor == b.tensors.at(name)) << what << " " << name;
    }
    ASSERT_EQ(a.ragged.size(), b.ragged.size()) << what;
    for (const auto& [name, rows] : a.ragged) {
      ASSERT_TRUE(rows == b.ragged.at(name)) << what << " " << name;
    }
  }

  void expect_no_split_to_matter() const {
    const auto whole = run(tokens_, {1'000});
    EXPECT_EQ(whole->tensors.at("logits").rows(), 275);
    for (const std::int64_t prefill : {3, 4, 17, 127, 128, 129}) {
      // Token by token for a while, then larger pieces.
      expect_equal(*whole, *run(tokens_, {prefill, 1, 1, 1, 1, 1, 13, 50}),
                   "prefill " + std::to_string(prefill));
    }
    expect_equal(*run(first(130), {1'000}), *run(first(130), {1}), "token by token");
    std::mt19937 random(11);
    std::vector<std::int64_t> steps(60);
    std::ranges::generate(
        steps, [&] { return std::uniform_int_distribution<std::int64_t>(1, 40)(random); });
    expect_equal(*whole, *run(tokens_, steps), "random steps");
  }

  base::ScratchFolder folder_;
  LoadedCheckpoint loaded_;
  std::vector<std::int32_t> tokens_;
  ReferenceOptions options_;
};

TEST_P(TinyModels, PrefillAndDecodeEqualTheLowering) {
  const auto model = make_model(loaded_, options_);
  expect_steps_equal_the_lowering(loaded_, *model, tokens_);
}

TEST_P(TinyModels, DraftEqualsTheLowering) {
  if (loaded_.model.family != workloads::Family::kDeepseekV4) {
    EXPECT_THROW(make_model(loaded_, options_, true)->draft(0, nullptr), base::UnsupportedError);
    return;
  }
  const auto model = make_model(loaded_, options_, true);
  expect_draft_equals_the_lowering(loaded_, *model, tokens_);
}

TEST_P(TinyModels, CachesHoldTheBytesThatCountSays) {
  for (const std::int64_t n : {3, 16, 128, 270}) {
    const auto model = make_model(loaded_, options_);
    run_steps(*model, first(n), {n}, nullptr);
    ASSERT_EQ(model->length(), n);
    expect_counted_cache(loaded_.model, *model);
  }
  // Around blocks of 4, the window of 16 and blocks of 128: 1, 3, 4, 5, 15, 16, 17, 20, ... 269.
  const auto model = make_model(loaded_, options_);
  std::span<const std::int32_t> rest = first(269);
  for (const std::size_t step : {1U, 2U, 1U, 1U, 10U, 1U, 1U, 3U, 107U, 1U, 1U, 127U, 13U}) {
    run_steps(*model, rest.first(step), {1'000}, nullptr);
    rest = rest.subspan(step);
    expect_counted_cache(loaded_.model, *model);
  }
  EXPECT_EQ(model->length(), 269);
}

class TinyModelSplits : public TinyModels {};

TEST_P(TinyModelSplits, NoSplitChangesABitOfExactArithmetic) {
  options_.carrier = Carrier::kF64;
  expect_no_split_to_matter();
}

TEST_P(TinyModelSplits, NoSplitChangesABitOfHardwareArithmetic) {
  options_.carrier = Carrier::kBf16;
  options_.arithmetic = Arithmetic::kHardware;
  expect_no_split_to_matter();
}

INSTANTIATE_TEST_SUITE_P(Configs, TinyModels, ::testing::ValuesIn(tiny_models(true)), tiny_name);
INSTANTIATE_TEST_SUITE_P(UnquantisedConfigs, TinyModels, ::testing::ValuesIn(tiny_models(false)),
                         tiny_name);
INSTANTIATE_TEST_SUITE_P(Configs, TinyModelSplits, ::testing::ValuesIn(tiny_models(true)),
                         tiny_name);

}  // namespace
}  // namespace foretoken::reference::testing
