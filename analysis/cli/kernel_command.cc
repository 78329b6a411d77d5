#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <system_error>

#include "analysis/cli/commands.h"
#include "analysis/kernels/kernel_cases.h"
#include "analysis/kernels/kernel_gate.h"
#include "analysis/kernels/kernel_timing.h"
#include "analysis/kernels/kernel_verify.h"
#include "analysis/kernels/timeline_trace.h"
#include "analysis/reports/table.h"
#include "sim/base/output.h"
#include "sim/base/quantity.h"
#include "sim/base/text.h"

namespace foretoken::analysis::cli {

namespace fs = std::filesystem;
namespace kn = kernels;
namespace tile = hwmodels::tile;
using hwmodels::DesignFile;
using Json = nlohmann::ordered_json;

namespace {

// What people call the parts of a breakdown.
constexpr std::array<std::string_view, tile::kParts> kPartTitles = {
    "matrix unit", "vector units",     "memory (HBM)",     "cache (L2)", "core's port",
    "exchange",    "latency, waiting", "tail, idle cores", "launch"};
constexpr std::array<std::string_view, tile::kLocals> kLocalTitles = {"operand", "accumulator",
                                                                      "vector"};

std::string joined(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string microseconds(double us) { return us == 0.0 ? "0" : fmt::format("{:.3f}", us); }
std::string percent(double share) { return fmt::format("{:.1f} %", 100.0 * share); }
std::string error_text(double e) { return e == 0.0 ? "0" : fmt::format("{:.1e}", e); }
// JSON has no infinity.
Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

// The YAML files of a folder, by name.
std::vector<DesignFile> designs_of_folder(const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path().string());
  }
  if (error) throw base::ConfigError({folder.string(), 0, 0}, error.message());
  if (files.empty()) throw base::ConfigError({folder.string(), 0, 0}, "holds no designs");
  std::sort(files.begin(), files.end());
  std::vector<DesignFile> designs;
  designs.reserve(files.size());
  // load_design takes a text without '/' for a name.
  for (const std::string& f : files) designs.push_back(hwmodels::load_design(f, {}));
  return designs;
}

void require_distinct(const std::vector<DesignFile>& designs) {
  std::set<std::string> names;
  for (const DesignFile& d : designs) {
    if (!names.insert(d.name).second) {
      throw base::UsageError(fmt::format("two designs are called {}", base::quote(d.name)));
    }
  }
}

Json parts_json(const std::array<double, tile::kParts>& seconds, double unit) {
  Json parts = Json::object();
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    parts[std::string(tile::kPartNames[i])] = seconds[i] * unit;
  }
  return parts;
}

// ---- run

const kn::TimingCase& chosen_case(const std::vector<kn::TimingCase>& cases,
                                  const KernelRunOptions& o, const kn::KernelChip& chip,
                                  const DesignFile& design) {
  if (cases.empty()) {
    throw base::UnsupportedError(
        fmt::format("{} has no shape that {} can run: it multiplies none of the design's formats",
                    design.name, chip.name));
  }
  if (o.shape_name.empty()) return cases.front();
  std::vector<std::string> names;
  for (const kn::TimingCase& c : cases) {
    if (c.name == o.shape_name) return c;
    names.push_back(c.name);
  }
  throw base::UsageError(fmt::format("--case: no {} of {} on {}; there are {}",
                                     base::quote(o.shape_name), design.name, chip.name,
                                     joined(names)));
}

struct Timed {
  const DesignFile& design;
  const kn::KernelChip& chip;
  std::string name;  // of the case
  std::string shape;
  bool simulate;
  const kn::KernelTiming& timing;
};

Json timed_json(const Timed& t) {
  const kn::KernelTiming& k = t.timing;
  Json launches = Json::array();
  for (const kn::LaunchTiming& l : k.launches) {
    Json memory = Json::object();
    for (std::size_t i = 0; i < l.used.size(); ++i) {
      memory[std::string(kLocalTitles[i])] = {{"used_bytes", l.used[i]},
                                              {"capacity_bytes", t.chip.rates.capacity[i]}};
    }
    Json launch{{"kernel", l.kernel},
                {"chosen", l.chosen},
                {"latency_us", l.time.seconds * 1e6},
                {"parts_us", parts_json(l.time.parts, 1e6)},
                {"items", l.time.items},
                {"cores", l.time.cores},
                {"waves", l.time.waves},
                {"throttle", l.time.throttle},
                {"core_memory", memory}};
    if (!l.steps.empty()) {
      Json steps = Json::array();
      for (const kn::StepRow& s : l.steps) {
        steps.push_back({{"items", s.items},
                         {"iterations", s.iterations},
                         {"ahead", s.ahead},
                         {"engine", s.engine},
                         {"step", s.step},
                         {"operands", s.operand},
                         {"bytes", s.bytes},
                         {"time_us", s.seconds * 1e6}});
      }
      launch["steps"] = std::move(steps);
    }
    launches.push_back(std::move(launch));
  }
  return {{"design", t.design.name},
          {"kernel", t.design.kernel()},
          {"chip", t.chip.name},
          {"case", t.name},
          {"shape", t.shape},
          {"evaluator", t.simulate ? "simulate" : "estimate"},
          {"latency_us", k.seconds * 1e6},
          {"busiest_us", k.busiest * 1e6},
          {"parts_us", parts_json(k.parts, 1e6)},
          {"utilisation",
           {{"matrix", k.matrix}, {"vector", k.vector}, {"memory", k.memory}, {"cache", k.cache}}},
          {"flops", k.flops},
          {"memory_bytes", k.memory_bytes},
          {"cache_bytes", k.cache_bytes},
          {"flops_per_s", k.seconds > 0.0 ? k.flops / k.seconds : 0.0},
          {"basis", base::to_string(t.chip.basis)},
          {"launches", launches}};
}

Table part_table(const kn::KernelTiming& k) {
  Table t;
  t.columns = {{"part"}, {"time_us", true}, {"share", true}};
  for (std::size_t i = 0; i < k.parts.size(); ++i) {
    t.rows.push_back({std::string(kPartTitles[i]), microseconds(k.parts[i] * 1e6),
                      percent(k.parts[i] / k.seconds)});
  }
  t.rows.push_back({"total", microseconds(k.seconds * 1e6), percent(1.0)});
  return t;
}

void add_step_rows(const kn::LaunchTiming& l, Table& t) {
  t.columns = {{"launch"}, {"items", true}, {"iterations", true}, {"ahead", true},  {"engine"},
               {"step"},   {"operands"},    {"bytes", true},      {"time_us", true}};
  for (const kn::StepRow& s : l.steps) {
    t.rows.push_back({l.kernel, fmt::format("{}", s.items), fmt::format("{}", s.iterations),
                      fmt::format("{}", s.ahead), s.engine, s.step, s.operand,
                      fmt::format("{:.0f}", s.bytes), fmt::format("{:.4f}", s.seconds * 1e6)});
  }
}

void print_timed(std::ostream& out, const Timed& t) {
  const kn::KernelTiming& k = t.timing;
  out << fmt::format("{} on {}, {}{}\n", t.design.name, t.chip.title,
                     t.name.empty() ? "" : t.name + ": ", t.shape);
  out << fmt::format("{}, {}; the busiest unit works {}; basis {}\n\n",
                     base::format_quantity(k.seconds, base::UnitKind::kSeconds),
                     t.simulate ? "simulated" : "estimated",
                     base::format_quantity(k.busiest, base::UnitKind::kSeconds),
                     base::to_string(t.chip.basis));
  out << to_text(part_table(k)) << "\n";
  Table rates;
  rates.columns = {{"roofline"}, {"busy", true}, {"work", true}, {"reached", true}};
  const auto rate = [&](double amount, base::UnitKind kind) {
    return amount > 0.0 ? base::format_quantity(amount / k.seconds, kind) : std::string("0");
  };
  rates.rows.push_back({"matrix unit", percent(k.matrix), fmt::format("{:.4g} FLOP", k.flops),
                        rate(k.flops, base::UnitKind::kFlopsPerSecond)});
  rates.rows.push_back({"vector units", percent(k.vector), "–", "–"});
  rates.rows.push_back({"memory (HBM)", percent(k.memory),
                        base::format_quantity(k.memory_bytes, base::UnitKind::kBytes),
                        rate(k.memory_bytes, base::UnitKind::kBytesPerSecond)});
  rates.rows.push_back({"cache (L2)", percent(k.cache),
                        base::format_quantity(k.cache_bytes, base::UnitKind::kBytes),
                        rate(k.cache_bytes, base::UnitKind::kBytesPerSecond)});
  out << to_text(rates) << "\n";
  Table launches;
  launches.columns = {
      {"launch"},      {"time_us", true},        {"items", true},       {"cores", true},
      {"waves", true}, {"operand memory", true}, {"accumulator", true}, {"vector memory", true},
      {"chosen"}};
  for (const kn::LaunchTiming& l : k.launches) {
    std::vector<std::string> row = {
        l.kernel, microseconds(l.time.seconds * 1e6), fmt::format("{:.0f}", l.time.items),
        fmt::format("{:.0f}", l.time.cores), fmt::format("{:.2f}", l.time.waves)};
    for (std::size_t i = 0; i < l.used.size(); ++i) {
      row.push_back(fmt::format("{:.0f} of {:.0f} KiB", l.used[i] / 1024.0,
                                t.chip.rates.capacity[i] / 1024.0));
    }
    row.push_back(l.chosen);
    launches.rows.push_back(std::move(row));
  }
  out << to_text(launches);
  Table steps;
  for (const kn::LaunchTiming& l : k.launches) add_step_rows(l, steps);
  if (!steps.rows.empty()) out << "\n" << to_text(steps);
}

Table timed_csv(const Timed& t) {
  const kn::KernelTiming& k = t.timing;
  Table csv;
  csv.columns = {{"design"}, {"chip"}, {"case"}, {"shape"}, {"evaluator"}, {"latency_us"}};
  csv.rows.push_back({t.design.name, t.chip.name, t.name, t.shape,
                      t.simulate ? "simulate" : "estimate",
                      fmt::format("{:.6f}", k.seconds * 1e6)});
  for (std::size_t i = 0; i < k.parts.size(); ++i) {
    csv.columns.push_back({fmt::format("{}_us", tile::kPartNames[i])});
    csv.rows.back().push_back(fmt::format("{:.6f}", k.parts[i] * 1e6));
  }
  return csv;
}

// ---- verify

std::string recall_text(const kn::VerifyRow& r) {
  return r.selection ? fmt::format("{:.4f}", r.result.recall) : "–";
}

Table verify_table(const std::vector<kn::VerifyRow>& rows) {
  Table t;
  t.columns = {
      {"design"},          {"chip"},         {"case"},  {"elements", true}, {"max error", true},
      {"RMS error", true}, {"recall", true}, {"result"}};
  for (const kn::VerifyRow& r : rows) {
    t.rows.push_back({r.design, r.chip, r.name, fmt::format("{}", r.result.elements),
                      error_text(r.result.max_relative), error_text(r.result.rms_relative),
                      recall_text(r), r.passed() ? "ok" : "FAILED"});
  }
  return t;
}

Json verify_json(const kn::VerifyRow& r) {
  Json out{{"design", r.design},
           {"kernel", r.kernel},
           {"chip", r.chip},
           {"case", r.name},
           {"passed", r.passed()},
           {"elements", r.result.elements},
           {"max_relative_error", number(r.result.max_relative)},
           {"rms_relative_error", number(r.result.rms_relative)},
           {"recall", r.selection ? Json(r.result.recall) : Json(nullptr)},
           {"max_relative_tolerance", r.tolerance.max_relative},
           {"rms_relative_tolerance", r.tolerance.rms_relative}};
  if (!r.passed()) out["reason"] = r.reason();
  return out;
}

void print_reasons(std::ostream& out, const std::vector<kn::VerifyRow>& rows) {
  for (const kn::VerifyRow& r : rows) {
    if (r.passed()) continue;
    out << fmt::format("FAILED: {}{}{}: {}\n", r.design, r.chip.empty() ? "" : " on " + r.chip,
                       r.name.empty() ? "" : ", " + r.name, r.reason());
  }
}

// Chips that a design is verified on: the one asked for, else one of each of its families.
std::vector<const kn::KernelChip*> chips_for(const DesignFile& design,
                                             const std::vector<kn::KernelChip>& chips,
                                             const std::string& asked) {
  std::vector<const kn::KernelChip*> found;
  for (const kn::KernelChip& c : chips) {
    if (c.name == asked) found.push_back(&c);
  }
  if (!asked.empty()) return found;
  for (const std::string& family : design.families) {
    const kn::KernelChip* c = kn::representative(chips, family);
    if (c != nullptr) found.push_back(c);
  }
  if (found.empty()) {
    throw base::UnsupportedError(
        fmt::format("no chip is of the families of {}: {}", design.name, joined(design.families)));
  }
  return found;
}

std::string pair_result(const kn::PairRow& r) {
  if (!r.first.passed() || !r.second.passed()) return "FAILED";
  return r.bit_equal() ? "bit-equal" : "differ";
}

base::ExitCode verify_pair(const Context& context, const kn::Subject& a, const kn::Subject& b) {
  const std::vector<kn::PairRow> rows = kn::compare_pair(a, b);
  std::vector<kn::VerifyRow> both;
  for (const kn::PairRow& r : rows) {
    both.push_back(r.first);
    both.push_back(r.second);
  }
  const bool ok =
      std::all_of(both.begin(), both.end(), [](const kn::VerifyRow& r) { return r.passed(); });
  Table t;
  t.columns = {{"case"}, {"elements", true},    {"different", true},   {"largest distance", true},
               {"unit"}, {"max error 1", true}, {"max error 2", true}, {"result"}};
  Json json = Json::array();
  for (const kn::PairRow& r : rows) {
    const std::string unit =
        fmt::format("{} ulp", kn::kGridNames[static_cast<std::size_t>(r.grid)]);
    t.rows.push_back({r.name, fmt::format("{}", r.elements), fmt::format("{}", r.different),
                      fmt::format("{:.0f}", r.largest_distance), unit,
                      error_text(r.largest_relative), error_text(r.first.result.max_relative),
                      error_text(r.second.result.max_relative), pair_result(r)});
    json.push_back({{"case", r.name},
                    {"elements", r.elements},
                    {"different", r.different},
                    {"largest_distance", number(r.largest_distance)},
                    {"unit", unit},
                    {"largest_relative", number(r.largest_relative)},
                    {"bit_equal", r.bit_equal()},
                    {"first", verify_json(r.first)},
                    {"second", verify_json(r.second)}});
  }
  switch (context.format) {
    case Format::kJson:
      context.out << Json{{"first", a.design->name},
                          {"second", b.design->name},
                          {"passed", ok},
                          {"rows", json}}
                         .dump(2)
                  << "\n";
      break;
    case Format::kCsv:
      context.out << to_csv(t);
      break;
    case Format::kTable:
      context.out << fmt::format("{} on {} (1) and {} on {} (2)\n\n", a.design->name, a.chip->name,
                                 b.design->name, b.chip->name)
                  << to_text(t);
      print_reasons(context.out, both);
      break;
  }
  return ok ? base::ExitCode::kOk : base::ExitCode::kGateFailed;
}

// ---- check

// Rows worth showing: what is not just as it was.
bool stands_out(const kn::GateRow& r) {
  return r.status != kn::GateStatus::kSame || std::abs(r.change()) > 1e-4;
}

std::string status_text(const kn::GateRow& r) {
  return r.status == kn::GateStatus::kSame     ? "within tolerance"
         : r.status == kn::GateStatus::kSlower ? "SLOWER"
                                               : std::string(kn::to_string(r.status));
}

Table gate_table(const std::vector<kn::GateRow>& rows, bool everything) {
  Table t;
  t.columns = {{"design"},       {"chip"},         {"case"},   {"before_us", true},
               {"now_us", true}, {"change", true}, {"status"}, {"moved"}};
  for (const kn::GateRow& r : rows) {
    if (!everything && !stands_out(r)) continue;
    const bool compared = r.before.latency_us > 0.0 && r.after.latency_us > 0.0;
    t.rows.push_back({r.after.design, r.after.chip, r.after.name,
                      r.before.latency_us > 0.0 ? fmt::format("{:.3f}", r.before.latency_us) : "–",
                      r.after.latency_us > 0.0 ? fmt::format("{:.3f}", r.after.latency_us) : "–",
                      compared ? fmt::format("{:+.2f} %", 100.0 * r.change()) : "–", status_text(r),
                      compared && stands_out(r) ? r.moved() : r.reason});
  }
  return t;
}

Json gate_json(const kn::GateResult& g) {
  Json rows = Json::array();
  for (const kn::GateRow& r : g.rows) {
    Json row{{"design", r.after.design},
             {"chip", r.after.chip},
             {"case", r.after.name},
             {"shape", r.after.shape},
             {"status", kn::to_string(r.status)}};
    if (r.before.latency_us > 0.0) {
      row["before_us"] = r.before.latency_us;
      row["before_parts_us"] = parts_json(r.before.parts_us, 1.0);
    }
    if (r.after.latency_us > 0.0) {
      row["latency_us"] = r.after.latency_us;
      row["parts_us"] = parts_json(r.after.parts_us, 1.0);
    }
    if (r.before.latency_us > 0.0 && r.after.latency_us > 0.0) row["change"] = r.change();
    if (!r.reason.empty()) row["reason"] = r.reason;
    rows.push_back(std::move(row));
  }
  Json verification = Json::array();
  for (const kn::VerifyRow& r : g.verification) verification.push_back(verify_json(r));
  return {{"ok", g.ok()},
          {"tolerance", g.tolerance},
          {"compared", g.compared()},
          {"rows", rows},
          {"verification", verification}};
}

void print_gate(std::ostream& out, const kn::GateResult& g) {
  const Table changes = gate_table(g.rows, false);
  // Against an empty baseline all are new.
  if (!changes.rows.empty() && g.compared() > 0) out << to_text(changes) << "\n";
  print_reasons(out, g.verification);
  const auto failed = std::count_if(g.verification.begin(), g.verification.end(),
                                    [](const kn::VerifyRow& r) { return !r.passed(); });
  out << fmt::format(
      "{} cases verified, {} failed; {} times compared at {:.3g} %: {} slower, {} faster; {} new, "
      "{} gone, {} of another shape, {} refused\n",
      g.verification.size(), failed, g.compared(), 100.0 * g.tolerance,
      g.count(kn::GateStatus::kSlower), g.count(kn::GateStatus::kFaster),
      g.count(kn::GateStatus::kNew), g.count(kn::GateStatus::kGone),
      g.count(kn::GateStatus::kReshaped), g.count(kn::GateStatus::kRefused));
}

}  // namespace

base::ExitCode kernel_list(const Context& context) {
  Table t;
  t.columns = {{"design"}, {"kernel"}, {"families"}, {"title"}};
  Json json = Json::array();
  for (const std::string& name : hwmodels::list_configs(context.configs, "designs")) {
    const DesignFile d = hwmodels::load_design(name, context.configs);
    t.rows.push_back({d.name, std::string(d.kernel()), joined(d.families), d.title});
    json.push_back({{"design", d.name},
                    {"kernel", d.kernel()},
                    {"families", d.families},
                    {"title", d.title},
                    {"source", d.source}});
  }
  switch (context.format) {
    case Format::kJson:
      context.out << json.dump(2) << "\n";
      break;
    case Format::kCsv:
      context.out << to_csv(t);
      break;
    case Format::kTable:
      context.out << to_text(t);
      break;
  }
  return base::ExitCode::kOk;
}

base::ExitCode kernel_run(const Context& context, const KernelRunOptions& o) {
  const DesignFile design = kn::find_design(o.design, context.configs);
  const kn::KernelChip chip = kn::load_kernel_chip(o.chip, context.configs);
  if (!kn::is_for(design, chip)) {
    context.err << fmt::format("note: {} is written for {}; {} is of family {}\n", design.name,
                               joined(design.families), chip.name, chip.family);
  }
  const std::vector<kn::TimingCase> cases = kn::timing_cases(design, chip.rates);
  const kn::TimingCase& base_case = chosen_case(cases, o, chip, design);
  const kn::Shape shape = kn::with_settings(base_case.shape, o.shape);
  const kn::KernelTiming timing =
      kn::time_kernel(design, shape, chip,
                      {.simulate = o.simulate, .spans = !o.timeline.empty(), .steps = o.steps});
  const Timed timed{design,           chip,       o.shape.empty() ? base_case.name : std::string(),
                    to_string(shape), o.simulate, timing};
  if (!o.timeline.empty()) {
    base::write_file(o.timeline, kn::timeline_json(timing, fmt::format("{} on {}, {}", design.name,
                                                                       chip.name, timed.shape)));
    context.err << fmt::format("wrote {}\n", o.timeline);
  }
  switch (context.format) {
    case Format::kJson:
      context.out << timed_json(timed).dump(2) << "\n";
      break;
    case Format::kCsv:
      if (o.steps) {
        Table steps;
        for (const kn::LaunchTiming& l : timing.launches) add_step_rows(l, steps);
        context.out << to_csv(steps);
      } else {
        context.out << to_csv(timed_csv(timed));
      }
      break;
    case Format::kTable:
      print_timed(context.out, timed);
      break;
  }
  return base::ExitCode::kOk;
}

base::ExitCode kernel_verify(const Context& context, const KernelVerifyOptions& o) {
  const std::vector<std::string> names =
      o.designs.empty() ? hwmodels::list_configs(context.configs, "designs") : o.designs;
  if (!o.pair.empty() && o.designs.size() != 1) {
    throw base::UsageError("--pair: give exactly one design to compare with it");
  }
  std::vector<DesignFile> designs;
  designs.reserve(names.size());
  for (const std::string& name : names) designs.push_back(kn::find_design(name, context.configs));
  if (!o.chip.empty()) (void)kn::load_kernel_chip(o.chip, context.configs);  // a known name
  const std::vector<kn::KernelChip> chips = kn::load_kernel_chips(context.configs);
  if (!o.pair.empty()) {
    const DesignFile second = kn::find_design(o.pair, context.configs);
    return verify_pair(context,
                       {&designs.front(), chips_for(designs.front(), chips, o.chip).front()},
                       {&second, chips_for(second, chips, o.chip).front()});
  }
  require_distinct(designs);
  std::vector<kn::Subject> subjects;
  for (const DesignFile& d : designs) {
    for (const kn::KernelChip* c : chips_for(d, chips, o.chip)) subjects.push_back({&d, c});
  }
  const std::vector<kn::VerifyRow> rows = kn::verify(subjects);
  const bool ok = !rows.empty() && std::all_of(rows.begin(), rows.end(),
                                               [](const kn::VerifyRow& r) { return r.passed(); });
  switch (context.format) {
    case Format::kJson: {
      Json json = Json::array();
      for (const kn::VerifyRow& r : rows) json.push_back(verify_json(r));
      context.out << Json{{"passed", ok}, {"rows", json}}.dump(2) << "\n";
      break;
    }
    case Format::kCsv:
      context.out << to_csv(verify_table(rows));
      break;
    case Format::kTable:
      context.out << to_text(verify_table(rows));
      print_reasons(context.out, rows);
      break;
  }
  return ok ? base::ExitCode::kOk : base::ExitCode::kGateFailed;
}

base::ExitCode kernel_check(const Context& context, const KernelCheckOptions& o) {
  std::vector<DesignFile> designs;
  kn::GateScope scope{.all_designs = false, .chips = o.chips};
  for (const std::string& what : o.designs) {
    std::error_code error;
    if (fs::is_directory(what, error)) {
      scope.all_designs = true;
      for (DesignFile& d : designs_of_folder(what)) designs.push_back(std::move(d));
    } else {
      designs.push_back(kn::find_design(what, context.configs));
    }
  }
  require_distinct(designs);
  for (const std::string& c : o.chips) (void)kn::load_kernel_chip(c, context.configs);
  std::error_code error;
  const bool fresh = o.update && !fs::exists(o.baseline, error);
  const kn::Baseline baseline = fresh ? kn::Baseline{} : kn::read_baseline(o.baseline);
  const kn::GateResult result =
      kn::check(designs, kn::load_kernel_chips(context.configs), baseline, scope, o.tolerance);
  switch (context.format) {
    case Format::kJson:
      context.out << gate_json(result).dump(2) << "\n";
      break;
    case Format::kCsv:
      context.out << to_csv(gate_table(result.rows, true));
      break;
    case Format::kTable:
      print_gate(context.out, result);
      break;
  }
  if (!o.update) {
    if (result.ok()) return base::ExitCode::kOk;
    if (result.compared() == 0) {
      context.err << fmt::format("nothing was compared: {} has no entry for these designs\n",
                                 o.baseline);
    }
    return base::ExitCode::kGateFailed;
  }
  if (!result.verified()) {
    context.err << fmt::format("{} is as it was: a design failed its verification\n", o.baseline);
    return base::ExitCode::kGateFailed;
  }
  base::write_file(o.baseline, kn::baseline_text(kn::updated(baseline, result)));
  context.err << fmt::format("wrote {}\n", o.baseline);
  return base::ExitCode::kOk;
}

}  // namespace foretoken::analysis::cli
