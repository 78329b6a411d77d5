// Times one design on one chip: in closed form or on SystemC, with where the time went.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "analysis/kernels/kernel_cases.h"
#include "hwmodels/hardware.h"
#include "hwmodels/machine/kernel_machine.h"
#include "hwmodels/tile/evaluate.h"

namespace foretoken::analysis::kernels {

// A chip as kernels see it.
struct KernelChip {
  std::string name;
  std::string title;
  std::string family;
  hwmodels::ChipStatus status = hwmodels::ChipStatus::kShipping;
  base::Basis basis = base::Basis::kAssumed;
  hwmodels::tile::CoreRates rates;
};
// Throws ConfigError that lists the known chips.
KernelChip load_kernel_chip(const std::string& name, const std::filesystem::path& configs);
std::vector<KernelChip> load_kernel_chips(const std::filesystem::path& configs);  // by name

// Reads a design by name or path; ConfigError lists the known ones.
hwmodels::DesignFile find_design(const std::string& name_or_path,
                                 const std::filesystem::path& configs);
// Whether it is written for the chip's family.
bool is_for(const hwmodels::DesignFile& design, const KernelChip& chip);

// A step of a program as recorded, for people.
struct StepRow {
  std::int64_t items = 0;  // of its class
  std::int64_t iterations = 1;
  std::int64_t ahead = 0;
  std::string engine;
  std::string step;      // "load", "matrix", "vector exp"
  std::string operand;   // tensor or buffers
  double bytes = 0.0;    // of one execution, through the core's port
  double seconds = 0.0;  // on its engine, where no shared resource is used
};

struct LaunchTiming {
  std::string kernel;
  std::string chosen;                 // tile, stages, splits
  hwmodels::tile::KernelTime time{};  // with `simulate`: seconds and parts as simulated
  std::array<double, hwmodels::tile::kLocals> used{};  // B of a core's memories, largest class
  std::vector<StepRow> steps{};                        // where asked for
  hwmodels::machine::SimulatedKernel simulated{};      // where asked for
};

struct TimingOptions {
  bool simulate = false;
  bool spans = false;  // keep the simulated spans, also without `simulate`
  bool steps = false;
};

// Launches one after another.
struct KernelTiming {
  double seconds = 0.0;
  std::array<double, hwmodels::tile::kParts> parts{};  // add up to `seconds`
  // Shares of `seconds` that each is busy: cores averaged over the chip, what is shared at its
  // rate.
  double matrix = 0.0;
  double vector = 0.0;
  double memory = 0.0;
  double cache = 0.0;
  double flops = 0.0;
  double memory_bytes = 0.0;
  double cache_bytes = 0.0;
  // What the busiest of the matrix unit, memory and cache takes for this schedule's work.
  double busiest = 0.0;
  std::vector<LaunchTiming> launches;
};

// Throws UnsupportedError with the reason when the design cannot run there.
KernelTiming time_kernel(const hwmodels::DesignFile& design, const Shape& shape,
                         const KernelChip& chip, const TimingOptions& options = {});

}  // namespace foretoken::analysis::kernels
