#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "sim/base/config_tree.h"
#include "sim/base/text.h"
#include "sim/base/tree_builder.h"

namespace foretoken::base {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// yaml-cpp counts from zero.
Place place_of(const YAML::Mark& mark) { return {mark.line + 1, mark.column + 1}; }

// Feeds the builder straight from the parser's events: YAML::Node would accept duplicate keys and
// keep no position of keys.
class Events final : public YAML::EventHandler {
 public:
  Events(TreeBuilder& builder, std::string_view text) : builder_(builder), text_(text) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ == 0) return;
    builder_.fail(place_of(mark), at(mark).starts_with("---")
                                      ? "a second document; a file holds one"
                                      : "text after the end of the document; check indentation");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    if (!refused_keys_.empty()) return;
    Place place = place_of(mark);
    // A value left out is reported where the next token stands, often lines below.
    const std::optional<Place> key = builder_.pending_key();
    if (key && key->line != place.line) place = *key;
    builder_.null(place);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    builder_.fail(place_of(mark), "aliases (*name) are not accepted");
  }

  void OnAnchor(const YAML::Mark& mark, const std::string& /*name*/) override {
    builder_.fail(place_of(mark), "anchors (&name) are not accepted");
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t /*anchor*/,
                const std::string& value) override {
    // "?" is a plain scalar, "!" a quoted or block one, or one written with that bare tag.
    if ((tag != "?" && tag != "!") || (tag == "!" && at(mark).starts_with('!'))) refuse_tag(mark);
    if (refused_keys_.empty()) builder_.scalar(value, tag == "!", place_of(mark));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t /*anchor*/,
                       YAML::EmitterStyle::value /*style*/) override {
    if (tag != "?") refuse_tag(mark);
    open(ConfigTree::Kind::kList, place_of(mark));
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t /*anchor*/,
                  YAML::EmitterStyle::value /*style*/) override {
    if (tag != "?") refuse_tag(mark);
    open(ConfigTree::Kind::kMap, place_of(mark));
  }
  void OnMapEnd() override { close(); }

  [[nodiscard]] bool saw_document() const { return documents_ > 0; }

  struct Collection {
    ConfigTree::Kind kind = ConfigTree::Kind::kNull;
    Place place;
  };
  // The innermost list or map that is not closed yet.
  [[nodiscard]] std::optional<Collection> innermost() const {
    if (!refused_keys_.empty()) return refused_keys_.back();
    const ConfigTree* open = builder_.innermost();
    if (open == nullptr) return std::nullopt;
    return Collection{open->kind, {open->line, open->column}};
  }

 private:
  // To yaml-cpp a list that is never closed looks like the key of a map, so such a key is refused
  // only at its end.
  void open(ConfigTree::Kind kind, Place place) {
    if (refused_keys_.empty() && !builder_.wants_key()) {
      builder_.open(kind, place);
      return;
    }
    refused_keys_.push_back({kind, place});
    builder_.check_depth(place, refused_keys_.size());
  }
  void close() {
    if (refused_keys_.empty()) {
      builder_.close();
      return;
    }
    const Place place = refused_keys_.back().place;
    refused_keys_.pop_back();
    if (refused_keys_.empty()) builder_.fail(place, "a key must be text, not a list or a map");
  }

  [[nodiscard]] std::string_view at(const YAML::Mark& mark) const {
    return text_.substr(std::min(static_cast<std::size_t>(std::max(mark.pos, 0)), text_.size()));
  }
  [[noreturn]] void refuse_tag(const YAML::Mark& mark) const {
    builder_.fail(place_of(mark), "tags (!name) are not accepted");
  }

  TreeBuilder& builder_;
  std::string_view text_;
  int documents_ = 0;
  std::vector<Collection> refused_keys_;  // a key that is no text, and what is open within
};

// The scanner of yaml-cpp holds every token of a flow list or map until it closes, about a hundred
// bytes for each, before the first event tells anything. So the indicators are counted beforehand;
// those in comments and texts count too, which no real file notices.
void check_flow_indicators(const std::string& path, std::string_view text,
                           const ConfigLimits& limits) {
  std::size_t count = 0;
  int line = 1;
  std::size_t line_start = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '[' || c == '{' || c == ',' || c == '?' || c == ':') ++count;
    if (count > limits.nodes) {
      throw ConfigError({path, line, static_cast<int>(i - line_start) + 1},
                        fmt::format("more than {} values", limits.nodes));
    }
    if (c == '\n') {
      ++line;
      line_start = i + 1;
    }
  }
}

[[noreturn]] void explain(const YAML::Exception& error, const TreeBuilder& builder,
                          const Events& events) {
  Place place = error.mark.is_null() ? Place{} : place_of(error.mark);
  const std::string_view reason = error.msg;
  if (reason == YAML::ErrorMsg::UNKNOWN_ANCHOR) {
    builder.fail(place, "aliases (*name) are not accepted");
  }
  const bool in_list = reason == YAML::ErrorMsg::END_OF_SEQ_FLOW;
  const bool in_map = reason == YAML::ErrorMsg::END_OF_MAP_FLOW;
  const auto open = events.innermost();
  if ((in_list || in_map) && open) {
    const std::string_view what = in_list ? "list" : "map";
    const char closing = in_list ? ']' : '}';
    // At the end of the file yaml-cpp gives the position 0:0.
    if (std::pair(place.line, place.column) <= std::pair(open->place.line, open->place.column)) {
      builder.fail(open->place, fmt::format("this {} is not closed with '{}'", what, closing));
    }
    builder.fail(place, fmt::format("expected ',' or '{}' in the {} that starts on line {}",
                                    closing, what, open->place.line));
  }
  std::string message = quote(reason);  // may quote the file
  message = "invalid YAML: " + message.substr(1, message.size() - 2);
  if (reason == YAML::ErrorMsg::MAP_VALUE) {
    message += " (two ':' in one line, or wrong indentation?)";
  }
  builder.fail(place, message);
}

}  // namespace

ConfigFile parse_yaml(std::string path, std::string_view text, const ConfigLimits& limits) {
  check_size(path, text.size(), limits.file_bytes);
  check_characters(path, text);
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  check_flow_indicators(path, text, limits);

  TreeBuilder builder(path, limits);
  Events events(builder, text);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(events)) {
    }
  } catch (const YAML::Exception& error) {
    explain(error, builder, events);
  }
  ConfigFile file{.path = std::move(path), .root = builder.take()};
  if (!events.saw_document() || file.root.kind == ConfigTree::Kind::kNull) {
    throw ConfigError({file.path, 0, 0}, "the file is empty");
  }
  return file;
}

}  // namespace foretoken::base
