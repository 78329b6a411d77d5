#include "hwmodels/op_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hwmodels/collectives.h"
#include "hwmodels/expert_traffic.h"
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
constexpr std::int64_t kVocabulary = 129'280;
// Tokens of a block up to which a core pools several of them.
constexpr std::int64_t kShortBlock = 32;
// Query tokens of a sequence up to which scores are computed as in decoding, drafts included.
constexpr std::int64_t kDecodeQueries = 8;

// Where a kernel's activations live: in the cache when they fit, else in memory.
void charge_activations(Cost& c, const Rates& r, double bytes) {
  c[Unit::kCache] += bytes / r.cache;
  if (bytes > kCacheShare * r.cache_capacity) c[Unit::kMemory] += bytes / r.memory;
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
          kernels::SplitReduceKernel(kernel.splits(), kernel.tokens(), op.n, op.output, core()),
          false, c);
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
    const double distinct =
        static_cast<double>(op.distinct_bytes) /
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

  // A kernel that is launched, looks what there is to do and ends.
  void idle() const { c.latency += core().start + core().memory_latency + core().cache_latency; }

  // The sequences behind a number of queries and the entries they see, as many tokens each.
  static kernels::SequenceGroup sequences(std::int64_t queries, std::int64_t entries,
                                          std::int64_t count, std::int64_t ratio) {
    kernels::SequenceGroup g;
    g.count = std::clamp<std::int64_t>(count, 1, queries);
    g.queries = queries / g.count;
    // A query at position p sees (p + 1) / ratio entries; positions follow each other.
    const double seen = static_cast<double>(entries) / static_cast<double>(queries);
    const double middle = seen * static_cast<double>(ratio) - 1.0;
    g.history =
        std::max<std::int64_t>(0, std::llround(middle - static_cast<double>(g.queries - 1) / 2.0));
    return g;
  }

  void operator()(const w::IndexLogits& op) const {
    if (op.queries == 0) return;
    if (op.entries == 0) return idle();
    (void)h.chip.peak(op.compute);
    const kernels::SequenceGroup g = sequences(op.queries, op.entries, op.sequences, op.ratio);
    kernels::IndexLogitsProblem p;
    p.sequences = {&g, 1};
    p.heads = op.heads;
    p.width = op.width;
    p.ratio = op.ratio;
    p.key = p.compute = op.compute;
    const bool prefill = g.queries > kDecodeQueries;
    costs.add_kernel(
        kernels::IndexLogitsKernel(p, prefill ? set().prefill_index : set().decode_index, core()),
        true, c);
  }

  void operator()(const w::TopK& op) const {
    if (op.queries == 0) return;
    if (op.entries == 0) return idle();
    const kernels::SequenceGroup g = sequences(op.queries, op.entries, op.sequences, op.ratio);
    kernels::TopKProblem p;
    p.sequences = {&g, 1};
    p.ratio = op.ratio;
    p.k = op.k;
    const kernels::TopKKernel kernel(
        p, g.queries > kDecodeQueries ? set().prefill_top_k : set().decode_top_k, core());
    bool first = true;
    kernels::for_each_launch(kernel, [&](const tile::Kernel& launch) {
      costs.add_kernel(launch, first, c);
      first = false;
    });
  }

  void operator()(const w::Compress& op) const {
    if (op.tokens == 0) return;
    kernels::SequenceGroup g;
    g.count = std::clamp<std::int64_t>(op.sequences, 1, op.tokens);
    g.queries = op.tokens / g.count;
    kernels::CompressorProblem p;
    p.width = op.width;
    p.overlap = op.state_width > op.width;
    p.ratio = p.overlap ? op.slots / 2 : op.slots;
    // As many blocks end as entries are emitted.
    const std::int64_t ended = (op.emitted + g.count - 1) / g.count;
    g.history = std::max<std::int64_t>(0, ended * p.ratio - g.queries);
    p.sequences = {&g, 1};
    p.rope = std::min<std::int64_t>(64, op.width);
    p.entry = op.width > 128                 ? kernels::CompressedFormat::kFp8Rope
              : h.chip.supports(Dtype::kFp4) ? kernels::CompressedFormat::kFp4
                                             : kernels::CompressedFormat::kFp8;
    costs.add_kernel(
        kernels::CompressorKernel(
            p, p.ratio > kShortBlock ? set().long_compressor : set().short_compressor, core()),
        true, c);
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
        costs.add_kernel(kernels::ArgmaxPartsKernel(op.rows, parts.parts(), set().row, core()),
                         false, c);
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
    if (op.tokens == 0) return;
    kernels::RouteProblem p;
    p.tokens = op.tokens;
    p.router.experts = op.experts;
    p.router.topk = op.topk;
    // A table of a vocabulary's usual size; a token reads one row of it.
    p.vocab = op.hash ? kVocabulary : 0;
    costs.add_kernel(kernels::RouteKernel(p, set().route, core()), true, c);
  }

  void operator()(const w::Dispatch& op) const { traffic(op, false); }
  void operator()(const w::Combine& op) const { traffic(op, true); }

  template <class Traffic>
  void traffic(const Traffic& op, bool combine) const {
    c.communication = true;
    if (op.tokens > 0) {
      TrafficShape shape;
      shape.combine = combine;
      shape.tokens = op.tokens;
      shape.topk = static_cast<double>(op.pairs) / static_cast<double>(op.tokens);
      shape.hidden = op.hidden;
      shape.element = op.element;
      shape.ranks = op.ranks;
      const TrafficTime t = fastest_traffic(h, r, shape);
      LinkTime links = t.links;
      // Cores that copy slower than the links hold these back.
      links.scale_up = std::max(links.scale_up, t.cores);
      add_links(links, r.launch);
      if (t.form == TrafficForm::kNormal) {
        // They do not compute meanwhile. A low-latency kernel leaves once its rows are on their
        // way.
        const double taken = std::max(links.scale_up, links.scale_out) * t.cores_taken /
                             static_cast<double>(h.chip.cores);
        c[Unit::kMatrix] += taken;
        c[Unit::kVector] += taken;
      }
    }
    const w::WorkCount n = w::count(op);
    charge_vector(c, r, static_cast<double>(n.vector_ops), 0.0);
    charge_activations(c, r, static_cast<double>(n.input_bytes + n.output_bytes));
  }

  // `launch` is part of what a library was timed with, and charged with the kernel.
  void add_links(const LinkTime& t, double launch) const {
    c[Unit::kScaleUp] += t.scale_up;
    c[Unit::kScaleOut] += t.scale_out;
    c.latency += std::max(0.0, t.latency - launch);
  }

  void operator()(const w::Collective& op) const {
    c.communication = true;
    const double bytes = static_cast<double>(op.bytes);
    switch (op.kind) {
      case w::CollectiveKind::kAllReduce:
        add_links(fastest_collective(h, r, CollectiveOp::kAllReduce, bytes, op.ranks).links, 0.0);
        break;
      case w::CollectiveKind::kAllGather:
        add_links(fastest_collective(h, r, CollectiveOp::kAllGather,
                                     bytes * static_cast<double>(op.ranks), op.ranks)
                      .links,
                  0.0);
        break;
      case w::CollectiveKind::kReduceScatter:
        add_links(fastest_collective(h, r, CollectiveOp::kReduceScatter, bytes, op.ranks).links,
                  0.0);
        break;
      case w::CollectiveKind::kSendRecv: {
        const LinkTime t = send(h, r, bytes, op.ranks - 1);
        add_links(t, 0.0);
        c.latency += r.collective;
        break;
      }
    }
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
