#include "analysis/kernels/kernel_gate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "sim/base/config.h"
#include "sim/base/error.h"
#include "sim/base/text.h"

namespace foretoken::analysis::kernels {

namespace tile = hwmodels::tile;

namespace {

using Key = std::tuple<std::string, std::string, std::string>;
Key key_of(const GateEntry& e) { return {e.design, e.chip, e.name}; }

constexpr std::int64_t kVersion = 1;
// The baseline's rounding moves a time by less than this share.
constexpr double kSameShare = 1e-4;
constexpr double kLeastPart = 5e-5;  // us; less is written as nothing
// Parts below this share of a change are not worth naming.
constexpr double kMovedShare = 0.1;

void describe_entry(base::ConfigVisitor& v, GateEntry& e) {
  v.text({"design", "name in configs/designs"}, e.design);
  v.text({"chip", "name in configs/chips"}, e.chip);
  v.text({"case", "name of the shape"}, e.name);
  v.text({"shape", "every key of it"}, e.shape);
  v.real({"latency_us", "launch included"}, e.latency_us, base::UnitKind::kNumber, {});
  base::group(v, {"parts_us", "where the time went"}, [&] {
    for (std::size_t i = 0; i < e.parts_us.size(); ++i) {
      v.real({tile::kPartNames[i], "microseconds; 0 where absent", base::Need::kOptional},
             e.parts_us[i], base::UnitKind::kNumber, base::kNonNegative);
    }
  });
}

bool contains(std::span<const std::string> names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

void describe(base::ConfigVisitor& v, Baseline& b) {
  v.integer({"version", "of this layout"}, b.version, {.min = kVersion, .max = kVersion});
  std::set<Key> seen;
  base::list(v, {"entries", "by design, chip and case"}, b.entries,
             [&](base::ConfigVisitor& w, GateEntry& e) {
               describe_entry(w, e);
               if (w.reading()) {
                 w.check(seen.insert(key_of(e)).second, "case",
                         fmt::format("{} on {} at {} is there twice", base::quote(e.design),
                                     base::quote(e.chip), base::quote(e.name)));
               }
             },
             {.max = 1'000'000});
}

Baseline read_baseline(const std::filesystem::path& path) {
  return base::read_config<Baseline>(base::read_config_file(path));
}

std::string baseline_text(Baseline b) {
  std::sort(b.entries.begin(), b.entries.end(),
            [](const GateEntry& x, const GateEntry& y) { return key_of(x) < key_of(y); });
  std::string out = fmt::format("{{\n\"version\": {},\n\"entries\": [", kVersion);
  const char* comma = "\n";
  for (const GateEntry& e : b.entries) {
    out += fmt::format(
        "{}{{\"design\": {}, \"chip\": {}, \"case\": {}, \"shape\": {},\n"
        " \"latency_us\": {:.4f}, \"parts_us\": {{",
        comma, base::quote_json(e.design), base::quote_json(e.chip), base::quote_json(e.name),
        base::quote_json(e.shape), e.latency_us);
    const char* part_comma = "";
    for (std::size_t i = 0; i < e.parts_us.size(); ++i) {
      if (e.parts_us[i] < kLeastPart) continue;
      out += fmt::format("{}\"{}\": {:.4f}", part_comma, tile::kPartNames[i], e.parts_us[i]);
      part_comma = ", ";
    }
    out += "}}";
    comma = ",\n";
  }
  out += "\n]\n}\n";
  return out;
}

std::string_view to_string(GateStatus status) {
  static constexpr std::array<std::string_view, 7> kNames = {"same", "faster",   "slower", "new",
                                                             "gone", "reshaped", "refused"};
  return kNames[static_cast<std::size_t>(status)];
}

std::string GateRow::moved() const {
  std::array<std::size_t, tile::kParts> order{};
  std::iota(order.begin(), order.end(), 0U);
  const auto delta = [&](std::size_t i) { return after.parts_us[i] - before.parts_us[i]; };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::abs(delta(a)) > std::abs(delta(b));
  });
  const double least = std::max(kMovedShare * std::abs(after.latency_us - before.latency_us), 1e-3);
  std::string text;
  for (const std::size_t i : order) {
    if (std::abs(delta(i)) < least) break;
    text += fmt::format("{}{} {:+.3g} us", text.empty() ? "" : ", ", tile::kPartNames[i], delta(i));
  }
  return text;
}

std::int64_t GateResult::count(GateStatus status) const {
  return std::count_if(rows.begin(), rows.end(),
                       [&](const GateRow& r) { return r.status == status; });
}

std::int64_t GateResult::compared() const {
  return count(GateStatus::kSame) + count(GateStatus::kFaster) + count(GateStatus::kSlower);
}

bool GateResult::verified() const {
  return std::all_of(verification.begin(), verification.end(),
                     [](const VerifyRow& r) { return r.passed(); });
}

bool GateResult::ok() const {
  const bool lost = std::any_of(rows.begin(), rows.end(), [](const GateRow& r) {
    return r.status == GateStatus::kRefused && r.before.latency_us > 0.0;
  });
  return verified() && !lost && count(GateStatus::kSlower) == 0 && compared() > 0;
}

const KernelChip* representative(std::span<const KernelChip> chips, const std::string& family) {
  const KernelChip* first = nullptr;
  for (const KernelChip& c : chips) {
    if (c.family != family) continue;
    if (c.status == hwmodels::ChipStatus::kShipping) return &c;
    if (first == nullptr) first = &c;
  }
  return first;
}

GateResult check(std::span<const hwmodels::DesignFile> designs, std::span<const KernelChip> chips,
                 const Baseline& baseline, const GateScope& scope, double tolerance) {
  GateResult result;
  result.tolerance = tolerance;
  std::map<Key, GateRow> rows;
  std::vector<Subject> subjects;
  std::vector<std::string> names;
  for (const hwmodels::DesignFile& design : designs) {
    names.push_back(design.name);
    std::set<std::string> families;
    for (const KernelChip& chip : chips) {
      if (!is_for(design, chip)) continue;
      if (!scope.chips.empty() && !contains(scope.chips, chip.name)) continue;
      families.insert(chip.family);
      for (const TimingCase& c : timing_cases(design, chip.rates)) {
        GateRow row;
        row.after = {design.name, chip.name, c.name, to_string(c.shape), 0.0, {}};
        try {
          const KernelTiming t = time_kernel(design, c.shape, chip);
          row.after.latency_us = t.seconds * 1e6;
          for (std::size_t i = 0; i < t.parts.size(); ++i) row.after.parts_us[i] = t.parts[i] * 1e6;
        } catch (const base::UnsupportedError& error) {
          row.status = GateStatus::kRefused;
          row.reason = error.what();
        }
        rows.emplace(key_of(row.after), std::move(row));
      }
    }
    const bool known = std::any_of(chips.begin(), chips.end(),
                                   [&](const KernelChip& c) { return is_for(design, c); });
    if (!known) {
      VerifyRow row;
      row.design = design.name;
      row.kernel = design.kernel();
      row.refused = fmt::format("no chip is of its families: {}", fmt::join(design.families, ", "));
      result.verification.push_back(std::move(row));
    }
    for (const std::string& family : families) {
      // Of the chips asked for, if any.
      std::vector<const KernelChip*> own;
      for (const KernelChip& c : chips) {
        if (c.family == family && contains(scope.chips, c.name)) own.push_back(&c);
      }
      subjects.push_back({&design, own.empty() ? representative(chips, family) : own.front()});
    }
  }
  for (const GateEntry& e : baseline.entries) {
    if (!scope.all_designs && !contains(names, e.design)) continue;
    if (!scope.chips.empty() && !contains(scope.chips, e.chip)) continue;
    const auto found = rows.find(key_of(e));
    if (found == rows.end()) {
      GateRow gone;
      gone.status = GateStatus::kGone;
      gone.before = e;
      gone.after = {e.design, e.chip, e.name, e.shape, 0.0, {}};
      rows.emplace(key_of(e), std::move(gone));
      continue;
    }
    GateRow& row = found->second;
    row.before = e;
    if (row.status == GateStatus::kRefused) continue;
    const double change = row.change();
    row.status = e.shape != row.after.shape           ? GateStatus::kReshaped
                 : change > tolerance + kSameShare    ? GateStatus::kSlower
                 : change < -(tolerance + kSameShare) ? GateStatus::kFaster
                                                      : GateStatus::kSame;
  }
  for (auto& [key, row] : rows) result.rows.push_back(std::move(row));
  const std::vector<VerifyRow> verified = verify(subjects);
  result.verification.insert(result.verification.end(), verified.begin(), verified.end());
  return result;
}

Baseline updated(const Baseline& baseline, const GateResult& result) {
  std::map<Key, GateEntry> entries;
  for (const GateEntry& e : baseline.entries) entries.emplace(key_of(e), e);
  for (const GateRow& row : result.rows) {
    if (row.status == GateStatus::kGone || row.status == GateStatus::kRefused) {
      entries.erase(key_of(row.after));
    } else {
      entries.insert_or_assign(key_of(row.after), row.after);
    }
  }
  Baseline b;
  for (auto& [key, e] : entries) b.entries.push_back(std::move(e));
  return b;
}

}  // namespace foretoken::analysis::kernels
