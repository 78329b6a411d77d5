#include "hwmodels/value/verify_gemm.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "hwmodels/value/value_machine.h"

namespace foretoken::hwmodels::value {

using kernels::Epilogue;
using kernels::GemmFault;
using workloads::Dtype;

namespace {

std::vector<float> normal_values(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = normal(generator);
  return v;
}

Quantisation format(Dtype d, const kernels::GemmProblem& p, bool weight) {
  if (d == Dtype::kFp8 && p.fp8_block > 0) return {d, weight ? p.fp8_block : 1, p.fp8_block};
  if (d == Dtype::kFp4) return {d, 1, p.fp4_block};
  return {d};
}

// Rows of `tokens` times the weights of their group, in double, through the epilogue.
std::vector<double> right_product(const GemmCase& test, const HostTensor& activations,
                                  const HostTensor& weights) {
  const std::vector<float> a = activations.values();
  const std::vector<float> w = weights.values();
  const bool swiglu = test.epilogue == Epilogue::kSwiglu;
  const std::int64_t columns = swiglu ? test.n / 2 : test.n;
  std::vector<double> want;
  want.reserve(static_cast<std::size_t>(activations.rows * columns));
  std::vector<double> row(static_cast<std::size_t>(test.n));
  std::int64_t group = 0;
  std::int64_t token = 0;
  for (const kernels::GroupRun& run : test.groups) {
    for (std::int64_t g = 0; g < run.count; ++g, ++group) {
      for (std::int64_t t = 0; t < run.rows; ++t, ++token) {
        const float* x = a.data() + token * test.k;
        for (std::int64_t n = 0; n < test.n; ++n) {
          const float* y = w.data() + (group * test.n + n) * test.k;
          double sum = 0.0;
          for (std::int64_t k = 0; k < test.k; ++k) sum += double{x[k]} * double{y[k]};
          row[static_cast<std::size_t>(n)] = sum;
        }
        for (std::int64_t n = 0; n < columns; ++n) {
          double gate = row[static_cast<std::size_t>(n)];
          if (swiglu) {
            double up = row[static_cast<std::size_t>(n + columns)];
            if (test.swiglu_limit > 0.0) {
              gate = std::min(gate, test.swiglu_limit);
              up = std::clamp(up, -test.swiglu_limit, test.swiglu_limit);
            }
            gate = gate / (1.0 + std::exp(-gate)) * up;
          }
          want.push_back(gate);
        }
      }
    }
  }
  return want;
}

// Every group's weights and every token's activations are normal.
void run(const kernels::GemmDesign& design, const tile::CoreRates& chip, const GemmCase& test,
         GemmFault fault, Comparison& result) {
  kernels::GemmProblem problem = kernels::problem_of(test.format);
  problem.groups = test.groups;
  problem.n = test.n;
  problem.k = test.k;
  problem.output = test.output;
  problem.epilogue = test.epilogue;
  problem.swiglu_limit = test.swiglu_limit;
  problem.fault = fault;
  const kernels::GemmKernel kernel(problem, design, chip);
  const std::int64_t tokens = kernel.tokens();
  std::int64_t groups = 0;
  for (const kernels::GroupRun& g : test.groups) groups += g.count;
  HostTensor weights = quantised(normal_values(groups * test.n * test.k, 2 * test.seed),
                                 groups * test.n, test.k, format(problem.weight, problem, true));
  HostTensor activations = quantised(normal_values(tokens * test.k, 2 * test.seed + 1), tokens,
                                     test.k, format(problem.activation, problem, false));
  const std::int64_t columns = test.epilogue == Epilogue::kSwiglu ? test.n / 2 : test.n;
  HostTensor out(kernel.splits() * tokens, columns);
  Quantisation leaving{Dtype::kFp8, 1, 128};
  const Quantisation right = leaving;
  leaving.scale_floor = fault == GemmFault::kScaleFloor;
  ValueMachine machine;
  machine.bind("weights", weights);
  machine.bind("activations", activations);
  machine.bind("output", out);
  machine.set_quantisation(Dtype::kFp8, leaving);
  machine.run(kernel);
  machine.require_written("output");
  HostTensor sum;
  if (kernel.splits() > 1) {
    sum = HostTensor(tokens, columns);
    ValueMachine second;
    second.bind("partial_sums", out);
    second.bind("output", sum);
    second.run(
        kernels::SplitReduceKernel(kernel.splits(), tokens, columns, problem.output, chip, fault));
    second.require_written("output");
  }
  std::vector<double> want = right_product(test, activations, weights);
  if (test.output == Dtype::kFp8) {
    const std::vector<float> exact(want.begin(), want.end());
    const std::vector<float> narrow = quantised(exact, tokens, columns, right).values();
    want.assign(narrow.begin(), narrow.end());
  }
  result.add((kernel.splits() > 1 ? sum : out).values(), want);
}

}  // namespace

Comparison verify_gemm(const kernels::GemmDesign& design, const tile::CoreRates& chip,
                       const GemmCase& test, GemmFault fault) {
  Comparison result;
  try {
    run(design, chip, test, fault, result);
  } catch (const Hazard& hazard) {
    result.hazard = hazard.what();
  }
  return result;
}

Tolerance gemm_tolerance(Dtype output) {
  // BF16 rounds to 2^-9 of a number at most, a third root less on average; the largest of some
  // thousand activated products is twenty times their mean square root.
  if (output == Dtype::kBf16) return {.max_relative = 0.04, .rms_relative = 2e-3};
  // The right numbers are rounded to FP8 as well, so only those at an edge between two differ: few,
  // by a whole step of 2^-3 of products ten times their mean square root at most.
  if (output == Dtype::kFp8) return {.max_relative = 1.25, .rms_relative = 4e-3};
  // Sums of some thousand products, rounded to 2^-24 at each instruction.
  return {.max_relative = 2e-5, .rms_relative = 2e-6};
}

}  // namespace foretoken::hwmodels::value
