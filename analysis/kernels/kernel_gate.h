// The gate: designs verified and timed, against times written down before.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "analysis/kernels/kernel_timing.h"
#include "analysis/kernels/kernel_verify.h"

namespace foretoken::analysis::kernels {

// What one design took on one chip at one shape.
struct GateEntry {
  std::string design;
  std::string chip;
  std::string name;   // of the case
  std::string shape;  // every key of it: entries of another shape are not compared
  double latency_us = 0.0;
  std::array<double, hwmodels::tile::kParts> parts_us{};
};

struct Baseline {
  std::int64_t version = 1;
  std::vector<GateEntry> entries;
};
void describe(base::ConfigVisitor& v, Baseline& baseline);

// Throws ConfigError with the position: no such file, no JSON, unknown or missing keys, an entry
// that is there twice.
Baseline read_baseline(const std::filesystem::path& path);
// Sorted, four decimals, one entry a line.
std::string baseline_text(Baseline baseline);

enum class GateStatus : std::uint8_t {
  kSame,
  kFaster,
  kSlower,    // beyond the tolerance
  kNew,       // not in the baseline
  kGone,      // only in the baseline
  kReshaped,  // the baseline has another shape
  kRefused,   // cannot run on a chip of its families
};
std::string_view to_string(GateStatus status);

struct GateRow {
  GateStatus status = GateStatus::kNew;
  GateEntry before;  // kNew: empty
  GateEntry after;   // kGone, kRefused: names alone
  std::string reason;

  [[nodiscard]] double change() const {  // relative
    return before.latency_us > 0.0 ? after.latency_us / before.latency_us - 1.0 : 0.0;
  }
  // The parts that moved most: "memory +3.21 us, latency -0.40 us".
  [[nodiscard]] std::string moved() const;
};

struct GateResult {
  std::vector<GateRow> rows;  // by design, chip, case
  std::vector<VerifyRow> verification;
  double tolerance = 0.0;

  [[nodiscard]] std::int64_t count(GateStatus status) const;
  [[nodiscard]] std::int64_t compared() const;
  [[nodiscard]] bool verified() const;
  // Nothing failed, nothing is slower or newly refused, and something was compared.
  [[nodiscard]] bool ok() const;
};

// What is looked at; entries of the baseline outside are left alone.
struct GateScope {
  bool all_designs = false;        // a whole folder: what the baseline has beyond it is gone
  std::vector<std::string> chips;  // empty: all
};

// Times every design on the chips of its families at its default shapes and verifies it on one chip
// of each family.
GateResult check(std::span<const hwmodels::DesignFile> designs, std::span<const KernelChip> chips,
                 const Baseline& baseline, const GateScope& scope, double tolerance);

// The baseline with what was measured now in place of what the scope covers.
Baseline updated(const Baseline& baseline, const GateResult& result);

// The chip that stands for a family in verification: the first that is shipping, else the first.
const KernelChip* representative(std::span<const KernelChip> chips, const std::string& family);

}  // namespace foretoken::analysis::kernels
