// The few fitted constants of a chip, apart from its facts. Files: configs/calibration/<chip or
// family>.yaml.
#pragma once

#include <array>
#include <string>

#include "sim/base/config.h"
#include "sim/base/evidence.h"
#include "workloads/dtype.h"

namespace foretoken::hwmodels {

// What libraries of collectives and of expert traffic reach on a chip's links; docs/collectives.md
// says which row each of them follows from.
struct Communication {
  // Library collectives. Seconds.
  base::Ranged launch{};  // of a call before its first step
  base::Ranged hop{};     // of a step beyond the link's flight: flag, fence, next load
  // Shares of the link's rate.
  base::Ranged flagged{0.26, 0.26, 0.26};  // small pieces that carry their flags
  base::Ranged bulk{0.72, 0.72, 0.72};     // large pieces, announced by a semaphore
  base::Ranged copy{1.13, 1.13, 1.13};     // bytes the copying cores can write, own memory included
  base::Ranged in_switch{};                // reduction in the switches; 0: they do not add
  // To one peer, by the cores that serve it.
  base::Ranged pair_rate{};          // B/s
  base::Ranged flagged_pair_rate{};  // B/s
  // Expert traffic.
  base::Ranged expert_start{};          // s, of a dispatch or combine beyond the flight
  base::Ranged rows{0.55, 0.55, 0.55};  // share of the link's rate, one row of a token at a time
  base::Ranged core_copy{};             // B/s a core writes when cores stage rows in buffers
  base::Ranged row_time{};              // s a core spends on one row besides its bytes
  base::Ranged nic{0.93, 0.93, 0.93};   // share of the NIC's rate
  base::Ranged nic_message{};           // s between two messages of one NIC
  // A collective engine beside the cores; 0: the chip has none.
  base::Ranged engine_rate{};   // B/s it copies
  base::Ranged engine_start{};  // s, from the request to the first byte
};

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
  Communication communication;
  // Power under load, for the clock that a power limit leaves; static_power 0: no limit modelled.
  double static_power = 0.0;   // share of the limit that does not depend on work
  double matrix_power = 0.0;   // share that the matrix units draw at their BF16 peak
  double memory_energy = 0.0;  // J/B
  double cache_energy = 0.0;   // J/B
};

void describe(base::ConfigVisitor& v, Calibration& calibration);

}  // namespace foretoken::hwmodels
