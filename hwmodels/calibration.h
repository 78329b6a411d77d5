// The few fitted constants of a chip, apart from its facts. Files: configs/calibration/<chip or
// family>.yaml.
#pragma once

#include <array>
#include <string>

#include "sim/base/config.h"
#include "sim/base/evidence.h"
#include "workloads/dtype.h"

namespace foretoken::hwmodels {

// Each constant has a physical meaning and a range; reports show how far results move across it.
struct Calibration {
  std::string name;  // of the chip, or of the family it is inherited by
  base::Basis basis = base::Basis::kAssumed;
  std::string data;     // the measurements it was fitted to, or why it is assumed
  std::string command;  // the command that fitted it; empty when assumed
  std::string source;
  // Share of the datasheet rate that large, well-shaped work reaches.
  base::Ranged memory_efficiency{0.9, 0.9, 0.9};
  base::Ranged cache_efficiency{0.8, 0.8, 0.8};
  base::Ranged vector_efficiency{0.6, 0.6, 0.6};
  std::array<base::Ranged, workloads::kDtypeCount> matrix_efficiency{};
  base::Ranged link_efficiency{0.7, 0.7, 0.7};
  base::Ranged host_efficiency{0.8, 0.8, 0.8};  // of the host link
  // Seconds.
  base::Ranged launch_latency{};      // one kernel to the next in a captured graph
  base::Ranged load_latency{};        // from asking for a tile to having it, under load
  base::Ranged fill_latency{};        // first bytes in, last bytes out of a kernel's pipeline
  base::Ranged collective_latency{};  // floor of a collective beyond link flight time
  base::Ranged step_overhead{};       // host work between two engine steps
  // Power under load, for the clock that a power limit leaves; static_power 0: no limit modelled.
  double static_power = 0.0;   // share of the limit that does not depend on work
  double matrix_power = 0.0;   // share that the matrix units draw at their BF16 peak
  double memory_energy = 0.0;  // J/B
  double cache_energy = 0.0;   // J/B
};

void describe(base::ConfigVisitor& v, Calibration& calibration);

}  // namespace foretoken::hwmodels
