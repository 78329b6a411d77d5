// In which formats a model is stored and multiplied on a given chip: the checkpoint's own, or a
// recipe for hardware that lacks one of them. Files: configs/precision/*.yaml.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "sim/base/config.h"
#include "workloads/dtype.h"
#include "workloads/model_spec.h"

namespace foretoken::workloads {

// One choice of a recipe. kCheckpoint means "as released".
enum class FormatChoice : std::uint8_t { kCheckpoint, kFp4, kInt4, kFp8, kInt8, kBf16 };
enum class MixChoice : std::uint8_t { kTf32, kHf32, kFp32, kBf16 };

struct PrecisionRecipe {
  std::string name;
  std::string title;
  std::string source;
  FormatChoice linear = FormatChoice::kCheckpoint;          // projections and shared experts
  FormatChoice expert_weight = FormatChoice::kCheckpoint;   // routed experts as stored
  FormatChoice expert_compute = FormatChoice::kCheckpoint;  // routed experts as multiplied
  FormatChoice cache = FormatChoice::kCheckpoint;           // KV entries
  FormatChoice index = FormatChoice::kCheckpoint;           // indexer keys and their products
  MixChoice mix = MixChoice::kTf32;                         // mHC projections (FP32 in the release)
};

void describe(base::ConfigVisitor& v, PrecisionRecipe& recipe);

// A recipe applied to a model: every format concrete, every cache entry in bytes.
struct Precision {
  Dtype linear_weight = Dtype::kFp8;
  Dtype linear_compute = Dtype::kFp8;
  Dtype expert_weight = Dtype::kFp4;
  Dtype expert_compute = Dtype::kFp8;  // FP4 weights meet FP8 activations at the FP8 rate
  Dtype attention = Dtype::kBf16;
  Dtype index = Dtype::kFp4;
  Dtype plain = Dtype::kBf16;  // router, compressors, head weights, LM head
  Dtype mix = Dtype::kTf32;
  std::int64_t fp8_block = 128;
  std::int64_t main_entry_bytes = 0;    // one entry of the growing cache
  std::int64_t window_entry_bytes = 0;  // one token of the sliding window
  std::int64_t index_entry_bytes = 0;   // one indexer key
};

Precision resolve(const PrecisionRecipe& recipe, const ModelSpec& model);
// As released.
Precision release_precision(const ModelSpec& model);

// Bytes of `batch` weight matrices [rows, columns] with their scales: FP4 has one E8M0 per 32
// columns, FP8 one per fp8_block x fp8_block, INT8 and INT4 one FP32 per row.
std::int64_t weight_bytes(Dtype dtype, std::int64_t batch, std::int64_t rows, std::int64_t columns,
                          std::int64_t fp8_block);

}  // namespace foretoken::workloads
