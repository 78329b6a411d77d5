// What it costs to go from one kernel of a CUDA graph to the next, and the shortest useful kernel.
#include "bench.h"
#include "ptx.h"

namespace microbench {
namespace {

constexpr int kLargeShared = 200 * 1024;

__global__ void empty() {}
__global__ void empty_other() {}

// Programmatic dependent launch: the next kernel's blocks may start before this one has ended.
__global__ void empty_programmatic(bool trigger_first) {
  if (trigger_first) ptx::let_next_start();
  ptx::wait_for_previous();
}

struct LargeParams {
  char bytes[3968];
};
__global__ void empty_large_params(LargeParams) {}

// The shortest kernels that do something: dependent loads, then a store. `hot` stays in the L2;
// each block and node has its own line of `cold`.
__global__ void minimal(const uint32_t* hot, const char* cold, uint32_t* out, int node,
                        bool read_hot, bool read_cold, bool programmatic) {
  constexpr size_t kSpacing = 4096;  // bytes between the lines that two blocks read
  if (programmatic) {
    ptx::let_next_start();
    ptx::wait_for_previous();
  }
  uint32_t value = 0;
  if (read_hot) value = ptx::load_l2(hot + blockIdx.x * 32 + threadIdx.x % 32);
  if (read_cold) {
    const size_t line = static_cast<size_t>(node) * gridDim.x + blockIdx.x;
    const uint32_t lane = (threadIdx.x + (value & 1)) % 32;  // depends on the first load
    value += ptx::load_l2(reinterpret_cast<const uint32_t*>(cold + line * kSpacing) + lane);
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = value;
}

void empty_chains(const Device& device, const Report& report) {
  std::vector<Shape> shapes;
  for (const int shared : {0, kLargeShared}) {
    for (const int blocks : {1, device.sms, 4 * device.sms, 16 * device.sms}) {
      for (const int threads : {32, 128, 1024}) {
        shapes.push_back({.blocks = blocks, .threads = threads, .shared_bytes = shared});
      }
    }
    for (const int cluster : {2, 4}) {
      shapes.push_back({.blocks = device.sms / cluster * cluster,
                        .threads = 128,
                        .shared_bytes = shared,
                        .cluster = cluster});
    }
  }
  for (const Shape& shape : shapes) {
    const std::string parameters =
        text("kernel=empty;blocks=%d;threads=%d;shared_bytes=%d;cluster=%d", shape.blocks,
             shape.threads, shape.shared_bytes, shape.cluster);
    report.add(
        "graph_node", parameters + ";edge=full",
        node_time_us(device, [&](int, cudaStream_t stream) { launch(shape, stream, empty); }, {}),
        "us");
    if (shape.threads == 1024) continue;
    Shape early = shape;
    early.programmatic = true;
    for (const bool trigger : {false, true}) {
      report.add("graph_node", parameters + text(";edge=programmatic;trigger_first=%d", trigger),
                 node_time_us(device,
                              [&](int, cudaStream_t stream) {
                                launch(early, stream, empty_programmatic, trigger);
                              },
                              {}),
                 "us");
    }
  }
}

void alternating_chains(const Device& device, const Report& report) {
  const Shape small = {.blocks = device.sms, .threads = 128};
  const Shape large = {.blocks = device.sms, .threads = 128, .shared_bytes = kLargeShared};
  report.add(
      "graph_node",
      text("kernel=two_kernels_alternating;blocks=%d;threads=128;shared_bytes=0", device.sms),
      node_time_us(device,
                   [&](int node, cudaStream_t stream) {
                     launch(small, stream, node % 2 ? empty : empty_other);
                   },
                   {}),
      "us");
  report.add("graph_node",
             text("kernel=two_kernels_alternating;blocks=%d;threads=128;shared_bytes=0|%d",
                  device.sms, kLargeShared),
             node_time_us(device,
                          [&](int node, cudaStream_t stream) {
                            if (node % 2) {
                              launch(large, stream, empty);
                            } else {
                              launch(small, stream, empty_other);
                            }
                          },
                          {}),
             "us");
  report.add(
      "graph_node",
      text("kernel=empty;blocks=%d;threads=128;shared_bytes=0;parameter_bytes=3968", device.sms),
      node_time_us(device,
                   [&](int, cudaStream_t stream) {
                     launch(small, stream, empty_large_params, LargeParams{});
                   },
                   {}),
      "us");
  for (const int nodes : {1, 2, 100}) {
    report.add(
        "graph_whole", text("kernel=empty;blocks=%d;threads=128;nodes=%d", device.sms, nodes),
        graph_time_us(
            device, [&](int, cudaStream_t stream) { launch(small, stream, empty); }, nodes, 31),
        "us");
  }
}

void minimal_kernels(const Device& device, const Report& report) {
  const int most_blocks = 4 * device.sms;
  const DeviceArray<uint32_t> hot(static_cast<size_t>(most_blocks) * 32);
  const DeviceArray<uint32_t> out(static_cast<size_t>(most_blocks) * 1024);
  struct Variant {
    const char* name;
    bool hot;
    bool cold;
  };
  const Variant variants[] = {{"store", false, false},
                              {"l2_load+store", true, false},
                              {"hbm_load+store", false, true},
                              {"l2_load+hbm_load+store", true, true}};
  for (const int blocks : {1, device.sms, most_blocks}) {
    for (const int shared : {0, kLargeShared}) {
      if (shared != 0 && blocks == most_blocks) continue;
      for (const Variant& variant : variants) {
        for (const bool programmatic : {false, true}) {
          const Shape shape = {.blocks = blocks,
                               .threads = 128,
                               .shared_bytes = shared,
                               .programmatic = programmatic};
          const auto node = [&](int index, cudaStream_t stream) {
            launch(shape, stream, minimal, hot.get(), device.pool, out.get(), index, variant.hot,
                   variant.cold, programmatic);
          };
          report.add("minimal_kernel",
                     text("does=%s;blocks=%d;threads=128;shared_bytes=%d;edge=%s", variant.name,
                          blocks, shared, programmatic ? "programmatic" : "full"),
                     node_time_us(device, node, {.cold = true}), "us");
        }
      }
    }
  }
}

}  // namespace

void run_launch(const Device& device, const Report& report) {
  // Brings the clocks up before the first number.
  graph_time_us(
      device, [](int, cudaStream_t stream) { launch({}, stream, empty); }, 1000, 20);
  empty_chains(device, report);
  alternating_chains(device, report);
  minimal_kernels(device, report);
}

}  // namespace microbench
