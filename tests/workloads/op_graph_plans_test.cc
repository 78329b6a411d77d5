// Graphs of all ranks of a plan together: nothing of the step is lost or done twice unasked.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "tests/workloads/test_support.h"
#include "workloads/op_graph.h"
#include "workloads/routing_load.h"

namespace foretoken::workloads {
namespace {

std::vector<OpGraph> ranks_of(const ModelSpec& m, const ParallelPlan& plan, const Batch& batch) {
  require_possible(plan, m);
  std::vector<OpGraph> out(static_cast<std::size_t>(plan.stage_ranks()));
  for (std::size_t r = 0; r < out.size(); ++r) {
    build_graph(m, release_precision(m), plan, batch, static_cast<std::int64_t>(r), out[r]);
  }
  return out;
}

GraphCount sum_of(const std::vector<OpGraph>& graphs) {
  GraphCount sum;
  for (const OpGraph& g : graphs) {
    const GraphCount one = count_graph(g);
    for (std::size_t c = 0; c < kComponents; ++c) sum.by[c] += one.by[c];
  }
  return sum;
}

// Sum of f(op) over the runs of all operators of type T.
template <class T, class F>
std::int64_t total_of(const OpGraph& g, F&& f) {
  std::int64_t sum = 0;
  for (const Block& block : g.blocks) {
    for (const OpNode& n : g.ops(block)) {
      if (const T* op = std::get_if<T>(&n.op)) sum += block.repeat * f(*op, n.role);
    }
  }
  return sum;
}
template <class T, class F>
std::int64_t total_of(const std::vector<OpGraph>& graphs, F&& f) {
  std::int64_t sum = 0;
  for (const OpGraph& g : graphs) sum += total_of<T>(g, f);
  return sum;
}

std::int64_t expert_rows(const GroupedGemm& op, Role role) {
  return role == Role::kExpertGateUp ? op.rows : 0;
}

Batch decode(std::int64_t sequences, std::int64_t context) {
  return {.phase = Phase::kDecode, .sequences = sequences, .context = context};
}
Batch prefill(std::int64_t sequences, std::int64_t context) {
  return {
      .phase = Phase::kPrefill, .sequences = sequences, .context = context, .new_tokens = context};
}

std::int64_t moe_layers(const ModelSpec& m) {
  return std::count_if(m.layers.begin(), m.layers.end(),
                       [](const LayerSpec& l) { return l.ffn == FfnKind::kMoe; });
}

TEST(DataAndExpertParallelism, AddsUpToTheStepOfOneDevice) {
  for (const ModelSpec* m : all_models()) {
    for (const std::int64_t dp : {2, 4, 7}) {
      for (const std::int64_t sequences : {3, 10, 64}) {
        const ParallelPlan plan{.dp = dp, .ep = dp};
        const auto ranks = ranks_of(*m, plan, decode(sequences, 5'000));
        const FlopCount whole = count_flops(*m, {{Span{sequences, 4'999, 1}}}, sequences);
        const GraphCount sum = sum_of(ranks);
        for (std::size_t c = 0; c < kComponents; ++c) {
          for (std::size_t p = 0; p < kPrecisionClasses; ++p) {
            EXPECT_EQ(sum.by[c].flops[p], whole.by[c][p])
                << m->name << " DP" << dp << " " << kComponentNames[c];
          }
        }
        const std::int64_t pairs = sequences * m->experts_per_token * moe_layers(*m);
        EXPECT_EQ(total_of<GroupedGemm>(ranks, expert_rows), pairs);
        EXPECT_EQ(total_of<Dispatch>(ranks, [](const Dispatch& d, Role) { return d.pairs; }),
                  pairs);
        EXPECT_EQ(total_of<Combine>(ranks, [](const Combine& d, Role) { return d.pairs; }), pairs);
        OpGraph one;
        build_graph(*m, release_precision(*m), {}, decode(sequences, 5'000), 0, one);
        const auto keys = [](const Attention& a, Role) { return a.keys; };
        EXPECT_EQ(total_of<Attention>(ranks, keys), total_of<Attention>(one, keys));
        EXPECT_EQ(sum.total().kv_read_bytes, count_graph(one).total().kv_read_bytes);
        EXPECT_EQ(sum.total().kv_write_bytes, count_graph(one).total().kv_write_bytes);
      }
    }
  }
}

TEST(DataAndExpertParallelism, SendsTheRemoteShareOfThePairs) {
  const auto ranks = ranks_of(pro(), {.dp = 4, .ep = 4}, decode(64, 5'000));
  for (const OpGraph& g : ranks) {
    for (const OpNode& n : g.nodes) {
      if (const Dispatch* d = std::get_if<Dispatch>(&n.op)) {
        EXPECT_EQ(d->pairs, 96);
        EXPECT_EQ(d->remote, 72);
        EXPECT_EQ(d->ranks, 4);
        EXPECT_EQ(d->element, Dtype::kFp8);
      }
    }
  }
}

TEST(DataAndExpertParallelism, GivesTheLastRankTheLargestShare) {
  for (const ModelSpec* m : {&v32(), &pro(), &flash()}) {
    for (const std::int64_t dp : {3, 7}) {
      const auto ranks = ranks_of(*m, {.dp = dp, .ep = dp}, decode(10, 5'000));
      for (const OpGraph& g : ranks) {
        EXPECT_LE(count_graph(g).total().total_flops(),
                  count_graph(ranks.back()).total().total_flops());
        EXPECT_LE(total_of<GroupedGemm>(g, expert_rows),
                  total_of<GroupedGemm>(ranks.back(), expert_rows));
      }
    }
  }
}

// The last rank stands for the slowest, and no pair is lost or done twice over all of them.
TEST(SkewedRouting, GivesTheLastRankTheSlowestRanksLoad) {
  for (const RoutingSpec& routing :
       {RoutingSpec(Routing::kPowerLaw, 1.2), RoutingSpec(Routing::kPowerLawSampled, 1.2),
        RoutingSpec(Routing::kZipf, 0.8)}) {
    const std::int64_t sequences = 8 * 256;
    const auto ranks =
        ranks_of(pro(), {.dp = 8, .ep = 8, .routing = routing}, decode(sequences, 1'000));
    EXPECT_EQ(total_of<GroupedGemm>(ranks, expert_rows), sequences * 6 * moe_layers(pro()));
    const ExpectedLoad load =
        expected_load({.routing = routing, .experts = 384, .topk = 6, .tokens = sequences}, 8, 0);
    EXPECT_GT(load.pairs, sequences * 6 / 8 * 5 / 4);
    for (const OpNode& n : ranks.back().nodes) {
      if (n.role == Role::kExpertGateUp || n.role == Role::kExpertDown) {
        const auto& e = std::get<GroupedGemm>(n.op);
        EXPECT_EQ(e.rows, load.pairs);
        EXPECT_EQ(e.active, load.touched);
        EXPECT_LE(e.active, e.groups);
      } else if (n.role == Role::kDispatch) {
        // Seven of eight pairs come from elsewhere: more than this rank sends.
        EXPECT_EQ(std::get<Dispatch>(n.op).remote, load.pairs - load.pairs / 8);
      } else if (n.role == Role::kCombine) {
        EXPECT_EQ(std::get<Combine>(n.op).remote, load.pairs - load.pairs / 8);
      }
    }
    for (const OpNode& n : ranks.front().nodes) {
      if (n.role == Role::kDispatch) {
        EXPECT_EQ(std::get<Dispatch>(n.op).remote, 256 * 6 * 7 / 8);
      }
    }
  }
}

// Layers that choose by token id are skewed by the frequency of tokens, the others are not.
TEST(SkewedRouting, ByHashConcernsHashLayersOnly) {
  const std::int64_t sequences = 8 * 256;
  const ParallelPlan plan{.dp = 8, .ep = 8, .routing = Routing::kHash};
  const auto ranks = ranks_of(pro(), plan, decode(sequences, 1'000));
  int hashed = 0;
  for (const Block& block : ranks.back().blocks) {
    const bool hash = block.name.find("hash") != std::string_view::npos;
    for (const OpNode& n : ranks.back().ops(block)) {
      if (n.role != Role::kExpertGateUp) continue;
      const std::int64_t rows = std::get<GroupedGemm>(n.op).rows;
      if (hash) {
        EXPECT_GT(rows, sequences * 6 / 8 * 11 / 10);
        ++hashed;
      } else {
        EXPECT_EQ(rows, sequences * 6 / 8);
      }
    }
  }
  EXPECT_GT(hashed, 0);
}

TEST(Replicas, TakeSlotsAndLevelTheLoad) {
  const std::int64_t sequences = 8 * 1024;
  const auto gate_up = [&](const RoutingSpec& routing, std::int64_t replicas) {
    const auto ranks = ranks_of(pro(), {.dp = 8, .ep = 8, .routing = routing, .replicas = replicas},
                                decode(sequences, 1'000));
    EXPECT_EQ(total_of<GroupedGemm>(ranks, expert_rows), sequences * 6 * moe_layers(pro()));
    for (const OpNode& n : ranks.back().nodes) {
      if (n.role == Role::kExpertGateUp) return std::get<GroupedGemm>(n.op);
    }
    return GroupedGemm{};
  };
  const RoutingSpec skewed(Routing::kPowerLaw, 1.2);
  EXPECT_EQ(gate_up(skewed, 32).groups, 52);
  EXPECT_LT(gate_up(skewed, 32).rows, gate_up(skewed, 0).rows * 2 / 3);
  EXPECT_EQ(gate_up(Routing::kBalanced, 32).groups, 52);
  EXPECT_EQ(gate_up(Routing::kBalanced, 32).rows, sequences * 6 / 8);
  EXPECT_EQ(gate_up(Routing::kUniform, 32).active, 52);
}

// With 384 experts on 256 ranks some hold two and some one, and under an even choice the former get
// twice the rows: rows follow the experts, they are not dealt evenly over ranks.
TEST(DataAndExpertParallelism, GivesEachRankTheRowsOfItsExperts) {
  const std::int64_t sequences = 4096;
  const auto ranks = ranks_of(pro(), {.dp = 256, .ep = 256}, decode(sequences, 1'000));
  for (const OpGraph& g : ranks) {
    for (const OpNode& n : g.nodes) {
      if (n.role != Role::kExpertGateUp) continue;
      const auto& e = std::get<GroupedGemm>(n.op);
      ASSERT_NEAR(static_cast<double>(e.rows),
                  static_cast<double>(sequences * 6 * e.groups) / 384.0, 1.0)
          << e.groups << " experts";
    }
  }
}

// A draft module with fewer experts than ranks: ranks without an expert of it have no rows.
TEST(DataAndExpertParallelism, GivesNoRowsToRanksWithoutExperts) {
  Batch b = decode(256, 1'000);
  b.draft_tokens = 5;
  for (const OpGraph& g : ranks_of(v41(), {.dp = 256, .ep = 256}, b)) {
    for (const OpNode& n : g.nodes) {
      if (const GroupedGemm* e = std::get_if<GroupedGemm>(&n.op); e != nullptr && e->groups == 0) {
        ASSERT_EQ(e->rows, 0);
      }
    }
  }
}

TEST(TensorParallelism, SplitsTheWideWorkAndRepeatsTheNarrow) {
  const std::set<Role> repeated = {
      Role::kWqA,          Role::kWkv,          Role::kCompressorProj,
      Role::kIndexWqB,     Role::kIndexWeights, Role::kIndexCompressorProj,
      Role::kIndexKeyProj, Role::kIndexLogits,  Role::kRouter,
      Role::kHcAttnPre,    Role::kHcFfnPre,     Role::kEngramProj};
  for (const ModelSpec* m : all_models()) {
    for (const ParallelPlan& plan : {ParallelPlan{.tp = 4, .ep = 4}, ParallelPlan{.tp = 4, .ep = 2},
                                     ParallelPlan{.tp = 8, .ep = 1}}) {
      const auto ranks = ranks_of(*m, plan, decode(6, 5'000));
      OpGraph one;
      build_graph(*m, release_precision(*m), {}, decode(6, 5'000), 0, one);
      for (int r = 0; r < kRoles; ++r) {
        const Role role = static_cast<Role>(r);
        const auto flops = [&](const OpGraph& g) {
          std::int64_t sum = 0;
          for (const Block& block : g.blocks) {
            for (const OpNode& n : g.ops(block)) {
              if (n.role == role) sum += block.repeat * count_op(n.op).total_flops();
            }
          }
          return sum;
        };
        std::int64_t sum = 0;
        for (const OpGraph& g : ranks) sum += flops(g);
        EXPECT_EQ(sum, (repeated.contains(role) ? plan.tp : 1) * flops(one))
            << m->name << " " << to_string(plan) << " " << kRoleNames[index_of(role)];
      }
    }
  }
}

TEST(TensorParallelism, DividesTheWeightBytesAsTheTensorsSay) {
  // Routed experts and split tensors once over all ranks, the replicated ones on each.
  const ModelSpec& m = pro();
  const WeightBytes w = count_weight_bytes(m, release_precision(m));
  const auto ranks = ranks_of(m, {.tp = 4, .ep = 4}, decode(4'096, 5'000));
  std::int64_t read = 0;
  for (const OpGraph& g : ranks) read += count_graph(g).total().weight_bytes;
  const std::int64_t expected = w.routed + (w.split - w.embedding) + 4 * w.replicated;
  EXPECT_NEAR(static_cast<double>(read), static_cast<double>(expected), 1e-3 * expected);
}

TEST(TensorParallelism, ReducesAfterEachSublayer) {
  const auto ranks = ranks_of(flash(), {.tp = 4, .ep = 4}, decode(6, 5'000));
  const std::int64_t reduces = total_of<Collective>(ranks[0], [](const Collective& c, Role) {
    return c.kind == CollectiveKind::kAllReduce ? 1 : 0;
  });
  EXPECT_EQ(reduces, 2 * 43);
}

// The draft's Markov head is [vocab, rank]: tensors.h says tensor parallelism divides it.
TEST(TensorParallelism, DividesTheMarkovHeadOfTheDraft) {
  Batch b = decode(2, 1'000);
  b.draft_tokens = 5;
  const auto markov = [](const OpGraph& g) {
    return total_of<Gemm>(g, [](const Gemm& op, Role role) {
      return role == Role::kDraftMarkov ? count(op).total_flops() : 0;
    });
  };
  std::int64_t sum = 0;
  for (const OpGraph& g : ranks_of(v41(), {.tp = 4, .ep = 4}, b)) sum += markov(g);
  OpGraph one;
  build_graph(v41(), release_precision(v41()), {}, b, 0, one);
  EXPECT_EQ(sum, markov(one));
}

TEST(ContextParallelism, AddsUpToTheWholePrompt) {
  for (const ModelSpec* m : {&v32(), &pro(), &flash()}) {
    for (const std::int64_t cp : {2, 4}) {
      for (const std::int64_t context : {1, 5, 1'000, 4'099}) {
        const auto ranks = ranks_of(*m, {.cp = cp, .ep = cp}, prefill(2, context));
        const FlopCount whole = count_flops(*m, {{Span{2, 0, context}}}, 2);
        const GraphCount sum = sum_of(ranks);
        for (std::size_t c = 0; c < kComponents; ++c) {
          for (std::size_t p = 0; p < kPrecisionClasses; ++p) {
            EXPECT_EQ(sum.by[c].flops[p], whole.by[c][p])
                << m->name << " CP" << cp << " at " << context << " " << kComponentNames[c];
          }
        }
        EXPECT_EQ(total_of<GroupedGemm>(ranks, expert_rows),
                  2 * context * m->experts_per_token * moe_layers(*m));
        EXPECT_EQ(total_of<Dispatch>(ranks, [](const Dispatch& d, Role) { return d.pairs; }),
                  2 * context * m->experts_per_token * moe_layers(*m));
      }
    }
  }
}

// V4.1's decoder layers process the last 2,560 tokens of the prompt, wherever its pieces lie.
TEST(ContextParallelism, AddsUpToTheWholePromptOnV41) {
  for (const std::int64_t context : {1'000, 9'000}) {
    const auto ranks = ranks_of(v41(), {.cp = 4, .ep = 4}, prefill(1, context));
    const FlopCount whole = count_prefill(v41(), context);
    const GraphCount sum = sum_of(ranks);
    for (std::size_t c = 0; c < kComponents; ++c) {
      std::int64_t flops = 0;
      for (const std::int64_t f : whole.by[c]) flops += f;
      EXPECT_EQ(sum.by[c].total_flops(), flops) << context << kComponentNames[c];
    }
  }
}

TEST(ContextParallelism, EvensOutTheAttentionWork) {
  const auto ranks = ranks_of(v32(), {.cp = 4, .ep = 4}, prefill(1, 16'384));
  std::vector<std::int64_t> scores;
  scores.reserve(ranks.size());
  for (const OpGraph& g : ranks) {
    scores.push_back(
        total_of<IndexLogits>(g, [](const IndexLogits& op, Role) { return op.entries; }));
  }
  const auto [low, high] = std::minmax_element(scores.begin(), scores.end());
  EXPECT_LT(static_cast<double>(*high), 1.01 * static_cast<double>(*low));
}

// Early and late pieces are paired, so the last rank has the largest share only to within two
// tokens.
TEST(ContextParallelism, DealsTokensToWithinTwo) {
  for (const std::int64_t cp : {2, 4, 8}) {
    for (const std::int64_t context : {1, 5, 13, 1'001, 4'099}) {
      std::vector<std::int64_t> tokens;
      for (const OpGraph& g : ranks_of(flash(), {.cp = cp, .ep = cp}, prefill(1, context))) {
        tokens.push_back(std::get<Lookup>(g.nodes.front().op).tokens);
      }
      const auto [low, high] = std::minmax_element(tokens.begin(), tokens.end());
      EXPECT_LE(*high - *low, 2) << cp << " " << context;
    }
  }
}

TEST(PipelineParallelism, SendsTheStreamsOnceBetweenStages) {
  const Batch b = decode(6, 5'000);
  OpGraph g;
  build_graph(pro(), release_precision(pro()), {.pp = 4}, b, 0, g);
  EXPECT_EQ(total_of<Collective>(g, [](const Collective& c, Role) { return c.bytes; }),
            3 * 2 * 6 * 4 * 7168);
  OpGraph one;
  build_graph(pro(), release_precision(pro()), {}, b, 0, one);
  EXPECT_EQ(count_graph(g).total().total_flops(), count_graph(one).total().total_flops());
}

TEST(CombinedParallelism, KeepsRoutedWorkAndPairsWhole) {
  for (const ModelSpec* m : all_models()) {
    const auto ranks = ranks_of(*m, {.tp = 2, .dp = 4, .ep = 8}, decode(13, 5'000));
    const std::int64_t pairs = 13 * m->experts_per_token * moe_layers(*m);
    EXPECT_EQ(total_of<GroupedGemm>(ranks, expert_rows), pairs) << m->name;
    EXPECT_EQ(total_of<Dispatch>(ranks, [](const Dispatch& d, Role) { return d.pairs; }), pairs);
    const FlopCount whole = count_flops(*m, {{Span{13, 4'999, 1}}}, 13);
    const GraphCount sum = sum_of(ranks);
    for (const Component c :
         {Component::kRoutedExperts, Component::kSharedExperts, Component::kCoreAttention,
          Component::kOutputLowRank, Component::kLmHead}) {
      EXPECT_EQ(sum.by[static_cast<std::size_t>(c)].total_flops(), whole.component(c))
          << m->name << kComponentNames[static_cast<std::size_t>(c)];
    }
  }
}

// op_graph.h: "Throws UnsupportedError as require_possible does."
TEST(BuildGraph, RefusesPlansTheModelCannotBeDividedBy) {
  OpGraph g;
  EXPECT_THROW(
      build_graph(pro(), release_precision(pro()), {.tp = 3, .ep = 3}, decode(1, 100), 0, g),
      base::UnsupportedError);
  EXPECT_THROW(build_graph(flash(), release_precision(flash()), {.dp = 512, .ep = 512},
                           decode(512, 100), 0, g),
               base::UnsupportedError);
}

}  // namespace
}  // namespace foretoken::workloads
