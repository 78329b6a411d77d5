// V4's attention half: window, CSA and HCA layers (facts 3.3 to 3.8).
#include <cmath>
#include <limits>

#include "reference/kernels/parallel.h"
#include "reference/model/engine.h"
#include "reference/ops/attention.h"
#include "reference/ops/norm.h"
#include "reference/ops/selection.h"

namespace foretoken::reference {

using workloads::Component;
using workloads::Dtype;
using workloads::LayerSpec;
using workloads::Role;
using workloads::VectorKind;

namespace {

constexpr std::int64_t kKvGroup = 64;     // channels that share a scale in the FP8 cache
constexpr std::int64_t kIndexGroup = 32;  // and in the FP4 index

template <class T>
std::vector<T> as(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// A compressor's weights, its own or the indexer's.
template <class T>
struct CompressorWeights {
  Linear value;
  Linear gate;
  std::vector<float> bias;  // [ratio, projected]
  std::vector<T> norm;
};

template <class T>
CompressorWeights<T> compressor_weights(const Weights& weights, const std::string& p,
                                        const CompressorShape& shape, std::int64_t hidden) {
  return {weights.linear(p + ".wkv.weight", shape.projected(), hidden),
          weights.linear(p + ".wgate.weight", shape.projected(), hidden),
          weights.vector(p + ".ape", shape.ratio * shape.projected()),
          as<T>(weights.vector(p + ".norm.weight", shape.width))};
}

// Pushes a tile's tokens through a compressor and appends normed, rotated entries to `out`.
// Answers how many came out.
template <class T, class Acc>
std::int64_t compress(const Numerics<T, Acc>& numerics, const CompressorWeights<T>& w,
                      CompressorState<T>& state, const T* x, std::int64_t tokens,
                      std::int64_t first, double eps, const Rope& rope, std::int64_t hidden,
                      std::vector<T>& out) {
  const CompressorShape& shape = state.shape();
  const std::int64_t projected = shape.projected();
  std::vector<Acc> value(static_cast<std::size_t>(tokens * projected));
  std::vector<Acc> gate(value.size());
  matmul<T, Acc>(x, tokens, hidden, w.value.view, value.data());
  matmul<T, Acc>(x, tokens, hidden, w.gate.view, gate.data());
  std::vector<T> entry(static_cast<std::size_t>(shape.width));
  std::int64_t emitted = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t position = first + t;
    const float* bias = w.bias.data() + position % shape.ratio * projected;
    if (!state.push(numerics, position, value.data() + t * projected, gate.data() + t * projected,
                    bias, entry.data())) {
      continue;
    }
    rms_norm(numerics, entry.data(), w.norm.data(), eps, 1, shape.width, entry.data());
    // The place of the block's first token.
    rope.rotate(numerics, entry.data() + shape.width - rope.dim(), position + 1 - shape.ratio);
    out.insert(out.end(), entry.begin(), entry.end());
    ++emitted;
  }
  return emitted;
}

}  // namespace

template <class T, class Acc>
typename Engine<T, Acc>::Selection Engine<T, Acc>::select(const T* q, const T* weights,
                                                          std::int64_t tokens, std::int64_t first,
                                                          std::int64_t ratio,
                                                          const std::vector<T>& keys,
                                                          const Context& context) {
  const std::int64_t heads = model_.index_heads;
  const std::int64_t width = model_.index_dim;
  const std::string names = context.prefix + ".attn.indexer.";
  Sink* sink = context.sink;
  const bool want_scores = sink != nullptr && sink->wants(names + "score");
  const bool want_topk = sink != nullptr && sink->wants(names + "topk");
  const bool narrow = numerics_.bf16 || options_.bf16_index_scores;
  Selection selection;
  selection.chosen.resize(static_cast<std::size_t>(tokens));
  std::vector<std::vector<T>> scores(static_cast<std::size_t>(tokens));
  const std::int64_t work = tokens * ((first + tokens) / ratio) * heads * width;
  parallel_for(tokens, work, [&](std::int64_t t) {
    const std::int64_t visible = (first + t + 1) / ratio;
    std::vector<T>& row = scores[static_cast<std::size_t>(t)];
    row.resize(static_cast<std::size_t>(visible));
    index_scores(numerics_, q + t * heads * width, weights + t * heads, heads, width, keys.data(),
                 visible, narrow, row.data());
    top_k(row.data(), visible, model_.index_topk, selection.chosen[static_cast<std::size_t>(t)]);
    if (!want_scores) std::vector<T>().swap(row);
  });
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<std::int32_t>& chosen = selection.chosen[static_cast<std::size_t>(t)];
    if (want_scores) {
      sink->ragged_row(names + "score", std::span<const T>(scores[static_cast<std::size_t>(t)]));
    }
    if (want_topk) sink->ragged_row(names + "topk", std::span<const std::int32_t>(chosen));
    // Attention adds up in the order of the entries, whatever the scores' order is.
    std::sort(chosen.begin(), chosen.end());
  }
  return selection;
}

template <class T, class Acc>
Recorder::Id Engine<T, Acc>::v4_attention(const LayerSpec& layer, const Chunk& chunk,
                                          const Context& context, LayerCache<T>& cache,
                                          std::vector<T>& streams) {
  const std::int64_t d = model_.hidden;
  const std::int64_t c = model_.head_dim;
  const std::int64_t heads = model_.heads;
  const std::int64_t rank = model_.q_rank;
  const std::int64_t n = model_.streams;
  const std::int64_t groups = model_.o_groups;
  const std::int64_t group_width = heads / groups * c;
  const std::int64_t index_heads = model_.index_heads;
  const std::int64_t index_dim = model_.index_dim;
  const std::int64_t window = model_.window;
  const bool indexed = layer.index == workloads::IndexMode::kAll;
  const Rope& rope = layer.ratio > 0 ? compressed_rope_ : window_rope_;
  const std::int64_t rd = rope.dim();
  const std::string p = context.weights + ".attn.";

  const std::string hp = context.weights + ".hc_attn_";
  const std::vector<float> hc_fn = weights_.vector(hp + "fn", hyper_shape_.mixes() * n * d);
  const std::vector<float> hc_base = weights_.vector(hp + "base", hyper_shape_.mixes());
  const std::vector<float> hc_scale = weights_.vector(hp + "scale", 3);
  const HyperWeights hyper{hc_fn.data(), hc_base.data(), hc_scale.data()};
  const auto norm = as<T>(weights_.vector(context.weights + ".attn_norm.weight", d));
  const Linear wq_a = weights_.linear(p + "wq_a.weight", rank, d);
  const auto q_norm = as<T>(weights_.vector(p + "q_norm.weight", rank));
  const Linear wq_b = weights_.linear(p + "wq_b.weight", heads * c, rank);
  const Linear wkv = weights_.linear(p + "wkv.weight", c, d);
  const auto kv_norm = as<T>(weights_.vector(p + "kv_norm.weight", c));
  const Linear wo_a = weights_.linear(p + "wo_a.weight", groups * model_.o_rank, group_width);
  const Linear wo_b = weights_.linear(p + "wo_b.weight", d, groups * model_.o_rank);
  const std::vector<float> sink = weights_.vector(p + "attn_sink", heads);
  CompressorWeights<T> main;
  CompressorWeights<T> index;
  Linear index_wq;
  Linear index_weights;
  if (layer.ratio > 0) {
    main = compressor_weights<T>(weights_, p + "compressor", cache.main.shape(), d);
  }
  if (indexed) {
    index = compressor_weights<T>(weights_, p + "indexer.compressor", cache.indexer.shape(), d);
    index_wq = weights_.linear(p + "indexer.wq_b.weight", index_heads * index_dim, rank);
    index_weights = weights_.linear(p + "indexer.weights_proj.weight", index_heads, d);
  }
  const bool quantise_groups = options_.quantised_output_groups && quantises(wo_a);
  const bool quantise_x = quantises(wq_a) || quantises(wkv);
  const bool quantise_q = quantises(wq_b) || (indexed && quantises(index_wq));
  const AttentionShape shape{heads, c, c, math_.softmax_scale};
  // An entry is stored narrow: code times a scale that is no power of two is rounded once more.
  const auto quantise_entry = [&](T* entry, std::int64_t channels) {
    fake_quantise_e4m3(std::span<T>(entry, static_cast<std::size_t>(channels)), kKvGroup,
                       activation_scale_);
    if (activation_scale_.power_of_two) return;
    for (std::int64_t i = 0; i < channels; ++i) {
      entry[i] = numerics_.narrow(static_cast<Acc>(entry[i]));
    }
  };
  std::vector<T> group_weights;  // of one output group, decoded

  Id last = kNone;
  for (std::int64_t tile = 0; tile < chunk.size(); tile += kTile) {
    const std::int64_t m = std::min(kTile, chunk.size() - tile);
    const std::int64_t first = chunk.first + tile;
    const auto size = [m](std::int64_t width) { return static_cast<std::size_t>(m * width); };
    T* x_streams = streams.data() + tile * n * d;

    std::vector<T> mixes(size(hyper_shape_.mixes()));
    std::vector<T> pre(size(n));
    std::vector<T> post(size(n));
    std::vector<T> comb(size(n * n));
    std::vector<T> x(size(d));
    hyper_pre(numerics_, hyper_shape_, hyper, x_streams, m,
              HyperMix<T>{mixes.data(), pre.data(), post.data(), comb.data()}, x.data());
    dump(context, ".hc_attn.mixes", mixes, {hyper_shape_.mixes()});
    dump(context, ".hc_attn.pre", pre, {n});
    dump(context, ".hc_attn.post", post, {n});
    dump(context, ".hc_attn.comb", comb, {n, n});
    const Id pre_id = record(
        context, Role::kHcAttnPre, Component::kHyperConnections,
        workloads::HyperConnection{workloads::HyperPhase::kPre, m, n, d, hyper_shape_.mixes(),
                                   hyper_shape_.sinkhorn_iterations, Dtype::kFp32},
        {context.input});
    rms_norm(numerics_, x.data(), norm.data(), math_.rms_eps, m, d, x.data());
    const Id normed = record_vector(context, Role::kAttnNorm, VectorKind::kNorm, m, d, Dtype::kBf16,
                                    Dtype::kBf16, {pre_id}, d);
    dump(context, ".attn.in", x, {d});

    // Queries.
    std::vector<T> xq;
    Id xq_id = normed;
    if (quantise_x) {
      xq = quantise_rows(x.data(), m, d);
      xq_id = record_vector(context, Role::kQuantX, VectorKind::kQuantise, m, d, Dtype::kBf16,
                            Dtype::kFp8, {normed});
    }
    std::vector<T> low(size(rank));
    linear(wq_a, x.data(), xq.data(), m, low.data());
    Id id = record(context, Role::kWqA, Component::kAttentionProjections,
                   linear_op(wq_a, m, rank, d, 1, quantises(wq_a)), {xq_id});
    rms_norm(numerics_, low.data(), q_norm.data(), math_.rms_eps, m, rank, low.data());
    Id low_id = record_vector(context, Role::kQNorm, VectorKind::kNorm, m, rank, Dtype::kBf16,
                              Dtype::kBf16, {id}, rank);
    dump(context, ".attn.q_residual", low, {rank});
    std::vector<T> lowq;
    if (quantise_q) {
      lowq = quantise_rows(low.data(), m, rank);
      low_id = record_vector(context, Role::kQuantQ, VectorKind::kQuantise, m, rank, Dtype::kBf16,
                             Dtype::kFp8, {low_id});
    }
    std::vector<T> q(size(heads * c));
    linear(wq_b, low.data(), lowq.data(), m, q.data());
    Id q_id = record(context, Role::kWqB, Component::kAttentionProjections,
                     linear_op(wq_b, m, heads * c, rank, 1, quantises(wq_b)), {low_id});
    parallel_for(m, 8 * m * heads * c, [&](std::int64_t t) {
      T* row = q.data() + t * heads * c;
      head_norm(numerics_, row, math_.rms_eps, heads, c);
      rope.rotate_heads(numerics_, row + c - rd, heads, c, first + t);
    });
    q_id = record_vector(context, Role::kQHeadNorm, VectorKind::kNorm, m * heads, c, Dtype::kBf16,
                         Dtype::kBf16, {q_id});
    q_id = record_vector(context, Role::kQRope, VectorKind::kRope, m * heads, rd, Dtype::kBf16,
                         Dtype::kBf16, {q_id});

    // The window's entries: those of earlier tokens out of the ring, this tile's behind them.
    const std::int64_t earlier = std::min(first, window - 1);
    std::vector<T> recent(static_cast<std::size_t>((earlier + m) * c));
    for (std::int64_t i = 0; i < earlier; ++i) {
      const T* slot = cache.window.data() + (first - earlier + i) % window * c;
      std::copy(slot, slot + c, recent.data() + i * c);
    }
    cache.window.resize(static_cast<std::size_t>(std::min(first + m, window) * c));
    T* kv = recent.data() + earlier * c;
    linear(wkv, x.data(), xq.data(), m, kv);
    Id kv_id = record(context, Role::kWkv, Component::kAttentionProjections,
                      linear_op(wkv, m, c, d, 1, quantises(wkv)), {xq_id});
    rms_norm(numerics_, kv, kv_norm.data(), math_.rms_eps, m, c, kv);
    for (std::int64_t t = 0; t < m; ++t) {
      T* row = kv + t * c;
      rope.rotate(numerics_, row + c - rd, first + t);
      if (quantise_kv_) {
        quantise_entry(row, c - rd);
      }
      std::copy(row, row + c, cache.window.data() + (first + t) % window * c);
    }
    kv_id = record_vector(context, Role::kKvNorm, VectorKind::kNorm, m, c, Dtype::kBf16,
                          Dtype::kBf16, {kv_id}, c);
    kv_id = record_vector(context, Role::kKvRope, VectorKind::kRope, m, rd, Dtype::kBf16,
                          Dtype::kBf16, {kv_id});
    kv_id = record_vector(context, Role::kKvCacheWrite, VectorKind::kQuantise, m, c, Dtype::kBf16,
                          Dtype::kBf16, {kv_id}, 0, m * entry_bytes_);

    // Compressed entries and indexer keys.
    Id entries_id = kNone;
    if (layer.ratio > 0) {
      const auto before = static_cast<std::ptrdiff_t>(cache.entries.size());
      const std::int64_t emitted = compress(numerics_, main, cache.main, x.data(), m, first,
                                            math_.rms_eps, rope, d, cache.entries);
      for (std::int64_t i = 0; i < emitted && quantise_kv_; ++i) {
        T* entry = cache.entries.data() + before + i * c;
        quantise_entry(entry, c - rd);
      }
      if (context.sink != nullptr && context.sink->wants(context.prefix + ".attn.compressor.kv")) {
        dump(context, ".attn.compressor.kv",
             std::vector<T>(cache.entries.begin() + before, cache.entries.end()), {c});
      }
      const std::int64_t projected = cache.main.shape().projected();
      entries_id = record(context, Role::kCompressorProj, Component::kCompressors,
                          plain_op(main.value, m, 2 * projected, d, Dtype::kFp32), {normed});
      entries_id = record(context, Role::kCompress, Component::kOther,
                          workloads::Compress{m, emitted, cache.main.shape().slots(), c, projected,
                                              0, layer.ratio * projected},
                          {entries_id});
      entries_id = record_vector(context, Role::kCompressorNorm, VectorKind::kNorm, emitted, c,
                                 Dtype::kBf16, Dtype::kBf16, {entries_id}, c);
      entries_id = record_vector(context, Role::kCompressorRope, VectorKind::kRope, emitted, rd,
                                 Dtype::kBf16, Dtype::kBf16, {entries_id});
      entries_id =
          record_vector(context, Role::kCompressorCacheWrite, VectorKind::kQuantise, emitted, c,
                        Dtype::kBf16, Dtype::kBf16, {entries_id}, 0, emitted * entry_bytes_);
    }
    Id selection_id = kNone;
    Selection selection;
    if (indexed) {
      const auto before = static_cast<std::ptrdiff_t>(cache.keys.size());
      const std::int64_t emitted = compress(numerics_, index, cache.indexer, x.data(), m, first,
                                            math_.rms_eps, rope, d, cache.keys);
      // Rotated by Hadamard, which spreads outliers before the FP4 rounding.
      const auto finish = [&](T* row) {
        const std::span<T> all(row, static_cast<std::size_t>(index_dim));
        hadamard(all);
        for (T& v : all) v = numerics_.narrow(static_cast<Acc>(v));
        if (quantise_index_) fake_quantise_e2m1(all, kIndexGroup, kFp4Index);
      };
      for (std::int64_t i = 0; i < emitted; ++i) finish(cache.keys.data() + before + i * index_dim);
      if (context.sink != nullptr &&
          context.sink->wants(context.prefix + ".attn.indexer.compressor.kv")) {
        dump(context, ".attn.indexer.compressor.kv",
             std::vector<T>(cache.keys.begin() + before, cache.keys.end()), {index_dim});
      }
      const std::int64_t projected = cache.indexer.shape().projected();
      Id key_id = record(context, Role::kIndexCompressorProj, Component::kCompressors,
                         plain_op(index.value, m, 2 * projected, d, Dtype::kFp32), {normed});
      key_id = record(context, Role::kIndexCompress, Component::kOther,
                      workloads::Compress{m, emitted, cache.indexer.shape().slots(), index_dim,
                                          projected, 0, layer.ratio * projected},
                      {key_id});
      key_id = record_vector(context, Role::kIndexKeyNorm, VectorKind::kNorm, emitted, index_dim,
                             Dtype::kBf16, Dtype::kBf16, {key_id}, index_dim);
      key_id = record_vector(context, Role::kIndexKeyRope, VectorKind::kRope, emitted, rd,
                             Dtype::kBf16, Dtype::kBf16, {key_id});
      key_id = record_vector(context, Role::kIndexKeyHadamard, VectorKind::kHadamard, emitted,
                             index_dim, Dtype::kBf16, Dtype::kBf16, {key_id});
      key_id = record_vector(context, Role::kIndexKeyCacheWrite, VectorKind::kQuantise, emitted,
                             index_dim, Dtype::kBf16, index_dtype(), {key_id}, 0,
                             emitted * index_bytes_);

      std::vector<T> iq(size(index_heads * index_dim));
      linear(index_wq, low.data(), lowq.data(), m, iq.data());
      Id iq_id = record(
          context, Role::kIndexWqB, Component::kIndexerProjections,
          linear_op(index_wq, m, index_heads * index_dim, rank, 1, quantises(index_wq)), {low_id});
      parallel_for(m, 16 * m * index_heads * index_dim, [&](std::int64_t t) {
        T* row = iq.data() + t * index_heads * index_dim;
        rope.rotate_heads(numerics_, row + index_dim - rd, index_heads, index_dim, first + t);
        for (std::int64_t h = 0; h < index_heads; ++h) finish(row + h * index_dim);
      });
      iq_id = record_vector(context, Role::kIndexRope, VectorKind::kRope, m * index_heads, rd,
                            Dtype::kBf16, Dtype::kBf16, {iq_id});
      iq_id = record_vector(context, Role::kIndexHadamard, VectorKind::kHadamard, m * index_heads,
                            index_dim, Dtype::kBf16, Dtype::kBf16, {iq_id});
      if (quantise_index_) {
        iq_id = record_vector(context, Role::kIndexQuant, VectorKind::kQuantise, m * index_heads,
                              index_dim, Dtype::kBf16, index_dtype(), {iq_id});
      }
      std::vector<T> iw(size(index_heads));
      apply(index_weights.view, x.data(), m, iw.data(), false, false);
      const Acc scale = Acc{1} / std::sqrt(static_cast<Acc>(index_dim)) /
                        std::sqrt(static_cast<Acc>(index_heads));
      for (T& v : iw) v = numerics_.narrow(static_cast<Acc>(v) * scale);
      const Id iw_id = record(context, Role::kIndexWeights, Component::kIndexerProjections,
                              plain_op(index_weights, m, index_heads, d, Dtype::kBf16), {normed});
      dump(context, ".attn.indexer.q", iq, {index_heads, index_dim});
      dump(context, ".attn.indexer.weights", iw, {index_heads});
      selection = select(iq.data(), iw.data(), m, first, layer.ratio, cache.keys, context);
      std::int64_t scored = 0;
      for (std::int64_t t = 0; t < m; ++t) scored += (first + t + 1) / layer.ratio;
      selection_id = record(context, Role::kIndexLogits, Component::kIndexScores,
                            workloads::IndexLogits{m, index_heads, index_dim, scored,
                                                   (first + m) / layer.ratio * index_bytes_,
                                                   index_dtype(), 1, layer.ratio},
                            {iq_id, iw_id, key_id});
      selection_id =
          record(context, Role::kIndexTopK, Component::kOther,
                 workloads::TopK{m, scored, model_.index_topk, 1, layer.ratio}, {selection_id});
    }

    // One softmax over window and entries.
    std::vector<T> o(size(heads * c));
    const std::int64_t entries_seen = layer.ratio == 0 ? 0
                                      : indexed
                                          ? std::min(model_.index_topk, (first + m) / layer.ratio)
                                          : (first + m) / layer.ratio;
    const std::int64_t work = m * heads * 2 * c * (std::min(first + m, window) + entries_seen);
    parallel_for(m, work, [&](std::int64_t t) {
      const std::int64_t in_window = std::min(first + t + 1, window);
      std::array<KeyRun<T>, 2> runs{};
      runs[0] = {recent.data() + (earlier + t + 1 - in_window) * c, c, in_window, {}};
      std::size_t used = 1;
      if (indexed) {
        const auto& chosen = selection.chosen[static_cast<std::size_t>(t)];
        if (!chosen.empty()) runs[used++] = {cache.entries.data(), c, 0, chosen};
      } else if (layer.ratio > 0) {
        runs[used++] = {cache.entries.data(), c, (first + t + 1) / layer.ratio, {}};
      }
      T* out = o.data() + t * heads * c;
      attend(numerics_, shape, q.data() + t * heads * c,
             std::span<const KeyRun<T>>(runs.data(), used), sink.data(), out);
      rope.rotate_heads(numerics_, out + c - rd, heads, c, first + t, true);
    });
    Id o_id = kNone;
    if (context.recorder != nullptr) {
      std::int64_t window_keys = 0;
      std::int64_t entry_keys = 0;
      for (std::int64_t t = 0; t < m; ++t) {
        window_keys += std::min(first + t + 1, window);
        if (indexed) {
          entry_keys +=
              static_cast<std::int64_t>(selection.chosen[static_cast<std::size_t>(t)].size());
        } else if (layer.ratio > 0) {
          entry_keys += (first + t + 1) / layer.ratio;
        }
      }
      const std::int64_t oldest = std::max<std::int64_t>(0, chunk.first - window + 1);
      std::int64_t distinct = (first + m - oldest) * entry_bytes_;
      if (layer.ratio > 0) distinct += (first + m) / layer.ratio * entry_bytes_;
      o_id =
          record(context, Role::kAttention, Component::kCoreAttention,
                 workloads::Attention{m, heads, c, c, window_keys + entry_keys,
                                      (window_keys + entry_keys) * entry_bytes_, distinct,
                                      Dtype::kBf16, Dtype::kBf16, indexed, chunk.size() == 1, true},
                 {q_id, kv_id, entries_id, selection_id});
      o_id = record_vector(context, Role::kInverseRope, VectorKind::kRope, m * heads, rd,
                           Dtype::kBf16, Dtype::kBf16, {o_id});
    }

    // Grouped low-rank output projection.
    const T* groups_in = o.data();
    std::vector<T> oq;
    if (quantise_groups) {
      oq = quantise_rows(o.data(), m, heads * c);
      groups_in = oq.data();
    }
    std::vector<T> mid(size(groups * model_.o_rank));
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t row = g * model_.o_rank;
      WeightView view;
      const bool exact = wo_a.view.scale == WeightView::Scale::kNone ||
                         wo_a.view.scale == WeightView::Scale::kE8M0 || !numerics_.bf16;
      if (wo_a.aligned(row) && exact) {
        view = wo_a.rows(row, model_.o_rank);
      } else {
        // A group that begins inside a block of scales, or weights that the release rounds to BF16
        // when it decodes them.
        group_weights.resize(static_cast<std::size_t>(model_.o_rank * group_width));
        decode_rows(wo_a.view, row, model_.o_rank, group_weights.data());
        for (T& v : group_weights) v = numerics_.narrow(static_cast<Acc>(v));
        view.format = sizeof(T) == 8 ? WeightView::Format::kF64 : WeightView::Format::kF32;
        view.data = group_weights.data();
        view.rows = model_.o_rank;
        view.columns = group_width;
      }
      apply(view, groups_in + g * group_width, m, mid.data() + row, false, quantise_groups,
            heads * c, groups * model_.o_rank);
    }
    Id mid_id =
        record(context, Role::kWoA, Component::kOutputLowRank,
               linear_op(wo_a, m, model_.o_rank, group_width, groups, quantise_groups), {o_id});
    std::vector<T> midq;
    if (quantises(wo_b)) {
      midq = quantise_rows(mid.data(), m, groups * model_.o_rank);
      mid_id = record_vector(context, Role::kQuantO, VectorKind::kQuantise, m,
                             groups * model_.o_rank, Dtype::kBf16, Dtype::kFp8, {mid_id});
    }
    std::vector<T> y(size(d));
    linear(wo_b, mid.data(), midq.data(), m, y.data());
    const Id y_id =
        record(context, Role::kWoB, Component::kAttentionProjections,
               linear_op(wo_b, m, d, groups * model_.o_rank, 1, quantises(wo_b)), {mid_id});
    dump(context, ".attn.out", y, {d});
    hyper_post(numerics_, hyper_shape_, y.data(), post.data(), comb.data(), m, x_streams);
    last = record(context, Role::kHcAttnPost, Component::kHyperConnections,
                  workloads::HyperConnection{workloads::HyperPhase::kPost, m, n, d,
                                             hyper_shape_.mixes(), 0, Dtype::kFp32},
                  {y_id, pre_id});
  }
  return last;
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                                                                \
  template typename Engine<T, A>::Selection Engine<T, A>::select(                                  \
      const T*, const T*, std::int64_t, std::int64_t, std::int64_t, const std::vector<T>&,         \
      const Context&);                                                                             \
  template Recorder::Id Engine<T, A>::v4_attention(const LayerSpec&, const Chunk&, const Context&, \
                                                   LayerCache<T>&, std::vector<T>&);
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
