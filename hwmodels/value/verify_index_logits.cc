#include "hwmodels/value/verify_index_logits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "hwmodels/value/value_machine.h"
#include "reference/ops/selection.h"

namespace foretoken::hwmodels::value {

using workloads::Dtype;

namespace {

std::vector<float> normal_values(std::int64_t count, std::mt19937& generator, float scale = 1.0F) {
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = normal(generator);
  return v;
}

Quantisation format(Dtype d, std::int64_t width) {
  if (d == Dtype::kFp4) return {.dtype = d, .block_cols = 32};
  if (d == Dtype::kFp8) return {.dtype = d, .block_cols = width};
  return {.dtype = d};
}

}  // namespace

Comparison verify_index_logits(const kernels::IndexLogitsDesign& design,
                               const tile::CoreRates& chip, const IndexLogitsCase& test,
                               kernels::IndexLogitsFault fault) {
  Comparison result;
  try {
    const kernels::IndexLogitsProblem problem{.sequences = test.sequences,
                                              .heads = test.heads,
                                              .width = test.width,
                                              .ratio = test.ratio,
                                              .page = test.page,
                                              .key = test.key,
                                              .compute = test.compute,
                                              .score = test.score};
    const kernels::IndexLogitsKernel kernel(problem, design, chip, fault);
    std::mt19937 generator(test.seed);
    const std::int64_t rows = kernel.queries() * test.heads;
    HostTensor queries = quantised(normal_values(rows * test.width, generator), rows, test.width,
                                   format(test.compute, test.width));
    const std::vector<float> weight = normal_values(rows, generator, 0.1F);
    HostTensor weights(rows, 1);
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto i = static_cast<std::size_t>(r);
      // FP8 queries' scales come with the weights.
      const bool folded = test.compute == Dtype::kFp8;
      weights.elements[i] =
          folded ? weight[i] * queries.scales[static_cast<std::size_t>(r * test.width)] : weight[i];
    }
    const std::int64_t entries = kernel.pages() * test.page;
    HostTensor keys = quantised(normal_values(entries * test.width, generator), entries, test.width,
                                format(test.key, test.width));
    HostTensor pages(kernel.pages(), 1);
    std::iota(pages.elements.begin(), pages.elements.end(), 0.0F);
    std::shuffle(pages.elements.begin(), pages.elements.end(), generator);
    HostTensor scores(kernel.queries(), kernel.columns());

    ValueMachine machine;
    machine.bind("queries", queries);
    machine.bind("head_weights", weights);
    machine.bind("keys", keys);
    machine.bind("pages", pages);
    machine.bind("scores", scores);
    machine.run(kernel);

    const std::vector<float> q = queries.values();
    const std::vector<float> k = keys.values();
    const reference::Numerics<double, double> exact;
    std::int64_t query = 0;
    std::int64_t first_page = 0;
    for (const kernels::SequenceGroup& g : test.sequences) {
      for (std::int64_t s = 0; s < g.count; ++s) {
        for (std::int64_t j = 0; j < g.queries; ++j, ++query) {
          const std::int64_t seen = kernels::visible_entries(g.history + j, test.ratio);
          std::vector<double> heads(static_cast<std::size_t>(test.heads * test.width));
          std::vector<double> head_weights(static_cast<std::size_t>(test.heads));
          for (std::size_t i = 0; i < heads.size(); ++i) {
            heads[i] = q[static_cast<std::size_t>(query) * heads.size() + i];
          }
          for (std::size_t i = 0; i < head_weights.size(); ++i) {
            head_weights[i] = weight[static_cast<std::size_t>(query) * head_weights.size() + i];
          }
          std::vector<double> row(static_cast<std::size_t>(seen * test.width));
          for (std::int64_t e = 0; e < seen; ++e) {
            const auto page = static_cast<std::int64_t>(
                pages.elements[static_cast<std::size_t>(first_page + e / test.page)]);
            for (std::int64_t c = 0; c < test.width; ++c) {
              row[static_cast<std::size_t>(e * test.width + c)] =
                  k[static_cast<std::size_t>((page * test.page + e % test.page) * test.width + c)];
            }
          }
          std::vector<double> want(static_cast<std::size_t>(seen));
          reference::index_scores(exact, heads.data(), head_weights.data(), test.heads, test.width,
                                  row.data(), seen, test.score == Dtype::kBf16, want.data());
          std::vector<float> got(static_cast<std::size_t>(seen));
          for (std::int64_t e = 0; e < kernel.columns(); ++e) {
            const auto i = static_cast<std::size_t>(query * kernel.columns() + e);
            if (e < seen && scores.written[i] == 0) {
              throw Hazard(
                  fmt::format("score of entry {} for query {} was never written", e, query));
            }
            if (e < seen) {
              got[static_cast<std::size_t>(e)] = scores.elements[i];
            } else if (scores.written[i] != 0 &&
                       scores.elements[i] > -std::numeric_limits<float>::infinity()) {
              // An entry out of sight has a score.
              result.max_relative = std::numeric_limits<double>::infinity();
            }
          }
          result.add(got, want);
        }
        first_page += (kernels::visible_entries(g.history + g.queries - 1, test.ratio) +
                       (fault == kernels::IndexLogitsFault::kCausalBound ? 1 : 0) + test.page - 1) /
                      test.page;
      }
    }
  } catch (const Hazard& hazard) {
    result.hazard = hazard.what();
  }
  return result;
}

Tolerance index_logits_tolerance(Dtype score) {
  // FP32: sums of heads x width products, each rounded to 2^-24. BF16: half a step of 2^-8 more
  // where a score lies at the edge between two, of scores up to four times their mean square root.
  if (score == Dtype::kBf16) return {.max_relative = 0.04, .rms_relative = 2e-3};
  return {.max_relative = 1e-5, .rms_relative = 1e-6};
}

}  // namespace foretoken::hwmodels::value
