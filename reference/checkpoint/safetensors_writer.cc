#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "reference/checkpoint/safetensors.h"
#include "sim/base/error.h"
#include "sim/base/output.h"

namespace foretoken::reference {
namespace {

constexpr std::size_t kAlignment = 8;  // of the data in the file: the widest element's
constexpr std::size_t kCopyBytes = 1u << 20;

// A stretch of the spool file.
struct Extent {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

// The name as JSON; throws what nlohmann throws when it is no UTF-8.
std::string name_as_json(const std::string& name) { return nlohmann::json(name).dump(); }

void check_name(const std::string& name) {
  if (name.empty()) throw std::invalid_argument("a tensor needs a name");
  if (name == "__metadata__") throw std::invalid_argument("__metadata__ is no name for a tensor");
  if (name.size() > kLongestTensorName) {
    throw std::invalid_argument("a tensor name of more than 1000 bytes");
  }
  if (name.find('\0') != std::string::npos) {
    throw std::invalid_argument("a tensor name with a NUL character");
  }
  try {
    name_as_json(name);
  } catch (const nlohmann::json::exception&) {
    throw std::invalid_argument("a tensor name that is not UTF-8");
  }
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// One tensor as the header has it.
struct HeaderEntry {
  std::string_view name;
  StorageDtype dtype = StorageDtype::kF32;
  std::span<const std::int64_t> shape;
  std::uint64_t bytes = 0;
};

// The order of tensors in a file: wide elements first, so that all data is aligned, then by name.
auto place(StorageDtype dtype, std::string_view name) {
  return std::pair(-element_size(dtype), name);
}

std::string header_text(std::span<const HeaderEntry> entries) {
  std::string text = "{";
  std::uint64_t offset = 0;
  for (const HeaderEntry& entry : entries) {
    if (text.size() > 1) text += ',';
    text += fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        name_as_json(std::string(entry.name)), to_string(entry.dtype),
                        fmt::join(entry.shape, ","), offset, offset + entry.bytes);
    offset += entry.bytes;
  }
  text += '}';
  // The length before it has 8 bytes itself.
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  if (text.size() > kMostHeaderBytes) {
    throw std::invalid_argument("the names of the tensors take too much room");
  }
  return text;
}

void write_header(base::OutputFile& out, const std::string& text) {
  std::array<char, sizeof(std::uint64_t)> length{};
  for (std::size_t i = 0; i < length.size(); ++i) {
    length.at(i) = static_cast<char>(text.size() >> (8 * i) & 0xFF);
  }
  out.append({length.data(), length.size()});
  out.append(text);
}

}  // namespace

struct SafetensorsWriter::Spool {
  std::string name;
  StorageDtype dtype = StorageDtype::kF32;
  std::uint64_t bytes = 0;
  std::vector<Extent> extents;
  bool finished = false;
  std::vector<std::int64_t> shape;
};

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path)
    : path_(std::move(path)), fd_(base::open_unnamed_beside(path_)) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) ::close(fd_);
}

std::size_t SafetensorsWriter::add(std::string name, StorageDtype dtype) {
  check_name(name);
  if (spools_.size() == kMostTensors) throw std::invalid_argument("too many tensors");
  if (!names_.insert(name).second) {
    throw std::invalid_argument("tensor " + quote_tensor(name) + " is written twice");
  }
  auto spool = std::make_unique<Spool>();
  spool->name = std::move(name);
  spool->dtype = dtype;
  spools_.push_back(std::move(spool));
  return spools_.size() - 1;
}

SafetensorsWriter::Spool& SafetensorsWriter::open_tensor(std::size_t tensor) const {
  if (tensor >= spools_.size()) throw std::invalid_argument("no such tensor");
  Spool& spool = *spools_[tensor];
  if (spool.finished) {
    throw std::invalid_argument("tensor " + quote_tensor(spool.name) + " is already finished");
  }
  return spool;
}

void SafetensorsWriter::append(std::size_t tensor, std::span<const std::byte> bytes) {
  Spool& spool = open_tensor(tensor);
  const std::uint64_t start = spooled_;
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(spooled_));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int code = errno;
      throw base::ConfigError({path_.string(), 0, 0},
                              "cannot write the file: " + std::generic_category().message(code));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    spooled_ += static_cast<std::uint64_t>(written);
  }
  const std::uint64_t count = spooled_ - start;
  if (count == 0) return;
  spool.bytes += count;
  if (!spool.extents.empty() && spool.extents.back().offset + spool.extents.back().bytes == start) {
    spool.extents.back().bytes += count;
  } else {
    spool.extents.push_back({.offset = start, .bytes = count});
  }
}

void SafetensorsWriter::finish(std::size_t tensor, std::vector<std::int64_t> shape) {
  Spool& spool = open_tensor(tensor);
  const auto refuse = [&spool](const std::string& why) {
    throw std::invalid_argument("tensor " + quote_tensor(spool.name) + ": " + why);
  };
  if (shape.size() > kMostDimensions) refuse("too many dimensions");
  const std::optional<std::int64_t> bytes = tensor_bytes(spool.dtype, shape);
  if (!bytes) refuse(fmt::format("a shape that cannot be: [{}]", fmt::join(shape, ", ")));
  if (std::cmp_not_equal(*bytes, spool.bytes)) {
    refuse(fmt::format("{} bytes were written, but {} of shape [{}] takes {}", spool.bytes,
                       to_string(spool.dtype), fmt::join(shape, ", "), *bytes));
  }
  spool.shape = std::move(shape);
  spool.finished = true;
}

void SafetensorsWriter::commit() {
  if (fd_ < 0) throw std::invalid_argument(path_.string() + " is already written");
  std::vector<const Spool*> order;
  order.reserve(spools_.size());
  for (const auto& spool : spools_) {
    if (!spool->finished) {
      throw std::invalid_argument("tensor " + quote_tensor(spool->name) + " is not finished");
    }
    order.push_back(spool.get());
  }
  std::ranges::sort(order, {}, [](const Spool* spool) { return place(spool->dtype, spool->name); });
  std::vector<HeaderEntry> entries;
  entries.reserve(order.size());
  for (const Spool* spool : order) {
    entries.push_back({spool->name, spool->dtype, spool->shape, spool->bytes});
  }
  const std::string text = header_text(entries);

  base::OutputFile out(path_);
  write_header(out, text);
  std::vector<std::byte> buffer(kCopyBytes);
  for (const Spool* spool : order) {
    for (Extent extent : spool->extents) {
      while (extent.bytes > 0) {
        const ssize_t got = ::pread(fd_, buffer.data(), std::min(buffer.size(), extent.bytes),
                                    static_cast<off_t>(extent.offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
          const int code = got < 0 ? errno : EIO;
          throw base::ConfigError(
              {path_.string(), 0, 0},
              "cannot read back what was written: " + std::generic_category().message(code));
        }
        const auto count = static_cast<std::size_t>(got);
        out.append(as_text({buffer.data(), count}));
        extent.offset += count;
        extent.bytes -= count;
      }
    }
  }
  out.commit();
  ::close(std::exchange(fd_, -1));
}

std::uint64_t PlannedTensor::bytes() const {
  const std::optional<std::int64_t> count = tensor_bytes(dtype, shape);
  if (!count) {
    throw std::invalid_argument(fmt::format("tensor {}: a shape that cannot be: [{}]",
                                            quote_tensor(name), fmt::join(shape, ", ")));
  }
  return static_cast<std::uint64_t>(*count);
}

SafetensorsStream::SafetensorsStream(const std::filesystem::path& path,
                                     std::vector<PlannedTensor> tensors)
    : path_(path), tensors_(std::move(tensors)), out_(path) {
  if (tensors_.size() > kMostTensors) throw std::invalid_argument("too many tensors");
  std::ranges::sort(tensors_, {},
                    [](const PlannedTensor& tensor) { return place(tensor.dtype, tensor.name); });
  std::unordered_set<std::string_view> names;
  std::vector<HeaderEntry> entries;
  entries.reserve(tensors_.size());
  for (const PlannedTensor& tensor : tensors_) {
    check_name(tensor.name);
    if (tensor.shape.size() > kMostDimensions) {
      throw std::invalid_argument("tensor " + quote_tensor(tensor.name) + ": too many dimensions");
    }
    if (!names.insert(tensor.name).second) {
      throw std::invalid_argument("tensor " + quote_tensor(tensor.name) + " is written twice");
    }
    entries.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes()});
    missing_ += entries.back().bytes;
  }
  write_header(out_, header_text(entries));
}

void SafetensorsStream::append(std::span<const std::byte> bytes) {
  if (bytes.size() > missing_) throw std::invalid_argument(path_.string() + ": too many bytes");
  out_.append(as_text(bytes));
  missing_ -= bytes.size();
}

void SafetensorsStream::commit() {
  if (missing_ > 0) {
    throw std::invalid_argument(fmt::format("{}: {} bytes are missing", path_.string(), missing_));
  }
  out_.commit();
}

}  // namespace foretoken::reference
