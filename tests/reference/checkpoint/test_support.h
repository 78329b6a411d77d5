// What the tests of this folder share: safetensors files put together byte by byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "reference/checkpoint/safetensors.h"
#include "tests/sim/base/test_support.h"

// A test that limits memory cannot run under a sanitizer, which reserves terabytes of addresses.
#if defined(__SANITIZE_ADDRESS__)
#define FORETOKEN_UNDER_SANITIZER 1
#else
#define FORETOKEN_UNDER_SANITIZER 0
#endif

namespace foretoken::reference {

using base::config_error;
using base::content_of;
using base::ScratchFolder;
using base::thrown;

// The 8 bytes of a header's length.
inline std::string length_bytes(std::uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xFF);
  return bytes;
}

// A whole file: length, header, data.
inline std::string safetensors(std::string_view header, std::string_view data = {}) {
  return length_bytes(header.size()) + std::string(header) + std::string(data);
}

// One entry of a header.
inline std::string entry(std::string_view name, std::string_view dtype, std::string_view shape,
                         std::uint64_t begin, std::uint64_t end) {
  return "\"" + std::string(name) + R"(":{"dtype":")" + std::string(dtype) + R"(","shape":)" +
         std::string(shape) + R"(,"data_offsets":[)" + std::to_string(begin) + "," +
         std::to_string(end) + "]}";
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::string as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline std::string as_text(const MappedBytes& part) { return as_text(part.bytes()); }

}  // namespace foretoken::reference
