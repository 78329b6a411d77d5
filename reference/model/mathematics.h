// What a config.json says about the arithmetic, beyond the shapes that ModelSpec holds.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/ops/rope.h"
#include "reference/ops/router.h"
#include "sim/base/config_tree.h"
#include "workloads/model_spec.h"

namespace foretoken::reference {

struct Mathematics {
  double rms_eps = 1e-6;
  double hyper_eps = 1e-6;
  double rope_theta = 10'000.0;
  double compress_theta = 160'000.0;  // V4: layers with a compressor
  Yarn yarn;                          // V4: those layers; V3.2: all
  double softmax_scale = 1.0;
  double swiglu_limit = 0.0;  // 0 = no clamp
  RouterShape router;
  std::int64_t dense_layers = 0;
  std::int64_t expert_inner = 0;
  // Activations in front of FP8 and FP4 products: power-of-two scales ("ue8m0") or amax / 448.
  bool power_of_two_scales = true;
  std::int64_t activation_group = 128;  // inputs a scale; the release has 128 whatever the weights'
  bool quantised = false;               // has a quantization_config
};

// Reads the keys; ModelSpec has been read from the same file. Throws ConfigError with the position.
Mathematics read_mathematics(const base::ConfigFile& file, const workloads::ModelSpec& model);

}  // namespace foretoken::reference
