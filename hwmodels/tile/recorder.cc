#include "hwmodels/tile/recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "hwmodels/tile/vector_cost.h"
#include "sim/base/error.h"

namespace foretoken::hwmodels::tile {

namespace {

// As in op_cost: std::ceil is a library call on a baseline x86-64 build.
inline double ceil_of(double x) {
  const double below = static_cast<double>(static_cast<std::int64_t>(x));
  return below < x ? below + 1.0 : below;
}
inline double ceil_to(double x, double step) { return ceil_of(x / step) * step; }

double storage_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

constexpr std::array<std::string_view, kLocals> kLocalNames = {"operand", "accumulator", "vector"};

}  // namespace

void Recorder::record(const Kernel& kernel) {
  launch_ = kernel.launch();
  kernel_ = kernel.name();
  tensors_.clear();
  used_ = 0;
  kernel.classes([&](const WorkClass& c) {
    if (c.count == 0) return;
    if (used_ == programs_.size()) programs_.emplace_back();
    program_ = &programs_[used_++];
    program_->clear();
    program_->items = c.count;
    buffers_.clear();
    next_tensor_ = 0;
    in_pipeline_ = false;
    iteration_ = 0;
    weight_ = static_cast<double>(c.count);
    kernel.item(*this, c.first);
    require_room();
  });
}

// Items of one kind declare the same tensors in the same order; those of another kind may share
// some of them, by name and home.
TensorId Recorder::tensor(const TensorSpec& spec) {
  const auto is = [&](const TensorTraffic& t) {
    return t.spec.name == spec.name && t.spec.home == spec.home;
  };
  std::size_t i = next_tensor_;
  if (i >= tensors_.size() || !is(tensors_[i])) {
    i = 0;
    while (i < tensors_.size() && !is(tensors_[i])) ++i;
    if (i == tensors_.size()) tensors_.push_back({spec, 0.0, 0.0});
  }
  next_tensor_ = i + 1;
  return static_cast<TensorId>(i);
}

Buffer Recorder::buffer(const BufferSpec& spec) {
  const auto id = static_cast<std::uint32_t>(buffers_.size());
  buffers_.push_back(spec);
  const double bytes = static_cast<double>(spec.rows * spec.cols * spec.slots) * spec.share *
                       (storage_bytes(spec.dtype) + spec.scale_bytes);
  program_->buffers.push_back(
      {spec.name, spec.local, spec.slots, bytes, program_->slots, spec.per_item});
  program_->slots += static_cast<std::uint32_t>(spec.slots);
  return {id};
}

void Recorder::require_room() const {
  std::array<double, kLocals> used{};
  for (const BufferInfo& b : program_->buffers) used[static_cast<std::size_t>(b.local)] += b.bytes;
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (used[i] <= rates_->capacity[i]) continue;
    std::string parts;
    for (const BufferInfo& b : program_->buffers) {
      if (static_cast<std::size_t>(b.local) != i) continue;
      parts += fmt::format("{}{} {:.0f} B", parts.empty() ? "" : ", ", b.name, b.bytes);
    }
    throw base::UnsupportedError(
        fmt::format("{} does not fit {}: {:.0f} B of {} memory asked ({}), {:.0f} B there", kernel_,
                    rates_->chip, used[i], kLocalNames[i], parts, rates_->capacity[i]));
  }
}

Recorder::Extent Recorder::extent(const BufferRef& ref) const {
  const BufferSpec& b = buffers_[ref.id];
  return {static_cast<double>(ref.block.rows == kAll ? b.rows - ref.block.row : ref.block.rows),
          static_cast<double>(ref.block.cols == kAll ? b.cols - ref.block.col : ref.block.cols)};
}

Recorder::Extent Recorder::extent(TensorId tensor, const Block& r) const {
  const TensorSpec& t = tensors_[tensor].spec;
  return {static_cast<double>(r.rows == kAll ? t.rows - r.row : r.rows),
          static_cast<double>(r.cols == kAll ? t.cols - r.col : r.cols)};
}

double Recorder::tensor_bytes(TensorId tensor, double elements) const {
  const TensorSpec& t = tensors_[tensor].spec;
  return elements * (storage_bytes(t.dtype) + t.scale_bytes);
}

void Recorder::loaded(const Step& step) {
  TensorTraffic& t = tensors_[step.tensor];
  t.loaded += step.cache_bytes * weight_;
  if (t.spec.home == Home::kPeer) {
    program_->peer_loaded +=
        step.cache_bytes * t.spec.peer_share * weight_ / static_cast<double>(program_->items);
  }
}

void Recorder::stored(const Step& step) {
  TensorTraffic& t = tensors_[step.tensor];
  t.stored += step.cache_bytes * weight_;
  if (t.spec.home == Home::kPeer) {
    program_->peer_stored +=
        step.cache_bytes * t.spec.peer_share * weight_ / static_cast<double>(program_->items);
  }
}

Step& Recorder::add(StepKind kind, Engine engine) {
  TileProgram& p = *program_;
  if (!in_pipeline_) {
    // Straight steps are gathered in one section until a pipeline ends it.
    const bool open = !p.sections.empty() && p.sections.back().iterations == 1 &&
                      p.sections.back().count == 1 && p.phases.back().ahead < 0;
    if (!open) {
      p.sections.push_back({static_cast<std::uint32_t>(p.phases.size()), 1, 1});
      p.phases.push_back({static_cast<std::uint32_t>(p.steps.size()), 0, -1});
    }
    ++p.phases.back().count;
  }
  Step& s = p.steps.emplace_back();
  s.kind = kind;
  s.engine = engine;
  return s;
}

SlotUse Recorder::use(const BufferRef& ref) const {
  return {ref.id, static_cast<std::int32_t>(ref.index - iteration_)};
}

void Recorder::reads(Step& step, const BufferRef& ref) {
  assert(step.reads < step.read.size());
  step.read[step.reads++] = use(ref);
}

void Recorder::writes(Step& step, const BufferRef& ref, bool updates) {
  step.writes = true;
  step.updates = updates;
  step.write = use(ref);
}

void Recorder::load(const BufferRef& dst, TensorId src, const Block& region, int shared,
                    double padding) {
  Step& s = add(StepKind::kLoad, Engine::kLoad);
  s.tensor = src;
  // A core draws its share of what is multicast; the rest arrives from its neighbours.
  s.bytes = tensor_bytes(src, extent(src, region).elements()) * padding / shared;
  s.cache_bytes = s.bytes;
  loaded(s);
  writes(s, dst);
}

void Recorder::gather(const BufferRef& dst, TensorId src, const BufferRef& rows, std::int64_t,
                      std::int64_t cols, std::int64_t page, int shared) {
  Step& s = add(StepKind::kGather, Engine::kLoad);
  s.tensor = src;
  const double width = static_cast<double>(cols == kAll ? tensors_[src].spec.cols : cols);
  // Whole sectors of each row or page are fetched.
  s.bytes = extent(rows).elements() *
            ceil_to(tensor_bytes(src, width * static_cast<double>(page)), rates_->sector) / shared;
  s.cache_bytes = s.bytes;
  loaded(s);
  reads(s, rows);
  writes(s, dst);
}

void Recorder::store(TensorId dst, const Block& region, const BufferRef& src) {
  Step& s = add(StepKind::kStore, Engine::kStore);
  s.tensor = dst;
  s.bytes = tensor_bytes(dst, extent(dst, region).elements());
  s.cache_bytes = s.bytes;
  stored(s);
  reads(s, src);
}

void Recorder::reduce_store(TensorId dst, const Block& region, const BufferRef& src) {
  Step& s = add(StepKind::kReduceStore, Engine::kStore);
  s.tensor = dst;
  // The cache reads and writes what it adds to.
  s.bytes = tensor_bytes(dst, extent(dst, region).elements());
  s.cache_bytes = 2.0 * s.bytes;
  stored(s);
  reads(s, src);
}

void Recorder::scatter(TensorId dst, const BufferRef& rows, const BufferRef& src, std::int64_t,
                       std::int64_t) {
  Step& s = add(StepKind::kScatter, Engine::kStore);
  s.tensor = dst;
  const Extent e = extent(src);
  s.bytes = e.rows * ceil_to(tensor_bytes(dst, e.cols), rates_->sector);
  s.cache_bytes = s.bytes;
  stored(s);
  reads(s, rows);
  reads(s, src);
}

void Recorder::move(const BufferRef& dst, const BufferRef& src, bool) {
  Step& s = add(StepKind::kMove, Engine::kExchange);
  const BufferSpec& from = buffers_[src.id];
  const double bytes = extent(src).elements() * storage_bytes(from.dtype);
  switch (rates_->exchange) {
    case Exchange::kRegisters:
      break;
    case Exchange::kDirect:
      s.seconds = bytes / rates_->exchange_rate;
      break;
    case Exchange::kCache:
      // Out and in again, each at the core's port.
      s.seconds = 2.0 * bytes / rates_->port + rates_->cache_latency;
      s.cache_bytes = 2.0 * bytes;
      break;
  }
  reads(s, src);
  writes(s, dst);
}

void Recorder::matrix(const BufferRef& acc, const BufferRef& a, const BufferRef& b,
                      const MatrixStep& m) {
  Step& s = add(StepKind::kMatrix, Engine::kMatrix);
  const CoreRates& r = *rates_;
  double rate = r.matrix[static_cast<std::size_t>(m.compute)];
  if (rate <= 0.0) {
    throw base::UnsupportedError(fmt::format("{} on {}: its matrix unit cannot multiply {}",
                                             kernel_, r.chip, workloads::to_string(m.compute)));
  }
  if (m.mixed_fp4) rate *= r.fp4_fp8_rate;
  const double useful =
      2.0 * static_cast<double>(m.m) * static_cast<double>(m.n) * static_cast<double>(m.k);
  const double cores = m.pair ? 2.0 : 1.0;
  const double rows = ceil_to(static_cast<double>(m.m) * cores, r.tile_rows) / cores;
  const double cols = ceil_to(static_cast<double>(m.n), r.tile_columns);
  double seconds = 2.0 * rows * cols * static_cast<double>(m.k) / rate;
  if (r.operand_feed > 0.0) {
    // Operands come from local memory, the columns' once per row of instructions, unless they lie
    // beside the sums. Paired cores feed a part of the columns each.
    const double element = storage_bytes(m.compute);
    const bool rows_fed = buffers_[a.id].local != Local::kAccumulator;
    const double bytes =
        static_cast<double>(m.k) * element *
        ((rows_fed ? rows : 0.0) + cols / cores * ceil_of(rows / std::max(r.tile_rows, 64.0)));
    seconds = std::max(seconds, bytes / r.operand_feed);
  }
  s.seconds = seconds + r.matrix_head;
  program_->joules += 2.0 * rows * cols * static_cast<double>(m.k) *
                      r.matrix_energy[static_cast<std::size_t>(m.compute)] * weight_ /
                      static_cast<double>(program_->items);
  program_->flops += useful * weight_ / static_cast<double>(program_->items);
  reads(s, a);
  reads(s, b);
  writes(s, acc, m.accumulate);
}

void Recorder::vector(VectorKind kind, const BufferRef& dst, std::initializer_list<BufferRef> src,
                      const VectorArgs& args) {
  Step& s = add(StepKind::kVector, Engine::kVector);
  s.vector = kind;
  double elements = extent(dst).elements();
  double rounds = 1.0;
  bool updates = false;
  switch (kind) {
    case VectorKind::kCount:
    case VectorKind::kFilter:
      elements = extent(*src.begin()).elements();
      updates = true;
      break;
    case VectorKind::kRowPick:
      break;
    default:
      for (const BufferRef& ref : src) elements = std::max(elements, extent(ref).elements());
      if (kind == VectorKind::kRowTopK || kind == VectorKind::kRank) rounds = extent(dst).cols;
      updates =
          kind == VectorKind::kFma || kind == VectorKind::kScaled || kind == VectorKind::kNarrow;
  }
  elements /= args.shared;
  const VectorCost c = vector_cost(kind);
  s.seconds = rounds * std::max(elements * (c.lane / rates_->lanes32 + c.special / rates_->special +
                                            c.convert / rates_->convert),
                                c.chain * rates_->vector_latency);
  for (const BufferRef& ref : src) reads(s, ref);
  writes(s, dst, updates);
}

void Recorder::widen(const BufferRef& dst, const BufferRef& src) {
  Step& s = add(StepKind::kWiden, Engine::kVector);
  // Look-up and placement, at the 16-bit rate.
  s.seconds = 2.0 * extent(src).elements() / rates_->lanes16;
  reads(s, src);
  writes(s, dst);
}

void Recorder::top_k(const BufferRef& dst, const BufferRef& scores, std::int64_t, std::int64_t,
                     int passes) {
  Step& s = add(StepKind::kTopK, Engine::kVector);
  // A pass reads the scores, takes a digit and counts it in local memory: four instructions. Each
  // pass ends in a scan of the counters, a chain of some 80 dependent steps.
  const Extent e = extent(scores);
  const double count = e.rows > 1.0 ? e.rows : e.cols;  // of a list or a row
  s.seconds = passes * (4.0 * count / rates_->lanes32 + 80.0 * rates_->vector_latency);
  reads(s, scores);
  writes(s, dst);
}

void Recorder::signal(std::int64_t, Home where) {
  Step& s = add(StepKind::kSignal, Engine::kStore);
  // An atomic behind the stores, which must have arrived.
  s.seconds = where == Home::kPeer ? std::max(rates_->link_latency, rates_->cache_latency)
                                   : rates_->cache_latency;
}

void Recorder::reset(std::int64_t, std::int64_t count) {
  Step& s = add(StepKind::kSignal, Engine::kStore);
  s.seconds = rates_->cache_latency + 4.0 * static_cast<double>(count) / rates_->port;
}

void Recorder::wait(std::int64_t, std::int64_t) {
  Step& s = add(StepKind::kWait, Engine::kLoad);
  s.seconds = rates_->cache_latency;
}

void Recorder::pipeline(std::int64_t count, std::span<const Phase> phases) {
  assert(!in_pipeline_);
  if (count <= 0) return;
  TileProgram& p = *program_;
  p.sections.push_back({static_cast<std::uint32_t>(p.phases.size()),
                        static_cast<std::uint32_t>(phases.size()), count});
  const double outer = weight_;
  in_pipeline_ = true;
  weight_ = outer * static_cast<double>(count);
  for (const Phase& phase : phases) {
    const auto first = static_cast<std::uint32_t>(p.steps.size());
    phase.run(0);
    p.phases.push_back({first, static_cast<std::uint32_t>(p.steps.size()) - first,
                        static_cast<std::int32_t>(phase.ahead)});
  }
  in_pipeline_ = false;
  weight_ = outer;
}

}  // namespace foretoken::hwmodels::tile
