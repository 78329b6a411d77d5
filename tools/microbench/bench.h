// What every microbenchmark shares: error checks, spreads, the CSV report, and timing through CUDA
// graphs.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace microbench {

inline void check_cuda(cudaError_t status, const char* what, const char* file, int line) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, cudaGetErrorString(status));
  std::exit(1);
}
#define CUDA_CHECK(call) ::microbench::check_cuda((call), #call, __FILE__, __LINE__)

// Median and the 10th and 90th percentile of a sample, in whatever unit the sample has.
struct Spread {
  double median;
  double p10;
  double p90;
};

inline double percentile(const std::vector<double>& sorted, double share) {
  const double position = share * static_cast<double>(sorted.size() - 1);
  const size_t low = static_cast<size_t>(position);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (position - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

inline Spread spread_of(std::vector<double> sample) {
  std::sort(sample.begin(), sample.end());
  return {percentile(sample, 0.5), percentile(sample, 0.1), percentile(sample, 0.9)};
}

// amount / time, where the time is a spread: the slow end of the time is the low end of the rate.
inline Spread rate_of(double amount, const Spread& time) {
  return {amount / time.median, amount / time.p90, amount / time.p10};
}

inline Spread scaled(const Spread& spread, double factor) {
  return {spread.median * factor, spread.p10 * factor, spread.p90 * factor};
}

// Writes one CSV row per result to standard output. `parameters` is a list of key=value joined by
// ';'.
class Report {
 public:
  Report(std::string system, std::string source)
      : system_(std::move(system)), source_(std::move(source)) {}

  static void header() { std::printf("system,quantity,parameters,value,unit,p10,p90,source\n"); }

  void add(const std::string& quantity, const std::string& parameters, const Spread& spread,
           const std::string& unit) const {
    std::printf("%s,%s,%s,%.6g,%s,%.6g,%.6g,\"%s\"\n", system_.c_str(), quantity.c_str(),
                parameters.c_str(), spread.median, unit.c_str(), spread.p10, spread.p90,
                source_.c_str());
    std::fflush(stdout);
  }

  void add(const std::string& quantity, const std::string& parameters, double value,
           const std::string& unit) const {
    add(quantity, parameters, Spread{value, value, value}, unit);
  }

 private:
  std::string system_;
  std::string source_;
};

// printf into a string; used for the parameters column.
template <class... Args>
std::string text(const char* format, Args... args) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, format, args...);
  return buffer;
}

// The device under test and the memory pool that all streaming benchmarks read.
struct Device {
  cudaDeviceProp properties;
  int sms;
  char* pool;         // initialised with random bytes
  size_t pool_bytes;  // far more than the L2 holds
  char* flush;        // read once to push everything else out of the L2
  size_t flush_bytes;
};

// One kernel launch with everything a benchmark varies.
struct Shape {
  int blocks = 1;
  int threads = 128;
  int shared_bytes = 0;  // dynamic shared memory
  int cluster = 1;
  bool programmatic = false;  // programmatic dependent launch on the previous kernel of the stream
};

template <class... Params, class... Args>
void launch(const Shape& shape, cudaStream_t stream, void (*kernel)(Params...), Args... args) {
  if (shape.shared_bytes > 48 * 1024) {
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    shape.shared_bytes));
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attributes[count].val.clusterDim.y = 1;
    attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  if (shape.programmatic) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count].val.programmaticStreamSerializationAllowed = 1;
    ++count;
  }
  config.attrs = attributes;
  config.numAttrs = count;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

// Threads of this kernel that one core holds at a time.
template <class Kernel>
int resident_threads(Kernel kernel, int block_threads, int shared_bytes = 0) {
  int blocks = 0;
  CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, block_threads,
                                                           static_cast<size_t>(shared_bytes)));
  return blocks * block_threads;
}

// Launches the node with the given index into a stream under capture.
using NodeLauncher = std::function<void(int node, cudaStream_t stream)>;

struct ChainPlan {
  int short_nodes = 4;
  int long_nodes = 104;
  int repeats = 25;
  bool cold = false;  // flush the L2 before each replay
};

// Time per kernel of a chain of dependent kernels in one CUDA graph, in us. A long and a short
// chain are timed and subtracted, so the cost of starting and ending a graph is not in the result
// while the cost of going from one kernel to the next is.
Spread node_time_us(const Device& device, const NodeLauncher& node, const ChainPlan& plan);

// Time of a whole graph of n nodes, event to event, in us.
Spread graph_time_us(const Device& device, const NodeLauncher& node, int nodes, int repeats);

// Chain lengths for a kernel that moves this many bytes: about 100 when small, a few when large.
inline ChainPlan plan_for_bytes(double bytes, bool cold) {
  const int long_nodes = static_cast<int>(std::clamp(3e9 / bytes, 4.0, 100.0));
  return {.short_nodes = 2, .long_nodes = 2 + long_nodes, .repeats = 21, .cold = cold};
}

// floor + bytes / bandwidth, fitted to (bytes, us) with relative weights.
struct LineFit {
  double floor_us;
  double gbps;
  double worst_relative_error;
};
LineFit fit_line(const std::vector<std::pair<double, double>>& points);

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    CUDA_CHECK(cudaMalloc(&data_, count * sizeof(T)));
    CUDA_CHECK(cudaMemset(data_, 0, count * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    CUDA_CHECK(cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* get() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    CUDA_CHECK(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

// Reads device.flush once, so that nothing of the pool remains in the L2.
void flush_l2(const Device& device, cudaStream_t stream);

// The groups of benchmarks, one per file.
void run_launch(const Device& device, const Report& report);
void run_stream(const Device& device, const Report& report);
void run_placement(const Device& device, const Report& report);
void run_tiles(const Device& device, const Report& report);
void run_latency(const Device& device, const Report& report);
void run_gather(const Device& device, const Report& report);
void run_vector(const Device& device, const Report& report);
void run_sync(const Device& device, const Report& report);
void run_matrix(const Device& device, const Report& report);
void run_clock(const Device& device, const Report& report);

}  // namespace microbench
