// Runs the microbenchmarks named on the command line, or all of them, and prints one CSV.
#include <cstring>
#include <map>

#include "bench.h"

namespace microbench {
namespace {

// Random bytes, because memory and multipliers can be faster or cooler on zeros.
__global__ void fill_random(uint64_t* data, size_t count, uint64_t seed) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    uint64_t z = (i + seed) * 0x9E3779B97F4A7C15ull;  // splitmix64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    data[i] = z ^ (z >> 31);
  }
}

char* random_buffer(size_t bytes, uint64_t seed) {
  char* data;
  CUDA_CHECK(cudaMalloc(&data, bytes));
  fill_random<<<1024, 256>>>(reinterpret_cast<uint64_t*>(data), bytes / 8, seed);
  CUDA_CHECK(cudaDeviceSynchronize());
  return data;
}

std::string system_name(const char* device_name) {
  if (std::strstr(device_name, "H100 80GB HBM3")) return "h100_sxm";
  if (std::strstr(device_name, "H200")) return "h200_sxm";
  return device_name;
}

int run(int argc, char** argv) {
  const std::map<std::string, void (*)(const Device&, const Report&)> groups = {
      {"launch", run_launch}, {"placement", run_placement}, {"tiles", run_tiles},
      {"stream", run_stream}, {"latency", run_latency},     {"gather", run_gather},
      {"vector", run_vector}, {"sync", run_sync},           {"matrix", run_matrix},
      {"clock", run_clock}};
  std::string source = "own microbenchmark; tools/microbench";
  std::vector<std::string> chosen;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--source" && i + 1 < argc) {
      source = argv[++i];
    } else if (groups.count(argument) != 0) {
      chosen.push_back(argument);
    } else {
      std::fprintf(stderr, "usage: microbench [--source TEXT] [GROUP]...\ngroups:");
      for (const auto& [name, group] : groups) std::fprintf(stderr, " %s", name.c_str());
      std::fprintf(stderr, "\n");
      return 2;
    }
  }
  if (chosen.empty()) {
    for (const auto& [name, group] : groups) chosen.push_back(name);
  }

  Device device = {};
  CUDA_CHECK(cudaGetDeviceProperties(&device.properties, 0));
  device.sms = device.properties.multiProcessorCount;
  device.pool_bytes = size_t{8} << 30;
  device.pool = random_buffer(device.pool_bytes, 1);
  device.flush_bytes = size_t{256} << 20;  // four to five times the L2
  device.flush = random_buffer(device.flush_bytes, 2);

  const Report report(system_name(device.properties.name), source);
  Report::header();
  for (const std::string& name : chosen) {
    groups.at(name)(device, report);
    CUDA_CHECK(cudaDeviceSynchronize());
    std::fprintf(stderr, "%s: done\n", name.c_str());
  }
  return 0;
}

}  // namespace
}  // namespace microbench

int main(int argc, char** argv) { return microbench::run(argc, argv); }
