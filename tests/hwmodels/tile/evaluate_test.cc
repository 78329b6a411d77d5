// The closed form of tile programs: limits by hand, and the steady state that is skipped against
// every iteration run.
#include "hwmodels/tile/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "hwmodels/tile/recorder.h"
#include "tests/hwmodels/tile/programs.h"

namespace foretoken::hwmodels::tile {
namespace {

using test_support::plain_rates;
using test_support::ProgramKernel;

double part(const KernelTime& t, Part p) { return t.parts[static_cast<std::size_t>(p)]; }

KernelTime evaluate(const Kernel& kernel, const CoreRates& rates) {
  Recorder recorder(rates);
  recorder.record(kernel);
  return Evaluator().evaluate(recorder);
}

// A load of 8 x `cols` bytes, a product of 8 x 8 x `depth` and a store of 64 bytes, `count` times,
// with `slots` to load into: 8 x cols, 128 x depth and, at the end, 64 ns on the plain chip.
ProgramKernel::Program loop(std::int64_t count, std::int64_t slots, std::int64_t cols,
                            std::int64_t depth, Home home = Home::kCache) {
  return [=](Machine& m, std::int64_t) {
    const TensorId in =
        m.tensor({.name = "in", .dtype = Dtype::kFp8, .rows = 8, .cols = 1000, .home = home});
    const TensorId out =
        m.tensor({.name = "out", .dtype = Dtype::kFp8, .rows = 8, .cols = 8, .home = Home::kCache});
    const Buffer tile = m.buffer({.name = "tile",
                                  .local = Local::kOperand,
                                  .dtype = Dtype::kFp8,
                                  .rows = 8,
                                  .cols = cols,
                                  .slots = slots});
    const Buffer sums = m.buffer({.name = "sums",
                                  .local = Local::kAccumulator,
                                  .dtype = Dtype::kFp32,
                                  .rows = 8,
                                  .cols = 8,
                                  .per_item = true});
    m.pipeline(
        count,
        {Phase{slots - 1,
               [&](std::int64_t i) {
                 m.load(tile(i), in, {0, 8, 0, cols});
               }},
         Phase{0, [&](std::int64_t i) {
                 m.matrix(
                     sums(), tile(i), tile(i),
                     {.m = 8, .n = 8, .k = depth, .compute = Dtype::kFp8, .accumulate = i > 0});
               }}});
    m.store(out, {0, 8, 0, 8}, sums());
  };
}

TEST(Evaluate, StepsOfOneItemFollowEachOther) {
  CoreRates rates = plain_rates();
  rates.launch = 5e-9;
  rates.start = 3e-9;
  const KernelTime t = evaluate(ProgramKernel(1, loop(1, 1, 8, 1)), rates);
  EXPECT_NEAR(t.seconds, (5.0 + 3.0 + 64.0 + 128.0 + 64.0) * 1e-9, 1e-18);
  EXPECT_EQ(t.items, 1.0);
  EXPECT_EQ(t.cores, 1.0);
  EXPECT_EQ(t.waves, 1.0);
  EXPECT_DOUBLE_EQ(t.flops, 128.0);
  EXPECT_DOUBLE_EQ(part(t, Part::kLaunch), 5e-9);
}

TEST(Evaluate, WithOneSlotLoadsAndProductsTakeTurnsWithTwoTheLongerOneCounts) {
  const CoreRates rates = plain_rates();
  const auto time = [&](std::int64_t slots) {
    return evaluate(ProgramKernel(1, loop(100, slots, 8, 1)), rates).seconds;
  };
  EXPECT_NEAR(time(1), (100.0 * (64.0 + 128.0) + 64.0) * 1e-9, 1e-15);
  EXPECT_NEAR(time(2), (64.0 + 100.0 * 128.0 + 64.0) * 1e-9, 1e-15);
  EXPECT_NEAR(time(5), time(2), 1e-15);
}

TEST(Evaluate, LatencyIsHiddenByAsManySlotsAsItLasts) {
  CoreRates rates = plain_rates();
  rates.cache_latency = 1000e-9;
  const auto time = [&](std::int64_t slots) {
    return evaluate(ProgramKernel(1, loop(1000, slots, 8, 1)), rates).seconds;
  };
  // A slot is loaded, arrives and is multiplied; then it is free.
  EXPECT_NEAR(time(1), 1000.0 * (64.0 + 1000.0 + 128.0) * 1e-9, 3e-6);
  EXPECT_NEAR(time(4), 1000.0 / 4.0 * (64.0 + 1000.0 + 128.0) * 1e-9, 3e-6);
  EXPECT_NEAR(time(16), 1000.0 * 128.0 * 1e-9, 3e-6);
}

TEST(Evaluate, CoresShareCacheAndMemory) {
  CoreRates rates = plain_rates();
  const auto time = [&](std::int64_t items) {
    return evaluate(ProgramKernel(items, loop(10, 2, 100, 1, Home::kMemory)), rates);
  };
  const double alone = time(1).seconds;
  EXPECT_NEAR(time(4).seconds, alone, 1e-15);
  // Half of what four cores can draw: loads of four take twice as long, loads of two do not.
  rates.cache = 2e9;
  EXPECT_NEAR(time(2).seconds, alone, 1e-15);
  EXPECT_NEAR(time(4).seconds - alone, 10.0 * 800e-9, 1e-7);
  EXPECT_DOUBLE_EQ(time(4).cache_bytes, 4.0 * (10.0 * 800.0 + 64.0));
  EXPECT_DOUBLE_EQ(time(4).cache, time(4).cache_bytes / 2e9);
  // Of a tensor of 8,000 bytes the rest is found in the cache.
  EXPECT_DOUBLE_EQ(time(4).memory_bytes, 8000.0);
  rates.cache = 1e30;
  rates.memory = 0.1e9;
  EXPECT_GE(time(4).seconds, 8000.0 / 0.1e9);
}

TEST(Evaluate, LoadsAndStoresSideBySideShareMemoryWhileProductsGoOn) {
  CoreRates rates = plain_rates();
  rates.port = 1e30;
  rates.memory = 4e9;
  // In and out of memory, 256 bytes each per iteration of four cores.
  const auto copy = [](Machine& m, std::int64_t item) {
    const auto tensor = [&](std::string_view name) {
      return m.tensor({.name = name, .dtype = Dtype::kFp8, .rows = 400, .cols = 64});
    };
    const TensorId in = tensor("in");
    const TensorId out = tensor("out");
    const Buffer row = m.buffer({.name = "row",
                                 .local = Local::kVector,
                                 .dtype = Dtype::kFp8,
                                 .rows = 1,
                                 .cols = 64,
                                 .slots = 4});
    m.pipeline(100, {Phase{2,
                           [&](std::int64_t i) {
                             m.load(row(i), in, {item * 100 + i, 1, 0, 64});
                           }},
                     Phase{0, [&](std::int64_t i) {
                             m.store(out, {item * 100 + i, 1, 0, 64}, row(i));
                           }}});
  };
  const KernelTime t = evaluate(ProgramKernel(4, copy), rates);
  EXPECT_DOUBLE_EQ(t.memory, 4.0 * 100.0 * 128.0 / 4e9);
  EXPECT_NEAR(t.seconds, t.memory, 1e-3 * t.memory);
}

TEST(Evaluate, WhatTakesTheWayThroughTheCacheCountsThere) {
  CoreRates rates = plain_rates();
  rates.exchange = Exchange::kCache;
  rates.cache = 1e9;
  const auto moves = [](Machine& m, std::int64_t) {
    const auto buffer = [&](std::string_view name, Local local) {
      return m.buffer({.name = name, .local = local, .dtype = Dtype::kFp32, .rows = 8, .cols = 8});
    };
    const Buffer from = buffer("from", Local::kAccumulator);
    const Buffer to = buffer("to", Local::kVector);
    m.pipeline(10, {Phase{0, [&](std::int64_t) { m.move(to(), from()); }}});
  };
  const KernelTime t = evaluate(ProgramKernel(4, moves), rates);
  EXPECT_DOUBLE_EQ(t.cache_bytes, 4.0 * 10.0 * 512.0);
  EXPECT_NEAR(t.seconds, t.cache_bytes / 1e9, 1e-15);
}

TEST(Evaluate, ItemsBeyondTheCoresTakeAnotherWaveAndTheLastIsATail) {
  const CoreRates rates = plain_rates();
  const auto time = [&](std::int64_t items) {
    return evaluate(ProgramKernel(items, loop(10, 2, 8, 1)), rates);
  };
  const double one = time(1).seconds;
  EXPECT_NEAR(time(4).seconds, one, 1e-15);
  EXPECT_EQ(part(time(4), Part::kTail), 0.0);
  EXPECT_NEAR(time(5).seconds, 2.0 * one, 1e-15);
  EXPECT_DOUBLE_EQ(time(5).waves, 1.25);
  // Three of four cores have nothing to do in the second wave.
  EXPECT_NEAR(part(time(5), Part::kTail), 0.75 * one, 1e-12);
  EXPECT_NEAR(time(40).seconds, 10.0 * one, 1e-14);
  EXPECT_NEAR(part(time(40), Part::kTail), 0.0, 1e-18);
}

TEST(Evaluate, AnItemOfAPersistentKernelStartsWhileTheOneBeforeDrains) {
  CoreRates rates = plain_rates();
  rates.start = 50e-9;
  const auto time = [&](std::int64_t items, bool persistent) {
    return evaluate(ProgramKernel(items, loop(10, 2, 8, 1), persistent), rates).seconds;
  };
  EXPECT_DOUBLE_EQ(time(1, true), time(1, false));
  EXPECT_LT(time(40, true), time(40, false));
  // Ten items of a core: products without a gap, but for the sums that are stored first.
  EXPECT_NEAR(time(40, true), (50.0 + 64.0 + 10.0 * (10.0 * 128.0 + 64.0)) * 1e-9, 1e-12);
  EXPECT_NEAR(time(40, false), 10.0 * time(1, false), 1e-14);
}

TEST(Evaluate, OfUnlikeItemsEachGoesToTheCoreThatIsFreeFirst) {
  const CoreRates rates = plain_rates();
  // Two long items, then six short ones, on four cores: the short ones share the two free cores
  // until the long ones are done.
  Recorder recorder(rates);
  recorder.record(ProgramKernel(
      {2, 6}, [](Machine& m, std::int64_t item) { loop(item < 2 ? 30 : 10, 1, 8, 1)(m, item); }));
  Evaluator evaluator;
  evaluator.keep_items(true);
  const KernelTime t = evaluator.evaluate(recorder);
  EXPECT_EQ(t.items, 8.0);
  EXPECT_NEAR(t.seconds, 3.0 * (10.0 * 192.0 + 64.0) * 1e-9, 1e-15);
  std::int64_t cores = 0;
  std::int64_t items = 0;
  for (const CoreGroup& g : evaluator.groups()) {
    cores += g.cores;
    for (const auto& [c, count] : g.items) items += g.cores * count;
  }
  EXPECT_EQ(cores, 4);
  EXPECT_EQ(items, 8);
}

TEST(Evaluate, APowerLimitSlowsWhatDrawsMore) {
  CoreRates rates = plain_rates();
  const ProgramKernel kernel(4, loop(100, 2, 8, 1));
  const KernelTime free = evaluate(kernel, rates);
  EXPECT_EQ(free.throttle, 1.0);
  rates.matrix_energy[static_cast<std::size_t>(Dtype::kFp8)] = 1e-9;  // 1 W a core at its rate
  rates.power_limit = 8.0;
  EXPECT_DOUBLE_EQ(evaluate(kernel, rates).seconds, free.seconds);
  rates.power_limit = 1.0;
  const KernelTime limited = evaluate(kernel, rates);
  const double watts = free.flops * 1e-9 / free.seconds;
  EXPECT_NEAR(limited.throttle, std::sqrt(watts / 1.0), 1e-9);
  EXPECT_NEAR(limited.seconds, free.seconds * limited.throttle, 1e-15);
}

TEST(Evaluate, NoItemsTakeALaunch) {
  CoreRates rates = plain_rates();
  rates.launch = 2e-6;
  const KernelTime t = evaluate(ProgramKernel(0, loop(1, 1, 8, 1)), rates);
  EXPECT_EQ(t.seconds, 2e-6);
  EXPECT_EQ(t.items, 0.0);
}

// Random programs: some buffers, straight steps and pipelined loops whose parts read what earlier
// parts of the same iteration wrote.
struct RandomProgram {
  struct LoopStep {
    int engine;  // 0 load, 1 matrix, 2 vector, 3 exchange
    std::size_t writes;
    std::vector<std::size_t> reads;
    std::int64_t size;
    bool accumulate;
  };
  struct Loop {
    std::int64_t count;
    std::vector<std::int64_t> ahead;
    std::vector<std::vector<LoopStep>> phases;
  };
  std::vector<std::int64_t> slots;
  std::vector<bool> per_item;
  std::vector<Loop> loops;

  explicit RandomProgram(std::mt19937_64& random) {
    const auto between = [&](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(random);
    };
    const std::int64_t buffers = between(2, 6);
    for (std::int64_t i = 0; i < buffers; ++i) {
      slots.push_back(between(1, 6));
      per_item.push_back(between(1, 8) == 1);
    }
    const std::int64_t loop_count = between(1, 3);
    for (std::int64_t l = 0; l < loop_count; ++l) {
      Loop one;
      one.count = between(1, 3) == 1 ? between(1, 20) : between(50, 3000);
      std::int64_t ahead = between(0, 5);
      const std::int64_t phases = between(1, 4);
      std::vector<std::size_t> written;
      for (std::int64_t f = 0; f < phases; ++f) {
        one.ahead.push_back(f + 1 == phases ? 0 : ahead);
        ahead = between(0, ahead);
        std::vector<LoopStep> steps;
        const std::int64_t n = between(1, 3);
        for (std::int64_t s = 0; s < n; ++s) {
          LoopStep step;
          step.engine = static_cast<int>(between(0, 3));
          step.writes = static_cast<std::size_t>(between(0, buffers - 1));
          if (step.engine == 0 || !written.empty()) {
            const std::int64_t reads = step.engine == 0 ? 0 : step.engine == 1 ? 2 : 1;
            for (std::int64_t r = 0; r < reads; ++r) {
              step.reads.push_back(
                  written[static_cast<std::size_t>(between(0, std::ssize(written) - 1))]);
            }
          } else {
            step.engine = 0;
          }
          step.size = between(1, 32);
          step.accumulate = between(0, 1) == 1;
          written.push_back(step.writes);
          steps.push_back(step);
        }
        one.phases.push_back(steps);
      }
      loops.push_back(one);
    }
  }

  void operator()(Machine& m, std::int64_t) const {
    const TensorId in = m.tensor(
        {.name = "in", .dtype = Dtype::kFp8, .rows = 32, .cols = 32, .home = Home::kCache});
    std::vector<Buffer> buffers;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      buffers.push_back(m.buffer({.name = "b",
                                  .local = Local::kOperand,
                                  .dtype = Dtype::kFp8,
                                  .rows = 32,
                                  .cols = 32,
                                  .slots = slots[i],
                                  .per_item = per_item[i]}));
    }
    for (const Loop& one : loops) {
      const auto run = [&](const std::vector<LoopStep>& steps, std::int64_t i) {
        for (const LoopStep& s : steps) {
          const Block block{0, s.size, 0, 32};
          const BufferRef dst = buffers[s.writes](i, block);
          switch (s.engine) {
            case 0:
              m.load(dst, in, block);
              break;
            case 1:
              m.matrix(dst, buffers[s.reads[0]](i, block), buffers[s.reads[1]](i, block),
                       {.m = s.size,
                        .n = 4,
                        .k = 4,
                        .compute = Dtype::kFp8,
                        .accumulate = s.accumulate});
              break;
            case 2:
              m.vector(VectorKind::kAdd, dst, {buffers[s.reads[0]](i, block)});
              break;
            default:
              m.move(dst, buffers[s.reads[0]](i, block));
          }
        }
      };
      const auto phase = [&](std::size_t f) {
        return [&, f](std::int64_t i) { run(one.phases[f], i); };
      };
      const std::array functions = {phase(0), phase(1), phase(2), phase(3)};
      std::vector<Phase> phases;
      for (std::size_t f = 0; f < one.phases.size(); ++f) {
        phases.push_back({one.ahead[f], functions[f]});
      }
      m.pipeline(one.count, phases);
    }
  }
};

// The same rules, every iteration, one item on one core.
double run_all(const Recorder& recorder) {
  const CoreRates& rates = recorder.rates();
  const TileProgram& p = recorder.programs().front();
  std::array<double, kEngines> engine{};
  engine.fill(rates.start);
  std::vector<double> ready(p.slots, 0.0);
  std::vector<double> free(p.slots, 0.0);
  double finish = 0.0;
  const auto step = [&](const Step& s, std::int64_t iteration) {
    const auto slot = [&](const SlotUse& u) {
      const BufferInfo& b = p.buffers[u.buffer];
      const std::int64_t at = b.per_item ? 0 : (iteration + u.offset) % b.slots;
      return b.first_slot + static_cast<std::size_t>(at < 0 ? at + b.slots : at);
    };
    double& own = engine[static_cast<std::size_t>(s.engine)];
    double start = own;
    for (std::uint8_t k = 0; k < s.reads; ++k) start = std::max(start, ready[slot(s.read[k])]);
    if (s.writes) {
      start = std::max(start, free[slot(s.write)]);
      if (s.updates) start = std::max(start, ready[slot(s.write)]);
    }
    own = start + (s.bytes > 0.0 ? s.bytes / rates.port : s.seconds);
    for (std::uint8_t k = 0; k < s.reads; ++k) {
      free[slot(s.read[k])] = std::max(free[slot(s.read[k])], own);
    }
    const double done = own + (s.bytes > 0.0 ? rates.cache_latency : 0.0);
    if (s.writes) ready[slot(s.write)] = std::max(ready[slot(s.write)], done);
    finish = std::max(finish, done);
  };
  for (const Section& section : p.sections) {
    std::int64_t most = 0;
    for (std::uint32_t f = section.first; f < section.first + section.count; ++f) {
      most = std::max<std::int64_t>(most, p.phases[f].ahead);
    }
    for (std::int64_t tick = -most; tick < section.iterations; ++tick) {
      for (std::uint32_t f = section.first; f < section.first + section.count; ++f) {
        const PhaseRange& phase = p.phases[f];
        const std::int64_t i = section.iterations == 1 ? tick : tick + phase.ahead;
        if (i < 0 || i >= section.iterations) continue;
        for (std::uint32_t k = phase.first; k < phase.first + phase.count; ++k) {
          step(p.steps[k], i);
        }
      }
    }
  }
  return finish;
}

TEST(Evaluate, SkippingTheSteadyStateGivesWhatEveryIterationGives) {
  std::mt19937_64 random(20261123);
  for (int i = 0; i < 2000; ++i) {
    CoreRates rates = plain_rates();
    rates.exchange = Exchange::kDirect;
    rates.exchange_rate = 1e9;
    std::uniform_real_distribution<double> rate(0.2e9, 5e9);
    rates.port = rate(random);
    rates.lanes32 = rate(random);
    rates.matrix[static_cast<std::size_t>(Dtype::kFp8)] = rate(random);
    rates.cache_latency = std::uniform_real_distribution<double>(0.0, 3e-6)(random);
    rates.start = 1e-6;
    Recorder recorder(rates);
    recorder.record(ProgramKernel(1, RandomProgram(random)));
    const double all = run_all(recorder);
    const double skipped = Evaluator().evaluate(recorder).seconds;
    EXPECT_NEAR(skipped / all, 1.0, 1e-7) << "program " << i;
  }
}

TEST(Evaluate, PartsOfTheTimeAddUpAndNoBusyTimeExceedsIt) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 500; ++i) {
    CoreRates rates = plain_rates();
    rates.cache = std::uniform_real_distribution<double>(1e9, 5e9)(random);
    rates.cache_latency = 1e-7;
    rates.launch = 1e-6;
    const std::int64_t items = std::uniform_int_distribution<std::int64_t>(1, 50)(random);
    const KernelTime t = evaluate(ProgramKernel(items, RandomProgram(random), i % 2 == 0), rates);
    EXPECT_NEAR(std::accumulate(t.parts.begin(), t.parts.end(), 0.0), t.seconds, 1e-12 * t.seconds);
    for (const double p : t.parts) EXPECT_GE(p, 0.0);
    for (const double busy : {t.matrix, t.vector, t.memory, t.cache}) {
      EXPECT_LE(busy, (t.seconds - rates.launch) * (1.0 + 1e-9)) << "program " << i;
    }
  }
}

TEST(Evaluate, TheSameRecordingGivesTheSameNumbersWhateverWasEvaluatedBefore) {
  std::mt19937_64 random(11);
  const CoreRates rates = plain_rates();
  Evaluator used;
  for (int i = 0; i < 200; ++i) {
    Recorder recorder(rates);
    recorder.record(ProgramKernel({7, 3}, RandomProgram(random), i % 3 == 0));
    EXPECT_EQ(used.evaluate(recorder).seconds, Evaluator().evaluate(recorder).seconds);
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::tile
