#include "hwmodels/value/verify_top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "hwmodels/value/value_machine.h"
#include "reference/formats/float_formats.h"
#include "reference/ops/selection.h"

namespace foretoken::hwmodels::value {

using workloads::Dtype;

namespace {

std::vector<float> scores_of(const TopKCase& test, std::int64_t rows, std::int64_t columns) {
  std::mt19937 generator(test.seed);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> few(0, 7);
  std::vector<float> v(static_cast<std::size_t>(rows * columns));
  for (std::size_t i = 0; i < v.size(); ++i) {
    const auto column = static_cast<float>(i % static_cast<std::size_t>(columns));
    switch (test.pattern) {
      case ScorePattern::kNormal:
        v[i] = normal(generator);
        break;
      case ScorePattern::kShifted:
        v[i] = 20.0F + normal(generator);
        break;
      case ScorePattern::kTies:
        v[i] = static_cast<float>(few(generator)) - 4.0F;
        break;
      case ScorePattern::kMasked:
        v[i] = few(generator) < 3 ? -std::numeric_limits<float>::infinity() : normal(generator);
        break;
      case ScorePattern::kAscending:
        v[i] = column * 0.25F - 100.0F;
        break;
    }
  }
  return v;
}

}  // namespace

Comparison verify_top_k(const kernels::TopKDesign& design, const tile::CoreRates& chip,
                        const TopKCase& test, kernels::TopKFault fault) {
  Comparison result;
  try {
    const kernels::TopKProblem problem{
        .sequences = test.sequences,
        .ratio = test.ratio,
        .k = test.k,
        .score = fault == kernels::TopKFault::kWideScores ? Dtype::kFp32 : test.score};
    const kernels::TopKKernel kernel(problem, design, chip);
    const std::vector<float> raw = scores_of(test, kernel.rows(), kernel.columns());
    HostTensor scores = quantised(raw, kernel.rows(), kernel.columns(), {.dtype = problem.score});
    HostTensor selected(kernel.rows() * test.k, 1);
    HostTensor candidates(kernel.candidates(), 2);
    ValueMachine machine;
    machine.bind("scores", scores);
    machine.bind("selected", selected);
    machine.bind("candidates", candidates);
    machine.run(kernel);
    if (kernel.candidates() > 0) {
      machine.require_written("candidates");
      machine.run(kernels::TopKMergeKernel(kernel, fault));
    }
    machine.require_written("selected");

    std::int64_t row = 0;
    std::int64_t right = 0;
    std::int64_t found = 0;
    std::vector<std::int32_t> want;
    for (const kernels::SequenceGroup& g : test.sequences) {
      for (std::int64_t i = 0; i < g.count * g.queries; ++i, ++row) {
        const std::int64_t seen = kernels::visible_entries(g.history + i % g.queries, test.ratio);
        std::vector<double> x(static_cast<std::size_t>(seen));
        std::int64_t there = 0;
        for (std::int64_t e = 0; e < seen; ++e) {
          const float s = raw[static_cast<std::size_t>(row * kernel.columns() + e)];
          x[static_cast<std::size_t>(e)] =
              test.score == Dtype::kBf16 ? reference::round_bf16(s) : s;
          there += s > -std::numeric_limits<float>::infinity() ? 1 : 0;
        }
        reference::top_k(x.data(), seen, std::min(test.k, there), want);
        std::set<std::int64_t> got;
        for (std::int64_t j = 0; j < test.k; ++j) {
          const auto number = static_cast<std::int64_t>(
              selected.elements[static_cast<std::size_t>(row * test.k + j)]);
          if (number == -1) continue;
          if (number < 0 || number >= seen || !got.insert(number).second) {
            result.max_relative = std::numeric_limits<double>::infinity();
          }
        }
        // Too many are as wrong as too few.
        if (got.size() > want.size()) {
          result.max_relative = std::numeric_limits<double>::infinity();
        }
        right += static_cast<std::int64_t>(want.size());
        for (const std::int32_t e : want) found += got.contains(e) ? 1 : 0;
      }
    }
    result.elements = right;
    if (right > 0) result.recall = static_cast<double>(found) / static_cast<double>(right);
  } catch (const Hazard& hazard) {
    result.hazard = hazard.what();
  }
  return result;
}

Tolerance top_k_tolerance() { return {}; }

}  // namespace foretoken::hwmodels::value
