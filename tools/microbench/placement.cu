// How cores share the way to the L2: the same reads by chosen sets of cores.
#include "bench.h"
#include "bulk_ring.h"
#include "core_clocks.h"
#include "ptx.h"

namespace microbench {
namespace {

constexpr int kChunk = 8 * kKiB;
constexpr int kWarps = 4;
constexpr int kDepth = 4;            // stages per warp
constexpr int kRegion = 256 * kKiB;  // bytes that each core reads again and again
constexpr int kPasses = 32;

// One block per core; the blocks on cores without a rank end at once. Each of the others reads its
// own region and notes its own time.
__global__ void read_placed(const char* source, const int* rank_of_sm, int64_t* marks) {
  extern __shared__ __align__(128) char ring[];
  __shared__ uint64_t barriers[kWarps * kDepth];
  const uint32_t sm = ptx::sm_id();
  const int rank = rank_of_sm[sm];
  if (threadIdx.x % 32 != 0) return;
  if (rank < 0) {
    constexpr uint64_t kStayNs = 20000;
    const uint64_t arrival = ptx::global_timer_ns();
    while (ptx::global_timer_ns() - arrival < kStayNs) __nanosleep(1000);
    return;
  }
  const uint32_t warp = threadIdx.x / 32;
  const Walk walk{warp, kWarps, kRegion / kChunk, kPasses, false};
  const int64_t start = clock64();
  read_through_ring(source + static_cast<size_t>(rank) * kRegion, walk, kChunk, kDepth,
                    ptx::shared_address(ring) + warp * kDepth * kChunk,
                    ptx::shared_address(barriers + warp * kDepth));
  int64_t* mine = marks + sm * kMarksPerBlock + warp * 2;
  mine[0] = start;
  mine[1] = clock64();
}

__global__ void note_core(int* sm_of_block) {
  sm_of_block[blockIdx.x] = static_cast<int>(ptx::sm_id());
  constexpr uint64_t kStayNs = 20000;
  const uint64_t arrival = ptx::global_timer_ns();
  while (ptx::global_timer_ns() - arrival < kStayNs) __nanosleep(1000);
}

// The cores on which the hardware puts a grid of so many blocks that fill a core each.
std::vector<int> cores_of_grid(int blocks) {
  const DeviceArray<int> sm_of_block(static_cast<size_t>(blocks));
  launch({.blocks = blocks, .threads = 32, .shared_bytes = kMostShared}, nullptr, note_core,
         sm_of_block.get());
  return sm_of_block.host();
}

// Bytes per clock of each core of the set.
std::vector<double> read_rates(const Device& device, const std::vector<int>& sms) {
  std::vector<int> rank_of_sm(static_cast<size_t>(device.sms), -1);
  for (size_t i = 0; i < sms.size(); ++i) {
    rank_of_sm[static_cast<size_t>(sms[i])] = static_cast<int>(i);
  }
  const DeviceArray<int> ranks(rank_of_sm);
  const CoreClocks clocks(device);
  for (int warm = 0; warm < 2; ++warm) {
    launch({.blocks = device.sms, .threads = 32 * kWarps, .shared_bytes = kMostShared}, nullptr,
           read_placed, device.pool, ranks.get(), clocks.marks());
  }
  const std::vector<double> spans = clocks.spans(kWarps);  // in the order of core numbers
  std::vector<double> rates;
  for (const int sm : sms) {
    rates.push_back(1.0 * kRegion * kPasses / spans[static_cast<size_t>(sm)]);
  }
  return rates;
}

void report_set(const Device& device, const Report& report, const char* name,
                const std::vector<int>& sms) {
  report.add(
      "l2_read_rate_per_sm",
      text("active=%s;sms=%zu;in_flight_per_sm=%d", name, sms.size(), kChunk * kWarps * kDepth),
      spread_of(read_rates(device, sms)), "bytes/clock/sm");
}

}  // namespace

void run_placement(const Device& device, const Report& report) {
  report_set(device, report, "one_sm", {0});
  report_set(device, report, "neighbours_0_1", {0, 1});

  // Core 0 with each other core in turn: the slow partners share something with it.
  std::vector<double> together;
  for (int other = 1; other < device.sms; ++other) {
    const std::vector<double> rates = read_rates(device, {0, other});
    together.push_back(std::min(rates[0], rates[1]));
  }
  report.add("l2_read_rate_per_sm", "active=sm_0_and_one_other;statistic=slower_of_two",
             spread_of(together), "bytes/clock/sm");
  report.add("l2_read_rate_per_sm", "active=sm_0_and_one_other;statistic=slowest_pair",
             *std::min_element(together.begin(), together.end()), "bytes/clock/sm");

  // Small grids are not spread over the chip as evenly as core numbers are.
  for (const int blocks : {4, 8, 16, 32, 48, 64}) {
    const std::vector<int> sms = cores_of_grid(blocks);
    report_set(device, report, "grid_of_so_many_blocks", sms);
    if (blocks > 16) continue;
    std::string numbers;
    for (const int sm : sms) numbers += text("%s%d", numbers.empty() ? "" : "|", sm);
    report.add("block_placement", "sm_numbers=" + numbers, blocks, "blocks");
  }

  for (const int stride : {2, 4, 8, 16}) {
    std::vector<int> sms;
    for (int sm = 0; sm < device.sms; sm += stride) sms.push_back(sm);
    report_set(device, report, text("every_%d", stride).c_str(), sms);
  }
  for (const int count : {4, 8, 16, 32, 64, device.sms}) {
    std::vector<int> sms;
    for (int sm = 0; sm < count; ++sm) sms.push_back(sm);
    report_set(device, report, "first", sms);
  }
}

}  // namespace microbench
