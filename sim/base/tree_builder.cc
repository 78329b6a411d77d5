#include "sim/base/tree_builder.h"

#include <fmt/format.h>

#include <utility>

#include "sim/base/text.h"

namespace foretoken::base {

TreeBuilder::TreeBuilder(std::string path, const ConfigLimits& limits)
    : path_(std::move(path)), limits_(limits) {}

void TreeBuilder::fail(Place place, const std::string& message) const {
  throw ConfigError({path_, place.line, place.column}, message);
}

bool TreeBuilder::wants_key() const {
  return !open_.empty() && open_.back().tree.kind == ConfigTree::Kind::kMap && !open_.back().key;
}

std::optional<Place> TreeBuilder::pending_key() const {
  return open_.empty() ? std::nullopt : open_.back().key;
}

const ConfigTree* TreeBuilder::innermost() const {
  return open_.empty() ? nullptr : &open_.back().tree;
}

ConfigTree TreeBuilder::take() { return std::move(root_); }

void TreeBuilder::count(Place place) {
  if (++nodes_ > limits_.nodes) fail(place, fmt::format("more than {} values", limits_.nodes));
}

void TreeBuilder::check_depth(Place place, std::size_t levels) const {
  if (std::cmp_less_equal(open_.size() + levels, limits_.depth)) return;
  fail(place, fmt::format("nested deeper than {} levels", limits_.depth));
}

void TreeBuilder::scalar(std::string text, bool quoted, Place place) {
  if (text.find('\0') != std::string::npos) fail(place, "a value with a NUL character");
  if (wants_key()) {
    key(std::move(text), place);
    return;
  }
  count(place);
  ConfigTree tree;
  tree.kind = ConfigTree::Kind::kScalar;
  tree.quoted = quoted;
  tree.line = place.line;
  tree.column = place.column;
  tree.scalar = std::move(text);
  add(std::move(tree));
}

void TreeBuilder::null(Place place) {
  if (wants_key()) fail(place, "a key is missing; an empty key is not accepted");
  count(place);
  ConfigTree tree;
  tree.line = place.line;
  tree.column = place.column;
  add(std::move(tree));
}

void TreeBuilder::open(ConfigTree::Kind kind, Place place) {
  check_depth(place, 1);
  count(place);
  Open next;
  next.tree.kind = kind;
  next.tree.line = place.line;
  next.tree.column = place.column;
  open_.push_back(std::move(next));
}

void TreeBuilder::close() {
  ConfigTree tree = std::move(open_.back().tree);
  open_.pop_back();
  add(std::move(tree));
}

void TreeBuilder::key(std::string text, Place place) {
  Open& map = open_.back();
  const auto [found, inserted] = map.lines.emplace(text, place.line);
  if (!inserted) {
    fail(place, fmt::format("duplicate key {}; first on line {}", quote(text), found->second));
  }
  map.key = place;
  map.tree.entries.emplace_back(std::move(text), ConfigTree{});
  map.tree.key_positions.emplace_back(place.line, place.column);
}

void TreeBuilder::add(ConfigTree tree) {
  if (open_.empty()) {
    root_ = std::move(tree);
    return;
  }
  Open& parent = open_.back();
  if (parent.tree.kind == ConfigTree::Kind::kList) {
    parent.tree.items.push_back(std::move(tree));
    return;
  }
  parent.tree.entries.back().second = std::move(tree);
  parent.key.reset();
}

}  // namespace foretoken::base
