#include "reference/model/token_file.h"

#include <fmt/format.h>

#include <charconv>

#include "sim/base/config_tree.h"
#include "sim/base/error.h"
#include "sim/base/output.h"
#include "sim/base/text.h"

namespace foretoken::reference {

using base::ConfigError;
using base::ConfigFile;
using base::ConfigTree;

std::vector<std::int32_t> read_tokens(const std::filesystem::path& path, std::int64_t vocab) {
  // A million tokens with six digits, comma and blank each, and room.
  const base::ConfigLimits limits{.file_bytes = 64u << 20, .depth = 8, .nodes = 5'000'000};
  const ConfigFile file = base::read_config_file(path, limits);
  const auto fail = [&](const ConfigTree& at, const std::string& message) {
    throw ConfigError({file.path, at.line, at.column}, message);
  };
  const ConfigTree* list = &file.root;
  if (file.root.kind == ConfigTree::Kind::kMap) {
    list = file.root.find("input_ids");
    if (list == nullptr) fail(file.root, "missing key 'input_ids', a list of token ids");
  }
  if (list->kind != ConfigTree::Kind::kList) fail(*list, "token ids have to be a list");
  if (list->items.empty()) fail(*list, "the list of token ids is empty");
  std::vector<std::int32_t> ids;
  ids.reserve(list->items.size());
  for (const ConfigTree& item : list->items) {
    std::int64_t id = -1;
    const char* end = item.scalar.data() + item.scalar.size();
    const auto [stop, error] = std::from_chars(item.scalar.data(), end, id);
    if (item.kind != ConfigTree::Kind::kScalar || item.quoted || error != std::errc{} ||
        stop != end) {
      fail(item, "a token id has to be an integer");
    }
    if (id < 0 || id >= vocab) {
      fail(item, fmt::format("token id {} is outside the vocabulary of {}", id, vocab));
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

}  // namespace foretoken::reference
