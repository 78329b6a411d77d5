// Hugging Face config.json of DeepSeek V3.2, V4 and V4.1 to ModelSpec.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "sim/base/config.h"
#include "sim/base/text.h"
#include "workloads/model_spec.h"

namespace foretoken::workloads {

using base::ConfigReader;
using base::ConfigVisitor;
using base::Field;
using base::Need;

namespace {

// No published model comes near these; they keep products of a few dimensions inside 63 bits.
constexpr base::IntRange kWidth{.min = 1, .max = 1 << 20};
constexpr base::IntRange kLayers{.min = 1, .max = 4096};
constexpr base::IntRange kCount{.min = 1, .max = 1 << 20};
constexpr base::IntRange kCountOrNone{.min = 0, .max = 1 << 20};
constexpr base::SizeRange kPerLayer{.min = 1, .max = 8192};

// The keys all families share, in the order of the file.
struct Common {
  std::int64_t layer_count = 0;
  std::int64_t draft_count = 0;
};

void read_common(ConfigVisitor& v, ModelSpec& m, Common& c) {
  v.integer({"hidden_size", ""}, m.hidden, kWidth);
  v.integer({"vocab_size", ""}, m.vocab, {.min = 1, .max = 1 << 24});
  v.integer({"num_hidden_layers", ""}, c.layer_count, kLayers);
  v.integer({"num_attention_heads", ""}, m.heads, kCount);
  v.integer({"q_lora_rank", ""}, m.q_rank, kWidth);
  v.integer({"qk_rope_head_dim", ""}, m.rope_dim, kWidth);
  v.integer({"index_n_heads", ""}, m.index_heads, kCount);
  v.integer({"index_head_dim", ""}, m.index_dim, kWidth);
  v.integer({"index_topk", ""}, m.index_topk, {.min = 1, .max = 1 << 24});
  v.integer({"n_routed_experts", ""}, m.experts, kCount);
  v.integer({"num_experts_per_tok", ""}, m.experts_per_token, kCount);
  v.check(m.experts_per_token <= m.experts, "num_experts_per_tok",
          fmt::format("'num_experts_per_tok' is {} but there are only {} experts",
                      m.experts_per_token, m.experts));
  v.integer({"n_shared_experts", ""}, m.shared_experts, {.min = 0, .max = 64});
  v.integer({"moe_intermediate_size", ""}, m.expert_inner, kWidth);
  v.integer({"num_nextn_predict_layers", "", Need::kOptional}, c.draft_count,
            {.min = 0, .max = 64});
  v.integer({"max_position_embeddings", ""}, m.max_positions,
            {.min = 1, .max = std::int64_t{1} << 40});
}

void read_v4_shapes(ConfigVisitor& v, ModelSpec& m) {
  v.integer({"head_dim", ""}, m.head_dim, kWidth);
  v.integer({"o_groups", ""}, m.o_groups, kCount);
  v.integer({"o_lora_rank", ""}, m.o_rank, kWidth);
  v.integer({"sliding_window", ""}, m.window, {.min = 1, .max = 1 << 24});
  v.integer({"hc_mult", ""}, m.streams, {.min = 1, .max = 64});
  v.integer({"hc_sinkhorn_iters", ""}, m.sinkhorn_iterations, {.min = 0, .max = 10'000});
  v.check(m.rope_dim < m.head_dim, "qk_rope_head_dim",
          "'qk_rope_head_dim' must be smaller than 'head_dim'");
  v.check(
      m.o_groups == 0 || m.heads % m.o_groups == 0, "o_groups",
      fmt::format("'o_groups' {} does not divide 'num_attention_heads' {}", m.o_groups, m.heads));
}

// Reads quantization_config; `expert_default` is the format of routed experts when nothing names
// it.
void read_storage(ConfigVisitor& v, ModelSpec& m, Dtype expert_default, bool expert_inside) {
  static constexpr std::array<std::string_view, 3> kExpertNames = {"fp4", "fp8", "bf16"};
  static constexpr std::array<Dtype, 3> kExpertDtypes = {Dtype::kFp4, Dtype::kFp8, Dtype::kBf16};
  const auto read_expert = [&] {
    int index =
        static_cast<int>(std::find(kExpertDtypes.begin(), kExpertDtypes.end(), expert_default) -
                         kExpertDtypes.begin());
    v.choice({"expert_dtype", "", Need::kOptional}, index, kExpertNames);
    m.storage.expert = kExpertDtypes[static_cast<std::size_t>(index)];
  };
  std::string torch_dtype = "bfloat16";
  v.text({"torch_dtype", "", Need::kOptional}, torch_dtype);
  v.check(torch_dtype == "bfloat16" || torch_dtype == "float32" || torch_dtype == "float16",
          "torch_dtype",
          fmt::format("'torch_dtype' {} is not known; known: bfloat16, float16, "
                      "float32",
                      base::quote(torch_dtype)));
  m.storage.plain = torch_dtype == "float32" ? Dtype::kFp32 : Dtype::kBf16;
  m.storage.linear = m.storage.plain;
  m.storage.expert = m.storage.plain;
  const bool present = base::group(v, {"quantization_config", "", Need::kOptional}, [&] {
    std::string method;
    v.text({"quant_method", ""}, method);
    v.check(method == "fp8", "quant_method",
            fmt::format("'quant_method' {} is not known; known: fp8", base::quote(method)));
    std::vector<std::int64_t> block = {128, 128};
    v.integers({"weight_block_size", ""}, block, {.min = 1, .max = 65'536}, {.min = 2, .max = 2});
    v.check(block[0] == block[1], "weight_block_size",
            "only square weight blocks are supported in 'weight_block_size'");
    m.storage.quantised = true;
    m.storage.linear = Dtype::kFp8;
    m.storage.fp8_block = block[0];
    if (expert_inside) read_expert();
  });
  if (!expert_inside) {
    if (present) {
      read_expert();
    } else {
      std::string unused;
      v.text({"expert_dtype", "", Need::kOptional}, unused);
    }
  }
}

void read_v32(ConfigVisitor& v, ModelSpec& m) {
  Common c;
  read_common(v, m, c);
  v.integer({"kv_lora_rank", ""}, m.head_dim, kWidth);
  v.integer({"qk_nope_head_dim", ""}, m.nope_dim, kWidth);
  v.integer({"v_head_dim", ""}, m.value_dim, kWidth);
  std::int64_t dense_layers = 0;
  v.integer({"first_k_dense_replace", ""}, dense_layers, {.min = 0, .max = 4096});
  v.check(dense_layers <= c.layer_count, "first_k_dense_replace",
          "'first_k_dense_replace' exceeds 'num_hidden_layers'");
  if (dense_layers > 0) v.integer({"intermediate_size", ""}, m.dense_inner, kWidth);
  read_storage(v, m, Dtype::kFp8, false);
  LayerSpec layer{.attention = AttentionKind::kMlaDsa,
                  .ratio = 1,
                  .owns_cache = true,
                  .index = IndexMode::kAll};
  for (std::int64_t i = 0; i < c.layer_count; ++i) {
    layer.ffn = i < dense_layers ? FfnKind::kDense : FfnKind::kMoe;
    m.layers.push_back(layer);
  }
  layer.ffn = FfnKind::kMoe;
  m.draft_layers.assign(static_cast<std::size_t>(c.draft_count), layer);
  m.draft_experts = m.experts;
  m.draft_experts_per_token = m.experts_per_token;
}

LayerSpec v4_layer(std::int64_t ratio) {
  LayerSpec layer;
  layer.ratio = ratio;
  if (ratio == 4) {
    layer.attention = AttentionKind::kCsa;
    layer.owns_cache = true;
    layer.index = IndexMode::kAll;
    layer.overlap = true;
  } else if (ratio > 0) {
    layer.attention = AttentionKind::kHca;
    layer.owns_cache = true;
  }
  return layer;
}

void read_v4(ConfigVisitor& v, ModelSpec& m) {
  Common c;
  read_common(v, m, c);
  read_v4_shapes(v, m);
  std::int64_t hash_layers = 0;
  v.integer({"num_hash_layers", ""}, hash_layers, kCountOrNone);
  std::vector<std::int64_t> ratios;
  v.integers({"compress_ratios", ""}, ratios, {.min = 0, .max = 1 << 20}, kPerLayer);
  const auto wanted = static_cast<std::size_t>(c.layer_count + c.draft_count);
  // A configuration that was stripped of its MTP block may have kept the block's ratio.
  const bool stripped = c.draft_count == 0 && ratios.size() == wanted + 1;
  v.check(ratios.size() == wanted || stripped, "compress_ratios",
          fmt::format("'compress_ratios' has {} entries; {} layers and {} MTP blocks need {}",
                      ratios.size(), c.layer_count, c.draft_count, wanted));
  read_storage(v, m, Dtype::kFp4, false);
  if (stripped) ratios.pop_back();
  for (std::size_t i = 0; i < ratios.size(); ++i) {
    LayerSpec layer = v4_layer(ratios[i]);
    layer.hash_routing = static_cast<std::int64_t>(i) < hash_layers;
    if (i < static_cast<std::size_t>(c.layer_count)) {
      m.layers.push_back(layer);
    } else {
      layer.hash_routing = false;
      m.draft_layers.push_back(layer);
    }
  }
  m.draft_experts = m.experts;
  m.draft_experts_per_token = m.experts_per_token;
}

bool contains(const std::vector<std::int64_t>& ids, std::int64_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

void read_v41_text(ConfigVisitor& v, ModelSpec& m) {
  Common c;
  read_common(v, m, c);
  read_v4_shapes(v, m);
  std::vector<std::int64_t> ratios;
  std::vector<std::int64_t> kv_sources;
  std::vector<std::int64_t> index_sources;
  std::vector<std::int64_t> engram_layers;
  const base::IntRange layer_id{.min = 0, .max = c.layer_count - 1};
  v.integers({"compress_ratios", ""}, ratios, {.min = 0, .max = 1 << 20}, kPerLayer);
  v.integers({"kv_source_layer_ids", ""}, kv_sources, layer_id, kPerLayer);
  v.integers({"index_source_layer_ids", ""}, index_sources, layer_id, kPerLayer);
  std::int64_t candidate_layer = 0;
  std::int64_t blocks = 0;
  std::int64_t block_size = 0;
  v.integer({"candidate_source_layer_id", ""}, candidate_layer, layer_id);
  v.integer({"candidate_topk_blocks", ""}, blocks, {.min = 1, .max = 1 << 20});
  v.integer({"candidate_block_size", ""}, block_size, {.min = 1, .max = 1 << 20});
  m.index_candidates = blocks * block_size;
  v.integers({"engram_layer_ids", "", Need::kOptional}, engram_layers, layer_id, {.min = 0});
  if (!engram_layers.empty()) {
    std::vector<std::int64_t> rows;
    std::int64_t ngram = 0;
    std::int64_t heads = 0;
    v.integers({"engram_num_embeddings", ""}, rows, {.min = 1, .max = std::int64_t{1} << 40},
               kPerLayer);
    v.integer({"engram_max_ngram_size", ""}, ngram, {.min = 2, .max = 64});
    v.integer({"engram_n_heads", ""}, heads, {.min = 1, .max = 1024});
    v.integer({"engram_head_dim", ""}, m.engram_dim, kWidth);
    v.check(rows.size() == engram_layers.size(), "engram_num_embeddings",
            "'engram_num_embeddings' needs one entry per layer in 'engram_layer_ids'");
    m.engram_rows = (ngram - 1) * heads;  // one row per head and n-gram of length 2 .. ngram
    for (const std::int64_t r : rows) m.engram_table_rows += r;
  }
  v.integer({"dspark_n_routed_experts", "", Need::kOptional}, m.draft_experts, kCountOrNone);
  v.integer({"dspark_num_experts_per_tok", "", Need::kOptional}, m.draft_experts_per_token,
            kCountOrNone);
  v.integer({"dspark_block_size", "", Need::kOptional}, m.draft_block, kCountOrNone);
  v.integer({"dspark_markov_rank", "", Need::kOptional}, m.draft_markov_rank, kCountOrNone);
  v.check(m.draft_experts_per_token <= m.draft_experts, "dspark_num_experts_per_tok",
          "'dspark_num_experts_per_tok' exceeds 'dspark_n_routed_experts'");
  v.check(c.draft_count == 0 || m.draft_experts > 0, "num_nextn_predict_layers",
          "draft blocks need 'dspark_n_routed_experts'");
  v.check(ratios.size() == static_cast<std::size_t>(c.layer_count + c.draft_count),
          "compress_ratios",
          fmt::format("'compress_ratios' has {} entries; {} layers and {} draft "
                      "blocks need {}",
                      ratios.size(), c.layer_count, c.draft_count, c.layer_count + c.draft_count));
  // Missing keys are reported when their map is left, and no check fails before: until then a list
  // may still be empty or too short.
  if (kv_sources.empty() || std::cmp_less(ratios.size(), c.layer_count)) return;
  const std::int64_t decoder_start = *std::max_element(kv_sources.begin(), kv_sources.end());
  const std::int64_t first_owner = *std::min_element(kv_sources.begin(), kv_sources.end());
  for (std::int64_t i = 0; i < c.layer_count; ++i) {
    LayerSpec layer;
    layer.ratio = ratios[static_cast<std::size_t>(i)];
    layer.engram = contains(engram_layers, i);
    if (layer.ratio > 0) {
      layer.attention = AttentionKind::kShared;
      layer.owns_cache = contains(kv_sources, i);
      const bool indexes = contains(index_sources, i);
      v.check(!layer.owns_cache || indexes, "index_source_layer_ids",
              fmt::format("layer {} owns a cache but no indexer", i));
      v.check(i >= first_owner, "kv_source_layer_ids",
              fmt::format("layer {} reads a cache that no earlier layer owns", i));
      layer.index = !indexes              ? IndexMode::kReuse
                    : i > candidate_layer ? IndexMode::kCandidates
                                          : IndexMode::kAll;
      layer.decoder = i >= decoder_start;
    } else {
      v.check(!contains(kv_sources, i) && !contains(index_sources, i), "compress_ratios",
              fmt::format("layer {} is window-only but listed as a cache or index source", i));
    }
    m.layers.push_back(layer);
  }
  for (std::int64_t i = 0; i < c.draft_count; ++i) m.draft_layers.push_back(LayerSpec{});
}

void read_v41(ConfigVisitor& v, ModelSpec& m) {
  m.image_bias = true;
  read_storage(v, m, Dtype::kFp4, true);
  base::group(v, {"text_config", ""}, [&] { read_v41_text(v, m); });
}

// Generous: every matrix of a layer as wide as it could be.
double parameter_bound(const ModelSpec& m) {
  const auto f = [](std::int64_t v) { return static_cast<double>(v); };
  const double wide =
      f(m.heads) * (f(m.head_dim) + f(m.nope_dim) + f(m.value_dim) + f(m.rope_dim)) +
      f(m.index_heads) * f(m.index_dim) + f(m.o_groups) * f(m.o_rank);
  const double per_layer =
      (f(m.hidden) + f(m.q_rank) + f(m.head_dim) + f(m.o_rank)) * wide +
      16.0 * f(m.hidden) * (f(m.q_rank) + f(m.head_dim) + f(m.index_dim)) +
      3.0 * f(m.hidden) *
          (f(m.expert_inner) * f(m.experts + m.draft_experts + m.shared_experts) +
           f(m.dense_inner)) +
      f(m.hidden) * f(m.experts) +
      8.0 * f(m.streams + 2) * f(m.streams) * f(m.streams) * f(m.hidden) +
      f(m.engram_rows) * f(m.engram_dim) * f(m.streams + 1) * f(m.hidden);
  return 2.0 * f(m.vocab) * f(m.hidden + m.draft_markov_rank) +
         static_cast<double>(m.layers.size() + m.draft_layers.size()) * per_layer +
         f(m.engram_table_rows) * f(m.engram_dim);
}

}  // namespace

void ModelSpec::classify() {
  const auto group = [this](std::vector<LayerClass>& kinds, std::vector<std::uint32_t>& kind_of,
                            auto&& key) {
    kinds.clear();
    kind_of.clear();
    for (const LayerSpec& layer : layers) {
      const LayerSpec spec = key(layer);
      auto found = std::find_if(kinds.begin(), kinds.end(),
                                [&](const LayerClass& c) { return c.spec == spec; });
      if (found == kinds.end()) found = kinds.insert(kinds.end(), {spec, 0});
      ++found->count;
      kind_of.push_back(static_cast<std::uint32_t>(found - kinds.begin()));
    }
  };
  group(classes, class_of, [](const LayerSpec& l) { return l; });
  group(attention_classes, attention_class_of, [](LayerSpec l) {
    l.ffn = FfnKind::kMoe;
    l.hash_routing = false;
    return l;
  });
  group(ffn_classes, ffn_class_of, [](const LayerSpec& l) {
    LayerSpec half;
    half.ffn = l.ffn;
    half.hash_routing = l.hash_routing;
    half.decoder = l.decoder;
    return half;
  });
}

std::size_t ModelSpec::first_decoder_layer() const {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].decoder) return i;
  }
  return layers.size();
}

std::int64_t ModelSpec::decoder_tail() const {
  return window * static_cast<std::int64_t>(layers.size() - first_decoder_layer());
}

ModelSpec read_model(const base::ConfigFile& file, std::string name) {
  static constexpr std::array<std::string_view, 3> kTypes = {"deepseek_v32", "deepseek_v4",
                                                             "deepseek_v41"};
  ModelSpec m;
  m.name = std::move(name);
  m.title = m.name;
  ConfigReader v(file);
  v.ignore_unknown_keys();
  base::choice(v, {"model_type", ""}, m.family, kTypes);
  switch (m.family) {
    case Family::kDeepseekV32:
      read_v32(v, m);
      break;
    case Family::kDeepseekV4:
      read_v4(v, m);
      break;
    case Family::kDeepseekV41:
      read_v41(v, m);
      break;
  }
  v.finish();
  m.classify();
  m.parameter_bound = parameter_bound(m);
  if (!(m.parameter_bound < 1e16)) {
    throw base::ConfigError(
        {file.path, 0, 0},
        fmt::format("describes about {:.2g} parameters; more than 10^16 cannot be "
                    "counted exactly",
                    m.parameter_bound));
  }
  return m;
}

}  // namespace foretoken::workloads
