// What quantisation costs: the same prompt with and without one quantiser, compared over context
// length.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "reference/model/session.h"

namespace foretoken::reference {

enum class Study : std::uint8_t {
  kIndex,    // top-k under FP4 queries and keys and under BF16 scores, against FP32
  kKv,       // FP8 cache entries
  kExperts,  // FP4 and FP8 experts, FP8 activations
};
inline constexpr std::array<std::string_view, 3> kStudyNames = {"index-precision", "kv-precision",
                                                                "expert-precision"};

// One variant at one context length, over `queries` tokens just before it and all layers.
struct StudyRow {
  std::string variant;
  std::int64_t context = 0;
  std::int64_t queries = 0;
  // In the order of StudyResult::measures.
  std::vector<double> values;
};

struct StudyResult {
  std::string title;
  std::vector<std::string> measures;  // column names
  std::vector<StudyRow> rows;
  std::vector<std::string> notes;  // what the figures are and are not
};

// Runs `tokens` through the model, once per variant (the index study: once), carriers and
// arithmetic as in `options`, its quantisers set by the study. Contexts are 1K, 2K, 4K, ... and the
// whole prompt. UnsupportedError where the model lacks what is studied.
StudyResult run_study(Study study, const LoadedCheckpoint& loaded,
                      const std::vector<std::int32_t>& tokens, const ReferenceOptions& options);

}  // namespace foretoken::reference
