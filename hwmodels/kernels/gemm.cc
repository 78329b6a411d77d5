#include "hwmodels/kernels/gemm.h"

#include <algorithm>
#include <array>

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

// Share of the cache that operands of concurrent tiles may take and still be found there.
constexpr double kCacheShare = 0.5;

double element_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

double scale_bytes(Dtype d, const GemmProblem& p, bool weight) {
  if (d == Dtype::kFp4) return p.fp4_scale_bytes / static_cast<double>(p.fp4_block);
  if (d == Dtype::kFp8 && p.fp8_block > 0) {
    const auto block = static_cast<double>(p.fp8_block);
    return weight ? 4.0 / (block * block) : 4.0 / block;
  }
  return 0.0;
}

constexpr std::array<std::string_view, 2> kScaleNames = {"unit", "vector"};

}  // namespace

void describe(base::ConfigVisitor& v, GemmDesign& d) {
  v.integer({"tile_rows", "weight rows of a tile"}, d.tile_rows, {.min = 1, .max = 1024});
  v.integers({"tile_columns", "tokens of a tile; of several the fastest is taken"}, d.tile_columns,
             {.min = 1, .max = 1024}, {.min = 1, .max = 16});
  v.integer({"tile_k", "elements of the contracted dimension per iteration"}, d.tile_k,
            {.min = 16, .max = 4096});
  v.integer({"stages", "slots of the operand buffers"}, d.stages, {.min = 1, .max = 64});
  v.integer({"split_k", "parts the contracted dimension is cut into at most"}, d.split_k,
            {.min = 1, .max = 256});
  v.integer({"accumulators", "2: a tile's epilogue overlaps the next tile"}, d.accumulators,
            {.min = 1, .max = 4});
  v.integer({"multicast", "neighbouring cores that share a token tile"}, d.multicast,
            {.min = 1, .max = 16});
  v.boolean({"persistent", "one block per core works through all its tiles"}, d.persistent);
  base::choice(v, {"scales", "where FP8 block scales meet the product"}, d.scales, kScaleNames);
}

GemmKernel::GemmKernel(const GemmProblem& problem, const GemmDesign& design,
                       const tile::CoreRates& chip)
    : problem_(problem), design_(&design), cache_capacity_(chip.cache_capacity) {
  for (const std::int64_t rows : problem.group_rows) tokens_ += rows;
  widen_ = problem.weight == Dtype::kFp4 && problem.compute != Dtype::kFp4 &&
           (chip.widen_on_vector || problem.compute != Dtype::kFp8);
  rows_ = std::min(design.tile_rows, problem.n);
  row_tiles_ = ceil_div(problem.n, rows_);
  choose_tile(chip);
}

std::int64_t GemmKernel::column_tiles(std::int64_t columns) const {
  std::int64_t tiles = 0;
  for (const std::int64_t rows : problem_.group_rows) tiles += ceil_div(rows, columns);
  return tiles;
}

// Waves times the time of a tile, as a library's heuristic would reckon it.
void GemmKernel::choose_tile(const tile::CoreRates& chip) {
  double best = -1.0;
  const std::int64_t k_tiles = ceil_div(problem_.k, design_->tile_k);
  for (const std::int64_t columns : design_->tile_columns) {
    // A tile that a core cannot hold is none; when none fits, the last is refused by name.
    const double held = static_cast<double>(design_->stages * design_->tile_k) *
                            (static_cast<double>(rows_) *
                                 element_bytes(widen_ ? problem_.compute : problem_.weight) +
                             static_cast<double>(columns) * element_bytes(problem_.activation)) +
                        static_cast<double>(rows_ * columns) * element_bytes(problem_.output);
    if (held > chip.capacity[static_cast<std::size_t>(Local::kOperand)] && columns_ > 0) continue;
    const std::int64_t tiles = row_tiles_ * column_tiles(columns);
    if (tiles == 0) {
      columns_ = columns;
      return;
    }
    const auto cores = static_cast<std::int64_t>(chip.cores);
    const std::int64_t splits =
        std::clamp<std::int64_t>(cores / tiles, 1, std::min(design_->split_k, k_tiles));
    const auto waves = static_cast<double>(ceil_div(tiles * splits, cores));
    const double depth = static_cast<double>(problem_.k) / static_cast<double>(splits);
    const double matrix = 2.0 * static_cast<double>(rows_ * columns) * depth /
                          std::max(chip.matrix[static_cast<std::size_t>(problem_.compute)], 1.0);
    const double active = std::min(chip.cores, static_cast<double>(tiles * splits));
    const double bytes =
        depth * (static_cast<double>(rows_) * element_bytes(problem_.weight) +
                 static_cast<double>(columns) / static_cast<double>(design_->multicast) *
                     element_bytes(problem_.activation));
    const double load = bytes * std::max(1.0 / chip.port, active / chip.cache);
    const double time = waves * std::max(matrix, load);
    if (best >= 0.0 && time >= best) continue;
    best = time;
    columns_ = columns;
    splits_ = splits;
  }
}

tile::Launch GemmKernel::launch() const {
  return {.items = row_tiles_ * column_tiles(columns_) * splits_,
          .cores = 0,
          .persistent = design_->persistent};
}

// Tiles of one group stand together: row tiles run fastest, then splits, then token tiles.
GemmKernel::Place GemmKernel::place(std::int64_t index) const {
  Place p;
  std::int64_t tile = index / (row_tiles_ * splits_);
  const std::int64_t rest = index % (row_tiles_ * splits_);
  p.row = rest % row_tiles_ * rows_;
  p.split = rest / row_tiles_;
  for (const std::int64_t rows : problem_.group_rows) {
    const std::int64_t tiles = ceil_div(rows, columns_);
    if (tile < tiles) {
      p.first_token += tile * columns_;
      p.tokens = std::min(columns_, rows - tile * columns_);
      return p;
    }
    tile -= tiles;
    p.first_token += rows;
    ++p.group;
  }
  return p;
}

void GemmKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  // Full tiles first, then the last tiles of groups by how many tokens they hold.
  std::int64_t full = 0;
  std::int64_t first_full = -1;
  std::array<std::int64_t, 1025> count{};
  std::array<std::int64_t, 1025> first{};
  std::int64_t tile = 0;
  std::int64_t most = 0;
  for (const std::int64_t rows : problem_.group_rows) {
    const std::int64_t whole = rows / columns_;
    if (whole > 0) {
      if (first_full < 0) first_full = tile;
      full += whole;
    }
    tile += whole;
    const std::int64_t rest = rows % columns_;
    if (rest > 0) {
      const auto r = static_cast<std::size_t>(rest);
      if (count[r]++ == 0) first[r] = tile;
      most = std::max(most, rest);
      ++tile;
    }
  }
  const std::int64_t per_tile = row_tiles_ * splits_;
  if (full > 0) visit({first_full * per_tile, full * per_tile});
  for (std::int64_t r = most; r > 0; --r) {
    const auto i = static_cast<std::size_t>(r);
    if (count[i] > 0) visit({first[i] * per_tile, count[i] * per_tile});
  }
}

void GemmKernel::item(Machine& m, std::int64_t index) const {
  const GemmProblem& p = problem_;
  const GemmDesign& d = *design_;
  const Place at = place(index);
  const auto groups = static_cast<std::int64_t>(p.group_rows.size());
  const std::int64_t rows = std::min(rows_, p.n - at.row);
  const bool promote = d.scales == ScalePath::kVector && p.compute == Dtype::kFp8 &&
                       p.activation == Dtype::kFp8 && p.fp8_block > 0 && p.weight == Dtype::kFp8;
  const bool swiglu = p.epilogue != Epilogue::kStore;
  const Dtype weight_operand = widen_ ? p.compute : p.weight;

  // Operands come from memory once as long as the cache holds what concurrent tiles share; else
  // one of them again for every band of the other that fits.
  const double w_scale = scale_bytes(p.weight, p, true);
  const double a_scale = scale_bytes(p.activation, p, false);
  const double weight_bytes =
      static_cast<double>(groups * p.n * p.k) * (element_bytes(p.weight) + w_scale);
  const double token_bytes =
      static_cast<double>(tokens_ * p.k) * (element_bytes(p.activation) + a_scale);
  const double room = kCacheShare * cache_capacity_;
  double weight_passes = 1.0;
  double token_passes = 1.0;
  if (groups == 1 && std::min(weight_bytes, token_bytes) > room) {
    const double by_tokens = weight_bytes * (token_bytes / room) + token_bytes;
    const double by_weights = token_bytes * (weight_bytes / room) + weight_bytes;
    (by_tokens < by_weights ? weight_passes : token_passes) =
        by_tokens < by_weights ? token_bytes / room : weight_bytes / room;
  }
  const bool tokens_cached = p.activations_in_cache && token_bytes <= room;
  std::int64_t hit = 0;
  for (const std::int64_t r : p.group_rows) hit += r > 0 ? 1 : 0;

  const TensorId weights =
      m.tensor({.name = "weights",
                .dtype = p.weight,
                .rows = groups * p.n,
                .cols = p.k,
                .home = Home::kMemory,
                .scale_bytes = w_scale,
                .memory_bytes = weight_bytes * weight_passes * static_cast<double>(hit) /
                                static_cast<double>(groups)});
  const TensorId tokens = m.tensor({.name = "activations",
                                    .dtype = p.activation,
                                    .rows = tokens_,
                                    .cols = p.k,
                                    .home = tokens_cached ? Home::kCache : Home::kMemory,
                                    .scale_bytes = a_scale,
                                    .memory_bytes = token_bytes * token_passes});
  const std::int64_t out_columns = swiglu ? p.n / 2 : p.n;
  const Dtype out_dtype = splits_ > 1 ? Dtype::kFp32 : p.output;
  const double out_scale = out_dtype == Dtype::kFp8 ? a_scale : 0.0;
  const double out_bytes =
      static_cast<double>(splits_ * tokens_ * out_columns) * element_bytes(out_dtype);
  const TensorId out = m.tensor({.name = "output",
                                 .dtype = out_dtype,
                                 .rows = splits_ * tokens_,
                                 .cols = out_columns,
                                 .home = out_bytes <= room ? Home::kCache : Home::kMemory,
                                 .scale_bytes = out_scale});

  const Buffer w = m.buffer({.name = "weight_tile",
                             .local = Local::kOperand,
                             .dtype = weight_operand,
                             .rows = rows_,
                             .cols = d.tile_k,
                             .slots = d.stages,
                             .scale_bytes = w_scale});
  const Buffer t = m.buffer({.name = "token_tile",
                             .local = Local::kOperand,
                             .dtype = p.activation,
                             .rows = columns_,
                             .cols = d.tile_k,
                             .slots = d.stages,
                             .scale_bytes = a_scale});
  const Buffer acc = m.buffer({.name = "accumulator",
                               .local = Local::kAccumulator,
                               .dtype = Dtype::kFp32,
                               .rows = rows_,
                               .cols = columns_,
                               .slots = promote ? 2 : d.accumulators,
                               .scale_bytes = 0.0});
  // FP32 sums of promoted blocks, weights by tokens as the accumulator; then by tokens.
  const Buffer sum = m.buffer({.name = "sums",
                               .local = Local::kVector,
                               .dtype = Dtype::kFp32,
                               .rows = promote ? rows_ : 0,
                               .cols = columns_});
  const Buffer result = m.buffer({.name = "result",
                                  .local = Local::kVector,
                                  .dtype = Dtype::kFp32,
                                  .rows = columns_,
                                  .cols = rows_});
  const std::int64_t out_rows = swiglu ? rows_ / 2 : rows_;
  const Buffer staged = m.buffer({.name = "staged",
                                  .local = Local::kOperand,
                                  .dtype = out_dtype,
                                  .rows = columns_,
                                  .cols = out_rows,
                                  .scale_bytes = out_scale});
  const Buffer packed = m.buffer({.name = "packed_weights",
                                  .local = Local::kVector,
                                  .dtype = p.weight,
                                  .rows = widen_ ? rows_ : 0,
                                  .cols = d.tile_k,
                                  .slots = d.stages,
                                  .scale_bytes = w_scale});
  const Buffer widened = m.buffer({.name = "widened_weights",
                                   .local = Local::kVector,
                                   .dtype = weight_operand,
                                   .rows = widen_ ? rows_ : 0,
                                   .cols = d.tile_k,
                                   .slots = 2,
                                   .scale_bytes = w_scale});

  const std::int64_t k_tiles = ceil_div(p.k, d.tile_k);
  const std::int64_t first_k = at.split * k_tiles / splits_;
  const std::int64_t last_k = (at.split + 1) * k_tiles / splits_;
  const auto depth = [&](std::int64_t i) {
    return std::min(d.tile_k, p.k - (first_k + i) * d.tile_k);
  };
  const auto load = [&](std::int64_t i) {
    const std::int64_t col = (first_k + i) * d.tile_k;
    const std::int64_t k = depth(i);
    const std::int64_t first = at.group * p.n;
    const Buffer& into = widen_ ? packed : w;
    m.load(t(i, {0, at.tokens, 0, k}), tokens, {at.first_token, at.tokens, col, k},
           static_cast<int>(std::min(d.multicast, row_tiles_)));
    if (swiglu) {
      // Half a tile of gate rows and the up rows that belong to them.
      m.load(into(i, {0, rows / 2, 0, k}), weights, {first + at.row / 2, rows / 2, col, k});
      m.load(into(i, {rows / 2, rows / 2, 0, k}), weights,
             {first + p.n / 2 + at.row / 2, rows / 2, col, k});
    } else {
      m.load(into(i, {0, rows, 0, k}), weights, {first + at.row, rows, col, k});
    }
  };
  const auto convert = [&](std::int64_t i) {
    const Block into{0, rows, 0, depth(i)};
    m.widen(widened(i, into), packed(i, into));
    m.move(w(i, into), widened(i, into));
  };
  const Block tile_block{0, rows, 0, at.tokens};
  const auto multiply = [&](std::int64_t i) {
    const std::int64_t k = depth(i);
    m.matrix(acc(promote ? i : 0, tile_block), w(i, {0, rows, 0, k}), t(i, {0, at.tokens, 0, k}),
             {.m = rows_,
              .n = columns_,
              .k = k,
              .compute = p.compute,
              .accumulate = !promote && i > 0,
              .b_by_rows = false,
              .scaled = !promote,
              .mixed_fp4 = p.weight == Dtype::kFp4 && p.compute == Dtype::kFp8 && !widen_});
  };
  const auto promote_block = [&](std::int64_t i) {
    const std::int64_t k = depth(i);
    m.vector(VectorKind::kScaled, sum(0, tile_block),
             {acc(i, tile_block), w(i, {0, rows, 0, k}), t(i, {0, at.tokens, 0, k})});
  };
  if (promote) m.vector(VectorKind::kFill, sum(0, tile_block), {});
  const std::int64_t iterations = last_k - first_k;
  const std::int64_t ahead = d.stages - 1;
  if (widen_) {
    m.pipeline(iterations, {Phase{ahead, load}, Phase{1, convert}, Phase{0, multiply}});
  } else if (promote) {
    m.pipeline(iterations, {Phase{ahead, load}, Phase{1, multiply}, Phase{0, promote_block}});
  } else {
    m.pipeline(iterations, {Phase{ahead, load}, Phase{0, multiply}});
  }

  // Tokens are the rows of what leaves.
  const Block by_tokens{0, at.tokens, 0, rows};
  if (promote) {
    m.move(result(0, by_tokens), sum(0, tile_block), true);
  } else {
    m.move(result(0, by_tokens), acc(0, tile_block), true);
  }
  const std::int64_t out_row = at.split * tokens_ + at.first_token;
  const std::int64_t width = swiglu ? rows / 2 : rows;
  const BufferRef gate = result(0, {0, at.tokens, 0, width});
  if (swiglu) {
    const BufferRef up = result(0, {0, at.tokens, width, width});
    if (p.swiglu_limit > 0.0) {
      m.vector(VectorKind::kMin, gate, {gate}, {.scalar = p.swiglu_limit});
      m.vector(VectorKind::kMin, up, {up}, {.scalar = p.swiglu_limit});
      m.vector(VectorKind::kMax, up, {up}, {.scalar = -p.swiglu_limit});
    }
    m.vector(VectorKind::kSilu, gate, {gate});
    m.vector(VectorKind::kMul, gate, {gate, up});
  }
  const BufferRef leaving = staged(0, {0, at.tokens, 0, width});
  m.vector(out_dtype == Dtype::kFp8 ? VectorKind::kQuantise : VectorKind::kCopy, leaving, {gate});
  m.store(out, {out_row, at.tokens, swiglu ? at.row / 2 : at.row, width}, leaving);
}

tile::Launch SplitReduceKernel::launch() const { return {.items = tokens_, .cores = 0}; }

void SplitReduceKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  visit({0, tokens_});
}

void SplitReduceKernel::item(Machine& m, std::int64_t index) const {
  const TensorId parts = m.tensor({.name = "partial_sums",
                                   .dtype = Dtype::kFp32,
                                   .rows = splits_ * tokens_,
                                   .cols = n_,
                                   .home = Home::kCache});
  const TensorId out = m.tensor(
      {.name = "output", .dtype = output_, .rows = tokens_, .cols = n_, .home = Home::kCache});
  const Buffer in = m.buffer({.name = "part",
                              .local = Local::kVector,
                              .dtype = Dtype::kFp32,
                              .rows = 1,
                              .cols = n_,
                              .slots = 2});
  const Buffer sum = m.buffer(
      {.name = "sum", .local = Local::kVector, .dtype = Dtype::kFp32, .rows = 1, .cols = n_});
  m.vector(VectorKind::kFill, sum(), {});
  m.pipeline(splits_, {Phase{1,
                             [&](std::int64_t s) {
                               m.load(in(s), parts, {s * tokens_ + index, 1, 0, n_});
                             }},
                       Phase{0, [&](std::int64_t s) {
                               m.vector(VectorKind::kAdd, sum(), {sum(), in(s)});
                             }}});
  m.store(out, {index, 1, 0, n_}, sum());
}

}  // namespace foretoken::hwmodels::kernels
