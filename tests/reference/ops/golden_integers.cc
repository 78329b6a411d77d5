#include "tests/reference/ops/golden_integers.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace foretoken::reference::golden {

std::vector<std::int32_t> integers(const std::string& file, const std::string& tensor) {
  const std::string path = std::string(FORETOKEN_SOURCE_DIR) + "/tests/reference/data/" + file;
  std::ifstream stream(path, std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  std::uint64_t header_bytes = 0;
  if (all.size() < sizeof header_bytes) throw std::runtime_error("cannot read " + path);
  std::memcpy(&header_bytes, all.data(), sizeof header_bytes);
  const auto header = nlohmann::json::parse(all.substr(sizeof header_bytes, header_bytes));
  const nlohmann::json& entry = header.at(tensor);
  if (entry.at("dtype") != "I32") throw std::runtime_error(tensor + " is not I32");
  const std::size_t begin = entry.at("data_offsets").at(0);
  const std::size_t end = entry.at("data_offsets").at(1);
  std::vector<std::int32_t> values((end - begin) / sizeof(std::int32_t));
  const std::size_t data = sizeof header_bytes + header_bytes;
  std::memcpy(values.data(), all.substr(data + begin, end - begin).data(), end - begin);
  return values;
}

}  // namespace foretoken::reference::golden
