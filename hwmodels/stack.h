// Which operators share a kernel, and what engines lose: a serving stack as data. Files:
// configs/stacks/*.yaml.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "hwmodels/hardware.h"
#include "sim/base/config.h"
#include "sim/base/evidence.h"
#include "workloads/op_graph.h"

namespace foretoken::hwmodels {

struct Stack {
  std::string name;
  std::string title;
  std::string source;
  // Host of each fused role; its own role where it is a kernel of its own.
  std::array<workloads::Role, workloads::kRoles> host{};
  // Kind of kernel -> design, in place of what the chip's family uses (kernel_set.h).
  std::map<std::string, std::string> designs;
  std::vector<std::string> design_families;  // of chips; empty: all
  // Small kernels a routed-expert layer launches around its products (order, offsets, layouts),
  // without the moves themselves: where its products take FP4, and elsewhere.
  std::int64_t expert_kernels_fp4 = 0;
  std::int64_t expert_kernels = 0;
  // Kernels that bring block scales into the layout a stand-alone FP8 product wants, on these
  // families, and their time per weight row.
  std::vector<std::string> scale_families;
  std::int64_t scale_kernels = 0;
  double scale_seconds_per_row = 0.0;
  // What whole engines lose against their kernels alone, and who says so.
  std::string engine_source;
  // Share of its rate alone that a product of experts with FP4 weights reaches inside an engine,
  // unless it is fused with its traffic (Overlap::kWaves).
  base::Ranged fp4_expert_rate{1.0, 1.0, 1.0};
  // Share of a decode step in which cores wait for each other at barriers.
  base::Ranged waiting{0.0, 0.0, 0.0};
  // Host time that every stage of a pipeline adds to a step, s.
  base::Ranged stage_host{0.0, 0.0, 0.0};
};

// Moves every loss to an end of its range: side -1 the shortest time, +1 the longest.
void move_losses(Stack& stack, int side);

// Reads configs/stacks/<name>.yaml. Unknown operator names, and hosts that are fused themselves,
// are ConfigErrors.
Stack load_stack(const std::string& name, const std::filesystem::path& configs);

// Puts the stack's designs in place of those of the hardware's family.
void apply(const Stack& stack, Hardware& hardware, const std::filesystem::path& configs);

}  // namespace foretoken::hwmodels
