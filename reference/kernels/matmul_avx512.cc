// AVX-512 F, BW, VL and DQ.
#include "reference/kernels/matmul_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "reference/kernels/matmul_pack.h"
#include "reference/kernels/matmul_tile.h"

namespace foretoken::reference::detail {
namespace {

__mmask16 first_floats(std::int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffU : (1U << n) - 1);
}
__mmask8 first_doubles(std::int64_t n) {
  return static_cast<__mmask8>(n >= 8 ? 0xffU : (1U << n) - 1);
}

struct Floats {
  using Scalar = float;
  static constexpr int kWidth = 16;
  static __m512 zero() { return _mm512_setzero_ps(); }
  static __m512 load(const float* p) { return _mm512_loadu_ps(p); }
  static __m512 load_some(const float* p, std::int64_t n) {
    return _mm512_maskz_loadu_ps(first_floats(n), p);
  }
  static __m512 broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static __m512 fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
  static __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static void store(float* p, __m512 v) { _mm512_storeu_ps(p, v); }
  static void store_some(float* p, __m512 v, std::int64_t n) {
    _mm512_mask_storeu_ps(p, first_floats(n), v);
  }
};

struct Doubles {
  using Scalar = double;
  static constexpr int kWidth = 8;
  static __m512d zero() { return _mm512_setzero_pd(); }
  static __m512d load(const double* p) { return _mm512_loadu_pd(p); }
  static __m512d load_some(const double* p, std::int64_t n) {
    return _mm512_maskz_loadu_pd(first_doubles(n), p);
  }
  static __m512d broadcast(const double* p) { return _mm512_set1_pd(*p); }
  static __m512d fma(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
  static __m512d add(__m512d a, __m512d b) { return _mm512_add_pd(a, b); }
  static void store(double* p, __m512d v) { _mm512_storeu_pd(p, v); }
  static void store_some(double* p, __m512d v, std::int64_t n) {
    _mm512_mask_storeu_pd(p, first_doubles(n), v);
  }
};

// E4M3 codes at the top of each word. The format's exponent and mantissa move to where float has
// them and the exponent is rebiased; a zero exponent then reads 2^-7 (1 + m/8) and should be
// 2^-6 m/8. No step meets a subnormal float, which some processors are slow at.
__m512 from_e4m3(__m512i top) {
  __m512i bits = _mm512_and_si512(_mm512_srli_epi32(top, 4), _mm512_set1_epi32(0x07f00000));
  const __mmask16 nan = _mm512_cmpeq_epi32_mask(bits, _mm512_set1_epi32(0x07f00000));
  const __mmask16 subnormal = _mm512_cmplt_epu32_mask(bits, _mm512_set1_epi32(0x00800000));
  bits = _mm512_add_epi32(bits, _mm512_set1_epi32(120 << 23));
  const __m512 value = _mm512_mask_fmsub_ps(_mm512_castsi512_ps(bits), subnormal,
                                            _mm512_set1_ps(2.0F), _mm512_set1_ps(0x1p-6F));
  bits = _mm512_castps_si512(value);
  bits = _mm512_mask_or_epi32(bits, nan, bits, _mm512_set1_epi32(0x7f800000));
  // bits | (top & sign)
  bits = _mm512_ternarylogic_epi32(bits, top, _mm512_set1_epi32(static_cast<int>(0x80000000U)),
                                   0xf8);
  return _mm512_castsi512_ps(bits);
}

struct Packing {
  using Words = __m512i;
  static constexpr int kWidth = 16;
  static __m512i load(const std::uint32_t* words) { return _mm512_load_si512(words); }

  // words[j][r] = word j behind rows[r] + offset; what lies beyond `bytes` reads as 0.
  static void transpose(const std::uint8_t* const* rows, std::int64_t offset, std::int64_t bytes,
                        std::uint32_t* words) {
    __m512i a[16];
    if (bytes >= 64) {
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) a[r] = _mm512_loadu_si512(rows[r] + offset);
    } else {
      const __mmask64 mask = (1ULL << bytes) - 1;
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) a[r] = _mm512_maskz_loadu_epi8(mask, rows[r] + offset);
    }
    // Pairs of rows, then fours: within each 128-bit lane.
    __m512i b[16];
#pragma GCC unroll 4
    for (int q = 0; q < 16; q += 4) {
      const __m512i t0 = _mm512_unpacklo_epi32(a[q], a[q + 1]);
      const __m512i t1 = _mm512_unpackhi_epi32(a[q], a[q + 1]);
      const __m512i t2 = _mm512_unpacklo_epi32(a[q + 2], a[q + 3]);
      const __m512i t3 = _mm512_unpackhi_epi32(a[q + 2], a[q + 3]);
      b[q] = _mm512_unpacklo_epi64(t0, t2);
      b[q + 1] = _mm512_unpackhi_epi64(t0, t2);
      b[q + 2] = _mm512_unpacklo_epi64(t1, t3);
      b[q + 3] = _mm512_unpackhi_epi64(t1, t3);
    }
    // b[4 q + i] has in lane l word 4 l + i of rows 4 q ... 4 q + 3: transpose lanes over q.
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i lo0 = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x44);
      const __m512i hi0 = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xee);
      const __m512i lo1 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x44);
      const __m512i hi1 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xee);
      _mm512_store_si512(words + 16 * i, _mm512_shuffle_i32x4(lo0, lo1, 0x88));
      _mm512_store_si512(words + 16 * (4 + i), _mm512_shuffle_i32x4(lo0, lo1, 0xdd));
      _mm512_store_si512(words + 16 * (8 + i), _mm512_shuffle_i32x4(hi0, hi1, 0x88));
      _mm512_store_si512(words + 16 * (12 + i), _mm512_shuffle_i32x4(hi0, hi1, 0xdd));
    }
  }

  template <int kFormat, int kJ>
  static __m512 expand(__m512i words) {
    if constexpr (kFormat == kStoredFp4) {
      // The look-up ignores all but the lowest four bits of an index.
      const __m512 table = _mm512_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F, -0.0F,
                                          -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F);
      return _mm512_permutexvar_ps(kJ == 0 ? words : _mm512_srli_epi32(words, 4 * kJ), table);
    } else if constexpr (kFormat == kStoredFp8) {
      return from_e4m3(kJ == 3 ? words : _mm512_slli_epi32(words, 24 - 8 * kJ));
    } else if constexpr (kFormat == kStoredBf16) {
      return _mm512_castsi512_ps(
          kJ == 0 ? _mm512_slli_epi32(words, 16)
                  : _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
    } else if constexpr (kFormat == kStoredF16) {
      return _mm512_cvtph_ps(
          _mm512_cvtepi32_epi16(kJ == 0 ? words : _mm512_srli_epi32(words, 16)));
    } else {
      return _mm512_castsi512_ps(words);
    }
  }

  template <bool kScaled>
  static void put(__m512 value, const float* scale, float* out) {
    _mm512_storeu_ps(out, kScaled ? _mm512_mul_ps(value, _mm512_loadu_ps(scale)) : value);
  }
  template <bool kScaled>
  static void put(__m512 value, const double* scale, double* out) {
    put_halves<kScaled>(_mm512_cvtps_pd(_mm512_castps512_ps256(value)),
                        _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1)), scale, out);
  }
  template <bool kScaled, class Acc>
  static void put_double(__m512i low, __m512i high, const Acc* scale, Acc* out) {
    const __m512i a = _mm512_unpacklo_epi32(low, high);  // rows 0 1 | 4 5 | 8 9 | 12 13
    const __m512i b = _mm512_unpackhi_epi32(low, high);  // rows 2 3 | 6 7 | 10 11 | 14 15
    const __m512d rows0 = _mm512_castsi512_pd(
        _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), b));
    const __m512d rows8 = _mm512_castsi512_pd(
        _mm512_permutex2var_epi64(a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), b));
    put_halves<kScaled>(rows0, rows8, scale, out);
  }

 private:
  template <bool kScaled>
  static void put_halves(__m512d low, __m512d high, const double* scale, double* out) {
    _mm512_storeu_pd(out, kScaled ? _mm512_mul_pd(low, _mm512_loadu_pd(scale)) : low);
    _mm512_storeu_pd(out + 8, kScaled ? _mm512_mul_pd(high, _mm512_loadu_pd(scale + 8)) : high);
  }
  template <bool kScaled>
  static void put_halves(__m512d low, __m512d high, const float* scale, float* out) {
    const __m512 value = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)),
                                            _mm512_cvtpd_ps(high), 1);
    put<kScaled>(value, scale, out);
  }
};

}  // namespace

// 24 of the 32 registers accumulate.
constinit const Kernels<double> kAvx512Double = kernels_of<Packing, Doubles, 32, 6>();
constinit const Kernels<float> kAvx512Float = kernels_of<Packing, Floats, 48, 8>();

}  // namespace foretoken::reference::detail

#endif
