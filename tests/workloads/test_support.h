// What the tests of this folder share: the released models, edited configurations, caught messages.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/base/config_tree.h"
#include "sim/base/error.h"
#include "workloads/model_spec.h"

namespace foretoken::workloads {

inline std::filesystem::path configs_folder() {
  return std::filesystem::path(FORETOKEN_SOURCE_DIR) / "configs";
}

inline std::string content_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

inline const ModelSpec& model_named(const std::string& name) {
  static std::map<std::string, ModelSpec> models;
  const auto found = models.find(name);
  if (found != models.end()) return found->second;
  return models.emplace(name, load_model(name, configs_folder())).first->second;
}
inline const ModelSpec& pro() { return model_named("deepseek-v4-pro"); }
inline const ModelSpec& flash() { return model_named("deepseek-v4-flash"); }
inline const ModelSpec& v32() { return model_named("deepseek-v3.2"); }
inline const ModelSpec& v41() { return model_named("deepseek-v4.1-flash"); }
inline std::vector<const ModelSpec*> all_models() { return {&v32(), &pro(), &flash(), &v41()}; }

inline std::string config_text(const std::string& name) {
  return content_of(configs_folder() / "models" / (name + ".json"));
}

// `text` with the value of the first `"key":` replaced; an empty value removes the key. The value
// ends at the comma or brace outside its own brackets.
inline std::string edited(std::string text, std::string_view key, std::string_view value) {
  const std::string quoted = "\"" + std::string(key) + "\"";
  const std::size_t at = text.find(quoted);
  if (at == std::string::npos) {
    ADD_FAILURE() << "no key " << key;
    return text;
  }
  const std::size_t colon = text.find(':', at);
  std::size_t end = colon + 1;
  for (int depth = 0; end < text.size(); ++end) {
    const char c = text[end];
    if (depth == 0 && (c == ',' || c == '}' || c == ']')) break;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
  }
  if (!value.empty()) return text.replace(colon + 1, end - colon - 1, " " + std::string(value));
  if (text[end] == ',') return text.erase(at, end + 1 - at);
  const std::size_t comma = text.rfind(',', at);
  return text.erase(comma, end - comma);
}

using Edits = std::initializer_list<std::pair<std::string_view, std::string_view>>;

inline std::string edited(std::string text, Edits edits) {
  for (const auto& [key, value] : edits) text = edited(std::move(text), key, value);
  return text;
}

inline ModelSpec read_text(std::string_view text) {
  return read_model(base::parse_json("model.json", text), "model");
}
inline ModelSpec edited_model(const std::string& name, Edits edits) {
  return read_text(edited(config_text(name), edits));
}

// what() of the error of type `Error` that `call` throws, "" when it throws none.
template <class Error, class Call>
std::string thrown(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace foretoken::workloads
