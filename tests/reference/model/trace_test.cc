// The operators a reference run executes are those the lowering writes down from the configuration
// alone: kinds, shapes, dtypes, bytes, FLOPs, dependencies, order. And the caches hold the bytes
// that `count` says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/reference/model/test_support.h"
#include "tests/reference/model/trace_lines.h"

namespace foretoken::reference::testing {
namespace {

namespace w = workloads;

class TraceOf : public ::testing::TestWithParam<std::string> {
 protected:
  TraceOf() : loaded_(load_checkpoint(golden_folder(GetParam()))) {
    tokens_ = read_tokens(golden_folder(GetParam()) / "tokens.json", loaded_.model.vocab);
    options_.quantised_output_groups = true;  // as served, which is what the lowering prices
  }

  [[nodiscard]] std::vector<std::string> executed(ReferenceModel& model, std::int64_t first,
                                                  std::int64_t count) const {
    return executed_lines(model, tokens_, first, count);
  }

  LoadedCheckpoint loaded_;
  std::vector<std::int32_t> tokens_;
  ReferenceOptions options_;
};

TEST_P(TraceOf, PrefillAndDecodeEqualTheLowering) {
  const auto model = make_model(loaded_, options_);
  expect_steps_equal_the_lowering(loaded_, *model, tokens_);
}

TEST_P(TraceOf, DraftEqualsTheLowering) {
  ASSERT_FALSE(loaded_.model.draft_layers.empty());
  const auto model = make_model(loaded_, options_, true);
  expect_draft_equals_the_lowering(loaded_, *model, tokens_);
}

TEST_P(TraceOf, TheReleasesOwnDecodingShowsInTheOutputGroupsOnly) {
  options_.quantised_output_groups = false;
  const auto model = make_model(loaded_, options_);
  w::Batch batch;
  batch.phase = w::Phase::kPrefill;
  batch.context = 200;
  batch.new_tokens = 200;
  const auto ran = executed(*model, 0, 200);
  const auto planned = lowered_lines(loaded_.model, batch);
  ASSERT_EQ(ran.size(), planned.size());
  std::int64_t differing = 0;
  for (std::size_t i = 0; i < ran.size(); ++i) {
    if (ran[i] == planned[i]) continue;
    ++differing;
    EXPECT_THAT(ran[i], ::testing::AnyOf(::testing::HasSubstr("\"wo_a\""),
                                         ::testing::HasSubstr("\"absorb_"),
                                         ::testing::HasSubstr("\"inverse_rope\"")));
  }
  EXPECT_EQ(differing > 0, loaded_.mathematics.quantised) << "there is nothing to decode else";
}

TEST_P(TraceOf, CachesHoldTheBytesThatCountSays) {
  for (const std::int64_t n : {1, 3, 4, 127, 128, 129, 256, 270}) {
    const auto model = make_model(loaded_, options_);
    run_steps(*model, std::span<const std::int32_t>(tokens_).first(static_cast<std::size_t>(n)),
              {100, 1}, nullptr);
    expect_counted_cache(loaded_.model, *model);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TraceOf,
                         ::testing::Values("fp32_mixed", "quant_fp8_fp4_f32carrier"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace foretoken::reference::testing
