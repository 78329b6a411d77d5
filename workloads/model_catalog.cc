// Finds models by name in configs/models, or by path.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <system_error>

#include "sim/base/error.h"
#include "workloads/config_spelling.h"
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

fs::path find_model(const std::string& name_or_path, const fs::path& configs) {
  std::error_code error;  // a name too long for a file is an unknown one
  if (name_or_path.find('/') == std::string::npos && name_or_path.ends_with(".json") &&
      !fs::exists(name_or_path, error) && fs::exists(configs / "models" / name_or_path, error)) {
    return configs / "models" / name_or_path;
  }
  const bool is_name =
      name_or_path.find('/') == std::string::npos && !name_or_path.ends_with(".json");
  if (!is_name) return name_or_path;
  fs::path named = configs / "models" / (name_or_path + ".json");
  if (!fs::exists(named, error)) {
    std::string known;
    for (const std::string& n : list_models(configs)) known += (known.empty() ? "" : ", ") + n;
    throw base::ConfigError(
        {name_or_path, 0, 0},
        fmt::format("no such model; known: {}, or a path to a config.json", known));
  }
  return named;
}

ModelSpec load_model(const std::string& name_or_path, const fs::path& configs) {
  const fs::path path = find_model(name_or_path, configs);
  std::string name = path.stem().string();
  if (name == "config" && path.has_parent_path()) name = path.parent_path().filename().string();
  ModelSpec model = read_model(read_model_config(path), name);
  for (const auto& [known, title] : kTitles) {
    if (known == model.name) model.title = title;
  }
  return model;
}

std::string fingerprint(const ModelSpec& m) {
  std::string out = fmt::format("{} {}", m.name, static_cast<int>(m.family));
  for (const std::int64_t v : {m.hidden,
                               m.vocab,
                               m.heads,
                               m.head_dim,
                               m.rope_dim,
                               m.nope_dim,
                               m.value_dim,
                               m.q_rank,
                               m.o_groups,
                               m.o_rank,
                               m.window,
                               m.index_heads,
                               m.index_dim,
                               m.index_topk,
                               m.index_candidates,
                               m.experts,
                               m.experts_per_token,
                               m.shared_experts,
                               m.expert_inner,
                               m.dense_inner,
                               m.streams,
                               m.sinkhorn_iterations,
                               m.engram_rows,
                               m.engram_dim,
                               m.engram_table_rows,
                               m.max_positions,
                               m.draft_experts,
                               m.draft_experts_per_token,
                               m.draft_block,
                               m.draft_markov_rank,
                               m.storage.fp8_block,
                               static_cast<std::int64_t>(m.image_bias),
                               static_cast<std::int64_t>(m.storage.quantised),
                               static_cast<std::int64_t>(m.storage.linear),
                               static_cast<std::int64_t>(m.storage.expert),
                               static_cast<std::int64_t>(m.storage.plain)}) {
    out += fmt::format(" {}", v);
  }
  for (const auto& layers : {m.layers, m.draft_layers}) {
    out += "\n";
    for (const LayerSpec& l : layers) {
      out += fmt::format(" {}.{}.{}.{}.{}.{}.{}.{}.{}", static_cast<int>(l.attention), l.ratio,
                         l.owns_cache, static_cast<int>(l.index), l.overlap,
                         static_cast<int>(l.ffn), l.hash_routing, l.engram, l.decoder);
    }
  }
  return out + "\n";
}

}  // namespace foretoken::workloads
