// Barriers within a block, a cluster and the grid; global atomics; hand-over between two cores.
#include <cooperative_groups.h>

#include "bench.h"
#include "ptx.h"

namespace microbench {
namespace {

constexpr int kRounds = 256;

__global__ void __launch_bounds__(1024) block_barrier(int64_t* cycles) {
  __syncthreads();
  const int64_t start = clock64();
  for (int i = 0; i < kRounds; ++i) __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
}

// With kRelease each arrival also orders the memory accesses before it, which is the default in
// CUDA C++.
template <bool kRelease>
__device__ void cluster_sync() {
  if constexpr (kRelease) {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  } else {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  }
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

template <bool kRelease>
__global__ void __launch_bounds__(1024) cluster_barrier(int64_t* cycles) {
  cluster_sync<kRelease>();
  const int64_t start = clock64();
  for (int i = 0; i < kRounds; ++i) cluster_sync<kRelease>();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
  cluster_sync<true>();
}

// One thread arrives on a shared-memory barrier and waits for its own arrival.
__global__ void memory_barrier_self(int64_t* cycles) {
  __shared__ uint64_t word;
  const uint32_t barrier = ptx::shared_address(&word);
  ptx::barrier_init(barrier, 1);
  const int64_t start = clock64();
  for (int i = 0; i < kRounds; ++i) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
    ptx::wait_barrier(barrier, i & 1);
  }
  cycles[blockIdx.x] = clock64() - start;
}

// A store to global memory and a fence that waits until the whole device sees it.
__global__ void store_and_fence(uint32_t* words, bool store, int64_t* cycles) {
  const int64_t start = clock64();
  for (uint32_t i = 0; i < kRounds; ++i) {
    if (store) *reinterpret_cast<volatile uint32_t*>(words + blockIdx.x * 32) = i;
    __threadfence();
  }
  cycles[blockIdx.x] = clock64() - start;
}

__global__ void __launch_bounds__(1024) grid_barrier_library(uint64_t* nanoseconds) {
  const cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  grid.sync();
  const uint64_t start = ptx::global_timer_ns();
  for (int i = 0; i < kRounds; ++i) grid.sync();
  if (threadIdx.x == 0) nanoseconds[blockIdx.x] = ptx::global_timer_ns() - start;
}

// A counter in the L2: one release per block, then thread 0 of each block polls.
__device__ void counter_barrier(uint32_t* counter, uint32_t target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::add_release(counter, 1);
    while (ptx::load_acquire(counter) < target) {
    }
  }
  __syncthreads();
}

__global__ void __launch_bounds__(1024)
    grid_barrier_counter(uint32_t* counter, uint64_t* nanoseconds) {
  counter_barrier(counter, gridDim.x);
  const uint64_t start = ptx::global_timer_ns();
  for (uint32_t i = 0; i < kRounds; ++i) counter_barrier(counter, gridDim.x * (i + 2));
  if (threadIdx.x == 0) nanoseconds[blockIdx.x] = ptx::global_timer_ns() - start;
}

// Two blocks on different cores pass a number to and fro through the L2.
__global__ void hand_over(uint32_t* flags, uint32_t partner, uint64_t* nanoseconds) {
  if (blockIdx.x != 0 && blockIdx.x != partner) return;
  const bool first = blockIdx.x == 0;
  uint32_t* mine = flags + (first ? 0 : 64);
  uint32_t* theirs = flags + (first ? 64 : 0);
  const uint64_t start = ptx::global_timer_ns();
  for (uint32_t i = 1; i <= kRounds; ++i) {
    if (first) ptx::store_release(mine, i);
    while (ptx::load_acquire(theirs) < i) {
    }
    if (!first) ptx::store_release(mine, i);
  }
  if (first) *nanoseconds = ptx::global_timer_ns() - start;
}

enum class AtomicKind { kReduceU32, kAtomicU32, kReduceF32, kReduceF32x4, kReduceBf16x2 };

template <AtomicKind kKind>
__device__ uint32_t atomic_step(char* address, uint32_t value) {
  uint32_t old = 0;
  const float f = static_cast<float>(value);
  if constexpr (kKind == AtomicKind::kReduceU32) {
    asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
  } else if constexpr (kKind == AtomicKind::kAtomicU32) {
    asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(old)
                 : "l"(address), "r"(value)
                 : "memory");
  } else if constexpr (kKind == AtomicKind::kReduceF32) {
    asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(address), "f"(f) : "memory");
  } else if constexpr (kKind == AtomicKind::kReduceF32x4) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1,%1,%1,%1};" ::"l"(address), "f"(f)
                 : "memory");
  } else {
    asm volatile("red.relaxed.gpu.global.add.noftz.bf16x2 [%0], %1;" ::"l"(address), "r"(value)
                 : "memory");
  }
  return old;
}

enum class Target {
  kOneWord,       // one lane of each warp, all the same word
  kOneWordLanes,  // all lanes, the same word
  kWordPerWarp,   // one lane of each warp, a word (and line) of its own
  kDistinct,      // all lanes, consecutive words of a region in the L2
};

template <AtomicKind kKind>
__global__ void global_atomics(char* memory, uint32_t lane_bytes, uint32_t region, Target target,
                               int rounds, uint32_t* sink) {
  const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t lane = threadIdx.x % 32;
  if ((target == Target::kOneWord || target == Target::kWordPerWarp) && lane != 0) return;
  uint32_t offset = 0;
  uint32_t step = 0;
  if (target == Target::kWordPerWarp) offset = thread / 32 * 128;
  if (target == Target::kDistinct) {
    offset = thread * lane_bytes;
    step = gridDim.x * blockDim.x * lane_bytes;
  }
  uint32_t sum = 0;
  for (int round = 0; round < rounds; ++round) {
    sum ^= atomic_step<kKind>(memory + offset % region, 1);
    offset += step;
  }
  if (sum == 0x12345678u) *sink = sum;
}

// `zero` is 0, unknown to the compiler, so that each address depends on the last result.
__global__ void atomic_latency(uint32_t* word, uint32_t zero, int64_t* cycles) {
  uint32_t value = 0;
  const int64_t start = clock64();
  for (int i = 0; i < kRounds; ++i) {
    asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(value)
                 : "l"(word + (value & zero)), "r"(1)
                 : "memory");
  }
  *cycles = clock64() - start + (value & zero);
}

// All samples over the rounds, as time per round.
template <class T>
Spread per_round(const std::vector<T>& host) {
  return scaled(spread_of(std::vector<double>(host.begin(), host.end())), 1.0 / kRounds);
}

void block_barriers(const Device& device, const Report& report) {
  const DeviceArray<int64_t> cycles(static_cast<size_t>(device.sms));
  for (const int threads : {32, 64, 128, 256, 384, 512, 1024}) {
    launch({.blocks = device.sms, .threads = threads}, nullptr, block_barrier, cycles.get());
    report.add("block_barrier_latency", text("threads=%d", threads), per_round(cycles.host()),
               "cycles");
  }
  launch({.blocks = device.sms, .threads = 1}, nullptr, memory_barrier_self, cycles.get());
  report.add("shared_barrier_latency", "does=arrive+wait_by_one_thread", per_round(cycles.host()),
             "cycles");
  const DeviceArray<uint32_t> words(static_cast<size_t>(device.sms) * 32);
  for (const bool store : {false, true}) {
    launch({.blocks = device.sms, .threads = 1}, nullptr, store_and_fence, words.get(), store,
           cycles.get());
    report.add("device_fence_latency", store ? "does=store+fence" : "does=fence",
               per_round(cycles.host()), "cycles");
  }
  for (const int cluster : {2, 4, 8}) {
    for (const int threads : {128, 256, 1024}) {
      const int blocks = 8 * cluster;
      const DeviceArray<int64_t> times(static_cast<size_t>(blocks));
      const Shape shape = {.blocks = blocks, .threads = threads, .cluster = cluster};
      for (const bool release : {true, false}) {
        launch(shape, nullptr, release ? cluster_barrier<true> : cluster_barrier<false>,
               times.get());
        report.add("cluster_barrier_latency",
                   text("cluster=%d;threads=%d;arrive=%s", cluster, threads,
                        release ? "release" : "relaxed"),
                   per_round(times.host()), "cycles");
      }
    }
  }
}

void grid_barriers(const Device& device, const Report& report) {
  for (const int per_sm : {1, 2}) {
    for (const int threads : {128, 256, 1024}) {
      const int blocks = per_sm * device.sms;
      const DeviceArray<uint64_t> times(static_cast<size_t>(blocks));
      const DeviceArray<uint32_t> counter(1);
      uint64_t* times_pointer = times.get();
      uint32_t* counter_pointer = counter.get();
      void* library_arguments[] = {&times_pointer};
      CUDA_CHECK(
          cudaLaunchCooperativeKernel(grid_barrier_library, blocks, threads, library_arguments));
      report.add("grid_barrier_latency",
                 text("method=cooperative_groups;blocks=%d;threads=%d", blocks, threads),
                 scaled(per_round(times.host()), 1e-3), "us");
      void* counter_arguments[] = {&counter_pointer, &times_pointer};
      CUDA_CHECK(
          cudaLaunchCooperativeKernel(grid_barrier_counter, blocks, threads, counter_arguments));
      report.add("grid_barrier_latency",
                 text("method=one_counter;blocks=%d;threads=%d", blocks, threads),
                 scaled(per_round(times.host()), 1e-3), "us");
    }
  }
  std::vector<double> hops;
  for (int partner = 1; partner < device.sms; ++partner) {
    const DeviceArray<uint32_t> flags(128);
    const DeviceArray<uint64_t> time(1);
    hand_over<<<device.sms, 1>>>(flags.get(), static_cast<uint32_t>(partner), time.get());
    hops.push_back(static_cast<double>(time.host()[0]) / (2 * kRounds));
  }
  report.add("flag_hand_over_latency", "does=release_store_to_acquire_load;between=two_sms",
             spread_of(hops), "ns");
}

template <AtomicKind kKind>
void atomic_rates(const Device& device, const Report& report, const char* name, int lane_bytes) {
  constexpr uint32_t kRegion = 16u << 20;
  const DeviceArray<char> memory(kRegion);
  const DeviceArray<uint32_t> sink(1);
  struct Case {
    Target target;
    const char* name;
    int lanes;
    int rounds;
  };
  const Case cases[] = {{Target::kOneWord, "one_word_one_lane_per_warp", 1, 16},
                        {Target::kOneWordLanes, "one_word_all_lanes", 32, 16},
                        {Target::kWordPerWarp, "one_word_per_warp", 1, 64},
                        {Target::kDistinct, "distinct_consecutive_words", 32, 64}};
  for (const Case& test : cases) {
    const Shape shape = {.blocks = 4 * device.sms, .threads = 256};
    const auto node = [&](int, cudaStream_t stream) {
      launch(shape, stream, global_atomics<kKind>, memory.get(), lane_bytes, kRegion, test.target,
             test.rounds, sink.get());
    };
    const Spread time = node_time_us(device, node, {.short_nodes = 2, .long_nodes = 12});
    const double lanes = 1.0 * shape.blocks * shape.threads / 32 * test.lanes * test.rounds;
    report.add("global_atomic_rate", text("op=%s;target=%s;sms=%d", name, test.name, device.sms),
               rate_of(1e-3 * lanes, time), "lanes/ns");
  }
}

}  // namespace

void run_sync(const Device& device, const Report& report) {
  block_barriers(device, report);
  grid_barriers(device, report);
  atomic_rates<AtomicKind::kReduceU32>(device, report, "red_add_u32", 4);
  atomic_rates<AtomicKind::kAtomicU32>(device, report, "atom_add_u32", 4);
  atomic_rates<AtomicKind::kReduceF32>(device, report, "red_add_f32", 4);
  atomic_rates<AtomicKind::kReduceF32x4>(device, report, "red_add_f32x4", 16);
  atomic_rates<AtomicKind::kReduceBf16x2>(device, report, "red_add_bf16x2", 4);
  std::vector<double> latencies;
  const DeviceArray<uint32_t> words(1024 * 64);
  for (int i = 0; i < 64; ++i) {
    const DeviceArray<int64_t> cycles(1);
    atomic_latency<<<1, 1>>>(words.get() + i * 1024, 0, cycles.get());
    latencies.push_back(static_cast<double>(cycles.host()[0]) / kRounds);
  }
  report.add("global_atomic_latency", "op=atom_add_u32;result=used", spread_of(latencies),
             "cycles");
}

}  // namespace microbench
