// Start and stop clocks of the warps of a kernel that puts one block on each core.
#pragma once

#include "bench.h"

namespace microbench {

constexpr int kMarksPerBlock = 64;  // start and stop of up to 32 warps

// Called by every thread; `marks` is what CoreClocks::marks() gave to the kernel.
__device__ inline void mark(int64_t* marks, int64_t start, int64_t stop) {
  if (threadIdx.x % 32 != 0) return;
  int64_t* mine = marks + blockIdx.x * kMarksPerBlock + threadIdx.x / 32 * 2;
  mine[0] = start;
  mine[1] = stop;
}

class CoreClocks {
 public:
  explicit CoreClocks(const Device& device)
      : sms_(device.sms), marks_(static_cast<size_t>(device.sms) * kMarksPerBlock) {}

  int64_t* marks() const { return marks_.get(); }

  // Clocks that each core spent, from the first warp that starts to the last that stops.
  std::vector<double> spans(int warps) const {
    const std::vector<int64_t> host = marks_.host();
    std::vector<double> result;
    for (int block = 0; block < sms_; ++block) {
      const int64_t* mine = host.data() + static_cast<size_t>(block) * kMarksPerBlock;
      int64_t start = mine[0], stop = mine[1];
      for (int warp = 1; warp < warps; ++warp) {
        start = std::min(start, mine[2 * warp]);
        stop = std::max(stop, mine[2 * warp + 1]);
      }
      result.push_back(static_cast<double>(stop - start));
    }
    return result;
  }

 private:
  int sms_;
  DeviceArray<int64_t> marks_;
};

}  // namespace microbench
