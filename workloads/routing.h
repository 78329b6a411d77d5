// How tokens choose experts, as a plan names it: "balanced", "power_law:1.2", "popularity:FILE".
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace foretoken::workloads {

enum class Routing : std::uint8_t {
  kBalanced,         // every expert gets its equal share of the token-expert pairs
  kUniform,          // independent uniform choices: some experts of a small batch stay idle
  kHash,             // hash layers choose by token id; other layers uniformly
  kPowerLaw,         // popularity by a bounded power law, pairs dealt in proportion to it
  kPowerLawSampled,  // the same popularity, every token choosing for itself
  kZipf,             // popularity rank^-exponent in a random order, every token for itself
  kPopularity,       // popularity from a file, every token for itself
  kRecorded,         // choices a router made, from a file: stretches of them are replayed
};

// What a file gave: popularity of each expert, or the experts of one token after another.
struct RoutingData {
  std::string file;
  std::vector<double> popularity;
  std::vector<std::int32_t> choices;  // [tokens][topk]
  std::int64_t topk = 0;
};

// Implicit from Routing: kinds without a parameter are named by the enumerator alone.
struct RoutingSpec {
  Routing kind = Routing::kUniform;
  double exponent = 0.0;  // kPowerLaw, kPowerLawSampled, kZipf; kHash: of the token ids
  std::shared_ptr<const RoutingData> data;  // kPopularity, kRecorded

  RoutingSpec() = default;
  RoutingSpec(Routing k);  // NOLINT(google-explicit-constructor)
  RoutingSpec(Routing k, double e) : kind(k), exponent(e) {}
  bool operator==(const RoutingSpec&) const = default;
};

// Whether some rank expects more work than another because of what tokens choose.
constexpr bool is_skewed(Routing kind) {
  return kind != Routing::kBalanced && kind != Routing::kUniform;
}

// Exponent of token ids in running text by falling frequency (Zipf's law).
inline constexpr double kTextExponent = 1.0;

// "uniform", "power_law:1.2", "hash", "hash:0.9", "zipf:0.8", "popularity:FILE", "recorded:FILE".
// Throws UsageError for an unknown kind or an exponent outside its range, ConfigError for a bad
// file.
RoutingSpec parse_routing(std::string_view text);
std::string to_string(const RoutingSpec& routing);

// The names measurement tables use: "balanced", "uniform", "power_law_1.2",
// "power_law_sampled_1.9". Throws UnsupportedError for another.
RoutingSpec routing_distribution(std::string_view name);

// One number per line and expert, of which at least one is positive; '#' starts a comment.
RoutingData read_popularity(const std::filesystem::path& path);
// The experts of one token per line, as many on each, separated by commas or spaces.
RoutingData read_choices(const std::filesystem::path& path);

}  // namespace foretoken::workloads
