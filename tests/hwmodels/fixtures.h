// What the tests of the hardware models share: the configurations of the source tree, small chips
// to reason about by hand, and the seeded numbers of property tests.
#pragma once

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
  r.core_flops.fill(0.0);
  r.core_flops[static_cast<std::size_t>(Dtype::kFp8)] = 1e12;
  r.core_flops[static_cast<std::size_t>(Dtype::kInt8)] = 1e12;
  r.core_flops[static_cast<std::size_t>(Dtype::kBf16)] = 0.5e12;
  r.core_flops[static_cast<std::size_t>(Dtype::kTf32)] = 0.25e12;
  r.core_flops[static_cast<std::size_t>(Dtype::kFp4)] = 2e12;
  r.vector_fp32 = 1e12;
  r.vector_fp16 = 2e12;
  r.special = 0.1e12;
  r.memory = 1e12;
  r.core_memory = 1e12;
  r.cache = 10e12;
  r.cache_capacity = 1e12;
  r.host = 0.1e12;
  r.clock = 1e9;
  r.tile_rows = 16.0;
  r.tile_columns = 16.0;
  r.accumulator_rows = 128.0;
  r.accumulator_columns = 128.0;
  return r;
}

inline double largest(const hwmodels::Cost& c) {
  double most = 0.0;
  for (const double busy : c.busy) most = std::max(most, busy);
  return most;
}

}  // namespace foretoken::test_support
