// A whole model that runs: tokens in, logits out, with the caches and the compressor state a
// serving engine would keep.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "reference/checkpoint/checkpoint.h"
#include "reference/model/mathematics.h"
#include "reference/model/options.h"
#include "reference/model/recorder.h"
#include "reference/model/sink.h"
#include "workloads/model_spec.h"

namespace foretoken::reference {

// Bytes that the caches hold in their serving formats, as `count` has them.
struct KvHeld {
  std::int64_t global = 0;
  std::int64_t window = 0;
  std::int64_t tail = 0;
  [[nodiscard]] std::int64_t total() const { return global + window + tail; }
};

struct RunRequest {
  std::span<const std::int32_t> tokens;  // at the positions after those already run
  bool all_logits = true;                // else the last token's only
  Sink* sink = nullptr;
  Recorder* recorder = nullptr;
};

struct RunResult {
  std::vector<std::int32_t> best;  // per token with logits: the id with the largest, lowest on ties
  std::vector<double> last;        // logits of the last token
  std::int64_t not_finite = 0;     // tokens with a NaN or an infinity among their logits
};

// One sequence. Layers run one after another and map their weights while they do, so that memory
// stays near one layer's weights plus the state.
class ReferenceModel {
 public:
  ReferenceModel() = default;
  ReferenceModel(const ReferenceModel&) = delete;
  ReferenceModel& operator=(const ReferenceModel&) = delete;
  virtual ~ReferenceModel() = default;

  // Prefill, a chunk of it, or decode: the same function, and the same numbers bit for bit.
  // Logits go to the sink as "logits" and come back for the last token. Throws ConfigError for
  // weights that cannot be used, and std::invalid_argument for token ids outside the vocabulary.
  virtual RunResult run(const RunRequest& request) = 0;

  // V4: the MTP block on every position it has not seen, the last one with `next` as its token.
  // Answers the logits of the token after `next`. UnsupportedError without a draft module.
  virtual std::vector<double> draft(std::int32_t next, Recorder* recorder) = 0;

  [[nodiscard]] virtual std::int64_t length() const = 0;  // tokens run so far
  [[nodiscard]] virtual KvHeld kv_held() const = 0;       // of the main model's layers
};

struct ReferenceSetup {
  const Checkpoint& checkpoint;
  const workloads::ModelSpec& model;
  Mathematics mathematics;
  ReferenceOptions options;
  bool drafts = false;  // keep what `draft` and the sink's mtp.* need
};

// Throws UnsupportedError for families and combinations that cannot run (V4.1; hardware arithmetic
// in FP64), ConfigError for tensors that are missing or misshapen.
std::unique_ptr<ReferenceModel> make_reference(const ReferenceSetup& setup);

}  // namespace foretoken::reference
