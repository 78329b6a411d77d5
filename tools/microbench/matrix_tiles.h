// Operand tiles in shared memory for the matrix benchmarks: a ring of stages, each with one A tile
// of 64 rows per warpgroup and one B tile of N rows, rows of 128 bytes in the 128-byte swizzle.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "bench.h"
#include "ptx.h"
#include "wgmma.h"

namespace microbench {

constexpr int kRowBytes = 128;
constexpr int kStages = 4;
constexpr int kSlices = kRowBytes / 32;  // instructions along K per stage
constexpr int kTileAlign = 1024;
constexpr int kWarpgroups = 2;  // tiles are laid out for two, whether or not both run
constexpr int kATileBytes = 64 * kRowBytes;

template <int kN>
struct TileRing {
  static constexpr int kBTileBytes = (kN * kRowBytes + kTileAlign - 1) / kTileAlign * kTileAlign;
  static constexpr int kStageBytes = kWarpgroups * kATileBytes + kBTileBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + kTileAlign;

  uint32_t base;  // shared address, aligned

  __device__ uint32_t a(int stage, int warpgroup) const {
    return base + stage * kStageBytes + warpgroup * kATileBytes;
  }
  __device__ uint32_t b(int stage) const {
    return base + stage * kStageBytes + kWarpgroups * kATileBytes;
  }
};

__device__ inline uint32_t align_tile(uint32_t address) {
  return (address + kTileAlign - 1) / kTileAlign * kTileAlign;
}

// Roughly normal values (sum of four uniforms), variance 1/3, from a counter.
__device__ inline float random_value(uint32_t counter) {
  uint32_t h = counter * 0x9E3779B1u;
  h = (h ^ (h >> 15)) * 0x85EBCA77u;
  h = (h ^ (h >> 13)) * 0xC2B2AE3Du;
  h ^= h >> 16;
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>((h >> (8 * i)) & 255) / 256 - 0.498f;
  return sum;
}

template <class In>
__device__ uint32_t random_word(uint32_t counter);
template <>
__device__ inline uint32_t random_word<Bf16>(uint32_t counter) {
  const __nv_bfloat162 pair =
      __floats2bfloat162_rn(random_value(2 * counter), random_value(2 * counter + 1));
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ inline uint32_t random_word<E4m3>(uint32_t counter) {
  const __nv_fp8x4_e4m3 four(make_float4(random_value(4 * counter), random_value(4 * counter + 1),
                                         random_value(4 * counter + 2),
                                         random_value(4 * counter + 3)));
  return four.__x;
}

// Fills the whole ring: random values, or zeros.
template <class In>
__device__ void fill_tiles(uint32_t base, int bytes, bool zeros, uint32_t seed) {
  for (int offset = static_cast<int>(threadIdx.x) * 4; offset < bytes;
       offset += static_cast<int>(blockDim.x) * 4) {
    const uint32_t word = zeros ? 0 : random_word<In>(seed + offset / 4);
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(base + offset), "r"(word) : "memory");
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
}

}  // namespace microbench
