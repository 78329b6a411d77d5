#include "sim/base/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <optional>
#include <stdexcept>
#include <utility>

#include "sim/base/text.h"

namespace foretoken::base {
namespace {

using Kind = ConfigTree::Kind;

constexpr std::size_t kMostListed = 20;  // keys in a message

std::string_view name_of(const ConfigTree& node) {
  switch (node.kind) {
    case Kind::kNull:
      return "empty";
    case Kind::kScalar:
      return node.quoted ? "quoted text" : "a single value";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
  }
  return "empty";
}

std::string join(std::span<const std::string_view> names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string describe_range(IntRange range) {
  if (range.max == std::numeric_limits<std::int64_t>::max()) {
    return fmt::format("at least {}", range.min);
  }
  return fmt::format("from {} to {}", range.min, range.max);
}

std::string describe_range(RealRange range, UnitKind kind) {
  const std::string low = exact_quantity(range.min, kind);
  const bool bounded = range.max < std::numeric_limits<double>::max();
  const std::string high = bounded ? exact_quantity(range.max, kind) : "";
  if (range.open_low) {
    return fmt::format("above {}{}", low, bounded ? " and at most " + high : "");
  }
  return bounded ? fmt::format("from {} to {}", low, high) : fmt::format("at least {}", low);
}

std::string describe_range(SizeRange range, std::string_view what) {
  if (range.min == range.max) return fmt::format("must have exactly {} {}", range.min, what);
  return fmt::format("must have from {} to {} {}", range.min, range.max, what);
}

}  // namespace

struct ConfigReader::State {
  // The value being described: a map whose fields are read, a list or table whose items are, or
  // nothing, for a list or table that the file leaves out.
  struct Frame {
    const ConfigTree* node = nullptr;
    std::string path;                // "memory[0]"; empty at the root
    std::vector<bool> seen;          // entries that were described
    std::vector<std::string> known;  // keys that were described
    std::string missing;             // the first required key that is not there
    std::size_t hint = 0;  // where to look for the next key: files mostly follow the order
  };

  const ConfigFile& file;
  bool ignore_unknown = false;
  bool present = true;
  std::vector<Frame> frames;

  [[nodiscard]] Frame& top() { return frames.back(); }

  [[noreturn]] void fail(int line, int column, const std::string& message) const {
    if (line <= 0) throw ConfigError({file.path + ":--set", 0, 0}, message);
    throw ConfigError({file.path, line, column}, message);
  }
  [[noreturn]] void fail(const ConfigTree& at, const std::string& message) const {
    fail(at.line, at.column, message);
  }

  // "'bandwidth' in memory[0]"
  [[nodiscard]] std::string subject(std::string_view key) {
    const std::string& path = top().path;
    return quote(key) + (path.empty() ? "" : " in " + path);
  }
  [[nodiscard]] std::string path_of(std::string_view key) {
    const std::string& path = top().path;
    return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
  }

  void push(const ConfigTree* node, std::string path) {
    Frame frame{.node = node, .path = std::move(path), .seen = {}, .known = {}, .missing = {}};
    if (node != nullptr) frame.seen.resize(node->entries.size());
    frames.push_back(std::move(frame));
  }
  void push_map(const ConfigTree& node, std::string path) {
    if (node.kind != Kind::kMap) {
      fail(node, fmt::format("{} must be a map of keys, but is {}",
                             path.empty() ? "the file" : quote(path), name_of(node)));
    }
    push(&node, std::move(path));
  }

  // Index of the entry with this key in the current map.
  [[nodiscard]] std::optional<std::size_t> index_of(std::string_view key) {
    Frame& frame = top();
    if (frame.node == nullptr) return std::nullopt;
    const auto& entries = frame.node->entries;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const std::size_t at = (frame.hint + i) % entries.size();
      if (entries[at].first != key) continue;
      frame.hint = at + 1;
      return at;
    }
    return std::nullopt;
  }

  // The value of a field; null when it is absent, which is noted if the field is required.
  const ConfigTree* find(const Field& field) {
    Frame& frame = top();
    frame.known.emplace_back(field.key);
    const std::optional<std::size_t> at = index_of(field.key);
    if (!at) {
      if (field.need == Need::kRequired && frame.missing.empty()) frame.missing = field.key;
      return nullptr;
    }
    frame.seen[*at] = true;
    const ConfigTree& node = frame.node->entries[*at].second;
    if (node.kind != Kind::kNull) return &node;
    if (field.need == Need::kRequired) fail(node, subject(field.key) + " has no value");
    return nullptr;
  }

  const ConfigTree* find(const Field& field, Kind kind, std::string_view expected) {
    const ConfigTree* node = find(field);
    if (node != nullptr) require(*node, field.key, kind, expected);
    return node;
  }

  void require(const ConfigTree& node, std::string_view key, Kind kind, std::string_view expected) {
    if (node.kind == kind) return;
    fail(node, fmt::format("{} must be {}, but is {}", subject(key), expected, name_of(node)));
  }

  // The list of a field, null when absent.
  const ConfigTree* find_list(const Field& field, SizeRange size) {
    const ConfigTree* node = find(field, Kind::kList, "a list");
    if (node != nullptr) check_size(*node, field.key, node->items.size(), size, "items");
    return node;
  }

  void check_size(const ConfigTree& node, std::string_view key, std::size_t count, SizeRange size,
                  std::string_view what) {
    if (contains(size, count)) return;
    fail(node,
         fmt::format("{} has {} {}; it {}", subject(key), count, what, describe_range(size, what)));
  }

  // Runs a parser of quantity.h; its reason becomes the error at the value.
  template <class Parse>
  auto convert(const ConfigTree& node, std::string_view key, Parse&& parse) {
    try {
      return parse(std::string_view(node.scalar));
    } catch (const std::invalid_argument& error) {
      fail(node, subject(key) + ": " + error.what());
    }
  }

  std::int64_t read_integer(const ConfigTree& node, std::string_view key, IntRange range) {
    require(node, key, Kind::kScalar, "a whole number");
    if (node.quoted) refuse_quoted(node, key, "a whole number");
    const std::int64_t value = convert(node, key, [](std::string_view text) {
      if (!text.starts_with('-') || text.starts_with("--")) return parse_count(text);
      return -parse_count(text.substr(1));
    });
    if (!contains(range, value)) {
      fail(node, fmt::format("{}: {} is out of range; it must be {}", subject(key),
                             quote(node.scalar), describe_range(range)));
    }
    return value;
  }

  double read_real(const ConfigTree& node, std::string_view key, UnitKind kind, RealRange range) {
    const std::string_view expected = kind == UnitKind::kNumber ? "a number" : "a quantity";
    require(node, key, Kind::kScalar, expected);
    // A quantity is text with a unit, and in JSON it is always quoted.
    if (node.quoted && kind == UnitKind::kNumber) refuse_quoted(node, key, expected);
    const double value =
        convert(node, key, [kind](std::string_view text) { return parse_quantity(text, kind); });
    if (!contains(range, value)) {
      fail(node, fmt::format("{}: {} is out of range; it must be {}", subject(key),
                             quote(node.scalar), describe_range(range, kind)));
    }
    return value;
  }

  [[noreturn]] void refuse_quoted(const ConfigTree& node, std::string_view key,
                                  std::string_view expected) {
    fail(node, fmt::format("{} must be {}, but is quoted text", subject(key), expected));
  }

  std::string read_text(const ConfigTree& node, std::string_view key) {
    require(node, key, Kind::kScalar, "text");
    return node.scalar;
  }

  MoneyText read_money(const ConfigTree& node, std::string_view key) {
    require(node, key, Kind::kScalar, "an amount of money");
    MoneyText money = convert(node, key, parse_money);
    if (money.amount < 0.0) {
      fail(node, fmt::format("{}: {} is out of range; it must be at least 0 {}", subject(key),
                             quote(node.scalar), money.currency));
    }
    return money;
  }

  // The value of `key` in the current map, for errors that blame it.
  const ConfigTree& value_at(std::string_view key) {
    const ConfigTree* node = top().node->find(key);
    return node != nullptr ? *node : *top().node;
  }

  void check_order(const Ranged& value) {
    if (value.low > value.value) {
      fail(value_at("low"), subject("low") + " is above 'value'");
    }
    if (value.high < value.value) {
      fail(value_at("high"), subject("high") + " is below 'value'");
    }
  }

  void leave_map() {
    Frame& frame = top();
    const ConfigTree& map = *frame.node;
    for (std::size_t i = 0; i < map.entries.size() && !ignore_unknown; ++i) {
      if (frame.seen[i]) continue;
      const std::string& key = map.entries[i].first;
      std::string hint = did_you_mean(key, std::span<const std::string>(frame.known));
      if (hint.empty() && !frame.known.empty() && frame.known.size() <= kMostListed) {
        hint = fmt::format("; known keys: {}", fmt::join(frame.known, ", "));
      }
      const auto [line, column] = map.key_positions[i];
      fail(line, column, "unknown key " + subject(key) + hint);
    }
    if (!frame.missing.empty()) fail(map, "missing key " + subject(frame.missing));
  }
};

ConfigReader::ConfigReader(const ConfigFile& file)
    : state_(std::make_unique<State>(State{.file = file, .frames = {}})) {
  state_->push_map(file.root, "");
}

ConfigReader::~ConfigReader() = default;

void ConfigReader::finish() {
  assert(state_->frames.size() == 1);
  state_->leave_map();
}

void ConfigReader::ignore_unknown_keys() { state_->ignore_unknown = true; }

void ConfigReader::text(const Field& field, std::string& value) {
  if (const ConfigTree* node = state_->find(field)) value = state_->read_text(*node, field.key);
}

void ConfigReader::boolean(const Field& field, bool& value) {
  const ConfigTree* node = state_->find(field, Kind::kScalar, "true or false");
  if (node == nullptr) return;
  if (node->quoted || (node->scalar != "true" && node->scalar != "false")) {
    state_->fail(*node, fmt::format("{} must be true or false, not {}", state_->subject(field.key),
                                    quote(node->scalar)));
  }
  value = node->scalar == "true";
}

void ConfigReader::integer(const Field& field, std::int64_t& value, IntRange range) {
  if (const ConfigTree* node = state_->find(field)) {
    value = state_->read_integer(*node, field.key, range);
  }
}

void ConfigReader::real(const Field& field, double& value, UnitKind kind, RealRange range) {
  if (const ConfigTree* node = state_->find(field)) {
    value = state_->read_real(*node, field.key, kind, range);
  }
}

void ConfigReader::ranged(const Field& field, Ranged& value, UnitKind kind, RealRange range) {
  const ConfigTree* node = state_->find(field);
  if (node == nullptr) return;
  if (node->kind != Kind::kMap) {
    const double number = state_->read_real(*node, field.key, kind, range);
    value = {.value = number, .low = number, .high = number};
    return;
  }
  state_->push_map(*node, state_->path_of(field.key));
  Ranged read;
  real({"value", ""}, read.value, kind, range);
  read.low = read.high = read.value;
  real({"low", "", Need::kOptional}, read.low, kind, range);
  real({"high", "", Need::kOptional}, read.high, kind, range);
  state_->leave_map();
  state_->check_order(read);
  state_->frames.pop_back();
  value = read;
}

void ConfigReader::money(const Field& field, Price& value) {
  const ConfigTree* node = state_->find(field);
  if (node == nullptr) return;
  if (node->kind != Kind::kMap) {
    const MoneyText money = state_->read_money(*node, field.key);
    value = {{money.amount, money.amount, money.amount}, money.currency};
    return;
  }
  state_->push_map(*node, state_->path_of(field.key));
  Price read;
  const auto amount = [&](const Field& part, double& number) {
    const ConfigTree* at = state_->find(part);
    if (at == nullptr) return;
    const MoneyText money = state_->read_money(*at, part.key);
    if (part.need == Need::kRequired) read.currency = money.currency;
    // Without a 'value' there is nothing to agree with, and its absence is reported below.
    if (money.currency != read.currency && state_->top().missing.empty()) {
      state_->fail(*at, fmt::format("{} is in {}, but 'value' in {}", state_->subject(part.key),
                                    money.currency, read.currency));
    }
    number = money.amount;
  };
  amount({"value", ""}, read.amount.value);
  read.amount.low = read.amount.high = read.amount.value;
  amount({"low", "", Need::kOptional}, read.amount.low);
  amount({"high", "", Need::kOptional}, read.amount.high);
  state_->leave_map();
  state_->check_order(read.amount);
  state_->frames.pop_back();
  value = read;
}

void ConfigReader::choice(const Field& field, int& index, std::span<const std::string_view> names) {
  const ConfigTree* node = state_->find(field, Kind::kScalar, "a name");
  if (node == nullptr) return;
  const auto found = std::ranges::find(names, node->scalar);
  if (found == names.end()) {
    state_->fail(*node,
                 fmt::format("{}: {} is not one of {}{}", state_->subject(field.key),
                             quote(node->scalar), join(names), did_you_mean(node->scalar, names)));
  }
  index = static_cast<int>(found - names.begin());
}

void ConfigReader::texts(const Field& field, std::vector<std::string>& values, SizeRange size) {
  const ConfigTree* node = state_->find_list(field, size);
  if (node == nullptr) return;
  values.clear();
  for (std::size_t i = 0; i < node->items.size(); ++i) {
    values.push_back(state_->read_text(node->items[i], fmt::format("{}[{}]", field.key, i)));
  }
}

void ConfigReader::integers(const Field& field, std::vector<std::int64_t>& values, IntRange range,
                            SizeRange size) {
  const ConfigTree* node = state_->find_list(field, size);
  if (node == nullptr) return;
  values.clear();
  for (std::size_t i = 0; i < node->items.size(); ++i) {
    values.push_back(
        state_->read_integer(node->items[i], fmt::format("{}[{}]", field.key, i), range));
  }
}

void ConfigReader::reals(const Field& field, std::vector<double>& values, UnitKind kind,
                         RealRange range, SizeRange size) {
  const ConfigTree* node = state_->find_list(field, size);
  if (node == nullptr) return;
  values.clear();
  for (std::size_t i = 0; i < node->items.size(); ++i) {
    values.push_back(
        state_->read_real(node->items[i], fmt::format("{}[{}]", field.key, i), kind, range));
  }
}

bool ConfigReader::enter_group(const Field& field) {
  const ConfigTree* node = state_->find(field, Kind::kMap, "a map of keys");
  if (node == nullptr) return false;
  state_->push_map(*node, state_->path_of(field.key));
  return true;
}

void ConfigReader::leave_group() {
  state_->leave_map();
  state_->frames.pop_back();
}

std::size_t ConfigReader::enter_list(const Field& field, std::size_t /*size*/, SizeRange range) {
  const ConfigTree* node = state_->find_list(field, range);
  state_->push(node, state_->path_of(field.key));
  state_->present = node != nullptr;
  return node != nullptr ? node->items.size() : 0;
}

void ConfigReader::enter_item(std::size_t index) {
  const auto& list = state_->top();
  state_->push_map(list.node->items[index], fmt::format("{}[{}]", list.path, index));
}

void ConfigReader::leave_item() {
  state_->leave_map();
  state_->frames.pop_back();
}

void ConfigReader::leave_list() { state_->frames.pop_back(); }

std::vector<std::string> ConfigReader::enter_table(const Field& field,
                                                   const std::vector<std::string>& /*keys*/,
                                                   SizeRange range) {
  const ConfigTree* node = state_->find(field, Kind::kMap, "a map of keys");
  if (node != nullptr) {
    state_->check_size(*node, field.key, node->entries.size(), range, "entries");
  }
  state_->push(node, state_->path_of(field.key));
  state_->present = node != nullptr;
  std::vector<std::string> keys;
  if (node == nullptr) return keys;
  for (const auto& [key, value] : node->entries) keys.push_back(key);
  return keys;
}

void ConfigReader::enter_entry(const std::string& key) {
  const std::optional<std::size_t> at = state_->index_of(key);
  assert(at);
  state_->push_map(state_->top().node->entries[*at].second, state_->path_of(key));
}

void ConfigReader::leave_entry() {
  state_->leave_map();
  state_->frames.pop_back();
}

void ConfigReader::leave_table() { state_->frames.pop_back(); }

bool ConfigReader::present() const { return state_->present; }

void ConfigReader::check(bool ok, std::string_view key, const std::string& message) {
  // Values that were not given would be blamed; the missing key is reported instead.
  if (ok || !state_->top().missing.empty()) return;
  const auto& frame = state_->top();
  const std::optional<std::size_t> at = state_->index_of(key);
  if (!at) state_->fail(*frame.node, message);
  // A value from the command line is to blame there, although its key stands in the file.
  const ConfigTree& value = frame.node->entries[*at].second;
  if (value.line == 0) state_->fail(value, message);
  const auto [line, column] = frame.node->key_positions[*at];
  state_->fail(line, column, message);
}

}  // namespace foretoken::base
