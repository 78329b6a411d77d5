// Any text as a configuration is read or refused with one line: 'j' and JSON, anything else and
// YAML. What can be parsed is read as a model.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sim/base/config_tree.h"
#include "sim/base/error.h"
#include "tests/fuzz/fuzz_support.h"
#include "workloads/model_spec.h"

// The name is libFuzzer's. NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using foretoken::base::ConfigFile;
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view text = input.substr(1);
  try {
    const ConfigFile file = input.front() == 'j' ? foretoken::base::parse_json("f", text)
                                                 : foretoken::base::parse_yaml("f", text);
    const foretoken::workloads::ModelSpec model = foretoken::workloads::read_model(file, "fuzz");
    foretoken::fuzz::require(!model.layers.empty(), "a model without layers");
  } catch (const foretoken::base::ConfigError& error) {
    foretoken::fuzz::check_message(error.what());
  }
  return 0;
}
