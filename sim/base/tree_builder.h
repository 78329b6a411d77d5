// Builds a ConfigTree from the events of either parser, and enforces what both formats share:
// unique keys, text keys, limits.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sim/base/config_tree.h"

namespace foretoken::base {

struct Place {
  int line = 0;
  int column = 0;
};

class TreeBuilder {
 public:
  TreeBuilder(std::string path, const ConfigLimits& limits);

  // The next value; within a map that waits for a key, a scalar is that key.
  void scalar(std::string text, bool quoted, Place place);
  void null(Place place);
  void open(ConfigTree::Kind kind, Place place);
  void close();

  [[nodiscard]] bool wants_key() const;
  // Where the key of the value to come stands, if a map waits for one.
  [[nodiscard]] std::optional<Place> pending_key() const;
  // The innermost list or map that is not closed yet.
  [[nodiscard]] const ConfigTree* innermost() const;
  [[nodiscard]] ConfigTree take();

  // Throws when that many more levels would be too deep.
  void check_depth(Place place, std::size_t levels) const;
  [[noreturn]] void fail(Place place, const std::string& message) const;

 private:
  struct Open {
    ConfigTree tree;
    std::unordered_map<std::string, int> lines;  // of the keys seen
    std::optional<Place> key;                    // of the value to come
  };

  void count(Place place);
  void key(std::string text, Place place);
  void add(ConfigTree tree);

  std::string path_;
  ConfigLimits limits_;
  std::size_t nodes_ = 0;
  std::vector<Open> open_;
  ConfigTree root_;
};

}  // namespace foretoken::base
