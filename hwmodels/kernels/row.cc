#include "hwmodels/kernels/row.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

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

// Share of the cache that what one kernel leaves may take and still be found there by the next.
constexpr double kCacheShare = 0.5;

double element_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

Home home_of(double bytes, double room) { return bytes <= room ? Home::kCache : Home::kMemory; }

// Rows that heads and blocks divide among themselves: of one token's heads, or of whole tokens.
std::int64_t head_rows(std::int64_t heads, std::int64_t most) {
  if (most >= heads) return most / heads * heads;
  for (std::int64_t r = most; r > 1; --r) {
    if (heads % r == 0) return r;
  }
  return 1;
}

}  // namespace

void describe(base::ConfigVisitor& v, RowDesign& d) {
  v.integer({"rows", "rows of one iteration, at most"}, d.rows, {.min = 1, .max = 4096});
  v.integer({"columns", "columns of one vector step, at most"}, d.columns,
            {.min = 128, .max = 1 << 20});
  v.integer({"slots", "slots of input and output buffers"}, d.slots, {.min = 1, .max = 16});
  v.integer({"iterations", "blocks of rows of one work item; 0: spread evenly over the cores"},
            d.iterations, {.min = 0, .max = 1 << 20});
}

RowBlocks::RowBlocks(std::int64_t units, std::int64_t size, std::int64_t per, double cores,
                     std::int64_t parts)
    : units_(units), size_(size), parts_(parts), blocks_(ceil_div(units, size)) {
  if (blocks_ == 0) return;
  if (per > 0) {
    items_ = ceil_div(blocks_, per);
    each_ = per;
    return;
  }
  const std::int64_t places = std::max<std::int64_t>(static_cast<std::int64_t>(cores) / parts, 1);
  items_ = std::min(blocks_, places);
  each_ = blocks_ / items_;
  more_ = blocks_ % items_;
}

std::int64_t RowBlocks::first(std::int64_t item) const {
  const std::int64_t i = item / parts_;
  return i * each_ + std::min(i, more_);
}

std::int64_t RowBlocks::count(std::int64_t item) const {
  return std::min(each_ + (item / parts_ < more_ ? 1 : 0), blocks_ - first(item));
}

std::int64_t RowBlocks::whole(std::int64_t item) const {
  return std::min(count(item), units_ / size_ - first(item));
}

std::int64_t RowBlocks::rest(std::int64_t item) const {
  return whole(item) < count(item) ? units_ % size_ : 0;
}

void RowBlocks::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  if (items_ == 0) return;
  // The last item may hold fewer blocks, or a partial one.
  const std::int64_t last = items_ - 1;
  const bool odd = units_ % size_ != 0 || count(last * parts_) < each_;
  if (more_ > 0) visit({0, more_ * parts_});
  const std::int64_t alike = items_ - more_ - (odd ? 1 : 0);
  if (alike > 0) visit({more_ * parts_, alike * parts_});
  if (odd) visit({last * parts_, parts_});
}

std::int64_t even_parts(std::int64_t width, std::int64_t wanted, std::int64_t least) {
  if (width % 128 != 0) return 1;
  const std::int64_t units = width / 128;
  std::int64_t best = 1;
  for (std::int64_t p = 2; p <= units; ++p) {
    if (units % p != 0) continue;
    if (p > wanted && best >= least) break;
    best = p;
  }
  return best;
}

RowProblem& RowProblem::then(const RowStage& stage) {
  assert(stage_count < static_cast<std::int64_t>(kRowStages));
  stages[static_cast<std::size_t>(stage_count++)] = stage;
  return *this;
}

namespace {

// Formats: FP8 with a scale of four bytes per 128 between kernels, FP4 with one byte per 32.
RowProblem& quantised(RowProblem& p, Dtype output) {
  p.output = output;
  if (output == Dtype::kFp8) {
    p.scale_bytes = 4.0;
    return p.then({.step = RowStep::kQuantise, .block = 128});
  }
  if (output == Dtype::kFp4) {
    p.scale_bytes = 1.0;
    return p.then({.step = RowStep::kQuantise, .block = 32});
  }
  return p;
}

}  // namespace

RowProblem norm_chain(std::int64_t rows, std::int64_t width, Dtype output) {
  RowProblem p{.rows = rows, .width = width};
  p.then({.step = RowStep::kNorm, .weight = true});
  return quantised(p, output);
}

RowProblem residual_norm_chain(std::int64_t rows, std::int64_t width) {
  RowProblem p{.rows = rows, .width = width};
  p.then({.step = RowStep::kResidual, .keep = true});
  return p.then({.step = RowStep::kNorm, .weight = true});
}

RowProblem quantise_chain(std::int64_t rows, std::int64_t width) {
  RowProblem p{.rows = rows, .width = width};
  return quantised(p, Dtype::kFp8);
}

RowProblem query_chain(std::int64_t rows, std::int64_t heads, std::int64_t width,
                       std::int64_t positions) {
  RowProblem p{.rows = rows, .heads = heads, .width = width, .positions = positions};
  p.then({.step = RowStep::kNorm});
  return p.then({.step = RowStep::kRotate});
}

RowProblem output_chain(std::int64_t rows, std::int64_t heads, std::int64_t width,
                        std::int64_t positions) {
  RowProblem p{.rows = rows, .heads = heads, .width = width, .positions = positions};
  p.then({.step = RowStep::kRotate, .inverse = true});
  return quantised(p, Dtype::kFp8);
}

RowProblem entry_chain(std::int64_t rows, std::int64_t width, std::int64_t positions,
                       std::int64_t cache_rows) {
  RowProblem p{.rows = rows,
               .width = width,
               .output = Dtype::kFp8,
               .positions = positions,
               .cache_rows = cache_rows,
               .scale_bytes = 1.0};
  p.plain = width - p.rotary;
  // Scales fill up to a multiple of eight bytes.
  const std::int64_t scales = p.plain / 64;
  p.entry_padding = static_cast<double>(ceil_div(scales, 8) * 8 - scales);
  p.then({.step = RowStep::kNorm, .weight = true});
  p.then({.step = RowStep::kRotate});
  return p.then({.step = RowStep::kQuantise, .block = 64});
}

RowProblem index_query_chain(std::int64_t rows, std::int64_t heads, std::int64_t width,
                             std::int64_t positions) {
  RowProblem p{.rows = rows, .heads = heads, .width = width, .positions = positions};
  p.then({.step = RowStep::kRotate});
  p.then({.step = RowStep::kHadamard});
  return quantised(p, Dtype::kFp4);
}

RowProblem index_key_chain(std::int64_t rows, std::int64_t width, std::int64_t positions,
                           std::int64_t cache_rows) {
  RowProblem p{.rows = rows,
               .width = width,
               .positions = positions,
               .cache_rows = cache_rows,
               .plain = width};
  p.then({.step = RowStep::kNorm, .weight = true});
  p.then({.step = RowStep::kRotate});
  p.then({.step = RowStep::kHadamard});
  return quantised(p, Dtype::kFp4);
}

RowProblem swiglu_chain(std::int64_t rows, std::int64_t width, double limit, Dtype output) {
  RowProblem p{.rows = rows, .width = width};
  p.then({.step = RowStep::kSwiglu, .limit = limit});
  return quantised(p, output);
}

RowProblem embedding_chain(std::int64_t rows, std::int64_t width, std::int64_t vocabulary,
                           std::int64_t streams) {
  return {.rows = rows, .width = width, .table_rows = vocabulary, .copies = streams};
}

RowKernel::RowKernel(const RowProblem& problem, const RowDesign& design,
                     const tile::CoreRates& chip, RowFault fault)
    : problem_(problem), design_(&design), fault_(fault), room_(kCacheShare * chip.cache_capacity) {
  const RowProblem& p = problem_;
  bool cut = p.heads == 1 && p.cache_rows == 0;
  bool gated = false;
  bool rotates = false;
  double beside = 0.0;  // bytes per channel of what comes and leaves beside input and output
  for (std::int64_t s = 0; s < p.stage_count; ++s) {
    const RowStage& stage = p.stages[static_cast<std::size_t>(s)];
    const auto refuse = [&](std::string_view why) {
      throw base::UnsupportedError(fmt::format("row chain on {}: {}", chip.chip, why));
    };
    switch (stage.step) {
      case RowStep::kSwiglu:
        if (s != 0 || p.heads != 1) refuse("the gated activation comes first and has no heads");
        gated = true;
        break;
      case RowStep::kQuantise:
        if (s + 1 != p.stage_count) refuse("quantisation comes last");
        if (stage.block <= 0 || design.columns % stage.block != 0) {
          refuse(fmt::format("steps of {} columns cut blocks of {}", design.columns, stage.block));
        }
        break;
      case RowStep::kRotate:
        rotates = true;
        if (p.rotary > p.width || p.positions <= 0) refuse("no channels or angles to rotate");
        cut = false;
        break;
      case RowStep::kNorm:
      case RowStep::kHadamard:
        cut = false;
        break;
      case RowStep::kResidual:
        beside += stage.keep ? 4.0 : 2.0;
        break;
      case RowStep::kRound:
        break;
    }
  }
  if (p.cache_rows > 0 && p.heads != 1) {
    throw base::UnsupportedError(
        fmt::format("row chain on {}: heads share a cache entry", chip.chip));
  }

  // As many rows as the vector memory holds and still leave every core some; where a row can be cut
  // and rows are few or too long, parts of rows.
  const std::int64_t units = p.rows * p.heads;
  const auto cores = static_cast<std::int64_t>(chip.cores);
  const auto slots = static_cast<double>(design.slots);
  const double room = 0.9 * chip.capacity[static_cast<std::size_t>(Local::kVector)];
  // FP32 values and one temporary, and what comes and leaves; norm weights once.
  const double channel_bytes = 10.0 + slots * ((gated ? 2.0 : 1.0) * element_bytes(p.input) +
                                               element_bytes(p.output) + beside);
  std::int64_t parts = 1;
  if (cut) {
    const double row_bytes = channel_bytes * static_cast<double>(p.width);
    parts = even_parts(
        p.width,
        std::max(ceil_div(p.width, design.columns), cores / std::max<std::int64_t>(units, 1)),
        static_cast<std::int64_t>(row_bytes / room) + 1);
  }
  part_width_ = p.width / parts;
  step_width_ = std::min(design.columns, part_width_);
  const auto width = static_cast<double>(part_width_);
  const double row_bytes = (channel_bytes - 6.0) * width + 4.0 * static_cast<double>(step_width_) +
                           (rotates ? 4.0 * slots * static_cast<double>(p.rotary) : 0.0);
  const auto fit = static_cast<std::int64_t>((room - 2.0 * width) / row_bytes);
  const std::int64_t most =
      std::max<std::int64_t>(std::min({design.rows, fit, ceil_div(units, cores)}), 1);
  blocks_ = RowBlocks(units, head_rows(p.heads, most), design.iterations, chip.cores, parts);
}

tile::Launch RowKernel::launch() const { return {.items = blocks_.items()}; }

void RowKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  blocks_.classes(visit);
}

void RowKernel::item(Machine& m, std::int64_t index) const {
  const RowProblem& p = problem_;
  const std::int64_t first_row = blocks_.first_row(index);
  const std::int64_t item_rows = blocks_.rows(index);
  const std::int64_t size = blocks_.size();
  const std::int64_t col = blocks_.part(index) * part_width_;
  const std::int64_t units = p.rows * p.heads;
  // A block may hold some heads of one token.
  const std::int64_t block_tokens = std::max<std::int64_t>(size / p.heads, 1);

  RowStage swiglu{};
  RowStage residual{};
  RowStage norm{};
  RowStage round{};
  RowStage quantise{};
  bool gated = false;
  bool adds = false;
  bool norms = false;
  bool rounds = false;
  bool rotates = false;
  for (const RowStage& stage : p.chain()) {
    if (stage.step == RowStep::kSwiglu) gated = true, swiglu = stage;
    if (stage.step == RowStep::kResidual) adds = true, residual = stage;
    if (stage.step == RowStep::kNorm) norms = true, norm.weight |= stage.weight;
    if (stage.step == RowStep::kRound) rounds = true, round = stage;
    if (stage.step == RowStep::kRotate) rotates = true;
    if (stage.step == RowStep::kQuantise) quantise = stage;
  }
  const bool looks_up = p.table_rows > 0;
  const bool caches = p.cache_rows > 0;
  const std::int64_t plain = caches ? p.plain : p.width;
  const std::int64_t open = p.width - plain;  // channels of an entry that stay BF16
  const double scale =
      quantise.block > 0 ? p.scale_bytes / static_cast<double>(quantise.block) : 0.0;
  const auto bytes = [&](std::int64_t rows, std::int64_t cols, double element) {
    return static_cast<double>(rows) * static_cast<double>(cols) * element;
  };

  // Tensors.
  const std::int64_t in_width = gated ? 2 * p.width : p.width;
  const double in_bytes = bytes(units, in_width, element_bytes(p.input));
  const TensorId input =
      m.tensor({.name = "input",
                .dtype = p.input,
                .rows = looks_up ? p.table_rows : units,
                .cols = in_width,
                .home = !looks_up && p.input_in_cache ? home_of(in_bytes, room_) : Home::kMemory,
                .memory_bytes = in_bytes});
  const auto per_token = [&](std::string_view name, Dtype d) {
    return m.tensor({.name = name, .dtype = d, .rows = p.rows, .cols = 1, .home = Home::kCache});
  };
  const TensorId indices = looks_up ? per_token("indices", Dtype::kInt32) : 0;
  const TensorId positions = rotates ? per_token("positions", Dtype::kInt32) : 0;
  const TensorId entries = caches ? per_token("slots", Dtype::kInt32) : 0;
  const TensorId row_weights = swiglu.weight ? per_token("row_weights", Dtype::kFp32) : 0;
  const TensorId table =
      rotates ? m.tensor({.name = "angles",
                          .dtype = Dtype::kFp32,
                          .rows = p.positions,
                          .cols = p.rotary,
                          .memory_bytes = bytes(std::min(p.rows, p.positions), p.rotary, 4.0)})
              : 0;
  const TensorId weights =
      norm.weight ? m.tensor({.name = "weights", .dtype = Dtype::kBf16, .rows = 1, .cols = p.width})
                  : 0;
  const TensorId addend = adds ? m.tensor({.name = "residual",
                                           .dtype = Dtype::kBf16,
                                           .rows = units,
                                           .cols = p.width,
                                           .home = home_of(bytes(units, p.width, 2.0), room_)})
                               : 0;
  const TensorId sum_out = residual.keep
                               ? m.tensor({.name = "residual_out",
                                           .dtype = Dtype::kBf16,
                                           .rows = units,
                                           .cols = p.width,
                                           .home = home_of(bytes(units, p.width, 2.0), room_)})
                               : 0;
  const double entry_scale = scale + p.entry_padding / static_cast<double>(plain);
  const double out_bytes = bytes(units, p.copies * plain, element_bytes(p.output) + scale);
  const TensorId out =
      m.tensor({.name = caches ? "cache" : "output",
                .dtype = p.output,
                .rows = caches ? p.cache_rows : units,
                .cols = p.copies * plain,
                .home = caches ? Home::kMemory : home_of(out_bytes, room_),
                .scale_bytes = caches ? entry_scale : scale,
                .memory_bytes = bytes(units, p.copies * plain,
                                      element_bytes(p.output) + (caches ? entry_scale : scale))});
  const TensorId out_open = open > 0 ? m.tensor({.name = "cache_rotary",
                                                 .dtype = Dtype::kBf16,
                                                 .rows = p.cache_rows,
                                                 .cols = open,
                                                 .memory_bytes = bytes(units, open, 2.0)})
                                     : 0;

  // Buffers; what a chain does not need has no rows.
  const std::int64_t slots = design_->slots;
  const auto buffer = [&](std::string_view name, Dtype d, bool needed, std::int64_t rows,
                          std::int64_t cols, std::int64_t count = 1, double scales = 0.0) {
    return m.buffer({.name = name,
                     .local = Local::kVector,
                     .dtype = d,
                     .rows = needed ? rows : 0,
                     .cols = cols,
                     .slots = count,
                     .scale_bytes = scales});
  };
  const Buffer in = buffer("rows", p.input, true, size, part_width_, slots);
  const Buffer up = buffer("up_rows", p.input, gated, size, part_width_, slots);
  const Buffer add = buffer("residual_rows", Dtype::kBf16, adds, size, part_width_, slots);
  const Buffer x = buffer("values", Dtype::kFp32, true, size, part_width_);
  const Buffer temp = buffer("temporary", Dtype::kFp32, norms || gated || adds, size, step_width_);
  const Buffer rounded = buffer("rounded", round.dtype, rounds, size, step_width_);
  const Buffer sums = buffer("sums", Dtype::kFp32, norms, size, 1);
  const Buffer part = buffer("part_sums", Dtype::kFp32, norms, size, 1);
  const Buffer factors = buffer("factors", Dtype::kFp32, norms, size, 1);
  const Buffer w = buffer("weight_row", Dtype::kBf16, norm.weight, 1, part_width_);
  // Of one block each, a stage ahead of the rows they choose.
  const Buffer index_of = buffer("index_rows", Dtype::kInt32, looks_up, size, 1, slots + 1);
  const Buffer position_of =
      buffer("position_rows", Dtype::kInt32, rotates, block_tokens, 1, slots + 1);
  const Buffer entry_of = buffer("slot_rows", Dtype::kInt32, caches, size, 1, slots + 1);
  const Buffer weight_of =
      buffer("row_weight_rows", Dtype::kFp32, swiglu.weight, size, 1, slots + 1);
  const Buffer angles = buffer("angle_rows", Dtype::kFp32, rotates, block_tokens, p.rotary, slots);
  const Buffer kept = buffer("sum_rows", Dtype::kBf16, residual.keep, size, part_width_, slots);
  const Buffer leaving =
      buffer("leaving", p.output, true, size, caches ? plain : part_width_, slots, scale);
  const Buffer leaving_open = buffer("leaving_rotary", Dtype::kBf16, open > 0, size, open, slots);

  if (norm.weight) m.load(w(), weights, {0, 1, col, part_width_});

  const auto rows_of = [&](std::int64_t i) { return std::min(size, item_rows - i * size); };
  const auto tokens_of = [&](std::int64_t i) {
    return std::max<std::int64_t>(rows_of(i) / p.heads, 1);
  };
  const bool chooses = looks_up || rotates || caches || swiglu.weight;
  const auto choose = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const std::int64_t row = first_row + i * size;
    const Block column{0, n, 0, 1};
    if (looks_up) m.load(index_of(i, column), indices, {row, n, 0, 1});
    if (rotates) {
      const std::int64_t tokens = tokens_of(i);
      m.load(position_of(i, {0, tokens, 0, 1}), positions, {row / p.heads, tokens, 0, 1});
    }
    if (caches) m.load(entry_of(i, column), entries, {row, n, 0, 1});
    if (swiglu.weight) m.load(weight_of(i, column), row_weights, {row, n, 0, 1});
  };
  const auto load = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const std::int64_t row = first_row + i * size;
    const Block into{0, n, 0, part_width_};
    const bool swap = gated && fault_ == RowFault::kSwapHalves;
    if (looks_up) {
      m.gather(in(i, into), input, index_of(i, {0, n, 0, 1}), col, part_width_);
    } else {
      m.load(in(i, into), input, {row, n, swap ? p.width + col : col, part_width_});
    }
    if (gated) {
      m.load(up(i, into), input, {row, n, swap ? col : p.width + col, part_width_});
    }
    if (adds) m.load(add(i, into), addend, {row, n, col, part_width_});
    if (rotates) {
      const std::int64_t tokens = tokens_of(i);
      m.gather(angles(i, {0, tokens, 0, p.rotary}), table, position_of(i, {0, tokens, 0, 1}), 0,
               p.rotary);
    }
  };
  // Columns in vector steps.
  const auto each_step = [&](std::int64_t n, std::int64_t width, auto f) {
    for (std::int64_t c = 0; c < width; c += step_width_) {
      const std::int64_t cols = std::min(step_width_, width - c);
      f(Block{0, n, c, cols}, Block{0, n, 0, cols});
    }
  };
  const auto compute = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const std::int64_t row = first_row + i * size;
    const Block column{0, n, 0, 1};
    each_step(n, part_width_, [&](const Block& c, const Block&) {
      m.vector(VectorKind::kCopy, x(0, c), {in(i, c)});
    });
    for (const RowStage& stage : p.chain()) {
      switch (stage.step) {
        case RowStep::kSwiglu:
          each_step(n, part_width_, [&](const Block& c, const Block& t) {
            m.vector(VectorKind::kCopy, temp(0, t), {up(i, c)});
            if (stage.limit > 0.0) {
              m.vector(VectorKind::kMin, x(0, c), {x(0, c)}, {.scalar = stage.limit});
              m.vector(VectorKind::kMin, temp(0, t), {temp(0, t)}, {.scalar = stage.limit});
              m.vector(VectorKind::kMax, temp(0, t), {temp(0, t)}, {.scalar = -stage.limit});
            }
            m.vector(VectorKind::kSilu, x(0, c), {x(0, c)});
            m.vector(VectorKind::kMul, x(0, c), {x(0, c), temp(0, t)});
            if (stage.weight) {
              m.vector(VectorKind::kMul, x(0, c), {x(0, c), weight_of(i, {0, n, 0, 1})});
            }
          });
          break;
        case RowStep::kResidual:
          each_step(n, part_width_, [&](const Block& c, const Block& t) {
            m.vector(VectorKind::kCopy, temp(0, t), {add(i, c)});
            m.vector(VectorKind::kAdd, x(0, c), {x(0, c), temp(0, t)});
            if (stage.keep) m.vector(VectorKind::kCopy, kept(i, c), {x(0, c)});
          });
          if (stage.keep) {
            m.store(sum_out, {row, n, col, part_width_}, kept(i, {0, n, 0, part_width_}));
          }
          break;
        case RowStep::kNorm: {
          bool more = false;
          each_step(n, part_width_, [&](const Block& c, const Block& t) {
            m.vector(VectorKind::kMul, temp(0, t), {x(0, c), x(0, c)});
            m.vector(VectorKind::kRowSum, more ? part(0, column) : sums(0, column), {temp(0, t)});
            if (more) {
              m.vector(VectorKind::kAdd, sums(0, column), {sums(0, column), part(0, column)});
            }
            more = true;
          });
          const double share = 1.0 / static_cast<double>(p.width);
          if (fault_ == RowFault::kWideNorm) {
            // One mean over the heads of each token.
            const std::int64_t tokens = tokens_of(i);
            const std::int64_t heads = n / tokens;
            for (std::int64_t t = 0; t < tokens; ++t) {
              const BufferRef total = part(0, {t, 1, 0, 1});
              const Block of_token{t * heads, heads, 0, 1};
              m.vector(VectorKind::kColSum, total, {sums(0, of_token)});
              m.vector(VectorKind::kMul, sums(0, of_token), {total},
                       {.scalar = 1.0 / static_cast<double>(heads)});
            }
          }
          m.vector(VectorKind::kRsqrt, factors(0, column), {sums(0, column)},
                   {.scalar = share, .scalar2 = p.eps});
          each_step(n, part_width_, [&](const Block& c, const Block&) {
            m.vector(VectorKind::kMul, x(0, c), {x(0, c), factors(0, column)});
            if (stage.weight) {
              m.vector(VectorKind::kMul, x(0, c), {x(0, c), w(0, {0, 1, c.col, c.cols})});
            }
          });
          break;
        }
        case RowStep::kRotate: {
          const Block last{0, n, p.width - p.rotary, p.rotary};
          const bool back = stage.inverse && fault_ != RowFault::kRotateForward;
          m.vector(VectorKind::kRotate, x(0, last),
                   {x(0, last), angles(i, {0, tokens_of(i), 0, p.rotary})},
                   {.scalar = back ? -1.0 : 1.0});
          break;
        }
        case RowStep::kHadamard: {
          const Block whole{0, n, 0, p.width};
          m.vector(VectorKind::kHadamard, x(0, whole), {x(0, whole)});
          break;
        }
        case RowStep::kRound:
          each_step(n, part_width_, [&](const Block& c, const Block& t) {
            m.vector(VectorKind::kCopy, rounded(0, t), {x(0, c)});
            m.vector(VectorKind::kCopy, x(0, c), {rounded(0, t)});
          });
          break;
        case RowStep::kQuantise:
          break;  // on the way out
      }
    }
    const VectorKind convert = quantise.block > 0 ? VectorKind::kQuantise : VectorKind::kCopy;
    const std::int64_t width = caches ? plain : part_width_;
    each_step(n, width,
              [&](const Block& c, const Block&) { m.vector(convert, leaving(i, c), {x(0, c)}); });
    const BufferRef ready = leaving(i, {0, n, 0, width});
    if (caches) {
      const BufferRef to = entry_of(i, {0, n, 0, 1});
      m.scatter(out, to, ready);
      if (open > 0) {
        const BufferRef rest = leaving_open(i, {0, n, 0, open});
        m.vector(VectorKind::kCopy, rest, {x(0, {0, n, plain, open})});
        m.scatter(out_open, to, rest);
      }
      return;
    }
    for (std::int64_t k = 0; k < p.copies; ++k) {
      m.store(out, {row, n, k * p.width + col, width}, ready);
    }
  };
  const std::int64_t ahead = slots - (fault_ == RowFault::kEarlyLoad ? 0 : 1);
  const std::int64_t whole = blocks_.whole(index);
  if (chooses) {
    m.pipeline(whole, {Phase{ahead + 1, choose}, Phase{ahead, load}, Phase{0, compute}});
  } else {
    m.pipeline(whole, {Phase{ahead, load}, Phase{0, compute}});
  }
  if (blocks_.rest(index) > 0) {
    if (chooses) choose(whole);
    load(whole);
    compute(whole);
  }
}

ArgmaxKernel::ArgmaxKernel(std::int64_t rows, std::int64_t vocabulary, Dtype input,
                           const RowDesign& design, const tile::CoreRates& chip)
    : rows_(rows),
      vocabulary_(vocabulary),
      input_(input),
      design_(&design),
      room_(kCacheShare * chip.cache_capacity) {
  const std::int64_t wanted =
      std::max(ceil_div(vocabulary, design.columns),
               static_cast<std::int64_t>(chip.cores) / std::max<std::int64_t>(rows, 1));
  parts_ = std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(vocabulary / 128, 1));
  width_ = ceil_div(vocabulary, parts_);
  parts_ = ceil_div(vocabulary, width_);
  blocks_ = RowBlocks(rows * parts_, 1, design.iterations, chip.cores);
}

tile::Launch ArgmaxKernel::launch() const { return {.items = blocks_.items()}; }

void ArgmaxKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  blocks_.classes(visit);
}

void ArgmaxKernel::item(Machine& m, std::int64_t index) const {
  const double bytes = static_cast<double>(rows_ * vocabulary_) * element_bytes(input_);
  const TensorId logits = m.tensor({.name = "logits",
                                    .dtype = input_,
                                    .rows = rows_,
                                    .cols = vocabulary_,
                                    .home = home_of(bytes, room_)});
  const bool split = parts_ > 1;
  const TensorId tokens = m.tensor({.name = split ? "part_tokens" : "tokens",
                                    .dtype = Dtype::kInt32,
                                    .rows = rows_ * parts_,
                                    .cols = 1,
                                    .home = Home::kCache});
  const TensorId maxima = split ? m.tensor({.name = "part_maxima",
                                            .dtype = Dtype::kFp32,
                                            .rows = rows_,
                                            .cols = parts_,
                                            .home = Home::kCache})
                                : 0;
  const std::int64_t slots = design_->slots;
  const auto buffer = [&](std::string_view name, Dtype d, std::int64_t cols) {
    return m.buffer({.name = name,
                     .local = Local::kVector,
                     .dtype = d,
                     .rows = 1,
                     .cols = cols,
                     .slots = slots});
  };
  const Buffer in = buffer("logit_row", input_, width_);
  const Buffer best = buffer("best", Dtype::kInt32, 1);
  const Buffer most = buffer("most", Dtype::kFp32, 1);
  const std::int64_t first = blocks_.first_row(index);
  const auto place = [&](std::int64_t i) {
    const std::int64_t col = (first + i) % parts_ * width_;
    return Block{(first + i) / parts_, 1, col, std::min(width_, vocabulary_ - col)};
  };
  m.pipeline(blocks_.rows(index),
             {Phase{slots - 1,
                    [&](std::int64_t i) {
                      const Block at = place(i);
                      m.load(in(i, {0, 1, 0, at.cols}), logits, at);
                    }},
              Phase{0, [&](std::int64_t i) {
                      const Block at = place(i);
                      const BufferRef row = in(i, {0, 1, 0, at.cols});
                      m.top_k(best(i), row, 1, at.col, 1);
                      m.store(tokens, {first + i, 1, 0, 1}, best(i));
                      if (!split) return;
                      m.vector(VectorKind::kRowMax, most(i), {row});
                      m.store(maxima, {at.row, 1, (first + i) % parts_, 1}, most(i));
                    }}});
}

ArgmaxPartsKernel::ArgmaxPartsKernel(std::int64_t rows, std::int64_t parts, const RowDesign& design,
                                     const tile::CoreRates& chip)
    : rows_(rows),
      parts_(parts),
      slots_(design.slots),
      blocks_(rows, 1, design.iterations, chip.cores) {}

tile::Launch ArgmaxPartsKernel::launch() const { return {.items = blocks_.items()}; }

void ArgmaxPartsKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  blocks_.classes(visit);
}

void ArgmaxPartsKernel::item(Machine& m, std::int64_t index) const {
  const auto tensor = [&](std::string_view name, Dtype d, std::int64_t rows, std::int64_t cols) {
    return m.tensor({.name = name, .dtype = d, .rows = rows, .cols = cols, .home = Home::kCache});
  };
  const TensorId maxima = tensor("part_maxima", Dtype::kFp32, rows_, parts_);
  const TensorId part_tokens = tensor("part_tokens", Dtype::kInt32, rows_ * parts_, 1);
  const TensorId tokens = tensor("tokens", Dtype::kInt32, rows_, 1);
  const auto buffer = [&](std::string_view name, Dtype d, std::int64_t cols) {
    return m.buffer({.name = name,
                     .local = Local::kVector,
                     .dtype = d,
                     .rows = 1,
                     .cols = cols,
                     .slots = slots_});
  };
  const Buffer in = buffer("maximum_row", Dtype::kFp32, parts_);
  const Buffer best = buffer("best_part", Dtype::kInt32, 1);
  const Buffer token = buffer("token", Dtype::kInt32, 1);
  const std::int64_t first = blocks_.first_row(index);
  m.pipeline(blocks_.rows(index), {Phase{slots_ - 1,
                                         [&](std::int64_t i) {
                                           m.load(in(i), maxima, {first + i, 1, 0, parts_});
                                         }},
                                   Phase{0, [&](std::int64_t i) {
                                           // The row of part_tokens is what top_k counts in.
                                           m.top_k(best(i), in(i), 1, (first + i) * parts_, 1);
                                           m.gather(token(i), part_tokens, best(i), 0, 1);
                                           m.store(tokens, {first + i, 1, 0, 1}, token(i));
                                         }}});
}

}  // namespace foretoken::hwmodels::kernels
