// A structure written back as YAML with every value resolved, and the hash that names it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "sim/base/config.h"

namespace foretoken::base {

std::unique_ptr<ConfigVisitor> make_config_printer(std::string& out);

// The resolved YAML of one structure; reading it again gives an equal structure. Optional values
// that their own range refuses, such as a zero that stands for "not given", are left out.
template <class T>
std::string print_config(T value) {
  std::string out;
  const auto printer = make_config_printer(out);
  describe(*printer, value);
  return out;
}

// FNV-1a, 64 bits, as 16 hexadecimal digits: identifies a resolved configuration in a report.
std::string content_hash(std::string_view text);

}  // namespace foretoken::base
