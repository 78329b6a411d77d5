// Configuration files that are found by their name.
#pragma once

#include <filesystem>
#include <string>

#include "sim/base/config.h"

namespace foretoken::base {

// Checks that `name`, read from `file`, is what the file is called; ConfigError at the key
// otherwise.
void require_own_name(const ConfigFile& file, const std::string& name);

// Reads a structure with a `name` that has to equal the file's.
template <class T>
T load_named(const std::filesystem::path& path) {
  const ConfigFile file = read_config_file(path);
  T value = read_config<T>(file);
  require_own_name(file, value.name);
  return value;
}

}  // namespace foretoken::base
