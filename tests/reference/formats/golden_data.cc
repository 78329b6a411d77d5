#include "tests/reference/formats/golden_data.h"

#include <zlib.h>

#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <stdexcept>

namespace foretoken::reference::golden {
namespace {

std::string path_of(const std::string& name) {
  return std::string(FORETOKEN_SOURCE_DIR) + "/tests/reference/data/" + name;
}

}  // namespace

std::vector<std::vector<std::string>> read_csv_gz(const std::string& name) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path_of(name).c_str(), "rb"),
                                                        gzclose);
  if (!file) throw std::runtime_error("cannot open " + path_of(name));
  std::vector<std::vector<std::string>> rows;
  std::array<char, 256> buffer{};
  while (gzgets(file.get(), buffer.data(), static_cast<int>(buffer.size())) != nullptr) {
    std::string line(buffer.data());
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    std::istringstream fields(line);
    std::vector<std::string> row;
    for (std::string field; std::getline(fields, field, ',');) row.push_back(field);
    rows.push_back(row);
  }
  if (rows.empty()) throw std::runtime_error("nothing in " + path_of(name));
  rows.erase(rows.begin());
  return rows;
}

std::uint32_t parse_hex(const std::string& digits) {
  return static_cast<std::uint32_t>(std::stoul(digits, nullptr, 16));
}

Tensors::Tensors(const std::string& name) {
  std::ifstream file(path_of(name), std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::uint64_t header_bytes = 0;
  if (all.size() < sizeof header_bytes) throw std::runtime_error("cannot read " + path_of(name));
  std::memcpy(&header_bytes, all.data(), sizeof header_bytes);
  header_ = nlohmann::json::parse(all.substr(sizeof header_bytes, header_bytes));
  data_ = all.substr(sizeof header_bytes + header_bytes);
}

std::string Tensors::payload(const std::string& tensor, const std::string& dtype) const {
  const nlohmann::json& entry = header_.at(tensor);
  if (entry.at("dtype") != dtype) throw std::runtime_error(tensor + " is not " + dtype);
  const std::size_t begin = entry.at("data_offsets").at(0);
  const std::size_t end = entry.at("data_offsets").at(1);
  return data_.substr(begin, end - begin);
}

std::vector<float> Tensors::floats(const std::string& tensor) const {
  const std::string raw = payload(tensor, "F32");
  std::vector<float> values(raw.size() / sizeof(float));
  std::memcpy(values.data(), raw.data(), raw.size());
  return values;
}

std::vector<std::uint8_t> Tensors::bytes(const std::string& tensor) const {
  const std::string raw = payload(tensor, "U8");
  return {raw.begin(), raw.end()};
}

}  // namespace foretoken::reference::golden
