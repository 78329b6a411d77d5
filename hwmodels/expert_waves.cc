#include "hwmodels/expert_waves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hwmodels/fabric.h"
#include "hwmodels/kernels/moe_rows.h"
#include "sim/base/error.h"

namespace foretoken::hwmodels {

namespace w = workloads;
using kernels::GroupRun;
using w::Dtype;

namespace {

// Bytes of a line of the cache: what memory delivers at its best rate.
constexpr double kLine = 128.0;
// Blocks of this many elements share an E8M0 scale on their way to an expert.
constexpr double kScaleBlock = 32.0;
// Results come back in BF16.
constexpr double kResultBytes = 2.0;
// What one operator costs a host that launches it from a framework while the device waits: 20 to 35
// us on x86 (hardware facts 6.5, aiconfigurator-systems).
constexpr double kHostOperator = 27e-6;
// Operators of the separate form that are launched before tokens travel: quantise, layout,
// dispatch. The copy after them is launched meanwhile.
constexpr double kHostOperators = 3.0;
// 2^55: a factor of 2^8 stays for bytes and what is done to each.
constexpr double kMostWork = 3.6e16;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

double bytes_of(Dtype d) { return static_cast<double>(w::element_bits(d)) / 8.0; }

double remote_share(const ExpertLayer& l) {
  return static_cast<double>(l.ranks - 1) / static_cast<double>(l.ranks);
}

// Different ranks among the choices of a token that chooses evenly.
double ranks_of_token(const ExpertLayer& l) {
  const auto ranks = static_cast<double>(l.ranks);
  return ranks * (1.0 - std::pow(1.0 - 1.0 / ranks, static_cast<double>(l.topk)));
}

void find_groups(std::span<const std::int64_t> rows, std::vector<std::int64_t>& sorted,
                 std::vector<GroupRun>& groups) {
  sorted.assign(rows.begin(), rows.end());
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  groups.clear();
  for (const std::int64_t r : sorted) {
    if (r <= 0) break;
    if (groups.empty() || groups.back().rows != r) groups.push_back({r, 0});
    ++groups.back().count;
  }
}

std::int64_t sum_of(std::span<const std::int64_t> rows) {
  std::int64_t sum = 0;
  for (const std::int64_t r : rows) sum += r;
  return sum;
}

}  // namespace

double sent_bytes(const ExpertLayer& l) {
  return static_cast<double>(l.hidden) * (bytes_of(l.activation) + 1.0 / kScaleBlock);
}
double returned_bytes(const ExpertLayer& l) { return static_cast<double>(l.hidden) * kResultBytes; }

std::vector<std::int64_t> rows_of(const ExpertLayer& layer, std::int64_t rank) {
  if (!layer.rows.empty()) return layer.rows[static_cast<std::size_t>(rank)];
  const std::int64_t local = layer.local_experts();
  std::vector<std::int64_t> rows(static_cast<std::size_t>(local), layer.pairs() / local);
  for (std::int64_t i = 0; i < layer.pairs() % local; ++i) ++rows[static_cast<std::size_t>(i)];
  return rows;
}

void require_possible(const ExpertLayer& l) {
  if (l.topk > l.experts || l.ranks > l.experts) {
    throw base::UnsupportedError("more ranks or choices than experts");
  }
  const double work = static_cast<double>(l.tokens) * static_cast<double>(l.topk) *
                      static_cast<double>(l.ranks) * static_cast<double>(l.hidden) *
                      static_cast<double>(l.inner);
  const double weights =
      static_cast<double>(l.experts) * static_cast<double>(l.hidden) * static_cast<double>(l.inner);
  if (std::max(work, weights) > kMostWork) {
    throw base::UnsupportedError("the case is too large to be counted exactly");
  }
}

double serial_time(std::span<const WaveStages> waves) {
  double sum = 0.0;
  for (const WaveStages& s : waves) sum += s.arrive + s.first + s.between + s.second + s.leave;
  return sum;
}

double pairwise_time(std::span<const WaveStages> waves) {
  double arrived = 0.0;
  double computed = 0.0;
  for (const WaveStages& s : waves) {
    arrived += s.arrive;
    computed = std::max(computed, arrived) + s.first;
  }
  for (const WaveStages& s : waves) computed += s.between;
  double left = 0.0;
  for (const WaveStages& s : waves) {
    // Tiles of the second product leave as they are finished.
    left = std::max(left, computed) + s.leave;
    computed += s.second;
    left = std::max(left, computed);
  }
  return left;
}

double waves_time(std::span<const WaveStages> waves) {
  double arrived = 0.0;
  double computed = 0.0;
  double left = 0.0;
  double link = 0.0;
  for (const WaveStages& s : waves) {
    arrived += s.arrive;
    computed = std::max(computed, arrived) + s.first + s.between;
    left = std::max(left, computed) + s.leave;
    computed += s.second;
    left = std::max(left, computed);
    link += s.arrive + s.leave;
  }
  // What arrives and what returns takes turns on the same links.
  return std::max(left, link);
}

double expected_rows(const ExpertLayer& l) {
  return static_cast<double>(l.pairs()) * static_cast<double>(l.ranks) /
         static_cast<double>(l.experts);
}

double ProductCost::busiest() const { return std::max({loads, matrix, vector, exchange}); }

void ExpertPricing::use(const Hardware& hardware, const Rates& rates,
                        const ExpertLayerDesign& design) {
  hardware_ = &hardware;
  rates_ = &rates;
  design_ = &design;
  core_ = rates.core;
  core_.cores -= static_cast<double>(design.communication_cores);
  if (core_.cores < 1.0) {
    throw base::UnsupportedError(fmt::format("{} has no core left to multiply with {} for traffic",
                                             hardware.chip.name, design.communication_cores));
  }
  costs_.use(hardware, rates);
  forget();
}

void ExpertPricing::forget() {
  if (known_.empty()) {
    known_.resize(kManyKnown);
    for (Known& k : known_) k.groups.reserve(4);
    groups_.reserve(4);
  }
  known_count_ = 0;
}

double ExpertPricing::kernel(const tile::Kernel& kernel) {
  Cost c;
  costs_.add_kernel(kernel, true, c);
  return rates_->launch + c.latency + *std::max_element(c.busy.begin(), c.busy.end());
}

double ExpertPricing::op(const w::Op& op) {
  Cost c;
  costs_.add(op, c);
  return rates_->launch + c.latency + *std::max_element(c.busy.begin(), c.busy.end());
}

// First product (which 0: gate and up) or second of these experts. `fused`: SwiGLU and the cast in
// the first one's epilogue.
ProductCost ExpertPricing::product(const ExpertLayer& l, std::span<const std::int64_t> rows,
                                   int which, bool fused) {
  const kernels::ExpertWavesDesign& schedule = hardware_->kernels.expert_waves;
  const kernels::GemmTile& tile = kernels::wave_tile(schedule, expected_rows(l));
  const Shape shape{l.hidden, l.inner, tile.tokens, l.activation, l.weight, l.compute};
  if (!(shape == shape_)) forget();
  shape_ = shape;
  find_groups(rows, sorted_, groups_);
  const std::vector<GroupRun>& groups = groups_;
  if (groups.empty()) return {};
  for (const Known& k : std::span(known_).first(known_count_)) {
    if (k.which != which || k.fused != fused || k.groups.size() != groups.size()) continue;
    if (std::equal(groups.begin(), groups.end(), k.groups.begin(),
                   [](const GroupRun& a, const GroupRun& b) {
                     return a.rows == b.rows && a.count == b.count;
                   })) {
      return k.cost;
    }
  }
  (void)hardware_->chip.peak(l.compute);  // throws with the chip's and the dtype's name
  kernels::wave_product(schedule, expected_rows(l), gemm_);
  kernels::GemmProblem p;
  p.groups = groups;
  p.n = which == 0 ? 2 * l.inner : l.hidden;
  p.k = which == 0 ? l.hidden : l.inner;
  p.activation = l.activation;
  p.weight = l.weight;
  p.compute = l.compute;
  if (l.activation != Dtype::kFp8) p.fp8_block = 0;
  if (which == 0 && fused) {
    p.epilogue = kernels::Epilogue::kSwiglu;
    p.output = l.activation;
  }
  recorder_.record(kernels::GemmKernel(p, gemm_, core_));
  const tile::KernelTime t = evaluator_.evaluate(recorder_);

  ProductCost c;
  std::int64_t hit = 0;
  for (const GroupRun& g : groups) hit += g.count;
  const double elements =
      static_cast<double>(hit) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const bool four = w::element_bits(l.weight) == 4;
  const double weights =
      std::min(t.memory_bytes, elements * (bytes_of(l.weight) + (four ? 1.0 / kScaleBlock : 0.0)));
  // What one row of a weight tile holds of it: shorter than a line, and part of what memory
  // fetches, or of its time, is lost.
  const double row = static_cast<double>(gemm_.tile_k) * bytes_of(l.weight) / bytes_of(l.compute);
  const double share = row < kLine ? design_->short_row.value : 1.0;
  c.memory = (t.memory_bytes + weights * (1.0 / share - 1.0)) / core_.memory;
  c.cache = t.cache;
  const double norm = design_->interference;
  c.loads = std::pow(std::pow(c.memory, norm) + std::pow(c.cache, norm), 1.0 / norm);
  c.loads = std::max(c.loads, t.cache_bytes / (core_.port * t.cores));
  c.matrix = t.matrix * t.throttle;
  c.vector = t.vector;
  c.exchange = t.exchange;
  c.tile = c.busiest() * std::min(1.0, t.cores / t.items);
  c.seconds = std::max(t.seconds, core_.launch + c.memory + c.tile);
  if (known_count_ == known_.size()) known_.emplace_back();
  Known& known = known_[known_count_++];
  known.which = which;
  known.fused = fused;
  known.groups.assign(groups.begin(), groups.end());
  known.cost = c;
  return c;
}

std::int64_t ExpertPricing::experts_per_wave(const ExpertLayer& l) const {
  return kernels::experts_per_wave(hardware_->kernels.expert_waves, l.local_experts(),
                                   expected_rows(l), l.inner, core_.cores);
}

std::int64_t ExpertPricing::waves_by_rule(const ExpertLayer& layer, std::int64_t experts) const {
  return std::max<std::int64_t>(1, ceil_div(experts, experts_per_wave(layer)));
}

void ExpertPricing::waves(const ExpertLayer& layer, std::span<const std::int64_t> rows,
                          std::int64_t count, std::vector<ExpertWave>& out) {
  if (known_count_ > kManyKnown / 2) forget();
  const auto local = static_cast<std::int64_t>(rows.size());
  // By the rule all waves but the last one are alike.
  const std::int64_t each = count > 0 ? 0 : experts_per_wave(layer);
  if (count == 0) count = waves_by_rule(layer, local);
  out.clear();
  for (std::int64_t i = 0; i < count; ++i) {
    ExpertWave& wave = out.emplace_back();
    wave.first = each > 0 ? i * each : i * local / count;
    wave.count =
        (each > 0 ? std::min(local, (i + 1) * each) : (i + 1) * local / count) - wave.first;
    const auto part =
        rows.subspan(static_cast<std::size_t>(wave.first), static_cast<std::size_t>(wave.count));
    wave.pairs = sum_of(part);
    if (wave.pairs == 0) continue;
    for (int p = 0; p < 2; ++p) {
      wave.product[static_cast<std::size_t>(p)] = product(layer, part, p, true);
    }
  }
}

std::vector<ExpertWave> ExpertPricing::waves(const ExpertLayer& layer,
                                             std::span<const std::int64_t> rows) {
  std::vector<ExpertWave> all;
  waves(layer, rows, 0, all);
  std::erase_if(all, [](const ExpertWave& wave) { return wave.pairs == 0; });
  return all;
}

LinkTime wave_traffic(const Hardware& hardware, const Rates& rates, double bytes,
                      std::int64_t ranks) {
  return all_to_all(hardware, rates, bytes, ranks);
}

namespace {
double busy(const LinkTime& t) { return std::max(t.scale_up, t.scale_out); }
}  // namespace

double ExpertPricing::prepare(const ExpertLayer& l) {
  return op(w::VectorOp{w::VectorKind::kQuantise, l.tokens, l.hidden, Dtype::kBf16, l.activation});
}

double ExpertPricing::start(const ExpertLayer& l) {
  return prepare(l) + rates_->launch + design_->handshake.value;
}

double ExpertPricing::finish(const ExpertLayer& l) {
  // Each token reads its experts' results and writes their sum.
  return design_->handshake.value + static_cast<double>(l.tokens) * static_cast<double>(l.hidden) *
                                        kResultBytes * static_cast<double>(1 + l.topk) /
                                        rates_->memory;
}

ExpertTime ExpertPricing::fused(const ExpertLayer& l, const ExpertPlan& plan,
                                std::span<const std::int64_t> rows) {
  ExpertTime t;
  const std::vector<ExpertWave> all = waves(l, rows);
  std::vector<WaveStages> stages;
  ProductCost sum;
  double latency = 0.0;
  for (const ExpertWave& wave : all) {
    const double remote = static_cast<double>(wave.pairs) * remote_share(l);
    const LinkTime in = wave_traffic(*hardware_, *rates_, remote * sent_bytes(l), l.ranks);
    const LinkTime out = wave_traffic(*hardware_, *rates_, remote * returned_bytes(l), l.ranks);
    latency = in.latency;
    stages.push_back(
        {busy(in), wave.product[0].busiest(), 0.0, wave.product[1].busiest(), busy(out)});
    t.link += busy(in) + busy(out);
    for (const ProductCost& p : wave.product) {
      sum.memory += p.memory;
      sum.cache += p.cache;
      sum.loads += p.loads;
      sum.matrix += p.matrix;
      sum.vector += p.vector;
      sum.exchange += p.exchange;
      t.compute += p.busiest();
    }
    t.pairs += wave.pairs;
  }
  const bool pairwise = plan.schedule == ExpertSchedule::kPairwise;
  const double stream = pairwise ? pairwise_time(stages) : waves_time(stages);
  t.traffic = std::max(0.0, stream - t.compute) + 2.0 * latency;
  t.launch = rates_->launch * (pairwise ? 2.0 : 1.0);
  t.handshake = 2.0 * design_->handshake.value;
  t.prepare = prepare(l);
  t.reduce = finish(l) - design_->handshake.value;
  if (!all.empty()) t.tiles = all.front().product[0].tile + all.back().product[1].tile;
  t.waves = static_cast<std::int64_t>(all.size());
  t.experts_per_wave = experts_per_wave(l);
  const double most = sum.busiest();
  t.bound = stream > 1.001 * t.compute && t.link > 0.95 * stream ? "link"
            : most == sum.matrix                                 ? "matrix"
            : most == sum.vector                                 ? "vector"
            : most == sum.exchange                               ? "exchange"
            : sum.memory >= sum.cache                            ? "memory"
                                                                 : "cache";
  return t;
}

ExpertTime ExpertPricing::separate(const ExpertLayer& l, const ExpertPlan& plan,
                                   std::span<const std::int64_t> rows) {
  ExpertTime t;
  const double launch = rates_->launch;
  const double handshake = design_->handshake.value;
  const std::int64_t pairs = sum_of(rows);
  t.pairs = pairs;
  t.waves = 1;
  t.experts_per_wave = static_cast<std::int64_t>(rows.size());
  const bool normal = plan.form == SeparateForm::kNormal;
  // A rank with more pairs gets more tokens, too.
  const double load =
      static_cast<double>(pairs) / static_cast<double>(std::max<std::int64_t>(1, l.pairs()));
  const double copies = normal ? ranks_of_token(l) : static_cast<double>(l.topk);
  const double rows_in =
      std::min(static_cast<double>(pairs), load * static_cast<double>(l.tokens) * copies);
  const double remote = rows_in * remote_share(l);
  const LinkTime in = wave_traffic(*hardware_, *rates_, remote * sent_bytes(l), l.ranks);
  const LinkTime out = wave_traffic(*hardware_, *rates_, remote * returned_bytes(l), l.ranks);
  t.link = busy(in) + busy(out);
  t.traffic = t.link + in.latency + out.latency;
  if (plan.host_waits) {
    t.host = kHostOperators * kHostOperator + std::max(0.0, kHostOperator - busy(in));
  }
  // Counts before rows, both ways; or rows alone.
  t.handshake = (normal ? 4.0 : 2.0) * handshake;
  t.launch = (normal ? 4.0 : 2.0) * launch;
  t.prepare =
      op(w::VectorOp{w::VectorKind::kQuantise, l.tokens, l.hidden, Dtype::kBf16, l.activation});
  const auto products = [&](int which) { return product(l, rows, which, false).seconds; };
  t.compute = products(0) + products(1) +
              op(w::VectorOp{w::VectorKind::kSwiglu, std::max<std::int64_t>(1, pairs), l.inner,
                             Dtype::kBf16, l.activation});
  t.reduce = static_cast<double>(l.tokens) * (1.0 + copies) * returned_bytes(l) / rates_->memory;
  if (normal && pairs > 0) {
    kernels::MoeRowsProblem p;
    p.tokens = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(rows_in)));
    p.choices = std::max<std::int64_t>(1, ceil_div(pairs, p.tokens));
    p.experts = static_cast<std::int64_t>(rows.size());
    p.hidden = l.hidden;
    p.capacity = pairs;
    p.input = p.moved = l.activation;
    const kernels::MoeRowsDesign& design = hardware_->kernels.expert_rows;
    using Pass = kernels::ExpertOrderKernel::Pass;
    const kernels::ExpertOrderKernel place(p, design, rates_->core, Pass::kPlace);
    t.order = kernel(place);
    if (place.counters() > 1) {
      t.order += kernel(kernels::ExpertOrderKernel(p, design, rates_->core, Pass::kCount));
    }
    t.order += kernel(kernels::PermuteKernel(p, design, rates_->core));
    p.input = Dtype::kBf16;
    t.order += kernel(kernels::FinaliseKernel(p, design, rates_->core));
  }
  if (plan.schedule != ExpertSchedule::kTwoBatch) return t;

  // Two halves: the second one's dispatch hides behind the first one's products, the first one's
  // combine behind the second one's. Each half is launched and reads the weights by itself.
  std::vector<std::int64_t> half(rows.begin(), rows.end());
  for (std::int64_t& r : half) r = ceil_div(r, 2);
  ExpertLayer small = l;
  small.tokens = ceil_div(l.tokens, 2);
  ExpertPlan one = plan;
  one.schedule = ExpertSchedule::kSerial;
  const ExpertTime part = separate(small, one, half);
  const double arrive = part.prepare + part.host + 0.5 * (part.handshake + part.launch) +
                        part.traffic - busy(out) / 2.0;
  const double leave = 0.5 * (part.handshake + part.launch) + busy(out) / 2.0 + part.reduce;
  const double compute = part.compute + part.order;
  const std::array<WaveStages, 2> halves = {
      {{arrive, compute, 0.0, 0.0, leave}, {arrive, compute, 0.0, 0.0, leave}}};
  ExpertTime two = part;
  two.pairs = pairs;
  two.compute = 2.0 * part.compute;
  two.order = 2.0 * part.order;
  two.prepare = part.prepare;
  two.reduce = part.reduce;
  two.link = 2.0 * part.link;
  two.waves = 2;
  two.traffic = waves_time(halves) - two.compute - two.order - two.prepare - two.reduce - two.host -
                two.handshake - two.launch;
  // What hides of the exchange is not waited for.
  if (two.traffic < 0.0) {
    two.handshake += two.traffic;
    two.traffic = 0.0;
  }
  return two;
}

ExpertTime ExpertPricing::rank_time(const ExpertLayer& layer, const ExpertPlan& plan,
                                    std::span<const std::int64_t> rows) {
  const bool separately =
      plan.schedule == ExpertSchedule::kSerial || plan.schedule == ExpertSchedule::kTwoBatch;
  ExpertTime t = separately ? separate(layer, plan, rows) : fused(layer, plan, rows);
  t.tile_tokens = kernels::wave_tile(hardware_->kernels.expert_waves, expected_rows(layer)).tokens;
  t.seconds = t.launch + t.prepare + t.handshake + t.host + t.order + t.compute + t.traffic +
              t.tiles + t.reduce;
  return t;
}

ExpertTime ExpertPricing::time(const ExpertLayer& layer, const ExpertPlan& plan) {
  require_possible(layer);
  if (layer.rows.empty()) return rank_time(layer, plan, rows_of(layer, 0));
  ExpertTime slowest;
  for (std::size_t r = 0; r < layer.rows.size(); ++r) {
    const ExpertTime t = rank_time(layer, plan, layer.rows[r]);
    if (t.seconds > slowest.seconds) slowest = t;
  }
  return slowest;
}

}  // namespace foretoken::hwmodels
