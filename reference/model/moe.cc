// The second half of a layer: dense network, or router, routed experts and the shared one (facts
// 3.9, 5).
#include "reference/model/engine.h"
#include "reference/ops/norm.h"

namespace foretoken::reference {

using workloads::Component;
using workloads::Dtype;
using workloads::FfnKind;
using workloads::LayerSpec;
using workloads::Role;
using workloads::VectorKind;

namespace {

// Rows of an expert worked on at once.
constexpr std::int64_t kExpertRows = 256;

// A token's place among an expert's rows.
struct Routed {
  std::int32_t token;
  std::int32_t slot;  // which of its choices
};

}  // namespace

template <class T, class Acc>
Recorder::Id Engine<T, Acc>::ffn(const LayerSpec& layer, const Chunk& chunk, const Context& context,
                                 std::vector<T>& streams) {
  const std::int64_t d = model_.hidden;
  const std::int64_t n = hyper_ ? model_.streams : 1;
  const std::int64_t tokens = chunk.size();
  const bool dense = layer.ffn == FfnKind::kDense;
  const std::string f = context.weights + (hyper_ ? ".ffn." : ".mlp.");
  const char* gate_name = hyper_ ? "w1.weight" : "gate_proj.weight";
  const char* up_name = hyper_ ? "w3.weight" : "up_proj.weight";
  const char* down_name = hyper_ ? "w2.weight" : "down_proj.weight";
  const auto size = [](std::int64_t rows, std::int64_t width) {
    return static_cast<std::size_t>(rows * width);
  };

  // Input: the streams' mix, normed.
  std::vector<T> x(size(tokens, d));
  std::vector<T> mixes;
  std::vector<T> pre;
  std::vector<T> post;
  std::vector<T> comb;
  Id pre_id = context.input;
  if (hyper_) {
    const std::string hp = context.weights + ".hc_ffn_";
    const std::vector<float> fn = weights_.vector(hp + "fn", hyper_shape_.mixes() * n * d);
    const std::vector<float> base = weights_.vector(hp + "base", hyper_shape_.mixes());
    const std::vector<float> scale = weights_.vector(hp + "scale", 3);
    mixes.resize(size(tokens, hyper_shape_.mixes()));
    pre.resize(size(tokens, n));
    post.resize(size(tokens, n));
    comb.resize(size(tokens, n * n));
    hyper_pre(numerics_, hyper_shape_, {fn.data(), base.data(), scale.data()}, streams.data(),
              tokens, HyperMix<T>{mixes.data(), pre.data(), post.data(), comb.data()}, x.data());
    dump(context, ".hc_ffn.mixes", mixes, {hyper_shape_.mixes()});
    dump(context, ".hc_ffn.pre", pre, {n});
    dump(context, ".hc_ffn.post", post, {n});
    dump(context, ".hc_ffn.comb", comb, {n, n});
    pre_id = record(
        context, Role::kHcFfnPre, Component::kHyperConnections,
        workloads::HyperConnection{workloads::HyperPhase::kPre, tokens, n, d, hyper_shape_.mixes(),
                                   hyper_shape_.sinkhorn_iterations, Dtype::kFp32},
        {pre_id});
  } else {
    x = streams;
  }
  const std::vector<float> norm = weights_.vector(
      context.weights + (hyper_ ? ".ffn_norm.weight" : ".post_attention_layernorm.weight"), d);
  const std::vector<T> norm_t(norm.begin(), norm.end());
  rms_norm(numerics_, x.data(), norm_t.data(), math_.rms_eps, tokens, d, x.data());
  const Id normed = record_vector(context, Role::kFfnNorm, VectorKind::kNorm, tokens, d,
                                  Dtype::kBf16, Dtype::kBf16, {pre_id}, d);
  dump(context, ".ffn.in", x, {d});

  // Routing.
  const std::int64_t topk = model_.experts_per_token;
  std::vector<std::int32_t> indices;
  std::vector<T> route_weights;
  Id route_id = kNone;
  if (!dense) {
    const Linear gate = weights_.linear(f + "gate.weight", model_.experts, d);
    std::vector<float> bias;
    if (!layer.hash_routing) {
      bias = weights_.vector(f + (hyper_ ? "gate.bias" : "gate.e_score_correction_bias"),
                             model_.experts);
    }
    std::vector<T> logits(size(tokens, model_.experts));
    apply(gate.view, x.data(), tokens, logits.data(), true, false);
    indices.resize(size(tokens, topk));
    route_weights.resize(indices.size());
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::vector<std::int32_t> fixed;
      if (layer.hash_routing) {
        fixed = weights_.integer_row(f + "gate.tid2eid", chunk.tokens[static_cast<std::size_t>(t)],
                                     topk, model_.experts);
      }
      route(numerics_, math_.router, logits.data() + t * model_.experts,
            bias.empty() ? nullptr : bias.data(), fixed.empty() ? nullptr : fixed.data(),
            indices.data() + t * topk, route_weights.data() + t * topk);
    }
    dump(context, ".ffn.gate.weights", route_weights, {topk});
    dump(context, ".ffn.gate.indices", indices, {topk});
    const Id logits_id = record(context, Role::kRouter, Component::kRouter,
                                plain_op(gate, tokens, model_.experts, d, Dtype::kFp32), {normed});
    route_id =
        record(context, Role::kRoute, Component::kOther,
               workloads::Route{tokens, model_.experts, topk, layer.hash_routing}, {logits_id});
  }

  // One gated network on `rows` rows: gate and up from `in` (or its quantised form), the activation
  // times the rows' weights, down.
  struct Network {
    Linear gate;
    Linear up;
    Linear down;
  };
  const auto open = [&](const std::string& prefix, std::int64_t inner) {
    return Network{weights_.linear(prefix + gate_name, inner, d),
                   weights_.linear(prefix + up_name, inner, d),
                   weights_.linear(prefix + down_name, d, inner)};
  };
  const auto feed = [&](const Network& w, std::int64_t inner, const T* in, const T* quantised_in,
                        const T* row_weights, double limit, std::int64_t rows, T* out) {
    std::vector<T> gate(size(rows, inner));
    std::vector<T> up(size(rows, inner));
    linear(w.gate, in, quantised_in, rows, gate.data());
    linear(w.up, in, quantised_in, rows, up.data());
    swiglu(numerics_, gate.data(), up.data(), row_weights, limit, rows, inner, gate.data());
    const std::vector<T> hidden_q =
        quantises(w.down) ? quantise_rows(gate.data(), rows, inner) : std::vector<T>{};
    linear(w.down, gate.data(), hidden_q.data(), rows, out);
  };

  std::vector<T> xq;  // quantised once for all networks
  const auto quantised_input = [&](const Network& w) {
    if (xq.empty() && (quantises(w.gate) || quantises(w.up))) {
      xq = quantise_rows(x.data(), tokens, d);
    }
  };
  Id xq_id = normed;
  const auto record_quantised = [&](bool quantised) {
    if (quantised && xq_id == normed) {
      xq_id = record_vector(context, Role::kQuantFfn, VectorKind::kQuantise, tokens, d,
                            Dtype::kBf16, Dtype::kFp8, {normed});
    }
  };
  // Trace of a network with FP8 linears.
  const auto record_network = [&](const Network& w, Role gate_up, Role act, Role down,
                                  std::int64_t inner) {
    const bool quantised = quantises(w.gate);
    Id id = record(context, gate_up, Component::kSharedExperts,
                   linear_op(w.gate, tokens, 2 * inner, d, 1, quantised), {xq_id});
    id = record_vector(context, act, VectorKind::kSwiglu, tokens, inner, Dtype::kBf16,
                       quantises(w.down) ? Dtype::kFp8 : Dtype::kBf16, {id});
    return record(context, down, Component::kSharedExperts,
                  linear_op(w.down, tokens, d, inner, 1, quantises(w.down)), {id});
  };

  std::vector<T> y(size(tokens, d));
  Id y_id = kNone;
  // Pieces of the chunk for networks every token goes through.
  const auto feed_all = [&](const Network& w, std::int64_t inner, double limit,
                            std::vector<T>& out) {
    quantised_input(w);
    for (std::int64_t t = 0; t < tokens; t += kExpertRows) {
      const std::int64_t m = std::min(kExpertRows, tokens - t);
      feed(w, inner, x.data() + t * d, xq.empty() ? nullptr : xq.data() + t * d, nullptr, limit, m,
           out.data() + t * d);
    }
  };
  if (dense) {
    const Network w = open(f, model_.dense_inner);
    feed_all(w, model_.dense_inner, 0.0, y);
    record_quantised(quantises(w.gate));
    y_id = record_network(w, Role::kDenseGateUp, Role::kDenseSwiglu, Role::kDenseDown,
                          model_.dense_inner);
  } else {
    std::vector<T> shared;
    Id shared_id = kNone;
    if (model_.shared_experts > 0) {
      const std::int64_t inner = model_.shared_experts * model_.expert_inner;
      const Network w = open(f + "shared_experts.", inner);
      shared.resize(y.size());
      feed_all(w, inner, options_.clamp_shared_expert ? math_.swiglu_limit : 0.0, shared);
      record_quantised(quantises(w.gate));
      shared_id =
          record_network(w, Role::kSharedGateUp, Role::kSharedSwiglu, Role::kSharedDown, inner);
    }
    std::vector<std::vector<Routed>> rows_of(static_cast<std::size_t>(model_.experts));
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t k = 0; k < topk; ++k) {
        rows_of[static_cast<std::size_t>(indices[size(t, topk) + static_cast<std::size_t>(k)])]
            .push_back({static_cast<std::int32_t>(t), static_cast<std::int32_t>(k)});
      }
    }
    // Expert by expert in ascending order, so that a token's sum has the same order in every batch.
    const std::int64_t inner = model_.expert_inner;
    std::vector<Acc> sum(y.size(), Acc{0});
    std::vector<T> in;
    std::vector<T> in_q;
    std::vector<T> out;
    std::vector<T> row_weights;
    std::int64_t active = 0;
    Network recorded;
    for (std::int64_t e = 0; e < model_.experts; ++e) {
      const std::vector<Routed>& rows = rows_of[static_cast<std::size_t>(e)];
      if (rows.empty()) continue;
      ++active;
      Network w = open(fmt::format("{}experts.{}.", f, e), inner);
      requantise(w.gate);
      requantise(w.up);
      requantise(w.down);
      quantised_input(w);
      for (std::size_t at = 0; at < rows.size(); at += kExpertRows) {
        const auto m =
            static_cast<std::int64_t>(std::min<std::size_t>(kExpertRows, rows.size() - at));
        in.resize(size(m, d));
        in_q.resize(xq.empty() ? 0 : in.size());
        out.resize(in.size());
        row_weights.resize(static_cast<std::size_t>(m));
        for (std::int64_t i = 0; i < m; ++i) {
          const Routed& r = rows[at + static_cast<std::size_t>(i)];
          std::copy_n(x.data() + r.token * d, d, in.data() + i * d);
          if (!xq.empty()) std::copy_n(xq.data() + r.token * d, d, in_q.data() + i * d);
          row_weights[static_cast<std::size_t>(i)] =
              route_weights[size(r.token, topk) + static_cast<std::size_t>(r.slot)];
        }
        // V4 weights what goes into the down projection, V3.2 what comes out of it: not the same
        // thing when that input is quantised.
        feed(w, inner, in.data(), in_q.empty() ? nullptr : in_q.data(),
             hyper_ ? row_weights.data() : nullptr, math_.swiglu_limit, m, out.data());
        for (std::int64_t i = 0; i < m; ++i) {
          Acc* to = sum.data() + rows[at + static_cast<std::size_t>(i)].token * d;
          const T* from = out.data() + i * d;
          const Acc share =
              hyper_ ? Acc{1} : static_cast<Acc>(row_weights[static_cast<std::size_t>(i)]);
          for (std::int64_t j = 0; j < d; ++j) to[j] += share * static_cast<Acc>(from[j]);
        }
      }
      recorded = std::move(w);
    }
    for (std::size_t i = 0; i < y.size(); ++i) {
      const Acc all = shared.empty() ? sum[i] : sum[i] + static_cast<Acc>(shared[i]);
      y[i] = numerics_.narrow(all);
    }
    if (context.recorder != nullptr) {
      const bool quantised = quantises(recorded.gate);
      record_quantised(quantised);
      const Dtype activation = quantised ? Dtype::kFp8 : Dtype::kBf16;
      const Dtype weight = recorded.gate.dtype;
      const Dtype compute = weight == Dtype::kFp32 ? Dtype::kTf32 : activation;
      const std::int64_t rows = tokens * topk;
      Id id =
          record(context, Role::kExpertGateUp, Component::kRoutedExperts,
                 workloads::GroupedGemm{rows, model_.experts, active, 2 * inner, d, activation,
                                        weight, compute, Dtype::kBf16, model_.storage.fp8_block},
                 {route_id, xq_id});
      id = record_vector(context, Role::kExpertSwiglu, VectorKind::kSwiglu, rows, inner,
                         Dtype::kBf16, activation, {id});
      y_id = record(context, Role::kExpertDown, Component::kRoutedExperts,
                    workloads::GroupedGemm{rows, model_.experts, active, d, inner, activation,
                                           weight, compute, Dtype::kBf16, model_.storage.fp8_block},
                    {id});
      if (shared_id != kNone) {
        y_id = record_vector(context, Role::kSharedAdd, VectorKind::kResidual, tokens, d,
                             Dtype::kBf16, Dtype::kBf16, {y_id, shared_id});
      }
    }
  }
  dump(context, ".ffn.out", y, {d});
  if (hyper_) {
    hyper_post(numerics_, hyper_shape_, y.data(), post.data(), comb.data(), tokens, streams.data());
    return record(context, Role::kHcFfnPost, Component::kHyperConnections,
                  workloads::HyperConnection{workloads::HyperPhase::kPost, tokens, n, d,
                                             hyper_shape_.mixes(), 0, Dtype::kFp32},
                  {y_id, pre_id});
  }
  for (std::size_t i = 0; i < y.size(); ++i) {
    streams[i] = numerics_.narrow(static_cast<Acc>(streams[i]) + static_cast<Acc>(y[i]));
  }
  return record_vector(context, Role::kFfnResidual, VectorKind::kResidual, tokens, d, Dtype::kBf16,
                       Dtype::kBf16, {y_id});
}

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                                                       \
  template Recorder::Id Engine<T, A>::ffn(const LayerSpec&, const Chunk&, const Context&, \
                                          std::vector<T>&);
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
