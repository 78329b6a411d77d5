#include "workloads/op_graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/task/allocation_counter.h"
#include "tests/workloads/test_support.h"

namespace foretoken::workloads {
namespace {

OpGraph graph_of(const ModelSpec& m, const Batch& batch, const ParallelPlan& plan = {},
                 std::int64_t rank = 0) {
  OpGraph g;
  build_graph(m, release_precision(m), plan, batch, rank, g);
  return g;
}

Batch decode(std::int64_t sequences, std::int64_t context, std::int64_t draft = 0) {
  return {
      .phase = Phase::kDecode, .sequences = sequences, .context = context, .draft_tokens = draft};
}
Batch prefill(std::int64_t sequences, std::int64_t context) {
  return {
      .phase = Phase::kPrefill, .sequences = sequences, .context = context, .new_tokens = context};
}

::testing::AssertionResult same_flops(const GraphCount& graph, const FlopCount& formula) {
  for (std::size_t c = 0; c < kComponents; ++c) {
    for (std::size_t p = 0; p < kPrecisionClasses; ++p) {
      if (graph.by[c].flops[p] != formula.by[c][p]) {
        return ::testing::AssertionFailure()
               << kComponentNames[c] << " in " << kPrecisionNames[p] << ": graph "
               << graph.by[c].flops[p] << ", closed form " << formula.by[c][p];
      }
    }
  }
  return ::testing::AssertionSuccess();
}

std::vector<Batch> typical_batches() {
  std::vector<Batch> out;
  for (const std::int64_t context : {1, 3, 5'000}) out.push_back(decode(2, context));
  out.push_back(decode(3, 4'096, 1));
  out.push_back(prefill(2, 1'000));
  Batch verify = decode(4, 3'000, 3);
  verify.new_tokens = 4;
  out.push_back(verify);
  Batch chunk = prefill(1, 8'192);
  chunk.new_tokens = 2'048;
  chunk.last_chunk = false;
  out.push_back(chunk);
  return out;
}

TEST(OpGraph, DecodeFlopsEqualTheClosedFormByComponentAndPrecision) {
  for (const ModelSpec* m : all_models()) {
    for (const std::int64_t context :
         {1, 2, 3, 4, 126, 127, 128, 129, 1'000, 2'048, 2'049, 8'191, 8'192, 16'385, 1'000'000}) {
      for (const std::int64_t sequences : {1, 3, 16}) {
        EXPECT_TRUE(same_flops(count_graph(graph_of(*m, decode(sequences, context))),
                               count_flops(*m, {{Span{sequences, context - 1, 1}}}, sequences)))
            << m->name << " at " << context << " x " << sequences;
      }
    }
  }
}

TEST(OpGraph, VerifyingSeveralTokensCostsTheClosedForm) {
  for (const ModelSpec* m : all_models()) {
    Batch b = decode(5, 4'099);
    b.new_tokens = 4;
    EXPECT_TRUE(
        same_flops(count_graph(graph_of(*m, b)), count_flops(*m, {{Span{5, 4'095, 4}}}, 5 * 4)))
        << m->name;
  }
}

TEST(OpGraph, PrefillFlopsEqualTheClosedFormByComponentAndPrecision) {
  for (const ModelSpec* m : all_models()) {
    for (const std::int64_t context : {1, 3, 4, 127, 128, 129, 1'000, 2'560, 2'561, 9'001}) {
      for (const std::int64_t sequences : {1, 3}) {
        EXPECT_TRUE(same_flops(count_graph(graph_of(*m, prefill(sequences, context))),
                               count_flops(*m, {{Span{sequences, 0, context}}}, sequences)))
            << m->name << " at " << context << " x " << sequences;
      }
    }
  }
}

TEST(OpGraph, ChunksOfAPromptAddUpToTheWholePrompt) {
  for (const ModelSpec* m : {&v32(), &pro(), &flash()}) {
    for (const std::int64_t chunk : {1'000, 512, 777}) {
      const std::int64_t context = 3'001;
      GraphCount sum;
      for (std::int64_t end = 0; end < context;) {
        const std::int64_t tokens = std::min(chunk, context - end);
        end += tokens;
        const GraphCount part = count_graph(graph_of(*m, {.phase = Phase::kPrefill,
                                                          .sequences = 1,
                                                          .context = end,
                                                          .new_tokens = tokens,
                                                          .last_chunk = end == context}));
        for (std::size_t c = 0; c < kComponents; ++c) sum.by[c] += part.by[c];
      }
      EXPECT_TRUE(same_flops(sum, count_prefill(*m, context))) << m->name << chunk;
    }
  }
}

TEST(OpGraph, SkipsV41DecoderLayersInEarlyChunks) {
  Batch b = prefill(1, 8'192);
  b.new_tokens = 4'096;
  b.last_chunk = false;
  const GraphCount c = count_graph(graph_of(v41(), b));
  b.last_chunk = true;
  b.new_tokens = 8'192;
  const GraphCount whole = count_graph(graph_of(v41(), b));
  const auto flops = [](const GraphCount& g, Component component) {
    return g.by[static_cast<std::size_t>(component)].total_flops();
  };
  EXPECT_EQ(flops(c, Component::kRoutedExperts), std::int64_t{4'096} * 20 * 6 * 6 * 5120 * 2304);
  EXPECT_EQ(flops(c, Component::kLmHead), 0);
  // Every cache is written, layer 20's included.
  EXPECT_EQ(2 * flops(c, Component::kCompressors), flops(whole, Component::kCompressors));
}

TEST(OpGraph, SplittingABatchPreservesFlopsAndReadsWeightsAgain) {
  for (const ModelSpec* m : all_models()) {
    const WorkCount whole = count_graph(graph_of(*m, decode(16, 5'000))).total();
    const WorkCount a = count_graph(graph_of(*m, decode(5, 5'000))).total();
    const WorkCount b = count_graph(graph_of(*m, decode(11, 5'000))).total();
    EXPECT_EQ(whole.total_flops(), a.total_flops() + b.total_flops());
    EXPECT_EQ(whole.flops[0], a.flops[0] + b.flops[0]);
    EXPECT_EQ(whole.kv_read_bytes, a.kv_read_bytes + b.kv_read_bytes);
    EXPECT_EQ(whole.kv_write_bytes, a.kv_write_bytes + b.kv_write_bytes);
    EXPECT_LT(whole.weight_bytes, a.weight_bytes + b.weight_bytes);
  }
}

TEST(OpGraph, ReadsExactlyTheCacheBytesOfTheClosedForm) {
  for (const ModelSpec* m : all_models()) {
    for (const std::int64_t context : {1, 3, 4, 127, 128, 600, 2'049, 8'192, 131'072, 1'048'576}) {
      EXPECT_EQ(count_graph(graph_of(*m, decode(1, context))).total().kv_read_bytes,
                count_kv(*m, release_precision(*m), context).read_per_token)
          << m->name << context;
    }
  }
}

TEST(OpGraph, WritesExactlyTheEntriesTheTokenCompletes) {
  for (const ModelSpec* m : all_models()) {
    const Precision p = release_precision(*m);
    for (const std::int64_t context : {1, 2, 3, 4, 128, 129, 4'096, 4'097}) {
      std::int64_t window = 0;
      for (const LayerSpec& l : m->layers) {
        if (l.attention != AttentionKind::kMlaDsa) window += p.window_entry_bytes;
      }
      const std::int64_t grown =
          count_kv(*m, p, context).global - count_kv(*m, p, context - 1).global;
      EXPECT_EQ(count_graph(graph_of(*m, decode(1, context))).total().kv_write_bytes,
                grown + window)
          << m->name << context;
    }
  }
}

TEST(OpGraph, DraftFlopsEqualTheClosedForm) {
  const auto draft_flops = [](const ModelSpec& m, const Batch& b) {
    return count_graph(graph_of(m, b)).by[static_cast<std::size_t>(Component::kDraft)].flops;
  };
  const auto formula = [](const ModelSpec& m, const Positions& p, std::int64_t logits) {
    return count_draft(m, p, logits).by[static_cast<std::size_t>(Component::kDraft)];
  };
  for (const ModelSpec* m : {&v32(), &pro(), &flash()}) {
    for (const std::int64_t context : {1, 200, 5'000}) {
      EXPECT_EQ(draft_flops(*m, decode(3, context, 1)), formula(*m, {{Span{3, context - 1, 1}}}, 3))
          << m->name << context;
    }
    // Two tokens just verified go through the block; then one more draft position.
    Batch b = decode(3, 5'000, 2);
    b.new_tokens = 2;
    auto expected = formula(*m, {{Span{3, 4'998, 2}}}, 3);
    const auto next = formula(*m, {{Span{3, 5'000, 1}}}, 3);
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += next[i];
    EXPECT_EQ(draft_flops(*m, b), expected) << m->name;
  }
  EXPECT_EQ(draft_flops(v41(), decode(3, 5'000, 5)), formula(v41(), {{Span{3, 5'000, 5}}}, 15));
}

TEST(OpGraph, DraftingDoesNotChangeTheMainModelsCounts) {
  for (const ModelSpec* m : all_models()) {
    const GraphCount with = count_graph(graph_of(*m, decode(3, 5'000, 3)));
    const GraphCount without = count_graph(graph_of(*m, decode(3, 5'000)));
    for (std::size_t c = 0; c < kComponents; ++c) {
      if (c == static_cast<std::size_t>(Component::kDraft)) continue;
      EXPECT_EQ(with.by[c], without.by[c]) << m->name << kComponentNames[c];
    }
    EXPECT_EQ(without.by[static_cast<std::size_t>(Component::kDraft)], WorkCount{});
  }
}

TEST(OpGraph, ReadsThePublishedWeightBytesAtBatchOne) {
  const auto gigabytes = [](const ModelSpec& m) {
    return count_graph(graph_of(m, decode(1, 4'096))).total().weight_bytes / 1e9;
  };
  EXPECT_NEAR(gigabytes(pro()), 39.7, 0.05);
  EXPECT_NEAR(gigabytes(flash()), 11.2, 0.05);
}

// Every weight but the idle experts once; of the embedding and of hash tables one row.
TEST(OpGraph, ReadsEveryActiveWeightExactlyOnceAtBatchOne) {
  for (const ModelSpec* m : all_models()) {
    const WeightBytes w = count_weight_bytes(*m, release_precision(*m));
    std::int64_t expected = w.routed / m->experts * m->experts_per_token + w.split + w.replicated -
                            w.embedding + 2 * m->hidden;
    for (const LayerSpec& l : m->layers) {
      if (l.hash_routing) expected += m->experts_per_token * 8;
      if (m->image_bias) expected -= 4 * m->experts;  // text tokens leave the image bias alone
      if (l.engram) expected += m->engram_rows * (m->engram_dim + m->engram_dim / 32);
    }
    for (const std::int64_t context : {4'095, 4'096}) {  // without and with entries completed
      // Without a completed entry nobody reads V4.1's projection from entries to indexer keys.
      std::int64_t unread = 0;
      for (const LayerSpec& l : m->layers) {
        if (l.attention != AttentionKind::kShared || !l.owns_cache) continue;
        if (context % l.ratio != 0) unread += 2 * m->index_dim * m->head_dim;
      }
      EXPECT_EQ(count_graph(graph_of(*m, decode(1, context))).total().weight_bytes,
                expected - unread)
          << m->name << context;
    }
  }
}

TEST(OpGraph, TouchesMoreExpertsAsTheBatchGrowsUpToAll) {
  std::int64_t before = 0;
  for (const std::int64_t sequences : {1, 2, 8, 64, 4'096}) {
    std::int64_t active = 0;
    const OpGraph g = graph_of(pro(), decode(sequences, 1'000));
    for (const OpNode& n : g.nodes) {
      if (n.role != Role::kExpertGateUp) continue;
      active = std::get<GroupedGemm>(n.op).active;
      EXPECT_EQ(std::get<GroupedGemm>(n.op).rows, 6 * sequences);
      EXPECT_LE(active, std::min<std::int64_t>(384, 6 * sequences));
    }
    EXPECT_GT(active, before);
    before = active;
  }
  EXPECT_EQ(before, 384);
}

// ---- structure ----

TEST(OpGraph, DependenciesPointToEarlierOperatorsOfTheirBlock) {
  for (const ModelSpec* m : all_models()) {
    for (const Batch& b : typical_batches()) {
      const OpGraph g = graph_of(*m, b);
      std::uint32_t next = 0;
      for (const Block& block : g.blocks) {
        ASSERT_EQ(block.first, next) << block.name;
        next += block.count;
        for (std::uint32_t i = block.first; i < next; ++i) {
          for (std::uint8_t d = 0; d < g.nodes[i].dependency_count; ++d) {
            ASSERT_GE(g.nodes[i].dependencies[d], block.first) << m->name << block.name;
            ASSERT_LT(g.nodes[i].dependencies[d], i) << m->name << block.name;
          }
        }
      }
      ASSERT_EQ(next, g.nodes.size());
    }
  }
}

// Operators of each block that nothing later in the block waits for, except its last one.
std::set<std::string> loose_ends(const OpGraph& g) {
  std::set<std::string> loose;
  for (const Block& block : g.blocks) {
    std::set<std::uint32_t> used;
    for (const OpNode& n : g.ops(block)) {
      used.insert(n.dependencies.begin(), n.dependencies.begin() + n.dependency_count);
    }
    for (std::uint32_t i = block.first; i + 1 < block.first + block.count; ++i) {
      if (!used.contains(i)) {
        loose.insert(std::string(block.name) + "/" +
                     std::string(kRoleNames[index_of(g.nodes[i].role)]));
      }
    }
  }
  return loose;
}

// Attention must wait for the window entry it reads (kv_cache_write), and for the compressed entry
// that the same token completes (compressor_cache_write): nothing in a block is a loose end.
TEST(OpGraph, EveryOperatorLeadsToTheLastOneOfItsBlock) {
  for (const ModelSpec* m : all_models()) {
    EXPECT_EQ(loose_ends(graph_of(*m, decode(2, 5'000, 2))), std::set<std::string>{}) << m->name;
    EXPECT_EQ(loose_ends(graph_of(*m, prefill(1, 1'000))), std::set<std::string>{}) << m->name;
  }
}

// The same for the tail of a long V4.1 prompt, whose attention reads the cache written for the
// rest.
TEST(OpGraph, V41PromptTailWaitsForTheCacheOfTheRest) {
  EXPECT_EQ(loose_ends(graph_of(v41(), prefill(1, 9'000))), std::set<std::string>{});
}

TEST(OpGraph, OnlyEntriesOfABlockHaveNoInput) {
  const std::set<Role> entries = {Role::kEmbed,         Role::kHcAttnPre,       Role::kAttnNorm,
                                  Role::kHcFfnPre,      Role::kFfnNorm,         Role::kEngramLookup,
                                  Role::kHeadMerge,     Role::kFinalNorm,       Role::kStageSend,
                                  Role::kDraftEmbed,    Role::kDraftHiddenNorm, Role::kDraftMarkov,
                                  Role::kCompressorProj};
  for (const ModelSpec* m : all_models()) {
    for (const Batch& b : typical_batches()) {
      for (const OpNode& n : graph_of(*m, b).nodes) {
        if (n.dependency_count > 0) continue;
        EXPECT_TRUE(entries.contains(n.role)) << m->name << kRoleNames[index_of(n.role)];
      }
    }
  }
}

TEST(OpGraph, RunsEveryBlockAsOftenAsItSaysAndLayersInOrder) {
  for (const ModelSpec* m : all_models()) {
    for (const Batch& b : typical_batches()) {
      for (const std::int64_t pp : {1, 3}) {
        const OpGraph g = graph_of(*m, b, {.pp = pp});
        std::vector<std::uint32_t> runs(g.blocks.size());
        std::vector<std::int32_t> layers;
        for (const BlockRun& run : g.order) {
          ASSERT_LT(run.block, g.blocks.size());
          ++runs[run.block];
          if (run.layer >= 0 && (layers.empty() || layers.back() != run.layer)) {
            layers.push_back(run.layer);
          }
        }
        for (std::size_t i = 0; i < runs.size(); ++i) {
          EXPECT_EQ(runs[i], g.blocks[i].repeat) << m->name << g.blocks[i].name;
        }
        ASSERT_EQ(layers.size(), m->layers.size()) << m->name;
        for (std::size_t i = 0; i < layers.size(); ++i) {
          EXPECT_EQ(layers[i], static_cast<std::int32_t>(i));
        }
      }
    }
  }
}

TEST(OpGraph, NamesTheBlockOfAnOwningEngramLayerFull) {
  // V4.1's layer 14 owns a cache and has an n-gram memory: it does not reuse anything.
  const OpGraph g = graph_of(v41(), decode(1, 1'000));
  std::set<std::string> names;
  for (const BlockRun& run : g.order) {
    if (run.layer == 14) names.insert(std::string(g.blocks[run.block].name));
  }
  ASSERT_FALSE(names.empty());
  EXPECT_TRUE(std::any_of(names.begin(), names.end(), [](const std::string& n) {
    return n.starts_with("full");
  })) << ::testing::PrintToString(names);
}

TEST(OpGraph, RoleNamesAreDistinct) {
  const std::set<std::string_view> names(kRoleNames.begin(), kRoleNames.end());
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kRoles));
  EXPECT_FALSE(names.contains(""));
  EXPECT_EQ(kRoleNames[index_of(Role::kIndexTopK)], "index_topk");
  EXPECT_EQ(kRoleNames[index_of(Role::kContextGather)], "context_gather");
  EXPECT_EQ(kRoleNames[index_of(Role::kLmHead)], "lm_head");
  EXPECT_EQ(kRoleNames[index_of(Role::kDraftMarkov)], "draft_markov");
}

TEST(OpGraph, BuildingAgainGivesTheSameGraphWithoutAllocating) {
  OpGraph g;
  for (const ModelSpec* m : all_models()) {
    const Precision p = release_precision(*m);
    for (const Batch& b : typical_batches()) {
      build_graph(*m, p, {}, b, 0, g);
      const OpGraph first = g;
      const auto before = test_support::allocations();
      build_graph(*m, p, {}, b, 0, g);
      EXPECT_EQ(test_support::allocations().made, before.made) << m->name;
      ASSERT_EQ(g.nodes.size(), first.nodes.size());
      for (std::size_t i = 0; i < g.nodes.size(); ++i) {
        EXPECT_EQ(g.nodes[i].role, first.nodes[i].role);
        EXPECT_EQ(g.nodes[i].component, first.nodes[i].component);
        EXPECT_EQ(g.nodes[i].dependencies, first.nodes[i].dependencies);
        EXPECT_EQ(g.nodes[i].op.index(), first.nodes[i].op.index());
        EXPECT_EQ(count_op(g.nodes[i].op), count_op(first.nodes[i].op));
      }
      ASSERT_EQ(g.order.size(), first.order.size());
      for (std::size_t i = 0; i < g.order.size(); ++i) {
        EXPECT_EQ(g.order[i].block, first.order[i].block);
        EXPECT_EQ(g.order[i].layer, first.order[i].layer);
      }
    }
  }
}

TEST(OpGraph, CountsOfTheWholeAreTheSumOfTheComponents) {
  const GraphCount c = count_graph(graph_of(pro(), decode(3, 4'096, 2)));
  WorkCount sum;
  for (const WorkCount& w : c.by) sum += w;
  EXPECT_EQ(c.total(), sum);
}

TEST(OpGraph, Int8AndBf16RecipesKeepTheFlopsAndMoveTheirClass) {
  PrecisionRecipe int8;
  int8.linear = int8.expert_weight = int8.expert_compute = int8.index = FormatChoice::kInt8;
  int8.cache = FormatChoice::kBf16;
  int8.mix = MixChoice::kHf32;
  OpGraph g;
  build_graph(pro(), resolve(int8, pro()), {}, decode(2, 5'000), 0, g);
  const WorkCount w = count_graph(g).total();
  const FlopCount f = count_flops(pro(), {{Span{2, 4'999, 1}}}, 2);
  EXPECT_EQ(w.total_flops(), f.total());
  EXPECT_EQ(w.flops[static_cast<std::size_t>(PrecisionClass::kBf16)],
            f.precision(PrecisionClass::kBf16));
  EXPECT_EQ(w.flops[static_cast<std::size_t>(PrecisionClass::kFp8)],
            f.total() - f.precision(PrecisionClass::kBf16));
}

TEST(OpGraph, UnquantisedTinyModelCostsTheClosedFormToo) {
  for (const char* file : {"fp32_mixed.config.json", "quant_fp8_fp4_f32carrier.config.json"}) {
    const ModelSpec m = load_model(
        (std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests/workloads/data" / file).string(), "");
    for (const std::int64_t n : {1, 4, 40, 128, 523}) {
      EXPECT_TRUE(same_flops(count_graph(graph_of(m, decode(2, n))),
                             count_flops(m, {{Span{2, n - 1, 1}}}, 2)))
          << file << n;
      EXPECT_TRUE(same_flops(count_graph(graph_of(m, prefill(1, n))), count_prefill(m, n)));
      EXPECT_EQ(count_graph(graph_of(m, decode(1, n))).total().kv_read_bytes,
                count_kv(m, release_precision(m), n).read_per_token);
    }
  }
}

}  // namespace
}  // namespace foretoken::workloads
