// Streaming bandwidth of device memory and of the L2: against size, cores used and bytes in flight.
#include "bench.h"
#include "bulk_ring.h"
#include "ptx.h"

namespace microbench {
namespace {

// How the chunks of a buffer are dealt to the streams (one stream per warp).
enum class Deal {
  kInterleaved,  // stream v reads v, v + V, v + 2V, ... and the same again in each pass
  kAll,          // every stream reads the whole buffer, each starting elsewhere
};

__global__ void bulk_read(const char* source, uint32_t chunks, uint32_t chunk_bytes, uint32_t depth,
                          Deal deal, uint32_t passes) {
  extern __shared__ __align__(128) char ring[];
  __shared__ uint64_t barriers[kMostStages];
  if (threadIdx.x % 32 != 0) return;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t stream = blockIdx.x + warp * gridDim.x;
  const uint32_t streams = gridDim.x * blockDim.x / 32;
  Walk walk{stream, streams, chunks, passes, false};
  if (deal == Deal::kAll) {
    walk.first = static_cast<uint32_t>(static_cast<uint64_t>(stream) * chunks / streams);
    walk.step = 1;
    walk.around = true;
  }
  read_through_ring(source, walk, chunk_bytes, depth,
                    ptx::shared_address(ring) + warp * depth * chunk_bytes,
                    ptx::shared_address(barriers + warp * depth));
}

struct BulkPlan {
  int blocks;
  int chunk_bytes;
  int stages;  // per core
  Deal deal = Deal::kInterleaved;
  int passes = 1;
  int warps =
      0;  // that issue copies, each for its share of the stages; 0: as many as divide them, up to 4
};

int warps_of(const BulkPlan& plan) {
  if (plan.warps > 0) return plan.warps;
  return plan.stages % 4 == 0 ? 4 : (plan.stages % 2 == 0 ? 2 : 1);
}

void launch_bulk_read(const BulkPlan& plan, cudaStream_t stream, const char* source, size_t bytes) {
  const int warps = warps_of(plan);
  const Shape shape = {.blocks = plan.blocks, .threads = 32 * warps, .shared_bytes = kMostShared};
  launch(shape, stream, bulk_read, source, bytes / plan.chunk_bytes, plan.chunk_bytes,
         plan.stages / warps, plan.deal, plan.passes);
}

// Ordinary 16-byte loads, kUnroll independent ones per thread, L1 bypassed.
template <int kUnroll>
__global__ void load_read(const uint4* source, uint32_t count, uint32_t* sink) {
  const uint32_t stride = gridDim.x * blockDim.x;
  uint32_t sum = 0;
  uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  for (; i + (kUnroll - 1) * stride < count; i += kUnroll * stride) {
    uint4 v[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) v[k] = ptx::load_stream(source + i + k * stride);
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  for (; i < count; i += stride) sum ^= ptx::load_stream(source + i).x;
  if (sum == 0x12345678u) *sink = sum;
}

template <int kUnroll>
void launch_load_read(int blocks, int threads, cudaStream_t stream, const char* source,
                      size_t bytes, char* sink) {
  launch({.blocks = blocks, .threads = threads}, stream, load_read<kUnroll>,
         reinterpret_cast<const uint4*>(source), bytes / 16, reinterpret_cast<uint32_t*>(sink));
}

__global__ void store_write(uint4* destination, uint32_t count, uint32_t passes) {
  const uint32_t stride = gridDim.x * blockDim.x;
  for (uint32_t pass = 0; pass < passes; ++pass) {
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
      const uint32_t value = i * 0x9E3779B9u + pass;
      destination[i] = make_uint4(value, value * 3, ~value, value ^ 0x5bd1e995u);
    }
  }
}

// Bulk stores from shared memory (whatever it holds), kDepth groups of one chunk in flight per
// block.
template <int kDepth>
__global__ void bulk_write(char* destination, uint32_t chunks, uint32_t chunk_bytes) {
  extern __shared__ __align__(128) char ring[];
  if (threadIdx.x != 0) return;
  uint32_t slot = 0;
  for (uint32_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    ptx::bulk_store(destination + static_cast<size_t>(chunk) * chunk_bytes,
                    ptx::shared_address(ring) + slot * chunk_bytes, chunk_bytes);
    ptx::bulk_commit();
    ptx::bulk_wait_read<kDepth - 1>();
    slot = slot + 1 == kDepth ? 0 : slot + 1;
  }
  ptx::bulk_wait<0>();
}

// Reads kReads streams and writes one, 16 bytes at a time.
template <int kReads, int kUnroll>
__global__ void read_write(const uint4* source, uint4* destination, uint32_t count) {
  const uint32_t stride = gridDim.x * blockDim.x;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += kUnroll * stride) {
    uint4 v[kUnroll][kReads];
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) {
#pragma unroll
      for (int r = 0; r < kReads; ++r) {
        if (i + k * stride < count) {
          v[k][r] = ptx::load_stream(source + static_cast<size_t>(r) * count + i + k * stride);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) {
      uint4 sum = v[k][0];
#pragma unroll
      for (int r = 1; r < kReads; ++r) {
        sum.x ^= v[k][r].x;
        sum.y ^= v[k][r].y;
        sum.z ^= v[k][r].z;
        sum.w ^= v[k][r].w;
      }
      if (i + k * stride < count) destination[i + k * stride] = sum;
    }
  }
}

// Node i reads its own part of the pool, so that a chain never returns to bytes the L2 still holds.
const char* part(const Device& device, size_t bytes, int node) {
  const size_t parts = device.pool_bytes / bytes;
  return device.pool + (static_cast<size_t>(node) % parts) * bytes;
}

double bytes_moved(const BulkPlan& plan, size_t bytes) {
  const double readers = plan.deal == Deal::kAll ? plan.blocks * warps_of(plan) : 1;
  return static_cast<double>(bytes) * plan.passes * readers;
}

Spread time_bulk(const Device& device, const BulkPlan& plan, size_t bytes, bool cold,
                 const ChainPlan& chain) {
  const auto node = [&](int index, cudaStream_t stream) {
    launch_bulk_read(plan, stream, cold ? part(device, bytes, index) : device.pool, bytes);
  };
  return node_time_us(device, node, chain);
}

Spread time_bulk(const Device& device, const BulkPlan& plan, size_t bytes, bool cold) {
  return time_bulk(device, plan, bytes, cold, plan_for_bytes(bytes_moved(plan, bytes), cold));
}

std::string describe(const BulkPlan& plan, size_t bytes) {
  return text("method=bulk;bytes=%zu;sms=%d;chunk=%d;in_flight_per_sm=%d;issuing_warps=%d", bytes,
              plan.blocks, plan.chunk_bytes, plan.chunk_bytes * plan.stages, warps_of(plan));
}

// Chunk that gives every core a few, between 1 and 16 KiB.
int chunk_for(const Device& device, size_t bytes) {
  int chunk = 16 * kKiB;
  while (chunk > kKiB && bytes / chunk < static_cast<size_t>(4 * device.sms)) chunk /= 2;
  return chunk;
}

void report_fit(const Report& report, const std::string& name, const std::string& parameters,
                const LineFit& fit) {
  report.add(name + "_fit_floor", parameters, fit.floor_us, "us");
  report.add(name + "_fit_bandwidth", parameters, fit.gbps, "GB/s");
  report.add(name + "_fit_worst_error", parameters, fit.worst_relative_error, "fraction");
}

void read_against_size(const Device& device, const Report& report) {
  // Whole chip, cold: time of a kernel that reads `bytes` once, launch included.
  std::vector<std::pair<double, double>> bulk_points, load_points;
  for (size_t kib = 64; kib <= 1024 * 1024; kib *= 2) {
    const size_t bytes = kib * kKiB;
    const int chunk = chunk_for(device, bytes);
    const BulkPlan plan = {device.sms, chunk, std::min(kMostStages, 128 * kKiB / chunk)};
    const Spread bulk = time_bulk(device, plan, bytes, true);
    report.add("hbm_read_time", describe(plan, bytes), bulk, "us");
    report.add("hbm_read_bandwidth", describe(plan, bytes),
               rate_of(1e-3 * static_cast<double>(bytes), bulk), "GB/s");
    bulk_points.emplace_back(bytes, bulk.median);

    const Spread loads = node_time_us(
        device,
        [&](int index, cudaStream_t stream) {
          launch_load_read<4>(2 * device.sms, 1024, stream, part(device, bytes, index), bytes,
                              device.flush);
        },
        plan_for_bytes(static_cast<double>(bytes), true));
    const std::string parameters =
        text("method=loads;bytes=%zu;sms=%d;threads_per_sm=2048;unroll=4", bytes, device.sms);
    report.add("hbm_read_time", parameters, loads, "us");
    load_points.emplace_back(bytes, loads.median);
  }
  for (const auto& [method, points] : {std::pair("bulk", bulk_points), {"loads", load_points}}) {
    for (const double least : {64.0 * kKiB, 1.0 * kMiB, 16.0 * kMiB}) {
      std::vector<std::pair<double, double>> used;
      for (const auto& point : points) {
        if (point.first >= least) used.push_back(point);
      }
      const LineFit fit = fit_line(used);
      report_fit(report, "hbm_read", text("method=%s;from_bytes=%.0f", method, least), fit);
    }
  }
}

// Chains of a few kernels: with one core and little in flight a kernel takes a millisecond.
constexpr ChainPlan kShortCold = {.short_nodes = 2, .long_nodes = 10, .repeats = 11, .cold = true};
constexpr ChainPlan kShortWarm = {.short_nodes = 2, .long_nodes = 10, .repeats = 11};

void read_with(const Device& device, const Report& report, const BulkPlan& plan,
               const char* variable) {
  const size_t bytes = static_cast<size_t>(8 * kMiB) * plan.blocks;
  report.add(
      text("hbm_read_bandwidth_by_%s", variable), describe(plan, bytes),
      rate_of(1e-3 * static_cast<double>(bytes), time_bulk(device, plan, bytes, true, kShortCold)),
      "GB/s");
  BulkPlan resident = plan;
  const size_t buffer = plan.blocks == 1 ? 2 * kMiB : 8 * kMiB;
  resident.passes = plan.blocks == 1 ? 8 : 2 * plan.blocks;  // 16 MiB per core
  report.add(text("l2_read_bandwidth_by_%s", variable), describe(resident, buffer),
             rate_of(1e-3 * bytes_moved(resident, buffer),
                     time_bulk(device, resident, buffer, false, kShortWarm)),
             "GB/s");
}

void read_against_cores(const Device& device, const Report& report) {
  for (const int sms : {1, 2, 4, 8, 16, 32, 48, 64, 80, 100, 116, device.sms}) {
    for (const int in_flight : {64 * kKiB, 192 * kKiB}) {
      read_with(device, report, {sms, 8 * kKiB, in_flight / (8 * kKiB)}, "sms");
    }
  }
}

void read_against_in_flight(const Device& device, const Report& report) {
  for (const int sms : {1, device.sms}) {
    for (const int chunk : {1 * kKiB, 2 * kKiB, 4 * kKiB, 8 * kKiB, 16 * kKiB, 32 * kKiB}) {
      for (const int in_flight_kib : {1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192}) {
        const int stages = in_flight_kib * kKiB / chunk;
        if (stages < 1 || stages > kMostStages || stages * chunk != in_flight_kib * kKiB) continue;
        read_with(device, report, {sms, chunk, stages}, "in_flight");
      }
    }
  }
}

void read_against_issuers(const Device& device, const Report& report) {
  for (const int sms : {1, device.sms}) {
    for (const int chunk : {2 * kKiB, 8 * kKiB, 16 * kKiB, 32 * kKiB}) {
      for (const int warps : {1, 2, 4}) {
        BulkPlan plan = {sms, chunk, 128 * kKiB / chunk};
        plan.warps = warps;
        read_with(device, report, plan, "issuing_warps");
      }
    }
  }
}

template <int kUnroll>
void loads_against_in_flight(const Device& device, const Report& report) {
  const size_t bytes = size_t{256} * kMiB;
  for (const int threads : {128, 256, 512, 1024, 2048}) {
    if (resident_threads(load_read<kUnroll>, std::min(threads, 1024)) < threads) continue;
    const int blocks = device.sms * (threads > 1024 ? 2 : 1);
    const auto node = [&](int index, cudaStream_t stream) {
      launch_load_read<kUnroll>(blocks, std::min(threads, 1024), stream, part(device, bytes, index),
                                bytes, device.flush);
    };
    report.add("hbm_read_bandwidth_by_in_flight",
               text("method=loads;bytes=%zu;sms=%d;threads_per_sm=%d;unroll=%d;in_flight_per_sm=%d",
                    bytes, device.sms, threads, kUnroll, threads * kUnroll * 16),
               rate_of(1e-3 * static_cast<double>(bytes),
                       node_time_us(device, node, plan_for_bytes(1.0 * bytes, true))),
               "GB/s");
  }
}

void l2_against_size(const Device& device, const Report& report) {
  for (const int mib : {1, 2, 4, 8, 16, 20, 24, 28, 32, 40, 48, 64}) {
    const size_t bytes = static_cast<size_t>(mib) * kMiB;
    BulkPlan plan = {device.sms, 8 * kKiB, 24, Deal::kInterleaved, std::max(1, 1024 / mib)};
    report.add("l2_read_bandwidth_by_size", describe(plan, bytes) + ";deal=interleaved",
               rate_of(1e-3 * static_cast<double>(bytes) * plan.passes,
                       time_bulk(device, plan, bytes, false)),
               "GB/s");
    plan.deal = Deal::kAll;
    plan.passes = 1;
    report.add("l2_read_bandwidth_by_size", describe(plan, bytes) + ";deal=every_sm_reads_all",
               rate_of(1e-3 * bytes_moved(plan, bytes), time_bulk(device, plan, bytes, false)),
               "GB/s");

    // One pass per kernel of a chain: what a kernel sees that reads what the last one left.
    const int chunk = chunk_for(device, bytes);
    const BulkPlan once = {device.sms, chunk, std::min(kMostStages, 128 * kKiB / chunk)};
    report.add("l2_read_time", describe(once, bytes), time_bulk(device, once, bytes, false), "us");
  }
  for (const int kib : {4, 16, 64, 256}) {
    // Every core reads the same few bytes, as all tiles of a row of blocks do.
    const BulkPlan plan = {device.sms, 4 * kKiB, 48, Deal::kAll, 65536 / kib};
    const size_t bytes = static_cast<size_t>(kib) * kKiB;
    report.add("l2_read_bandwidth_by_size", describe(plan, bytes) + ";deal=every_sm_reads_all",
               rate_of(1e-3 * bytes_moved(plan, bytes), time_bulk(device, plan, bytes, false)),
               "GB/s");
  }
  std::vector<std::pair<double, double>> points, load_points;
  for (size_t kib = 64; kib <= 32 * 1024; kib *= 2) {
    const size_t bytes = kib * kKiB;
    const int chunk = chunk_for(device, bytes);
    const BulkPlan plan = {device.sms, chunk, std::min(kMostStages, 128 * kKiB / chunk)};
    const Spread time = time_bulk(device, plan, bytes, false);
    if (kib < 1024) report.add("l2_read_time", describe(plan, bytes), time, "us");
    points.emplace_back(bytes, time.median);
    const Spread loads = node_time_us(
        device,
        [&](int, cudaStream_t stream) {
          launch_load_read<4>(2 * device.sms, 1024, stream, device.pool, bytes, device.flush);
        },
        plan_for_bytes(static_cast<double>(bytes), false));
    report.add(
        "l2_read_time",
        text("method=loads;bytes=%zu;sms=%d;threads_per_sm=2048;unroll=4", bytes, device.sms),
        loads, "us");
    load_points.emplace_back(bytes, loads.median);
  }
  for (const auto& [method, used] : {std::pair("bulk", points), {"loads", load_points}}) {
    const LineFit fit = fit_line(used);
    report_fit(report, "l2_read", text("method=%s;from_bytes=65536", method), fit);
  }
}

void writes(const Device& device, const Report& report) {
  char* destination;
  const size_t most = size_t{2} << 30;
  CUDA_CHECK(cudaMalloc(&destination, most));
  for (const size_t mib : {1, 4, 16, 64, 256, 1024}) {
    const size_t bytes = mib * kMiB;
    const auto place = [&](int node) {
      return destination + (static_cast<size_t>(node) % (most / bytes)) * bytes;
    };
    const ChainPlan chain = plan_for_bytes(1.0 * bytes, true);
    report.add("hbm_write_bandwidth",
               text("method=stores;bytes=%zu;sms=%d;threads_per_sm=2048", bytes, device.sms),
               rate_of(1e-3 * bytes, node_time_us(
                                         device,
                                         [&](int node, cudaStream_t stream) {
                                           launch({.blocks = 2 * device.sms, .threads = 1024},
                                                  stream, store_write,
                                                  reinterpret_cast<uint4*>(place(node)), bytes / 16,
                                                  1);
                                         },
                                         chain)),
               "GB/s");
    report.add(
        "hbm_write_bandwidth",
        text("method=bulk;bytes=%zu;sms=%d;chunk=16384;in_flight_per_sm=131072", bytes, device.sms),
        rate_of(1e-3 * bytes,
                node_time_us(
                    device,
                    [&](int node, cudaStream_t stream) {
                      launch({.blocks = device.sms, .threads = 128, .shared_bytes = 128 * kKiB},
                             stream, bulk_write<8>, place(node), bytes / (16 * kKiB), 16 * kKiB);
                    },
                    chain)),
        "GB/s");
    report.add(
        "hbm_copy_bandwidth",
        text("counts=read+write;reads_per_write=1;bytes_written=%zu;sms=%d", bytes, device.sms),
        rate_of(2e-3 * bytes,
                node_time_us(
                    device,
                    [&](int node, cudaStream_t stream) {
                      launch({.blocks = 4 * device.sms, .threads = 512}, stream, read_write<1, 4>,
                             reinterpret_cast<const uint4*>(part(device, bytes, node)),
                             reinterpret_cast<uint4*>(place(node)), bytes / 16);
                    },
                    chain)),
        "GB/s");
    report.add(
        "hbm_copy_bandwidth",
        text("counts=read+write;reads_per_write=3;bytes_written=%zu;sms=%d", bytes, device.sms),
        rate_of(4e-3 * bytes,
                node_time_us(
                    device,
                    [&](int node, cudaStream_t stream) {
                      launch({.blocks = 4 * device.sms, .threads = 512}, stream, read_write<3, 2>,
                             reinterpret_cast<const uint4*>(part(device, 3 * bytes, node)),
                             reinterpret_cast<uint4*>(place(node)), bytes / 16);
                    },
                    chain)),
        "GB/s");
  }
  for (const int mib : {4, 8, 16, 24, 32, 40}) {
    const size_t bytes = static_cast<size_t>(mib) * kMiB;
    const int passes = std::max(1, 512 / mib);
    report.add("l2_write_bandwidth",
               text("method=stores;bytes=%zu;passes=%d;sms=%d", bytes, passes, device.sms),
               rate_of(1e-3 * bytes * passes,
                       node_time_us(
                           device,
                           [&](int, cudaStream_t stream) {
                             launch({.blocks = 2 * device.sms, .threads = 1024}, stream,
                                    store_write, reinterpret_cast<uint4*>(destination), bytes / 16,
                                    passes);
                           },
                           plan_for_bytes(1.0 * bytes * passes, false))),
               "GB/s");
  }
  CUDA_CHECK(cudaFree(destination));
}

}  // namespace

void run_stream(const Device& device, const Report& report) {
  read_against_size(device, report);
  read_against_cores(device, report);
  read_against_in_flight(device, report);
  read_against_issuers(device, report);
  loads_against_in_flight<1>(device, report);
  loads_against_in_flight<2>(device, report);
  loads_against_in_flight<4>(device, report);
  loads_against_in_flight<8>(device, report);
  l2_against_size(device, report);
  writes(device, report);
}

}  // namespace microbench
