// How fast kernels are priced from their tile programs: in closed form, and on the machine.
#include <benchmark/benchmark.h>

#include <filesystem>
#include <vector>

#include "analysis/kernels/kernel_cases.h"
#include "analysis/kernels/kernel_timing.h"
#include "hwmodels/kernels/gemm.h"
#include "hwmodels/machine/kernel_machine.h"
#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"

namespace {

namespace fs = std::filesystem;
namespace hw = foretoken::hwmodels;
namespace kernels = foretoken::analysis::kernels;
using hw::machine::KernelMachine;
using hw::tile::Evaluator;
using hw::tile::Recorder;

const fs::path& configs() {
  static const fs::path path = fs::path(FORETOKEN_SOURCE_DIR) / "configs";
  return path;
}

// Attention's output projection of V4-Pro for 64 tokens, in block-scaled FP8.
struct Dense {
  kernels::KernelChip chip = kernels::load_kernel_chip("b200_sxm", configs());
  hw::DesignFile design = hw::load_design("blackwell_gemm_fp8_block", configs());
  hw::kernels::GroupRun group{64, 1};
  hw::kernels::GemmProblem problem = hw::kernels::problem_of(hw::kernels::GemmFormat::kFp8Block);

  Dense() {
    problem.groups = {&group, 1};
    problem.n = 7168;
    problem.k = 16384;
  }
  [[nodiscard]] hw::kernels::GemmKernel kernel() const {
    return {problem, std::get<hw::kernels::GemmDesign>(design.design), chip.rates};
  }
};

void count_events(benchmark::State& state, std::uint64_t events) {
  state.counters["events"] = benchmark::Counter(
      static_cast<double>(events), benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
  // Beside bare_method of engine_bench.
  state.counters["per_event"] = benchmark::Counter(
      static_cast<double>(events), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// The choice of a tile, the program, its time.
void gemm_estimated(benchmark::State& state) {
  const Dense dense;
  Recorder recorder(dense.chip.rates);
  Evaluator evaluator;
  for (auto _ : state) {
    recorder.record(dense.kernel());
    benchmark::DoNotOptimize(evaluator.evaluate(recorder).seconds);
  }
}
BENCHMARK(gemm_estimated);

void gemm_simulated(benchmark::State& state) {
  const Dense dense;
  Recorder recorder(dense.chip.rates);
  Evaluator evaluator;
  evaluator.keep_items(true);
  KernelMachine machine;
  std::uint64_t events = 0;
  for (auto _ : state) {
    recorder.record(dense.kernel());
    evaluator.evaluate(recorder);
    events += machine.simulate(recorder, evaluator).events;
  }
  count_events(state, events);
}
BENCHMARK(gemm_simulated)->Unit(benchmark::kMicrosecond);

// Every launch of every shape of V4-Pro's decode step that the designs of the chip's family are
// timed at.
template <class Visit>
void for_each_decode_launch(const kernels::KernelChip& chip, Visit&& visit) {
  const hw::KernelSet set = hw::load_kernel_set(chip.family, configs());
  for (const std::string& name :
       {set.gemm_bf16.name, set.gemm_fp8_block.name, set.grouped_fp4_fp8.name,
        set.decode_attention.name, set.decode_index.name, set.decode_top_k.name,
        set.short_compressor.name, set.long_compressor.name, set.route.name, set.row.name,
        set.hyper.name, set.expert_rows.name}) {
    const hw::DesignFile design = hw::load_design(name, configs());
    for (const kernels::TimingCase& c : kernels::timing_cases(design, chip.rates)) {
      if (!c.name.starts_with("decode")) continue;
      kernels::for_each_launch(
          design, c.shape, chip.rates,
          [&](const hw::tile::Kernel& kernel, const std::string&) { visit(kernel); });
    }
  }
}

void decode_kernels_estimated(benchmark::State& state) {
  const kernels::KernelChip chip = kernels::load_kernel_chip("b200_sxm", configs());
  Recorder recorder(chip.rates);
  Evaluator evaluator;
  double launches = 0.0;
  for (auto _ : state) {
    for_each_decode_launch(chip, [&](const hw::tile::Kernel& kernel) {
      recorder.record(kernel);
      benchmark::DoNotOptimize(evaluator.evaluate(recorder).seconds);
      launches += 1.0;
    });
  }
  state.counters["launches"] = launches / static_cast<double>(state.iterations());
}
BENCHMARK(decode_kernels_estimated)->Unit(benchmark::kMillisecond);

void decode_kernels_simulated(benchmark::State& state) {
  const kernels::KernelChip chip = kernels::load_kernel_chip("b200_sxm", configs());
  Recorder recorder(chip.rates);
  Evaluator evaluator;
  evaluator.keep_items(true);
  KernelMachine machine;
  std::uint64_t events = 0;
  for (auto _ : state) {
    for_each_decode_launch(chip, [&](const hw::tile::Kernel& kernel) {
      recorder.record(kernel);
      evaluator.evaluate(recorder);
      events += machine.simulate(recorder, evaluator).events;
    });
  }
  count_events(state, events);
}
BENCHMARK(decode_kernels_simulated)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
