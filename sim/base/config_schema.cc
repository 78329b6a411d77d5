#include "sim/base/config_schema.h"

#include <fmt/format.h>

#include <utility>

#include "sim/base/text.h"

namespace foretoken::base {
namespace {

// JSON to be written, members in the order in which they were added.
struct Json {
  struct Member;
  enum class Kind : std::uint8_t { kRaw, kList, kMap };

  Kind kind = Kind::kMap;
  std::string raw;
  std::vector<Json> items;
  std::vector<Member> members;

  static Json of_raw(std::string text);
  static Json of_text(std::string_view text);
  static Json of_list(std::vector<Json> items);

  Json& set(std::string_view key, Json value);
};

struct Json::Member {
  std::string key;
  Json value;
};

Json Json::of_raw(std::string text) {
  return {.kind = Kind::kRaw, .raw = std::move(text), .items = {}, .members = {}};
}
Json Json::of_text(std::string_view text) { return of_raw(quote_json(text)); }
Json Json::of_list(std::vector<Json> items) {
  return {.kind = Kind::kList, .raw = {}, .items = std::move(items), .members = {}};
}

Json& Json::set(std::string_view key, Json value) {
  for (Member& member : members) {
    if (member.key != key) continue;
    member.value = std::move(value);
    return *this;
  }
  members.push_back({std::string(key), std::move(value)});
  return *this;
}

void write(std::string& out, const Json& json, std::size_t indent) {
  if (json.kind == Json::Kind::kRaw) {
    out += json.raw;
    return;
  }
  const bool is_list = json.kind == Json::Kind::kList;
  const std::size_t size = is_list ? json.items.size() : json.members.size();
  out += is_list ? '[' : '{';
  for (std::size_t i = 0; i < size; ++i) {
    out += i == 0 ? "\n" : ",\n";
    out.append(indent + 2, ' ');
    if (!is_list) out += quote_json(json.members[i].key) + ": ";
    write(out, is_list ? json.items[i] : json.members[i].value, indent + 2);
  }
  if (size > 0) {
    out += '\n';
    out.append(indent, ' ');
  }
  out += is_list ? ']' : '}';
}

Json typed(std::string_view type) {
  Json schema;
  schema.set("type", Json::of_text(type));
  return schema;
}

Json pattern(const std::string& expression) {
  Json schema = typed("string");
  schema.set("pattern", Json::of_text(expression));
  return schema;
}

Json any_of(std::vector<Json> schemas) {
  Json schema;
  schema.set("anyOf", Json::of_list(std::move(schemas)));
  return schema;
}

Json integer_schema(IntRange range) {
  Json number = typed("integer");
  number.set("minimum", Json::of_raw(fmt::format("{}", range.min)));
  if (range.max != std::numeric_limits<std::int64_t>::max()) {
    number.set("maximum", Json::of_raw(fmt::format("{}", range.max)));
  }
  return any_of({std::move(number), pattern(pattern_of_count())});
}

Json real_schema(UnitKind kind, RealRange range) {
  if (kind != UnitKind::kNumber) return pattern(pattern_of(kind));
  Json number = typed("number");
  number.set(range.open_low ? "exclusiveMinimum" : "minimum",
             Json::of_raw(exact_quantity(range.min, kind)));
  if (range.max < std::numeric_limits<double>::max()) {
    number.set("maximum", Json::of_raw(exact_quantity(range.max, kind)));
  }
  return number;
}

Json closed_map(Json properties, std::vector<Json> required) {
  Json schema = typed("object");
  schema.set("properties", std::move(properties));
  if (!required.empty()) schema.set("required", Json::of_list(std::move(required)));
  schema.set("additionalProperties", Json::of_raw("false"));
  return schema;
}

// One value, or a map of value, low and high.
Json with_range(const Json& scalar) {
  Json properties;
  for (const std::string_view key : {"value", "low", "high"}) properties.set(key, scalar);
  return any_of({scalar, closed_map(std::move(properties), {Json::of_text("value")})});
}

void set_size(Json& schema, SizeRange range, std::string_view what) {
  if (range.min > 0) {
    schema.set(fmt::format("min{}", what), Json::of_raw(fmt::format("{}", range.min)));
  }
  schema.set(fmt::format("max{}", what), Json::of_raw(fmt::format("{}", range.max)));
}

Json list_of(Json item, SizeRange range) {
  Json schema = typed("array");
  schema.set("items", std::move(item));
  set_size(schema, range, "Items");
  return schema;
}

class SchemaWriter final : public ConfigVisitor {
 public:
  SchemaWriter() { levels_.emplace_back(); }

  void text(const Field& field, std::string& /*value*/) override { add(field, typed("string")); }
  void boolean(const Field& field, bool& /*value*/) override { add(field, typed("boolean")); }
  void integer(const Field& field, std::int64_t& /*value*/, IntRange range) override {
    add(field, integer_schema(range));
  }
  void real(const Field& field, double& /*value*/, UnitKind kind, RealRange range) override {
    add(field, real_schema(kind, range));
  }
  void ranged(const Field& field, Ranged& /*value*/, UnitKind kind, RealRange range) override {
    add(field, with_range(real_schema(kind, range)));
  }
  void money(const Field& field, Price& /*value*/) override {
    add(field, with_range(pattern(pattern_of(UnitKind::kMoney))));
  }
  void choice(const Field& field, int& /*index*/,
              std::span<const std::string_view> names) override {
    std::vector<Json> values;
    for (const std::string_view name : names) values.push_back(Json::of_text(name));
    Json schema;
    schema.set("enum", Json::of_list(std::move(values)));
    add(field, std::move(schema));
  }

  void texts(const Field& field, std::vector<std::string>& /*values*/, SizeRange size) override {
    add(field, list_of(typed("string"), size));
  }
  void integers(const Field& field, std::vector<std::int64_t>& /*values*/, IntRange range,
                SizeRange size) override {
    add(field, list_of(integer_schema(range), size));
  }
  void reals(const Field& field, std::vector<double>& /*values*/, UnitKind kind, RealRange range,
             SizeRange size) override {
    add(field, list_of(real_schema(kind, range), size));
  }

  bool enter_group(const Field& field) override {
    push(field);
    return true;
  }
  void leave_group() override {
    Level level = pop();
    add(level, closed_map(std::move(level.properties), std::move(level.required)));
  }
  // Every item is alike, so one is described.
  std::size_t enter_list(const Field& field, std::size_t /*size*/, SizeRange range) override {
    push(field, range);
    return 1;
  }
  void enter_item(std::size_t /*index*/) override { levels_.emplace_back(); }
  void leave_item() override { leave_child(); }
  void leave_list() override {
    Level level = pop();
    add(level, list_of(std::move(level.child), level.size));
  }
  std::vector<std::string> enter_table(const Field& field, const std::vector<std::string>& /*keys*/,
                                       SizeRange range) override {
    push(field, range);
    return {"*"};
  }
  void enter_entry(const std::string& /*key*/) override { levels_.emplace_back(); }
  void leave_entry() override { leave_child(); }
  void leave_table() override {
    Level level = pop();
    Json schema = typed("object");
    schema.set("additionalProperties", std::move(level.child));
    set_size(schema, level.size, "Properties");
    add(level, std::move(schema));
  }

  void check(bool /*ok*/, std::string_view /*key*/, const std::string& /*message*/) override {}
  [[nodiscard]] bool reading() const override { return false; }

  Json take_root() {
    Level level = pop();
    return closed_map(std::move(level.properties), std::move(level.required));
  }

 private:
  struct Level {
    std::string key;
    std::string doc;
    Need need = Need::kRequired;
    SizeRange size;
    Json properties;
    std::vector<Json> required;
    Json child;  // of a list or table
  };

  void push(const Field& field, SizeRange size = {}) {
    Level level;
    level.key = field.key;
    level.doc = field.doc;
    level.need = field.need;
    level.size = size;
    levels_.push_back(std::move(level));
  }
  Level pop() {
    Level level = std::move(levels_.back());
    levels_.pop_back();
    return level;
  }
  void leave_child() {
    Level level = pop();
    levels_.back().child = closed_map(std::move(level.properties), std::move(level.required));
  }

  void add(const Field& field, Json schema) {
    add(field.key, field.doc, field.need, std::move(schema));
  }
  void add(const Level& level, Json schema) {
    add(level.key, level.doc, level.need, std::move(schema));
  }
  void add(std::string_view key, std::string_view doc, Need need, Json schema) {
    Level& map = levels_.back();
    if (!doc.empty()) schema.set("description", Json::of_text(doc));
    bool known = false;
    for (const auto& [name, member] : map.properties.members) known = known || name == key;
    if (need == Need::kRequired && !known) map.required.push_back(Json::of_text(key));
    map.properties.set(key, std::move(schema));
  }

  std::vector<Level> levels_;
};

}  // namespace

std::string write_schema(std::string_view title, void (*describe_root)(ConfigVisitor&)) {
  SchemaWriter writer;
  describe_root(writer);
  Json schema;
  schema.set("$schema", Json::of_text("https://json-schema.org/draft/2020-12/schema"));
  schema.set("title", Json::of_text(title));
  Json root = writer.take_root();
  for (auto& [key, member] : root.members) schema.set(key, std::move(member));
  std::string out;
  write(out, schema, 0);
  return out + "\n";
}

}  // namespace foretoken::base
