// AVX2 with FMA and F16C.
#include "reference/kernels/matmul_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "reference/kernels/matmul_pack.h"
#include "reference/kernels/matmul_tile.h"

namespace foretoken::reference::detail {
namespace {

__m256i first_floats(std::int64_t n) {
  const int count = n >= 8 ? 8 : static_cast<int>(n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
__m256i first_doubles(std::int64_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}

struct Floats {
  using Scalar = float;
  static constexpr int kWidth = 8;
  static __m256 zero() { return _mm256_setzero_ps(); }
  static __m256 load(const float* p) { return _mm256_loadu_ps(p); }
  static __m256 load_some(const float* p, std::int64_t n) {
    return _mm256_maskload_ps(p, first_floats(n));
  }
  static __m256 broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static __m256 fma(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
  static __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static __m256 mul(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
  static void store(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
  static void store_some(float* p, __m256 v, std::int64_t n) {
    _mm256_maskstore_ps(p, first_floats(n), v);
  }
};

struct Doubles {
  using Scalar = double;
  static constexpr int kWidth = 4;
  static __m256d zero() { return _mm256_setzero_pd(); }
  static __m256d load(const double* p) { return _mm256_loadu_pd(p); }
  static __m256d load_some(const double* p, std::int64_t n) {
    return _mm256_maskload_pd(p, first_doubles(n));
  }
  static __m256d broadcast(const double* p) { return _mm256_broadcast_sd(p); }
  static __m256d fma(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
  static __m256d add(__m256d a, __m256d b) { return _mm256_add_pd(a, b); }
  static __m256d mul(__m256d a, __m256d b) { return _mm256_mul_pd(a, b); }
  static void store(double* p, __m256d v) { _mm256_storeu_pd(p, v); }
  static void store_some(double* p, __m256d v, std::int64_t n) {
    _mm256_maskstore_pd(p, first_doubles(n), v);
  }
};

// As in the AVX-512 unit: rebias, repair zero exponents (2^-7 (1 + m/8) should be 2^-6 m/8) without
// meeting a subnormal float, then NaN and sign.
__m256 from_e4m3(__m256i top) {
  const __m256i all = _mm256_set1_epi32(0x07f00000);
  const __m256i magnitude = _mm256_and_si256(_mm256_srli_epi32(top, 4), all);
  const __m256i infinity_bits =
      _mm256_and_si256(_mm256_cmpeq_epi32(magnitude, all), _mm256_set1_epi32(0x7f800000));
  const __m256i subnormal = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
  const __m256 normal =
      _mm256_castsi256_ps(_mm256_add_epi32(magnitude, _mm256_set1_epi32(120 << 23)));
  const __m256 repaired = _mm256_fmsub_ps(normal, _mm256_set1_ps(2.0F), _mm256_set1_ps(0x1p-6F));
  const __m256 value = _mm256_blendv_ps(normal, repaired, _mm256_castsi256_ps(subnormal));
  const __m256i sign = _mm256_and_si256(top, _mm256_set1_epi32(static_cast<int>(0x80000000U)));
  return _mm256_or_ps(value, _mm256_castsi256_ps(_mm256_or_si256(infinity_bits, sign)));
}

// As in the AVX-512 unit.
__m256 from_e8m0(__m256i words) {
  const __m256i codes = _mm256_and_si256(words, _mm256_set1_epi32(0xff));
  const __m256i ends = _mm256_or_si256(_mm256_cmpeq_epi32(codes, _mm256_setzero_si256()),
                                       _mm256_cmpeq_epi32(codes, _mm256_set1_epi32(0xff)));
  return _mm256_castsi256_ps(_mm256_or_si256(
      _mm256_slli_epi32(codes, 23), _mm256_and_si256(ends, _mm256_set1_epi32(0x00400000))));
}

struct Packing {
  using Words = __m256i;
  static constexpr int kWidth = 8;
  static __m256i load(const std::uint32_t* words) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(words));
  }
  static void prefetch(const std::uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }

  // words[j][r] = word j behind rows[r] + offset; what lies beyond `bytes` reads as 0.
  static void transpose(const std::uint8_t* const* rows, std::int64_t offset, std::int64_t bytes,
                        std::uint32_t* words) {
    __m256i a[8];
    if (bytes >= 32) {
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) {
        a[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[r] + offset));
      }
    } else {
      alignas(32) std::uint8_t padded[8][32] = {};
      for (int r = 0; r < 8; ++r) {
        std::memcpy(padded[r], rows[r] + offset, static_cast<std::size_t>(bytes));
        a[r] = _mm256_load_si256(reinterpret_cast<const __m256i*>(padded[r]));
      }
    }
    __m256i b[8];
#pragma GCC unroll 2
    for (int q = 0; q < 8; q += 4) {
      const __m256i t0 = _mm256_unpacklo_epi32(a[q], a[q + 1]);
      const __m256i t1 = _mm256_unpackhi_epi32(a[q], a[q + 1]);
      const __m256i t2 = _mm256_unpacklo_epi32(a[q + 2], a[q + 3]);
      const __m256i t3 = _mm256_unpackhi_epi32(a[q + 2], a[q + 3]);
      b[q] = _mm256_unpacklo_epi64(t0, t2);
      b[q + 1] = _mm256_unpackhi_epi64(t0, t2);
      b[q + 2] = _mm256_unpacklo_epi64(t1, t3);
      b[q + 3] = _mm256_unpackhi_epi64(t1, t3);
    }
    // b[4 q + i] has in lane l word 4 l + i of rows 4 q ... 4 q + 3.
    auto* out = reinterpret_cast<__m256i*>(words);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      _mm256_store_si256(out + i, _mm256_permute2x128_si256(b[i], b[4 + i], 0x20));
      _mm256_store_si256(out + 4 + i, _mm256_permute2x128_si256(b[i], b[4 + i], 0x31));
    }
  }

  template <int kFormat, int kJ>
  static __m256 expand(__m256i words) {
    if constexpr (kFormat == kStoredFp4) {
      // The look-up ignores all but the lowest three bits of an index; the fourth is the sign.
      const __m256 table = _mm256_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F);
      const __m256 magnitude =
          _mm256_permutevar8x32_ps(table, kJ == 0 ? words : _mm256_srli_epi32(words, 4 * kJ));
      const __m256i top = kJ == 7 ? words : _mm256_slli_epi32(words, 28 - 4 * kJ);
      return _mm256_or_ps(magnitude,
                          _mm256_and_ps(_mm256_castsi256_ps(top), _mm256_set1_ps(-0.0F)));
    } else if constexpr (kFormat == kStoredFp8) {
      return from_e4m3(kJ == 3 ? words : _mm256_slli_epi32(words, 24 - 8 * kJ));
    } else if constexpr (kFormat == kStoredE8M0) {
      return from_e8m0(kJ == 0 ? words : _mm256_srli_epi32(words, 8 * kJ));
    } else if constexpr (kFormat == kStoredBf16) {
      return _mm256_castsi256_ps(
          kJ == 0 ? _mm256_slli_epi32(words, 16)
                  : _mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
    } else if constexpr (kFormat == kStoredF16) {
      const __m256i low = kJ == 0 ? _mm256_and_si256(words, _mm256_set1_epi32(0xffff))
                                  : _mm256_srli_epi32(words, 16);
      return _mm256_cvtph_ps(
          _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
    } else {
      return _mm256_castsi256_ps(words);
    }
  }

  static void widen(__m256 value, __m256 (&out)[1]) { out[0] = value; }
  static void widen(__m256 value, __m256d (&out)[2]) {
    out[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(value));
    out[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(value, 1));
  }
  static void join(__m256i low, __m256i high, __m256d (&out)[2]) {
    const __m256i a = _mm256_unpacklo_epi32(low, high);  // rows 0 1 | 4 5
    const __m256i b = _mm256_unpackhi_epi32(low, high);  // rows 2 3 | 6 7
    out[0] = _mm256_castsi256_pd(_mm256_permute2x128_si256(a, b, 0x20));
    out[1] = _mm256_castsi256_pd(_mm256_permute2x128_si256(a, b, 0x31));
  }
  static void join(__m256i low, __m256i high, __m256 (&out)[1]) {
    __m256d halves[2];
    join(low, high, halves);
    out[0] = _mm256_set_m128(_mm256_cvtpd_ps(halves[1]), _mm256_cvtpd_ps(halves[0]));
  }
};

}  // namespace

// 12 of the 16 registers accumulate.
constinit const Kernels<double> kAvx2Double = Assemble<Packing, Doubles, 8, 6>::kernels();
constinit const Kernels<float> kAvx2Float = Assemble<Packing, Floats, 24, 4>::kernels();

}  // namespace foretoken::reference::detail

#endif
