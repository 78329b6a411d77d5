// Decoding weights with vectors, into a panel or straight into a product, over any vector type. For
// the instruction sets' own translation units only, each of which gets its own copy.
//
// Rows are transposed while still encoded, four bytes at a time: a word holds 8 FP4 or 4 FP8 codes,
// so that a weight costs a fraction of a shuffle. Words of kWidth rows then expand to kWidth
// weights at once.
//
// An instruction set S has kWidth (rows at a time, also words a transposition takes from a row),
// Words and Weights (registers of kWidth words and floats), load(words), prefetch(p),
// transpose(rows, offset, bytes, words), expand<format, j>(words) for the j-th weight of each word,
// widen(weights, registers of the product), and join(low words, high words, registers) for F64.
#pragma once

#include <cstdint>

#include "reference/kernels/matmul_kernels.h"
#include "reference/kernels/matmul_tile.h"

namespace foretoken::reference::detail {
namespace {

constexpr int per_word(int format) {
  switch (format) {
    case kStoredFp4:
      return 8;
    case kStoredFp8:
    case kStoredE8M0:
      return 4;
    case kStoredBf16:
    case kStoredF16:
      return 2;
    default:
      return 1;
  }
}

// kWidth rows' weights of one k, in as many registers as that takes.
template <class S, class V>
struct Column {
  static constexpr int kParts = S::kWidth / V::kWidth;
  Register<V> part[kParts];
};

template <class S, class V, int kFormat, int kJ>
[[gnu::always_inline]] inline Column<S, V> column(const std::uint32_t* words) {
  Column<S, V> w;
  if constexpr (kFormat == kStoredF64) {
    S::join(S::load(words), S::load(words + S::kWidth), w.part);
  } else {
    S::widen(S::template expand<kFormat, kJ>(S::load(words)), w.part);
  }
  return w;
}

template <class S, class V, int kFormat, int kPanel, bool kScaled, int kJ = 0>
[[gnu::always_inline]] inline void pack_word(const std::uint32_t* words,
                                             const typename V::Scalar* scale,
                                             typename V::Scalar* panel) {
  const Column<S, V> w = column<S, V, kFormat, kJ>(words);
  for (int p = 0; p < w.kParts; ++p) {
    const int at = p * V::kWidth;
    V::store(panel + kJ * kPanel + at,
             kScaled ? V::mul(w.part[p], V::load(scale + at)) : w.part[p]);
  }
  if constexpr (kJ + 1 < per_word(kFormat)) {
    pack_word<S, V, kFormat, kPanel, kScaled, kJ + 1>(words, scale, panel);
  }
}

template <class S, class V, int kFormat, int kPanel, bool kScaled>
void pack_rows(const PackJob<typename V::Scalar>& job, typename V::Scalar* panel) {
  constexpr int kWordsPerStep = kFormat == kStoredF64 ? 2 : 1;
  constexpr int kPerStep = per_word(kFormat);
  alignas(64) std::uint32_t words[S::kWidth * S::kWidth];
  for (int group = 0; group * S::kWidth < job.valid; ++group) {
    const std::uint8_t* const* rows = job.rows + group * S::kWidth;
    const auto* scale = kScaled ? job.scales + group * S::kWidth : nullptr;
    std::int64_t scale_left = job.scale_first;
    auto* out = panel + group * S::kWidth;
    std::int64_t k = 0;
    for (std::int64_t offset = 0; k < job.count; offset += 4 * S::kWidth) {
      S::transpose(rows, offset, job.bytes - offset, words);
      for (int step = 0; step < S::kWidth && k < job.count; step += kWordsPerStep, k += kPerStep) {
        if constexpr (kScaled) {
          if (scale_left == 0) {
            scale += kPanel;
            scale_left = job.scale_columns;
          }
          scale_left -= kPerStep;
        }
        pack_word<S, V, kFormat, kPanel, kScaled>(words + step * S::kWidth, scale,
                                                  out + k * kPanel);
      }
    }
  }
}

template <class S, class V, int kFormat, int kPanel>
void pack(const PackJob<typename V::Scalar>& job, typename V::Scalar* panel) {
  if (job.scales != nullptr) {
    pack_rows<S, V, kFormat, kPanel, true>(job, panel);
  } else {
    pack_rows<S, V, kFormat, kPanel, false>(job, panel);
  }
}

// One chain per input row and vector of weight rows.
template <class S, class V, int kPanel, int kRows>
struct Sums {
  static constexpr int kGroups = kPanel / S::kWidth;
  static constexpr int kVectors = kPanel / V::kWidth;
  Register<V> sum[kRows][kVectors];

  [[gnu::always_inline]] void clear() {
    for (auto& row : sum) {
      for (auto& value : row) value = V::zero();
    }
  }
};

template <class S, class V, int kFormat, int kPanel, int kRows, bool kScaled, int kJ = 0>
[[gnu::always_inline]] inline void direct_word(const std::uint32_t* words,
                                               const typename V::Scalar* scale,
                                               const typename V::Scalar* x,
                                               Sums<S, V, kPanel, kRows>& sums) {
#pragma GCC unroll 4
  for (int g = 0; g < sums.kGroups; ++g) {
    const Column<S, V> w = column<S, V, kFormat, kJ>(words + g * S::kWidth * S::kWidth);
#pragma GCC unroll 4
    for (int p = 0; p < w.kParts; ++p) {
      const int v = g * w.kParts + p;
      const Register<V> weight =
          kScaled ? V::mul(w.part[p], V::load(scale + v * V::kWidth)) : w.part[p];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        sums.sum[r][v] = V::fma(V::broadcast(x + kJ * kRows + r), weight, sums.sum[r][v]);
      }
    }
  }
  if constexpr (kJ + 1 < per_word(kFormat)) {
    direct_word<S, V, kFormat, kPanel, kRows, kScaled, kJ + 1>(words, scale, x, sums);
  }
}

template <class S, class V, int kFormat, int kPanel, int kRows, bool kScaled>
void direct(const PackJob<typename V::Scalar>& codes, const TileJob<typename V::Scalar>& job) {
  using All = Sums<S, V, kPanel, kRows>;
  using Scalar = typename V::Scalar;
  constexpr int kPerStep = per_word(kFormat);
  constexpr std::int64_t kLine = std::int64_t{4} * S::kWidth;
  // Far enough that memory answers in time, near enough that the caches keep it.
  constexpr std::int64_t kAhead = 128;
  alignas(64) std::uint32_t words[All::kGroups * S::kWidth * S::kWidth];
  alignas(64) Scalar total[kRows * kPanel] = {};
  const Scalar* scale = codes.scales;
  std::int64_t scale_left = codes.scale_first;
  std::int64_t block_left = job.block;
  All sums;
  sums.clear();
  std::int64_t k = 0;
  for (std::int64_t offset = 0; k < codes.count; offset += kLine) {
    const std::int64_t left = codes.bytes - offset;
    if (left > kAhead) {
      for (int r = 0; r < kPanel; ++r) S::prefetch(codes.rows[r] + offset + kAhead);
    }
#pragma GCC unroll 1
    for (int g = 0; g < All::kGroups; ++g) {
      S::transpose(codes.rows + g * S::kWidth, offset, left, words + g * S::kWidth * S::kWidth);
    }
    for (int step = 0; step < S::kWidth && k < codes.count; ++step, k += kPerStep) {
      if constexpr (kScaled) {
        if (scale_left == 0) {
          scale += kPanel;
          scale_left = codes.scale_columns;
        }
        scale_left -= kPerStep;
      }
      direct_word<S, V, kFormat, kPanel, kRows, kScaled>(words + step * S::kWidth, scale,
                                                         job.x + k * kRows, sums);
      block_left -= kPerStep;
      if (block_left == 0) {
        for (int i = 0; i < kRows * All::kVectors; ++i) {
          Scalar* p = total + i * V::kWidth;
          V::store(p, V::add(V::load(p), sums.sum[i / All::kVectors][i % All::kVectors]));
        }
        sums.clear();
        block_left = job.block;
      }
    }
  }
  // A last block that ended early, or the one chain there is.
  if (job.block == 0 || block_left != job.block) {
    for (int i = 0; i < kRows * All::kVectors; ++i) {
      const Register<V> sum = sums.sum[i / All::kVectors][i % All::kVectors];
      Scalar* p = total + i * V::kWidth;
      V::store(p, job.block == 0 ? sum : V::add(V::load(p), sum));
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (std::int64_t n = 0; n < job.valid; ++n) {
      job.y[r * job.y_stride + n] = total[std::int64_t{r} * kPanel + n];
    }
  }
}

// S decodes for the product over V with panels of kPanel weight rows and tiles of kRows inputs.
template <class S, class V, int kPanel, int kRows>
struct Assemble {
  using Acc = typename V::Scalar;
  using Kernel = Kernels<Acc>;
  static_assert(kPanel % V::kWidth == 0 && kPanel % S::kWidth == 0 && kPanel <= kMaxPanelRows);
  static_assert(kRows >= kMaxDirectRows);

  template <int kFormat>
  static constexpr void add(Kernel& kernel) {
    kernel.pack[kFormat] = pack<S, V, kFormat, kPanel>;
  }
  template <int kFormat, bool kScaled>
  static constexpr void add_direct(Kernel& kernel) {
    kernel.direct[kFormat][0] = direct<S, V, kFormat, kPanel, 1, kScaled>;
    kernel.direct[kFormat][1] = direct<S, V, kFormat, kPanel, 2, kScaled>;
    kernel.direct[kFormat][2] = direct<S, V, kFormat, kPanel, 3, kScaled>;
    kernel.direct[kFormat][3] = direct<S, V, kFormat, kPanel, 4, kScaled>;
  }

  static constexpr Kernel kernels() {
    Kernel kernel{};
    kernel.panel_rows = kPanel;
    kernel.tile_rows = kRows;
    add<kStoredF64>(kernel);
    add<kStoredF32>(kernel);
    add<kStoredF16>(kernel);
    add<kStoredBf16>(kernel);
    add<kStoredFp8>(kernel);
    add<kStoredFp4>(kernel);
    kernel.pack[kStoredE8M0] = pack_rows<S, V, kStoredE8M0, kPanel, false>;
    kernel.tile = any_tile<V, kPanel, kRows>;
    // FP32 itself is bound by memory either way.
    if constexpr (sizeof(Acc) == sizeof(double)) add_direct<kStoredF32, false>(kernel);
    add_direct<kStoredBf16, false>(kernel);
    add_direct<kStoredFp8, true>(kernel);
    add_direct<kStoredFp4, true>(kernel);
    return kernel;
  }
};

}  // namespace
}  // namespace foretoken::reference::detail
