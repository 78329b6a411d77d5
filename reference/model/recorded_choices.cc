#include "reference/model/recorded_choices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "reference/checkpoint/safetensors.h"
#include "sim/base/error.h"

namespace foretoken::reference {

namespace {

// More experts than any model has; also what an int32 holds with ease.
constexpr std::int64_t kMostExperts = 1 << 20;

template <class V>
std::int64_t element(std::span<const std::byte> bytes, std::int64_t index) {
  V value;
  std::memcpy(&value, bytes.data() + static_cast<std::size_t>(index) * sizeof(V), sizeof(V));
  return static_cast<std::int64_t>(value);
}

}  // namespace

workloads::RoutingSpec recorded_choices(const std::filesystem::path& path, std::string_view name) {
  const SafetensorsFile file(path);
  const auto refuse = [&](const std::string& why) {
    throw base::ConfigError({path.string(), 0, 0},
                            fmt::format("tensor {} {}", quote_tensor(name), why));
  };
  const TensorInfo* const tensor = file.find(name);
  if (tensor == nullptr) {
    refuse("is not in the file; 'foretoken reference --dump' names those it shall write");
  }
  const bool wide = tensor->dtype == StorageDtype::kI64;
  if ((!wide && tensor->dtype != StorageDtype::kI32) || tensor->shape.size() != 2 ||
      tensor->elements() == 0) {
    refuse("is no [tokens, choices] of whole numbers");
  }
  auto data = std::make_shared<workloads::RoutingData>();
  data->file = path.string();
  data->topk = tensor->shape[1];
  const std::int64_t count = tensor->elements();
  data->choices.reserve(static_cast<std::size_t>(count));
  const MappedBytes mapped = file.map(*tensor);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t expert =
        wide ? element<std::int64_t>(mapped.bytes(), i) : element<std::int32_t>(mapped.bytes(), i);
    if (expert < 0 || expert >= kMostExperts) {
      refuse(fmt::format("holds {}, which is no expert number", expert));
    }
    const auto row = data->choices.end() - i % data->topk;
    if (std::find(row, data->choices.end(), static_cast<std::int32_t>(expert)) !=
        data->choices.end()) {
      refuse(fmt::format("chooses expert {} twice for token {}", expert, i / data->topk));
    }
    data->choices.push_back(static_cast<std::int32_t>(expert));
  }
  workloads::RoutingSpec spec(workloads::Routing::kRecorded);
  spec.data = std::move(data);
  return spec;
}

}  // namespace foretoken::reference
