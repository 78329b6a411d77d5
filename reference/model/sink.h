// Where named intermediates of a run go (names: docs/reference.md).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace foretoken::reference {

class Sink {
 public:
  virtual ~Sink() = default;
  Sink() = default;
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;

  [[nodiscard]] virtual bool wants(std::string_view name) const = 0;
  // Further rows, each of shape `row`, in the order of positions.
  virtual void rows(std::string_view name, std::span<const std::int64_t> row,
                    std::span<const float> data) = 0;
  virtual void rows(std::string_view name, std::span<const std::int64_t> row,
                    std::span<const double> data) = 0;
  virtual void rows(std::string_view name, std::span<const std::int64_t> row,
                    std::span<const std::int32_t> data) = 0;
  // One further row of a matrix whose rows grow; short ones end up padded: scores of entries that
  // are not there yet with -3e38, absent choices with -1.
  virtual void ragged_row(std::string_view name, std::span<const float> data) = 0;
  virtual void ragged_row(std::string_view name, std::span<const double> data) = 0;
  virtual void ragged_row(std::string_view name, std::span<const std::int32_t> data) = 0;
};

}  // namespace foretoken::reference
