// A Hugging Face checkpoint folder: config.json, and tensors in one model.safetensors or in shards
// with model.safetensors.index.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reference/checkpoint/safetensors.h"

namespace foretoken::reference {

// Where a tensor is.
struct StoredTensor {
  const SafetensorsFile* file = nullptr;
  const TensorInfo* info = nullptr;
};

class Checkpoint {
 public:
  // Opens the folder. With an index, its tensors are taken and no others; else those of
  // model.safetensors; else those of all *.safetensors. Throws ConfigError: no such folder; no
  // config.json; neither model.safetensors nor an index nor any *.safetensors; an index that is no
  // object of names to file names, names a shard that is absent or outside the folder, or a tensor
  // its shard lacks; a tensor in two shards.
  explicit Checkpoint(std::filesystem::path folder);
  Checkpoint(Checkpoint&& other) noexcept;
  Checkpoint& operator=(Checkpoint&& other) noexcept;
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;
  ~Checkpoint();

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  [[nodiscard]] std::filesystem::path config_path() const { return folder_ / "config.json"; }

  [[nodiscard]] const StoredTensor* find(std::string_view name) const;
  // Throws ConfigError "FOLDER: error: tensor 'NAME' is missing".
  [[nodiscard]] const StoredTensor& require(std::string_view name) const;
  [[nodiscard]] std::vector<std::string> names() const;  // sorted
  [[nodiscard]] std::uint64_t bytes() const;             // of all tensors

  // Maps a tensor. The first time a tensor (or a part of it) is mapped its numbers are looked
  // through: a NaN or an infinity in a float tensor, a NaN code in an FP8 tensor, code 255 in an
  // E8M0 tensor throws ConfigError "FILE: error: tensor 'NAME' has a NaN at element I".
  // May be called from several threads.
  [[nodiscard]] MappedBytes map(const StoredTensor& tensor) const;
  [[nodiscard]] MappedBytes map(const StoredTensor& tensor, std::uint64_t first_byte,
                                std::uint64_t count) const;

 private:
  class CheckedRanges;
  void read_index(const std::filesystem::path& path);
  void take_all(const std::vector<std::filesystem::path>& paths);
  void check(const StoredTensor& tensor, std::uint64_t first_byte, const MappedBytes& part) const;

  std::filesystem::path folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  std::unique_ptr<CheckedRanges> checked_;
};

// Throws ConfigError naming file and tensor when an element is not finite; `first` is the number of
// the first element of `bytes` in the tensor.
void require_finite(const std::string& file, const TensorInfo& tensor,
                    std::span<const std::byte> bytes, std::int64_t first);

}  // namespace foretoken::reference
