// What the fuzz targets share: the check of an error that a user would see.
#pragma once

#include <cstdlib>
#include <iostream>
#include <string_view>

namespace foretoken::fuzz {

// Stops the run, so that the input is kept.
[[noreturn]] inline void broken(std::string_view what, std::string_view text = {}) {
  std::cerr << "broken: " << what << '\n' << text << '\n';
  std::abort();
}

inline void require(bool holds, std::string_view what) {
  if (!holds) broken(what);
}

// An error is one line that a terminal shows as it is.
inline void check_message(std::string_view text) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) broken("a control character in an error", text);
  }
  if (text.find(": error: ") == std::string_view::npos) broken("an error without place", text);
}

}  // namespace foretoken::fuzz
