// A language model as the shapes that decide its cost, read from a Hugging Face config.json.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "sim/base/config_tree.h"
#include "workloads/dtype.h"

namespace foretoken::workloads {

enum class Family : std::uint8_t { kDeepseekV32, kDeepseekV4, kDeepseekV41 };

// Which keys a query sees besides its window.
enum class AttentionKind : std::uint8_t {
  kWindow,  // nothing else
  kCsa,     // the top-k compressed entries, ratio 4, chosen by the layer's own indexer
  kHca,     // all compressed entries, ratio 128
  kMlaDsa,  // V3.2: the top-k tokens of the latent cache; no window
  kShared,  // V4.1: the top-k entries of a cache that several layers share
};

// What the layer does to choose its top-k.
enum class IndexMode : std::uint8_t {
  kNone,
  kAll,         // scores every visible entry
  kCandidates,  // V4.1: scores only the candidate blocks chosen by an earlier layer
  kReuse,       // V4.1: takes an earlier layer's choice
};

enum class FfnKind : std::uint8_t { kDense, kMoe };

// Layers that compare equal cost the same at every batch and context.
struct LayerSpec {
  AttentionKind attention = AttentionKind::kWindow;
  std::int64_t ratio = 0;   // tokens per entry of the cache it reads; 0 = window only
  bool owns_cache = false;  // has a compressor (or, V3.2, writes the latent)
  IndexMode index = IndexMode::kNone;
  bool overlap = false;  // the compressor spans two blocks (V4 CSA)
  FfnKind ffn = FfnKind::kMoe;
  bool hash_routing = false;  // experts from a table indexed by the token id
  bool engram = false;        // V4.1: n-gram memory before the attention
  bool decoder = false;       // V4.1: prefill needs it only for the prompt's tail

  bool operator==(const LayerSpec&) const = default;
};

// How weights and caches are stored in the checkpoint.
struct StorageFormats {
  bool quantised = false;        // FP8 linears, FP8 KV; else everything in `plain`
  Dtype linear = Dtype::kBf16;   // projections, shared experts
  Dtype expert = Dtype::kBf16;   // routed experts
  Dtype plain = Dtype::kBf16;    // embeddings, head, router, compressors
  std::int64_t fp8_block = 128;  // FP8 weights carry one scale per fp8_block x fp8_block
};

// Layers that compare equal, and how many of them there are.
struct LayerClass {
  LayerSpec spec;
  std::int64_t count = 0;
};

struct ModelSpec {
  std::string name;
  std::string title;
  Family family = Family::kDeepseekV4;
  std::int64_t hidden = 0;
  std::int64_t vocab = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;  // V4: query, key and value width; V3.2: latent width
  std::int64_t rope_dim = 0;
  std::int64_t nope_dim = 0;   // V3.2: per-head query width without RoPE
  std::int64_t value_dim = 0;  // V3.2: per-head value width
  std::int64_t q_rank = 0;
  std::int64_t o_groups = 0;
  std::int64_t o_rank = 0;
  std::int64_t window = 0;
  std::int64_t index_heads = 0;
  std::int64_t index_dim = 0;
  std::int64_t index_topk = 0;
  std::int64_t index_candidates = 0;  // V4.1: entries a kCandidates layer scores at most
  std::int64_t experts = 0;
  std::int64_t experts_per_token = 0;
  std::int64_t shared_experts = 0;
  std::int64_t expert_inner = 0;  // MoE intermediate width
  std::int64_t dense_inner = 0;   // width of dense FFN layers
  std::int64_t streams = 1;       // mHC residual streams; 1 = plain residual
  std::int64_t sinkhorn_iterations = 0;
  bool image_bias = false;  // V4.1: second selection bias for image tokens
  // V4.1 Engram: rows gathered per token and layer, their width, rows in all tables.
  std::int64_t engram_rows = 0;
  std::int64_t engram_dim = 0;
  std::int64_t engram_table_rows = 0;
  std::int64_t max_positions = 0;
  std::vector<LayerSpec> layers;
  std::vector<LayerClass> classes;      // of `layers`, in order of first appearance
  std::vector<std::uint32_t> class_of;  // index into `classes` per layer
  // The same for the two halves of a layer, whose kinds repeat more often than whole layers do.
  std::vector<LayerClass> attention_classes;
  std::vector<std::uint32_t> attention_class_of;
  std::vector<LayerClass> ffn_classes;
  std::vector<std::uint32_t> ffn_class_of;
  // Draft module: MTP block (V3.2, V4) or DSpark blocks (V4.1).
  std::vector<LayerSpec> draft_layers;
  std::int64_t draft_experts = 0;
  std::int64_t draft_experts_per_token = 0;
  std::int64_t draft_block = 0;        // V4.1: positions drafted in one pass; 0 = one by one
  std::int64_t draft_markov_rank = 0;  // V4.1
  StorageFormats storage;

  // Derived from `layers` by read_model.
  void classify();
  // Above the number of parameters; guards 63-bit counts against hostile configurations.
  double parameter_bound = 0.0;

  [[nodiscard]] bool hyper() const { return streams > 1; }
  [[nodiscard]] std::int64_t mix_width() const { return (2 + streams) * streams; }  // 24
  // First layer that prefill skips for all but the prompt's tail; layers.size() when there is none.
  [[nodiscard]] std::size_t first_decoder_layer() const;
  // Prompt tokens at the end that decoder layers still process: the window of every decoder layer.
  [[nodiscard]] std::int64_t decoder_tail() const;
};

// Reads a Hugging Face configuration of the families above ("model_type" deepseek_v32, deepseek_v4,
// deepseek_v41). Keys that say nothing about shapes are ignored. Throws ConfigError with the
// position for missing, mistyped, out-of-range or contradictory values.
ModelSpec read_model(const base::ConfigFile& file, std::string name);

// The file meant by a name from configs/models (with or without .json) or by a path to a
// config.json. Throws ConfigError for a name that is not there.
std::filesystem::path find_model(const std::string& name_or_path,
                                 const std::filesystem::path& configs);
ModelSpec load_model(const std::string& name_or_path, const std::filesystem::path& configs);

// Every number of the specification as text: models that differ in anything have another
// fingerprint.
std::string fingerprint(const ModelSpec& model);

// Names in configs/models, sorted.
std::vector<std::string> list_models(const std::filesystem::path& configs);

}  // namespace foretoken::workloads
