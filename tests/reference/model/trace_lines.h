// The operators of a run and of the lowering as comparable text, and the comparisons that golden
// and random models share.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "reference/model/session.h"
#include "workloads/count.h"
#include "workloads/op_graph.h"
#include "workloads/precision.h"
#include "workloads/trace_writer.h"

namespace foretoken::reference::testing {

// As the reference computes: mHC's products in FP32.
inline workloads::Precision executed_precision(const workloads::ModelSpec& model) {
  workloads::PrecisionRecipe recipe;
  recipe.mix = workloads::MixChoice::kFp32;
  return workloads::resolve(recipe, model);
}

inline std::vector<std::string> trace_lines(const workloads::OpGraph& graph) {
  std::ostringstream out;
  workloads::write_trace({}, graph, out);
  std::istringstream in(out.str());
  std::vector<std::string> all;
  for (std::string line; std::getline(in, line);) all.push_back(line);
  all.erase(all.begin());  // the header
  return all;
}

inline std::vector<std::string> lowered_lines(const workloads::ModelSpec& model,
                                              workloads::Batch batch) {
  workloads::ParallelPlan plan;
  plan.routing = workloads::Routing::kBalanced;  // every expert has tokens
  workloads::OpGraph graph;
  const workloads::Precision precision = executed_precision(model);
  workloads::build_graph(model, precision, plan, batch, 0, graph);
  return trace_lines(graph);
}

// Runs tokens [first, first + count), logits of the last one only.
inline std::vector<std::string> executed_lines(ReferenceModel& model,
                                               std::span<const std::int32_t> tokens,
                                               std::int64_t first, std::int64_t count) {
  workloads::OpGraph graph;
  Recorder recorder(graph);
  RunRequest request;
  request.tokens = tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  request.all_logits = false;
  request.recorder = &recorder;
  model.run(request);
  return trace_lines(graph);
}

// Prefill of 200 tokens in one step (two pieces inside), one at a time across a block boundary, and
// a chunk behind a prefix.
inline void expect_steps_equal_the_lowering(const LoadedCheckpoint& loaded, ReferenceModel& model,
                                            std::span<const std::int32_t> tokens) {
  std::int64_t at = 0;
  for (const std::int64_t count : {200, 1, 1, 1, 1, 60}) {
    SCOPED_TRACE("step of " + std::to_string(count) + " at " + std::to_string(at));
    workloads::Batch batch;
    batch.phase = count == 1 ? workloads::Phase::kDecode : workloads::Phase::kPrefill;
    batch.context = at + count;
    batch.new_tokens = count;
    EXPECT_EQ(executed_lines(model, tokens, at, count), lowered_lines(loaded.model, batch));
    at += count;
  }
}

// A step of one token behind 150, and the draft of the token after it.
inline void expect_draft_equals_the_lowering(const LoadedCheckpoint& loaded, ReferenceModel& model,
                                             std::span<const std::int32_t> tokens) {
  executed_lines(model, tokens, 0, 150);
  model.draft(tokens[150], nullptr);
  workloads::OpGraph graph;
  Recorder recorder(graph);
  RunRequest request;
  request.tokens = tokens.subspan(150, 1);
  request.recorder = &recorder;
  model.run(request);
  model.draft(tokens[151], &recorder);
  workloads::Batch batch;
  batch.context = 151;
  batch.new_tokens = 1;
  batch.draft_tokens = 1;
  EXPECT_EQ(trace_lines(graph), lowered_lines(loaded.model, batch));
}

inline void expect_counted_cache(const workloads::ModelSpec& spec, const ReferenceModel& model) {
  const std::int64_t n = model.length();
  const workloads::KvBytes counted =
      workloads::count_kv(spec, workloads::release_precision(spec), n);
  const KvHeld held = model.kv_held();
  EXPECT_EQ(held.global, counted.global) << n;
  EXPECT_EQ(held.window, counted.window) << n;
  EXPECT_EQ(held.tail, counted.tail) << n;
  EXPECT_EQ(held.total(), counted.total) << n;
}

}  // namespace foretoken::reference::testing
