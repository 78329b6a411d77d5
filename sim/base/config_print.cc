#include "sim/base/config_print.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "sim/base/text.h"

namespace foretoken::base {
namespace {

constexpr std::array<std::string_view, 7> kReserved = {"null", "true", "false", "yes",
                                                       "no",   "on",   "off"};

// Text that means the same unquoted: no space, no indicator, nothing YAML or a reader could take
// for a number, a boolean or null.
bool is_plain(std::string_view text) {
  if (text.empty() || std::isalpha(static_cast<unsigned char>(text.front())) == 0) return false;
  const bool simple = std::ranges::all_of(text, [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.' || c == '/');
  });
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return simple && std::ranges::find(kReserved, lower) == kReserved.end();
}

std::string scalar(std::string_view text) {
  return is_plain(text) ? std::string(text) : quote_json(text);
}

std::string flow_list(const std::vector<std::string>& items) {
  return fmt::format("[{}]", fmt::join(items, ", "));
}

bool is_ordered(const Ranged& value) {
  return value.low <= value.value && value.value <= value.high;
}

class Printer final : public ConfigVisitor {
 public:
  explicit Printer(std::string& out) : out_(out) { levels_.push_back({.root = true}); }

  void text(const Field& field, std::string& value) override { line(field, true, scalar(value)); }
  void boolean(const Field& field, bool& value) override {
    line(field, true, value ? "true" : "false");
  }
  void integer(const Field& field, std::int64_t& value, IntRange range) override {
    line(field, contains(range, value), fmt::format("{}", value));
  }
  void real(const Field& field, double& value, UnitKind kind, RealRange range) override {
    line(field, contains(range, value), exact_quantity(value, kind));
  }
  void ranged(const Field& field, Ranged& value, UnitKind kind, RealRange range) override {
    const bool valid = is_ordered(value) && contains(range, value.low) &&
                       contains(range, value.value) && contains(range, value.high);
    line(field, valid,
         with_range(value, [kind](double number) { return exact_quantity(number, kind); }));
  }
  void money(const Field& field, Price& value) override {
    line(field, is_ordered(value.amount) && value.amount.low >= 0.0,
         with_range(value.amount, [&value](double number) {
           return exact_quantity(number, UnitKind::kMoney, value.currency);
         }));
  }
  void choice(const Field& field, int& index, std::span<const std::string_view> names) override {
    const bool valid = index >= 0 && std::cmp_less(index, names.size());
    line(field, valid, valid ? scalar(names[static_cast<std::size_t>(index)]) : "null");
  }

  void texts(const Field& field, std::vector<std::string>& values, SizeRange size) override {
    std::vector<std::string> items;
    items.reserve(values.size());
    for (const std::string& value : values) items.push_back(scalar(value));
    line(field, contains(size, items.size()), flow_list(items));
  }
  void integers(const Field& field, std::vector<std::int64_t>& values, IntRange range,
                SizeRange size) override {
    bool valid = contains(size, values.size());
    std::vector<std::string> items;
    for (const std::int64_t value : values) {
      valid = valid && contains(range, value);
      items.push_back(fmt::format("{}", value));
    }
    line(field, valid, flow_list(items));
  }
  void reals(const Field& field, std::vector<double>& values, UnitKind kind, RealRange range,
             SizeRange size) override {
    bool valid = contains(size, values.size());
    std::vector<std::string> items;
    for (const double value : values) {
      valid = valid && contains(range, value);
      items.push_back(exact_quantity(value, kind));
    }
    line(field, valid, flow_list(items));
  }

  bool enter_group(const Field& field) override {
    enter(field.key, {.optional = field.need == Need::kOptional});
    return true;
  }
  void leave_group() override { leave(" {}"); }
  std::size_t enter_list(const Field& field, std::size_t size, SizeRange range) override {
    enter(field.key,
          {.optional = field.need == Need::kOptional, .invalid = !contains(range, size)});
    return size;
  }
  void enter_item(std::size_t /*index*/) override {
    const std::size_t start = out_.size();
    const bool was_empty = levels_.back().empty;
    const int indent = begin_line();
    out_ += '-';
    levels_.push_back(
        {.start = start, .parent_was_empty = was_empty, .item = true, .indent = indent + 2});
  }
  void leave_item() override { leave(" {}"); }
  void leave_list() override { leave(" []"); }
  std::vector<std::string> enter_table(const Field& field, const std::vector<std::string>& keys,
                                       SizeRange range) override {
    enter(field.key,
          {.optional = field.need == Need::kOptional, .invalid = !contains(range, keys.size())});
    return keys;
  }
  void enter_entry(const std::string& key) override { enter(key, {}); }
  void leave_entry() override { leave(" {}"); }
  void leave_table() override { leave(" {}"); }

  void check(bool /*ok*/, std::string_view /*key*/, const std::string& /*message*/) override {}
  [[nodiscard]] bool reading() const override { return false; }

 private:
  // A map, list or table whose lines are being written.
  struct Level {
    std::size_t start = 0;  // of its text in out_
    bool parent_was_empty = true;
    bool root = false;
    bool item = false;      // the first line follows its dash
    bool optional = false;  // left out when a value in it would be refused
    bool invalid = false;
    bool empty = true;
    int indent = 0;
  };

  // Starts a line of the current level and answers its indentation.
  int begin_line() {
    Level& level = levels_.back();
    if (level.empty && level.item) {
      out_ += ' ';
    } else {
      if (level.empty && !level.root) out_ += '\n';
      out_.append(static_cast<std::size_t>(level.indent), ' ');
    }
    level.empty = false;
    return level.indent;
  }

  void line(const Field& field, bool valid, std::string_view value) {
    if (!valid && field.need == Need::kOptional) return;
    if (!valid) levels_.back().invalid = true;
    begin_line();
    out_ += fmt::format("{}: {}\n", scalar(field.key), value);
  }

  void enter(std::string_view key, Level level) {
    level.start = out_.size();
    level.parent_was_empty = levels_.back().empty;
    level.indent = begin_line() + 2;
    out_ += scalar(key) + ":";
    levels_.push_back(level);
  }

  void leave(std::string_view when_empty) {
    const Level level = levels_.back();
    levels_.pop_back();
    Level& parent = levels_.back();
    if (level.optional && level.invalid) {
      out_.resize(level.start);
      parent.empty = level.parent_was_empty;
      return;
    }
    parent.invalid = parent.invalid || level.invalid;
    if (level.empty) {
      out_ += when_empty;
      out_ += '\n';
    }
  }

  template <class Write>
  static std::string with_range(const Ranged& value, Write&& write) {
    if (value.low == value.value && value.value == value.high) return write(value.value);
    return fmt::format("{{value: {}, low: {}, high: {}}}", write(value.value), write(value.low),
                       write(value.high));
  }

  std::string& out_;
  std::vector<Level> levels_;
};

}  // namespace

std::unique_ptr<ConfigVisitor> make_config_printer(std::string& out) {
  return std::make_unique<Printer>(out);
}

std::string content_hash(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, 64 bits
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3;
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace foretoken::base
