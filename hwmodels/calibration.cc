#include "hwmodels/calibration.h"

namespace foretoken::hwmodels {

using base::ConfigVisitor;
using base::Need;
using base::UnitKind;
using workloads::Dtype;

namespace {
constexpr std::array<std::string_view, 4> kBasisNames = {"measured", "calibrated", "bound",
                                                         "assumed"};
}  // namespace

void describe(ConfigVisitor& v, Calibration& c) {
  v.text({"name", "of the chip, or of the family that inherits it; equals the file's name"},
         c.name);
  base::choice(v, {"basis", "calibrated on measurements of this chip, or assumed"}, c.basis,
               kBasisNames);
  v.text({"data", "the measurements it was fitted to, or why the values are assumed"}, c.data);
  v.text({"command", "the command that fitted it", Need::kOptional}, c.command);
  v.text({"source", "id in configs/sources.yaml"}, c.source);
  base::group(v, {"efficiency", "share of the datasheet rate that large work reaches"}, [&] {
    v.ranged({"memory", "HBM streams"}, c.memory_efficiency, UnitKind::kNumber,
             {.min = 0.0, .max = 1.1});
    // The chip file's figure is derived itself on most chips, and may be passed.
    v.ranged({"cache", "L2 streams"}, c.cache_efficiency, UnitKind::kNumber,
             {.min = 0.0, .max = 1.6});
    v.ranged({"vector", "vector units"}, c.vector_efficiency, UnitKind::kNumber, base::kFraction);
    v.ranged({"host", "copies over the host link"}, c.host_efficiency, UnitKind::kNumber,
             base::kFraction);
    v.ranged({"link", "all-to-all and ring traffic on the fabric"}, c.link_efficiency,
             UnitKind::kNumber, base::kFraction);
    base::group(v, {"matrix", "large GEMMs by operand dtype"}, [&] {
      for (int i = 0; i < workloads::kDtypeCount; ++i) {
        const auto d = static_cast<Dtype>(i);
        if (d == Dtype::kInt32 || d == Dtype::kInt64) continue;
        v.ranged({to_string(d), "of the dense peak", Need::kOptional}, c.matrix_efficiency[i],
                 UnitKind::kNumber, base::kFraction);
      }
    });
  });
  base::group(v, {"latency", "fixed times"}, [&] {
    v.ranged({"launch", "one kernel to the next in a captured graph"}, c.launch_latency,
             UnitKind::kSeconds, base::kNonNegative);
    v.ranged({"load", "from asking for a tile to having it, under load"}, c.load_latency,
             UnitKind::kSeconds, base::kNonNegative);
    v.ranged({"fill", "first bytes in and last bytes out of a kernel's pipeline"}, c.fill_latency,
             UnitKind::kSeconds, base::kNonNegative);
    v.ranged({"collective", "floor of a collective beyond the links' flight time"},
             c.collective_latency, UnitKind::kSeconds, base::kNonNegative);
    v.ranged({"step", "host work between two engine steps"}, c.step_overhead, UnitKind::kSeconds,
             base::kNonNegative);
  });
  base::group(v, {"communication", "collectives and expert traffic"}, [&] {
    Communication& m = c.communication;
    const auto seconds = [&](std::string_view key, std::string_view doc, base::Ranged& value,
                             Need need = Need::kRequired) {
      v.ranged({key, doc, need}, value, UnitKind::kSeconds, base::kNonNegative);
    };
    const auto share = [&](std::string_view key, std::string_view doc, base::Ranged& value,
                           double most = 1.0) {
      v.ranged({key, doc}, value, UnitKind::kNumber, {.min = 0.0, .max = most});
    };
    const auto rate = [&](std::string_view key, std::string_view doc, base::Ranged& value,
                          Need need = Need::kRequired) {
      v.ranged({key, doc, need}, value, UnitKind::kBytesPerSecond, {});
    };
    seconds("launch", "a library's collective before its first step", m.launch);
    seconds("hop", "a step of a collective beyond the link's flight", m.hop);
    share("flagged", "of the link, small pieces that carry their flags", m.flagged);
    share("bulk", "of the link, large pieces announced by a semaphore", m.bulk);
    share("copy", "of the link, what the copying cores can write, own memory included", m.copy,
          8.0);
    v.ranged({"in_switch", "of the link, reduction in the switches", Need::kOptional}, m.in_switch,
             UnitKind::kNumber, base::kFraction);
    rate("pair_rate", "to one peer by the cores that serve it", m.pair_rate);
    rate("flagged_pair_rate", "the same for pieces that carry their flags", m.flagged_pair_rate);
    seconds("expert_start", "a dispatch or combine beyond the flight", m.expert_start);
    share("rows", "of the link, expert traffic one row of a token at a time", m.rows);
    rate("core_copy", "a core writes when cores stage rows in buffers", m.core_copy);
    seconds("row_time", "a core spends on one row besides its bytes", m.row_time);
    share("nic", "of the network card's rate", m.nic);
    seconds("nic_message", "between two messages of one network card", m.nic_message);
    rate("engine_rate", "the chip's collective engine copies", m.engine_rate, Need::kOptional);
    seconds("engine_start", "of the collective engine's copies", m.engine_start, Need::kOptional);
  });
  base::group(v, {"power", "what a power limit leaves of the clock", Need::kOptional}, [&] {
    v.real({"static", "share of the limit that does not depend on work"}, c.static_power,
           UnitKind::kNumber, base::kFraction);
    v.real({"matrix", "share that the matrix units draw at their BF16 peak"}, c.matrix_power,
           UnitKind::kNumber, base::kFraction);
    double memory = c.memory_energy * 1e12;
    double cache = c.cache_energy * 1e12;
    v.real({"memory_pj", "picojoules per byte from memory"}, memory, UnitKind::kNumber,
           base::kNonNegative);
    v.real({"cache_pj", "picojoules per byte through the cache"}, cache, UnitKind::kNumber,
           base::kNonNegative);
    c.memory_energy = memory * 1e-12;
    c.cache_energy = cache * 1e-12;
  });
}

}  // namespace foretoken::hwmodels
