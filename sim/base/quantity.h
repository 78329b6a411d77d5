// Quantities as people write them in files and on the command line: `4.8 TB/s`, `128K`, `1.65 GHz`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sim/base/units.h"

namespace foretoken::base {

// What a key measures, hence which units it accepts. Values are held in the base unit given here.
enum class UnitKind : std::uint8_t {
  kNumber,          // plain number, no unit
  kBytes,           // B; KB MB GB TB PB (10^3n), KiB MiB GiB TiB (2^10n)
  kBytesPerSecond,  // B/s; KB/s .. PB/s, KiB/s .. TiB/s
  kFlopsPerSecond,  // FLOP/s; GFLOP/s TFLOP/s PFLOP/s EFLOP/s
  kSeconds,         // s; ps ns us ms min h days, years of 365 days
  kHertz,           // Hz; kHz MHz GHz
  kWatts,           // W; mW kW MW
  kJoules,          // J; pJ nJ uJ mJ kJ, Wh kWh
  kMoney,           // USD or CNY: `2.5 USD`, `300 kUSD`, `60 MCNY`; only through parse_money
};

// Parses `text` as a quantity of `kind`; a unit is required except for kNumber. Throws
// std::invalid_argument with a one-line reason that names the units accepted.
double parse_quantity(std::string_view text, UnitKind kind);

// An amount of money with its currency, as written: `2.5 USD`, `60 MCNY`, `300 kUSD`.
struct MoneyText {
  double amount = 0.0;
  std::string currency;  // "USD" or "CNY"
};
MoneyText parse_money(std::string_view text);

// A count with a binary suffix: `128K` = 131072, `1M` = 1048576, `2G`; plain integers as they are,
// also with `_` or `,` between digits ("1_000_000"). Throws std::invalid_argument; never negative.
std::int64_t parse_count(std::string_view text);

// `value` (in the base unit of `kind`) with three significant digits and the SI prefix that keeps
// the number between 1 and 1000: format_quantity(4.8e12, kBytesPerSecond) == "4.8 TB/s".
std::string format_quantity(double value, UnitKind kind);

// `value` without loss: text in the shortest suitable unit that parse_quantity reads back as the
// same double, "4.8 TB/s". For kMoney `currency` picks the units.
std::string exact_quantity(double value, UnitKind kind, std::string_view currency = {});

// 131072 -> "128K", 1048576 -> "1M", 1000000 -> "1000000".
std::string format_count(std::int64_t value);

// Units accepted for `kind`, for messages and schemas: "B/s, KB/s, MB/s, ...".
std::string_view units_of(UnitKind kind);
// A regular expression (ECMA) that `text` of this kind matches, for the JSON Schemas.
std::string pattern_of(UnitKind kind);
std::string pattern_of_count();

template <class Q>
struct KindOf;
template <>
struct KindOf<Bytes> {
  static constexpr UnitKind kValue = UnitKind::kBytes;
};
template <>
struct KindOf<BytesPerSecond> {
  static constexpr UnitKind kValue = UnitKind::kBytesPerSecond;
};
template <>
struct KindOf<FlopsPerSecond> {
  static constexpr UnitKind kValue = UnitKind::kFlopsPerSecond;
};
template <>
struct KindOf<Seconds> {
  static constexpr UnitKind kValue = UnitKind::kSeconds;
};
template <>
struct KindOf<Hertz> {
  static constexpr UnitKind kValue = UnitKind::kHertz;
};
template <>
struct KindOf<Watts> {
  static constexpr UnitKind kValue = UnitKind::kWatts;
};
template <>
struct KindOf<Joules> {
  static constexpr UnitKind kValue = UnitKind::kJoules;
};

}  // namespace foretoken::base
