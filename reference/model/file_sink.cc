#include "reference/model/file_sink.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

namespace foretoken::reference {

namespace {

template <class V>
constexpr StorageDtype dtype_of() {
  if constexpr (std::is_same_v<V, float>) return StorageDtype::kF32;
  if constexpr (std::is_same_v<V, double>) return StorageDtype::kF64;
  return StorageDtype::kI32;
}

template <class V>
std::span<const std::byte> bytes_of(std::span<const V> data) {
  return std::as_bytes(data);
}

// One padding value in the row's type.
std::vector<std::byte> padding(StorageDtype dtype) {
  const auto as_bytes = [](auto value) {
    std::vector<std::byte> out(sizeof(value));
    std::memcpy(out.data(), &value, sizeof(value));
    return out;
  };
  if (dtype == StorageDtype::kF32) return as_bytes(-3e38F);
  if (dtype == StorageDtype::kF64) return as_bytes(-3e38);
  return as_bytes(std::int32_t{-1});
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

bool matches(std::string_view pattern, std::string_view name) {
  // Only the last star needs to be tried again: the time is at most the product of the lengths.
  std::size_t p = 0;
  std::size_t n = 0;
  std::size_t star = std::string_view::npos;
  std::size_t from = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      from = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++from;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

FileSink::FileSink(SafetensorsWriter& writer, std::vector<std::string> patterns)
    : writer_(writer), patterns_(std::move(patterns)) {}

bool FileSink::wants(std::string_view name) const {
  return std::any_of(patterns_.begin(), patterns_.end(),
                     [&](const std::string& p) { return matches(p, name); });
}

template <class V>
void FileSink::add_rows(std::string_view name, std::span<const std::int64_t> row,
                        std::span<const V> data) {
  auto found = matrices_.find(name);
  if (found == matrices_.end()) {
    Matrix matrix;
    matrix.tensor = writer_.add(std::string(name), dtype_of<V>());
    matrix.row.assign(row.begin(), row.end());
    found = matrices_.emplace(std::string(name), std::move(matrix)).first;
  }
  std::int64_t width = 1;
  for (const std::int64_t n : row) width *= n;
  found->second.rows += static_cast<std::int64_t>(data.size()) / width;
  writer_.append(found->second.tensor, bytes_of(data));
}

template <class V>
void FileSink::add_ragged(std::string_view name, std::span<const V> data) {
  Ragged& ragged = ragged_[std::string(name)];
  ragged.dtype = dtype_of<V>();
  const std::span<const std::byte> bytes = bytes_of(data);
  ragged.rows.emplace_back(bytes.begin(), bytes.end());
}

void FileSink::rows(std::string_view name, std::span<const std::int64_t> row,
                    std::span<const float> data) {
  add_rows(name, row, data);
}
void FileSink::rows(std::string_view name, std::span<const std::int64_t> row,
                    std::span<const double> data) {
  add_rows(name, row, data);
}
void FileSink::rows(std::string_view name, std::span<const std::int64_t> row,
                    std::span<const std::int32_t> data) {
  add_rows(name, row, data);
}
void FileSink::ragged_row(std::string_view name, std::span<const float> data) {
  add_ragged(name, data);
}
void FileSink::ragged_row(std::string_view name, std::span<const double> data) {
  add_ragged(name, data);
}
void FileSink::ragged_row(std::string_view name, std::span<const std::int32_t> data) {
  add_ragged(name, data);
}

std::vector<std::string> FileSink::finish() {
  std::vector<std::string> unmatched;
  for (const std::string& pattern : patterns_) {
    const auto fits = [&](const auto& entry) { return matches(pattern, entry.first); };
    if (std::none_of(matrices_.begin(), matrices_.end(), fits) &&
        std::none_of(ragged_.begin(), ragged_.end(), fits)) {
      unmatched.push_back(pattern);
    }
  }
  std::int64_t hidden_rows = 0;
  for (auto& [name, matrix] : matrices_) {
    std::vector<std::int64_t> shape = {matrix.rows};
    shape.insert(shape.end(), matrix.row.begin(), matrix.row.end());
    writer_.finish(matrix.tensor, std::move(shape));
    if (ends_with(name, ".hidden") && name.rfind("layers.", 0) == 0) hidden_rows = matrix.rows;
  }
  for (auto& [name, ragged] : ragged_) {
    std::size_t longest = 0;
    for (const auto& row : ragged.rows) longest = std::max(longest, row.size());
    const std::size_t tensor = writer_.add(name, ragged.dtype);
    const std::vector<std::byte> pad = padding(ragged.dtype);
    for (auto& row : ragged.rows) {
      while (row.size() < longest) row.insert(row.end(), pad.begin(), pad.end());
      writer_.append(tensor, row);
    }
    const auto size = static_cast<std::size_t>(element_size(ragged.dtype));
    writer_.finish(tensor, {static_cast<std::int64_t>(ragged.rows.size()),
                            static_cast<std::int64_t>(longest / size)});
  }
  if (hidden_rows > 0) {
    const std::size_t tensor = writer_.add("hidden_positions", StorageDtype::kI32);
    for (std::int32_t i = 0; i < hidden_rows; ++i) {
      writer_.append(tensor, std::as_bytes(std::span<const std::int32_t>(&i, 1)));
    }
    writer_.finish(tensor, {hidden_rows});
  }
  return unmatched;
}

}  // namespace foretoken::reference
