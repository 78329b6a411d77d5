#include "reference/formats/block_formats.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>

#include "reference/formats/float_formats.h"
#include "reference/formats/round_to_grid.h"

namespace foretoken::reference {
namespace {

constexpr std::size_t kMxBlock = 32;
constexpr std::uint8_t kNanScale = 255;
constexpr std::uint32_t kFloatMantissaMask = 0x007fffffU;
constexpr std::uint32_t kFloatInfinityExponent = 255;

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// `a` if `b` is NaN.
template <class T>
T larger(T a, T b) {
  return b > a ? b : a;
}

// Largest magnitude, NaN passed over as a kernel's maximum does. Independent lanes, because the
// compiler may not reorder one running maximum that could meet a NaN.
template <class T>
T largest_magnitude(std::span<const T> values) {
  constexpr std::size_t kLanes = 8;
  std::array<T, kLanes> lanes{};
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = larger(lanes[lane], magnitude_of(values[i + lane]));
    }
  }
  for (; i < values.size(); ++i) lanes[0] = larger(lanes[0], magnitude_of(values[i]));
  for (std::size_t width = kLanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) {
      lanes[lane] = larger(lanes[lane], lanes[lane + width]);
    }
  }
  return lanes[0];
}

// `body(group's values, scale)` for each group of the row, the last of which may be shorter.
template <class T, class Body>
void for_each_group(std::span<T> row, std::int64_t group, const GroupScale& scale, Body body) {
  require(group > 0, "quantisation group must be positive");
  const auto step = static_cast<std::size_t>(group);
  for (std::size_t begin = 0; begin < row.size(); begin += step) {
    const std::span<T> values = row.subspan(begin, std::min(step, row.size() - begin));
    const auto amax = largest_magnitude(std::span<const std::remove_const_t<T>>(values));
    body(values, scale.of(static_cast<double>(amax)));
  }
}

template <class Grid, class T>
void fake_quantise(std::span<T> row, std::int64_t group, const GroupScale& scale) {
  for_each_group(row, group, scale, [&](std::span<T> values, float group_scale) {
    const auto factor = static_cast<T>(group_scale);
    if (scale.power_of_two) {
      const T inverse = T{1} / factor;  // exact
      for (T& value : values) value = round_to_grid<Grid>(value * inverse) * factor;
    } else {
      for (T& value : values) value = round_to_grid<Grid>(value / factor) * factor;
    }
  });
}

// Scale byte of an MX block: the largest magnitude's exponent less E2M1's largest, 2.
std::uint8_t mx_scale(float amax) {
  if (amax == 0.0F) return 0;
  const int exponent = std::ilogb(amax) - 2;
  return static_cast<std::uint8_t>(std::clamp(exponent, -127, 127) + 127);
}

}  // namespace

float GroupScale::of(double amax) const {
  const auto floored = static_cast<float>(amax > amax_floor ? amax : amax_floor);
  const float quotient = floored * static_cast<float>(1.0 / max_element);
  if (!power_of_two) return quotient;
  const auto bits = std::bit_cast<std::uint32_t>(quotient);
  const std::uint32_t exponent = (bits >> 23U) + ((bits & kFloatMantissaMask) != 0 ? 1U : 0U);
  // At least 2^-126, so that the reciprocal is a float too; at infinity no further.
  return std::bit_cast<float>(std::clamp(exponent, 1U, kFloatInfinityExponent) << 23U);
}

Mxfp4Block encode_mxfp4(std::span<const float> values, ScaleRule rule) {
  require(values.size() == kMxBlock, "an MXFP4 block has 32 elements");
  Mxfp4Block block;
  if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
    block.scale = kNanScale;
    return block;
  }
  const float amax = largest_magnitude(values);
  block.scale = rule == ScaleRule::kMx ? mx_scale(amax)
                                       : encode_e8m0_ceil(kFp4Index.of(static_cast<double>(amax)));
  // In double the quotient is exact for every scale, 2^-127 included.
  const double inverse = 1.0 / static_cast<double>(decode_e8m0(block.scale));
  for (std::size_t i = 0; i < kMxBlock; i += 2) {
    const unsigned low = encode_e2m1(values[i] * inverse);
    const unsigned high = encode_e2m1(values[i + 1] * inverse);
    block.codes[i / 2] = static_cast<std::uint8_t>(low | (high << 4U));
  }
  return block;
}

void decode_mxfp4(const Mxfp4Block& block, std::span<float> values) {
  require(values.size() == kMxBlock, "an MXFP4 block has 32 elements");
  const float scale = decode_e8m0(block.scale);
  for (std::size_t i = 0; i < kMxBlock; i += 2) {
    const unsigned pair = block.codes[i / 2];
    values[i] = decode_e2m1(static_cast<std::uint8_t>(pair & 0xfU)) * scale;
    values[i + 1] = decode_e2m1(static_cast<std::uint8_t>(pair >> 4U)) * scale;
  }
}

template <class T>
void fake_quantise_e4m3(std::span<T> row, std::int64_t group, const GroupScale& scale) {
  fake_quantise<E4m3Grid>(row, group, scale);
}
template void fake_quantise_e4m3<float>(std::span<float>, std::int64_t, const GroupScale&);
template void fake_quantise_e4m3<double>(std::span<double>, std::int64_t, const GroupScale&);

template <class T>
void fake_quantise_e2m1(std::span<T> row, std::int64_t group, const GroupScale& scale) {
  fake_quantise<E2m1Grid>(row, group, scale);
}
template void fake_quantise_e2m1<float>(std::span<float>, std::int64_t, const GroupScale&);
template void fake_quantise_e2m1<double>(std::span<double>, std::int64_t, const GroupScale&);

void quantise_e4m3(std::span<const float> row, std::int64_t group, const GroupScale& scale,
                   std::span<std::uint8_t> codes, std::span<float> scales) {
  require(codes.size() == row.size(), "quantise_e4m3 needs one code per element");
  require(group > 0, "quantisation group must be positive");
  const auto step = static_cast<std::size_t>(group);
  require(scales.size() == (row.size() + step - 1) / step,
          "quantise_e4m3 needs one scale per group");
  std::size_t element = 0;
  std::size_t index = 0;
  for_each_group(row, group, scale, [&](std::span<const float> values, float group_scale) {
    scales[index++] = group_scale;
    // Float division, as the kernels divide; exact for a power of two.
    for (const float value : values) codes[element++] = encode_e4m3(value / group_scale);
  });
}

template <class T>
void hadamard(std::span<T> row) {
  const std::size_t n = row.size();
  require(std::has_single_bit(n), "the Hadamard transform needs a power-of-two length");
  if (n == 1) return;
  const T norm = T{1} / std::sqrt(static_cast<T>(n));
  if (n == 2) {
    const T sum = row[0] + row[1];
    const T difference = row[0] - row[1];
    row[0] = sum * norm;
    row[1] = difference * norm;
    return;
  }
  // Strides 1 and 2 in one pass; from stride 4 on, the inner loop is contiguous.
  for (std::size_t i = 0; i < n; i += 4) {
    const T sum_low = row[i] + row[i + 1];
    const T difference_low = row[i] - row[i + 1];
    const T sum_high = row[i + 2] + row[i + 3];
    const T difference_high = row[i + 2] - row[i + 3];
    row[i] = sum_low + sum_high;
    row[i + 1] = difference_low + difference_high;
    row[i + 2] = sum_low - sum_high;
    row[i + 3] = difference_low - difference_high;
  }
  for (std::size_t stride = 4; stride < n; stride *= 2) {
    for (std::size_t begin = 0; begin < n; begin += 2 * stride) {
      const std::span<T> low = row.subspan(begin, stride);
      const std::span<T> high = row.subspan(begin + stride, stride);
      for (std::size_t i = 0; i < stride; ++i) {
        const T sum = low[i] + high[i];
        const T difference = low[i] - high[i];
        low[i] = sum;
        high[i] = difference;
      }
    }
  }
  for (T& value : row) value *= norm;
}
template void hadamard<float>(std::span<float>);
template void hadamard<double>(std::span<double>);

namespace {

// Exponent of the lowest set bit of each E2M1 magnitude (0, 0.5, 1, 1.5, 2, 3, 4, 6).
constexpr std::array<int, 8> kLowestBitLog2{0, -1, 0, -1, 1, 0, 2, 1};
constexpr int kCastHeadroomLog2 = 6;    // 6 * 2^6 = 384 fits E4M3's 448, 2^7 would not
constexpr int kDeepseekRatioLog2 = 11;  // 0.5 * 2^(6 - 11) is E4M3's smallest normal
// The lowest bit, times 2^(6 - ratio), must not fall below E4M3's smallest subnormal, 2^-9.
constexpr int kUnitRatioLog2 = kCastHeadroomLog2 + 9;
constexpr int kNoElement = std::numeric_limits<int>::max();

// Lowest set bit over a sub-block, kNoElement if it is all zero.
int lowest_bit_log2(std::span<const std::uint8_t> codes) {
  int lowest = kNoElement;
  for (const std::uint8_t code : codes) {
    const unsigned magnitude = code & 7U;
    if (magnitude != 0) lowest = std::min(lowest, kLowestBitLog2[magnitude]);
  }
  return lowest;
}

}  // namespace

LosslessCast cast_fp4_to_fp8(std::span<const std::uint8_t> codes,
                             std::span<const std::uint8_t> scales, std::int64_t rows,
                             std::int64_t columns, std::span<std::uint8_t> out) {
  require(rows >= 0 && columns >= 0 && columns % static_cast<std::int64_t>(kMxBlock) == 0,
          "an FP4 block needs a multiple of 32 columns");
  const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  require(codes.size() == count && out.size() == count,
          "cast_fp4_to_fp8 needs rows * columns codes");
  require(scales.size() == count / kMxBlock, "cast_fp4_to_fp8 needs one scale per 32 columns");

  // Row-major with whole sub-blocks in a row: sub-block i owns codes [32 i, 32 i + 32).
  int largest = -1;
  int smallest = kNoElement;
  int largest_of_all = 0;
  bool has_nan = false;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    if (scales[i] == kNanScale) {
      has_nan = true;
      continue;
    }
    const int scale = scales[i];
    largest_of_all = std::max(largest_of_all, scale);
    if (lowest_bit_log2(codes.subspan(i * kMxBlock, kMxBlock)) == kNoElement) continue;
    largest = std::max(largest, scale);
    smallest = std::min(smallest, scale);
  }
  const bool all_zero = largest < 0;

  LosslessCast result;
  // E8M0 ends at 2^-127: a smaller S is not needed, the offsets only have to be below 2^7.
  const int shared = std::max((all_zero ? largest_of_all : largest) - kCastHeadroomLog2, 0);
  result.scale = static_cast<std::uint8_t>(shared);
  result.ratio_log2 = all_zero ? 0 : largest - smallest;

  int limit = kNoElement;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const auto sub_block = codes.subspan(i * kMxBlock, kMxBlock);
    const auto target = out.subspan(i * kMxBlock, kMxBlock);
    const double offset = scales[i] == kNanScale
                              ? std::numeric_limits<double>::quiet_NaN()
                              : std::ldexp(1.0, static_cast<int>(scales[i]) - shared);
    std::array<std::uint8_t, 16> cast{};
    for (std::size_t code = 0; code < cast.size(); ++code) {
      cast[code] = encode_e4m3(decode_e2m1(static_cast<std::uint8_t>(code)) * offset);
    }
    for (std::size_t j = 0; j < kMxBlock; ++j) target[j] = cast[sub_block[j] & 0xfU];
    const int lowest = lowest_bit_log2(sub_block);
    if (lowest == kNoElement || scales[i] == kNanScale) continue;
    limit = std::min(limit, kUnitRatioLog2 + lowest + scales[i] - smallest);
  }
  result.exact_limit_log2 = all_zero ? kUnitRatioLog2 + kLowestBitLog2[1] : limit;
  result.exact = !has_nan && result.ratio_log2 <= result.exact_limit_log2;
  result.deepseek_condition = !has_nan && result.ratio_log2 <= kDeepseekRatioLog2;
  return result;
}

namespace {

constexpr std::int64_t kKvGroup = 64;
constexpr std::int64_t kKvAlignment = 8;

std::int64_t kv_scale_count(std::int64_t nope) { return (nope + kKvGroup - 1) / kKvGroup; }

// The parts of an entry of `channels` in all.
struct KvLayout {
  std::size_t nope;
  std::size_t rope;
  std::size_t scales;
  std::size_t bytes;
};
KvLayout kv_layout(std::size_t channels, std::int64_t rope) {
  const auto all = static_cast<std::int64_t>(channels);
  require(rope >= 0 && rope <= all, "more rope channels than the entry has");
  const std::int64_t nope = all - rope;
  return {static_cast<std::size_t>(nope), static_cast<std::size_t>(rope),
          static_cast<std::size_t>(kv_scale_count(nope)),
          static_cast<std::size_t>(kv_entry_bytes(nope, rope))};
}

}  // namespace

std::int64_t kv_entry_bytes(std::int64_t nope, std::int64_t rope) {
  require(nope >= 0 && rope >= 0, "channel counts cannot be negative");
  const std::int64_t scales =
      (kv_scale_count(nope) + kKvAlignment - 1) / kKvAlignment * kKvAlignment;
  return nope + 2 * rope + scales;
}

void pack_kv_entry(std::span<const float> entry, std::int64_t rope, std::span<std::uint8_t> bytes) {
  const KvLayout layout = kv_layout(entry.size(), rope);
  require(bytes.size() == layout.bytes, "pack_kv_entry needs kv_entry_bytes bytes");
  std::vector<float> scales(layout.scales);
  quantise_e4m3(entry.first(layout.nope), kKvGroup, kFp8Activation, bytes.first(layout.nope),
                scales);
  const auto rope_bytes = bytes.subspan(layout.nope, 2 * layout.rope);
  for (std::size_t i = 0; i < layout.rope; ++i) {
    const unsigned code = encode_bf16(entry[layout.nope + i]);
    rope_bytes[2 * i] = static_cast<std::uint8_t>(code & 0xffU);
    rope_bytes[2 * i + 1] = static_cast<std::uint8_t>(code >> 8U);
  }
  const auto tail = bytes.subspan(layout.nope + 2 * layout.rope);
  std::ranges::fill(tail, std::uint8_t{0});
  std::ranges::transform(scales, tail.begin(), [](float scale) { return encode_e8m0_ceil(scale); });
}

void unpack_kv_entry(std::span<const std::uint8_t> bytes, std::int64_t rope,
                     std::span<float> entry) {
  const KvLayout layout = kv_layout(entry.size(), rope);
  require(bytes.size() == layout.bytes, "unpack_kv_entry needs kv_entry_bytes bytes");
  const auto rope_bytes = bytes.subspan(layout.nope, 2 * layout.rope);
  const auto scales = bytes.subspan(layout.nope + 2 * layout.rope, layout.scales);
  for (std::size_t i = 0; i < layout.nope; ++i) {
    entry[i] = decode_e4m3(bytes[i]) * decode_e8m0(scales[i / kKvGroup]);
  }
  for (std::size_t i = 0; i < layout.rope; ++i) {
    const unsigned code = rope_bytes[2 * i] | (static_cast<unsigned>(rope_bytes[2 * i + 1]) << 8U);
    entry[layout.nope + i] = decode_bf16(static_cast<std::uint16_t>(code));
  }
}

}  // namespace foretoken::reference
