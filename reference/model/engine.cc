#include "reference/model/engine.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "reference/kernels/parallel.h"
#include "reference/model/tensor_names.h"
#include "reference/ops/norm.h"
#include "sim/base/error.h"
#include "workloads/precision.h"

namespace foretoken::reference {

using workloads::Component;
using workloads::Dtype;
using workloads::Family;
using workloads::LayerSpec;
using workloads::Op;
using workloads::Role;
using workloads::VectorKind;

namespace {

constexpr std::int64_t kHeadBytes = 64 << 20;  // of the head's rows mapped at once

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

bool is_on(Switch s, bool otherwise) {
  return s == Switch::kOn || (s == Switch::kAuto && otherwise);
}

// Dtypes of a product: FP8 codes meet FP8 or FP4 weights, everything else runs in BF16; FP32
// weights take the tensor cores' FP32 form.
Dtype product_dtype(Dtype weight, bool quantised) {
  if (weight == Dtype::kFp32) return Dtype::kTf32;
  return quantised ? Dtype::kFp8 : Dtype::kBf16;
}

}  // namespace

template <class T, class Acc>
Engine<T, Acc>::Engine(const ReferenceSetup& setup)
    : checkpoint_(setup.checkpoint),
      model_(setup.model),
      math_(setup.mathematics),
      options_(setup.options),
      weights_(setup.checkpoint, setup.model),
      numerics_{setup.options.carrier == Carrier::kBf16},
      hyper_(setup.model.family == Family::kDeepseekV4),
      quantise_kv_(is_on(setup.options.kv_quantisation, setup.mathematics.quantised)),
      quantise_index_(is_on(setup.options.index_quantisation, setup.mathematics.quantised)),
      activation_scale_(setup.mathematics.power_of_two_scales ? kFp8Activation
                                                              : kFp8ActivationUnrounded) {
  hyper_shape_ = {.streams = model_.streams,
                  .hidden = model_.hidden,
                  .sinkhorn_iterations = model_.sinkhorn_iterations,
                  .rms_eps = math_.rms_eps,
                  .eps = math_.hyper_eps};
  // Window-only layers and MTP blocks: no YaRN. V3.2 stretches everywhere.
  window_rope_ = Rope(model_.rope_dim, math_.rope_theta, hyper_ ? Yarn{} : math_.yarn);
  if (hyper_) compressed_rope_ = Rope(model_.rope_dim, math_.compress_theta, math_.yarn);
  const Dtype plain = model_.storage.quantised ? Dtype::kBf16 : model_.storage.plain;
  if (hyper_) {
    entry_bytes_ = quantise_kv_ ? kv_entry_bytes(model_.head_dim - model_.rope_dim, model_.rope_dim)
                                : workloads::element_bytes(plain, model_.head_dim);
    index_bytes_ = quantise_index_ ? model_.index_dim / 2 + ceil_div(model_.index_dim, 32)
                                   : workloads::element_bytes(plain, model_.index_dim);
  } else {
    entry_bytes_ = quantise_kv_
                       ? model_.head_dim + 4 * ceil_div(model_.head_dim, 128) + 2 * model_.rope_dim
                       : workloads::element_bytes(plain, model_.head_dim + model_.rope_dim);
    index_bytes_ = quantise_index_ ? model_.index_dim + 4 * ceil_div(model_.index_dim, 128)
                                   : workloads::element_bytes(plain, model_.index_dim);
  }
  for (const LayerSpec& layer : model_.layers) caches_.push_back(empty_cache(layer));
  if (setup.drafts && hyper_) {
    if (!weights_.has("mtp.0.e_proj.weight")) {
      throw base::UnsupportedError(model_.name + ": this checkpoint has no MTP block");
    }
    for (std::size_t i = 0; i < model_.draft_layers.size(); ++i) {
      const auto block = static_cast<std::int64_t>(i);
      Draft& draft = drafts_.emplace_back();
      draft.block = block;
      draft.shift = block + 1;
      draft.cache = empty_cache(model_.draft_layers[i]);
    }
    if (!drafts_.empty()) {
      Draft& same = drafts_.emplace_back();
      same.shift = 0;
      same.cache = empty_cache(model_.draft_layers[0]);
    }
  }
}

template <class T, class Acc>
LayerCache<T> Engine<T, Acc>::empty_cache(const LayerSpec& layer) const {
  LayerCache<T> cache;
  if (!hyper_) return cache;
  // The window's ring grows with the sequence: no tensor bounds the configuration's window.
  if (layer.ratio > 0) {
    cache.main = CompressorState<T>({layer.ratio, model_.head_dim, layer.overlap});
  }
  if (layer.index == workloads::IndexMode::kAll) {
    cache.indexer = CompressorState<T>({layer.ratio, model_.index_dim, true});
  }
  return cache;
}

template <class T, class Acc>
KvHeld Engine<T, Acc>::kv_held() const {
  KvHeld held;
  for (const LayerCache<T>& cache : caches_) {
    const std::int64_t width = hyper_ ? model_.head_dim : model_.head_dim + model_.rope_dim;
    held.global += static_cast<std::int64_t>(cache.entries.size()) / width * entry_bytes_;
    held.global += static_cast<std::int64_t>(cache.keys.size()) / model_.index_dim * index_bytes_;
    if (hyper_) held.window += std::min(length_, model_.window) * entry_bytes_;
    held.tail += cache.main.bytes() + cache.indexer.bytes();
  }
  return held;
}

template <class T, class Acc>
void Engine<T, Acc>::apply(const WeightView& view, const T* x, std::int64_t m, T* y, bool wide,
                           bool quantised, std::int64_t x_stride, std::int64_t y_stride) {
  std::int64_t block = 0;
  if constexpr (std::is_same_v<Acc, float>) {
    if (quantised && view.scale != WeightView::Scale::kNone) block = view.scale_columns;
  }
  if (x_stride == 0) x_stride = view.columns;
  if (y_stride == 0) y_stride = view.rows;
  if constexpr (std::is_same_v<T, Acc>) {
    if (wide || !numerics_.bf16) {
      matmul<T, Acc>(x, m, x_stride, view, y, y_stride, block);
      return;
    }
  }
  product_.resize(static_cast<std::size_t>(m * view.rows));
  matmul<T, Acc>(x, m, x_stride, view, product_.data(), 0, block);
  parallel_for(m, m * view.rows, [&](std::int64_t i) {
    const Acc* from = product_.data() + i * view.rows;
    T* to = y + i * y_stride;
    if (wide) {
      for (std::int64_t j = 0; j < view.rows; ++j) to[j] = numerics_.wide(from[j]);
    } else {
      for (std::int64_t j = 0; j < view.rows; ++j) to[j] = numerics_.narrow(from[j]);
    }
  });
}

template <class T, class Acc>
void Engine<T, Acc>::linear(const Linear& w, const T* x, const T* quantised_x, std::int64_t m,
                            T* y) {
  const bool quantised = quantises(w);
  apply(w.view, quantised ? quantised_x : x, m, y, false, quantised);
}

template <class T, class Acc>
void Engine<T, Acc>::requantise(Linear& w) const {
  if (options_.expert_weights == ExpertWeights::kStored) return;
  if (w.narrow) {
    throw base::UnsupportedError(model_.name +
                                 ": its experts are quantised already; other formats can be tried "
                                 "on an unquantised checkpoint only");
  }
  const std::int64_t rows = w.view.rows;
  const std::int64_t columns = w.view.columns;
  w.owned.resize(static_cast<std::size_t>(rows * columns));
  decode_rows(w.view, 0, rows, w.owned.data());
  const auto at = [&](std::int64_t row, std::int64_t column) -> float& {
    return w.owned[static_cast<std::size_t>(row * columns + column)];
  };
  if (options_.expert_weights == ExpertWeights::kFp8) {
    constexpr std::int64_t kBlock = 128;
    for (std::int64_t r = 0; r < rows; r += kBlock) {
      for (std::int64_t c = 0; c < columns; c += kBlock) {
        double amax = 0.0;
        const std::int64_t r_end = std::min(rows, r + kBlock);
        const std::int64_t c_end = std::min(columns, c + kBlock);
        for (std::int64_t i = r; i < r_end; ++i) {
          for (std::int64_t j = c; j < c_end; ++j)
            amax = std::max<double>(amax, std::abs(at(i, j)));
        }
        const double scale = kFp8Activation.of(amax);
        for (std::int64_t i = r; i < r_end; ++i) {
          for (std::int64_t j = c; j < c_end; ++j) {
            at(i, j) = static_cast<float>(round_e4m3(at(i, j) / scale) * scale);
          }
        }
      }
    }
  } else {
    constexpr std::int64_t kBlock = 32;
    const ScaleRule rule =
        options_.expert_weights == ExpertWeights::kMxfp4 ? ScaleRule::kDeepseek : ScaleRule::kMx;
    std::array<float, kBlock> block{};
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t c = 0; c < columns; c += kBlock) {
        const std::int64_t n = std::min(kBlock, columns - c);
        block.fill(0.0F);
        std::copy_n(&at(i, c), n, block.begin());
        decode_mxfp4(encode_mxfp4(block, rule), block);
        std::copy_n(block.begin(), n, &at(i, c));
      }
    }
  }
  w.view = WeightView{};
  w.view.data = w.owned.data();
  w.view.rows = rows;
  w.view.columns = columns;
}

template <class T, class Acc>
std::vector<T> Engine<T, Acc>::quantise_rows(const T* x, std::int64_t rows,
                                             std::int64_t width) const {
  std::vector<T> out(x, x + rows * width);
  parallel_for(rows, 8 * rows * width, [&](std::int64_t r) {
    fake_quantise_e4m3(std::span<T>(out.data() + r * width, static_cast<std::size_t>(width)),
                       math_.activation_group, activation_scale_);
  });
  return out;
}

template <class T, class Acc>
Op Engine<T, Acc>::linear_op(const Linear& w, std::int64_t m, std::int64_t n, std::int64_t k,
                             std::int64_t batch, bool quantised) const {
  return workloads::Gemm{m,
                         n,
                         k,
                         batch,
                         quantised ? Dtype::kFp8 : Dtype::kBf16,
                         w.dtype,
                         product_dtype(w.dtype, quantised),
                         Dtype::kBf16,
                         model_.storage.fp8_block};
}

template <class T, class Acc>
Op Engine<T, Acc>::plain_op(const Linear& w, std::int64_t m, std::int64_t n, std::int64_t k,
                            Dtype output) const {
  return workloads::Gemm{
      m, n, k, 1, Dtype::kBf16, w.dtype, Dtype::kBf16, output, model_.storage.fp8_block};
}

template <class T, class Acc>
Dtype Engine<T, Acc>::index_dtype() const {
  if (quantise_index_) return hyper_ ? Dtype::kFp4 : Dtype::kFp8;
  const Dtype plain = model_.storage.quantised ? Dtype::kBf16 : model_.storage.plain;
  return plain == Dtype::kFp32 ? Dtype::kTf32 : plain;
}

template <class T, class Acc>
std::vector<T> Engine<T, Acc>::embed(std::span<const std::int32_t> ids,
                                     std::string_view name) const {
  const auto width = static_cast<std::size_t>(model_.hidden);
  std::vector<T> out(ids.size() * width);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Linear row = weights_.linear_rows(name, model_.hidden, ids[i], 1);
    T* to = out.data() + i * width;
    decode_rows(row.view, 0, 1, to);
    for (std::size_t j = 0; j < width; ++j) to[j] = numerics_.narrow(static_cast<Acc>(to[j]));
  }
  return out;
}

template <class T, class Acc>
RunResult Engine<T, Acc>::logits(const std::vector<T>& streams, std::int64_t tokens,
                                 const std::string& prefix, std::string_view norm,
                                 std::string_view dump_name, bool all, const Context& context) {
  constexpr std::int64_t kTokens = 64;  // whose logits are in memory at once
  const std::int64_t d = model_.hidden;
  const std::int64_t n = hyper_ ? model_.streams : 1;
  const std::string head = hyper_ ? "head.weight" : "lm_head.weight";
  const std::vector<float> norm_weight = weights_.vector(norm, d);
  std::vector<T> norm_t(norm_weight.begin(), norm_weight.end());
  std::vector<float> matrix;
  std::vector<float> base;
  std::vector<float> scale;
  if (hyper_) {
    matrix = weights_.vector(prefix + "hc_head_fn", n * n * d);
    base = weights_.vector(prefix + "hc_head_base", n);
    scale = weights_.vector(prefix + "hc_head_scale", 1);
  }
  const bool wanted = context.sink != nullptr && context.sink->wants(dump_name);
  const std::int64_t from = all ? 0 : tokens - 1;
  const Component component = context.prefix.empty() ? Component::kLmHead : Component::kDraft;
  RunResult result;
  Dtype head_dtype = Dtype::kFp32;
  for (std::int64_t first = from; first < tokens; first += kTokens) {
    const std::int64_t m = std::min(kTokens, tokens - first);
    const T* x = streams.data() + first * n * d;
    std::vector<T> u(static_cast<std::size_t>(m * d));
    if (hyper_) {
      hyper_head(numerics_, hyper_shape_, {matrix.data(), base.data(), scale.data()}, x, m,
                 u.data());
    } else {
      u.assign(x, x + m * d);
    }
    rms_norm(numerics_, u.data(), norm_t.data(), math_.rms_eps, m, d, u.data());
    std::vector<T> y(static_cast<std::size_t>(m * model_.vocab));
    const std::int64_t rows_at_once = std::max<std::int64_t>(1, kHeadBytes / (4 * d));
    for (std::int64_t row = 0; row < model_.vocab; row += rows_at_once) {
      const std::int64_t count = std::min(rows_at_once, model_.vocab - row);
      const Linear part = weights_.linear_rows(head, d, row, count);
      apply(part.view, u.data(), m, y.data() + row, true, false, d, model_.vocab);
      head_dtype = part.dtype;
    }
    for (std::int64_t i = 0; i < m; ++i) {
      const T* row = y.data() + i * model_.vocab;
      if (!std::all_of(row, row + model_.vocab, [](T v) { return std::isfinite(v); })) {
        ++result.not_finite;
      }
      result.best.push_back(
          static_cast<std::int32_t>(std::max_element(row, row + model_.vocab) - row));
    }
    if (wanted) {
      const std::array<std::int64_t, 1> shape = {model_.vocab};
      context.sink->rows(dump_name, shape, std::span<const T>(y));
    }
    if (first + m == tokens) {
      const T* row = y.data() + (m - 1) * model_.vocab;
      result.last.assign(row, row + model_.vocab);
    }
  }
  if (context.recorder != nullptr) {
    const std::int64_t m = tokens - from;
    Id id = context.input;
    if (hyper_) {
      id = record(
          context, Role::kHeadMerge, Component::kOther,
          workloads::HyperConnection{workloads::HyperPhase::kHead, m, n, d, n, 0, Dtype::kFp32},
          {id});
    }
    id = record_vector(context, Role::kFinalNorm, VectorKind::kNorm, m, d, Dtype::kBf16,
                       Dtype::kBf16, {id}, d);
    id = record(context, Role::kLmHead, component,
                workloads::Gemm{m, model_.vocab, d, 1, Dtype::kBf16, head_dtype, Dtype::kBf16,
                                Dtype::kFp32, model_.storage.fp8_block},
                {id});
    record_vector(context, Role::kSample, VectorKind::kSample, m, model_.vocab, Dtype::kFp32,
                  Dtype::kInt32, {id});
  }
  return result;
}

template <class T, class Acc>
RunResult Engine<T, Acc>::run(const RunRequest& request) {
  const Chunk chunk{request.tokens, length_};
  for (const std::int32_t id : request.tokens) {
    if (id < 0 || id >= model_.vocab) {
      throw std::invalid_argument(
          fmt::format("token id {} is outside the vocabulary of {}", id, model_.vocab));
    }
  }
  if (chunk.size() == 0) return {};
  const std::int64_t n = hyper_ ? model_.streams : 1;
  Recorder* recorder = request.recorder;
  Context context{.sink = request.sink, .recorder = recorder, .prefix = {}, .weights = {}};
  if (recorder != nullptr) recorder->begin("embed", -1);
  const char* embedding_name = hyper_ ? "embed.weight" : "model.embed_tokens.weight";
  std::vector<T> streams;
  {
    const std::vector<T> embedding = embed(request.tokens, embedding_name);
    streams.resize(embedding.size() * static_cast<std::size_t>(n));
    for (std::int64_t t = 0; t < chunk.size(); ++t) {
      const T* from = embedding.data() + t * model_.hidden;
      for (std::int64_t j = 0; j < n; ++j) {
        std::copy(from, from + model_.hidden, streams.data() + (t * n + j) * model_.hidden);
      }
    }
  }
  if (recorder != nullptr) {
    const Linear row = weights_.linear_rows(embedding_name, model_.hidden, 0, 1);
    record(context, Role::kEmbed, Component::kOther,
           workloads::Lookup{chunk.size(), 1, model_.hidden, row.dtype, 0, false}, {});
  }
  for (std::size_t i = 0; i < model_.layers.size(); ++i) {
    const LayerSpec& layer = model_.layers[i];
    const auto number = static_cast<std::int32_t>(i);
    context.prefix = fmt::format("layers.{}", i);
    context.weights = layer_prefix(model_, number);
    if (recorder != nullptr) recorder->begin(workloads::attention_block_name(layer), number);
    if (hyper_) {
      v4_attention(layer, chunk, context, caches_[i], streams);
    } else {
      mla_attention(layer, chunk, context, caches_[i], streams);
    }
    if (recorder != nullptr) recorder->begin(workloads::ffn_block_name(layer), number);
    context.input = kNone;
    ffn(layer, chunk, context, streams);
    if (hyper_) {
      dump(context, ".hidden", streams, {n, model_.hidden});
    } else {
      dump(context, ".hidden", streams, {model_.hidden});
    }
  }
  length_ += chunk.size();
  ids_.insert(ids_.end(), request.tokens.begin(), request.tokens.end());
  context.prefix.clear();
  context.input = kNone;
  if (recorder != nullptr) recorder->begin("head", -1);
  RunResult result = logits(streams, chunk.size(), "", hyper_ ? "norm.weight" : "model.norm.weight",
                            "logits", request.all_logits, context);
  if (!drafts_.empty()) feed_drafts(streams, request);
  return result;
}

template <class T, class Acc>
void Engine<T, Acc>::feed_drafts(const std::vector<T>& streams, const RunRequest& request) {
  for (Draft& draft : drafts_) {
    if (draft.block > 0) continue;  // fed by the block before it
    if (draft.shift == 0) {
      const bool wanted = request.sink != nullptr && request.sink->wants("mtp.0.shift0.logits");
      if (!wanted) continue;
    }
    draft.pending.insert(draft.pending.end(), streams.begin(), streams.end());
    run_draft(draft, length_ - draft.shift, false, -1, request.sink, nullptr, nullptr);
  }
}

template <class T, class Acc>
std::vector<double> Engine<T, Acc>::draft(std::int32_t next, Recorder* recorder) {
  if (drafts_.empty()) throw base::UnsupportedError(model_.name + " has no draft module here");
  RunResult result;
  run_draft(drafts_[0], length_, true, next, nullptr, recorder, &result);
  return result.last;
}

template <class T, class Acc>
void Engine<T, Acc>::run_draft(Draft& draft, std::int64_t until, bool last_logits_only,
                               std::int32_t next, Sink* sink, Recorder* recorder,
                               RunResult* result) {
  const std::int64_t m = until - draft.length;
  if (m <= 0) return;
  const std::int64_t d = model_.hidden;
  const std::int64_t n = model_.streams;
  const std::string p = draft_prefix(draft.block);
  Context context{.sink = sink,
                  .recorder = recorder,
                  .prefix = fmt::format("{}.shift{}", p, draft.shift),
                  .weights = p};
  std::vector<std::int32_t> ids;
  for (std::int64_t t = draft.length; t < until; ++t) {
    const auto at = static_cast<std::size_t>(t + draft.shift);
    ids.push_back(at < ids_.size() ? ids_[at] : next);
  }
  if (recorder != nullptr) {
    recorder->set_draft(true);
    recorder->begin("draft_first", -1);
  }
  std::vector<T> e = embed(ids, "embed.weight");
  const std::vector<float> enorm = weights_.vector(p + ".enorm.weight", d);
  const std::vector<float> hnorm = weights_.vector(p + ".hnorm.weight", d);
  const std::vector<T> enorm_t(enorm.begin(), enorm.end());
  const std::vector<T> hnorm_t(hnorm.begin(), hnorm.end());
  rms_norm(numerics_, e.data(), enorm_t.data(), math_.rms_eps, m, d, e.data());
  std::vector<T> x(draft.pending.begin(), draft.pending.begin() + m * n * d);
  draft.pending.erase(draft.pending.begin(), draft.pending.begin() + m * n * d);
  rms_norm(numerics_, x.data(), hnorm_t.data(), math_.rms_eps, m * n, d, x.data());
  const Linear e_proj = weights_.linear(p + ".e_proj.weight", d, d);
  const Linear h_proj = weights_.linear(p + ".h_proj.weight", d, d);
  std::vector<T> projected(e.size());
  const std::vector<T> eq = quantises(e_proj) ? quantise_rows(e.data(), m, d) : std::vector<T>{};
  linear(e_proj, e.data(), eq.data(), m, projected.data());
  std::vector<T> streams(x.size());
  const std::vector<T> xq =
      quantises(h_proj) ? quantise_rows(x.data(), m * n, d) : std::vector<T>{};
  linear(h_proj, x.data(), xq.data(), m * n, streams.data());
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t j = 0; j < n; ++j) {
      T* row = streams.data() + (t * n + j) * d;
      const T* add = projected.data() + t * d;
      for (std::int64_t i = 0; i < d; ++i) {
        row[i] = numerics_.narrow(static_cast<Acc>(add[i]) + static_cast<Acc>(row[i]));
      }
    }
  }
  if (recorder != nullptr) {
    const Linear row = weights_.linear_rows("embed.weight", d, 0, 1);
    const Id embedded = record(context, Role::kDraftEmbed, Component::kDraft,
                               workloads::Lookup{m, 1, d, row.dtype, 0, false}, {});
    const Id en = record_vector(context, Role::kDraftEmbedNorm, VectorKind::kNorm, m, d,
                                Dtype::kBf16, Dtype::kBf16, {embedded}, d);
    const Id hn = record_vector(context, Role::kDraftHiddenNorm, VectorKind::kNorm, m * n, d,
                                Dtype::kBf16, Dtype::kBf16, {}, d);
    const Id ep = record(context, Role::kDraftEmbedProj, Component::kDraft,
                         linear_op(e_proj, m, d, d, 1, quantises(e_proj)), {en});
    context.input = record(context, Role::kDraftHiddenProj, Component::kDraft,
                           linear_op(h_proj, m * n, d, d, 1, quantises(h_proj)), {hn, ep});
  }
  const Chunk chunk{ids, draft.length};
  const LayerSpec& layer = model_.draft_layers[static_cast<std::size_t>(draft.block)];
  context.input = v4_attention(layer, chunk, context, draft.cache, streams);
  context.input = ffn(layer, chunk, context, streams);
  dump(context, ".hidden", streams, {n, d});
  draft.length = until;
  RunResult out = logits(streams, m, p + ".", p + ".norm.weight", context.prefix + ".logits",
                         !last_logits_only, context);
  if (recorder != nullptr) recorder->set_draft(false);
  if (result != nullptr) *result = std::move(out);
  // The next block of a deeper module takes this one's streams and the token one further on.
  for (Draft& deeper : drafts_) {
    if (draft.shift == 0 || deeper.block != draft.block + 1) continue;
    deeper.pending.insert(deeper.pending.end(), streams.begin(), streams.end());
    run_draft(deeper, length_ - deeper.shift, false, -1, sink, nullptr, nullptr);
  }
}

std::unique_ptr<ReferenceModel> make_reference(const ReferenceSetup& setup) {
  const Carrier carrier = setup.options.carrier;
  if (setup.model.family == Family::kDeepseekV41) {
    throw base::UnsupportedError(setup.model.name +
                                 ": the functional reference covers V4 and V3.2, not V4.1");
  }
  if (setup.drafts && setup.model.family != Family::kDeepseekV4) {
    throw base::UnsupportedError(setup.model.name + ": only V4's MTP block can run");
  }
  if (setup.options.arithmetic == Arithmetic::kHardware) {
    if (carrier == Carrier::kF64) {
      throw base::UnsupportedError(
          "hardware arithmetic accumulates in FP32; use carrier f32 or bf16");
    }
    return std::make_unique<Engine<float, float>>(setup);
  }
  if (carrier == Carrier::kF64) return std::make_unique<Engine<double, double>>(setup);
  return std::make_unique<Engine<float, double>>(setup);
}

template class Engine<double, double>;
template class Engine<float, double>;
template class Engine<float, float>;

}  // namespace foretoken::reference
