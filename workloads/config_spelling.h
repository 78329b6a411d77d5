// The two spellings of a model's configuration.
#pragma once

#include <filesystem>

#include "sim/base/config_tree.h"

namespace foretoken::workloads {

// A configuration in the spelling of the released config.json. A file in that of the release's
// inference folder ("dim", "n_layers", ...; docs/models.md has the table) is rewritten: keys
// renamed, flat rotary and quantisation keys grouped, and what that spelling leaves to its
// program's defaults filled in. Positions stay those of the file, so errors point into it. Others
// pass unchanged.
base::ConfigFile with_release_keys(base::ConfigFile file);

// Reads a configuration file in either spelling. Throws as base::read_config_file does.
base::ConfigFile read_model_config(const std::filesystem::path& path);

}  // namespace foretoken::workloads
