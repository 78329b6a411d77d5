#include "sim/base/named_config.h"

#include <fmt/format.h>

#include "sim/base/text.h"

namespace foretoken::base {

void require_own_name(const ConfigFile& file, const std::string& name) {
  const std::string own = std::filesystem::path(file.path).stem().string();
  if (name == own) return;
  const ConfigTree* key = file.root.find("name");
  throw ConfigError({file.path, key == nullptr ? 0 : key->line, key == nullptr ? 0 : key->column},
                    fmt::format("'name' is {} but the file is called '{}'", quote(name), own));
}

}  // namespace foretoken::base
