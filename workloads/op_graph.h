// The operator trace of one rank's step: every operator with its shapes, in blocks that repeat.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "workloads/count.h"
#include "workloads/op.h"
#include "workloads/plan.h"

namespace foretoken::workloads {

// The place of an operator in the layer; its name in traces and breakdowns.
enum class Role : std::uint8_t {
  kEmbed,
  kHcAttnPre,
  kAttnNorm,
  kQuantX,
  kWqA,
  kQNorm,
  kQuantQ,
  kWqB,
  kQHeadNorm,
  kQRope,
  kWkv,
  kKvNorm,
  kKvRope,
  kKvCacheWrite,
  kCompressorProj,
  kCompress,
  kCompressorNorm,
  kCompressorRope,
  kCompressorCacheWrite,
  kIndexWqB,
  kIndexRope,
  kIndexHadamard,
  kIndexQuant,
  kIndexWeights,
  kIndexCompressorProj,
  kIndexCompress,
  kIndexKeyProj,
  kIndexKeyNorm,
  kIndexKeyRope,
  kIndexKeyHadamard,
  kIndexKeyCacheWrite,
  kIndexLogits,
  kIndexTopK,
  kAbsorbKey,
  kAttention,
  kAbsorbValue,
  kInverseRope,
  kWoA,
  kQuantO,
  kWoB,
  kAttnAllReduce,
  kHcAttnPost,
  kAttnResidual,
  kContextGather,
  kHcFfnPre,
  kFfnNorm,
  kRouter,
  kRoute,
  kQuantFfn,
  kDispatch,
  kExpertGateUp,
  kExpertSwiglu,
  kExpertDown,
  kCombine,
  kSharedGateUp,
  kSharedSwiglu,
  kSharedDown,
  kSharedAdd,
  kFfnAllReduce,
  kTokenGather,
  kHcFfnPost,
  kFfnResidual,
  kDenseGateUp,
  kDenseSwiglu,
  kDenseDown,
  kEngramLookup,
  kEngramProj,
  kEngramGate,
  kStageSend,
  kHeadMerge,
  kFinalNorm,
  kLmHead,
  kLogitsGather,
  kSample,
  kDraftEmbed,
  kDraftEmbedNorm,
  kDraftHiddenNorm,
  kDraftEmbedProj,
  kDraftHiddenProj,
  kDraftMarkov,
};
inline constexpr int kRoles = static_cast<int>(Role::kDraftMarkov) + 1;
extern const std::array<std::string_view, kRoles> kRoleNames;
constexpr std::size_t index_of(Role r) { return static_cast<std::size_t>(r); }

struct OpNode {
  Op op;
  Role role;
  Component component;
  std::uint8_t dependency_count = 0;
  std::array<std::uint32_t, 5> dependencies{};  // indices into OpGraph::nodes, same block, earlier
};

// Operators that run `repeat` times, once for every half of a layer (attention or FFN) that is
// alike.
struct Block {
  std::string_view name;  // "csa", "moe+hash", "head", ...
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  std::uint32_t repeat = 1;
};

// One execution of a block: half of a layer (index), or -1 for embedding, head and draft blocks.
struct BlockRun {
  std::uint32_t block = 0;
  std::int32_t layer = -1;
};

// Reusable: clear() keeps the capacity.
struct OpGraph {
  std::vector<OpNode> nodes;
  std::vector<Block> blocks;
  std::vector<BlockRun> order;  // blocks in the order they run

  void clear();
  [[nodiscard]] std::span<const OpNode> ops(const Block& b) const {
    return std::span(nodes).subspan(b.first, b.count);
  }
};

// Replaces `graph` by the step of rank `rank` of a pipeline stage's ranks (all stages in sequence,
// one microbatch of batch.sequences). The last rank has the largest share of everything that does
// not divide evenly. Allocates only while the graph's vectors grow. Throws UnsupportedError as
// require_possible does.
void build_graph(const ModelSpec& model, const Precision& precision, const ParallelPlan& plan,
                 const Batch& batch, std::int64_t rank, OpGraph& graph);

// What a layer's two halves are called as blocks: "csa", "hca", "moe+hash", ...
std::string_view attention_block_name(const LayerSpec& layer);
std::string_view ffn_block_name(const LayerSpec& layer);

// Sum over all runs of all blocks, by component; draft blocks are under kDraft.
struct GraphCount {
  std::array<WorkCount, kComponents> by{};
  [[nodiscard]] WorkCount total() const;
};
GraphCount count_graph(const OpGraph& graph);

}  // namespace foretoken::workloads
