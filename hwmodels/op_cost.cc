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

// Heads of one query that one core's attention tile takes.
constexpr double kHeadTile = 128.0;
// A split of k below this many elements no longer hides its pipeline's start.
constexpr double kLeastDepth = 512.0;
// Memory is fetched in sectors of this many bytes on every family here; gathers of single entries
// waste the rest of their last one.
constexpr double kSector = 128.0;
// Share of the cache that a working set may take and still be found there by the next kernel.
constexpr double kCacheShare = 0.5;
// Scores of one row that a core takes before top-k splits the row over more cores, up to 16.
constexpr double kTopKPiece = 8192.0;

// One Sinkhorn step on a row of four: two dependent additions, the epsilon, a division. Assumed:
// four cycles an addition and some thirty a division, with moves between.
constexpr double kSinkhornStepCycles = 50.0;

// Rounding of the non-negative numbers below 2^63 that occur here, inlined: a baseline x86-64 build
// calls the library for std::ceil and std::floor, which would take half the time of an estimate.
inline double floor_of(double x) { return static_cast<double>(static_cast<std::int64_t>(x)); }
inline double ceil_of(double x) {
  const double below = floor_of(x);
  return below < x ? below + 1.0 : below;
}
inline double ceil_to(double x, double step) { return ceil_of(x / step) * step; }

double core_rate(const Hardware& h, const Rates& r, Dtype compute, Dtype weight) {
  const double rate = r.core_flops[static_cast<std::size_t>(compute)];
  if (rate <= 0.0) {
    (void)h.chip.peak(compute);  // throws with the chip's and the dtype's name
  }
  const bool mixed = compute == Dtype::kFp8 && weight == Dtype::kFp4;
  return mixed ? rate * r.fp4_fp8_rate : rate;
}

double storage_bytes(Dtype d) { return static_cast<double>(w::element_bits(d)) / 8.0; }

// Where a kernel's activations live: in the cache when they fit, else in memory. `loaded` is what
// its tiles already read through the cache.
void charge_activations(Cost& c, const Rates& r, double bytes, double loaded = 0.0) {
  c[Unit::kCache] += (bytes - loaded) / r.cache;
  if (bytes > kCacheShare * r.cache_capacity) c[Unit::kMemory] += bytes / r.memory;
}

double memory_seconds(double bytes, double cores, const Rates& r) {
  return bytes / std::min(r.memory, std::max(cores, 1.0) * r.core_memory);
}

void charge_vector(Cost& c, const Rates& r, double ops, double special) {
  c[Unit::kVector] += ops / r.vector_fp32 + special / r.special;
}

struct Coster {
  const Hardware& h;
  const Rates& r;
  Cost& c;  // sum that the operator is added to

  void operator()(const w::Gemm& op) const {
    if (op.m == 0 || op.n == 0) return;
    gemm(op, {static_cast<double>(op.n), static_cast<double>(op.m), static_cast<double>(op.k),
              static_cast<double>(op.batch)});
  }

  void operator()(const w::GroupedGemm& op) const {
    if (op.rows == 0 || op.active == 0) return;
    const double groups = static_cast<double>(op.active);
    gemm(op, {static_cast<double>(op.n), static_cast<double>(op.rows) / groups,
              static_cast<double>(op.k), groups});
  }

  template <class Product>
  void gemm(const Product& op, GemmShape shape) const {
    const double rate = core_rate(h, r, op.compute, op.weight);
    const w::WorkCount n = w::count(op);
    Cost others;
    charge_activations(others, r, static_cast<double>(n.input_bytes + n.output_bytes),
                       static_cast<double>(n.input_bytes));
    shape.stream_bytes = static_cast<double>(n.weight_bytes);
    shape.other_cache = others[Unit::kCache];
    shape.other_memory = others[Unit::kMemory];
    shape.widen = widen_seconds(op.compute, op.weight, shape.count * shape.rows * shape.depth);
    const GemmTime t =
        gemm_time(shape, rate, storage_bytes(op.weight), storage_bytes(op.activation), r);
    c[Unit::kMatrix] += t.matrix;
    c[Unit::kMemory] += memory_seconds(shape.stream_bytes, t.cores, r) + shape.other_memory;
    c[Unit::kCache] += t.cache_bytes / r.cache + shape.other_cache;
    c[Unit::kVector] += shape.widen * t.column_tiles;
  }

  void operator()(const w::Attention& op) const {
    if (op.queries == 0) return;
    const double rate = core_rate(h, r, op.compute, op.compute) *
                        (op.decode ? r.decode_attention : r.prefill_attention);
    // One work item: up to 128 heads of one query over its keys, in pieces of 64 keys.
    const double queries = static_cast<double>(op.queries);
    const double heads = ceil_to(static_cast<double>(op.heads), std::min(r.tile_rows, 64.0));
    const double head_tiles = ceil_of(heads / kHeadTile);
    const double keys = ceil_to(static_cast<double>(op.keys) / queries, 64.0);
    const double items = queries * head_tiles;
    const double splits =
        items >= r.cores ? 1.0
                         : std::clamp(floor_of(r.cores / items), 1.0, std::max(1.0, keys / 64.0));
    const double waves = ceil_of(items * splits / r.cores);
    const double width = static_cast<double>(op.qk_width + op.v_width);
    const double item_flops = 2.0 * (heads / head_tiles) * width * ceil_to(keys / splits, 64.0);
    c[Unit::kMatrix] += waves * item_flops / rate;
    const double cores = std::min(r.cores, items * splits);

    double requested = static_cast<double>(op.requested_bytes);
    double distinct = static_cast<double>(op.distinct_bytes);
    if (op.sparse && op.keys > 0) {
      const double entry = requested / static_cast<double>(op.keys);
      const double waste = ceil_to(entry, kSector) / entry;
      requested *= waste;
    }
    // Each head tile reads the entries again; what the cache holds is read from memory once.
    const double through_cache = requested * head_tiles;
    const double touched = std::min(requested, distinct);
    const double hit =
        std::clamp(kCacheShare * r.cache_capacity / std::max(touched, 1.0), 0.0, 1.0);
    const double from_memory = touched + (requested - touched) * (1.0 - hit);
    c[Unit::kMemory] += memory_seconds(from_memory, cores, r);
    c[Unit::kCache] += through_cache / r.cache;
    const w::WorkCount n = w::count(op);
    charge_activations(c, r, static_cast<double>(n.input_bytes + n.output_bytes));
    charge_vector(c, r, static_cast<double>(n.vector_ops), static_cast<double>(n.special_ops));
    // Splitting the keys needs a second, small kernel that merges the parts.
    if (splits > 1.0) {
      const double partial = queries * static_cast<double>(op.heads * op.v_width) * splits * 4.0;
      charge_activations(c, r, 2.0 * partial);
      c.latency += r.launch;
    }
  }

  void operator()(const w::IndexLogits& op) const {
    if (op.entries == 0) return;
    const double rate = core_rate(h, r, op.compute, op.compute) * r.prefill_attention;
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
    const w::WorkCount n = w::count(op);
    if (op.phase == w::HyperPhase::kPre) {
      const double rate = core_rate(h, r, op.compute, op.compute);
      const GemmTime t = gemm_time({static_cast<double>(op.outputs), static_cast<double>(op.tokens),
                                    static_cast<double>(op.streams * op.hidden)},
                                   rate, 4.0, 2.0, r);
      c[Unit::kMatrix] += t.matrix;
      c[Unit::kCache] += t.cache_bytes / r.cache;
      // The projection is a GEMM over all streams with k split over cores; a second kernel sums the
      // parts and runs Sinkhorn, whose steps depend on each other.
      c.latency +=
          r.launch + r.fill +
          2.0 * static_cast<double>(op.sinkhorn_iterations) * kSinkhornStepCycles / r.clock;
    }
    c[Unit::kMemory] += static_cast<double>(n.weight_bytes) / r.memory;
    charge_activations(c, r, static_cast<double>(n.input_bytes + n.output_bytes));
    charge_vector(c, r, static_cast<double>(n.vector_ops), static_cast<double>(n.special_ops));
  }

  void operator()(const w::VectorOp& op) const {
    const w::WorkCount n = w::count(op);
    charge_vector(c, r, static_cast<double>(n.vector_ops), static_cast<double>(n.special_ops));
    charge_activations(c, r, static_cast<double>(n.input_bytes + n.output_bytes));
    c[Unit::kMemory] += static_cast<double>(n.kv_write_bytes + n.weight_bytes) / r.memory;
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

  // FP4 weights meet FP8 activations: where the matrix unit takes no such pair, vector units
  // convert every weight once per tile of tokens (2 operations an element at the 16-bit rate: look
  // up, scale).
  [[nodiscard]] double widen_seconds(Dtype compute, Dtype weight, double elements) const {
    const bool fp4 = weight == Dtype::kFp4 && compute != Dtype::kFp4 &&
                     (r.widen_on_vector || compute != Dtype::kFp8);
    const bool int4 = weight == Dtype::kInt4 && compute != Dtype::kInt4;
    return fp4 || int4 ? 2.0 * elements / r.vector_fp16 : 0.0;
  }
};

}  // namespace

GemmTime gemm_time(const GemmShape& s, double core_flops, double weight_bytes,
                   double activation_bytes, const Rates& r) {
  const double row_tile = std::clamp(ceil_to(s.rows, r.tile_rows), r.tile_rows, r.accumulator_rows);
  const double row_tiles = ceil_of(s.rows / row_tile);
  const double columns = ceil_to(s.columns, r.tile_columns);
  const double most_splits = std::max(1.0, floor_of(s.depth / kLeastDepth));
  // Neighbours that work on the same token tile read it once between them, as far as there are
  // several row tiles to share it.
  const double readers = ceil_of(row_tiles / std::min(r.operand_sharing, row_tiles));
  const double token_bytes = readers * s.columns * activation_bytes;
  GemmTime best;
  double best_time = 0.0;
  // Few tokens: one tile as wide as they need. Many: the width whose waves cost least.
  for (double width = std::min(64.0, r.accumulator_columns); width <= r.accumulator_columns;
       width *= 2.0) {
    const double column_tile = std::min(width, columns);
    const double column_tiles = columns <= width ? 1.0 : ceil_of(s.columns / column_tile);
    const double tiles = s.count * row_tiles * column_tiles;
    const double splits =
        tiles < r.cores ? std::clamp(floor_of(r.cores / tiles), 1.0, most_splits) : 1.0;
    const double waves = ceil_of(tiles * splits / r.cores);
    const double matrix = waves * 2.0 * row_tile * column_tile * s.depth / (splits * core_flops);
    const double cache_bytes =
        s.count * s.depth * (column_tiles * s.rows * weight_bytes + token_bytes);
    const double cores = std::min(r.cores, tiles * splits);
    const double time = std::max({matrix, cache_bytes / r.cache + s.other_cache,
                                  memory_seconds(s.stream_bytes, cores, r) + s.other_memory,
                                  s.widen * column_tiles});
    if (best_time == 0.0 || time < best_time) {
      best_time = time;
      best.matrix = matrix;
      best.cache_bytes = cache_bytes;
      best.cores = cores;
      best.column_tiles = column_tiles;
    }
    if (column_tiles == 1.0) break;
  }
  return best;
}

void add_cost(const w::Op& op, const Hardware& hardware, const Rates& rates, Cost& sum) {
  std::visit(Coster{hardware, rates, sum}, op);
}

Cost cost(const w::Op& op, const Hardware& hardware, const Rates& rates) {
  Cost sum;
  add_cost(op, hardware, rates, sum);
  return sum;
}

}  // namespace foretoken::hwmodels
