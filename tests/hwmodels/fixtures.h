// What the tests of the hardware models share: the configurations of the source tree, small chips
// to reason about by hand, and the seeded numbers of property tests.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>

#include "hwmodels/hardware.h"
#include "hwmodels/op_cost.h"
#include "hwmodels/stack.h"
#include "hwmodels/tile/core_rates.h"
#include "workloads/op.h"
#include "workloads/op_graph.h"
#include "workloads/precision.h"

namespace foretoken::test_support {

inline std::filesystem::path configs() {
  return std::filesystem::path(FORETOKEN_SOURCE_DIR) / "configs";
}

inline hwmodels::Hardware hardware(const std::string& system) {
  return hwmodels::load_hardware(system, configs());
}

// What one core of a shipped system's chip does.
inline hwmodels::tile::CoreRates core_rates_of(const std::string& system) {
  return hwmodels::derive_rates(hardware(system)).core;
}

inline workloads::ModelSpec model(const std::string& name) {
  return workloads::load_model(name, configs());
}

inline workloads::Precision precision(const std::string& recipe, const workloads::ModelSpec& m) {
  return workloads::resolve(
      base::load_config<workloads::PrecisionRecipe>(configs() / "precision" / (recipe + ".yaml")),
      m);
}

// Round numbers: ten cores of 1 TFLOP/s FP8 each, 1 TB/s of memory, nothing lost, no fixed times.
inline hwmodels::Rates round_rates() {
  using workloads::Dtype;
  hwmodels::Rates r;
  r.cores = 10.0;
  r.vector_fp32 = 1e12;
  r.vector_fp16 = 2e12;
  r.special = 0.1e12;
  r.memory = 1e12;
  r.core_memory = 1e12;
  r.cache = 10e12;
  r.cache_capacity = 1e12;
  r.host = 0.1e12;
  r.clock = 1e9;
  hwmodels::tile::CoreRates& c = r.core;
  c.chip = "round";
  c.cores = r.cores;
  c.matrix[static_cast<std::size_t>(Dtype::kFp8)] = 1e12;
  c.matrix[static_cast<std::size_t>(Dtype::kInt8)] = 1e12;
  c.matrix[static_cast<std::size_t>(Dtype::kBf16)] = 0.5e12;
  c.matrix[static_cast<std::size_t>(Dtype::kTf32)] = 0.25e12;
  c.matrix[static_cast<std::size_t>(Dtype::kFp4)] = 2e12;
  r.core_flops = c.matrix;
  c.tile_rows = 16.0;
  c.tile_columns = 16.0;
  c.operand_feed = 1e15;
  c.lanes32 = 0.1e12;
  c.lanes16 = 0.2e12;
  c.special = 0.01e12;
  c.port = r.core_memory;
  c.cache = r.cache;
  c.memory = r.memory;
  c.link = 0.1e12;
  c.cache_capacity = r.cache_capacity;
  c.clock = r.clock;
  c.capacity = {256.0 * 1024.0, 256.0 * 1024.0, 256.0 * 1024.0};
  return r;
}

// The chip of these rates, with the plainest design of every kernel.
inline hwmodels::Hardware round_hardware() {
  hwmodels::Hardware h;
  h.chip.name = "round";
  const hwmodels::Rates r = round_rates();
  for (std::size_t i = 0; i < h.chip.matrix.peak.size(); ++i) {
    h.chip.matrix.peak[i] = base::FlopsPerSecond{r.cores * r.core.matrix[i]};
  }
  return h;
}

inline double largest(const hwmodels::Cost& c) {
  double most = 0.0;
  for (const double busy : c.busy) most = std::max(most, busy);
  return most;
}

// What an operator takes alone, its launch left out.
inline double elapsed(const hwmodels::Cost& c) { return largest(c) + c.latency; }

}  // namespace foretoken::test_support
