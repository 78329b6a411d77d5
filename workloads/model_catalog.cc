// Finds models by name in configs/models, or by path.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <system_error>

#include "sim/base/error.h"
#include "workloads/model_spec.h"

namespace foretoken::workloads {

namespace fs = std::filesystem;

std::vector<std::string> list_models(const fs::path& configs) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(configs / "models", error)) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

namespace {

// The names people use for the released checkpoints.
constexpr std::array<std::array<std::string_view, 2>, 4> kTitles = {{
    {"deepseek-v3.2", "DeepSeek-V3.2"},
    {"deepseek-v4-pro", "DeepSeek-V4-Pro"},
    {"deepseek-v4-flash", "DeepSeek-V4-Flash"},
    {"deepseek-v4.1-flash", "DeepSeek-V4.1-Flash"},
}};

}  // namespace

ModelSpec load_model(const std::string& name_or_path, const fs::path& configs) {
  const fs::path named = configs / "models" / (name_or_path + ".json");
  const bool is_name =
      name_or_path.find('/') == std::string::npos && !name_or_path.ends_with(".json");
  if (is_name && !fs::exists(named)) {
    std::string known;
    for (const std::string& n : list_models(configs)) known += (known.empty() ? "" : ", ") + n;
    throw base::ConfigError(
        {name_or_path, 0, 0},
        fmt::format("no such model; known: {}, or a path to a config.json", known));
  }
  const fs::path path = is_name ? named : fs::path(name_or_path);
  std::string name = is_name ? name_or_path : path.stem().string();
  if (!is_name && name == "config" && path.has_parent_path()) {
    name = path.parent_path().filename().string();
  }
  ModelSpec model = read_model(base::read_config_file(path), name);
  for (const auto& [known, title] : kTitles) {
    if (known == model.name) model.title = title;
  }
  return model;
}

}  // namespace foretoken::workloads
