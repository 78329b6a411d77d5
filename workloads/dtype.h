// Number formats as stored and as multiplied, with their exact storage cost.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace foretoken::workloads {

// Element formats. kFp4 is E2M1 with one E8M0 scale per 32 elements (MXFP4); kFp8 is E4M3; kTf32
// and kHf32 are FP32 operands rounded inside the matrix unit (NVIDIA's and Ascend's form).
enum class Dtype : std::uint8_t {
  kFp4,
  kInt4,
  kFp8,
  kInt8,
  kBf16,
  kTf32,
  kHf32,
  kFp32,
  kInt32,
  kInt64,
};
inline constexpr int kDtypeCount = 10;
inline constexpr std::array<std::string_view, kDtypeCount> kDtypeNames = {
    "fp4", "int4", "fp8", "int8", "bf16", "tf32", "hf32", "fp32", "int32", "int64"};

constexpr std::string_view to_string(Dtype d) { return kDtypeNames[static_cast<std::size_t>(d)]; }
std::optional<Dtype> parse_dtype(std::string_view name);

// Bits of one element, scales not included.
constexpr int element_bits(Dtype d) {
  switch (d) {
    case Dtype::kFp4:
    case Dtype::kInt4:
      return 4;
    case Dtype::kFp8:
    case Dtype::kInt8:
      return 8;
    case Dtype::kBf16:
      return 16;
    case Dtype::kTf32:
    case Dtype::kHf32:
    case Dtype::kFp32:
    case Dtype::kInt32:
      return 32;
    case Dtype::kInt64:
      return 64;
  }
  return 64;
}

// Bytes of `count` elements without scales, rounded up to whole bytes.
constexpr std::int64_t element_bytes(Dtype d, std::int64_t count) {
  return (count * element_bits(d) + 7) / 8;
}

}  // namespace foretoken::workloads
