// A system with its chip and fitted constants, and the rates derived from them once.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "hwmodels/calibration.h"
#include "hwmodels/chip_spec.h"
#include "hwmodels/kernel_set.h"
#include "hwmodels/system_spec.h"
#include "hwmodels/tile/core_rates.h"

namespace foretoken::hwmodels {

struct Hardware {
  SystemSpec system;
  ChipSpec chip;
  Calibration calibration;
  KernelSet kernels;  // designs of the chip's family

  // The weakest of what the numbers rest on: a preliminary or placeholder chip is never calibrated.
  [[nodiscard]] base::Basis basis() const;
};

// Reads configs/systems/<name>.yaml (or the path of a system file), its chip, and the chip's
// calibration, else its family's. Throws ConfigError with the position of whatever is wrong.
Hardware load_hardware(const std::string& name_or_path, const std::filesystem::path& configs);

// One chip alone, with its calibration and no system around it: for kernels that stay on it. Throws
// UnsupportedError for a name that is not in configs/chips.
Hardware load_chip(const std::string& name, const std::filesystem::path& configs);

// The chip's own file in configs/calibration, else its family's.
std::filesystem::path calibration_file(const ChipSpec& chip, const std::filesystem::path& configs);

// Names of the files configs/<folder>/*.yaml, sorted.
std::vector<std::string> list_configs(const std::filesystem::path& configs,
                                      const std::string& folder);

// Which end of each fitted constant's range to use; kCentral is the fitted value.
enum class Constant : std::uint8_t {
  kMemory,
  kCache,
  kVector,
  kMatrix,
  kLink,
  kLaunch,
  kFill,
  kCollective,
  kStep
};
inline constexpr int kConstants = 9;

// -1 = the end that makes things slower, 0 = the value, 1 = the end that makes them faster.
using Tuning = std::array<int, kConstants>;

// Of collectives and expert traffic, in SI units: what struct Communication says in shares and
// ranges.
struct CommunicationRates {
  double launch = 0.0;   // s
  double hop = 0.0;      // s
  double flagged = 1.0;  // shares of the link's rate
  double bulk = 1.0;
  double copy = 2.0;
  double in_switch = 0.0;           // 0: the switches do not add
  double pair_rate = 1e18;          // B/s
  double flagged_pair_rate = 1e18;  // B/s
  double expert_start = 0.0;        // s
  double rows = 1.0;
  double core_copy = 1e18;  // B/s
  double row_time = 0.0;    // s
  double nic = 1.0;
  double nic_message = 0.0;   // s
  double engine_rate = 0.0;   // B/s; 0: no collective engine
  double engine_start = 0.0;  // s

  bool operator==(const CommunicationRates&) const = default;
};

// Numbers the cost functions use, in SI units, with efficiencies applied.
struct Rates {
  double cores = 1.0;
  std::array<double, workloads::kDtypeCount> core_flops{};  // achieved per core, 0 = no such dtype
  double vector_fp32 = 1.0;                                 // achieved operations/s of the chip
  double vector_fp16 = 1.0;
  double special = 1.0;         // exp and friends per second
  double memory = 1.0;          // achieved B/s of the chip
  double core_memory = 1.0;     // B/s one core can draw
  double cache = 1.0;           // achieved B/s
  double cache_capacity = 1.0;  // B
  double host = 1.0;            // B/s
  double memory_latency = 0.0;  // s
  double load_latency = 0.0;    // s, of a tile under load
  double clock = 1.0;           // Hz
  double launch = 0.0;          // s
  double fill = 0.0;            // s
  double collective = 0.0;      // s
  double step = 0.0;            // s
  double link_efficiency = 1.0;
  CommunicationRates communication;
  double tile_rows = 1.0;
  double tile_columns = 1.0;
  double fp4_fp8_rate = 1.0;
  bool widen_on_vector = true;
  tile::CoreRates core;  // what tile programs are priced with

  bool operator==(const Rates&) const = default;
};

Rates derive_rates(const Hardware& hardware, const Tuning& tuning = {});

}  // namespace foretoken::hwmodels
