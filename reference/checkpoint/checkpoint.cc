#include "reference/checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <mutex>
#include <optional>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "sim/base/config_tree.h"
#include "sim/base/error.h"
#include "sim/base/text.h"

namespace foretoken::reference {
namespace {

namespace fs = std::filesystem;
using base::ConfigError;
using base::ConfigTree;

// Enough for a million tensors with long names.
constexpr base::ConfigLimits kIndexLimits = {
    .file_bytes = 256u << 20, .depth = 16, .nodes = 2 * kMostTensors};

[[noreturn]] void fail(const fs::path& file, const std::string& message) {
  throw ConfigError({file.string(), 0, 0}, message);
}

bool is_there(const fs::path& path) {
  std::error_code error;
  // A link that leads nowhere is there: opening it tells what is wrong.
  return fs::exists(fs::symlink_status(path, error));
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && std::ranges::none_of(name, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return c == '/' || byte < 0x20 || byte == 0x7F;
  });
}

std::vector<fs::path> safetensors_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() == ".safetensors") found.push_back(entry->path());
  }
  if (error) fail(folder, "cannot read the folder: " + error.message());
  std::ranges::sort(found);
  return found;
}

// How an element's bits show that it is no finite number.
template <class Bits>
struct SpecialCodes {
  Bits special;   // all of these are set
  Bits fraction;  // any of these tells a NaN from an infinity; 0 when the format has only NaNs
};

template <class Bits>
Bits bits_at(std::span<const std::byte> bytes, std::size_t i) {
  Bits bits{};
  std::memcpy(&bits, bytes.data() + i * sizeof(Bits), sizeof(Bits));  // may be unaligned
  return bits;
}

struct Special {
  std::size_t element = 0;
  bool nan = false;
};

template <class Bits>
std::optional<Special> find_special(std::span<const std::byte> bytes,
                                    const SpecialCodes<Bits>& codes) {
  // The inner loop has no exit, so that the compiler can vectorise it.
  constexpr std::size_t kBlock = 4096;
  const std::size_t count = bytes.size() / sizeof(Bits);
  for (std::size_t first = 0; first < count; first += kBlock) {
    const std::size_t last = std::min(first + kBlock, count);
    Bits found = 0;
    for (std::size_t i = first; i < last; ++i) {
      const bool special = (bits_at<Bits>(bytes, i) & codes.special) == codes.special;
      found = static_cast<Bits>(found | static_cast<Bits>(special));
    }
    if (found == 0) continue;
    for (std::size_t i = first; i < last; ++i) {
      const Bits bits = bits_at<Bits>(bytes, i);
      if ((bits & codes.special) != codes.special) continue;
      return Special{.element = i, .nan = codes.fraction == 0 || (bits & codes.fraction) != 0};
    }
  }
  return std::nullopt;
}

std::optional<Special> find_special(StorageDtype dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case StorageDtype::kF64:
      return find_special<std::uint64_t>(bytes, {0x7FF0'0000'0000'0000, 0x000F'FFFF'FFFF'FFFF});
    case StorageDtype::kF32:
      return find_special<std::uint32_t>(bytes, {0x7F80'0000, 0x007F'FFFF});
    case StorageDtype::kF16:
      return find_special<std::uint16_t>(bytes, {0x7C00, 0x03FF});
    case StorageDtype::kBf16:
      return find_special<std::uint16_t>(bytes, {0x7F80, 0x007F});
    case StorageDtype::kF8E4M3:
      return find_special<std::uint8_t>(bytes, {0x7F, 0});
    case StorageDtype::kF8E5M2:
      return find_special<std::uint8_t>(bytes, {0x7C, 0x03});
    case StorageDtype::kF8E8M0:
      return find_special<std::uint8_t>(bytes, {0xFF, 0});
    case StorageDtype::kI64:
    case StorageDtype::kI32:
    case StorageDtype::kI16:
    case StorageDtype::kI8:
    case StorageDtype::kU8:
    case StorageDtype::kBool:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

void require_finite(const std::string& file, const TensorInfo& tensor,
                    std::span<const std::byte> bytes, std::int64_t first) {
  const std::optional<Special> found = find_special(tensor.dtype, bytes);
  if (!found) return;
  throw ConfigError({file, 0, 0},
                    fmt::format("tensor {} has {} at element {}", quote_tensor(tensor.name),
                                found->nan ? "a NaN" : "an infinity",
                                first + static_cast<std::int64_t>(found->element)));
}

// Which bytes of which tensors have been looked through.
class Checkpoint::CheckedRanges {
  using Ends = std::map<std::uint64_t, std::uint64_t>;  // disjoint ranges: begin to end

  // The first range that does not end before `begin`.
  template <class Map>
  static auto first_touching(Map& ends, std::uint64_t begin) {
    auto next = ends.upper_bound(begin);
    if (next != ends.begin() && std::prev(next)->second >= begin) --next;
    return next;
  }

 public:
  using Range = std::pair<std::uint64_t, std::uint64_t>;  // [first, second)

  // The parts of `range` that have not.
  std::vector<Range> missing(const TensorInfo* tensor, Range range) const {
    const std::scoped_lock lock(mutex_);
    const auto found = ranges_.find(tensor);
    if (found == ranges_.end()) return {range};
    std::vector<Range> gaps;
    for (auto next = first_touching(found->second, range.first);
         next != found->second.end() && next->first < range.second; ++next) {
      if (range.first < next->first) gaps.emplace_back(range.first, next->first);
      range.first = std::max(range.first, next->second);
    }
    if (range.first < range.second) gaps.push_back(range);
    return gaps;
  }

  void add(const TensorInfo* tensor, Range range) {
    const std::scoped_lock lock(mutex_);
    Ends& ends = ranges_[tensor];
    auto next = first_touching(ends, range.first);
    while (next != ends.end() && next->first <= range.second) {
      range.first = std::min(range.first, next->first);
      range.second = std::max(range.second, next->second);
      next = ends.erase(next);
    }
    ends.emplace(range);
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<const TensorInfo*, Ends> ranges_;
};

Checkpoint::Checkpoint(fs::path folder)
    : folder_(std::move(folder)), checked_(std::make_unique<CheckedRanges>()) {
  std::error_code error;
  const fs::file_status status = fs::status(folder_, error);
  if (!fs::exists(status)) fail(folder_, "no such folder");
  if (!fs::is_directory(status)) fail(folder_, "is no folder; a checkpoint is one");
  if (!is_there(config_path())) fail(folder_, "no config.json in this folder");
  if (const fs::path index = folder_ / "model.safetensors.index.json"; is_there(index)) {
    read_index(index);
  } else if (const fs::path single = folder_ / "model.safetensors"; is_there(single)) {
    take_all({single});
  } else {
    const std::vector<fs::path> shards = safetensors_in(folder_);
    if (shards.empty()) fail(folder_, "no safetensors file in this folder");
    take_all(shards);
  }
}

Checkpoint::Checkpoint(Checkpoint&& other) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&& other) noexcept = default;
Checkpoint::~Checkpoint() = default;

void Checkpoint::read_index(const fs::path& path) {
  const base::ConfigFile index = base::read_config_file(path, kIndexLimits);
  const auto fail_at = [&index](int line, int column, const std::string& message) {
    throw ConfigError({index.path, line, column}, message);
  };
  if (index.root.kind != ConfigTree::Kind::kMap) {
    fail_at(index.root.line, index.root.column, "the index is no map");
  }
  const ConfigTree* weights = index.root.find("weight_map");
  if (weights == nullptr) fail(path, "weight_map is missing");
  if (weights->kind != ConfigTree::Kind::kMap) {
    fail_at(weights->line, weights->column, "weight_map is no map of tensors to files");
  }
  std::map<std::string, const SafetensorsFile*> shards;
  for (std::size_t i = 0; i < weights->entries.size(); ++i) {
    const auto& [name, shard] = weights->entries[i];
    if (shard.kind != ConfigTree::Kind::kScalar || !shard.quoted) {
      fail_at(shard.line, shard.column, fmt::format("tensor {}: no file name", quote_tensor(name)));
    }
    const SafetensorsFile*& file = shards[shard.scalar];
    if (file == nullptr) {
      if (!is_plain_name(shard.scalar)) {
        fail_at(shard.line, shard.column,
                base::quote(shard.scalar) + " is not the name of a file in this folder");
      }
      if (!is_there(folder_ / shard.scalar)) {
        fail_at(shard.line, shard.column, base::quote(shard.scalar) + " is not in this folder");
      }
      files_.push_back(std::make_unique<SafetensorsFile>(folder_ / shard.scalar));
      file = files_.back().get();
    }
    const TensorInfo* info = file->find(name);
    if (info == nullptr) {
      const auto [line, column] = weights->key_positions[i];
      fail_at(line, column,
              fmt::format("tensor {} is not in {}", quote_tensor(name), base::quote(shard.scalar)));
    }
    tensors_.emplace(name, StoredTensor{.file = file, .info = info});
  }
}

void Checkpoint::take_all(const std::vector<fs::path>& paths) {
  for (const fs::path& path : paths) {
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    const SafetensorsFile* file = files_.back().get();
    for (const TensorInfo& info : file->tensors()) {
      const auto [entry, inserted] =
          tensors_.emplace(info.name, StoredTensor{.file = file, .info = &info});
      if (inserted) continue;
      fail(path, fmt::format("tensor {} is in {} too", quote_tensor(info.name),
                             base::quote(entry->second.file->path().filename().string())));
    }
  }
}

const StoredTensor* Checkpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const StoredTensor& Checkpoint::require(std::string_view name) const {
  const StoredTensor* tensor = find(name);
  if (tensor == nullptr) fail(folder_, fmt::format("tensor {} is missing", quote_tensor(name)));
  return *tensor;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

std::uint64_t Checkpoint::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& [name, tensor] : tensors_) sum += tensor.info->bytes();
  return sum;
}

MappedBytes Checkpoint::map(const StoredTensor& tensor) const {
  return map(tensor, 0, tensor.info->bytes());
}

MappedBytes Checkpoint::map(const StoredTensor& tensor, std::uint64_t first_byte,
                            std::uint64_t count) const {
  MappedBytes part = tensor.file->map(*tensor.info, first_byte, count);
  check(tensor, first_byte, part);
  return part;
}

void Checkpoint::check(const StoredTensor& tensor, std::uint64_t first_byte,
                       const MappedBytes& part) const {
  const TensorInfo& info = *tensor.info;
  const std::uint64_t last_byte = first_byte + part.bytes().size();
  if (first_byte == last_byte) return;
  // Whole elements: a part may begin or end within one.
  const auto size = static_cast<std::uint64_t>(element_size(info.dtype));
  const CheckedRanges::Range whole{first_byte / size * size, (last_byte + size - 1) / size * size};
  // Not under the lock: two threads may look through the same bytes, which does no harm.
  for (const auto& [begin, end] : checked_->missing(&info, whole)) {
    MappedBytes wider;
    std::span<const std::byte> bytes;
    if (begin >= first_byte && end <= last_byte) {
      bytes = part.bytes().subspan(begin - first_byte, end - begin);
    } else {
      wider = tensor.file->map(info, begin, end - begin);
      bytes = wider.bytes();
    }
    require_finite(tensor.file->path().string(), info, bytes,
                   static_cast<std::int64_t>(begin / size));
  }
  checked_->add(&info, whole);
}

}  // namespace foretoken::reference
