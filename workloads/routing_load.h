// How many token-expert pairs each rank gets: choices of tokens, copies of popular experts, the
// slowest rank and how much it varies. Everything is a function of its arguments and a seed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "workloads/routing.h"

namespace foretoken::workloads {

// Which rank holds which expert. An expert with replicas has several slots.
struct Placement {
  struct Slot {
    std::int32_t expert;
    std::int32_t rank;
    bool operator==(const Slot&) const = default;
  };
  std::int64_t experts = 0;
  std::int64_t ranks = 1;
  std::int64_t ranks_per_node = 1;
  std::vector<Slot> slots;          // by expert, then rank
  std::vector<std::int32_t> first;  // of each expert in `slots`; one more entry at the end

  [[nodiscard]] std::int64_t nodes() const { return (ranks + ranks_per_node - 1) / ranks_per_node; }
  [[nodiscard]] std::int64_t node_of(std::int64_t rank) const { return rank / ranks_per_node; }
  [[nodiscard]] std::span<const Slot> slots_of(std::int64_t expert) const {
    const auto e = static_cast<std::size_t>(expert);
    return std::span(slots).subspan(static_cast<std::size_t>(first[e]),
                                    static_cast<std::size_t>(first[e + 1] - first[e]));
  }
};

// Experts in order, as evenly as they go. `ranks_per_node` 0: all ranks in one node.
Placement contiguous_placement(std::int64_t experts, std::int64_t ranks,
                               std::int64_t ranks_per_node = 0);

// `replicas` more slots for the experts with the most load per copy, and all slots packed on ranks
// heaviest first, each where the load is least; a rank has its equal share of slots and no expert
// twice while that can be helped. `by_node` divides experts over nodes first and copies only inside
// a node, so that a token's traffic between nodes does not depend on which copy it is sent to.
// No rank is ever more loaded than under contiguous_placement, which is the answer, without its
// replicas, where packing cannot help. Throws UnsupportedError for more replicas than ranks
// can hold different experts.
Placement replicated_placement(std::span<const double> load, std::int64_t replicas,
                               std::int64_t ranks, std::int64_t ranks_per_node = 0,
                               bool by_node = false);

// What each rank gets of a load by expert that copies share evenly.
std::vector<double> rank_load(const Placement& placement, std::span<const double> load);

// Experts that the tokens of `sources` ranks choose, `tokens` on each: [source][token][topk], the
// experts of a token all different.
struct Choices {
  std::int64_t sources = 1;
  std::int64_t tokens = 0;
  std::int64_t topk = 1;
  std::int64_t experts = 1;
  std::vector<std::int32_t> expert;
};

enum class ReplicaChoice : std::uint8_t {
  kEven,     // copies take pairs in turn
  kNearest,  // own rank, else own node, else in turn
};

// Pairs by source, and tokens that travel once per rank or node however many of its experts they
// chose. Source s is rank s * ranks / sources.
struct ExpertLoad {
  std::int64_t sources = 0;
  std::int64_t topk = 1;
  Placement placement;
  std::vector<std::int64_t> pairs;        // [source][expert]
  std::vector<std::int64_t> slot_rows;    // [slot]: rows of that copy's products
  std::vector<std::int64_t> rank_pairs;   // [source][rank]
  std::vector<std::int64_t> rank_tokens;  // [source][rank], distinct
  std::vector<std::int64_t> node_tokens;  // [source][node], distinct

  [[nodiscard]] std::int64_t pairs_at(std::int64_t source, std::int64_t expert) const {
    return pairs[static_cast<std::size_t>(source * placement.experts + expert)];
  }
  [[nodiscard]] std::int64_t total_pairs() const;
  [[nodiscard]] std::vector<std::int64_t> pairs_by_rank() const;
  [[nodiscard]] std::vector<std::int64_t> touched_by_rank() const;  // slots with rows
};
ExpertLoad count_load(const Choices& choices, const Placement& placement,
                      ReplicaChoice replicas = ReplicaChoice::kEven);

// One layer's choice for all tokens of an expert-parallel group.
struct RoutingCase {
  RoutingSpec routing;
  std::int64_t experts = 1;
  std::int64_t topk = 1;
  std::int64_t tokens = 0;  // over all sources
  std::uint64_t seed = 1;
  std::int64_t vocabulary = 129280;  // kHash
  bool operator==(const RoutingCase&) const = default;
};

// Draws of one case. A draw is one layer at one time: a new popularity or placement of the popular
// experts, and new tokens.
class RoutingGenerator {
 public:
  // Throws UnsupportedError when tokens choose more experts than there are, or a file is about
  // another number of experts or choices.
  explicit RoutingGenerator(RoutingCase one);

  // Pairs that each expert is expected to get in draw `draw`.
  [[nodiscard]] std::vector<double> popularity(std::uint64_t draw) const;
  // Pairs of each expert; their sum is tokens * topk. Costs little however many tokens there are.
  [[nodiscard]] std::vector<std::int64_t> pairs(std::uint64_t draw) const;
  // Every token's choice. tokens must divide by sources.
  [[nodiscard]] Choices choices(std::int64_t sources, std::uint64_t draw) const;

 private:
  [[nodiscard]] std::vector<double> weights(std::uint64_t draw) const;
  [[nodiscard]] std::vector<std::int32_t> sample(std::span<const double> weights,
                                                 std::uint64_t draw) const;
  [[nodiscard]] std::vector<std::int32_t> deal(std::span<const std::int64_t> pairs,
                                               std::int64_t sources, std::uint64_t draw) const;

  RoutingCase case_;
  std::vector<double> token_ids_;         // kHash: cumulative frequency
  std::vector<std::int32_t> hash_table_;  // kHash: [vocabulary][topk]
  std::vector<double> hash_popularity_;   // kHash: share of the tokens that choose each expert
};

// One draw on ranks.
struct RankLoad {
  double factor = 1.0;             // most pairs of a rank over the mean
  std::int64_t pairs = 0;          // of the rank with the most
  std::int64_t touched = 0;        // slots of that rank with rows
  std::int64_t most_touched = 0;   // over ranks
  std::vector<std::int64_t> rows;  // of that rank's slots, largest first, zeros left out
};
// Replicas are placed for the draw's popularity.
RankLoad slowest_rank(const RoutingGenerator& generator, const RoutingCase& one, std::int64_t ranks,
                      std::int64_t replicas, std::uint64_t draw);

// Over draws 0 .. draws - 1.
struct LoadPercentiles {
  double mean = 1.0, p50 = 1.0, p90 = 1.0, p99 = 1.0;  // of RankLoad::factor
  double touched = 0.0;                                // mean, of the slowest rank
  double most_touched = 0.0;                           // mean
  // The draw with the median factor: what one draw, as a benchmark makes, most likely resembles.
  std::uint64_t typical_draw = 0;
};
LoadPercentiles load_percentiles(const RoutingCase& one, std::int64_t ranks,
                                 std::int64_t replicas = 0, std::int64_t draws = 64);

// The slowest rank as closed forms use it: mean over 64 draws. Both numbers may be of different
// ranks: a rank's time is the larger of reading weights and multiplying, so the slowest over ranks
// is the larger of both maxima. Remembered per thread, by value of the arguments.
struct ExpectedLoad {
  std::int64_t pairs = 0;
  std::int64_t touched = 0;
};
ExpectedLoad expected_load(const RoutingCase& one, std::int64_t ranks, std::int64_t replicas);

}  // namespace foretoken::workloads
