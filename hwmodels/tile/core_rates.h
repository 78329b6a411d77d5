// What one core does per second, and what the cores share: the numbers that turn steps into time.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "hwmodels/chip_spec.h"
#include "hwmodels/tile/machine.h"

namespace foretoken::hwmodels::tile {

// SI units, efficiencies applied. Derived once per chip and calibration.
struct CoreRates {
  std::string chip;  // for messages
  double cores = 1.0;
  std::array<double, workloads::kDtypeCount> matrix{};  // FLOP/s of one core, 0: no such dtype
  double fp4_fp8_rate = 1.0;
  bool widen_on_vector = true;
  double tile_rows = 1.0;     // rows are padded to these by the instruction (m)
  double tile_columns = 1.0;  // and columns (n)
  double operand_feed = 0.0;  // B/s into the matrix unit, 0: never the limit
  double matrix_head = 0.0;   // s per matrix step before it runs at rate
  double lanes32 = 1.0;       // simple FP32 operations per second of one core
  double lanes16 = 1.0;
  double special = 1.0;         // exp, reciprocal, square root
  double convert = 1.0;         // block-scaled FP8 numbers unpacked
  double vector_latency = 0.0;  // s that one dependent vector step takes at least
  Exchange exchange = Exchange::kRegisters;
  double exchange_rate = 0.0;   // B/s where direct
  double port = 1.0;            // B/s one core draws from cache or memory
  double cache = 1.0;           // B/s of the chip
  double memory = 1.0;          // B/s of the chip
  double link = 1.0;            // B/s of the chip to peers
  double link_latency = 0.0;    // s to a peer, one way
  double cache_latency = 0.0;   // s
  double memory_latency = 0.0;  // s
  double sector = 32.0;         // B that a gather fetches at least
  double cache_capacity = 1.0;  // B
  double launch = 0.0;          // s from one kernel to the next
  double start = 0.0;           // s from a work item's start to its first step
  double clock = 1.0;           // Hz
  // Energy that counts towards the power limit: per FLOP by dtype, per byte; and the limit without
  // what the chip draws at rest. 0: no limit.
  std::array<double, workloads::kDtypeCount> matrix_energy{};
  double memory_energy = 0.0;
  double cache_energy = 0.0;
  double power_limit = 0.0;                // W
  std::array<double, kLocals> capacity{};  // B of one core by Local

  bool operator==(const CoreRates&) const = default;
};

}  // namespace foretoken::hwmodels::tile
