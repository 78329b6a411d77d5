// Attention of one decoded token over selected entries, beside the same number of entries that lie
// next to each other and beside the bare copying of the selected ones: what selecting adds to it.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "reference/kernels/parallel.h"
#include "reference/ops/attention.h"

namespace {

namespace ref = foretoken::reference;

// V4-Pro at 1M tokens: 262,144 entries of 512 channels, the best 1,024 of them, and the window.
constexpr std::int64_t kEntries = 262'144;
constexpr std::int64_t kWidth = 512;
constexpr std::int64_t kSelected = 1'024;
constexpr std::int64_t kWindow = 128;

struct Data {
  std::vector<float> entries, window, q, out;
  std::vector<std::int32_t> selected, first;

  explicit Data(std::int64_t heads) {
    std::mt19937 random(1);  // NOLINT(bugprone-random-generator-seed): the same data every time
    std::uniform_real_distribution<float> value(-1.0F, 1.0F);
    const auto fill = [&](std::vector<float>& v, std::int64_t n) {
      v.resize(static_cast<std::size_t>(n));
      for (float& x : v) x = value(random);
    };
    fill(entries, kEntries * kWidth);
    fill(window, kWindow * kWidth);
    fill(q, heads * kWidth);
    out.resize(q.size());
    std::vector<std::int32_t> all(static_cast<std::size_t>(kEntries));
    std::iota(all.begin(), all.end(), 0);
    std::sample(all.begin(), all.end(), std::back_inserter(selected), kSelected, random);
    first.assign(all.begin(), all.begin() + kSelected);
  }
};

void run(benchmark::State& state, bool scattered) {
  const std::int64_t heads = state.range(0);
  Data data(heads);
  ref::set_threads(1);
  const ref::AttentionShape shape{heads, kWidth, kWidth, 0.044};
  const ref::Numerics<float, float> numerics{};
  const std::array<ref::KeyRun<float>, 2> runs = {
      ref::KeyRun<float>{data.window.data(), kWidth, kWindow, {}},
      ref::KeyRun<float>{data.entries.data(), kWidth, 0, scattered ? data.selected : data.first}};
  for (auto _ : state) {
    ref::attend(numerics, shape, data.q.data(), std::span<const ref::KeyRun<float>>(runs), nullptr,
                data.out.data());
    benchmark::ClobberMemory();
  }
  const double flop = 4.0 * static_cast<double>(heads * kWidth * (kSelected + kWindow));
  state.counters["FLOP/s"] =
      benchmark::Counter(flop, benchmark::Counter::kIsIterationInvariantRate);
}

void attention_selected(benchmark::State& state) { run(state, true); }
void attention_contiguous(benchmark::State& state) { run(state, false); }

void copy_selected(benchmark::State& state) {
  const Data data(1);
  std::vector<float> to(static_cast<std::size_t>(kSelected * kWidth));
  for (auto _ : state) {
    for (std::size_t i = 0; i < data.selected.size(); ++i) {
      std::memcpy(to.data() + i * kWidth,
                  data.entries.data() + static_cast<std::size_t>(data.selected[i]) * kWidth,
                  kWidth * sizeof(float));
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kSelected * kWidth * 4);
}

BENCHMARK(attention_selected)->Arg(1)->Arg(64)->Arg(128)->Unit(benchmark::kMicrosecond);
BENCHMARK(attention_contiguous)->Arg(1)->Arg(64)->Arg(128)->Unit(benchmark::kMicrosecond);
BENCHMARK(copy_selected)->Unit(benchmark::kMicrosecond);

}  // namespace
