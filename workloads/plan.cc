#include "workloads/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "sim/base/error.h"
#include "sim/base/quantity.h"

namespace foretoken::workloads {

namespace {

constexpr std::array<std::string_view, 4> kOverlapNames = {"none", "shared", "waves", "pairwise"};
constexpr std::int64_t kMostRanks = 1'048'576;

template <std::size_t N>
std::size_t index_in(const std::array<std::string_view, N>& names, std::string_view key,
                     std::string_view text) {
  std::string known;
  for (std::size_t i = 0; i < N; ++i) {
    if (names[i] == text) return i;
    known += (i > 0 ? ", " : "") + std::string(names[i]);
  }
  throw base::UsageError(
      fmt::format("plan: '{}' is not a value of '{}'; known: {}", text, key, known));
}

}  // namespace

std::string to_string(const ParallelPlan& plan) {
  std::string out;
  const auto degree = [&](std::string_view name, std::int64_t n) {
    if (n > 1) out += fmt::format("{}{}{}", out.empty() ? "" : " ", name, n);
  };
  degree("TP", plan.tp);
  degree("DP", plan.dp);
  degree("CP", plan.cp);
  degree("PP", plan.pp);
  degree("EP", plan.ep);
  return out.empty() ? "single device" : out;
}

ParallelPlan parse_plan(std::string_view text) {
  ParallelPlan plan;
  bool ep_given = false;
  std::vector<std::string_view> seen;
  for (bool more = !text.empty(); more;) {
    const std::size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    more = comma != std::string_view::npos;
    text = more ? text.substr(comma + 1) : std::string_view();
    const std::size_t equals = item.find('=');
    if (equals == std::string_view::npos) {
      throw base::UsageError(fmt::format("plan: '{}' is not of the form key=value", item));
    }
    const std::string_view key = item.substr(0, equals);
    const std::string_view value = item.substr(equals + 1);
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      throw base::UsageError(fmt::format("plan: '{}' is given twice", key));
    }
    seen.push_back(key);
    if (key == "overlap") {
      plan.overlap = static_cast<Overlap>(index_in(kOverlapNames, key, value));
      continue;
    }
    if (key == "routing") {
      plan.routing = parse_routing(value);
      continue;
    }
    std::int64_t number = 0;
    try {
      number = base::parse_count(value);
    } catch (const std::invalid_argument& error) {
      throw base::UsageError(fmt::format("plan: '{}': {}", key, error.what()));
    }
    const std::int64_t least = key == "replicas" || key == "waves" ? 0 : 1;
    if (number < least || number > kMostRanks) {
      throw base::UsageError(fmt::format("plan: '{}' must be between {} and {}, not {}", key, least,
                                         kMostRanks, number));
    }
    if (key == "tp") {
      plan.tp = number;
    } else if (key == "dp") {
      plan.dp = number;
    } else if (key == "cp") {
      plan.cp = number;
    } else if (key == "pp") {
      plan.pp = number;
    } else if (key == "ep") {
      plan.ep = number;
      ep_given = true;
    } else if (key == "waves") {
      plan.waves = number;
    } else if (key == "replicas") {
      plan.replicas = number;
    } else {
      throw base::UsageError(
          fmt::format("plan: unknown key '{}'; known: tp, dp, cp, pp, ep, overlap, waves, routing, "
                      "replicas",
                      key));
    }
  }
  // Each factor is bounded, so the product stays far below 2^63 only when checked step by step.
  std::int64_t ranks = plan.tp;
  for (const std::int64_t factor : {plan.dp, plan.cp, plan.pp}) {
    ranks *= factor;
    if (ranks > kMostRanks) {
      throw base::UsageError(fmt::format("plan: more than {} devices", kMostRanks));
    }
  }
  if (!ep_given) plan.ep = plan.stage_ranks();
  return plan;
}

void require_possible(const ParallelPlan& plan, const ModelSpec& m) {
  const auto refuse = [&](const std::string& why) {
    throw base::UnsupportedError(
        fmt::format("{} cannot run as {}: {}", m.name, to_string(plan), why));
  };
  if (m.heads % plan.tp != 0)
    refuse(fmt::format("{} heads do not divide by TP{}", m.heads, plan.tp));
  if (m.o_groups > 0 && m.o_groups % plan.tp != 0) {
    refuse(fmt::format("{} output groups do not divide by TP{}", m.o_groups, plan.tp));
  }
  if (m.dense_inner % plan.tp != 0) {
    refuse(fmt::format("dense width {} does not divide by TP{}", m.dense_inner, plan.tp));
  }
  if (m.expert_inner % plan.tp != 0) {
    refuse(fmt::format("expert width {} does not divide by TP{}", m.expert_inner, plan.tp));
  }
  if (plan.stage_ranks() % plan.ep != 0) {
    refuse(
        fmt::format("EP{} does not divide the {} ranks of a stage", plan.ep, plan.stage_ranks()));
  }
  if (plan.ep < plan.stage_ranks() && plan.dp * plan.cp > 1) {
    refuse("experts divided inside (EP below the ranks of a stage) need plain tensor parallelism");
  }
  if (plan.ep > m.experts) {
    refuse(fmt::format("{} experts cannot be spread over {} ranks", m.experts, plan.ep));
  }
  if (plan.replicas > m.experts * (plan.ep - 1)) {
    refuse(fmt::format("{} replicas of {} experts are more than EP{} can hold once each",
                       plan.replicas, m.experts, plan.ep));
  }
  if (plan.routing.kind == Routing::kPopularity &&
      static_cast<std::int64_t>(plan.routing.data->popularity.size()) != m.experts) {
    refuse(fmt::format("{} gives the popularity of {} experts, not of {}", plan.routing.data->file,
                       plan.routing.data->popularity.size(), m.experts));
  }
  if (plan.routing.kind == Routing::kRecorded && plan.routing.data->topk != m.experts_per_token) {
    refuse(fmt::format("{} records {} choices of a token, not {}", plan.routing.data->file,
                       plan.routing.data->topk, m.experts_per_token));
  }
  if (plan.pp > static_cast<std::int64_t>(m.layers.size())) {
    refuse(fmt::format("{} layers do not fill {} pipeline stages", m.layers.size(), plan.pp));
  }
}

}  // namespace foretoken::workloads
