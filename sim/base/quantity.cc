#include "sim/base/quantity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "sim/base/text.h"

namespace foretoken::base {
namespace {

// A unit is worth 10^exponent * factor base units. The power of ten goes into the decimal text
// before it is converted, so that `4.8 TB/s` is the double nearest to 4.8e12.
struct Unit {
  std::string_view name;
  int exponent = 0;
  double factor = 1.0;
};

constexpr double kKi = 1024.0;
constexpr double kMi = kKi * 1024.0;
constexpr double kGi = kMi * 1024.0;
constexpr double kTi = kGi * 1024.0;

constexpr auto kByteUnits = std::to_array<Unit>({{"B"},
                                                 {"KB", 3},
                                                 {"MB", 6},
                                                 {"GB", 9},
                                                 {"TB", 12},
                                                 {"PB", 15},
                                                 {"KiB", 0, kKi},
                                                 {"MiB", 0, kMi},
                                                 {"GiB", 0, kGi},
                                                 {"TiB", 0, kTi}});
constexpr auto kBandwidthUnits = std::to_array<Unit>({{"B/s"},
                                                      {"KB/s", 3},
                                                      {"MB/s", 6},
                                                      {"GB/s", 9},
                                                      {"TB/s", 12},
                                                      {"PB/s", 15},
                                                      {"KiB/s", 0, kKi},
                                                      {"MiB/s", 0, kMi},
                                                      {"GiB/s", 0, kGi},
                                                      {"TiB/s", 0, kTi}});
constexpr auto kFlopUnits = std::to_array<Unit>(
    {{"FLOP/s"}, {"GFLOP/s", 9}, {"TFLOP/s", 12}, {"PFLOP/s", 15}, {"EFLOP/s", 18}});
constexpr auto kTimeUnits = std::to_array<Unit>({{"s"},
                                                 {"ps", -12},
                                                 {"ns", -9},
                                                 {"us", -6},
                                                 {"ms", -3},
                                                 {"min", 0, 60.0},
                                                 {"h", 0, 3600.0},
                                                 {"days", 0, 86400.0},
                                                 // 8760 h, as amortisation is reckoned.
                                                 {"years", 0, 365.0 * 86400.0}});
constexpr auto kFrequencyUnits = std::to_array<Unit>({{"Hz"}, {"kHz", 3}, {"MHz", 6}, {"GHz", 9}});
constexpr auto kPowerUnits = std::to_array<Unit>({{"W"}, {"mW", -3}, {"kW", 3}, {"MW", 6}});
constexpr auto kEnergyUnits = std::to_array<Unit>({{"J"},
                                                   {"pJ", -12},
                                                   {"nJ", -9},
                                                   {"uJ", -6},
                                                   {"mJ", -3},
                                                   {"kJ", 3},
                                                   {"Wh", 0, 3600.0},
                                                   {"kWh", 3, 3600.0}});
constexpr auto kMoneyUnits =
    std::to_array<Unit>({{"USD"}, {"kUSD", 3}, {"MUSD", 6}, {"CNY"}, {"kCNY", 3}, {"MCNY", 6}});

std::span<const Unit> units(UnitKind kind) {
  switch (kind) {
    case UnitKind::kNumber:
      return {};
    case UnitKind::kBytes:
      return kByteUnits;
    case UnitKind::kBytesPerSecond:
      return kBandwidthUnits;
    case UnitKind::kFlopsPerSecond:
      return kFlopUnits;
    case UnitKind::kSeconds:
      return kTimeUnits;
    case UnitKind::kHertz:
      return kFrequencyUnits;
    case UnitKind::kWatts:
      return kPowerUnits;
    case UnitKind::kJoules:
      return kEnergyUnits;
    case UnitKind::kMoney:
      return kMoneyUnits;
  }
  return {};
}

struct CountSuffix {
  char letter;
  std::int64_t size;
};
constexpr auto kCountSuffixes = std::to_array<CountSuffix>(
    {{'G', std::int64_t{1} << 30}, {'M', std::int64_t{1} << 20}, {'K', std::int64_t{1} << 10}});

constexpr std::size_t kLongestQuantity = 100;
constexpr int kLongestFixed = 17;  // digits before an exponent is written
// No double survives an exponent of five digits; this only keeps sums of exponents in range.
constexpr int kHugeExponent = 99'999;
constexpr std::size_t kMostFractionDigits = 18;  // of 10^18, which an int64 holds
constexpr std::int64_t kMostCount = std::numeric_limits<std::int64_t>::max();
constexpr std::string_view kDecimal = "[+-]?([0-9]+([.][0-9]+)?|[.][0-9]+)([eE][+-]?[0-9]+)?";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::size_t skip_digits(std::string_view text, std::size_t i) {
  while (i < text.size() && is_digit(text[i])) ++i;
  return i;
}

[[noreturn]] void refuse(std::string_view text, const std::string& reason) {
  throw std::invalid_argument(quote(text) + " " + reason);
}

// The decimal number at the start of a text: [+-] digits [. digits] [e[+-]digits].
struct Decimal {
  std::string mantissa;  // no '+', empty when there is no number
  int exponent = 0;
  std::string_view rest;
};

Decimal scan_decimal(std::string_view text) {
  const std::size_t start = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  const std::size_t whole = skip_digits(text, start);
  std::size_t end = whole;
  if (end + 1 < text.size() && text[end] == '.' && is_digit(text[end + 1])) {
    end = skip_digits(text, end + 1);
  }
  Decimal decimal{.mantissa = {}, .exponent = 0, .rest = text};
  if (end == start) return decimal;
  decimal.mantissa = text.substr(text[0] == '+' ? 1 : 0, end - (text[0] == '+' ? 1 : 0));
  if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    std::size_t digits = end + 1;
    const bool minus = digits < text.size() && text[digits] == '-';
    if (digits < text.size() && (text[digits] == '-' || text[digits] == '+')) ++digits;
    const std::size_t after = skip_digits(text, digits);
    if (after > digits) {
      const auto parsed =
          std::from_chars(text.data() + digits, text.data() + after, decimal.exponent);
      if (parsed.ec != std::errc{}) decimal.exponent = kHugeExponent;
      decimal.exponent = std::min(decimal.exponent, kHugeExponent) * (minus ? -1 : 1);
      end = after;
    }
  }
  decimal.rest = text.substr(end);
  return decimal;
}

double to_double(std::string_view text, const Decimal& decimal, const Unit& unit) {
  const std::string digits =
      fmt::format("{}e{}", decimal.mantissa, decimal.exponent + unit.exponent);
  double value = 0.0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  value *= unit.factor;
  if (parsed.ec != std::errc{} || !std::isfinite(value)) {
    refuse(text, "is too large or too small a number");
  }
  return value == 0.0 ? 0.0 : value;  // no negative zero
}

bool equal_but_for_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
           std::tolower(static_cast<unsigned char>(y));
  });
}

std::string case_hint(std::string_view name, std::span<const Unit> known) {
  std::string hint;
  for (const Unit& unit : known) {
    if (!equal_but_for_case(name, unit.name)) continue;
    hint += hint.empty() ? "; did you mean " : " or ";
    hint += quote(unit.name);
  }
  return hint.empty() ? hint : hint + "?";
}

struct Parsed {
  double value = 0.0;
  std::string_view unit;
};

Parsed parse(std::string_view text, UnitKind kind) {
  const std::span<const Unit> known = units(kind);
  const std::string_view names = units_of(kind);
  if (text.size() > kLongestQuantity) refuse(text, "is too long for a number");
  const Decimal decimal = scan_decimal(text);
  if (decimal.mantissa.empty()) {
    refuse(text, known.empty() ? "is not a number" : fmt::format("is not a number in {}", names));
  }
  if (known.empty()) {
    if (!decimal.rest.empty()) refuse(text, "is not a plain number");
    return {to_double(text, decimal, {}), {}};
  }
  std::string_view name = decimal.rest;
  while (name.starts_with(' ')) name.remove_prefix(1);
  if (name.empty()) refuse(text, fmt::format("has no unit; it takes {}", names));
  const auto unit = std::ranges::find(known, name, &Unit::name);
  if (unit == known.end()) {
    refuse(text, fmt::format("is not in {}{}", names, case_hint(name, known)));
  }
  return {to_double(text, decimal, *unit), unit->name};
}

// `value` as the shortest decimal text that reads back as the same double, in units of 10^exponent.
std::string shortest(double value, int exponent) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  const std::string_view text(buffer.data(), static_cast<std::size_t>(end.ptr - buffer.data()));
  const std::size_t e = text.find('e');
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (is_digit(c)) digits += c;
  }
  int power = 0;
  const std::size_t sign = e + 1;
  std::from_chars(text.data() + sign + (text[sign] == '+' ? 1 : 0), text.data() + text.size(),
                  power);
  power -= exponent;
  const std::string_view minus = value < 0.0 ? "-" : "";
  const int count = static_cast<int>(digits.size());
  if (power >= 0 && power < kLongestFixed) {
    if (power >= count - 1) return fmt::format("{}{}{:0<{}}", minus, digits, "", power - count + 1);
    const std::size_t point = static_cast<std::size_t>(power) + 1;
    return fmt::format("{}{}.{}", minus, digits.substr(0, point), digits.substr(point));
  }
  if (power < 0 && power >= -4) {
    return fmt::format("{}0.{:0<{}}{}", minus, "", -power - 1, digits);
  }
  if (count > 1) digits.insert(1, 1, '.');
  return fmt::format("{}{}e{}", minus, digits, power);
}

double scale(const Unit& unit) { return std::pow(10.0, unit.exponent) * unit.factor; }

// Three significant digits without an exponent, trailing zeros dropped.
std::string three_digits(double value) {
  const double size = std::abs(value);
  if (size != 0.0 && (size < 1e-4 || size >= 1e15)) return fmt::format("{:.3g}", value);
  if (size < 999.5) return fmt::format("{:.3g}", value);
  const double step = std::pow(10.0, std::floor(std::log10(size)) - 2.0);
  return fmt::format("{:.0f}", std::round(value / step) * step);
}

[[noreturn]] void refuse_count(std::string_view text) {
  refuse(text, "is not a count; write a whole number, also with K, M or G (128K = 131072)");
}

// The digits of a whole number, without the separators: '_' between any digits, ',' before each
// group of three ("1,5" is more likely a fraction than fifteen).
std::string strip_separators(std::string_view text, std::string_view whole) {
  std::string digits;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const char c = whole[i];
    if (is_digit(c)) {
      digits += c;
      continue;
    }
    const bool between =
        i > 0 && i + 1 < whole.size() && is_digit(whole[i - 1]) && is_digit(whole[i + 1]);
    if ((c != '_' && c != ',') || !between) refuse_count(text);
    if (c == ',') {
      const std::size_t after = skip_digits(whole, i + 1) - (i + 1);
      const bool first = whole.find(',') == i;
      if (after != 3 || (first && i > 3) || whole.find('_') != std::string_view::npos) {
        refuse_count(text);
      }
    }
  }
  if (digits.empty()) refuse_count(text);
  return digits;
}

}  // namespace

double parse_quantity(std::string_view text, UnitKind kind) {
  if (kind == UnitKind::kMoney) return parse_money(text).amount;
  return parse(text, kind).value;
}

MoneyText parse_money(std::string_view text) {
  const Parsed parsed = parse(text, UnitKind::kMoney);
  return {parsed.value, parsed.unit.ends_with("CNY") ? "CNY" : "USD"};
}

std::int64_t parse_count(std::string_view text) {
  if (text.size() > kLongestQuantity) refuse(text, "is too long for a count");
  if (text.starts_with('-')) refuse(text, "is negative; a count is not");
  std::string_view number = text;
  std::int64_t unit = 1;
  for (const auto& [suffix, size] : kCountSuffixes) {
    if (!number.ends_with(suffix)) continue;
    unit = size;
    number.remove_suffix(1);
    break;
  }
  const std::size_t point = std::min(number.find('.'), number.size());
  const std::string whole_digits = strip_separators(text, number.substr(0, point));
  std::int64_t whole = 0;
  const char* end = whole_digits.data() + whole_digits.size();
  if (std::from_chars(whole_digits.data(), end, whole).ec != std::errc{}) {
    refuse(text, "is too large a count");
  }

  std::int64_t part = 0;  // what the digits after the point are worth
  if (point < number.size()) {
    std::string_view fraction = number.substr(point + 1);
    if (fraction.empty() || skip_digits(fraction, 0) != fraction.size()) refuse_count(text);
    while (fraction.ends_with('0')) fraction.remove_suffix(1);
    if (fraction.size() > kMostFractionDigits) refuse(text, "is not a whole number");
    std::int64_t numerator = 0;
    std::int64_t denominator = 1;
    for (const char c : fraction) {
      numerator = numerator * 10 + (c - '0');
      denominator *= 10;
    }
    const std::int64_t common = std::gcd(numerator, denominator);
    if (unit % (denominator / common) != 0) refuse(text, "is not a whole number");
    part = numerator / common * (unit / (denominator / common));
  }
  // part < unit, so the sum fits whenever whole + 1 units fit; the last unit is checked exactly.
  if (whole > kMostCount / unit || part > kMostCount - whole * unit)
    refuse(text, "is too large a count");
  return whole * unit + part;
}

std::string format_quantity(double value, UnitKind kind) {
  const std::span<const Unit> known = units(kind);
  if (known.empty()) return three_digits(value);
  if (!std::isfinite(value)) return fmt::format("{} {}", value, known.front().name);
  // SI prefixes only, from small to large. A value that rounds up to 1000 takes the next prefix.
  std::vector<Unit> prefixes;
  for (const Unit& unit : known) {
    if (unit.factor == 1.0 && unit.name.ends_with(known.front().name)) prefixes.push_back(unit);
  }
  std::ranges::sort(prefixes, {}, &Unit::exponent);
  const double size = std::abs(value);
  const Unit* chosen = &known.front();
  if (size > 0.0) {
    chosen = &prefixes.front();
    for (const Unit& unit : prefixes) {
      if (size >= 0.9995 * scale(unit)) chosen = &unit;
    }
  }
  const double shown = value / scale(*chosen);
  return fmt::format("{} {}", three_digits(shown), chosen->name);
}

std::string exact_quantity(double value, UnitKind kind, std::string_view currency) {
  const std::span<const Unit> known = units(kind);
  if (known.empty()) return shortest(value, 0);
  std::string best;
  for (const Unit& unit : known) {
    if (!currency.empty() && !unit.name.ends_with(currency)) continue;
    const double count = std::abs(value / scale(unit));
    const bool base = unit.exponent == 0 && unit.factor == 1.0;
    if (!base && !(count >= 1.0 && count < 1000.0)) continue;
    const double in_factor = value / unit.factor;
    const std::string text = fmt::format("{} {}", shortest(in_factor, unit.exponent), unit.name);
    if (!base && parse(text, kind).value != value) continue;
    // `200 ns` reads better than `2e-7 s`.
    const auto length = [](const std::string& t) {
      return std::pair(t.find('e') < t.find(' '), t.size());
    };
    if (best.empty() || length(text) < length(best)) best = text;
  }
  return best;
}

std::string format_count(std::int64_t value) {
  if (value > 0) {
    for (const auto& [suffix, size] : kCountSuffixes) {
      if (value % size == 0) return fmt::format("{}{}", value / size, suffix);
    }
  }
  return fmt::format("{}", value);
}

std::string_view units_of(UnitKind kind) {
  switch (kind) {
    case UnitKind::kNumber:
      return "";
    case UnitKind::kBytes:
      return "B, KB, MB, GB, TB, PB, KiB, MiB, GiB, TiB";
    case UnitKind::kBytesPerSecond:
      return "B/s, KB/s, MB/s, GB/s, TB/s, PB/s, KiB/s, MiB/s, GiB/s, TiB/s";
    case UnitKind::kFlopsPerSecond:
      return "FLOP/s, GFLOP/s, TFLOP/s, PFLOP/s, EFLOP/s";
    case UnitKind::kSeconds:
      return "s, ps, ns, us, ms, min, h, days, years";
    case UnitKind::kHertz:
      return "Hz, kHz, MHz, GHz";
    case UnitKind::kWatts:
      return "W, mW, kW, MW";
    case UnitKind::kJoules:
      return "J, pJ, nJ, uJ, mJ, kJ, Wh, kWh";
    case UnitKind::kMoney:
      return "USD, kUSD, MUSD, CNY, kCNY, MCNY";
  }
  return "";
}

std::string pattern_of(UnitKind kind) {
  std::string names;
  for (const Unit& unit : units(kind)) {
    if (!names.empty()) names += '|';
    names += unit.name;
  }
  return names.empty() ? fmt::format("^{}$", kDecimal) : fmt::format("^{} *({})$", kDecimal, names);
}

std::string pattern_of_count() {
  return "^[0-9]+(_[0-9]+)*([.][0-9]+)?[KMG]?$|^[0-9]{1,3}(,[0-9]{3})+([.][0-9]+)?[KMG]?$";
}

}  // namespace foretoken::base
