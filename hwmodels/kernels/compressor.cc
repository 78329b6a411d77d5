#include "hwmodels/kernels/compressor.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "sim/base/error.h"

namespace foretoken::hwmodels::kernels {

using tile::Block;
using tile::Buffer;
using tile::BufferRef;
using tile::Home;
using tile::Local;
using tile::Machine;
using tile::Phase;
using tile::TensorId;
using tile::VectorKind;
using workloads::Dtype;

namespace {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Share of the cache in which the projections are still found.
constexpr double kCacheShare = 0.5;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double element_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

}  // namespace

void describe(base::ConfigVisitor& v, CompressorDesign& d) {
  v.integer({"blocks", "blocks of a sequence that one item pools; with overlap at least two"},
            d.blocks, {.min = 1, .max = 1024});
  v.integer({"channels", "channels of one iteration"}, d.channels, {.min = 1, .max = 4096});
  v.integer({"stages", "slots of the token buffers"}, d.stages, {.min = 1, .max = 16});
}

CompressorDesign default_compressor_design(const CompressorProblem& p) {
  // 4096 values and as many scores an iteration, 16 KiB each.
  constexpr std::int64_t kElements = 4096;
  return {.name = p.overlap ? "short_blocks" : "long_blocks",
          .blocks = std::max<std::int64_t>(1, 32 / p.ratio),
          .channels = std::min(p.width, std::max<std::int64_t>(16, kElements / p.slots()))};
}

CompressorKernel::CompressorKernel(const CompressorProblem& problem, const CompressorDesign& design,
                                   const tile::CoreRates& chip, CompressorFault fault)
    : problem_(problem),
      design_(&design),
      fault_(fault),
      // The first item of a sequence reads the state and changes it; the blocks that need what it
      // holds are the first and, with overlap, the second.
      blocks_(std::max<std::int64_t>(design.blocks, problem.overlap ? 2 : 1)),
      channels_(std::min(design.channels, problem.width)),
      cache_capacity_(chip.cache_capacity) {
  if (problem.width % channels_ != 0) {
    throw base::UnsupportedError(
        fmt::format("compressor: {} channels are no multiple of {}", problem.width, channels_));
  }
  for (const SequenceGroup& g : problem.sequences) {
    if (g.empty()) continue;
    items_ += g.count * items(g);
    tokens_ += g.count * g.queries;
    sequences_ += g.count;
    entries_ += g.count * emitted(g);
    positions_ = std::max(positions_, g.history + g.queries);
  }
}

std::int64_t CompressorKernel::emitted(const SequenceGroup& g) const {
  return (g.history + g.queries) / problem_.ratio - g.history / problem_.ratio;
}

std::int64_t CompressorKernel::items(const SequenceGroup& g) const {
  return std::max<std::int64_t>(1, ceil_div(emitted(g), blocks_));
}

tile::Launch CompressorKernel::launch() const { return {.items = items_, .cores = 0}; }

CompressorKernel::Place CompressorKernel::place(std::int64_t index) const {
  Place p;
  for (const SequenceGroup& g : problem_.sequences) {
    if (g.empty()) continue;
    const std::int64_t n = items(g);
    if (index >= g.count * n) {
      index -= g.count * n;
      p.sequence += g.count;
      p.first_token += g.count * g.queries;
      p.first_entry += g.count * emitted(g);
      continue;
    }
    const std::int64_t sequence = index / n;
    const std::int64_t part = index % n;
    p.group = &g;
    p.sequence += sequence;
    p.first_token += sequence * g.queries;
    p.first_entry += sequence * emitted(g) + part * blocks_;
    p.first_block = g.history / problem_.ratio + part * blocks_;
    p.blocks = std::min(blocks_, emitted(g) - part * blocks_);
    p.keeps = part == 0;
    return p;
  }
  return p;
}

void CompressorKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  std::int64_t base = 0;
  for (const SequenceGroup& g : problem_.sequences) {
    if (g.empty()) continue;
    const std::int64_t n = items(g);
    // The first item has the state to read and write, the last may have fewer blocks.
    visit({base, g.count});
    if (n > 2) visit({base + 1, g.count * (n - 2)});
    if (n > 1) visit({base + n - 1, g.count});
    base += g.count * n;
  }
}

void CompressorKernel::item(Machine& m, std::int64_t index) const {
  const CompressorProblem& p = problem_;
  const CompressorDesign& d = *design_;
  const Place at = place(index);
  const std::int64_t slots = p.slots();
  const std::int64_t projected = p.projected();
  const std::int64_t history = at.group->history;
  const bool packed = p.entry == CompressedFormat::kFp8Rope;
  const bool rotated = p.entry == CompressedFormat::kFp4 || p.entry == CompressedFormat::kFp8;
  const std::int64_t stored = packed ? p.width - p.rope : p.width;
  const Dtype entry_dtype = p.entry == CompressedFormat::kBf16  ? Dtype::kBf16
                            : p.entry == CompressedFormat::kFp4 ? Dtype::kFp4
                                                                : Dtype::kFp8;
  // One byte for 64 channels, up to a multiple of eight; one for 32; four in all.
  const double entry_scale = packed ? static_cast<double>(ceil_div(ceil_div(stored, 64), 8) * 8) /
                                          static_cast<double>(stored)
                             : p.entry == CompressedFormat::kFp4 ? 1.0 / 32.0
                             : p.entry == CompressedFormat::kFp8 ? 4.0 / static_cast<double>(stored)
                                                                 : 0.0;

  const double projection_bytes =
      2.0 * static_cast<double>(tokens_ * projected) * element_bytes(p.projection);
  const Home projections =
      projection_bytes <= kCacheShare * cache_capacity_ ? Home::kCache : Home::kMemory;
  const TensorId values = m.tensor({.name = "values",
                                    .dtype = p.projection,
                                    .rows = tokens_,
                                    .cols = projected,
                                    .home = projections});
  const TensorId scores = m.tensor({.name = "scores",
                                    .dtype = p.projection,
                                    .rows = tokens_,
                                    .cols = projected,
                                    .home = projections});
  const TensorId biases =
      m.tensor({.name = "bias", .dtype = Dtype::kFp32, .rows = p.ratio, .cols = projected});
  const TensorId norms =
      m.tensor({.name = "norm", .dtype = Dtype::kBf16, .rows = 1, .cols = p.width});
  const TensorId angles =
      m.tensor({.name = "angles", .dtype = Dtype::kFp32, .rows = positions_, .cols = p.rope});
  const TensorId entry_rows =
      m.tensor({.name = "entry_rows", .dtype = Dtype::kInt32, .rows = entries_, .cols = 1});
  const auto state = [&](std::string_view name) {
    return m.tensor(
        {.name = name, .dtype = Dtype::kFp32, .rows = sequences_ * slots, .cols = projected});
  };
  const TensorId state_values = state("state_values");
  const TensorId state_scores = state("state_scores");
  const TensorId state_values_out = state("state_values_out");
  const TensorId state_scores_out = state("state_scores_out");
  const TensorId entries = m.tensor({.name = "entries",
                                     .dtype = entry_dtype,
                                     .rows = entries_,
                                     .cols = stored,
                                     .scale_bytes = entry_scale});
  const TensorId entry_rope = m.tensor(
      {.name = "entry_rope", .dtype = Dtype::kBf16, .rows = packed ? entries_ : 0, .cols = p.rope});

  const std::int64_t token_slots =
      fault_ == CompressorFault::kEarlyReuse ? std::max<std::int64_t>(1, d.stages - 1) : d.stages;
  const auto vector_buffer = [&](std::string_view name, Dtype dtype, std::int64_t rows,
                                 std::int64_t cols, std::int64_t copies = 1, double scale = 0.0) {
    return m.buffer({.name = name,
                     .local = Local::kVector,
                     .dtype = dtype,
                     .rows = rows,
                     .cols = cols,
                     .slots = copies,
                     .scale_bytes = scale});
  };
  const Buffer value = vector_buffer("value_tile", Dtype::kFp32, slots, channels_, token_slots);
  const Buffer score = vector_buffer("score_tile", Dtype::kFp32, slots, channels_, token_slots);
  const Buffer bias = vector_buffer("bias_tile", Dtype::kFp32, slots, channels_, 2);
  const Buffer most = vector_buffer("maximum", Dtype::kFp32, 1, channels_);
  const Buffer sum = vector_buffer("sum", Dtype::kFp32, 1, channels_);
  const Buffer weighted = vector_buffer("weighted", Dtype::kFp32, 1, channels_);
  const std::int64_t room = at.blocks;
  const Buffer pooled = vector_buffer("pooled", Dtype::kBf16, room, p.width);
  const Buffer work = vector_buffer("work", Dtype::kFp32, room, p.width);
  const Buffer square = vector_buffer("mean_square", Dtype::kFp32, room, 1);
  const Buffer norm = vector_buffer("norm_weight", Dtype::kBf16, room > 0 ? 1 : 0, p.width);
  const Buffer turned = vector_buffer("angle", Dtype::kFp32, room, p.rope);
  const Buffer normed = vector_buffer("normed", Dtype::kBf16, room, p.width);
  const Buffer mixed = vector_buffer("mixed", Dtype::kBf16, rotated ? room : 0, p.width);
  const Buffer quantised =
      vector_buffer("quantised", entry_dtype, p.entry == CompressedFormat::kBf16 ? 0 : room, stored,
                    1, entry_scale);
  const Buffer rows = vector_buffer("rows", Dtype::kInt32, room, 1);

  // Half of the projected channels that belongs to the block before, and to the current one.
  const bool swapped = fault_ == CompressorFault::kHalvesSwapped;
  const std::int64_t before = p.overlap && swapped ? p.width : 0;
  const std::int64_t current = p.overlap && !swapped ? p.width : 0;
  std::int64_t bias_use = 0;

  // Tokens of a block that are in the state; the others are among the new ones.
  const auto in_state = [&](std::int64_t block) {
    return std::clamp<std::int64_t>(history - block * p.ratio, 0, p.ratio);
  };
  // Puts the tokens of a block into `ratio` rows from `row` on.
  const auto load_block = [&](std::int64_t use, std::int64_t block, std::int64_t row,
                              std::int64_t col) {
    if (block < 0) return;
    const std::int64_t old = in_state(block);
    if (old > 0) {
      const std::int64_t from = at.sequence * slots + block * p.ratio % slots;
      m.load(value(use, {row, old, 0, channels_}), state_values, {from, old, col, channels_});
      m.load(score(use, {row, old, 0, channels_}), state_scores, {from, old, col, channels_});
    }
    const std::int64_t rest = p.ratio - old;
    if (rest == 0) return;
    const std::int64_t from = at.first_token + block * p.ratio + old - history;
    m.load(value(use, {row + old, rest, 0, channels_}), values, {from, rest, col, channels_});
    m.load(score(use, {row + old, rest, 0, channels_}), scores, {from, rest, col, channels_});
  };
  // New tokens get their bias; of the block before the first there is nothing.
  const auto complete_block = [&](std::int64_t use, std::int64_t block, std::int64_t row) {
    if (block < 0) {
      m.vector(VectorKind::kFill, value(use, {row, p.ratio, 0, channels_}), {});
      m.vector(VectorKind::kFill, score(use, {row, p.ratio, 0, channels_}), {},
               {.scalar = -kInfinity});
      return;
    }
    const std::int64_t first = in_state(block);
    if (first == p.ratio) return;
    const BufferRef s = score(use, {row + first, p.ratio - first, 0, channels_});
    m.vector(VectorKind::kAdd, s,
             {s, bias(bias_use, {row + first, p.ratio - first, 0, channels_})});
  };

  std::int64_t use = 0;  // of the token buffers so far
  const std::int64_t current_row = p.overlap ? p.ratio : 0;
  for (std::int64_t c = 0; at.blocks > 0 && c < p.width; c += channels_) {
    if (p.overlap) {
      m.load(bias(bias_use, {0, p.ratio, 0, channels_}), biases,
             {0, p.ratio, before + c, channels_});
    }
    m.load(bias(bias_use, {current_row, p.ratio, 0, channels_}), biases,
           {0, p.ratio, current + c, channels_});
    const std::int64_t first_use = use;
    const auto load = [&](std::int64_t i) {
      const std::int64_t block = at.first_block + i;
      if (p.overlap) load_block(first_use + i, block - 1, 0, before + c);
      load_block(first_use + i, block, current_row, current + c);
    };
    const auto pool = [&](std::int64_t i) {
      const std::int64_t block = at.first_block + i;
      const std::int64_t u = first_use + i;
      if (p.overlap) complete_block(u, block - 1, 0);
      complete_block(u, block, current_row);
      const BufferRef z = score(u);
      m.vector(VectorKind::kColMax, most(), {z});
      m.vector(VectorKind::kSub, z, {z, most()});
      m.vector(VectorKind::kExp, z, {z});
      m.vector(VectorKind::kColSum, sum(), {z});
      m.vector(VectorKind::kMul, z, {z, value(u)});
      m.vector(VectorKind::kColSum, weighted(), {z});
      m.vector(VectorKind::kDiv, pooled(0, {i, 1, c, channels_}), {weighted(), sum()});
    };
    // Blocks that need the state, then those whose tokens are all new.
    std::int64_t special = 0;
    while (special < at.blocks &&
           (at.first_block + special - (p.overlap ? 1 : 0)) * p.ratio < history) {
      ++special;
    }
    if (at.first_block == 0 && p.overlap) special = std::max<std::int64_t>(special, 1);
    for (std::int64_t i = 0; i < special; ++i) {
      load(i);
      pool(i);
    }
    m.pipeline(at.blocks - special,
               {Phase{d.stages - 1, [&](std::int64_t i) { load(special + i); }},
                Phase{0, [&](std::int64_t i) { pool(special + i); }}});
    use += at.blocks;
    ++bias_use;
  }

  if (at.blocks > 0) {
    const std::int64_t n = at.blocks;
    m.load(norm(), norms, {0, 1, 0, p.width});
    m.load(rows(), entry_rows, {at.first_entry, n, 0, 1});
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t first = (at.first_block + i) * p.ratio;
      m.load(
          turned(0, {i, 1, 0, p.rope}), angles,
          {fault_ == CompressorFault::kLastPosition ? first + p.ratio - 1 : first, 1, 0, p.rope});
    }
    m.vector(VectorKind::kMul, work(), {pooled(), pooled()});
    m.vector(VectorKind::kRowSum, square(), {work()});
    m.vector(VectorKind::kRsqrt, square(), {square()},
             {.scalar = 1.0 / static_cast<double>(p.width), .scalar2 = p.eps});
    m.vector(VectorKind::kMul, work(), {pooled(), square()});
    m.vector(VectorKind::kMul, normed(), {work(), norm()});
    const BufferRef rotary = normed(0, {0, n, p.width - p.rope, p.rope});
    m.vector(VectorKind::kRotate, rotary, {rotary, turned()});
    if (p.entry == CompressedFormat::kBf16) {
      m.scatter(entries, rows(), normed());
    } else {
      if (rotated) m.vector(VectorKind::kHadamard, mixed(), {normed()});
      m.vector(VectorKind::kQuantise, quantised(),
               {rotated ? mixed() : normed(0, {0, n, 0, stored})});
      m.scatter(entries, rows(), quantised());
      if (packed) m.scatter(entry_rope, rows(), rotary);
    }
  }

  // The state keeps the block before (with overlap) and the tokens of the one in progress.
  if (!at.keeps) return;
  const std::int64_t end = history + at.group->queries;
  const std::int64_t last = end / p.ratio;
  for (std::int64_t block = std::max<std::int64_t>(0, last - (p.overlap ? 1 : 0)); block <= last;
       ++block) {
    const std::int64_t first = std::max(history, block * p.ratio);
    const std::int64_t n = std::min(end, (block + 1) * p.ratio) - first;
    if (n <= 0) continue;
    const std::int64_t to = at.sequence * slots + first % slots;
    const std::int64_t from = at.first_token + first - history;
    for (std::int64_t c = 0; c < projected; c += channels_, ++use, ++bias_use) {
      const Block part{0, n, 0, channels_};
      m.load(value(use, part), values, {from, n, c, channels_});
      m.load(score(use, part), scores, {from, n, c, channels_});
      m.load(bias(bias_use, part), biases, {first % p.ratio, n, c, channels_});
      m.vector(VectorKind::kAdd, score(use, part), {score(use, part), bias(bias_use, part)});
      m.store(state_values_out, {to, n, c, channels_}, value(use, part));
      m.store(state_scores_out, {to, n, c, channels_}, score(use, part));
    }
  }
}

}  // namespace foretoken::hwmodels::kernels
