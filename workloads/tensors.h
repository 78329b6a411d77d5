// The weight tensors of a model, layer by layer: the one list behind parameter and byte counts.
#pragma once

#include <cstdint>

#include "workloads/model_spec.h"

namespace foretoken::workloads {

// How a tensor is stored: FP8 linears, routed experts, BF16, or FP32.
enum class TensorClass : std::uint8_t { kLinear, kExpert, kPlain, kFp32 };

// `batch` tensors [rows, columns]; `split` says that tensor parallelism divides it.
struct Tensor {
  TensorClass storage;
  std::int64_t batch, rows, columns;
  bool split;

  [[nodiscard]] constexpr std::int64_t elements() const { return batch * rows * columns; }
};

// Calls f(Tensor) for every weight of one layer; `experts` is the layer's number of routed experts.
template <class F>
void for_each_layer_tensor(const ModelSpec& m, const LayerSpec& layer, std::int64_t experts,
                           F&& f) {
  const auto emit = [&](TensorClass storage, std::int64_t rows, std::int64_t columns, bool split,
                        std::int64_t batch = 1) {
    f(Tensor{storage, batch, rows, columns, split});
  };
  const std::int64_t d = m.hidden;
  const std::int64_t c = m.head_dim;
  const std::int64_t index_width = m.index_heads * m.index_dim;
  emit(TensorClass::kLinear, m.q_rank, d, false);  // wq_a
  emit(TensorClass::kPlain, 1, m.q_rank, false);   // q_norm
  if (layer.attention == AttentionKind::kMlaDsa) {
    emit(TensorClass::kLinear, m.heads * (m.nope_dim + m.rope_dim), m.q_rank, true);  // wq_b
    emit(TensorClass::kLinear, c + m.rope_dim, d, false);                             // wkv_a
    emit(TensorClass::kPlain, 1, c, false);                                           // kv_norm
    emit(TensorClass::kLinear, m.heads * (m.nope_dim + m.value_dim), c, true);        // wkv_b
    emit(TensorClass::kLinear, d, m.heads * m.value_dim, true);                       // wo
    emit(TensorClass::kLinear, index_width, m.q_rank, false);  // indexer wq_b
    emit(TensorClass::kLinear, m.index_dim, d, false);         // indexer wk
    emit(TensorClass::kPlain, 2, m.index_dim, false);          // indexer k_norm, weight and bias
    emit(TensorClass::kPlain, m.index_heads, d, false);        // indexer weights_proj
  } else {
    emit(TensorClass::kLinear, m.heads * c, m.q_rank, true);                            // wq_b
    emit(TensorClass::kLinear, c, d, false);                                            // wkv
    emit(TensorClass::kPlain, 1, c, false);                                             // kv_norm
    emit(TensorClass::kLinear, m.o_groups * m.o_rank, m.heads / m.o_groups * c, true);  // wo_a
    emit(TensorClass::kLinear, d, m.o_groups * m.o_rank, true);                         // wo_b
    emit(TensorClass::kFp32, 1, m.heads, false);                                        // sinks
  }
  if (layer.attention == AttentionKind::kCsa || layer.attention == AttentionKind::kHca) {
    const std::int64_t halves = layer.overlap ? 2 : 1;
    emit(TensorClass::kPlain, 2 * halves * c, d, false);       // compressor wkv, wgate
    emit(TensorClass::kPlain, 1, c, false);                    // compressor norm
    emit(TensorClass::kFp32, layer.ratio, halves * c, false);  // positional bias
  }
  if (layer.attention == AttentionKind::kCsa) {
    emit(TensorClass::kLinear, index_width, m.q_rank, false);       // indexer wq_b
    emit(TensorClass::kPlain, m.index_heads, d, false);             // indexer weights_proj
    emit(TensorClass::kPlain, 4 * m.index_dim, d, false);           // its compressor wkv, wgate
    emit(TensorClass::kPlain, 1, m.index_dim, false);               // its norm
    emit(TensorClass::kFp32, layer.ratio, 2 * m.index_dim, false);  // its positional bias
  }
  if (layer.attention == AttentionKind::kShared) {
    if (layer.owns_cache) {
      emit(TensorClass::kPlain, (layer.ratio > 1 ? 2 : 1) * c, d, false);  // wkv (and wgate)
      emit(TensorClass::kPlain, 1, c, false);                              // norm
      emit(TensorClass::kPlain, m.index_dim, c, false);                    // indexer key projection
      emit(TensorClass::kPlain, 1, m.index_dim, false);                    // its norm
    }
    if (layer.index == IndexMode::kAll || layer.index == IndexMode::kCandidates) {
      emit(TensorClass::kLinear, index_width, m.q_rank, false);  // indexer wq_b
      emit(TensorClass::kPlain, m.index_heads, d, false);        // indexer weights_proj
    }
  }
  if (layer.engram) {
    emit(TensorClass::kLinear, (m.streams + 1) * d, m.engram_rows * m.engram_dim, false);
  }
  if (layer.ffn == FfnKind::kDense) {
    emit(TensorClass::kLinear, m.dense_inner, d, true, 2);
    emit(TensorClass::kLinear, d, m.dense_inner, true);
  } else {
    emit(TensorClass::kExpert, m.expert_inner, d, false, 2 * experts);
    emit(TensorClass::kExpert, d, m.expert_inner, false, experts);
    if (m.shared_experts > 0) {
      emit(TensorClass::kLinear, m.expert_inner, d, true, 2 * m.shared_experts);
      emit(TensorClass::kLinear, d, m.expert_inner, true, m.shared_experts);
    }
    emit(TensorClass::kPlain, experts, d, false);  // router
    if (!layer.hash_routing) {
      emit(TensorClass::kFp32, m.image_bias ? 2 : 1, experts, false);  // selection bias
    }
  }
  if (m.hyper()) {
    // Mixing matrix, base and scale, once for each of the two sublayers.
    emit(TensorClass::kFp32, 2, m.mix_width() * (m.streams * d + 1) + 3, false);
  }
  emit(TensorClass::kPlain, 2, d, false);  // attention and FFN norms
}

// Embedding, head, final norm and head merge.
template <class F>
void for_each_global_tensor(const ModelSpec& m, F&& f) {
  f(Tensor{TensorClass::kPlain, 1, m.vocab, m.hidden, true});  // embedding
  f(Tensor{TensorClass::kPlain, 1, m.vocab, m.hidden, true});  // head
  f(Tensor{TensorClass::kPlain, 1, 1, m.hidden, false});       // final norm
  if (m.family == Family::kDeepseekV4 && m.hyper()) {
    f(Tensor{TensorClass::kFp32, 1, 1, m.streams * (m.streams * m.hidden + 1) + 1, false});
  }
}

// The draft module without its layers' own tensors: projections, norms, head merge, Markov head.
template <class F>
void for_each_draft_tensor(const ModelSpec& m, F&& f) {
  if (m.draft_layers.empty()) return;
  const auto layers = static_cast<std::int64_t>(m.draft_layers.size());
  const std::int64_t d = m.hidden;
  if (m.family == Family::kDeepseekV41) {
    if (m.draft_markov_rank > 0) {
      f(Tensor{TensorClass::kPlain, 2, m.vocab, m.draft_markov_rank, true});
    }
    return;
  }
  f(Tensor{TensorClass::kLinear, 2 * layers, d, d, false});  // e_proj and h_proj
  f(Tensor{TensorClass::kPlain, 3 * layers, 1, d, false});   // enorm, hnorm, norm
  if (m.hyper()) {
    f(Tensor{TensorClass::kFp32, layers, 1, m.streams * (m.streams * d + 1) + 1, false});
  }
}

}  // namespace foretoken::workloads
