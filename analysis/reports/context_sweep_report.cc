#include "analysis/reports/context_sweep_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/version.h"
#include "sim/base/quantity.h"

namespace foretoken::analysis {

namespace w = workloads;
using base::UnitKind;

namespace {

constexpr std::string_view kNone = "–";

// Three significant digits without an exponent, thousands separated: 18,400; 27.8; 0.00412.
std::string number(double v) {
  if (!(v > 0.0)) return v == 0.0 ? "0" : fmt::format("{:.3g}", v);
  if (v >= 1000.0) {
    const double digits = std::pow(10.0, std::floor(std::log10(v)) - 2.0);
    std::string text = fmt::format("{:.0f}", std::round(v / digits) * digits);
    for (std::ptrdiff_t i = static_cast<std::ptrdiff_t>(text.size()) - 3; i > 0; i -= 3) {
      text.insert(static_cast<std::size_t>(i), ",");
    }
    return text;
  }
  const int decimals = std::max(0, 2 - static_cast<int>(std::floor(std::log10(v))));
  return fmt::format("{:.{}f}", v, std::min(decimals, 12));
}

// kWh per million tokens from J per token.
base::Interval kwh_per_mtok(const base::Interval& joules) {
  constexpr double kFactor = 1e6 / 3.6e6;
  return {joules.low * kFactor, joules.value * kFactor, joules.high * kFactor};
}

std::string range(const base::Interval& i) {
  return fmt::format("{} ({}–{})", number(i.value), number(i.low), number(i.high));
}

std::string quantity(double v, UnitKind kind) { return base::format_quantity(v, kind); }

}  // namespace

Table answer_table(const SweepResult& r) {
  Table t;
  t.columns = {{"model"},           {"context", true},
               {"cheapest system"}, {"USD / M output tokens", true},
               {"runner-up"},       {"USD / M output tokens", true},
               {"how sure"}};
  for (const Answer& a : r.answers) {
    const SweepPoint& best = r.points[a.best];
    std::vector<std::string> row = {r.models[a.model].title, base::format_count(a.context),
                                    r.hardware[best.system].system.title, range(best.usd.output)};
    if (a.runner_up) {
      const SweepPoint& next = r.points[*a.runner_up];
      row.push_back(r.hardware[next.system].system.title);
      row.push_back(range(next.usd.output));
    } else {
      row.emplace_back(kNone);
      row.emplace_back(kNone);
    }
    row.push_back(a.certainty);
    t.rows.push_back(std::move(row));
  }
  return t;
}

Table count_table(const SweepResult& r) {
  Table t;
  t.columns = {{"model"},
               {"context", true},
               {"GFLOP / token", true},
               {"FP8-equivalent GFLOP / token", true},
               {"KV held", true},
               {"KV read / token", true}};
  for (const CurvePoint& c : r.curves) {
    const auto& contexts = r.scenario.contexts;
    if (std::find(contexts.begin(), contexts.end(), c.context) == contexts.end()) continue;
    t.rows.push_back({r.models[c.model].title, base::format_count(c.context),
                      fmt::format("{:.2f}", static_cast<double>(c.flops) * 1e-9),
                      fmt::format("{:.2f}", c.fp8_equivalent * 1e-9),
                      quantity(static_cast<double>(c.kv.total), UnitKind::kBytes),
                      quantity(static_cast<double>(c.kv.read_per_token), UnitKind::kBytes)});
  }
  return t;
}

Table list_price_table(const SweepResult& r) {
  Table t;
  t.columns = {{"model"},
               {"system"},
               {"context", true},
               {"$/M in: modelled", true},
               {"list", true},
               {"$/M out: modelled", true},
               {"list", true},
               {"$/device-hour: modelled", true},
               {"break-even", true},
               {"utilisation to break even", true}};
  for (const SweepPoint& p : r.points) {
    if (!p.priced() || !p.list_output_usd || !p.break_even_hour_usd) continue;
    const bool prefill = p.prefill.status == PointStatus::kOk;
    t.rows.push_back({r.models[p.model].title, r.hardware[p.system].system.title,
                      base::format_count(p.context),
                      prefill ? number(p.usd.input.value) : std::string(kNone),
                      p.list_input_usd ? number(*p.list_input_usd) : std::string(kNone),
                      number(p.usd.output.value), number(*p.list_output_usd),
                      number(p.usd_per_device_hour.value), number(*p.break_even_hour_usd),
                      fmt::format("{:.1f} %", 100.0 * p.break_even_utilisation.value_or(0.0))});
  }
  return t;
}

Table point_table(const SweepResult& r) {
  Table t;
  t.columns = {{"model"},
               {"system"},
               {"context", true},
               {"plan"},
               {"batch/max", true},
               {"TPOT ms", true},
               {"tok/s/device", true},
               {"tok/s/user", true},
               {"prefill tok/s/device", true},
               {"$/M in", true},
               {"$/M cached", true},
               {"$/M out", true},
               {"J/tok out", true},
               {"bound"},
               {"prefill bound"},
               {"status"}};
  for (const SweepPoint& p : r.points) {
    std::vector<std::string> row = {r.models[p.model].title, r.hardware[p.system].system.title,
                                    base::format_count(p.context)};
    const bool prefill = p.prefill.status == PointStatus::kOk;
    const auto cell = [&](bool present, auto&& make) {
      row.push_back(present ? make() : std::string(kNone));
    };
    cell(p.runs(), [&] { return w::to_string(p.decode.plan); });
    cell(p.runs(), [&] { return fmt::format("{}/{}", p.decode.batch, p.decode.max_batch); });
    cell(p.runs(), [&] { return number(p.decode.tpot.value() * 1e3); });
    cell(p.runs(), [&] { return number(p.decode.tokens_per_second_per_device()); });
    cell(p.runs(), [&] { return number(1.0 / p.decode.tpot.value()); });
    cell(prefill, [&] { return number(p.prefill.tokens_per_second_per_device); });
    cell(p.priced() && prefill, [&] { return number(p.usd.input.value); });
    cell(p.priced(), [&] { return number(p.usd.cached_input.value); });
    cell(p.priced(), [&] { return number(p.usd.output.value); });
    cell(p.priced(), [&] { return number(p.joules_per_output_token.value); });
    cell(p.runs(), [&] { return std::string(bound_name(p.decode.step.bound())); });
    cell(prefill, [&] { return std::string(bound_name(p.prefill.step.bound())); });
    row.emplace_back(to_string(p.decode.status));
    t.rows.push_back(std::move(row));
  }
  return t;
}

std::string sweep_csv(const SweepResult& r) {
  Table t;
  for (const SweepPoint& p : r.points) {
    std::vector<std::string> row;
    const bool header = t.columns.empty();
    const auto put = [&](const std::string& name, const std::string& value) {
      if (header) t.columns.push_back({name});
      row.push_back(value);
    };
    const auto real = [&](const std::string& name, bool present, double value) {
      put(name, present ? fmt::format("{}", value) : "");
    };
    const auto interval = [&](const std::string& name, bool present, const base::Interval& i) {
      real(name, present, i.value);
      real(name + "_low", present, i.low);
      real(name + "_high", present, i.high);
    };
    const DecodePoint& d = p.decode;
    const bool runs = p.runs();
    const bool prefill = p.prefill.status == PointStatus::kOk;
    const double ms = 1e3;
    put("model", r.models[p.model].name);
    put("system", r.hardware[p.system].system.name);
    put("context", fmt::format("{}", p.context));
    put("status", std::string(to_string(d.status)));
    put("reason", d.reason);
    put("precision", r.scenario.systems[p.system].precision);
    put("flops_per_token", fmt::format("{}", p.counts.flops));
    real("fp8_equivalent_flops_per_token", true, p.counts.fp8_equivalent);
    put("kv_bytes_held", fmt::format("{}", p.counts.kv.total));
    put("kv_bytes_global", fmt::format("{}", p.counts.kv.global));
    put("kv_bytes_read_per_token", fmt::format("{}", p.counts.kv.read_per_token));
    put("plan", runs ? w::to_string(d.plan) : "");
    put("devices", runs ? fmt::format("{}", d.plan.devices()) : "");
    put("draft_tokens", runs ? fmt::format("{}", p.speculation.draft_tokens) : "");
    real("mean_acceptance_length", runs, p.speculation.acceptance_length);
    real("weight_bytes_per_device", runs, d.memory.weights);
    real("max_batch_per_device", runs,
         static_cast<double>(d.max_batch) / static_cast<double>(d.plan.devices()));
    real("batch_per_device", runs,
         static_cast<double>(d.batch) / static_cast<double>(d.plan.devices()));
    put("batch_per_rank", runs ? fmt::format("{}", d.batch / (d.plan.dp * d.plan.pp)) : "");
    put("max_batch", runs ? fmt::format("{}", d.max_batch) : "");
    put("batch", runs ? fmt::format("{}", d.batch) : "");
    interval("tpot_ms", runs, d.tpot_spread.around(d.tpot.value() * ms));
    interval("step_ms", runs, d.step_spread.around(d.step_time.value() * ms));
    const Spread rate = d.tpot_spread.inverse();
    interval("output_throughput", runs, rate.around(runs ? d.tokens_per_second() : 1.0));
    interval("tput_per_gpu", runs, rate.around(runs ? d.tokens_per_second_per_device() : 1.0));
    interval("tput_per_user", runs, rate.around(runs ? 1.0 / d.tpot.value() : 1.0));
    put("prefill_status", std::string(to_string(p.prefill.status)));
    put("prefill_reason", p.prefill.reason);
    put("prefill_devices", prefill ? fmt::format("{}", p.prefill.plan.devices()) : "");
    put("prefill_plan", prefill ? w::to_string(p.prefill.plan) : "");
    interval("prefill_tput_per_gpu", prefill,
             p.prefill.time_spread.inverse().around(p.prefill.tokens_per_second_per_device));
    interval("prefill_ttft_ms", prefill, p.prefill.time_spread.around(p.prefill.time.value() * ms));
    for (int b = 0; b < kBounds; ++b) {
      real(fmt::format("decode_share_{}", bound_name(b)), runs,
           d.step.shares[static_cast<std::size_t>(b)]);
    }
    put("decode_bound", runs ? std::string(bound_name(d.step.bound())) : "");
    put("prefill_bound", prefill ? std::string(bound_name(p.prefill.step.bound())) : "");
    real("arithmetic_intensity_flops_per_byte", runs, p.arithmetic_intensity);
    real("achieved_flops_per_s_per_device", runs, p.achieved_flops);
    interval("cost_usd_per_mtok_input", p.priced() && prefill, p.usd.input);
    interval("cost_usd_per_mtok_cached_input", p.priced(), p.usd.cached_input);
    interval("cost_usd_per_mtok_output", p.priced(), p.usd.output);
    interval("cost_cny_per_mtok_input", p.priced() && prefill, p.cny.input);
    interval("cost_cny_per_mtok_cached_input", p.priced(), p.cny.cached_input);
    interval("cost_cny_per_mtok_output", p.priced(), p.cny.output);
    interval("energy_j_per_token_input", p.priced() && prefill, p.joules_per_input_token);
    interval("energy_j_per_token_output", p.priced(), p.joules_per_output_token);
    interval("energy_kwh_per_mtok_input", p.priced() && prefill,
             kwh_per_mtok(p.joules_per_input_token));
    interval("energy_kwh_per_mtok_output", p.priced(), kwh_per_mtok(p.joules_per_output_token));
    put("price_problem", p.price_problem);
    interval("usd_per_device_hour", p.priced(), p.usd_per_device_hour);
    real("list_price_usd_per_mtok_input", p.priced() && p.list_input_usd.has_value(),
         p.list_input_usd.value_or(0.0));
    real("list_price_usd_per_mtok_output", p.priced() && p.list_output_usd.has_value(),
         p.list_output_usd.value_or(0.0));
    real("break_even_usd_per_device_hour", p.break_even_hour_usd.has_value(),
         p.break_even_hour_usd.value_or(0.0));
    real("break_even_utilisation", p.break_even_utilisation.has_value(),
         p.break_even_utilisation.value_or(0.0));
    put("basis", std::string(base::to_string(p.basis)));
    t.rows.push_back(std::move(row));
  }
  return to_csv(t);
}

std::string sweep_markdown(const SweepResult& r) {
  std::string out = fmt::format("# {}\n\n{}\n\n", r.scenario.title, r.paragraph);
  out += to_markdown(answer_table(r));
  out +=
      "\n*clear*: the first is cheaper with a probability of 95 % or more, what moves both alike "
      "cancelled; *likely*: 80 % or more; *open*: less; *only*: no other system serves this.\n\n## "
      "FLOPs and KV memory per token\n\n";
  out += to_markdown(count_table(r));
  const Table list = list_price_table(r);
  if (!list.rows.empty()) {
    out +=
        "\n## Beside the list prices\n\nOutput tokens at list price just pay for a device-hour at "
        "the "
        "break-even price, at the scenario's utilisation; at the modelled price they pay from the "
        "utilisation in the last column on.\n\n" +
        to_markdown(list);
  }
  out += "\n## Every point\n\n";
  out += to_markdown(point_table(r));
  bool first = true;
  for (const SweepPoint& p : r.points) {
    for (const std::string& why : {p.decode.reason, p.price_problem}) {
      if (why.empty()) continue;
      if (first) out += "\n## What does not run, and why\n\n";
      first = false;
      out += fmt::format("- {} on {} at {}: {}\n", r.models[p.model].title,
                         r.hardware[p.system].system.title, base::format_count(p.context), why);
    }
  }
  out += "\n## Assumptions\n\n";
  for (const std::string& a : r.assumptions) out += "- " + a + "\n";
  out += fmt::format("\nWritten by Foretoken {} with `{}`; configuration {}.\n", kVersion,
                     r.command, r.config_hash);
  return out;
}

}  // namespace foretoken::analysis
