// A chip as data: what a datasheet says, nothing fitted. Files: configs/chips/*.yaml.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "sim/base/config.h"
#include "sim/base/units.h"
#include "workloads/dtype.h"

namespace foretoken::hwmodels {

enum class ChipStatus : std::uint8_t { kShipping, kPreliminary, kPlaceholder };

// How FP4 weights reach a matrix unit that multiplies them with FP8 activations.
enum class WidenPath : std::uint8_t {
  kNative,  // the matrix instruction takes FP4 x FP8 operands
  kVector,  // vector units expand FP4 to FP8 first, and that costs vector time
};

// How results of the matrix unit reach the vector units, and vector results the matrix unit.
enum class Exchange : std::uint8_t {
  kRegisters,  // vector instructions read the accumulators in place
  kDirect,     // over a path of its own
  kCache,      // through the chip's cache
};

struct MatrixUnit {
  // Dense peak of the whole chip by operand dtype; zero where the chip has none.
  std::array<base::FlopsPerSecond, workloads::kDtypeCount> peak{};
  std::int64_t tile_rows = 0;         // rows of the smallest full-rate tile (weight side)
  std::int64_t tile_columns = 0;      // columns of the smallest full-rate tile (token side)
  base::BytesPerSecond operand_feed;  // of one core: from local memory into the matrix unit
  base::Seconds head;                 // before a matrix instruction runs at its rate
  WidenPath fp4_widen = WidenPath::kVector;
  double fp4_fp8_rate = 1.0;  // FP4 x FP8 rate over the FP8 rate; above 1 for future hardware
  std::string source;
};

struct VectorUnit {
  base::FlopsPerSecond fp32;     // peak of the whole chip
  base::FlopsPerSecond fp16;     // peak of the whole chip at 16 bits
  double special_rate = 0.0625;  // exp, reciprocal, sqrt per FP32 FLOP of the peak (FMA = 2)
  double convert_rate = 0.0625;  // block-scaled FP8 numbers unpacked per FP32 FLOP of the peak
  base::Seconds step_latency;    // that a step which needs the one before takes at least
  std::string source;
};

// A memory level of the whole chip, outermost first: hbm, then l2.
struct MemoryLevel {
  std::string name;
  base::Bytes capacity;
  base::BytesPerSecond bandwidth;
  base::Seconds latency;
  std::string source;
};

// A memory inside one core (shared memory, tensor memory, L1, L0A, ...).
struct LocalMemory {
  std::string name;
  base::Bytes capacity;
  std::string source;
};

struct ChipSpec {
  std::string name;
  std::string title;
  std::string vendor;
  std::string family;  // chips of one family share calibration until measured themselves
  ChipStatus status = ChipStatus::kShipping;
  std::string note;
  std::int64_t cores = 0;
  base::Hertz clock;
  std::string core_source;
  MatrixUnit matrix;
  VectorUnit vector;
  std::vector<MemoryLevel> memory;
  std::vector<LocalMemory> local_memory;
  base::BytesPerSecond core_bandwidth;  // most one core can draw from memory
  std::string core_bandwidth_source;
  Exchange exchange = Exchange::kRegisters;
  base::BytesPerSecond exchange_rate;   // of one core, where direct
  base::Bytes gather_granularity;       // what a read of a single row fetches at least
  base::BytesPerSecond host_bandwidth;  // per direction, to host memory
  std::string host_source;
  base::Ranged tdp_watts;
  std::string power_source;

  [[nodiscard]] const MemoryLevel& hbm() const { return memory.front(); }
  [[nodiscard]] const MemoryLevel& cache() const { return memory.back(); }
  // Dense peak; throws UnsupportedError ("h100_sxm has no fp4 peak") where the chip has none.
  [[nodiscard]] base::FlopsPerSecond peak(workloads::Dtype dtype) const;
  [[nodiscard]] bool supports(workloads::Dtype dtype) const {
    return matrix.peak[static_cast<std::size_t>(dtype)].value() > 0.0;
  }
};

void describe(base::ConfigVisitor& v, ChipSpec& chip);

}  // namespace foretoken::hwmodels
