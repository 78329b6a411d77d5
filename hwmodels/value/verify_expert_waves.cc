#include "hwmodels/value/verify_expert_waves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <random>

#include "reference/formats/block_formats.h"
#include "reference/formats/float_formats.h"
#include "reference/ops/norm.h"
#include "reference/ops/router.h"
#include "workloads/op.h"

namespace foretoken::hwmodels::value {

namespace k = kernels;
using k::GemmFormat;
using workloads::Dtype;

namespace {

std::vector<float> normal_values(std::int64_t count, double scale, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = static_cast<float>(normal(generator));
  return v;
}

Quantisation tokens_rule(GemmFormat f) {
  return f == GemmFormat::kFp4Fp8     ? Quantisation{Dtype::kFp8, 1, 32}
         : f == GemmFormat::kFp8Block ? Quantisation{Dtype::kFp8, 1, 128}
                                      : Quantisation{Dtype::kBf16};
}

Quantisation weights_rule(GemmFormat f) {
  return f == GemmFormat::kFp4Fp8     ? Quantisation{Dtype::kFp4, 1, 32}
         : f == GemmFormat::kFp8Block ? Quantisation{Dtype::kFp8, 128, 128}
                                      : Quantisation{Dtype::kBf16};
}

// One layer's numbers, of all tokens and experts.
struct Layer {
  HostTensor tokens;                 // [all tokens, hidden]
  HostTensor up;                     // [experts * 2 inner, hidden]
  HostTensor down;                   // [experts * hidden, inner]
  std::vector<std::int32_t> choice;  // [all tokens, choices]
  std::vector<float> weight;
};

// Rows of a tensor as a tensor of its own, in one of `rows` rows.
HostTensor part_of(const HostTensor& t, std::int64_t first, std::int64_t count, std::int64_t rows) {
  HostTensor part(rows, t.cols);
  const auto begin = static_cast<std::ptrdiff_t>(first * t.cols);
  const auto length = static_cast<std::ptrdiff_t>(count * t.cols);
  std::copy_n(t.elements.begin() + begin, length, part.elements.begin());
  if (!t.scales.empty()) {
    part.scales.assign(part.elements.size(), 1.0F);
    std::copy_n(t.scales.begin() + begin, length, part.scales.begin());
  }
  return part;
}

Layer make_layer(const ExpertWavesCase& c, std::int64_t number) {
  const std::int64_t tokens = std::accumulate(c.tokens.begin(), c.tokens.end(), std::int64_t{0});
  const auto seed = c.seed * 1000 + static_cast<unsigned>(number) * 10;
  Layer l;
  l.tokens = quantised(normal_values(tokens * c.hidden, 1.0, seed), tokens, c.hidden,
                       tokens_rule(c.format));
  // Gates and ups of a few units, some beyond the clamp.
  const double up_scale = 2.0 / std::sqrt(static_cast<double>(c.hidden));
  const double down_scale = 1.0 / std::sqrt(static_cast<double>(c.inner));
  l.up = quantised(normal_values(c.experts * 2 * c.inner * c.hidden, up_scale, seed + 1),
                   c.experts * 2 * c.inner, c.hidden, weights_rule(c.format));
  l.down = quantised(normal_values(c.experts * c.hidden * c.inner, down_scale, seed + 2),
                     c.experts * c.hidden, c.inner, weights_rule(c.format));
  std::vector<float> logits = normal_values(tokens * c.experts, 1.0, seed + 3);
  const std::int64_t local = c.experts / static_cast<std::int64_t>(c.tokens.size());
  for (std::int64_t i = 0; i < tokens * c.experts; ++i) {
    float& x = logits[static_cast<std::size_t>(i)];
    const std::int64_t e = i % c.experts;
    if (c.popularity == Popularity::kHot && e == c.experts / 2) x += 3.0F;
    if (c.popularity == Popularity::kUnloved && e == 1) x -= 100.0F;
    if (c.popularity == Popularity::kOneRank && e < c.experts - local) x -= 100.0F;
  }
  const reference::RouterShape shape{.experts = c.experts, .topk = c.choices, .scale = 2.5};
  l.choice.resize(static_cast<std::size_t>(tokens * c.choices));
  l.weight.resize(l.choice.size());
  for (std::int64_t t = 0; t < tokens; ++t) {
    reference::route(reference::Numerics<float, double>{}, shape, logits.data() + t * c.experts,
                     nullptr, nullptr, l.choice.data() + t * c.choices,
                     l.weight.data() + t * c.choices);
  }
  return l;
}

// The reference's layer in double; rounded where it stores what the kernel stores: the activation
// as quantised for the second product, each expert's row in BF16.
std::vector<double> right_layer(const ExpertWavesCase& c, const Layer& l, std::int64_t block) {
  const std::int64_t tokens = l.tokens.rows;
  const std::vector<float> x = l.tokens.values();
  const std::vector<float> up = l.up.values();
  const std::vector<float> down = l.down.values();
  const auto product = [](const float* weights, const auto* in, std::int64_t n, std::int64_t depth,
                          double* out) {
    for (std::int64_t i = 0; i < n; ++i) {
      double sum = 0.0;
      for (std::int64_t j = 0; j < depth; ++j) {
        sum += double{weights[i * depth + j]} * double{in[j]};
      }
      out[i] = sum;
    }
  };
  std::vector<double> want(static_cast<std::size_t>(tokens * c.hidden));
  std::vector<double> both(static_cast<std::size_t>(2 * c.inner));
  std::vector<double> row(static_cast<std::size_t>(c.hidden));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t j = 0; j < c.choices; ++j) {
      const auto pair = static_cast<std::size_t>(t * c.choices + j);
      const std::int64_t e = l.choice[pair];
      product(up.data() + e * 2 * c.inner * c.hidden, x.data() + t * c.hidden, 2 * c.inner,
              c.hidden, both.data());
      const double weight = l.weight[pair];
      std::vector<double> hidden(static_cast<std::size_t>(c.inner));
      reference::swiglu(reference::Numerics<double, double>{}, both.data(), both.data() + c.inner,
                        &weight, c.swiglu_limit, 1, c.inner, hidden.data());
      if (block > 0) {
        reference::fake_quantise_e4m3(std::span<double>(hidden), block, reference::kFp8Activation);
      } else {
        for (double& h : hidden) h = reference::round_bf16(static_cast<float>(h));
      }
      product(down.data() + e * c.hidden * c.inner, hidden.data(), c.hidden, c.inner, row.data());
      for (std::int64_t i = 0; i < c.hidden; ++i) {
        want[static_cast<std::size_t>(t * c.hidden + i)] +=
            reference::round_bf16(static_cast<float>(row[static_cast<std::size_t>(i)]));
      }
    }
  }
  return want;
}

// One rank's inputs and output of a layer, and its kernel.
struct LayerShare {
  HostTensor experts, router_weights, up, down, output;
  std::unique_ptr<k::ExpertWavesKernel> kernel;
};

// What a rank's layers work in, one after another.
struct Workspace {
  HostTensor block_counts, places, group_rows, list, pool, row_weights, row_places, hidden;
};

// [ranks, experts]
std::vector<std::int64_t> counts_of(const ExpertWavesCase& c, const Layer& layer) {
  std::vector<std::int64_t> counts(c.tokens.size() * static_cast<std::size_t>(c.experts));
  std::size_t pair = 0;
  for (std::size_t r = 0; r < c.tokens.size(); ++r) {
    for (std::int64_t i = 0; i < c.tokens[r] * c.choices; ++i) {
      ++counts[r * static_cast<std::size_t>(c.experts) +
               static_cast<std::size_t>(layer.choice[pair++])];
    }
  }
  return counts;
}

// Rows that arrive at the rank where most do.
std::int64_t most_rows(const ExpertWavesCase& c, const std::vector<std::int64_t>& counts) {
  std::vector<std::int64_t> rows(c.tokens.size());
  const std::size_t local = static_cast<std::size_t>(c.experts) / rows.size();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    rows[i % static_cast<std::size_t>(c.experts) / local] += counts[i];
  }
  return *std::max_element(rows.begin(), rows.end());
}

void require_bytes(std::int64_t rank, std::string_view what, std::int64_t moved,
                   std::int64_t counted) {
  if (moved == counted) return;
  throw Hazard(fmt::format("rank {}: {} moves {} B over the links, but {} B are to be moved", rank,
                           what, moved, counted));
}

void run(const k::ExpertWavesDesign& design, const tile::CoreRates& chip, const ExpertWavesCase& c,
         k::ExpertWavesFault fault, Comparison& result) {
  const auto ranks = static_cast<std::int64_t>(c.tokens.size());
  const std::int64_t local = c.experts / ranks;
  const std::int64_t capacity =
      std::max<std::int64_t>(1, *std::max_element(c.tokens.begin(), c.tokens.end()));
  std::vector<std::int64_t> first_token = {0};
  for (const std::int64_t t : c.tokens) first_token.push_back(first_token.back() + t);
  const auto in_rank = [&](std::int64_t r) { return c.tokens[static_cast<std::size_t>(r)]; };
  const bool pulls = design.dispatch == k::DispatchForm::kPull;

  std::vector<Layer> layers;
  for (std::int64_t l = 0; l < c.layers; ++l) layers.push_back(make_layer(c, l));

  std::vector<std::vector<std::int64_t>> counts;
  std::int64_t pool = 0;
  for (const Layer& layer : layers) {
    counts.push_back(counts_of(c, layer));
    pool = std::max(pool, most_rows(c, counts.back()));
  }

  RankedMachines machines(ranks);
  std::vector<std::vector<LayerShare>> shares(layers.size());
  std::vector<std::vector<HostTensor>> tokens(layers.size());
  std::vector<std::vector<const tile::Kernel*>> launches(c.tokens.size());
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const Layer& layer = layers[l];
    const auto number = static_cast<std::int64_t>(l);
    shares[l].resize(c.tokens.size());
    for (std::int64_t r = 0; r < ranks; ++r) {
      const std::int64_t n = in_rank(r);
      const std::int64_t first = first_token[static_cast<std::size_t>(r)];
      LayerShare& s = shares[l][static_cast<std::size_t>(r)];
      const k::ExpertWavesProblem problem{.rank = r,
                                          .ranks = ranks,
                                          .tokens = n,
                                          .capacity = capacity,
                                          .pool = pool,
                                          .choices = c.choices,
                                          .experts = c.experts,
                                          .hidden = c.hidden,
                                          .inner = c.inner,
                                          .format = c.format,
                                          .swiglu_limit = c.swiglu_limit,
                                          .counts = counts[l],
                                          .layer = number,
                                          .fault = fault};
      s.kernel = std::make_unique<k::ExpertWavesKernel>(problem, design, chip);
      launches[static_cast<std::size_t>(r)].push_back(s.kernel.get());
      tokens[l].push_back(part_of(layer.tokens, first, n, capacity));
      s.experts = HostTensor(n * c.choices, 1);
      s.router_weights = HostTensor(n, c.choices);
      for (std::int64_t i = 0; i < n * c.choices; ++i) {
        const auto from = static_cast<std::size_t>(first * c.choices + i);
        s.experts.elements[static_cast<std::size_t>(i)] = static_cast<float>(layer.choice[from]);
        s.router_weights.elements[static_cast<std::size_t>(i)] = layer.weight[from];
      }
      const std::int64_t up_rows = local * 2 * c.inner;
      s.up = part_of(layer.up, r * up_rows, up_rows, up_rows);
      s.down = part_of(layer.down, r * local * c.hidden, local * c.hidden, local * c.hidden);
      s.output = HostTensor(n, c.hidden);
      machines.bind_input(r, "experts", s.experts, number);
      machines.bind_input(r, "router_weights", s.router_weights, number);
      machines.bind_input(r, "weights_up", s.up, number);
      machines.bind_input(r, "weights_down", s.down, number);
      machines.bind(r, "output", s.output, number);
    }
    machines.bind_shared("tokens", tokens[l], true, number);
  }

  const k::ExpertWavesKernel& any = *shares.front().front().kernel;
  const std::int64_t block = any.hidden_block();
  std::vector<Workspace> workspaces(c.tokens.size());
  for (std::int64_t r = 0; r < ranks; ++r) {
    const std::int64_t n = in_rank(r);
    Workspace& w = workspaces[static_cast<std::size_t>(r)];
    w.block_counts =
        HostTensor(shares.front()[static_cast<std::size_t>(r)].kernel->counters(), c.experts);
    w.places = HostTensor(n, c.choices);
    w.group_rows = HostTensor(1, c.experts);
    w.hidden = HostTensor(pool, c.inner);
    machines.bind(r, "block_counts", w.block_counts);
    machines.bind(r, "places", w.places);
    machines.bind(r, "group_rows", w.group_rows);
    machines.bind(r, "hidden", w.hidden);
    if (pulls) {
      w.pool = HostTensor(pool, c.hidden);
      w.row_weights = HostTensor(pool, 1);
      w.row_places = HostTensor(pool, 1);
      machines.bind(r, "pool", w.pool);
      machines.bind(r, "row_weights", w.row_weights);
      machines.bind(r, "row_places", w.row_places);
    } else {
      w.list = HostTensor(n * c.choices, 3);
      machines.bind(r, "lists", w.list);
    }
  }
  std::map<std::string_view, std::vector<HostTensor>> shared;
  const auto share = [&](std::string_view name, std::int64_t rows, std::int64_t cols) {
    std::vector<HostTensor>& parts = shared[name];
    parts.assign(c.tokens.size(), HostTensor(rows, cols));
    machines.bind_shared(name, parts, false);
  };
  share("announced", any.list_experts(), ranks);
  share("returned", capacity * c.choices, c.hidden);
  if (pulls) {
    share("lists", local * ranks * capacity, 3);
  } else {
    share("pool", pool, c.hidden);
    share("row_weights", pool, 1);
    share("row_places", pool, 1);
  }
  if (block > 0) machines.set_quantisation(Dtype::kFp8, {Dtype::kFp8, 1, block});
  machines.run(launches, c.schedule);

  std::vector<std::int64_t> to_send(static_cast<std::size_t>(ranks));
  std::vector<std::int64_t> to_return(static_cast<std::size_t>(ranks));
  std::vector<float> got;
  std::vector<double> want;
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const Layer& layer = layers[static_cast<std::size_t>(l)];
    for (std::int64_t r = 0; r < ranks; ++r) {
      const std::int64_t n = in_rank(r);
      std::int64_t remote = 0;
      for (std::int64_t i = 0; i < n * c.choices; ++i) {
        const auto at =
            static_cast<std::size_t>(first_token[static_cast<std::size_t>(r)] * c.choices + i);
        remote += layer.choice[at] / local != r ? 1 : 0;
      }
      const Dtype moved = c.format == GemmFormat::kBf16 ? Dtype::kBf16 : Dtype::kFp8;
      to_send[static_cast<std::size_t>(r)] +=
          count(workloads::Dispatch{n, n * c.choices, remote, c.hidden, ranks, moved}).sent_bytes;
      to_return[static_cast<std::size_t>(r)] +=
          count(workloads::Combine{n, n * c.choices, remote, c.hidden, ranks, Dtype::kBf16})
              .sent_bytes;
      if (l + 1 == c.layers) machines.require_written(r, "output");
      const std::vector<float> out =
          shares[static_cast<std::size_t>(l)][static_cast<std::size_t>(r)].output.values();
      got.insert(got.end(), out.begin(), out.end());
    }
    const std::vector<double> right = right_layer(c, layer, block);
    want.insert(want.end(), right.begin(), right.end());
  }
  result.add(got, want);

  // What leaves a rank's tokens, and what comes back to it, is what the operators count.
  for (std::int64_t r = 0; r < ranks; ++r) {
    const auto at = static_cast<std::size_t>(r);
    std::int64_t sent = 0;
    for (const std::string_view name : {"tokens", "pool"}) {
      const RankedMachines::Traffic& t = machines.traffic(name);
      sent += t.sent.empty() ? 0 : t.sent[at];
    }
    require_bytes(r, "dispatch", sent, to_send[at]);
    const RankedMachines::Traffic& back = machines.traffic("returned");
    require_bytes(r, "combine", back.received.empty() ? 0 : back.received[at], to_return[at]);
  }
}

}  // namespace

Comparison verify_expert_waves(const k::ExpertWavesDesign& design, const tile::CoreRates& chip,
                               const ExpertWavesCase& c, k::ExpertWavesFault fault) {
  Comparison result;
  try {
    run(design, chip, c, fault, result);
  } catch (const Hazard& hazard) {
    result.hazard = hazard.what();
  }
  return result;
}

Tolerance expert_waves_tolerance() {
  // The output is rounded to BF16, by 2^-8 of a number at most and three quarters of that over the
  // root of three on average; the largest of a few thousand is five times their root mean square.
  // What the kernel rounds on the way the reference rounds too, so only numbers at an edge between
  // two differ: few, by a step of 2^-3 of one of a hundred numbers that a sum has.
  return {.max_relative = 0.04, .rms_relative = 2.5e-3};
}

}  // namespace foretoken::hwmodels::value
