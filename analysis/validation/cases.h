// What was measured, as plain structs: one kind of kernel, module or engine step each, free of the
// table it came from.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "analysis/end_to_end.h"
#include "workloads/count.h"
#include "workloads/model_spec.h"

namespace foretoken::analysis::validation {

// Where and with which software. `system` is a name in configs/chips where the table's own name
// could be translated, else that name.
struct Origin {
  std::string system;
  std::string framework;
  std::string kernel_source;

  // Both names of the software, for people; empty where the table names none.
  [[nodiscard]] std::string stack() const;
};

// dtype as tables write it, with one spelling for each: bf16, fp16, fp8 (one scale a tensor),
// fp8_block (1x128 by 128x128), nvfp4, w4a8_mxfp4_mxfp8, ...
struct DenseGemmCase {
  Origin origin;
  std::string dtype;
  std::int64_t m = 1;
  std::int64_t n = 1;
  std::int64_t k = 1;
};

// One product per group.
struct GroupedGemmCase {
  Origin origin;
  std::string dtype;
  std::int64_t groups = 1;
  std::int64_t rows_per_group = 1;
  std::int64_t n = 1;
  std::int64_t k = 1;
};

// Both products and SwiGLU of one rank's routed experts; no traffic between ranks.
struct RoutedExpertsCase {
  Origin origin;
  std::string model;
  std::string dtype;
  std::string routing;      // "balanced", "power_law_1.2"
  std::int64_t tokens = 1;  // given to the layer
  std::int64_t hidden = 1;
  std::int64_t inner = 1;
  std::int64_t experts = 1;  // of the layer
  std::int64_t topk = 1;
  std::int64_t tp = 1;
  std::int64_t ep = 1;
};

// The whole self-attention of one layer on one rank: projections, norms, RoPE, cache write,
// compressor, indexer and top-k (CSA), attention, output projection. No mHC, input norm or
// all-reduce.
struct AttentionModuleCase {
  Origin origin;
  std::string model;
  workloads::AttentionKind kind = workloads::AttentionKind::kCsa;
  workloads::Phase phase = workloads::Phase::kDecode;
  std::string weight_dtype;
  std::string kv_dtype;
  std::int64_t ratio = 4;  // tokens per compressed entry
  std::int64_t tp = 1;
  std::int64_t local_heads = 1;
  std::int64_t sequences = 1;
  std::int64_t new_tokens = 1;  // per sequence
  std::int64_t history = 0;     // tokens cached before them
};

// Indexer scores over the paged keys.
struct IndexLogitsCase {
  Origin origin;
  std::string model;
  std::string dtype;
  std::int64_t heads = 1;  // of the model's attention, not of the indexer
  std::int64_t ratio = 4;
  std::int64_t sequences = 1;
  std::int64_t new_tokens = 1;
  std::int64_t history = 0;
};

// The indexer's choice among its scores.
struct TopKCase {
  Origin origin;
  std::string model;
  std::string score_mode;
  std::int64_t ratio = 4;
  std::int64_t sequences = 1;
  std::int64_t new_tokens = 1;
  std::int64_t history = 0;
};

// The softmax over window and entries alone.
struct SparseAttentionCase {
  Origin origin;
  std::string model;
  std::string kv_dtype;
  std::int64_t heads = 1;
  std::int64_t ratio = 128;
  std::int64_t sequences = 1;
  std::int64_t new_tokens = 1;
  std::int64_t history = 0;
};

struct HyperConnectionCase {
  Origin origin;
  workloads::HyperPhase phase = workloads::HyperPhase::kPre;
  std::int64_t sites = 1;  // calls the time covers
  std::int64_t streams = 4;
  std::int64_t hidden = 1;
  std::int64_t sinkhorn_iterations = 0;
  std::int64_t tokens = 1;
};

struct CollectiveCase {
  Origin origin;
  std::string op;  // all_reduce, all_gather, reduce_scatter, alltoall
  std::string dtype;
  std::int64_t ranks = 2;
  std::int64_t elements = 1;
};

// Tokens to the ranks of their experts, or the results back.
struct ExpertTrafficCase {
  Origin origin;
  bool combine = false;
  bool low_latency = false;
  std::string dtype;
  std::int64_t ranks = 1;
  std::int64_t tokens_per_rank = 1;
  std::int64_t hidden = 1;
  std::int64_t topk = 1;
  std::int64_t experts = 0;  // 0 = not said
  std::int64_t nodes = 0;    // above 0: `ranks` are all devices of so many
  std::int64_t cores = 0;    // that copy; 0 = not said
  // The link whose bytes a bandwidth counts: "NVLink", "RDMA"; empty where the table does not say.
  std::string link;
};

// Dispatch, both expert products, SwiGLU and combine of one layer, fused or one after another.
struct MegaMoeCase {
  Origin origin;
  std::string model;
  std::string precision;
  std::string routing;
  bool fused = true;
  std::int64_t ep = 1;
  std::int64_t tokens_per_rank = 1;
  // 0 = not said: the model's.
  std::int64_t hidden = 0;
  std::int64_t inner = 0;
  std::int64_t experts = 0;
  std::int64_t topk = 0;
};

// A kernel of V4-Flash as Ascend libraries cut them. -1 = not said.
struct AscendKernelCase {
  Origin origin;
  std::string op;  // "sliding_window_attention", "compressor_c4a", ...
  std::int64_t sequences = -1;
  std::int64_t new_tokens = -1;
  std::int64_t cached = -1;
  std::int64_t width = -1;
  std::int64_t ratio = -1;
};

// One engine step, and how many tokens a sequence gains in it.
struct EngineStepCase {
  EndToEndCase step;
  std::string framework;
  double tokens_per_step = 1.0;
};

// A row that says too little, or is about something else.
struct SkippedCase {
  Origin origin;
  std::string class_name;
  std::string label;
  std::string reason;
};

using Case = std::variant<DenseGemmCase, GroupedGemmCase, RoutedExpertsCase, AttentionModuleCase,
                          IndexLogitsCase, TopKCase, SparseAttentionCase, HyperConnectionCase,
                          CollectiveCase, ExpertTrafficCase, MegaMoeCase, AscendKernelCase,
                          EngineStepCase, SkippedCase>;

// The class a case is summarised in: "dense_gemm/bf16", "csa_decode_module", ...
std::string class_of(const Case& c);
// What was measured where, without the software: equal for the stacks that measured the same.
std::string label_of(const Case& c);
Origin origin_of(const Case& c);

}  // namespace foretoken::analysis::validation
