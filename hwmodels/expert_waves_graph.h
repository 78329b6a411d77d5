// An expert layer in waves as a task graph: of one rank where all are alike, or of all ranks on the
// links of their fabric.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "hwmodels/cluster.h"
#include "hwmodels/expert_waves.h"
#include "sim/task/task_graph.h"

namespace foretoken::hwmodels {

// What a task of these graphs does.
enum class ExpertStage : std::uint8_t {
  kPrepare,    // quantise, launch
  kHandshake,  // of all ranks
  kArrive,     // a wave's tokens
  kFirst,      // product, with SwiGLU and cast
  kSecond,     // product
  kReturn,     // a wave's results
  kFinish,     // the last tile of a rank
  kReduce,
};
inline constexpr std::array<std::string_view, 8> kExpertStageNames = {
    "prepare",        "handshake", "arrive",    "first product",
    "second product", "return",    "last tile", "reduce"};

// Units of these graphs above RankUnit's: results between matrix and vector units. The load path
// that memory and cache share is RankUnit::kMemory.
inline constexpr std::uint32_t kExpertUnits = kRankUnits + 1;
inline constexpr std::uint32_t kExchangeUnit = kRankUnits;

// Labels of tasks: stage and wave.
constexpr task::LabelId expert_label(ExpertStage stage, std::int64_t wave) {
  return static_cast<task::LabelId>(wave) * 8 + static_cast<task::LabelId>(stage);
}
constexpr ExpertStage stage_of(task::LabelId label) { return static_cast<ExpertStage>(label % 8); }
constexpr std::int64_t wave_of(task::LabelId label) { return label / 8; }

// One rank of a balanced layer; what its links are busy with stands on one resource behind its
// units. `pairwise`: all first products before any second one.
task::TaskGraph expert_rank_graph(ExpertPricing& pricing, const ExpertLayer& layer, bool pairwise);

// All ranks, each with a compute queue of its number. Every wave of a rank is one transfer from all
// others and one back to them. Throws UnsupportedError when the system has fewer devices.
task::TaskGraph expert_ranks_graph(ExpertPricing& pricing, const ExpertLayer& layer, bool pairwise);

}  // namespace foretoken::hwmodels
