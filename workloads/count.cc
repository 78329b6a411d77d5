#include "workloads/count.h"

#include <fmt/format.h>

#include <algorithm>

#include "sim/base/error.h"
#include "workloads/tensors.h"

namespace foretoken::workloads {

namespace {

class Tally {
 public:
  explicit Tally(const ModelSpec& m)
      : m_(m),
        linear_(precision_class(linear_compute(m), linear_compute(m))),
        expert_(m.storage.expert == Dtype::kFp4   ? PrecisionClass::kFp4Fp8
                : m.storage.expert == Dtype::kFp8 ? PrecisionClass::kFp8
                                                  : PrecisionClass::kBf16),
        index_(!m.storage.quantised               ? PrecisionClass::kBf16
               : m.family == Family::kDeepseekV32 ? PrecisionClass::kFp8
                                                  : PrecisionClass::kFp4) {}

  // The layers of one class: `repeat` times the same work.
  void layer(const LayerSpec& l, std::int64_t repeat, const Positions& p,
             std::int64_t experts_per_token, std::int64_t experts) {
    repeat_ = repeat;
    const std::int64_t n = p.tokens();
    const std::int64_t d = m_.hidden;
    const std::int64_t c = m_.head_dim;
    const std::int64_t h = m_.heads;
    const std::int64_t index_width = m_.index_heads * m_.index_dim;
    if (l.attention == AttentionKind::kMlaDsa) {
      const std::int64_t qk = m_.nope_dim + m_.rope_dim;
      add(Component::kAttentionProjections, linear_,
          2 * n *
              (d * m_.q_rank + m_.q_rank * h * qk + d * (c + m_.rope_dim) + h * m_.value_dim * d));
      add(Component::kOutputLowRank, linear_, 2 * n * c * h * (m_.nope_dim + m_.value_dim));
      add(Component::kIndexerProjections, linear_,
          2 * n * (m_.q_rank * index_width + d * m_.index_dim));
      add(Component::kIndexerProjections, PrecisionClass::kBf16, 2 * n * d * m_.index_heads);
      add(Component::kIndexScores, index_, 2 * index_width * p.entries(1));
      add(Component::kCoreAttention, PrecisionClass::kBf16,
          2 * h * (2 * c + m_.rope_dim) * p.entries_capped(1, m_.index_topk));
    } else {
      v4_attention(l, p);
    }
    if (l.engram) {
      add(Component::kEngram, linear_,
          2 * n * m_.engram_rows * m_.engram_dim * (m_.streams + 1) * d);
    }
    if (m_.hyper()) {
      add(Component::kHyperConnections, PrecisionClass::kBf16,
          4 * n * m_.mix_width() * m_.streams * d);
    }
    if (l.ffn == FfnKind::kDense) {
      add(Component::kSharedExperts, linear_, 6 * n * d * m_.dense_inner);
    } else {
      add(Component::kRoutedExperts, expert_, 6 * n * d * m_.expert_inner * experts_per_token);
      add(Component::kSharedExperts, linear_, 6 * n * d * m_.expert_inner * m_.shared_experts);
      add(Component::kRouter, PrecisionClass::kBf16, 2 * n * experts * d);
    }
  }

  // V4.1: layers of the decoder half only write their shared cache for most of a prompt.
  void cache_only(const LayerSpec& l, std::int64_t repeat, const Positions& p) {
    repeat_ = repeat;
    if (l.owns_cache) v41_cache(l, p);
  }

  void head(std::int64_t logits) {
    repeat_ = 1;
    add(Component::kLmHead, PrecisionClass::kBf16, 2 * m_.vocab * m_.hidden * logits);
  }

  void add(Component component, PrecisionClass precision, std::int64_t flops) {
    out_.by[static_cast<std::size_t>(component)][static_cast<std::size_t>(precision)] +=
        repeat_ * flops;
  }

  [[nodiscard]] PrecisionClass linear() const { return linear_; }
  [[nodiscard]] const FlopCount& result() const { return out_; }

 private:
  static Dtype linear_compute(const ModelSpec& m) { return m.storage.linear; }

  void v41_cache(const LayerSpec& l, const Positions& p) {
    add(Component::kCompressors, PrecisionClass::kBf16,
        (l.ratio > 1 ? 4 : 2) * p.tokens() * m_.hidden * m_.head_dim);
    add(Component::kCompressors, PrecisionClass::kBf16,
        2 * m_.head_dim * m_.index_dim * p.emitted(l.ratio));
  }

  void v4_attention(const LayerSpec& l, const Positions& p) {
    const std::int64_t n = p.tokens();
    const std::int64_t d = m_.hidden;
    const std::int64_t c = m_.head_dim;
    const std::int64_t h = m_.heads;
    const std::int64_t index_width = m_.index_heads * m_.index_dim;
    add(Component::kAttentionProjections, linear_,
        2 * n * (d * m_.q_rank + m_.q_rank * h * c + d * c + m_.o_groups * m_.o_rank * d));
    add(Component::kOutputLowRank, linear_, 2 * n * c * h * m_.o_rank);
    std::int64_t keys = p.entries_capped(1, m_.window);
    switch (l.attention) {
      case AttentionKind::kWindow:
      case AttentionKind::kMlaDsa:
        break;
      case AttentionKind::kHca:
        add(Component::kCompressors, PrecisionClass::kBf16, 4 * n * d * c);
        keys += p.entries(l.ratio);
        break;
      case AttentionKind::kCsa:
        add(Component::kCompressors, PrecisionClass::kBf16, 8 * n * d * (c + m_.index_dim));
        add(Component::kIndexScores, index_, 2 * index_width * p.entries(l.ratio));
        keys += p.entries_capped(l.ratio, m_.index_topk);
        break;
      case AttentionKind::kShared:
        if (l.owns_cache) v41_cache(l, p);
        if (l.index == IndexMode::kAll) {
          add(Component::kIndexScores, index_, 2 * index_width * p.entries(l.ratio));
        } else if (l.index == IndexMode::kCandidates) {
          add(Component::kIndexScores, index_,
              2 * index_width * p.entries_capped(l.ratio, m_.index_candidates));
        }
        keys += p.entries_capped(l.ratio, m_.index_topk);
        break;
    }
    if (l.index == IndexMode::kAll || l.index == IndexMode::kCandidates) {
      add(Component::kIndexerProjections, linear_, 2 * n * m_.q_rank * index_width);
      add(Component::kIndexerProjections, PrecisionClass::kBf16, 2 * n * d * m_.index_heads);
    }
    add(Component::kCoreAttention, PrecisionClass::kBf16, 4 * h * c * keys);
  }

  const ModelSpec& m_;
  PrecisionClass linear_;
  PrecisionClass expert_;
  PrecisionClass index_;
  std::int64_t repeat_ = 1;
  FlopCount out_;
};

// Counts are 63-bit integers; a request that would leave them is refused before it overflows.
constexpr double kMostCounted = 4e18;
// Sums over positions hold squares of the context.
constexpr double kFurthest = 2e9;

void require_countable(const ModelSpec& m, const Positions& p) {
  const auto f = [](std::int64_t v) { return static_cast<double>(v); };
  double tokens = 0.0;
  double furthest = 0.0;
  for (const Span& s : p.spans) {
    tokens += f(s.sequences) * f(s.tokens);
    furthest = std::max(furthest, f(s.end()));
  }
  const auto refuse = [&] {
    throw base::UnsupportedError(
        fmt::format("{}: {:.3g} tokens at context {:.3g} need more FLOPs than a 63-bit count holds",
                    m.name, tokens, furthest));
  };
  // Generous: every parameter and every visible key touched by every token.
  const double width = f(m.heads) * f(2 * m.head_dim + m.rope_dim) + f(m.index_heads * m.index_dim);
  const double bound = f(static_cast<std::int64_t>(m.layers.size() + m.draft_layers.size())) * 8.0 *
                           width * furthest +
                       2.0 * m.parameter_bound;
  if (furthest > kFurthest || bound > kMostCounted) refuse();
  if (tokens * bound <= kMostCounted) return;
  // Tight: every token costs what the furthest one does, and twice that for what depends on whether
  // an entry is completed.
  Tally one(m);
  const Positions last{{Span{1, static_cast<std::int64_t>(furthest) - 1, 1}}};
  for (const auto& [l, repeat] : m.classes) {
    one.layer(l, repeat, last, m.experts_per_token, m.experts);
  }
  for (const LayerSpec& l : m.draft_layers) {
    one.layer(l, 1, last, m.draft_experts_per_token, m.draft_experts);
  }
  one.head(2);
  const double draft = f(static_cast<std::int64_t>(m.draft_layers.size())) * 2.0 *
                           f(2 + m.streams) * f(m.hidden) * f(m.hidden) +
                       2.0 * f(m.draft_markov_rank) * f(m.vocab);
  if (tokens * (2.0 * f(one.result().total()) + draft) > kMostCounted) refuse();
}

}  // namespace

std::int64_t FlopCount::total() const {
  std::int64_t sum = 0;
  for (const auto& row : by) {
    for (const std::int64_t v : row) sum += v;
  }
  return sum;
}

std::int64_t FlopCount::component(Component c) const {
  std::int64_t sum = 0;
  for (const std::int64_t v : by[static_cast<std::size_t>(c)]) sum += v;
  return sum;
}

std::int64_t FlopCount::precision(PrecisionClass p) const {
  std::int64_t sum = 0;
  for (const auto& row : by) sum += row[static_cast<std::size_t>(p)];
  return sum;
}

double weighted(const FlopCount& flops, const PrecisionWeights& weights) {
  double sum = 0.0;
  for (std::size_t p = 0; p < weights.size(); ++p) {
    sum += weights[p] * static_cast<double>(flops.precision(static_cast<PrecisionClass>(p)));
  }
  return sum;
}

FlopCount count_flops(const ModelSpec& m, const Positions& positions, std::int64_t logits) {
  require_countable(m, positions);
  Tally tally(m);
  const bool prompt = positions.spans[0].tokens > m.decoder_tail();
  const Positions tail = positions.last(m.decoder_tail());
  for (const auto& [l, repeat] : m.classes) {
    if (l.decoder && prompt) {
      // Cache of every token, everything else for the tail only (whose cache is in the tail's
      // count).
      Positions rest = positions;
      for (std::size_t i = 0; i < rest.spans.size(); ++i) {
        rest.spans[i].tokens -= tail.spans[i].tokens;
      }
      tally.cache_only(l, repeat, rest);
      tally.layer(l, repeat, tail, m.experts_per_token, m.experts);
    } else {
      tally.layer(l, repeat, positions, m.experts_per_token, m.experts);
    }
  }
  tally.head(logits);
  return tally.result();
}

FlopCount count_decode(const ModelSpec& m, std::int64_t context) {
  return count_flops(m, {{Span{1, context - 1, 1}}}, 1);
}

FlopCount count_prefill(const ModelSpec& m, std::int64_t context) {
  return count_flops(m, {{Span{1, 0, context}}}, 1);
}

FlopCount count_draft(const ModelSpec& m, const Positions& positions, std::int64_t logits) {
  require_countable(m, positions);
  Tally tally(m);
  const std::int64_t n = positions.tokens();
  const std::int64_t d = m.hidden;
  for (const LayerSpec& l : m.draft_layers) {
    if (m.family == Family::kDeepseekV32) {
      tally.add(Component::kDraft, tally.linear(), 2 * n * 2 * d * d);
    } else if (m.family == Family::kDeepseekV4) {
      tally.add(Component::kDraft, tally.linear(), 2 * n * (1 + m.streams) * d * d);
    }
    tally.layer(l, 1, positions, m.draft_experts_per_token, m.draft_experts);
  }
  if (m.draft_markov_rank > 0) {
    tally.add(Component::kDraft, PrecisionClass::kBf16, 2 * logits * m.draft_markov_rank * m.vocab);
  }
  tally.head(logits);
  // Everything a draft module does is one component: it is not part of the model's own count.
  FlopCount all;
  auto& draft = all.by[static_cast<std::size_t>(Component::kDraft)];
  for (const auto& row : tally.result().by) {
    for (std::size_t p = 0; p < row.size(); ++p) draft[p] += row[p];
  }
  return all;
}

KvBytes count_kv(const ModelSpec& m, const Precision& p, std::int64_t context) {
  const double most =
      static_cast<double>(m.layers.size()) *
      static_cast<double>(p.main_entry_bytes + p.index_entry_bytes + p.window_entry_bytes) *
      static_cast<double>(context);
  if (most > kMostCounted) {
    throw base::UnsupportedError(
        fmt::format("{}: the cache of {:.3g} tokens has more bytes than a 63-bit count holds",
                    m.name, static_cast<double>(context)));
  }
  KvBytes kv;
  const std::int64_t window_tokens = std::min(context, m.window);
  for (const auto& [l, repeat] : m.classes) {
    if (l.attention == AttentionKind::kMlaDsa) {
      kv.global += repeat * context * (p.main_entry_bytes + p.index_entry_bytes);
      kv.read_per_token += repeat * (context * p.index_entry_bytes +
                                     std::min(context, m.index_topk) * p.main_entry_bytes);
      continue;
    }
    kv.window += repeat * window_tokens * p.window_entry_bytes;
    kv.read_per_token += repeat * window_tokens * p.window_entry_bytes;
    if (l.ratio == 0) continue;
    const std::int64_t entries = context / l.ratio;
    const bool indexed = l.index != IndexMode::kNone;
    if (l.owns_cache) {
      kv.global += repeat * entries * (p.main_entry_bytes + (indexed ? p.index_entry_bytes : 0));
    }
    if (l.index == IndexMode::kAll) kv.read_per_token += repeat * entries * p.index_entry_bytes;
    if (l.index == IndexMode::kCandidates) {
      kv.read_per_token += repeat * std::min(entries, m.index_candidates) * p.index_entry_bytes;
    }
    kv.read_per_token +=
        repeat * (indexed ? std::min(entries, m.index_topk) : entries) * p.main_entry_bytes;
    // FP32 values and scores of the block being filled (and, with overlap, the one before it).
    const std::int64_t halves = l.overlap ? 2 : 1;
    if (l.owns_cache && l.ratio > 1) {
      const std::int64_t width = m.head_dim + (l.overlap ? m.index_dim : 0);
      kv.tail += repeat * 4 * 2 * (halves * l.ratio) * (halves * width);
    }
  }
  kv.total = kv.global + kv.window + kv.tail;
  return kv;
}

double kv_bytes_per_token(const ModelSpec& m, const Precision& p) {
  double bytes = 0.0;
  for (const auto& [l, repeat] : m.classes) {
    if (!l.owns_cache) continue;
    const std::int64_t entry =
        p.main_entry_bytes + (l.index == IndexMode::kNone ? 0 : p.index_entry_bytes);
    bytes += static_cast<double>(repeat * entry) / static_cast<double>(l.ratio);
  }
  return bytes;
}

ModelParameters count_parameters(const ModelSpec& m) {
  ModelParameters out;
  std::int64_t idle = 0;  // routed experts a token does not choose
  const std::int64_t one_expert = 3 * m.hidden * m.expert_inner;
  for (const auto& [l, repeat] : m.classes) {
    for_each_layer_tensor(m, l, m.experts, [&, n = repeat](const Tensor& t) {
      out.total += n * t.elements();
      if (t.storage == TensorClass::kExpert) out.routed_total += n * t.elements();
    });
    if (l.ffn == FfnKind::kMoe) {
      out.routed_active += repeat * m.experts_per_token * one_expert;
      idle += repeat * (m.experts - m.experts_per_token) * one_expert;
    }
  }
  for_each_global_tensor(m, [&](const Tensor& t) { out.total += t.elements(); });
  out.embedding = m.vocab * m.hidden;
  out.head = out.embedding;
  out.active = out.total - out.embedding - idle;
  for (const LayerSpec& l : m.draft_layers) {
    for_each_layer_tensor(m, l, m.draft_experts,
                          [&](const Tensor& t) { out.draft += t.elements(); });
  }
  for_each_draft_tensor(m, [&](const Tensor& t) { out.draft += t.elements(); });
  out.engram_tables = m.engram_table_rows * m.engram_dim;
  return out;
}

WeightBytes count_weight_bytes(const ModelSpec& m, const Precision& p) {
  WeightBytes out;
  const auto bytes = [&](const Tensor& t) {
    Dtype dtype = Dtype::kFp32;
    switch (t.storage) {
      case TensorClass::kLinear:
        dtype = p.linear_weight;
        break;
      case TensorClass::kExpert:
        dtype = p.expert_weight;
        break;
      case TensorClass::kPlain:
        dtype = m.storage.plain;
        break;
      case TensorClass::kFp32:
        break;
    }
    return weight_bytes(dtype, t.batch, t.rows, t.columns, p.fp8_block);
  };
  const auto add = [&](std::int64_t& routed, std::int64_t& split, std::int64_t& replicated,
                       std::int64_t repeat = 1) {
    return [&, repeat](const Tensor& t) {
      std::int64_t& sum = t.storage == TensorClass::kExpert ? routed : t.split ? split : replicated;
      sum += repeat * bytes(t);
    };
  };
  for (const auto& [l, repeat] : m.classes) {
    for_each_layer_tensor(m, l, m.experts, add(out.routed, out.split, out.replicated, repeat));
  }
  for_each_global_tensor(m, add(out.routed, out.split, out.replicated));
  for (const LayerSpec& l : m.draft_layers) {
    for_each_layer_tensor(m, l, m.draft_experts,
                          add(out.draft_routed, out.draft_split, out.draft_replicated));
  }
  for_each_draft_tensor(m, add(out.draft_routed, out.draft_split, out.draft_replicated));
  // FP8 rows with one E8M0 per 32 channels.
  out.host = m.engram_table_rows * (m.engram_dim + m.engram_dim / 32);
  out.one_expert = weight_bytes(p.expert_weight, 2, m.expert_inner, m.hidden, p.fp8_block) +
                   weight_bytes(p.expert_weight, 1, m.hidden, m.expert_inner, p.fp8_block);
  out.embedding = weight_bytes(m.storage.plain, 1, m.vocab, m.hidden, p.fp8_block);
  out.head = out.embedding;
  return out;
}

}  // namespace foretoken::workloads
