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
constexpr std::uint32_t kLinkIn = 2;  // a link's directions
constexpr std::uint32_t kLinkOut = 3;
constexpr std::uint32_t kShared = 4;

std::size_t slot_of(const tile::BufferInfo& b, std::int64_t iteration, std::int64_t item) {
  if (b.per_item) iteration = item;
  const std::int64_t slot = iteration % b.slots;
  return b.first_slot + static_cast<std::size_t>(slot < 0 ? slot + b.slots : slot);
}

// Items that are run as one, slowed down, at most.
constexpr std::int64_t kMostStretch = 64;

// How many items of a run are simulated. Those of a persistent core overlap, so the first and the
// last stay as they are.
std::int64_t stretched_items(std::int64_t repeats, std::int64_t stretch, bool persistent) {
  const std::int64_t ends = persistent ? std::min<std::int64_t>(2, repeats) : 0;
  return ends + (repeats - ends + stretch - 1) / stretch;
}

// Writers of parts of one slot that are kept apart.
constexpr std::size_t kMostWriters = 16;

bool same_buffers(const tile::TileProgram& a, const tile::TileProgram& b) {
  return &a == &b || std::equal(a.buffers.begin(), a.buffers.end(), b.buffers.begin(),
                                b.buffers.end(), [](const auto& x, const auto& y) {
                                  return x.slots == y.slots && x.per_item == y.per_item;
                                });
}

}  // namespace

KernelMachine::KernelMachine() = default;

void KernelMachine::sort_waits() {
  std::sort(waits_.begin(), waits_.end());
  waits_.erase(std::unique(waits_.begin(), waits_.end()), waits_.end());
}

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
  out.merged_items = stretch_;
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
  // Runs of alike items first, then long loops are run in strides, the same for all of them.
  const auto tasks = [&](std::int64_t stretch) {
    double sum = 0.0;
    for (const tile::CoreGroup& g : groups) {
      for (const auto& [c, repeats] : g.items) {
        const auto runs =
            static_cast<double>(stretched_items(repeats, stretch, recorder.launch().persistent));
        const tile::TileProgram& p = programs[c];
        for (const tile::Section& s : p.sections) {
          double steps = 0.0;
          for (std::uint32_t f = s.first; f < s.first + s.count; ++f) steps += p.phases[f].count;
          sum += 1.5 * steps * static_cast<double>(s.iterations) * runs;
        }
      }
    }
    return sum;
  };
  const auto limit = static_cast<double>(task_limit_);
  stretch_ = 1;
  double most = tasks(stretch_);
  while (most > limit && stretch_ < kMostStretch) most = tasks(stretch_ *= 2);
  merged_ = most > limit ? static_cast<std::int64_t>(most / limit) + 1 : 1;
  std::vector<std::string> names = {"memory", "cache", "links_in", "links_out"};
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
  const tile::TileProgram* previous = nullptr;
  std::int64_t item = 0;  // since the core's engines were last idle
  slots_.clear();

  for (const auto& [c, repeats] : group.items) {
    const tile::TileProgram& p = programs[c];
    const std::int64_t runs = stretched_items(repeats, stretch_, persistent);
    for (std::int64_t run = 0; run < runs; ++run) {
      // This one stands for so many in a row, and takes their time.
      const bool whole = persistent && (run == 0 || run + 1 == runs);
      const std::int64_t ends = persistent ? 2 : 0;
      const double slow =
          whole ? 1.0 : static_cast<double>(repeats - ends) / static_cast<double>(runs - ends);
      // The next item finds the buffers of the last one.
      const bool flows_on = persistent && previous != nullptr && same_buffers(*previous, p);
      item = flows_on ? item + 1 : 0;
      if (!flows_on) {
        // Everything before it has ended, then the item starts.
        waits_.clear();
        for (const TaskId t : last_) {
          if (previous != nullptr && t != task::kNoTask) waits_.push_back(t);
        }
        for (const Slot& slot : slots_) {
          waits_.insert(waits_.end(), slot.writers.begin(), slot.writers.end());
        }
        sort_waits();
        start = graph.add(0, task::kNoQueue, Seconds{r.start * slow}, {}, waits_);
        hidden();
        slots_.resize(std::max<std::size_t>(slots_.size(), p.slots));
        for (Slot& slot : slots_) slot.clear();
        last_.assign(tile::kEngines, task::kNoTask);
      }
      previous = &p;
      const auto run_step = [&](const Step& s, std::int64_t iteration, double stride) {
        waits_.clear();
        waits_.push_back(start);
        const auto slot = [&](const tile::SlotUse& u) -> Slot& {
          return slots_[slot_of(p.buffers[u.buffer], iteration + u.offset, item)];
        };
        const auto wait_for = [&](const std::vector<TaskId>& tasks) {
          waits_.insert(waits_.end(), tasks.begin(), tasks.end());
        };
        for (std::uint8_t k = 0; k < s.reads; ++k) wait_for(slot(s.read[k]).writers);
        if (s.writes) {
          Slot& written = slot(s.write);
          if (!written.readers.empty()) {
            // What was there has been read; parts of what comes now may be filled side by side.
            std::swap(written.freed_by, written.readers);
            written.readers.clear();
            if (!s.updates) written.writers.clear();
          }
          wait_for(written.freed_by);
          if (s.updates) wait_for(written.writers);
        }
        // What an item waits for, others do as long as it did its own part.
        if (s.kind == tile::StepKind::kWait) {
          for (const TaskId t : last_) {
            if (t != task::kNoTask) waits_.push_back(t);
          }
          for (const Slot& any : slots_) wait_for(any.writers);
        }
        sort_waits();
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
          latency = share > 0.0 && load ? r.memory_latency : r.cache_latency;
          const tile::TensorSpec& spec = tensors[s.tensor].spec;
          if (spec.home == tile::Home::kPeer && spec.peer_share > 0.0) {
            demands[count++] = {load ? kLinkIn : kLinkOut,
                                Seconds{spec.peer_share * bytes / r.link}};
            if (load) latency = std::max(latency, 2.0 * r.link_latency);
          }
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
        for (std::uint8_t k = 0; k < s.reads; ++k) slot(s.read[k]).readers.push_back(id);
        if (latency > 0.0) {
          const std::array<TaskId, 1> after = {id};
          id = graph.add(0, task::kNoQueue, Seconds{latency * stride}, {}, after);
          hidden();
          if (!s.writes) last_[static_cast<std::size_t>(s.engine)] = id;
        }
        if (s.writes) {
          Slot& written = slot(s.write);
          // An update has waited for the writers before it.
          if (s.updates) written.writers.clear();
          written.writers.push_back(id);
          if (written.writers.size() > kMostWriters) {
            id = graph.add(0, task::kNoQueue, Seconds{}, {}, written.writers);
            hidden();
            written.writers.assign(1, id);
          }
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
              run_step(p.steps[k], i, length * slow);
            }
          }
        }
      }
    }
  }
}

}  // namespace foretoken::hwmodels::machine
