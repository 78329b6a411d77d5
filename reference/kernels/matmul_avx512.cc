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
  static __m512 mul(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
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
  static __m512d mul(__m512d a, __m512d b) { return _mm512_mul_pd(a, b); }
  static void store(double* p, __m512d v) { _mm512_storeu_pd(p, v); }
  static void store_some(double* p, __m512d v, std::int64_t n) {
    _mm512_mask_storeu_pd(p, first_doubles(n), v);
  }
};

// E4M3 codes in one byte of each half word become BF16, two at a time: `top` has them in the upper
// byte, `index` in the lower. Exponent and mantissa move to where BF16 has them and the exponent is
// rebiased; subnormal ones come from a table. No step meets a subnormal float, which some
// processors are slow at.
__m512i e4m3_to_bf16(__m512i top, __m512i index) {
  // m 2^-9; the look-up ignores all but the lowest five bits of an index.
  const __m512i subnormals =
      _mm512_set_epi64(0, 0, 0, 0, 0, 0, 0x3c603c403c203c00, 0x3bc03b803b000000);
  __m512i bits = _mm512_and_si512(_mm512_srli_epi16(top, 4), _mm512_set1_epi16(0x07f0));
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(bits, _mm512_set1_epi16(0x07f0));
  const __mmask32 subnormal = _mm512_cmplt_epu16_mask(bits, _mm512_set1_epi16(0x0080));
  bits = _mm512_add_epi16(bits, _mm512_set1_epi16(120 << 7));
  bits = _mm512_mask_permutexvar_epi16(bits, subnormal, index, subnormals);
  bits = _mm512_mask_blend_epi16(nan, bits, _mm512_set1_epi16(0x7fc0));
  // bits | (top & sign)
  return _mm512_ternarylogic_epi32(bits, top, _mm512_set1_epi32(static_cast<int>(0x80008000U)),
                                   0xf8);
}

template <int kHalf>
__m512 from_bf16(__m512i words) {
  return _mm512_castsi512_ps(
      kHalf == 0 ? _mm512_slli_epi32(words, 16)
                 : _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
}

// E8M0 codes in the lowest byte of each word become float's exponent; 0 is 2^-127 and 255 is NaN,
// both of which want the mantissa's upper bit.
__m512 from_e8m0(__m512i words) {
  const __m512i codes = _mm512_and_si512(words, _mm512_set1_epi32(0xff));
  const __mmask16 ends = _mm512_cmpeq_epi32_mask(codes, _mm512_setzero_si512()) |
                         _mm512_cmpeq_epi32_mask(codes, _mm512_set1_epi32(0xff));
  const __m512i bits = _mm512_slli_epi32(codes, 23);
  return _mm512_castsi512_ps(_mm512_mask_or_epi32(bits, ends, bits, _mm512_set1_epi32(0x00400000)));
}

struct Packing {
  using Words = __m512i;
  static constexpr int kWidth = 16;
  static __m512i load(const std::uint32_t* words) { return _mm512_load_si512(words); }
  static void prefetch(const std::uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }

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
    auto* out = reinterpret_cast<__m512i*>(words);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i lo0 = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x44);
      const __m512i hi0 = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xee);
      const __m512i lo1 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x44);
      const __m512i hi1 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xee);
      _mm512_store_si512(out + i, _mm512_shuffle_i32x4(lo0, lo1, 0x88));
      _mm512_store_si512(out + 4 + i, _mm512_shuffle_i32x4(lo0, lo1, 0xdd));
      _mm512_store_si512(out + 8 + i, _mm512_shuffle_i32x4(hi0, hi1, 0x88));
      _mm512_store_si512(out + 12 + i, _mm512_shuffle_i32x4(hi0, hi1, 0xdd));
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
      return from_bf16<kJ / 2>(kJ % 2 == 0 ? e4m3_to_bf16(_mm512_slli_epi16(words, 8), words)
                                           : e4m3_to_bf16(words, _mm512_srli_epi16(words, 8)));
    } else if constexpr (kFormat == kStoredE8M0) {
      return from_e8m0(kJ == 0 ? words : _mm512_srli_epi32(words, 8 * kJ));
    } else if constexpr (kFormat == kStoredBf16) {
      return from_bf16<kJ>(words);
    } else if constexpr (kFormat == kStoredF16) {
      return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(kJ == 0 ? words : _mm512_srli_epi32(words, 16)));
    } else {
      return _mm512_castsi512_ps(words);
    }
  }

  static void widen(__m512 value, __m512 (&out)[1]) { out[0] = value; }
  static void widen(__m512 value, __m512d (&out)[2]) {
    out[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(value));
    out[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1));
  }
  static void join(__m512i low, __m512i high, __m512d (&out)[2]) {
    const __m512i a = _mm512_unpacklo_epi32(low, high);  // rows 0 1 | 4 5 | 8 9 | 12 13
    const __m512i b = _mm512_unpackhi_epi32(low, high);  // rows 2 3 | 6 7 | 10 11 | 14 15
    out[0] = _mm512_castsi512_pd(
        _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), b));
    out[1] = _mm512_castsi512_pd(
        _mm512_permutex2var_epi64(a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), b));
  }
  static void join(__m512i low, __m512i high, __m512 (&out)[1]) {
    __m512d halves[2];
    join(low, high, halves);
    out[0] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(halves[0])),
                                _mm512_cvtpd_ps(halves[1]), 1);
  }
};

}  // namespace

// 24 of the 32 registers accumulate.
constinit const Kernels<double> kAvx512Double = Assemble<Packing, Doubles, 32, 6>::kernels();
constinit const Kernels<float> kAvx512Float = Assemble<Packing, Floats, 48, 8>::kernels();

}  // namespace foretoken::reference::detail

#endif
