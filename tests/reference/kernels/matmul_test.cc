#include "reference/kernels/matmul.h"
#include "reference/kernels/parallel.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace foretoken::reference {
namespace {

using Format = WeightView::Format;
using Scale = WeightView::Scale;
using Bytes = std::vector<std::uint8_t>;

constexpr Format kAllFormats[] = {Format::kF64,  Format::kF32, Format::kF16,
                                  Format::kBf16, Format::kFp8, Format::kFp4};
constexpr Scale kAllScales[] = {Scale::kNone, Scale::kE8M0, Scale::kF32, Scale::kBf16};

// --- A second decoder, straight from the formats' definitions, one value at a time in double.

double sign_exponent_mantissa(unsigned code, int exponent_bits, int mantissa_bits, int bias) {
  const unsigned mantissa = code & ((1U << mantissa_bits) - 1);
  const unsigned exponent = (code >> mantissa_bits) & ((1U << exponent_bits) - 1);
  const bool negative = ((code >> (exponent_bits + mantissa_bits)) & 1U) != 0;
  double value = std::ldexp(mantissa, -mantissa_bits);
  value = exponent == 0 ? std::ldexp(value, 1 - bias)
                        : std::ldexp(1 + value, static_cast<int>(exponent) - bias);
  return negative ? -value : value;
}

template <class T>
T read(const void* bytes, std::int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const std::uint8_t*>(bytes) + index * sizeof(T), sizeof(T));
  return value;
}

double naive_bf16(std::uint16_t code) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 16);
}

double naive_f16(std::uint16_t code) {
  if ((code & 0x7c00U) != 0x7c00U) return sign_exponent_mantissa(code, 5, 10, 15);
  if ((code & 0x3ffU) != 0) return std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  return (code & 0x8000U) != 0 ? -infinity : infinity;
}

double naive_e4m3(std::uint8_t code) {
  return (code & 0x7fU) == 0x7fU ? std::numeric_limits<double>::quiet_NaN()
                                 : sign_exponent_mantissa(code, 4, 3, 7);
}

double naive_element(const WeightView& w, std::int64_t index) {
  switch (w.format) {
    case Format::kF64:
      return read<double>(w.data, index);
    case Format::kF32:
      return read<float>(w.data, index);
    case Format::kF16:
      return naive_f16(read<std::uint16_t>(w.data, index));
    case Format::kBf16:
      return naive_bf16(read<std::uint16_t>(w.data, index));
    case Format::kFp8:
      return naive_e4m3(read<std::uint8_t>(w.data, index));
    case Format::kFp4: {
      const unsigned byte = read<std::uint8_t>(w.data, index / 2);
      return sign_exponent_mantissa(index % 2 == 0 ? byte & 15U : byte >> 4, 2, 1, 1);
    }
  }
  return 0;
}

double naive_scale(const WeightView& w, std::int64_t n, std::int64_t k) {
  const std::int64_t needed = (w.columns + w.scale_columns - 1) / w.scale_columns;
  const std::int64_t index =
      n / w.scale_rows * (w.scale_stride != 0 ? w.scale_stride : needed) + k / w.scale_columns;
  switch (w.scale) {
    case Scale::kNone:
      return 1;
    case Scale::kE8M0: {
      const auto code = read<std::uint8_t>(w.scales, index);
      return code == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, code - 127);
    }
    case Scale::kF32:
      return read<float>(w.scales, index);
    case Scale::kBf16:
      return naive_bf16(read<std::uint16_t>(w.scales, index));
  }
  return 0;
}

template <class Acc>
Acc naive_weight(const WeightView& w, std::int64_t n, std::int64_t k) {
  const std::int64_t even_columns = (w.columns + 1) / 2 * 2;
  std::int64_t stride = w.format == Format::kFp4 ? even_columns : w.columns;
  if (w.transposed) stride = w.rows;
  if (w.stride != 0) stride = w.stride;
  const auto value =
      static_cast<Acc>(naive_element(w, w.transposed ? k * stride + n : n * stride + k));
  return w.scale == Scale::kNone ? value : value * static_cast<Acc>(naive_scale(w, n, k));
}

template <class T, class Acc>
std::vector<Acc> naive_matmul(const T* x, std::int64_t m, std::int64_t x_stride,
                              const WeightView& w, std::int64_t block) {
  std::vector<Acc> weights;
  for (std::int64_t n = 0; n < w.rows; ++n) {
    for (std::int64_t k = 0; k < w.columns; ++k) weights.push_back(naive_weight<Acc>(w, n, k));
  }
  std::vector<Acc> y;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      const Acc* row = weights.data() + n * w.columns;
      Acc total = 0;
      Acc chain = 0;
      for (std::int64_t k = 0; k < w.columns; ++k) {
        if (block > 0 && k > 0 && k % block == 0) {
          total += chain;
          chain = 0;
        }
        chain = std::fma(static_cast<Acc>(x[i * x_stride + k]), row[k], chain);
      }
      y.push_back(block > 0 && w.columns > 0 ? total + chain : chain);
    }
  }
  return y;
}

// --- Random cases.

// Bit patterns, except that NaNs (whose payload IEEE 754 leaves open) are all alike.
template <class T>
std::vector<std::uint64_t> bits(const std::vector<T>& values) {
  std::vector<std::uint64_t> out;
  for (const T v : values) {
    if (std::isnan(v)) {
      out.push_back(~std::uint64_t{0});
    } else if constexpr (std::is_same_v<T, double>) {
      out.push_back(std::bit_cast<std::uint64_t>(v));
    } else {
      out.push_back(std::bit_cast<std::uint32_t>(v));
    }
  }
  return out;
}

using Random = std::mt19937_64;

std::int64_t uniform(Random& random, std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

// In [-1, 1), every bit of the mantissa in use.
double any_value(Random& random) {
  return static_cast<double>(static_cast<std::int64_t>(random())) * 0x1p-63;
}

template <class T>
std::vector<T> random_values(Random& random, std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& v : values) v = static_cast<T>(any_value(random));
  return values;
}

template <class T>
void append(Bytes& bytes, T value) {
  const std::size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

struct Shape {
  std::int64_t rows = 1;
  std::int64_t columns = 1;
  std::int64_t extra_stride = 0;
  bool transposed = false;
  Scale scale = Scale::kNone;
  std::int64_t scale_rows = 1;
  std::int64_t scale_columns = 32;
  std::int64_t extra_scale_stride = 0;
  bool wild = false;  // any bit pattern, NaN and infinity included
};

// Owns what a view borrows; the data start one byte off any alignment.
class Weights {
 public:
  Weights(Format format, const Shape& shape, Random& random) {
    view_ = {.format = format,
             .rows = shape.rows,
             .columns = shape.columns,
             .transposed = shape.transposed,
             .scale = shape.scale,
             .scale_rows = shape.scale_rows,
             .scale_columns = shape.scale_columns};
    std::int64_t lines = shape.rows;
    std::int64_t line = shape.columns;
    if (shape.transposed) std::swap(lines, line);
    if (format == Format::kFp4) line = (line + 1) / 2 * 2;
    line += shape.extra_stride;
    if (shape.extra_stride != 0) view_.stride = line;
    data_.assign(1, 0);
    for (std::int64_t i = 0; i < lines * line; ++i) {
      if (format == Format::kFp4 && i % 2 != 0) continue;
      add_element(format, shape.wild, random);
    }
    std::int64_t scale_line = (shape.columns + shape.scale_columns - 1) / shape.scale_columns;
    if (shape.extra_scale_stride != 0) {
      scale_line += shape.extra_scale_stride;
      view_.scale_stride = scale_line;
    }
    const std::int64_t scale_lines = (shape.rows + shape.scale_rows - 1) / shape.scale_rows;
    scales_.assign(1, 0);
    for (std::int64_t i = 0; i < scale_lines * scale_line; ++i) {
      add_scale(shape.scale, shape.wild, random);
    }
    // A read beyond the end is for the address sanitizer to find.
    data_.shrink_to_fit();
    scales_.shrink_to_fit();
    view_.data = data_.data() + 1;
    if (shape.scale != Scale::kNone) view_.scales = scales_.data() + 1;
  }
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  [[nodiscard]] const WeightView& view() const { return view_; }

 private:
  void add_element(Format format, bool wild, Random& random) {
    const std::uint64_t word = random();
    const double value = any_value(random);
    switch (format) {
      case Format::kF64:
        return wild ? append(data_, word) : append(data_, value);
      case Format::kF32:
        return wild ? append(data_, static_cast<std::uint32_t>(word))
                    : append(data_, static_cast<float>(value));
      case Format::kF16:  // sign, mantissa, exponents around 1
        return append(data_, static_cast<std::uint16_t>(
                                 wild ? word : (word & 0x83ffU) | (8 + (word >> 20) % 10) << 10));
      case Format::kBf16:
        return append(
            data_,
            static_cast<std::uint16_t>(
                wild ? word : std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16));
      case Format::kFp8: {
        const auto code = static_cast<std::uint8_t>(word);
        return append(data_, !wild && (code & 0x7fU) == 0x7fU ? std::uint8_t{0} : code);
      }
      case Format::kFp4:
        return append(data_, static_cast<std::uint8_t>(word));
    }
  }
  void add_scale(Scale scale, bool wild, Random& random) {
    const std::uint64_t word = random();
    const auto value = static_cast<float>(std::exp2(4 * any_value(random)));
    switch (scale) {
      case Scale::kNone:
        return;
      case Scale::kE8M0:
        return append(scales_, static_cast<std::uint8_t>(wild ? word : 120 + word % 12));
      case Scale::kF32:
        return append(scales_, value);
      case Scale::kBf16:
        return append(scales_,
                      static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16));
    }
  }

  Bytes data_;
  Bytes scales_;
  WeightView view_;
};

template <class T, class Acc>
std::vector<Acc> product(const std::vector<T>& x, std::int64_t m, const WeightView& w,
                         std::int64_t block = 0) {
  std::vector<Acc> y(static_cast<std::size_t>(m * w.rows), Acc{-77});
  matmul(x.data(), m, 0, w, y.data(), 0, block);
  return y;
}

class EachSimd : public testing::TestWithParam<Simd> {
 protected:
  void SetUp() override {
    if (GetParam() > best_simd()) GTEST_SKIP() << "not on this machine";
    set_simd(GetParam());
    // Products this small finish before other threads wake; one test is about threads.
    set_threads(1);
  }
  void TearDown() override {
    set_simd(best_simd());
    set_threads(threads_);
  }

 private:
  int threads_ = threads();
};

INSTANTIATE_TEST_SUITE_P(Matmul, EachSimd,
                         testing::Values(Simd::kPortable, Simd::kAvx2, Simd::kAvx512),
                         [](const auto& instance) {
                           return std::string(to_string(instance.param));
                         });

struct Case {
  Format format = Format::kF32;
  Shape shape;
  std::int64_t m = 1;
  std::int64_t block = 0;
};

Case random_case(Random& random) {
  const auto one_of = [&](std::initializer_list<std::int64_t> values) {
    return values.begin()[uniform(random, 0, static_cast<std::int64_t>(values.size()) - 1)];
  };
  Case c;
  c.format = kAllFormats[uniform(random, 0, 5)];
  c.m = one_of({uniform(random, 1, 4), uniform(random, 1, 20)});
  c.shape.rows = uniform(random, 1, 110);
  c.shape.columns =
      one_of({uniform(random, 1, 70), uniform(random, 200, 700), 256, 8 * uniform(random, 1, 90)});
  c.shape.extra_stride = one_of({0, 2, 64});
  c.shape.wild = uniform(random, 0, 5) == 0;
  const bool plain = c.format != Format::kFp8 && c.format != Format::kFp4;
  c.shape.transposed = plain && uniform(random, 0, 2) == 0;
  if (!c.shape.transposed) c.shape.scale = kAllScales[uniform(random, 0, 3)];
  c.shape.scale_rows = one_of({1, 128, 32, 64, 7});
  c.shape.scale_columns = one_of({32, 128, 32, 48, 10, 8, 1000});
  c.shape.extra_scale_stride = one_of({0, 3});
  c.block = one_of({0, 0, 32, 128, 1, 7, 24, 300, 600, 5000});
  return c;
}

std::string describe(const Case& c) {
  std::string text;
  const auto add = [&](const char* name, std::int64_t value) {
    text += std::string(name) + " " + std::to_string(value) + ", ";
  };
  add("format", static_cast<int>(c.format));
  add("m", c.m);
  add("rows", c.shape.rows);
  add("columns", c.shape.columns);
  add("extra stride", c.shape.extra_stride);
  add("transposed", c.shape.transposed ? 1 : 0);
  add("scale", static_cast<int>(c.shape.scale));
  add("scale rows", c.shape.scale_rows);
  add("scale columns", c.shape.scale_columns);
  add("wild", c.shape.wild ? 1 : 0);
  add("block", c.block);
  return text;
}

template <class T, class Acc>
void compare_with_naive(const Case& c, Random& random) {
  const Weights weights(c.format, c.shape, random);
  const WeightView& w = weights.view();
  // Rows of x and y lie apart, and what lies between those of y must stay.
  const std::int64_t x_stride = w.columns + 3;
  const std::int64_t y_stride = w.rows + 5;
  const std::vector<T> x = random_values<T>(random, c.m * x_stride);
  std::vector<Acc> y(static_cast<std::size_t>(c.m * y_stride), Acc{-77});
  matmul(x.data(), c.m, x_stride, w, y.data(), y_stride, c.block);
  const std::int64_t block = std::is_same_v<Acc, double> ? 0 : c.block;
  const std::vector<Acc> expected = naive_matmul<T, Acc>(x.data(), c.m, x_stride, w, block);
  std::vector<Acc> got;
  for (std::int64_t i = 0; i < c.m; ++i) {
    const auto row = y.begin() + i * y_stride;
    got.insert(got.end(), row, row + w.rows);
    for (std::int64_t n = w.rows; n < y_stride; ++n) ASSERT_EQ(row[n], -77) << describe(c);
  }
  ASSERT_EQ(bits(got), bits(expected)) << describe(c);
}

TEST_P(EachSimd, IsOneChainOfFusedMultiplyAddsBitForBit) {
  Random random(1);
  for (int i = 0; i < 250; ++i) {
    const Case c = random_case(random);
    compare_with_naive<float, float>(c, random);
    compare_with_naive<double, double>(c, random);
    compare_with_naive<float, double>(c, random);
    if (HasFatalFailure()) return;
  }
}

TEST_P(EachSimd, TakesEveryFormatWithEveryScaleKind) {
  Random random(2);
  for (const Format format : kAllFormats) {
    for (const Scale scale : kAllScales) {
      for (const bool wild : {false, true}) {
        Case c{.format = format, .shape = {.rows = 101, .columns = 389}, .m = 11, .block = 32};
        c.shape.scale = scale;
        c.shape.wild = wild;
        compare_with_naive<float, float>(c, random);
        compare_with_naive<double, double>(c, random);
        compare_with_naive<float, double>(c, random);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(EachSimd, DecodesEveryCodeUnderEveryE8M0Scale) {
  // One row per scale code, one column per FP8 (FP4) code; a one-hot input reads a column back.
  for (const Format format : {Format::kFp8, Format::kFp4}) {
    const std::int64_t columns = format == Format::kFp8 ? 256 : 16;
    Bytes codes;
    Bytes scales;
    for (int n = 0; n < 256; ++n) {
      scales.push_back(static_cast<std::uint8_t>(n));
      for (int k = 0; k < columns; ++k) {
        if (format == Format::kFp8) {
          codes.push_back(static_cast<std::uint8_t>(k));
        } else if (k % 2 == 0) {
          codes.push_back(static_cast<std::uint8_t>(k | (k + 1) << 4));
        }
      }
    }
    const WeightView w{.format = format,
                       .data = codes.data(),
                       .rows = 256,
                       .columns = columns,
                       .scale = Scale::kE8M0,
                       .scales = scales.data(),
                       .scale_columns = columns};
    // NaN anywhere in a row makes all its outputs NaN, so leave the NaN codes to decode_rows.
    std::vector<double> in_double(static_cast<std::size_t>(256 * columns));
    std::vector<float> in_float(in_double.size());
    decode_rows(w, 0, 256, in_double.data());
    decode_rows(w, 0, 256, in_float.data());
    for (std::int64_t n = 0; n < 256; ++n) {
      for (std::int64_t k = 0; k < columns; ++k) {
        const auto at = static_cast<std::size_t>(n * columns + k);
        ASSERT_EQ(bits<double>({in_double[at]}), bits<double>({naive_weight<double>(w, n, k)}));
        ASSERT_EQ(bits<float>({in_float[at]}), bits<float>({naive_weight<float>(w, n, k)}));
      }
    }
    for (std::int64_t k = 0; k < columns; ++k) {
      // One column alone, as a matrix of its own; the pointer is at that column's byte.
      if (format == Format::kFp4 && k % 2 != 0) continue;
      WeightView column = w;
      column.data = codes.data() + (format == Format::kFp8 ? k : k / 2);
      column.columns = 1;
      column.stride = columns;
      column.scale_columns = 1;
      const std::vector<float> one = {1.0F};
      const std::vector<float> got = product<float, float>(one, 1, column);
      const std::vector<double> got_double = product<float, double>(one, 1, column);
      for (std::int64_t n = 0; n < 256; ++n) {
        const auto row = static_cast<std::size_t>(n);
        // 0 + -0 is 0.
        ASSERT_EQ(bits<float>({got[row]}), bits<float>({0.0F + naive_weight<float>(w, n, k)}));
        ASSERT_EQ(bits<double>({got_double[row]}),
                  bits<double>({0.0 + naive_weight<double>(w, n, k)}));
      }
    }
  }
}

TEST_P(EachSimd, ARowDoesNotDependOnItsNeighbours) {
  Random random(3);
  for (const Format format : {Format::kFp4, Format::kFp8, Format::kBf16, Format::kF32}) {
    Shape shape{.rows = 77, .columns = 544};
    if (format == Format::kFp4) shape.scale = Scale::kE8M0;
    const Weights weights(format, shape, random);
    const WeightView& w = weights.view();
    const std::vector<float> x = random_values<float>(random, 37 * w.columns);
    for (const std::int64_t block : {0, 32, 100}) {
      const std::vector<float> together = product<float, float>(x, 37, w, block);
      for (std::int64_t i = 0; i < 37; ++i) {
        const std::vector<float> row(x.begin() + i * w.columns, x.begin() + (i + 1) * w.columns);
        const std::vector<float> alone = product<float, float>(row, 1, w, block);
        const std::vector<float> same(together.begin() + i * w.rows,
                                      together.begin() + (i + 1) * w.rows);
        ASSERT_EQ(bits(alone), bits(same));
      }
    }
  }
}

TEST_P(EachSimd, NumberOfThreadsChangesNothing) {
  Random random(4);
  const Weights weights(Format::kFp4, {.rows = 333, .columns = 704, .scale = Scale::kE8M0}, random);
  const Weights narrow(Format::kF32, {.rows = 20, .columns = 700}, random);
  for (const WeightView& w : {weights.view(), narrow.view()}) {
    for (const std::int64_t m : {2, 150}) {
      const std::vector<float> x = random_values<float>(random, m * w.columns);
      set_threads(1);
      const std::vector<float> serial = product<float, float>(x, m, w, 32);
      for (const int count : {2, 7}) {
        set_threads(count);
        EXPECT_EQ(bits(serial), bits(product<float, float>(x, m, w, 32)));
      }
      // Inside a parallel loop each thread computes its product by itself.
      std::vector<std::vector<float>> inside(4);
      set_threads(2);
      parallel_for(4, kParallelWork, [&](std::int64_t i) {
        inside[static_cast<std::size_t>(i)] = product<float, float>(x, m, w, 32);
      });
      for (const auto& y : inside) EXPECT_EQ(bits(serial), bits(y));
    }
  }
}

TEST_P(EachSimd, NoColumnsGiveZeroAndNoRowsGiveNothing) {
  const std::vector<float> x = {1, 2, 3};
  const WeightView no_columns{.rows = 5, .columns = 0};
  EXPECT_EQ((product<float, float>(x, 3, no_columns)), std::vector<float>(15, 0.0F));
  const WeightView no_rows{.rows = 0, .columns = 3};
  matmul(x.data(), 1, 0, no_rows, static_cast<float*>(nullptr));
  const std::vector<float> data(15, 1.0F);
  const WeightView w{.data = data.data(), .rows = 5, .columns = 3};
  matmul(static_cast<const float*>(nullptr), 0, 0, w, static_cast<float*>(nullptr));
  decode_rows(w, 2, 0, static_cast<float*>(nullptr));
}

TEST_P(EachSimd, NanAndInfinityReachTheOutputsTheyBelongTo) {
  const std::int64_t columns = 40;
  std::vector<float> data(3 * columns, 1.0F);
  data[1 * columns + 35] = std::numeric_limits<float>::infinity();
  data[2 * columns + 3] = std::numeric_limits<float>::quiet_NaN();
  const WeightView w{.data = data.data(), .rows = 3, .columns = columns};
  std::vector<float> x(2 * columns, 1.0F);
  x[columns + 35] = 0;  // 0 * infinity
  const std::vector<float> y = product<float, float>(x, 2, w, 32);
  EXPECT_EQ(y[0], 40);
  EXPECT_EQ(y[1], std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(y[2]));
  EXPECT_EQ(y[3], 39);
  EXPECT_TRUE(std::isnan(y[4]));
  EXPECT_TRUE(std::isnan(y[5]));
}

TEST(Matmul, ManyInputRowsTakeSeveralPasses) {
  // 16 MiB of packed inputs a pass.
  Random random(5);
  const Weights weights(Format::kF32, {.rows = 3, .columns = 20000}, random);
  const std::vector<float> x = random_values<float>(random, 250 * 20000);
  const std::vector<float> y = product<float, float>(x, 250, weights.view());
  const auto expected = naive_matmul<float, float>(x.data(), 250, 20000, weights.view(), 0);
  EXPECT_EQ(bits(y), bits(expected));
}

TEST(Matmul, InstructionSetsAgreeOnLargeShapes) {
  Random random(6);
  const Weights weights(Format::kFp4, {.rows = 200, .columns = 2080, .scale = Scale::kE8M0},
                        random);
  const std::vector<float> x = random_values<float>(random, 9 * 2080);
  std::vector<std::vector<std::uint64_t>> results;
  for (const Simd simd : {Simd::kPortable, Simd::kAvx2, Simd::kAvx512}) {
    if (simd > best_simd()) continue;
    set_simd(simd);
    results.push_back(bits(product<float, float>(x, 9, weights.view(), 32)));
    const auto in_double = bits(product<float, double>(x, 9, weights.view()));
    results.back().insert(results.back().end(), in_double.begin(), in_double.end());
  }
  set_simd(best_simd());
  for (const auto& result : results) EXPECT_EQ(result, results.front());
}

TEST(Matmul, DecodeRowsGivesTheWeightsThatMatmulMultiplies) {
  Random random(7);
  for (int i = 0; i < 200; ++i) {
    const Case c = random_case(random);
    const Weights weights(c.format, c.shape, random);
    const WeightView& w = weights.view();
    const std::int64_t first = uniform(random, 0, w.rows);
    const std::int64_t count = uniform(random, 0, w.rows - first);
    std::vector<double> in_double(static_cast<std::size_t>(count * w.columns));
    std::vector<float> in_float(in_double.size());
    decode_rows(w, first, count, in_double.data());
    decode_rows(w, first, count, in_float.data());
    std::vector<double> expected_double;
    std::vector<float> expected_float;
    for (std::int64_t n = first; n < first + count; ++n) {
      for (std::int64_t k = 0; k < w.columns; ++k) {
        expected_double.push_back(naive_weight<double>(w, n, k));
        expected_float.push_back(naive_weight<float>(w, n, k));
      }
    }
    ASSERT_EQ(bits(in_double), bits(expected_double)) << describe(c);
    ASSERT_EQ(bits(in_float), bits(expected_float)) << describe(c);
  }
}

TEST(Matmul, ChoosesAtMostWhatTheMachineHas) {
  EXPECT_LE(simd(), best_simd());
  EXPECT_EQ(to_string(Simd::kPortable), "portable");
  EXPECT_EQ(to_string(Simd::kAvx2), "avx2");
  EXPECT_EQ(to_string(Simd::kAvx512), "avx512");
  if (best_simd() < Simd::kAvx512) {
    EXPECT_THROW(set_simd(Simd::kAvx512), std::invalid_argument);
  }
}

// --- Properties.

// Small integers: every product and sum below is exact, in any order.
std::vector<float> integers(std::int64_t count, std::int64_t limit) {
  const auto values = *rc::gen::container<std::vector<int>>(
      static_cast<std::size_t>(count),
      rc::gen::inRange(-static_cast<int>(limit), static_cast<int>(limit) + 1));
  return {values.begin(), values.end()};
}

TEST(MatmulProperty, IsLinearOverExactIntegers) {
  EXPECT_TRUE(rc::check([] {
    const std::int64_t m = *rc::gen::inRange(1, 12);
    const std::int64_t rows = *rc::gen::inRange(1, 60);
    const std::int64_t columns = *rc::gen::inRange(1, 80);
    const std::int64_t block = *rc::gen::element(0, 1, 8, 32);
    const auto a = static_cast<float>(*rc::gen::inRange(-9, 10));
    const std::vector<float> data = integers(rows * columns, 100);
    const WeightView w{.data = data.data(), .rows = rows, .columns = columns};
    const std::vector<float> x = integers(m * columns, 100);
    const std::vector<float> z = integers(m * columns, 100);
    std::vector<float> combined(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) combined[i] = a * x[i] + z[i];
    const auto of_x = product<float, float>(x, m, w, block);
    const auto of_z = product<float, float>(z, m, w, block);
    const auto of_combined = product<float, float>(combined, m, w, block);
    for (std::size_t i = 0; i < of_x.size(); ++i) {
      RC_ASSERT(of_combined[i] == a * of_x[i] + of_z[i]);
    }
  }));
}

TEST(MatmulProperty, PermutingWeightRowsPermutesOutputs) {
  EXPECT_TRUE(rc::check([] {
    const std::int64_t m = *rc::gen::inRange(1, 12);
    const std::int64_t rows = *rc::gen::inRange(1, 120);
    const std::int64_t columns = *rc::gen::inRange(1, 100);
    Random random(*rc::gen::arbitrary<std::uint64_t>());
    const std::vector<float> data = random_values<float>(random, rows * columns);
    const std::vector<float> x = random_values<float>(random, m * columns);
    std::vector<std::int64_t> order(static_cast<std::size_t>(rows));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    std::vector<float> permuted;
    for (const std::int64_t row : order) {
      permuted.insert(permuted.end(), data.begin() + row * columns,
                      data.begin() + (row + 1) * columns);
    }
    const WeightView w{.data = data.data(), .rows = rows, .columns = columns};
    WeightView p = w;
    p.data = permuted.data();
    const auto y = product<float, double>(x, m, w);
    const auto y_permuted = product<float, double>(x, m, p);
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t n = 0; n < rows; ++n) {
        const std::int64_t from = order[static_cast<std::size_t>(n)];
        RC_ASSERT(y_permuted[static_cast<std::size_t>(i * rows + n)] ==
                  y[static_cast<std::size_t>(i * rows + from)]);
      }
    }
  }));
}

TEST(MatmulProperty, ZeroWeightsGiveZero) {
  EXPECT_TRUE(rc::check([] {
    const std::int64_t m = *rc::gen::inRange(1, 12);
    const std::int64_t rows = *rc::gen::inRange(1, 120);
    const std::int64_t columns = *rc::gen::inRange(1, 300);
    const Format format = kAllFormats[*rc::gen::inRange(0, 6)];
    Random random(*rc::gen::arbitrary<std::uint64_t>());
    const std::vector<float> x = random_values<float>(random, m * columns);
    const Bytes data(static_cast<std::size_t>(rows * (columns + 1) * 8), 0);
    const WeightView w{.format = format, .data = data.data(), .rows = rows, .columns = columns};
    for (const float y : product<float, float>(x, m, w, 32)) RC_ASSERT(y == 0.0F);
  }));
}

}  // namespace
}  // namespace foretoken::reference
