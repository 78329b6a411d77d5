#include "analysis/context_sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "sim/base/config_print.h"
#include "sim/base/error.h"
#include "sim/base/named_config.h"
#include "sim/base/progress.h"
#include "sim/base/quantity.h"

namespace foretoken::analysis {

namespace fs = std::filesystem;
namespace w = workloads;

namespace {

constexpr double kSecondsPerHour = 3600.0;
constexpr double kHoursPerMonth = 730.0;
constexpr double kMillion = 1e6;

template <class T>
T load_yaml(const fs::path& configs, const char* folder, const std::string& name) {
  const fs::path path = configs / folder / (name + ".yaml");
  return base::load_config<T>(path);
}

struct Inputs {
  const Scenario& scenario;
  const HardwarePrices& prices;
  std::vector<hwmodels::Stack> stacks;  // [system]
  std::map<std::string, AcceptanceTable> acceptance;
  std::vector<w::Precision> precision;  // [system * models + model]
};

CurvePoint count_point(const w::ModelSpec& model, std::size_t index, std::int64_t context) {
  CurvePoint p;
  p.model = index;
  p.context = context;
  const w::FlopCount flops = w::count_decode(model, context);
  p.flops = flops.total();
  p.fp8_equivalent = w::weighted(flops, w::kFp8Equivalent);
  p.kv = w::count_kv(model, w::release_precision(model), context);
  return p;
}

// Price of `value` per hour spread over its own inputs' ranges.
template <class F>
Spread price_spread(double value, F&& with) {
  Spread spread;
  for (int i = 0; i < kPriceInputs; ++i) {
    for (const int side : {-1, 1}) {
      PriceTuning tuning{};
      tuning[static_cast<std::size_t>(i)] = side;
      spread.add(value, with(tuning));
    }
  }
  return spread;
}

// USD per million tokens when a device produces `tokens_per_second` in the hours that are sold.
double per_million(double usd_per_hour, double tokens_per_second, double utilisation) {
  return usd_per_hour / (kSecondsPerHour * tokens_per_second * utilisation) * kMillion;
}

base::Interval scaled(const base::Interval& i, double factor) {
  return {i.low * factor, i.value * factor, i.high * factor};
}

void price_point(SweepPoint& p, const Inputs& in, const w::ModelSpec& model,
                 const hwmodels::Hardware& hardware, const w::Precision& precision) {
  const Scenario& s = in.scenario;
  Spread utilisation;
  utilisation.add_relative(s.utilisation.value / s.utilisation.high,
                           s.utilisation.value / s.utilisation.low);
  const double load = load_factor(p.decode.step);
  const auto hour = [&](double at_load, const PriceTuning& tuning) {
    return hourly_price(in.prices, hardware, s.ownership, at_load, tuning);
  };
  const HourlyPrice decode_hour = hour(load, {});
  const double cny = decode_hour.cny_per_usd;
  const Spread hourly =
      price_spread(decode_hour.usd, [&](const PriceTuning& t) { return hour(load, t).usd; });
  const Spread power = price_spread(decode_hour.kilowatts,
                                    [&](const PriceTuning& t) { return hour(load, t).kilowatts; });
  p.usd_per_device_hour = hourly.around(decode_hour.usd);

  const double output_rate = p.decode.tokens_per_second_per_device();
  Spread output = hourly;
  output.merge(p.decode.tpot_spread);
  output.merge(utilisation);
  p.usd.output = output.around(per_million(decode_hour.usd, output_rate, s.utilisation.value));
  p.own_output_spread = p.decode.step_spread;
  for (const PriceInput input : {PriceInput::kHardware, PriceInput::kPower}) {
    for (const int side : {-1, 1}) {
      PriceTuning tuning{};
      tuning[static_cast<std::size_t>(input)] = side;
      p.own_output_spread.add(decode_hour.usd, hour(load, tuning).usd);
    }
  }
  Spread output_energy = power;
  output_energy.merge(p.decode.tpot_spread);
  p.joules_per_output_token = output_energy.around(decode_hour.kilowatts * 1e3 / output_rate);

  if (p.prefill.status == PointStatus::kOk) {
    const double prefill_load = load_factor(p.prefill.step);
    const HourlyPrice prefill_hour = hour(prefill_load, {});
    Spread input = price_spread(prefill_hour.usd,
                                [&](const PriceTuning& t) { return hour(prefill_load, t).usd; });
    input.merge(p.prefill.time_spread);
    input.merge(utilisation);
    const double input_rate = p.prefill.tokens_per_second_per_device;
    p.usd.input = input.around(per_million(prefill_hour.usd, input_rate, s.utilisation.value));
    Spread input_energy = power;
    input_energy.merge(p.prefill.time_spread);
    p.joules_per_input_token = input_energy.around(prefill_hour.kilowatts * 1e3 / input_rate);
  }

  // A cached token comes back over the host link, during which its device is charged in full, and
  // its bytes waited in host memory for the retention time.
  const w::KvBytes kv = w::count_kv(model, precision, p.context);
  const double bytes =
      static_cast<double>(kv.global + kv.window + kv.tail) / static_cast<double>(p.context);
  const hwmodels::Rates rates = hwmodels::derive_rates(hardware);
  const double move = per_million(decode_hour.usd, rates.host / bytes, s.utilisation.value);
  const auto storage = [&](double usd_per_gb_month) {
    return usd_per_gb_month * bytes * 1e-9 * (s.cache_retention.value() / kSecondsPerHour) /
           kHoursPerMonth * kMillion;
  };
  const base::Ranged& dram = in.prices.host_memory_usd_per_gb_month;
  const double cached = move + storage(dram.value);
  Spread cached_spread = hourly;
  cached_spread.merge(utilisation);
  cached_spread.add(cached, move + storage(dram.low));
  cached_spread.add(cached, move + storage(dram.high));
  p.usd.cached_input = cached_spread.around(cached);
  p.cny = {scaled(p.usd.input, cny), scaled(p.usd.cached_input, cny), scaled(p.usd.output, cny)};
  if (p.list_output_usd) {
    p.break_even_hour_usd =
        *p.list_output_usd / kMillion * output_rate * kSecondsPerHour * s.utilisation.value;
    p.break_even_utilisation = per_million(decode_hour.usd, output_rate, 1.0) / *p.list_output_usd;
  }
}

SweepPoint run_point(const Inputs& in, const SweepResult& r, std::size_t system_index,
                     std::size_t model_index, std::int64_t context) {
  const w::ModelSpec& model = r.models[model_index];
  const hwmodels::Hardware& hardware = r.hardware[system_index];
  SweepPoint p;
  p.model = model_index;
  p.system = system_index;
  p.context = context;
  p.counts = count_point(model, model_index, context);
  p.basis = hardware.basis();
  if (in.scenario.speculate) {
    const auto spec = in.scenario.speculation.find(in.scenario.models[model_index]);
    if (spec != in.scenario.speculation.end() && spec->second.draft_tokens > 0) {
      const AcceptanceTable& table = in.acceptance.at(spec->second.acceptance);
      p.speculation = speculation_from(table, spec->second.draft_tokens, model.name,
                                       in.scenario.borrowed_acceptance);
      p.basis = base::weakest(
          p.basis, table.model == model.name ? base::Basis::kCalibrated : base::Basis::kAssumed);
    }
  }
  for (const ListPrice& price : r.list.prices) {
    if (price.model == model.name && price.currency == "USD") {
      if (price.input > 0.0) p.list_input_usd = price.input;  // zero = not published
      if (price.output > 0.0) p.list_output_usd = price.output;
    }
  }
  const Subject subject{&model, &hardware, &in.stacks[system_index],
                        in.precision[system_index * r.models.size() + model_index]};
  // What a sequence keeps and reads here, in this system's formats.
  p.counts.kv = w::count_kv(model, subject.precision, context);
  p.decode = best_decode(subject, context, p.speculation, in.scenario.rules);
  p.prefill = best_prefill(subject, context, in.scenario.rules);
  if (!p.runs()) return p;

  const Deployment deployment{subject.model,     subject.hardware, subject.stack,
                              subject.precision, p.decode.plan,    p.speculation.draft_tokens > 0};
  StepEvaluator evaluator(deployment);
  const StepResult step =
      evaluator.estimate(decode_batch(p.decode.batch / p.decode.plan.pp, context, p.speculation));
  const w::WorkCount work = w::count_graph(evaluator.ops()).total();
  double flops = 0.0;
  for (std::size_t i = 0; i < work.flops.size(); ++i) {
    flops += w::kFp8Equivalent[i] * static_cast<double>(work.flops[i]);
  }
  const double memory_bytes = step.utilisation[static_cast<std::size_t>(hwmodels::Unit::kMemory)] *
                              step.time.value() * hwmodels::derive_rates(hardware).memory;
  p.arithmetic_intensity = flops / memory_bytes;
  p.achieved_flops = flops / p.decode.step_time.value();
  try {
    price_point(p, in, model, hardware, subject.precision);
  } catch (const base::UnsupportedError& error) {
    p.price_problem = error.what();
  }
  return p;
}

// How probable it is that `best` really is cheaper: the logarithm of the cost ratio against its
// spread, whose 90 % half-width is 1.645 standard deviations.
std::string certainty(const SweepPoint& best, const SweepPoint& next) {
  const double gap = std::log(next.usd.output.value / best.usd.output.value);
  const double half_width = std::hypot(best.own_output_spread.up(), next.own_output_spread.down());
  const double deviations = 1.645 * gap / half_width;
  if (deviations >= 1.645) return "clear";    // 95 %
  if (deviations >= 0.8416) return "likely";  // 80 %
  return "open";
}

void find_answers(SweepResult& r) {
  for (std::size_t m = 0; m < r.models.size(); ++m) {
    for (const std::int64_t context : r.scenario.contexts) {
      std::vector<std::size_t> able;
      for (std::size_t i = 0; i < r.points.size(); ++i) {
        const SweepPoint& p = r.points[i];
        if (p.model == m && p.context == context && p.priced() &&
            p.decode.status == PointStatus::kOk) {
          able.push_back(i);
        }
      }
      if (able.empty()) continue;
      std::stable_sort(able.begin(), able.end(), [&](std::size_t a, std::size_t b) {
        return r.points[a].usd.output.value < r.points[b].usd.output.value;
      });
      Answer a;
      a.model = m;
      a.context = context;
      a.best = able[0];
      a.certainty = "only";
      if (able.size() > 1) {
        a.runner_up = able[1];
        a.certainty = certainty(r.points[able[0]], r.points[able[1]]);
      }
      r.answers.push_back(a);
    }
  }
}

std::string dollars(double usd) { return fmt::format("${:.3g}", usd); }

// "V4-Pro is served cheapest by A from 8K to 256K ($0.14 to $0.25 per million output tokens) and by
// B at 1M ($0.70)." Neighbouring contexts with the same winner are one part.
std::string model_sentence(const SweepResult& r, std::size_t model) {
  struct Part {
    std::size_t system;
    const Answer* first;
    const Answer* last;
  };
  std::vector<Part> parts;
  for (const Answer& a : r.answers) {
    if (a.model != model) continue;
    const std::size_t system = r.points[a.best].system;
    if (parts.empty() || parts.back().system != system) {
      parts.push_back({system, &a, &a});
    } else {
      parts.back().last = &a;
    }
  }
  const std::string& title = r.models[model].title;
  if (parts.empty()) return fmt::format("No system here serves {} within the limit. ", title);
  const auto usd = [&](const Answer& a) { return dollars(r.points[a.best].usd.output.value); };
  std::string out = fmt::format("{} is served cheapest by ", title);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Part& p = parts[i];
    if (i > 0) out += i + 1 < parts.size() ? ", by " : " and by ";
    out += r.hardware[p.system].system.title;
    if (p.first == p.last) {
      out += fmt::format(" at {} ({}{})", base::format_count(p.first->context), usd(*p.first),
                         i == 0 ? " per million output tokens" : "");
    } else {
      out += fmt::format(" from {} to {} ({} to {}{})", base::format_count(p.first->context),
                         base::format_count(p.last->context), usd(*p.first), usd(*p.last),
                         i == 0 ? " per million output tokens" : "");
    }
  }
  return out + ". ";
}

std::string write_paragraph(const SweepResult& r) {
  if (r.answers.empty()) {
    return "No system of this scenario serves any of these models within the limit of " +
           base::format_quantity(r.scenario.rules.tpot_limit.value(), base::UnitKind::kSeconds) +
           " a token.";
  }
  std::string out;
  for (std::size_t m = 0; m < r.models.size(); ++m) out += model_sentence(r, m);
  int clear = 0;
  int likely = 0;
  int open = 0;
  for (const Answer& a : r.answers) {
    if (a.certainty == "clear") ++clear;
    if (a.certainty == "likely") ++likely;
    if (a.certainty == "open") ++open;
  }
  out += fmt::format(
      "Against the runner-up, {} of these {} answers {} clear (cheaper with a probability of 95 % "
      "or "
      "more), {} likely (80 % or more) and {} open.",
      clear, clear + likely + open, clear == 1 ? "is" : "are", likely, open);
  return out;
}

std::vector<std::string> list_assumptions(const SweepResult& r, const HardwarePrices& prices) {
  const Scenario& s = r.scenario;
  std::vector<std::string> out;
  out.push_back(fmt::format(
      "Decode points use the largest batch whose mean time per output token stays within {}; every "
      "sequence stands at the given context. Where nothing meets the limit, the lowest time is "
      "shown.",
      base::format_quantity(s.rules.tpot_limit.value(), base::UnitKind::kSeconds)));
  out.push_back(
      fmt::format("Prefill and decode run in separate pools; each uses the plan with the highest "
                  "throughput per "
                  "device among attention data parallelism with expert parallelism and tensor "
                  "parallelism of 1, "
                  "2, 4 and 8, within the scale-up domain and the whole system. {} of device "
                  "memory holds weights "
                  "and cache.",
                  fmt::format("{:.0f} %", 100.0 * s.rules.memory_share)));
  out.push_back(
      s.ownership == Ownership::kOwned
          ? fmt::format(
                "Hardware is owned: straight-line depreciation over {:g} years, {:g} % of the "
                "price a year for upkeep, electricity at {:g} USD/kWh and PUE {:g}; no "
                "interest, no margin. {:.0f} % of the hours in service are sold.",
                prices.life_years.value, 100.0 * prices.maintenance_per_year.value,
                prices.electricity_usd_per_kwh.value, prices.pue.value, 100.0 * s.utilisation.value)
          : fmt::format("Hardware is rented by the hour, power included; {:.0f} % of the hours are "
                        "sold.",
                        100.0 * s.utilisation.value));
  out.push_back(
      "Prices of Ascend 950 systems are assumptions: nobody has published any. Their ranges are "
      "wide "
      "and are part of the ranges shown.");
  if (s.speculate) {
    out.push_back(fmt::format(
        "Speculative decoding is on. Acceptance lengths were measured on V4-Pro; the other models "
        "borrow them with a factor of {:g} to {:g}.",
        s.borrowed_acceptance.low, s.borrowed_acceptance.high));
  }
  out.push_back(fmt::format(
      "Ranges are meant as 90 %: every constant and every price moved through its own range, taken "
      "as "
      "independent. Modelled times are multiplied by {:g} ({:g} to {:g}), the serving overhead "
      "found on "
      "end-to-end measurements; kernels are not yet validated class by class.",
      s.rules.serving_overhead.value, s.rules.serving_overhead.low, s.rules.serving_overhead.high));
  out.push_back(
      "V4.1-Flash keeps its Engram tables in host memory; its prefill runs the decoder half for "
      "the "
      "last 2,560 tokens of a prompt only. Engram's small norms and DSpark's input projection are "
      "not counted. V3.2 was trained to 160K positions; longer contexts are shown as in the V4 "
      "report.");
  out.push_back(
      fmt::format("Devices draw {:.0f} % of their all-in power when idle (assumed; chips alone 10 "
                  "to 20 % of TDP) and "
                  "the rest in proportion to how long a unit, memory or link is busy.",
                  100.0 * kIdlePowerShare));
  out.push_back(
      "A cached input token costs its way back over the host link and its place in host memory for "
      "the retention time.");
  return out;
}

void collect_sources(SweepResult& r, const Inputs& in) {
  std::set<std::string> ids = {in.prices.source, r.list.source};
  for (const hwmodels::Stack& stack : in.stacks) {
    ids.insert(stack.source);
    if (!stack.engine_source.empty()) ids.insert(stack.engine_source);
  }
  for (const hwmodels::Hardware& h : r.hardware) {
    ids.insert({h.chip.core_source, h.chip.core_bandwidth_source, h.chip.matrix.source,
                h.chip.vector.source, h.chip.host_source, h.chip.power_source, h.system.host_source,
                h.system.power_source, h.calibration.source});
    for (const auto& level : h.chip.memory) ids.insert(level.source);
    for (const auto& d : h.system.fabric) ids.insert(d.source);
    const auto price = in.prices.systems.find(h.system.name);
    if (price != in.prices.systems.end()) ids.insert(price->second.source);
  }
  for (const auto& [name, table] : in.acceptance) ids.insert(table.source);
  r.source_ids.assign(ids.begin(), ids.end());
}

std::vector<std::int64_t> curve_contexts(const Scenario& s) {
  // A linear sweep to the longest context, the scenario's own, and the published figure's 10^6.
  std::set<std::int64_t> contexts(s.contexts.begin(), s.contexts.end());
  const std::int64_t longest = *contexts.rbegin();
  for (std::int64_t i = 0; i < s.curve_points; ++i) {
    contexts.insert(std::max<std::int64_t>(1, longest * i / (s.curve_points - 1)));
  }
  if (longest >= 1'000'000) contexts.insert(1'000'000);
  return {contexts.begin(), contexts.end()};
}

}  // namespace

SweepResult run_context_sweep(const Scenario& scenario, const fs::path& configs) {
  SweepResult r;
  r.scenario = scenario;
  std::string resolved = base::print_config(scenario);
  const auto prices = load_yaml<HardwarePrices>(configs, "prices", scenario.hardware_prices);
  r.list = load_yaml<ListPrices>(configs, "prices", scenario.list_prices);
  Inputs in{scenario, prices, {}, {}, {}};
  resolved += base::print_config(prices) + base::print_config(r.list);
  for (const std::string& name : scenario.models) {
    r.models.push_back(w::load_model(name, configs));
    r.parameters.push_back(w::count_parameters(r.models.back()));
    resolved += w::fingerprint(r.models.back());
  }
  for (const ScenarioSystem& system : scenario.systems) {
    r.hardware.push_back(hwmodels::load_hardware(system.name, configs));
    in.stacks.push_back(
        hwmodels::load_stack(system.stack.empty() ? scenario.stack : system.stack, configs));
    const hwmodels::Stack& stack = in.stacks.back();
    for (const w::Role host : stack.host) resolved += fmt::format("{} ", static_cast<int>(host));
    for (const base::Ranged& loss : {stack.fp4_expert_rate, stack.waiting, stack.stage_host}) {
      resolved += fmt::format("{} {} {} ", loss.value, loss.low, loss.high);
    }
    const auto recipe =
        base::load_named<w::PrecisionRecipe>(configs / "precision" / (system.precision + ".yaml"));
    r.precision_titles.push_back(recipe.title);
    for (const w::ModelSpec& model : r.models) in.precision.push_back(w::resolve(recipe, model));
    const hwmodels::Hardware& h = r.hardware.back();
    resolved += base::print_config(h.system) + base::print_config(h.chip) +
                base::print_config(h.calibration) + base::print_config(recipe);
  }
  if (scenario.speculate) {
    for (const auto& [model, spec] : scenario.speculation) {
      auto table =
          base::load_named<AcceptanceTable>(configs / "specdec" / (spec.acceptance + ".yaml"));
      resolved += base::print_config(table);
      in.acceptance.emplace(spec.acceptance, std::move(table));
    }
  }
  r.config_hash = base::content_hash(resolved);

  for (std::size_t m = 0; m < r.models.size(); ++m) {
    for (const std::int64_t context : curve_contexts(scenario)) {
      r.curves.push_back(count_point(r.models[m], m, context));
    }
  }
  base::Progress progress(scenario.name,
                          r.models.size() * r.hardware.size() * scenario.contexts.size());
  for (std::size_t m = 0; m < r.models.size(); ++m) {
    for (std::size_t s = 0; s < r.hardware.size(); ++s) {
      for (const std::int64_t context : scenario.contexts) {
        r.points.push_back(run_point(in, r, s, m, context));
        progress.advance();
      }
    }
  }
  find_answers(r);
  r.paragraph = write_paragraph(r);
  r.assumptions = list_assumptions(r, prices);
  collect_sources(r, in);
  return r;
}

}  // namespace foretoken::analysis
