#include "hwmodels/kernels/moe_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

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

// As of row kernels.
constexpr double kCacheShare = 0.5;

double element_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

Home home_of(double bytes, double room) { return bytes <= room ? Home::kCache : Home::kMemory; }

double vector_room(const tile::CoreRates& chip) {
  return 0.9 * chip.capacity[static_cast<std::size_t>(Local::kVector)];
}

// Tokens of an iteration of a move, and in how many parts its rows are cut.
RowBlocks move_blocks(const MoeRowsProblem& p, const RowDesign& d, const tile::CoreRates& chip,
                      double bytes_per_channel) {
  const auto cores = static_cast<std::int64_t>(chip.cores);
  const double row_bytes = bytes_per_channel * static_cast<double>(p.hidden);
  const std::int64_t parts = even_parts(
      p.hidden,
      std::max(ceil_div(p.hidden, d.columns), cores / std::max<std::int64_t>(p.tokens, 1)),
      static_cast<std::int64_t>(row_bytes / vector_room(chip)) + 1);
  const std::int64_t width = p.hidden / parts;
  const auto fit = static_cast<std::int64_t>(vector_room(chip) /
                                             (bytes_per_channel * static_cast<double>(width)));
  const std::int64_t most =
      std::max<std::int64_t>(std::min({d.rows, fit, ceil_div(p.tokens, cores)}), 1);
  return {p.tokens, most, d.iterations, chip.cores, parts};
}

Buffer vector_buffer(Machine& m, std::string_view name, Dtype d, std::int64_t rows,
                     std::int64_t cols, std::int64_t slots = 1, double scale_bytes = 0.0) {
  return m.buffer({.name = name,
                   .local = Local::kVector,
                   .dtype = d,
                   .rows = rows,
                   .cols = cols,
                   .slots = slots,
                   .scale_bytes = scale_bytes});
}

}  // namespace

void describe(base::ConfigVisitor& v, MoeRowsDesign& d) {
  v.integer({"pairs", "token-expert pairs counted together, at most"}, d.pairs,
            {.min = 1, .max = 1024});
  v.integer({"single_pairs", "up to so many pairs are ordered by one core in one launch"},
            d.single_pairs, {.min = 0, .max = 1 << 20});
  base::group(v, {"rows", "schedule of the moves"}, [&] { describe(v, d.rows); });
}

ExpertOrderKernel::ExpertOrderKernel(const MoeRowsProblem& problem, const MoeRowsDesign& design,
                                     const tile::CoreRates& chip, Pass pass, MoeRowsFault fault)
    : problem_(problem), pass_(pass), fault_(fault) {
  // Two matrices [pairs, experts] are held at a time.
  const auto fit = static_cast<std::int64_t>(vector_room(chip) /
                                             (8.0 * static_cast<double>(problem.experts) + 16.0));
  const std::int64_t size = std::max<std::int64_t>(std::min(design.pairs, fit), 1);
  const double counters = problem.pairs() <= design.single_pairs ? 1.0 : chip.cores;
  blocks_ = RowBlocks(problem.pairs(), size, 0, counters);
}

tile::Launch ExpertOrderKernel::launch() const { return {.items = blocks_.items()}; }

void ExpertOrderKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  blocks_.classes(visit);
}

void ExpertOrderKernel::item(Machine& m, std::int64_t index) const {
  const MoeRowsProblem& p = problem_;
  const std::int64_t counters = blocks_.items();
  const std::int64_t size = blocks_.size();
  const std::int64_t first = blocks_.first_row(index);
  const std::int64_t rows = blocks_.rows(index);
  const bool counts = pass_ == Pass::kCount;
  const bool alone = counters == 1;
  const auto tensor = [&](std::string_view name, Dtype d, std::int64_t r, std::int64_t c) {
    return m.tensor({.name = name, .dtype = d, .rows = r, .cols = c, .home = Home::kCache});
  };
  const TensorId experts = tensor("experts", Dtype::kInt32, p.pairs(), 1);
  const TensorId partial =
      counts || !alone ? tensor("block_counts", Dtype::kFp32, counters, p.experts) : 0;
  const TensorId places = counts ? 0 : tensor("places", Dtype::kInt32, p.pairs(), 1);
  const TensorId group_rows = counts ? 0 : tensor("group_rows", Dtype::kInt32, 1, p.experts);

  const Buffer chosen = vector_buffer(m, "chosen", Dtype::kFp32, size, 1, 2);
  const Buffer after = vector_buffer(m, "chosen_next", Dtype::kFp32, size, 1);
  const Buffer one = vector_buffer(m, "one", Dtype::kFp32, 1, 1);
  const Buffer hits = vector_buffer(m, "hits", Dtype::kFp32, size, p.experts);
  const Buffer ranks = vector_buffer(m, "ranks", Dtype::kFp32, size, p.experts);
  const Buffer block_count = vector_buffer(m, "block_count", Dtype::kFp32, 1, p.experts);
  const Buffer total = vector_buffer(m, "total", Dtype::kFp32, 1, p.experts);
  const Buffer base = vector_buffer(m, "base", Dtype::kFp32, 1, p.experts);
  const Buffer part = vector_buffer(m, "part", Dtype::kFp32, 1, p.experts, 4);
  const Buffer place = vector_buffer(m, "place", Dtype::kFp32, size, 1, 2);

  const auto rows_of = [&](std::int64_t i) { return std::min(size, rows - i * size); };
  const auto load = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    m.load(chosen(i, {0, n, 0, 1}), experts, {first + i * size, n, 0, 1});
  };
  // One where a column is the pair's expert: columns below the next less columns below it.
  const auto mark = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const Block column{0, n, 0, 1};
    const Block all{0, n, 0, p.experts};
    const BufferRef expert = chosen(i, column);
    m.vector(VectorKind::kAdd, expert, {expert}, {.scalar = -static_cast<double>(p.first_expert)});
    m.vector(VectorKind::kAdd, after(0, column), {expert}, {.scalar = 1.0});
    m.vector(VectorKind::kMask, hits(0, all), {one(), after(0, column)});
    m.vector(VectorKind::kMask, ranks(0, all), {one(), expert});
    m.vector(VectorKind::kSub, hits(0, all), {hits(0, all), ranks(0, all)});
  };
  const auto count = [&](std::int64_t i) {
    mark(i);
    m.vector(VectorKind::kColSum, block_count(), {hits(0, {0, rows_of(i), 0, p.experts})});
    m.vector(VectorKind::kAdd, total(), {total(), block_count()});
  };
  const std::int64_t whole = blocks_.whole(index);
  const bool rest = blocks_.rest(index) > 0;
  const auto each_block = [&](tile::FunctionRef<void(std::int64_t)> work) {
    m.pipeline(whole, {Phase{1, load}, Phase{0, [&](std::int64_t i) { work(i); }}});
    if (rest) {
      load(whole);
      work(whole);
    }
  };

  m.vector(VectorKind::kFill, one(), {}, {.scalar = 1.0});
  m.vector(VectorKind::kFill, total(), {});
  if (counts) {
    each_block(count);
    m.store(partial, {index, 1, 0, p.experts}, total());
    return;
  }
  // Pairs of each expert, and those before this item's.
  m.vector(VectorKind::kFill, base(), {});
  if (alone) {
    each_block(count);
  } else {
    const auto sum_counts = [&](std::int64_t begin, std::int64_t end, const Buffer& into) {
      m.pipeline(end - begin, {Phase{3,
                                     [&](std::int64_t i) {
                                       m.load(part(i), partial, {begin + i, 1, 0, p.experts});
                                     }},
                               Phase{0, [&](std::int64_t i) {
                                       m.vector(VectorKind::kAdd, into(), {into(), part(i)});
                                     }}});
    };
    sum_counts(0, index, base);
    sum_counts(index, counters, total);
    m.vector(VectorKind::kAdd, total(), {total(), base()});
  }
  if (index == 0) m.store(group_rows, {0, 1, 0, p.experts}, total());
  // First row of each expert: the sum of those before it, by doubling distances.
  const BufferRef sums = block_count();
  const bool strided = p.stride > 0;
  if (strided) {
    m.vector(VectorKind::kFill, sums, {}, {.scalar = static_cast<double>(p.stride)});
  } else {
    m.vector(VectorKind::kCopy, sums, {total()});
  }
  for (std::int64_t d = 1; d < p.experts; d *= 2) {
    const BufferRef later = block_count(0, {0, 1, d, p.experts - d});
    m.vector(VectorKind::kAdd, later, {later, block_count(0, {0, 1, 0, p.experts - d})});
  }
  if (fault_ != MoeRowsFault::kInclusiveOffsets) {
    if (strided) {
      m.vector(VectorKind::kAdd, sums, {sums},
               {.scalar = static_cast<double>(p.first_place - p.stride)});
    } else {
      m.vector(VectorKind::kSub, sums, {sums, total()});
    }
  }
  m.vector(VectorKind::kAdd, base(), {base(), sums});
  each_block([&](std::int64_t i) {
    mark(i);
    const std::int64_t n = rows_of(i);
    const Block all{0, n, 0, p.experts};
    m.vector(VectorKind::kCopy, ranks(0, all), {hits(0, all)});
    for (std::int64_t d = 1; d < n; d *= 2) {
      const BufferRef later = ranks(0, {d, n - d, 0, p.experts});
      m.vector(VectorKind::kAdd, later, {later, ranks(0, {0, n - d, 0, p.experts})});
    }
    m.vector(VectorKind::kCopy, block_count(), {ranks(0, {n - 1, 1, 0, p.experts})});
    m.vector(VectorKind::kAdd, ranks(0, all), {ranks(0, all), base()});
    m.vector(VectorKind::kMul, ranks(0, all), {ranks(0, all), hits(0, all)});
    m.vector(VectorKind::kAdd, base(), {base(), block_count()});
    // Counted from one, so that a pair of no expert here ends at -1.
    const BufferRef to = place(i, {0, n, 0, 1});
    m.vector(VectorKind::kRowSum, to, {ranks(0, all)});
    m.vector(VectorKind::kAdd, to, {to}, {.scalar = -1.0});
    m.store(places, {first + i * size, n, 0, 1}, to);
  });
}

PermuteKernel::PermuteKernel(const MoeRowsProblem& problem, const MoeRowsDesign& design,
                             const tile::CoreRates& chip, MoeRowsFault fault)
    : problem_(problem),
      slots_(design.rows.slots),
      fault_(fault),
      room_(kCacheShare * chip.cache_capacity) {
  const double per_channel =
      static_cast<double>(slots_) * (element_bytes(problem.input) + element_bytes(problem.moved)) +
      4.0;
  blocks_ = move_blocks(problem, design.rows, chip, per_channel);
  width_ = problem.hidden / blocks_.parts();
}

tile::Launch PermuteKernel::launch() const { return {.items = blocks_.items()}; }

void PermuteKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  blocks_.classes(visit);
}

void PermuteKernel::item(Machine& m, std::int64_t index) const {
  const MoeRowsProblem& p = problem_;
  const std::int64_t size = blocks_.size();
  const std::int64_t first = blocks_.first_row(index);
  const std::int64_t rows = blocks_.rows(index);
  const std::int64_t part = blocks_.part(index);
  const bool quantises = p.moved == Dtype::kFp8;
  const double scale = quantises ? 4.0 / 128.0 : 0.0;
  const double in_bytes = static_cast<double>(p.tokens * p.hidden) * element_bytes(p.input);
  const double out_bytes =
      static_cast<double>(p.pairs() * p.hidden) * (element_bytes(p.moved) + scale);
  const TensorId input = m.tensor({.name = "tokens",
                                   .dtype = p.input,
                                   .rows = p.tokens,
                                   .cols = p.hidden,
                                   .home = home_of(in_bytes, room_)});
  const TensorId places = m.tensor({.name = "places",
                                    .dtype = Dtype::kInt32,
                                    .rows = p.tokens,
                                    .cols = p.choices,
                                    .home = Home::kCache});
  // Column parts are rows of their own, so that a scatter moves whole ones.
  const TensorId out = m.tensor({.name = "ordered",
                                 .dtype = p.moved,
                                 .rows = p.rows() * blocks_.parts(),
                                 .cols = width_,
                                 .home = home_of(out_bytes, room_),
                                 .scale_bytes = scale,
                                 .memory_bytes = out_bytes});
  const Buffer in = vector_buffer(m, "token_rows", p.input, size, width_, slots_);
  const Buffer x = vector_buffer(m, "values", Dtype::kFp32, size, width_);
  const Buffer leaving = vector_buffer(m, "leaving", p.moved, size, width_, slots_, scale);
  const Buffer to = vector_buffer(m, "place_rows", Dtype::kFp32, size, p.choices, slots_);

  const auto rows_of = [&](std::int64_t i) { return std::min(size, rows - i * size); };
  const auto load = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const std::int64_t row = first + i * size;
    m.load(to(i, {0, n, 0, p.choices}), places, {row, n, 0, p.choices});
    m.load(in(i, {0, n, 0, width_}), input, {row, n, part * width_, width_});
  };
  const auto move = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const Block block{0, n, 0, width_};
    m.vector(VectorKind::kCopy, x(0, block), {in(i, block)});
    m.vector(quantises ? VectorKind::kQuantise : VectorKind::kCopy, leaving(i, block),
             {x(0, block)});
    if (blocks_.parts() > 1) {
      // Place times parts plus part; -1 stays below zero.
      const BufferRef all = to(i, {0, n, 0, p.choices});
      m.vector(VectorKind::kMul, all, {all}, {.scalar = static_cast<double>(blocks_.parts())});
      m.vector(VectorKind::kAdd, all, {all}, {.scalar = static_cast<double>(part)});
    }
    for (std::int64_t k = 0; k < p.choices; ++k) {
      m.scatter(out, to(i, {0, n, k, 1}), leaving(i, block));
    }
  };
  const std::int64_t ahead = slots_ - (fault_ == MoeRowsFault::kEarlyLoad ? 0 : 1);
  const std::int64_t whole = blocks_.whole(index);
  m.pipeline(whole, {Phase{ahead, load}, Phase{0, move}});
  if (blocks_.rest(index) > 0) {
    load(whole);
    move(whole);
  }
}

FinaliseKernel::FinaliseKernel(const MoeRowsProblem& problem, const MoeRowsDesign& design,
                               const tile::CoreRates& chip, MoeRowsFault fault)
    : problem_(problem),
      slots_(design.rows.slots),
      fault_(fault),
      room_(kCacheShare * chip.cache_capacity) {
  if (problem.choices > kMoeChoices) {
    throw base::UnsupportedError(fmt::format("finalise on {}: {} experts of a token, at most {}",
                                             chip.chip, problem.choices, kMoeChoices));
  }
  const double per_channel =
      static_cast<double>(slots_) * 2.0 *
          static_cast<double>(problem.choices + 1 + (problem.shared ? 1 : 0)) +
      8.0;
  blocks_ = move_blocks(problem, design.rows, chip, per_channel);
  width_ = problem.hidden / blocks_.parts();
}

tile::Launch FinaliseKernel::launch() const { return {.items = blocks_.items()}; }

void FinaliseKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  blocks_.classes(visit);
}

void FinaliseKernel::item(Machine& m, std::int64_t index) const {
  const MoeRowsProblem& p = problem_;
  const std::int64_t size = blocks_.size();
  const std::int64_t first = blocks_.first_row(index);
  const std::int64_t rows = blocks_.rows(index);
  const std::int64_t col = blocks_.part(index) * width_;
  const double in_bytes = 2.0 * static_cast<double>(p.pairs() * p.hidden);
  const double out_bytes = 2.0 * static_cast<double>(p.tokens * p.hidden);
  const TensorId results = m.tensor({.name = "expert_rows",
                                     .dtype = Dtype::kBf16,
                                     .rows = p.rows(),
                                     .cols = p.hidden,
                                     .home = home_of(in_bytes, room_),
                                     .memory_bytes = in_bytes});
  const TensorId places = m.tensor({.name = "places",
                                    .dtype = Dtype::kInt32,
                                    .rows = p.tokens,
                                    .cols = p.choices,
                                    .home = Home::kCache});
  const TensorId weights = p.weighted ? m.tensor({.name = "router_weights",
                                                  .dtype = Dtype::kFp32,
                                                  .rows = p.tokens,
                                                  .cols = p.choices,
                                                  .home = Home::kCache})
                                      : 0;
  const TensorId shared = p.shared ? m.tensor({.name = "shared_rows",
                                               .dtype = Dtype::kBf16,
                                               .rows = p.tokens,
                                               .cols = p.hidden,
                                               .home = home_of(out_bytes, room_)})
                                   : 0;
  const TensorId out = m.tensor({.name = "output",
                                 .dtype = Dtype::kBf16,
                                 .rows = p.tokens,
                                 .cols = p.hidden,
                                 .home = home_of(out_bytes, room_)});
  // Of one block each, a stage ahead of the rows they choose.
  const Buffer from = vector_buffer(m, "place_rows", Dtype::kFp32, size, p.choices, slots_ + 1);
  const Buffer weight =
      vector_buffer(m, "weight_rows", Dtype::kFp32, p.weighted ? size : 0, p.choices, slots_ + 1);
  // Each choice has a buffer of its own, so that none waits for another.
  std::array<Buffer, kMoeChoices> in;
  for (std::size_t k = 0; k < static_cast<std::size_t>(p.choices); ++k) {
    in[k] = vector_buffer(m, "expert_row", Dtype::kBf16, size, width_, slots_);
  }
  const Buffer beside =
      vector_buffer(m, "shared_row", Dtype::kBf16, p.shared ? size : 0, width_, slots_);
  const Buffer sum = vector_buffer(m, "sum", Dtype::kFp32, size, width_);
  const Buffer temp = vector_buffer(m, "temporary", Dtype::kFp32, size, width_);
  const Buffer leaving = vector_buffer(m, "leaving", Dtype::kBf16, size, width_, slots_);

  const auto rows_of = [&](std::int64_t i) { return std::min(size, rows - i * size); };
  const auto choose = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const Block all{0, n, 0, p.choices};
    m.load(from(i, all), places, {first + i * size, n, 0, p.choices});
    if (p.weighted) m.load(weight(i, all), weights, {first + i * size, n, 0, p.choices});
  };
  const auto load = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    for (std::int64_t k = 0; k < p.choices; ++k) {
      m.gather(in[static_cast<std::size_t>(k)](i, {0, n, 0, width_}), results,
               from(i, {0, n, k, 1}), col, width_);
    }
    if (p.shared) {
      m.load(beside(i, {0, n, 0, width_}), shared, {first + i * size, n, col, width_});
    }
  };
  const auto add = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const Block block{0, n, 0, width_};
    if (p.shared) {
      m.vector(VectorKind::kCopy, sum(0, block), {beside(i, block)});
    } else {
      m.vector(VectorKind::kFill, sum(0, block), {});
    }
    const std::int64_t summed = p.choices - (fault_ == MoeRowsFault::kDropChoice ? 1 : 0);
    for (std::int64_t k = 0; k < summed; ++k) {
      m.vector(VectorKind::kCopy, temp(0, block), {in[static_cast<std::size_t>(k)](i, block)});
      if (p.weighted) {
        m.vector(VectorKind::kFma, sum(0, block), {temp(0, block), weight(i, {0, n, k, 1})});
      } else {
        m.vector(VectorKind::kAdd, sum(0, block), {sum(0, block), temp(0, block)});
      }
    }
    m.vector(VectorKind::kCopy, leaving(i, block), {sum(0, block)});
    m.store(out, {first + i * size, n, col, width_}, leaving(i, block));
  };
  const std::int64_t ahead = slots_ - (fault_ == MoeRowsFault::kEarlyLoad ? 0 : 1);
  const std::int64_t whole = blocks_.whole(index);
  m.pipeline(whole, {Phase{ahead + 1, choose}, Phase{ahead, load}, Phase{0, add}});
  if (blocks_.rest(index) > 0) {
    choose(whole);
    load(whole);
    add(whole);
  }
}

}  // namespace foretoken::hwmodels::kernels
