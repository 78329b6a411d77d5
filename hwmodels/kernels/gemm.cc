#include "hwmodels/kernels/gemm.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "sim/base/text.h"

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

// Inlined: a baseline x86-64 build calls the library for std::ceil.
inline double floor_of(double x) { return static_cast<double>(static_cast<std::int64_t>(x)); }
inline double ceil_of(double x) {
  const double below = floor_of(x);
  return below < x ? below + 1.0 : below;
}
inline double ceil_to(double x, double step) { return ceil_of(x / step) * step; }

// Tokens of a result that pass through local memory on their way out at a time.
constexpr double kStagedTokens = 64.0;
double staged_share(std::int64_t tokens) {
  return std::min(1.0, kStagedTokens / static_cast<double>(tokens));
}
// Share of a result that the vector units hold at a time while they convert it.
constexpr double kResultShare = 0.25;
// Columns of partial sums that a core adds at a time, and tokens on their way to it.
constexpr std::int64_t kReducedColumns = 2048;
constexpr std::int64_t kReduceSlots = 3;
// Slots of packed FP4 weights that wait for the vector units.
constexpr std::int64_t kWidenSlots = 4;

// Share of the cache that operands of concurrent tiles may take and still be found there.
constexpr double kCacheShare = 0.5;

double element_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

double scale_bytes(Dtype d, const GemmProblem& p, bool weight) {
  if (d == Dtype::kFp4) return p.fp4_scale_bytes / static_cast<double>(p.fp4_block);
  if (d == Dtype::kFp8 && p.fp8_block > 0) {
    const auto block = static_cast<double>(p.fp8_block);
    return weight ? 4.0 / (block * block) : p.fp8_scale_bytes / block;
  }
  return 0.0;
}

constexpr std::array<std::string_view, 2> kScaleNames = {"unit", "vector"};
constexpr std::array<std::string_view, 2> kSideNames = {"tokens", "weights"};
constexpr std::array<std::string_view, 2> kRasterNames = {"grouped", "linear"};
constexpr std::int64_t kEndless = 1'000'000'000'000;

}  // namespace

void describe(base::ConfigVisitor& v, GemmDesign& d) {
  using base::Need;
  base::list(
      v, {"tiles", "what the library offers; of several the fastest is taken"}, d.tiles,
      [](base::ConfigVisitor& w, GemmTile& t) {
        w.integer({"weights", "weight rows"}, t.weights, {.min = 8, .max = 1024});
        w.integer({"tokens", "tokens"}, t.tokens, {.min = 8, .max = 1024});
        base::choice(w, {"rows", "what runs along the instruction's rows", Need::kOptional}, t.rows,
                     kSideNames);
        w.integer({"min_tokens", "offered from so many tokens", Need::kOptional}, t.min_tokens,
                  {.min = 1, .max = kEndless});
        w.integer({"max_tokens", "and up to so many", Need::kOptional}, t.max_tokens,
                  {.min = 1, .max = kEndless});
        w.integer({"share_tokens", "cores that share a token tile", Need::kOptional},
                  t.share_tokens, {.min = 1, .max = 16});
        w.integer({"share_weights", "cores that share a weight tile", Need::kOptional},
                  t.share_weights, {.min = 1, .max = 16});
        w.boolean({"pair", "two cores work on one instruction", Need::kOptional}, t.pair);
        w.boolean({"spilled", "promoted sums live in local memory", Need::kOptional}, t.spilled);
        w.real(
            {"one_wave", "taken first when it fills this share of the cores once", Need::kOptional},
            t.one_wave, base::UnitKind::kNumber, {.min = 0.0, .max = 1.0, .open_low = false});
      },
      {.min = 1, .max = 64});
  v.integer({"tile_k", "bytes of the multiplied operand's row per iteration"}, d.tile_k,
            {.min = 16, .max = 4096});
  v.integer({"stages", "slots of the operand buffers, as many as fit"}, d.stages,
            {.min = 1, .max = 64});
  v.integer({"split_k", "parts of the contracted dimension at most", Need::kOptional}, d.split_k,
            {.min = 1, .max = 256});
  v.integer({"split_depth", "elements of a part at least", Need::kOptional}, d.split_depth,
            {.min = 16, .max = 1'000'000});
  v.integer({"accumulators", "2: a tile's epilogue overlaps the next tile", Need::kOptional},
            d.accumulators, {.min = 1, .max = 4});
  v.boolean({"persistent", "one block per core works through all its tiles", Need::kOptional},
            d.persistent);
  v.boolean({"exact_tiles", "instructions work on the tokens that are there", Need::kOptional},
            d.exact_tiles);
  v.boolean({"padded_loads", "token tiles are read whole", Need::kOptional}, d.padded_loads);
  base::choice(v, {"scales", "where FP8 block scales meet the product", Need::kOptional}, d.scales,
               kScaleNames);
  base::choice(v, {"raster", "order in which tiles are dealt", Need::kOptional}, d.raster,
               kRasterNames);
  v.texts({"formats", "that the library offers: bf16, fp8, fp8_block, fp4_fp8, fp4; all if absent",
           Need::kOptional},
          d.formats, {.min = 1, .max = kGemmFormatNames.size()});
  for (const std::string& name : d.formats) {
    v.check(
        std::find(kGemmFormatNames.begin(), kGemmFormatNames.end(), name) != kGemmFormatNames.end(),
        "formats",
        base::quote(name) + " is none of bf16, fp8, fp8_block, fp4_fp8, fp4" +
            base::did_you_mean(name, kGemmFormatNames));
  }
}

GemmProblem problem_of(GemmFormat format) {
  GemmProblem p;
  switch (format) {
    case GemmFormat::kBf16:
      break;
    case GemmFormat::kFp8:
      p.activation = p.weight = p.compute = Dtype::kFp8;
      p.fp8_block = 0;
      break;
    case GemmFormat::kFp8Block:
      p.activation = p.weight = p.compute = Dtype::kFp8;
      break;
    case GemmFormat::kFp4Fp8:
      p.activation = p.compute = Dtype::kFp8;
      p.weight = Dtype::kFp4;
      break;
    case GemmFormat::kFp4:
      p.activation = p.weight = p.compute = Dtype::kFp4;
      break;
  }
  return p;
}

GemmKernel::GemmKernel(const GemmProblem& problem, const GemmDesign& design,
                       const tile::CoreRates& chip)
    : problem_(problem),
      design_(&design),
      operand_room_(chip.capacity[static_cast<std::size_t>(Local::kOperand)]),
      cache_capacity_(chip.cache_capacity) {
  for (const GroupRun& g : problem.groups) {
    tokens_ += g.rows * g.count;
    groups_ += g.count;
    hit_ += g.rows > 0 ? g.count : 0;
    most_tokens_ = std::max(most_tokens_, g.rows);
  }
  const bool four = problem.weight == Dtype::kFp4 || problem.weight == Dtype::kInt4;
  widen_ = four && problem.compute != problem.weight &&
           (chip.widen_on_vector || problem.compute != Dtype::kFp8);
  promote_ = design.scales == ScalePath::kVector && problem.compute == Dtype::kFp8 &&
             problem.activation == Dtype::kFp8 && problem.weight == Dtype::kFp8 &&
             problem.fp8_block > 0;
  tile_k_ =
      std::max<std::int64_t>(16, design.tile_k * 8 / workloads::element_bits(problem.compute));
  // A block's product is complete before it is scaled.
  if (promote_) tile_k_ = std::min(tile_k_, problem.fp8_block);
  choose(chip);
  reread_ = memory_factor(chip);
}

std::int64_t GemmKernel::token_tiles(std::int64_t tokens) const {
  std::int64_t tiles = 0;
  for (const GroupRun& g : problem_.groups) tiles += g.count * ceil_div(g.rows, tokens);
  return tiles;
}

std::int64_t GemmKernel::stages_of(const GemmTile& t) const {
  const double shared = t.pair ? 0.5 : 1.0;  // of the instruction's columns
  const auto weights = static_cast<double>(std::min(t.weights, problem_.n));
  const auto tokens = static_cast<double>(t.tokens);
  const double slot = static_cast<double>(tile_k_) *
                      (weights * (t.rows == Side::kTokens ? shared : 1.0) *
                           (element_bytes(widen_ ? problem_.compute : problem_.weight) +
                            scale_bytes(problem_.weight, problem_, true)) +
                       tokens * (t.rows == Side::kWeights ? shared : 1.0) *
                           (element_bytes(problem_.activation) +
                            scale_bytes(problem_.activation, problem_, false)));
  // Results leave through local memory, large tiles in parts; FP32 where parts of a split are.
  const double staged = weights * std::min(tokens, kStagedTokens) * 4.0;
  return std::min(design_->stages, static_cast<std::int64_t>((operand_room_ - staged) / slot));
}

// The tile and the split that take least, reckoned as a library's heuristic would: waves times the
// slowest of the matrix unit, the way to the cache and the latency that the slots cover.
void GemmKernel::choose(const tile::CoreRates& chip) {
  const auto cores = static_cast<std::int64_t>(chip.cores);
  const double rate = std::max(chip.matrix[static_cast<std::size_t>(problem_.compute)], 1.0);
  const double w_bytes =
      element_bytes(problem_.weight) + scale_bytes(problem_.weight, problem_, true);
  const double a_bytes =
      element_bytes(problem_.activation) + scale_bytes(problem_.activation, problem_, false);
  // Parts of a sum have no activation and no scale of their own.
  const bool whole_sums = problem_.epilogue != Epilogue::kStore || problem_.output == Dtype::kFp8;
  const std::int64_t most_splits = whole_sums ? 1 : design_->split_k;
  double best = -1.0;
  for (const GemmTile& t : design_->tiles) {
    if (most_tokens_ < t.min_tokens || most_tokens_ > t.max_tokens) continue;
    const std::int64_t stages = stages_of(t);
    if (stages < 2 && tile_ != nullptr) continue;
    const std::int64_t weights = std::min(t.weights, problem_.n);
    const std::int64_t tiles = ceil_div(problem_.n, weights) * token_tiles(t.tokens);
    const double filled = static_cast<double>(tiles) / static_cast<double>(cores);
    const bool first = t.one_wave > 0.0 && filled >= t.one_wave && filled <= 1.0;
    if (t.one_wave > 0.0 && !first) continue;
    const bool by_tokens = t.rows == Side::kTokens;
    const std::int64_t there = design_->exact_tiles ? std::min(t.tokens, most_tokens_) : t.tokens;
    const double m = ceil_to(static_cast<double>(by_tokens ? there : weights), chip.tile_rows);
    const double n = ceil_to(static_cast<double>(by_tokens ? weights : there), chip.tile_columns);
    const double feed = element_bytes(problem_.compute) *
                        (m + n * (t.pair ? 0.5 : 1.0) * m / std::max(chip.tile_rows, 64.0));
    double per_k = 2.0 * m * n / rate;
    if (chip.operand_feed > 0.0) per_k = std::max(per_k, feed / chip.operand_feed);
    if (promote_) {
      const double elements = m * n / static_cast<double>(tile_k_);
      per_k += elements / chip.lanes32 * (t.spilled ? 9.0 : 1.0);
      if (chip.exchange == Exchange::kDirect) per_k += elements * 4.0 / chip.exchange_rate;
    }
    const auto tokens =
        static_cast<double>(design_->padded_loads ? t.tokens : std::min(t.tokens, most_tokens_));
    const double bytes =
        tokens * a_bytes / static_cast<double>(t.share_tokens) +
        static_cast<double>(weights) * w_bytes / static_cast<double>(t.share_weights);
    const double latency = chip.memory_latency / static_cast<double>(tile_k_) /
                           static_cast<double>(std::max<std::int64_t>(1, stages));
    const double epilogue =
        static_cast<double>(t.tokens * weights) * element_bytes(problem_.output) / chip.port;
    const std::int64_t most =
        tiles == 0 ? 1
                   : std::clamp<std::int64_t>(
                         2 * cores / tiles, 1,
                         std::min(most_splits,
                                  std::max<std::int64_t>(1, problem_.k / design_->split_depth)));
    for (std::int64_t s = 1; s <= most; s = s < 4 ? s + 1 : s + s / 2) {
      const double depth = static_cast<double>(problem_.k) / static_cast<double>(s);
      const auto items = static_cast<double>(tiles * s);
      const double full = floor_of(items / static_cast<double>(cores));
      const double rest = items - full * static_cast<double>(cores);
      const auto wave = [&](double active) {
        return depth * std::max({per_k, latency,
                                 bytes * std::max(1.0 / chip.port, active / chip.cache)}) +
               epilogue;
      };
      double time = (full > 0.0 ? full * wave(chip.cores) : 0.0) + (rest > 0.0 ? wave(rest) : 0.0);
      if (s > 1) {
        time += chip.launch + 8.0 * static_cast<double>(s * tokens_ * problem_.n) / chip.cache;
      }
      if (best >= 0.0 && time >= best && !first) continue;
      best = time;
      tile_ = &t;
      splits_ = s;
      stages_ = std::max<std::int64_t>(1, stages);
    }
    if (first) break;
  }
  if (tile_ == nullptr) {
    tile_ = &design_->tiles.front();
    stages_ = std::max<std::int64_t>(1, stages_of(*tile_));
  }
  rows_ = std::min(tile_->weights, problem_.n);
  row_tiles_ = ceil_div(problem_.n, rows_);
}

// Operands come from memory once as long as the cache holds them. Beyond, concurrent tiles share
// what stands side by side, and what is gone by the next wave is read again.
double GemmKernel::memory_factor(const tile::CoreRates& chip) const {
  if (groups_ != 1) return 1.0;
  const double w = element_bytes(problem_.weight) + scale_bytes(problem_.weight, problem_, true);
  const double a =
      element_bytes(problem_.activation) + scale_bytes(problem_.activation, problem_, false);
  const auto k = static_cast<double>(problem_.k);
  const double there = k * (static_cast<double>(problem_.n) * w + static_cast<double>(tokens_) * a);
  if (there <= cache_capacity_) return 1.0;
  const auto tm = static_cast<double>(tile_->tokens);
  const auto tn = static_cast<double>(rows_);
  const double mt = ceil_of(static_cast<double>(tokens_) / tm);
  const auto nt = static_cast<double>(row_tiles_);
  double s1 = 0.0;
  double s2 = 0.0;
  double miss = 1.0 - cache_capacity_ / there;
  if (design_->raster == Raster::kGrouped) {
    s1 = std::clamp(std::sqrt(chip.cores * tn / tm), 1.0, mt);
    s2 = std::min(nt, chip.cores / s1);
  } else {
    s1 = mt <= nt ? mt : std::min(mt, std::max(1.0, chip.cores / nt));
    s2 = mt <= nt ? std::min(nt, std::max(1.0, chip.cores / mt)) : nt;
    miss = std::min(1.0, (s1 * tm * a + s2 * tn * w) * k / cache_capacity_);
  }
  const double foot = mt * nt / (s1 * s2) * (s1 * tm * a + s2 * tn * w) * k;
  return std::max(1.0, 1.0 + (foot - there) * miss / there);
}

tile::Launch GemmKernel::launch() const {
  return {.items = row_tiles_ * token_tiles(tile_->tokens) * splits_,
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
  for (const GroupRun& g : problem_.groups) {
    const std::int64_t tiles = ceil_div(g.rows, tile_->tokens);
    if (tile < tiles * g.count) {
      const std::int64_t member = tile / tiles;
      const std::int64_t within = tile % tiles;
      p.group += member;
      p.first_token += member * g.rows + within * tile_->tokens;
      p.tokens = std::min(tile_->tokens, g.rows - within * tile_->tokens);
      return p;
    }
    tile -= tiles * g.count;
    p.first_token += g.rows * g.count;
    p.group += g.count;
  }
  return p;
}

void GemmKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  // Full tiles first, then the last tiles of groups by how many tokens they hold.
  struct Rest {
    std::int64_t tokens, first, count;
  };
  std::array<Rest, 64> rests{};  // distinct ones; more are counted with the last
  std::size_t used = 0;
  std::int64_t full = 0;
  std::int64_t first_full = -1;
  std::int64_t tile = 0;
  for (const GroupRun& g : problem_.groups) {
    const std::int64_t whole = g.rows / tile_->tokens;
    const std::int64_t rest = g.rows % tile_->tokens;
    if (whole > 0 && first_full < 0) first_full = tile;
    full += whole * g.count;
    if (rest > 0) {
      std::size_t i = 0;
      while (i < used && rests[i].tokens != rest) ++i;
      if (i == used && used < rests.size()) rests[used++] = {rest, tile + whole, 0};
      rests[std::min(i, rests.size() - 1)].count += g.count;
    }
    tile += (whole + (rest > 0 ? 1 : 0)) * g.count;
  }
  const std::int64_t per_tile = row_tiles_ * splits_;
  if (full > 0) visit({first_full * per_tile, full * per_tile});
  std::sort(rests.begin(), rests.begin() + static_cast<std::ptrdiff_t>(used),
            [](const Rest& a, const Rest& b) { return a.tokens > b.tokens; });
  for (std::size_t i = 0; i < used; ++i) {
    visit({rests[i].first * per_tile, rests[i].count * per_tile});
  }
}

void GemmKernel::item(Machine& m, std::int64_t index) const {
  const GemmProblem& p = problem_;
  const GemmTile& shape = *tile_;
  const Place at = place(index);
  if (p.fault == GemmFault::kTailLeftOut && at.tokens < shape.tokens) return;
  const std::int64_t rows = std::min(rows_, p.n - at.row);
  const std::int64_t columns = shape.tokens;
  const bool swiglu = p.epilogue == Epilogue::kSwiglu;
  const bool by_tokens = shape.rows == Side::kTokens;  // the instruction's rows
  const Dtype weight_operand = widen_ ? p.compute : p.weight;
  const double w_scale = scale_bytes(p.weight, p, true);
  const double a_scale = scale_bytes(p.activation, p, false);
  const double weight_bytes =
      static_cast<double>(hit_ * p.n * p.k) * (element_bytes(p.weight) + w_scale);
  const double token_bytes =
      static_cast<double>(tokens_ * p.k) * (element_bytes(p.activation) + a_scale);
  const double room = kCacheShare * cache_capacity_;
  const GemmTensors& named = p.tensors;
  const bool placed = !named.row_places.empty();
  const bool weighted = !named.row_weights.empty();
  const std::int64_t all_tokens = named.rows > 0 ? named.rows : tokens_;
  const TensorId weights = m.tensor({.name = named.weights,
                                     .dtype = p.weight,
                                     .rows = groups_ * p.n,
                                     .cols = p.k,
                                     .home = Home::kMemory,
                                     .scale_bytes = w_scale,
                                     .memory_bytes = weight_bytes * reread_});
  const bool cached = p.activations_in_cache && token_bytes <= room;
  const TensorId tokens = m.tensor({.name = named.activations,
                                    .dtype = p.activation,
                                    .rows = all_tokens,
                                    .cols = p.k,
                                    .home = cached ? Home::kCache : Home::kMemory,
                                    .scale_bytes = a_scale,
                                    .memory_bytes = token_bytes * reread_});
  const std::int64_t out_columns = swiglu ? p.n / 2 : p.n;
  const Dtype out_dtype = splits_ > 1 ? Dtype::kFp32 : p.output;
  const double out_scale = out_dtype == Dtype::kFp8 ? a_scale : 0.0;
  const double out_bytes =
      static_cast<double>(splits_ * tokens_ * out_columns) * element_bytes(out_dtype);
  const Home out_home = placed              ? named.place_home
                        : out_bytes <= room ? Home::kCache
                                            : Home::kMemory;
  const TensorId out = m.tensor({.name = named.output,
                                 .dtype = out_dtype,
                                 .rows = placed ? named.place_rows : splits_ * all_tokens,
                                 .cols = out_columns,
                                 .home = out_home,
                                 .scale_bytes = out_scale,
                                 .peer_share = named.place_share});
  const auto row_tensor = [&](std::string_view name) {
    return m.tensor(
        {.name = name, .dtype = Dtype::kFp32, .rows = all_tokens, .cols = 1, .home = Home::kCache});
  };
  const TensorId row_weights = weighted ? row_tensor(named.row_weights) : 0;
  const TensorId row_places = placed ? row_tensor(named.row_places) : 0;

  // A pair of cores holds half of the instruction's columns each.
  const double weight_share = shape.pair && by_tokens ? 0.5 : 1.0;
  const double token_share = shape.pair && !by_tokens ? 0.5 : 1.0;
  const Buffer w = m.buffer({.name = "weight_tile",
                             .local = Local::kOperand,
                             .dtype = weight_operand,
                             .rows = rows_,
                             .cols = tile_k_,
                             .slots = stages_,
                             .scale_bytes = w_scale,
                             .share = weight_share});
  const Buffer t = m.buffer({.name = "token_tile",
                             .local = Local::kOperand,
                             .dtype = p.activation,
                             .rows = columns,
                             .cols = tile_k_,
                             .slots = stages_,
                             .scale_bytes = a_scale,
                             .share = token_share});
  // Instruction rows by columns.
  const Buffer acc = m.buffer({.name = "accumulator",
                               .local = Local::kAccumulator,
                               .dtype = Dtype::kFp32,
                               .rows = by_tokens ? columns : rows_,
                               .cols = by_tokens ? rows_ : columns,
                               .slots = design_->accumulators,
                               .per_item = !promote_});
  const Buffer sum = m.buffer({.name = "sums",
                               .local = Local::kVector,
                               .dtype = Dtype::kFp32,
                               .rows = promote_ ? (by_tokens ? columns : rows_) : 0,
                               .cols = by_tokens ? rows_ : columns,
                               .share = shape.spilled ? 0.0 : 1.0});
  const Buffer part = m.buffer({.name = "block_product",
                                .local = Local::kVector,
                                .dtype = Dtype::kFp32,
                                .rows = promote_ ? (by_tokens ? columns : rows_) : 0,
                                .cols = by_tokens ? rows_ : columns,
                                .share = 0.0});
  // What the vector units hold of the result at a time is a fraction of it.
  const Buffer result = m.buffer({.name = "result",
                                  .local = Local::kVector,
                                  .dtype = Dtype::kFp32,
                                  .rows = columns,
                                  .cols = rows_,
                                  .share = kResultShare});
  const Buffer staged = m.buffer({.name = "staged",
                                  .local = Local::kOperand,
                                  .dtype = out_dtype,
                                  .rows = columns,
                                  .cols = swiglu ? rows_ / 2 : rows_,
                                  .scale_bytes = out_scale,
                                  .share = staged_share(columns)});
  const Buffer packed = m.buffer({.name = "packed_weights",
                                  .local = Local::kVector,
                                  .dtype = p.weight,
                                  .rows = widen_ ? rows_ : 0,
                                  .cols = tile_k_,
                                  .slots = kWidenSlots,
                                  .scale_bytes = w_scale});
  const Buffer widened = m.buffer({.name = "widened_weights",
                                   .local = Local::kVector,
                                   .dtype = weight_operand,
                                   .rows = widen_ ? rows_ : 0,
                                   .cols = tile_k_,
                                   .slots = 2,
                                   .scale_bytes = w_scale});

  const auto row_buffer = [&](std::string_view name) {
    return m.buffer(
        {.name = name, .local = Local::kVector, .dtype = Dtype::kFp32, .rows = columns, .cols = 1});
  };
  const Block row_block{0, at.tokens, 0, 1};
  const Block token_rows{at.first_token, at.tokens, 0, 1};
  Buffer row_weight;
  Buffer row_place;
  if (weighted) {
    row_weight = row_buffer("row_weight");
    m.load(row_weight(0, row_block), row_weights, token_rows);
  }
  if (placed) {
    row_place = row_buffer("row_place");
    m.load(row_place(0, row_block), row_places, token_rows);
  }

  const std::int64_t k_tiles = ceil_div(p.k, tile_k_);
  const std::int64_t first_k = at.split * k_tiles / splits_;
  const std::int64_t last_k = (at.split + 1) * k_tiles / splits_;
  const auto depth = [&](std::int64_t i) {
    return std::min(tile_k_, p.k - (first_k + i) * tile_k_);
  };
  const auto load_tokens = [&](std::int64_t i) {
    const std::int64_t k = depth(i);
    m.load(t(i, {0, at.tokens, 0, k}), tokens,
           {at.first_token, at.tokens, (first_k + i) * tile_k_, k},
           static_cast<int>(std::min(shape.share_tokens, row_tiles_)));
  };
  const auto load_weights = [&](std::int64_t i) {
    const std::int64_t col = (first_k + i) * tile_k_;
    const std::int64_t k = depth(i);
    const std::int64_t first = at.group * p.n;
    const Buffer& into = widen_ ? packed : w;
    const auto shared = static_cast<int>(shape.share_weights);
    if (swiglu) {
      // Half a tile of gate rows and the up rows that belong to them.
      m.load(into(i, {0, rows / 2, 0, k}), weights, {first + at.row / 2, rows / 2, col, k}, shared);
      m.load(into(i, {rows / 2, rows / 2, 0, k}), weights,
             {first + p.n / 2 + at.row / 2, rows / 2, col, k}, shared);
    } else {
      m.load(into(i, {0, rows, 0, k}), weights, {first + at.row, rows, col, k}, shared);
    }
  };
  const auto load = [&](std::int64_t i) {
    load_tokens(i);
    load_weights(i);
  };
  const auto convert = [&](std::int64_t i) {
    const Block into{0, rows, 0, depth(i)};
    m.widen(widened(i, into), packed(i, into));
    m.move(w(i, into), widened(i, into));
  };
  const Block tile_block = by_tokens ? Block{0, at.tokens, 0, rows} : Block{0, rows, 0, at.tokens};
  const std::int64_t multiplied = design_->exact_tiles ? at.tokens : columns;
  const auto multiply = [&](std::int64_t i) {
    const std::int64_t k = depth(i);
    const BufferRef weight_side = w(i, {0, rows, 0, k});
    const BufferRef token_side = t(i, {0, at.tokens, 0, k});
    m.matrix(acc(promote_ ? i : 0, tile_block), by_tokens ? token_side : weight_side,
             by_tokens ? weight_side : token_side,
             {.m = by_tokens ? multiplied : rows_,
              .n = by_tokens ? rows_ : multiplied,
              .k = k,
              .compute = p.compute,
              .accumulate = !promote_ && i > 0,
              .b_by_rows = false,
              .scaled = !promote_,
              .mixed_fp4 = p.weight == Dtype::kFp4 && p.compute == Dtype::kFp8 && !widen_,
              .pair = shape.pair});
  };
  const auto promote = [&](std::int64_t i) {
    const std::int64_t k = depth(i);
    const BufferRef weight_side = w(i, {0, rows, 0, k});
    const BufferRef token_side = t(i, {0, at.tokens, 0, k});
    m.move(part(0, tile_block), acc(i, tile_block));
    m.vector(VectorKind::kScaled, sum(0, tile_block),
             {part(0, tile_block), by_tokens ? token_side : weight_side,
              by_tokens ? weight_side : token_side});
    // Sums beyond the registers are read and written in local memory every time.
    if (shape.spilled) m.vector(VectorKind::kSpill, sum(0, tile_block), {sum(0, tile_block)});
  };
  if (promote_) m.vector(VectorKind::kFill, sum(0, tile_block), {});
  const std::int64_t iterations = last_k - first_k;
  const std::int64_t ahead = p.fault == GemmFault::kSlotEarly ? stages_ : stages_ - 1;
  if (widen_) {
    // Packed weights wait in the vector units' memory, tokens where the matrix unit reads them.
    m.pipeline(iterations, {Phase{ahead, load_tokens}, Phase{kWidenSlots - 1, load_weights},
                            Phase{1, convert}, Phase{0, multiply}});
  } else if (promote_) {
    m.pipeline(iterations,
               {Phase{ahead, load}, Phase{design_->accumulators - 1, multiply}, Phase{0, promote}});
  } else {
    m.pipeline(iterations, {Phase{ahead, load}, Phase{0, multiply}});
  }

  // Tokens are the rows of what leaves.
  const BufferRef whole = result(0, {0, at.tokens, 0, rows});
  m.move(whole, promote_ ? sum(0, tile_block) : acc(0, tile_block), !by_tokens);
  const std::int64_t out_row = at.split * all_tokens + at.first_token;
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
  if (weighted) m.vector(VectorKind::kMul, gate, {gate, row_weight(0, row_block)});
  const BufferRef leaving = staged(0, {0, at.tokens, 0, width});
  m.vector(out_dtype == Dtype::kFp8 ? VectorKind::kQuantise : VectorKind::kCopy, leaving, {gate});
  const std::int64_t col = swiglu ? at.row / 2 : at.row;
  if (placed) {
    m.scatter(out, row_place(0, row_block), leaving, col, width);
  } else {
    m.store(out, {out_row, at.tokens, col, width}, leaving);
  }
}

SplitReduceKernel::SplitReduceKernel(std::int64_t splits, std::int64_t tokens, std::int64_t n,
                                     Dtype output, const tile::CoreRates& chip, GemmFault fault)
    : splits_(splits), tokens_(tokens), n_(n), output_(output), fault_(fault) {
  // A token's columns are cut so that every core has some, and a core works through several tokens.
  const auto cores = static_cast<std::int64_t>(chip.cores);
  columns_ = std::clamp<std::int64_t>(ceil_div(tokens * n, cores), 128, kReducedColumns);
  columns_ = std::min(ceil_div(columns_, 128) * 128, n);
  parts_ = ceil_div(n_, columns_);
  rows_ = std::max<std::int64_t>(1, ceil_div(tokens * parts_, cores));
  rows_ = std::min(rows_, tokens);
}

tile::Launch SplitReduceKernel::launch() const {
  return {.items = parts_ * ceil_div(tokens_, rows_), .cores = 0, .persistent = true};
}

void SplitReduceKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  visit({0, launch().items});
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
                              .rows = splits_,
                              .cols = columns_,
                              .slots = kReduceSlots});
  const Buffer sum = m.buffer({.name = "sum",
                               .local = Local::kVector,
                               .dtype = Dtype::kFp32,
                               .rows = 1,
                               .cols = columns_,
                               .slots = 2});
  const std::int64_t first = index / parts_ * rows_;
  const std::int64_t col = index % parts_ * columns_;
  const std::int64_t width = std::min(columns_, n_ - col);
  const std::int64_t added = fault_ == GemmFault::kPartsNotAdded ? 1 : splits_;
  m.pipeline(
      std::min(rows_, tokens_ - first),
      {Phase{kReduceSlots - 1,
             [&](std::int64_t i) {
               for (std::int64_t s = 0; s < splits_; ++s) {
                 m.load(in(i, {s, 1, 0, width}), parts, {s * tokens_ + first + i, 1, col, width});
               }
             }},
       Phase{
           0, [&](std::int64_t i) {
             m.vector(VectorKind::kColSum, sum(i, {0, 1, 0, width}), {in(i, {0, added, 0, width})});
             m.store(out, {first + i, 1, col, width}, sum(i, {0, 1, 0, width}));
           }}});
}

}  // namespace foretoken::hwmodels::kernels
