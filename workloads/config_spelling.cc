#include "workloads/config_spelling.h"

#include <array>
#include <string>
#include <string_view>
#include <utility>

namespace foretoken::workloads {

namespace {

using base::ConfigTree;

constexpr std::array<std::array<std::string_view, 2>, 17> kRenamed = {{
    {"dim", "hidden_size"},
    {"inter_dim", "intermediate_size"},
    {"moe_inter_dim", "moe_intermediate_size"},
    {"n_layers", "num_hidden_layers"},
    {"n_dense_layers", "first_k_dense_replace"},
    {"n_hash_layers", "num_hash_layers"},
    {"n_mtp_layers", "num_nextn_predict_layers"},
    {"n_heads", "num_attention_heads"},
    {"n_activated_experts", "num_experts_per_tok"},
    {"n_expert_groups", "n_group"},
    {"n_limited_groups", "topk_group"},
    {"score_func", "scoring_func"},
    {"route_scale", "routed_scaling_factor"},
    {"rope_head_dim", "qk_rope_head_dim"},
    {"window_size", "sliding_window"},
    {"max_seq_len", "max_position_embeddings"},
    {"norm_eps", "rms_norm_eps"},
}};

ConfigTree scalar(std::string text, const ConfigTree& at, bool quoted) {
  ConfigTree tree;
  tree.kind = ConfigTree::Kind::kScalar;
  tree.scalar = std::move(text);
  tree.quoted = quoted;
  tree.line = at.line;
  tree.column = at.column;
  return tree;
}

class Rewriter {
 public:
  explicit Rewriter(ConfigTree& root) : root_(root) {}

  void run() {
    for (auto& [key, value] : root_.entries) {
      for (const auto& [theirs, release] : kRenamed) {
        if (key == theirs) key = release;
      }
    }
    const bool v4 = root_.find("compress_ratios") != nullptr;
    // Defaults of the release's own program.
    set_default("model_type", v4 ? "deepseek_v4" : "deepseek_v32", true);
    set_default("max_position_embeddings", v4 ? "1048576" : "163840", false);
    if (v4) {
      const ConfigTree* ratios = root_.find("compress_ratios");
      const ConfigTree* layers = root_.find("num_hidden_layers");
      // One entry more than layers: the MTP block's.
      const bool one_more = layers != nullptr && !ratios->items.empty() &&
                            std::to_string(ratios->items.size() - 1) == layers->scalar;
      set_default("num_nextn_predict_layers", one_more ? "1" : "0", false);
    } else {
      set_default("num_nextn_predict_layers", "0", false);
    }
    group("rope_scaling",
          {{"rope_factor", "factor", v4 ? "16" : "40"},
           {"original_seq_len", "original_max_position_embeddings", v4 ? "65536" : "4096"},
           {"beta_fast", "beta_fast", "32"},
           {"beta_slow", "beta_slow", "1"},
           {"mscale", "mscale", "1.0"}});
    const ConfigTree* dtype = root_.find("dtype");
    if (dtype != nullptr && dtype->scalar == "fp8") {
      group("quantization_config", {{"scale_fmt", "scale_fmt", ""}});
      ConfigTree& quantisation = *mutable_find("quantization_config");
      add(quantisation, "quant_method", scalar("fp8", root_, true));
      ConfigTree block;
      block.kind = ConfigTree::Kind::kList;
      block.items = {scalar("128", root_, false), scalar("128", root_, false)};
      add(quantisation, "weight_block_size", std::move(block));
    }
  }

 private:
  struct Moved {
    std::string_view from;
    std::string_view to;
    std::string_view otherwise;  // empty = leave it out
  };

  static void add(ConfigTree& map, std::string key, ConfigTree value) {
    map.key_positions.emplace_back(value.line, value.column);
    map.entries.emplace_back(std::move(key), std::move(value));
  }

  ConfigTree* mutable_find(std::string_view key) {
    for (auto& [name, value] : root_.entries) {
      if (name == key) return &value;
    }
    return nullptr;
  }

  void set_default(std::string_view key, const char* value, bool quoted) {
    if (root_.find(key) == nullptr) add(root_, std::string(key), scalar(value, root_, quoted));
  }

  void group(std::string_view name, std::initializer_list<Moved> keys) {
    if (root_.find(name) != nullptr) return;
    ConfigTree map;
    map.kind = ConfigTree::Kind::kMap;
    map.line = root_.line;
    map.column = root_.column;
    for (const Moved& key : keys) {
      const ConfigTree* given = root_.find(key.from);
      if (given != nullptr) {
        add(map, std::string(key.to), *given);
      } else if (!key.otherwise.empty()) {
        add(map, std::string(key.to), scalar(std::string(key.otherwise), root_, false));
      }
    }
    add(root_, std::string(name), std::move(map));
  }

  ConfigTree& root_;
};

}  // namespace

base::ConfigFile with_release_keys(base::ConfigFile file) {
  const ConfigTree& root = file.root;
  if (root.kind == ConfigTree::Kind::kMap && root.find("dim") != nullptr &&
      root.find("hidden_size") == nullptr) {
    Rewriter(file.root).run();
  }
  return file;
}

base::ConfigFile read_model_config(const std::filesystem::path& path) {
  return with_release_keys(base::read_config_file(path));
}

}  // namespace foretoken::workloads
