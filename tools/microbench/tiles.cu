// Streaming a row-major matrix tile by tile, as a matrix kernel reads its weights: two-dimensional
// copies (cp.async.bulk.tensor) of 128 bytes by some rows, whose rows lie a pitch apart in memory.
#include <cuda.h>

#include "bench.h"
#include "bulk_ring.h"
#include "ptx.h"

namespace microbench {
namespace {

constexpr int kTileWidth = 128;  // bytes, the widest that the 128-byte swizzle takes
constexpr int kMostDepth = 16;

__device__ void tensor_load(uint32_t destination, const CUtensorMap* map, uint32_t column,
                            uint32_t row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(destination),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// The tiles are numbered along the rows of tiles first; each block reads a contiguous range of
// them, through a ring of `depth` stages that one thread fills.
__global__ void tile_read(const __grid_constant__ CUtensorMap map, uint32_t columns, uint32_t tiles,
                          uint32_t tile_rows, uint32_t depth) {
  extern __shared__ __align__(1024) char ring[];
  __shared__ uint64_t barriers[kMostDepth];
  if (threadIdx.x != 0) return;
  const uint32_t buffer = ptx::shared_address(ring);
  const uint32_t barrier = ptx::shared_address(barriers);
  for (uint32_t i = 0; i < depth; ++i) ptx::barrier_init(barrier + 8 * i, 1);
  ptx::fence_barrier_init();

  const uint32_t first = tiles * blockIdx.x / gridDim.x;
  const uint32_t last = tiles * (blockIdx.x + 1) / gridDim.x;
  const uint32_t tile_bytes = kTileWidth * tile_rows;
  uint32_t row = first / columns;
  uint32_t column = first % columns;
  uint32_t slot = 0;
  uint32_t phase = 0;
  for (uint32_t tile = first; tile < last + depth; ++tile) {
    if (tile >= first + depth) ptx::wait_barrier(barrier + 8 * slot, phase ^ 1);
    if (tile < last) {
      ptx::expect_bytes(barrier + 8 * slot, tile_bytes);
      tensor_load(buffer + slot * tile_bytes, &map, column * kTileWidth, row * tile_rows,
                  barrier + 8 * slot);
      if (++column == columns) {
        column = 0;
        ++row;
      }
    }
    if (++slot == depth) {
      slot = 0;
      phase ^= 1;
    }
  }
}

CUtensorMap tensor_map(const char* matrix, uint64_t pitch, uint64_t rows, uint32_t tile_rows) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                              cudaEnableDefault, &found));
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  CUtensorMap map;
  const cuuint64_t sizes[] = {pitch, rows};
  const cuuint64_t pitches[] = {pitch};
  const cuuint32_t box[] = {kTileWidth, tile_rows};
  const cuuint32_t steps[] = {1, 1};
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<char*>(matrix), sizes, pitches, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    std::fprintf(stderr, "tiles: cuTensorMapEncodeTiled failed: %d\n", status);
    std::exit(1);
  }
  return map;
}

struct TilePlan {
  size_t pitch;  // bytes of one row of the matrix
  size_t bytes;  // about; whole rows of tiles are read
  uint32_t tile_rows;
  uint32_t in_flight;  // bytes per core
};

void measure(const Device& device, const Report& report, const TilePlan& plan, bool cold) {
  const uint64_t tile_row_bytes = plan.pitch * plan.tile_rows;
  const uint64_t rows_of_tiles = plan.bytes / tile_row_bytes;
  const uint64_t bytes = rows_of_tiles * tile_row_bytes;
  const uint64_t rows = rows_of_tiles * plan.tile_rows;
  const uint32_t columns = static_cast<uint32_t>(plan.pitch / kTileWidth);
  const uint32_t depth = plan.in_flight / (kTileWidth * plan.tile_rows);
  const auto node = [&](int index, cudaStream_t stream) {
    const size_t parts = cold ? device.pool_bytes / bytes : 1;
    const char* matrix = device.pool + static_cast<size_t>(index) % parts * bytes;
    launch({.blocks = device.sms, .threads = 32, .shared_bytes = kMostShared}, stream, tile_read,
           tensor_map(matrix, plan.pitch, rows, plan.tile_rows), columns,
           static_cast<uint32_t>(rows_of_tiles) * columns, plan.tile_rows, depth);
  };
  const Spread time = node_time_us(device, node, plan_for_bytes(static_cast<double>(bytes), cold));
  const std::string parameters =
      text("from=%s;bytes=%zu;pitch=%zu;tile=%ux%d;in_flight_per_sm=%u;sms=%d", cold ? "hbm" : "l2",
           static_cast<size_t>(bytes), plan.pitch, plan.tile_rows, kTileWidth, plan.in_flight,
           device.sms);
  report.add("tile_read_time", parameters, time, "us");
  report.add("tile_read_bandwidth", parameters, rate_of(1e-3 * static_cast<double>(bytes), time),
             "GB/s");
}

}  // namespace

void run_tiles(const Device& device, const Report& report) {
  for (const size_t pitch : {2048, 7168, 16384}) {
    for (const uint32_t rows : {64u, 128u, 256u}) {
      measure(device, report, {pitch, size_t{256} * kMiB, rows, 128 * kKiB}, true);
      measure(device, report, {pitch, size_t{16} * kMiB, rows, 128 * kKiB}, false);
    }
  }
  for (const uint32_t in_flight : {16u, 32u, 48u, 64u, 96u, 192u}) {
    measure(device, report, {7168, size_t{256} * kMiB, 128, in_flight * kKiB}, true);
    measure(device, report, {7168, size_t{16} * kMiB, 128, in_flight * kKiB}, false);
  }
  for (const size_t mib : {4, 8, 16, 32, 64, 128}) {
    measure(device, report, {7168, mib * kMiB, 64, 128 * kKiB}, true);
  }
}

}  // namespace microbench
