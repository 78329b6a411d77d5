// How a configuration structure is described once and then read, checked, printed and turned into a
// JSON Schema from that one description.
//
// A structure gets one function that lists its fields:
//
//   void describe(base::ConfigVisitor& v, MatrixUnit& unit) {
//     v.integer({"m", "rows of one instruction"}, unit.m, {.min = 1, .max = 4096});
//     base::quantity(v, {"bandwidth", "per direction"}, unit.bandwidth);
//   }
//
// ConfigReader fills the structure from a file, print_config (config_print.h) writes it back with
// every value resolved, schema_of (config_schema.h) writes the schema that editors complete from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "sim/base/config_tree.h"
#include "sim/base/evidence.h"
#include "sim/base/quantity.h"

namespace foretoken::base {

enum class Need : std::uint8_t { kRequired, kOptional };

// One key: its name, what it means (goes into the schema), and whether it may be absent. An absent
// optional key leaves the structure's value as it was.
struct Field {
  std::string_view key;
  std::string_view doc;
  Need need = Need::kRequired;
};

struct IntRange {
  std::int64_t min = 0;
  std::int64_t max = std::numeric_limits<std::int64_t>::max();
};

// Both ends included unless `open_low`. The default accepts every finite number above zero.
struct RealRange {
  double min = 0.0;
  double max = std::numeric_limits<double>::max();
  bool open_low = true;
};
inline constexpr RealRange kNonNegative{.min = 0.0, .open_low = false};
inline constexpr RealRange kFraction{.min = 0.0, .max = 1.0};  // (0, 1]

struct SizeRange {
  std::size_t min = 0;
  std::size_t max = 100'000;
};

constexpr bool contains(IntRange range, std::int64_t value) {
  return value >= range.min && value <= range.max;
}
constexpr bool contains(RealRange range, double value) {
  return (range.open_low ? value > range.min : value >= range.min) && value <= range.max;
}
constexpr bool contains(SizeRange range, std::size_t size) {
  return size >= range.min && size <= range.max;
}

// An amount of money with a range, in the currency it was published in.
struct Price {
  Ranged amount;
  std::string currency = "USD";
};

class ConfigVisitor {
 public:
  ConfigVisitor() = default;
  ConfigVisitor(const ConfigVisitor&) = delete;
  ConfigVisitor& operator=(const ConfigVisitor&) = delete;
  virtual ~ConfigVisitor() = default;

  // Scalars. Integers accept count suffixes (128K). Ranged values accept a scalar or a map
  // {value, low, high}; low <= value <= high is checked.
  virtual void text(const Field& field, std::string& value) = 0;
  virtual void boolean(const Field& field, bool& value) = 0;
  virtual void integer(const Field& field, std::int64_t& value, IntRange range) = 0;
  virtual void real(const Field& field, double& value, UnitKind kind, RealRange range) = 0;
  virtual void ranged(const Field& field, Ranged& value, UnitKind kind, RealRange range) = 0;
  virtual void money(const Field& field, Price& value) = 0;
  virtual void choice(const Field& field, int& index, std::span<const std::string_view> names) = 0;

  // Lists of scalars.
  virtual void texts(const Field& field, std::vector<std::string>& values, SizeRange size) = 0;
  virtual void integers(const Field& field, std::vector<std::int64_t>& values, IntRange range,
                        SizeRange size) = 0;
  virtual void reals(const Field& field, std::vector<double>& values, UnitKind kind,
                     RealRange range, SizeRange size) = 0;

  // Structure. `enter_group` answers whether the fields inside should be visited (an absent
  // optional group is not). `enter_list` answers how many items to visit; each is bracketed by
  // enter_item/leave_item. `enter_table` (a map with free keys) answers the keys to visit.
  virtual bool enter_group(const Field& field) = 0;
  virtual void leave_group() = 0;
  virtual std::size_t enter_list(const Field& field, std::size_t size, SizeRange range) = 0;
  virtual void enter_item(std::size_t index) = 0;
  virtual void leave_item() = 0;
  virtual void leave_list() = 0;
  virtual std::vector<std::string> enter_table(const Field& field,
                                               const std::vector<std::string>& keys,
                                               SizeRange range) = 0;
  virtual void enter_entry(const std::string& key) = 0;
  virtual void leave_entry() = 0;
  virtual void leave_table() = 0;
  // Whether the list or table entered last is there at all; an absent one keeps its values, an
  // empty one empties them.
  [[nodiscard]] virtual bool present() const { return true; }

  // A condition between fields: when reading, a false `ok` is a ConfigError at `key` of the current
  // map (or at the map itself when it has no such key). Other visitors ignore it.
  virtual void check(bool ok, std::string_view key, const std::string& message) = 0;
  // True while a file is being read: only then do values mean anything.
  [[nodiscard]] virtual bool reading() const = 0;
};

template <class Q>
void quantity(ConfigVisitor& v, const Field& field, Q& value, RealRange range = {}) {
  double number = value.value();
  v.real(field, number, KindOf<Q>::kValue, range);
  value = Q{number};
}

template <class E>
void choice(ConfigVisitor& v, const Field& field, E& value,
            std::span<const std::string_view> names) {
  static_assert(std::is_enum_v<E>);
  int index = static_cast<int>(value);
  v.choice(field, index, names);
  value = static_cast<E>(index);
}

template <class F>
bool group(ConfigVisitor& v, const Field& field, F&& describe_fields) {
  if (!v.enter_group(field)) return false;
  describe_fields();
  v.leave_group();
  return true;
}

template <class T, class F>
void list(ConfigVisitor& v, const Field& field, std::vector<T>& items, F&& describe_item,
          SizeRange range = {}) {
  const std::size_t size = v.enter_list(field, items.size(), range);
  if (v.reading() && v.present()) items.assign(size, T{});
  for (std::size_t i = 0; i < size; ++i) {
    T scratch{};
    v.enter_item(i);
    describe_item(v, i < items.size() ? items[i] : scratch);
    v.leave_item();
  }
  v.leave_list();
}

template <class T, class F>
void table(ConfigVisitor& v, const Field& field, std::map<std::string, T>& entries,
           F&& describe_entry, SizeRange range = {}) {
  std::vector<std::string> keys;
  keys.reserve(entries.size());
  for (const auto& [key, value] : entries) keys.push_back(key);
  const std::vector<std::string> visit = v.enter_table(field, keys, range);
  if (v.reading() && v.present()) entries.clear();
  for (const std::string& key : visit) {
    T scratch{};
    v.enter_entry(key);
    if (v.reading()) {
      describe_entry(v, entries[key]);
    } else {
      const auto found = entries.find(key);
      describe_entry(v, found == entries.end() ? scratch : found->second);
    }
    v.leave_entry();
  }
  v.leave_table();
}

// Fills structures from a parsed file. Every error is a ConfigError with the position of the value
// (or of the map that lacks a key, with the path of the missing key):
//   unknown key 'bandwith' in memory[0]; did you mean 'bandwidth'?
//   missing key 'capacity' in memory[0]
//   'bandwidth' in memory[0]: '4.8 TB' is not in B/s, KB/s, ...
// Unknown and missing keys are reported when their map is left (an unknown key first: it is often
// the misspelling of a missing one), so call finish() after the root fields.
class ConfigReader final : public ConfigVisitor {
 public:
  explicit ConfigReader(const ConfigFile& file);
  ~ConfigReader() override;

  void finish();  // reports keys of the root that nothing described
  // Hugging Face configurations carry many keys that say nothing about shapes: with `ignore`, keys
  // that are not described are accepted in every map instead of rejected.
  void ignore_unknown_keys();

  void text(const Field& field, std::string& value) override;
  void boolean(const Field& field, bool& value) override;
  void integer(const Field& field, std::int64_t& value, IntRange range) override;
  void real(const Field& field, double& value, UnitKind kind, RealRange range) override;
  void ranged(const Field& field, Ranged& value, UnitKind kind, RealRange range) override;
  void money(const Field& field, Price& value) override;
  void choice(const Field& field, int& index, std::span<const std::string_view> names) override;
  void texts(const Field& field, std::vector<std::string>& values, SizeRange size) override;
  void integers(const Field& field, std::vector<std::int64_t>& values, IntRange range,
                SizeRange size) override;
  void reals(const Field& field, std::vector<double>& values, UnitKind kind, RealRange range,
             SizeRange size) override;
  bool enter_group(const Field& field) override;
  void leave_group() override;
  std::size_t enter_list(const Field& field, std::size_t size, SizeRange range) override;
  void enter_item(std::size_t index) override;
  void leave_item() override;
  void leave_list() override;
  std::vector<std::string> enter_table(const Field& field, const std::vector<std::string>& keys,
                                       SizeRange range) override;
  void enter_entry(const std::string& key) override;
  void leave_entry() override;
  void leave_table() override;
  [[nodiscard]] bool present() const override;
  void check(bool ok, std::string_view key, const std::string& message) override;
  [[nodiscard]] bool reading() const override { return true; }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Reads one structure from a file with its `describe` function, found by the argument's namespace.
template <class T>
T read_config(const ConfigFile& file) {
  T value{};
  ConfigReader reader(file);
  describe(reader, value);
  reader.finish();
  return value;
}

template <class T>
T load_config(const std::filesystem::path& path) {
  return read_config<T>(read_config_file(path));
}

}  // namespace foretoken::base
