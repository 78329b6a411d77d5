// Issue rate and latency of the matrix instruction (wgmma), by width N, operand type and place of
// A.
#include <cmath>

#include "bench.h"
#include "core_clocks.h"
#include "matrix_tiles.h"
#include "wgmma.h"

namespace microbench {
namespace {

constexpr int kPerRound = kStages * kSlices;  // instructions of one pass over the ring

enum class Wait {
  kPerRound,        // one round stays in flight while the next is issued
  kPerInstruction,  // each instruction is waited for before the next
};

// kChains accumulators are used in turn: 1 makes each instruction depend on the one before.
template <class In, int kN, int kChains, bool kARegisters, Wait kWait>
__global__ void __launch_bounds__(256, 1) matrix_rate(int rounds, int64_t* marks, float* sink) {
  extern __shared__ char shared[];
  using Ring = TileRing<kN>;
  const Ring ring{align_tile(ptx::shared_address(shared))};
  fill_tiles<In>(ring.base, kStages * Ring::kStageBytes, false, blockIdx.x * 7919);
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;

  float d[kChains][kN / 2] = {};
  uint32_t a_registers[4];
  for (int i = 0; i < 4; ++i) a_registers[i] = random_word<In>(threadIdx.x * 4 + i);
  uint64_t a[kStages], b[kStages];
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    a[stage] = tile_descriptor(ring.a(stage, warpgroup));
    b[stage] = tile_descriptor(ring.b(stage));
  }
  __syncthreads();

  const int64_t start = clock64();
  for (int round = 0; round < rounds; ++round) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kPerRound; ++i) {
      const int stage = i / kSlices;
      const uint64_t step = i % kSlices * kDescriptorStep;
      if constexpr (kARegisters) {
        Wgmma<In, kN>::from_registers(d[i % kChains], a_registers, b[stage] + step);
      } else {
        Wgmma<In, kN>::from_shared(d[i % kChains], a[stage] + step, b[stage] + step);
      }
      if constexpr (kWait == Wait::kPerInstruction) {
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_fence();
      }
    }
    wgmma_commit();
    wgmma_wait<kWait == Wait::kPerRound ? 1 : 0>();
  }
  wgmma_wait<0>();
  const int64_t stop = clock64();
  mark(marks, start, stop);

  float sum = 0;
#pragma unroll
  for (int c = 0; c < kChains; ++c) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) sum += d[c][i];
  }
  sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

template <class In, int kN, int kChains, bool kARegisters, Wait kWait>
void measure(const Device& device, const Report& report, int warpgroups) {
  constexpr int kRounds = 64;
  const CoreClocks clocks(device);
  const DeviceArray<float> sink(static_cast<size_t>(device.sms) * 256);
  const Shape shape = {.blocks = device.sms,
                       .threads = 128 * warpgroups,
                       .shared_bytes = TileRing<kN>::kSharedBytes};
  for (int warm = 0; warm < 2; ++warm) {
    launch(shape, nullptr, matrix_rate<In, kN, kChains, kARegisters, kWait>, kRounds,
           clocks.marks(), sink.get());
  }
  const Spread span = spread_of(clocks.spans(4 * warpgroups));
  const double instructions = 1.0 * kRounds * kPerRound * warpgroups;
  const std::string parameters =
      text("shape=m64n%dk%d;type=%s;a=%s;warpgroups=%d;accumulators=%d", kN, In::kK, In::kName,
           kARegisters ? "registers" : "shared", warpgroups, kChains);
  if (kWait == Wait::kPerInstruction) {
    report.add("wgmma_latency", parameters, scaled(span, warpgroups / instructions), "cycles");
    return;
  }
  report.add("wgmma_interval", parameters, scaled(span, 1 / instructions), "cycles/instruction");
  report.add("wgmma_rate", parameters, rate_of(2.0 * 64 * kN * In::kK * instructions, span),
             "FLOP/clock/sm");
}

template <class In, int kN>
void measure_width(const Device& device, const Report& report) {
  measure<In, kN, 1, false, Wait::kPerInstruction>(device, report, 1);
  measure<In, kN, 1, true, Wait::kPerInstruction>(device, report, 1);
  for (const int warpgroups : {1, 2}) {
    measure<In, kN, 1, false, Wait::kPerRound>(device, report, warpgroups);
    measure<In, kN, 1, true, Wait::kPerRound>(device, report, warpgroups);
    if constexpr (kN <= 64) {
      measure<In, kN, 2, false, Wait::kPerRound>(device, report, warpgroups);
      measure<In, kN, 2, true, Wait::kPerRound>(device, report, warpgroups);
    }
  }
}

template <class In>
void measure_type(const Device& device, const Report& report) {
  measure_width<In, 8>(device, report);
  measure_width<In, 16>(device, report);
  measure_width<In, 32>(device, report);
  measure_width<In, 64>(device, report);
  measure_width<In, 128>(device, report);
  measure_width<In, 256>(device, report);
}

// Reads back the element (row, k) of a swizzled tile.
template <class In>
__device__ float tile_element(uint32_t tile, int row, int k) {
  const int byte = k * (32 / In::kK);
  const uint32_t place = tile + row * kRowBytes + (((byte / 16) ^ (row % 8)) * 16) + byte % 16;
  if constexpr (In::kK == 16) {
    uint16_t bits;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(place));
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
  } else {
    uint32_t bits;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(bits) : "r"(place));
    __nv_fp8_e4m3 value;
    value.__x = static_cast<__nv_fp8_storage_t>(bits);
    return static_cast<float>(value);
  }
}

// Largest error of one tile product against plain arithmetic, over the largest result: if the tiles
// or descriptors were wrong, the instruction would run on other data than meant.
template <class In, int kN>
__global__ void __launch_bounds__(128, 1) check_product(float* error, float* largest) {
  extern __shared__ char shared[];
  using Ring = TileRing<kN>;
  const Ring ring{align_tile(ptx::shared_address(shared))};
  fill_tiles<In>(ring.base, kStages * Ring::kStageBytes, false, 1);
  float d[kN / 2] = {};
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < kSlices; ++i) {
    Wgmma<In, kN>::from_shared(d, tile_descriptor(ring.a(0, 0)) + i * kDescriptorStep,
                               tile_descriptor(ring.b(0)) + i * kDescriptorStep);
  }
  wgmma_commit();
  wgmma_wait<0>();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  float worst = 0, most = 0;
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
    const int row = 16 * warp + lane / 4 + (i % 4 / 2) * 8;
    const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    float sum = 0;
    for (int k = 0; k < kSlices * In::kK; ++k) {
      sum += tile_element<In>(ring.a(0, 0), row, k) * tile_element<In>(ring.b(0), column, k);
    }
    worst = fmaxf(worst, fabsf(sum - d[i]));
    most = fmaxf(most, fabsf(sum));
  }
  atomicMax(reinterpret_cast<int*>(error), __float_as_int(worst));
  atomicMax(reinterpret_cast<int*>(largest), __float_as_int(most));
}

template <class In>
void check_type(const Report& report) {
  const DeviceArray<float> error(1), largest(1);
  launch({.blocks = 1, .threads = 128, .shared_bytes = TileRing<64>::kSharedBytes}, nullptr,
         check_product<In, 64>, error.get(), largest.get());
  const double relative = error.host()[0] / largest.host()[0];
  report.add("wgmma_check", text("shape=m64n64;type=%s", In::kName), relative, "relative_error");
  if (!(relative < 1e-2)) {
    std::fprintf(stderr, "matrix: wrong product for %s, relative error %g\n", In::kName, relative);
    std::exit(1);
  }
}

}  // namespace

void run_matrix(const Device& device, const Report& report) {
  check_type<Bf16>(report);
  check_type<E4m3>(report);
  measure_type<Bf16>(device, report);
  measure_type<E4m3>(device, report);
}

}  // namespace microbench
