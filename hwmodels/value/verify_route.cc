#include "hwmodels/value/verify_route.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "hwmodels/value/value_machine.h"

namespace foretoken::hwmodels::value {

Comparison verify_route(const kernels::RouteDesign& design, const tile::CoreRates& chip,
                        const RouteCase& test, kernels::RouteFault fault) {
  Comparison result;
  try {
    const reference::RouterShape& shape = test.router;
    const kernels::RouteProblem problem{
        .tokens = test.tokens, .router = shape, .bias = test.bias, .vocab = test.vocab};
    const kernels::RouteKernel kernel(problem, design, chip, fault);
    const bool fixed = test.vocab > 0;
    const bool biased = test.bias && !fixed;
    std::mt19937 generator(test.seed);
    std::normal_distribution<float> normal;
    HostTensor logits(test.tokens, shape.experts);
    for (float& x : logits.elements) x = 2.0F * normal(generator);
    HostTensor bias(biased ? 1 : 0, shape.experts);
    for (float& x : bias.elements) x = 0.5F * normal(generator);
    HostTensor ids(fixed ? test.tokens : 0, 1);
    HostTensor table(test.vocab, shape.topk);
    std::vector<std::int32_t> all(static_cast<std::size_t>(shape.experts));
    std::iota(all.begin(), all.end(), 0);
    for (std::int64_t v = 0; v < test.vocab; ++v) {
      std::shuffle(all.begin(), all.end(), generator);
      std::copy_n(all.begin(), shape.topk, table.elements.begin() + v * shape.topk);
    }
    std::uniform_int_distribution<std::int64_t> token(0, std::max<std::int64_t>(1, test.vocab) - 1);
    for (float& x : ids.elements) x = static_cast<float>(token(generator));
    HostTensor experts(test.tokens, shape.topk);
    HostTensor weights(test.tokens, shape.topk);

    ValueMachine machine;
    machine.bind("logits", logits);
    machine.bind("bias", bias);
    machine.bind("token_ids", ids);
    machine.bind("table", table);
    machine.bind("experts", experts);
    machine.bind("weights", weights);
    machine.run(kernel);
    machine.require_written("experts");
    machine.require_written("weights");

    const reference::Numerics<double, double> exact;
    std::int64_t found = 0;
    std::vector<double> want;
    for (std::int64_t t = 0; t < test.tokens; ++t) {
      const auto at = logits.elements.begin() + t * shape.experts;
      const std::vector<double> row(at, at + shape.experts);
      std::vector<std::int32_t> given(static_cast<std::size_t>(shape.topk));
      if (fixed) {
        const auto id = static_cast<std::int64_t>(ids.elements[static_cast<std::size_t>(t)]);
        for (std::int64_t i = 0; i < shape.topk; ++i) {
          given[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(table.value(id, i));
        }
      }
      std::vector<std::int32_t> chosen(given.size());
      std::vector<double> weight(given.size());
      reference::route(exact, shape, row.data(), biased ? bias.elements.data() : nullptr,
                       fixed ? given.data() : nullptr, chosen.data(), weight.data());
      std::set<std::int32_t> got;
      for (std::int64_t i = 0; i < shape.topk; ++i) {
        got.insert(static_cast<std::int32_t>(experts.value(t, i)));
      }
      for (const std::int32_t e : chosen) found += got.contains(e) ? 1 : 0;
      want.insert(want.end(), weight.begin(), weight.end());
    }
    result.add(weights.elements, want);
    if (!want.empty())
      result.recall = static_cast<double>(found) / static_cast<double>(want.size());
  } catch (const Hazard& hazard) {
    result.hazard = hazard.what();
  }
  return result;
}

Tolerance route_tolerance() {
  // FP32 exponentials and logarithms; two experts whose scores differ by less do not occur.
  return {.max_relative = 1e-5, .rms_relative = 1e-6};
}

}  // namespace foretoken::hwmodels::value
