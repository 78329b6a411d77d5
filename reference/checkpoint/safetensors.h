// Reading and writing safetensors files. The reader trusts nothing: every length, offset, shape and
// dtype is checked against the file before a byte of data is looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "sim/base/output.h"

namespace foretoken::reference {

enum class StorageDtype : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBf16,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
};
std::string_view to_string(StorageDtype dtype);  // "F32", "F8_E4M3", ...
// Also knows F8_E4M3FN and F8_E8M0FNU, the longer names of the same formats.
std::optional<StorageDtype> parse_storage_dtype(std::string_view name);
std::int64_t element_size(StorageDtype dtype);  // bytes

// Bytes of a tensor of that shape; none when a size is negative or their product overflows.
std::optional<std::int64_t> tensor_bytes(StorageDtype dtype, std::span<const std::int64_t> shape);

// Limits that no real file reaches; what goes beyond them is neither read nor written.
inline constexpr std::uint64_t kMostHeaderBytes = 100'000'000;
inline constexpr std::size_t kMostTensors = 1'000'000;
inline constexpr std::size_t kMostDimensions = 32;
inline constexpr std::size_t kLongestTensorName = 1000;  // bytes

// `name` between single quotes for a message, in full and on one line: control characters escaped.
std::string quote_tensor(std::string_view name);

struct TensorInfo {
  std::string name;
  StorageDtype dtype = StorageDtype::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  // byte offsets in the file, header included
  std::uint64_t end = 0;

  [[nodiscard]] std::int64_t elements() const;
  [[nodiscard]] std::uint64_t bytes() const { return end - begin; }
};

// A part of a file in memory, read-only; unmapped when it goes. data() is aligned as the file is,
// which may be to one byte only.
class MappedBytes {
 public:
  MappedBytes() = default;
  MappedBytes(MappedBytes&& other) noexcept;
  MappedBytes& operator=(MappedBytes&& other) noexcept;
  MappedBytes(const MappedBytes&) = delete;
  MappedBytes& operator=(const MappedBytes&) = delete;
  ~MappedBytes();

  [[nodiscard]] std::span<const std::byte> bytes() const { return view_; }

 private:
  friend class SafetensorsFile;
  void* base_ = nullptr;
  std::size_t length_ = 0;
  std::span<const std::byte> view_;
};

// Parses a header: `file` names it in errors, `size` is the size of the whole file, `header` the
// JSON text (without the 8 length bytes). Throws ConfigError naming file and tensor for: JSON that
// is no object or has duplicate keys, unknown or missing keys, unusable names, unknown dtypes,
// negative or overflowing shapes, metadata that is no map of texts, offsets outside the file,
// overlapping tensors, holes between or bytes after them, byte counts that do not fit the shape.
// This is what the fuzz target feeds.
std::vector<TensorInfo> parse_safetensors_header(const std::string& file, std::uint64_t size,
                                                 std::string_view header);

// One file, opened and checked. Only the parts asked for are mapped, so that a file larger than
// memory, or than the address space a process may use, can be worked through.
class SafetensorsFile {
 public:
  // Throws ConfigError: cannot open, no regular file, too short, header length beyond the file or
  // 100 MB, and what parse_safetensors_header throws.
  explicit SafetensorsFile(const std::filesystem::path& path);
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;
  ~SafetensorsFile();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return tensors_; }  // by name
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;

  // Maps a tensor, or bytes [first, first + count) of it. Throws ConfigError when the file has
  // shrunk since or cannot be mapped.
  [[nodiscard]] MappedBytes map(const TensorInfo& tensor) const;
  [[nodiscard]] MappedBytes map(const TensorInfo& tensor, std::uint64_t first,
                                std::uint64_t count) const;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::vector<TensorInfo> tensors_;
};

// Writes a file whose tensors become known piece by piece: the pieces of all tensors are spooled to
// one unnamed temporary file in the target's folder, and commit() assembles them under a temporary
// name that is then renamed. A failed or interrupted write leaves an earlier file as it was. The
// same tensors give the same bytes, in whatever order and pieces they came: wide elements first,
// then by name, so that every tensor's data is aligned to its elements.
class SafetensorsWriter {
 public:
  // Throws ConfigError naming the path when its folder is missing or cannot be written.
  explicit SafetensorsWriter(std::filesystem::path path);
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  // Declares a tensor and answers its number. Throws std::invalid_argument for a name given twice
  // and for one that a file cannot hold.
  std::size_t add(std::string name, StorageDtype dtype);
  // Throws ConfigError when the disk is full.
  void append(std::size_t tensor, std::span<const std::byte> bytes);
  // The shape once all bytes are there; std::invalid_argument when they do not fit it.
  void finish(std::size_t tensor, std::vector<std::int64_t> shape);
  // Writes the file; to be called once. Throws ConfigError naming the path when it cannot be
  // written. Tensors that were not finished are an std::invalid_argument.
  void commit();

 private:
  struct Spool;
  [[nodiscard]] Spool& open_tensor(std::size_t tensor) const;

  std::filesystem::path path_;
  int fd_ = -1;  // the spool file
  std::uint64_t spooled_ = 0;
  std::vector<std::unique_ptr<Spool>> spools_;
  std::unordered_set<std::string> names_;
};

// A tensor before its bytes are there.
struct PlannedTensor {
  std::string name;
  StorageDtype dtype = StorageDtype::kF32;
  std::vector<std::int64_t> shape;

  [[nodiscard]] std::uint64_t bytes() const;  // std::invalid_argument for an impossible shape
};

// Writes a file whose tensors are all known beforehand, in one pass and without a spool file: for
// checkpoints, whose size the disk should see once only. Gives the same bytes as SafetensorsWriter
// does for the same tensors, and nothing is visible before commit() either.
class SafetensorsStream {
 public:
  // Throws what SafetensorsWriter's functions throw for the same mistakes.
  SafetensorsStream(const std::filesystem::path& path, std::vector<PlannedTensor> tensors);

  // In the order in which their bytes have to come, one tensor right behind the other.
  [[nodiscard]] const std::vector<PlannedTensor>& tensors() const { return tensors_; }
  void append(std::span<const std::byte> bytes);
  // std::invalid_argument when there were fewer or more bytes than the tensors take.
  void commit();

 private:
  std::filesystem::path path_;
  std::vector<PlannedTensor> tensors_;
  std::uint64_t missing_ = 0;  // bytes still to come
  base::OutputFile out_;
};

}  // namespace foretoken::reference
