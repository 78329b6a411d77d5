// Clock rates: what the device states, what it runs at after different loads, and what power limits
// leave when the matrix units run for a second on all cores.
#include <dlfcn.h>

#include <chrono>
#include <thread>

#include "bench.h"
#include "matrix_tiles.h"
#include "ptx.h"
#include "wgmma.h"

namespace microbench {
namespace {

// The energy counter of the board, read through the management library if the machine has it.
class EnergyMeter {
 public:
  EnergyMeter() {
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == nullptr) return;
    const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
    const auto handle = reinterpret_cast<int (*)(unsigned, void**)>(
        dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
    read_ = reinterpret_cast<int (*)(void*, unsigned long long*)>(
        dlsym(library, "nvmlDeviceGetTotalEnergyConsumption"));
    if (init == nullptr || handle == nullptr || read_ == nullptr || init() != 0 ||
        handle(0, &device_) != 0) {
      read_ = nullptr;
    }
  }

  bool works() const { return read_ != nullptr; }
  double joules() const {
    unsigned long long millijoules = 0;
    read_(device_, &millijoules);
    return 1e-3 * static_cast<double>(millijoules);
  }

 private:
  int (*read_)(void*, unsigned long long*) = nullptr;
  void* device_ = nullptr;
};

struct Sample {
  int64_t cycles;
  uint64_t nanoseconds;
};

// Two samples per core, about two milliseconds of dependent FMAs apart.
__global__ void probe(Sample* samples, float* sink) {
  float x = static_cast<float>(threadIdx.x);
  samples[2 * blockIdx.x] = {clock64(), ptx::global_timer_ns()};
  for (int i = 0; i < 1000000; ++i) asm volatile("fma.rn.f32 %0, %0, %0, %0;" : "+f"(x));
  samples[2 * blockIdx.x + 1] = {clock64(), ptx::global_timer_ns()};
  *sink = x;
}

double mhz(const Sample& from, const Sample& to) {
  return 1e3 * static_cast<double>(to.cycles - from.cycles) /
         static_cast<double>(to.nanoseconds - from.nanoseconds);
}

// Appends the clock of each core, in MHz.
void probe_mhz(const Device& device, std::vector<double>& clocks) {
  const DeviceArray<Sample> samples(2 * static_cast<size_t>(device.sms));
  const DeviceArray<float> sink(1);
  probe<<<device.sms, 1>>>(samples.get(), sink.get());
  const std::vector<Sample> host = samples.host();
  for (int block = 0; block < device.sms; ++block) {
    clocks.push_back(mhz(host[2 * block], host[2 * block + 1]));
  }
}

__global__ void __launch_bounds__(1024) fma_load(int rounds, float* sink) {
  float x[8];
  for (int i = 0; i < 8; ++i) x[i] = static_cast<float>(threadIdx.x + i);
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < 64; ++i) asm volatile("fma.rn.f32 %0, %0, %0, %0;" : "+f"(x[i % 8]));
  }
  float sum = 0;
  for (int i = 0; i < 8; ++i) sum += x[i];
  sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// Both warpgroups of every core multiply without pause. Thread 0 of block 0 samples the clocks
// after each batch of rounds.
constexpr int kRoundsPerSample = 8;

template <class In>
__global__ void __launch_bounds__(256, 1)
    matrix_load(int batches, bool zeros, int pause_cycles, Sample* samples, float* sink) {
  constexpr int kN = 256;
  extern __shared__ char shared[];
  using Ring = TileRing<kN>;
  const Ring ring{align_tile(ptx::shared_address(shared))};
  fill_tiles<In>(ring.base, kStages * Ring::kStageBytes, zeros, blockIdx.x * 7919);
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  float d[kN / 2] = {};
  uint64_t a[kStages], b[kStages];
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    a[stage] = tile_descriptor(ring.a(stage, warpgroup));
    b[stage] = tile_descriptor(ring.b(stage));
  }
  const bool samples_here = blockIdx.x == 0 && threadIdx.x == 0;
  if (samples_here) samples[0] = {clock64(), ptx::global_timer_ns()};
  for (int batch = 0; batch < batches; ++batch) {
    for (int round = 0; round < kRoundsPerSample; ++round) {
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kStages * kSlices; ++i) {
        const uint64_t step = i % kSlices * kDescriptorStep;
        Wgmma<In, kN>::from_shared(d, a[i / kSlices] + step, b[i / kSlices] + step);
      }
      wgmma_commit();
      wgmma_wait<1>();
    }
    if (pause_cycles > 0) {
      wgmma_wait<0>();
      const int64_t start = clock64();
      while (clock64() - start < pause_cycles) __nanosleep(200);
    }
    if (samples_here) samples[batch + 1] = {clock64(), ptx::global_timer_ns()};
  }
  wgmma_wait<0>();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) sum += d[i];
  sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// Share of the time in which the matrix units work, in percent.
template <class In>
void sustained_matrix(const Device& device, const Report& report, bool zeros, int duty_percent) {
  // One instruction takes 128 clocks; two warpgroups share the units.
  constexpr double kCyclesPerBatch = 128.0 * kWarpgroups * kStages * kSlices * kRoundsPerSample;
  const double seconds = duty_percent == 100 ? 2.3 : 1.2;
  const int pause = static_cast<int>(kCyclesPerBatch * (100.0 / duty_percent - 1));
  const int batches = static_cast<int>(seconds * 1.6e9 / (kCyclesPerBatch + pause));
  std::this_thread::sleep_for(std::chrono::seconds(1));  // cool down
  const DeviceArray<Sample> samples(static_cast<size_t>(batches) + 1);
  const DeviceArray<float> sink(static_cast<size_t>(device.sms) * 256);
  launch({.blocks = device.sms, .threads = 256, .shared_bytes = TileRing<256>::kSharedBytes},
         nullptr, matrix_load<In>, batches, zeros, pause, samples.get(), sink.get());
  const std::vector<Sample> host = samples.host();
  struct Window {
    double from_ms;
    double to_ms;
  };
  for (const Window window : {Window{0, 0.1},
                              {0.1, 1},
                              {1, 5},
                              {5, 20},
                              {20, 50},
                              {50, 100},
                              {100, 200},
                              {200, 500},
                              {500, 1000},
                              {1000, 2000}}) {
    std::vector<double> clocks;
    size_t first = 0, last = 0;
    for (size_t i = 0; i + 1 < host.size(); ++i) {
      const double at = 1e-6 * static_cast<double>(host[i].nanoseconds - host[0].nanoseconds);
      if (at < window.from_ms || at >= window.to_ms) continue;
      if (clocks.empty()) first = i;
      last = i + 1;
      clocks.push_back(mhz(host[i], host[i + 1]));
    }
    if (clocks.empty()) continue;
    const std::string parameters =
        text("load=wgmma_m64n256k%d;type=%s;data=%s;duty=%d%%;sms=%d;warpgroups=2;window_ms=%g-%g",
             In::kK, In::kName, zeros ? "zeros" : "random", duty_percent, device.sms,
             window.from_ms, window.to_ms);
    report.add("sustained_clock", parameters, spread_of(clocks), "MHz");
    const double flops = 2.0 * 64 * 256 * In::kK * kWarpgroups * kStages * kSlices *
                         kRoundsPerSample * static_cast<double>(last - first) * device.sms;
    const double elapsed =
        1e-9 * static_cast<double>(host[last].nanoseconds - host[first].nanoseconds);
    report.add("sustained_matrix_rate", parameters, 1e-12 * flops / elapsed, "TFLOP/s");
  }
}

// Mean power of a load that is enqueued again and again for some seconds.
void sustained_power(const Report& report, const char* name, double seconds,
                     const std::function<void()>& enqueue) {
  const EnergyMeter meter;
  if (!meter.works()) return;
  using Clock = std::chrono::steady_clock;
  const auto run = [&](double duration) {
    const auto start = Clock::now();
    while (std::chrono::duration<double>(Clock::now() - start).count() < duration) {
      enqueue();
      CUDA_CHECK(cudaDeviceSynchronize());
    }
  };
  run(0.5);  // to a steady state
  const double before = meter.joules();
  const auto start = Clock::now();
  run(seconds);
  const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  report.add("sustained_power", text("load=%s;seconds=%g", name, seconds),
             (meter.joules() - before) / elapsed, "W");
}

template <class In>
void matrix_power(const Device& device, const Report& report, bool zeros) {
  constexpr int kBatches = 5000;
  const DeviceArray<Sample> samples(kBatches + 1);
  const DeviceArray<float> sink(static_cast<size_t>(device.sms) * 256);
  sustained_power(
      report, text("wgmma_m64n256k%d_%s_%s", In::kK, In::kName, zeros ? "zeros" : "random").c_str(),
      2, [&] {
        launch({.blocks = device.sms, .threads = 256, .shared_bytes = TileRing<256>::kSharedBytes},
               nullptr, matrix_load<In>, kBatches, zeros, 0, samples.get(), sink.get());
      });
}

void powers(const Device& device, const Report& report) {
  const DeviceArray<float> sink(static_cast<size_t>(device.sms) * 2048);
  const DeviceArray<Sample> samples(2 * static_cast<size_t>(device.sms));
  sustained_power(report, "none", 1.5,
                  [] { std::this_thread::sleep_for(std::chrono::milliseconds(50)); });
  sustained_power(report, "one_thread_per_sm", 1.5, [&] {
    for (int i = 0; i < 20; ++i) probe<<<device.sms, 1>>>(samples.get(), sink.get());
  });
  sustained_power(report, "hbm_read", 2, [&] {
    for (int i = 0; i < 500; ++i) flush_l2(device, nullptr);
  });
  Device small = device;
  small.flush_bytes = size_t{16} << 20;  // stays in the L2
  sustained_power(report, "l2_read", 2, [&] {
    for (int i = 0; i < 5000; ++i) flush_l2(small, nullptr);
  });
  sustained_power(report, "fp32_fma", 2, [&] {
    for (int i = 0; i < 5; ++i) fma_load<<<2 * device.sms, 1024>>>(20000, sink.get());
  });
  for (const bool zeros : {false, true}) {
    matrix_power<Bf16>(device, report, zeros);
    matrix_power<E4m3>(device, report, zeros);
  }
}

}  // namespace

void run_clock(const Device& device, const Report& report) {
  int core_khz = 0, memory_khz = 0, bus_bits = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&core_khz, cudaDevAttrClockRate, 0));
  CUDA_CHECK(cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, 0));
  CUDA_CHECK(cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, 0));
  report.add("stated_clock", "domain=sm", 1e-3 * core_khz, "MHz");
  report.add("stated_clock", "domain=memory", 1e-3 * memory_khz, "MHz");
  report.add("stated_memory_bus", "interface=hbm", bus_bits, "bits");
  report.add("stated_memory_bandwidth", "formula=clock*2*bus", 2e-6 * memory_khz * bus_bits / 8,
             "GB/s");
  report.add("stated_l2_bytes", "device=1", device.properties.l2CacheSize, "bytes");
  report.add("stated_sms", "device=1", device.sms, "count");

  std::vector<double> after_idle, after_stream, after_fma;
  const DeviceArray<float> sink(static_cast<size_t>(device.sms) * 2048);
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    probe_mhz(device, after_idle);
    for (int i = 0; i < 3000; ++i) flush_l2(device, nullptr);
    probe_mhz(device, after_stream);
    for (int i = 0; i < 20; ++i) fma_load<<<2 * device.sms, 1024>>>(20000, sink.get());
    probe_mhz(device, after_fma);
  }
  report.add("observed_clock", "after=idle_500_ms", spread_of(after_idle), "MHz");
  report.add("observed_clock", "after=hbm_read_300_ms", spread_of(after_stream), "MHz");
  report.add("observed_clock", "after=fp32_fma_load", spread_of(after_fma), "MHz");

  for (const bool zeros : {true, false}) {
    sustained_matrix<Bf16>(device, report, zeros, 100);
    sustained_matrix<E4m3>(device, report, zeros, 100);
  }
  for (const int duty : {75, 50, 25, 10}) {
    sustained_matrix<Bf16>(device, report, false, duty);
    sustained_matrix<E4m3>(device, report, false, duty);
  }
  powers(device, report);
}

}  // namespace microbench
