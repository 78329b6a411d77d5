// The operators a reference run executes are those the lowering writes down from the configuration
// alone: kinds, shapes, dtypes, bytes, FLOPs, dependencies, order. And the caches hold the bytes
// that `count` says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/reference/model/test_support.h"
#include "workloads/count.h"
#include "workloads/op_graph.h"
#include "workloads/precision.h"
#include "workloads/trace_writer.h"

namespace foretoken::reference::testing {
namespace {

namespace w = workloads;

// As the reference computes: mHC's products in FP32.
w::Precision executed_precision(const w::ModelSpec& model) {
  w::PrecisionRecipe recipe;
  recipe.mix = w::MixChoice::kFp32;
  return w::resolve(recipe, model);
}

std::vector<std::string> lines(const w::OpGraph& graph) {
  std::ostringstream out;
  w::write_trace({}, graph, out);
  std::istringstream in(out.str());
  std::vector<std::string> all;
  for (std::string line; std::getline(in, line);) all.push_back(line);
  all.erase(all.begin());  // the header
  return all;
}

std::vector<std::string> lowered(const w::ModelSpec& model, w::Batch batch) {
  w::ParallelPlan plan;
  plan.routing = w::Routing::kBalanced;  // every expert has tokens
  w::OpGraph graph;
  const w::Precision precision = executed_precision(model);
  w::build_graph(model, precision, plan, batch, 0, graph);
  return lines(graph);
}

class TraceOf : public ::testing::TestWithParam<std::string> {
 protected:
  TraceOf() : loaded_(load_checkpoint(golden_folder(GetParam()))) {
    tokens_ = read_tokens(golden_folder(GetParam()) / "tokens.json", loaded_.model.vocab);
    options_.quantised_output_groups = true;  // as served, which is what the lowering prices
  }

  std::vector<std::string> executed(ReferenceModel& model, std::int64_t first, std::int64_t count) {
    w::OpGraph graph;
    Recorder recorder(graph);
    RunRequest request;
    request.tokens = std::span<const std::int32_t>(tokens_).subspan(
        static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    request.all_logits = false;
    request.recorder = &recorder;
    model.run(request);
    return lines(graph);
  }

  LoadedCheckpoint loaded_;
  std::vector<std::int32_t> tokens_;
  ReferenceOptions options_;
};

TEST_P(TraceOf, PrefillAndDecodeEqualTheLowering) {
  const auto model = make_model(loaded_, options_);
  std::int64_t at = 0;
  // Prefill of 200 tokens in one step (two pieces inside), one at a time across a block boundary,
  // and a chunk behind a prefix.
  for (const std::int64_t count : {200, 1, 1, 1, 1, 60}) {
    SCOPED_TRACE("step of " + std::to_string(count) + " at " + std::to_string(at));
    w::Batch batch;
    batch.phase = count == 1 ? w::Phase::kDecode : w::Phase::kPrefill;
    batch.context = at + count;
    batch.new_tokens = count;
    EXPECT_EQ(executed(*model, at, count), lowered(loaded_.model, batch));
    at += count;
  }
}

TEST_P(TraceOf, DraftEqualsTheLowering) {
  if (loaded_.model.draft_layers.empty()) GTEST_SKIP() << "no draft module";
  const auto model = make_model(loaded_, options_, true);
  executed(*model, 0, 150);
  model->draft(tokens_[150], nullptr);
  w::OpGraph graph;
  Recorder recorder(graph);
  RunRequest request;
  request.tokens = std::span<const std::int32_t>(tokens_).subspan(150, 1);
  request.recorder = &recorder;
  model->run(request);
  model->draft(tokens_[151], &recorder);
  w::Batch batch;
  batch.context = 151;
  batch.new_tokens = 1;
  batch.draft_tokens = 1;
  EXPECT_EQ(lines(graph), lowered(loaded_.model, batch));
}

TEST_P(TraceOf, TheReleasesOwnDecodingShowsInTheOutputGroupsOnly) {
  if (!loaded_.mathematics.quantised) GTEST_SKIP() << "nothing to decode";
  options_.quantised_output_groups = false;
  const auto model = make_model(loaded_, options_);
  w::Batch batch;
  batch.phase = w::Phase::kPrefill;
  batch.context = 64;
  batch.new_tokens = 64;
  const auto ran = executed(*model, 0, 64);
  const auto planned = lowered(loaded_.model, batch);
  ASSERT_EQ(ran.size(), planned.size());
  std::int64_t differing = 0;
  for (std::size_t i = 0; i < ran.size(); ++i) {
    if (ran[i] == planned[i]) continue;
    ++differing;
    EXPECT_THAT(ran[i], ::testing::AnyOf(::testing::HasSubstr("\"wo_a\""),
                                         ::testing::HasSubstr("\"absorb_"),
                                         ::testing::HasSubstr("\"inverse_rope\"")));
  }
  EXPECT_GT(differing, 0);
}

TEST_P(TraceOf, CachesHoldTheBytesThatCountSays) {
  const w::Precision precision = w::release_precision(loaded_.model);
  for (const std::int64_t n : {1, 3, 4, 127, 128, 129, 256, 270}) {
    const auto model = make_model(loaded_, options_);
    run_steps(*model, std::span<const std::int32_t>(tokens_).first(static_cast<std::size_t>(n)),
              {100, 1}, nullptr);
    const w::KvBytes counted = w::count_kv(loaded_.model, precision, n);
    const KvHeld held = model->kv_held();
    EXPECT_EQ(held.global, counted.global) << n;
    EXPECT_EQ(held.window, counted.window) << n;
    EXPECT_EQ(held.tail, counted.tail) << n;
    EXPECT_EQ(held.total(), counted.total) << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TraceOf,
                         ::testing::Values("fp32_mixed", "quant_fp8_fp4_f32carrier"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace foretoken::reference::testing
