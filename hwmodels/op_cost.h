// What one operator asks of a chip: the tile programs that carry it out, as seconds of each
// resource and what they take beyond.
#pragma once

#include <cstdint>

#include "hwmodels/hardware.h"
#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "workloads/op.h"

namespace foretoken::hwmodels {

// The resources of one device, in the order of task graphs built by `lower`.
enum class Unit : std::uint8_t { kMatrix, kVector, kMemory, kCache, kScaleUp, kScaleOut, kHost };
inline constexpr int kUnits = 7;
inline constexpr std::array<std::string_view, kUnits> kUnitNames = {
    "matrix", "vector", "memory", "cache", "scale_up", "scale_out", "host"};

struct Cost {
  std::array<double, kUnits> busy{};  // s at the achieved rate
  double latency = 0.0;               // s, besides launch and pipeline fill
  bool communication = false;         // runs on the communication queue

  double& operator[](Unit u) { return busy[static_cast<std::size_t>(u)]; }
  double operator[](Unit u) const { return busy[static_cast<std::size_t>(u)]; }
};

// Prices operators with the tile programs of the hardware's kernel set. Reusable; borrows the
// hardware and the rates. Throws UnsupportedError naming the chip and the dtype when its matrix
// unit lacks one, and when a program does not fit a core.
class KernelCosts {
 public:
  // What follows is priced on this hardware at these rates, which must stay.
  void use(const Hardware& hardware, const Rates& rates);

  // Adds the operator's cost to `sum`: operators that share a kernel add up in place.
  void add(const workloads::Op& op, Cost& sum);

  // One launch of a kernel, added to `sum`: its resources, what it takes beyond them, and, for all
  // but the operator's first launch, the launch itself.
  void add_kernel(const tile::Kernel& kernel, bool first, Cost& sum);

  [[nodiscard]] const Hardware& hardware() const { return *hardware_; }
  [[nodiscard]] const Rates& rates() const { return *rates_; }

 private:
  const Hardware* hardware_ = nullptr;
  const Rates* rates_ = nullptr;
  tile::CoreRates core_;
  tile::Recorder recorder_{core_};
  tile::Evaluator evaluator_;
};

// Of one operator.
Cost cost(const workloads::Op& op, const Hardware& hardware, const Rates& rates);

}  // namespace foretoken::hwmodels
