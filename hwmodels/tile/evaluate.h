// The time interpreter in closed form: how long a kernel's tile programs take on a chip, and where
// the time goes.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "hwmodels/tile/program.h"
#include "hwmodels/tile/recorder.h"

namespace foretoken::hwmodels::tile {

// What elapsed time is spent on; the parts add up to the whole.
enum class Part : std::uint8_t {
  kMatrix,
  kVector,
  kMemory,
  kCache,
  kPort,      // the core's own way to the cache
  kExchange,  // between matrix and vector units
  kLatency,   // waiting for data, for slots, for dependent steps
  kTail,      // cores idle because work ran out
  kLaunch
};
inline constexpr int kParts = 9;
inline constexpr std::array<std::string_view, kParts> kPartNames = {
    "matrix", "vector", "memory", "cache", "port", "exchange", "latency", "tail", "launch"};

struct KernelTime {
  double seconds = 0.0;  // launch included
  std::array<double, kParts> parts{};
  // Seconds each is busy, averaged over all cores of the chip; what is shared, at its full rate.
  double matrix = 0.0;
  double vector = 0.0;
  double exchange = 0.0;
  double memory = 0.0;
  double cache = 0.0;
  double link = 0.0;  // of the busier direction
  double memory_bytes = 0.0;
  double cache_bytes = 0.0;
  double peer_loaded = 0.0;  // B over the links
  double peer_stored = 0.0;
  double flops = 0.0;  // useful
  double items = 0.0;
  double cores = 0.0;     // in use
  double waves = 0.0;     // items of the busiest core
  double throttle = 1.0;  // time over that at full clock, for the power limit
};

// Cores that do the same items one after another.
struct CoreGroup {
  std::int64_t cores = 0;
  double finish = 0.0;
  std::vector<std::pair<std::uint32_t, std::int64_t>> items;  // class, how many in a row
};

// Reusable; allocates only while its storage grows.
class Evaluator {
 public:
  // Of what `recorder` recorded last.
  KernelTime evaluate(const Recorder& recorder);

  // What the last evaluate() found: the share of each tensor's loads that comes from memory, the
  // shares of its stores that go there, and how items were dealt.
  [[nodiscard]] std::span<const double> load_share() const { return load_share_; }
  [[nodiscard]] std::span<const double> store_share() const { return store_share_; }
  [[nodiscard]] std::span<const CoreGroup> groups() const { return {groups_.data(), group_count_}; }
  // Keep the items of each group (for simulation); off by default.
  void keep_items(bool on) { keep_items_ = on; }

 private:
  struct ItemTime {
    double first = 0.0;   // of a core's first item
    double period = 0.0;  // of every further one
  };

  ItemTime item_time(const TileProgram& p, double active, bool persistent, bool repeated);
  double run(const TileProgram& p, double origin, std::int64_t item);
  void price(const TileProgram& p, double active);
  void deal(const Recorder& recorder, std::span<const TileProgram> programs, double active,
            bool persistent);

  const CoreRates* rates_ = nullptr;
  const Recorder* recorder_ = nullptr;
  std::vector<double> load_share_;
  std::vector<double> store_share_;
  // Of the program in hand.
  std::vector<double> duration_;  // per step
  std::vector<double> latency_;
  std::vector<double> cache_work_;  // of all cores in use
  std::vector<double> memory_work_;
  std::vector<double> state_;    // engines, what is shared, then slots: ready, then slots: free
  std::vector<double> history_;  // of state_
  std::vector<ItemTime> item_times_;
  std::vector<CoreGroup> groups_;
  std::size_t group_count_ = 0;
  bool keep_items_ = false;
};

}  // namespace foretoken::hwmodels::tile
