// Matrix products over weights as they are stored. Every output element is one chain of fused
// multiply-adds over k = 0, 1, 2, ..., so that it does not depend on how many rows there are, on
// how the work is cut, or on the instruction set it runs on.
#pragma once

#include <cstdint>
#include <string_view>

namespace foretoken::reference {

// A weight matrix [rows, columns] (out, in) as stored; borrows everything. `data` may be aligned to
// one byte only.
struct WeightView {
  enum class Format : std::uint8_t { kF64, kF32, kF16, kBf16, kFp8, kFp4 };
  enum class Scale : std::uint8_t { kNone, kE8M0, kF32, kBf16 };

  Format format = Format::kF32;
  const void* data = nullptr;  // row-major; FP4: two E2M1 codes a byte, low nibble = even column
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t stride = 0;  // elements from row to row; 0 = columns. Even for FP4.
  // Stored [columns, rows] instead (plain formats only): what attention's value product reads.
  bool transposed = false;

  Scale scale = Scale::kNone;
  const void* scales = nullptr;  // [ceil(rows / scale_rows), ceil(columns / scale_columns)]
  std::int64_t scale_rows = 1;
  std::int64_t scale_columns = 1;
  std::int64_t scale_stride = 0;  // scales from one row of them to the next; 0 = as many as needed
};

// y[i, n] = sum_k x[i, k] * w[n, k] for i < m; x has `x_stride` elements from row to row (0 =
// columns), y `y_stride` (0 = rows).
//   Acc = double: the ground truth. Weights, scales included, are exact in double; one chain over
//   all k.
//   Acc = float: the hardware's way. With block > 0 the chain restarts every `block` inputs and the
//   partial sums are added up in a second FP32 accumulator (facts 2.2: 128 for FP8, 32 for FP4);
//   weights are decoded with their scales, which is the same as scaling the partial sum as long as
//   scales are powers of two.
// Uses all cores (parallel.h) unless called inside a parallel loop.
template <class T, class Acc>
void matmul(const T* x, std::int64_t m, std::int64_t x_stride, const WeightView& w, Acc* y,
            std::int64_t y_stride = 0, std::int64_t block = 0);
extern template void matmul(const double*, std::int64_t, std::int64_t, const WeightView&, double*,
                            std::int64_t, std::int64_t);
extern template void matmul(const float*, std::int64_t, std::int64_t, const WeightView&, double*,
                            std::int64_t, std::int64_t);
extern template void matmul(const float*, std::int64_t, std::int64_t, const WeightView&, float*,
                            std::int64_t, std::int64_t);

// Decodes rows [first, first + count) of a weight, scales applied, into out[count, columns].
void decode_rows(const WeightView& w, std::int64_t first, std::int64_t count, double* out);
void decode_rows(const WeightView& w, std::int64_t first, std::int64_t count, float* out);

// Which instructions matmul uses: the best of what this machine has, unless the environment
// variable FORETOKEN_SIMD names a lesser one (portable, avx2, avx512) or set_simd does.
enum class Simd : std::uint8_t { kPortable, kAvx2, kAvx512 };
std::string_view to_string(Simd simd);
Simd best_simd();
Simd simd();
void set_simd(Simd simd);  // at most best_simd(); for tests and benchmarks

}  // namespace foretoken::reference
