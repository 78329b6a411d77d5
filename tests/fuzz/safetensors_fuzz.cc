// Any bytes as a safetensors header, and as a whole file, open or are refused with one line.
// An input is a character and the rest: 'h' and a number of data bytes (two bytes, little-endian)
// before a header; anything else before a whole file.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "reference/checkpoint/checkpoint.h"
#include "reference/checkpoint/safetensors.h"
#include "sim/base/error.h"
#include "tests/fuzz/fuzz_support.h"

namespace {

using foretoken::base::ConfigError;
using foretoken::fuzz::check_message;
using foretoken::fuzz::require;
using foretoken::reference::MappedBytes;
using foretoken::reference::parse_safetensors_header;
using foretoken::reference::SafetensorsFile;
using foretoken::reference::tensor_bytes;
using foretoken::reference::TensorInfo;

// What whoever reads the tensors relies on.
void check_tensors(const std::vector<TensorInfo>& tensors, std::uint64_t data, std::uint64_t size) {
  std::uint64_t sum = 0;
  const TensorInfo* before = nullptr;
  for (const TensorInfo& tensor : tensors) {
    require(before == nullptr || before->name < tensor.name, "names are not sorted");
    require(data <= tensor.begin && tensor.begin <= tensor.end && tensor.end <= size,
            "a tensor outside the data");
    const auto bytes = tensor_bytes(tensor.dtype, tensor.shape);
    require(bytes && static_cast<std::uint64_t>(*bytes) == tensor.bytes(), "a size without shape");
    sum += tensor.bytes();
    before = &tensor;
  }
  require(sum == size - data, "tensors do not tile the data");
}

void try_header(std::string_view input) {
  if (input.size() < 2) return;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(input[i]); };
  const std::uint64_t extra = byte(0) | std::uint64_t{byte(1)} << 8;
  const std::string_view header = input.substr(2);
  const std::uint64_t data = 8 + header.size();
  check_tensors(parse_safetensors_header("f", data + extra, header), data, data + extra);
}

// One file in memory for all inputs.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("fuzz", 0)) { require(fd_ >= 0, "no file in memory"); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(fd_); }

  void hold(std::string_view content) const {
    require(::ftruncate(fd_, 0) == 0, "the file cannot be emptied");
    require(
        ::pwrite(fd_, content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()),
        "the file cannot be written");
  }
  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

void try_file(std::string_view content) {
  static const MemoryFile memory;
  memory.hold(content);
  const SafetensorsFile file(memory.path());
  std::uint64_t sum = 0;
  for (const TensorInfo& tensor : file.tensors()) sum += tensor.bytes();
  check_tensors(file.tensors(), content.size() - sum, content.size());
  for (const TensorInfo& tensor : file.tensors()) {
    const MappedBytes part = file.map(tensor);
    require(part.bytes().size() == tensor.bytes(), "a part of another size");
    try {
      foretoken::reference::require_finite("f", tensor, part.bytes(), 0);
    } catch (const ConfigError& error) {
      check_message(error.what());
    }
  }
}

}  // namespace

// The name is libFuzzer's. NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try {
    if (input.front() == 'h') {
      try_header(input.substr(1));
    } else {
      try_file(input.substr(1));
    }
  } catch (const ConfigError& error) {
    check_message(error.what());
  }
  return 0;
}
