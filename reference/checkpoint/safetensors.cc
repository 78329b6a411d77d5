#include "reference/checkpoint/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "sim/base/error.h"
#include "sim/base/text.h"

namespace foretoken::reference {
namespace {

using base::ConfigError;
using Json = nlohmann::json;

constexpr std::size_t kLengthBytes = 8;  // the header's length, little-endian, before the header

struct DtypeEntry {
  std::string_view name;
  std::int64_t bytes;
};
// In the order of StorageDtype.
constexpr std::array<DtypeEntry, 13> kDtypes = {{{"F64", 8},
                                                 {"F32", 4},
                                                 {"F16", 2},
                                                 {"BF16", 2},
                                                 {"F8_E4M3", 1},
                                                 {"F8_E5M2", 1},
                                                 {"F8_E8M0", 1},
                                                 {"I64", 8},
                                                 {"I32", 4},
                                                 {"I16", 2},
                                                 {"I8", 1},
                                                 {"U8", 1},
                                                 {"BOOL", 1}}};
static_assert(kDtypes.size() == static_cast<std::size_t>(StorageDtype::kBool) + 1);

const DtypeEntry& entry_of(StorageDtype dtype) {
  return kDtypes.at(static_cast<std::size_t>(dtype));
}

[[noreturn]] void fail(const std::string& file, const std::string& message) {
  throw ConfigError({file, 0, 0}, message);
}

[[noreturn]] void fail(const std::string& file, std::string_view what, int code) {
  fail(file, fmt::format("{}: {}", what, std::generic_category().message(code)));
}

// Closes what a constructor opened unless it succeeds.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

std::uint64_t regular_file_size(int fd, const std::string& file) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail(file, "cannot read the file", errno);
  if (S_ISDIR(status.st_mode)) fail(file, "is a folder, not a safetensors file");
  if (!S_ISREG(status.st_mode)) fail(file, "is not a regular file");
  return static_cast<std::uint64_t>(status.st_size);
}

void read_at(int fd, const std::string& file, std::uint64_t offset, std::span<char> into) {
  while (!into.empty()) {
    const ssize_t got = ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(file, "cannot read the file", errno);
    if (got == 0) fail(file, "the file has become shorter while it was read");
    into = into.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
}

// Takes the header's events. A tree of it would need several times the memory of the text and most
// of the time; a large model has more than 100,000 tensors.
class HeaderEvents final : public nlohmann::json_sax<Json> {
 public:
  // Offsets are counted from `data`, the offset of the first byte behind the header.
  HeaderEvents(const std::string& file, std::uint64_t size, std::uint64_t data)
      : file_(file), size_(size), data_(data) {}

  std::vector<TensorInfo> take() {
    check_metadata();
    check_names();
    check_layout();
    return std::move(tensors_);
  }

  bool null() override { return other("null"); }
  bool boolean(bool value) override { return other(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override {
    // The library calls this for what starts with '-', "-0" among it.
    if (value == 0) return number(0);
    return other(fmt::format("{}", value));
  }
  bool number_unsigned(number_unsigned_t value) override { return number(value); }
  bool number_float(number_float_t /*value*/, const string_t& text) override {
    return other(base::quote(text));
  }
  bool string(string_t& value) override {
    switch (at_) {
      case At::kDtype:
        return dtype(value);
      case At::kMetadataValue:
        at_ = At::kMetadata;
        return true;
      default:
        return other("a text");
    }
  }
  bool binary(binary_t& /*value*/) override { return false; }  // never in a text

  bool key(string_t& value) override {
    switch (at_) {
      case At::kTop:
        start_entry(value);
        break;
      case At::kMetadata:
        metadata_.push_back(std::move(value));
        at_ = At::kMetadataValue;
        break;
      default:
        field(value);
    }
    return true;
  }

  bool start_object(std::size_t /*size*/) override {
    switch (at_) {
      case At::kStart:
        at_ = At::kTop;
        return true;
      case At::kMetadataStart:
        at_ = At::kMetadata;
        return true;
      case At::kEntryStart:
        at_ = At::kEntry;
        return true;
      default:
        return other("a map");
    }
  }
  bool end_object() override {
    if (at_ == At::kEntry) end_entry();
    at_ = at_ == At::kTop ? At::kEnd : At::kTop;
    return true;
  }
  bool start_array(std::size_t /*size*/) override {
    switch (at_) {
      case At::kShapeStart:
        at_ = At::kShape;
        return true;
      case At::kOffsetsStart:
        at_ = At::kOffsets;
        return true;
      default:
        return other("a list");
    }
  }
  bool end_array() override {
    if (at_ == At::kOffsets && offset_count_ != 2) {
      fail_tensor(fmt::format("data_offsets has {} numbers, not 2", offset_count_));
    }
    at_ = At::kEntry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception...] parse error at ...: syntax error while parsing X - REASON; last read:
    // 'TOKEN'; expected Y"; the token may be as long as the header.
    std::string_view reason = error.what();
    if (const auto dash = reason.find(" - "); dash != std::string_view::npos) {
      reason.remove_prefix(dash + 3);
    } else {
      reason.remove_prefix(std::min(reason.find("] ") + 2, reason.size()));
    }
    reason = reason.substr(0, reason.find("; last read: "));
    if (error.id == 406) reason = "number too large";
    fail(file_, fmt::format("the header is not valid JSON at byte {}: {}", position, reason));
  }

 private:
  // What has been read last, and with it what may come next.
  enum class At : std::uint8_t {
    kStart,
    kTop,
    kMetadataStart,
    kMetadata,
    kMetadataValue,
    kEntryStart,
    kEntry,
    kDtype,
    kShapeStart,
    kShape,
    kOffsetsStart,
    kOffsets,
    kEnd,
  };
  enum Seen : unsigned { kSeenDtype = 1, kSeenShape = 2, kSeenOffsets = 4 };

  [[noreturn]] void fail_tensor(const std::string& name, const std::string& message) const {
    fail(file_, fmt::format("tensor {}: {}", quote_tensor(name), message));
  }
  [[noreturn]] void fail_tensor(const std::string& message) const {
    fail_tensor(tensor_.name, message);
  }

  // A value of the wrong kind.
  bool other(const std::string& found) const {
    switch (at_) {
      case At::kStart:
        fail(file_, fmt::format("the header is no JSON object but {}", found));
      case At::kMetadataStart:
        fail(file_, fmt::format("__metadata__ is no map but {}", found));
      case At::kMetadataValue:
        fail(file_, fmt::format("__metadata__: the value of {} is no text but {}",
                                base::quote(metadata_.back()), found));
      case At::kEntryStart:
        fail_tensor(fmt::format("its entry is no map but {}", found));
      case At::kDtype:
        fail_tensor(fmt::format("dtype is no text but {}", found));
      case At::kShapeStart:
        fail_tensor(fmt::format("shape is no list but {}", found));
      case At::kShape:
        fail_tensor(fmt::format("shape holds {}, which is no size", found));
      case At::kOffsetsStart:
        fail_tensor(fmt::format("data_offsets is no list but {}", found));
      case At::kOffsets:
        fail_tensor(fmt::format("data_offsets holds {}, which is no offset", found));
      case At::kTop:
      case At::kMetadata:
      case At::kEntry:
      case At::kEnd:
        break;
    }
    return false;  // the parser allows no value here
  }

  bool number(std::uint64_t value) {
    if (at_ == At::kShape) {
      if (std::cmp_greater(value, std::numeric_limits<std::int64_t>::max())) {
        fail_tensor(fmt::format("shape holds {}, which is too large", value));
      }
      if (tensor_.shape.size() == kMostDimensions) {
        fail_tensor(fmt::format("more than {} dimensions", kMostDimensions));
      }
      tensor_.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (at_ == At::kOffsets) {
      if (offset_count_ == 0) tensor_.begin = value;
      if (offset_count_ == 1) tensor_.end = value;
      ++offset_count_;
      return true;
    }
    return other(fmt::format("{}", value));
  }

  bool dtype(const std::string& name) {
    const std::optional<StorageDtype> dtype = parse_storage_dtype(name);
    if (!dtype) fail_tensor(fmt::format("unknown dtype {}", base::quote(name)));
    tensor_.dtype = *dtype;
    at_ = At::kEntry;
    return true;
  }

  void start_entry(std::string& name) {
    if (name == "__metadata__") {
      if (std::exchange(has_metadata_, true)) fail(file_, "__metadata__ stands twice");
      at_ = At::kMetadataStart;
      return;
    }
    if (name.empty()) fail(file_, "a tensor without a name");
    if (name.size() > kLongestTensorName) {
      fail(file_, fmt::format("a tensor name of {} bytes, {}; at most {} are read", name.size(),
                              base::quote(name), kLongestTensorName));
    }
    if (name.find('\0') != std::string::npos) {
      fail(file_, fmt::format("tensor {}: a name with a NUL character", base::quote(name)));
    }
    if (tensors_.size() == kMostTensors) {
      fail(file_, fmt::format("more than {} tensors", kMostTensors));
    }
    tensor_ = {};
    tensor_.name = std::move(name);
    seen_ = 0;
    offset_count_ = 0;
    at_ = At::kEntryStart;
  }

  void field(const std::string& name) {
    unsigned seen = 0;
    if (name == "dtype") {
      seen = kSeenDtype;
      at_ = At::kDtype;
    } else if (name == "shape") {
      seen = kSeenShape;
      at_ = At::kShapeStart;
    } else if (name == "data_offsets") {
      seen = kSeenOffsets;
      at_ = At::kOffsetsStart;
    } else {
      fail_tensor(fmt::format("unknown key {}", base::quote(name)));
    }
    if ((seen_ & seen) != 0) fail_tensor(fmt::format("{} stands twice", name));
    seen_ |= seen;
  }

  void end_entry() {
    if ((seen_ & kSeenDtype) == 0) fail_tensor("dtype is missing");
    if ((seen_ & kSeenShape) == 0) fail_tensor("shape is missing");
    if ((seen_ & kSeenOffsets) == 0) fail_tensor("data_offsets is missing");
    const std::uint64_t available = size_ - data_;
    if (tensor_.begin > tensor_.end) {
      fail_tensor(fmt::format("data_offsets [{}, {}] are reversed", tensor_.begin, tensor_.end));
    }
    if (tensor_.end > available) {
      fail_tensor(
          fmt::format("data_offsets [{}, {}] reach beyond the file, which has {} bytes of data",
                      tensor_.begin, tensor_.end, available));
    }
    const std::optional<std::int64_t> needed = tensor_bytes(tensor_.dtype, tensor_.shape);
    if (!needed) {
      fail_tensor(fmt::format("shape [{}] is too large", fmt::join(tensor_.shape, ", ")));
    }
    if (std::cmp_not_equal(*needed, tensor_.bytes())) {
      fail_tensor(fmt::format("{} of shape [{}] takes {} bytes, but data_offsets span {}",
                              to_string(tensor_.dtype), fmt::join(tensor_.shape, ", "), *needed,
                              tensor_.bytes()));
    }
    tensor_.begin += data_;
    tensor_.end += data_;
    tensors_.push_back(std::move(tensor_));
  }

  // Sorting finds duplicates in a time that no choice of names can stretch, as it could with a
  // hash table.
  void check_metadata() {
    std::ranges::sort(metadata_);
    const auto twice = std::ranges::adjacent_find(metadata_);
    if (twice == metadata_.end()) return;
    fail(file_, fmt::format("__metadata__: {} stands twice", base::quote(*twice)));
  }

  void check_names() {
    std::ranges::sort(tensors_, {}, &TensorInfo::name);
    const auto twice = std::ranges::adjacent_find(tensors_, {}, &TensorInfo::name);
    if (twice != tensors_.end()) fail_tensor(twice->name, "stands twice");
  }

  // The tensors tile the data: what lies outside them would be hidden content.
  void check_layout() const {
    std::vector<const TensorInfo*> order(tensors_.size());
    std::ranges::transform(tensors_, order.begin(), [](const TensorInfo& t) { return &t; });
    std::ranges::sort(order, {}, [](const TensorInfo* t) { return std::pair(t->begin, t->end); });
    std::uint64_t end = data_;
    const TensorInfo* before = nullptr;
    for (const TensorInfo* tensor : order) {
      if (tensor->begin < end) {
        fail_tensor(tensor->name, "overlaps tensor " + quote_tensor(before->name));
      }
      if (tensor->begin > end) {
        fail_tensor(tensor->name,
                    fmt::format("{} bytes before it belong to no tensor", tensor->begin - end));
      }
      end = tensor->end;
      before = tensor;
    }
    if (end != size_) {
      fail(file_, fmt::format("{} bytes after the last tensor belong to none", size_ - end));
    }
  }

  const std::string& file_;
  std::uint64_t size_;
  std::uint64_t data_;
  At at_ = At::kStart;
  bool has_metadata_ = false;
  std::vector<std::string> metadata_;  // its keys
  TensorInfo tensor_;                  // being read
  unsigned seen_ = 0;
  std::size_t offset_count_ = 0;
  std::vector<TensorInfo> tensors_;
};

}  // namespace

std::string_view to_string(StorageDtype dtype) { return entry_of(dtype).name; }

std::int64_t element_size(StorageDtype dtype) { return entry_of(dtype).bytes; }

std::optional<StorageDtype> parse_storage_dtype(std::string_view name) {
  if (name == "F8_E4M3FN") return StorageDtype::kF8E4M3;
  if (name == "F8_E8M0FNU") return StorageDtype::kF8E8M0;
  const auto found = std::ranges::find(kDtypes, name, &DtypeEntry::name);
  if (found == kDtypes.end()) return std::nullopt;
  return static_cast<StorageDtype>(found - kDtypes.begin());
}

std::optional<std::int64_t> tensor_bytes(StorageDtype dtype, std::span<const std::int64_t> shape) {
  std::int64_t bytes = element_size(dtype);
  bool empty = false;
  for (const std::int64_t size : shape) {
    if (size < 0) return std::nullopt;
    // A zero does not excuse the others: whoever multiplies them may come to it last.
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(bytes, size, &bytes)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : bytes;
}

std::string quote_tensor(std::string_view name) {
  if (name.size() > kLongestTensorName) return base::quote(name);
  std::string text = base::quote_json(name);
  text.front() = text.back() = '\'';
  return text;
}

std::int64_t TensorInfo::elements() const {
  return static_cast<std::int64_t>(bytes()) / element_size(dtype);
}

MappedBytes::MappedBytes(MappedBytes&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      length_(std::exchange(other.length_, 0)),
      view_(std::exchange(other.view_, {})) {}

MappedBytes& MappedBytes::operator=(MappedBytes&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(length_, other.length_);
  std::swap(view_, other.view_);
  return *this;
}

MappedBytes::~MappedBytes() {
  if (base_ != nullptr) ::munmap(base_, length_);
}

std::vector<TensorInfo> parse_safetensors_header(const std::string& file, std::uint64_t size,
                                                 std::string_view header) {
  if (header.size() > kMostHeaderBytes) {
    fail(file, fmt::format("the header has {} bytes; at most {} are read", header.size(),
                           kMostHeaderBytes));
  }
  const std::uint64_t data = kLengthBytes + header.size();
  if (data > size) {
    fail(file, fmt::format("the header has {} bytes, but the file only {}", header.size(), size));
  }
  if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    fail(file, fmt::format("a file of {} bytes is too large", size));
  }
  // The format demands it; a byte order mark or spaces could start valid JSON.
  if (!header.starts_with('{')) fail(file, "the header does not start with '{'");
  // The library takes a NUL for the end and would not look at what follows.
  if (const auto nul = header.find('\0'); nul != std::string_view::npos) {
    fail(file, fmt::format("the header is not valid JSON at byte {}: a NUL character", nul + 1));
  }
  HeaderEvents events(file, size, data);
  Json::sax_parse(header.begin(), header.end(), &events);
  return events.take();
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path) {
  const std::string file = path.string();
  // Without O_NONBLOCK opening a pipe would wait for a writer.
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (fd.get() < 0) fail(file, "cannot open the file", errno);
  const std::uint64_t size = regular_file_size(fd.get(), file);
  if (size < kLengthBytes) {
    fail(file, fmt::format("the file has {} bytes; a safetensors file starts with {} that tell the "
                           "length of its header",
                           size, kLengthBytes));
  }
  std::array<char, kLengthBytes> length_bytes{};
  read_at(fd.get(), file, 0, length_bytes);
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<std::uint64_t>(static_cast<unsigned char>(length_bytes.at(i))) << (8 * i);
  }
  if (length > size - kLengthBytes) {
    fail(file, fmt::format("the header has {} bytes, but the file only {}", length, size));
  }
  if (length > kMostHeaderBytes) {
    fail(file,
         fmt::format("the header has {} bytes; at most {} are read", length, kMostHeaderBytes));
  }
  std::string header(length, '\0');
  read_at(fd.get(), file, kLengthBytes, header);
  tensors_ = parse_safetensors_header(file, size, header);
  fd_ = fd.release();
}

SafetensorsFile::~SafetensorsFile() { ::close(fd_); }

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(tensors_, name, {}, &TensorInfo::name);
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

MappedBytes SafetensorsFile::map(const TensorInfo& tensor) const {
  return map(tensor, 0, tensor.bytes());
}

MappedBytes SafetensorsFile::map(const TensorInfo& tensor, std::uint64_t first,
                                 std::uint64_t count) const {
  if (first > tensor.bytes() || count > tensor.bytes() - first) {
    throw std::invalid_argument(fmt::format("bytes [{0}, {0} + {1}) of tensor {2}, which has {3}",
                                            first, count, quote_tensor(tensor.name),
                                            tensor.bytes()));
  }
  MappedBytes part;
  if (count == 0) return part;
  const std::string file = path_.string();
  // Reading behind the end of a mapped file would be a signal, not an error.
  if (regular_file_size(fd_, file) < tensor.end) {
    fail(file, fmt::format("tensor {}: the file has become shorter since it was opened",
                           quote_tensor(tensor.name)));
  }
  static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t begin = tensor.begin + first;
  const std::uint64_t aligned = begin - begin % page;
  const std::size_t length = begin - aligned + count;
  void* base = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, fd_, static_cast<off_t>(aligned));
  if (base == MAP_FAILED) {
    const int code = errno;
    fail(file, fmt::format("tensor {}: cannot map {} bytes", quote_tensor(tensor.name), count),
         code);
  }
  part.base_ = base;
  part.length_ = length;
  part.view_ = {static_cast<const std::byte*>(base) + (begin - aligned), count};
  return part;
}

}  // namespace foretoken::reference
