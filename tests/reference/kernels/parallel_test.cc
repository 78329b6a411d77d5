#include "reference/kernels/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace foretoken::reference {
namespace {

class Parallel : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_threads(GetParam()); }
  void TearDown() override { set_threads(before_); }

 private:
  int before_ = threads();
};

TEST_P(Parallel, EveryIndexOnce) {
  for (const std::int64_t n : {0, 1, 2, 3, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
    parallel_for(n, kParallelWork, [&](std::int64_t i) { ++seen[static_cast<std::size_t>(i)]; });
    for (const auto& count : seen) EXPECT_EQ(count.load(), 1);
  }
}

TEST_P(Parallel, ManyLoopsOneAfterAnother) {
  std::atomic<std::int64_t> sum{0};
  for (int loop = 0; loop < 500; ++loop) {
    parallel_for(7, kParallelWork, [&](std::int64_t i) { sum += i; });
  }
  EXPECT_EQ(sum.load(), 500 * 21);
}

TEST_P(Parallel, LoopsInsideRunInOrder) {
  std::atomic<bool> ordered{true};
  parallel_for(4, kParallelWork, [&](std::int64_t) {
    std::int64_t last = -1;
    const bool spread = in_parallel();
    parallel_for(50, kParallelWork, [&](std::int64_t i) {
      if (spread && i != last + 1) ordered = false;
      last = i;
    });
  });
  EXPECT_TRUE(ordered.load());
  EXPECT_FALSE(in_parallel());
}

TEST_P(Parallel, AnExceptionArrivesAndTheNextLoopWorks) {
  EXPECT_THROW(parallel_for(100, kParallelWork,
                            [](std::int64_t i) {
                              if (i == 3) throw std::runtime_error("three");
                            }),
               std::runtime_error);
  std::atomic<int> count{0};
  parallel_for(100, kParallelWork, [&](std::int64_t) { ++count; });
  EXPECT_EQ(count.load(), 100);
}

TEST_P(Parallel, LoopsOfSeveralThreadsTakeTurns) {
  std::vector<std::int64_t> sums(3, 0);
  std::vector<std::thread> callers;
  for (std::size_t c = 0; c < sums.size(); ++c) {
    callers.emplace_back([&sums, c] {
      for (int loop = 0; loop < 50; ++loop) {
        std::atomic<std::int64_t> sum{0};
        parallel_for(20, kParallelWork, [&](std::int64_t i) { sum += i; });
        sums[c] += sum.load();
      }
    });
  }
  for (std::thread& t : callers) t.join();
  for (const std::int64_t sum : sums) EXPECT_EQ(sum, 50 * 190);
}

TEST_P(Parallel, LittleWorkStaysOnTheCaller) {
  const auto caller = std::this_thread::get_id();
  parallel_for(100, kParallelWork - 1,
               [&](std::int64_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
}

INSTANTIATE_TEST_SUITE_P(Threads, Parallel, ::testing::Values(1, 2, 5));

}  // namespace
}  // namespace foretoken::reference
