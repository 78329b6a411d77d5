// Integer tensors of the golden files, which the reader of the number formats' tests leaves out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace foretoken::reference::golden {

// A tensor of type I32. `file` is relative to tests/reference/data.
std::vector<std::int32_t> integers(const std::string& file, const std::string& tensor);

}  // namespace foretoken::reference::golden
