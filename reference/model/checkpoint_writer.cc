#include "reference/model/checkpoint_writer.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "sim/base/config_tree.h"
#include "sim/base/error.h"
#include "sim/base/output.h"
#include "sim/base/progress.h"
#include "sim/base/quantity.h"

namespace foretoken::reference {

namespace {

namespace fs = std::filesystem;
using base::ConfigError;

constexpr const char* kConfig = "config.json";
constexpr const char* kIndex = "model.safetensors.index.json";
// Of a header: name, dtype, shape and offsets as JSON.
constexpr std::uint64_t kHeaderBytesPerTensor = 256;

using Shard = std::vector<PlannedTensor>;

std::vector<Shard> cut(const std::vector<PlannedTensor>& tensors, std::uint64_t shard_bytes) {
  std::vector<Shard> shards(1);
  std::uint64_t filled = 0;
  for (const PlannedTensor& tensor : tensors) {
    const std::uint64_t bytes = tensor.bytes();
    if (!shards.back().empty() && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(tensor);
    filled += bytes;
  }
  return shards;
}

struct Present {
  std::string any;              // config.json or a safetensors file; empty = none
  std::vector<fs::path> stale;  // files that would mix with a new checkpoint's
};

Present look_into(const fs::path& folder) {
  Present found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::path& path = entry->path();
    const std::string name = path.filename().string();
    const bool tensors = path.extension() == ".safetensors";
    const bool ours = name == kConfig || name == kIndex || name == "model.safetensors" ||
                      (tensors && name.starts_with("model-"));
    if (ours) found.stale.push_back(path);
    if (ours || tensors) found.any = name;
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw ConfigError({folder.string(), 0, 0}, "cannot read the folder: " + error.message());
  }
  return found;
}

void require_room(const fs::path& folder, std::uint64_t needed) {
  std::error_code error;
  fs::path there = fs::absolute(folder, error);
  while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
  const fs::space_info space = fs::space(there, error);
  // File systems without a size, such as /proc, refuse when they are written to.
  if (error || space.capacity == 0 || space.available >= needed) return;
  const auto text = [](std::uint64_t bytes) {
    return base::format_quantity(static_cast<double>(bytes), base::UnitKind::kBytes);
  };
  throw base::UnsupportedError(fmt::format("{}: the checkpoint takes {}; the disk has room for {}",
                                           folder.string(), text(needed), text(space.available)));
}

// Removes what was written unless the checkpoint is complete.
class Unfinished {
 public:
  Unfinished() = default;
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;
  ~Unfinished() {
    std::error_code ignored;
    for (const fs::path& path : paths_) fs::remove(path, ignored);
  }
  void add(fs::path path) { paths_.push_back(std::move(path)); }
  void keep() { paths_.clear(); }

 private:
  std::vector<fs::path> paths_;
};

}  // namespace

std::string read_config_text(const fs::path& path) {
  static_cast<void>(base::read_config_file(path));  // its errors: no such file, too large, ...
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  static_cast<void>(base::parse_json(path.string(), text));  // whatever its extension
  return text;
}

WrittenCheckpoint write_checkpoint(const CheckpointTarget& target, std::string_view config,
                                   const std::vector<PlannedTensor>& tensors,
                                   const FillTensor& fill) {
  const fs::path& folder = target.folder;
  std::error_code error;
  if (fs::exists(folder, error) && !fs::is_directory(folder, error)) {
    throw ConfigError({folder.string(), 0, 0}, "is a file, not a folder");
  }
  const Present old = look_into(folder);
  if (!old.any.empty() && !target.overwrite) {
    throw base::UsageError(
        fmt::format("{} already has {}; --force replaces a checkpoint", folder.string(), old.any));
  }
  WrittenCheckpoint written;
  written.tensors = tensors.size();
  for (const PlannedTensor& tensor : tensors) written.bytes += tensor.bytes();
  std::uint64_t reclaimed = 0;
  for (const fs::path& path : old.stale) {
    const std::uintmax_t size = fs::file_size(path, error);
    if (!error) reclaimed += size;
  }
  const std::uint64_t needed = written.bytes + tensors.size() * kHeaderBytesPerTensor;
  require_room(folder, needed > reclaimed ? needed - reclaimed : 0);

  fs::create_directories(folder, error);
  if (error) {
    throw ConfigError({folder.string(), 0, 0}, "cannot create the folder: " + error.message());
  }
  // Without its config.json the old checkpoint is none any more, whatever happens next.
  fs::remove(folder / kConfig, error);
  for (const fs::path& path : old.stale) {
    fs::remove(path, error);
    if (error) {
      throw ConfigError({path.string(), 0, 0}, "cannot remove the file: " + error.message());
    }
  }

  const std::vector<Shard> shards = cut(tensors, target.shard_bytes);
  written.files = shards.size();
  std::map<std::string, std::string> shard_of;
  Unfinished unfinished;
  base::Progress progress("checkpoint", tensors.size());
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    SafetensorsStream file(folder / name, shards[i]);
    for (const PlannedTensor& tensor : file.tensors()) {
      fill(tensor, [&file](std::span<const std::byte> bytes) { file.append(bytes); });
      shard_of.emplace(tensor.name, name);
      progress.advance();
    }
    file.commit();
    unfinished.add(folder / name);
  }
  if (shards.size() > 1) {
    const nlohmann::ordered_json index{{"metadata", {{"total_size", written.bytes}}},
                                       {"weight_map", shard_of}};
    base::write_file(folder / kIndex, index.dump(2) + "\n");
    unfinished.add(folder / kIndex);
  }
  base::write_file(folder / kConfig, config);
  unfinished.keep();
  return written;
}

}  // namespace foretoken::reference
