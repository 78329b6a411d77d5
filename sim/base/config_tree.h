// A parsed configuration file, YAML or JSON alike: a plain tree that remembers where each value
// stood.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/base/error.h"

namespace foretoken::base {

// One value. Scalars keep the text as written, so that nothing is converted before its type is
// known.
struct ConfigTree {
  enum class Kind : std::uint8_t { kNull, kScalar, kList, kMap };

  // Defined where the type is complete: clang instantiates the pair of `entries` too early
  // otherwise.
  ConfigTree();
  ConfigTree(const ConfigTree&);
  ConfigTree(ConfigTree&&) noexcept;
  ConfigTree& operator=(const ConfigTree&);
  ConfigTree& operator=(ConfigTree&&) noexcept;
  ~ConfigTree();

  Kind kind = Kind::kNull;
  bool quoted = false;  // a quoted scalar is text, never a number
  int line = 0;         // 1-based; 0 for values that came from the command line
  int column = 0;
  std::string scalar;
  std::vector<ConfigTree> items;                            // kList
  std::vector<std::pair<std::string, ConfigTree>> entries;  // kMap, in the file's order
  std::vector<std::pair<int, int>> key_positions;           // kMap: line, column of each key

  [[nodiscard]] const ConfigTree* find(std::string_view key) const;
};

struct ConfigFile {
  std::string path;  // as given, for messages
  ConfigTree root;
};

// Limits that no real configuration reaches; beyond them a file is refused, not chewed on.
struct ConfigLimits {
  std::uintmax_t file_bytes = 16u << 20;
  int depth = 64;
  std::size_t nodes = 1'000'000;
};

// Reads a file; `.json` is parsed as strict JSON, anything else as YAML. Duplicate keys, YAML
// anchors, aliases and tags, several documents, invalid UTF-8, NUL bytes and exceeded limits are
// errors. Throws ConfigError with the position.
ConfigFile read_config_file(const std::filesystem::path& path, const ConfigLimits& limits = {});
ConfigFile parse_yaml(std::string path, std::string_view text, const ConfigLimits& limits = {});
ConfigFile parse_json(std::string path, std::string_view text, const ConfigLimits& limits = {});

// Applies "key.path=value" or "list[2].key=value" from the command line; the value is parsed as
// YAML. Missing intermediate maps are created, list items are not. Throws UsageError when the text
// has no '=' or the path does not fit the tree.
void apply_override(ConfigFile& file, std::string_view assignment);

}  // namespace foretoken::base
