#include "workloads/op_graph.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <initializer_list>

#include "sim/base/error.h"
#include "workloads/routing_load.h"

namespace foretoken::workloads {

const std::array<std::string_view, kRoles> kRoleNames = {"embed",
                                                         "hc_attn_pre",
                                                         "attn_norm",
                                                         "quant_x",
                                                         "wq_a",
                                                         "q_norm",
                                                         "quant_q",
                                                         "wq_b",
                                                         "q_head_norm",
                                                         "q_rope",
                                                         "wkv",
                                                         "kv_norm",
                                                         "kv_rope",
                                                         "kv_cache_write",
                                                         "compressor_proj",
                                                         "compress",
                                                         "compressor_norm",
                                                         "compressor_rope",
                                                         "compressor_cache_write",
                                                         "index_wq_b",
                                                         "index_rope",
                                                         "index_hadamard",
                                                         "index_quant",
                                                         "index_weights",
                                                         "index_compressor_proj",
                                                         "index_compress",
                                                         "index_key_proj",
                                                         "index_key_norm",
                                                         "index_key_rope",
                                                         "index_key_hadamard",
                                                         "index_key_cache_write",
                                                         "index_logits",
                                                         "index_topk",
                                                         "absorb_key",
                                                         "attention",
                                                         "absorb_value",
                                                         "inverse_rope",
                                                         "wo_a",
                                                         "quant_o",
                                                         "wo_b",
                                                         "attn_all_reduce",
                                                         "hc_attn_post",
                                                         "attn_residual",
                                                         "context_gather",
                                                         "hc_ffn_pre",
                                                         "ffn_norm",
                                                         "router",
                                                         "route",
                                                         "quant_ffn",
                                                         "dispatch",
                                                         "expert_gate_up",
                                                         "expert_swiglu",
                                                         "expert_down",
                                                         "combine",
                                                         "shared_gate_up",
                                                         "shared_swiglu",
                                                         "shared_down",
                                                         "shared_add",
                                                         "ffn_all_reduce",
                                                         "token_gather",
                                                         "hc_ffn_post",
                                                         "ffn_residual",
                                                         "dense_gate_up",
                                                         "dense_swiglu",
                                                         "dense_down",
                                                         "engram_lookup",
                                                         "engram_proj",
                                                         "engram_gate",
                                                         "stage_send",
                                                         "head_merge",
                                                         "final_norm",
                                                         "lm_head",
                                                         "logits_gather",
                                                         "sample",
                                                         "draft_embed",
                                                         "draft_embed_norm",
                                                         "draft_hidden_norm",
                                                         "draft_embed_proj",
                                                         "draft_hidden_proj",
                                                         "draft_markov"};

void OpGraph::clear() {
  nodes.clear();
  blocks.clear();
  order.clear();
}

std::string_view attention_block_name(const LayerSpec& l) {
  switch (l.attention) {
    case AttentionKind::kWindow:
      return l.engram ? "window+engram" : "window";
    case AttentionKind::kCsa:
      return "csa";
    case AttentionKind::kHca:
      return "hca";
    case AttentionKind::kMlaDsa:
      return "mla";
    case AttentionKind::kShared:
      if (l.owns_cache) return l.engram ? "full+engram" : "full";
      if (l.engram) return "reuse+engram";
      if (l.index == IndexMode::kCandidates) return "reindex";
      return l.index == IndexMode::kAll ? "index" : "reuse";
  }
  return "attention";
}

std::string_view ffn_block_name(const LayerSpec& l) {
  if (l.ffn == FfnKind::kDense) return "dense";
  return l.hash_routing ? "moe+hash" : "moe";
}

namespace {

using Id = std::uint32_t;

// Builds one rank's graph. Shapes follow the models' mathematics; see docs/models.md.
class Builder {
 public:
  Builder(const ModelSpec& model, const Precision& precision, const ParallelPlan& plan,
          const Batch& batch, std::int64_t rank, OpGraph& graph)
      : m_(model), p_(precision), plan_(plan), batch_(batch), g_(graph) {
    tp_rank_ = rank % plan.tp;
    cp_rank_ = rank / plan.tp % plan.cp;
    dp_rank_ = rank / (plan.tp * plan.cp);
    ep_rank_ = rank % plan.ep;
  }

  void build() {
    g_.clear();
    const Positions all = rank_positions(batch_.new_tokens);
    const bool prompt = batch_.phase == Phase::kPrefill;
    const std::int64_t decoder_first = static_cast<std::int64_t>(m_.first_decoder_layer());
    const bool has_decoder = decoder_first < static_cast<std::int64_t>(m_.layers.size());
    const bool skip_decoder = prompt && has_decoder && !batch_.last_chunk;
    const bool tail_only =
        prompt && has_decoder && batch_.last_chunk && batch_.new_tokens > m_.decoder_tail();
    const std::int64_t tail_begin = batch_.context - m_.decoder_tail();
    const Positions tail = tail_only ? all.between(tail_begin, batch_.context) : all;

    begin("embed", 1);
    add(Role::kEmbed, Component::kOther,
        Lookup{all.tokens(), 1, m_.hidden, m_.storage.plain, 0, false}, {});
    g_.order.push_back({0, -1});

    const auto first_attention = static_cast<std::uint32_t>(g_.blocks.size());
    for (const LayerClass& c : m_.attention_classes) {
      begin(attention_block_name(c.spec), static_cast<std::uint32_t>(c.count));
      if (c.spec.decoder && skip_decoder) {
        if (c.spec.owns_cache) shared_cache(c.spec, all, kNoInput);
      } else if (c.spec.decoder && tail_only) {
        SharedCache rest_cache{kNoInput, kNoInput};
        if (c.spec.owns_cache) {
          const Positions rest = all.between(0, tail_begin);
          rest_cache = shared_cache(c.spec, rest, kNoInput);
        }
        attention_half(c.spec, tail, kNoInput, rest_cache);
      } else {
        attention_half(c.spec, all, kNoInput);
      }
    }
    const auto first_ffn = static_cast<std::uint32_t>(g_.blocks.size());
    for (const LayerClass& c : m_.ffn_classes) {
      begin(ffn_block_name(c.spec), static_cast<std::uint32_t>(c.count));
      if (c.spec.decoder && skip_decoder) continue;
      const bool short_prompt = c.spec.decoder && tail_only;
      ffn(c.spec, (short_prompt ? tail : all).tokens(),
          short_prompt ? m_.decoder_tail() : batch_.new_tokens, m_.experts, m_.experts_per_token,
          kNoInput);
    }
    const auto layers = static_cast<std::int64_t>(m_.layers.size());
    std::uint32_t send_block = 0;
    if (plan_.pp > 1) {
      send_block = static_cast<std::uint32_t>(g_.blocks.size());
      begin("stage_send", static_cast<std::uint32_t>(plan_.pp - 1));
      add(Role::kStageSend, Component::kOther,
          Collective{CollectiveKind::kSendRecv,
                     element_bytes(Dtype::kBf16, all.tokens() * m_.streams * m_.hidden),
                     plan_.stage_ranks() + 1},
          {});
    }
    for (std::int64_t i = 0; i < layers; ++i) {
      // Stage s holds the layers share() deals it, in order.
      const bool boundary = plan_.pp > 1 && i > 0 && stage_of(i, layers) != stage_of(i - 1, layers);
      if (boundary) g_.order.push_back({send_block, -1});
      const auto layer = static_cast<std::size_t>(i);
      const auto number = static_cast<std::int32_t>(i);
      g_.order.push_back({first_attention + m_.attention_class_of[layer], number});
      g_.order.push_back({first_ffn + m_.ffn_class_of[layer], number});
    }

    if (prompt && !batch_.last_chunk) return;
    const std::int64_t sequences = sequences_here();
    const std::int64_t logits = prompt ? (cp_rank_ == plan_.cp - 1 ? sequences : 0) : all.tokens();
    if (logits > 0) {
      g_.order.push_back({static_cast<std::uint32_t>(g_.blocks.size()), -1});
      begin("head", 1);
      head(Component::kLmHead, logits, kNoInput);
    }
    if (batch_.phase == Phase::kDecode && batch_.draft_tokens > 0) draft(sequences);
  }

 private:
  struct SharedCache {
    Id entries;
    Id index_keys;
  };

  static constexpr Id kNoInput = 0xffffffffu;

  [[nodiscard]] std::int64_t stage_of(std::int64_t layer, std::int64_t layers) const {
    std::int64_t s = 0;
    while (layers * (s + 1) / plan_.pp <= layer) ++s;
    return s;
  }

  [[nodiscard]] std::int64_t sequences_here() const {
    return share(batch_.sequences, plan_.dp, dp_rank_);
  }

  // Positions of the last `tokens` new tokens that this rank computes. Under context parallelism a
  // rank takes an early and a late piece of the chunk, so that index and attention work even out.
  [[nodiscard]] Positions rank_positions(std::int64_t tokens) const {
    const std::int64_t sequences = sequences_here();
    const std::int64_t first = batch_.context - tokens;
    Positions out;
    if (plan_.cp == 1) {
      out.spans[0] = {sequences, first, tokens};
      return out;
    }
    const std::int64_t pieces = 2 * plan_.cp;
    const auto piece = [&](std::int64_t i) {
      const std::int64_t begin = tokens * i / pieces;
      return Span{sequences, first + begin, tokens * (i + 1) / pieces - begin};
    };
    out.spans[0] = piece(plan_.cp - 1 - cp_rank_);
    out.spans[1] = piece(plan_.cp + cp_rank_);
    return out;
  }

  void begin(std::string_view name, std::uint32_t repeat) {
    g_.blocks.push_back({name, static_cast<std::uint32_t>(g_.nodes.size()), 0, repeat});
  }

  template <class Concrete>
  Id add(Role role, Component component, const Concrete& op, std::initializer_list<Id> inputs) {
    OpNode& node = g_.nodes.emplace_back();
    node.op.emplace<Concrete>(op);
    node.role = role;
    node.component = draft_ ? Component::kDraft : component;
    for (const Id input : inputs) {
      if (input != kNoInput) node.dependencies[node.dependency_count++] = input;
    }
    ++g_.blocks.back().count;
    return static_cast<Id>(g_.nodes.size() - 1);
  }

  Id vector(Role role, VectorKind kind, std::int64_t rows, std::int64_t width, Dtype in, Dtype out,
            std::initializer_list<Id> inputs, std::int64_t weights = 0,
            std::int64_t kv_write_bytes = 0) {
    return add(role, Component::kOther,
               VectorOp{kind, rows, width, in, out, kv_write_bytes, weights}, inputs);
  }

  [[nodiscard]] bool quantised() const {
    return p_.linear_compute == Dtype::kFp8 || p_.linear_compute == Dtype::kInt8;
  }
  [[nodiscard]] Dtype linear_input() const {
    return quantised() ? p_.linear_compute : Dtype::kBf16;
  }

  Id quantise(Role role, std::int64_t rows, std::int64_t width, Id input) {
    if (!quantised()) return input;
    return vector(role, VectorKind::kQuantise, rows, width, Dtype::kBf16, p_.linear_compute,
                  {input});
  }

  Id linear(Role role, Component component, std::int64_t m, std::int64_t n, std::int64_t k,
            std::initializer_list<Id> inputs, std::int64_t batch = 1) {
    return add(role, component,
               Gemm{m, n, k, batch, linear_input(), p_.linear_weight, p_.linear_compute,
                    Dtype::kBf16, p_.fp8_block},
               inputs);
  }

  // Products kept in BF16 or wider in the release: compressors, router, index weights, head.
  Id plain(Role role, Component component, std::int64_t m, std::int64_t n, std::int64_t k,
           Dtype output, std::initializer_list<Id> inputs) {
    return add(role, component,
               Gemm{m, n, k, 1, Dtype::kBf16, m_.storage.plain, p_.plain, output, p_.fp8_block},
               inputs);
  }

  void layer(const LayerSpec& l, const Positions& p, std::int64_t tokens_per_sequence,
             std::int64_t experts, std::int64_t topk, Id input) {
    const Id x = attention_half(l, p, input);
    ffn(l, p.tokens(), tokens_per_sequence, experts, topk, x);
  }

  // `earlier`: the shared cache of prompt tokens that skip this layer.
  Id attention_half(const LayerSpec& l, const Positions& p, Id x,
                    SharedCache earlier = {kNoInput, kNoInput}) {
    const std::int64_t n = p.tokens();
    if (l.engram) x = engram(n, x);
    return l.attention == AttentionKind::kMlaDsa ? mla(p, n, x) : attention(l, p, n, x, earlier);
  }

  Id engram(std::int64_t n, Id x) {
    const Id rows =
        add(Role::kEngramLookup, Component::kOther,
            Lookup{n, m_.engram_rows, m_.engram_dim, Dtype::kFp8, m_.engram_dim / 32, true}, {});
    const Id proj = linear(Role::kEngramProj, Component::kEngram, n, (m_.streams + 1) * m_.hidden,
                           m_.engram_rows * m_.engram_dim, {rows, x});
    return vector(Role::kEngramGate, VectorKind::kSwiglu, n * m_.streams, m_.hidden, Dtype::kBf16,
                  Dtype::kBf16, {proj, x});
  }

  Id hyper_pre(Role role, std::int64_t n, Id x) {
    if (!m_.hyper()) return x;
    return add(role, Component::kHyperConnections,
               HyperConnection{HyperPhase::kPre, n, m_.streams, m_.hidden, m_.mix_width(),
                               m_.sinkhorn_iterations, p_.mix},
               {x});
  }

  Id hyper_post(Role hyper, Role residual, std::int64_t n, Id y, Id pre) {
    if (!m_.hyper()) {
      return vector(residual, VectorKind::kResidual, n, m_.hidden, Dtype::kBf16, Dtype::kBf16, {y});
    }
    return add(
        hyper, Component::kHyperConnections,
        HyperConnection{HyperPhase::kPost, n, m_.streams, m_.hidden, m_.mix_width(), 0, p_.mix},
        {y, pre});
  }

  // The input-side norm and quantisation of the attention sublayer.
  Id attention_input(std::int64_t n, Id x, Id& pre, Id& normed) {
    pre = hyper_pre(Role::kHcAttnPre, n, x);
    normed = vector(Role::kAttnNorm, VectorKind::kNorm, n, m_.hidden, Dtype::kBf16, Dtype::kBf16,
                    {pre}, m_.hidden);
    return quantise(Role::kQuantX, n, m_.hidden, normed);
  }

  Id low_rank_query(std::int64_t n, Id x) {
    const Id a = linear(Role::kWqA, Component::kAttentionProjections, n, m_.q_rank, m_.hidden, {x});
    const Id norm = vector(Role::kQNorm, VectorKind::kNorm, n, m_.q_rank, Dtype::kBf16,
                           Dtype::kBf16, {a}, m_.q_rank);
    return quantise(Role::kQuantQ, n, m_.q_rank, norm);
  }

  // Indexer queries and head weights; answers the quantised queries.
  Id index_queries(std::int64_t n, Id query, Id normed, bool hadamard, Id& weights) {
    const std::int64_t width = m_.index_heads * m_.index_dim;
    Id q = linear(Role::kIndexWqB, Component::kIndexerProjections, n, width, m_.q_rank, {query});
    q = vector(Role::kIndexRope, VectorKind::kRope, n * m_.index_heads, m_.rope_dim, Dtype::kBf16,
               Dtype::kBf16, {q});
    if (hadamard) {
      q = vector(Role::kIndexHadamard, VectorKind::kHadamard, n * m_.index_heads, m_.index_dim,
                 Dtype::kBf16, Dtype::kBf16, {q});
    }
    if (p_.index != Dtype::kBf16 && p_.index != Dtype::kTf32) {
      q = vector(Role::kIndexQuant, VectorKind::kQuantise, n * m_.index_heads, m_.index_dim,
                 Dtype::kBf16, p_.index, {q});
    }
    weights = plain(Role::kIndexWeights, Component::kIndexerProjections, n, m_.index_heads,
                    m_.hidden, Dtype::kBf16, {normed});
    return q;
  }

  // Scores of `entries` (summed over the queries), one for every `ratio` tokens, and the choice.
  Id index_scores(const Positions& p, std::int64_t ratio, std::int64_t entries,
                  std::int64_t distinct, Id q, Id weights, Id keys, Id earlier_keys) {
    const std::int64_t n = p.tokens();
    const std::int64_t sequences = p.sequences();
    const Id scores = add(Role::kIndexLogits, Component::kIndexScores,
                          IndexLogits{n, m_.index_heads, m_.index_dim, entries,
                                      distinct * p_.index_entry_bytes, p_.index, sequences, ratio},
                          {q, weights, keys, earlier_keys});
    return add(Role::kIndexTopK, Component::kOther,
               TopK{n, entries, m_.index_topk, sequences, ratio}, {scores});
  }

  // V4.1: the compressor and indexer key that several layers share.
  SharedCache shared_cache(const LayerSpec& l, const Positions& p, Id normed) {
    const std::int64_t n = p.tokens();
    const std::int64_t emitted = p.emitted(l.ratio);
    const std::int64_t c = m_.head_dim;
    const std::int64_t width = (l.ratio > 1 ? 2 : 1) * c;
    Id entry = plain(Role::kCompressorProj, Component::kCompressors, n, width, m_.hidden,
                     Dtype::kFp32, {normed});
    if (l.ratio > 1) {
      entry = add(Role::kCompress, Component::kOther,
                  Compress{n, emitted, l.ratio, c, c, 0, 0, p.sequences()}, {entry});
    }
    entry = vector(Role::kCompressorNorm, VectorKind::kNorm, emitted, c, Dtype::kFp32, Dtype::kBf16,
                   {entry}, c);
    const Id key = plain(Role::kIndexKeyProj, Component::kCompressors, emitted, m_.index_dim, c,
                         Dtype::kBf16, {entry});
    Id main = vector(Role::kCompressorRope, VectorKind::kRope, emitted, m_.rope_dim, Dtype::kBf16,
                     Dtype::kBf16, {entry});
    main = vector(Role::kCompressorCacheWrite, VectorKind::kQuantise, emitted, c, Dtype::kBf16,
                  Dtype::kBf16, {main}, 0, emitted * p_.main_entry_bytes);
    Id index = vector(Role::kIndexKeyNorm, VectorKind::kNorm, emitted, m_.index_dim, Dtype::kBf16,
                      Dtype::kBf16, {key}, m_.index_dim);
    index = vector(Role::kIndexKeyRope, VectorKind::kRope, emitted, m_.rope_dim, Dtype::kBf16,
                   Dtype::kBf16, {index});
    index = vector(Role::kIndexKeyCacheWrite, VectorKind::kQuantise, emitted, m_.index_dim,
                   Dtype::kBf16, p_.index, {index}, 0, emitted * p_.index_entry_bytes);
    return {main, index};
  }

  Id compressor(const LayerSpec& l, const Positions& p, Id normed) {
    const std::int64_t n = p.tokens();
    const std::int64_t emitted = p.emitted(l.ratio);
    const std::int64_t c = m_.head_dim;
    const std::int64_t halves = l.overlap ? 2 : 1;
    Id e = plain(Role::kCompressorProj, Component::kCompressors, n, 2 * halves * c, m_.hidden,
                 Dtype::kFp32, {normed});
    e = add(Role::kCompress, Component::kOther,
            Compress{n, emitted, halves * l.ratio, c, halves * c, 0, l.ratio * halves * c,
                     p.sequences()},
            {e});
    e = vector(Role::kCompressorNorm, VectorKind::kNorm, emitted, c, Dtype::kBf16, Dtype::kBf16,
               {e}, c);
    e = vector(Role::kCompressorRope, VectorKind::kRope, emitted, m_.rope_dim, Dtype::kBf16,
               Dtype::kBf16, {e});
    return vector(Role::kCompressorCacheWrite, VectorKind::kQuantise, emitted, c, Dtype::kBf16,
                  Dtype::kBf16, {e}, 0, emitted * p_.main_entry_bytes);
  }

  Id index_compressor(const LayerSpec& l, const Positions& p, Id normed) {
    const std::int64_t n = p.tokens();
    const std::int64_t emitted = p.emitted(l.ratio);
    const std::int64_t w = m_.index_dim;
    Id k = plain(Role::kIndexCompressorProj, Component::kCompressors, n, 4 * w, m_.hidden,
                 Dtype::kFp32, {normed});
    k = add(Role::kIndexCompress, Component::kOther,
            Compress{n, emitted, 2 * l.ratio, w, 2 * w, 0, l.ratio * 2 * w, p.sequences()}, {k});
    k = vector(Role::kIndexKeyNorm, VectorKind::kNorm, emitted, w, Dtype::kBf16, Dtype::kBf16, {k},
               w);
    k = vector(Role::kIndexKeyRope, VectorKind::kRope, emitted, m_.rope_dim, Dtype::kBf16,
               Dtype::kBf16, {k});
    k = vector(Role::kIndexKeyHadamard, VectorKind::kHadamard, emitted, w, Dtype::kBf16,
               Dtype::kBf16, {k});
    return vector(Role::kIndexKeyCacheWrite, VectorKind::kQuantise, emitted, w, Dtype::kBf16,
                  p_.index, {k}, 0, emitted * p_.index_entry_bytes);
  }

  // Under context parallelism every rank needs the entries the others compress, and the window
  // before its pieces.
  Id context_gather(const LayerSpec& l, std::int64_t n, Id window, Id entries, Id index_keys) {
    if (plan_.cp == 1) return window;
    // The window before each of a rank's two pieces.
    const std::int64_t windows = 2 * std::min(n, m_.window) * p_.window_entry_bytes;
    Collective op{CollectiveKind::kSendRecv, windows, 2};
    if (l.owns_cache) {
      const std::int64_t indexed = l.index == IndexMode::kNone ? 0 : p_.index_entry_bytes;
      const std::int64_t cache = (n / l.ratio) * (p_.main_entry_bytes + indexed);
      const bool windowed = l.attention != AttentionKind::kMlaDsa;
      op = {CollectiveKind::kAllGather, cache + (windowed ? windows : 0), plan_.cp};
    }
    return add(Role::kContextGather, Component::kOther, op, {window, entries, index_keys});
  }

  Id attention(const LayerSpec& l, const Positions& p, std::int64_t n, Id x,
               const SharedCache& earlier_cache) {
    const Id earlier = earlier_cache.entries;
    const std::int64_t c = m_.head_dim;
    const std::int64_t h = m_.heads / plan_.tp;
    const std::int64_t groups = m_.o_groups / plan_.tp;
    Id pre = kNoInput;
    Id normed = kNoInput;
    const Id xq = attention_input(n, x, pre, normed);
    const Id query = low_rank_query(n, xq);
    Id q = linear(Role::kWqB, Component::kAttentionProjections, n, h * c, m_.q_rank, {query});
    if (m_.family == Family::kDeepseekV4) {
      q = vector(Role::kQHeadNorm, VectorKind::kNorm, n * h, c, Dtype::kBf16, Dtype::kBf16, {q});
    }
    q = vector(Role::kQRope, VectorKind::kRope, n * h, m_.rope_dim, Dtype::kBf16, Dtype::kBf16,
               {q});
    Id kv = linear(Role::kWkv, Component::kAttentionProjections, n, c, m_.hidden, {xq});
    kv = vector(Role::kKvNorm, VectorKind::kNorm, n, c, Dtype::kBf16, Dtype::kBf16, {kv}, c);
    kv = vector(Role::kKvRope, VectorKind::kRope, n, m_.rope_dim, Dtype::kBf16, Dtype::kBf16, {kv});
    kv = vector(Role::kKvCacheWrite, VectorKind::kQuantise, n, c, Dtype::kBf16, Dtype::kBf16, {kv},
                0, n * p_.window_entry_bytes);

    Id entries = kNoInput;
    Id selection = kNoInput;
    Id index_keys = kNoInput;
    if (l.attention == AttentionKind::kCsa || l.attention == AttentionKind::kHca) {
      entries = compressor(l, p, normed);
    }
    if (l.attention == AttentionKind::kCsa) index_keys = index_compressor(l, p, normed);
    if (l.attention == AttentionKind::kShared && l.owns_cache) {
      const SharedCache cache = shared_cache(l, p, normed);
      entries = cache.entries;
      index_keys = cache.index_keys;
    }
    kv = context_gather(l, n, kv, entries, index_keys);
    if (plan_.cp > 1 && index_keys != kNoInput) index_keys = kv;
    if (l.index == IndexMode::kAll || l.index == IndexMode::kCandidates) {
      Id weights = kNoInput;
      const Id iq = index_queries(n, query, normed, l.attention == AttentionKind::kCsa, weights);
      const std::int64_t cap =
          l.index == IndexMode::kCandidates ? m_.index_candidates : std::int64_t{1} << 40;
      selection =
          index_scores(p, l.ratio, p.entries_capped(l.ratio, cap), p.distinct_capped(l.ratio, cap),
                       iq, weights, index_keys, earlier_cache.index_keys);
    }
    const bool sparse = l.index != IndexMode::kNone;
    const std::int64_t window_keys = p.entries_capped(1, m_.window);
    std::int64_t entry_keys = 0;
    std::int64_t distinct = p.distinct_window(m_.window) * p_.window_entry_bytes;
    if (l.ratio > 0) {
      entry_keys = sparse ? p.entries_capped(l.ratio, m_.index_topk) : p.entries(l.ratio);
      distinct += p.distinct(l.ratio) * p_.main_entry_bytes;
    }
    const Id o = add(
        Role::kAttention, Component::kCoreAttention,
        Attention{n, h, c, c, window_keys + entry_keys,
                  window_keys * p_.window_entry_bytes + entry_keys * p_.main_entry_bytes, distinct,
                  p_.attention, Dtype::kBf16, sparse, batch_.phase == Phase::kDecode, true},
        {q, kv, entries, selection, earlier});
    const Id rotated = vector(Role::kInverseRope, VectorKind::kRope, n * h, m_.rope_dim,
                              Dtype::kBf16, Dtype::kBf16, {o});
    const Id low = linear(Role::kWoA, Component::kOutputLowRank, n, m_.o_rank,
                          m_.heads / m_.o_groups * c, {rotated}, groups);
    const Id lowq = quantise(Role::kQuantO, n, groups * m_.o_rank, low);
    Id out = linear(Role::kWoB, Component::kAttentionProjections, n, m_.hidden, groups * m_.o_rank,
                    {lowq});
    out = all_reduce(Role::kAttnAllReduce, n, out);
    return hyper_post(Role::kHcAttnPost, Role::kAttnResidual, n, out, pre);
  }

  Id mla(const Positions& p, std::int64_t n, Id x) {
    const std::int64_t c = m_.head_dim;
    const std::int64_t h = m_.heads / plan_.tp;
    Id pre = kNoInput;
    Id normed = kNoInput;
    const Id xq = attention_input(n, x, pre, normed);
    const Id query = low_rank_query(n, xq);
    Id q = linear(Role::kWqB, Component::kAttentionProjections, n, h * (m_.nope_dim + m_.rope_dim),
                  m_.q_rank, {query});
    q = vector(Role::kQRope, VectorKind::kRope, n * h, m_.rope_dim, Dtype::kBf16, Dtype::kBf16,
               {q});
    q = linear(Role::kAbsorbKey, Component::kOutputLowRank, n, c, m_.nope_dim, {q}, h);
    Id kv =
        linear(Role::kWkv, Component::kAttentionProjections, n, c + m_.rope_dim, m_.hidden, {xq});
    kv = vector(Role::kKvNorm, VectorKind::kNorm, n, c, Dtype::kBf16, Dtype::kBf16, {kv}, c);
    kv = vector(Role::kKvRope, VectorKind::kRope, n, m_.rope_dim, Dtype::kBf16, Dtype::kBf16, {kv});
    kv = vector(Role::kKvCacheWrite, VectorKind::kQuantise, n, c + m_.rope_dim, Dtype::kBf16,
                Dtype::kBf16, {kv}, 0, n * p_.main_entry_bytes);
    Id key = linear(Role::kIndexKeyProj, Component::kIndexerProjections, n, m_.index_dim, m_.hidden,
                    {xq});
    key = vector(Role::kIndexKeyNorm, VectorKind::kNorm, n, m_.index_dim, Dtype::kBf16,
                 Dtype::kBf16, {key}, 2 * m_.index_dim);
    key = vector(Role::kIndexKeyRope, VectorKind::kRope, n, m_.rope_dim, Dtype::kBf16, Dtype::kBf16,
                 {key});
    key = vector(Role::kIndexKeyHadamard, VectorKind::kHadamard, n, m_.index_dim, Dtype::kBf16,
                 Dtype::kBf16, {key});
    key = vector(Role::kIndexKeyCacheWrite, VectorKind::kQuantise, n, m_.index_dim, Dtype::kBf16,
                 p_.index, {key}, 0, n * p_.index_entry_bytes);
    const LayerSpec self{.attention = AttentionKind::kMlaDsa,
                         .ratio = 1,
                         .owns_cache = true,
                         .index = IndexMode::kAll};
    kv = context_gather(self, n, kv, kNoInput, key);
    if (plan_.cp > 1) key = kv;
    Id weights = kNoInput;
    const Id iq = index_queries(n, query, normed, true, weights);
    const Id selection =
        index_scores(p, 1, p.entries(1), p.distinct(1), iq, weights, key, kNoInput);
    const std::int64_t keys = p.entries_capped(1, m_.index_topk);
    Id o = add(Role::kAttention, Component::kCoreAttention,
               Attention{n, h, c + m_.rope_dim, c, keys, keys * p_.main_entry_bytes,
                         p.distinct(1) * p_.main_entry_bytes, p_.attention, Dtype::kBf16, true,
                         batch_.phase == Phase::kDecode},
               {q, kv, selection});
    o = linear(Role::kAbsorbValue, Component::kOutputLowRank, n, m_.value_dim, c, {o}, h);
    o = quantise(Role::kQuantO, n, h * m_.value_dim, o);
    Id out =
        linear(Role::kWoB, Component::kAttentionProjections, n, m_.hidden, h * m_.value_dim, {o});
    out = all_reduce(Role::kAttnAllReduce, n, out);
    return hyper_post(Role::kHcAttnPost, Role::kAttnResidual, n, out, pre);
  }

  Id all_reduce(Role role, std::int64_t n, Id x) {
    if (plan_.tp == 1) return x;
    return add(role, Component::kOther,
               Collective{CollectiveKind::kAllReduce, element_bytes(Dtype::kBf16, n * m_.hidden),
                          plan_.tp},
               {x});
  }

  // A SwiGLU network with FP8 linears: dense layers and shared experts. Width divided by tp.
  Id swiglu_network(Role gate_up, Role act, Role down, std::int64_t n, std::int64_t inner, Id x) {
    const std::int64_t width = inner / plan_.tp;
    const Id g = linear(gate_up, Component::kSharedExperts, n, 2 * width, m_.hidden, {x});
    const Id a = vector(act, VectorKind::kSwiglu, n, width, Dtype::kBf16, linear_input(), {g});
    return linear(down, Component::kSharedExperts, n, m_.hidden, width, {a});
  }

  void ffn(const LayerSpec& l, std::int64_t n, std::int64_t tokens_per_sequence,
           std::int64_t experts, std::int64_t topk, Id x) {
    const Id pre = hyper_pre(Role::kHcFfnPre, n, x);
    const Id normed = vector(Role::kFfnNorm, VectorKind::kNorm, n, m_.hidden, Dtype::kBf16,
                             Dtype::kBf16, {pre}, m_.hidden);
    Id out = kNoInput;
    if (l.ffn == FfnKind::kDense) {
      const Id xq = quantise(Role::kQuantFfn, n, m_.hidden, normed);
      out = swiglu_network(Role::kDenseGateUp, Role::kDenseSwiglu, Role::kDenseDown, n,
                           m_.dense_inner, xq);
      out = all_reduce(Role::kFfnAllReduce, n, out);
    } else {
      out = moe(l, n, tokens_per_sequence, experts, topk, normed);
    }
    hyper_post(Role::kHcFfnPost, Role::kFfnResidual, n, out, pre);
  }

  Id moe(const LayerSpec& l, std::int64_t n, std::int64_t tokens_per_sequence, std::int64_t experts,
         std::int64_t topk, Id normed) {
    const Id logits =
        plain(Role::kRouter, Component::kRouter, n, experts, m_.hidden, Dtype::kFp32, {normed});
    const Id route =
        add(Role::kRoute, Component::kOther, Route{n, experts, topk, l.hash_routing}, {logits});
    const bool fp_input = p_.expert_compute == Dtype::kFp8 || p_.expert_compute == Dtype::kInt8;
    const Dtype expert_input = fp_input ? p_.expert_compute : Dtype::kBf16;
    const Id xq = quantise(Role::kQuantFfn, n, m_.hidden, normed);

    // Tokens of the whole stage: every data-parallel group's sequences.
    const std::int64_t stage_tokens = batch_.sequences * tokens_per_sequence;
    const bool local = plan_.dp * plan_.cp == 1;  // every rank already has every token
    const bool travels = plan_.ep > 1 && !local;
    const std::int64_t mine = share(n, plan_.tp, tp_rank_);
    const std::int64_t pairs = mine * topk;
    const ExpertShare load = expert_share(l, stage_tokens, experts, topk);
    // A rank that many tokens choose is bound by what arrives and what it returns.
    const std::int64_t remote = std::max(pairs - pairs / plan_.ep, load.arriving);
    Id sent = route;
    if (travels) {
      sent = add(Role::kDispatch, Component::kOther,
                 Dispatch{mine, pairs, remote, m_.hidden, plan_.ep, expert_input}, {xq, route});
    }
    // Ordered before the experts: it runs while tokens travel.
    Id shared = kNoInput;
    if (m_.shared_experts > 0) {
      shared = swiglu_network(Role::kSharedGateUp, Role::kSharedSwiglu, Role::kSharedDown, n,
                              m_.expert_inner * m_.shared_experts, xq);
    }
    const std::int64_t moe_tp = plan_.stage_ranks() / plan_.ep;
    const std::int64_t inner = m_.expert_inner / moe_tp;
    Id e = add(Role::kExpertGateUp, Component::kRoutedExperts,
               GroupedGemm{load.rows, load.groups, load.active, 2 * inner, m_.hidden, expert_input,
                           p_.expert_weight, p_.expert_compute, Dtype::kBf16, p_.fp8_block},
               {sent, xq});
    e = vector(Role::kExpertSwiglu, VectorKind::kSwiglu, load.rows, inner, Dtype::kBf16,
               expert_input, {e});
    e = add(Role::kExpertDown, Component::kRoutedExperts,
            GroupedGemm{load.rows, load.groups, load.active, m_.hidden, inner, expert_input,
                        p_.expert_weight, p_.expert_compute, Dtype::kBf16, p_.fp8_block},
            {e});
    if (travels) {
      e = add(Role::kCombine, Component::kOther,
              Combine{mine, pairs, remote, m_.hidden, plan_.ep, Dtype::kBf16}, {e});
    }
    if (shared != kNoInput) {
      e = vector(Role::kSharedAdd, VectorKind::kResidual, n, m_.hidden, Dtype::kBf16, Dtype::kBf16,
                 {e, shared});
    }
    return all_reduce(Role::kFfnAllReduce, n, e);
  }

  // What this rank's experts get of a layer's pairs.
  struct ExpertShare {
    std::int64_t rows = 0;
    std::int64_t groups = 0;    // slots of experts
    std::int64_t active = 0;    // of them with rows
    std::int64_t arriving = 0;  // pairs from other ranks, where choices are skewed
  };
  [[nodiscard]] ExpertShare expert_share(const LayerSpec& l, std::int64_t tokens,
                                         std::int64_t experts, std::int64_t topk) const {
    // Draft layers have a router, and maybe a number of experts, of their own.
    const std::int64_t replicas = draft_ ? 0 : plan_.replicas;
    const RoutingSpec& routing = plan_.routing;
    const bool own_data = routing.data == nullptr || !draft_;
    const bool hashes = routing.kind != Routing::kHash || l.hash_routing;
    const bool skewed = is_skewed(routing.kind) && own_data && hashes;
    const std::int64_t pairs = tokens * topk;
    ExpertShare out;
    out.groups = share(experts + replicas, plan_.ep, ep_rank_);
    if (!skewed) {
      // Under an even choice rows follow the experts: a rank with one more expert has its rows too.
      out.rows = replicas > 0 ? share(pairs, plan_.ep, ep_rank_)
                              : pairs * (experts * (ep_rank_ + 1) / plan_.ep) / experts -
                                    pairs * (experts * ep_rank_ / plan_.ep) / experts;
      out.active = active_experts(out.groups, out.rows, tokens, experts, topk);
      return out;
    }
    // The last rank stands for the slowest, the others share what it leaves.
    const ExpectedLoad slowest =
        expected_load({.routing = routing, .experts = experts, .topk = topk, .tokens = tokens},
                      plan_.ep, replicas);
    out.rows = ep_rank_ == plan_.ep - 1 ? slowest.pairs
                                        : share(pairs - slowest.pairs, plan_.ep - 1, ep_rank_);
    out.active = std::min({out.groups, out.rows, slowest.touched});
    out.arriving = out.rows - out.rows / plan_.ep;
    return out;
  }

  [[nodiscard]] std::int64_t active_experts(std::int64_t groups, std::int64_t rows,
                                            std::int64_t tokens, std::int64_t experts,
                                            std::int64_t topk) const {
    const std::int64_t most = std::min(groups, rows);
    if (plan_.routing.kind == Routing::kBalanced) return most;
    // Each token picks topk distinct experts: an expert stays idle with (1 - topk /
    // experts)^tokens.
    const double idle = std::pow(1.0 - static_cast<double>(topk) / static_cast<double>(experts),
                                 static_cast<double>(tokens));
    const auto expected =
        static_cast<std::int64_t>(std::ceil(static_cast<double>(groups) * (1.0 - idle) - 1e-9));
    return std::min(most, std::max<std::int64_t>(expected, rows > 0 ? 1 : 0));
  }

  void head(Component component, std::int64_t tokens, Id x) {
    if (m_.hyper()) {
      // V4.1 merges with the mix of the last sublayer and has no parameters of its own for it.
      const std::int64_t outputs = m_.family == Family::kDeepseekV4 ? m_.streams : 0;
      x = add(Role::kHeadMerge, Component::kOther,
              HyperConnection{HyperPhase::kHead, tokens, m_.streams, m_.hidden, outputs, 0, p_.mix},
              {x});
    }
    x = vector(Role::kFinalNorm, VectorKind::kNorm, tokens, m_.hidden, Dtype::kBf16, Dtype::kBf16,
               {x}, m_.hidden);
    const std::int64_t vocab = share(m_.vocab, plan_.tp, tp_rank_);
    x = plain(Role::kLmHead, component, tokens, vocab, m_.hidden, Dtype::kFp32, {x});
    x = vector(Role::kSample, VectorKind::kSample, tokens, vocab, Dtype::kFp32, Dtype::kInt32, {x});
    if (plan_.tp > 1) {
      add(Role::kLogitsGather, Component::kOther,
          Collective{CollectiveKind::kAllGather, tokens * 8, plan_.tp}, {x});
    }
  }

  void draft(std::int64_t sequences) {
    draft_ = true;
    if (m_.family == Family::kDeepseekV41) {
      // DSpark: one pass through all blocks drafts every position.
      const std::int64_t tokens = batch_.draft_tokens;
      const Positions p{{Span{sequences, batch_.context, tokens}}};
      std::uint32_t last = 0;
      begin("draft", static_cast<std::uint32_t>(m_.draft_layers.size()));
      last = static_cast<std::uint32_t>(g_.blocks.size() - 1);
      layer(m_.draft_layers.front(), p, tokens, m_.draft_experts, m_.draft_experts_per_token,
            kNoInput);
      for (std::size_t i = 0; i < m_.draft_layers.size(); ++i) g_.order.push_back({last, -1});
      begin("draft_head", 1);
      g_.order.push_back({static_cast<std::uint32_t>(g_.blocks.size() - 1), -1});
      const Id markov =
          plain(Role::kDraftMarkov, Component::kDraft, p.tokens(),
                share(m_.vocab, plan_.tp, tp_rank_), m_.draft_markov_rank, Dtype::kFp32, {});
      head(Component::kDraft, p.tokens(), markov);
    } else {
      // The first pass also takes in the tokens just verified; later ones extend the draft.
      mtp_pass("draft_first", sequences, batch_.context - batch_.new_tokens, batch_.new_tokens, 1);
      if (batch_.draft_tokens > 1) {
        mtp_pass("draft_next", sequences, batch_.context, 1, batch_.draft_tokens - 1);
      }
    }
    draft_ = false;
  }

  void mtp_pass(std::string_view name, std::int64_t sequences, std::int64_t first,
                std::int64_t tokens, std::int64_t repeat) {
    begin(name, static_cast<std::uint32_t>(repeat));
    const auto block = static_cast<std::uint32_t>(g_.blocks.size() - 1);
    for (std::int64_t i = 0; i < repeat; ++i) g_.order.push_back({block, -1});
    const Positions p{{Span{sequences, first, tokens}}};
    const std::int64_t n = p.tokens();
    const std::int64_t d = m_.hidden;
    const bool v4 = m_.family == Family::kDeepseekV4;
    const Id e =
        add(Role::kDraftEmbed, Component::kDraft, Lookup{n, 1, d, m_.storage.plain, 0, false}, {});
    Id en =
        vector(Role::kDraftEmbedNorm, VectorKind::kNorm, n, d, Dtype::kBf16, Dtype::kBf16, {e}, d);
    Id hn = vector(Role::kDraftHiddenNorm, VectorKind::kNorm, n * m_.streams, d, Dtype::kBf16,
                   Dtype::kBf16, {}, d);
    Id x = kNoInput;
    if (v4) {
      const Id ep = linear(Role::kDraftEmbedProj, Component::kDraft, n, d, d, {en});
      x = linear(Role::kDraftHiddenProj, Component::kDraft, n * m_.streams, d, d, {hn, ep});
    } else {
      x = linear(Role::kDraftHiddenProj, Component::kDraft, n, d, 2 * d, {hn, en});
    }
    layer(m_.draft_layers.front(), p, tokens, m_.draft_experts, m_.draft_experts_per_token, x);
    head(Component::kDraft, sequences, static_cast<Id>(g_.nodes.size() - 1));
  }

  const ModelSpec& m_;
  const Precision& p_;
  const ParallelPlan& plan_;
  const Batch& batch_;
  std::int64_t tp_rank_ = 0;
  std::int64_t cp_rank_ = 0;
  std::int64_t dp_rank_ = 0;
  std::int64_t ep_rank_ = 0;
  bool draft_ = false;
  OpGraph& g_;
};

}  // namespace

void build_graph(const ModelSpec& model, const Precision& precision, const ParallelPlan& plan,
                 const Batch& batch, std::int64_t rank, OpGraph& graph) {
  require_possible(plan, model);
  assert(batch.new_tokens >= 1 && batch.context >= batch.new_tokens && batch.sequences >= 0);
  if (batch.draft_tokens > 0 && model.draft_layers.empty()) {
    throw base::UnsupportedError(model.name + " has no draft module to propose tokens with");
  }
  Builder(model, precision, plan, batch, rank, graph).build();
}

WorkCount GraphCount::total() const {
  WorkCount sum;
  for (const WorkCount& w : by) sum += w;
  return sum;
}

GraphCount count_graph(const OpGraph& graph) {
  GraphCount out;
  for (const Block& block : graph.blocks) {
    for (const OpNode& node : graph.ops(block)) {
      const WorkCount once = count_op(node.op);
      for (std::uint32_t i = 0; i < block.repeat; ++i) {
        out.by[static_cast<std::size_t>(node.component)] += once;
      }
    }
  }
  return out;
}

}  // namespace foretoken::workloads
