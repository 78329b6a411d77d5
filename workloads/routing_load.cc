#include "workloads/routing_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>
#include <numeric>

#include "sim/base/error.h"
#include "workloads/plan.h"

namespace foretoken::workloads {

namespace {

constexpr std::int64_t kExpectedDraws = 64;
// Above this many tokens the number that choose an expert is drawn at once, not token by token.
constexpr std::int64_t kTokenByToken = 512;
// Work and memory of a draw grow with both; no model is near.
constexpr std::int64_t kMostExperts = 65536;
constexpr std::int64_t kMostChoices = 1024;
// Popularity of the power law as the public collectors of expert-parallel kernels draw it: from one
// pair for the least to four fifths of all tokens for the most popular expert.
constexpr double kLeastPopular = 1.0;
constexpr double kMostPopularShare = 0.8;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// SplitMix64: the same numbers with every compiler and library.
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t stream) : state_(seed * 0x9e3779b97f4a7c15u ^ stream) {
    next();
    state_ += stream * 0xd1342543de82ef95u;
  }
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)
  std::int64_t below(std::int64_t n) {
    return std::min(n - 1, static_cast<std::int64_t>(uniform() * static_cast<double>(n)));
  }
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }
  template <class T>
  void shuffle(std::vector<T>& v) {
    for (std::size_t i = v.size(); i > 1; --i) {
      std::swap(v[i - 1], v[at(below(static_cast<std::int64_t>(i)))]);
    }
  }

 private:
  std::uint64_t state_;
};

// Streams of random numbers within a draw.
enum Stream : std::uint64_t { kWeights = 1, kTokens = 2, kTable = 3, kDeal = 4 };
constexpr std::uint64_t stream_of(Stream what, std::uint64_t draw) { return draw * 8 + what; }

// Scales to `total` with no value above `most`; the excess goes to the others in proportion.
void scale_to(std::vector<double>& values, double total, double most) {
  std::vector<bool> full(values.size(), false);
  for (bool again = true; again;) {
    again = false;
    double room = total;
    double sum = 0.0;
    std::size_t open = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (full[i]) {
        room -= most;
      } else {
        sum += values[i];
        ++open;
      }
    }
    if (open == 0) return;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (full[i]) continue;
      // Nobody asks for those left: they share alike.
      values[i] = sum > 0.0 ? values[i] * (room / sum) : room / static_cast<double>(open);
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (full[i] || values[i] <= most) continue;
      values[i] = most;
      full[i] = true;
      again = true;
    }
  }
}

// Whole numbers that sum to `total`: the floor, and one more where the remainder is largest.
std::vector<std::int64_t> apportion(const std::vector<double>& values, std::int64_t total) {
  std::vector<std::int64_t> whole(values.size());
  std::vector<std::size_t> order(values.size());
  std::int64_t rest = total;
  for (std::size_t i = 0; i < values.size(); ++i) {
    whole[i] = static_cast<std::int64_t>(values[i] * (1.0 + 1e-15));
    rest -= whole[i];
    order[i] = i;
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return values[a] - static_cast<double>(whole[a]) > values[b] - static_cast<double>(whole[b]);
  });
  // Rounding of doubles can leave the sum short of or above the total by a few.
  for (std::size_t i = 0; rest > 0; i = (i + 1) % order.size(), --rest) ++whole[order[i]];
  for (std::size_t i = order.size(); rest < 0; i = i == 0 ? order.size() : i) {
    --i;
    if (whole[order[i]] > 0) {
      --whole[order[i]];
      ++rest;
    }
  }
  return whole;
}

// `k` different numbers below `n`, in the order drawn.
void choose_any(Random& random, std::int64_t n, std::int64_t k, std::int32_t* out) {
  for (std::int64_t i = 0; i < k;) {
    const auto candidate = static_cast<std::int32_t>(random.below(n));
    if (std::find(out, out + i, candidate) == out + i) out[i++] = candidate;
  }
}

// `k` different experts one after another, each in proportion to the weights of those left.
void choose_weighted(Random& random, std::span<const double> cumulative, std::int64_t k,
                     std::int32_t* out) {
  constexpr int kTries = 32;
  const auto n = static_cast<std::int64_t>(cumulative.size());
  for (std::int64_t i = 0; i < k; ++i) {
    std::int32_t found = -1;
    for (int attempt = 0; attempt < kTries && found < 0; ++attempt) {
      const double u = random.uniform() * cumulative.back();
      const auto to = std::upper_bound(cumulative.begin(), cumulative.end(), u);
      const auto e =
          static_cast<std::int32_t>(std::min<std::int64_t>(to - cumulative.begin(), n - 1));
      if (std::find(out, out + i, e) == out + i) found = e;
    }
    if (found < 0) {
      // Those already chosen have nearly all the weight.
      double left = 0.0;
      const auto weight = [&](std::int64_t e) {
        if (std::find(out, out + i, static_cast<std::int32_t>(e)) != out + i) return -1.0;
        return cumulative[at(e)] - (e > 0 ? cumulative[at(e - 1)] : 0.0);
      };
      for (std::int64_t e = 0; e < n; ++e) left += std::max(0.0, weight(e));
      double u = random.uniform() * left;
      for (std::int64_t e = 0; e < n; ++e) {
        const double w = weight(e);
        if (w < 0.0) continue;
        if (found < 0 || w > 0.0) found = static_cast<std::int32_t>(e);
        u -= w;
        if (u < 0.0) break;
      }
    }
    out[i] = found;
  }
}

// How many of `tokens` choose an expert that each chooses with that probability.
double binomial(Random& random, double tokens, double probability) {
  const double mean = tokens * probability;
  if (mean < 30.0) {  // Poisson, by multiplying until below exp(-mean)
    const double limit = std::exp(-mean);
    double product = random.uniform();
    double n = 0.0;
    for (; product > limit; product *= random.uniform()) n += 1.0;
    return std::min(n, tokens);
  }
  const double value = mean + std::sqrt(mean * (1.0 - probability)) * random.normal();
  return std::clamp(std::round(value), 0.0, tokens);
}

// The share of tokens that choose each expert when k are drawn one after another: with exponential
// waiting times at rates `weights`, those that come within the time by which k have come.
std::vector<double> inclusion(std::span<const double> weights, std::int64_t k) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> share(weights.size(), 1.0);
  if (static_cast<std::int64_t>(weights.size()) <= k) return share;
  // Experts nobody asks for come last, but they come when k exceeds the others.
  const double least = sum * 1e-15;
  const auto expected = [&](double log_time) {
    const double time = std::exp(log_time) / sum;
    double all = 0.0;
    for (std::size_t e = 0; e < weights.size(); ++e) {
      share[e] = -std::expm1(-time * std::max(weights[e], least));
      all += share[e];
    }
    return all;
  };
  double low = -60.0;
  double high = 60.0;
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (low + high);
    (expected(middle) < static_cast<double>(k) ? low : high) = middle;
  }
  expected(high);
  return share;
}

Placement ordered(std::int64_t experts, std::int64_t ranks, std::int64_t ranks_per_node,
                  std::vector<Placement::Slot> slots) {
  Placement p;
  p.experts = experts;
  p.ranks = ranks;
  p.ranks_per_node = ranks_per_node > 0 ? ranks_per_node : ranks;
  std::sort(slots.begin(), slots.end(), [](const Placement::Slot& a, const Placement::Slot& b) {
    return a.expert != b.expert ? a.expert < b.expert : a.rank < b.rank;
  });
  p.slots = std::move(slots);
  p.first.assign(at(experts + 1), 0);
  for (const Placement::Slot& s : p.slots) ++p.first[static_cast<std::size_t>(s.expert) + 1];
  std::partial_sum(p.first.begin(), p.first.end(), p.first.begin());
  return p;
}

// Experts `members` with `slots` slots on ranks [first_rank, ...) of the given capacities.
void replicate_and_pack(std::span<const double> load, std::span<const std::int32_t> members,
                        std::span<const std::int64_t> capacity, std::int64_t first_rank,
                        std::vector<Placement::Slot>& out) {
  const auto ranks = static_cast<std::int64_t>(capacity.size());
  const std::int64_t slots = std::accumulate(capacity.begin(), capacity.end(), std::int64_t{0});
  std::vector<std::int64_t> copies(members.size(), 1);
  for (auto more = slots - static_cast<std::int64_t>(members.size()); more > 0; --more) {
    std::size_t best = members.size();
    double most = -1.0;
    for (std::size_t i = 0; i < members.size(); ++i) {
      const double each =
          load[static_cast<std::size_t>(members[i])] / static_cast<double>(copies[i]);
      if (copies[i] < ranks && each > most) {
        most = each;
        best = i;
      }
    }
    assert(best < members.size());
    ++copies[best];
  }
  struct Item {
    double load;
    std::int32_t expert;
  };
  std::vector<Item> items;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const double each = load[static_cast<std::size_t>(members[i])] / static_cast<double>(copies[i]);
    items.insert(items.end(), at(copies[i]), {each, members[i]});
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.load > b.load; });
  std::vector<double> sum(capacity.size(), 0.0);
  std::vector<std::int64_t> used(capacity.size(), 0);
  std::vector<std::vector<std::int32_t>> held(capacity.size());
  for (const Item& item : items) {
    std::size_t best = capacity.size();
    bool best_has = true;
    for (std::size_t r = 0; r < capacity.size(); ++r) {
      if (used[r] >= capacity[r]) continue;
      // Copies of an expert come one after another, so a copy already here is the last one.
      const bool has = !held[r].empty() && held[r].back() == item.expert;
      if (best == capacity.size() || (best_has && !has) ||
          (best_has == has && sum[r] < sum[best])) {
        best = r;
        best_has = has;
      }
    }
    sum[best] += item.load;
    ++used[best];
    held[best].push_back(item.expert);
    out.push_back(
        {item.expert, static_cast<std::int32_t>(first_rank) + static_cast<std::int32_t>(best)});
  }
}

double largest(const std::vector<double>& values) {
  return values.empty() ? 0.0 : *std::max_element(values.begin(), values.end());
}

}  // namespace

Placement contiguous_placement(std::int64_t experts, std::int64_t ranks,
                               std::int64_t ranks_per_node) {
  std::vector<Placement::Slot> slots;
  for (std::int64_t r = 0, e = 0; r < ranks; ++r) {
    for (std::int64_t n = share(experts, ranks, r); n > 0; --n, ++e) {
      slots.push_back({static_cast<std::int32_t>(e), static_cast<std::int32_t>(r)});
    }
  }
  return ordered(experts, ranks, ranks_per_node, std::move(slots));
}

Placement replicated_placement(std::span<const double> load, std::int64_t replicas,
                               std::int64_t ranks, std::int64_t ranks_per_node, bool by_node) {
  const auto experts = static_cast<std::int64_t>(load.size());
  Placement plain = contiguous_placement(experts, ranks, ranks_per_node);
  const std::int64_t nodes = by_node ? plain.nodes() : 1;
  const std::int64_t group = by_node ? plain.ranks_per_node : ranks;  // ranks that copy together
  if (replicas > experts * (std::min(group, ranks) - 1)) {
    throw base::UnsupportedError(
        fmt::format("{} replicas of {} experts are more than {} ranks can hold once each", replicas,
                    experts, std::min(group, ranks)));
  }
  std::vector<std::int64_t> capacity;
  for (std::int64_t r = 0; r < ranks; ++r) capacity.push_back(share(experts + replicas, ranks, r));

  // Experts on nodes: heaviest first, to the node with the least load that has room.
  std::vector<std::vector<std::int32_t>> members(at(nodes));
  std::vector<std::int32_t> order(at(experts));
  std::iota(order.begin(), order.end(), 0);
  if (nodes == 1) {
    members[0] = order;
  } else {
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return load[static_cast<std::size_t>(a)] > load[static_cast<std::size_t>(b)];
    });
    std::vector<double> sum(at(nodes), 0.0);
    for (const std::int32_t e : order) {
      std::size_t best = at(nodes);
      for (std::size_t n = 0; n < at(nodes); ++n) {
        const auto room = at(share(experts, nodes, static_cast<std::int64_t>(n)));
        if (members[n].size() < room && (best == at(nodes) || sum[n] < sum[best])) best = n;
      }
      members[best].push_back(e);
      sum[best] += load[static_cast<std::size_t>(e)];
    }
  }
  std::vector<Placement::Slot> slots;
  bool fits = true;
  for (std::int64_t n = 0; n < nodes; ++n) {
    const std::int64_t first = n * group;
    const std::int64_t last = std::min(ranks, first + group);
    const std::span<const std::int64_t> room =
        std::span(capacity).subspan(at(first), at(last - first));
    const std::int64_t here = std::accumulate(room.begin(), room.end(), std::int64_t{0});
    const auto own = static_cast<std::int64_t>(members[at(n)].size());
    // A last node with fewer ranks may not hold its share.
    fits = fits && here >= own && here <= own * (last - first);
    if (fits) replicate_and_pack(load, members[at(n)], room, first, slots);
  }
  if (fits) {
    Placement packed = ordered(experts, ranks, ranks_per_node, std::move(slots));
    if (largest(rank_load(packed, load)) <= largest(rank_load(plain, load))) return packed;
  }
  // Packing whole experts heaviest first is not always best; the plain order is then no worse.
  return plain;
}

std::vector<double> rank_load(const Placement& placement, std::span<const double> load) {
  std::vector<double> out(at(placement.ranks), 0.0);
  for (std::int64_t e = 0; e < placement.experts; ++e) {
    const auto slots = placement.slots_of(e);
    for (const Placement::Slot& s : slots) {
      out[static_cast<std::size_t>(s.rank)] += load[at(e)] / static_cast<double>(slots.size());
    }
  }
  return out;
}

std::int64_t ExpertLoad::total_pairs() const {
  return std::accumulate(pairs.begin(), pairs.end(), std::int64_t{0});
}

std::vector<std::int64_t> ExpertLoad::pairs_by_rank() const {
  std::vector<std::int64_t> out(at(placement.ranks), 0);
  for (std::size_t i = 0; i < placement.slots.size(); ++i) {
    out[static_cast<std::size_t>(placement.slots[i].rank)] += slot_rows[i];
  }
  return out;
}

std::vector<std::int64_t> ExpertLoad::touched_by_rank() const {
  std::vector<std::int64_t> out(at(placement.ranks), 0);
  for (std::size_t i = 0; i < placement.slots.size(); ++i) {
    if (slot_rows[i] > 0) ++out[static_cast<std::size_t>(placement.slots[i].rank)];
  }
  return out;
}

ExpertLoad count_load(const Choices& choices, const Placement& placement, ReplicaChoice replicas) {
  assert(choices.experts == placement.experts);
  ExpertLoad load;
  load.sources = choices.sources;
  load.topk = choices.topk;
  load.placement = placement;
  const std::int64_t nodes = placement.nodes();
  load.pairs.assign(at(choices.sources * placement.experts), 0);
  load.slot_rows.assign(placement.slots.size(), 0);
  load.rank_pairs.assign(at(choices.sources * placement.ranks), 0);
  load.rank_tokens.assign(at(choices.sources * placement.ranks), 0);
  load.node_tokens.assign(at(choices.sources * nodes), 0);
  std::vector<std::int64_t> turn(at(placement.experts), 0);
  // The last token that each rank and node was counted for.
  std::vector<std::int64_t> seen_rank(at(placement.ranks), -1);
  std::vector<std::int64_t> seen_node(at(nodes), -1);
  const std::int64_t all = choices.sources * choices.tokens;
  for (std::int64_t t = 0; t < all; ++t) {
    const std::int64_t source = t / choices.tokens;
    const std::int64_t home = source * placement.ranks / choices.sources;
    for (std::int64_t i = 0; i < choices.topk; ++i) {
      const std::int64_t e = choices.expert[at(t * choices.topk + i)];
      const auto slots = placement.slots_of(e);
      std::size_t chosen = slots.size();
      if (replicas == ReplicaChoice::kNearest && slots.size() > 1) {
        for (std::size_t s = 0; s < slots.size(); ++s) {
          if (slots[s].rank == home) chosen = s;
        }
        for (std::size_t s = 0; s < slots.size() && chosen == slots.size(); ++s) {
          if (placement.node_of(slots[s].rank) == placement.node_of(home)) chosen = s;
        }
      }
      if (chosen == slots.size()) {
        chosen = at(turn[at(e)]++ % static_cast<std::int64_t>(slots.size()));
      }
      const std::int64_t rank = slots[chosen].rank;
      const std::int64_t node = placement.node_of(rank);
      ++load.pairs[at(source * placement.experts + e)];
      ++load.slot_rows[static_cast<std::size_t>(placement.first[at(e)]) + chosen];
      ++load.rank_pairs[at(source * placement.ranks + rank)];
      if (seen_rank[at(rank)] != t) {
        seen_rank[at(rank)] = t;
        ++load.rank_tokens[at(source * placement.ranks + rank)];
      }
      if (seen_node[at(node)] != t) {
        seen_node[at(node)] = t;
        ++load.node_tokens[at(source * nodes + node)];
      }
    }
  }
  return load;
}

RoutingGenerator::RoutingGenerator(RoutingCase one) : case_(std::move(one)) {
  const RoutingSpec& routing = case_.routing;
  if (case_.topk > case_.experts || case_.topk < 1) {
    throw base::UnsupportedError(
        fmt::format("a token cannot choose {} of {} experts", case_.topk, case_.experts));
  }
  if (case_.experts > kMostExperts || case_.topk > kMostChoices) {
    throw base::UnsupportedError(fmt::format("{} choices of {} experts are more than {} of {}",
                                             case_.topk, case_.experts, kMostChoices,
                                             kMostExperts));
  }
  if (routing.kind == Routing::kPopularity) {
    const auto given = static_cast<std::int64_t>(routing.data->popularity.size());
    if (given != case_.experts) {
      throw base::UnsupportedError(fmt::format("{} gives the popularity of {} experts, not of {}",
                                               routing.data->file, given, case_.experts));
    }
  }
  if (routing.kind == Routing::kRecorded) {
    const std::int64_t most =
        *std::max_element(routing.data->choices.begin(), routing.data->choices.end());
    if (routing.data->topk != case_.topk || most >= case_.experts) {
      throw base::UnsupportedError(
          fmt::format("{} records {} choices of experts up to {}, not {} of {} experts",
                      routing.data->file, routing.data->topk, most, case_.topk, case_.experts));
    }
  }
  if (routing.kind == Routing::kHash) {
    const std::int64_t vocabulary = case_.vocabulary;
    hash_table_.resize(at(vocabulary * case_.topk));
    token_ids_.resize(at(vocabulary));
    hash_popularity_.assign(at(case_.experts), 0.0);
    Random random(case_.seed, stream_of(kTable, 0));
    double sum = 0.0;
    for (std::int64_t id = 0; id < vocabulary; ++id) {
      std::int32_t* const row = &hash_table_[at(id * case_.topk)];
      choose_any(random, case_.experts, case_.topk, row);
      const double frequency = std::pow(static_cast<double>(id + 1), -routing.exponent);
      sum += frequency;
      token_ids_[at(id)] = sum;
      for (std::int64_t i = 0; i < case_.topk; ++i) hash_popularity_[at(row[i])] += frequency;
    }
    for (double& p : hash_popularity_) p /= sum;
  }
}

std::vector<double> RoutingGenerator::weights(std::uint64_t draw) const {
  const double tokens = static_cast<double>(case_.tokens);
  std::vector<double> w(at(case_.experts), 1.0);
  Random random(case_.seed, stream_of(kWeights, draw));
  switch (case_.routing.kind) {
    case Routing::kPowerLaw:
    case Routing::kPowerLawSampled: {
      // Inverse of the distribution function of a density x^-a between two bounds.
      const double most = std::max(kLeastPopular, kMostPopularShare * tokens);
      const double power = 1.0 - case_.routing.exponent;
      for (double& x : w) {
        const double u = random.uniform();
        if (std::abs(power) < 1e-9) {
          x = kLeastPopular * std::pow(most / kLeastPopular, u);
        } else {
          const double low = std::pow(kLeastPopular, power);
          x = std::pow((std::pow(most, power) - low) * u + low, 1.0 / power);
        }
      }
      break;
    }
    case Routing::kZipf:
      for (std::size_t e = 0; e < w.size(); ++e) {
        w[e] = std::pow(static_cast<double>(e + 1), -case_.routing.exponent);
      }
      random.shuffle(w);
      break;
    case Routing::kPopularity:
      w = case_.routing.data->popularity;
      break;
    case Routing::kRecorded:
      std::fill(w.begin(), w.end(), 0.0);
      for (const std::int32_t e : case_.routing.data->choices)
        w[static_cast<std::size_t>(e)] += 1.0;
      break;
    case Routing::kHash:
      w = hash_popularity_;
      break;
    case Routing::kBalanced:
    case Routing::kUniform:
      break;
  }
  return w;
}

std::vector<double> RoutingGenerator::popularity(std::uint64_t draw) const {
  const double tokens = static_cast<double>(case_.tokens);
  std::vector<double> w = weights(draw);
  switch (case_.routing.kind) {
    case Routing::kHash:
      for (double& x : w) x *= tokens;
      return w;
    case Routing::kUniform:
    case Routing::kPowerLawSampled:
    case Routing::kZipf:
    case Routing::kPopularity:
      w = inclusion(w, case_.topk);
      for (double& x : w) x *= tokens;
      return w;
    case Routing::kBalanced:
    case Routing::kPowerLaw:
    case Routing::kRecorded:
      break;
  }
  scale_to(w, tokens * static_cast<double>(case_.topk), tokens);
  return w;
}

std::vector<std::int32_t> RoutingGenerator::sample(std::span<const double> w,
                                                   std::uint64_t draw) const {
  std::vector<std::int32_t> out(at(case_.tokens * case_.topk));
  Random random(case_.seed, stream_of(kTokens, draw));
  if (case_.routing.kind == Routing::kRecorded) {
    // A stretch of the recording, from the start again after its end.
    const std::vector<std::int32_t>& all = case_.routing.data->choices;
    const auto recorded = static_cast<std::int64_t>(all.size()) / case_.topk;
    std::size_t from = at(random.below(recorded) * case_.topk);
    for (std::int32_t& e : out) {
      e = all[from];
      from = from + 1 == all.size() ? 0 : from + 1;
    }
    return out;
  }
  std::vector<double> cumulative(w.begin(), w.end());
  std::partial_sum(cumulative.begin(), cumulative.end(), cumulative.begin());
  for (std::int64_t t = 0; t < case_.tokens; ++t) {
    std::int32_t* const row = &out[at(t * case_.topk)];
    if (case_.routing.kind == Routing::kUniform) {
      choose_any(random, case_.experts, case_.topk, row);
    } else if (case_.routing.kind == Routing::kHash) {
      const auto id = std::upper_bound(token_ids_.begin(), token_ids_.end() - 1,
                                       random.uniform() * token_ids_.back()) -
                      token_ids_.begin();
      std::copy_n(&hash_table_[at(id * case_.topk)], case_.topk, row);
    } else {
      choose_weighted(random, cumulative, case_.topk, row);
    }
  }
  return out;
}

std::vector<std::int64_t> RoutingGenerator::pairs(std::uint64_t draw) const {
  const std::int64_t total = case_.tokens * case_.topk;
  std::vector<std::int64_t> counts(at(case_.experts), 0);
  if (total == 0) return counts;
  switch (case_.routing.kind) {
    case Routing::kBalanced: {
      // What does not divide goes to experts at equal distances, so to ranks alike.
      const std::int64_t rest = total % case_.experts;
      std::fill(counts.begin(), counts.end(), total / case_.experts);
      for (std::int64_t i = 0; i < rest; ++i) ++counts[at(i * case_.experts / rest)];
      return counts;
    }
    case Routing::kPowerLaw:
      return apportion(popularity(draw), total);
    case Routing::kUniform:
    case Routing::kHash:
    case Routing::kPowerLawSampled:
    case Routing::kZipf:
    case Routing::kPopularity:
      if (case_.tokens > kTokenByToken) {
        std::vector<double> expected = popularity(draw);
        Random random(case_.seed, stream_of(kTokens, draw));
        const double tokens = static_cast<double>(case_.tokens);
        for (double& x : expected) x = binomial(random, tokens, std::min(1.0, x / tokens));
        scale_to(expected, static_cast<double>(total), tokens);
        return apportion(expected, total);
      }
      break;
    case Routing::kRecorded: {
      // Whole rounds of the recording, and a stretch.
      const std::vector<std::int32_t>& all = case_.routing.data->choices;
      const std::int64_t rounds = total / static_cast<std::int64_t>(all.size());
      for (const std::int32_t e : all) counts[static_cast<std::size_t>(e)] += rounds;
      const std::int64_t rest = total - rounds * static_cast<std::int64_t>(all.size());
      Random random(case_.seed, stream_of(kTokens, draw));
      std::size_t from =
          at(random.below(static_cast<std::int64_t>(all.size()) / case_.topk)) * at(case_.topk);
      for (std::int64_t i = 0; i < rest; ++i) {
        ++counts[static_cast<std::size_t>(all[from])];
        from = from + 1 == all.size() ? 0 : from + 1;
      }
      return counts;
    }
  }
  for (const std::int32_t e : sample(weights(draw), draw)) ++counts[static_cast<std::size_t>(e)];
  return counts;
}

// Tokens for given numbers of pairs: experts stand in a row of tokens * topk places in random
// order, and every stretch of `tokens` places is dealt to all tokens once, sources in turn. An
// expert that crosses from one stretch into the next must not meet the same token again.
std::vector<std::int32_t> RoutingGenerator::deal(std::span<const std::int64_t> pairs,
                                                 std::int64_t sources, std::uint64_t draw) const {
  const std::int64_t tokens = case_.tokens;
  const std::int64_t each = tokens / sources;
  Random random(case_.seed, stream_of(kDeal, draw));
  std::vector<std::int32_t> order(pairs.size());
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  std::vector<std::int32_t> row;
  row.reserve(at(tokens * case_.topk));
  for (const std::int32_t e : order)
    row.insert(row.end(), at(pairs[static_cast<std::size_t>(e)]), e);

  std::vector<std::int32_t> out(row.size());
  std::vector<std::int64_t> turn(at(tokens));
  std::vector<std::vector<std::int64_t>> own(at(sources), std::vector<std::int64_t>(at(each)));
  std::vector<bool> taken(at(tokens), false);
  for (std::int64_t pass = 0; pass < case_.topk; ++pass) {
    const std::vector<std::int64_t> before = turn;
    for (std::int64_t s = 0; s < sources; ++s) {
      std::iota(own[at(s)].begin(), own[at(s)].end(), s * each);
      random.shuffle(own[at(s)]);
    }
    const std::int64_t shift = random.below(sources);
    for (std::int64_t i = 0; i < tokens; ++i) {
      turn[at(i)] = own[at((i + shift) % sources)][at(i / sources)];
    }
    const std::int64_t start = pass * tokens;
    if (pass > 0 && row[at(start)] == row[at(start - 1)]) {
      const std::int32_t expert = row[at(start)];
      std::vector<std::int64_t> marked;
      for (std::int64_t i = tokens; i > 0 && row[at(start - tokens + i - 1)] == expert; --i) {
        marked.push_back(before[at(i - 1)]);
        taken[at(marked.back())] = true;
      }
      std::int64_t count = 0;  // places of this pass that are still the expert's
      while (count < tokens && row[at(start + count)] == expert) ++count;
      // Search from the next place on: free tokens are spread over all of the stretch.
      std::int64_t spare = count;
      for (std::int64_t i = 0; i < count; ++i) {
        if (!taken[at(turn[at(i)])]) continue;
        while (taken[at(turn[at(spare)])]) ++spare;
        std::swap(turn[at(i)], turn[at(spare++)]);
      }
      for (const std::int64_t t : marked) taken[at(t)] = false;
    }
    for (std::int64_t i = 0; i < tokens; ++i) {
      out[at(turn[at(i)] * case_.topk + pass)] = row[at(start + i)];
    }
  }
  return out;
}

Choices RoutingGenerator::choices(std::int64_t sources, std::uint64_t draw) const {
  assert(sources >= 1 && case_.tokens % sources == 0);
  Choices out;
  out.sources = sources;
  out.tokens = case_.tokens / sources;
  out.topk = case_.topk;
  out.experts = case_.experts;
  if (case_.tokens == 0) return out;
  const bool dealt =
      case_.routing.kind == Routing::kBalanced || case_.routing.kind == Routing::kPowerLaw;
  out.expert = dealt ? deal(pairs(draw), sources, draw) : sample(weights(draw), draw);
  return out;
}

RankLoad slowest_rank(const RoutingGenerator& generator, const RoutingCase& one, std::int64_t ranks,
                      std::int64_t replicas, std::uint64_t draw) {
  const std::vector<std::int64_t> pairs = generator.pairs(draw);
  const Placement placement =
      replicas > 0 ? replicated_placement(generator.popularity(draw), replicas, ranks)
                   : contiguous_placement(one.experts, ranks);
  std::vector<std::vector<std::int64_t>> rows(at(ranks));
  std::vector<std::int64_t> sum(at(ranks), 0);
  RankLoad out;
  for (std::int64_t e = 0; e < one.experts; ++e) {
    const auto slots = placement.slots_of(e);
    const auto copies = static_cast<std::int64_t>(slots.size());
    for (std::int64_t c = 0; c < copies; ++c) {
      const std::int64_t n = share(pairs[at(e)], copies, c);
      const auto rank = static_cast<std::size_t>(slots[at(c)].rank);
      sum[rank] += n;
      if (n > 0) rows[rank].push_back(n);
    }
  }
  for (const auto& r : rows) {
    out.most_touched = std::max(out.most_touched, static_cast<std::int64_t>(r.size()));
  }
  const auto slowest =
      static_cast<std::size_t>(std::max_element(sum.begin(), sum.end()) - sum.begin());
  out.pairs = sum[slowest];
  out.touched = static_cast<std::int64_t>(rows[slowest].size());
  out.rows = std::move(rows[slowest]);
  std::sort(out.rows.begin(), out.rows.end(), std::greater<>());
  const double mean = static_cast<double>(one.tokens * one.topk) / static_cast<double>(ranks);
  out.factor = mean > 0.0 ? static_cast<double>(out.pairs) / mean : 1.0;
  return out;
}

LoadPercentiles load_percentiles(const RoutingCase& one, std::int64_t ranks, std::int64_t replicas,
                                 std::int64_t draws) {
  assert(draws >= 1 && ranks >= 1);
  const RoutingGenerator generator(one);
  std::vector<double> factors;
  LoadPercentiles out;
  out.mean = 0.0;
  for (std::int64_t d = 0; d < draws; ++d) {
    const RankLoad load =
        slowest_rank(generator, one, ranks, replicas, static_cast<std::uint64_t>(d));
    factors.push_back(load.factor);
    out.mean += load.factor;
    out.touched += static_cast<double>(load.touched);
    out.most_touched += static_cast<double>(load.most_touched);
  }
  const auto n = static_cast<double>(draws);
  out.mean /= n;
  out.touched /= n;
  out.most_touched /= n;
  const std::vector<double> by_draw = factors;
  std::sort(factors.begin(), factors.end());
  // The smallest factor that at least this share of draws does not exceed.
  const auto percentile = [&](double share_of) {
    const double index = std::ceil(share_of * n) - 1.0;
    return factors[at(std::clamp<std::int64_t>(static_cast<std::int64_t>(index), 0, draws - 1))];
  };
  out.p50 = percentile(0.5);
  out.p90 = percentile(0.9);
  out.p99 = percentile(0.99);
  out.typical_draw = static_cast<std::uint64_t>(std::find(by_draw.begin(), by_draw.end(), out.p50) -
                                                by_draw.begin());
  return out;
}

ExpectedLoad expected_load(const RoutingCase& one, std::int64_t ranks, std::int64_t replicas) {
  struct Known {
    RoutingCase one;
    std::int64_t ranks, replicas;
    ExpectedLoad load;
  };
  // A value depends on the arguments only, so a sweep asks again and again for the same few; the
  // oldest makes room. Holding the case keeps its data alive, hence its address its own.
  constexpr std::size_t kMost = 256;
  thread_local std::vector<Known> known;
  thread_local std::size_t oldest = 0;
  for (const Known& k : known) {
    if (k.ranks == ranks && k.replicas == replicas && k.one == one) return k.load;
  }
  const LoadPercentiles p = load_percentiles(one, ranks, replicas, kExpectedDraws);
  const double mean = static_cast<double>(one.tokens * one.topk) / static_cast<double>(ranks);
  ExpectedLoad load;
  load.pairs =
      std::min(one.tokens * one.topk, static_cast<std::int64_t>(std::llround(p.mean * mean)));
  load.touched = std::min(load.pairs, static_cast<std::int64_t>(std::llround(p.most_touched)));
  if (known.size() < kMost) {
    known.push_back({one, ranks, replicas, load});
  } else {
    known[oldest] = {one, ranks, replicas, load};
    oldest = (oldest + 1) % kMost;
  }
  return load;
}

}  // namespace foretoken::workloads
