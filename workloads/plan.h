// How a model is spread over devices, and what one step of the engine works on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "workloads/count.h"
#include "workloads/routing.h"

namespace foretoken::workloads {

// How expert traffic overlaps with computation.
enum class Overlap : std::uint8_t {
  kNone,    // dispatch, experts, combine one after another
  kShared,  // the shared expert runs while tokens travel
  kWaves,   // and experts run in waves: while one computes, the next arrives, the last returns
  // And dispatch runs beside the first product, combine beside the second, in parts.
  kPairwise,
};

// Attention runs data-parallel over dp groups of tp ranks (context-parallel over cp in prefill);
// the experts of a layer are spread over ep of the dp * tp * cp ranks of a pipeline stage.
struct ParallelPlan {
  std::int64_t tp = 1;
  std::int64_t dp = 1;
  std::int64_t cp = 1;
  std::int64_t pp = 1;
  std::int64_t ep = 1;
  Overlap overlap = Overlap::kShared;
  std::int64_t waves = 4;  // with kWaves; 0: as many as the fused kernel's rule makes
  RoutingSpec routing = Routing::kUniform;
  std::int64_t replicas = 0;  // expert slots of a layer beyond one for each expert

  [[nodiscard]] std::int64_t stage_ranks() const { return tp * dp * cp; }
  [[nodiscard]] std::int64_t devices() const { return stage_ranks() * pp; }
  bool operator==(const ParallelPlan&) const = default;
};

// "DP64 EP64", "TP8 PP2 EP8": the degrees above one, or "single device".
std::string to_string(const ParallelPlan& plan);

// Parses "dp=64,ep=64,overlap=waves" (keys tp dp cp pp ep overlap waves routing replicas). ep
// defaults to all ranks of a stage. Throws base::UsageError; ConfigError for a file that routing
// names.
ParallelPlan parse_plan(std::string_view text);

// Throws base::UnsupportedError when the model cannot be divided so: heads, output groups, experts.
void require_possible(const ParallelPlan& plan, const ModelSpec& model);

// One step. Every sequence computes `new_tokens` tokens that end at `context` visible positions:
// decode has one new token (or 1 + drafts to verify), prefill a chunk of the prompt.
struct Batch {
  Phase phase = Phase::kDecode;
  std::int64_t sequences = 1;  // over all ranks
  std::int64_t context = 1;
  std::int64_t new_tokens = 1;
  bool last_chunk = true;         // prefill: logits of the last token are wanted
  std::int64_t draft_tokens = 0;  // decode: tokens the draft module proposes after the step
};

// Item `index` of `total` things dealt as evenly as possible to `parts` owners; owner parts - 1 has
// the largest share.
constexpr std::int64_t share(std::int64_t total, std::int64_t parts, std::int64_t index) {
  return total * (index + 1) / parts - total * index / parts;
}

}  // namespace foretoken::workloads
