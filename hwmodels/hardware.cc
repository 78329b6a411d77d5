#include "hwmodels/hardware.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "sim/base/error.h"
#include "sim/base/named_config.h"
#include "sim/base/text.h"

namespace foretoken::hwmodels {

namespace fs = std::filesystem;
using workloads::Dtype;

base::Basis Hardware::basis() const {
  const base::Basis chip_basis =
      chip.status == ChipStatus::kShipping ? base::Basis::kMeasured : base::Basis::kAssumed;
  return base::weakest(chip_basis, calibration.basis);
}

std::vector<std::string> list_configs(const fs::path& configs, const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(configs / folder, error)) {
    if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

fs::path calibration_file(const ChipSpec& chip, const fs::path& configs) {
  const fs::path own = configs / "calibration" / (chip.name + ".yaml");
  return fs::exists(own) ? own : configs / "calibration" / (chip.family + ".yaml");
}

namespace {

void load_chip_files(Hardware& h, const fs::path& chip_path, const fs::path& configs) {
  h.chip = base::load_named<ChipSpec>(chip_path);
  const fs::path fits = calibration_file(h.chip, configs);
  h.calibration = base::load_named<Calibration>(fits);
  h.kernels = load_kernel_set(h.chip.family, configs);
  for (int i = 0; i < workloads::kDtypeCount; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    if (h.chip.supports(dtype) &&
        h.calibration.matrix_efficiency[static_cast<std::size_t>(i)].value <= 0.0) {
      throw base::ConfigError({fits.string(), 0, 0},
                              fmt::format("efficiency.matrix lacks {}, which {} can multiply",
                                          to_string(dtype), h.chip.name));
    }
  }
}

}  // namespace

Hardware load_hardware(const std::string& name_or_path, const fs::path& configs) {
  const bool is_path =
      name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".yaml");
  const fs::path path =
      is_path ? fs::path(name_or_path) : configs / "systems" / (name_or_path + ".yaml");
  std::error_code error;  // a name too long for a file is an unknown one
  if (!is_path && !fs::exists(path, error)) {
    std::string known;
    for (const std::string& n : list_configs(configs, "systems")) {
      known += (known.empty() ? "" : ", ") + n;
    }
    throw base::ConfigError({name_or_path, 0, 0}, fmt::format("no such system; known: {}", known));
  }
  Hardware h;
  h.system = base::load_named<SystemSpec>(path);
  const fs::path chip_path = configs / "chips" / (h.system.chip + ".yaml");
  if (!fs::exists(chip_path, error)) {
    const base::ConfigFile file = base::read_config_file(path);
    const base::ConfigTree* node = file.root.find("chip");
    throw base::ConfigError({path.string(), node->line, node->column},
                            fmt::format("no chip '{}' in configs/chips", h.system.chip));
  }
  load_chip_files(h, chip_path, configs);
  return h;
}

Hardware load_chip(const std::string& name, const fs::path& configs) {
  const std::vector<std::string> known = list_configs(configs, "chips");
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    throw base::UnsupportedError(fmt::format("no chip {} in configs/chips", base::quote(name)));
  }
  Hardware h;
  h.system.name = name;
  h.system.chip = name;
  load_chip_files(h, configs / "chips" / (name + ".yaml"), configs);
  return h;
}

namespace {

double local(const ChipSpec& chip, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    for (const LocalMemory& m : chip.local_memory) {
      if (m.name == name) return m.capacity.value();
    }
  }
  return 0.0;
}

tile::CoreRates core_rates(const Hardware& h, const Rates& r) {
  tile::CoreRates c;
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
  c.convert = r.vector_fp32 * h.chip.vector.convert_rate / r.cores;
  c.vector_latency = h.chip.vector.step_latency.value();
  c.exchange = h.chip.exchange;
  c.exchange_rate = h.chip.exchange_rate.value();
  c.port = r.core_memory;
  c.cache = r.cache;
  c.memory = r.memory;
  // A chip looked at by itself has no peers.
  if (!h.system.fabric.empty()) {
    c.link = h.system.outside_package().bandwidth.value() * r.link_efficiency;
    c.link_latency = h.system.outside_package().latency.value();
  }
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

}  // namespace

Rates derive_rates(const Hardware& h, const Tuning& tuning) {
  const auto side = [&](Constant c) { return tuning[static_cast<std::size_t>(c)]; };
  // A rate's fast end is high, a latency's is low.
  const auto rate = [&](const base::Ranged& r, Constant c) {
    return side(c) == 0 ? r.value : side(c) > 0 ? r.high : r.low;
  };
  const auto latency = [&](const base::Ranged& r, Constant c) {
    return side(c) == 0 ? r.value : side(c) > 0 ? r.low : r.high;
  };
  const Calibration& c = h.calibration;
  Rates r;
  r.cores = static_cast<double>(h.chip.cores);
  for (std::size_t i = 0; i < r.core_flops.size(); ++i) {
    r.core_flops[i] =
        h.chip.matrix.peak[i].value() / r.cores * rate(c.matrix_efficiency[i], Constant::kMatrix);
  }
  const double vector = rate(c.vector_efficiency, Constant::kVector);
  r.vector_fp32 = h.chip.vector.fp32.value() * vector;
  r.vector_fp16 = h.chip.vector.fp16.value() * vector;
  r.special = h.chip.vector.fp32.value() * h.chip.vector.special_rate * vector;
  r.memory = h.chip.hbm().bandwidth.value() * rate(c.memory_efficiency, Constant::kMemory);
  r.core_memory = h.chip.core_bandwidth.value();
  r.cache = h.chip.cache().bandwidth.value() * rate(c.cache_efficiency, Constant::kCache);
  r.cache_capacity = h.chip.cache().capacity.value();
  r.host = h.chip.host_bandwidth.value() * c.host_efficiency.value;
  r.memory_latency = h.chip.hbm().latency.value();
  r.clock = h.chip.clock.value();
  r.load_latency = latency(c.load_latency, Constant::kFill);
  r.launch = latency(c.launch_latency, Constant::kLaunch);
  r.fill = latency(c.fill_latency, Constant::kFill);
  r.collective = latency(c.collective_latency, Constant::kCollective);
  r.step = latency(c.step_overhead, Constant::kStep);
  r.link_efficiency = rate(c.link_efficiency, Constant::kLink);
  r.communication = [&] {
    const Communication& m = c.communication;
    CommunicationRates to;
    to.launch = latency(m.launch, Constant::kCollective);
    to.hop = latency(m.hop, Constant::kCollective);
    to.flagged = rate(m.flagged, Constant::kLink);
    to.bulk = rate(m.bulk, Constant::kLink);
    to.copy = rate(m.copy, Constant::kLink);
    to.in_switch = rate(m.in_switch, Constant::kLink);
    to.pair_rate = rate(m.pair_rate, Constant::kLink);
    to.flagged_pair_rate = rate(m.flagged_pair_rate, Constant::kLink);
    to.expert_start = latency(m.expert_start, Constant::kCollective);
    to.rows = rate(m.rows, Constant::kLink);
    to.core_copy = rate(m.core_copy, Constant::kLink);
    to.row_time = latency(m.row_time, Constant::kCollective);
    to.nic = rate(m.nic, Constant::kLink);
    to.nic_message = latency(m.nic_message, Constant::kCollective);
    to.engine_rate = rate(m.engine_rate, Constant::kLink);
    to.engine_start = latency(m.engine_start, Constant::kCollective);
    return to;
  }();
  r.tile_rows = static_cast<double>(h.chip.matrix.tile_rows);
  r.tile_columns = static_cast<double>(h.chip.matrix.tile_columns);
  r.fp4_fp8_rate = h.chip.matrix.fp4_fp8_rate;
  r.widen_on_vector = h.chip.matrix.fp4_widen == WidenPath::kVector;
  r.core = core_rates(h, r);
  return r;
}

}  // namespace foretoken::hwmodels
