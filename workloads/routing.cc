#include "workloads/routing.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <optional>
#include <sstream>

#include "sim/base/error.h"
#include "sim/base/text.h"

namespace foretoken::workloads {

namespace {

struct KindName {
  std::string_view name;
  Routing kind;
  enum class Parameter : std::uint8_t { kNone, kExponent, kOptionalExponent, kFile } parameter;
};
using Parameter = KindName::Parameter;
constexpr std::array<KindName, 8> kKinds = {{
    {"balanced", Routing::kBalanced, Parameter::kNone},
    {"uniform", Routing::kUniform, Parameter::kNone},
    {"hash", Routing::kHash, Parameter::kOptionalExponent},
    {"power_law", Routing::kPowerLaw, Parameter::kExponent},
    {"power_law_sampled", Routing::kPowerLawSampled, Parameter::kExponent},
    {"zipf", Routing::kZipf, Parameter::kExponent},
    {"popularity", Routing::kPopularity, Parameter::kFile},
    {"recorded", Routing::kRecorded, Parameter::kFile},
}};

// Steeper laws give every pair to a handful of experts; the number then says nothing more.
constexpr double kSteepest = 8.0;
constexpr std::uintmax_t kMostBytes = 256u << 20;
constexpr std::int32_t kMostExperts = 1 << 20;

std::optional<double> number_in(std::string_view text) {
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return {};
  return value;
}

std::string known_kinds() {
  std::string out;
  for (const KindName& k : kKinds) {
    out += out.empty() ? "" : ", ";
    out += k.name;
    if (k.parameter == Parameter::kExponent) out += ":EXPONENT";
    if (k.parameter == Parameter::kOptionalExponent) out += "[:EXPONENT]";
    if (k.parameter == Parameter::kFile) out += ":FILE";
  }
  return out;
}

const KindName& entry_of(Routing kind) {
  return *std::find_if(kKinds.begin(), kKinds.end(),
                       [&](const KindName& k) { return k.kind == kind; });
}

// Calls `use(field, line, column)` for every field of every line that is no comment, and
// `end(line)` after the last field of each.
template <class Use, class End>
void for_fields(const std::filesystem::path& path, Use&& use, End&& end) {
  const std::string name = path.string();
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    throw base::ConfigError({name, 0, 0}, "no such file");
  }
  base::check_size(name, std::filesystem::file_size(path), kMostBytes);
  std::ifstream in(path);
  if (!in) throw base::ConfigError({name, 0, 0}, "cannot be read");
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    const std::string_view text = std::string_view(line).substr(0, line.find('#'));
    bool any = false;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t first = text.find_first_not_of(", \t\r", at);
      if (first == std::string_view::npos) break;
      const std::size_t last = std::min(text.find_first_of(", \t\r", first), text.size());
      use(text.substr(first, last - first),
          base::Position{name, number, static_cast<int>(first) + 1});
      any = true;
      at = last;
    }
    if (any) end(base::Position{name, number, 1});
  }
}

}  // namespace

RoutingSpec::RoutingSpec(Routing k)
    : kind(k), exponent(k == Routing::kHash ? kTextExponent : 0.0) {}

RoutingSpec parse_routing(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  const bool given = colon != std::string_view::npos;
  const std::string_view parameter = given ? text.substr(colon + 1) : std::string_view();
  const auto* const known =
      std::find_if(kKinds.begin(), kKinds.end(), [&](const KindName& k) { return k.name == name; });
  if (known == kKinds.end()) {
    throw base::UsageError(
        fmt::format("plan: '{}' is not a value of 'routing'; known: {}", text, known_kinds()));
  }
  RoutingSpec spec(known->kind);
  switch (known->parameter) {
    case Parameter::kNone:
      if (given) throw base::UsageError(fmt::format("plan: routing '{}' has no parameter", name));
      return spec;
    case Parameter::kOptionalExponent:
      if (!given) return spec;
      break;
    case Parameter::kExponent:
      break;
    case Parameter::kFile:
      if (parameter.empty()) {
        throw base::UsageError(
            fmt::format("plan: routing '{0}' needs a file, as in {0}:FILE", name));
      }
      spec.data = std::make_shared<const RoutingData>(
          spec.kind == Routing::kRecorded ? read_choices(parameter) : read_popularity(parameter));
      return spec;
  }
  const std::optional<double> exponent = number_in(parameter);
  if (!exponent || *exponent < 0.0 || *exponent > kSteepest) {
    throw base::UsageError(
        fmt::format("plan: routing '{0}' needs an exponent from 0 to {1}, as in {0}:1.2, not '{2}'",
                    name, kSteepest, parameter));
  }
  spec.exponent = *exponent;
  return spec;
}

std::string to_string(const RoutingSpec& routing) {
  const KindName& kind = entry_of(routing.kind);
  switch (kind.parameter) {
    case Parameter::kNone:
      break;
    case Parameter::kOptionalExponent:
      if (routing.exponent == kTextExponent) break;
      [[fallthrough]];
    case Parameter::kExponent:
      return fmt::format("{}:{}", kind.name, routing.exponent);
    case Parameter::kFile:
      return fmt::format("{}:{}", kind.name, routing.data == nullptr ? "" : routing.data->file);
  }
  return std::string(kind.name);
}

RoutingSpec routing_distribution(std::string_view name) {
  if (name.empty() || name == "balanced") return Routing::kBalanced;
  if (name == "uniform") return Routing::kUniform;
  // Longer prefix first: it starts with the shorter one.
  for (const Routing kind : {Routing::kPowerLawSampled, Routing::kPowerLaw}) {
    const std::string prefix = std::string(entry_of(kind).name) + "_";
    if (!name.starts_with(prefix)) continue;
    const std::optional<double> exponent = number_in(name.substr(prefix.size()));
    if (exponent && *exponent >= 0.0 && *exponent <= kSteepest) return {kind, *exponent};
  }
  throw base::UnsupportedError(
      fmt::format("expert popularity {} is not modelled", base::quote(name)));
}

RoutingData read_popularity(const std::filesystem::path& path) {
  RoutingData data;
  data.file = path.string();
  double sum = 0.0;
  for_fields(
      path,
      [&](std::string_view field, const base::Position& at) {
        const std::optional<double> value = number_in(field);
        if (!value || *value < 0.0) {
          throw base::ConfigError(
              at, fmt::format("{} is no popularity: a number from 0", base::quote(field)));
        }
        data.popularity.push_back(*value);
        sum += *value;
      },
      [](const base::Position&) {});
  if (!(sum > 0.0) || !std::isfinite(sum)) {
    throw base::ConfigError({data.file, 0, 0}, "no expert is ever chosen");
  }
  return data;
}

RoutingData read_choices(const std::filesystem::path& path) {
  RoutingData data;
  data.file = path.string();
  std::size_t first = 0;  // of this line
  for_fields(
      path,
      [&](std::string_view field, const base::Position& at) {
        std::int32_t expert = -1;
        const auto [end, error] =
            std::from_chars(field.data(), field.data() + field.size(), expert);
        if (error != std::errc() || end != field.data() + field.size() || expert < 0 ||
            expert >= kMostExperts) {
          throw base::ConfigError(at, fmt::format("{} is no expert number", base::quote(field)));
        }
        if (std::find(data.choices.begin() + static_cast<std::ptrdiff_t>(first), data.choices.end(),
                      expert) != data.choices.end()) {
          throw base::ConfigError(at, fmt::format("expert {} is chosen twice", expert));
        }
        data.choices.push_back(expert);
      },
      [&](const base::Position& at) {
        const auto count = static_cast<std::int64_t>(data.choices.size() - first);
        if (data.topk == 0) data.topk = count;
        if (count != data.topk) {
          throw base::ConfigError(
              at, fmt::format("{} experts where the first token has {}", count, data.topk));
        }
        first = data.choices.size();
      });
  if (data.choices.empty()) throw base::ConfigError({data.file, 0, 0}, "no token chooses experts");
  return data;
}

}  // namespace foretoken::workloads
