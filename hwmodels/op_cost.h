// What one operator asks of a chip: seconds of each resource, wave and tile rounding included.
#pragma once

#include <cstdint>

#include "hwmodels/hardware.h"
#include "workloads/op.h"

namespace foretoken::hwmodels {

// The resources of one device, in the order of task graphs built by `lower`.
enum class Unit : std::uint8_t { kMatrix, kVector, kMemory, kCache, kScaleUp, kScaleOut, kHost };
inline constexpr int kUnits = 7;
inline constexpr std::array<std::string_view, kUnits> kUnitNames = {
    "matrix", "vector", "memory", "cache", "scale_up", "scale_out", "host"};

struct Cost {
  std::array<double, kUnits> busy{};  // s at the achieved rate
  double latency = 0.0;               // s, besides launch and pipeline fill
  bool communication = false;         // runs on the communication queue

  double& operator[](Unit u) { return busy[static_cast<std::size_t>(u)]; }
  double operator[](Unit u) const { return busy[static_cast<std::size_t>(u)]; }
};

// Throws UnsupportedError naming the chip and the dtype when its matrix unit lacks one.
Cost cost(const workloads::Op& op, const Hardware& hardware, const Rates& rates);
// Adds the operator's cost to `sum`: operators that share a kernel add up in place.
void add_cost(const workloads::Op& op, const Hardware& hardware, const Rates& rates, Cost& sum);

// A matrix product as tiles on cores: rows are weight rows (output features), columns are tokens.
// Tiles are dealt to cores in waves and the last wave costs a full one; when there are fewer tiles
// than cores, the k dimension is split. Exposed for tests.
struct GemmShape {
  double rows, columns, depth;
  double count = 1.0;  // independent products
  // What else the kernel asks for, so that the choice of tiles does not win one resource and lose
  // another: weights from memory, activations, seconds of vector work per tile of tokens.
  double stream_bytes = 0.0;
  double other_cache = 0.0;   // s
  double other_memory = 0.0;  // s
  double widen = 0.0;         // s
};
struct GemmTime {
  double matrix = 0.0;       // s
  double cache_bytes = 0.0;  // operand tiles read through the cache
  double cores = 0.0;        // busy in the fullest wave
  double column_tiles = 1.0;
};
GemmTime gemm_time(const GemmShape& shape, double core_flops, double weight_bytes_per_element,
                   double activation_bytes_per_element, const Rates& rates);

}  // namespace foretoken::hwmodels
