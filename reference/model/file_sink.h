// The sink of `foretoken reference`: intermediates chosen by name, into one safetensors file.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "reference/checkpoint/safetensors.h"
#include "reference/model/sink.h"

namespace foretoken::reference {

class FileSink final : public Sink {
 public:
  // `patterns`: names, in which * stands for anything ("layers.*.attn.out").
  FileSink(SafetensorsWriter& writer, std::vector<std::string> patterns);

  [[nodiscard]] bool wants(std::string_view name) const override;
  void rows(std::string_view name, std::span<const std::int64_t> row,
            std::span<const float> data) override;
  void rows(std::string_view name, std::span<const std::int64_t> row,
            std::span<const double> data) override;
  void rows(std::string_view name, std::span<const std::int64_t> row,
            std::span<const std::int32_t> data) override;
  void ragged_row(std::string_view name, std::span<const float> data) override;
  void ragged_row(std::string_view name, std::span<const double> data) override;
  void ragged_row(std::string_view name, std::span<const std::int32_t> data) override;

  // Hands everything to the writer: call once, before its commit(). With hidden streams among the
  // tensors, "hidden_positions" says which position each of their rows belongs to. Answers the
  // patterns that matched nothing.
  std::vector<std::string> finish();

 private:
  struct Matrix {
    std::size_t tensor = 0;
    std::vector<std::int64_t> row;
    std::int64_t rows = 0;
  };
  struct Ragged {
    StorageDtype dtype = StorageDtype::kF32;
    std::vector<std::vector<std::byte>> rows;
  };
  template <class V>
  void add_rows(std::string_view name, std::span<const std::int64_t> row, std::span<const V> data);
  template <class V>
  void add_ragged(std::string_view name, std::span<const V> data);

  SafetensorsWriter& writer_;
  std::vector<std::string> patterns_;
  std::map<std::string, Matrix, std::less<>> matrices_;
  std::map<std::string, Ragged, std::less<>> ragged_;
};

// Whether `name` fits `pattern`, in which * stands for any run of characters.
bool matches(std::string_view pattern, std::string_view name);

}  // namespace foretoken::reference
