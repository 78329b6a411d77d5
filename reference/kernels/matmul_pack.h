// Packing a panel of weights with vectors, over any vector type. For the instruction sets' own
// translation units only, each of which gets its own copy.
//
// Rows are transposed while still encoded, four bytes at a time: a word holds 8 FP4 or 4 FP8 codes,
// so that a weight costs a fraction of a shuffle. Words of kWidth rows then expand to kWidth
// weights at once.
//
// An instruction set S has kWidth (rows at a time, also words a transposition takes from a row),
// Words (a register of kWidth words), load(words), transpose(rows, offset, bytes, words),
// expand<format, j>(words), the j-th weight of each word as float, expand_double(words of the low
// halves, of the high halves), and Out<Acc>: scale and store.
#pragma once

#include <cstdint>

#include "reference/kernels/matmul_kernels.h"
#include "reference/kernels/matmul_tile.h"

namespace foretoken::reference::detail {
namespace {

enum StoredFormat : int { kStoredF64, kStoredF32, kStoredF16, kStoredBf16, kStoredFp8, kStoredFp4 };

constexpr int per_word(int format) {
  switch (format) {
    case kStoredFp4:
      return 8;
    case kStoredFp8:
      return 4;
    case kStoredBf16:
    case kStoredF16:
      return 2;
    default:
      return 1;
  }
}

template <class S, int kFormat, int kPanel, class Acc, bool kScaled, int kJ = 0>
[[gnu::always_inline]] inline void expand_word(typename S::Words words, const Acc* scale,
                                               Acc* panel) {
  if constexpr (kJ < per_word(kFormat)) {
    S::template put<kScaled>(S::template expand<kFormat, kJ>(words), scale, panel + kJ * kPanel);
    expand_word<S, kFormat, kPanel, Acc, kScaled, kJ + 1>(words, scale, panel);
  }
}

template <class S, int kFormat, int kPanel, class Acc, bool kScaled>
void pack_rows(const PackJob<Acc>& job, Acc* panel) {
  constexpr int kWordsPerK = kFormat == kStoredF64 ? 2 : 1;  // words one step takes
  constexpr int kPerStep = per_word(kFormat);                // k one step gives
  alignas(64) std::uint32_t words[S::kWidth * S::kWidth];
  for (int group = 0; group * S::kWidth < job.valid; ++group) {
    const std::uint8_t* const* rows = job.rows + group * S::kWidth;
    const Acc* scale = job.scales + (kScaled ? group * S::kWidth : 0);
    std::int64_t scale_left = job.scale_first;
    Acc* out = panel + group * S::kWidth;
    std::int64_t k = 0;
    for (std::int64_t offset = 0; k < job.count; offset += 4 * S::kWidth) {
      S::transpose(rows, offset, job.bytes - offset, words);
      for (int step = 0; step < S::kWidth && k < job.count; step += kWordsPerK, k += kPerStep) {
        if constexpr (kScaled) {
          if (scale_left == 0) {
            scale += kPanel;
            scale_left = job.scale_columns;
          }
          scale_left -= kPerStep;
        }
        const std::uint32_t* word = words + step * S::kWidth;
        if constexpr (kFormat == kStoredF64) {
          S::template put_double<kScaled>(S::load(word), S::load(word + S::kWidth), scale,
                                          out + k * kPanel);
        } else {
          expand_word<S, kFormat, kPanel, Acc, kScaled>(S::load(word), scale, out + k * kPanel);
        }
      }
    }
  }
}

template <class S, int kFormat, int kPanel, class Acc>
void pack(const PackJob<Acc>& job, Acc* panel) {
  if (job.scales != nullptr) {
    pack_rows<S, kFormat, kPanel, Acc, true>(job, panel);
  } else {
    pack_rows<S, kFormat, kPanel, Acc, false>(job, panel);
  }
}

template <class S, class V, int kPanel, int kRows>
constexpr Kernels<typename V::Scalar> kernels_of() {
  using Acc = typename V::Scalar;
  static_assert(kPanel % V::kWidth == 0 && kPanel % S::kWidth == 0 && kPanel <= kMaxPanelRows);
  return {.panel_rows = kPanel,
          .tile_rows = kRows,
          .pack = {pack<S, kStoredF64, kPanel, Acc>, pack<S, kStoredF32, kPanel, Acc>,
                   pack<S, kStoredF16, kPanel, Acc>, pack<S, kStoredBf16, kPanel, Acc>,
                   pack<S, kStoredFp8, kPanel, Acc>, pack<S, kStoredFp4, kPanel, Acc>},
          .tile = any_tile<V, kPanel, kRows>};
}

}  // namespace
}  // namespace foretoken::reference::detail
