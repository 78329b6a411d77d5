#include "sim/base/config_tree.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <system_error>

#include "sim/base/text.h"

namespace foretoken::base {
namespace {

constexpr int kDeepestOverride = 64;  // as deep as a file may nest

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void fail_file(const std::string& path, const std::string& message) {
  throw ConfigError({path, 0, 0}, message);
}

std::string error_text(int code) { return std::generic_category().message(code); }

std::string read_text(const std::string& path, const ConfigLimits& limits) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) fail_file(path, "cannot open the file: " + error_text(errno));
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) fail_file(path, "is a folder, not a file");
  // Devices and pipes have no size, so the limit is checked again while reading.
  if (std::filesystem::is_regular_file(path, ignored)) {
    const std::uintmax_t size = std::filesystem::file_size(path, ignored);
    if (!ignored) check_size(path, size, limits.file_bytes);
  }
  std::string text;
  std::string chunk(std::size_t{1} << 16, '\0');
  while (true) {
    const ssize_t got = ::read(file.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_file(path, "cannot read the file: " + error_text(errno));
    if (got == 0) return text;
    text.append(chunk, 0, static_cast<std::size_t>(got));
    if (text.size() > limits.file_bytes) {
      fail_file(path, fmt::format("the file has more than {} bytes", limits.file_bytes));
    }
  }
}

// Values from the command line have no place in the file.
void clear_positions(ConfigTree& tree) {
  tree.line = 0;
  tree.column = 0;
  for (auto& position : tree.key_positions) position = {0, 0};
  for (auto& item : tree.items) clear_positions(item);
  for (auto& [key, value] : tree.entries) clear_positions(value);
}

class Override {
 public:
  explicit Override(std::string_view assignment) : assignment_(assignment) {
    const std::size_t equals = assignment.find('=');
    if (equals == std::string_view::npos) refuse("expected key.path=value");
    rest_ = assignment.substr(0, equals);
    value_ = parse_value(assignment.substr(equals + 1));
    if (rest_.empty()) refuse("the key is empty");
  }

  void apply(ConfigTree& root) {
    ConfigTree* node = &root;
    bool first = true;
    for (int depth = 0; !rest_.empty(); ++depth) {
      if (depth >= kDeepestOverride) refuse("the path is too deep");
      node = rest_.front() == '[' ? &item(*node) : &entry(*node, first);
      first = false;
    }
    *node = std::move(value_);
  }

 private:
  [[noreturn]] void refuse(const std::string& reason) const {
    throw UsageError(fmt::format("--set {}: {}", quote(assignment_), reason));
  }

  [[nodiscard]] ConfigTree parse_value(std::string_view text) const {
    if (text.empty() || text == "~" || text == "null") return {};
    try {
      ConfigTree value = parse_yaml("--set", text).root;
      clear_positions(value);
      return value;
    } catch (const ConfigError& error) {
      refuse(error.message());
    }
  }

  // A null may become a map; every other value has to be one.
  ConfigTree& entry(ConfigTree& map, bool first) {
    if (!first) {
      if (!rest_.starts_with('.')) refuse(fmt::format("expected '.' or '[' at {}", quote(rest_)));
      rest_.remove_prefix(1);
    }
    if (map.kind == ConfigTree::Kind::kNull) map.kind = ConfigTree::Kind::kMap;
    if (map.kind != ConfigTree::Kind::kMap) {
      refuse(first ? "the file is not a map" : fmt::format("{} is not a map", quote(walked_)));
    }
    const std::string_view key = next_key(map);
    if (key.empty()) refuse("a key is empty");
    rest_.remove_prefix(key.size());
    if (!first) walked_ += '.';
    walked_ += key;
    for (std::size_t i = 0; i < map.entries.size(); ++i) {
      if (map.entries[i].first != key) continue;
      if (rest_.empty()) map.key_positions[i] = {0, 0};
      return map.entries[i].second;
    }
    map.entries.emplace_back(std::string(key), ConfigTree{});
    map.key_positions.emplace_back(0, 0);
    return map.entries.back().second;
  }

  // Keys may have dots in them ("deepseek-v3.2"): the longest one that is there wins.
  [[nodiscard]] std::string_view next_key(const ConfigTree& map) const {
    std::size_t length = 0;
    for (const auto& [key, value] : map.entries) {
      if (key.size() <= length || !rest_.starts_with(key)) continue;
      if (key.size() == rest_.size() || rest_[key.size()] == '.' || rest_[key.size()] == '[') {
        length = key.size();
      }
    }
    return rest_.substr(0, length > 0 ? length : rest_.find_first_of(".["));
  }

  ConfigTree& item(ConfigTree& list) {
    const std::size_t end = rest_.find(']');
    if (end == std::string_view::npos) refuse("'[' without ']'");
    const std::string_view digits = rest_.substr(1, end - 1);
    std::size_t index = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (digits.empty() || parsed.ec != std::errc{} || parsed.ptr != digits.data() + digits.size()) {
      refuse(fmt::format("{} is not an index", quote(digits)));
    }
    if (list.kind != ConfigTree::Kind::kList) {
      refuse(fmt::format("{} is not a list", quote(walked_)));
    }
    if (index >= list.items.size()) {
      refuse(fmt::format("{} has {} items", quote(walked_), list.items.size()));
    }
    walked_ += rest_.substr(0, end + 1);
    rest_.remove_prefix(end + 1);
    return list.items[index];
  }

  std::string_view assignment_;
  std::string_view rest_;  // of the path
  std::string walked_;
  ConfigTree value_;
};

}  // namespace

ConfigTree::ConfigTree() = default;
ConfigTree::ConfigTree(const ConfigTree&) = default;
ConfigTree::ConfigTree(ConfigTree&&) noexcept = default;
ConfigTree& ConfigTree::operator=(const ConfigTree&) = default;
ConfigTree& ConfigTree::operator=(ConfigTree&&) noexcept = default;
ConfigTree::~ConfigTree() = default;

const ConfigTree* ConfigTree::find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

ConfigFile read_config_file(const std::filesystem::path& path, const ConfigLimits& limits) {
  const std::string text = read_text(path.string(), limits);
  std::string extension = path.extension().string();
  std::ranges::transform(extension, extension.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (extension == ".json") return parse_json(path.string(), text, limits);
  return parse_yaml(path.string(), text, limits);
}

void apply_override(ConfigFile& file, std::string_view assignment) {
  Override(assignment).apply(file.root);
}

}  // namespace foretoken::base
