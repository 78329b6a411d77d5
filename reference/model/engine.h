// The model that runs, for one choice of number types. Private to reference/model.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "reference/formats/block_formats.h"
#include "reference/model/reference_model.h"
#include "reference/model/weights.h"
#include "reference/ops/compressor.h"
#include "reference/ops/hyper.h"
#include "reference/ops/rope.h"

namespace foretoken::reference {

// What one layer remembers of the sequence.
template <class T>
struct LayerCache {
  std::vector<T> window;       // ring of the last `window` entries, slot = position mod window
  std::vector<T> entries;      // V4: compressed; V3.2: latent and rotary key of every token
  std::vector<T> keys;         // of the indexer
  CompressorState<T> main;     // V4
  CompressorState<T> indexer;  // V4 CSA
};

// The tokens of one run: their number, the position of the first, their ids.
struct Chunk {
  std::span<const std::int32_t> tokens;
  std::int64_t first = 0;
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(tokens.size()); }
};

template <class T, class Acc>
class Engine final : public ReferenceModel {
 public:
  explicit Engine(const ReferenceSetup& setup);

  RunResult run(const RunRequest& request) override;
  std::vector<double> draft(std::int32_t next, Recorder* recorder) override;
  [[nodiscard]] std::int64_t length() const override { return length_; }
  [[nodiscard]] KvHeld kv_held() const override;

 private:
  using Id = Recorder::Id;
  static constexpr Id kNone = Recorder::kNone;
  // Tokens worked on at once in the attention half: bounds memory, changes no result.
  static constexpr std::int64_t kTile = 128;

  // Where a layer's results go and which names they carry.
  struct Context {
    Sink* sink = nullptr;
    Recorder* recorder = nullptr;
    std::string prefix;   // of dumped names: "layers.3", "mtp.0.shift1"
    std::string weights;  // of tensor names: "layers.3", "mtp.0"
    Id input = kNone;     // the operator that made the block's input, inside the same block
  };

  struct Draft {
    std::int64_t block = 0;
    std::int64_t shift = 1;  // distance from a position to the token it is given
    LayerCache<T> cache;
    std::int64_t length = 0;  // positions run
    std::vector<T> pending;   // streams of positions from `length` on
  };

  // engine.cc
  std::vector<T> embed(std::span<const std::int32_t> ids, std::string_view name) const;
  RunResult logits(const std::vector<T>& streams, std::int64_t tokens, const std::string& prefix,
                   std::string_view norm, std::string_view dump, bool all, const Context& context);
  void run_draft(Draft& draft, std::int64_t until, bool last_logits_only, std::int32_t next,
                 Sink* sink, Recorder* recorder, RunResult* result);
  void feed_drafts(const std::vector<T>& streams, const RunRequest& request);
  LayerCache<T> empty_cache(const workloads::LayerSpec& layer) const;

  // Products, stored narrow (or wide). `quantise` says that the input already is quantised, which
  // the hardware's order of accumulation depends on.
  void apply(const WeightView& view, const T* x, std::int64_t m, T* y, bool wide, bool quantised,
             std::int64_t x_stride = 0, std::int64_t y_stride = 0);
  void linear(const Linear& w, const T* x, const T* quantised_x, std::int64_t m, T* y);
  // The weights of an expert as options_.expert_weights wants them.
  void requantise(Linear& w) const;
  [[nodiscard]] bool quantises(const Linear& w) const {
    return options_.activation_quantisation == Switch::kOn ||
           (options_.activation_quantisation == Switch::kAuto && w.narrow);
  }
  // Rows as FP8 with a scale per group, decoded again.
  std::vector<T> quantise_rows(const T* x, std::int64_t rows, std::int64_t width) const;

  // v4_attention.cc
  Id v4_attention(const workloads::LayerSpec& layer, const Chunk& chunk, const Context& context,
                  LayerCache<T>& cache, std::vector<T>& streams);
  // mla_attention.cc
  Id mla_attention(const workloads::LayerSpec& layer, const Chunk& chunk, const Context& context,
                   LayerCache<T>& cache, std::vector<T>& x);
  // moe.cc
  Id ffn(const workloads::LayerSpec& layer, const Chunk& chunk, const Context& context,
         std::vector<T>& streams);

  // Index queries' scores and choices of the tile's tokens over `keys`.
  struct Selection {
    std::vector<std::vector<std::int32_t>> chosen;  // ascending, per token
  };
  Selection select(const T* q, const T* weights, std::int64_t tokens, std::int64_t first,
                   std::int64_t ratio, const std::vector<T>& keys, const Context& context);

  // Trace of a linear: its dtypes follow from how the weight is stored and multiplied.
  [[nodiscard]] workloads::Op linear_op(const Linear& w, std::int64_t m, std::int64_t n,
                                        std::int64_t k, std::int64_t batch, bool quantised) const;
  [[nodiscard]] workloads::Op plain_op(const Linear& w, std::int64_t m, std::int64_t n,
                                       std::int64_t k, workloads::Dtype output) const;
  Id record(const Context& context, workloads::Role role, workloads::Component component,
            const workloads::Op& op, std::initializer_list<Id> inputs) const {
    return context.recorder == nullptr ? kNone : context.recorder->add(role, component, op, inputs);
  }
  Id record_vector(const Context& context, workloads::Role role, workloads::VectorKind kind,
                   std::int64_t rows, std::int64_t width, workloads::Dtype in, workloads::Dtype out,
                   std::initializer_list<Id> inputs, std::int64_t weights = 0,
                   std::int64_t kv_write_bytes = 0) const {
    if (context.recorder == nullptr) return kNone;
    return context.recorder->add(
        role, workloads::Component::kOther,
        workloads::VectorOp{kind, rows, width, in, out, kv_write_bytes, weights}, inputs);
  }
  [[nodiscard]] workloads::Dtype index_dtype() const;

  // Dumps rows of `width` values as [..., shape].
  template <class V>
  void dump(const Context& context, std::string_view name, const std::vector<V>& data,
            std::initializer_list<std::int64_t> shape) const {
    if (context.sink == nullptr) return;
    const std::string full = context.prefix + std::string(name);
    if (!context.sink->wants(full)) return;
    context.sink->rows(full, std::span<const std::int64_t>(shape.begin(), shape.size()),
                       std::span<const V>(data));
  }

  const Checkpoint& checkpoint_;
  const workloads::ModelSpec model_;
  const Mathematics math_;
  const ReferenceOptions options_;
  const Weights weights_;
  const Numerics<T, Acc> numerics_;
  const bool hyper_;  // V4: residual streams; V3.2: a plain residual
  const bool quantise_kv_;
  const bool quantise_index_;
  const GroupScale activation_scale_;
  HyperShape hyper_shape_;
  Rope window_rope_;      // V4: window-only layers; V3.2: all
  Rope compressed_rope_;  // V4: layers with a compressor
  // Bytes of cache rows in their serving formats.
  std::int64_t entry_bytes_ = 0;
  std::int64_t index_bytes_ = 0;

  std::vector<LayerCache<T>> caches_;
  std::vector<Draft> drafts_;
  std::vector<std::int32_t> ids_;  // all tokens so far, for drafts
  std::int64_t length_ = 0;
  std::vector<Acc> product_;
};

}  // namespace foretoken::reference
