#include "hwmodels/tile/evaluate.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

namespace foretoken::hwmodels::tile {

namespace {

// State: when everything so far has ended, the engines, until when cache and memory have work, and
// the slots.
constexpr std::size_t kFinish = 0;
constexpr std::size_t kFirstEngine = 1;
constexpr std::size_t kCacheWork = kFirstEngine + kEngines;
constexpr std::size_t kMemoryWork = kCacheWork + 1;
constexpr std::size_t kFirstSlot = kMemoryWork + 1;

// Steady states of pipelines repeat after so many windows at most; two cycles are compared.
constexpr std::size_t kCycles = 4;
constexpr std::size_t kHistory = 2 * kCycles + 1;

// A slot a few iterations before the first counts from the end. 32 bits divide several times
// faster.
std::uint32_t slot_of(const BufferInfo& b, std::int64_t iteration, std::int64_t item) {
  if (b.per_item) iteration = item;
  const auto slots = static_cast<std::uint32_t>(b.slots);
  if (slots == 1) return b.first_slot;
  const auto shifted = static_cast<std::uint32_t>(iteration + 16 * b.slots);
  if ((slots & (slots - 1)) == 0) return b.first_slot + (shifted & (slots - 1));
  return b.first_slot + shifted % slots;
}

}  // namespace

KernelTime Evaluator::evaluate(const Recorder& recorder) {
  recorder_ = &recorder;
  rates_ = &recorder.rates();
  const CoreRates& r = *rates_;
  const auto programs = recorder.programs();
  const auto tensors = recorder.tensors();
  KernelTime t;
  t.seconds = r.launch;
  t.parts[static_cast<std::size_t>(Part::kLaunch)] = r.launch;
  group_count_ = 0;

  // What of each tensor's traffic meets memory rather than the cache.
  load_share_.assign(tensors.size(), 0.0);
  store_share_.assign(tensors.size(), 0.0);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorTraffic& traffic = tensors[i];
    t.cache_bytes += traffic.loaded + traffic.stored;
    if (traffic.spec.home == Home::kPeer) {
      t.peer_loaded += traffic.spec.peer_share * traffic.loaded;
      t.peer_stored += traffic.spec.peer_share * traffic.stored;
    }
    if (traffic.spec.home != Home::kMemory) continue;
    const double whole = static_cast<double>(traffic.spec.rows * traffic.spec.cols) *
                         (static_cast<double>(workloads::element_bits(traffic.spec.dtype)) / 8.0 +
                          traffic.spec.scale_bytes);
    const double bytes = traffic.spec.memory_bytes >= 0.0 ? traffic.spec.memory_bytes : whole;
    const double moved = traffic.loaded > 0.0 ? traffic.loaded : traffic.stored;
    if (moved <= 0.0) continue;
    const double share = std::min(1.0, bytes / moved);
    if (traffic.loaded > 0.0) load_share_[i] = share;
    if (traffic.stored > 0.0) store_share_[i] = traffic.loaded > 0.0 ? 0.0 : share;
    t.memory_bytes += share * moved;
  }

  double items = 0.0;
  for (const TileProgram& p : programs) items += static_cast<double>(p.items);
  if (items <= 0.0) return t;
  const Launch& launch = recorder.launch();
  const double cores =
      launch.cores > 0 ? std::min(r.cores, static_cast<double>(launch.cores)) : r.cores;
  const double active = std::min(cores, items);
  deal(recorder, programs, active, launch.persistent);
  double finish = 0.0;
  for (const CoreGroup& g : groups()) finish = std::max(finish, g.finish);

  double throttle = 1.0;
  // Busy times, and the parts of a core's time: averaged over the cores in use.
  std::array<double, kParts> busy{};
  double worked = 0.0;
  for (std::size_t c = 0; c < programs.size(); ++c) {
    const TileProgram& p = programs[c];
    const double n = static_cast<double>(p.items);
    price(p, active);
    for (const Section& s : p.sections) {
      for (std::uint32_t f = s.first; f < s.first + s.count; ++f) {
        const PhaseRange& phase = p.phases[f];
        for (std::uint32_t i = phase.first; i < phase.first + phase.count; ++i) {
          const Step& step = p.steps[i];
          const double seconds = duration_[i] * static_cast<double>(s.iterations) * n / active;
          Part part = Part::kLatency;
          switch (step.engine) {
            case Engine::kMatrix:
              part = Part::kMatrix;
              break;
            case Engine::kVector:
              part = Part::kVector;
              break;
            case Engine::kExchange:
              part = Part::kExchange;
              // Between units by way of the cache.
              t.cache_bytes += step.cache_bytes * static_cast<double>(s.iterations) * n;
              break;
            case Engine::kLoad:
            case Engine::kStore: {
              if (step.bytes <= 0.0) break;
              const double share = step.engine == Engine::kLoad ? load_share_[step.tensor]
                                                                : store_share_[step.tensor];
              const double port = step.bytes / r.port;
              const double cache = step.cache_bytes * active / r.cache;
              const double memory = share * step.cache_bytes * active / r.memory;
              part = memory >= cache && memory >= port ? Part::kMemory
                     : cache >= port                   ? Part::kCache
                                                       : Part::kPort;
              // Held up by links: waiting, as this chip sees it.
              const TensorSpec& spec = tensors[step.tensor].spec;
              if (spec.home == Home::kPeer && spec.peer_share * step.cache_bytes * active / r.link >
                                                  std::max({port, cache, memory})) {
                part = Part::kLatency;
              }
              break;
            }
            case Engine::kSync:
              break;
          }
          busy[static_cast<std::size_t>(part)] += seconds;
        }
      }
    }
    t.flops += p.flops * n;
    worked += n * (item_times_[c].period > 0.0 ? item_times_[c].period : item_times_[c].first);
  }
  t.items = items;
  t.cores = active;
  t.waves = items / active;
  const double share = active / r.cores;
  t.matrix = busy[static_cast<std::size_t>(Part::kMatrix)] * share;
  t.vector = busy[static_cast<std::size_t>(Part::kVector)] * share;
  t.exchange = busy[static_cast<std::size_t>(Part::kExchange)] * share;
  t.memory = t.memory_bytes / r.memory;
  t.cache = t.cache_bytes / r.cache;
  t.link = std::max(t.peer_loaded, t.peer_stored) / r.link;

  // Above its power limit a chip lowers clock and voltage, and power falls with the cube of the
  // clock less what memory keeps drawing: in practice time grows as the root of the excess.
  if (r.power_limit > 0.0 && finish > 0.0) {
    double joules = t.memory_bytes * r.memory_energy + t.cache_bytes * r.cache_energy;
    for (const TileProgram& p : programs) joules += p.joules * static_cast<double>(p.items);
    const double excess = joules / finish / r.power_limit;
    if (excess > 1.0) {
      throttle = std::sqrt(excess);
      finish *= throttle;
    }
  }

  // Bounds that dealing in whole items cannot beat.
  double bound = std::max({t.memory, t.cache, t.link});
  const double elapsed = std::max(finish, bound);
  t.seconds += elapsed;

  // The engine that is busiest explains what it is busy for; of the rest, idle cores the tail, and
  // what remains is waiting.
  const double tail =
      std::clamp(finish - std::min(finish, worked * throttle / active), 0.0, elapsed);
  t.parts[static_cast<std::size_t>(Part::kTail)] = tail;
  t.throttle = throttle;
  double left = elapsed - tail;
  for (const Part p : {Part::kMatrix, Part::kVector, Part::kExchange}) {
    busy[static_cast<std::size_t>(p)] *= throttle;
  }
  std::array<std::size_t, kParts> order{};
  std::iota(order.begin(), order.end(), 0u);
  busy[static_cast<std::size_t>(Part::kMemory)] =
      std::max(busy[static_cast<std::size_t>(Part::kMemory)], std::min(left, t.memory));
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return busy[a] > busy[b] || (busy[a] == busy[b] && a < b);
  });
  for (const std::size_t i : order) {
    const auto part = static_cast<Part>(i);
    if (part == Part::kLatency || part == Part::kTail || part == Part::kLaunch) continue;
    // What overlaps with a busier engine costs nothing; only the busiest one is charged.
    t.parts[i] = std::min(left, busy[i]);
    left -= t.parts[i];
    break;
  }
  t.parts[static_cast<std::size_t>(Part::kLatency)] = std::max(0.0, left);
  return t;
}

void Evaluator::price(const TileProgram& p, double active) {
  const CoreRates& r = *rates_;
  const auto tensors = recorder_->tensors();
  duration_.resize(p.steps.size());
  latency_.resize(p.steps.size());
  cache_work_.resize(p.steps.size());
  memory_work_.resize(p.steps.size());
  for (std::size_t i = 0; i < p.steps.size(); ++i) {
    const Step& s = p.steps[i];
    double duration = s.seconds;
    double latency = 0.0;
    cache_work_[i] = s.cache_bytes * active / r.cache;
    memory_work_[i] = 0.0;
    if (s.bytes <= 0.0) {
      duration = std::max(duration, cache_work_[i]);
    } else {
      const bool load = s.engine == Engine::kLoad;
      const Home home = tensors[s.tensor].spec.home;
      const double share = load ? load_share_[s.tensor] : store_share_[s.tensor];
      memory_work_[i] = share * s.cache_bytes * active / r.memory;
      duration = std::max({s.bytes / r.port, cache_work_[i], memory_work_[i]});
      latency = share > 0.0 && load ? r.memory_latency : r.cache_latency;
      if (home == Home::kPeer) {
        const double remote = tensors[s.tensor].spec.peer_share;
        duration = std::max(duration, remote * s.cache_bytes * active / r.link);
        // A request and its answer.
        if (load && remote > 0.0) latency = std::max(latency, 2.0 * r.link_latency);
      }
    }
    duration_[i] = duration;
    latency_[i] = latency;
  }
}

// One work item on a core whose engines and slots are as `state_` says. Returns when it has ended.
double Evaluator::run(const TileProgram& p, double origin, std::int64_t item) {
  const std::size_t ready = kFirstSlot;
  const std::size_t free = kFirstSlot + p.slots;
  double* const state = state_.data();
  for (std::size_t e = 0; e < static_cast<std::size_t>(kEngines); ++e) {
    state[kFirstEngine + e] = std::max(state[kFirstEngine + e], origin);
  }
  state[kCacheWork] = std::max(state[kCacheWork], origin);
  state[kMemoryWork] = std::max(state[kMemoryWork], origin);
  const auto run_steps = [&](const PhaseRange& phase, std::int64_t iteration) {
    for (std::uint32_t i = phase.first; i < phase.first + phase.count; ++i) {
      const Step& s = p.steps[i];
      double& engine = state[kFirstEngine + static_cast<std::size_t>(s.engine)];
      double start = engine;
      // What an item waits for, others do as long as it did its own part.
      if (s.kind == StepKind::kWait) start = std::max(start, state[kFinish]);
      for (std::uint8_t k = 0; k < s.reads; ++k) {
        const SlotUse u = s.read[k];
        const auto slot = slot_of(p.buffers[u.buffer], iteration + u.offset, item);
        start = std::max(start, state[ready + slot]);
      }
      std::size_t written = 0;
      if (s.writes) {
        written = slot_of(p.buffers[s.write.buffer], iteration + s.write.offset, item);
        start = std::max(start, state[free + written]);
        // What adds to the slot waits for what is there; parts of it may be filled side by side.
        if (s.updates) start = std::max(start, state[ready + written]);
      }
      double end = start + duration_[i];
      if (cache_work_[i] > 0.0) {
        // What loads and stores move side by side passes one after the other: none ends before all
        // that was asked for has passed.
        end = std::max(
            {end, state[kCacheWork] += cache_work_[i], state[kMemoryWork] += memory_work_[i]});
      }
      engine = end;
      for (std::uint8_t k = 0; k < s.reads; ++k) {
        const SlotUse u = s.read[k];
        const auto slot = slot_of(p.buffers[u.buffer], iteration + u.offset, item);
        state[free + slot] = std::max(state[free + slot], end);
      }
      const double done = end + latency_[i];
      if (s.writes) state[ready + written] = std::max(state[ready + written], done);
      state[kFinish] = std::max(state[kFinish], done);
    }
  };
  for (const Section& section : p.sections) {
    const std::span<const PhaseRange> phases(p.phases.data() + section.first, section.count);
    if (section.iterations == 1) {
      for (const PhaseRange& phase : phases) run_steps(phase, 0);
      continue;
    }
    std::int64_t most = 0;
    for (const PhaseRange& phase : phases) most = std::max<std::int64_t>(most, phase.ahead);
    std::int64_t window = 1;
    for (const PhaseRange& phase : phases) {
      for (std::uint32_t i = phase.first; i < phase.first + phase.count; ++i) {
        const Step& s = p.steps[i];
        if (s.writes && !p.buffers[s.write.buffer].per_item)
          window = std::lcm(window, p.buffers[s.write.buffer].slots);
      }
    }
    const std::int64_t count = section.iterations;
    std::int64_t next_check = 0;
    std::size_t known = 0;  // snapshots taken
    const std::size_t size = state_.size();
    const auto snapshot = [&](std::size_t i) { return history_.data() + i % kHistory * size; };
    const auto run_tick = [&](std::int64_t tick) {
      for (const PhaseRange& phase : phases) {
        const std::int64_t i = tick + phase.ahead;
        if (i >= 0 && i < count) run_steps(phase, i);
      }
    };
    for (std::int64_t tick = -most; tick < count; ++tick) {
      run_tick(tick);
      // Once every time advances alike from window to window, or from every second to fourth
      // window, that many are skipped at a time.
      if (tick != next_check || count - most - tick <= window) continue;
      next_check = tick + window;
      std::copy(state_.begin(), state_.end(), snapshot(known++));
      for (std::size_t cycle = 1; cycle <= kCycles && known > 2 * cycle; ++cycle) {
        const double* const now = snapshot(known - 1);
        const double* const middle = snapshot(known - 1 - cycle);
        const double* const old = snapshot(known - 1 - 2 * cycle);
        bool same = true;
        for (std::size_t i = 0; i < size && same; ++i) {
          const double d = now[i] - middle[i];
          same = std::abs(d - (middle[i] - old[i])) <= 1e-9 * d + 1e-18;
        }
        if (!same) continue;
        // Times may advance at different speeds until one catches up with another. If that
        // happened on the way, the next cycle advances otherwise; then less is skipped.
        const std::int64_t step = static_cast<std::int64_t>(cycle) * window;
        const std::int64_t most_skipped = (count - most - tick - 1) / step - 1;
        std::int64_t skipped = most_skipped;
        for (; skipped > 0; skipped /= 2) {
          for (std::size_t i = 0; i < size; ++i) {
            state[i] = now[i] + (now[i] - middle[i]) * static_cast<double>(skipped);
          }
          for (std::int64_t t = 1; t <= step; ++t) run_tick(tick + skipped * step + t);
          bool alike = true;
          for (std::size_t i = 0; i < size && alike; ++i) {
            const double d = now[i] - middle[i];
            const double expected = now[i] + d * static_cast<double>(skipped + 1);
            alike = std::abs(state[i] - expected) <= 1e-9 * d + 1e-12 * expected;
          }
          if (alike) break;
        }
        known = 0;
        if (skipped > 0) {
          tick += (skipped + 1) * step;
        } else {
          std::copy(now, now + size, state);
        }
        next_check = skipped > 0 && skipped == most_skipped ? count : tick + window;
        break;
      }
    }
  }
  return state[kFinish];
}

Evaluator::ItemTime Evaluator::item_time(const TileProgram& p, double active, bool persistent,
                                         bool repeated) {
  price(p, active);
  const std::size_t size = kFirstSlot + 2 * std::size_t{p.slots};
  state_.assign(size, 0.0);
  history_.resize(kHistory * size);
  ItemTime t;
  t.first = run(p, rates_->start, 0);
  t.period = t.first;
  if (!persistent || !repeated) return t;
  // The next item starts as soon as engines and slots are free.
  run(p, 0.0, 1);
  t.period = 0.5 * (run(p, 0.0, 2) - t.first);
  return t;
}

// Items in order, each to the cores that are free first. Cores with the same history are one group.
void Evaluator::deal(const Recorder&, std::span<const TileProgram> programs, double active,
                     bool persistent) {
  const auto cores = static_cast<std::int64_t>(active);
  group_count_ = 0;
  const auto new_group = [&]() -> CoreGroup& {
    if (group_count_ == groups_.size()) groups_.emplace_back();
    CoreGroup& g = groups_[group_count_++];
    g.items.clear();
    return g;
  };
  CoreGroup& all = new_group();
  all.cores = cores;
  all.finish = 0.0;
  item_times_.clear();
  std::int64_t total = 0;
  for (const TileProgram& p : programs) total += p.items;
  for (std::size_t c = 0; c < programs.size(); ++c) {
    const TileProgram& p = programs[c];
    const ItemTime time = item_time(p, active, persistent, total > cores);
    item_times_.push_back(time);
    std::int64_t left = p.items;
    while (left > 0) {
      std::size_t earliest = 0;
      for (std::size_t g = 1; g < group_count_; ++g) {
        if (groups_[g].finish < groups_[earliest].finish) earliest = g;
      }
      std::int64_t rounds = 1;
      if (groups_[earliest].cores > left) {
        CoreGroup& rest = new_group();  // may move groups_
        CoreGroup& source = groups_[earliest];
        rest.cores = source.cores - left;
        rest.finish = source.finish;
        rest.items = source.items;
        source.cores = left;
      } else if (group_count_ == 1) {
        rounds = left / groups_[earliest].cores;
      }
      CoreGroup& g = groups_[earliest];
      const double first = g.finish == 0.0 ? time.first : time.period;
      double rest = time.period;
      // The last, partial wave has the chip's bandwidth to itself.
      if (programs.size() == 1 && left < cores && group_count_ == 2 && g.finish > 0.0) {
        const ItemTime alone = item_time(p, static_cast<double>(left), persistent, false);
        g.finish += persistent ? std::min(alone.first, first) : alone.first;
      } else {
        g.finish += first + rest * static_cast<double>(rounds - 1);
      }
      if (keep_items_) {
        if (!g.items.empty() && g.items.back().first == c) {
          g.items.back().second += rounds;
        } else {
          g.items.emplace_back(static_cast<std::uint32_t>(c), rounds);
        }
      }
      left -= rounds * g.cores;
    }
  }
}

}  // namespace foretoken::hwmodels::tile
