#include "hwmodels/kernels/top_k.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
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

// Scores by which rows that are ranked differ in size.
constexpr std::int64_t kRankedStep = 128;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Share of the cache in which scores are still found by the next kernel.
constexpr double kCacheShare = 0.5;
// Share of a core's memory that a merge's candidates may take.
constexpr double kMergeShare = 0.75;
constexpr double kCandidateBytes = 8.0;  // number and score

double element_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

}  // namespace

void describe(base::ConfigVisitor& v, TopKDesign& d) {
  v.integer({"tile", "scores of one load"}, d.tile, {.min = 64, .max = 1 << 20});
  v.integer({"stages", "slots of the score buffer"}, d.stages, {.min = 1, .max = 16});
  v.integer({"held", "scores of a row that is kept in the core and read once"}, d.held,
            {.min = 0, .max = 1 << 20});
  v.integer({"digit_bits", "bits of one pass over what is in the core"}, d.digit_bits,
            {.min = 1, .max = 16});
  v.integer({"row_digits", "digits counted while a row is read in parts"}, d.row_digits,
            {.min = 1, .max = 8});
  v.integer({"row_digit_bits", "bits of each of those"}, d.row_digit_bits, {.min = 1, .max = 16});
  v.integer({"spare", "scores the list of what passes holds beyond k"}, d.spare,
            {.min = 0, .max = 1 << 20});
  v.integer({"parts", "parts of a row at most, each on its own core"}, d.parts,
            {.min = 1, .max = 256});
  v.integer({"min_part", "scores of a part at least"}, d.min_part, {.min = 1, .max = 1 << 24});
  v.integer({"rank_up_to", "rows of so many scores are selected by comparing all with all",
             base::Need::kOptional},
            d.rank_up_to, {.min = 0, .max = 1 << 20});
}

TopKDesign default_top_k_design(const tile::CoreRates& chip) {
  // Where vector units reach the cache only by long copies, tiles are longer.
  if (chip.exchange == Exchange::kRegisters || chip.tile_rows >= 64.0) return {.name = "blocks"};
  return {.name = "vector_cores", .tile = 16384, .min_part = 32768};
}

TopKKernel::TopKKernel(const TopKProblem& problem, const TopKDesign& design,
                       const tile::CoreRates& chip)
    : problem_(problem), design_(&design), cache_capacity_(chip.cache_capacity) {
  if (problem.score != Dtype::kBf16 && problem.score != Dtype::kFp32) {
    throw base::UnsupportedError(
        fmt::format("top_k: scores are bf16 or fp32, not {}", to_string(problem.score)));
  }
  const std::int64_t bits = workloads::element_bits(problem.score);
  if (design.row_digits * design.row_digit_bits > std::min<std::int64_t>(bits, 24)) {
    throw base::UnsupportedError(fmt::format(
        "top_k: {} digits of {} bits are more than a {} score's first {}", design.row_digits,
        design.row_digit_bits, to_string(problem.score), std::min<std::int64_t>(bits, 24)));
  }
  // Rows are split as far as cores are free, and as far as a merge can hold what the parts leave.
  std::int64_t rows = 0;
  for (const SequenceGroup& g : problem.sequences) rows += g.empty() ? 0 : g.count * g.queries;
  const double room = kMergeShare * chip.capacity[static_cast<std::size_t>(Local::kVector)];
  const auto mergeable =
      static_cast<std::int64_t>(room / (kCandidateBytes * static_cast<double>(problem.k)));
  most_parts_ = rows == 0 ? 1
                          : std::clamp<std::int64_t>(
                                static_cast<std::int64_t>(chip.cores) / rows, 1,
                                std::max<std::int64_t>(1, std::min(design.parts, mergeable)));
  for (const SequenceGroup& g : problem.sequences) {
    if (g.empty()) continue;
    const std::int64_t n = parts(g);
    rows_ += g.count * g.queries;
    items_ += g.count * g.queries * n;
    if (n > 1) candidates_ += g.count * g.queries * n * problem.k;
    columns_ = std::max(columns_, seen(g, g.queries - 1));
    score_bytes_ += static_cast<double>(g.count * g.queries) * 0.5 *
                    static_cast<double>(seen(g, 0) + seen(g, g.queries - 1)) *
                    element_bytes(problem.score);
  }
  if (problem.columns > 0) columns_ = problem.columns;
}

std::int64_t TopKKernel::seen(const SequenceGroup& g, std::int64_t query) const {
  return visible_entries(g.history + query, problem_.ratio);
}

std::int64_t TopKKernel::parts(const SequenceGroup& g) const {
  return std::clamp<std::int64_t>(seen(g, g.queries - 1) / design_->min_part, 1, most_parts_);
}

tile::Launch TopKKernel::launch() const { return {.items = items_, .cores = 0}; }

// Sequences in turn, of each the last and longest row first, its parts together.
TopKKernel::Place TopKKernel::place(std::int64_t index) const {
  Place p;
  std::int64_t candidates = 0;
  for (const SequenceGroup& g : problem_.sequences) {
    if (g.empty()) continue;
    const std::int64_t n = parts(g);
    const std::int64_t items = g.count * g.queries * n;
    if (index >= items) {
      index -= items;
      p.row += g.count * g.queries;
      if (n > 1) candidates += items;
      continue;
    }
    const std::int64_t sequence = index / (g.queries * n);
    const std::int64_t query = g.queries - 1 - index % (g.queries * n) / n;
    const std::int64_t part = index % n;
    const std::int64_t row = sequence * g.queries + query;
    const std::int64_t all = seen(g, query);
    p.row += row;
    p.first = part * all / n;
    p.count = (part + 1) * all / n - p.first;
    if (n > 1) p.candidates = (candidates + row * n + part) * problem_.k;
    return p;
  }
  return p;
}

void TopKKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  std::int64_t base = 0;
  for (const SequenceGroup& g : problem_.sequences) {
    if (g.empty()) continue;
    const std::int64_t n = parts(g);
    // Rows that are taken whole are of size one; of ranked rows, which cost their length squared,
    // sizes are finer.
    const std::int64_t ranked = ceil_div(design_->rank_up_to, kRankedStep);
    const auto size = [&](std::int64_t query) {
      const std::int64_t all = seen(g, query);
      if (all <= problem_.k) return std::int64_t{1};
      if (all <= design_->rank_up_to) return 1 + ceil_div(all, kRankedStep);
      return 1 + ranked + ceil_div(all, design_->tile);
    };
    runs_alike(g.queries, size, [&](std::int64_t low, std::int64_t count) {
      const std::int64_t query = low + count / 2;
      visit({base + (g.queries - 1 - query) * n, g.count * count * n});
    });
    base += g.count * g.queries * n;
  }
}

void TopKKernel::item(Machine& m, std::int64_t index) const {
  const TopKProblem& p = problem_;
  const TopKDesign& d = *design_;
  const Place at = place(index);
  const int bits = workloads::element_bits(p.score);
  const bool split = at.candidates >= 0;
  const bool whole = at.count <= p.k;
  const bool held = whole || at.count <= d.held;
  const TensorId scores = m.tensor(
      {.name = "scores",
       .dtype = p.score,
       .rows = rows_,
       .cols = columns_,
       .home = score_bytes_ <= kCacheShare * cache_capacity_ ? Home::kCache : Home::kMemory,
       .memory_bytes = score_bytes_});
  const TensorId selected = m.tensor({.name = "selected",
                                      .dtype = Dtype::kInt32,
                                      .rows = rows_ * p.k,
                                      .cols = 1,
                                      .home = Home::kCache});
  const TensorId candidates = m.tensor({.name = "candidates",
                                        .dtype = Dtype::kFp32,
                                        .rows = candidates_,
                                        .cols = 2,
                                        .home = Home::kCache});

  const Buffer row = m.buffer({.name = "row",
                               .local = Local::kVector,
                               .dtype = p.score,
                               .rows = held ? 1 : 0,
                               .cols = at.count});
  const Buffer part = m.buffer({.name = "score_tile",
                                .local = Local::kVector,
                                .dtype = p.score,
                                .rows = held ? 0 : 1,
                                .cols = d.tile,
                                .slots = d.stages});
  const Buffer counts =
      m.buffer({.name = "counters",
                .local = Local::kVector,
                .dtype = Dtype::kFp32,
                .rows = 1,
                .cols = std::int64_t{1} << (held ? d.digit_bits : d.row_digit_bits)});
  const Buffer state = m.buffer({.name = "state",
                                 .local = Local::kVector,
                                 .dtype = Dtype::kFp32,
                                 .rows = held ? 0 : 1,
                                 .cols = 2});
  const Buffer list = m.buffer({.name = "list",
                                .local = Local::kVector,
                                .dtype = Dtype::kFp32,
                                .rows = held ? 0 : p.k + d.spare,
                                .cols = 2});
  const Buffer ranks = m.buffer({.name = "ranks",
                                 .local = Local::kVector,
                                 .dtype = Dtype::kFp32,
                                 .rows = held && at.count <= d.rank_up_to ? 1 : 0,
                                 .cols = at.count});
  const Buffer chosen = m.buffer({.name = "chosen",
                                  .local = Local::kVector,
                                  .dtype = split ? Dtype::kFp32 : Dtype::kInt32,
                                  .rows = p.k,
                                  .cols = split ? 2 : 1});

  if (at.count == 0) {
    m.vector(VectorKind::kFill, chosen(0, {0, p.k, 0, 1}), {}, {.scalar = -1.0});
    if (split) {
      m.vector(VectorKind::kFill, chosen(0, {0, p.k, 1, 1}), {},
               {.scalar = -std::numeric_limits<double>::infinity()});
    }
  } else if (held) {
    m.load(row(), scores, {at.row, 1, at.first, at.count});
    // Of no more than k scores all are taken, in one pass.
    const bool ranked = !whole && at.count <= d.rank_up_to;
    if (ranked) m.vector(VectorKind::kRank, ranks(), {row()});
    const std::int64_t passes = whole || ranked ? 1 : ceil_div(bits, d.digit_bits);
    m.top_k(chosen(), row(), p.k, at.first, static_cast<int>(passes));
  } else {
    const std::int64_t tiles = at.count / d.tile;
    const std::int64_t rest = at.count % d.tile;
    // One reading of the row: f(tile, slot) on each part. Slots go on from reading to reading.
    std::int64_t base = 0;
    const auto read_row = [&](auto&& f) {
      const std::int64_t first_slot = base;
      const auto load = [&](std::int64_t i, std::int64_t n) {
        m.load(part(first_slot + i, {0, 1, 0, n}), scores, {at.row, 1, at.first + i * d.tile, n});
      };
      m.pipeline(tiles, {Phase{d.stages - 1, [&](std::int64_t i) { load(i, d.tile); }},
                         Phase{0, [&](std::int64_t i) {
                                 f(i, part(first_slot + i, {0, 1, 0, d.tile}));
                               }}});
      if (rest > 0) {
        load(tiles, rest);
        f(tiles, part(first_slot + tiles, {0, 1, 0, rest}));
      }
      base += tiles + (rest > 0 ? 1 : 0);
    };
    m.vector(VectorKind::kFill, state(0, {0, 1, 0, 1}), {}, {.scalar = 0.0});
    m.vector(VectorKind::kFill, state(0, {0, 1, 1, 1}), {}, {.scalar = static_cast<double>(p.k)});
    for (std::int64_t digit = 0; digit < d.row_digits; ++digit) {
      const auto found = static_cast<double>(digit * d.row_digit_bits);
      m.vector(VectorKind::kFill, counts(), {});
      read_row([&](std::int64_t, const BufferRef& x) {
        m.vector(VectorKind::kCount, counts(), {x, state()}, {.scalar = found});
      });
      m.vector(VectorKind::kNarrow, state(), {counts()});
    }
    const std::int64_t found = d.row_digits * d.row_digit_bits;
    m.vector(VectorKind::kFill, list(0, {0, p.k + d.spare, 0, 1}), {}, {.scalar = -1.0});
    m.vector(VectorKind::kFill, list(0, {0, p.k + d.spare, 1, 1}), {},
             {.scalar = -std::numeric_limits<double>::infinity()});
    read_row([&](std::int64_t i, const BufferRef& x) {
      m.vector(VectorKind::kFilter, list(), {x, state()},
               {.scalar = static_cast<double>(found),
                .scalar2 = static_cast<double>(at.first + i * d.tile)});
    });
    // What is left: the digits not counted yet, and ties.
    const std::int64_t passes = std::max<std::int64_t>(1, ceil_div(bits - found, d.digit_bits));
    m.top_k(chosen(), list(), p.k, 0, static_cast<int>(passes));
  }
  if (split) {
    m.store(candidates, {at.candidates, p.k, 0, 2}, chosen());
  } else {
    m.store(selected, {at.row * p.k, p.k, 0, 1}, chosen());
  }
}

TopKMergeKernel::TopKMergeKernel(const TopKKernel& first, TopKFault fault)
    : first_(&first), fault_(fault) {
  for (const SequenceGroup& g : first.problem().sequences) {
    if (!g.empty() && first.parts(g) > 1) items_ += g.count * g.queries;
  }
}

tile::Launch TopKMergeKernel::launch() const { return {.items = items_, .cores = 0}; }

void TopKMergeKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  std::int64_t item = 0;
  for (const SequenceGroup& g : first_->problem().sequences) {
    if (g.empty() || first_->parts(g) == 1) continue;
    visit({item, g.count * g.queries});
    item += g.count * g.queries;
  }
}

void TopKMergeKernel::item(Machine& m, std::int64_t index) const {
  const TopKProblem& p = first_->problem();
  const TopKDesign& d = first_->design();
  std::int64_t row = 0;
  std::int64_t candidate = 0;
  std::int64_t parts = 1;
  for (const SequenceGroup& g : p.sequences) {
    if (g.empty()) continue;
    parts = first_->parts(g);
    const std::int64_t rows = g.count * g.queries;
    if (parts > 1) {
      if (index < rows) break;
      index -= rows;
      candidate += rows * parts;
    }
    row += rows;
  }
  row += index;
  candidate = (candidate + index * parts) * p.k;
  const std::int64_t merged = fault_ == TopKFault::kLostPart ? parts - 1 : parts;

  const TensorId candidates = m.tensor({.name = "candidates",
                                        .dtype = Dtype::kFp32,
                                        .rows = first_->candidates(),
                                        .cols = 2,
                                        .home = Home::kCache});
  const TensorId selected = m.tensor({.name = "selected",
                                      .dtype = Dtype::kInt32,
                                      .rows = first_->rows() * p.k,
                                      .cols = 1,
                                      .home = Home::kCache});
  const Buffer list = m.buffer({.name = "list",
                                .local = Local::kVector,
                                .dtype = Dtype::kFp32,
                                .rows = merged * p.k,
                                .cols = 2});
  const Buffer counts = m.buffer({.name = "counters",
                                  .local = Local::kVector,
                                  .dtype = Dtype::kFp32,
                                  .rows = 1,
                                  .cols = std::int64_t{1} << d.digit_bits});
  static_cast<void>(counts);  // top_k's own
  const Buffer chosen = m.buffer(
      {.name = "chosen", .local = Local::kVector, .dtype = Dtype::kInt32, .rows = p.k, .cols = 1});
  m.load(list(), candidates, {candidate, merged * p.k, 0, 2});
  m.top_k(chosen(), list(), p.k, 0,
          static_cast<int>(ceil_div(workloads::element_bits(p.score), d.digit_bits)));
  m.store(selected, {row * p.k, p.k, 0, 1}, chosen());
}

}  // namespace foretoken::hwmodels::kernels
