#include "hwmodels/kernels/attention.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace foretoken::hwmodels::kernels {

using tile::Block;
using tile::Buffer;
using tile::BufferRef;
using tile::FunctionRef;
using tile::Home;
using tile::Local;
using tile::Machine;
using tile::Phase;
using tile::TensorId;
using tile::VectorKind;
using tile::WorkClass;
using workloads::Dtype;

namespace {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Share of the cache that operands of concurrent items may take and still be found there.
constexpr double kCacheShare = 0.5;
// A running maximum starts here and masked scores lie below it, so that they weigh exactly nothing
// even where a block holds no visible key.
constexpr double kLeast = -1e30;
constexpr double kMasked = 1e38;

double element_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

Home home_of(double bytes, double room) { return bytes <= room ? Home::kCache : Home::kMemory; }

constexpr std::array<std::string_view, 3> kRescaleNames = {"in_place", "through", "in_vector"};
constexpr std::array<std::string_view, 2> kHomeNames = {"operand", "accumulator"};
constexpr std::array<std::string_view, 2> kMergeNames = {"kernel", "last_item"};

// Parts of one head group: weighted by e^(their maximum less the common one), added and divided by
// the common sum.
struct MergeShape {
  std::int64_t splits, heads, head, row, part, value_width;
  double scale;
  bool sink, plain;
};
struct MergeTensors {
  TensorId parts, max, sum, sinks, output;
};
struct MergeBuffers {
  Buffer part, max, sum, common, total, sink, weight, weight_by_head, one, merged, out;
};

// Heads that are merged at a time: a divisor.
std::int64_t merge_group(const AttentionDesign& d, std::int64_t heads) {
  std::int64_t group = std::min(d.merge_heads, heads);
  while (heads % group != 0) --group;
  return group;
}

MergeBuffers merge_buffers(Machine& m, const MergeShape& s) {
  const auto vector = [&](std::string_view name, std::int64_t rows, std::int64_t cols,
                          std::int64_t slots = 1, Dtype dtype = Dtype::kFp32) {
    return m.buffer({.name = name,
                     .local = Local::kVector,
                     .dtype = dtype,
                     .rows = rows,
                     .cols = cols,
                     .slots = slots});
  };
  return {vector("merge_part", s.heads, s.value_width, 3),
          vector("merge_max", s.splits, s.heads),
          vector("merge_sum", s.splits, s.heads),
          vector("merge_common", 1, s.heads),
          vector("merge_total", 1, s.heads),
          vector("merge_sink", s.heads, 1),
          vector("merge_weight", s.splits, s.heads),
          vector("merge_weight_by_head", s.heads, s.splits),
          vector("merge_one", 1, 1),
          vector("merged", s.heads, s.value_width),
          vector("merge_out", s.heads, s.value_width, 1, Dtype::kBf16)};
}

void merge_parts(Machine& m, const MergeShape& s, const MergeTensors& t, const MergeBuffers& b,
                 std::int64_t all_heads) {
  m.load(b.max(), t.max, {s.part, s.splits, s.head, s.heads});
  m.load(b.sum(), t.sum, {s.part, s.splits, s.head, s.heads});
  m.vector(VectorKind::kColMax, b.common(), {b.max()});
  if (s.plain) {
    m.vector(VectorKind::kFill, b.weight(), {}, {.scalar = 1.0});
  } else {
    m.vector(VectorKind::kExp, b.weight(), {b.max(), b.common()}, {.scalar = s.scale});
  }
  m.vector(VectorKind::kMul, b.sum(), {b.sum(), b.weight()});
  m.vector(VectorKind::kColSum, b.total(), {b.sum()});
  if (s.sink) {
    const BufferRef sink = b.sink();
    m.load(sink, t.sinks, {s.head, s.heads, 0, 1});
    m.vector(VectorKind::kMul, sink, {sink}, {.scalar = 1.0 / s.scale});
    const BufferRef row = b.max(0, {0, 1, 0, s.heads});  // no longer needed
    m.move(row, sink, true);
    m.vector(VectorKind::kExp, row, {row, b.common()}, {.scalar = s.scale});
    m.vector(VectorKind::kAdd, b.total(), {b.total(), row});
  }
  // A query without any key and without a sink: zeros.
  m.vector(VectorKind::kMax, b.total(), {b.total()}, {.scalar = 1e-38});
  m.vector(VectorKind::kFill, b.one(), {}, {.scalar = 1.0});
  m.vector(VectorKind::kDiv, b.total(), {b.one(), b.total()});
  m.vector(VectorKind::kMul, b.weight(), {b.weight(), b.total()});
  m.move(b.weight_by_head(), b.weight(), true);
  m.vector(VectorKind::kFill, b.merged(), {});
  m.pipeline(s.splits, {Phase{2,
                              [&](std::int64_t i) {
                                m.load(
                                    b.part(i), t.parts,
                                    {(s.part + i) * all_heads + s.head, s.heads, 0, s.value_width});
                              }},
                        Phase{0, [&](std::int64_t i) {
                                m.vector(VectorKind::kFma, b.merged(),
                                         {b.part(i), b.weight_by_head(0, {0, s.heads, i, 1})});
                              }}});
  m.vector(VectorKind::kCopy, b.out(), {b.merged()});
  m.store(t.output, {s.row + s.head, s.heads, 0, s.value_width}, b.out());
}

}  // namespace

void describe(base::ConfigVisitor& v, AttentionDesign& d) {
  v.integer({"heads", "rows of an item: query heads, times query tokens, at most"}, d.heads,
            {.min = 1, .max = 1024});
  v.integer({"queries", "query tokens of an item at most, where they share keys"}, d.queries,
            {.min = 1, .max = 256});
  v.integer({"block_keys", "keys of one iteration"}, d.block_keys, {.min = 1, .max = 4096});
  v.integer({"kv_slots", "blocks of keys as the matrix unit reads them"}, d.kv_slots,
            {.min = 1, .max = 64});
  v.integer({"raw_slots", "blocks as fetched, where vector units widen them"}, d.raw_slots,
            {.min = 1, .max = 64});
  v.integer({"score_slots", "2: a block's scores run during the softmax of the one before"},
            d.score_slots, {.min = 1, .max = 2});
  v.integer({"value_columns", "value channels that move between units at a time"}, d.value_columns,
            {.min = 1, .max = 4096});
  v.integer({"max_splits", "parts a query's keys are cut into at most"}, d.max_splits,
            {.min = 1, .max = 1024});
  v.integer({"min_split_blocks", "blocks of keys of a part at least"}, d.min_split_blocks,
            {.min = 1, .max = 1024});
  v.integer({"sharing", "neighbouring cores that fetch and widen a part each for all"}, d.sharing,
            {.min = 1, .max = 16});
  v.integer({"merge_heads", "heads of a work item of the merge"}, d.merge_heads,
            {.min = 1, .max = 1024});
  base::choice(v, {"rescale", "who multiplies the running sums when a maximum grows"}, d.rescale,
               kRescaleNames);
  base::choice(v, {"queries_in", "where queries lie when the matrix unit reads them"}, d.queries_in,
               kHomeNames);
  base::choice(v, {"probabilities_in", "where probabilities lie when the matrix unit reads them"},
               d.probabilities_in, kHomeNames);
  base::choice(v, {"merge", "who merges the parts of a query"}, d.merge, kMergeNames);
  v.boolean({"pair", "two cores that share keys work on one matrix instruction"}, d.pair);
  v.boolean({"widen_first", "a kernel of its own writes entries out in BF16"}, d.widen_first);
  v.boolean({"persistent", "one block per core works through all its items"}, d.persistent);
}

AttentionKernel::AttentionKernel(const AttentionProblem& problem, const AttentionDesign& design,
                                 const tile::CoreRates& chip, AttentionFault fault)
    : problem_(problem),
      design_(&design),
      fault_(fault),
      room_(kCacheShare * chip.cache_capacity),
      sector_(chip.sector) {
  if (design.widen_first) {
    problem_.window_entry = problem_.compressed_entry = kBf16Entry;
  }
  heads_ = std::min(design.heads, problem.heads);
  // Parts as large as one round over the cores allows.
  double work = 0.0;
  double window = 0.0;
  double compressed = 0.0;
  std::int64_t most = 0;
  for (const QueryClass& c : problem_.classes) {
    queries_ += c.queries;
    most = std::max(most, c.compressed);
    window += static_cast<double>(c.queries * c.window);
    compressed += static_cast<double>(c.queries * c.compressed);
    const std::int64_t t = tokens(c);
    work += static_cast<double>(ceil_div(c.queries, t) * blocks(c, t).total() * head_blocks());
  }
  split_blocks_ = std::max<std::int64_t>(design.min_split_blocks,
                                         static_cast<std::int64_t>(std::ceil(work / chip.cores)));
  for (const QueryClass& c : problem_.classes) {
    const std::int64_t s = splits(c);
    most_splits_ = std::max(most_splits_, s);
    if (s > 1) parts_ += c.queries * s;
  }
  selection_columns_ = ceil_div(most, design.block_keys) * design.block_keys;

  // Entries that several queries ask for come from memory once as long as the cache holds all that
  // are touched; else a request finds its entry there with the share that it holds.
  const auto fetched = [&](const EntryFormat& f, double asked, std::int64_t distinct,
                           std::int64_t rows) {
    const double once = distinct >= 0 ? std::min(static_cast<double>(distinct), asked)
                                      : std::min(static_cast<double>(rows), asked);
    const double bytes =
        once * (static_cast<double>(f.narrow) * (element_bytes(f.dtype) + f.scale_bytes) +
                static_cast<double>(problem_.key_width - f.narrow) * element_bytes(Dtype::kBf16));
    return bytes <= room_ ? once : once + (asked - once) * (1.0 - room_ / bytes);
  };
  window_fetched_ =
      fetched(problem_.window_entry, window, problem_.window_distinct, problem_.window_rows);
  compressed_fetched_ = fetched(problem_.compressed_entry, compressed, problem_.compressed_distinct,
                                problem_.compressed_rows);
}

std::int64_t AttentionKernel::head_blocks() const { return ceil_div(problem_.heads, heads_); }

// Query tokens share an item where they share keys and the item holds all heads.
std::int64_t AttentionKernel::tokens(const QueryClass& c) const {
  if (problem_.selected || heads_ < problem_.heads || c.window_step > 1 || c.compressed_step > 0) {
    return 1;
  }
  return std::clamp<std::int64_t>(design_->heads / heads_, 1,
                                  std::max<std::int64_t>(1, std::min(design_->queries, c.queries)));
}

AttentionKernel::Blocks AttentionKernel::blocks(const QueryClass& c, std::int64_t count) const {
  const std::int64_t n = design_->block_keys;
  Blocks b;
  const std::int64_t window = c.window + (count - 1) * c.window_step;
  const bool exact = c.window_least < 0 && window == c.window;
  b.window = exact ? window / n : 0;
  b.window_masked = ceil_div(window, n) - b.window;
  if (c.window == 0 || fault_ == AttentionFault::kNoWindow) b.window = b.window_masked = 0;
  const std::int64_t least = c.compressed_least < 0 ? c.compressed : c.compressed_least;
  b.compressed = problem_.selected ? 0 : least / n;
  b.compressed_masked = ceil_div(c.compressed, n) - b.compressed;
  return b;
}

AttentionKernel::Part AttentionKernel::part(const Blocks& all, std::int64_t split,
                                            std::int64_t splits) {
  const std::int64_t from = split * all.total() / splits;
  const std::int64_t to = (split + 1) * all.total() / splits;
  Part p;
  std::int64_t begin = 0;
  for (std::int64_t Blocks::*kind :
       {&Blocks::window, &Blocks::window_masked, &Blocks::compressed, &Blocks::compressed_masked}) {
    const std::int64_t end = begin + all.*kind;
    const std::int64_t first = std::max(from, begin);
    p.count.*kind = std::max<std::int64_t>(0, std::min(to, end) - first);
    p.first.*kind = first - begin;
    begin = end;
  }
  return p;
}

std::int64_t AttentionKernel::splits(const QueryClass& c) const {
  return std::clamp<std::int64_t>(blocks(c, tokens(c)).total() / split_blocks_, 1,
                                  design_->max_splits);
}

tile::Launch AttentionKernel::launch() const {
  std::int64_t items = 0;
  for (const QueryClass& c : problem_.classes) {
    items += ceil_div(c.queries, tokens(c)) * splits(c) * head_blocks();
  }
  return {.items = items, .cores = 0, .persistent = design_->persistent};
}

struct AttentionKernel::Place {
  const QueryClass* of = nullptr;
  std::int64_t query = 0;  // first, within its class
  std::int64_t tokens = 1;
  std::int64_t first = 0;  // queries of the classes before
  std::int64_t split = 0;
  std::int64_t splits = 1;
  std::int64_t head = 0;  // first
  std::int64_t heads = 0;
  std::int64_t part = 0;  // first part of the first query
};

AttentionKernel::Place AttentionKernel::place(std::int64_t index) const {
  Place p;
  for (const QueryClass& c : problem_.classes) {
    const std::int64_t t = tokens(c);
    const std::int64_t s = splits(c);
    const std::int64_t items = ceil_div(c.queries, t) * s * head_blocks();
    if (index >= items) {
      index -= items;
      p.first += c.queries;
      if (s > 1) p.part += c.queries * s;
      continue;
    }
    p.of = &c;
    p.splits = s;
    p.head = index % head_blocks() * heads_;
    p.heads = std::min(heads_, problem_.heads - p.head);
    index /= head_blocks();
    p.split = index % s;
    p.query = index / s * t;
    p.tokens = std::min(t, c.queries - p.query);
    if (s > 1) p.part += p.query * s;
    return p;
  }
  return p;
}

void AttentionKernel::classes(FunctionRef<void(const WorkClass&)> visit) const {
  // Items differ by how many blocks of each kind they work through, the last tokens of a class and
  // the last heads by how many rows they have, and the merging item by its merge.
  struct Group {
    Blocks blocks;
    bool last = false;
    std::int64_t split = 0;
    std::int64_t count = 0;
  };
  const std::int64_t hb = head_blocks();
  const std::int64_t odd_heads = problem_.heads % heads_ != 0 ? 1 : 0;
  std::int64_t first = 0;
  for (const QueryClass& c : problem_.classes) {
    if (c.queries == 0) continue;
    const std::int64_t t = tokens(c);
    const std::int64_t s = splits(c);
    const std::int64_t query_blocks = ceil_div(c.queries, t);
    for (const bool whole : {true, false}) {
      const std::int64_t queries = whole ? c.queries / t : query_blocks - c.queries / t;
      if (queries == 0) continue;
      const std::int64_t begin = first + (whole ? 0 : c.queries / t) * s * hb;
      const Blocks all = blocks(c, whole ? t : c.queries % t);
      std::array<Group, 16> groups;
      std::size_t used = 0;
      for (std::int64_t i = 0; i < s; ++i) {
        const Group g{part(all, i, s).count,
                      s > 1 && i + 1 == s && design_->merge == SplitMerge::kLastItem, i, 1};
        std::size_t k = 0;
        while (k < used && !(groups[k].blocks == g.blocks && groups[k].last == g.last)) ++k;
        if (k == used) {
          groups[used++] = g;
        } else {
          ++groups[k].count;
        }
      }
      for (std::size_t k = 0; k < used; ++k) {
        const std::int64_t item = begin + groups[k].split * hb;
        visit({item, groups[k].count * queries * (hb - odd_heads)});
        if (odd_heads > 0) visit({item + hb - 1, groups[k].count * queries});
      }
    }
    first += query_blocks * s * hb;
  }
}

void AttentionKernel::item(Machine& m, std::int64_t index) const {
  const AttentionProblem& p = problem_;
  const AttentionDesign& d = *design_;
  const Place at = place(index);
  const QueryClass& c = *at.of;
  const std::int64_t n = d.block_keys;
  const std::int64_t rows = at.tokens * at.heads;
  const std::int64_t query = at.first + at.query;  // among all
  const Part mine = part(blocks(c, at.tokens), at.split, at.splits);
  const std::int64_t width = p.key_width;
  const std::int64_t values = p.value_width;
  const bool split = at.splits > 1;
  const bool in_vector = d.rescale == Rescale::kInVector;
  const int sharing = static_cast<int>(std::min(d.sharing, head_blocks()));
  const bool pair = d.pair && sharing == 2;

  // What lives outside the core.
  const auto plain = [&](std::string_view name, Dtype dtype, std::int64_t r, std::int64_t cols) {
    const double bytes = static_cast<double>(r * cols) * element_bytes(dtype);
    return m.tensor(
        {.name = name, .dtype = dtype, .rows = r, .cols = cols, .home = home_of(bytes, room_)});
  };
  struct Run {
    EntryFormat format;
    TensorId narrow = 0, wide = 0;
  };
  const auto entries = [&](std::string_view narrow, std::string_view wide, const EntryFormat& f,
                           std::int64_t r, double fetched, bool gathered) {
    // A gather takes whole sectors.
    const auto bytes = [&](double row) {
      return fetched * (gathered ? std::ceil(row / sector_) * sector_ : row);
    };
    Run run{f};
    const double per_element = element_bytes(f.dtype) + f.scale_bytes;
    const std::int64_t rest = width - f.narrow;
    const double wide_bytes = static_cast<double>(rest) * element_bytes(Dtype::kBf16);
    const double all =
        static_cast<double>(r) * (static_cast<double>(f.narrow) * per_element + wide_bytes);
    // Entries just written by a kernel that widens them may still be in the cache.
    const Home home = d.widen_first ? home_of(all, room_) : Home::kMemory;
    if (f.narrow > 0) {
      run.narrow = m.tensor({.name = narrow,
                             .dtype = f.dtype,
                             .rows = r,
                             .cols = f.narrow,
                             .home = home,
                             .scale_bytes = f.scale_bytes,
                             .memory_bytes = bytes(static_cast<double>(f.narrow) * per_element)});
    }
    if (rest > 0) {
      run.wide = m.tensor({.name = wide,
                           .dtype = Dtype::kBf16,
                           .rows = r,
                           .cols = rest,
                           .home = home,
                           .memory_bytes = bytes(wide_bytes)});
    }
    return run;
  };
  const TensorId queries = plain("queries", Dtype::kBf16, queries_ * p.heads, width);
  const Run window = entries("window_narrow", "window_wide", p.window_entry, p.window_rows,
                             window_fetched_, false);
  const Run compressed = entries("compressed_narrow", "compressed_wide", p.compressed_entry,
                                 p.compressed_rows, compressed_fetched_, p.selected);
  const TensorId selection =
      plain("selection", Dtype::kInt32, p.selected ? queries_ : 0, selection_columns_);
  const TensorId visible = plain("visible", Dtype::kInt32, queries_, 3);
  const TensorId sinks = plain("sinks", Dtype::kFp32, p.sink ? p.heads : 0, 1);
  const TensorId output = plain("output", Dtype::kBf16, queries_ * p.heads, values);
  const TensorId parts = plain("partial_output", Dtype::kFp32, parts_ * p.heads, values);
  const TensorId part_max = plain("partial_max", Dtype::kFp32, parts_, p.heads);
  const TensorId part_sum = plain("partial_sum", Dtype::kFp32, parts_, p.heads);

  // What lives inside.
  const auto buffer = [&](std::string_view name, Local local, Dtype dtype, std::int64_t r,
                          std::int64_t cols, std::int64_t slots = 1) {
    return m.buffer(
        {.name = name, .local = local, .dtype = dtype, .rows = r, .cols = cols, .slots = slots});
  };
  const auto raw_buffer = [&](std::string_view name, const EntryFormat& f, bool used) {
    return m.buffer({.name = name,
                     .local = Local::kVector,
                     .dtype = f.dtype,
                     .rows = used && f.narrow > 0 ? n : 0,
                     .cols = f.narrow,
                     .slots = d.raw_slots,
                     .scale_bytes = f.scale_bytes});
  };
  const std::int64_t window_blocks = mine.count.window + mine.count.window_masked;
  const std::int64_t compressed_blocks = mine.count.compressed + mine.count.compressed_masked;
  const std::int64_t narrow = std::max(window_blocks > 0 ? p.window_entry.narrow : 0,
                                       compressed_blocks > 0 ? p.compressed_entry.narrow : 0);
  const auto home = [](OperandHome h) {
    return h == OperandHome::kOperand ? Local::kOperand : Local::kAccumulator;
  };
  const Buffer q = buffer("queries", home(d.queries_in), Dtype::kBf16, rows, width);
  const Buffer kv = buffer("keys", Local::kOperand, Dtype::kBf16, n, width, d.kv_slots);
  // One format of raw entries is used by both runs in V4; otherwise each has its own slots.
  const bool alike = p.window_entry.dtype == p.compressed_entry.dtype &&
                     p.window_entry.narrow == p.compressed_entry.narrow;
  const Buffer raw_window = raw_buffer("raw_window", p.window_entry, window_blocks > 0 && !alike);
  const Buffer raw = raw_buffer("raw_keys", p.compressed_entry, compressed_blocks > 0 || alike);
  const Buffer widened =
      buffer("widened_keys", Local::kVector, Dtype::kBf16, narrow > 0 ? n : 0, narrow);
  const Buffer score_acc =
      buffer("score_sums", Local::kAccumulator, Dtype::kFp32, rows, n, d.score_slots);
  const Buffer score = buffer("scores", Local::kVector, Dtype::kFp32, rows, n);
  const Buffer narrowed = buffer("narrowed", Local::kVector, Dtype::kBf16, rows, n);
  const Buffer prob = buffer("probabilities", home(d.probabilities_in), Dtype::kBf16, rows, n, 2);
  const std::int64_t chunk = std::min(d.value_columns, values);
  const std::int64_t chunks = ceil_div(values, chunk);
  const Buffer acc = in_vector ? buffer("products", Local::kAccumulator, Dtype::kFp32, rows, chunk,
                                        chunks > 1 ? 2 : 1)
                               : buffer("sums", Local::kAccumulator, Dtype::kFp32, rows, values);
  const Buffer sums =
      buffer("vector_sums", Local::kVector, Dtype::kFp32, in_vector ? rows : 0, values, 2);
  const Buffer passing = buffer("passing_sums", Local::kVector, Dtype::kFp32, in_vector ? 0 : rows,
                                chunk, d.rescale == Rescale::kInPlace ? 1 : 2);
  const Buffer out = buffer("out", Local::kVector, Dtype::kBf16, split ? 0 : rows, chunk);
  const Buffer row_max = buffer("row_max", Local::kVector, Dtype::kFp32, rows, 1, 2);
  const Buffer row_sum = buffer("row_sum", Local::kVector, Dtype::kFp32, rows, 1, 2);
  const Buffer shrink = buffer("shrink", Local::kVector, Dtype::kFp32, rows, 1, 2);
  const Buffer sink = buffer("sink", Local::kVector, Dtype::kFp32, rows, 1);
  const Buffer constants = buffer("constants", Local::kVector, Dtype::kFp32, 1, 3);
  const std::int64_t picks = p.selected ? compressed_blocks * n : 0;
  const Buffer chosen = buffer("selection", Local::kVector, Dtype::kInt32, 1, picks);
  const Buffer hidden = buffer("hidden", Local::kVector, Dtype::kFp32, 1, n);
  const Buffer seen = buffer("visible", Local::kVector, Dtype::kInt32, at.tokens, 3);
  const Buffer bound = buffer("bound", Local::kVector, Dtype::kFp32, 1, 1);
  const Buffer turned = buffer("statistics", Local::kVector, Dtype::kFp32, 1, rows, 2);

  // Before the first block.
  const bool contiguous_masks =
      mine.count.window_masked > 0 || (!p.selected && mine.count.compressed_masked > 0);
  if (contiguous_masks) m.load(seen(), visible, {query, at.tokens, 0, 3});
  if (picks > 0) {
    m.load(chosen(), selection, {query, 1, mine.first.compressed_masked * n, picks});
  }
  // Rows are tokens, each with the item's heads.
  m.load(q(), queries, {query * p.heads + at.head, rows, 0, width});
  const BufferRef masked = constants(0, {0, 1, 0, 1});
  const BufferRef below = constants(0, {0, 1, 1, 1});
  const BufferRef one = constants(0, {0, 1, 2, 1});
  m.vector(VectorKind::kFill, masked, {}, {.scalar = kMasked});
  m.vector(VectorKind::kFill, below, {}, {.scalar = -kMasked});
  m.vector(VectorKind::kFill, one, {}, {.scalar = 1.0});
  m.vector(VectorKind::kFill, row_max(0), {}, {.scalar = kLeast});
  m.vector(VectorKind::kFill, row_sum(0), {});
  m.vector(VectorKind::kFill, in_vector ? sums(0) : acc(), {});

  // Where in the skew each part of a block's work stands. The products of a block reach sums kept
  // by vector units during the softmax of the next.
  const std::int64_t at_softmax = in_vector ? 1 : 0;
  const std::int64_t at_fill = at_softmax + d.kv_slots - 1;
  const std::int64_t at_scores = std::min(at_softmax + d.score_slots - 1, at_fill);
  const std::int64_t at_fetch = at_fill + d.raw_slots - 1;

  std::int64_t done = 0;  // blocks of the sections before
  const auto section = [&](bool is_window, bool is_masked, std::int64_t first, std::int64_t count) {
    if (count == 0) return;
    const Run& run = is_window ? window : compressed;
    const EntryFormat& f = run.format;
    const Buffer& fetched = is_window && !alike ? raw_window : raw;
    const bool gathered = p.selected && !is_window;
    // Row of the cache that the item's run begins at.
    const std::int64_t base = is_window ? c.window_row + at.query * c.window_step
                                        : c.compressed_row + at.query * c.compressed_step;
    const auto picked = [&](std::int64_t i) { return chosen(0, {0, 1, i * n, n}); };
    const auto take = [&](const BufferRef& to, TensorId from, std::int64_t i) {
      if (gathered) {
        m.gather(to, from, picked(i), 0, tile::kAll, 1, sharing);
      } else {
        m.load(to, from, {base + (first + i) * n, n, 0, tile::kAll}, sharing);
      }
    };
    const auto fetch = [&](std::int64_t i) {
      if (f.narrow > 0) take(fetched(done + i), run.narrow, i);
    };
    const auto fill = [&](std::int64_t i) {
      const std::int64_t j = done + i;
      if (f.narrow < width) {
        take(kv(j, {0, n, f.narrow, width - f.narrow}), run.wide, i);
      }
      if (f.narrow == 0) return;
      const BufferRef into = widened(j, {0, n, 0, f.narrow});
      m.vector(VectorKind::kDequantise, into, {fetched(j)}, {.shared = sharing});
      m.move(kv(j, {0, n, 0, f.narrow}), into);
    };
    const auto multiply = [&](std::int64_t i) {
      const std::int64_t j = done + i;
      m.matrix(score_acc(j), q(), kv(j),
               {.m = rows, .n = n, .k = width, .accumulate = false, .pair = pair});
    };
    const auto mask = [&](std::int64_t i) {
      const std::int64_t j = done + i;
      if (gathered) {
        // A number below zero is none: its column is pushed below every maximum.
        m.vector(VectorKind::kMin, hidden(), {picked(i)}, {.scalar = 0.0});
        m.vector(VectorKind::kFma, score(j), {hidden(), masked});
        return;
      }
      const double row = static_cast<double>(base + (first + i) * n);
      const double late =
          fault_ == AttentionFault::kLateBound && !is_window ? static_cast<double>(n) : 0.0;
      for (std::int64_t t = 0; t < at.tokens; ++t) {
        const BufferRef of_token = score(j, {t * at.heads, at.heads, 0, n});
        m.vector(VectorKind::kAdd, bound(), {seen(0, {t, 1, is_window ? 1 : 2, 1})},
                 {.scalar = late - row});
        m.vector(VectorKind::kMask, of_token, {of_token, bound()}, {.scalar = -kMasked});
        if (!is_window || at.tokens == 1 || fault_ == AttentionFault::kWindowTooLong) continue;
        m.vector(VectorKind::kAdd, bound(), {seen(0, {t, 1, 0, 1})}, {.scalar = -row});
        m.vector(VectorKind::kMask, hidden(), {below, bound()}, {.scalar = 0.0});
        m.vector(VectorKind::kAdd, of_token, {of_token, hidden()});
      }
    };
    const auto softmax = [&](std::int64_t i) {
      const std::int64_t j = done + i;
      m.move(score(j), score_acc(j));
      if (is_masked && fault_ != AttentionFault::kNoTailMask) mask(i);
      m.vector(VectorKind::kRowMax, row_max(j + 1), {score(j)});
      m.vector(VectorKind::kMax, row_max(j + 1), {row_max(j + 1), row_max(j)});
      m.vector(VectorKind::kExp, shrink(j), {row_max(j), row_max(j + 1)}, {.scalar = p.scale});
      if (fault_ == AttentionFault::kNoRescale) {
        m.vector(VectorKind::kFill, shrink(j), {}, {.scalar = 1.0});
      }
      m.vector(VectorKind::kExp, score(j), {score(j), row_max(j + 1)}, {.scalar = p.scale});
      m.vector(VectorKind::kRowSum, row_sum(j + 1), {score(j)});
      m.vector(VectorKind::kFma, row_sum(j + 1), {row_sum(j), shrink(j)});
      m.vector(VectorKind::kCopy, narrowed(j), {score(j)});
      m.move(prob(j), narrowed(j));
      if (d.rescale == Rescale::kInPlace) {
        m.vector(VectorKind::kMul, acc(), {acc(), shrink(j)});
      } else if (d.rescale == Rescale::kThrough) {
        for (std::int64_t k = 0; k < chunks; ++k) {
          const std::int64_t cols = std::min(chunk, values - k * chunk);
          const BufferRef there = acc(0, {0, rows, k * chunk, cols});
          const BufferRef here = passing(j * chunks + k, {0, rows, 0, cols});
          m.move(here, there);
          m.vector(VectorKind::kMul, here, {here, shrink(j)});
          m.move(there, here);
        }
      }
    };
    // Sums kept by vector units: the last block's product plus all before, rescaled.
    const auto add_up = [&](std::int64_t i) {
      const std::int64_t j = done + i;
      m.vector(VectorKind::kFma, sums(j + 1), {sums(j), shrink(j)});
    };
    const auto weigh = [&](std::int64_t i) {
      const std::int64_t j = done + i;
      if (!in_vector) {
        m.matrix(acc(), prob(j), kv(j, {0, n, 0, values}),
                 {.m = rows, .n = values, .k = n, .b_by_rows = true, .pair = pair});
        return;
      }
      for (std::int64_t k = 0; k < chunks; ++k) {
        const std::int64_t cols = std::min(chunk, values - k * chunk);
        const BufferRef product = acc(j * chunks + k, {0, rows, 0, cols});
        m.matrix(
            product, prob(j), kv(j, {0, n, k * chunk, cols}),
            {.m = rows, .n = cols, .k = n, .accumulate = false, .b_by_rows = true, .pair = pair});
        m.move(sums(j + 1, {0, rows, k * chunk, cols}), product);
      }
    };
    const std::int64_t early = fault_ == AttentionFault::kSlotEarly ? 1 : 0;
    m.pipeline(count, {Phase{at_fetch + early, fetch}, Phase{at_fill + early, fill},
                       Phase{at_scores, multiply}, Phase{at_softmax, softmax},
                       Phase{0,
                             [&](std::int64_t i) {
                               if (in_vector) add_up(i);
                             }},
                       Phase{at_softmax, weigh}});
    done += count;
  };
  section(true, false, mine.first.window, mine.count.window);
  section(true, true, mine.first.window_masked + blocks(c, at.tokens).window,
          mine.count.window_masked);
  section(false, false, mine.first.compressed, mine.count.compressed);
  section(false, true, mine.first.compressed_masked + blocks(c, at.tokens).compressed,
          mine.count.compressed_masked);

  // After the last block.
  const BufferRef most = row_max(done);
  const BufferRef total = row_sum(done);
  const auto columns = [&](std::int64_t k) { return std::min(chunk, values - k * chunk); };
  const auto leaving = [&](std::int64_t k) {
    if (in_vector) return sums(done, {0, rows, k * chunk, columns(k)});
    const BufferRef here = passing(k, {0, rows, 0, columns(k)});
    m.move(here, acc(0, {0, rows, k * chunk, columns(k)}));
    return here;
  };
  if (!split) {
    if (p.sink && fault_ != AttentionFault::kNoSink) {
      for (std::int64_t t = 0; t < at.tokens; ++t) {
        m.load(sink(0, {t * at.heads, at.heads, 0, 1}), sinks, {at.head, at.heads, 0, 1});
      }
      m.vector(VectorKind::kMul, sink(), {sink()}, {.scalar = 1.0 / p.scale});
      m.vector(VectorKind::kExp, sink(), {sink(), most}, {.scalar = p.scale});
      m.vector(VectorKind::kAdd, total, {total, sink()});
    }
    // A query without any key and without a sink: zeros.
    m.vector(VectorKind::kMax, total, {total}, {.scalar = 1e-38});
    m.vector(VectorKind::kDiv, total, {one, total});
    for (std::int64_t k = 0; k < chunks; ++k) {
      const BufferRef here = leaving(k);
      const BufferRef rounded = out(k, {0, rows, 0, columns(k)});
      m.vector(VectorKind::kMul, rounded, {here, total});
      m.store(output, {query * p.heads + at.head, rows, k * chunk, columns(k)}, rounded);
    }
    return;
  }
  m.move(turned(0), most, true);
  m.move(turned(1), total, true);
  for (std::int64_t t = 0; t < at.tokens; ++t) {
    const std::int64_t part_row = at.part + t * at.splits + at.split;
    const Block of_token{0, 1, t * at.heads, at.heads};
    m.store(part_max, {part_row, 1, at.head, at.heads}, turned(0, of_token));
    m.store(part_sum, {part_row, 1, at.head, at.heads}, turned(1, of_token));
  }
  for (std::int64_t k = 0; k < chunks; ++k) {
    BufferRef here = leaving(k);
    for (std::int64_t t = 0; t < at.tokens; ++t) {
      const std::int64_t part_row = at.part + t * at.splits + at.split;
      here.block.row = t * at.heads;
      here.block.rows = at.heads;
      m.store(parts, {part_row * p.heads + at.head, at.heads, k * chunk, columns(k)}, here);
    }
  }
  if (d.merge != SplitMerge::kLastItem) return;
  const std::int64_t flag = query * head_blocks() + at.head / heads_;
  if (at.split + 1 < at.splits) {
    m.signal(flag);
    return;
  }
  m.wait(flag, at.splits - 1);
  const std::int64_t group = merge_group(d, at.heads);
  MergeShape shape{.splits = at.splits,
                   .heads = group,
                   .head = 0,
                   .row = 0,
                   .part = 0,
                   .value_width = values,
                   .scale = p.scale,
                   .sink = p.sink && fault_ != AttentionFault::kNoSink,
                   .plain = fault_ == AttentionFault::kPlainMerge};
  const MergeBuffers merge = merge_buffers(m, shape);
  for (std::int64_t t = 0; t < at.tokens; ++t) {
    for (std::int64_t h = 0; h < at.heads; h += group) {
      shape.head = at.head + h;
      shape.row = (query + t) * p.heads;
      shape.part = at.part + t * at.splits;
      merge_parts(m, shape, {parts, part_max, part_sum, sinks, output}, merge, p.heads);
    }
  }
}

tile::Launch AttentionMergeKernel::launch() const {
  const AttentionKernel& a = *attention_;
  std::int64_t queries = 0;
  for (const QueryClass& c : a.problem_.classes) queries += a.splits(c) > 1 ? c.queries : 0;
  const std::int64_t heads = a.problem_.heads;
  return {.items = queries * (heads / merge_group(*a.design_, heads)), .cores = 0};
}

void AttentionMergeKernel::classes(FunctionRef<void(const WorkClass&)> visit) const {
  const AttentionKernel& a = *attention_;
  const std::int64_t heads = a.problem_.heads;
  const std::int64_t groups = heads / merge_group(*a.design_, heads);
  std::int64_t first = 0;
  for (const QueryClass& c : a.problem_.classes) {
    if (a.splits(c) == 1) continue;
    visit({first, c.queries * groups});
    first += c.queries * groups;
  }
}

void AttentionMergeKernel::item(Machine& m, std::int64_t index) const {
  const AttentionKernel& a = *attention_;
  const AttentionProblem& p = a.problem_;
  const std::int64_t group = merge_group(*a.design_, p.heads);
  const std::int64_t groups = p.heads / group;
  MergeShape shape{.splits = 1,
                   .heads = group,
                   .head = index % groups * group,
                   .row = 0,
                   .part = 0,
                   .value_width = p.value_width,
                   .scale = p.scale,
                   .sink = p.sink && a.fault_ != AttentionFault::kNoSink,
                   .plain = a.fault_ == AttentionFault::kPlainMerge};
  std::int64_t query = index / groups;
  for (const QueryClass& c : p.classes) {
    const std::int64_t s = a.splits(c);
    if (s > 1) {
      if (query < c.queries) {
        shape.splits = s;
        shape.row += query * p.heads;
        shape.part += query * s;
        break;
      }
      query -= c.queries;
      shape.part += c.queries * s;
    }
    shape.row += c.queries * p.heads;
  }
  const auto tensor = [&](std::string_view name, Dtype dtype, std::int64_t rows,
                          std::int64_t cols) {
    const double bytes = static_cast<double>(rows * cols) * element_bytes(dtype);
    return m.tensor({.name = name,
                     .dtype = dtype,
                     .rows = rows,
                     .cols = cols,
                     .home = home_of(bytes, a.room_)});
  };
  const MergeTensors tensors{
      tensor("partial_output", Dtype::kFp32, a.parts_ * p.heads, p.value_width),
      tensor("partial_max", Dtype::kFp32, a.parts_, p.heads),
      tensor("partial_sum", Dtype::kFp32, a.parts_, p.heads),
      tensor("sinks", Dtype::kFp32, p.sink ? p.heads : 0, 1),
      tensor("output", Dtype::kBf16, a.queries_ * p.heads, p.value_width)};
  merge_parts(m, shape, tensors, merge_buffers(m, shape), p.heads);
}

namespace {

constexpr std::int64_t kWidenRows = 64;

}  // namespace

WidenEntriesKernel::WidenEntriesKernel(const EntryFormat& format, std::int64_t width,
                                       std::int64_t rows, const tile::CoreRates& chip)
    : format_(format), width_(width), rows_(rows), room_(kCacheShare * chip.cache_capacity) {}

tile::Launch WidenEntriesKernel::launch() const {
  return {.items = ceil_div(rows_, kWidenRows), .cores = 0, .persistent = true};
}

void WidenEntriesKernel::classes(FunctionRef<void(const WorkClass&)> visit) const {
  const std::int64_t whole = rows_ / kWidenRows;
  if (whole > 0) visit({0, whole});
  if (rows_ % kWidenRows > 0) visit({whole, 1});
}

void WidenEntriesKernel::item(Machine& m, std::int64_t index) const {
  const EntryFormat& f = format_;
  const std::int64_t row = index * kWidenRows;
  const std::int64_t rows = std::min(kWidenRows, rows_ - row);
  const std::int64_t rest = width_ - f.narrow;
  const TensorId narrow = m.tensor({.name = "narrow",
                                    .dtype = f.dtype,
                                    .rows = rows_,
                                    .cols = f.narrow,
                                    .home = Home::kMemory,
                                    .scale_bytes = f.scale_bytes});
  const TensorId wide =
      m.tensor({.name = "wide", .dtype = Dtype::kBf16, .rows = rows_, .cols = rest});
  const double bytes = static_cast<double>(rows_ * width_) * element_bytes(Dtype::kBf16);
  const TensorId out = m.tensor({.name = "workspace",
                                 .dtype = Dtype::kBf16,
                                 .rows = rows_,
                                 .cols = width_,
                                 .home = home_of(bytes, room_)});
  const auto buffer = [&](std::string_view name, Dtype dtype, std::int64_t cols, double scale) {
    return m.buffer({.name = name,
                     .local = Local::kVector,
                     .dtype = dtype,
                     .rows = rows,
                     .cols = cols,
                     .scale_bytes = scale});
  };
  const Buffer raw = buffer("raw", f.dtype, f.narrow, f.scale_bytes);
  const Buffer widened = buffer("widened", Dtype::kBf16, f.narrow, 0.0);
  const Buffer copied = buffer("copied", Dtype::kBf16, rest, 0.0);
  if (f.narrow > 0) {
    m.load(raw(), narrow, {row, rows, 0, f.narrow});
    m.vector(VectorKind::kDequantise, widened(), {raw()});
    m.store(out, {row, rows, 0, f.narrow}, widened());
  }
  if (rest > 0) {
    m.load(copied(), wide, {row, rows, 0, rest});
    m.store(out, {row, rows, f.narrow, rest}, copied());
  }
}

AttentionLaunches::AttentionLaunches(const AttentionProblem& problem, const AttentionDesign& design,
                                     const tile::CoreRates& chip, AttentionFault fault)
    : attention_(problem, design, chip, fault) {
  if (design.widen_first) {
    if (problem.window_entry.narrow > 0 && problem.window_rows > 0) {
      window_.emplace(problem.window_entry, problem.key_width, problem.window_rows, chip);
    }
    if (problem.compressed_entry.narrow > 0 && problem.compressed_rows > 0) {
      compressed_.emplace(problem.compressed_entry, problem.key_width, problem.compressed_rows,
                          chip);
    }
  }
  if (attention_.parts() > 0 && design.merge == SplitMerge::kKernel) merge_.emplace(attention_);
}

void AttentionLaunches::for_each(FunctionRef<void(const tile::Kernel&)> visit) const {
  if (window_) visit(*window_);
  if (compressed_) visit(*compressed_);
  visit(attention_);
  if (merge_) visit(*merge_);
}

namespace {

std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// Compressed entries that the token at `position` may see.
std::int64_t visible_entries(const KeyRule& r, std::int64_t position) {
  return r.ratio > 0 ? (position + 1) / r.ratio : 0;
}
std::int64_t taken_entries(const KeyRule& r, std::int64_t position) {
  const std::int64_t all = visible_entries(r, position);
  return r.selected > 0 ? std::min(r.selected, all) : all;
}

}  // namespace

void add_decode_classes(const KeyRule& rule, const AttentionDesign& design, std::int64_t sequences,
                        std::int64_t tokens, std::int64_t context, std::int64_t& window_rows,
                        std::int64_t& compressed_rows, std::vector<QueryClass>& classes) {
  const std::int64_t n = design.block_keys;
  const std::int64_t first = context - tokens;
  const std::int64_t kept = std::max<std::int64_t>(0, first - rule.window + 1);  // oldest position
  const auto begin = [&](std::int64_t position) {
    return std::max<std::int64_t>(0, position - rule.window + 1) - kept;
  };
  const std::int64_t window_page =
      rule.window > 0 ? begin(context - 1) + round_up(rule.window, n) : 0;
  const std::int64_t entry_page = round_up(visible_entries(rule, context - 1), n);
  for (std::int64_t position = first; position < context; ++position) {
    classes.push_back({.queries = sequences,
                       .window = std::min(rule.window, position + 1),
                       .compressed = taken_entries(rule, position),
                       .window_row = window_rows + (rule.window > 0 ? begin(position) : 0),
                       .window_step = window_page,
                       .compressed_row = compressed_rows,
                       .compressed_step = entry_page});
  }
  window_rows += sequences * window_page;
  compressed_rows += sequences * entry_page;
}

void add_prefill_classes(const KeyRule& rule, const AttentionDesign& design, std::int64_t first,
                         std::int64_t tokens, std::int64_t& window_rows,
                         std::int64_t& compressed_rows, std::vector<QueryClass>& classes) {
  const std::int64_t n = design.block_keys;
  const std::int64_t end = first + tokens;
  const std::int64_t kept = std::max<std::int64_t>(0, first - rule.window + 1);
  const auto keys = [&](std::int64_t position) { return std::min(rule.window, position + 1); };
  std::int64_t position = first;
  while (position < end) {
    // Up to where another block of either kind begins.
    std::int64_t next = end;
    const bool growing = keys(position) < rule.window;
    if (growing) {
      next = std::min({next, round_up(keys(position), n), rule.window - 1});
    }
    const std::int64_t entries = taken_entries(rule, position);
    if (rule.ratio > 0 && (rule.selected == 0 || entries < rule.selected)) {
      next = std::min(next, (round_up(entries, n) + 1) * rule.ratio - 1);
    }
    next = std::max(next, position + 1);
    const std::int64_t fewest = keys(position);
    const std::int64_t most = keys(next - 1);
    const std::int64_t taken = taken_entries(rule, next - 1);
    classes.push_back(
        {.queries = next - position,
         .window = most,
         .compressed = taken,
         .window_least = fewest == most ? -1 : fewest,
         .compressed_least = entries == taken ? -1 : entries,
         .window_row =
             window_rows + (rule.window > 0 && !growing ? position - rule.window + 1 - kept : 0),
         .window_step = rule.window > 0 && !growing ? 1 : 0,
         .compressed_row = compressed_rows,
         .compressed_step = 0});
    position = next;
  }
  // The last run is fetched in whole blocks, and tokens that share an item read a union of runs.
  if (rule.window > 0) {
    window_rows += end - kept + 2 * n + design.queries;
  }
  compressed_rows += round_up(visible_entries(rule, end - 1), n);
}

}  // namespace foretoken::hwmodels::kernels
