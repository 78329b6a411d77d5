#include "analysis/calibration/constants.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <functional>
#include <limits>
#include <string_view>

namespace foretoken::analysis::calibration {

using base::Field;
using base::RealRange;
using base::UnitKind;

namespace {

// Where a fit may look, narrower than what a file may say.
struct Bounds {
  std::string_view prefix;
  double least;
  double most;
};

// The first whose prefix the name begins with. Kernels measured anywhere reach at least a tenth of
// the datasheet in whatever bounds them; half in matrix products of large shapes would be a poor
// library, a quarter is taken.
constexpr Bounds kBounds[] = {
    {"efficiency.memory", 0.4, 1.1},
    {"efficiency.matrix.", 0.25, 1.0},
    {"efficiency.", 0.1, 1.6},
    // From one node of a captured graph to the next: 0.5 us with programmatic launches to an eager
    // launch by a slow host.
    {"latency.launch", 0.2e-6, 10e-6},
    // A pointer chase takes at least 0.2 us to memory on any of these chips.
    {"latency.load", 0.2e-6, 5e-6},
    {"latency.step", 1e-6, 10e-3},
    {"latency.", 0.02e-6, 50e-6},
    {"communication.hop", 0.02e-6, 5e-6},
    {"communication.launch", 0.5e-6, 50e-6},
    {"communication.expert_start", 0.5e-6, 200e-6},
    {"communication.row_time", 0.01e-6, 20e-6},
    {"communication.nic_message", 0.005e-6, 2e-6},
    {"communication.engine_start", 0.5e-6, 200e-6},
    {"communication.pair_rate", 10e9, 2e12},
    {"communication.flagged_pair_rate", 1e9, 200e9},
    {"communication.core_copy", 1e9, 1e12},
    {"communication.engine_rate", 10e9, 10e12},
    {"communication.", 0.05, 2.0},
    {"power.", 0.02, 1000.0},
    {"", 1e-9, 1e9},
};

// Calls back with every number that a fit could change, the groups' keys joined to its name.
class Walker : public base::ConfigVisitor {
 public:
  using Visit = std::function<void(const std::string& name, const Field&, base::Ranged&, UnitKind,
                                   RealRange, bool has_range)>;
  explicit Walker(Visit visit) : visit_(std::move(visit)) {}

  void real(const Field& field, double& value, UnitKind kind, RealRange range) override {
    base::Ranged one{value, value, value};
    visit_(name_of(field), field, one, kind, range, false);
    value = one.value;
  }
  void ranged(const Field& field, base::Ranged& value, UnitKind kind, RealRange range) override {
    visit_(name_of(field), field, value, kind, range, true);
  }
  bool enter_group(const Field& field) override {
    groups_.emplace_back(field.key);
    return true;
  }
  void leave_group() override { groups_.pop_back(); }

  // Nothing to fit in these.
  void text(const Field&, std::string&) override {}
  void boolean(const Field&, bool&) override {}
  void integer(const Field&, std::int64_t&, base::IntRange) override {}
  void money(const Field&, base::Price&) override {}
  void choice(const Field&, int&, std::span<const std::string_view>) override {}
  void texts(const Field&, std::vector<std::string>&, base::SizeRange) override {}
  void integers(const Field&, std::vector<std::int64_t>&, base::IntRange,
                base::SizeRange) override {}
  void reals(const Field&, std::vector<double>&, UnitKind, RealRange, base::SizeRange) override {}
  std::size_t enter_list(const Field&, std::size_t, base::SizeRange) override { return 0; }
  void enter_item(std::size_t) override {}
  void leave_item() override {}
  void leave_list() override {}
  std::vector<std::string> enter_table(const Field&, const std::vector<std::string>&,
                                       base::SizeRange) override {
    return {};
  }
  void enter_entry(const std::string&) override {}
  void leave_entry() override {}
  void leave_table() override {}
  void check(bool, std::string_view, const std::string&) override {}
  [[nodiscard]] bool reading() const override { return false; }

 private:
  [[nodiscard]] std::string name_of(const Field& field) const {
    std::string name;
    for (const std::string& group : groups_) name += group + ".";
    return name + std::string(field.key);
  }

  Visit visit_;
  std::vector<std::string> groups_;
};

}  // namespace

std::vector<Constant> constants_of(hwmodels::Calibration calibration) {
  std::vector<Constant> all;
  Walker walker([&](const std::string& name, const Field& field, base::Ranged& value, UnitKind kind,
                    RealRange range, bool has_range) {
    const auto* bounds = std::find_if(std::begin(kBounds), std::end(kBounds),
                                      [&](const Bounds& b) { return name.starts_with(b.prefix); });
    all.push_back({name, std::string(field.doc), kind, value, has_range,
                   std::max(bounds->least, range.min), std::min(bounds->most, range.max)});
  });
  describe(walker, calibration);
  return all;
}

void set_constants(hwmodels::Calibration& calibration,
                   const std::map<std::string, base::Ranged>& values) {
  Walker walker(
      [&](const std::string& name, const Field&, base::Ranged& value, UnitKind, RealRange, bool) {
        const auto found = values.find(name);
        if (found != values.end() && value.value > 0.0) value = found->second;
      });
  describe(walker, calibration);
}

void set_constants(hwmodels::Calibration& calibration,
                   const std::map<std::string, double>& values) {
  std::map<std::string, base::Ranged> ranged;
  for (const auto& [name, value] : values) ranged[name] = {value, value, value};
  set_constants(calibration, ranged);
}

std::string to_text(const Constant& constant, double value) {
  if (constant.unit == UnitKind::kSeconds) return fmt::format("{:.4g} us", value * 1e6);
  if (constant.unit == UnitKind::kBytesPerSecond) return fmt::format("{:.4g} GB/s", value / 1e9);
  assert(constant.unit == UnitKind::kNumber);
  return fmt::format("{:.4g}", value);
}

}  // namespace foretoken::analysis::calibration
