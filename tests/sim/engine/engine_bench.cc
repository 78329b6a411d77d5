// What an event costs: the engine's beside a bare SystemC method's in the same run, and one
// estimate.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <systemc>
#include <vector>

#include "sim/engine/simulate.h"
#include "sim/task/estimate.h"
#include "tests/sim/task/graph_spec.h"

namespace foretoken {
namespace {

using base::Seconds;
using task::TaskId;
using test_support::build;
using test_support::GraphSpec;
using test_support::TaskSpec;

// Two methods that wake each other a nanosecond later: the least a timed SystemC event costs.
class PingPong : public sc_core::sc_module {
 public:
  SC_HAS_PROCESS(PingPong);
  explicit PingPong(const sc_core::sc_module_name& name) : sc_module(name) {
    SC_METHOD(on_ping);
    sensitive << ping_;
    dont_initialize();
    SC_METHOD(on_pong);
    sensitive << pong_;
    dont_initialize();
  }

  void play(std::uint64_t events) {
    left_ = events;
    ping_.notify(delay_);
    sc_core::sc_start();
  }

 private:
  void on_ping() {
    if (--left_ > 0) pong_.notify(delay_);
  }
  void on_pong() {
    if (--left_ > 0) ping_.notify(delay_);
  }

  const sc_core::sc_time delay_{1.0, sc_core::SC_NS};
  sc_core::sc_event ping_;
  sc_core::sc_event pong_;
  std::uint64_t left_ = 0;
};

constexpr std::uint64_t kPingPongEvents = 100000;

void bare_method(benchmark::State& state, PingPong& ping_pong) {
  for (auto _ : state) ping_pong.play(kPingPongEvents);
  state.counters["events"] = benchmark::Counter(
      kPingPongEvents, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
  state.counters["per_event"] = benchmark::Counter(
      kPingPongEvents, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void run_engine(benchmark::State& state, const task::TaskGraph& graph) {
  task::Timeline out;
  std::uint64_t events = 0;
  for (auto _ : state) events += engine::simulate(graph, out).events;
  const auto count = static_cast<double>(events);
  const double tasks =
      static_cast<double>(graph.tasks().size()) * static_cast<double>(state.iterations());
  state.counters["events"] =
      benchmark::Counter(count, benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
  state.counters["per_event"] =
      benchmark::Counter(count, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["per_task"] =
      benchmark::Counter(tasks, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// One queue: an event per task.
void engine_chain(benchmark::State& state) {
  std::vector<TaskSpec> tasks;
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    tasks.push_back({.demands = {{0, Seconds{1e-6}}, {1, Seconds{5e-7}}}});
  }
  run_engine(state, build(2, 1, tasks));
}

// As many queues as given, all of which share one memory beside a core each; 64 tasks a queue.
void engine_shared_memory(benchmark::State& state) {
  const auto queues = static_cast<std::uint32_t>(state.range(0));
  std::vector<TaskSpec> tasks;
  for (std::uint32_t i = 0; i < 64; ++i) {
    for (std::uint32_t q = 0; q < queues; ++q) {
      const double uneven = 1.0 + 0.1 * ((i * 7 + q * 13) % 17);
      tasks.push_back(
          {.queue = q, .demands = {{0, Seconds{3e-7 * uneven}}, {1 + q, Seconds{1e-6}}}});
    }
  }
  run_engine(state, build(1 + queues, queues, tasks));
}

// Devices side by side, each with two queues on a memory of its own, 16 tasks a queue: cost per
// event must not depend on how many there are.
void engine_many_devices(benchmark::State& state) {
  const auto devices = static_cast<std::uint32_t>(state.range(0));
  std::vector<TaskSpec> tasks;
  for (std::uint32_t i = 0; i < 16; ++i) {
    for (std::uint32_t d = 0; d < devices; ++d) {
      for (std::uint32_t q = 0; q < 2; ++q) {
        const double uneven = 1.0 + 0.001 * ((i * 7 + d * 13 + q * 29) % 997);
        tasks.push_back({.queue = 2 * d + q,
                         .latency = Seconds{1e-7},
                         .demands = {{2 * d, Seconds{1e-6 * uneven}}, {2 * d + 1, Seconds{4e-7}}}});
      }
    }
  }
  run_engine(state, build(2 * devices, 2 * devices, tasks));
}

// The shape of an inference step: 7 kinds of layers, 180 tasks, 4 queues, 10 resources.
GraphSpec step_spec() {
  GraphSpec spec;
  spec.resources = 10;
  spec.queues = 4;
  for (std::uint32_t s = 0; s < 7; ++s) {
    test_support::SegmentSpec segment;
    segment.repeat = 1 + 5 * s;
    const TaskId count = s == 0 ? 24 : 26;
    for (TaskId i = 0; i < count; ++i) {
      TaskSpec task{
          .queue = i % 4, .latency = Seconds{2e-6}, .demands = {}, .after = {}, .label = i};
      for (std::uint32_t d = 0; d < 2 + i % 2; ++d) {
        task.demands.push_back({(i + 3 * d) % 10, Seconds{1e-6 * (1 + (i * 7 + d) % 11)}});
      }
      if (i >= 1) task.after.push_back(i - 1);
      if (i >= 5 && i % 2 == 0) task.after.push_back(i - 5);
      segment.tasks.push_back(task);
    }
    spec.segments.push_back(segment);
  }
  return spec;
}

void estimate_step(benchmark::State& state) {
  const task::TaskGraph graph = build(step_spec());
  task::Timeline out;
  for (auto _ : state) {
    task::estimate(graph, out);
    benchmark::DoNotOptimize(out.total);
  }
  state.counters["tasks"] = static_cast<double>(graph.tasks().size());
}

void simulate_step(benchmark::State& state) { run_engine(state, build(step_spec())); }

// What a sweep pays to rebuild the graph before each estimate.
void rebuild_step(benchmark::State& state) {
  const task::TaskGraph source = build(step_spec());
  task::TaskGraph graph({source.resources().begin(), source.resources().end()},
                        source.queue_count());
  for (auto _ : state) {
    graph.clear();
    for (const task::Segment& segment : source.segments()) {
      graph.begin_segment(segment.label, segment.repeat);
      for (TaskId id = segment.first; id < segment.first + segment.count; ++id) {
        const task::Task& task = source.tasks()[id];
        graph.add(task.label, task.queue, task.latency, source.demands(task),
                  source.dependencies(task));
      }
    }
    benchmark::DoNotOptimize(graph.tasks().data());
  }
}

BENCHMARK(engine_chain)->Arg(100)->Arg(10000);
BENCHMARK(engine_shared_memory)->Arg(2)->Arg(8)->Arg(32)->Unit(benchmark::kMicrosecond);
BENCHMARK(engine_many_devices)->Arg(1)->Arg(64)->Arg(8192)->Unit(benchmark::kMicrosecond);
BENCHMARK(simulate_step);
BENCHMARK(estimate_step);
BENCHMARK(rebuild_step);

}  // namespace
}  // namespace foretoken

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  // Every module must exist before the kernel first runs.
  foretoken::PingPong ping_pong("ping_pong");
  foretoken::task::Timeline out;
  foretoken::engine::simulate(foretoken::test_support::build(1, 1, {{}}), out);
  benchmark::RegisterBenchmark("bare_method", [&](benchmark::State& state) {
    foretoken::bare_method(state, ping_pong);
  })->Unit(benchmark::kMicrosecond);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
