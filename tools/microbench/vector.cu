// Instruction rates of one core (SM) and latencies of single instructions; shared-memory bandwidth.
#include <iterator>

#include "bench.h"
#include "core_clocks.h"
#include "ptx.h"

namespace microbench {
namespace {

constexpr int kUnroll = 32;

// An operation: the type that a dependent chain carries, the values one thread's instruction
// yields, and one step x = op(x, a, b).
#define MICROBENCH_OP(Struct, label, Type, values, assembly, constraint)         \
  struct Struct {                                                                \
    using T = Type;                                                              \
    static constexpr const char* kName = label;                                  \
    static constexpr int kValues = values;                                       \
    static __device__ void step(T& x, T a, T b) {                                \
      asm volatile(assembly : "+" constraint(x) : constraint(a), constraint(b)); \
    }                                                                            \
  };

MICROBENCH_OP(Fma32, "fp32_fma", float, 1, "fma.rn.f32 %0, %0, %1, %2;", "f")
MICROBENCH_OP(Add32, "fp32_add", float, 1, "add.rn.f32 %0, %0, %1;", "f")
MICROBENCH_OP(Mul32, "fp32_mul", float, 1, "mul.rn.f32 %0, %0, %1;", "f")
MICROBENCH_OP(Max32, "fp32_max", float, 1, "max.f32 %0, %0, %1;", "f")
MICROBENCH_OP(Exp2, "fp32_ex2_approx", float, 1, "ex2.approx.ftz.f32 %0, %0;", "f")
MICROBENCH_OP(Log2, "fp32_lg2_approx", float, 1, "lg2.approx.ftz.f32 %0, %0;", "f")
MICROBENCH_OP(Rcp, "fp32_rcp_approx+add", float, 1,
              "rcp.approx.ftz.f32 %0, %0; add.rn.f32 %0, %0, %1;", "f")
MICROBENCH_OP(Rsqrt, "fp32_rsqrt_approx", float, 1, "rsqrt.approx.ftz.f32 %0, %0;", "f")
MICROBENCH_OP(Tanh, "fp32_tanh_approx", float, 1, "tanh.approx.f32 %0, %0;", "f")
MICROBENCH_OP(HalfFma, "fp16x2_fma", uint32_t, 2, "fma.rn.f16x2 %0, %0, %1, %2;", "r")
MICROBENCH_OP(HalfMul, "fp16x2_mul", uint32_t, 2, "mul.rn.f16x2 %0, %0, %1;", "r")
MICROBENCH_OP(BfloatFma, "bf16x2_fma", uint32_t, 2, "fma.rn.bf16x2 %0, %0, %1, %2;", "r")
MICROBENCH_OP(HalfMax, "fp16x2_max3", uint32_t, 4, "max.f16x2 %0, %0, %1; max.f16x2 %0, %0, %2;",
              "r")
MICROBENCH_OP(HalfExp2, "fp16x2_ex2_approx", uint32_t, 2, "ex2.approx.f16x2 %0, %0;", "r")
MICROBENCH_OP(IntAdd, "int32_add+xor", uint32_t, 2, "add.u32 %0, %0, %1; xor.b32 %0, %0, %2;", "r")
MICROBENCH_OP(IntMad, "int32_mad", uint32_t, 1, "mad.lo.u32 %0, %0, %1, %2;", "r")
MICROBENCH_OP(Logic3, "lop3", uint32_t, 1, "lop3.b32 %0, %0, %1, %2, 0x96;", "r")
MICROBENCH_OP(Permute, "prmt", uint32_t, 1, "prmt.b32 %0, %0, %1, %2;", "r")
MICROBENCH_OP(Shift, "funnel_shift", uint32_t, 1, "shf.l.wrap.b32 %0, %0, %1, %2;", "r")
MICROBENCH_OP(PopCount, "popc", uint32_t, 1, "popc.b32 %0, %0;", "r")
MICROBENCH_OP(ShuffleXor, "shuffle_bfly", uint32_t, 1,
              "shfl.sync.bfly.b32 %0, %0, 1, 31, 0xffffffff;", "r")
MICROBENCH_OP(ShuffleAny, "shuffle_idx", uint32_t, 1,
              "shfl.sync.idx.b32 %0, %0, %0, 31, 0xffffffff;", "r")
MICROBENCH_OP(Ballot, "vote_ballot", uint32_t, 1,
              "{.reg .pred p; setp.ne.u32 p, %0, %1; vote.sync.ballot.b32 %0, p, 0xffffffff;}", "r")
MICROBENCH_OP(ReduxAdd, "redux_add_u32", uint32_t, 1, "redux.sync.add.u32 %0, %0, 0xffffffff;", "r")
// Conversions: the chain carries the packed result back in as the bits of the next source.
MICROBENCH_OP(FloatToBf16x2, "cvt_fp32x2_to_bf16x2", float, 2,
              "{.reg .b32 r; cvt.rn.bf16x2.f32 r, %0, %1; mov.b32 %0, r;}", "f")
MICROBENCH_OP(FloatToHalf2, "cvt_fp32x2_to_fp16x2", float, 2,
              "{.reg .b32 r; cvt.rn.f16x2.f32 r, %0, %1; mov.b32 %0, r;}", "f")
MICROBENCH_OP(FloatToE4m3x2, "cvt_fp32x2_to_e4m3x2", float, 2,
              "{.reg .b16 h; .reg .b32 r; cvt.rn.satfinite.e4m3x2.f32 h, %0, %1;"
              " cvt.u32.u16 r, h; mov.b32 %0, r;}",
              "f")
MICROBENCH_OP(HalfToE4m3x2, "cvt_fp16x2_to_e4m3x2", uint32_t, 2,
              "{.reg .b16 h; cvt.rn.satfinite.e4m3x2.f16x2 h, %0; cvt.u32.u16 %0, h;}", "r")
MICROBENCH_OP(E4m3ToHalf2, "cvt_e4m3x2_to_fp16x2", uint32_t, 2,
              "{.reg .b16 lo, hi; mov.b32 {lo, hi}, %0; cvt.rn.f16x2.e4m3x2 %0, lo;}", "r")
MICROBENCH_OP(HalfToFloat, "cvt_fp16_to_fp32", uint32_t, 1,
              "{.reg .b16 lo, hi; .reg .f32 f; mov.b32 {lo, hi}, %0; cvt.f32.f16 f, lo;"
              " mov.b32 %0, f;}",
              "r")
MICROBENCH_OP(IntToFloat, "cvt_s32_to_fp32", uint32_t, 1,
              "{.reg .f32 f; cvt.rn.f32.s32 f, %0; mov.b32 %0, f;}", "r")
#undef MICROBENCH_OP

template <class Op, int kChains>
__global__ void __launch_bounds__(1024)
    instruction_rate(int rounds, typename Op::T a, typename Op::T b, int64_t* marks,
                     typename Op::T* sink) {
  typename Op::T x[kChains];
#pragma unroll
  for (int c = 0; c < kChains; ++c) x[c] = static_cast<typename Op::T>(threadIdx.x + c + 1);
  __syncthreads();
  const int64_t start = clock64();
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
#pragma unroll
      for (int c = 0; c < kChains; ++c) Op::step(x[c], a, b);
    }
  }
  const int64_t stop = clock64();
  mark(marks, start, stop);
  typename Op::T sum = 0;
#pragma unroll
  for (int c = 0; c < kChains; ++c) sum += x[c];
  sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

template <class Op, int kChains>
Spread time_op(const Device& device, int threads) {
  constexpr int kRounds = 64;
  const CoreClocks clocks(device);
  const DeviceArray<typename Op::T> sink(static_cast<size_t>(device.sms) * threads);
  const auto a = static_cast<typename Op::T>(1);
  const auto b = static_cast<typename Op::T>(3);
  for (int warm = 0; warm < 2; ++warm) {
    launch({.blocks = device.sms, .threads = threads}, nullptr, instruction_rate<Op, kChains>,
           kRounds, a, b, clocks.marks(), sink.get());
  }
  // Clocks per step of one warp's chain.
  return scaled(spread_of(clocks.spans(threads / 32)), 1.0 / (kUnroll * kRounds));
}

template <class Op>
void measure_op(const Device& device, const Report& report) {
  constexpr int kThreads = 1024;
  const Spread rates[] = {rate_of(1.0 * kThreads * Op::kValues, time_op<Op, 1>(device, kThreads)),
                          rate_of(4.0 * kThreads * Op::kValues, time_op<Op, 4>(device, kThreads)),
                          rate_of(8.0 * kThreads * Op::kValues, time_op<Op, 8>(device, kThreads))};
  const Spread* best = std::max_element(
      std::begin(rates), std::end(rates),
      [](const Spread& left, const Spread& right) { return left.median < right.median; });
  report.add("instruction_rate",
             text("op=%s;values_per_step=%d;threads=%d;chains=best_of_1|4|8", Op::kName,
                  Op::kValues, kThreads),
             *best, "values/clock/sm");
  report.add("instruction_latency", text("op=%s", Op::kName), time_op<Op, 1>(device, 32), "cycles");
}

template <class... Ops>
void measure_ops(const Device& device, const Report& report) {
  (measure_op<Ops>(device, report), ...);
}

// How many result instructions of two kinds issue together: one FMA for each exponential, and so
// on.
template <class First, class Second, int kFirst>
__global__ void __launch_bounds__(1024) mixed_rate(int rounds, int64_t* marks, float* sink) {
  float x[4], y[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) x[c] = y[c] = static_cast<float>(threadIdx.x + c);
  __syncthreads();
  const int64_t start = clock64();
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int k = 0; k < kFirst; ++k) First::step(x[(c + k) % 4], 1.0f, 3.0f);
        Second::step(y[c], 1.0f, 3.0f);
      }
    }
  }
  const int64_t stop = clock64();
  mark(marks, start, stop);
  sink[blockIdx.x * blockDim.x + threadIdx.x] =
      x[0] + x[1] + x[2] + x[3] + y[0] + y[1] + y[2] + y[3];
}

template <class First, class Second, int kFirst>
void measure_mix(const Device& device, const Report& report) {
  constexpr int kThreads = 1024;
  constexpr int kRounds = 128;
  const CoreClocks clocks(device);
  const DeviceArray<float> sink(static_cast<size_t>(device.sms) * kThreads);
  for (int warm = 0; warm < 2; ++warm) {
    launch({.blocks = device.sms, .threads = kThreads}, nullptr, mixed_rate<First, Second, kFirst>,
           kRounds, clocks.marks(), sink.get());
  }
  report.add("instruction_rate",
             text("op=%d_%s+1_%s;counts=second_op;threads=%d", kFirst, First::kName, Second::kName,
                  kThreads),
             rate_of(1.0 * kThreads * 32 * kRounds * Second::kValues,
                     spread_of(clocks.spans(kThreads / 32))),
             "values/clock/sm");
}

enum class SharedOp {
  kLoad32,
  kLoad128,
  kLoad32SameWord,
  kLoad32Stride2,
  kStore32,
  kStore128,
  kLoadMatrix4,
  kReduceAddU32Distinct,
  kReduceAddU32Same,
  kReduceAddU32Random256,
  kAtomicAddU32Distinct,
  kAtomicAddU32Random256,
  kReduceAddF32Distinct,
  kReduceMaxU32Distinct,
};

template <SharedOp kOp>
__device__ uint32_t shared_step(uint32_t base, uint32_t address, uint32_t& state) {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if constexpr (kOp == SharedOp::kLoad32 || kOp == SharedOp::kLoad32SameWord ||
                kOp == SharedOp::kLoad32Stride2) {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(a) : "r"(address));
  } else if constexpr (kOp == SharedOp::kLoad128) {
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
                 : "r"(address));
  } else if constexpr (kOp == SharedOp::kLoadMatrix4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
                 : "r"(address));
  } else if constexpr (kOp == SharedOp::kStore32) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(state) : "memory");
  } else if constexpr (kOp == SharedOp::kStore128) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%1,%1,%1};" ::"r"(address), "r"(state) : "memory");
  } else if constexpr (kOp == SharedOp::kReduceAddU32Distinct ||
                       kOp == SharedOp::kReduceAddU32Same) {
    asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(address), "r"(2u) : "memory");
  } else if constexpr (kOp == SharedOp::kReduceMaxU32Distinct) {
    asm volatile("red.shared.max.u32 [%0], %1;" ::"r"(address), "r"(2u) : "memory");
  } else if constexpr (kOp == SharedOp::kReduceAddF32Distinct) {
    asm volatile("red.shared.add.f32 [%0], %1;" ::"r"(address), "f"(2.0f) : "memory");
  } else if constexpr (kOp == SharedOp::kAtomicAddU32Distinct) {
    asm volatile("atom.shared.add.u32 %0, [%1], %2;" : "=r"(a) : "r"(address), "r"(2u) : "memory");
  } else {
    state = state * 1664525u + 1013904223u;  // one random bin of 256 per lane
    const uint32_t bin = base + (state >> 24) * 4;
    if constexpr (kOp == SharedOp::kReduceAddU32Random256) {
      asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(bin), "r"(2u) : "memory");
    } else {
      asm volatile("atom.shared.add.u32 %0, [%1], %2;" : "=r"(a) : "r"(bin), "r"(2u) : "memory");
    }
  }
  return a ^ b ^ c ^ d;
}

template <SharedOp kOp>
__global__ void __launch_bounds__(1024)
    shared_rate(int rounds, uint32_t stride, uint32_t wrap, int64_t* marks, uint32_t* sink) {
  extern __shared__ __align__(128) uint32_t words[];
  for (uint32_t i = threadIdx.x; i < 16384; i += blockDim.x) words[i] = i;
  __syncthreads();
  const uint32_t base = ptx::shared_address(words);
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t address = base + warp * 1024 + (lane * stride) % wrap;
  uint32_t state = (blockIdx.x * blockDim.x + threadIdx.x + 1) * 2654435761u;
  uint32_t sum = 0;
  const int64_t start = clock64();
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      sum ^= shared_step<kOp>(base, address + (round % 4) * 4096 + i * 128, state);
    }
  }
  const int64_t stop = clock64();
  mark(marks, start, stop);
  sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

template <SharedOp kOp>
void measure_shared(const Device& device, const Report& report, const char* name, int lane_bytes,
                    uint32_t stride) {
  constexpr int kThreads = 1024;
  constexpr int kRounds = 64;
  constexpr uint32_t kWrap = 512;
  const CoreClocks clocks(device);
  const DeviceArray<uint32_t> sink(static_cast<size_t>(device.sms) * kThreads);
  for (int warm = 0; warm < 2; ++warm) {
    launch({.blocks = device.sms, .threads = kThreads, .shared_bytes = 65536}, nullptr,
           shared_rate<kOp>, kRounds, stride, kWrap, clocks.marks(), sink.get());
  }
  const Spread span = spread_of(clocks.spans(kThreads / 32));
  const double lanes = 1.0 * kThreads * kRounds * 16;
  report.add("shared_memory_rate", text("op=%s", name), rate_of(lanes, span), "lanes/clock/sm");
  if (lane_bytes > 0) {
    report.add("shared_memory_bandwidth", text("op=%s", name), rate_of(lanes * lane_bytes, span),
               "bytes/clock/sm");
  }
}

}  // namespace

void run_vector(const Device& device, const Report& report) {
  measure_ops<Fma32, Add32, Mul32, Max32, Exp2, Log2, Rcp, Rsqrt, Tanh, HalfFma, HalfMul, BfloatFma,
              HalfMax, HalfExp2, IntAdd, IntMad, Logic3, Permute, Shift, PopCount, ShuffleXor,
              ShuffleAny, Ballot, ReduxAdd, FloatToBf16x2, FloatToHalf2, FloatToE4m3x2,
              HalfToE4m3x2, E4m3ToHalf2, HalfToFloat, IntToFloat>(device, report);
  measure_mix<Fma32, Exp2, 1>(device, report);
  measure_mix<Fma32, Exp2, 4>(device, report);
  measure_mix<Fma32, FloatToBf16x2, 1>(device, report);
  measure_mix<Exp2, FloatToBf16x2, 1>(device, report);
  measure_mix<Fma32, Max32, 1>(device, report);

  measure_shared<SharedOp::kLoad32>(device, report, "load_32", 4, 4);
  measure_shared<SharedOp::kLoad128>(device, report, "load_128", 16, 16);
  measure_shared<SharedOp::kLoad32SameWord>(device, report, "load_32_same_word", 4, 0);
  measure_shared<SharedOp::kLoad32Stride2>(device, report, "load_32_two_way_conflict", 4, 8);
  measure_shared<SharedOp::kStore32>(device, report, "store_32", 4, 4);
  measure_shared<SharedOp::kStore128>(device, report, "store_128", 16, 16);
  measure_shared<SharedOp::kLoadMatrix4>(device, report, "ldmatrix_x4", 16, 16);
  measure_shared<SharedOp::kReduceAddU32Distinct>(device, report, "red_add_u32_distinct", 0, 4);
  measure_shared<SharedOp::kReduceAddU32Same>(device, report, "red_add_u32_same_word", 0, 0);
  measure_shared<SharedOp::kReduceAddU32Random256>(device, report, "red_add_u32_random_256_bins", 0,
                                                   4);
  measure_shared<SharedOp::kAtomicAddU32Distinct>(device, report, "atom_add_u32_distinct", 0, 4);
  measure_shared<SharedOp::kAtomicAddU32Random256>(device, report, "atom_add_u32_random_256_bins",
                                                   0, 4);
  measure_shared<SharedOp::kReduceAddF32Distinct>(device, report, "red_add_f32_distinct", 0, 4);
  measure_shared<SharedOp::kReduceMaxU32Distinct>(device, report, "red_max_u32_distinct", 0, 4);
}

}  // namespace microbench
