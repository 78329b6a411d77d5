// How fast the reference multiplies by expert weights as they are stored, beside Eigen's float
// product of the same shape, whose weights were decoded beforehand. Names end in m and threads.
// FORETOKEN_SIMD picks the instruction set of both.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "reference/kernels/matmul.h"
#include "reference/kernels/parallel.h"

#if defined(FORETOKEN_HAVE_EIGEN_GEMM)
extern "C" void eigen_gemm_avx2(const float* x, const float* w, float* y, long m, long n, long k,
                                int threads);
extern "C" void eigen_gemm_avx512(const float* x, const float* w, float* y, long m, long n, long k,
                                  int threads);
#endif

namespace {

namespace ref = foretoken::reference;
using ref::WeightView;

struct Shape {
  const char* name;
  std::int64_t rows;
  std::int64_t columns;
};
constexpr Shape kShapes[] = {
    {"flash_gate_up", 2048, 4096}, {"flash_down", 4096, 2048}, {"pro_gate_up", 3072, 7168}};
constexpr std::int64_t kMostRows = 256;

// One expert's weights in both formats, and inputs.
struct Data {
  std::vector<std::uint8_t> codes, fp4_scales, fp8_scales;
  std::vector<float> x, y, decoded;
  std::vector<double> y_double;
  WeightView fp4, fp8;

  explicit Data(const Shape& shape) {
    std::mt19937 random(1);  // NOLINT(bugprone-random-generator-seed): the same data every time
    const auto count = static_cast<std::size_t>(shape.rows * shape.columns);
    std::normal_distribution<float> normal;
    codes.resize(count);
    for (auto& code : codes) {
      // FP8 codes as weights scaled to their largest have them: few are subnormal, none is NaN.
      const auto word = random();
      code = static_cast<std::uint8_t>((word & 0x80U) | (0x20 + word % 0x5f));
    }
    fp4_scales.resize(count / 32);
    for (auto& scale : fp4_scales) scale = static_cast<std::uint8_t>(118 + random() % 6);
    fp8_scales.resize(count / (128 * 128));
    for (auto& scale : fp8_scales) scale = static_cast<std::uint8_t>(112 + random() % 6);
    x.resize(static_cast<std::size_t>(kMostRows * shape.columns));
    for (auto& value : x) value = normal(random);
    y.resize(static_cast<std::size_t>(kMostRows * shape.rows));
    y_double.resize(y.size());
    fp4 = {.format = WeightView::Format::kFp4,
           .data = codes.data(),
           .rows = shape.rows,
           .columns = shape.columns,
           .scale = WeightView::Scale::kE8M0,
           .scales = fp4_scales.data(),
           .scale_rows = 1,
           .scale_columns = 32};
    fp8 = fp4;
    fp8.format = WeightView::Format::kFp8;
    fp8.scales = fp8_scales.data();
    fp8.scale_rows = fp8.scale_columns = 128;
    decoded.resize(count);
    ref::decode_rows(fp4, 0, shape.rows, decoded.data());
  }
};

Data& data_of(const Shape& shape) {
  static std::vector<Data> all(std::begin(kShapes), std::end(kShapes));
  return all[static_cast<std::size_t>(&shape - kShapes)];
}

void report(benchmark::State& state, const Shape& shape, std::int64_t m) {
  const double flop = 2.0 * static_cast<double>(m * shape.rows * shape.columns);
  state.counters["FLOP/s"] =
      benchmark::Counter(flop, benchmark::Counter::kIsIterationInvariantRate);
}

enum class Kind { kFp4Block32, kFp4, kFp4Double, kFp8Block128, kFp8, kFp8Double };
struct Named {
  const char* name;
  Kind kind;
};
constexpr Named kKinds[] = {{"fp4_float_block32", Kind::kFp4Block32},
                            {"fp4_float", Kind::kFp4},
                            {"fp4_double", Kind::kFp4Double},
                            {"fp8_float_block128", Kind::kFp8Block128},
                            {"fp8_float", Kind::kFp8},
                            {"fp8_double", Kind::kFp8Double}};

void product(benchmark::State& state, const Shape& shape, Kind kind, std::int64_t m, int threads) {
  Data& data = data_of(shape);
  ref::set_threads(threads);
  const float* x = data.x.data();
  for (auto _ : state) {
    switch (kind) {
      case Kind::kFp4Block32:
        ref::matmul(x, m, 0, data.fp4, data.y.data(), 0, 32);
        break;
      case Kind::kFp4:
        ref::matmul(x, m, 0, data.fp4, data.y.data());
        break;
      case Kind::kFp4Double:
        ref::matmul(x, m, 0, data.fp4, data.y_double.data());
        break;
      case Kind::kFp8Block128:
        ref::matmul(x, m, 0, data.fp8, data.y.data(), 0, 128);
        break;
      case Kind::kFp8:
        ref::matmul(x, m, 0, data.fp8, data.y.data());
        break;
      case Kind::kFp8Double:
        ref::matmul(x, m, 0, data.fp8, data.y_double.data());
        break;
    }
    benchmark::ClobberMemory();
  }
  report(state, shape, m);
}

#if defined(FORETOKEN_HAVE_EIGEN_GEMM)
void eigen(benchmark::State& state, const Shape& shape, std::int64_t m, int threads) {
  Data& data = data_of(shape);
  const auto gemm = ref::simd() == ref::Simd::kAvx512 ? eigen_gemm_avx512 : eigen_gemm_avx2;
  for (auto _ : state) {
    gemm(data.x.data(), data.decoded.data(), data.y.data(), m, shape.rows, shape.columns, threads);
    benchmark::ClobberMemory();
  }
  report(state, shape, m);
}
#endif

void register_all() {
  for (const Shape& shape : kShapes) {
    for (const std::int64_t m : {1, 8, 64, 256}) {
      for (const int threads : {1, 2}) {
        const std::string end = std::string("/") + shape.name + "/m:" + std::to_string(m) +
                                "/threads:" + std::to_string(threads);
        const auto add = [&](const std::string& name, auto function) {
          benchmark::RegisterBenchmark((name + end).c_str(), function)
              ->UseRealTime()
              ->Unit(benchmark::kMillisecond);
        };
#if defined(FORETOKEN_HAVE_EIGEN_GEMM)
        if (ref::simd() != ref::Simd::kPortable) {
          add("eigen_float",
              [=, &shape](benchmark::State& state) { eigen(state, shape, m, threads); });
        }
#endif
        for (const auto& [name, kind] : kKinds) {
          add(name, [=, &shape, kind = kind](benchmark::State& state) {
            product(state, shape, kind, m, threads);
          });
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::AddCustomContext("simd", std::string(to_string(ref::simd())));
  register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
