// A structure with one field of every kind, for the tests of reading, printing and schemas.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "sim/base/config.h"

namespace foretoken::base::sample {

enum class Policy : std::uint8_t { kFcfs, kShortest };
inline constexpr std::array<std::string_view, 2> kPolicies = {"fcfs", "shortest_first"};

struct Level {
  std::string name;
  Bytes capacity;
  BytesPerSecond bandwidth;
  Seconds latency;  // optional; zero is "not given"
};

struct Link {
  BytesPerSecond bandwidth;
};

struct Unit {
  std::int64_t m = 0;
  Ranged efficiency;
};

struct Chip {
  std::string name;
  std::string note;
  bool dense = true;
  std::int64_t cores = 0;
  Hertz clock;
  double share = 0.5;
  Ranged peak;
  Price price;
  Policy policy = Policy::kFcfs;
  std::vector<std::string> aliases;
  std::vector<std::int64_t> tiles;
  std::vector<double> steps;
  Unit unit;
  Unit spare;  // optional; all zero is "not given"
  std::vector<Level> memory;
  std::map<std::string, Link> links;
};

inline void describe(ConfigVisitor& v, Level& level) {
  v.text({"name", "how reports call it"}, level.name);
  quantity(v, {"capacity", "of one chip"}, level.capacity);
  quantity(v, {"bandwidth", "per direction"}, level.bandwidth);
  quantity(v, {"latency", "of a load", Need::kOptional}, level.latency);
}

inline void describe(ConfigVisitor& v, Link& link) {
  quantity(v, {"bandwidth", "per direction"}, link.bandwidth);
}

inline void describe(ConfigVisitor& v, Unit& unit) {
  v.integer({"m", "rows of one instruction"}, unit.m, {.min = 1, .max = 4096});
  v.ranged({"efficiency", "of large tiles"}, unit.efficiency, UnitKind::kNumber, kFraction);
}

inline void describe(ConfigVisitor& v, Chip& chip) {
  v.text({"name", "of the chip"}, chip.name);
  v.text({"note", "anything", Need::kOptional}, chip.note);
  v.boolean({"dense", "whether peaks are dense", Need::kOptional}, chip.dense);
  v.integer({"cores", "with a matrix unit each"}, chip.cores, {.min = 1, .max = 1024});
  quantity(v, {"clock", "sustained"}, chip.clock);
  v.real({"share", "of cores", Need::kOptional}, chip.share, UnitKind::kNumber, kFraction);
  v.ranged({"peak", "dense"}, chip.peak, UnitKind::kFlopsPerSecond, {});
  v.money({"price", "of one chip", Need::kOptional}, chip.price);
  choice(v, {"policy", "order of requests", Need::kOptional}, chip.policy, kPolicies);
  v.texts({"aliases", "other names", Need::kOptional}, chip.aliases, {.min = 0, .max = 3});
  v.integers({"tiles", "sizes", Need::kOptional}, chip.tiles, {.min = 1}, {.min = 1, .max = 4});
  v.reals({"steps", "voltage steps", Need::kOptional}, chip.steps, UnitKind::kHertz, {}, {});
  group(v, {"unit", "the matrix unit"}, [&] { describe(v, chip.unit); });
  group(v, {"spare", "a second unit", Need::kOptional}, [&] { describe(v, chip.spare); });
  list(v, {"memory", "from far to near"}, chip.memory,
       [](ConfigVisitor& w, Level& level) { describe(w, level); }, {.min = 1, .max = 4});
  table(v, {"links", "by name", Need::kOptional}, chip.links,
        [](ConfigVisitor& w, Link& link) { describe(w, link); }, {.min = 0, .max = 3});
  v.check(chip.cores % 2 == 0, "cores", "'cores' must be even");
}

inline constexpr std::string_view kFull = R"(name: h200_sxm
note: "yes: \"quoted\"\n#2"
dense: false
cores: 132
clock: 1.98 GHz
share: 0.25
peak: {value: 989 TFLOP/s, low: 900 TFLOP/s, high: 1 PFLOP/s}
price: {value: 30 kUSD, low: 25 kUSD}
policy: shortest_first
aliases: [gh200, "12"]
tiles: [64, 1K]
steps: [1 GHz, 1.5 GHz]
unit: {m: 64, efficiency: 0.9}
spare:
  m: 32
  efficiency: {value: 0.5, high: 0.6}
memory:
  - { name: hbm, capacity: 141 GB, bandwidth: 4.8 TB/s }
  - { name: l2, capacity: 50 MiB, bandwidth: 5.5 TB/s, latency: 200 ns }
links:
  nvlink: { bandwidth: 450 GB/s }
  "pcie 5": { bandwidth: 63 GB/s }
)";

inline constexpr std::string_view kShort = R"(name: a
cores: 2
clock: 1 GHz
peak: 1 TFLOP/s
unit: {m: 1, efficiency: 1}
memory: [{name: hbm, capacity: 1 GB, bandwidth: 1 GB/s}]
)";

}  // namespace foretoken::base::sample
