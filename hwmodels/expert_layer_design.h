// What a fused expert layer costs beside its kernel's schedule (kernels/expert_waves.h): the
// exchange between ranks and what its loads reach. Files: configs/designs/expert_layer/*.yaml.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "sim/base/config.h"
#include "sim/base/evidence.h"

namespace foretoken::hwmodels {

struct ExpertLayerDesign {
  std::string name{};
  std::string title{};
  std::string source{};
  std::int64_t communication_cores = 0;  // that move tokens and do not multiply
  base::Ranged handshake{};              // s, of one exchange of all ranks beyond its bytes
  // Share of memory's rate that rows of weights shorter than a line reach.
  base::Ranged short_row{1.0, 1.0, 1.0};
  // Memory and cache feed the same slots: together they take the `interference`-norm of their
  // times, between the larger (infinite) and the sum (1).
  double interference = 4.0;
};
void describe(base::ConfigVisitor& v, ExpertLayerDesign& design);

// Reads configs/designs/expert_layer/<name>.yaml, or the path of a file. Throws ConfigError.
ExpertLayerDesign load_expert_layer(const std::string& name_or_path,
                                    const std::filesystem::path& configs);

}  // namespace foretoken::hwmodels
