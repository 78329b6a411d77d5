#include "reference/model/tensor_names.h"

#include <fmt/format.h>

namespace foretoken::reference {

namespace {

using workloads::AttentionKind;
using workloads::Family;
using workloads::FfnKind;
using workloads::LayerSpec;
using workloads::ModelSpec;
using Kind = TensorNeed::Kind;
using Visitor = std::function<void(const TensorNeed&)>;

class Lister {
 public:
  Lister(const ModelSpec& model, const Visitor& f) : m_(model), f_(f) {}

  void all() {
    if (m_.family == Family::kDeepseekV32) {
      matrix("model.embed_tokens.weight", m_.vocab, m_.hidden);
      matrix("lm_head.weight", m_.vocab, m_.hidden);
      vector("model.norm.weight", m_.hidden);
      for (std::size_t i = 0; i < m_.layers.size(); ++i) {
        mla_layer(layer_prefix(m_, static_cast<std::int64_t>(i)), m_.layers[i]);
      }
      return;
    }
    matrix("embed.weight", m_.vocab, m_.hidden);
    matrix("head.weight", m_.vocab, m_.hidden);
    vector("norm.weight", m_.hidden);
    head_merge("");
    for (std::size_t i = 0; i < m_.layers.size(); ++i) {
      layer(layer_prefix(m_, static_cast<std::int64_t>(i)), m_.layers[i]);
    }
    for (std::size_t i = 0; i < m_.draft_layers.size(); ++i) {
      const std::string p = draft_prefix(static_cast<std::int64_t>(i));
      layer(p, m_.draft_layers[i]);
      matrix(p + ".e_proj.weight", m_.hidden, m_.hidden);
      matrix(p + ".h_proj.weight", m_.hidden, m_.hidden);
      for (const char* norm : {".enorm.weight", ".hnorm.weight", ".norm.weight"}) {
        vector(p + norm, m_.hidden);
      }
      head_merge(p + ".");
    }
  }

 private:
  void matrix(std::string name, std::int64_t rows, std::int64_t columns) {
    f_({std::move(name), rows, columns, Kind::kMatrix});
  }
  void vector(std::string name, std::int64_t elements) {
    f_({std::move(name), 1, elements, Kind::kVector});
  }

  void head_merge(const std::string& p) {
    const std::int64_t n = m_.streams;
    vector(p + "hc_head_fn", n * n * m_.hidden);
    vector(p + "hc_head_base", n);
    vector(p + "hc_head_scale", 1);
  }

  void compressor(const std::string& p, std::int64_t ratio, std::int64_t projected,
                  std::int64_t width) {
    matrix(p + ".wkv.weight", projected, m_.hidden);
    matrix(p + ".wgate.weight", projected, m_.hidden);
    vector(p + ".norm.weight", width);
    vector(p + ".ape", ratio * projected);
  }

  void layer(const std::string& p, const LayerSpec& l) {
    const std::int64_t d = m_.hidden;
    const std::int64_t c = m_.head_dim;
    const std::string a = p + ".attn";
    matrix(a + ".wq_a.weight", m_.q_rank, d);
    vector(a + ".q_norm.weight", m_.q_rank);
    matrix(a + ".wq_b.weight", m_.heads * c, m_.q_rank);
    matrix(a + ".wkv.weight", c, d);
    vector(a + ".kv_norm.weight", c);
    matrix(a + ".wo_a.weight", m_.o_groups * m_.o_rank, m_.heads / m_.o_groups * c);
    matrix(a + ".wo_b.weight", d, m_.o_groups * m_.o_rank);
    vector(a + ".attn_sink", m_.heads);
    if (l.ratio > 0) compressor(a + ".compressor", l.ratio, (l.overlap ? 2 : 1) * c, c);
    if (l.attention == AttentionKind::kCsa) {
      matrix(a + ".indexer.wq_b.weight", m_.index_heads * m_.index_dim, m_.q_rank);
      matrix(a + ".indexer.weights_proj.weight", m_.index_heads, d);
      compressor(a + ".indexer.compressor", l.ratio, 2 * m_.index_dim, m_.index_dim);
    }
    vector(p + ".attn_norm.weight", d);
    vector(p + ".ffn_norm.weight", d);
    for (const char* half : {".hc_attn", ".hc_ffn"}) {
      vector(p + half + "_fn", m_.mix_width() * m_.streams * d);
      vector(p + half + "_base", m_.mix_width());
      vector(p + half + "_scale", 3);
    }
    const std::string f = p + ".ffn";
    matrix(f + ".gate.weight", m_.experts, d);
    if (l.hash_routing) {
      f_({f + ".gate.tid2eid", m_.vocab, m_.experts_per_token, Kind::kInteger});
    } else {
      vector(f + ".gate.bias", m_.experts);
    }
    for (std::int64_t e = 0; e < m_.experts; ++e) {
      network(fmt::format("{}.experts.{}", f, e), "w1", "w3", "w2", m_.expert_inner);
    }
    if (m_.shared_experts > 0) {
      network(f + ".shared_experts", "w1", "w3", "w2", m_.shared_experts * m_.expert_inner);
    }
  }

  void network(const std::string& p, const char* gate, const char* up, const char* down,
               std::int64_t inner) {
    matrix(fmt::format("{}.{}.weight", p, gate), inner, m_.hidden);
    matrix(fmt::format("{}.{}.weight", p, up), inner, m_.hidden);
    matrix(fmt::format("{}.{}.weight", p, down), m_.hidden, inner);
  }

  void mla_layer(const std::string& p, const LayerSpec& l) {
    const std::int64_t d = m_.hidden;
    const std::int64_t c = m_.head_dim;
    const std::string a = p + ".self_attn";
    matrix(a + ".q_a_proj.weight", m_.q_rank, d);
    vector(a + ".q_a_layernorm.weight", m_.q_rank);
    matrix(a + ".q_b_proj.weight", m_.heads * (m_.nope_dim + m_.rope_dim), m_.q_rank);
    matrix(a + ".kv_a_proj_with_mqa.weight", c + m_.rope_dim, d);
    vector(a + ".kv_a_layernorm.weight", c);
    matrix(a + ".kv_b_proj.weight", m_.heads * (m_.nope_dim + m_.value_dim), c);
    matrix(a + ".o_proj.weight", d, m_.heads * m_.value_dim);
    matrix(a + ".indexer.wq_b.weight", m_.index_heads * m_.index_dim, m_.q_rank);
    matrix(a + ".indexer.wk.weight", m_.index_dim, d);
    vector(a + ".indexer.k_norm.weight", m_.index_dim);
    vector(a + ".indexer.k_norm.bias", m_.index_dim);
    matrix(a + ".indexer.weights_proj.weight", m_.index_heads, d);
    vector(p + ".input_layernorm.weight", d);
    vector(p + ".post_attention_layernorm.weight", d);
    const std::string f = p + ".mlp";
    if (l.ffn == FfnKind::kDense) {
      network(f, "gate_proj", "up_proj", "down_proj", m_.dense_inner);
      return;
    }
    matrix(f + ".gate.weight", m_.experts, d);
    vector(f + ".gate.e_score_correction_bias", m_.experts);
    for (std::int64_t e = 0; e < m_.experts; ++e) {
      network(fmt::format("{}.experts.{}", f, e), "gate_proj", "up_proj", "down_proj",
              m_.expert_inner);
    }
    if (m_.shared_experts > 0) {
      network(f + ".shared_experts", "gate_proj", "up_proj", "down_proj",
              m_.shared_experts * m_.expert_inner);
    }
  }

  const ModelSpec& m_;
  const Visitor& f_;
};

}  // namespace

std::string layer_prefix(const ModelSpec& model, std::int64_t layer) {
  return fmt::format("{}layers.{}", model.family == Family::kDeepseekV32 ? "model." : "", layer);
}

std::string draft_prefix(std::int64_t block) { return fmt::format("mtp.{}", block); }

void for_each_needed_tensor(const ModelSpec& model, const Visitor& f) { Lister(model, f).all(); }

}  // namespace foretoken::reference
