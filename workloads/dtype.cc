#include "workloads/dtype.h"

namespace foretoken::workloads {

std::optional<Dtype> parse_dtype(std::string_view name) {
  for (std::size_t i = 0; i < kDtypeNames.size(); ++i) {
    if (kDtypeNames[i] == name) return static_cast<Dtype>(i);
  }
  return std::nullopt;
}

}  // namespace foretoken::workloads
