// Where the numbers in configs/ come from. File: configs/sources.yaml.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "sim/base/config.h"

namespace foretoken::analysis {

struct Source {
  std::string id;
  std::string title;
  std::string where;
  std::string note;
};

struct Sources {
  std::vector<Source> sources;
  [[nodiscard]] const Source* find(const std::string& id) const;
};

void describe(base::ConfigVisitor& v, Sources& sources);
Sources load_sources(const std::filesystem::path& configs);

}  // namespace foretoken::analysis
