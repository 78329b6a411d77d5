// Small text helpers behind the error messages of this folder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace foretoken::base {

// `text` between single quotes on one line: control characters escaped, long text shortened.
std::string quote(std::string_view text);

// `text` as a double-quoted JSON string. YAML reads the same escapes, so this serves both.
std::string quote_json(std::string_view text);

// "; did you mean 'bandwidth'?" when one of `words` is a plausible misspelling of `word`, else "".
std::string did_you_mean(std::string_view word, std::span<const std::string> words);
std::string did_you_mean(std::string_view word, std::span<const std::string_view> words);

// Throws ConfigError at the first byte that is no part of valid UTF-8 text, or is a NUL or another
// control character than tab, line feed and carriage return.
void check_characters(const std::string& path, std::string_view text);

// Throws ConfigError when the text is larger than `limit` bytes.
void check_size(const std::string& path, std::uintmax_t bytes, std::uintmax_t limit);

}  // namespace foretoken::base
