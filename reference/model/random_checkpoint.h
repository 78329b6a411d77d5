// Checkpoints with random weights in the release's formats, for models of any size whose weights
// are not at hand: activations stay near 1 and nothing ties, but the model has learnt nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "reference/checkpoint/safetensors.h"
#include "reference/model/checkpoint_writer.h"
#include "workloads/model_spec.h"

namespace foretoken::reference {

// Every tensor of a checkpoint of `model`, scales included, in the formats that its configuration
// names. Throws UnsupportedError for V4.1, and naming the tensor for widths FP4 cannot hold.
std::vector<PlannedTensor> checkpoint_tensors(const workloads::ModelSpec& model);

// Writes config.json as it is and random tensors beside it. A tensor's content depends on the seed,
// its name, format and shape only. FP8 and FP4 codes are drawn directly, scales so that a matrix
// has a deviation of 1/sqrt(inputs); quantising the decoded matrix again gives the same codes.
// Throws what reading the configuration and write_checkpoint throw.
WrittenCheckpoint write_random_checkpoint(const std::filesystem::path& config, std::uint64_t seed,
                                          const CheckpointTarget& target);

}  // namespace foretoken::reference
