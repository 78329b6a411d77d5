#include "analysis/reports/expert_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace foretoken::analysis {

namespace h = hwmodels;

namespace {

std::string waves_text(std::int64_t waves) {
  return waves == 0 ? "many" : fmt::format("{}", waves);
}

std::string interval(const base::Interval& i) {
  return fmt::format("{:.2f} ({:.2f}–{:.2f})", i.value, i.low, i.high);
}

std::string microseconds(double seconds) {
  const double us = seconds * 1e6;
  return us < 100.0 ? fmt::format("{:.1f}", us) : fmt::format("{:.0f}", us);
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string html_table(const Table& t) {
  std::string out = "<table><thead><tr>";
  for (const Column& c : t.columns) out += "<th>" + escaped(c.name) + "</th>";
  out += "</tr></thead><tbody>";
  for (const auto& row : t.rows) {
    out += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) {
      out += (t.columns[i].number ? "<td class=n>" : "<td>") + escaped(row[i]) + "</td>";
    }
    out += "</tr>";
  }
  return out + "</tbody></table>\n";
}

// Speed-ups over the ratio, infinitely many waves, no activation.
std::string theory_chart() {
  constexpr double kWidth = 640.0;
  constexpr double kHeight = 300.0;
  constexpr double kLeft = 50.0;
  constexpr double kBottom = 40.0;
  constexpr int kPoints = 120;
  const auto x = [&](double ratio) {
    return kLeft + (std::log2(ratio) + 4.0) / 8.0 * (kWidth - kLeft - 10.0);
  };
  const auto y = [&](double speedup) {
    return kHeight - kBottom - (speedup - 1.0) * (kHeight - kBottom - 15.0);
  };
  std::string out = fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=img aria-label=\"speed-up over the "
      "ratio of traffic to products\">",
      kWidth, kHeight);
  for (const double s : {1.0, 1.2, 1.4, 1.6, 1.8, 2.0}) {
    out += fmt::format(
        "<line x1={} x2={} y1={:.1f} y2={:.1f} class=g /><text x={} y={:.1f} "
        "text-anchor=end>{:.1f}</text>",
        kLeft, kWidth - 10.0, y(s), y(s), kLeft - 6.0, y(s) + 4.0, s);
  }
  for (int p = -4; p <= 4; p += 2) {
    const double ratio = std::exp2(p);
    out += fmt::format("<text x={:.1f} y={} text-anchor=middle>{}</text>", x(ratio),
                       kHeight - kBottom + 18.0, ratio);
  }
  const auto line = [&](const char* colour, auto&& speedup) {
    std::string points;
    for (int i = 0; i <= kPoints; ++i) {
      const double ratio = std::exp2(-4.0 + 8.0 * i / kPoints);
      points += fmt::format("{:.1f},{:.1f} ", x(ratio), y(speedup(overlap_times({ratio, 0.0, 0}))));
    }
    out += fmt::format("<polyline points=\"{}\" fill=none stroke={} stroke-width=2 />", points,
                       colour);
  };
  line("#0b6", [](const OverlapTimes& t) { return t.waves_speedup(); });
  line("#07c", [](const OverlapTimes& t) { return t.pairwise_speedup(); });
  out += fmt::format(
      "<text x={} y=14 fill=#0b6>waves</text><text x={} y=14 "
      "fill=#07c>pairwise</text><text x={} y={} text-anchor=middle>traffic / "
      "products</text></svg>\n",
      kWidth - 140.0, kWidth - 80.0, kWidth / 2.0, kHeight - 4.0);
  return out;
}

std::string theory_text(const ExpertStudyResult& r) {
  return fmt::format(
      "A pair of token and expert is 6 h d FLOPs and 3 h bytes: a byte per second hides 2 d "
      "FLOP/s. "
      "Separate kernels take the sum of traffic and products; waves take the larger of both, so "
      "that a speed-up of {:.2f} without activation needs traffic of {:.2f} of the products' time. "
      "Pairwise overlap then gives 1.50 at any ratio from 0.5 to 2, not {:.2f}: both figures hold "
      "together only with something that neither hides, and the table below says how much.",
      r.study.waves_target, r.study.waves_target - 1.0, r.study.pairwise_target);
}

}  // namespace

Table overlap_table(const ExpertStudyResult& r) {
  Table t;
  t.columns = {{"traffic / products", true},
               {"activation", true},
               {"waves", true},
               {"pairwise", true},
               {"in waves", true}};
  for (const OverlapPoint& p : r.theory) {
    t.rows.push_back({fmt::format("{:.3g}", p.at.ratio), fmt::format("{:.2f}", p.at.activation),
                      waves_text(p.at.waves), fmt::format("{:.2f}", p.times.pairwise_speedup()),
                      fmt::format("{:.2f}", p.times.waves_speedup())});
  }
  return t;
}

Table solution_table(const ExpertStudyResult& r) {
  Table t;
  t.columns = {{"waves", true},      {"traffic / products", true}, {"FLOP per byte", true},
               {"activation", true}, {"in waves", true},           {"pairwise", true}};
  for (const OverlapSolution& s : r.solutions) {
    t.rows.push_back(
        {waves_text(s.at.waves), fmt::format("{:.3f}", s.at.ratio),
         fmt::format("{:.0f}", s.flops_per_byte), fmt::format("{:.3f}", s.at.activation),
         fmt::format("{:.2f}", s.waves_speedup), fmt::format("{:.2f}", s.pairwise_speedup)});
  }
  return t;
}

Table hardware_table(const ExpertStudyResult& r) {
  Table t;
  t.columns = {{"system", false},
               {"FLOP per byte at peak", true},
               {fmt::format("traffic / products, {}", r.study.theory_model), true},
               {"pairwise", true},
               {"in waves", true}};
  for (const HardwareRatio& one : r.hardware) {
    t.rows.push_back({one.system, fmt::format("{:.0f}", one.flops_per_byte),
                      fmt::format("{:.2f}", one.ratio),
                      fmt::format("{:.2f}", one.times.pairwise_speedup()),
                      fmt::format("{:.2f}", one.times.waves_speedup())});
  }
  return t;
}

Table speedup_table(const ExpertStudyResult& r) {
  Table t;
  t.columns = {{"model", false},        {"system", false},         {"EP", true},
               {"tokens a rank", true}, {"waves us", true},        {"separate us", true},
               {"speed-up", true},      {"published", true},       {"pairwise", true},
               {"two batches", true},   {"over low latency", true}};
  for (const SpeedupPoint& p : r.practice) {
    const double base = p.normal.seconds;
    t.rows.push_back({p.model, p.system, fmt::format("{}", p.ranks), fmt::format("{}", p.tokens),
                      microseconds(p.fused.seconds), microseconds(base), interval(p.speedup),
                      p.published > 0.0 ? fmt::format("{:.2f}", p.published) : "–",
                      fmt::format("{:.2f}", base / p.pairwise.seconds),
                      fmt::format("{:.2f}", base / p.two_batch.seconds),
                      fmt::format("{:.2f}", p.low_latency.seconds / p.fused.seconds)});
  }
  return t;
}

Table breakdown_table(const ExpertStudyResult& r) {
  Table t;
  t.columns = {{"model", false},    {"system", false}, {"EP", true},       {"tokens", true},
               {"form", false},     {"us", true},      {"launch", true},   {"prepare", true},
               {"handshake", true}, {"order", true},   {"products", true}, {"traffic", true},
               {"tiles", true},     {"reduce", true},  {"bound", false},   {"waves", true}};
  for (const SpeedupPoint& p : r.practice) {
    const auto add = [&](const char* form, const h::ExpertTime& e) {
      t.rows.push_back({p.model, p.system, fmt::format("{}", p.ranks), fmt::format("{}", p.tokens),
                        form, microseconds(e.seconds), microseconds(e.launch),
                        microseconds(e.prepare), microseconds(e.handshake),
                        microseconds(e.order + e.host), microseconds(e.compute),
                        microseconds(e.traffic), microseconds(e.tiles), microseconds(e.reduce),
                        e.bound.empty() ? "–" : std::string(e.bound), fmt::format("{}", e.waves)});
    };
    add("waves", p.fused);
    add("separate", p.normal);
  }
  return t;
}

std::string expert_csv(const ExpertStudyResult& r) {
  Table t;
  t.columns = {{"part", false},
               {"model", false},
               {"system", false},
               {"ranks", true},
               {"tokens", true},
               {"ratio", true},
               {"activation", true},
               {"waves", true},
               {"waves_us", true},
               {"waves_us_low", true},
               {"waves_us_high", true},
               {"separate_us", true},
               {"low_latency_us", true},
               {"two_batch_us", true},
               {"pairwise_us", true},
               {"speedup", true},
               {"speedup_low", true},
               {"speedup_high", true},
               {"pairwise_speedup", true},
               {"published", true}};
  const auto number = [](double x) { return fmt::format("{:.9g}", x); };
  for (const OverlapPoint& p : r.theory) {
    t.rows.push_back({"theory",
                      r.study.theory_model,
                      "",
                      "",
                      "",
                      number(p.at.ratio),
                      number(p.at.activation),
                      fmt::format("{}", p.at.waves),
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      "",
                      number(p.times.waves_speedup()),
                      "",
                      "",
                      number(p.times.pairwise_speedup()),
                      ""});
  }
  for (const SpeedupPoint& p : r.practice) {
    t.rows.push_back({"practice",
                      p.model,
                      p.system,
                      fmt::format("{}", p.ranks),
                      fmt::format("{}", p.tokens),
                      "",
                      "",
                      fmt::format("{}", p.fused.waves),
                      number(p.fused.seconds * 1e6),
                      number(p.fused_seconds.low * 1e6),
                      number(p.fused_seconds.high * 1e6),
                      number(p.normal.seconds * 1e6),
                      number(p.low_latency.seconds * 1e6),
                      number(p.two_batch.seconds * 1e6),
                      number(p.pairwise.seconds * 1e6),
                      number(p.speedup.value),
                      number(p.speedup.low),
                      number(p.speedup.high),
                      number(p.normal.seconds / p.pairwise.seconds),
                      p.published > 0.0 ? number(p.published) : ""});
  }
  return to_csv(t);
}

std::string expert_json(const ExpertStudyResult& r) {
  using nlohmann::ordered_json;
  ordered_json out;
  out["name"] = r.study.name;
  out["title"] = r.study.title;
  out["command"] = r.command;
  out["theory"] = ordered_json::array();
  for (const OverlapPoint& p : r.theory) {
    out["theory"].push_back({{"ratio", p.at.ratio},
                             {"activation", p.at.activation},
                             {"waves", p.at.waves},
                             {"waves_speedup", p.times.waves_speedup()},
                             {"pairwise_speedup", p.times.pairwise_speedup()}});
  }
  out["solutions"] = ordered_json::array();
  for (const OverlapSolution& s : r.solutions) {
    out["solutions"].push_back({{"waves", s.at.waves},
                                {"ratio", s.at.ratio},
                                {"flops_per_byte", s.flops_per_byte},
                                {"activation", s.at.activation},
                                {"waves_speedup", s.waves_speedup},
                                {"pairwise_speedup", s.pairwise_speedup}});
  }
  out["hardware"] = ordered_json::array();
  for (const HardwareRatio& one : r.hardware) {
    out["hardware"].push_back({{"system", one.system},
                               {"flops_per_byte", one.flops_per_byte},
                               {"ratio", one.ratio},
                               {"waves_speedup", one.times.waves_speedup()},
                               {"pairwise_speedup", one.times.pairwise_speedup()}});
  }
  out["practice"] = ordered_json::array();
  const auto parts = [](const h::ExpertTime& e) {
    return ordered_json{{"latency_us", e.seconds * 1e6},
                        {"launch_us", e.launch * 1e6},
                        {"prepare_us", e.prepare * 1e6},
                        {"handshake_us", e.handshake * 1e6},
                        {"host_us", e.host * 1e6},
                        {"order_us", e.order * 1e6},
                        {"products_us", e.compute * 1e6},
                        {"traffic_us", e.traffic * 1e6},
                        {"tiles_us", e.tiles * 1e6},
                        {"reduce_us", e.reduce * 1e6},
                        {"links_busy_us", e.link * 1e6},
                        {"bound", std::string(e.bound)},
                        {"waves", e.waves},
                        {"experts_per_wave", e.experts_per_wave},
                        {"tile_tokens", e.tile_tokens}};
  };
  for (const SpeedupPoint& p : r.practice) {
    ordered_json one = {{"model", p.model},
                        {"system", p.system},
                        {"ranks", p.ranks},
                        {"tokens_per_rank", p.tokens},
                        {"speedup", p.speedup.value},
                        {"speedup_low", p.speedup.low},
                        {"speedup_high", p.speedup.high}};
    if (p.published > 0.0) one["published"] = p.published;
    one["waves"] = parts(p.fused);
    one["separate"] = parts(p.normal);
    one["low_latency"] = parts(p.low_latency);
    one["two_batch"] = parts(p.two_batch);
    one["pairwise"] = parts(p.pairwise);
    out["practice"].push_back(std::move(one));
  }
  return out.dump(1) + "\n";
}

std::string expert_markdown(const ExpertStudyResult& r) {
  std::string out = fmt::format("# {}\n\n    {}\n\n## Speed-up over separate kernels\n\n",
                                r.study.title, r.command);
  out += to_markdown(speedup_table(r));
  out +=
      "\nSeparate kernels: dispatch with an exchange of counts, ordering, both products, SwiGLU, "
      "combine, all on the device. Speed-up: its interval is from the ranges of all constants and "
      "from how far the model was off where it was measured.\n"
      "\n## Where the time goes, us\n\n";
  out += to_markdown(breakdown_table(r));
  out += "\n## Theory\n\n" + theory_text(r) + "\n\n" + to_markdown(solution_table(r)) + "\n" +
         to_markdown(hardware_table(r)) + "\n" + to_markdown(overlap_table(r));
  return out;
}

std::string expert_html(const ExpertStudyResult& r) {
  std::string out = fmt::format(
      "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
      "content=\"width=device-width\"><title>{0}</title><style>body{{font:15px/1.5 "
      "system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}}table{{"
      "border-collapse:collapse;margin:1rem 0;font-size:13px}}th,td{{padding:.2rem .6rem;border-"
      "bottom:1px solid #ddd;text-align:left}}.n{{text-align:right;font-variant-numeric:tabular-"
      "nums}}svg{{max-width:640px}}.g{{stroke:#ddd}}text{{font-size:12px}}</style><h1>{0}</h1>"
      "<p><code>{1}</code></p>\n<h2>Speed-up over separate kernels</h2>\n",
      escaped(r.study.title), escaped(r.command));
  out += html_table(speedup_table(r));
  out += "<h2>Theory</h2><p>" + escaped(theory_text(r)) + "</p>\n" + theory_chart();
  out += html_table(solution_table(r)) + html_table(hardware_table(r));
  out += "<h2>Where the time goes, us</h2>\n" + html_table(breakdown_table(r));
  out += "<h2>All ratios</h2>\n" + html_table(overlap_table(r));
  return out + "</html>\n";
}

}  // namespace foretoken::analysis
