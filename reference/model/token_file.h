// Token ids from a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace foretoken::reference {

// A JSON list of ids, or an object whose "input_ids" is one (what the tokens.json of a golden model
// is). Throws ConfigError with file:line:column for anything else, and for ids outside [0, vocab).
std::vector<std::int32_t> read_tokens(const std::filesystem::path& path, std::int64_t vocab);

}  // namespace foretoken::reference
