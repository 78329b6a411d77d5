#include "hwmodels/value/verify_row.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "hwmodels/value/value_machine.h"
#include "reference/formats/block_formats.h"
#include "reference/ops/norm.h"
#include "reference/ops/rope.h"

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
  std::int64_t below(std::int64_t n) {
    return std::uniform_int_distribution<std::int64_t>(0, n - 1)(generator_);
  }
  std::mt19937& generator() { return generator_; }

 private:
  std::mt19937 generator_;
};

HostTensor integers(const std::vector<std::int64_t>& values, std::int64_t rows, std::int64_t cols) {
  HostTensor t(rows, cols);
  std::copy(values.begin(), values.end(), t.elements.begin());
  return t;
}

std::vector<double> doubles(const HostTensor& t) {
  const std::vector<float> v = t.values();
  return {v.begin(), v.end()};
}

void fake_quantise(std::span<double> row, std::int64_t block, Dtype d) {
  if (d == Dtype::kFp4) {
    reference::fake_quantise_e2m1(row, block, reference::kFp4Index);
  } else {
    reference::fake_quantise_e4m3(row, block, reference::kFp8Activation);
  }
}

Quantisation rule(Dtype d, std::int64_t block, bool floor) {
  return {.dtype = d, .block_rows = 1, .block_cols = block, .scale_floor = floor};
}

// Some positions and their angles: V4's compressed layers.
constexpr double kTheta = 160000.0;
constexpr reference::Yarn kYarn{.factor = 16.0, .original_positions = 65536.0};

HostTensor angle_table(const reference::Rope& rope, std::int64_t positions) {
  HostTensor t(positions, rope.dim());
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t i = 0; i < rope.dim() / 2; ++i) {
      const float angle = static_cast<float>(p) * rope.frequencies()[static_cast<std::size_t>(i)];
      const auto at = static_cast<std::size_t>(p * rope.dim() + 2 * i);
      t.elements[at] = std::cos(angle);
      t.elements[at + 1] = std::sin(angle);
    }
  }
  return t;
}

}  // namespace

Comparison verify_row(const k::RowDesign& design, const tile::CoreRates& chip, const RowCase& c,
                      k::RowFault fault) {
  const k::RowProblem& p = c.problem;
  Random random(c.seed);
  const std::int64_t units = p.rows * p.heads;
  const bool gated = p.stage_count > 0 && p.stages[0].step == k::RowStep::kSwiglu;
  const bool looks_up = p.table_rows > 0;
  const bool caches = p.cache_rows > 0;
  const std::int64_t in_width = gated ? 2 * p.width : p.width;
  const std::int64_t in_rows = looks_up ? p.table_rows : units;

  // Rows of different sizes: a mean over the wrong ones shows.
  std::vector<float> values = random.normal(in_rows * in_width);
  const std::vector<float> sizes = random.normal(in_rows);
  for (std::int64_t r = 0; r < in_rows; ++r) {
    for (std::int64_t i = 0; i < in_width; ++i) {
      values[static_cast<std::size_t>(r * in_width + i)] *=
          std::exp(sizes[static_cast<std::size_t>(r)]);
    }
  }
  HostTensor input = quantised(values, in_rows, in_width, {.dtype = p.input});
  HostTensor residual = quantised(random.normal(units * p.width), units, p.width, {});
  HostTensor weights = quantised(random.normal(p.width), 1, p.width, {});
  HostTensor row_weights(p.rows, 1);
  row_weights.elements = random.normal(p.rows);
  std::vector<std::int64_t> index(static_cast<std::size_t>(p.rows));
  for (std::int64_t& i : index) i = looks_up ? random.below(p.table_rows) : 0;
  std::vector<std::int64_t> position(index.size());
  for (std::int64_t& i : position) i = p.positions > 0 ? random.below(p.positions) : 0;
  std::vector<std::int64_t> slot(static_cast<std::size_t>(std::max(p.cache_rows, p.rows)));
  std::iota(slot.begin(), slot.end(), 0);
  std::shuffle(slot.begin(), slot.end(), random.generator());
  slot.resize(index.size());
  for (std::size_t i = 7; i < slot.size(); i += 8) slot[i] = -1;
  const reference::Rope rope(p.rotary, kTheta, kYarn);
  HostTensor angles = p.positions > 0 ? angle_table(rope, p.positions) : HostTensor{};
  HostTensor indices = integers(index, p.rows, 1);
  HostTensor positions = integers(position, p.rows, 1);
  HostTensor slots = integers(slot, p.rows, 1);
  const std::int64_t plain = caches ? p.plain : p.width;
  HostTensor out(caches ? p.cache_rows : units, p.copies * plain);
  HostTensor rotary(p.cache_rows, p.width - plain);
  HostTensor sum(units, p.width);

  ValueMachine machine;
  machine.bind("input", input);
  machine.bind("indices", indices);
  machine.bind("positions", positions);
  machine.bind("slots", slots);
  machine.bind("row_weights", row_weights);
  machine.bind("angles", angles);
  machine.bind("weights", weights);
  machine.bind("residual", residual);
  machine.bind("residual_out", sum);
  machine.bind(caches ? "cache" : "output", out);
  machine.bind("cache_rotary", rotary);
  bool keeps = false;
  for (const k::RowStage& s : p.chain()) {
    keeps = keeps || s.keep;
    if (s.step != k::RowStep::kQuantise) continue;
    machine.set_quantisation(p.output, rule(p.output, s.block, fault == k::RowFault::kScaleFloor));
  }
  Comparison result;
  try {
    machine.run(k::RowKernel(p, design, chip, fault));
    if (!caches) machine.require_written("output");
    if (keeps) machine.require_written("residual_out");
  } catch (const Hazard& h) {
    result.hazard = h.what();
    return result;
  }

  // The chain in double.
  std::vector<double> x(static_cast<std::size_t>(units * p.width));
  for (std::int64_t r = 0; r < units; ++r) {
    const std::int64_t from = looks_up ? index[static_cast<std::size_t>(r)] : r;
    for (std::int64_t i = 0; i < p.width; ++i) {
      x[static_cast<std::size_t>(r * p.width + i)] = input.value(from, i);
    }
  }
  std::vector<double> want_sum;
  for (const k::RowStage& stage : p.chain()) {
    switch (stage.step) {
      case k::RowStep::kSwiglu: {
        std::vector<double> up(x.size());
        for (std::int64_t r = 0; r < units; ++r) {
          for (std::int64_t i = 0; i < p.width; ++i) {
            up[static_cast<std::size_t>(r * p.width + i)] = input.value(r, p.width + i);
          }
        }
        const std::vector<double> by_row = doubles(row_weights);
        reference::swiglu(kExact, x.data(), up.data(), stage.weight ? by_row.data() : nullptr,
                          stage.limit, units, p.width, x.data());
        break;
      }
      case k::RowStep::kResidual: {
        const std::vector<double> add = doubles(residual);
        std::transform(x.begin(), x.end(), add.begin(), x.begin(), std::plus<>());
        if (stage.keep) want_sum = x;
        break;
      }
      case k::RowStep::kNorm:
        if (stage.weight) {
          const std::vector<double> w = doubles(weights);
          reference::rms_norm(kExact, x.data(), w.data(), p.eps, units, p.width, x.data());
        } else {
          reference::head_norm(kExact, x.data(), p.eps, units, p.width);
        }
        break;
      case k::RowStep::kRotate:
        for (std::int64_t r = 0; r < p.rows; ++r) {
          rope.rotate_heads(kExact, x.data() + r * p.heads * p.width + p.width - p.rotary, p.heads,
                            p.width, position[static_cast<std::size_t>(r)], stage.inverse);
        }
        break;
      case k::RowStep::kHadamard:
        for (std::int64_t r = 0; r < units; ++r) {
          reference::hadamard(
              std::span<double>(x.data() + r * p.width, static_cast<std::size_t>(p.width)));
        }
        break;
      case k::RowStep::kRound:
        if (stage.dtype == Dtype::kBf16) {
          for (double& v : x) v = reference::round_bf16(static_cast<float>(v));
        }
        break;
      case k::RowStep::kQuantise:
        for (std::int64_t r = 0; r < units; ++r) {
          fake_quantise({x.data() + r * p.width, static_cast<std::size_t>(plain)}, stage.block,
                        p.output);
        }
        break;
    }
  }
  std::vector<float> got;
  std::vector<double> want;
  for (std::int64_t r = 0; r < units; ++r) {
    const std::int64_t to = caches ? slot[static_cast<std::size_t>(r)] : r;
    if (to < 0) continue;
    for (std::int64_t i = 0; i < p.copies * plain; ++i) {
      got.push_back(out.value(to, i));
      want.push_back(x[static_cast<std::size_t>(r * p.width + i % plain)]);
    }
    for (std::int64_t i = plain; i < p.width; ++i) {
      got.push_back(rotary.value(to, i - plain));
      want.push_back(x[static_cast<std::size_t>(r * p.width + i)]);
    }
  }
  result.add(got, want);
  if (keeps) result.add(sum.values(), want_sum);
  if (caches) {
    // Entries nobody named stay as they were.
    for (std::int64_t e = 0; e < p.cache_rows; ++e) {
      const bool named = std::find(slot.begin(), slot.end(), e) != slot.end();
      const bool touched = out.written[static_cast<std::size_t>(e * plain)] != 0;
      if (named != touched) result.recall = 0.0;
    }
  }
  return result;
}

Tolerance row_tolerance(Dtype output) {
  switch (output) {
    case Dtype::kFp8:
      // FP32 before, double in the reference: a value beside a rounding boundary may fall to the
      // other side, a step of an eighth of itself for values of some thirty times the root mean
      // square; that is rare. Channels that stay BF16 err by 2^-9 of themselves.
      return {.max_relative = 4.0, .rms_relative = 2e-3};
    case Dtype::kFp4:
      // The same with steps of a third of the value, and twice as rare.
      return {.max_relative = 4.0, .rms_relative = 2e-2};
    case Dtype::kBf16:
      // Half a unit in the ninth bit: at most 2^-9 of values up to sixty times the root mean square
      // of rows that differ in size, 2^-9 / sqrt(3) on average.
      return {.max_relative = 0.12, .rms_relative = 2e-3};
    default:
      // FP32 sums of thousands of terms.
      return {.max_relative = 1e-4, .rms_relative = 1e-6};
  }
}

Comparison verify_argmax(const k::RowDesign& design, const tile::CoreRates& chip,
                         const ArgmaxCase& c) {
  Random random(c.seed);
  HostTensor logits =
      quantised(random.normal(c.rows * c.vocabulary), c.rows, c.vocabulary, {.dtype = c.input});
  const k::ArgmaxKernel first(c.rows, c.vocabulary, c.input, design, chip);
  HostTensor tokens(c.rows, 1);
  HostTensor part_tokens(c.rows * first.parts(), 1);
  HostTensor part_maxima(c.rows, first.parts());
  Comparison result;
  try {
    ValueMachine machine;
    machine.bind("logits", logits);
    machine.bind("tokens", tokens);
    machine.bind("part_tokens", part_tokens);
    machine.bind("part_maxima", part_maxima);
    machine.run(first);
    if (first.parts() > 1) machine.run(k::ArgmaxPartsKernel(c.rows, first.parts(), design, chip));
    machine.require_written("tokens");
  } catch (const Hazard& h) {
    result.hazard = h.what();
    return result;
  }
  std::int64_t right = 0;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    const auto begin = logits.elements.begin() + r * c.vocabulary;
    const auto best = std::max_element(begin, begin + c.vocabulary) - begin;
    right += static_cast<std::int64_t>(tokens.elements[static_cast<std::size_t>(r)]) == best;
  }
  result.elements = c.rows;
  result.recall = static_cast<double>(right) / static_cast<double>(c.rows);
  return result;
}

Comparison verify_moe_rows(const k::MoeRowsDesign& design, const tile::CoreRates& chip,
                           const MoeRowsCase& c, k::MoeRowsFault fault) {
  const k::MoeRowsProblem& p = c.problem;
  Random random(c.seed);
  // Choices without repetition among twice the experts held here, so that half are elsewhere.
  const std::int64_t all = std::max(2 * p.experts, p.first_expert + p.experts);
  std::vector<std::int64_t> choice;
  std::vector<std::int64_t> order(static_cast<std::size_t>(all));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t t = 0; t < p.tokens; ++t) {
    std::shuffle(order.begin(), order.end(), random.generator());
    choice.insert(choice.end(), order.begin(), order.begin() + p.choices);
  }
  HostTensor experts = integers(choice, p.pairs(), 1);
  HostTensor places(p.pairs(), 1);
  HostTensor group_rows(1, p.experts);
  HostTensor tokens =
      quantised(random.normal(p.tokens * p.hidden), p.tokens, p.hidden, {.dtype = p.input});
  HostTensor expert_rows = quantised(random.normal(p.rows() * p.hidden), p.rows(), p.hidden, {});
  HostTensor weights(p.tokens, p.choices);
  weights.elements = random.normal(p.pairs());
  HostTensor shared = quantised(random.normal(p.tokens * p.hidden), p.tokens, p.hidden, {});
  HostTensor ordered;
  HostTensor output(p.tokens, p.hidden);
  Comparison result;
  try {
    ValueMachine machine;
    const k::ExpertOrderKernel place(p, design, chip, k::ExpertOrderKernel::Pass::kPlace, fault);
    HostTensor counts(place.counters(), p.experts);
    machine.bind("experts", experts);
    machine.bind("block_counts", counts);
    machine.bind("places", places);
    machine.bind("group_rows", group_rows);
    if (place.counters() > 1) {
      machine.run(k::ExpertOrderKernel(p, design, chip, k::ExpertOrderKernel::Pass::kCount, fault));
      machine.require_written("block_counts");
    }
    machine.run(place);
    machine.require_written("places");
    machine.require_written("group_rows");

    // The moves see the places token by token; column parts of rows as rows.
    HostTensor by_token(p.tokens, p.choices);
    by_token.elements = places.elements;
    machine.bind("places", by_token);
    machine.bind("tokens", tokens);
    const k::PermuteKernel permute(p, design, chip, fault);
    ordered = HostTensor(p.rows() * permute.parts(), p.hidden / permute.parts());
    machine.bind("ordered", ordered);
    machine.set_quantisation(Dtype::kFp8,
                             rule(Dtype::kFp8, 128, fault == k::MoeRowsFault::kScaleFloor));
    machine.run(permute);

    machine.bind("expert_rows", expert_rows);
    machine.bind("router_weights", weights);
    machine.bind("shared_rows", shared);
    machine.bind("output", output);
    machine.run(k::FinaliseKernel(p, design, chip, fault));
    machine.require_written("output");
  } catch (const Hazard& h) {
    result.hazard = h.what();
    return result;
  }

  // Places by counting.
  std::vector<std::int64_t> count(static_cast<std::size_t>(p.experts + 1));
  const auto local = [&](std::int64_t i) {
    const std::int64_t e = choice[static_cast<std::size_t>(i)] - p.first_expert;
    return e >= 0 && e < p.experts ? e : -1;
  };
  for (std::int64_t i = 0; i < p.pairs(); ++i) {
    if (local(i) >= 0) ++count[static_cast<std::size_t>(local(i) + 1)];
  }
  std::int64_t right = 0;
  for (std::int64_t e = 0; e < p.experts; ++e) {
    right += group_rows.elements[static_cast<std::size_t>(e)] ==
             static_cast<float>(count[static_cast<std::size_t>(e + 1)]);
  }
  std::partial_sum(count.begin(), count.end(), count.begin());
  std::vector<std::int64_t> want_place(choice.size(), -1);
  for (std::int64_t i = 0; i < p.pairs(); ++i) {
    const std::int64_t e = local(i);
    if (e >= 0) want_place[static_cast<std::size_t>(i)] = count[static_cast<std::size_t>(e)]++;
    right += places.elements[static_cast<std::size_t>(i)] ==
             static_cast<float>(want_place[static_cast<std::size_t>(i)]);
  }
  result.recall = static_cast<double>(right) / static_cast<double>(p.pairs() + p.experts);

  const std::vector<float> moved = ordered.values();
  std::vector<float> got;
  std::vector<double> want;
  std::vector<double> sum;
  for (std::int64_t t = 0; t < p.tokens; ++t) {
    std::vector<double> row(static_cast<std::size_t>(p.hidden));
    for (std::int64_t i = 0; i < p.hidden; ++i) {
      row[static_cast<std::size_t>(i)] = tokens.value(t, i);
    }
    if (p.moved == Dtype::kFp8) fake_quantise(row, 128, p.moved);
    std::vector<double> total(row.size());
    for (std::int64_t i = 0; p.shared && i < p.hidden; ++i) {
      total[static_cast<std::size_t>(i)] = shared.value(t, i);
    }
    for (std::int64_t j = 0; j < p.choices; ++j) {
      const std::int64_t place = want_place[static_cast<std::size_t>(t * p.choices + j)];
      if (place < 0) continue;
      const double weight = p.weighted ? double{weights.value(t, j)} : 1.0;
      for (std::int64_t i = 0; i < p.hidden; ++i) {
        got.push_back(moved[static_cast<std::size_t>(place * p.hidden + i)]);
        total[static_cast<std::size_t>(i)] += weight * double{expert_rows.value(place, i)};
      }
      want.insert(want.end(), row.begin(), row.end());
    }
    sum.insert(sum.end(), total.begin(), total.end());
  }
  result.add(got, want);
  result.add(output.values(), sum);
  return result;
}

}  // namespace foretoken::hwmodels::value
