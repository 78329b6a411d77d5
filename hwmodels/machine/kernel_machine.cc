#include "hwmodels/machine/kernel_machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "sim/engine/simulate.h"

namespace foretoken::hwmodels::machine {

using base::Seconds;
using task::Demand;
using task::TaskId;
using tile::Engine;
using tile::Step;

namespace {

// Resources: shared first, then the engines of each group.
constexpr std::uint32_t kMemory = 0;
constexpr std::uint32_t kCache = 1;
constexpr std::uint32_t kLink = 2;
constexpr std::uint32_t kShared = 3;

std::size_t slot_of(const tile::BufferInfo& b, std::int64_t iteration, std::int64_t item) {
  if (b.per_item) iteration = item;
  const std::int64_t slot = iteration % b.slots;
  return b.first_slot + static_cast<std::size_t>(slot < 0 ? slot + b.slots : slot);
}

}  // namespace

KernelMachine::KernelMachine() = default;

SimulatedKernel KernelMachine::simulate(const tile::Recorder& recorder,
                                        const tile::Evaluator& evaluator, bool spans) {
  SimulatedKernel out;
  const tile::CoreRates& rates = recorder.rates();
  out.seconds = rates.launch;
  const auto groups = evaluator.groups();
  if (groups.empty()) return out;
  build(recorder, evaluator);
  const task::TaskGraph& graph = graph_.front();
  out.events = engine::simulate(graph, timeline_).events;
  out.seconds += timeline_.total.value();
  out.merged_iterations = merged_;
  for (std::size_t i = 0; i < graph.resources().size(); ++i) {
    out.resources.push_back(graph.resources()[i]);
    out.busy.push_back(timeline_.busy[i].value());
  }
  for (const tile::CoreGroup& g : groups) out.group_cores.push_back(g.cores);
  if (spans) {
    for (std::size_t i = 0; i < spans_.size(); ++i) {
      Span s = spans_[i];
      if (s.group == 0xffffffffu) continue;
      s.start = rates.launch + timeline_.tasks[i].start.value();
      s.end = rates.launch + timeline_.tasks[i].end.value();
      out.spans.push_back(s);
    }
  }
  return out;
}

void KernelMachine::build(const tile::Recorder& recorder, const tile::Evaluator& evaluator) {
  const auto groups = evaluator.groups();
  const auto programs = recorder.programs();
  // Long loops are run in strides, the same for all of them.
  double tasks = 0.0;
  for (const tile::CoreGroup& g : groups) {
    for (const auto& [c, repeats] : g.items) {
      const tile::TileProgram& p = programs[c];
      for (const tile::Section& s : p.sections) {
        double steps = 0.0;
        for (std::uint32_t f = s.first; f < s.first + s.count; ++f) steps += p.phases[f].count;
        tasks += 1.5 * steps * static_cast<double>(s.iterations * repeats);
      }
    }
  }
  merged_ = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(tasks / static_cast<double>(task_limit_)) +
             (tasks > static_cast<double>(task_limit_) ? 1 : 0));
  std::vector<std::string> names = {"memory", "cache", "links"};
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (const std::string_view e : tile::kEngineNames)
      names.push_back(fmt::format("core{}.{}", g, e));
  }
  const auto queues = static_cast<std::uint32_t>(groups.size() * tile::kEngines);
  graph_.clear();
  graph_.emplace_back(std::move(names), queues);
  spans_.clear();
  graph_.front().begin_segment(0, 1);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    add_group(recorder, evaluator, groups[g], static_cast<std::uint32_t>(g));
  }
}

void KernelMachine::add_group(const tile::Recorder& recorder, const tile::Evaluator& evaluator,
                              const tile::CoreGroup& group, std::uint32_t index) {
  task::TaskGraph& graph = graph_.front();
  const tile::CoreRates& r = recorder.rates();
  const auto programs = recorder.programs();
  const auto tensors = recorder.tensors();
  const auto n = static_cast<double>(group.cores);
  const bool persistent = recorder.launch().persistent;
  const auto hidden = [&] { spans_.push_back({.group = 0xffffffffu}); };
  TaskId start = task::kNoTask;  // what an item's first steps wait for
  std::uint32_t previous_class = 0xffffffffu;
  std::int64_t item = 0;  // since the core's engines were last idle

  for (const auto& [c, repeats] : group.items) {
    const tile::TileProgram& p = programs[c];
    for (std::int64_t repeat = 0; repeat < repeats; ++repeat) {
      const bool flows_on = persistent && previous_class == c;
      item = flows_on ? item + 1 : 0;
      if (!flows_on) {
        // Everything before it has ended, then the item starts.
        waits_.clear();
        if (previous_class != 0xffffffffu) {
          const auto known = static_cast<TaskId>(graph.tasks().size());
          std::array<TaskId, tile::kEngines> last;
          last.fill(task::kNoTask);
          (void)known;
          for (const TaskId t : last_) {
            if (t != task::kNoTask) waits_.push_back(t);
          }
          for (const TaskId t : ready_) {
            if (t != task::kNoTask) waits_.push_back(t);
          }
        }
        start = graph.add(0, task::kNoQueue, Seconds{r.start}, {}, waits_);
        hidden();
        ready_.assign(p.slots, task::kNoTask);
        readers_.assign(p.slots, {});
        last_.assign(tile::kEngines, task::kNoTask);
      }
      previous_class = c;
      const auto run_step = [&](const Step& s, std::uint32_t step_index, std::int64_t iteration,
                                double stride) {
        (void)step_index;
        waits_.clear();
        waits_.push_back(start);
        for (std::uint8_t k = 0; k < s.reads; ++k) {
          const TaskId t =
              ready_[slot_of(p.buffers[s.read[k].buffer], iteration + s.read[k].offset, item)];
          if (t != task::kNoTask) waits_.push_back(t);
        }
        std::size_t written = 0;
        if (s.writes) {
          written = slot_of(p.buffers[s.write.buffer], iteration + s.write.offset, item);
          if (s.updates && ready_[written] != task::kNoTask) waits_.push_back(ready_[written]);
          for (const TaskId t : readers_[written]) waits_.push_back(t);
        }
        std::sort(waits_.begin(), waits_.end());
        waits_.erase(std::unique(waits_.begin(), waits_.end()), waits_.end());
        const std::uint32_t engine =
            kShared + index * tile::kEngines + static_cast<std::uint32_t>(s.engine);
        std::array<Demand, 4> demands;
        std::size_t count = 0;
        double own = s.seconds * stride;
        double latency = 0.0;
        if (s.bytes > 0.0) {
          const bool load = s.engine == Engine::kLoad;
          const double share =
              load ? evaluator.load_share()[s.tensor] : evaluator.store_share()[s.tensor];
          own = s.bytes * stride / r.port;
          const double bytes = s.cache_bytes * stride * n;
          demands[count++] = {kCache, Seconds{bytes / r.cache}};
          if (share > 0.0) demands[count++] = {kMemory, Seconds{share * bytes / r.memory}};
          if (tensors[s.tensor].spec.home == tile::Home::kPeer) {
            demands[count++] = {kLink, Seconds{bytes / r.link}};
          }
          latency = share > 0.0 && load ? r.memory_latency : r.cache_latency;
        } else if (s.cache_bytes > 0.0) {
          demands[count++] = {kCache, Seconds{s.cache_bytes * stride * n / r.cache}};
        }
        if (own > 0.0) demands[count++] = {engine, Seconds{own}};
        const auto queue = static_cast<task::QueueId>(index * tile::kEngines +
                                                      static_cast<std::uint32_t>(s.engine));
        TaskId id =
            graph.add_group(0, queue, Seconds{}, Seconds{own}, {demands.data(), count}, waits_);
        spans_.push_back({index, s.engine, s.kind, s.vector, 0.0, 0.0});
        last_[static_cast<std::size_t>(s.engine)] = id;
        for (std::uint8_t k = 0; k < s.reads; ++k) {
          readers_[slot_of(p.buffers[s.read[k].buffer], iteration + s.read[k].offset, item)]
              .push_back(id);
        }
        if (latency > 0.0) {
          const std::array<TaskId, 1> after = {id};
          id = graph.add(0, task::kNoQueue, Seconds{latency}, {}, after);
          hidden();
          if (!s.writes) last_[static_cast<std::size_t>(s.engine)] = id;
        }
        if (s.writes) {
          ready_[written] = id;
          readers_[written].clear();
        }
      };
      for (const tile::Section& section : p.sections) {
        // A loop is run in strides that leave its first iterations and its tail whole.
        std::int64_t most = 0;
        for (std::uint32_t f = section.first; f < section.first + section.count; ++f) {
          most = std::max<std::int64_t>(most, p.phases[f].ahead);
        }
        const std::int64_t stride = std::clamp<std::int64_t>(
            merged_, 1, std::max<std::int64_t>(1, section.iterations / (4 * (most + 1))));
        const std::int64_t iterations = (section.iterations + stride - 1) / stride;
        const double length =
            static_cast<double>(section.iterations) / static_cast<double>(iterations);
        if (section.iterations == 1) most = 0;
        for (std::int64_t tick = -most; tick < iterations; ++tick) {
          for (std::uint32_t f = section.first; f < section.first + section.count; ++f) {
            const tile::PhaseRange& phase = p.phases[f];
            const std::int64_t i = section.iterations == 1 ? 0 : tick + phase.ahead;
            if (i < 0 || i >= iterations) continue;
            for (std::uint32_t k = phase.first; k < phase.first + phase.count; ++k) {
              run_step(p.steps[k], k, i, length);
            }
          }
        }
      }
    }
  }
}

}  // namespace foretoken::hwmodels::machine
