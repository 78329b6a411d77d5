// Reads the golden files in tests/reference/data: gzipped CSV and safetensors. Deliberately not the
// project's own reader, whose mistakes would otherwise be on both sides of the comparison.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace foretoken::reference::golden {

// The rows below the header line, split at commas. `name` is relative to tests/reference/data.
std::vector<std::vector<std::string>> read_csv_gz(const std::string& name);

std::uint32_t parse_hex(const std::string& digits);

class Tensors {
 public:
  explicit Tensors(const std::string& name);
  [[nodiscard]] std::vector<float> floats(const std::string& tensor) const;
  [[nodiscard]] std::vector<std::uint8_t> bytes(const std::string& tensor) const;

 private:
  [[nodiscard]] std::string payload(const std::string& tensor, const std::string& dtype) const;

  nlohmann::json header_;
  std::string data_;
};

}  // namespace foretoken::reference::golden
