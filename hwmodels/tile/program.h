// A tile program as data: what a recorder keeps of the steps of one class of work items.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "hwmodels/tile/machine.h"

namespace foretoken::hwmodels::tile {

// Units of a core that work side by side, each one step at a time and in program order.
enum class Engine : std::uint8_t { kLoad, kStore, kMatrix, kVector, kExchange, kSync };
inline constexpr int kEngines = 6;
inline constexpr std::array<std::string_view, kEngines> kEngineNames = {
    "load", "store", "matrix", "vector", "exchange", "sync"};

enum class StepKind : std::uint8_t {
  kLoad,
  kGather,
  kStore,
  kReduceStore,
  kScatter,
  kMove,
  kMatrix,
  kVector,
  kWiden,
  kTopK,
  kSignal,
  kWait
};
std::string_view to_string(StepKind kind);

// A buffer slot relative to the iteration of its phase.
struct SlotUse {
  std::uint32_t buffer = 0;
  std::int32_t offset = 0;
};

struct Step {
  StepKind kind = StepKind::kLoad;
  Engine engine = Engine::kLoad;
  VectorKind vector = VectorKind::kCopy;
  std::uint8_t reads = 0;
  bool writes = false;
  bool updates = false;  // also reads what it writes
  TensorId tensor = 0;
  std::array<SlotUse, 4> read{};
  SlotUse write;
  double seconds = 0.0;      // on its engine, where no shared resource is used
  double bytes = 0.0;        // through the core's port
  double cache_bytes = 0.0;  // through the cache, this core's share
};

struct PhaseRange {
  std::uint32_t first = 0;  // step
  std::uint32_t count = 0;
  std::int32_t ahead = 0;
};

// Straight steps are a section of one phase and one iteration.
struct Section {
  std::uint32_t first = 0;  // phase
  std::uint32_t count = 0;
  std::int64_t iterations = 1;
};

struct BufferInfo {
  std::string_view name;
  Local local = Local::kOperand;
  std::int64_t slots = 1;
  double bytes = 0.0;  // of all slots
  std::uint32_t first_slot = 0;
  bool per_item = false;
};

struct TileProgram {
  std::int64_t items = 0;  // work items of this class
  std::vector<Step> steps;
  std::vector<PhaseRange> phases;
  std::vector<Section> sections;
  std::vector<BufferInfo> buffers;
  std::uint32_t slots = 0;   // of all buffers
  double flops = 0.0;        // useful, of one item
  double joules = 0.0;       // of the matrix unit, of one item
  double peer_loaded = 0.0;  // B that one item draws over the links
  double peer_stored = 0.0;  // and sends

  void clear();
};

// A tensor and what a launch moves of it.
struct TensorTraffic {
  TensorSpec spec;
  double loaded = 0.0;  // B through the cache, all items
  double stored = 0.0;
};

}  // namespace foretoken::hwmodels::tile
