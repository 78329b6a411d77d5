#include "analysis/reports/sweep_json.h"

#include <nlohmann/json.hpp>

#include "analysis/version.h"
#include "sim/base/evidence.h"

namespace foretoken::analysis {

namespace w = workloads;
using Json = nlohmann::ordered_json;

namespace {

Json interval(const base::Interval& i) {
  return Json{{"low", i.low}, {"value", i.value}, {"high", i.high}};
}

base::Interval times(const base::Interval& i, double factor) {
  return {i.low * factor, i.value * factor, i.high * factor};
}

void add_counts(Json& out, const CurvePoint& c) {
  out["flops_per_token"] = c.flops;
  out["fp8_equivalent_flops_per_token"] = c.fp8_equivalent;
  out["kv_bytes_held"] = c.kv.total;
  out["kv_bytes_cache"] = c.kv.global + c.kv.window;
  out["kv_bytes_global"] = c.kv.global;
  out["kv_bytes_read_per_token"] = c.kv.read_per_token;
}

void add_decode(Json& out, const SweepPoint& p) {
  const DecodePoint& d = p.decode;
  const auto devices = static_cast<double>(d.plan.devices());
  const auto ranks = d.plan.dp * d.plan.pp;
  out["weight_bytes_per_device"] = d.memory.weights;
  out["max_batch_per_device"] = static_cast<double>(d.max_batch) / devices;
  out["batch_per_device"] = static_cast<double>(d.batch) / devices;
  out["batch_per_rank"] = d.batch / ranks;
  out["max_batch"] = d.max_batch;
  out["batch"] = d.batch;
  out["tpot_ms"] = interval(d.tpot_spread.around(d.tpot.value() * 1e3));
  out["step_ms"] = interval(d.step_spread.around(d.step_time.value() * 1e3));
  const Spread rate = d.tpot_spread.inverse();
  out["output_throughput"] = interval(rate.around(d.tokens_per_second()));
  out["tput_per_gpu"] = interval(rate.around(d.tokens_per_second_per_device()));
  out["tput_per_user"] = interval(rate.around(1.0 / d.tpot.value()));
  out["decode_bound"] = bound_name(d.step.bound());
  Json shares = Json::object();
  for (int b = 0; b < kBounds; ++b) {
    shares[std::string(bound_name(b))] = d.step.shares[static_cast<std::size_t>(b)];
  }
  out["decode_shares"] = shares;
  out["arithmetic_intensity_flops_per_byte"] = p.arithmetic_intensity;
  out["achieved_flops_per_s_per_device"] = p.achieved_flops;
}

void add_prefill(Json& out, const PrefillPoint& f) {
  out["prefill_plan"] = w::to_string(f.plan);
  out["prefill_devices"] = f.plan.devices();
  out["prefill_tput_per_gpu"] =
      interval(f.time_spread.inverse().around(f.tokens_per_second_per_device));
  out["prefill_ttft_ms"] = interval(f.time_spread.around(f.time.value() * 1e3));
  out["prefill_bound"] = bound_name(f.step.bound());
}

void add_costs(Json& out, const SweepPoint& p) {
  constexpr double kJoulesPerKwh = 3.6e6;
  const double per_mtok = 1e6 / kJoulesPerKwh;
  const bool prefill = p.prefill.status == PointStatus::kOk;
  const auto currency = [&](const TokenCosts& c, const std::string& name) {
    if (prefill) out["cost_" + name + "_per_mtok_input"] = interval(c.input);
    out["cost_" + name + "_per_mtok_cached_input"] = interval(c.cached_input);
    out["cost_" + name + "_per_mtok_output"] = interval(c.output);
  };
  currency(p.usd, "usd");
  currency(p.cny, "cny");
  if (prefill) {
    out["energy_j_per_token_input"] = interval(p.joules_per_input_token);
    out["energy_kwh_per_mtok_input"] = interval(times(p.joules_per_input_token, per_mtok));
  }
  out["energy_j_per_token_output"] = interval(p.joules_per_output_token);
  out["energy_kwh_per_mtok_output"] = interval(times(p.joules_per_output_token, per_mtok));
  out["usd_per_device_hour"] = interval(p.usd_per_device_hour);
  if (p.list_input_usd) out["list_price_usd_per_mtok_input"] = *p.list_input_usd;
  if (p.list_output_usd) out["list_price_usd_per_mtok_output"] = *p.list_output_usd;
  if (p.break_even_hour_usd) out["break_even_usd_per_device_hour"] = *p.break_even_hour_usd;
  if (p.break_even_utilisation) out["break_even_utilisation"] = *p.break_even_utilisation;
}

Json point_json(const SweepResult& r, const SweepPoint& p) {
  Json out;
  out["model"] = r.models[p.model].name;
  out["system"] = r.hardware[p.system].system.name;
  out["context"] = p.context;
  out["status"] = to_string(p.decode.status);
  if (!p.decode.reason.empty()) out["reason"] = p.decode.reason;
  out["precision"] = r.scenario.systems[p.system].precision;
  add_counts(out, p.counts);
  if (p.runs()) {
    out["plan"] = w::to_string(p.decode.plan);
    out["devices"] = p.decode.plan.devices();
    out["draft_tokens"] = p.speculation.draft_tokens;
    out["mean_acceptance_length"] = p.speculation.acceptance_length;
    add_decode(out, p);
  }
  out["prefill_status"] = to_string(p.prefill.status);
  if (p.prefill.status == PointStatus::kOk) {
    add_prefill(out, p.prefill);
  } else {
    out["prefill_reason"] = p.prefill.reason;
  }
  if (p.priced()) add_costs(out, p);
  if (!p.price_problem.empty()) out["price_problem"] = p.price_problem;
  out["basis"] = base::to_string(p.basis);
  return out;
}

Json system_json(const SweepResult& r, std::size_t index) {
  const hwmodels::Hardware& h = r.hardware[index];
  static constexpr std::array<std::string_view, 3> kStatus = {"shipping", "preliminary",
                                                              "placeholder"};
  Json peaks = Json::object();
  for (int i = 0; i < w::kDtypeCount; ++i) {
    const double peak = h.chip.matrix.peak[static_cast<std::size_t>(i)].value();
    if (peak > 0.0) peaks[std::string(w::kDtypeNames[static_cast<std::size_t>(i)])] = peak;
  }
  return Json{{"name", h.system.name},
              {"title", h.system.title},
              {"vendor", h.chip.vendor},
              {"chip", h.chip.name},
              {"chip_title", h.chip.title},
              {"devices", h.system.devices()},
              {"devices_per_package", h.system.devices_per_package},
              {"status", kStatus[static_cast<std::size_t>(h.chip.status)]},
              {"precision", r.scenario.systems[index].precision},
              {"precision_title", r.precision_titles[index]},
              {"hbm_capacity_bytes", h.chip.hbm().capacity.value()},
              {"hbm_bandwidth_bytes_per_s", h.chip.hbm().bandwidth.value()},
              {"basis", base::to_string(h.basis())},
              {"peak_flops_per_s", peaks}};
}

Json answer_json(const SweepResult& r, const Answer& a) {
  const SweepPoint& best = r.points[a.best];
  Json out{{"model", r.models[a.model].name},
           {"model_title", r.models[a.model].title},
           {"context", a.context},
           {"system", r.hardware[best.system].system.name},
           {"system_title", r.hardware[best.system].system.title},
           {"cost_usd_per_mtok_output", interval(best.usd.output)},
           {"certainty", a.certainty}};
  if (a.runner_up) {
    const SweepPoint& next = r.points[*a.runner_up];
    out["runner_up"] = r.hardware[next.system].system.name;
    out["runner_up_title"] = r.hardware[next.system].system.title;
    out["runner_up_cost_usd_per_mtok_output"] = interval(next.usd.output);
  }
  return out;
}

}  // namespace

std::string sweep_json(const SweepResult& r, const Sources& sources) {
  Json out;
  out["schema"] = "foretoken.context_sweep/1";
  out["scenario"] = r.scenario.name;
  out["title"] = r.scenario.title;
  out["version"] = kVersion;
  out["config_hash"] = r.config_hash;
  out["command"] = r.command;
  Json answers = Json::array();
  for (const Answer& a : r.answers) answers.push_back(answer_json(r, a));
  out["answer"] = Json{{"paragraph", r.paragraph}, {"rows", answers}};
  out["contexts"] = r.scenario.contexts;
  out["tpot_limit_ms"] = r.scenario.rules.tpot_limit.value() * 1e3;
  Json models = Json::array();
  for (std::size_t i = 0; i < r.models.size(); ++i) {
    models.push_back({{"name", r.models[i].name},
                      {"title", r.models[i].title},
                      {"parameters_total", r.parameters[i].total},
                      {"parameters_active", r.parameters[i].active},
                      {"max_position_embeddings", r.models[i].max_positions}});
  }
  out["models"] = models;
  Json systems = Json::array();
  for (std::size_t i = 0; i < r.hardware.size(); ++i) systems.push_back(system_json(r, i));
  out["systems"] = systems;
  Json curves = Json::array();
  for (const CurvePoint& c : r.curves) {
    Json row{{"model", r.models[c.model].name}, {"context", c.context}};
    add_counts(row, c);
    curves.push_back(std::move(row));
  }
  out["curves"] = curves;
  Json points = Json::array();
  for (const SweepPoint& p : r.points) points.push_back(point_json(r, p));
  out["points"] = points;
  Json list = Json::array();
  for (const ListPrice& p : r.list.prices) {
    Json row{{"model", p.model}, {"currency", p.currency}, {"input", p.input}};
    if (p.input_cache_hit > 0.0) row["input_cache_hit"] = p.input_cache_hit;
    row["output"] = p.output;
    row["note"] = p.note;
    list.push_back(std::move(row));
  }
  out["list_prices"] = list;
  out["assumptions"] = r.assumptions;
  Json used = Json::array();
  for (const std::string& id : r.source_ids) {
    const Source* s = sources.find(id);
    used.push_back({{"id", id},
                    {"title", s == nullptr ? "" : s->title},
                    {"where", s == nullptr ? "" : s->where}});
  }
  out["sources"] = used;
  return out.dump(1) + "\n";
}

}  // namespace foretoken::analysis
