#include "hwmodels/value/verify_compressor.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "hwmodels/value/value_machine.h"
#include "reference/formats/block_formats.h"
#include "reference/ops/compressor.h"
#include "reference/ops/norm.h"
#include "reference/ops/rope.h"

namespace foretoken::hwmodels::value {

using kernels::CompressedFormat;
using kernels::CompressorFault;
using workloads::Dtype;

namespace {

constexpr std::int64_t kRope = 64;
// Of rows of the state that no token of the sequence has.
constexpr float kNobody = 1e4F;

std::vector<float> normal_values(std::int64_t count, std::mt19937& generator) {
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = normal(generator);
  return v;
}

}  // namespace

Comparison verify_compressor(const kernels::CompressorDesign& design, const tile::CoreRates& chip,
                             const CompressorCase& test, CompressorFault fault) {
  Comparison result;
  try {
    const kernels::CompressorProblem problem{.sequences = test.sequences,
                                             .ratio = test.ratio,
                                             .width = test.width,
                                             .overlap = test.overlap,
                                             .rope = kRope,
                                             .entry = test.entry};
    const kernels::CompressorKernel kernel(problem, design, chip, fault);
    const std::int64_t projected = problem.projected();
    const std::int64_t slots = problem.slots();
    const std::int64_t width = test.width;
    const bool packed = test.entry == CompressedFormat::kFp8Rope;
    const std::int64_t stored = packed ? width - kRope : width;

    std::mt19937 generator(test.seed);
    const std::vector<float> bias = normal_values(test.ratio * projected, generator);
    HostTensor biases = quantised(bias, test.ratio, projected, {.dtype = Dtype::kFp32});
    HostTensor norm = quantised(normal_values(width, generator), 1, width, {});
    const reference::Rope rope(kRope, 160000.0, {.factor = 16.0, .original_positions = 65536.0});
    const reference::Numerics<double, double> exact;
    HostTensor angles(kernel.positions(), kRope);
    for (std::int64_t t = 0; t < kernel.positions(); ++t) {
      std::vector<double> row(static_cast<std::size_t>(kRope));
      for (std::size_t i = 0; i < row.size(); i += 2) row[i] = 1.0;
      rope.rotate(exact, row.data(), t);
      for (std::size_t i = 0; i < row.size(); ++i) {
        angles.elements[static_cast<std::size_t>(t * kRope) + i] = static_cast<float>(row[i]);
      }
    }
    HostTensor values(kernel.tokens(), projected);
    HostTensor scores(kernel.tokens(), projected);
    HostTensor state_values(kernel.sequences() * slots, projected);
    HostTensor state_scores(kernel.sequences() * slots, projected);
    std::fill(state_values.elements.begin(), state_values.elements.end(), kNobody);
    std::fill(state_scores.elements.begin(), state_scores.elements.end(), kNobody);
    HostTensor entry_rows(kernel.entries(), 1);
    std::iota(entry_rows.elements.begin(), entry_rows.elements.end(), 0.0F);
    std::shuffle(entry_rows.elements.begin(), entry_rows.elements.end(), generator);
    HostTensor entries(kernel.entries(), stored);
    HostTensor entry_rope(packed ? kernel.entries() : 0, kRope);

    // The reference walks over all tokens; what it holds when the new ones come is the state.
    const reference::Numerics<double, double> released{.bf16 = true};
    const reference::CompressorShape shape{test.ratio, width, test.overlap};
    std::vector<double> want_entries;
    struct Kept {
      std::int64_t row;  // of the state tensors
      std::vector<double> values, scores;
    };
    std::vector<Kept> want_state;
    std::int64_t token = 0;
    std::int64_t sequence = 0;
    for (const kernels::SequenceGroup& g : test.sequences) {
      if (g.empty()) continue;
      for (std::int64_t n = 0; n < g.count; ++n, ++sequence) {
        reference::CompressorState<double> state(shape);
        std::vector<Kept> tokens;
        const std::int64_t end = g.history + g.queries;
        for (std::int64_t t = 0; t < end; ++t) {
          const std::vector<float> value = normal_values(projected, generator);
          const std::vector<float> score = normal_values(projected, generator);
          const std::vector<double> v(value.begin(), value.end());
          const std::vector<double> z(score.begin(), score.end());
          const float* place = bias.data() + t % test.ratio * projected;
          Kept& kept = tokens.emplace_back(Kept{sequence * slots + t % slots, v, z});
          for (std::size_t i = 0; i < kept.scores.size(); ++i) kept.scores[i] += place[i];
          if (t < g.history) {
            for (std::int64_t i = 0; i < projected; ++i) {
              const auto at = static_cast<std::size_t>(kept.row * projected + i);
              state_values.elements[at] = value[static_cast<std::size_t>(i)];
              state_scores.elements[at] = score[static_cast<std::size_t>(i)] + place[i];
            }
          } else {
            std::copy(value.begin(), value.end(), values.elements.begin() + token * projected);
            std::copy(score.begin(), score.end(), scores.elements.begin() + token * projected);
            ++token;
          }
          std::vector<double> entry(static_cast<std::size_t>(width));
          if (!state.push(released, t, v.data(), z.data(), place, entry.data())) continue;
          if (t < g.history) continue;
          std::vector<double> weight(norm.elements.begin(), norm.elements.end());
          reference::rms_norm(released, entry.data(), weight.data(), problem.eps, 1, width,
                              entry.data());
          rope.rotate(released, entry.data() + width - kRope, t + 1 - test.ratio);
          if (test.entry == CompressedFormat::kFp4 || test.entry == CompressedFormat::kFp8) {
            reference::hadamard(std::span<double>(entry));
            for (double& x : entry) x = released.narrow(x);
          }
          const std::span<double> head(entry.data(), static_cast<std::size_t>(stored));
          if (packed) reference::fake_quantise_e4m3(head, 64, reference::kFp8Activation);
          if (test.entry == CompressedFormat::kFp8) {
            reference::fake_quantise_e4m3(head, width, reference::kFp8Activation);
          }
          if (test.entry == CompressedFormat::kFp4) {
            reference::fake_quantise_e2m1(head, 32, reference::kFp4Index);
          }
          want_entries.insert(want_entries.end(), entry.begin(), entry.end());
        }
        // What the next tokens need: the block in progress and, with overlap, the one before.
        const std::int64_t keep =
            std::max<std::int64_t>(0, (end / test.ratio - (test.overlap ? 1 : 0)) * test.ratio);
        for (std::int64_t t = keep; t < end; ++t) {
          want_state.push_back(std::move(tokens[static_cast<std::size_t>(t)]));
        }
      }
    }

    ValueMachine machine;
    machine.bind("values", values);
    machine.bind("scores", scores);
    machine.bind("bias", biases);
    machine.bind("norm", norm);
    machine.bind("angles", angles);
    machine.bind("entry_rows", entry_rows);
    machine.bind("state_values", state_values);
    machine.bind("state_scores", state_scores);
    machine.bind("state_values_out", state_values);
    machine.bind("state_scores_out", state_scores);
    machine.bind("entries", entries);
    machine.bind("entry_rope", entry_rope);
    const bool floor = fault == CompressorFault::kScaleFloor;
    machine.set_quantisation(
        Dtype::kFp8,
        {.dtype = Dtype::kFp8, .block_cols = packed ? 64 : width, .scale_floor = floor});
    machine.set_quantisation(Dtype::kFp4,
                             {.dtype = Dtype::kFp4, .block_cols = 32, .scale_floor = floor});
    machine.run(kernel);
    machine.require_written("entries");
    machine.require_written("entry_rope");

    std::vector<float> got;
    got.reserve(want_entries.size());
    for (std::int64_t e = 0; e < kernel.entries(); ++e) {
      const auto row = static_cast<std::int64_t>(entry_rows.elements[static_cast<std::size_t>(e)]);
      for (std::int64_t c = 0; c < width; ++c) {
        got.push_back(c < stored ? entries.value(row, c) : entry_rope.value(row, c - stored));
      }
    }
    result.add(got, want_entries);
    for (const Kept& kept : want_state) {
      const auto row = [&](const HostTensor& t) {
        return std::span<const float>(t.elements)
            .subspan(static_cast<std::size_t>(kept.row * projected),
                     static_cast<std::size_t>(projected));
      };
      result.add(row(state_values), kept.values);
      result.add(row(state_scores), kept.scores);
    }
  } catch (const Hazard& hazard) {
    result.hazard = hazard.what();
  }
  return result;
}

Tolerance compressor_tolerance(CompressedFormat entry) {
  // Pooling in FP32 instead of double moves a few values to the neighbouring number of the format:
  // a step is 2^-8 of BF16 values, 2^-3 of FP8, up to a third of FP4 values, which reach some five
  // times their mean square root. Few: of 200 batches of 100 entries none was beyond half of this.
  switch (entry) {
    case CompressedFormat::kBf16:
      return {.max_relative = 0.05, .rms_relative = 5e-4};
    case CompressedFormat::kFp8Rope:
    case CompressedFormat::kFp8:
      return {.max_relative = 0.7, .rms_relative = 3e-3};
    case CompressedFormat::kFp4:
      return {.max_relative = 1.5, .rms_relative = 2e-2};
  }
  return {};
}

}  // namespace foretoken::hwmodels::value
