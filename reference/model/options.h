// The choices of a reference run that a checkpoint does not make.
#pragma once

#include <cstdint>

#include "reference/ops/numerics.h"

namespace foretoken::reference {

// What routed experts multiply with instead of the weights as stored; for checkpoints that are not
// quantised, to see what quantising them would cost.
enum class ExpertWeights : std::uint8_t {
  kStored,
  kMxfp4,       // DeepSeek's scale rule
  kMxfp4Floor,  // the MX specification's
  kFp8,         // 128 x 128 blocks with power-of-two scales
};

// Whether a quantiser runs: as the checkpoint is, or whatever it is.
enum class Switch : std::uint8_t { kAuto, kOn, kOff };

struct ReferenceOptions {
  Carrier carrier = Carrier::kF64;
  Arithmetic arithmetic = Arithmetic::kExact;
  // FP8 window and compressed entries (V3.2: FP8 latents).
  Switch kv_quantisation = Switch::kAuto;
  // FP4 (V3.2: FP8) index queries and keys.
  Switch index_quantisation = Switch::kAuto;
  // FP8 inputs of FP8 and FP4 products; off multiplies by the decoded weights.
  Switch activation_quantisation = Switch::kAuto;
  // FP8 inputs of the grouped output projection (V3.2: the absorbed maps), as serving kernels have
  // it; the release decodes those weights and multiplies in BF16.
  bool quantised_output_groups = false;
  // Index scores rounded to BF16 before the top-k, as serving keeps them. The BF16 carrier always
  // does.
  bool bf16_index_scores = false;
  ExpertWeights expert_weights = ExpertWeights::kStored;
  // The shared expert's SwiGLU clamp: in the current release, not in the first (facts 11.3).
  bool clamp_shared_expert = true;
};

}  // namespace foretoken::reference
