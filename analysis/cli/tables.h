// The measurement tables that commands take by default.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace foretoken::analysis::cli {

// Every table of configs/measurements, by name. Throws ConfigError where there are none.
std::vector<std::string> all_tables(const std::filesystem::path& configs);

}  // namespace foretoken::analysis::cli
