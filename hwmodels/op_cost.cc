#include "hwmodels/op_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hwmodels/fabric.h"
#include "sim/base/error.h"
#include "workloads/precision.h"

namespace foretoken::hwmodels {

namespace w = workloads;
using w::Dtype;

namespace {

// Tokens of a V4 window; a decoding query's first keys come from it.
constexpr std::int64_t kWindow = 128;
// Share of the cache that a working set may take and still be found there by the next kernel.
constexpr double kCacheShare = 0.5;
// Scores of one row that a core takes before top-k splits the row over more cores, up to 16.
constexpr double kTopKPiece = 8192.0;

// Rounding of the non-negative numbers below 2^63 that occur here, inlined: a baseline x86-64 build
// calls the library for std::ceil and std::floor, which would take half the time of an estimate.
inline double floor_of(double x) { return static_cast<double>(static_cast<std::int64_t>(x)); }
inline double ceil_of(double x) {
  const double below = floor_of(x);
  return below < x ? below + 1.0 : below;
}
inline double ceil_to(double x, double step) { return ceil_of(x / step) * step; }

// Where a kernel's activations live: in the cache when they fit, else in memory.
void charge_activations(Cost& c, const Rates& r, double bytes) {
  c[Unit::kCache] += bytes / r.cache;
  if (bytes > kCacheShare * r.cache_capacity) c[Unit::kMemory] += bytes / r.memory;
}

double memory_seconds(double bytes, double cores, const Rates& r) {
  return bytes / std::min(r.memory, std::max(cores, 1.0) * r.core_memory);
}

void charge_vector(Cost& c, const Rates& r, double ops, double special) {
  c[Unit::kVector] += ops / r.vector_fp32 + special / r.special;
}

struct Coster {
  KernelCosts& costs;
  const Hardware& h;
  const Rates& r;
  Cost& c;  // sum that the operator is added to

  [[nodiscard]] const KernelSet& set() const { return h.kernels; }
  [[nodiscard]] const tile::CoreRates& core() const { return r.core; }

  void operator()(const w::Gemm& op) const {
    if (op.m == 0 || op.n == 0) return;
    const kernels::GroupRun groups{op.m, op.batch};
    product(op, {&groups, 1}, false);
  }

  // Rows as evenly over the experts as they go.
  void operator()(const w::GroupedGemm& op) const {
    if (op.rows == 0 || op.active == 0) return;
    const std::array<kernels::GroupRun, 2> groups = {
        {{op.rows / op.active + 1, op.rows % op.active},
         {op.rows / op.active, op.active - op.rows % op.active}}};
    product(op, groups, true);
  }

  template <class Product>
  void product(const Product& op, std::span<const kernels::GroupRun> groups, bool grouped) const {
    (void)h.chip.peak(op.compute);  // throws with the chip's and the dtype's name
    kernels::GemmProblem p;
    p.groups = groups;
    p.n = op.n;
    p.k = op.k;
    p.activation = op.activation;
    p.weight = op.weight;
    p.compute = op.compute;
    p.output = op.output;
    p.fp8_block = op.fp8_block;
    const kernels::GemmKernel kernel(p, design(op, grouped), core());
    costs.add_kernel(kernel, true, c);
    if (kernel.splits() > 1) {
      costs.add_kernel(
          kernels::SplitReduceKernel(kernel.splits(), kernel.tokens(), op.n, op.output), false, c);
    }
  }

  template <class Product>
  [[nodiscard]] const kernels::GemmDesign& design(const Product& op, bool grouped) const {
    const bool four = op.weight == Dtype::kFp4 || op.weight == Dtype::kInt4;
    if (op.compute == Dtype::kFp4 || op.compute == Dtype::kInt4) {
      return grouped ? set().grouped_fp4 : set().gemm_fp4;
    }
    if (four) return grouped ? set().grouped_fp4_fp8 : set().gemm_fp4_fp8;
    if (grouped) return set().grouped_fp8;
    if (op.compute == Dtype::kFp8) {
      return op.fp8_block > 0 ? set().gemm_fp8_block : set().gemm_fp8;
    }
    return op.compute == Dtype::kInt8 ? set().gemm_fp8 : set().gemm_bf16;
  }

  void operator()(const w::Attention& op) const {
    if (op.queries == 0 || op.keys == 0) return;
    (void)h.chip.peak(op.compute);
    kernels::AttentionProblem p;
    p.heads = op.heads;
    p.key_width = op.qk_width;
    p.value_width = op.v_width;
    p.scale = 1.0;
    p.selected = op.sparse;
    p.sink = op.sink;
    p.window_entry = p.compressed_entry = entry_format(op);
    kernels::QueryClass q;
    q.queries = op.queries;
    const std::int64_t keys = (op.keys + op.queries - 1) / op.queries;
    // V4's entries are keys and values whole; of its keys the first are the window's.
    q.window = op.qk_width == op.v_width ? std::min(keys, kWindow) : 0;
    q.compressed = keys - q.window;
    const double distinct = static_cast<double>(op.distinct_bytes) /
                            (static_cast<double>(op.requested_bytes) / static_cast<double>(op.keys));
    const double share = static_cast<double>(q.window) / static_cast<double>(keys);
    p.window_distinct = static_cast<std::int64_t>(distinct * share);
    p.compressed_distinct = static_cast<std::int64_t>(distinct) - p.window_distinct;
    p.window_rows = std::max(p.window_distinct, q.window * 2) + kWindow;
    p.compressed_rows = std::max(p.compressed_distinct, q.compressed * 2) + kWindow;
    p.classes = {&q, 1};
    const kernels::AttentionLaunches launches(
        p, op.decode ? set().decode_attention : set().prefill_attention, core());
    bool first = true;
    launches.for_each([&](const tile::Kernel& kernel) {
      costs.add_kernel(kernel, first, c);
      first = false;
    });
  }

  // The layout of a cache entry by its size: BF16, or FP8 (FP4) with scales and 64 BF16 channels.
  static kernels::EntryFormat entry_format(const w::Attention& op) {
    const double bytes = static_cast<double>(op.requested_bytes) / static_cast<double>(op.keys);
    const auto width = static_cast<double>(op.qk_width);
    if (bytes >= 2.0 * width) return kernels::kBf16Entry;
    const double wide = std::min(64.0, width);
    const double narrow = width - wide;
    if (bytes >= narrow + 2.0 * wide) {
      return {Dtype::kFp8, static_cast<std::int64_t>(narrow),
              (bytes - narrow - 2.0 * wide) / narrow};
    }
    if (bytes >= width) return {Dtype::kFp8, op.qk_width, (bytes - width) / width};
    return {Dtype::kFp4, op.qk_width, std::max(0.0, bytes - width / 2.0) / width};
  }

  void operator()(const w::IndexLogits& op) const {
    if (op.entries == 0) return;
    const double rate = h.chip.peak(op.compute).value() / r.cores * r.prefill_attention;
    const double heads = ceil_to(static_cast<double>(op.heads), std::min(r.tile_rows, 64.0));
    const double entries = static_cast<double>(op.entries);
    // Blocks of 256 entries are dealt to the cores.
    const double blocks = std::max(1.0, ceil_of(entries / 256.0));
    const double waves = ceil_of(blocks / r.cores);
    c[Unit::kMatrix] += waves * 2.0 * heads * static_cast<double>(op.width) * 256.0 / rate;
    const double cores = std::min(r.cores, blocks);
    c[Unit::kMemory] += memory_seconds(static_cast<double>(op.key_bytes), cores, r);
    const w::WorkCount n = w::count(op);
    charge_activations(c, r, static_cast<double>(n.input_bytes + n.output_bytes));
    charge_vector(c, r, static_cast<double>(n.vector_ops), 0.0);
  }

  void operator()(const w::TopK& op) const {
    if (op.entries == 0) return;
    const w::WorkCount n = w::count(op);
    const double queries = static_cast<double>(op.queries);
    const double per_query = static_cast<double>(op.entries) / queries;
    const double pieces = std::clamp(floor_of(per_query / kTopKPiece), 1.0, 16.0);
    const double cores = std::min(r.cores, queries * pieces);
    const double waves = ceil_of(queries * pieces / r.cores);
    const double bytes = static_cast<double>(n.input_bytes);
    // Rows are cut to whole cores: the last wave of rows costs a full one.
    const double imbalance = waves * cores / (queries * pieces);
    c[Unit::kCache] += bytes * imbalance / std::min(r.cache, cores * r.core_memory);
    if (bytes / 4.0 > kCacheShare * r.cache_capacity) {
      c[Unit::kMemory] += memory_seconds(bytes, cores, r);
    }
    c[Unit::kVector] =
        static_cast<double>(n.vector_ops) * imbalance / (r.vector_fp32 * cores / r.cores);
  }

  void operator()(const w::Compress& op) const {
    const w::WorkCount n = w::count(op);
    charge_vector(c, r, static_cast<double>(n.vector_ops), static_cast<double>(n.special_ops));
    // The state of the block being filled is in memory: every token's row is written, and the rows
    // of a completed block are read back.
    const double state =
        4.0 * 2.0 *
        static_cast<double>(op.tokens * op.state_width + op.emitted * op.slots * op.width);
    c[Unit::kMemory] += (state + static_cast<double>(n.weight_bytes + n.kv_write_bytes)) / r.memory;
    charge_activations(c, r, static_cast<double>(n.input_bytes));
  }

  void operator()(const w::HyperConnection& op) const {
    if (op.tokens == 0) return;
    kernels::HyperProblem p;
    p.tokens = op.tokens;
    p.streams = op.streams;
    p.hidden = op.hidden;
    p.iterations = op.sinkhorn_iterations;
    p.head = op.phase == w::HyperPhase::kHead;
    p.compute = op.compute;
    if (op.phase == w::HyperPhase::kPost) {
      costs.add_kernel(kernels::HyperPostKernel(p, set().hyper, core()), true, c);
      return;
    }
    (void)h.chip.peak(op.compute);
    bool first = true;
    for (const kernels::HyperPass pass : kernels::hyper_passes(set().hyper)) {
      costs.add_kernel(kernels::HyperPreKernel(p, set().hyper, core(), pass), first, c);
      first = false;
    }
  }

  void operator()(const w::VectorOp& op) const {
    if (op.rows == 0 || op.width == 0) return;
    if (op.kind == w::VectorKind::kSample) {
      const kernels::ArgmaxKernel parts(op.rows, op.width, op.input, set().row, core());
      costs.add_kernel(parts, true, c);
      if (parts.parts() > 1) {
        costs.add_kernel(
            kernels::ArgmaxPartsKernel(op.rows, parts.parts(), set().row, core()), false, c);
      }
      return;
    }
    costs.add_kernel(kernels::RowKernel(row_problem(op), set().row, core()), true, c);
    c[Unit::kMemory] += static_cast<double>(op.kv_write_bytes) / r.memory;
  }

  static kernels::RowProblem row_problem(const w::VectorOp& op) {
    kernels::RowProblem p;
    p.rows = op.rows;
    p.width = op.width;
    p.input = op.input;
    p.output = op.output;
    p.rotary = op.width;
    p.positions = 1;
    switch (op.kind) {
      case w::VectorKind::kNorm:
        p.then({.step = kernels::RowStep::kNorm, .weight = op.weights > 0});
        break;
      case w::VectorKind::kRope:
        // Heads of a token share its angles: as many as its rows divide into, at most 128.
        while (p.heads < 128 && p.rows % 2 == 0) {
          p.heads *= 2;
          p.rows /= 2;
        }
        p.then({.step = kernels::RowStep::kRotate});
        break;
      case w::VectorKind::kHadamard:
        p.then({.step = kernels::RowStep::kHadamard});
        break;
      case w::VectorKind::kSwiglu:
        p.then({.step = kernels::RowStep::kSwiglu});
        break;
      case w::VectorKind::kResidual:
        p.then({.step = kernels::RowStep::kResidual});
        break;
      case w::VectorKind::kQuantise:
      case w::VectorKind::kSample:
        break;
    }
    if (op.output == Dtype::kFp8 || op.output == Dtype::kFp4) {
      p.then({.step = kernels::RowStep::kQuantise, .block = op.output == Dtype::kFp4 ? 32 : 128});
    }
    return p;
  }

  void operator()(const w::Route& op) const {
    const w::WorkCount n = w::count(op);
    charge_vector(c, r, static_cast<double>(n.vector_ops), static_cast<double>(n.special_ops));
    charge_activations(c, r, static_cast<double>(n.input_bytes + n.output_bytes));
  }

  void operator()(const w::Dispatch& op) const { traffic(w::count(op), op.ranks); }
  void operator()(const w::Combine& op) const { traffic(w::count(op), op.ranks); }

  void traffic(const w::WorkCount& n, std::int64_t ranks) const {
    c.communication = true;
    const LinkTime t = all_to_all(h, r, static_cast<double>(n.sent_bytes), ranks);
    c[Unit::kScaleUp] += t.scale_up;
    c[Unit::kScaleOut] += t.scale_out;
    c.latency += t.latency + r.collective;
    charge_vector(c, r, static_cast<double>(n.vector_ops), 0.0);
    charge_activations(c, r, static_cast<double>(n.input_bytes + n.output_bytes));
  }

  void operator()(const w::Collective& op) const {
    c.communication = true;
    const double bytes = static_cast<double>(op.bytes);
    LinkTime t;
    switch (op.kind) {
      case w::CollectiveKind::kAllReduce:
        t = all_reduce(h, r, bytes, op.ranks);
        break;
      case w::CollectiveKind::kAllGather:
        t = all_gather(h, r, bytes, op.ranks);
        break;
      case w::CollectiveKind::kReduceScatter:
        t = all_to_all(h, r,
                       bytes * static_cast<double>(op.ranks - 1) / static_cast<double>(op.ranks),
                       op.ranks);
        break;
      case w::CollectiveKind::kSendRecv:
        t = send(h, r, bytes, op.ranks - 1);
        break;
    }
    c[Unit::kScaleUp] += t.scale_up;
    c[Unit::kScaleOut] += t.scale_out;
    c.latency += t.latency + r.collective;
  }

  void operator()(const w::Lookup& op) const {
    const w::WorkCount n = w::count(op);
    const double bytes = static_cast<double>(n.weight_bytes);
    if (op.host) {
      c[Unit::kHost] += bytes / r.host;
    } else {
      c[Unit::kMemory] += bytes / r.memory;
    }
    charge_activations(c, r, static_cast<double>(n.output_bytes));
  }
};

}  // namespace

void KernelCosts::use(const Hardware& hardware, const Rates& rates) {
  hardware_ = &hardware;
  rates_ = &rates;
  core_ = rates.core;
}

void KernelCosts::add_kernel(const tile::Kernel& kernel, bool first, Cost& sum) {
  recorder_.record(kernel);
  const tile::KernelTime t = evaluator_.evaluate(recorder_);
  sum[Unit::kMatrix] += t.matrix;
  sum[Unit::kVector] += t.vector;
  sum[Unit::kMemory] += t.memory;
  sum[Unit::kCache] += t.cache;
  const double busiest = std::max({t.matrix, t.vector, t.memory, t.cache});
  sum.latency += std::max(0.0, t.seconds - core_.launch - busiest) + (first ? 0.0 : core_.launch);
}

void KernelCosts::add(const w::Op& op, Cost& sum) {
  std::visit(Coster{*this, *hardware_, *rates_, sum}, op);
}

Cost cost(const w::Op& op, const Hardware& hardware, const Rates& rates) {
  KernelCosts costs;
  costs.use(hardware, rates);
  Cost sum;
  costs.add(op, sum);
  return sum;
}

}  // namespace foretoken::hwmodels
