#include "reference/kernels/decode.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <limits>

namespace foretoken::reference::detail {
namespace {

using Format = WeightView::Format;
using Scale = WeightView::Scale;

constexpr float power_of_two(int exponent) {
  float value = 1;
  for (; exponent > 0; --exponent) value *= 2;
  for (; exponent < 0; ++exponent) value /= 2;
  return value;
}

// A sign, `exponent_bits` and `mantissa_bits`; the all-zero exponent is subnormal.
constexpr float small_float(unsigned code, int exponent_bits, int mantissa_bits, int bias) {
  const int mantissa = static_cast<int>(code & ((1U << mantissa_bits) - 1));
  const int exponent = static_cast<int>((code >> mantissa_bits) & ((1U << exponent_bits) - 1));
  const bool negative = ((code >> (mantissa_bits + exponent_bits)) & 1U) != 0;
  const auto steps = static_cast<float>(exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits));
  const float value = steps * power_of_two(std::max(exponent, 1) - bias - mantissa_bits);
  return negative ? -value : value;
}

constexpr std::array<float, 16> kE2m1 = [] {
  std::array<float, 16> table{};
  for (unsigned code = 0; code < 16; ++code) table[code] = small_float(code, 2, 1, 1);
  return table;
}();

constexpr std::array<float, 256> kE4m3 = [] {
  std::array<float, 256> table{};
  for (unsigned code = 0; code < 256; ++code) {
    table[code] = (code & 0x7fU) == 0x7fU ? std::numeric_limits<float>::quiet_NaN()
                                          : small_float(code, 4, 3, 7);
  }
  return table;
}();

constexpr std::array<float, 256> kE8m0 = [] {
  std::array<float, 256> table{};
  for (int code = 0; code < 255; ++code) {
    table[static_cast<std::size_t>(code)] = power_of_two(code - 127);
  }
  table[255] = std::numeric_limits<float>::quiet_NaN();
  return table;
}();

float from_bf16(std::uint16_t code) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 16);
}

float from_f16(std::uint16_t code) {
  if ((code & 0x7c00U) != 0x7c00U) return small_float(code, 5, 10, 15);
  const std::uint32_t bits = 0x7f800000U | (static_cast<std::uint32_t>(code & 0x3ffU) << 13);
  return std::bit_cast<float>(bits | (static_cast<std::uint32_t>(code & 0x8000U) << 16));
}

template <class T>
T load(const std::uint8_t* bytes, std::int64_t index) {
  T value;
  std::memcpy(&value, bytes + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// Calls visit(decode) where decode(index) gives element `index` of the stored array.
template <class Visit>
void with_decoder(const WeightView& w, const Visit& visit) {
  const auto* bytes = static_cast<const std::uint8_t*>(w.data);
  switch (w.format) {
    case Format::kF64:
      return visit([=](std::int64_t i) { return load<double>(bytes, i); });
    case Format::kF32:
      return visit([=](std::int64_t i) { return load<float>(bytes, i); });
    case Format::kF16:
      return visit([=](std::int64_t i) { return from_f16(load<std::uint16_t>(bytes, i)); });
    case Format::kBf16:
      return visit([=](std::int64_t i) { return from_bf16(load<std::uint16_t>(bytes, i)); });
    case Format::kFp8:
      return visit([=](std::int64_t i) { return kE4m3[bytes[i]]; });
    case Format::kFp4:
      return visit([=](std::int64_t i) {
        return kE2m1[(static_cast<unsigned>(bytes[i / 2]) >> (4 * (i % 2))) & 15U];
      });
  }
}

float decode_scale(Scale scale, const std::uint8_t* bytes, std::int64_t index) {
  switch (scale) {
    case Scale::kNone:
      return 1;
    case Scale::kE8M0:
      return kE8m0[bytes[index]];
    case Scale::kF32:
      return load<float>(bytes, index);
    case Scale::kBf16:
      return from_bf16(load<std::uint16_t>(bytes, index));
  }
  return 1;
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

std::int64_t row_stride(const WeightView& w) {
  if (w.stride != 0) return w.stride;
  if (w.transposed) return w.rows;
  // A packed row ends with its last byte.
  return w.format == Format::kFp4 ? 2 * ceil_div(w.columns, 2) : w.columns;
}

std::int64_t element_bits(Format format) {
  switch (format) {
    case Format::kF64:
      return 64;
    case Format::kF32:
      return 32;
    case Format::kF16:
    case Format::kBf16:
      return 16;
    case Format::kFp8:
      return 8;
    case Format::kFp4:
      return 4;
  }
  return 0;
}

std::int64_t scale_bytes(Scale scale) {
  switch (scale) {
    case Scale::kNone:
      return 0;
    case Scale::kE8M0:
      return 1;
    case Scale::kBf16:
      return 2;
    case Scale::kF32:
      return 4;
  }
  return 0;
}

const std::uint8_t* scale_row(const WeightView& w, std::int64_t row) {
  const std::int64_t stride =
      w.scale_stride != 0 ? w.scale_stride : ceil_div(w.columns, w.scale_columns);
  return static_cast<const std::uint8_t*>(w.scales) +
         row / w.scale_rows * stride * scale_bytes(w.scale);
}

template <class Acc>
void decode_range(const WeightView& w, std::int64_t row, std::int64_t first, std::int64_t count,
                  Acc* out, std::int64_t step) {
  const std::int64_t stride = row_stride(w);
  const std::int64_t start = w.transposed ? first * stride + row : row * stride + first;
  const std::int64_t next = w.transposed ? stride : 1;
  with_decoder(w, [&](const auto& decode) {
    for (std::int64_t i = 0; i < count; ++i) {
      out[i * step] = static_cast<Acc>(decode(start + i * next));
    }
  });
  if (w.scale == Scale::kNone) return;
  const std::uint8_t* scales = scale_row(w, row);
  for (std::int64_t i = 0; i < count;) {
    const std::int64_t block = (first + i) / w.scale_columns;
    const std::int64_t end = std::min(count, (block + 1) * w.scale_columns - first);
    const Acc scale = decode_scale(w.scale, scales, block);
    for (; i < end; ++i) out[i * step] *= scale;
  }
}

template void decode_range(const WeightView&, std::int64_t, std::int64_t, std::int64_t, double*,
                           std::int64_t);
template void decode_range(const WeightView&, std::int64_t, std::int64_t, std::int64_t, float*,
                           std::int64_t);

}  // namespace foretoken::reference::detail
