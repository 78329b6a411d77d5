// V3.2's attention half: MLA in its absorbed form with DSA's selection (facts 5).
#include <cmath>

#include "reference/kernels/parallel.h"
#include "reference/model/engine.h"
#include "reference/ops/attention.h"
#include "reference/ops/norm.h"

namespace foretoken::reference {

using workloads::Component;
using workloads::Dtype;
using workloads::LayerSpec;
using workloads::Role;
using workloads::VectorKind;

namespace {

constexpr std::int64_t kLatentGroup = 128;  // channels that share a scale in the FP8 latent cache
constexpr std::int64_t kIndexGroup = 128;
constexpr double kLayerNormEps = 1e-6;

template <class T>
std::vector<T> as(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

template <class T, class Acc>
Recorder::Id Engine<T, Acc>::mla_attention(const LayerSpec& /*layer*/, const Chunk& chunk,
                                           const Context& context, LayerCache<T>& cache,
                                           std::vector<T>& x_all) {
  const std::int64_t d = model_.hidden;
  const std::int64_t c = model_.head_dim;  // the latent's width
  const std::int64_t rd = model_.rope_dim;
  const std::int64_t nope = model_.nope_dim;
  const std::int64_t vd = model_.value_dim;
  const std::int64_t heads = model_.heads;
  const std::int64_t rank = model_.q_rank;
  const std::int64_t index_heads = model_.index_heads;
  const std::int64_t index_dim = model_.index_dim;
  const std::string p = context.weights + ".self_attn.";

  const auto norm = as<T>(weights_.vector(context.weights + ".input_layernorm.weight", d));
  const Linear q_a = weights_.linear(p + "q_a_proj.weight", rank, d);
  const auto q_norm = as<T>(weights_.vector(p + "q_a_layernorm.weight", rank));
  const Linear q_b = weights_.linear(p + "q_b_proj.weight", heads * (nope + rd), rank);
  const Linear kv_a = weights_.linear(p + "kv_a_proj_with_mqa.weight", c + rd, d);
  const auto kv_norm = as<T>(weights_.vector(p + "kv_a_layernorm.weight", c));
  const Linear kv_b = weights_.linear(p + "kv_b_proj.weight", heads * (nope + vd), c);
  const Linear o_proj = weights_.linear(p + "o_proj.weight", d, heads * vd);
  const Linear index_wq = weights_.linear(p + "indexer.wq_b.weight", index_heads * index_dim, rank);
  const Linear index_wk = weights_.linear(p + "indexer.wk.weight", index_dim, d);
  const auto key_norm = as<T>(weights_.vector(p + "indexer.k_norm.weight", index_dim));
  const auto key_bias = as<T>(weights_.vector(p + "indexer.k_norm.bias", index_dim));
  const Linear index_weights = weights_.linear(p + "indexer.weights_proj.weight", index_heads, d);
  const bool quantise_maps = options_.quantised_output_groups && quantises(kv_b);
  const bool quantise_x = quantises(q_a) || quantises(kv_a) || quantises(index_wk);
  const bool quantise_q = quantises(q_b) || quantises(index_wq);
  const AttentionShape shape{heads, c + rd, c, math_.softmax_scale};

  // Rotated by Hadamard, then FP8 with one scale per 128 channels.
  const auto finish_index = [&](T* row) {
    const std::span<T> all(row, static_cast<std::size_t>(index_dim));
    hadamard(all);
    for (T& v : all) v = numerics_.narrow(static_cast<Acc>(v));
    if (quantise_index_) fake_quantise_e4m3(all, kIndexGroup, activation_scale_);
  };
  // One head's key map [nope, c] or value map [value, c], decoded as the release does.
  std::vector<T> map;
  const auto decode_map = [&](std::int64_t first, std::int64_t rows) {
    map.resize(static_cast<std::size_t>(rows * c));
    decode_rows(kv_b.view, first, rows, map.data());
    for (T& v : map) v = numerics_.narrow(static_cast<Acc>(v));
    WeightView view;
    view.format = sizeof(T) == 8 ? WeightView::Format::kF64 : WeightView::Format::kF32;
    view.data = map.data();
    view.rows = rows;
    view.columns = c;
    return view;
  };

  Id last = kNone;
  for (std::int64_t tile = 0; tile < chunk.size(); tile += kTile) {
    const std::int64_t m = std::min(kTile, chunk.size() - tile);
    const std::int64_t first = chunk.first + tile;
    const auto size = [m](std::int64_t width) { return static_cast<std::size_t>(m * width); };
    T* residual = x_all.data() + tile * d;

    std::vector<T> x(size(d));
    rms_norm(numerics_, residual, norm.data(), math_.rms_eps, m, d, x.data());
    const Id normed = record_vector(context, Role::kAttnNorm, VectorKind::kNorm, m, d, Dtype::kBf16,
                                    Dtype::kBf16, {context.input}, d);
    dump(context, ".attn.in", x, {d});
    std::vector<T> xq;
    Id xq_id = normed;
    if (quantise_x) {
      xq = quantise_rows(x.data(), m, d);
      xq_id = record_vector(context, Role::kQuantX, VectorKind::kQuantise, m, d, Dtype::kBf16,
                            Dtype::kFp8, {normed});
    }

    // Queries: nope and rotary parts per head; the nope part goes through the key half of kv_b.
    std::vector<T> low(size(rank));
    linear(q_a, x.data(), xq.data(), m, low.data());
    Id id = record(context, Role::kWqA, Component::kAttentionProjections,
                   linear_op(q_a, m, rank, d, 1, quantises(q_a)), {xq_id});
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
    const std::int64_t per_head = nope + rd;
    std::vector<T> q(size(heads * per_head));
    linear(q_b, low.data(), lowq.data(), m, q.data());
    Id q_id = record(context, Role::kWqB, Component::kAttentionProjections,
                     linear_op(q_b, m, heads * per_head, rank, 1, quantises(q_b)), {low_id});
    for (std::int64_t t = 0; t < m; ++t) {
      window_rope_.rotate_heads(numerics_, q.data() + t * heads * per_head + nope, heads, per_head,
                                first + t);
    }
    q_id = record_vector(context, Role::kQRope, VectorKind::kRope, m * heads, rd, Dtype::kBf16,
                         Dtype::kBf16, {q_id});
    std::vector<T> absorbed(size(heads * (c + rd)));
    {
      std::vector<T> q_nope;
      const T* in = q.data();
      if (quantise_maps) {
        q_nope = q;
        for (std::int64_t r = 0; r < m * heads; ++r) {
          fake_quantise_e4m3(
              std::span<T>(q_nope.data() + r * per_head, static_cast<std::size_t>(nope)),
              math_.activation_group, activation_scale_);
        }
        in = q_nope.data();
      }
      for (std::int64_t h = 0; h < heads; ++h) {
        WeightView view = decode_map(h * (nope + vd), nope);
        std::swap(view.rows, view.columns);  // [nope, c] read as its transpose
        view.transposed = true;
        apply(view, in + h * per_head, m, absorbed.data() + h * (c + rd), false, false,
              heads * per_head, heads * (c + rd));
      }
    }
    for (std::int64_t r = 0; r < m * heads; ++r) {
      std::copy_n(q.data() + r * per_head + nope, rd, absorbed.data() + r * (c + rd) + c);
    }
    q_id = record(context, Role::kAbsorbKey, Component::kOutputLowRank,
                  linear_op(kv_b, m, c, nope, heads, quantise_maps), {q_id});

    // The latent and the rotary key that all heads share.
    std::vector<T> kv(size(c + rd));
    linear(kv_a, x.data(), xq.data(), m, kv.data());
    Id kv_id = record(context, Role::kWkv, Component::kAttentionProjections,
                      linear_op(kv_a, m, c + rd, d, 1, quantises(kv_a)), {xq_id});
    for (std::int64_t t = 0; t < m; ++t) {
      T* row = kv.data() + t * (c + rd);
      rms_norm(numerics_, row, kv_norm.data(), math_.rms_eps, 1, c, row);
      window_rope_.rotate(numerics_, row + c, first + t);
      if (quantise_kv_) {
        fake_quantise_e4m3(std::span<T>(row, static_cast<std::size_t>(c)), kLatentGroup,
                           activation_scale_);
      }
    }
    cache.entries.insert(cache.entries.end(), kv.begin(), kv.end());
    kv_id = record_vector(context, Role::kKvNorm, VectorKind::kNorm, m, c, Dtype::kBf16,
                          Dtype::kBf16, {kv_id}, c);
    kv_id = record_vector(context, Role::kKvRope, VectorKind::kRope, m, rd, Dtype::kBf16,
                          Dtype::kBf16, {kv_id});
    kv_id = record_vector(context, Role::kKvCacheWrite, VectorKind::kQuantise, m, c + rd,
                          Dtype::kBf16, Dtype::kBf16, {kv_id}, 0, m * entry_bytes_);

    // Indexer: rotation on the first channels, the two halves of which are the pairs.
    std::vector<T> keys(size(index_dim));
    linear(index_wk, x.data(), xq.data(), m, keys.data());
    Id key_id = record(context, Role::kIndexKeyProj, Component::kIndexerProjections,
                       linear_op(index_wk, m, index_dim, d, 1, quantises(index_wk)), {xq_id});
    layer_norm(numerics_, keys.data(), key_norm.data(), key_bias.data(), kLayerNormEps, m,
               index_dim, keys.data());
    for (std::int64_t t = 0; t < m; ++t) {
      T* row = keys.data() + t * index_dim;
      window_rope_.rotate(numerics_, row, first + t, false, RopeLayout::kHalves);
      finish_index(row);
    }
    cache.keys.insert(cache.keys.end(), keys.begin(), keys.end());
    dump(context, ".attn.indexer.compressor.kv", keys, {index_dim});
    key_id = record_vector(context, Role::kIndexKeyNorm, VectorKind::kNorm, m, index_dim,
                           Dtype::kBf16, Dtype::kBf16, {key_id}, 2 * index_dim);
    key_id = record_vector(context, Role::kIndexKeyRope, VectorKind::kRope, m, rd, Dtype::kBf16,
                           Dtype::kBf16, {key_id});
    key_id = record_vector(context, Role::kIndexKeyHadamard, VectorKind::kHadamard, m, index_dim,
                           Dtype::kBf16, Dtype::kBf16, {key_id});
    key_id = record_vector(context, Role::kIndexKeyCacheWrite, VectorKind::kQuantise, m, index_dim,
                           Dtype::kBf16, index_dtype(), {key_id}, 0, m * index_bytes_);
    std::vector<T> iq(size(index_heads * index_dim));
    linear(index_wq, low.data(), lowq.data(), m, iq.data());
    Id iq_id = record(context, Role::kIndexWqB, Component::kIndexerProjections,
                      linear_op(index_wq, m, index_heads * index_dim, rank, 1, quantises(index_wq)),
                      {low_id});
    for (std::int64_t t = 0; t < m; ++t) {
      T* row = iq.data() + t * index_heads * index_dim;
      window_rope_.rotate_heads(numerics_, row, index_heads, index_dim, first + t, false,
                                RopeLayout::kHalves);
      for (std::int64_t h = 0; h < index_heads; ++h) finish_index(row + h * index_dim);
    }
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
    const Acc scale =
        Acc{1} / std::sqrt(static_cast<Acc>(index_dim)) / std::sqrt(static_cast<Acc>(index_heads));
    for (T& v : iw) v = numerics_.narrow(static_cast<Acc>(v) * scale);
    const Id iw_id = record(context, Role::kIndexWeights, Component::kIndexerProjections,
                            plain_op(index_weights, m, index_heads, d, Dtype::kBf16), {normed});
    dump(context, ".attn.indexer.q", iq, {index_heads, index_dim});
    dump(context, ".attn.indexer.weights", iw, {index_heads});
    const Selection selection = select(iq.data(), iw.data(), m, first, 1, cache.keys, context);
    std::int64_t scored = 0;
    std::int64_t attended = 0;
    for (std::int64_t t = 0; t < m; ++t) {
      scored += first + t + 1;
      attended += static_cast<std::int64_t>(selection.chosen[static_cast<std::size_t>(t)].size());
    }
    Id selection_id = record(context, Role::kIndexLogits, Component::kIndexScores,
                             workloads::IndexLogits{m, index_heads, index_dim, scored,
                                                    (first + m) * index_bytes_, index_dtype()},
                             {iq_id, iw_id, key_id});
    selection_id = record(context, Role::kIndexTopK, Component::kOther,
                          workloads::TopK{m, scored, model_.index_topk}, {selection_id});

    // Attention over the chosen latents, then the value half of kv_b.
    std::vector<T> latent(size(heads * c));
    const std::int64_t work = heads * (2 * c + rd) * attended;
    parallel_for(m, work, [&](std::int64_t t) {
      const std::array<KeyRun<T>, 1> runs = {KeyRun<T>{
          cache.entries.data(), c + rd, 0, selection.chosen[static_cast<std::size_t>(t)]}};
      attend(numerics_, shape, absorbed.data() + t * heads * (c + rd),
             std::span<const KeyRun<T>>(runs), nullptr, latent.data() + t * heads * c);
    });
    Id o_id = record(context, Role::kAttention, Component::kCoreAttention,
                     workloads::Attention{m, heads, c + rd, c, attended, attended * entry_bytes_,
                                          (first + m) * entry_bytes_, Dtype::kBf16, Dtype::kBf16,
                                          true, chunk.size() == 1},
                     {q_id, kv_id, selection_id});
    if (quantise_maps) {
      for (std::int64_t r = 0; r < m * heads; ++r) {
        fake_quantise_e4m3(std::span<T>(latent.data() + r * c, static_cast<std::size_t>(c)),
                           math_.activation_group, activation_scale_);
      }
    }
    std::vector<T> o(size(heads * vd));
    for (std::int64_t h = 0; h < heads; ++h) {
      const WeightView view = decode_map(h * (nope + vd) + nope, vd);
      apply(view, latent.data() + h * c, m, o.data() + h * vd, false, false, heads * c, heads * vd);
    }
    o_id = record(context, Role::kAbsorbValue, Component::kOutputLowRank,
                  linear_op(kv_b, m, vd, c, heads, quantise_maps), {o_id});
    std::vector<T> oq;
    if (quantises(o_proj)) {
      oq = quantise_rows(o.data(), m, heads * vd);
      o_id = record_vector(context, Role::kQuantO, VectorKind::kQuantise, m, heads * vd,
                           Dtype::kBf16, Dtype::kFp8, {o_id});
    }
    std::vector<T> y(size(d));
    linear(o_proj, o.data(), oq.data(), m, y.data());
    const Id y_id = record(context, Role::kWoB, Component::kAttentionProjections,
                           linear_op(o_proj, m, d, heads * vd, 1, quantises(o_proj)), {o_id});
    dump(context, ".attn.out", y, {d});
    for (std::size_t i = 0; i < y.size(); ++i) {
      residual[i] = numerics_.narrow(static_cast<Acc>(residual[i]) + static_cast<Acc>(y[i]));
    }
    last = record_vector(context, Role::kAttnResidual, VectorKind::kResidual, m, d, Dtype::kBf16,
                         Dtype::kBf16, {y_id});
  }
  return last;
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                  \
  template Recorder::Id Engine<T, A>::mla_attention( \
      const LayerSpec&, const Chunk&, const Context&, LayerCache<T>&, std::vector<T>&);
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
