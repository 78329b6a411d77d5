#include "analysis/kernels/kernel_timing.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "sim/base/error.h"
#include "sim/base/named_config.h"
#include "sim/base/text.h"

namespace foretoken::analysis::kernels {

namespace fs = std::filesystem;
namespace tile = hwmodels::tile;
namespace machine = hwmodels::machine;
using tile::Engine;
using tile::Part;

namespace {

constexpr std::size_t index_of(Part p) { return static_cast<std::size_t>(p); }

[[noreturn]] void fail_unknown(const std::string& name, std::string_view what,
                               const std::vector<std::string>& known) {
  throw base::ConfigError({base::quote(name), 0, 0},
                          fmt::format("no such {}{}; known: {}", what,
                                      base::did_you_mean(name, known), fmt::join(known, ", ")));
}

// By name.
std::vector<hwmodels::SystemSpec> load_systems(const fs::path& configs) {
  std::vector<hwmodels::SystemSpec> systems;
  for (const std::string& name : hwmodels::list_configs(configs, "systems")) {
    systems.push_back(
        base::load_named<hwmodels::SystemSpec>(configs / "systems" / (name + ".yaml")));
  }
  return systems;
}

// Its peers are those of the first system made of it.
KernelChip kernel_chip(const std::string& name, const fs::path& configs,
                       std::span<const hwmodels::SystemSpec> systems) {
  hwmodels::Hardware h = hwmodels::load_chip(name, configs);
  KernelChip chip = {h.chip.name,   h.chip.title, h.chip.family,
                     h.chip.status, h.basis(),    hwmodels::derive_rates(h).core};
  const auto joined = std::find_if(systems.begin(), systems.end(),
                                   [&](const auto& system) { return system.chip == name; });
  if (joined != systems.end()) {
    h.system = *joined;
    const tile::CoreRates with_peers = hwmodels::derive_rates(h).core;
    chip.rates.link = with_peers.link;
    chip.rates.link_latency = with_peers.link_latency;
  }
  return chip;
}

// Tasks that a simulation may have at most; half a minute's work.
constexpr double kMostTasks = 1e6;

// The simulation strides through long loops but runs every work item of a core.
void require_simulable(const tile::Recorder& recorder, const tile::Evaluator& evaluator) {
  double tasks = 0.0;
  for (const tile::CoreGroup& g : evaluator.groups()) {
    for (const auto& [c, repeats] : g.items) {
      tasks +=
          static_cast<double>(recorder.programs()[c].steps.size()) * static_cast<double>(repeats);
    }
  }
  if (tasks <= kMostTasks) return;
  throw base::UnsupportedError(fmt::format(
      "{:.3g} steps of work items are too many to simulate; use --evaluator estimate", tasks));
}

// The part that an engine's time counts as; loads and stores by what holds them up most.
Part part_of(Engine engine, Part transfer) {
  switch (engine) {
    case Engine::kMatrix:
      return Part::kMatrix;
    case Engine::kVector:
      return Part::kVector;
    case Engine::kExchange:
      return Part::kExchange;
    case Engine::kLoad:
    case Engine::kStore:
      return transfer;
    case Engine::kSync:
      break;
  }
  return Part::kLatency;
}

// Where the time of the simulated cores went, averaged over those in use. At every moment the one
// of the busy engines counts that is busiest over the whole launch; with none busy the core waits,
// and after its last step it is tail.
std::array<double, tile::kParts> simulated_parts(const machine::SimulatedKernel& s, double launch) {
  std::array<double, tile::kParts> parts{};
  parts[index_of(Part::kLaunch)] = launch;
  const double cores =
      std::accumulate(s.group_cores.begin(), s.group_cores.end(), 0.0,
                      [](double sum, std::int64_t n) { return sum + static_cast<double>(n); });
  if (cores <= 0.0) return parts;
  const auto busy = [&](std::string_view resource) {
    const auto found = std::find(s.resources.begin(), s.resources.end(), resource);
    return found == s.resources.end()
               ? 0.0
               : s.busy[static_cast<std::size_t>(found - s.resources.begin())];
  };
  std::vector<std::vector<const machine::Span*>> of_group(s.group_cores.size());
  for (const machine::Span& span : s.spans) of_group[span.group].push_back(&span);
  for (std::size_t g = 0; g < of_group.size(); ++g) {
    const double weight = static_cast<double>(s.group_cores[g]) / cores;
    std::array<double, tile::kEngines> total{};
    double end = launch;
    struct Edge {
      double at;
      int engine;
      int change;
    };
    std::vector<Edge> edges;
    for (const machine::Span* span : of_group[g]) {
      const auto e = static_cast<int>(span->engine);
      total[static_cast<std::size_t>(e)] += span->end - span->start;
      end = std::max(end, span->end);
      edges.push_back({span->start, e, 1});
      edges.push_back({span->end, e, -1});
    }
    std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) {
      return a.at != b.at           ? a.at < b.at
             : a.engine != b.engine ? a.engine < b.engine
                                    : a.change < b.change;
    });
    const double port = busy(fmt::format("core{}.load", g)) + busy(fmt::format("core{}.store", g));
    const Part transfer = busy("memory") >= busy("cache") && busy("memory") >= port ? Part::kMemory
                          : busy("cache") >= port                                   ? Part::kCache
                                                                                    : Part::kPort;
    std::array<int, tile::kEngines> order{};
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return total[static_cast<std::size_t>(a)] > total[static_cast<std::size_t>(b)];
    });
    std::array<int, tile::kEngines> active{};
    double now = launch;
    for (const Edge& edge : edges) {
      Part part = Part::kLatency;
      for (const int e : order) {
        if (active[static_cast<std::size_t>(e)] <= 0) continue;
        part = part_of(static_cast<Engine>(e), transfer);
        break;
      }
      parts[index_of(part)] += weight * (edge.at - now);
      now = edge.at;
      active[static_cast<std::size_t>(edge.engine)] += edge.change;
    }
    parts[index_of(Part::kTail)] += weight * (s.seconds - now);
  }
  return parts;
}

std::string step_name(const tile::Step& s) {
  if (s.kind == tile::StepKind::kVector) {
    return fmt::format("vector {}", tile::to_string(s.vector));
  }
  return std::string(tile::to_string(s.kind));
}

std::string operands(const tile::Recorder& recorder, const tile::TileProgram& p,
                     const tile::Step& s) {
  const auto buffer = [&](const tile::SlotUse& u) { return p.buffers[u.buffer].name; };
  std::string from;
  for (std::uint8_t i = 0; i < s.reads; ++i) {
    from += fmt::format("{}{}", i > 0 ? ", " : "", buffer(s.read[i]));
  }
  if (s.bytes > 0.0) {
    const std::string_view tensor = recorder.tensors()[s.tensor].spec.name;
    if (s.engine == Engine::kStore) return fmt::format("{} -> {}", from, tensor);
    return fmt::format("{}{}{} -> {}", tensor, from.empty() ? "" : " at ", from, buffer(s.write));
  }
  if (!s.writes) return from;
  return from.empty() ? std::string(buffer(s.write))
                      : fmt::format("{} -> {}", from, buffer(s.write));
}

std::vector<StepRow> steps_of(const tile::Recorder& recorder) {
  std::vector<StepRow> rows;
  for (const tile::TileProgram& p : recorder.programs()) {
    for (const tile::Section& section : p.sections) {
      for (std::uint32_t f = section.first; f < section.first + section.count; ++f) {
        const tile::PhaseRange& phase = p.phases[f];
        for (std::uint32_t i = phase.first; i < phase.first + phase.count; ++i) {
          const tile::Step& s = p.steps[i];
          rows.push_back(
              {.items = p.items,
               .iterations = section.iterations,
               .ahead = std::max<std::int64_t>(0, phase.ahead),
               .engine = std::string(tile::kEngineNames[static_cast<std::size_t>(s.engine)]),
               .step = step_name(s),
               .operand = operands(recorder, p, s),
               .bytes = s.bytes,
               .seconds = s.bytes > 0.0 ? s.bytes / recorder.rates().port : s.seconds});
        }
      }
    }
  }
  return rows;
}

}  // namespace

KernelChip load_kernel_chip(const std::string& name, const fs::path& configs) {
  const std::vector<std::string> known = hwmodels::list_configs(configs, "chips");
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    fail_unknown(name, "chip", known);
  }
  return kernel_chip(name, configs, load_systems(configs));
}

std::vector<KernelChip> load_kernel_chips(const fs::path& configs) {
  std::vector<KernelChip> chips;
  const std::vector<hwmodels::SystemSpec> systems = load_systems(configs);
  for (const std::string& name : hwmodels::list_configs(configs, "chips")) {
    chips.push_back(kernel_chip(name, configs, systems));
  }
  return chips;
}

hwmodels::DesignFile find_design(const std::string& name_or_path, const fs::path& configs) {
  const bool is_path =
      name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".yaml");
  if (!is_path) {
    const std::vector<std::string> known = hwmodels::list_configs(configs, "designs");
    if (std::find(known.begin(), known.end(), name_or_path) == known.end()) {
      fail_unknown(name_or_path, "design", known);
    }
  }
  return hwmodels::load_design(name_or_path, configs);
}

bool is_for(const hwmodels::DesignFile& design, const KernelChip& chip) {
  return std::find(design.families.begin(), design.families.end(), chip.family) !=
         design.families.end();
}

KernelTiming time_kernel(const hwmodels::DesignFile& design, const Shape& shape,
                         const KernelChip& chip, const TimingOptions& options) {
  KernelTiming all;
  tile::Recorder recorder(chip.rates);
  tile::Evaluator evaluator;
  evaluator.keep_items(options.simulate || options.spans);
  for_each_launch(
      design, shape, chip.rates, [&](const tile::Kernel& kernel, const std::string& chosen) {
        LaunchTiming launch{.kernel = std::string(kernel.name()), .chosen = chosen};
        recorder.record(kernel);
        launch.time = evaluator.evaluate(recorder);
        for (const tile::TileProgram& p : recorder.programs()) {
          std::array<double, tile::kLocals> used{};
          for (const tile::BufferInfo& b : p.buffers) {
            used[static_cast<std::size_t>(b.local)] += b.bytes;
          }
          for (std::size_t i = 0; i < used.size(); ++i) {
            launch.used[i] = std::max(launch.used[i], used[i]);
          }
        }
        if (options.steps) launch.steps = steps_of(recorder);
        if (options.simulate || options.spans) {
          require_simulable(recorder, evaluator);
          // A machine of its own: the process may have many.
          machine::KernelMachine simulator;
          launch.simulated = simulator.simulate(recorder, evaluator, true);
          if (options.simulate) {
            launch.time.seconds = launch.simulated.seconds;
            launch.time.parts = simulated_parts(launch.simulated, chip.rates.launch);
          }
          if (!options.spans) launch.simulated.spans.clear();
        }
        all.seconds += launch.time.seconds;
        for (std::size_t i = 0; i < all.parts.size(); ++i) all.parts[i] += launch.time.parts[i];
        all.matrix += launch.time.matrix;
        all.vector += launch.time.vector;
        all.memory += launch.time.memory;
        all.cache += launch.time.cache;
        all.flops += launch.time.flops;
        all.memory_bytes += launch.time.memory_bytes;
        all.cache_bytes += launch.time.cache_bytes;
        all.busiest += std::max({launch.time.matrix, launch.time.memory, launch.time.cache});
        all.launches.push_back(std::move(launch));
      });
  if (all.seconds > 0.0) {
    for (double* busy : {&all.matrix, &all.vector, &all.memory, &all.cache}) *busy /= all.seconds;
  }
  return all;
}

}  // namespace foretoken::analysis::kernels
