// Blocks of narrow numbers that share a scale: MXFP4, FP8 with 1x128, 128x128 and 1x64 scales, the
// quantisers DeepSeek's kernels use, the Hadamard rotation in front of the FP4 index, and the
// lossless cast of FP4 weights to FP8.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace foretoken::reference {

// How a block's power-of-two scale follows from its largest magnitude.
enum class ScaleRule : std::uint8_t {
  kDeepseek,  // 2^ceil(log2(amax / max_element)): nothing saturates
  kMx,        // 2^(floor(log2 amax) - largest exponent): the MX specification's; may saturate
};

// 32 elements, two E2M1 codes a byte (low nibble first), one E8M0 scale.
struct Mxfp4Block {
  std::array<std::uint8_t, 16> codes{};
  std::uint8_t scale = 0;
};
// `values` holds 32 numbers. All-zero blocks: scale byte 1 under kDeepseek (amax is floored at
// 6 * 2^-126), 0 under kMx. A NaN or infinity makes the whole block NaN (scale byte 255, codes 0).
Mxfp4Block encode_mxfp4(std::span<const float> values, ScaleRule rule);
void decode_mxfp4(const Mxfp4Block& block, std::span<float> values);

// Scale of an FP8 or FP4 group as DeepSeek's kernels compute it from the largest magnitude:
// power_of_two: 2^ceil(log2(float(amax) * float(1 / max))), exactly, from the exponent bits;
// otherwise the product float(amax) * float(1 / max) itself. `amax` is floored first. A
// power-of-two scale is at least 2^-126, which no floor below goes under.
struct GroupScale {
  double amax_floor;
  double max_element;  // 448 or 6
  bool power_of_two = true;
  [[nodiscard]] float of(double amax) const;
};
inline constexpr GroupScale kFp8Activation{1e-4, 448.0, true};
inline constexpr GroupScale kFp8ActivationUnrounded{1e-4, 448.0, false};
inline constexpr GroupScale kFp4Index{6.0 / 85070591730234615865843651857942052864.0, 6.0, true};

// Quantise and decode again in place, group by group along the row; a last group may be shorter.
// NaN stays NaN and leaves its group's scale alone; an infinity (or a double beyond float) makes
// its whole group NaN. These simulate a kernel that stores E4M3 (E2M1) codes and scales. T is float
// or double, here and below.
template <class T>
void fake_quantise_e4m3(std::span<T> row, std::int64_t group, const GroupScale& scale);
template <class T>
void fake_quantise_e2m1(std::span<T> row, std::int64_t group, const GroupScale& scale);

// Codes and scales themselves. `scales` gets one float per group.
void quantise_e4m3(std::span<const float> row, std::int64_t group, const GroupScale& scale,
                   std::span<std::uint8_t> codes, std::span<float> scales);

// Walsh-Hadamard transform in Sylvester order times 1/sqrt(n), in place. n is a power of two (else
// std::invalid_argument). Accumulates in T.
template <class T>
void hadamard(std::span<T> row);

// One FP8 block that holds FP4 sub-blocks of 1x32: S = max(scales) / 2^6, each code times
// s_i / S is an E4M3 number as long as the ratio of scales stays small enough.
struct LosslessCast {
  bool deepseek_condition = false;  // max/min <= 2^11: every non-zero magnitude a normal E4M3
  bool exact = false;               // bit-exact with subnormals: ratio_log2 <= exact_limit_log2
  int ratio_log2 = 0;               // log2(max / min) over sub-blocks that are not all zero
  int exact_limit_log2 = 0;  // the largest ratio these codes allow: 14 if a 0.5 or 1.5 has the
                             // smallest scale, more where the lowest bits leave room
  std::uint8_t scale = 0;    // E8M0 of S, at least 0 (2^-127)
};
// `codes` unpacked E2M1, row-major [rows, columns]; `scales` E8M0 [rows, columns / 32]. `out` gets
// E4M3 codes (nearest where the cast is not exact). All-zero sub-blocks have no say in S. A NaN
// scale gives NaN codes, and neither condition holds.
LosslessCast cast_fp4_to_fp8(std::span<const std::uint8_t> codes,
                             std::span<const std::uint8_t> scales, std::int64_t rows,
                             std::int64_t columns, std::span<std::uint8_t> out);

// A V4 cache entry as served: nope FP8 codes, rope channels as little-endian BF16, one E8M0 per 64
// nope channels (a last group may be shorter), zero bytes up to a multiple of 8 scales: 584 B =
// 448 + 128 + 7 + 1 for 448 + 64. Decoding gives back exactly what fake_quantise_e4m3 with group 64
// left, for BF16-representable rope channels.
std::int64_t kv_entry_bytes(std::int64_t nope, std::int64_t rope);
void pack_kv_entry(std::span<const float> entry, std::int64_t rope, std::span<std::uint8_t> bytes);
void unpack_kv_entry(std::span<const std::uint8_t> bytes, std::int64_t rope,
                     std::span<float> entry);

}  // namespace foretoken::reference
