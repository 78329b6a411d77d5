// JSON Schema (draft 2020-12) of a configuration structure, for completion in editors.
#pragma once

#include <string>
#include <string_view>

#include "sim/base/config.h"

namespace foretoken::base {

// `describe_root` is called once with the visitor that records the fields.
std::string write_schema(std::string_view title, void (*describe_root)(ConfigVisitor&));

template <class T>
std::string schema_of(std::string_view title) {
  return write_schema(title, [](ConfigVisitor& v) {
    T value{};
    describe(v, value);
  });
}

}  // namespace foretoken::base
