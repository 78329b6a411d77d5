// Writes a whole checkpoint folder whose tensors are known beforehand: config.json, and tensors in
// one model.safetensors or in shards with an index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reference/checkpoint/safetensors.h"

namespace foretoken::reference {

// A config.json as it is. Throws ConfigError when it cannot be read or is no JSON.
std::string read_config_text(const std::filesystem::path& path);

struct CheckpointTarget {
  std::filesystem::path folder;
  std::uint64_t shard_bytes = 2'000'000'000;  // a tensor is never cut, however large
  bool overwrite = false;                     // a checkpoint that is there already
};

struct WrittenCheckpoint {
  std::uint64_t bytes = 0;  // of all tensors
  std::size_t tensors = 0;
  std::size_t files = 0;  // with tensors
};

using AppendBytes = std::function<void(std::span<const std::byte>)>;
// Hands the bytes of a tensor, piece by piece, to `append`.
using FillTensor = std::function<void(const PlannedTensor& tensor, const AppendBytes& append)>;

// Each file appears whole, config.json last: a folder without one is no checkpoint yet. When `fill`
// or the disk fails, what was written is removed again. Throws UsageError when the folder holds a
// checkpoint, UnsupportedError when the disk has too little room, ConfigError when it cannot be
// written.
WrittenCheckpoint write_checkpoint(const CheckpointTarget& target, std::string_view config,
                                   const std::vector<PlannedTensor>& tensors,
                                   const FillTensor& fill);

}  // namespace foretoken::reference
