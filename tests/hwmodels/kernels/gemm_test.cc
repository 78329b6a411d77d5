// Matrix products as tile programs: their values against a product in double, their hazards, and
// what their time does when a design or a chip changes.
#include "hwmodels/kernels/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/value_machine.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using tile::CoreRates;
using value::HostTensor;
using value::Quantisation;
using value::ValueMachine;
using workloads::Dtype;

std::vector<float> random_values(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = normal(generator);
  return v;
}

Quantisation format(Dtype d, bool weight) {
  if (d == Dtype::kFp8) return {d, weight ? 128 : 1, 128};
  if (d == Dtype::kFp4) return {d, 1, 32};
  return {d};
}

struct Run {
  std::vector<float> out;
  std::vector<double> want;
};

Run run_gemm(const GemmProblem& p, const GemmDesign& d, const CoreRates& chip) {
  const GemmKernel kernel(p, d, chip);
  std::int64_t groups = 0;
  for (const GroupRun& g : p.groups) groups += g.count;
  const std::int64_t tokens = kernel.tokens();
  HostTensor weights = value::quantised(random_values(groups * p.n * p.k, 1), groups * p.n, p.k,
                                        format(p.weight, true));
  HostTensor activations =
      value::quantised(random_values(tokens * p.k, 2), tokens, p.k, format(p.activation, false));
  const bool swiglu = p.epilogue == Epilogue::kSwiglu;
  const std::int64_t columns = swiglu ? p.n / 2 : p.n;
  HostTensor out(kernel.splits() * tokens, columns);
  ValueMachine machine;
  machine.bind("weights", weights);
  machine.bind("activations", activations);
  machine.bind("output", out);
  machine.run(kernel);
  machine.require_written("output");
  Run r;
  if (kernel.splits() > 1) {
    HostTensor sum(tokens, columns);
    ValueMachine second;
    second.bind("partial_sums", out);
    second.bind("output", sum);
    second.run(SplitReduceKernel(kernel.splits(), tokens, columns, p.output));
    second.require_written("output");
    r.out = sum.values();
  } else {
    r.out = out.values();
  }
  std::int64_t token = 0;
  std::vector<std::int64_t> rows;
  for (const GroupRun& g : p.groups)
    rows.insert(rows.end(), static_cast<std::size_t>(g.count), g.rows);
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t t = 0; t < rows[static_cast<std::size_t>(g)]; ++t, ++token) {
      std::vector<double> row(static_cast<std::size_t>(p.n));
      for (std::int64_t n = 0; n < p.n; ++n) {
        for (std::int64_t k = 0; k < p.k; ++k) {
          row[static_cast<std::size_t>(n)] +=
              double{activations.value(token, k)} * double{weights.value(g * p.n + n, k)};
        }
      }
      for (std::int64_t n = 0; n < columns; ++n) {
        double x = row[static_cast<std::size_t>(n)];
        if (swiglu) x = x / (1.0 + std::exp(-x)) * row[static_cast<std::size_t>(n + p.n / 2)];
        r.want.push_back(x);
      }
    }
  }
  return r;
}

double relative_rms(const Run& r) {
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < r.want.size(); ++i) {
    error += (r.out[i] - r.want[i]) * (r.out[i] - r.want[i]);
    norm += r.want[i] * r.want[i];
  }
  return std::sqrt(error / norm);
}

double seconds(const tile::Kernel& kernel, const CoreRates& chip) {
  tile::Recorder recorder(chip);
  recorder.record(kernel);
  return tile::Evaluator().evaluate(recorder).seconds;
}

TEST(GemmKernel, ComputesTheProductInEveryFormatAndFamily) {
  const std::vector<GroupRun> uneven = {{5, 1}, {0, 1}, {130, 1}, {33, 2}};
  for (const char* system : {"hgx_h200", "hgx_b200", "atlas_950_1024"}) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const auto& [activation, weight, compute] :
         std::vector<std::array<Dtype, 3>>{{Dtype::kBf16, Dtype::kBf16, Dtype::kBf16},
                                           {Dtype::kFp8, Dtype::kFp8, Dtype::kFp8},
                                           {Dtype::kFp8, Dtype::kFp4, Dtype::kFp8},
                                           {Dtype::kFp4, Dtype::kFp4, Dtype::kFp4}}) {
      if (chip.matrix[static_cast<std::size_t>(compute)] <= 0.0) continue;
      for (const Epilogue epilogue : {Epilogue::kStore, Epilogue::kSwiglu}) {
        const GemmProblem problem{.groups = uneven,
                                  .n = 320,
                                  .k = 640,
                                  .activation = activation,
                                  .weight = weight,
                                  .compute = compute,
                                  .output = Dtype::kFp32,
                                  .epilogue = epilogue};
        const GemmDesign design{.tiles = {{.weights = 128, .tokens = 64}}};
        EXPECT_LT(relative_rms(run_gemm(problem, design, chip)), 1e-6)
            << system << to_string(weight);
      }
    }
  }
}

TEST(GemmKernel, BlockScalesOnVectorUnitsGiveTheSameProduct) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const std::vector<GroupRun> rows = {{70, 1}};
  const GemmProblem problem{.groups = rows,
                            .n = 256,
                            .k = 512,
                            .activation = Dtype::kFp8,
                            .weight = Dtype::kFp8,
                            .compute = Dtype::kFp8,
                            .output = Dtype::kFp32};
  const GemmDesign design{.scales = ScalePath::kVector};
  EXPECT_LT(relative_rms(run_gemm(problem, design, chip)), 1e-6);
}

TEST(GemmKernel, SplitsOfTheDepthAddUp) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const std::vector<GroupRun> rows = {{3, 1}};
  const GemmProblem problem{.groups = rows, .n = 256, .k = 2048, .output = Dtype::kFp32};
  const GemmDesign design{.tiles = {{.tokens = 16}}, .split_k = 8};
  ASSERT_GT(GemmKernel(problem, design, chip).splits(), 1);
  EXPECT_LT(relative_rms(run_gemm(problem, design, chip)), 1e-6);
}

TEST(GemmKernel, TakesNoLessThanTheRoofline) {
  for (const char* system : {"hgx_h200", "hgx_b200", "atlas_950_1024"}) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const std::int64_t m : {1, 64, 1024, 8192}) {
      const std::vector<GroupRun> rows = {{m, 1}};
      const GemmProblem p{.groups = rows, .n = 4096, .k = 7168};
      const GemmDesign design{
          .tiles = {{.tokens = 16}, {.tokens = 64}, {.tokens = 128}, {.tokens = 256}}};
      const GemmKernel kernel(p, design, chip);
      const double t = seconds(kernel, chip);
      const double flops = 2.0 * static_cast<double>(m) * 4096 * 7168;
      EXPECT_GE(t, flops / (chip.matrix[static_cast<std::size_t>(Dtype::kBf16)] * chip.cores));
      EXPECT_GE(t, 2.0 * 4096 * 7168 / chip.memory);
    }
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
