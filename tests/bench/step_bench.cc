// How fast the main job's parts are: counting a model, building and evaluating a step. The baseline
// in the same run builds and evaluates every layer by itself instead of every kind of layer once.
#include <benchmark/benchmark.h>

#include <filesystem>

#include "analysis/step.h"
#include "hwmodels/stack.h"
#include "sim/base/config.h"
#include "workloads/count.h"
#include "workloads/model_spec.h"

namespace {

namespace fs = std::filesystem;
namespace w = foretoken::workloads;
namespace hw = foretoken::hwmodels;
using foretoken::analysis::Deployment;
using foretoken::analysis::StepEvaluator;

const fs::path& configs() {
  static const fs::path path = fs::path(FORETOKEN_SOURCE_DIR) / "configs";
  return path;
}

struct Case {
  w::ModelSpec model = w::load_model("deepseek-v4-pro", configs());
  hw::Hardware hardware = hw::load_hardware("gb300_nvl72", configs());
  hw::Stack stack = hw::load_stack("serving", configs());
  w::ParallelPlan plan;

  Case() {
    plan.dp = 64;
    plan.ep = 64;
    plan.overlap = w::Overlap::kWaves;
  }
  [[nodiscard]] Deployment deployment(bool draft = false) const {
    return {&model, &hardware, &stack, w::release_precision(model), plan, draft};
  }
};

w::Batch decode(std::int64_t sequences, std::int64_t context) {
  w::Batch b;
  b.sequences = sequences;
  b.context = context;
  return b;
}

// Every layer its own class, as if no two were alike.
w::ModelSpec without_classes(w::ModelSpec model) {
  model.classes.clear();
  model.class_of.clear();
  for (const w::LayerSpec& layer : model.layers) {
    model.class_of.push_back(static_cast<std::uint32_t>(model.classes.size()));
    model.classes.push_back({layer, 1});
  }
  model.attention_classes = model.classes;
  model.attention_class_of = model.class_of;
  model.ffn_classes = model.classes;
  model.ffn_class_of = model.class_of;
  return model;
}

void count_model(benchmark::State& state) {
  const Case c;
  const w::Precision precision = w::release_precision(c.model);
  std::int64_t context = 1'000'000;
  for (auto _ : state) {
    benchmark::DoNotOptimize(w::count_parameters(c.model));
    benchmark::DoNotOptimize(w::count_decode(c.model, ++context));
    benchmark::DoNotOptimize(w::count_kv(c.model, precision, context));
    benchmark::DoNotOptimize(w::count_weight_bytes(c.model, precision));
  }
}
BENCHMARK(count_model);

void count_model_layer_by_layer(benchmark::State& state) {
  const Case c;
  const w::ModelSpec model = without_classes(c.model);
  const w::Precision precision = w::release_precision(model);
  std::int64_t context = 1'000'000;
  for (auto _ : state) {
    benchmark::DoNotOptimize(w::count_parameters(model));
    benchmark::DoNotOptimize(w::count_decode(model, ++context));
    benchmark::DoNotOptimize(w::count_kv(model, precision, context));
    benchmark::DoNotOptimize(w::count_weight_bytes(model, precision));
  }
}
BENCHMARK(count_model_layer_by_layer);

// A new evaluator, its graphs built from nothing, one estimate.
void step_from_nothing(benchmark::State& state) {
  const Case c;
  for (auto _ : state) {
    StepEvaluator evaluator(c.deployment());
    benchmark::DoNotOptimize(evaluator.estimate(decode(8192, 131072)));
  }
}
BENCHMARK(step_from_nothing);

void step_other_batch(benchmark::State& state) {
  const Case c;
  StepEvaluator evaluator(c.deployment());
  std::int64_t i = 0;
  for (auto _ : state) {
    ++i;
    benchmark::DoNotOptimize(evaluator.estimate(decode(4096 + 64 * (i % 64), 65536)));
  }
}
BENCHMARK(step_other_batch);

void step_other_context(benchmark::State& state) {
  const Case c;
  StepEvaluator evaluator(c.deployment());
  std::int64_t i = 0;
  for (auto _ : state) {
    ++i;
    benchmark::DoNotOptimize(evaluator.estimate(decode(4096, 65536 + i % 4096)));
  }
}
BENCHMARK(step_other_context);

// With one MTP draft: two tokens verified, one more block computed.
void step_other_batch_with_draft(benchmark::State& state) {
  const Case c;
  StepEvaluator evaluator(c.deployment(true));
  std::int64_t i = 0;
  for (auto _ : state) {
    ++i;
    w::Batch batch = decode(4096 + 64 * (i % 64), 65536);
    batch.new_tokens = 2;
    batch.draft_tokens = 1;
    benchmark::DoNotOptimize(evaluator.estimate(batch));
  }
}
BENCHMARK(step_other_batch_with_draft);

void step_layer_by_layer(benchmark::State& state) {
  Case c;
  c.model = without_classes(c.model);
  StepEvaluator evaluator(c.deployment());
  std::int64_t i = 0;
  for (auto _ : state) {
    ++i;
    benchmark::DoNotOptimize(evaluator.estimate(decode(4096 + 64 * (i % 64), 65536 + i % 4096)));
  }
}
BENCHMARK(step_layer_by_layer);

void step_simulated(benchmark::State& state) {
  const Case c;
  StepEvaluator evaluator(c.deployment());
  for (auto _ : state) benchmark::DoNotOptimize(evaluator.simulate(decode(8192, 131072)));
}
BENCHMARK(step_simulated);

}  // namespace

BENCHMARK_MAIN();
