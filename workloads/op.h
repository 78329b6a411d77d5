// The operators a step is made of, and the exact work in each. Chip-free.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <variant>

#include "workloads/dtype.h"

namespace foretoken::workloads {

// Classes of counted FLOPs. FP8-equivalent FLOPs weight them by 2, 1, 1 and 0.5 by default.
enum class PrecisionClass : std::uint8_t { kBf16, kFp8, kFp4Fp8, kFp4 };
inline constexpr int kPrecisionClasses = 4;
inline constexpr std::array<std::string_view, kPrecisionClasses> kPrecisionNames = {
    "bf16", "fp8", "fp4_fp8", "fp4"};

constexpr PrecisionClass precision_class(Dtype compute, Dtype weight) {
  if (compute == Dtype::kFp4 || compute == Dtype::kInt4) return PrecisionClass::kFp4;
  if (compute == Dtype::kFp8 || compute == Dtype::kInt8) {
    return weight == Dtype::kFp4 || weight == Dtype::kInt4 ? PrecisionClass::kFp4Fp8
                                                           : PrecisionClass::kFp8;
  }
  return PrecisionClass::kBf16;
}

// One multiply-add = 2 FLOPs. Counted are matrix products only; softmax, norms, RoPE, activations,
// Sinkhorn, top-k and stream mixes are vector operations, kept apart because published FLOP counts
// leave them out.
struct WorkCount {
  std::array<std::int64_t, kPrecisionClasses> flops{};
  std::int64_t vector_ops = 0;      // additions, multiplications, comparisons, conversions
  std::int64_t special_ops = 0;     // exp, reciprocal, square root, logarithm
  std::int64_t weight_bytes = 0;    // parameters read
  std::int64_t input_bytes = 0;     // activations read
  std::int64_t output_bytes = 0;    // activations written
  std::int64_t kv_read_bytes = 0;   // entries, per query that asks; indexer keys, per sequence
  std::int64_t kv_write_bytes = 0;  // cache entries and compressor state
  std::int64_t sent_bytes = 0;      // leaving this rank

  [[nodiscard]] std::int64_t total_flops() const {
    return flops[0] + flops[1] + flops[2] + flops[3];
  }
  WorkCount& operator+=(const WorkCount& o);
  bool operator==(const WorkCount&) const = default;
};

// `batch` products [m, k] x [k, n]; weights [batch][n, k].
struct Gemm {
  std::int64_t m, n, k;
  std::int64_t batch = 1;
  Dtype activation, weight, compute, output;
  std::int64_t fp8_block = 128;
  bool operator==(const Gemm&) const = default;
};

// Rows of tokens routed to this rank's experts: `rows` token-expert pairs over `active` of `groups`
// experts, each [n, k].
struct GroupedGemm {
  std::int64_t rows, groups, active, n, k;
  Dtype activation, weight, compute, output;
  std::int64_t fp8_block = 128;
  bool operator==(const GroupedGemm&) const = default;
};

// One softmax over window and selected or dense entries, one KV head shared by all query heads.
struct Attention {
  std::int64_t queries, heads, qk_width, v_width;
  std::int64_t keys;             // summed over queries
  std::int64_t requested_bytes;  // KV bytes summed over queries
  std::int64_t distinct_bytes;   // KV bytes any query of the step may touch
  Dtype compute, output;
  bool sparse = false;  // gathers single entries
  bool decode = false;  // reads entries as cached, and widens FP8 to BF16 on the way
  bool sink = false;    // a learned logit per head joins the softmax
  bool operator==(const Attention&) const = default;
};

// Indexer scores: relu(q . key) weighted over heads.
struct IndexLogits {
  std::int64_t queries, heads, width;
  std::int64_t entries;    // summed over queries
  std::int64_t key_bytes;  // distinct keys read
  Dtype compute;
  std::int64_t sequences = 1;  // that the queries belong to, and tokens an entry stands for: which
  std::int64_t ratio = 1;      // entries a query sees
  bool operator==(const IndexLogits&) const = default;
};

struct TopK {
  std::int64_t queries, entries, k;       // entries summed over queries
  std::int64_t sequences = 1, ratio = 1;  // as IndexLogits
  bool operator==(const TopK&) const = default;
};

// Softmax pooling of `slots` tokens per channel into entries, with the running state in FP32.
struct Compress {
  std::int64_t tokens, emitted, slots, width;
  std::int64_t state_width;       // channels kept per token in the state (twice width with overlap)
  std::int64_t entry_bytes;       // written per emitted entry
  std::int64_t position_weights;  // FP32 positional biases
  std::int64_t sequences = 1;     // that the tokens belong to
  bool operator==(const Compress&) const = default;
};

enum class HyperPhase : std::uint8_t { kPre, kPost, kHead };

// mHC: the mixing weights from all streams and the collapse (pre), the update (post), the merge
// (head).
struct HyperConnection {
  HyperPhase phase;
  std::int64_t tokens, streams, hidden, outputs, sinkhorn_iterations;
  Dtype compute;
  bool operator==(const HyperConnection&) const = default;
};

enum class VectorKind : std::uint8_t {
  kNorm,
  kRope,
  kQuantise,
  kHadamard,
  kSwiglu,
  kResidual,
  kSample
};

// Elementwise and row-wise work on [rows, width].
struct VectorOp {
  VectorKind kind;
  std::int64_t rows, width;
  Dtype input, output;
  std::int64_t kv_write_bytes = 0;
  std::int64_t weights = 0;  // parameters read (norm weights), FP32 or BF16: counted at 2 bytes
  bool operator==(const VectorOp&) const = default;
};

// Expert choice: scores of all experts, the best k (or a table look-up), normalised weights.
struct Route {
  std::int64_t tokens, experts, topk;
  bool hash;
  bool operator==(const Route&) const = default;
};

// Tokens to the ranks that hold their experts, and their results back. `pairs` token-expert pairs
// leave this rank's tokens; `remote` of them for other ranks, or as many as arrive from other ranks
// where that is more.
struct Dispatch {
  std::int64_t tokens, pairs, remote, hidden, ranks;
  Dtype element;
  bool operator==(const Dispatch&) const = default;
};
struct Combine {
  std::int64_t tokens, pairs, remote, hidden, ranks;
  Dtype element;
  bool operator==(const Combine&) const = default;
};

enum class CollectiveKind : std::uint8_t { kAllReduce, kAllGather, kReduceScatter, kSendRecv };
inline constexpr std::array<std::string_view, 4> kCollectiveNames = {"all_reduce", "all_gather",
                                                                     "reduce_scatter", "send_recv"};

// `bytes` is what one rank contributes (all-reduce: the vector it reduces). A send reaches the rank
// `ranks - 1` further on: the next rank of a context-parallel ring, or the same rank of the next
// stage.
struct Collective {
  CollectiveKind kind;
  std::int64_t bytes, ranks;
  bool operator==(const Collective&) const = default;
};

// Row gather from a table: embeddings (device memory) or n-gram memory (host memory).
struct Lookup {
  std::int64_t tokens, rows_per_token, width;
  Dtype element;
  std::int64_t scale_bytes_per_row;
  bool host;
  bool operator==(const Lookup&) const = default;
};

using Op = std::variant<Gemm, GroupedGemm, Attention, IndexLogits, TopK, Compress, HyperConnection,
                        VectorOp, Route, Dispatch, Combine, Collective, Lookup>;

// The exact work of one operator. `count_op` visits; the overloads are named `count`.
WorkCount count(const Gemm& op);
WorkCount count(const GroupedGemm& op);
WorkCount count(const Attention& op);
WorkCount count(const IndexLogits& op);
WorkCount count(const TopK& op);
WorkCount count(const Compress& op);
WorkCount count(const HyperConnection& op);
WorkCount count(const VectorOp& op);
WorkCount count(const Route& op);
WorkCount count(const Dispatch& op);
WorkCount count(const Combine& op);
WorkCount count(const Collective& op);
WorkCount count(const Lookup& op);
WorkCount count_op(const Op& op);

// "gemm", "grouped_gemm", ... as traces print them.
std::string_view op_kind(const Op& op);

}  // namespace foretoken::workloads
