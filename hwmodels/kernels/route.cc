#include "hwmodels/kernels/route.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "sim/base/error.h"

namespace foretoken::hwmodels::kernels {

using reference::Scoring;
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

}  // namespace

void describe(base::ConfigVisitor& v, RouteDesign& d) {
  v.integer({"rows", "tokens of one iteration at most; fewer while cores would idle"}, d.rows,
            {.min = 1, .max = 1024});
  v.integer({"stages", "slots of the logits"}, d.stages, {.min = 1, .max = 16});
}

RouteKernel::RouteKernel(const RouteProblem& problem, const RouteDesign& design,
                         const tile::CoreRates& chip, RouteFault fault)
    : problem_(problem), design_(&design), fault_(fault) {
  const reference::RouterShape& r = problem.router;
  if (r.experts % r.groups != 0 || (r.groups > 1 && r.experts / r.groups < 2)) {
    throw base::UnsupportedError(
        fmt::format("route: {} experts in {} groups", r.experts, r.groups));
  }
  const auto cores = static_cast<std::int64_t>(chip.cores);
  rows_ = std::clamp<std::int64_t>(ceil_div(problem.tokens, cores), 1, design.rows);
  tiles_ = ceil_div(problem.tokens, rows_);
  items_ = std::min(tiles_, cores);
}

tile::Launch RouteKernel::launch() const { return {.items = items_, .cores = 0}; }

void RouteKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  if (items_ == 0) return;
  // Item i has tiles i * tiles / items to (i + 1) * tiles / items: one of two numbers.
  const std::int64_t more = tiles_ % items_;
  if (more > 0) visit({items_ - 1, more});
  if (more < items_) visit({0, items_ - more});
}

void RouteKernel::item(Machine& m, std::int64_t index) const {
  const reference::RouterShape& r = problem_.router;
  const std::int64_t first_tile = index * tiles_ / items_;
  const std::int64_t last_tile = (index + 1) * tiles_ / items_;
  const bool fixed = problem_.vocab > 0;
  const bool biased = problem_.bias && !fixed;
  const bool grouped = r.groups > 1 && !fixed;
  const std::int64_t group = r.experts / r.groups;

  const TensorId logits = m.tensor({.name = "logits",
                                    .dtype = Dtype::kFp32,
                                    .rows = problem_.tokens,
                                    .cols = r.experts,
                                    .home = Home::kCache});
  const TensorId biases =
      m.tensor({.name = "bias", .dtype = Dtype::kFp32, .rows = biased ? 1 : 0, .cols = r.experts});
  const TensorId ids = m.tensor({.name = "token_ids",
                                 .dtype = Dtype::kInt32,
                                 .rows = fixed ? problem_.tokens : 0,
                                 .cols = 1,
                                 .home = Home::kCache});
  const TensorId table =
      m.tensor({.name = "table", .dtype = Dtype::kInt32, .rows = problem_.vocab, .cols = r.topk});
  const auto output = [&](std::string_view name, Dtype dtype) {
    return m.tensor({.name = name,
                     .dtype = dtype,
                     .rows = problem_.tokens,
                     .cols = r.topk,
                     .home = Home::kCache});
  };
  const TensorId experts = output("experts", Dtype::kInt32);
  const TensorId weights = output("weights", Dtype::kFp32);

  const auto buffer = [&](std::string_view name, Dtype dtype, std::int64_t rows, std::int64_t cols,
                          std::int64_t slots = 1) {
    return m.buffer({.name = name,
                     .local = Local::kVector,
                     .dtype = dtype,
                     .rows = rows,
                     .cols = cols,
                     .slots = slots});
  };
  const std::int64_t chosen_rows = grouped ? rows_ : 0;
  const Buffer score = buffer("score", Dtype::kFp32, rows_, r.experts, design_->stages);
  const Buffer ranked = buffer("ranked", Dtype::kFp32, fixed ? 0 : rows_, r.experts);
  const Buffer bias = buffer("bias_row", Dtype::kFp32, biased ? 1 : 0, r.experts);
  const Buffer sum = buffer("sum", Dtype::kFp32, rows_, 1);
  const Buffer id = buffer("ids", Dtype::kInt32, fixed ? rows_ : 0, 1, design_->stages);
  const Buffer best = buffer("best", Dtype::kInt32, chosen_rows, 2);
  const Buffer two = buffer("best_scores", Dtype::kFp32, chosen_rows, 2);
  const Buffer ranks = buffer("group_scores", Dtype::kFp32, chosen_rows, r.groups);
  const Buffer kept = buffer("kept_groups", Dtype::kInt32, chosen_rows, r.kept_groups);
  // Given experts come as early as the logits, selected ones leave while the next are selected.
  const Buffer chosen =
      buffer("chosen", Dtype::kInt32, rows_, r.topk, std::max<std::int64_t>(2, design_->stages));
  const Buffer weight = buffer("weight", Dtype::kFp32, rows_, r.topk, 2);

  const auto tokens = [&](std::int64_t i) {
    return std::min(rows_, problem_.tokens - (first_tile + i) * rows_);
  };
  const auto load = [&](std::int64_t i) {
    const std::int64_t first = (first_tile + i) * rows_;
    const std::int64_t n = tokens(i);
    m.load(score(i, {0, n, 0, r.experts}), logits, {first, n, 0, r.experts});
    if (!fixed) return;
    m.load(id(i, {0, n, 0, 1}), ids, {first, n, 0, 1});
    m.gather(chosen(i, {0, n, 0, r.topk}), table, id(i, {0, n, 0, 1}), 0, r.topk);
  };
  const auto rate = [&](const BufferRef& x, const BufferRef& row_sum) {
    switch (r.scoring) {
      case Scoring::kSqrtSoftplus:
        m.vector(VectorKind::kSqrtSoftplus, x, {x});
        return;
      case Scoring::kSigmoid:
        m.vector(VectorKind::kSigmoid, x, {x});
        return;
      case Scoring::kSoftmax:
        m.vector(VectorKind::kRowMax, row_sum, {x});
        m.vector(VectorKind::kSub, x, {x, row_sum});
        m.vector(VectorKind::kExp, x, {x});
        m.vector(VectorKind::kRowSum, row_sum, {x});
        m.vector(VectorKind::kDiv, x, {x, row_sum});
        return;
    }
  };
  // Experts known beforehand need no scores of the others, unless those take part in them.
  const bool rate_chosen = fixed && r.scoring != Scoring::kSoftmax;
  const auto choose = [&](std::int64_t i) {
    const std::int64_t n = tokens(i);
    const tile::Block all{0, n, 0, r.experts};
    const tile::Block few{0, n, 0, r.topk};
    const tile::Block one{0, n, 0, 1};
    const BufferRef s = score(i, all);
    const BufferRef w = weight(i, few);
    if (!rate_chosen) rate(s, sum(0, one));
    if (!fixed) {
      const BufferRef x = ranked(0, all);
      if (biased) {
        m.vector(VectorKind::kAdd, x, {s, bias()});
      } else {
        m.vector(VectorKind::kCopy, x, {s});
      }
      if (grouped) {
        const tile::Block pair{0, n, 0, 2};
        for (std::int64_t g = 0; g < r.groups; ++g) {
          const BufferRef members = ranked(0, {0, n, g * group, group});
          m.vector(VectorKind::kRowTopK, best(0, pair), {members});
          m.vector(VectorKind::kRowPick, two(0, pair), {members, best(0, pair)});
          m.vector(VectorKind::kRowSum, ranks(0, {0, n, g, 1}),
                   {two(0, fault_ == RouteFault::kGroupMaximum ? one : pair)});
        }
        const BufferRef keep = kept(0, {0, n, 0, r.kept_groups});
        m.vector(VectorKind::kRowTopK, keep, {ranks(0, {0, n, 0, r.groups})});
        m.vector(VectorKind::kRowKeep, x, {x, keep},
                 {.scalar = static_cast<double>(group),
                  .scalar2 = -std::numeric_limits<double>::infinity()});
      }
      m.vector(VectorKind::kRowTopK, chosen(i, few), {x});
    }
    const bool of_biased = fault_ == RouteFault::kBiasInWeights && !fixed;
    m.vector(VectorKind::kRowPick, w, {of_biased ? ranked(0, all) : s, chosen(i, few)});
    if (rate_chosen) rate(w, sum(0, one));
    if (r.normalise && fault_ != RouteFault::kNotNormalised) {
      m.vector(VectorKind::kRowSum, sum(0, one), {w});
      m.vector(VectorKind::kDiv, w, {w, sum(0, one)});
    }
    m.vector(VectorKind::kMul, w, {w}, {.scalar = r.scale});
    const std::int64_t first = (first_tile + i) * rows_;
    m.store(experts, {first, n, 0, r.topk}, chosen(i, few));
    m.store(weights, {first, n, 0, r.topk}, w);
  };
  if (biased) m.load(bias(), biases, {0, 1, 0, r.experts});
  // The last tile of all may hold fewer tokens.
  const std::int64_t tiles = last_tile - first_tile;
  const std::int64_t full = tiles > 0 && tokens(tiles - 1) < rows_ ? tiles - 1 : tiles;
  m.pipeline(full, {Phase{design_->stages - 1, load}, Phase{0, choose}});
  if (full < tiles) {
    load(full);
    choose(full);
  }
}

}  // namespace foretoken::hwmodels::kernels
