#include "hwmodels/value/verify_hyper.h"

#include <cmath>
#include <random>
#include <vector>

#include "hwmodels/value/value_machine.h"
#include "reference/ops/hyper.h"
#include "reference/ops/norm.h"

namespace foretoken::hwmodels::value {

namespace k = kernels;
using workloads::Dtype;

namespace {

constexpr reference::Numerics<double, double> kExact{};

class Random {
 public:
  explicit Random(unsigned seed) : generator_(seed) {}
  std::vector<float> normal(std::int64_t count, float deviation = 1.0F) {
    std::normal_distribution<float> d(0.0F, deviation);
    std::vector<float> v(static_cast<std::size_t>(count));
    for (float& x : v) x = d(generator_);
    return v;
  }

 private:
  std::mt19937 generator_;
};

std::vector<double> doubles(const HostTensor& t) {
  const std::vector<float> v = t.values();
  return {v.begin(), v.end()};
}

HostTensor plain(std::vector<float> values, std::int64_t rows, std::int64_t cols) {
  HostTensor t(rows, cols);
  t.elements = std::move(values);
  return t;
}

reference::HyperShape shape_of(const k::HyperProblem& p) {
  return {.streams = p.streams,
          .hidden = p.hidden,
          .sinkhorn_iterations = p.iterations,
          .rms_eps = p.rms_eps,
          .eps = p.eps};
}

}  // namespace

Comparison verify_hyper_pre(const k::HyperDesign& design, const tile::CoreRates& chip,
                            const HyperCase& c, k::HyperFault fault) {
  const k::HyperProblem& p = c.problem;
  Random random(c.seed);
  const std::int64_t square = p.streams * p.streams;
  HostTensor streams = quantised(random.normal(p.tokens * p.wide()), p.tokens, p.wide(), {});
  // Mixes of about one.
  const float deviation = 1.0F / std::sqrt(static_cast<float>(p.wide()));
  HostTensor matrix =
      quantised(random.normal(p.outputs() * p.wide(), deviation), p.outputs(), p.wide(),
                {.dtype = p.compute == Dtype::kBf16 ? Dtype::kBf16 : Dtype::kFp32});
  HostTensor base = plain(random.normal(p.outputs(), 3.0F), 1, p.outputs());
  const std::int64_t parts = p.head ? 1 : 3;
  HostTensor scale = plain({0.7F, 1.3F, 2.0F}, 1, 3);
  if (p.head) scale = plain({0.7F}, 1, 1);
  HostTensor weights = quantised(random.normal(p.hidden), 1, p.hidden, {});
  HostTensor post(p.tokens, p.streams);
  HostTensor comb(p.tokens, square);
  HostTensor output(p.tokens, p.hidden);
  HostTensor mix_parts;
  HostTensor square_parts;
  Comparison result;
  try {
    ValueMachine machine;
    machine.bind("streams", streams);
    machine.bind("matrix", matrix);
    machine.bind("base", base);
    machine.bind("scale", scale);
    machine.bind("weights", weights);
    machine.bind("post", post);
    machine.bind("comb", comb);
    machine.bind("output", output);
    machine.bind("mix_parts", mix_parts);
    machine.bind("square_parts", square_parts);
    for (const k::HyperPass pass : k::hyper_passes(design)) {
      const k::HyperPreKernel kernel(p, design, chip, pass, fault);
      if (pass != k::HyperPass::kFinish) {
        mix_parts = HostTensor(p.tokens, kernel.splits() * p.outputs());
        square_parts = HostTensor(p.tokens, kernel.splits());
      }
      machine.run(kernel);
      if (pass != k::HyperPass::kProject) continue;
      machine.require_written("mix_parts");
      machine.require_written("square_parts");
    }
    machine.require_written("output");
    if (!p.head) {
      machine.require_written("post");
      machine.require_written("comb");
    }
  } catch (const Hazard& h) {
    result.hazard = h.what();
    return result;
  }

  const std::vector<double> x = doubles(streams);
  const std::vector<float> a = matrix.values();
  std::vector<float> scales = scale.elements;
  scales.resize(static_cast<std::size_t>(parts));
  const reference::HyperWeights w{a.data(), base.elements.data(), scales.data()};
  const auto size = [&](std::int64_t cols) { return static_cast<std::size_t>(p.tokens * cols); };
  std::vector<double> u(size(p.hidden));
  if (p.head) {
    reference::hyper_head(kExact, shape_of(p), w, x.data(), p.tokens, u.data());
  } else {
    std::vector<double> mixes(size(p.outputs()));
    std::vector<double> pre(size(p.streams));
    std::vector<double> want_post(size(p.streams));
    std::vector<double> want_comb(size(square));
    reference::hyper_pre(kExact, shape_of(p), w, x.data(), p.tokens,
                         {mixes.data(), pre.data(), want_post.data(), want_comb.data()}, u.data());
    result.add(post.values(), want_post);
    result.add(comb.values(), want_comb);
  }
  if (p.norm) {
    const std::vector<double> by_channel = doubles(weights);
    reference::rms_norm(kExact, u.data(), by_channel.data(), p.norm_eps, p.tokens, p.hidden,
                        u.data());
  }
  result.add(output.values(), u);
  return result;
}

Comparison verify_hyper_post(const k::HyperDesign& design, const tile::CoreRates& chip,
                             const HyperCase& c, k::HyperFault fault) {
  const k::HyperProblem& p = c.problem;
  Random random(c.seed);
  HostTensor streams = quantised(random.normal(p.tokens * p.wide()), p.tokens, p.wide(), {});
  HostTensor layer = quantised(random.normal(p.tokens * p.hidden), p.tokens, p.hidden, {});
  HostTensor post = plain(random.normal(p.tokens * p.streams), p.tokens, p.streams);
  HostTensor comb =
      plain(random.normal(p.tokens * p.streams * p.streams), p.tokens, p.streams * p.streams);
  HostTensor out(p.tokens, p.wide());
  Comparison result;
  try {
    ValueMachine machine;
    machine.bind("streams", streams);
    machine.bind("layer_output", layer);
    machine.bind("post", post);
    machine.bind("comb", comb);
    machine.bind("streams_out", out);
    machine.run(k::HyperPostKernel(p, design, chip, fault));
    machine.require_written("streams_out");
  } catch (const Hazard& h) {
    result.hazard = h.what();
    return result;
  }
  std::vector<double> x = doubles(streams);
  const std::vector<double> y = doubles(layer);
  const std::vector<double> by_stream = doubles(post);
  const std::vector<double> mix = doubles(comb);
  reference::hyper_post(kExact, shape_of(p), y.data(), by_stream.data(), mix.data(), p.tokens,
                        x.data());
  result.add(out.values(), x);
  return result;
}

Tolerance hyper_pre_tolerance(Dtype compute) {
  switch (compute) {
    case Dtype::kTf32:
    case Dtype::kHf32:
      // Products of operands rounded to 11 (HF32: 12) bits: mixes err by 2^-12 of their size, the
      // residual matrix's logits by twice that, its entries by at most as much of themselves; the
      // layer input is BF16, half a unit in the ninth bit of values up to five times their mean.
      return {.max_relative = 0.02, .rms_relative = 2.5e-3};
    default:
      // The matrix is BF16 in the reference too; what remains is FP32 sums and the BF16 output.
      return {.max_relative = 0.02, .rms_relative = 2e-3};
  }
}

Tolerance hyper_post_tolerance() {
  // Half a unit in the ninth bit of values up to eight times their mean.
  return {.max_relative = 0.03, .rms_relative = 2e-3};
}

}  // namespace foretoken::hwmodels::value
