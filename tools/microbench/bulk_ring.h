// A warp's ring of bulk copies (the copy engine, cp.async.bulk) from global into shared memory.
// Nobody reads what arrives: a stage is refilled as soon as it has landed, so only the transport is
// measured.
#pragma once

#include "bench.h"
#include "ptx.h"

namespace microbench {

constexpr int kKiB = 1024;
constexpr int kMiB = 1024 * kKiB;
constexpr int kMostStages = 64;          // of one core
constexpr int kMostShared = 192 * kKiB;  // ring of one core, which also keeps a second block off it

// Which chunks a stream (the ring of one warp) reads: first, first + step, ... below `chunks`, and
// the same again in each pass. With `around`, chunks after the last continue at 0 and a pass ends
// at first.
struct Walk {
  uint32_t first;
  uint32_t step;
  uint32_t chunks;
  uint32_t passes;
  bool around;
};

// To be called by one lane. `buffer` and `barrier` are shared addresses of `depth` stages and
// barriers.
__device__ inline void read_through_ring(const char* source, const Walk& walk, uint32_t chunk_bytes,
                                         uint32_t depth, uint32_t buffer, uint32_t barrier) {
  for (uint32_t i = 0; i < depth; ++i) ptx::barrier_init(barrier + 8 * i, 1);
  ptx::fence_barrier_init();

  uint32_t chunk = walk.first;
  uint32_t left = walk.first < walk.chunks ? walk.passes : 0;
  uint32_t slot = 0;       // next stage to fill
  uint32_t phase = 0;      // parity of the fill under way in that stage
  uint32_t in_flight = 0;  // stages filled and not yet waited for, at most depth
  while (left > 0) {
    if (in_flight == depth) {
      ptx::wait_barrier(barrier + 8 * slot, phase ^ 1);
    } else {
      ++in_flight;
    }
    ptx::expect_bytes(barrier + 8 * slot, chunk_bytes);
    ptx::bulk_load(buffer + slot * chunk_bytes, source + static_cast<size_t>(chunk) * chunk_bytes,
                   chunk_bytes, barrier + 8 * slot);
    if (++slot == depth) {
      slot = 0;
      phase ^= 1;
    }
    chunk += walk.step;
    if (walk.around) {
      if (chunk == walk.chunks) chunk = 0;
      if (chunk == walk.first) --left;
    } else if (chunk >= walk.chunks) {
      chunk = walk.first;
      --left;
    }
  }
  // The oldest fill under way is in the next slot, or in slot 0 where the ring was never full.
  uint32_t oldest = in_flight == depth ? slot : 0;
  uint32_t parity = in_flight == depth ? phase ^ 1 : 0;
  for (; in_flight > 0; --in_flight) {
    ptx::wait_barrier(barrier + 8 * oldest, parity);
    if (++oldest == depth) {
      oldest = 0;
      parity ^= 1;
    }
  }
}

}  // namespace microbench
