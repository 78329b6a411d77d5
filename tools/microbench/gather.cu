// Bandwidth of reading rows at random places of a large pool (device memory) and a small one (L2).
#include <random>

#include "bench.h"
#include "ptx.h"

namespace microbench {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpShared = 48 * 1024;  // ring of one warp, bytes
constexpr int kMostDepth = 8;

// The value one lane reads; rows whose length is no multiple of 16 are read 8 bytes at a time.
template <int kBytes>
struct Vector;
template <>
struct Vector<16> {
  using Type = uint4;
  static __device__ Type get(const char* p) { return ptx::load_stream(p); }
  static __device__ uint32_t fold(const Type& v) { return v.x ^ v.y ^ v.z ^ v.w; }
};
template <>
struct Vector<8> {
  using Type = uint2;
  static __device__ Type get(const char* p) { return ptx::load_stream8(p); }
  static __device__ uint32_t fold(const Type& v) { return v.x ^ v.y; }
};

// One warp per row, kRows rows in flight per warp.
template <int kRowBytes, int kVector, int kRows>
__global__ void gather_warp(const char* pool, const uint32_t* index, uint32_t rows,
                            uint32_t* sink) {
  constexpr int kVectors = kRowBytes / kVector;
  constexpr int kLoads = (kVectors + kWarp - 1) / kWarp;
  const uint32_t lane = threadIdx.x % kWarp;
  const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
  const uint32_t warps = gridDim.x * blockDim.x / kWarp;
  uint32_t sum = 0;
  for (uint32_t row = warp * kRows; row + kRows <= rows; row += warps * kRows) {
    typename Vector<kVector>::Type v[kRows][kLoads];
    uint32_t at[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) at[r] = __ldg(index + row + r);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int k = 0; k < kLoads; ++k) {
        v[r][k] = {};
        if (k * kWarp + lane < kVectors) {
          v[r][k] = Vector<kVector>::get(pool + static_cast<size_t>(at[r]) * kRowBytes +
                                         (k * kWarp + lane) * kVector);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int k = 0; k < kLoads; ++k) sum ^= Vector<kVector>::fold(v[r][k]);
    }
  }
  if (sum == 0x12345678u) *sink = sum;
}

// Several short rows per warp instruction: kRowBytes / 16 lanes per row, kBatches instructions in
// flight.
template <int kRowBytes, int kBatches>
__global__ void gather_packed(const char* pool, const uint32_t* index, uint32_t rows,
                              uint32_t* sink) {
  constexpr int kLanes = kRowBytes / 16;
  constexpr int kRows = kWarp / kLanes;
  const uint32_t lane = threadIdx.x % kWarp;
  const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
  const uint32_t warps = gridDim.x * blockDim.x / kWarp;
  uint32_t sum = 0;
  for (uint32_t row = warp * kRows * kBatches; row + kRows * kBatches <= rows;
       row += warps * kRows * kBatches) {
    uint32_t at[kBatches];
    uint4 v[kBatches];
#pragma unroll
    for (int b = 0; b < kBatches; ++b) at[b] = __ldg(index + row + b * kRows + lane / kLanes);
#pragma unroll
    for (int b = 0; b < kBatches; ++b) {
      v[b] = ptx::load_stream(pool + static_cast<size_t>(at[b]) * kRowBytes + lane % kLanes * 16);
    }
#pragma unroll
    for (int b = 0; b < kBatches; ++b) sum ^= v[b].x ^ v[b].y ^ v[b].z ^ v[b].w;
  }
  if (sum == 0x12345678u) *sink = sum;
}

// One bulk copy per row, issued by one lane per row; `batch` rows share a barrier. Bulk copies move
// multiples of 16 bytes from 16-byte places, so odd rows are copied with up to 8 bytes around them.
__global__ void gather_bulk(const char* pool, const uint32_t* index, uint32_t rows,
                            uint32_t row_bytes, uint32_t copy_bytes, uint32_t batch,
                            uint32_t depth) {
  extern __shared__ __align__(128) char shared[];
  __shared__ uint64_t barriers[4 * kMostDepth];
  const uint32_t lane = threadIdx.x % kWarp;
  const uint32_t local_warp = threadIdx.x / kWarp;
  const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp;
  const uint32_t warps = gridDim.x * blockDim.x / kWarp;
  const uint32_t barrier = ptx::shared_address(barriers + local_warp * kMostDepth);
  const uint32_t ring = ptx::shared_address(shared) + local_warp * kWarpShared;
  if (lane == 0) {
    for (uint32_t i = 0; i < depth; ++i) ptx::barrier_init(barrier + 8 * i, 1);
    ptx::fence_barrier_init();
  }
  __syncwarp();
  uint32_t slot = 0;
  uint32_t phase = 0;
  uint32_t issued = 0;
  uint32_t next = warp * batch + lane < rows && lane < batch ? index[warp * batch + lane] : 0;
  for (uint32_t row = warp * batch; row + batch <= rows; row += warps * batch) {
    const uint32_t at = next;
    const uint32_t ahead = row + warps * batch + lane;  // fetch the next indices early
    if (ahead < rows && lane < batch) next = index[ahead];
    if (issued >= depth) ptx::wait_barrier(barrier + 8 * slot, phase ^ 1);
    if (lane == 0) ptx::expect_bytes(barrier + 8 * slot, batch * copy_bytes);
    __syncwarp();
    if (lane < batch) {
      const size_t offset = static_cast<size_t>(at) * row_bytes / 16 * 16;
      ptx::bulk_load(ring + (slot * batch + lane) * copy_bytes, pool + offset, copy_bytes,
                     barrier + 8 * slot);
    }
    ++issued;
    if (++slot == depth) {
      slot = 0;
      phase ^= 1;
    }
  }
  const uint32_t pending = issued < depth ? issued : depth;
  for (uint32_t i = issued - pending; i < issued; ++i) {
    ptx::wait_barrier(barrier + 8 * (i % depth), i / depth & 1);
  }
}

struct Pool {
  const char* name;
  size_t bytes;
};

class GatherBench {
 public:
  GatherBench(const Device& device, const Report& report, Pool pool, int row_bytes)
      : device_(device),
        report_(report),
        pool_(pool),
        row_bytes_(row_bytes),
        rows_(static_cast<uint32_t>(kBytesPerNode / row_bytes / 1024 * 1024)),
        index_(random_rows(pool, row_bytes, rows_)) {}

  // launcher(stream, index of the node's rows, number of rows)
  template <class Launcher>
  void time(const std::string& method, const Launcher& launcher) const {
    const auto node = [&](int i, cudaStream_t stream) {
      launcher(stream, index_.get() + static_cast<size_t>(i % kSlices) * rows_, rows_);
    };
    const ChainPlan plan = {.short_nodes = 2, .long_nodes = 10, .repeats = 15};
    const Spread time = node_time_us(device_, node, plan);
    const double bytes = static_cast<double>(rows_) * row_bytes_;
    report_.add("gather_bandwidth",
                text("pool=%s;pool_bytes=%zu;row_bytes=%d;rows=%u;", pool_.name, pool_.bytes,
                     row_bytes_, rows_) +
                    method,
                rate_of(1e-3 * bytes, time), "GB/s");
  }

 private:
  static constexpr size_t kBytesPerNode = size_t{192} << 20;  // rows of one kernel; beyond the L2
  static constexpr int kSlices = 4;  // different indices for four kernels in turn

  static std::vector<uint32_t> random_rows(Pool pool, int row_bytes, uint32_t rows) {
    std::mt19937 random(7);
    const uint32_t places = static_cast<uint32_t>(pool.bytes / static_cast<size_t>(row_bytes)) - 1;
    std::vector<uint32_t> index(static_cast<size_t>(rows) * kSlices);
    for (uint32_t& i : index) {
      i = static_cast<uint32_t>((static_cast<uint64_t>(random()) * places) >> 32);
    }
    return index;
  }

  const Device& device_;
  const Report& report_;
  Pool pool_;
  int row_bytes_;
  uint32_t rows_;
  DeviceArray<uint32_t> index_;
};

template <int kRowBytes, int kVector, int kRows>
void warp_per_row(const Device& device, const GatherBench& bench) {
  constexpr int kBlock = 256;
  const auto kernel = gather_warp<kRowBytes, kVector, kRows>;
  const int most = resident_threads(kernel, kBlock);
  for (const int threads : {512, 1024, most}) {
    bench.time(text("method=warp_per_row;load_bytes=%d;rows_in_flight_per_sm=%d;threads_per_sm=%d",
                    kVector, threads / kWarp * kRows, threads),
               [&](cudaStream_t stream, const uint32_t* index, uint32_t rows) {
                 launch({.blocks = threads / kBlock * device.sms, .threads = kBlock}, stream,
                        kernel, device.pool, index, rows,
                        reinterpret_cast<uint32_t*>(device.flush));
               });
  }
}

template <int kRowBytes, int kBatches>
void rows_per_warp(const Device& device, const GatherBench& bench) {
  constexpr int kBlock = 256;
  const auto kernel = gather_packed<kRowBytes, kBatches>;
  const int most = resident_threads(kernel, kBlock);
  bench.time(text("method=rows_packed_in_warp;load_bytes=16;rows_in_flight_per_sm=%d;"
                  "threads_per_sm=%d",
                  most / kWarp * kBatches * (512 / kRowBytes), most),
             [&](cudaStream_t stream, const uint32_t* index, uint32_t rows) {
               launch({.blocks = most / kBlock * device.sms, .threads = kBlock}, stream, kernel,
                      device.pool, index, rows, reinterpret_cast<uint32_t*>(device.flush));
             });
}

void bulk_per_row(const Device& device, const GatherBench& bench, int row_bytes) {
  const int copy_bytes = (row_bytes + 15) / 16 * 16;
  const int batch = row_bytes <= 256 ? 32 : 8;
  const int depth = std::min(kMostDepth, kWarpShared / (batch * copy_bytes));
  bench.time(text("method=bulk_per_row;copy_bytes=%d;rows_in_flight_per_sm=%d", copy_bytes,
                  4 * batch * depth),
             [&](cudaStream_t stream, const uint32_t* index, uint32_t rows) {
               launch({.blocks = device.sms, .threads = 128, .shared_bytes = 4 * kWarpShared},
                      stream, gather_bulk, device.pool, index, rows, row_bytes, copy_bytes, batch,
                      depth);
             });
}

template <int kRowBytes, int kVector, int kRows>
void all_methods(const Device& device, const Report& report, Pool pool) {
  const GatherBench bench(device, report, pool, kRowBytes);
  warp_per_row<kRowBytes, kVector, kRows>(device, bench);
  if constexpr (kRowBytes <= 256) rows_per_warp<kRowBytes, 4>(device, bench);
  bulk_per_row(device, bench, kRowBytes);
}

}  // namespace

void run_gather(const Device& device, const Report& report) {
  for (const Pool pool : {Pool{"hbm", size_t{4} << 30}, Pool{"l2", size_t{24} << 20}}) {
    all_methods<64, 16, 8>(device, report, pool);
    all_methods<128, 16, 8>(device, report, pool);
    all_methods<256, 16, 8>(device, report, pool);
    all_methods<512, 16, 4>(device, report, pool);
    all_methods<576, 16, 4>(device, report, pool);
    all_methods<584, 8, 4>(device, report, pool);
    all_methods<656, 16, 4>(device, report, pool);
    all_methods<1024, 16, 4>(device, report, pool);
  }
}

}  // namespace microbench
