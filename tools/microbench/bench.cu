// Timing through CUDA graphs, the L2 flush, and the line fit.
#include "bench.h"
#include "ptx.h"

namespace microbench {
namespace {

// Keeps the device busy while the host enqueues the events and the graph that follow.
__global__ void spin(uint64_t nanoseconds) {
  const uint64_t start = ptx::global_timer_ns();
  while (ptx::global_timer_ns() - start < nanoseconds) {
  }
}

__global__ void read_all(const uint4* data, size_t count, uint32_t* sink) {
  uint32_t sum = 0;
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    const uint4 v = data[i];
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) *sink = sum;
}

class Graph {
 public:
  Graph(const NodeLauncher& node, int nodes, cudaStream_t stream) {
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < nodes; ++i) node(i, stream);
    cudaGraph_t graph;
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&executable_, graph, 0));
    CUDA_CHECK(cudaGraphDestroy(graph));
    CUDA_CHECK(cudaGraphUpload(executable_, stream));
  }
  ~Graph() { cudaGraphExecDestroy(executable_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void replay(cudaStream_t stream) const { CUDA_CHECK(cudaGraphLaunch(executable_, stream)); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

class Stopwatch {
 public:
  Stopwatch() {
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreate(&start_));
    CUDA_CHECK(cudaEventCreate(&stop_));
  }
  ~Stopwatch() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
    cudaStreamDestroy(stream_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  cudaStream_t stream() const { return stream_; }

  double time_us(const Device& device, const Graph& graph, bool cold) const {
    constexpr uint64_t kEnqueueNs = 100000;  // longer than the host takes to enqueue a replay
    if (cold) flush_l2(device, stream_);
    spin<<<1, 1, 0, stream_>>>(kEnqueueNs);
    CUDA_CHECK(cudaEventRecord(start_, stream_));
    graph.replay(stream_);
    CUDA_CHECK(cudaEventRecord(stop_, stream_));
    CUDA_CHECK(cudaEventSynchronize(stop_));
    float milliseconds = 0;
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start_, stop_));
    return 1e3 * milliseconds;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t start_;
  cudaEvent_t stop_;
};

constexpr int kWarmups = 3;

}  // namespace

void flush_l2(const Device& device, cudaStream_t stream) {
  const size_t count = device.flush_bytes / sizeof(uint4);
  read_all<<<device.sms * 4, 512, 0, stream>>>(reinterpret_cast<const uint4*>(device.flush), count,
                                               reinterpret_cast<uint32_t*>(device.flush));
}

Spread node_time_us(const Device& device, const NodeLauncher& node, const ChainPlan& plan) {
  const Stopwatch watch;
  const Graph short_graph(node, plan.short_nodes, watch.stream());
  const Graph long_graph(node, plan.long_nodes, watch.stream());
  std::vector<double> sample;
  for (int i = -kWarmups; i < plan.repeats; ++i) {
    const double brief = watch.time_us(device, short_graph, plan.cold);
    const double full = watch.time_us(device, long_graph, plan.cold);
    if (i >= 0) sample.push_back((full - brief) / (plan.long_nodes - plan.short_nodes));
  }
  return spread_of(sample);
}

Spread graph_time_us(const Device& device, const NodeLauncher& node, int nodes, int repeats) {
  const Stopwatch watch;
  const Graph graph(node, nodes, watch.stream());
  std::vector<double> sample;
  for (int i = -kWarmups; i < repeats; ++i) {
    const double time = watch.time_us(device, graph, false);
    if (i >= 0) sample.push_back(time);
  }
  return spread_of(sample);
}

LineFit fit_line(const std::vector<std::pair<double, double>>& points) {
  // Weighted least squares of us = floor + slope x bytes, weight 1 / us^2, so relative errors
  // count.
  double w = 0, wx = 0, wy = 0, wxx = 0, wxy = 0;
  for (const auto& [bytes, us] : points) {
    const double weight = 1.0 / (us * us);
    w += weight;
    wx += weight * bytes;
    wy += weight * us;
    wxx += weight * bytes * bytes;
    wxy += weight * bytes * us;
  }
  const double slope = (w * wxy - wx * wy) / (w * wxx - wx * wx);
  LineFit fit{(wy - slope * wx) / w, 1e-3 / slope, 0};
  for (const auto& [bytes, us] : points) {
    const double error = (fit.floor_us + slope * bytes) / us - 1;
    fit.worst_relative_error = std::max(fit.worst_relative_error, error < 0 ? -error : error);
  }
  return fit;
}

}  // namespace microbench
