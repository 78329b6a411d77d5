// What the tests of whole models share: golden checkpoints, runs kept in memory.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "reference/model/session.h"
#include "reference/model/token_file.h"

namespace foretoken::reference::testing {

inline std::filesystem::path data_folder() {
  return std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests" / "reference" / "data";
}
inline std::filesystem::path golden_folder(const std::string& name) {
  return data_folder() / "models" / name;
}

// A tensor as doubles (integers too).
struct Values {
  std::vector<std::int64_t> shape;
  std::vector<double> data;

  [[nodiscard]] std::int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  [[nodiscard]] std::size_t width() const {
    return rows() == 0 ? 0 : data.size() / static_cast<std::size_t>(rows());
  }
  bool operator==(const Values&) const = default;
};

// Keeps everything; short rows of ragged tensors are padded when read.
class MemorySink final : public Sink {
 public:
  [[nodiscard]] bool wants(std::string_view name) const override {
    return drafts || name.rfind("mtp.", 0) != 0;
  }
  void rows(std::string_view name, std::span<const std::int64_t> row,
            std::span<const float> data) override {
    add(name, row, data);
  }
  void rows(std::string_view name, std::span<const std::int64_t> row,
            std::span<const double> data) override {
    add(name, row, data);
  }
  void rows(std::string_view name, std::span<const std::int64_t> row,
            std::span<const std::int32_t> data) override {
    add(name, row, data);
  }
  void ragged_row(std::string_view name, std::span<const float> data) override {
    ragged[std::string(name)].emplace_back(data.begin(), data.end());
  }
  void ragged_row(std::string_view name, std::span<const double> data) override {
    ragged[std::string(name)].emplace_back(data.begin(), data.end());
  }
  void ragged_row(std::string_view name, std::span<const std::int32_t> data) override {
    ragged[std::string(name)].emplace_back(data.begin(), data.end());
  }

  bool drafts = true;
  std::map<std::string, Values> tensors;
  std::map<std::string, std::vector<std::vector<double>>> ragged;

 private:
  template <class V>
  void add(std::string_view name, std::span<const std::int64_t> row, std::span<const V> data) {
    Values& v = tensors[std::string(name)];
    std::int64_t width = 1;
    for (const std::int64_t n : row) width *= n;
    if (v.shape.empty()) {
      v.shape.push_back(0);
      v.shape.insert(v.shape.end(), row.begin(), row.end());
    }
    v.shape[0] += static_cast<std::int64_t>(data.size()) / width;
    v.data.insert(v.data.end(), data.begin(), data.end());
  }
};

// Runs tokens in steps of the given sizes (the last one repeats until the tokens are used up).
inline void run_steps(ReferenceModel& model, std::span<const std::int32_t> tokens,
                      const std::vector<std::int64_t>& steps, Sink* sink) {
  std::size_t at = 0;
  std::size_t step = 0;
  while (at < tokens.size()) {
    const auto size = std::min<std::size_t>(
        static_cast<std::size_t>(steps[std::min(step, steps.size() - 1)]), tokens.size() - at);
    RunRequest request;
    request.tokens = tokens.subspan(at, size);
    request.sink = sink;
    model.run(request);
    at += size;
    ++step;
  }
}

inline std::unique_ptr<ReferenceModel> make_model(const LoadedCheckpoint& loaded,
                                                  const ReferenceOptions& options,
                                                  bool drafts = false) {
  return make_reference({loaded.checkpoint, loaded.model, loaded.mathematics, options, drafts});
}

// Every tensor of a safetensors file.
inline std::map<std::string, Values> read_tensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  std::map<std::string, Values> out;
  for (const TensorInfo& info : file.tensors()) {
    const MappedBytes mapped = file.map(info);
    Values& v = out[info.name];
    v.shape = info.shape;
    const auto copy = [&](auto zero) {
      using V = decltype(zero);
      for (std::int64_t i = 0; i < info.elements(); ++i) {
        V value;
        std::memcpy(&value, mapped.bytes().data() + static_cast<std::size_t>(i) * sizeof(V),
                    sizeof(V));
        v.data.push_back(static_cast<double>(value));
      }
    };
    if (info.dtype == StorageDtype::kF32) copy(float{});
    if (info.dtype == StorageDtype::kF64) copy(double{});
    if (info.dtype == StorageDtype::kI32) copy(std::int32_t{});
  }
  return out;
}

}  // namespace foretoken::reference::testing
