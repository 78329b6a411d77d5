#include "hwmodels/tile/core_rates.h"

#include <string_view>

namespace foretoken::hwmodels::tile {

namespace {

double local(const ChipSpec& chip, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    for (const LocalMemory& m : chip.local_memory) {
      if (m.name == name) return m.capacity.value();
    }
  }
  return 0.0;
}

}  // namespace

CoreRates core_rates(const Hardware& h, const Rates& r) {
  CoreRates c;
  c.chip = h.chip.name;
  c.cores = r.cores;
  c.matrix = r.core_flops;
  c.fp4_fp8_rate = r.fp4_fp8_rate;
  c.widen_on_vector = r.widen_on_vector;
  c.tile_rows = r.tile_rows;
  c.tile_columns = r.tile_columns;
  c.operand_feed = h.chip.matrix.operand_feed.value();
  c.matrix_head = h.chip.matrix.head.value();
  // A multiply-add is two FLOPs of the peak and one instruction.
  c.lanes32 = r.vector_fp32 / 2.0 / r.cores;
  c.lanes16 = r.vector_fp16 / 2.0 / r.cores;
  c.special = r.special / r.cores;
  c.vector_latency = h.chip.vector.step_latency.value();
  c.exchange = h.chip.exchange;
  c.exchange_rate = h.chip.exchange_rate.value();
  c.port = r.core_memory;
  c.cache = r.cache;
  c.memory = r.memory;
  const FabricDimension& near = h.system.fabric.front();
  c.link = near.bandwidth.value() * r.link_efficiency;
  c.cache_latency = h.chip.cache().latency.value();
  c.memory_latency = r.load_latency;
  c.sector = h.chip.gather_granularity.value();
  c.cache_capacity = r.cache_capacity;
  c.launch = r.launch;
  c.start = r.fill;
  c.clock = r.clock;
  // At full load on BF16 the units are taken to draw this share of the power limit, and half and a
  // quarter of it per FLOP at 8 and 4 bits.
  const double limit = h.chip.tdp_watts.value;
  const double bf16 = h.chip.matrix.peak[static_cast<std::size_t>(workloads::Dtype::kBf16)].value();
  if (h.calibration.static_power > 0.0 && bf16 > 0.0) {
    c.power_limit = limit * (1.0 - h.calibration.static_power);
    const double per_flop = h.calibration.matrix_power * limit / bf16;
    for (std::size_t i = 0; i < c.matrix_energy.size(); ++i) {
      const int bits = workloads::element_bits(static_cast<workloads::Dtype>(i));
      c.matrix_energy[i] = per_flop * bits / 16.0;
    }
    c.memory_energy = h.calibration.memory_energy;
    c.cache_energy = h.calibration.cache_energy;
  }
  const double operand = local(h.chip, {"smem", "l1"});
  const double vector = local(h.chip, {"register_file", "unified_buffer"});
  const double accumulator = local(h.chip, {"tmem", "l0c", "register_file"});
  c.capacity = {operand, accumulator, vector};
  return c;
}

}  // namespace foretoken::hwmodels::tile
