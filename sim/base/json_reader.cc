#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "sim/base/config_tree.h"
#include "sim/base/text.h"
#include "sim/base/tree_builder.h"

namespace foretoken::base {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Walks the text and tells how far the parser has read.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, std::size_t* consumed) : at_(at), consumed_(consumed) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*consumed_;
    return *this;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  std::size_t* consumed_;
};

// The parser's events carry no positions. Between two of them stand only spaces, commas and colons,
// so walking over those from the end of one token finds the start of the next.
class Events final : public nlohmann::json_sax<Json> {
 public:
  Events(TreeBuilder& builder, std::string_view text) : builder_(builder), text_(text) {}

  [[nodiscard]] std::size_t* consumed() { return &consumed_; }

  bool null() override {
    const Place place = start_token();
    builder_.null(place);
    return end_token(at_ + 4);
  }
  bool boolean(bool value) override {
    const Place place = start_token();
    builder_.scalar(value ? "true" : "false", false, place);
    return end_token(at_ + (value ? 4 : 5));
  }
  bool number_integer(number_integer_t /*value*/) override { return number(); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return number(); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    return number();
  }
  bool string(string_t& value) override {
    const Place place = start_token();
    builder_.scalar(std::move(value), true, place);
    return end_token(consumed_);
  }
  bool key(string_t& value) override { return string(value); }
  bool binary(binary_t& /*value*/) override { return false; }  // never in a text

  bool start_object(std::size_t /*size*/) override { return open(ConfigTree::Kind::kMap); }
  bool start_array(std::size_t /*size*/) override { return open(ConfigTree::Kind::kList); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool parse_error(std::size_t /*position*/, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& error) override {
    explain(error);
  }

 private:
  bool open(ConfigTree::Kind kind) {
    builder_.open(kind, start_token());
    return end_token(at_ + 1);
  }
  bool close() {
    start_token();
    builder_.close();
    return end_token(at_ + 1);
  }
  // Kept as written: what it means depends on the key.
  bool number() {
    const Place place = start_token();
    const std::size_t end = number_end();
    builder_.scalar(std::string(text_.substr(at_, end - at_)), false, place);
    return end_token(end);
  }

  // The parser may have read one character further.
  [[nodiscard]] std::size_t number_end() const {
    const auto at = [this](std::size_t i) { return i < text_.size() ? text_[i] : '\0'; };
    const auto digits = [&](std::size_t i) {
      while (at(i) >= '0' && at(i) <= '9') ++i;
      return i;
    };
    std::size_t end = at(at_) == '-' ? at_ + 1 : at_;
    end = at(end) == '0' ? end + 1 : digits(end);  // a leading zero stands alone
    if (at(end) == '.') end = digits(end + 1);
    if (at(end) == 'e' || at(end) == 'E') {
      const bool sign = at(end + 1) == '+' || at(end + 1) == '-';
      end = digits(end + (sign ? 2 : 1));
    }
    return end;
  }

  Place start_token() {
    skip_to(std::min(text_.find_first_not_of(" \t\r\n,:", at_), text_.size()));
    return place();
  }
  bool end_token(std::size_t end) {
    at_ = end;
    return true;
  }
  void skip_to(std::size_t offset) {
    for (; at_ < offset; ++at_) {
      if (text_[at_] == '\n') {
        ++line_;
        line_start_ = at_ + 1;
      }
    }
  }
  [[nodiscard]] Place place() const { return {line_, static_cast<int>(at_ - line_start_) + 1}; }

  // The library's text is "[json.exception...] parse error at ...: syntax error while parsing X -
  // REASON; last read: 'TOKEN'; expected Y".
  [[noreturn]] void explain(const nlohmann::detail::exception& error) {
    std::string_view reason = error.what();
    if (const auto dash = reason.find(" - "); dash != std::string_view::npos) {
      reason.remove_prefix(dash + 3);
    }
    if (const auto read = reason.find("; last read: '"); read != std::string_view::npos) {
      reason = reason.substr(0, read);
    }
    if (reason.starts_with("unexpected end of input")) {
      at_end();
    }
    if (reason.starts_with("unexpected '")) {  // a single character, just read
      const std::size_t offset = consumed_ - 1;
      const bool closing = text_[offset] == ']' || text_[offset] == '}';
      skip_to(offset);
      const auto before = text_.substr(0, offset).find_last_not_of(" \t\r\n");
      if (closing && before != std::string_view::npos && text_[before] == ',') {
        builder_.fail(place(), fmt::format("a comma before '{}'", text_[offset]));
      }
      builder_.fail(place(), std::string(reason));
    }
    start_token();
    if (error.id == 406) builder_.fail(place(), "number too large: " + quote(word()));
    if (at_ == text_.size()) at_end();
    const char first = text_[at_];
    if (first == '"' && !reason.starts_with("unexpected")) {
      skip_to(std::max(at_, std::min(consumed_, text_.size()) - 1));
      builder_.fail(place(), std::string(reason));
    }
    if (first == '/') builder_.fail(place(), "JSON has no comments");
    if (first == '\'') builder_.fail(place(), "JSON text stands in double quotes");
    if (reason == "invalid literal") builder_.fail(place(), "invalid literal " + quote(word()));
    builder_.fail(place(), std::string(reason));
  }

  [[noreturn]] void at_end() {
    skip_to(text_.size());
    const ConfigTree* open = builder_.innermost();
    if (open == nullptr) builder_.fail(place(), "the file ends before a value");
    builder_.fail(place(),
                  fmt::format("the file ends within the {} that starts on line {}",
                              open->kind == ConfigTree::Kind::kMap ? "map" : "list", open->line));
  }

  [[nodiscard]] std::string_view word() const {
    const std::size_t end = std::min(text_.find_first_of(" \t\r\n,:[]{}\"", at_), text_.size());
    return text_.substr(at_, std::max<std::size_t>(end - at_, 1));
  }

  TreeBuilder& builder_;
  std::string_view text_;
  std::size_t consumed_ = 0;
  std::size_t at_ = 0;  // end of the last token
  int line_ = 1;
  std::size_t line_start_ = 0;
};

}  // namespace

ConfigFile parse_json(std::string path, std::string_view text, const ConfigLimits& limits) {
  check_size(path, text.size(), limits.file_bytes);
  check_characters(path, text);
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    throw ConfigError({std::move(path), 0, 0}, "the file is empty");
  }
  TreeBuilder builder(path, limits);
  Events events(builder, text);
  const CountingIterator first(text.data(), events.consumed());
  const CountingIterator last(text.data() + text.size(), events.consumed());
  Json::sax_parse(first, last, &events);
  return {.path = std::move(path), .root = builder.take()};
}

}  // namespace foretoken::base
