// The program's version, as reports print it.
#pragma once

#include <string_view>

namespace foretoken::analysis {
inline constexpr std::string_view kVersion = "0.1.0";
}  // namespace foretoken::analysis
