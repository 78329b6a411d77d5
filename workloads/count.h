// Exact parameters, FLOPs and KV bytes of a model by closed form: no operator list, no hardware.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "workloads/model_spec.h"
#include "workloads/op.h"
#include "workloads/positions.h"
#include "workloads/precision.h"

namespace foretoken::workloads {

enum class Phase : std::uint8_t { kDecode, kPrefill };

// Rows of the count tables (facts: per-token FLOPs by part).
enum class Component : std::uint8_t {
  kAttentionProjections,
  kOutputLowRank,  // grouped wo_a; V3.2: the absorbed key and value maps
  kIndexerProjections,
  kIndexScores,
  kCompressors,
  kCoreAttention,
  kRoutedExperts,
  kSharedExperts,  // and dense FFN layers
  kRouter,
  kHyperConnections,
  kEngram,
  kLmHead,
  kDraft,  // MTP or DSpark blocks; not part of `count`
  kOther,  // uncounted vector work
};
inline constexpr int kComponents = 14;
inline constexpr std::array<std::string_view, kComponents> kComponentNames = {
    "attention_projections",
    "output_low_rank",
    "indexer_projections",
    "index_scores",
    "compressors",
    "core_attention",
    "routed_experts",
    "shared_experts",
    "router",
    "mhc",
    "engram",
    "lm_head",
    "draft",
    "other"};

struct FlopCount {
  std::array<std::array<std::int64_t, kPrecisionClasses>, kComponents> by{};

  [[nodiscard]] std::int64_t total() const;
  [[nodiscard]] std::int64_t component(Component c) const;
  [[nodiscard]] std::int64_t precision(PrecisionClass p) const;
};

// Weights of the precision classes relative to FP8. The default reproduces every published ratio.
using PrecisionWeights = std::array<double, kPrecisionClasses>;
inline constexpr PrecisionWeights kFp8Equivalent = {2.0, 1.0, 1.0, 0.5};
double weighted(const FlopCount& flops, const PrecisionWeights& weights);

// FLOPs of the main model for the given positions; `logits` tokens go through the LM head.
FlopCount count_flops(const ModelSpec& model, const Positions& positions, std::int64_t logits);
// One decoded token at `context` visible positions (itself included).
FlopCount count_decode(const ModelSpec& model, std::int64_t context);
// A whole prompt of `context` tokens, logits for the last one only.
FlopCount count_prefill(const ModelSpec& model, std::int64_t context);
// FLOPs of the draft layers and their head for `tokens` drafted tokens at the given positions.
FlopCount count_draft(const ModelSpec& model, const Positions& positions, std::int64_t logits);

struct KvBytes {
  std::int64_t global = 0;          // entries that grow with the context
  std::int64_t window = 0;          // sliding windows
  std::int64_t tail = 0;            // FP32 compressor state
  std::int64_t total = 0;           // the sum
  std::int64_t read_per_token = 0;  // by the next decoded token
};
// One sequence after `context` tokens; pages are not padded.
KvBytes count_kv(const ModelSpec& model, const Precision& precision, std::int64_t context);
// Bytes of growing cache per context token in the limit: 3514.25 for V4-Flash.
double kv_bytes_per_token(const ModelSpec& model, const Precision& precision);

struct ModelParameters {
  std::int64_t total = 0;   // main model with embedding and head
  std::int64_t active = 0;  // what a token multiplies with: head included, embedding not
  std::int64_t draft = 0;   // MTP or DSpark blocks
  std::int64_t engram_tables = 0;
  std::int64_t embedding = 0;
  std::int64_t head = 0;
  std::int64_t routed_total = 0;
  std::int64_t routed_active = 0;
};
ModelParameters count_parameters(const ModelSpec& model);

// Bytes of weights in the formats of `precision`.
struct WeightBytes {
  std::int64_t routed = 0;  // routed experts of the main model
  std::int64_t split = 0;   // tensors that tensor parallelism divides, embedding and head included
  std::int64_t replicated = 0;  // small tensors every rank keeps
  std::int64_t draft_routed = 0;
  std::int64_t draft_split = 0;
  std::int64_t draft_replicated = 0;
  std::int64_t host = 0;  // Engram tables
  std::int64_t one_expert = 0;
  std::int64_t embedding = 0;
  std::int64_t head = 0;

  // The whole checkpoint, draft module included.
  [[nodiscard]] std::int64_t checkpoint() const {
    return routed + split + replicated + draft_routed + draft_split + draft_replicated + host;
  }
};
WeightBytes count_weight_bytes(const ModelSpec& model, const Precision& precision);

}  // namespace foretoken::workloads
