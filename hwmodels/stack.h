// Which operators share a kernel: a serving stack as data. Files: configs/stacks/*.yaml.
#pragma once

#include <array>
#include <filesystem>
#include <string>

#include "sim/base/config.h"
#include "workloads/op_graph.h"

namespace foretoken::hwmodels {

struct Stack {
  std::string name;
  std::string title;
  std::string source;
  // Host of each fused role; its own role where it is a kernel of its own.
  std::array<workloads::Role, workloads::kRoles> host{};
};

// Reads configs/stacks/<name>.yaml. Unknown operator names, and hosts that are fused themselves,
// are ConfigErrors.
Stack load_stack(const std::string& name, const std::filesystem::path& configs);

}  // namespace foretoken::hwmodels
