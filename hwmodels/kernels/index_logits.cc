#include "hwmodels/kernels/index_logits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

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

// Share of the cache that keys of concurrent blocks may take and still be found there.
constexpr double kCacheShare = 0.5;
// Groups up to this many are split exactly, more by their sum.
constexpr std::size_t kExactGroups = 4;

double element_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

// One byte for 32 FP4 elements; four for an FP8 key (facts 7.1).
double key_scale_bytes(Dtype d, std::int64_t width) {
  if (d == Dtype::kFp4) return 1.0 / 32.0;
  if (d == Dtype::kFp8) return 4.0 / static_cast<double>(width);
  return 0.0;
}

}  // namespace

void describe(base::ConfigVisitor& v, IndexLogitsDesign& d) {
  v.integer({"block_queries", "queries of a sequence that share what is read of the keys"},
            d.block_queries, {.min = 1, .max = 64});
  v.integer({"tile_entries", "entries of one iteration; whole pages"}, d.tile_entries,
            {.min = 16, .max = 4096});
  v.integer({"stages", "slots of the key buffer"}, d.stages, {.min = 1, .max = 32});
  v.integer({"accumulators", "slots of products in the matrix unit"}, d.accumulators,
            {.min = 1, .max = 8});
  v.integer({"score_slots", "slots of products in the vector units"}, d.score_slots,
            {.min = 1, .max = 8});
  v.integer({"split", "parts a block's entries are cut into at most"}, d.split,
            {.min = 1, .max = 1024});
  v.boolean({"keys_are_rows", "keys are the rows of the matrix instruction, heads its columns"},
            d.keys_are_rows);
  v.boolean({"persistent", "a core works through its items without draining"}, d.persistent);
}

IndexLogitsDesign default_index_logits_design(const tile::CoreRates& chip, bool prefill) {
  // Two queries of a prompt share what is read of the keys; products take twice the room.
  IndexLogitsDesign d{.block_queries = prefill ? 2 : 1,
                      .tile_entries = prefill ? 128 : 256,
                      .stages = 4,
                      .score_slots = 2,
                      .persistent = true};
  switch (chip.exchange) {
    case Exchange::kRegisters:  // products in registers
      d.name = "registers";
      return d;
    case Exchange::kDirect:
      d.accumulators = 2;
      if (chip.tile_rows >= 64.0) {  // tensor memory holds two tiles of products
        d.name = "tensor_memory";
        return d;
      }
      d.name = "unified_buffer";
      break;
    case Exchange::kCache:
      d.name = "through_cache";
      break;
  }
  // Long tiles: each exchange between the matrix and the vector cores has its price.
  d.tile_entries *= 2;
  d.stages = 3;
  d.keys_are_rows = false;
  return d;
}

IndexLogitsKernel::IndexLogitsKernel(const IndexLogitsProblem& problem,
                                     const IndexLogitsDesign& design, const tile::CoreRates& chip,
                                     IndexLogitsFault fault)
    : problem_(problem),
      design_(&design),
      fault_(fault),
      widen_(problem.key != problem.compute),
      cores_(chip.cores),
      cache_capacity_(chip.cache_capacity) {
  if (widen_ && problem.compute != Dtype::kBf16) {
    throw base::UnsupportedError(
        fmt::format("index_logits: {} keys are widened to bf16 only, not to {}",
                    to_string(problem.key), to_string(problem.compute)));
  }
  if (design.tile_entries % problem.page != 0) {
    throw base::UnsupportedError(
        fmt::format("index_logits: a tile of {} entries is no whole number of pages of {}",
                    design.tile_entries, problem.page));
  }
  if (design.keys_are_rows &&
      design.tile_entries % static_cast<std::int64_t>(chip.tile_rows) != 0) {
    throw base::UnsupportedError(
        fmt::format("index_logits on {}: a tile of {} entries is no multiple of the matrix "
                    "instruction's {:.0f} rows",
                    chip.chip, design.tile_entries, chip.tile_rows));
  }
  choose_split(chip);
  const double entry = static_cast<double>(problem.width) *
                       (element_bytes(problem.key) + key_scale_bytes(problem.key, problem.width));
  double from_memory = 0.0;
  for (const SequenceGroup& g : problem.sequences) {
    if (g.empty()) continue;
    const std::int64_t n = blocks(g);
    items_ += g.count * n * splits(g);
    queries_ += g.count * g.queries;
    pages_ += g.count * pages(g);
    const std::int64_t last = visible(g.history + g.queries - 1);
    columns_ = std::max(columns_, ceil_div(last, problem.page) * problem.page);
    const auto count = static_cast<double>(g.count);
    const double mean = 0.5 * static_cast<double>(last + visible(g.history));
    key_bytes_ += count * static_cast<double>(last) * entry;
    // Blocks of one wave walk the same keys together; the next wave finds them in memory again
    // when the cache has let them go.
    const double waves = std::max(1.0, static_cast<double>(n * splits(g)) / cores_);
    from_memory += count * entry * std::max(static_cast<double>(last), waves * mean);
    score_bytes_ += count * static_cast<double>(g.queries) * mean * element_bytes(problem.score);
  }
  if (key_bytes_ > kCacheShare * cache_capacity_) key_passes_ = from_memory / key_bytes_;
}

std::int64_t IndexLogitsKernel::visible(std::int64_t position) const {
  return visible_entries(position, problem_.ratio) +
         (fault_ == IndexLogitsFault::kCausalBound ? 1 : 0);
}

std::int64_t IndexLogitsKernel::blocks(const SequenceGroup& g) const {
  return ceil_div(g.queries, design_->block_queries);
}

std::int64_t IndexLogitsKernel::tiles(const SequenceGroup& g, std::int64_t block) const {
  const std::int64_t end = std::min(g.queries, (block + 1) * design_->block_queries);
  return ceil_div(visible(g.history + end - 1), design_->tile_entries);
}

std::int64_t IndexLogitsKernel::splits(const SequenceGroup& g) const {
  return std::max<std::int64_t>(1, ceil_div(tiles(g, blocks(g) - 1), part_tiles_));
}

std::int64_t IndexLogitsKernel::pages(const SequenceGroup& g) const {
  return ceil_div(visible(g.history + g.queries - 1), problem_.page);
}

// The length of parts for which the waves of items, each with a tile's worth of overhead, are over
// first.
void IndexLogitsKernel::choose_split(const tile::CoreRates& chip) {
  std::int64_t most = 1;
  double whole = 0.0;  // blocks
  double all = 0.0;    // tiles
  for (const SequenceGroup& g : problem_.sequences) {
    if (g.empty()) continue;
    const std::int64_t n = blocks(g);
    const std::int64_t t = tiles(g, n - 1);
    most = std::max(most, t);
    whole += static_cast<double>(g.count * n);
    all += static_cast<double>(g.count * n * t);
  }
  double best = std::numeric_limits<double>::infinity();
  part_tiles_ = most;
  std::int64_t before = 0;
  for (std::int64_t s = 1; s <= std::min(design_->split, most); ++s) {
    const std::int64_t part = ceil_div(most, s);
    if (part == before) continue;
    before = part;
    double items = all / static_cast<double>(part) + 0.5 * whole;
    if (problem_.sequences.size() <= kExactGroups) {
      items = 0.0;
      for (const SequenceGroup& g : problem_.sequences) {
        if (g.empty()) continue;
        const std::int64_t n = blocks(g);
        items += static_cast<double>(g.count * n * ceil_div(tiles(g, n - 1), part));
      }
    }
    const double waves = std::max(1.0, std::ceil(items / chip.cores));
    const double cost = waves * static_cast<double>(part + 1);
    if (cost >= best) continue;
    best = cost;
    part_tiles_ = part;
  }
}

tile::Launch IndexLogitsKernel::launch() const {
  return {.items = items_, .cores = 0, .persistent = design_->persistent};
}

// Sequences in turn; of each the last block first, as it is the longest, its parts together.
IndexLogitsKernel::Place IndexLogitsKernel::place(std::int64_t index) const {
  Place p;
  for (const SequenceGroup& g : problem_.sequences) {
    if (g.empty()) continue;
    const std::int64_t n = blocks(g);
    const std::int64_t s = splits(g);
    if (index >= g.count * n * s) {
      index -= g.count * n * s;
      p.first_query += g.count * g.queries;
      p.first_page += g.count * pages(g);
      continue;
    }
    const std::int64_t sequence = index / (n * s);
    const std::int64_t block = n - 1 - index % (n * s) / s;
    const std::int64_t part = index % s;
    p.group = &g;
    p.first_page += sequence * pages(g);
    p.first_query += sequence * g.queries + block * design_->block_queries;
    p.position = g.history + block * design_->block_queries;
    p.queries = std::min(design_->block_queries, g.queries - block * design_->block_queries);
    const std::int64_t t = tiles(g, block);
    p.first_tile = part * t / s;
    p.last_tile = (part + 1) * t / s;
    return p;
  }
  return p;
}

void IndexLogitsKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  std::int64_t base = 0;
  for (const SequenceGroup& g : problem_.sequences) {
    if (g.empty()) continue;
    const std::int64_t n = blocks(g);
    const std::int64_t s = splits(g);
    const auto size = [&](std::int64_t block) { return tiles(g, block); };
    runs_alike(n, size, [&](std::int64_t low, std::int64_t count) {
      const std::int64_t block = low + count / 2;
      const std::int64_t first = base + (n - 1 - block) * s;
      const std::int64_t t = tiles(g, block);
      const std::int64_t items = g.count * count;
      // The last part has the tiles that need masks; the others are one tile longer or not.
      visit({first + s - 1, items});
      std::int64_t longer = -1;
      std::int64_t shorter = -1;
      std::int64_t longer_parts = 0;
      for (std::int64_t part = 0; part + 1 < s; ++part) {
        const std::int64_t length = (part + 1) * t / s - part * t / s;
        if (length > t / s) {
          longer = part;
          ++longer_parts;
        } else if (length > 0) {
          shorter = part;
        }
      }
      if (longer >= 0) visit({first + longer, items * longer_parts});
      if (shorter >= 0) visit({first + shorter, items * (s - 1 - longer_parts)});
    });
    base += g.count * n * s;
  }
}

void IndexLogitsKernel::item(Machine& m, std::int64_t index) const {
  const IndexLogitsProblem& p = problem_;
  const IndexLogitsDesign& d = *design_;
  const Place at = place(index);
  const std::int64_t tile = d.tile_entries;
  const std::int64_t block_rows = d.block_queries * p.heads;
  const double key_scale = key_scale_bytes(p.key, p.width);
  const double query_scale = p.compute == Dtype::kFp4 ? key_scale : 0.0;
  // FP8 keys have a scale each, which the vector units apply to the score.
  const bool scale_scores = p.compute == Dtype::kFp8;
  const Dtype operand = p.compute;

  const TensorId queries = m.tensor({.name = "queries",
                                     .dtype = p.compute,
                                     .rows = queries_ * p.heads,
                                     .cols = p.width,
                                     .home = Home::kCache,
                                     .scale_bytes = query_scale});
  const TensorId weights = m.tensor({.name = "head_weights",
                                     .dtype = Dtype::kFp32,
                                     .rows = queries_ * p.heads,
                                     .cols = 1,
                                     .home = Home::kCache});
  const TensorId keys = m.tensor({.name = "keys",
                                  .dtype = p.key,
                                  .rows = pages_ * p.page,
                                  .cols = p.width,
                                  .home = p.keys_in_cache ? Home::kCache : Home::kMemory,
                                  .scale_bytes = key_scale,
                                  .memory_bytes = key_bytes_ * key_passes_});
  const TensorId pages = m.tensor(
      {.name = "pages", .dtype = Dtype::kInt32, .rows = pages_, .cols = 1, .home = Home::kMemory});
  const TensorId scores = m.tensor(
      {.name = "scores",
       .dtype = p.score,
       .rows = queries_,
       .cols = columns_,
       .home = score_bytes_ <= kCacheShare * cache_capacity_ ? Home::kCache : Home::kMemory,
       .memory_bytes = score_bytes_});

  const std::int64_t last_entry = visible(at.position + at.queries - 1);
  const std::int64_t first_page = at.first_tile * tile / p.page;
  const std::int64_t end_page =
      std::max(first_page, std::min(at.last_tile * tile / p.page, ceil_div(last_entry, p.page)));
  const Buffer table = m.buffer({.name = "page_table",
                                 .local = Local::kOperand,
                                 .dtype = Dtype::kInt32,
                                 .rows = end_page - first_page,
                                 .cols = 1});
  const Buffer q = m.buffer({.name = "query_heads",
                             .local = Local::kOperand,
                             .dtype = p.compute,
                             .rows = block_rows,
                             .cols = p.width,
                             .scale_bytes = query_scale});
  const Buffer w = m.buffer({.name = "weights",
                             .local = Local::kVector,
                             .dtype = Dtype::kFp32,
                             .rows = block_rows,
                             .cols = 1});
  const bool early = fault_ == IndexLogitsFault::kEarlyReuse;
  const std::int64_t key_slots = early ? std::max<std::int64_t>(1, d.stages - 1) : d.stages;
  const Buffer k = m.buffer({.name = "key_tile",
                             .local = Local::kOperand,
                             .dtype = operand,
                             .rows = tile,
                             .cols = p.width,
                             .slots = key_slots,
                             .scale_bytes = widen_ ? 0.0 : key_scale});
  const Buffer packed = m.buffer({.name = "packed_keys",
                                  .local = Local::kVector,
                                  .dtype = p.key,
                                  .rows = widen_ ? tile : 0,
                                  .cols = p.width,
                                  .slots = key_slots,
                                  .scale_bytes = key_scale});
  const Buffer widened = m.buffer({.name = "widened_keys",
                                   .local = Local::kVector,
                                   .dtype = operand,
                                   .rows = widen_ ? tile : 0,
                                   .cols = p.width});
  const Buffer acc = m.buffer({.name = "accumulator",
                               .local = Local::kAccumulator,
                               .dtype = Dtype::kFp32,
                               .rows = d.keys_are_rows ? tile : block_rows,
                               .cols = d.keys_are_rows ? block_rows : tile,
                               .slots = d.accumulators});
  const Buffer products = m.buffer({.name = "products",
                                    .local = Local::kVector,
                                    .dtype = Dtype::kFp32,
                                    .rows = block_rows,
                                    .cols = tile,
                                    .slots = d.score_slots});
  const Buffer dots = m.buffer({.name = "dots",
                                .local = Local::kVector,
                                .dtype = Dtype::kFp32,
                                .rows = d.block_queries,
                                .cols = tile});
  const Buffer scaled = m.buffer({.name = "scaled",
                                  .local = Local::kVector,
                                  .dtype = Dtype::kFp32,
                                  .rows = scale_scores ? d.block_queries : 0,
                                  .cols = tile});
  const Buffer out = m.buffer({.name = "score_tile",
                               .local = Local::kVector,
                               .dtype = p.score,
                               .rows = d.block_queries,
                               .cols = tile,
                               .slots = 2});
  if (at.first_tile == at.last_tile) return;

  const std::int64_t rows = at.queries * p.heads;
  const Block query_rows{0, rows, 0, p.width};
  m.load(table(), pages, {at.first_page + first_page, end_page - first_page, 0, 1});
  m.load(q(0, query_rows), queries, {at.first_query * p.heads, rows, 0, p.width});
  m.load(w(0, {0, rows, 0, 1}), weights, {at.first_query * p.heads, rows, 0, 1});

  // Pages of tile `first_tile` + i, and entries of them.
  const auto tile_pages = [&](std::int64_t i) {
    const std::int64_t page = (at.first_tile + i) * tile / p.page - first_page;
    return std::pair{page, std::min(tile / p.page, end_page - first_page - page)};
  };
  const auto entries = [&](std::int64_t i) { return tile_pages(i).second * p.page; };
  const auto load = [&](std::int64_t i) {
    const auto [page, count] = tile_pages(i);
    m.gather((widen_ ? packed : k)(i, {0, count * p.page, 0, p.width}), keys,
             table(0, {page, count, 0, 1}), 0, p.width, p.page);
  };
  const auto convert = [&](std::int64_t i) {
    const Block part{0, entries(i), 0, p.width};
    m.widen(widened(0, part), packed(i, part));
    m.move(k(i, part), widened(0, part));
  };
  const auto acc_tile = [&](std::int64_t i) {
    return acc(i, d.keys_are_rows ? Block{0, entries(i), 0, rows} : Block{0, rows, 0, entries(i)});
  };
  const auto multiply = [&](std::int64_t i) {
    const BufferRef key = k(i, {0, entries(i), 0, p.width});
    const BufferRef query = q(0, query_rows);
    m.matrix(acc_tile(i), d.keys_are_rows ? key : query, d.keys_are_rows ? query : key,
             {.m = d.keys_are_rows ? entries(i) : rows,
              .n = d.keys_are_rows ? rows : entries(i),
              .k = p.width,
              .compute = p.compute,
              .accumulate = false,
              .scaled = !scale_scores});
  };
  const auto reduce = [&](std::int64_t i, bool masked) {
    const std::int64_t n = entries(i);
    const BufferRef z = products(i, {0, rows, 0, n});
    m.move(z, acc_tile(i), d.keys_are_rows);
    if (fault_ != IndexLogitsFault::kNoRelu) {
      m.vector(VectorKind::kMax, z, {z}, {.scalar = 0.0});
    }
    for (std::int64_t j = 0; j < at.queries; ++j) {
      m.vector(VectorKind::kColDot, dots(0, {j, 1, 0, n}),
               {products(i, {j * p.heads, p.heads, 0, n}), w(0, {j * p.heads, p.heads, 0, 1})});
    }
    const Block tile_scores{0, at.queries, 0, n};
    const BufferRef sums = dots(0, tile_scores);
    const BufferRef leaving = out(i, tile_scores);
    if (scale_scores) {
      const BufferRef s = scaled(0, tile_scores);
      m.vector(VectorKind::kFill, s, {});
      m.vector(VectorKind::kScaled, s, {sums, sums, k(i, {0, n, 0, p.width})});
      m.vector(VectorKind::kCopy, leaving, {s});
    } else {
      m.vector(VectorKind::kCopy, leaving, {sums});
    }
    const std::int64_t first = (at.first_tile + i) * tile;
    if (masked) {
      for (std::int64_t j = 0; j < at.queries; ++j) {
        const std::int64_t seen = std::clamp<std::int64_t>(visible(at.position + j) - first, 0, n);
        if (seen == n) continue;
        m.vector(VectorKind::kFill, out(i, {j, 1, seen, n - seen}), {},
                 {.scalar = -std::numeric_limits<double>::infinity()});
      }
    }
    m.store(scores, {at.first_query, at.queries, first, n}, leaving);
  };

  const std::int64_t ahead = d.stages - 1;
  // Tiles that every query of the block sees whole, then those that need masks.
  const std::int64_t whole = std::clamp<std::int64_t>(visible(at.position) / tile - at.first_tile,
                                                      0, at.last_tile - at.first_tile);
  const auto score = [&](std::int64_t i) { reduce(i, false); };
  if (widen_) {
    m.pipeline(whole, {Phase{ahead, load}, Phase{1, convert}, Phase{0, multiply}, Phase{0, score}});
  } else {
    m.pipeline(whole, {Phase{ahead, load}, Phase{0, multiply}, Phase{0, score}});
  }
  for (std::int64_t i = whole; i < at.last_tile - at.first_tile; ++i) {
    load(i);
    if (widen_) convert(i);
    multiply(i);
    reduce(i, true);
  }
}

}  // namespace foretoken::hwmodels::kernels
