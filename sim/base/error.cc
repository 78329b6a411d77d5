#include "sim/base/error.h"

#include <fmt/format.h>

#include <utility>

namespace foretoken::base {

std::string to_string(const Position& position) {
  if (position.line <= 0) return position.file;
  return fmt::format("{}:{}:{}", position.file, position.line, position.column);
}

ConfigError::ConfigError(Position position, const std::string& message)
    : std::runtime_error(to_string(position) + ": error: " + message),
      position_(std::move(position)),
      message_(message) {}

}  // namespace foretoken::base
