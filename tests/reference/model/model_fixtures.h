// What the tests of this folder share: small configurations, checkpoints of them, and their logits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "reference/checkpoint/checkpoint.h"
#include "reference/model/session.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::reference {

inline std::filesystem::path config_path(const std::string& name) {
  return std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests/reference/data/configs" / name;
}

// `count` token ids below `vocab` with nothing to see in them.
inline std::vector<std::int32_t> some_tokens(std::size_t count, std::int32_t vocab) {
  std::vector<std::int32_t> ids(count);
  std::uint32_t state = 12345;
  for (std::int32_t& id : ids) {
    state = state * 1664525 + 1013904223;
    id = static_cast<std::int32_t>(state >> 8U) % vocab;
  }
  return ids;
}

template <class T>
std::vector<T> values_of(const Checkpoint& checkpoint, const StoredTensor& tensor) {
  const MappedBytes data = checkpoint.map(tensor);
  std::vector<T> out(data.bytes().size() / sizeof(T));
  std::memcpy(out.data(), data.bytes().data(), out.size() * sizeof(T));
  return out;
}

// The logits of every token: `tokens` run as a prefill and `decode` single steps.
inline std::vector<float> logits_of(const std::filesystem::path& checkpoint,
                                    const std::vector<std::int32_t>& tokens, std::int64_t decode,
                                    ReferenceOptions options = {}) {
  options.carrier = Carrier::kF32;
  const base::ScratchFolder scratch;
  const LoadedCheckpoint loaded = load_checkpoint(checkpoint);
  SessionOptions session;
  session.reference = options;
  session.prefill = static_cast<std::int64_t>(tokens.size()) - decode;
  session.out = scratch / "out.safetensors";
  run_session(loaded, tokens, session);
  const SafetensorsFile file(session.out);
  const TensorInfo* info = file.find("logits");
  const MappedBytes data = file.map(*info);
  std::vector<float> out(static_cast<std::size_t>(info->elements()));
  std::memcpy(out.data(), data.bytes().data(), data.bytes().size());
  return out;
}

inline double root_mean_square(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = a.size() == b.size() ? 0.0 : INFINITY;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return most;
}

}  // namespace foretoken::reference
