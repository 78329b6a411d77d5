// Latency of shared memory, the L2, device memory, the copy engine and another core's shared
// memory.
#include <random>

#include "bench.h"
#include "ptx.h"

namespace microbench {
namespace {

constexpr int kLine = 128;  // bytes

// How long one core clock takes is measured beside each latency, so cycles can be printed as ns.
struct Ticks {
  int64_t cycles;
  uint64_t nanoseconds;
};

// next[i] is written at byte offset[i] of the pool as the offset of the next element.
__global__ void write_chain(char* pool, const uint64_t* offsets, uint32_t count) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) *reinterpret_cast<uint64_t*>(pool + offsets[i]) = offsets[(i + 1) % count];
}

__global__ void chase(const char* pool, uint64_t start, uint32_t steps, Ticks* ticks,
                      uint64_t* sink) {
  uint64_t at = start;
  const uint64_t t0 = ptx::global_timer_ns();
  const int64_t c0 = clock64();
  for (uint32_t i = 0; i < steps; ++i) {
    at = ptx::load_l2(reinterpret_cast<const uint64_t*>(pool + at));
  }
  const int64_t c1 = clock64();
  const uint64_t t1 = ptx::global_timer_ns();
  *sink = at;
  *ticks = {c1 - c0, t1 - t0};
}

// One block measures every line by itself: `repeats` loads of one address, each depending on the
// one before. `zero` is 0, unknown to the compiler.
__global__ void line_latency(const char* pool, uint32_t lines, uint32_t spacing, uint32_t repeats,
                             uint32_t zero, float* cycles, uint32_t only_block) {
  if (blockIdx.x != only_block) return;
  for (uint32_t line = 0; line < lines; ++line) {
    const char* address = pool + static_cast<size_t>(line) * spacing;
    uint32_t offset = ptx::load_l2(reinterpret_cast<const uint32_t*>(address)) & zero;
    const int64_t start = clock64();
    for (uint32_t i = 0; i < repeats; ++i) {
      offset = ptx::load_l2(reinterpret_cast<const uint32_t*>(address + offset)) & zero;
    }
    const int64_t stop = clock64();
    cycles[blockIdx.x * lines + line] = static_cast<float>(stop - start + offset) / repeats;
  }
}

// Issue of one bulk copy until a thread sees its barrier complete.
__global__ void bulk_latency(const char* pool, uint32_t bytes, size_t spacing, uint32_t repeats,
                             int64_t* cycles) {
  extern __shared__ __align__(128) char buffer[];
  __shared__ uint64_t barrier_word;
  const uint32_t barrier = ptx::shared_address(&barrier_word);
  ptx::barrier_init(barrier, 1);
  ptx::fence_barrier_init();
  for (uint32_t i = 0; i < repeats; ++i) {
    const int64_t start = clock64();
    ptx::expect_bytes(barrier, bytes);
    ptx::bulk_load(ptx::shared_address(buffer), pool + i * spacing, bytes, barrier);
    ptx::wait_barrier(barrier, i & 1);
    cycles[i] = clock64() - start;
  }
}

// Clocks between bulk copies of a stream when nothing but their issue limits it: `rounds` copies by
// each of the `lanes` first lanes of every warp, from one hot line, all on one barrier of their
// warp.
__global__ void bulk_issue(const char* pool, uint32_t bytes, uint32_t lanes, uint32_t rounds,
                           int64_t* cycles) {
  extern __shared__ __align__(128) char buffer[];
  __shared__ uint64_t barriers[32];
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t barrier = ptx::shared_address(barriers + warp);
  if (lane == 0) {
    ptx::barrier_init(barrier, 1);
    ptx::fence_barrier_init();
    ptx::expect_bytes(barrier, bytes * lanes * rounds);
  }
  __syncthreads();
  const int64_t start = clock64();
  if (lane < lanes) {
    const uint32_t place = ptx::shared_address(buffer) + (warp * 32 + lane) * bytes;
    for (uint32_t i = 0; i < rounds; ++i) {
      ptx::bulk_load(place, pool + (warp * 32 + lane) * bytes, bytes, barrier);
    }
  }
  ptx::wait_barrier(barrier, 0);
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
}

// Bulk store until its writes are complete and visible.
__global__ void bulk_store_latency(char* pool, uint32_t bytes, size_t spacing, uint32_t repeats,
                                   int64_t* cycles) {
  extern __shared__ __align__(128) char buffer[];
  for (uint32_t i = 0; i < repeats; ++i) {
    const int64_t start = clock64();
    ptx::bulk_store(pool + i * spacing, ptx::shared_address(buffer), bytes);
    ptx::bulk_commit();
    ptx::bulk_wait<0>();
    cycles[i] = clock64() - start;
  }
}

__global__ void shared_latency(uint32_t steps, Ticks* ticks, uint32_t* sink) {
  __shared__ uint32_t words[1024];
  for (int i = 0; i < 1024; ++i) words[i] = (i * 4 + 132) % 4096;
  uint32_t at = 0;
  const uint32_t base = ptx::shared_address(words);
  const int64_t start = clock64();
  for (uint32_t i = 0; i < steps; ++i) {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(at) : "r"(base + at));
  }
  *ticks = {clock64() - start, 0};
  *sink = at;
}

// Dependent loads from the shared memory of the neighbour block of a cluster.
__global__ void __cluster_dims__(2)
    remote_shared_latency(uint32_t steps, Ticks* ticks, uint32_t* sink) {
  __shared__ uint32_t words[1024];
  for (int i = 0; i < 1024; ++i) words[i] = (i * 4 + 132) % 4096;
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  if (blockIdx.x == 0) {
    uint32_t base;
    asm volatile("mapa.shared::cluster.u32 %0, %1, 1;"
                 : "=r"(base)
                 : "r"(ptx::shared_address(words)));
    uint32_t at = 0;
    const int64_t start = clock64();
    for (uint32_t i = 0; i < steps; ++i) {
      asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(at) : "r"(base + at));
    }
    *ticks = {clock64() - start, 0};
    *sink = at;
  }
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// Offsets of `count` distinct lines within the first `region` bytes, in random order.
std::vector<uint64_t> random_lines(size_t region, uint32_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  const uint64_t lines = region / kLine;
  std::vector<uint64_t> offsets;
  if (lines <= 4 * static_cast<uint64_t>(count)) {
    for (uint64_t i = 0; i < lines; ++i) offsets.push_back(i * kLine);
    std::shuffle(offsets.begin(), offsets.end(), random);
    offsets.resize(std::min<size_t>(offsets.size(), count));
    return offsets;
  }
  while (offsets.size() < count) {
    while (offsets.size() < count) offsets.push_back(random() % lines * kLine);
    std::sort(offsets.begin(), offsets.end());
    offsets.erase(std::unique(offsets.begin(), offsets.end()), offsets.end());
  }
  std::shuffle(offsets.begin(), offsets.end(), random);
  return offsets;
}

void pointer_chases(const Device& device, const Report& report) {
  struct Case {
    const char* name;
    size_t region;
    bool cold;
  };
  const Case cases[] = {
      {"l2_latency", size_t{1} << 20, false},   {"l2_latency", size_t{8} << 20, false},
      {"l2_latency", size_t{24} << 20, false},  {"hbm_latency", size_t{32} << 20, true},
      {"hbm_latency", size_t{256} << 20, true}, {"hbm_latency", size_t{1} << 30, true},
      {"hbm_latency", size_t{8} << 30, true}};
  constexpr uint32_t kSteps = 8192;
  const DeviceArray<Ticks> ticks(1);
  const DeviceArray<uint64_t> sink(1);
  for (const Case& test : cases) {
    std::vector<double> nanoseconds, cycles;
    for (int repeat = 0; repeat < 15; ++repeat) {
      const std::vector<uint64_t> lines =
          random_lines(test.region, kSteps, static_cast<uint64_t>(repeat));
      const DeviceArray<uint64_t> offsets(lines);
      const uint32_t count = static_cast<uint32_t>(lines.size());
      write_chain<<<(count + 255) / 256, 256>>>(device.pool, offsets.get(), count);
      if (test.cold) flush_l2(device, nullptr);
      // Warm: once around the chain before the timed round.
      const int rounds = test.cold ? 1 : 2;
      for (int round = 0; round < rounds; ++round) {
        chase<<<1, 1>>>(device.pool, lines[0], count, ticks.get(), sink.get());
      }
      const Ticks result = ticks.host()[0];
      nanoseconds.push_back(static_cast<double>(result.nanoseconds) / count);
      cycles.push_back(static_cast<double>(result.cycles) / count);
    }
    const std::string parameters =
        text("method=pointer_chase;region_bytes=%zu;lines=random", test.region);
    report.add(test.name, parameters, spread_of(nanoseconds), "ns");
    report.add(std::string(test.name) + "_cycles", parameters, spread_of(cycles), "cycles");
  }
}

void l2_spread(const Device& device, const Report& report) {
  // One core at a time; each line's latency by itself shows near and far halves of the L2.
  constexpr uint32_t kLines = 512;
  constexpr uint32_t kSpacing = 4096 + 128;
  const DeviceArray<float> cycles(static_cast<size_t>(device.sms) * kLines);
  for (int block = 0; block < device.sms; ++block) {
    line_latency<<<device.sms, 1>>>(device.pool, kLines, kSpacing, 24, 0, cycles.get(),
                                    static_cast<uint32_t>(block));
  }
  const std::vector<float> all = cycles.host();
  std::vector<double> every(all.begin(), all.end());
  report.add("l2_latency_cycles", text("method=single_line;lines=%u;sms=%d", kLines, device.sms),
             spread_of(every), "cycles");
  std::sort(every.begin(), every.end());
  report.add("l2_latency_cycles", "method=single_line;statistic=lowest_1_percent",
             percentile(every, 0.01), "cycles");
  report.add("l2_latency_cycles", "method=single_line;statistic=highest_1_percent",
             percentile(every, 0.99), "cycles");
  std::vector<double> per_sm, spread_within;
  for (int block = 0; block < device.sms; ++block) {
    std::vector<double> mine(all.begin() + block * kLines, all.begin() + (block + 1) * kLines);
    const Spread spread = spread_of(mine);
    per_sm.push_back(spread.median);
    spread_within.push_back(spread.p90 - spread.p10);
  }
  report.add("l2_latency_cycles", "method=single_line;statistic=median_of_each_sm",
             spread_of(per_sm), "cycles");
  report.add("l2_latency_cycles", "method=single_line;statistic=p90-p10_within_each_sm",
             spread_of(spread_within), "cycles");
}

template <class Kernel>
Spread bulk_cycles(const Device& device, Kernel kernel, uint32_t bytes, bool cold) {
  constexpr uint32_t kRepeats = 512;
  constexpr size_t kSpacing = 64 * 1024 + 1024;
  const DeviceArray<int64_t> cycles(kRepeats);
  flush_l2(device, nullptr);
  for (int round = 0; round < (cold ? 1 : 2); ++round) {
    launch({.blocks = 1, .threads = 1, .shared_bytes = 64 * 1024}, nullptr, kernel, device.pool,
           bytes, kSpacing, kRepeats, cycles.get());
  }
  const std::vector<int64_t> host = cycles.host();
  return spread_of(std::vector<double>(host.begin() + 16, host.end()));
}

}  // namespace

void run_latency(const Device& device, const Report& report) {
  pointer_chases(device, report);
  l2_spread(device, report);
  for (const uint32_t bytes : {16u, 128u, 1024u, 4096u, 16384u, 32768u}) {
    for (const bool cold : {false, true}) {
      report.add("bulk_load_latency", text("bytes=%u;from=%s", bytes, cold ? "hbm" : "l2"),
                 bulk_cycles(device, bulk_latency, bytes, cold), "cycles");
    }
    report.add("bulk_store_latency", text("bytes=%u;to=l2", bytes),
               bulk_cycles(device, bulk_store_latency, bytes, false), "cycles");
  }
  for (const uint32_t bytes : {16u, 64u, 256u, 1024u}) {
    for (const uint32_t lanes : {1u, 8u, 32u}) {
      for (const int warps : {1, 4}) {
        if (bytes * lanes * warps > 64 * 1024) continue;
        // A barrier counts less than 2^20 bytes at a time.
        const uint32_t rounds = std::min(64u, ((1u << 20) - 1) / (bytes * lanes));
        const DeviceArray<int64_t> cycles(static_cast<size_t>(device.sms));
        for (int warm = 0; warm < 2; ++warm) {
          launch({.blocks = device.sms, .threads = 32 * warps, .shared_bytes = 128 * 1024}, nullptr,
                 bulk_issue, device.pool, bytes, lanes, rounds, cycles.get());
        }
        const std::vector<int64_t> host = cycles.host();
        report.add("bulk_issue_interval",
                   text("bytes=%u;warps=%d;lanes_per_warp=%u", bytes, warps, lanes),
                   scaled(spread_of(std::vector<double>(host.begin(), host.end())),
                          1.0 / (rounds * lanes * warps)),
                   "cycles/copy");
      }
    }
  }
  const DeviceArray<Ticks> ticks(1);
  const DeviceArray<uint32_t> sink(1);
  constexpr uint32_t kSteps = 4096;
  std::vector<double> local, remote;
  for (int repeat = 0; repeat < 11; ++repeat) {
    shared_latency<<<1, 1>>>(kSteps, ticks.get(), sink.get());
    local.push_back(static_cast<double>(ticks.host()[0].cycles) / kSteps);
    remote_shared_latency<<<2, 1>>>(kSteps, ticks.get(), sink.get());
    remote.push_back(static_cast<double>(ticks.host()[0].cycles) / kSteps);
  }
  report.add("shared_memory_latency", "access=32_bit_load", spread_of(local), "cycles");
  report.add("remote_shared_memory_latency", "access=32_bit_load;cluster=2", spread_of(remote),
             "cycles");
}

}  // namespace microbench
