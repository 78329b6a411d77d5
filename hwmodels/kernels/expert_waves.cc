#include "hwmodels/kernels/expert_waves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

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
using tile::TensorSpec;
using tile::VectorKind;
using workloads::Dtype;
using Fault = ExpertWavesFault;

namespace {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// As of row kernels.
constexpr double kCacheShare = 0.5;

// Flags of one set in a rank's memory.
constexpr std::int64_t kCounted = 0;
constexpr std::int64_t kPlaced = 1;
constexpr std::int64_t kPublished = 2;
constexpr std::int64_t kCleaned = 3;
constexpr std::int64_t kAnnounced = 4;  // one signal of each rank
constexpr std::int64_t kReturned = 5;   // likewise
constexpr std::int64_t kLeft = 6;       // items of the second product that have ended
constexpr std::int64_t kArrived = 7;    // of each wave; then one of each tile of tokens
// Flags of a set are numbered in a range of their own.
constexpr int kSetBits = 32;

constexpr std::array<std::string_view, 2> kDispatchNames = {"pull", "push"};

double element_bytes(Dtype d) { return static_cast<double>(workloads::element_bits(d)) / 8.0; }

// A product's formats: tokens go to MXFP4 weights with a power of two per 32 channels.
GemmProblem product_of(const ExpertWavesProblem& p) {
  GemmProblem g = problem_of(p.format);
  if (p.format == GemmFormat::kFp4Fp8) {
    g.fp8_block = 32;
    g.fp8_scale_bytes = 1.0;
  }
  return g;
}

double scale_bytes(const GemmProblem& g) {
  return g.activation == Dtype::kFp8 ? g.fp8_scale_bytes / static_cast<double>(g.fp8_block) : 0.0;
}

Buffer column(Machine& m, std::string_view name, std::int64_t rows, std::int64_t cols = 1,
              std::int64_t slots = 1) {
  return m.buffer({.name = name,
                   .local = Local::kVector,
                   .dtype = Dtype::kFp32,
                   .rows = rows,
                   .cols = cols,
                   .slots = slots});
}

// Rows of a column become 1, 2, 3, ... by doubling distances.
void number_rows(Machine& m, const Buffer& b, std::int64_t rows) {
  m.vector(VectorKind::kFill, b(0, {0, rows, 0, 1}), {}, {.scalar = 1.0});
  for (std::int64_t d = 1; d < rows; d *= 2) {
    const BufferRef later = b(0, {d, rows - d, 0, 1});
    m.vector(VectorKind::kAdd, later, {later, b(0, {0, rows - d, 0, 1})});
  }
}

}  // namespace

void describe(base::ConfigVisitor& v, ExpertWavesDesign& d) {
  using base::Need;
  v.integer({"wave_experts", "experts of a rank that form a wave; 0: by the published rule"},
            d.wave_experts, {.min = 0, .max = 4096});
  v.integer({"ahead", "waves whose tokens are asked for before a wave's products"}, d.ahead,
            {.min = 0, .max = 64});
  base::choice(v, {"dispatch", "who moves tokens: the expert's rank or the token's"}, d.dispatch,
               kDispatchNames);
  v.integer({"dispatch_rows", "tokens of a work item that moves them"}, d.dispatch_rows,
            {.min = 1, .max = 4096});
  v.integer({"dispatch_block", "tokens of one iteration"}, d.dispatch_block,
            {.min = 1, .max = 1024});
  v.integer({"dispatch_slots", "iterations in flight"}, d.dispatch_slots, {.min = 1, .max = 64});
  v.integer({"pairs", "token-expert pairs counted together, at most"}, d.pairs,
            {.min = 1, .max = 1024});
  v.integer({"single_pairs", "up to so many pairs are counted by one core"}, d.single_pairs,
            {.min = 0, .max = 1 << 20});
  v.integer({"publish_rows", "tokens whose choices are written at a time"}, d.publish_rows,
            {.min = 1, .max = 4096});
  v.integer({"sum_columns", "channels of a work item that sums returned rows"}, d.sum_columns,
            {.min = 128, .max = 65536});
  v.integer({"sum_slots", "tokens in flight to it"}, d.sum_slots, {.min = 1, .max = 64});
  base::group(v, {"product", "schedule of both products; tiles in the order of max_tokens"}, [&] {
    describe(v, d.product);
    std::int64_t last = 0;
    for (const GemmTile& t : d.product.tiles) {
      v.check(t.max_tokens > last, "tiles", "each tile needs more max_tokens than the one before");
      v.check(t.min_tokens == 1, "tiles", "tiles of waves begin where the one before ends");
      last = t.max_tokens;
    }
  });
}

std::vector<std::int64_t> balanced_counts(std::int64_t ranks, std::int64_t experts,
                                          std::int64_t tokens, std::int64_t choices) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks * experts));
  // Each rank's pairs go round the experts and begin where the last rank's ended.
  std::int64_t next = 0;
  for (std::int64_t r = 0; r < ranks; ++r) {
    const std::int64_t pairs = tokens * choices;
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int64_t from_start = (e - next % experts + experts) % experts;
      counts[static_cast<std::size_t>(r * experts + e)] =
          pairs / experts + (from_start < pairs % experts ? 1 : 0);
    }
    next += pairs;
  }
  return counts;
}

const GemmTile& wave_tile(const ExpertWavesDesign& design, double tokens_per_expert) {
  const std::vector<GemmTile>& tiles = design.product.tiles;  // one at least
  for (const GemmTile& t : tiles) {
    if (tokens_per_expert <= static_cast<double>(t.max_tokens) + 0.5) return t;
  }
  return tiles.back();
}

void wave_product(const ExpertWavesDesign& design, double tokens_per_expert, GemmDesign& product) {
  GemmTile tile = wave_tile(design, tokens_per_expert);
  // Also for experts that more tokens chose.
  tile.max_tokens = GemmTile{}.max_tokens;
  product = design.product;
  product.tiles.assign(1, tile);
}

std::int64_t experts_per_wave(const ExpertWavesDesign& design, std::int64_t local_experts,
                              double tokens_per_expert, std::int64_t inner, double cores) {
  if (design.wave_experts > 0) return std::min(design.wave_experts, local_experts);
  if (tokens_per_expert < 1.0) return local_experts;
  cores = std::max(1.0, cores);
  const GemmTile& tile = wave_tile(design, tokens_per_expert);
  const double each = std::ceil(tokens_per_expert / static_cast<double>(tile.tokens)) *
                      static_cast<double>(ceil_div(2 * inner, tile.weights));
  const auto least = static_cast<std::int64_t>(std::ceil(2.0 * cores / each));
  if (least >= local_experts) return local_experts;
  std::int64_t best = least;
  double fullest = 0.0;
  for (std::int64_t n = least; n <= std::min(2 * least, local_experts); ++n) {
    const double rounds = static_cast<double>(n) * each / cores;
    const double last = rounds - std::floor(rounds);
    const double full = last > 0.0 ? last : 1.0;
    if (full > fullest + 1e-12) {
      fullest = full;
      best = n;
    }
  }
  return best;
}

ExpertWavesKernel::ExpertWavesKernel(const ExpertWavesProblem& problem,
                                     const ExpertWavesDesign& design, const tile::CoreRates& chip)
    : problem_(problem),
      design_(&design),
      counts_(problem.counts.begin(), problem.counts.end()),
      room_(kCacheShare * chip.cache_capacity) {
  problem_.counts = {};
  const ExpertWavesProblem& p = problem_;
  const auto refuse = [&](const std::string& why) {
    throw base::UnsupportedError(fmt::format("expert_waves on {}: {}", chip.chip, why));
  };
  if (p.ranks < 1 || p.experts % p.ranks != 0) {
    refuse(fmt::format("{} experts cannot be dealt evenly to {} ranks", p.experts, p.ranks));
  }
  if (p.choices > kMoeChoices) {
    refuse(fmt::format("{} experts of a token, at most {}", p.choices, kMoeChoices));
  }
  if (static_cast<std::int64_t>(counts_.size()) != p.ranks * p.experts || p.tokens > p.capacity) {
    refuse("counts of every rank and expert, and room for every token, are needed");
  }
  const std::int64_t local = p.local_experts();
  const std::int64_t first_expert = p.rank * local;

  // What comes here, in the order of experts.
  double here = 0.0;
  double from_others = 0.0;
  double own = 0.0;
  double kept = 0.0;
  std::int64_t all_pairs = 0;
  std::int64_t most_rows = 0;  // of any rank
  std::vector<std::int64_t> rows_of(static_cast<std::size_t>(p.ranks));
  for (std::int64_t s = 0; s < p.ranks; ++s) {
    for (std::int64_t e = 0; e < p.experts; ++e) {
      const std::int64_t n = pairs_of(s, e);
      all_pairs += n;
      rows_of[static_cast<std::size_t>(e / local)] += n;
      const bool mine = e / local == p.rank;
      if (s == p.rank) own += static_cast<double>(n);
      if (s == p.rank && mine) kept += static_cast<double>(n);
      if (mine) here += static_cast<double>(n);
      if (mine && s != p.rank) from_others += static_cast<double>(n);
    }
  }
  for (const std::int64_t rows : rows_of) most_rows = std::max(most_rows, rows);
  received_share_ = here > 0.0 ? from_others / here : 0.0;
  sent_share_ = own > 0.0 ? 1.0 - kept / own : 0.0;
  bool dropped = p.fault != Fault::kDropped;
  group_row_.push_back(0);
  for (std::int64_t e = 0; e < local; ++e) {
    std::int64_t rows = 0;
    for (std::int64_t s = 0; s < p.ranks; ++s) rows += pairs_of(s, first_expert + e);
    if (!dropped && rows > 0) {
      --rows;
      dropped = true;
    }
    groups_.push_back({rows, 1});
    group_row_.push_back(group_row_.back() + rows);
  }
  // Pushed rows come into memory of the same size everywhere.
  const std::int64_t needed = pulls() ? group_row_.back() : most_rows;
  pool_rows_ = p.pool > 0 ? p.pool : needed;
  if (needed > pool_rows_) {
    refuse(fmt::format("{} rows arrive, {} find room", needed, pool_rows_));
  }

  order_.tokens = p.tokens;
  order_.choices = p.choices;
  order_.experts = p.experts;
  order_.hidden = p.hidden;
  if (pulls()) {
    // Straight to their places in the list of expert and source.
    order_.stride = p.ranks * p.capacity;
    order_.first_place = p.rank * p.capacity;
  }
  order_design_.pairs = design.pairs;
  order_design_.single_pairs = design.single_pairs;
  using Pass = ExpertOrderKernel::Pass;
  place_pass_.emplace(order_, order_design_, chip, Pass::kPlace);
  counters_ = p.tokens > 0 ? place_pass_->counters() : 0;
  if (counters_ > 1) count_pass_.emplace(order_, order_design_, chip, Pass::kCount);

  const double mean = static_cast<double>(all_pairs) / static_cast<double>(p.experts);
  wave_product(design, mean, product_);
  GemmProblem up = product_of(p);
  up.groups = groups_;
  up.n = 2 * p.inner;
  up.k = p.hidden;
  up.epilogue = Epilogue::kSwiglu;
  up.swiglu_limit = p.swiglu_limit;
  up.output = up.activation;
  up.tensors = {.weights = "weights_up",
                .activations = "pool",
                .output = "hidden",
                .rows = pool_rows_,
                .row_weights = "row_weights"};
  if (p.fault == Fault::kWeightLeftOut) up.tensors.row_weights = {};
  first_.emplace(up, product_, chip);
  // A tile's activations are quantised where they are.
  hidden_block_ = up.activation == Dtype::kFp8
                      ? std::min(up.fp8_block, std::min(first_->tile_rows(), up.n) / 2)
                      : 0;
  GemmProblem down = product_of(p);
  down.groups = groups_;
  down.n = p.hidden;
  down.k = p.inner;
  down.output = Dtype::kBf16;
  if (hidden_block_ > 0) down.fp8_block = hidden_block_;
  down.tensors = {.weights = "weights_down",
                  .activations = "hidden",
                  .output = "returned",
                  .rows = pool_rows_,
                  .row_places = "row_places",
                  .place_rows = p.ranks * p.capacity * p.choices,
                  .place_home = Home::kPeer,
                  .place_share = received_share_};
  if (p.fault == Fault::kWeightTwice) down.tensors.row_weights = up.tensors.row_weights;
  second_.emplace(down, product_, chip);
  if (first_->splits() > 1 || second_->splits() > 1) {
    refuse("products whose depth is split cannot return rows");
  }

  wave_experts_ = experts_per_wave(design, local, mean, p.inner, chip.cores);
  waves_ = ceil_div(local, wave_experts_);

  publish_ = RowBlocks(p.tokens, design.publish_rows, 0, chip.cores);
  const auto cores = static_cast<std::int64_t>(chip.cores);
  const std::int64_t parts =
      even_parts(p.hidden, std::max(ceil_div(p.hidden, design.sum_columns),
                                    cores / std::max<std::int64_t>(p.tokens, 1)));
  sum_ = RowBlocks(p.tokens, 1, 0, chip.cores, parts);
  sum_width_ = p.hidden / parts;

  // In the order dealt: whatever an item waits for stands before it on its own rank.
  add_segment(WavePhase::kClean, 0, 1);
  if (count_pass_) add_segment(WavePhase::kCount, 0, counters_);
  add_segment(WavePhase::kPlace, 0, counters_);
  add_segment(WavePhase::kPublish, 0, p.tokens > 0 ? publish_.items() : 0);
  add_segment(WavePhase::kAnnounce, 0, p.ranks);
  const auto dispatch = [&](std::int64_t wave) {
    if (wave >= waves_) return;
    std::int64_t moves = 0;
    if (pulls()) {
      for (std::int64_t e = wave_begin(wave); e < wave_begin(wave + 1); ++e) {
        moves += ceil_div(groups_[static_cast<std::size_t>(e)].rows, design.dispatch_rows);
      }
    } else {
      for (std::int64_t to = 0; to < p.ranks; ++to) moves += moves_to(p.rank, to, wave);
    }
    add_segment(WavePhase::kDispatch, wave, moves);
  };
  for (std::int64_t w = 0; w < std::min(design.ahead, waves_); ++w) dispatch(w);
  for (std::int64_t w = 0; w < waves_; ++w) {
    dispatch(w + design.ahead);
    add_segment(WavePhase::kFirst, w, first_of_wave(*first_, w + 1) - first_of_wave(*first_, w));
    add_segment(WavePhase::kSecond, w, first_of_wave(*second_, w + 1) - first_of_wave(*second_, w));
  }
  add_segment(WavePhase::kReturned, 0, p.ranks);
  add_segment(WavePhase::kSum, 0, p.tokens > 0 ? sum_.items() : 0);
  add_segment(WavePhase::kFinish, 0, 1);

  // As many as any layer of these tensors may need.
  std::int64_t least_tile = first_->tile().tokens;
  for (const GemmTile& t : design.product.tiles) least_tile = std::min(least_tile, t.tokens);
  flags_ = kArrived + 2 * local + ceil_div(p.ranks * p.capacity * p.choices, least_tile);
}

std::int64_t ExpertWavesKernel::list_experts() const {
  return pulls() ? problem_.local_experts() : problem_.experts;
}

std::int64_t ExpertWavesKernel::wave_begin(std::int64_t wave) const {
  return std::min(wave * wave_experts_, problem_.local_experts());
}

std::int64_t ExpertWavesKernel::flag(std::int64_t rank, std::int64_t local) const {
  return ((2 * rank + (problem_.layer % 2)) << kSetBits) + local;
}

std::int64_t ExpertWavesKernel::first_of_wave(const GemmKernel& product, std::int64_t wave) const {
  std::int64_t tiles = 0;
  for (std::int64_t e = 0; e < wave_begin(wave); ++e) {
    tiles += ceil_div(groups_[static_cast<std::size_t>(e)].rows, product.tile().tokens);
  }
  return tiles * product.row_tiles();
}

std::int64_t ExpertWavesKernel::moves_to(std::int64_t source, std::int64_t rank,
                                         std::int64_t wave) const {
  std::int64_t moves = 0;
  for (std::int64_t e = wave_begin(wave); e < wave_begin(wave + 1); ++e) {
    moves +=
        ceil_div(pairs_of(source, rank * problem_.local_experts() + e), design_->dispatch_rows);
  }
  return moves;
}

std::int64_t ExpertWavesKernel::arrivals(std::int64_t wave) const {
  std::int64_t signals = 0;
  if (pulls()) {
    for (std::int64_t e = wave_begin(wave); e < wave_begin(wave + 1); ++e) {
      signals += ceil_div(groups_[static_cast<std::size_t>(e)].rows, design_->dispatch_rows);
    }
    return signals;
  }
  for (std::int64_t s = 0; s < problem_.ranks; ++s) signals += moves_to(s, problem_.rank, wave);
  return signals;
}

ExpertWavesKernel::Move ExpertWavesKernel::move_of(std::int64_t wave, std::int64_t within) const {
  const ExpertWavesProblem& p = problem_;
  const std::int64_t local = p.local_experts();
  const std::int64_t size = design_->dispatch_rows;
  // Pushing ranks begin with different receivers.
  for (std::int64_t i = 0; i < (pulls() ? 1 : p.ranks); ++i) {
    const std::int64_t rank = pulls() ? p.rank : (p.rank + i) % p.ranks;
    for (std::int64_t e = wave_begin(wave); e < wave_begin(wave + 1); ++e) {
      const std::int64_t expert = rank * local + e;
      const std::int64_t rows =
          pulls() ? groups_[static_cast<std::size_t>(e)].rows : pairs_of(p.rank, expert);
      const std::int64_t moves = ceil_div(rows, size);
      if (within < moves) {
        return {expert, within * size, std::min(size, rows - within * size)};
      }
      within -= moves;
    }
  }
  return {};
}

void ExpertWavesKernel::add_segment(WavePhase phase, std::int64_t wave, std::int64_t count) {
  if (count == 0) return;
  const std::int64_t first =
      segments_.empty() ? 0 : segments_.back().first + segments_.back().count;
  segments_.push_back({phase, wave, first, count});
}

tile::Launch ExpertWavesKernel::launch() const {
  return {.items = segments_.back().first + segments_.back().count,
          .cores = 0,
          .persistent = design_->product.persistent};
}

ExpertWavesKernel::Role ExpertWavesKernel::role(std::int64_t index) const {
  const auto after = std::upper_bound(segments_.begin(), segments_.end(), index,
                                      [](std::int64_t i, const Segment& s) { return i < s.first; });
  const Segment& s = *(after - 1);
  return {s.phase, s.wave, index - s.first};
}

std::string ExpertWavesKernel::item_name(std::int64_t index) const {
  const Role r = role(index);
  const std::string_view name = kWavePhaseNames[static_cast<std::size_t>(r.phase)];
  const bool in_wave = r.phase == WavePhase::kDispatch || r.phase == WavePhase::kFirst ||
                       r.phase == WavePhase::kSecond;
  return in_wave ? fmt::format("{} of wave {}", name, r.wave) : std::string(name);
}

// Tiles of as many tokens cost the same.
void ExpertWavesKernel::product_classes(
    const GemmKernel& product, const Segment& segment,
    tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  const std::int64_t most = product.tile().tokens;
  const std::int64_t per_tile = product.row_tiles();
  struct Kind {
    std::int64_t tokens = 0;
    std::int64_t first = 0;
    std::int64_t count = 0;
  };
  std::vector<Kind> kinds;
  std::int64_t tile = 0;
  for (std::int64_t e = wave_begin(segment.wave); e < wave_begin(segment.wave + 1); ++e) {
    for (std::int64_t left = groups_[static_cast<std::size_t>(e)].rows; left > 0; left -= most) {
      const std::int64_t tokens = std::min(most, left);
      const auto same = std::find_if(kinds.begin(), kinds.end(),
                                     [&](const Kind& k) { return k.tokens == tokens; });
      if (same == kinds.end()) {
        kinds.push_back({tokens, segment.first + tile * per_tile, per_tile});
      } else {
        same->count += per_tile;
      }
      ++tile;
    }
  }
  std::sort(kinds.begin(), kinds.end(),
            [](const Kind& a, const Kind& b) { return a.tokens > b.tokens; });
  for (const Kind& k : kinds) visit({k.first, k.count});
}

void ExpertWavesKernel::classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const {
  for (const Segment& s : segments_) {
    const auto shifted = [&](const tile::WorkClass& c) { visit({s.first + c.first, c.count}); };
    switch (s.phase) {
      case WavePhase::kCount:
        count_pass_->classes(shifted);
        break;
      case WavePhase::kPlace:
        place_pass_->classes(shifted);
        break;
      case WavePhase::kPublish:
        publish_.classes(shifted);
        break;
      case WavePhase::kDispatch: {
        // Whole items, then the shorter ones by size.
        std::vector<std::array<std::int64_t, 3>> kinds;  // rows, first, count
        for (std::int64_t i = 0; i < s.count; ++i) {
          const std::int64_t rows = move_of(s.wave, i).rows;
          const auto same =
              std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k[0] == rows; });
          if (same == kinds.end()) {
            kinds.push_back({rows, s.first + i, 1});
          } else {
            ++(*same)[2];
          }
        }
        std::sort(kinds.begin(), kinds.end(),
                  [](const auto& a, const auto& b) { return a[0] > b[0]; });
        for (const auto& k : kinds) visit({k[1], k[2]});
        break;
      }
      case WavePhase::kFirst:
        product_classes(*first_, s, visit);
        break;
      case WavePhase::kSecond:
        product_classes(*second_, s, visit);
        break;
      case WavePhase::kSum:
        sum_.classes(shifted);
        break;
      case WavePhase::kAnnounce:
      case WavePhase::kReturned:
        // Peers, and this rank itself.
        if (s.count > 1) visit({s.first + (problem_.rank == 0 ? 1 : 0), s.count - 1});
        visit({s.first + problem_.rank, 1});
        break;
      case WavePhase::kClean:
      case WavePhase::kFinish:
        visit({s.first, s.count});
        break;
    }
  }
}

void ExpertWavesKernel::item(Machine& m, std::int64_t index) const {
  const ExpertWavesProblem& p = problem_;
  const Role r = role(index);
  const auto wait = [&](std::int64_t local, std::int64_t count) {
    if (count > 0) m.wait(flag(p.rank, local), count);
  };
  switch (r.phase) {
    case WavePhase::kClean: {
      // The other set: its last signals arrived before the layer before ended, and a rank that uses
      // it next has seen this rank's announcements, which wait for this.
      const std::int64_t other = flag(p.rank, 0) ^ (std::int64_t{1} << kSetBits);
      if (p.fault != Fault::kFlagsKept) m.reset(other, flags_);
      m.signal(flag(p.rank, kCleaned));
      return;
    }
    case WavePhase::kCount:
      count_pass_->item(m, r.within);
      m.signal(flag(p.rank, kCounted));
      return;
    case WavePhase::kPlace:
      if (count_pass_) wait(kCounted, counters_);
      place_pass_->item(m, r.within);
      m.signal(flag(p.rank, kPlaced));
      return;
    case WavePhase::kPublish:
      wait(kPlaced, counters_);
      publish(m, r.within);
      m.signal(flag(p.rank, kPublished));
      return;
    case WavePhase::kAnnounce:
      wait(kPublished, p.tokens > 0 ? publish_.items() : 0);
      wait(kCleaned, 1);
      announce(m, r.within);
      return;
    case WavePhase::kDispatch: {
      wait(kAnnounced, p.ranks);
      const Move move = move_of(r.wave, r.within);
      if (pulls()) {
        pull(m, move, r.wave);
      } else {
        push(m, move, r.wave);
      }
      return;
    }
    case WavePhase::kFirst: {
      if (p.fault != Fault::kWaveEarly) wait(kArrived + r.wave, arrivals(r.wave));
      const std::int64_t at = first_of_wave(*first_, r.wave) + r.within;
      first_->item(m, at);
      m.signal(flag(p.rank, kArrived + waves_ + at / first_->row_tiles()));
      return;
    }
    case WavePhase::kSecond: {
      const std::int64_t at = first_of_wave(*second_, r.wave) + r.within;
      const GemmKernel::Place place = second_->place(at);
      // The tiles of the first product that hold these tokens.
      std::int64_t tile = 0;
      for (std::int64_t e = 0; e < place.group; ++e) {
        tile += ceil_div(groups_[static_cast<std::size_t>(e)].rows, first_->tile().tokens);
      }
      const std::int64_t begin =
          place.first_token - group_row_[static_cast<std::size_t>(place.group)];
      const std::int64_t size = first_->tile().tokens;
      for (std::int64_t i = begin / size; i <= (begin + place.tokens - 1) / size; ++i) {
        if (p.fault == Fault::kSecondEarly) break;
        wait(kArrived + waves_ + tile + i, first_->row_tiles());
      }
      second_->item(m, at);
      m.signal(flag(p.rank, kLeft));
      return;
    }
    case WavePhase::kReturned: {
      // After it a peer may begin the next layer: this rank reads nothing any more of what peers
      // write in the layer's first steps.
      if (p.fault != Fault::kReturnedEarly) wait(kLeft, first_of_wave(*second_, waves_));
      const std::int64_t to = r.within;
      m.signal(flag(to, kReturned), to == p.rank ? Home::kCache : Home::kPeer);
      return;
    }
    case WavePhase::kSum:
      if (p.fault != Fault::kSumEarly) wait(kReturned, p.ranks);
      sum(m, r.within);
      return;
    case WavePhase::kFinish:
      wait(kAnnounced, p.ranks);
      wait(kReturned, p.ranks);
      return;
  }
}

TensorSpec ExpertWavesKernel::tokens_tensor(Home home) const {
  const ExpertWavesProblem& p = problem_;
  const GemmProblem g = product_of(p);
  const double bytes = element_bytes(g.activation) + scale_bytes(g);
  TensorSpec t{.name = "tokens",
               .dtype = g.activation,
               .rows = (home == Home::kPeer ? p.ranks : 1) * p.capacity,
               .cols = p.hidden,
               .home = home,
               .scale_bytes = scale_bytes(g),
               .peer_share = received_share_};
  // A token is read for every choice and found in the cache after the first.
  t.memory_bytes = static_cast<double>(p.tokens * p.hidden) * bytes;
  return t;
}

TensorSpec ExpertWavesKernel::pool_tensor() const {
  const ExpertWavesProblem& p = problem_;
  const GemmProblem g = product_of(p);
  const double bytes = static_cast<double>(group_row_.back() * p.hidden) *
                       (element_bytes(g.activation) + scale_bytes(g));
  return {.name = "pool",
          .dtype = g.activation,
          .rows = (pulls() ? 1 : p.ranks) * pool_rows_,
          .cols = p.hidden,
          .home = !pulls()         ? Home::kPeer
                  : bytes <= room_ ? Home::kCache
                                   : Home::kMemory,
          .scale_bytes = scale_bytes(g),
          .memory_bytes = bytes,
          .peer_share = sent_share_};
}

TensorSpec ExpertWavesKernel::pool_column(std::string_view name) const {
  return {.name = name,
          .dtype = Dtype::kFp32,
          .rows = (pulls() ? 1 : problem_.ranks) * pool_rows_,
          .cols = 1,
          .home = pulls() ? Home::kCache : Home::kPeer,
          .peer_share = sent_share_};
}

// Row numbers are computed in FP32 here and in pull() and push(), which is exact up to 2^24; a chip
// has 32-bit integers at the same rate.
//
// Each pair's token, the row its result returns to and its weight, to the list of its expert.
void ExpertWavesKernel::publish(Machine& m, std::int64_t index) const {
  const ExpertWavesProblem& p = problem_;
  const std::int64_t size = publish_.size();
  const std::int64_t first = publish_.first_row(index);
  const std::int64_t rows = publish_.rows(index);
  const TensorId places = m.tensor({.name = "places",
                                    .dtype = Dtype::kInt32,
                                    .rows = p.tokens,
                                    .cols = p.choices,
                                    .home = Home::kCache});
  const TensorId weights = m.tensor({.name = "router_weights",
                                     .dtype = Dtype::kFp32,
                                     .rows = p.tokens,
                                     .cols = p.choices,
                                     .home = Home::kCache});
  const TensorId lists =
      m.tensor({.name = "lists",
                .dtype = Dtype::kFp32,
                .rows = pulls() ? p.experts * p.ranks * p.capacity : p.tokens * p.choices,
                .cols = 3,
                .home = pulls() ? Home::kPeer : Home::kCache,
                .peer_share = sent_share_});
  const Buffer place = column(m, "place_rows", size, p.choices, 2);
  const Buffer weight = column(m, "weight_rows", size, p.choices, 2);
  const Buffer number = column(m, "numbers", size);
  const Buffer token = column(m, "token_rows", size);
  const Buffer entry = column(m, "entries", size, 3, 2);

  const auto rows_of = [&](std::int64_t i) { return std::min(size, rows - i * size); };
  const auto load = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    m.load(place(i, {0, n, 0, p.choices}), places, {first + i * size, n, 0, p.choices});
    m.load(weight(i, {0, n, 0, p.choices}), weights, {first + i * size, n, 0, p.choices});
  };
  const auto write = [&](std::int64_t i) {
    const std::int64_t n = rows_of(i);
    const std::int64_t begin = first + i * size;
    const BufferRef counted = number(0, {0, n, 0, 1});
    const BufferRef at = token(0, {0, n, 0, 1});
    const auto whole = static_cast<double>(p.choices);
    // Pushed tokens are read by their own rank.
    const std::int64_t source = p.fault == Fault::kWrongSource ? (p.rank + 1) % p.ranks : p.rank;
    const std::int64_t first_token = pulls() ? source * p.capacity : 0;
    for (std::int64_t k = 0; k < p.choices; ++k) {
      m.vector(VectorKind::kAdd, entry(k, {0, n, 0, 1}), {counted},
               {.scalar = static_cast<double>(first_token + begin - 1)});
      // Rows of the owner's buffer: token times choices plus choice.
      const auto row = static_cast<double>(p.rank * p.capacity + begin - 1);
      if (p.fault == Fault::kWrongSlot) {
        m.vector(VectorKind::kMul, at, {counted}, {.scalar = -1.0});
        m.vector(VectorKind::kAdd, at, {at}, {.scalar = row + static_cast<double>(n + 1)});
      } else {
        m.vector(VectorKind::kAdd, at, {counted}, {.scalar = row});
      }
      const BufferRef back = entry(k, {0, n, 1, 1});
      m.vector(VectorKind::kMul, back, {at}, {.scalar = whole});
      m.vector(VectorKind::kAdd, back, {back}, {.scalar = static_cast<double>(k)});
      m.vector(VectorKind::kCopy, entry(k, {0, n, 2, 1}), {weight(i, {0, n, k, 1})});
      m.scatter(lists, place(i, {0, n, k, 1}), entry(k, {0, n, 0, 3}));
    }
  };
  number_rows(m, number, std::min(size, rows));
  const std::int64_t whole = publish_.whole(index);
  m.pipeline(whole, {Phase{1, load}, Phase{0, write}});
  if (publish_.rest(index) > 0) {
    load(whole);
    write(whole);
  }
}

// Counts to one rank: pulled tokens are asked for by it, pushed ones find their rows with the
// counts of all.
void ExpertWavesKernel::announce(Machine& m, std::int64_t to) const {
  const ExpertWavesProblem& p = problem_;
  const std::int64_t listed = list_experts();
  const TensorId group_rows = m.tensor({.name = "group_rows",
                                        .dtype = Dtype::kInt32,
                                        .rows = p.experts,
                                        .cols = 1,
                                        .home = Home::kCache});
  const TensorId announced = m.tensor({.name = "announced",
                                       .dtype = Dtype::kInt32,
                                       .rows = p.ranks * listed,
                                       .cols = p.ranks,
                                       .home = Home::kPeer,
                                       .peer_share = 1.0 - 1.0 / static_cast<double>(p.ranks)});
  const Buffer count = column(m, "counts", listed);
  if (p.tokens > 0) {
    m.load(count(), group_rows, {pulls() ? to * listed : 0, listed, 0, 1});
  } else {
    m.vector(VectorKind::kFill, count(), {});
  }
  const auto signal = [&] {
    m.signal(flag(to, kAnnounced), to == p.rank ? Home::kCache : Home::kPeer);
  };
  if (p.fault == Fault::kAnnouncedEarly) signal();
  m.store(announced, {to * listed, listed, p.rank, 1}, count());
  if (p.fault != Fault::kAnnouncedEarly) signal();
}

// Tokens of one expert here, from wherever they are. Of the rows of an expert those of the first
// rank come first: a row's source is the number of ranks whose rows have ended before it.
void ExpertWavesKernel::pull(Machine& m, const Move& move, std::int64_t wave) const {
  const ExpertWavesProblem& p = problem_;
  const std::int64_t e = move.expert - p.rank * p.local_experts();
  const std::int64_t n = move.rows;
  const std::int64_t size = design_->dispatch_rows;
  const std::int64_t block = std::min(design_->dispatch_block, size);
  const GemmProblem g = product_of(p);
  const TensorId announced = m.tensor({.name = "announced",
                                       .dtype = Dtype::kInt32,
                                       .rows = p.local_experts(),
                                       .cols = p.ranks,
                                       .home = Home::kCache});
  const TensorId lists = m.tensor({.name = "lists",
                                   .dtype = Dtype::kFp32,
                                   .rows = p.local_experts() * p.ranks * p.capacity,
                                   .cols = 3,
                                   .home = Home::kCache});
  const TensorId tokens = m.tensor(tokens_tensor(Home::kPeer));
  const TensorId pool = m.tensor(pool_tensor());
  const TensorId row_weights = m.tensor(pool_column("row_weights"));
  const TensorId row_places = m.tensor(pool_column("row_places"));
  const Buffer count = column(m, "counts", 1, p.ranks);
  const Buffer end = column(m, "ends", 1, p.ranks);
  const Buffer number = column(m, "numbers", size);
  const Buffer ended = column(m, "ended", size, p.ranks);
  const Buffer before = column(m, "before", size, p.ranks);
  const Buffer skipped = column(m, "skipped", size);
  const Buffer list_row = column(m, "list_rows", size);
  const Buffer entry = column(m, "entries", size, 3);
  const Buffer rows = m.buffer({.name = "token_rows",
                                .local = Local::kOperand,
                                .dtype = g.activation,
                                .rows = block,
                                .cols = p.hidden,
                                .slots = design_->dispatch_slots,
                                .scale_bytes = scale_bytes(g)});

  m.load(count(), announced, {e, 1, 0, p.ranks});
  m.vector(VectorKind::kCopy, end(), {count()});
  for (std::int64_t d = 1; d < p.ranks; d *= 2) {
    const BufferRef later = end(0, {0, 1, d, p.ranks - d});
    m.vector(VectorKind::kAdd, later, {later, end(0, {0, 1, 0, p.ranks - d})});
  }
  const Block one{0, n, 0, 1};
  const Block all{0, n, 0, p.ranks};
  number_rows(m, number, n);
  const BufferRef at = number(0, one);  // counted from one, among the expert's rows
  m.vector(VectorKind::kAdd, at, {at}, {.scalar = static_cast<double>(move.first)});
  m.vector(VectorKind::kSub, ended(0, all), {at, end()});
  m.vector(VectorKind::kMin, ended(0, all), {ended(0, all)}, {.scalar = 1.0});
  m.vector(VectorKind::kMax, ended(0, all), {ended(0, all)}, {.scalar = 0.0});
  m.vector(VectorKind::kMul, before(0, all), {ended(0, all), count()});
  m.vector(VectorKind::kRowSum, skipped(0, one), {before(0, all)});
  const BufferRef from = list_row(0, one);
  m.vector(VectorKind::kRowSum, from, {ended(0, all)});
  m.vector(VectorKind::kMul, from, {from}, {.scalar = static_cast<double>(p.capacity)});
  m.vector(VectorKind::kAdd, from, {from, at});
  m.vector(VectorKind::kSub, from, {from, skipped(0, one)});
  m.vector(VectorKind::kAdd, from, {from},
           {.scalar = static_cast<double>(e * p.ranks * p.capacity - 1)});
  m.gather(entry(0, {0, n, 0, 3}), lists, from, 0, 3);

  std::int64_t to = group_row_[static_cast<std::size_t>(e)] + move.first;
  if (p.fault == Fault::kRowsOverlap && to > 0) --to;
  m.store(row_places, {to, n, 0, 1}, entry(0, {0, n, 1, 1}));
  m.store(row_weights, {to, n, 0, 1}, entry(0, {0, n, 2, 1}));
  const auto load = [&](std::int64_t i) {
    const std::int64_t c = std::min(block, n - i * block);
    m.gather(rows(i, {0, c, 0, p.hidden}), tokens, entry(0, {i * block, c, 0, 1}), 0, p.hidden);
  };
  const auto store = [&](std::int64_t i) {
    const std::int64_t c = std::min(block, n - i * block);
    m.store(pool, {to + i * block, c, 0, p.hidden}, rows(i, {0, c, 0, p.hidden}));
  };
  m.pipeline(n / block, {Phase{design_->dispatch_slots - 1, load}, Phase{0, store}});
  if (n % block > 0) {
    load(n / block);
    store(n / block);
  }
  m.signal(flag(p.rank, kArrived + wave));
}

// Tokens of this rank to one expert, wherever it is. Its rows begin after those of the experts
// before it, and after those that lower ranks send.
void ExpertWavesKernel::push(Machine& m, const Move& move, std::int64_t wave) const {
  const ExpertWavesProblem& p = problem_;
  const std::int64_t local = p.local_experts();
  const std::int64_t owner = move.expert / local;
  const std::int64_t e = move.expert % local;
  const std::int64_t n = move.rows;
  const std::int64_t size = design_->dispatch_rows;
  const std::int64_t block = std::min(design_->dispatch_block, size);
  const GemmProblem g = product_of(p);
  const TensorId announced = m.tensor({.name = "announced",
                                       .dtype = Dtype::kInt32,
                                       .rows = p.experts,
                                       .cols = p.ranks,
                                       .home = Home::kCache});
  const TensorId lists = m.tensor({.name = "lists",
                                   .dtype = Dtype::kFp32,
                                   .rows = p.tokens * p.choices,
                                   .cols = 3,
                                   .home = Home::kCache});
  const double token_bytes =
      static_cast<double>(p.tokens * p.hidden) * (element_bytes(g.activation) + scale_bytes(g));
  const TensorId tokens =
      m.tensor(tokens_tensor(token_bytes <= room_ ? Home::kCache : Home::kMemory));
  const TensorId pool = m.tensor(pool_tensor());
  const TensorId row_weights = m.tensor(pool_column("row_weights"));
  const TensorId row_places = m.tensor(pool_column("row_places"));
  const Buffer earlier = column(m, "earlier_experts", local, p.ranks);
  const Buffer by_rank = column(m, "by_rank", 1, p.ranks);
  const Buffer lower = column(m, "lower_ranks", 1, p.ranks);
  const Buffer base = column(m, "base", 1, 1);
  const Buffer part = column(m, "part", 1, 1);
  const Buffer number = column(m, "numbers", size);
  const Buffer entry = column(m, "entries", size, 3);
  const Buffer rows = m.buffer({.name = "token_rows",
                                .local = Local::kOperand,
                                .dtype = g.activation,
                                .rows = block,
                                .cols = p.hidden,
                                .slots = design_->dispatch_slots,
                                .scale_bytes = scale_bytes(g)});

  m.vector(VectorKind::kFill, base(), {},
           {.scalar = static_cast<double>(owner * pool_rows_ + move.first - 1)});
  if (e > 0) {
    m.load(earlier(0, {0, e, 0, p.ranks}), announced, {owner * local, e, 0, p.ranks});
    m.vector(VectorKind::kColSum, by_rank(), {earlier(0, {0, e, 0, p.ranks})});
    m.vector(VectorKind::kRowSum, part(), {by_rank()});
    m.vector(VectorKind::kAdd, base(), {base(), part()});
  }
  if (p.rank > 0) {
    m.load(lower(0, {0, 1, 0, p.rank}), announced, {move.expert, 1, 0, p.rank});
    m.vector(VectorKind::kRowSum, part(), {lower(0, {0, 1, 0, p.rank})});
    m.vector(VectorKind::kAdd, base(), {base(), part()});
  }
  if (p.fault == Fault::kRowsOverlap && e > 0) {
    m.vector(VectorKind::kAdd, base(), {base()}, {.scalar = -1.0});
  }
  const BufferRef to = number(0, {0, n, 0, 1});
  number_rows(m, number, n);
  m.vector(VectorKind::kAdd, to, {to, base()});

  std::int64_t first = move.first;  // of this rank's pairs in the order of experts
  for (std::int64_t i = 0; i < move.expert; ++i) first += pairs_of(p.rank, i);
  m.load(entry(0, {0, n, 0, 3}), lists, {first, n, 0, 3});
  m.scatter(row_places, to, entry(0, {0, n, 1, 1}));
  m.scatter(row_weights, to, entry(0, {0, n, 2, 1}));
  const auto load = [&](std::int64_t i) {
    const std::int64_t c = std::min(block, n - i * block);
    m.gather(rows(i, {0, c, 0, p.hidden}), tokens, entry(0, {i * block, c, 0, 1}), 0, p.hidden);
  };
  const auto store = [&](std::int64_t i) {
    const std::int64_t c = std::min(block, n - i * block);
    m.scatter(pool, number(0, {i * block, c, 0, 1}), rows(i, {0, c, 0, p.hidden}));
  };
  m.pipeline(n / block, {Phase{design_->dispatch_slots - 1, load}, Phase{0, store}});
  if (n % block > 0) {
    load(n / block);
    store(n / block);
  }
  m.signal(flag(owner, kArrived + wave), owner == p.rank ? Home::kCache : Home::kPeer);
}

// A token's returned rows, in the order of its choices.
void ExpertWavesKernel::sum(Machine& m, std::int64_t index) const {
  const ExpertWavesProblem& p = problem_;
  const std::int64_t first = sum_.first_row(index);
  const std::int64_t col = sum_.part(index) * sum_width_;
  const double in_bytes = 2.0 * static_cast<double>(p.tokens * p.choices * p.hidden);
  const double out_bytes = 2.0 * static_cast<double>(p.tokens * p.hidden);
  // By the rank's own part of what its peers write.
  const TensorId returned = m.tensor({.name = "returned",
                                      .dtype = Dtype::kBf16,
                                      .rows = p.capacity * p.choices,
                                      .cols = p.hidden,
                                      .home = in_bytes <= room_ ? Home::kCache : Home::kMemory,
                                      .memory_bytes = in_bytes});
  const TensorId output = m.tensor({.name = "output",
                                    .dtype = Dtype::kBf16,
                                    .rows = p.tokens,
                                    .cols = p.hidden,
                                    .home = out_bytes <= room_ ? Home::kCache : Home::kMemory});
  const auto buffer = [&](std::string_view name, Dtype d, std::int64_t rows) {
    return m.buffer({.name = name,
                     .local = Local::kVector,
                     .dtype = d,
                     .rows = rows,
                     .cols = sum_width_,
                     .slots = design_->sum_slots});
  };
  const Buffer in = buffer("expert_rows", Dtype::kBf16, p.choices);
  const Buffer total = buffer("total", Dtype::kFp32, 1);
  const Buffer leaving = buffer("leaving", Dtype::kBf16, 1);
  const auto load = [&](std::int64_t i) {
    m.load(in(i), returned, {(first + i) * p.choices, p.choices, col, sum_width_});
  };
  const auto add = [&](std::int64_t i) {
    m.vector(VectorKind::kColSum, total(i), {in(i)});
    m.vector(VectorKind::kCopy, leaving(i), {total(i)});
    m.store(output, {first + i, 1, col, sum_width_}, leaving(i));
  };
  m.pipeline(sum_.rows(index), {Phase{design_->sum_slots - 1, load}, Phase{0, add}});
}

}  // namespace foretoken::hwmodels::kernels
