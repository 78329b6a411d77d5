// Kernels written in a test: their launch and one function that is every item's program.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"

namespace foretoken::test_support {

class ProgramKernel final : public hwmodels::tile::Kernel {
 public:
  using Program = std::function<void(hwmodels::tile::Machine&, std::int64_t item)>;

  // All items alike.
  ProgramKernel(std::int64_t items, Program program, bool persistent = false)
      : ProgramKernel(std::vector<std::int64_t>{items}, std::move(program), persistent) {}
  // A class of so many items each.
  ProgramKernel(std::vector<std::int64_t> classes, Program program, bool persistent = false)
      : classes_(std::move(classes)), program_(std::move(program)), persistent_(persistent) {}

  [[nodiscard]] std::string_view name() const override { return "program"; }
  [[nodiscard]] hwmodels::tile::Launch launch() const override {
    hwmodels::tile::Launch launch{.items = 0, .cores = 0, .persistent = persistent_};
    for (const std::int64_t count : classes_) launch.items += count;
    return launch;
  }
  void classes(
      hwmodels::tile::FunctionRef<void(const hwmodels::tile::WorkClass&)> visit) const override {
    std::int64_t first = 0;
    for (const std::int64_t count : classes_) {
      visit({first, count});
      first += count;
    }
  }
  void item(hwmodels::tile::Machine& machine, std::int64_t index) const override {
    program_(machine, index);
  }

 private:
  std::vector<std::int64_t> classes_;
  Program program_;
  bool persistent_;
};

// Four cores, each of 1 GFLOP/s FP8, 1 GB/s into its port and 1 G operations/s; nothing is shared,
// nothing has latency. A byte, an operation and two FLOPs take a nanosecond, half and two.
inline hwmodels::tile::CoreRates plain_rates() {
  hwmodels::tile::CoreRates r;
  r.chip = "plain";
  r.cores = 4.0;
  r.matrix[static_cast<std::size_t>(workloads::Dtype::kFp8)] = 1e9;
  r.matrix[static_cast<std::size_t>(workloads::Dtype::kFp4)] = 2e9;
  r.lanes32 = r.lanes16 = r.special = 1e9;
  r.port = 1e9;
  r.cache = r.memory = r.link = 1e30;
  r.cache_capacity = 1e6;
  r.capacity = {1e5, 1e5, 1e5};
  return r;
}

}  // namespace foretoken::test_support
