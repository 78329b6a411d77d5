// Checkpoints from one set of weight formats to another: plain numbers to FP8 and FP4 as the
// release has them, and back again without loss.
#pragma once

#include <cstdint>
#include <filesystem>

#include "reference/model/checkpoint_writer.h"
#include "workloads/dtype.h"

namespace foretoken::reference {

enum class QuantiseTo : std::uint8_t {
  kNone,        // as they are
  kFp8,         // E4M3, 128 x 128 blocks, scale 2^ceil(log2(amax / 448)), amax at least 1e-4
  kMxfp4,       // E2M1, 32 inputs a scale, 2^ceil(log2(amax / 6)): the release's rule
  kMxfp4Floor,  // scale 2^(floor(log2 amax) - 2): the MX specification's, which may saturate
};

struct QuantiseFormats {
  QuantiseTo experts = QuantiseTo::kNone;  // routed experts
  QuantiseTo linear = QuantiseTo::kNone;   // projections, shared experts, dense networks; no FP4
};

struct ConvertSource {
  std::filesystem::path folder;
  std::filesystem::path config;  // to write in place of the folder's own; empty = that one
};

// Tensors of other classes are copied as they are. config.json gets quantization_config and
// expert_dtype, its other keys stay. Throws UnsupportedError naming the tensor for one that is
// quantised already or has rows that FP4 cannot cut, ConfigError for weights that are not finite,
// and what opening a checkpoint and write_checkpoint throw.
WrittenCheckpoint quantise_checkpoint(const ConvertSource& source, const QuantiseFormats& formats,
                                      const CheckpointTarget& target);

// All FP8 and FP4 weights as `to`, FP32 or BF16; the two keys go. Throws UnsupportedError naming
// the tensor when a number does not fit exactly (scales that are no powers of two).
WrittenCheckpoint dequantise_checkpoint(const ConvertSource& source, workloads::Dtype to,
                                        const CheckpointTarget& target);

}  // namespace foretoken::reference
