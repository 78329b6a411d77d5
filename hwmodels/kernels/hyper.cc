#include "hwmodels/kernels/hyper.h"

#include <fmt/format.h>

#include <algorithm>

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

Home home_of(double bytes, double room) { return bytes <= room ? Home::kCache : Home::kMemory; }

double vector_room(const tile::CoreRates& chip) {
  return 0.9 * chip.capacity[static_cast<std::size_t>(Local::kVector)];
}

void require_streams(const HyperProblem& p, const tile::CoreRates& chip) {
  if (p.streams <= kHyperStreams) return;
  throw base::UnsupportedError(fmt::format("hyper-connections on {}: {} streams, at most {}",
                                           chip.chip, p.streams, kHyperStreams));
}

Buffer vector_buffer(Machine& m, std::string_view name, Dtype d, std::int64_t rows,
                     std::int64_t cols, std::int64_t slots = 1) {
  return m.buffer({.name = name,
                   .local = Local::kVector,
                   .dtype = d,
                   .rows = rows,
                   .cols = cols,
                   .slots = slots});
}

}  // namespace

void describe(base::ConfigVisitor& v, HyperDesign& d) {
  v.boolean({"fused", "one launch: the last split of a tile finishes it"}, d.fused);
  v.integer({"tile_tokens", "tokens of a tile of the projection"}, d.tile_tokens,
            {.min = 1, .max = 1024});
  v.integer({"tile_k", "channels of one iteration of the projection"}, d.tile_k,
            {.min = 16, .max = 4096});
  v.integer({"stages", "slots of the projection's operands"}, d.stages, {.min = 1, .max = 64});
  v.integer({"splits", "parts the channels are cut into at most"}, d.splits,
            {.min = 1, .max = 1024});
  v.integer({"finish_tokens", "tokens that share a core's Sinkhorn steps, at most"},
            d.finish_tokens, {.min = 1, .max = 1024});
  v.integer({"rows", "tokens of one iteration of collapse and update, at most"}, d.rows,
            {.min = 1, .max = 256});
  v.integer({"columns", "channels of one work item of the update, at most"}, d.columns,
            {.min = 128, .max = 1 << 20});
  v.integer({"slots", "slots of the streams in collapse and update, at most"}, d.slots,
            {.min = 1, .max = 16});
}

Dtype hyper_compute(const tile::CoreRates& chip) {
  for (const Dtype d : {Dtype::kTf32, Dtype::kHf32}) {
    if (chip.matrix[static_cast<std::size_t>(d)] > 0.0) return d;
  }
  return Dtype::kBf16;
}

std::span<const HyperPass> hyper_passes(const HyperDesign& design) {
  static constexpr std::array kSplit = {HyperPass::kProject, HyperPass::kFinish};
  static constexpr std::array kWhole = {HyperPass::kFused};
  if (design.fused) return kWhole;
  return kSplit;
}

// What the parts of one work item have in common.
struct HyperPreKernel::Shared {
  std::int64_t first = 0;   // token
  std::int64_t tokens = 0;  // of this item
  std::int64_t split = 0;
  TensorId streams = 0;
  TensorId matrix = 0;
  TensorId mix_parts = 0;
  TensorId square_parts = 0;
  TensorId base = 0;
  TensorId scale = 0;
  TensorId weights = 0;
  TensorId post = 0;
  TensorId comb = 0;
  TensorId output = 0;
  Buffer mixes{};    // [tokens, outputs]: products, then mixing weights
  Buffer squares{};  // [tokens, 1]
  Buffer bases{};
  Buffer scales{};
};

HyperPreKernel::HyperPreKernel(const HyperProblem& problem, const HyperDesign& design,
                               const tile::CoreRates& chip, HyperPass pass, HyperFault fault)
    : problem_(problem),
      design_(&design),
      pass_(pass),
      fault_(fault),
      room_(kCacheShare * chip.cache_capacity) {
  const HyperProblem& p = problem_;
  require_streams(p, chip);
  const auto cores = static_cast<std::int64_t>(chip.cores);
  const std::int64_t share = std::max<std::int64_t>(ceil_div(p.tokens, cores), 1);
  const std::int64_t tile = std::clamp<std::int64_t>(p.tokens, 1, design.tile_tokens);
  const std::int64_t k_tiles = ceil_div(p.wide(), design.tile_k);
  splits_ = std::clamp<std::int64_t>(cores / std::max<std::int64_t>(ceil_div(p.tokens, tile), 1), 1,
                                     std::min(design.splits, k_tiles));
  tokens_ = pass == HyperPass::kFinish ? std::min(design.finish_tokens, share) : tile;
  // Streams in BF16 and the output for each slot, the sum and one stream in FP32.
  const auto hidden = static_cast<double>(p.hidden);
  const double slot_bytes = hidden * (2.0 * static_cast<double>(p.streams) + 2.0);
  const double wide_bytes = hidden * 8.0;
  double room = vector_room(chip) - (p.norm ? 2.0 : 0.0) * hidden;
  if (pass == HyperPass::kFused) {
    room -= static_cast<double>(tokens_ * design.tile_k) *
            (2.0 * static_cast<double>(design.stages) + 12.0);
  }
  room -= 4.0 * static_cast<double>(tokens_ * p.outputs() * (splits_ + 1));
  slots_ = std::clamp<std::int64_t>(static_cast<std::int64_t>((room - wide_bytes) / slot_bytes), 1,
                                    design.slots);
  const auto fit =
      static_cast<std::int64_t>(room / (static_cast<double>(slots_) * slot_bytes + wide_bytes));
  rows_ = std::max<std::int64_t>(std::min({design.rows, fit, tokens_}), 1);
}

std::string_view HyperPreKernel::name() const {
  switch (pass_) {
    case HyperPass::kProject:
      return "hyper_project";
    case HyperPass::kFinish:
      return "hyper_finish";
    case HyperPass::kFused:
      return "hyper_pre";
  }
  return {};
}

tile::Launch HyperPreKernel::launch() const {
  return {.items = ceil_div(problem_.tokens, tokens_) * parts()};
}

void HyperPreKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  const std::int64_t parts = this->parts();
  const std::int64_t whole = problem_.tokens / tokens_;
  const std::int64_t rest = problem_.tokens % tokens_;
  // Parts of the channels differ by one iteration: longer and shorter ones apart, and the one that
  // finishes.
  const std::int64_t longer = ceil_div(problem_.wide(), design_->tile_k) % parts;
  const std::int64_t last = pass_ == HyperPass::kFused ? 1 : 0;
  const auto visit_blocks = [&](std::int64_t first, std::int64_t blocks) {
    const auto visit_parts = [&](std::int64_t part, std::int64_t count) {
      if (blocks * count > 0) visit({first * parts + part, blocks * count});
    };
    visit_parts(0, longer);
    visit_parts(longer, parts - longer - last);
    visit_parts(parts - 1, last);
  };
  visit_blocks(0, whole);
  visit_blocks(whole, rest > 0 ? 1 : 0);
}

void HyperPreKernel::item(Machine& m, std::int64_t index) const {
  const HyperProblem& p = problem_;
  const bool projects = pass_ != HyperPass::kFinish;
  const bool splits = splits_ > 1 || pass_ != HyperPass::kFused;
  Shared s;
  s.first = index / parts() * tokens_;
  s.tokens = std::min(tokens_, p.tokens - s.first);
  s.split = index % parts();

  const auto tensor = [&](std::string_view name, Dtype d, std::int64_t rows, std::int64_t cols,
                          Home home, double bytes = -1.0) {
    return m.tensor({.name = name,
                     .dtype = d,
                     .rows = rows,
                     .cols = cols,
                     .home = home,
                     .scale_bytes = 0.0,
                     .memory_bytes = bytes});
  };
  const double stream_bytes = 2.0 * static_cast<double>(p.tokens * p.wide());
  // One launch reads the streams twice; its cores hold too many at once for the cache to keep.
  const bool twice = pass_ == HyperPass::kFused && stream_bytes > room_;
  s.streams = tensor("streams", Dtype::kBf16, p.tokens, p.wide(), home_of(stream_bytes, room_),
                     twice ? 2.0 * stream_bytes : stream_bytes);
  s.matrix = projects ? tensor("matrix", p.compute == Dtype::kBf16 ? Dtype::kBf16 : Dtype::kFp32,
                               p.outputs(), p.wide(), Home::kMemory)
                      : 0;
  if (splits) {
    s.mix_parts = tensor("mix_parts", Dtype::kFp32, p.tokens, splits_ * p.outputs(), Home::kCache);
    s.square_parts = tensor("square_parts", Dtype::kFp32, p.tokens, splits_, Home::kCache);
  }
  if (pass_ != HyperPass::kProject) {
    s.base = tensor("base", Dtype::kFp32, 1, p.outputs(), Home::kMemory);
    s.scale = tensor("scale", Dtype::kFp32, 1, p.head ? 1 : 3, Home::kMemory);
    if (p.norm) s.weights = tensor("weights", Dtype::kBf16, 1, p.hidden, Home::kMemory);
    if (!p.head) {
      s.post = tensor("post", Dtype::kFp32, p.tokens, p.streams, Home::kCache);
      s.comb = tensor("comb", Dtype::kFp32, p.tokens, p.streams * p.streams, Home::kCache);
    }
    const double out_bytes = 2.0 * static_cast<double>(p.tokens * p.hidden);
    s.output = tensor("output", p.output, p.tokens, p.hidden, home_of(out_bytes, room_));
  }
  s.mixes = vector_buffer(m, "mixes", Dtype::kFp32, tokens_, p.outputs());
  s.squares = vector_buffer(m, "squares", Dtype::kFp32, tokens_, 1);

  if (projects) project(m, s);
  if (projects && splits) {
    m.store(s.mix_parts, {s.first, s.tokens, s.split * p.outputs(), p.outputs()},
            s.mixes(0, {0, s.tokens, 0, p.outputs()}));
    m.store(s.square_parts, {s.first, s.tokens, s.split, 1}, s.squares(0, {0, s.tokens, 0, 1}));
  }
  if (pass_ == HyperPass::kProject) return;
  if (pass_ == HyperPass::kFused && splits) {
    const std::int64_t flag = index / parts();
    if (s.split + 1 < splits_) {
      m.signal(flag);
      return;
    }
    m.wait(flag, splits_ - 1);
  }
  s.bases = vector_buffer(m, "base_row", Dtype::kFp32, 1, p.outputs());
  s.scales = vector_buffer(m, "scale_row", Dtype::kFp32, 1, p.head ? 1 : 3);
  m.load(s.bases(), s.base, {});
  m.load(s.scales(), s.scale, {});
  if (splits) add_parts(m, s);
  mix(m, s);
  collapse(m, s);
}

// The parts of all splits, folded in halves.
void HyperPreKernel::add_parts(Machine& m, const Shared& s) const {
  const HyperProblem& p = problem_;
  const std::int64_t n = s.tokens;
  const std::int64_t width = p.outputs();
  const Buffer mix = vector_buffer(m, "mix_parts", Dtype::kFp32, tokens_, splits_ * width);
  const Buffer square = vector_buffer(m, "square_parts", Dtype::kFp32, tokens_, splits_);
  m.load(mix(0, {0, n, 0, splits_ * width}), s.mix_parts, {s.first, n, 0, splits_ * width});
  m.load(square(0, {0, n, 0, splits_}), s.square_parts, {s.first, n, 0, splits_});
  for (std::int64_t left = splits_; left > 1; left -= left / 2) {
    const std::int64_t half = left / 2;
    const BufferRef low = mix(0, {0, n, 0, half * width});
    m.vector(VectorKind::kAdd, low, {low, mix(0, {0, n, (left - half) * width, half * width})});
  }
  m.vector(VectorKind::kCopy, s.mixes(0, {0, n, 0, width}), {mix(0, {0, n, 0, width})});
  m.vector(VectorKind::kRowSum, s.squares(0, {0, n, 0, 1}), {square(0, {0, n, 0, splits_})});
}

// Products with the matrix and sums of squares over this split's channels.
void HyperPreKernel::project(Machine& m, const Shared& s) const {
  const HyperProblem& p = problem_;
  const HyperDesign& d = *design_;
  const bool narrow = p.compute == Dtype::kBf16;
  const Dtype operand = narrow ? Dtype::kBf16 : Dtype::kFp32;
  const auto operand_buffer = [&](std::string_view name, std::int64_t rows, std::int64_t slots) {
    return m.buffer({.name = name,
                     .local = Local::kOperand,
                     .dtype = operand,
                     .rows = rows,
                     .cols = d.tile_k,
                     .slots = slots});
  };
  const Buffer a = operand_buffer("matrix_tile", p.outputs(), d.stages);
  const Buffer b = operand_buffer("stream_operand", tokens_, 2);
  const Buffer x = vector_buffer(m, "stream_tile", Dtype::kBf16, tokens_, d.tile_k, d.stages);
  const Buffer wide = vector_buffer(m, "stream_wide", Dtype::kFp32, tokens_, d.tile_k, 2);
  const Buffer square = vector_buffer(m, "stream_squares", Dtype::kFp32, tokens_, d.tile_k);
  const Buffer part = vector_buffer(m, "square_sum", Dtype::kFp32, tokens_, 1);
  const Buffer acc = m.buffer({.name = "accumulator",
                               .local = Local::kAccumulator,
                               .dtype = Dtype::kFp32,
                               .rows = tokens_,
                               .cols = p.outputs()});
  const std::int64_t k_tiles = ceil_div(p.wide(), d.tile_k);
  // The first parts have one iteration more.
  const std::int64_t longer = k_tiles % splits_;
  const std::int64_t first = s.split * (k_tiles / splits_) + std::min(s.split, longer);
  const std::int64_t count = k_tiles / splits_ + (s.split < longer ? 1 : 0);
  const auto depth = [&](std::int64_t i) {
    return std::min(d.tile_k, p.wide() - (first + i) * d.tile_k);
  };
  const std::int64_t n = s.tokens;
  const Block column{0, n, 0, 1};
  m.vector(VectorKind::kFill, s.squares(0, column), {});
  const std::int64_t ahead = d.stages - (fault_ == HyperFault::kEarlyLoad ? 0 : 1);
  m.pipeline(
      count,
      {Phase{ahead,
             [&](std::int64_t i) {
               const std::int64_t col = (first + i) * d.tile_k;
               const std::int64_t k = depth(i);
               m.load(x(i, {0, n, 0, k}), s.streams, {s.first, n, col, k});
               m.load(a(i, {0, p.outputs(), 0, k}), s.matrix, {0, p.outputs(), col, k});
             }},
       Phase{d.stages > 1 ? 1 : 0,
             [&](std::int64_t i) {
               const Block block{0, n, 0, depth(i)};
               m.vector(VectorKind::kCopy, wide(i, block), {x(i, block)});
               m.move(b(i, block), narrow ? x(i, block) : wide(i, block));
               m.vector(VectorKind::kMul, square(0, block), {wide(i, block), wide(i, block)});
               m.vector(VectorKind::kRowSum, part(0, column), {square(0, block)});
               m.vector(VectorKind::kAdd, s.squares(0, column),
                        {s.squares(0, column), part(0, column)});
             }},
       Phase{0, [&](std::int64_t i) {
               const std::int64_t k = depth(i);
               m.matrix(
                   acc(0, {0, n, 0, p.outputs()}), b(i, {0, n, 0, k}), a(i, {0, p.outputs(), 0, k}),
                   {.m = n, .n = p.outputs(), .k = k, .compute = p.compute, .accumulate = i > 0});
             }}});
  const Block all{0, n, 0, p.outputs()};
  m.move(s.mixes(0, all), acc(0, all));
}

// From products and squares to the mixing weights, in place; output weights and the residual
// matrix leave.
void HyperPreKernel::mix(Machine& m, const Shared& s) const {
  const HyperProblem& p = problem_;
  const std::int64_t n = s.tokens;
  const std::int64_t streams = p.streams;
  const std::int64_t square = streams * streams;
  const Block column{0, n, 0, 1};
  const BufferRef all = s.mixes(0, {0, n, 0, p.outputs()});
  const BufferRef pre = s.mixes(0, {0, n, 0, streams});
  const BufferRef post = s.mixes(0, {0, n, streams, streams});
  const BufferRef comb = s.mixes(0, {0, n, 2 * streams, square});
  const auto scale = [&](std::int64_t i) { return s.scales(0, {0, 1, i, 1}); };
  const BufferRef inverse = s.squares(0, column);
  m.vector(VectorKind::kRsqrt, inverse, {inverse},
           {.scalar = 1.0 / static_cast<double>(p.wide()), .scalar2 = p.rms_eps});
  m.vector(VectorKind::kMul, all, {all, inverse});
  m.vector(VectorKind::kMul, pre, {pre, scale(0)});
  if (!p.head) {
    m.vector(VectorKind::kMul, post, {post, scale(1)});
    m.vector(VectorKind::kMul, comb, {comb, scale(2)});
  }
  m.vector(VectorKind::kAdd, all, {all, s.bases()});
  m.vector(VectorKind::kSigmoid, pre, {pre});
  m.vector(VectorKind::kAdd, pre, {pre}, {.scalar = p.eps});
  if (p.head) return;
  m.vector(VectorKind::kSigmoid, post, {post});
  if (fault_ != HyperFault::kSinglePost) {
    m.vector(VectorKind::kMul, post, {post}, {.scalar = 2.0});
  }
  m.store(s.post, {s.first, n, 0, streams}, post);

  // Row softmax, then column and row steps in turn, ending with a column step.
  const Buffer peaks = vector_buffer(m, "row_peaks", Dtype::kFp32, tokens_, streams);
  const Buffer sums = vector_buffer(m, "sinkhorn_sums", Dtype::kFp32, tokens_, streams);
  const BufferRef sum = sums(0, {0, n, 0, streams});
  for (std::int64_t j = 0; j < streams; ++j) {
    const BufferRef row = s.mixes(0, {0, n, 2 * streams + j * streams, streams});
    const BufferRef peak = peaks(0, {0, n, j, 1});
    m.vector(VectorKind::kRowMax, peak, {row});
    m.vector(VectorKind::kSub, row, {row, peak});
  }
  m.vector(VectorKind::kExp, comb, {comb});
  const bool swap = fault_ == HyperFault::kSwapSinkhorn;
  const tile::VectorArgs shape{.scalar = static_cast<double>(streams),
                               .scalar2 = static_cast<double>(streams)};
  const auto normalise = [&](bool rows, double eps) {
    const bool by_row = rows != swap;
    m.vector(by_row ? VectorKind::kGroupSum : VectorKind::kGroupColSum, sum, {comb}, shape);
    if (eps > 0.0) m.vector(VectorKind::kAdd, sum, {sum}, {.scalar = eps});
    m.vector(by_row ? VectorKind::kGroupDiv : VectorKind::kGroupColDiv, comb, {comb, sum}, shape);
  };
  normalise(true, 0.0);
  m.vector(VectorKind::kAdd, comb, {comb}, {.scalar = p.eps});
  normalise(false, p.eps);
  const std::int64_t iterations =
      fault_ == HyperFault::kFewIterations ? p.iterations / 2 : p.iterations;
  m.pipeline(iterations - 1, {Phase{0, [&](std::int64_t) {
                                      normalise(true, p.eps);
                                      normalise(false, p.eps);
                                    }}});
  m.store(s.comb, {s.first, n, 0, square}, comb);
}

// u = sum_j pre_j x_j, normed where the layer's norm is fused.
void HyperPreKernel::collapse(Machine& m, const Shared& s) const {
  const HyperProblem& p = problem_;
  const Buffer x = vector_buffer(m, "stream_rows", Dtype::kBf16, rows_, p.wide(), slots_);
  const Buffer one = vector_buffer(m, "stream", Dtype::kFp32, rows_, p.hidden);
  const Buffer u = vector_buffer(m, "sum", Dtype::kFp32, rows_, p.hidden);
  const Buffer total = vector_buffer(m, "norm_sums", Dtype::kFp32, p.norm ? rows_ : 0, 1);
  const Buffer w = vector_buffer(m, "weight_row", Dtype::kBf16, p.norm ? 1 : 0, p.hidden);
  const Buffer out = vector_buffer(m, "leaving", p.output, rows_, p.hidden, slots_);
  if (p.norm) m.load(w(), s.weights, {});
  const auto rows_of = [&](std::int64_t i) { return std::min(rows_, s.tokens - i * rows_); };
  const auto load = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    m.load(x(i, {0, n, 0, p.wide()}), s.streams, {s.first + i * rows_, n, 0, p.wide()});
  };
  const auto sum = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const Block row{0, n, 0, p.hidden};
    const Block column{0, n, 0, 1};
    for (std::int64_t j = 0; j < p.streams; ++j) {
      const BufferRef weight = s.mixes(0, {i * rows_, n, j, 1});
      m.vector(VectorKind::kCopy, one(0, row), {x(i, {0, n, j * p.hidden, p.hidden})});
      m.vector(j == 0 ? VectorKind::kMul : VectorKind::kFma, u(0, row), {one(0, row), weight});
    }
    if (p.norm) {
      m.vector(VectorKind::kMul, one(0, row), {u(0, row), u(0, row)});
      m.vector(VectorKind::kRowSum, total(0, column), {one(0, row)});
      m.vector(VectorKind::kRsqrt, total(0, column), {total(0, column)},
               {.scalar = 1.0 / static_cast<double>(p.hidden), .scalar2 = p.norm_eps});
      m.vector(VectorKind::kMul, u(0, row), {u(0, row), total(0, column)});
      m.vector(VectorKind::kMul, u(0, row), {u(0, row), w()});
    }
    m.vector(VectorKind::kCopy, out(i, row), {u(0, row)});
    m.store(s.output, {s.first + i * rows_, n, 0, p.hidden}, out(i, row));
  };
  const std::int64_t whole = s.tokens / rows_;
  const std::int64_t ahead = slots_ - (fault_ == HyperFault::kEarlyLoad ? 0 : 1);
  m.pipeline(whole, {Phase{ahead, load}, Phase{0, sum}});
  if (s.tokens % rows_ > 0) {
    load(whole);
    sum(whole);
  }
}

HyperPostKernel::HyperPostKernel(const HyperProblem& problem, const HyperDesign& design,
                                 const tile::CoreRates& chip, HyperFault fault)
    : problem_(problem),
      slots_(design.slots),
      fault_(fault),
      room_(kCacheShare * chip.cache_capacity) {
  const HyperProblem& p = problem_;
  require_streams(p, chip);
  const auto cores = static_cast<std::int64_t>(chip.cores);
  // Streams in and out and the layer's output in each slot; the same in FP32, and one sum.
  const auto streams = static_cast<double>(p.streams);
  const double channel_bytes =
      static_cast<double>(slots_) * (4.0 * streams + 2.0) + 4.0 * (streams + 2.0);
  const double whole_bytes = channel_bytes * static_cast<double>(p.hidden);
  const std::int64_t parts = even_parts(
      p.hidden,
      std::max(ceil_div(p.hidden, design.columns), cores / std::max<std::int64_t>(p.tokens, 1)),
      static_cast<std::int64_t>(whole_bytes / vector_room(chip)) + 1);
  width_ = p.hidden / parts;
  const double row_bytes = channel_bytes * static_cast<double>(width_);
  const auto fit = static_cast<std::int64_t>(vector_room(chip) / row_bytes);
  const std::int64_t rows =
      std::max<std::int64_t>(std::min({design.rows, fit, ceil_div(p.tokens, cores)}), 1);
  blocks_ = RowBlocks(p.tokens, rows, 0, chip.cores, parts);
}

tile::Launch HyperPostKernel::launch() const { return {.items = blocks_.items()}; }

void HyperPostKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  blocks_.classes(visit);
}

void HyperPostKernel::item(Machine& m, std::int64_t index) const {
  const HyperProblem& p = problem_;
  const std::int64_t size = blocks_.size();
  const std::int64_t first = blocks_.first_row(index);
  const std::int64_t rows = blocks_.rows(index);
  const std::int64_t col = blocks_.part(index) * width_;
  const std::int64_t square = p.streams * p.streams;
  const double stream_bytes = 2.0 * static_cast<double>(p.tokens * p.wide());
  const auto tensor = [&](std::string_view name, Dtype d, std::int64_t cols, Home home) {
    return m.tensor({.name = name, .dtype = d, .rows = p.tokens, .cols = cols, .home = home});
  };
  const TensorId streams = tensor("streams", Dtype::kBf16, p.wide(), home_of(stream_bytes, room_));
  const TensorId layer =
      tensor("layer_output", Dtype::kBf16, p.hidden, home_of(stream_bytes, room_));
  const TensorId post = tensor("post", Dtype::kFp32, p.streams, Home::kCache);
  const TensorId comb = tensor("comb", Dtype::kFp32, square, Home::kCache);
  const TensorId out = tensor("streams_out", Dtype::kBf16, p.wide(), home_of(stream_bytes, room_));

  // Each stream has buffers of its own, so that none waits for another.
  std::array<Buffer, kHyperStreams> x;
  std::array<Buffer, kHyperStreams> wide;
  std::array<Buffer, kHyperStreams> leaving;
  for (std::int64_t j = 0; j < p.streams; ++j) {
    const auto at = static_cast<std::size_t>(j);
    x[at] = vector_buffer(m, "stream_rows", Dtype::kBf16, size, width_, slots_);
    wide[at] = vector_buffer(m, "stream_values", Dtype::kFp32, size, width_);
    leaving[at] = vector_buffer(m, "leaving", Dtype::kBf16, size, width_, slots_);
  }
  const Buffer y = vector_buffer(m, "layer_rows", Dtype::kBf16, size, width_, slots_);
  const Buffer weights = vector_buffer(m, "post_rows", Dtype::kFp32, size, p.streams, slots_);
  const Buffer mix = vector_buffer(m, "comb_rows", Dtype::kFp32, size, square, slots_);
  const Buffer value = vector_buffer(m, "layer_values", Dtype::kFp32, size, width_);
  const Buffer sum = vector_buffer(m, "sum", Dtype::kFp32, size, width_);

  const auto rows_of = [&](std::int64_t i) { return std::min(size, rows - i * size); };
  const auto load = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const std::int64_t row = first + i * size;
    const Block block{0, n, 0, width_};
    for (std::int64_t j = 0; j < p.streams; ++j) {
      m.load(x[static_cast<std::size_t>(j)](i, block), streams,
             {row, n, j * p.hidden + col, width_});
    }
    m.load(y(i, block), layer, {row, n, col, width_});
    m.load(weights(i, {0, n, 0, p.streams}), post, {row, n, 0, p.streams});
    m.load(mix(i, {0, n, 0, square}), comb, {row, n, 0, square});
  };
  const auto update = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const Block block{0, n, 0, width_};
    for (std::size_t j = 0; j < static_cast<std::size_t>(p.streams); ++j) {
      m.vector(VectorKind::kCopy, wide[j](0, block), {x[j](i, block)});
    }
    m.vector(VectorKind::kCopy, value(0, block), {y(i, block)});
    for (std::int64_t k = 0; k < p.streams; ++k) {
      m.vector(VectorKind::kMul, sum(0, block), {value(0, block), weights(i, {0, n, k, 1})});
      for (std::int64_t j = 0; j < p.streams; ++j) {
        // The first index of the matrix is contracted.
        const bool transposed = fault_ == HyperFault::kTransposeMix;
        const std::int64_t at = transposed ? k * p.streams + j : j * p.streams + k;
        m.vector(VectorKind::kFma, sum(0, block),
                 {wide[static_cast<std::size_t>(j)](0, block), mix(i, {0, n, at, 1})});
      }
      const BufferRef ready = leaving[static_cast<std::size_t>(k)](i, block);
      m.vector(VectorKind::kCopy, ready, {sum(0, block)});
      m.store(out, {first + i * size, n, k * p.hidden + col, width_}, ready);
    }
  };
  const std::int64_t ahead = slots_ - (fault_ == HyperFault::kEarlyLoad ? 0 : 1);
  const std::int64_t whole = blocks_.whole(index);
  m.pipeline(whole, {Phase{ahead, load}, Phase{0, update}});
  if (blocks_.rest(index) > 0) {
    load(whole);
    update(whole);
  }
}

}  // namespace foretoken::hwmodels::kernels
