// The chip as a machine on SystemC against the closed form: every shipped design at its real
// shapes.
#include "hwmodels/machine/kernel_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <fstream>
#include <map>
#include <utility>

#include "analysis/kernels/kernel_cases.h"
#include "analysis/kernels/kernel_timing.h"
#include "hwmodels/kernels/gemm.h"
#include "sim/base/error.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::machine {
namespace {

using analysis::kernels::KernelChip;
using analysis::kernels::TimingCase;
using test_support::configs;

// A shipping chip per family.
const std::vector<KernelChip>& chips() {
  static const std::vector<KernelChip> all = [] {
    std::vector<KernelChip> list;
    for (const char* name :
         {"a100_sxm", "h200_sxm", "b200_sxm", "ascend_910c", "ascend_950dt_32c_144gb"}) {
      list.push_back(analysis::kernels::load_kernel_chip(name, configs()));
    }
    return list;
  }();
  return all;
}

const std::vector<DesignFile>& designs() {
  static const std::vector<DesignFile> all = [] {
    std::vector<DesignFile> list;
    for (const std::string& name : list_configs(configs(), "designs")) {
      list.push_back(load_design(name, configs()));
    }
    return list;
  }();
  return all;
}

struct Launched {
  std::string what;
  const tile::CoreRates& rates;
  const tile::Recorder& recorder;
  const tile::Evaluator& evaluator;
  tile::KernelTime estimate;
};

// Every launch of every design at its default shapes, on the chips above as `change` leaves them.
template <class Change, class Visit>
void for_each_launch(Change&& change, Visit&& visit) {
  for (const KernelChip& chip : chips()) {
    tile::CoreRates rates = chip.rates;
    change(rates);
    tile::Recorder recorder(rates);
    tile::Evaluator evaluator;
    evaluator.keep_items(true);
    for (const DesignFile& design : designs()) {
      if (!analysis::kernels::is_for(design, chip)) continue;
      for (const TimingCase& c : analysis::kernels::timing_cases(design, rates)) {
        int number = 0;
        try {
          analysis::kernels::for_each_launch(
              design, c.shape, rates, [&](const tile::Kernel& kernel, const std::string&) {
                recorder.record(kernel);
                const tile::KernelTime t = evaluator.evaluate(recorder);
                visit(Launched{chip.name + " " + design.name + " " + c.name + " launch " +
                                   std::to_string(number++),
                               rates, recorder, evaluator, t});
              });
        } catch (const base::UnsupportedError&) {
        }
      }
    }
  }
}

// The power limit is the estimate's alone.
constexpr auto kUnthrottled = [](tile::CoreRates& r) { r.power_limit = 0.0; };
constexpr auto kUncontended = [](tile::CoreRates& r) {
  r.memory = r.cache = r.link = 1e30;
  r.power_limit = 0.0;
};

double relative(double a, double b) { return a / b - 1.0; }

TEST(KernelMachine, EqualsTheEstimateWhenNothingIsShared) {
  KernelMachine machine;
  machine.limit_tasks(10'000'000);  // every iteration of every item
  int cases = 0;
  for_each_launch(kUncontended, [&](const Launched& l) {
    if (l.recorder.programs().size() > 16) return;  // many seconds
    const SimulatedKernel s = machine.simulate(l.recorder, l.evaluator);
    // The estimate gives a persistent core's items of one class one period, whatever ran before.
    const bool mixed = l.recorder.launch().persistent && l.recorder.programs().size() > 1;
    EXPECT_NEAR(relative(s.seconds, l.estimate.seconds), 0.0, mixed ? 1e-3 : 1e-9) << l.what;
    ++cases;
  });
  EXPECT_GT(cases, 280);
}

TEST(KernelMachine, StaysNearTheEstimateWhereCacheAndMemoryAreShared) {
  KernelMachine machine;
  for_each_launch(kUnthrottled, [&](const Launched& l) {
    const SimulatedKernel s = machine.simulate(l.recorder, l.evaluator);
    // The estimate lets all cores ask at once. Cores at unlike items do not, and finish earlier.
    const bool unlike = l.recorder.programs().size() > 1;
    const double error = relative(l.estimate.seconds, s.seconds);
    // Phases that links hold up overlap with phases that memory does, which the estimate adds.
    const bool peers = l.estimate.peer_stored > 0.0;
    EXPECT_LT(error, peers ? 0.5 : unlike ? 0.25 : 0.1) << l.what;
    EXPECT_GT(error, -0.1) << l.what;
  });
}

TEST(KernelMachine, MovesTheBytesThatAreRecordedAndIsNeverBusyForLongerThanItRuns) {
  KernelMachine machine;
  for_each_launch(kUnthrottled, [&](const Launched& l) {
    const SimulatedKernel s = machine.simulate(l.recorder, l.evaluator);
    ASSERT_EQ(s.resources.size(), s.busy.size());
    const auto busy = [&](std::string_view name) {
      const auto at = std::find(s.resources.begin(), s.resources.end(), name);
      return s.busy[static_cast<std::size_t>(at - s.resources.begin())];
    };
    EXPECT_NEAR(relative(busy("memory") * l.rates.memory + 1.0, l.estimate.memory_bytes + 1.0), 0.0,
                1e-6)
        << l.what;
    EXPECT_NEAR(relative(busy("cache") * l.rates.cache + 1.0, l.estimate.cache_bytes + 1.0), 0.0,
                1e-6)
        << l.what;
    const double elapsed = (s.seconds - l.rates.launch) * (1.0 + 1e-9);
    for (std::size_t i = 0; i < s.busy.size(); ++i) {
      EXPECT_LE(s.busy[i], elapsed) << l.what << " " << s.resources[i];
    }
    // Engines of all cores are busy as often as the estimate says, however long they wait between.
    double matrix = 0.0;
    double cores = 0.0;
    for (std::size_t g = 0; g < s.group_cores.size(); ++g) {
      matrix +=
          static_cast<double>(s.group_cores[g]) * busy("core" + std::to_string(g) + ".matrix");
      cores += static_cast<double>(s.group_cores[g]);
    }
    EXPECT_EQ(cores, l.estimate.cores) << l.what;
    EXPECT_NEAR(matrix / l.rates.cores, l.estimate.matrix, 1e-6 * l.estimate.seconds) << l.what;
  });
}

// Decode attention: every engine, gathers, several groups of cores.
struct Example {
  KernelChip chip = analysis::kernels::load_kernel_chip("b200_sxm", configs());
  DesignFile design = load_design("blackwell_attention", configs());
  tile::Recorder recorder{chip.rates};
  tile::Evaluator evaluator;

  Example() {
    evaluator.keep_items(true);
    bool first = true;
    analysis::kernels::for_each_launch(
        design, analysis::kernels::timing_cases(design, chip.rates).front().shape, chip.rates,
        [&](const tile::Kernel& kernel, const std::string&) {
          if (!std::exchange(first, false)) return;
          recorder.record(kernel);
          evaluator.evaluate(recorder);
        });
  }
};

TEST(KernelMachine, AnEngineRunsOneStepAfterTheOtherAndAllOfThemInsideTheLaunch) {
  const Example e;
  const SimulatedKernel s = KernelMachine().simulate(e.recorder, e.evaluator, true);
  ASSERT_GT(s.spans.size(), 50U);
  std::map<std::pair<std::uint32_t, tile::Engine>, std::vector<std::pair<double, double>>> runs;
  for (const Span& span : s.spans) {
    EXPECT_GE(span.start, e.chip.rates.launch);
    EXPECT_LE(span.start, span.end);
    EXPECT_LE(span.end, s.seconds * (1.0 + 1e-12));
    runs[{span.group, span.engine}].emplace_back(span.start, span.end);
  }
  EXPECT_GE(runs.size(), 4U);
  for (auto& [engine, spans] : runs) {
    std::sort(spans.begin(), spans.end());
    double busy = 0.0;
    double idle = spans.front().first;
    for (std::size_t i = 0; i < spans.size(); ++i) {
      if (i > 0) {
        EXPECT_GE(spans[i].first, spans[i - 1].second - 1e-15);
        idle += spans[i].first - spans[i - 1].second;
      }
      busy += spans[i].second - spans[i].first;
    }
    idle += s.seconds - spans.back().second;
    EXPECT_NEAR(busy + idle, s.seconds, 1e-9 * s.seconds);
  }
}

bool same(const SimulatedKernel& a, const SimulatedKernel& b) {
  return a.seconds == b.seconds && a.busy == b.busy && a.resources == b.resources &&
         a.group_cores == b.group_cores && a.events == b.events &&
         a.merged_iterations == b.merged_iterations &&
         std::equal(a.spans.begin(), a.spans.end(), b.spans.begin(), b.spans.end(),
                    [](const Span& x, const Span& y) {
                      return x.group == y.group && x.engine == y.engine && x.kind == y.kind &&
                             x.vector == y.vector && x.start == y.start && x.end == y.end;
                    });
}

TEST(KernelMachine, TheSameKernelGivesTheSameNumbersAgainAlsoInAnotherMachine) {
  const Example e;
  KernelMachine machine;
  const SimulatedKernel first = machine.simulate(e.recorder, e.evaluator, true);
  const Example other;
  EXPECT_TRUE(same(machine.simulate(other.recorder, other.evaluator, true), first));
  EXPECT_TRUE(same(KernelMachine().simulate(e.recorder, e.evaluator, true), first));
  EXPECT_TRUE(machine.simulate(e.recorder, e.evaluator).spans.empty());
}

std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t size = 0;
  std::int64_t resident = 0;
  file >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(KernelMachine, TwoThousandSimulationsTakeNoMoreMemoryThanAFew) {
  const Example e;
  KernelMachine machine;
  for (int i = 0; i < 50; ++i) machine.simulate(e.recorder, e.evaluator, true);
  const std::int64_t before = resident_bytes();
  for (int i = 0; i < 2000; ++i) machine.simulate(e.recorder, e.evaluator, true);
  EXPECT_LT(resident_bytes() - before, 1 << 20);
}

TEST(KernelMachine, MergedItemsAndLoopsHardlyChangeTheTime) {
  KernelMachine whole;
  whole.limit_tasks(10'000'000);
  KernelMachine merged;
  merged.limit_tasks(4'000);
  int cases = 0;
  std::uint64_t events_whole = 0;
  std::uint64_t events_merged = 0;
  for_each_launch(kUnthrottled, [&](const Launched& l) {
    if (l.estimate.waves > 200.0 || l.recorder.programs().size() > 4) return;
    const SimulatedKernel a = whole.simulate(l.recorder, l.evaluator);
    const SimulatedKernel b = merged.simulate(l.recorder, l.evaluator);
    EXPECT_EQ(a.merged_iterations, 1);
    EXPECT_EQ(a.merged_items, 1);
    if (b.merged_iterations == 1 && b.merged_items == 1) return;
    ++cases;
    events_whole += a.events;
    events_merged += b.events;
    EXPECT_NEAR(relative(b.seconds, a.seconds), 0.0, 0.15) << l.what;
  });
  EXPECT_GT(cases, 20);
  EXPECT_LT(2 * events_merged, events_whole);
}

// The answer comes while one looks at it: milliseconds of processor time, of one and of all.
TEST(KernelMachine, ShippedDesignsAreSimulatedInMoments) {
  KernelMachine machine;
  double all = 0.0;
  for_each_launch(kUnthrottled, [&](const Launched& l) {
    const std::clock_t before = std::clock();
    const SimulatedKernel s = machine.simulate(l.recorder, l.evaluator);
    const double ms = 1e3 * static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
    // Prompts whose query tokens see ever more keys: as many groups of cores as kinds of items.
    EXPECT_LT(ms, l.recorder.programs().size() > 16 ? 400.0 : 100.0) << l.what;
    EXPECT_LT(s.events, 400'000U) << l.what;
    all += ms;
  });
  EXPECT_LT(all, 3000.0);  // one second on an idle core of a server of 2023
}

TEST(KernelMachine, AKernelWithoutItemsTakesItsLaunch) {
  const KernelChip& chip = chips().front();
  const kernels::GroupRun none{0, 1};
  kernels::GemmProblem p;
  p.groups = {&none, 1};
  p.n = p.k = 128;
  const kernels::GemmDesign design;
  tile::Recorder recorder(chip.rates);
  tile::Evaluator evaluator;
  evaluator.keep_items(true);
  recorder.record(kernels::GemmKernel(p, design, chip.rates));
  evaluator.evaluate(recorder);
  EXPECT_EQ(KernelMachine().simulate(recorder, evaluator).seconds, chip.rates.launch);
}

}  // namespace
}  // namespace foretoken::hwmodels::machine
