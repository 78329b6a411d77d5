#include "hwmodels/value/verify_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>

#include "hwmodels/value/value_machine.h"
#include "reference/ops/attention.h"

namespace foretoken::hwmodels::value {

using kernels::AttentionDesign;
using kernels::AttentionLaunches;
using kernels::AttentionProblem;
using kernels::EntryFormat;
using kernels::QueryClass;
using kernels::WidenEntriesKernel;
using workloads::Dtype;

namespace {

// Scores are then three times as spread as a random layer's: maxima grow from block to block.
constexpr float kQueryScale = 3.0F;

std::vector<float> normal(std::int64_t count, float scale, std::mt19937& generator) {
  std::normal_distribution<float> distribution(0.0F, scale);
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = distribution(generator);
  return v;
}

// A cache of entries: as stored, and decoded for the reference.
struct Entries {
  HostTensor narrow, wide;
  std::vector<double> decoded;
};

Entries make_entries(const EntryFormat& f, std::int64_t rows, std::int64_t width,
                     std::mt19937& generator) {
  Entries e;
  const std::int64_t rest = width - f.narrow;
  const std::int64_t block = std::min<std::int64_t>(f.dtype == Dtype::kFp4 ? 16 : 64, f.narrow);
  e.narrow = quantised(normal(rows * f.narrow, 1.0F, generator), rows, f.narrow,
                       {f.dtype, 1, std::max<std::int64_t>(block, 1)});
  e.wide = quantised(normal(rows * rest, 1.0F, generator), rows, rest, {Dtype::kBf16});
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < width; ++c) {
      e.decoded.push_back(c < f.narrow ? e.narrow.value(r, c) : e.wide.value(r, c - f.narrow));
    }
  }
  return e;
}

// One query token and the rows it sees.
struct Query {
  std::int64_t window_begin = 0, window_end = 0;
  std::int64_t entries_begin = 0, entries_end = 0;  // visible
  std::int64_t given = 0;                           // its row of a selection from outside
  std::vector<std::int32_t> selected;               // rows; -1: none
};

std::vector<std::int32_t> select(const AttentionCase& c, const Query& q, std::mt19937& generator) {
  const std::int64_t visible = q.entries_end - q.entries_begin;
  const std::int64_t count = std::min(c.rule.selected, visible);
  std::vector<std::int32_t> rows;
  if (!c.selection.empty()) {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t entry =
          c.selection[static_cast<std::size_t>(q.given * c.rule.selected + i)];
      rows.push_back(entry < 0 ? -1 : static_cast<std::int32_t>(q.entries_begin + entry));
    }
    return rows;
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(visible));
  std::iota(order.begin(), order.end(), 0);
  const auto random = [&](std::int64_t below) {
    return static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(below));
  };
  if (c.pattern == SelectionPattern::kRandom || c.pattern == SelectionPattern::kPadded) {
    std::shuffle(order.begin(), order.end(), generator);
  }
  // The largest stride below 5/8 of the entries that visits all of them.
  std::int64_t stride = std::max<std::int64_t>(1, visible * 5 / 8);
  while (visible > 0 && std::gcd(stride, visible) != 1) --stride;
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t entry = 0;
    switch (c.pattern) {
      case SelectionPattern::kRandom:
      case SelectionPattern::kPadded:
        entry = order[static_cast<std::size_t>(i)];
        break;
      case SelectionPattern::kSequential:
        entry = visible - count + i;
        break;
      case SelectionPattern::kStrided:
        entry = i * stride % visible;
        break;
      case SelectionPattern::kRepeated:
        entry = random(std::max<std::int64_t>(1, visible / 2));
        break;
    }
    const bool empty = c.pattern == SelectionPattern::kPadded && random(4) == 0;
    rows.push_back(empty ? -1 : static_cast<std::int32_t>(q.entries_begin + entry));
  }
  return rows;
}

// What the attention kernel reads of entries' wide channels: all channels once they are widened.
HostTensor wide_entries(const Entries& e, std::int64_t width, bool widen_first,
                        const std::optional<WidenEntriesKernel>& kernel) {
  HostTensor out(e.wide.rows, width);
  if (!kernel) return widen_first && e.wide.rows == 0 ? out : e.wide;
  Entries in = e;
  ValueMachine machine;
  machine.bind("narrow", in.narrow);
  machine.bind("wide", in.wide);
  machine.bind("workspace", out);
  machine.run(*kernel);
  machine.require_written("workspace");
  return out;
}

}  // namespace

Comparison verify_attention(const AttentionDesign& design, const tile::CoreRates& chip,
                            const AttentionCase& c, kernels::AttentionFault fault) {
  std::mt19937 generator(c.seed);
  // The classes of all sequences, and the keys of every query in the same order.
  std::vector<QueryClass> classes;
  std::vector<Query> queries;
  std::int64_t window_rows = 0;
  std::int64_t entry_rows = 0;
  std::int64_t given = 0;
  for (const std::int64_t context : c.contexts) {
    const std::int64_t first = context - c.tokens;
    const std::int64_t kept = std::max<std::int64_t>(0, first - c.rule.window + 1);
    for (std::int64_t position = first; position < context; ++position) {
      Query q;
      const std::int64_t oldest = std::max<std::int64_t>(0, position - c.rule.window + 1);
      if (c.rule.window > 0) {
        q.window_begin = window_rows + oldest - kept;
        q.window_end = window_rows + position + 1 - kept;
      }
      q.entries_begin = entry_rows;
      q.entries_end = entry_rows + (c.rule.ratio > 0 ? (position + 1) / c.rule.ratio : 0);
      q.given = given++;
      if (c.rule.selected > 0) q.selected = select(c, q, generator);
      queries.push_back(std::move(q));
    }
    if (c.prefill) {
      kernels::add_prefill_classes(c.rule, design, first, c.tokens, window_rows, entry_rows,
                                   classes);
    } else {
      kernels::add_decode_classes(c.rule, design, 1, c.tokens, context, window_rows, entry_rows,
                                  classes);
    }
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(c.key_width));
  const AttentionProblem problem{.classes = classes,
                                 .heads = c.heads,
                                 .key_width = c.key_width,
                                 .value_width = c.value_width,
                                 .scale = scale,
                                 .selected = c.rule.selected > 0,
                                 .sink = c.sink,
                                 .window_entry = c.window_entry,
                                 .compressed_entry = c.compressed_entry,
                                 .window_rows = window_rows,
                                 .compressed_rows = entry_rows};
  const AttentionLaunches launches(problem, design, chip, fault);
  const kernels::AttentionKernel& kernel = launches.attention();

  const auto count = static_cast<std::int64_t>(queries.size());
  HostTensor q = quantised(normal(count * c.heads * c.key_width, kQueryScale, generator),
                           count * c.heads, c.key_width, {Dtype::kBf16});
  const Entries window = make_entries(c.window_entry, window_rows, c.key_width, generator);
  const Entries entries = make_entries(c.compressed_entry, entry_rows, c.key_width, generator);
  HostTensor sinks = quantised(normal(c.sink ? c.heads : 0, 2.0F, generator), c.sink ? c.heads : 0,
                               1, {Dtype::kFp32});
  HostTensor selection(problem.selected ? count : 0, kernel.selection_columns());
  std::fill(selection.elements.begin(), selection.elements.end(), -1.0F);
  HostTensor visible(count, 3);
  for (std::int64_t i = 0; i < count; ++i) {
    const Query& query = queries[static_cast<std::size_t>(i)];
    const std::array<std::int64_t, 3> ends = {query.window_begin, query.window_end,
                                              query.entries_end};
    for (std::size_t k = 0; k < ends.size(); ++k) {
      visible.elements[static_cast<std::size_t>(i) * 3 + k] = static_cast<float>(ends[k]);
    }
    for (std::size_t k = 0; k < query.selected.size(); ++k) {
      selection.elements[static_cast<std::size_t>(i * selection.cols) + k] =
          static_cast<float>(query.selected[k]);
    }
  }

  Comparison result;
  HostTensor out(count * c.heads, c.value_width);
  try {
    Entries w = window;
    Entries e = entries;
    w.wide = wide_entries(window, c.key_width, design.widen_first, launches.widen_window());
    e.wide = wide_entries(entries, c.key_width, design.widen_first, launches.widen_compressed());
    HostTensor parts(kernel.parts() * c.heads, c.value_width);
    HostTensor part_max(kernel.parts(), c.heads);
    HostTensor part_sum(kernel.parts(), c.heads);
    ValueMachine machine;
    const std::vector<std::pair<std::string_view, HostTensor*>> tensors = {
        {"queries", &q},
        {"window_narrow", &w.narrow},
        {"window_wide", &w.wide},
        {"compressed_narrow", &e.narrow},
        {"compressed_wide", &e.wide},
        {"selection", &selection},
        {"visible", &visible},
        {"sinks", &sinks},
        {"output", &out},
        {"partial_output", &parts},
        {"partial_max", &part_max},
        {"partial_sum", &part_sum}};
    for (const auto& [name, tensor] : tensors) machine.bind(name, *tensor);
    launches.for_each([&](const tile::Kernel& k) {
      if (k.name() != "widen_entries") machine.run(k);
    });
    machine.require_written("output");
  } catch (const Hazard& hazard) {
    result.hazard = hazard.what();
    return result;
  }

  std::vector<double> want;
  std::vector<double> row(static_cast<std::size_t>(c.heads * c.key_width));
  std::vector<double> answer(static_cast<std::size_t>(c.heads * c.value_width));
  for (std::int64_t i = 0; i < count; ++i) {
    const Query& query = queries[static_cast<std::size_t>(i)];
    for (std::int64_t k = 0; k < c.heads * c.key_width; ++k) {
      row[static_cast<std::size_t>(k)] =
          q.elements[static_cast<std::size_t>(i * c.heads * c.key_width + k)];
    }
    std::vector<std::int32_t> chosen;
    std::copy_if(query.selected.begin(), query.selected.end(), std::back_inserter(chosen),
                 [](std::int32_t r) { return r >= 0; });
    const auto at = [&](const std::vector<double>& data, std::int64_t r) {
      return data.data() + r * c.key_width;
    };
    const std::array<reference::KeyRun<double>, 2> runs = {
        reference::KeyRun<double>{at(window.decoded, query.window_begin),
                                  c.key_width,
                                  query.window_end - query.window_begin,
                                  {}},
        problem.selected ? reference::KeyRun<double>{entries.decoded.data(), c.key_width, 0, chosen}
                         : reference::KeyRun<double>{at(entries.decoded, query.entries_begin),
                                                     c.key_width,
                                                     query.entries_end - query.entries_begin,
                                                     {}}};
    reference::attend<double, double>({}, {c.heads, c.key_width, c.value_width, scale}, row.data(),
                                      runs, c.sink ? sinks.elements.data() : nullptr,
                                      answer.data());
    want.insert(want.end(), answer.begin(), answer.end());
  }
  result.add(out.values(), want);
  return result;
}

Tolerance attention_tolerance() {
  // Probabilities and outputs are each rounded to BF16, by at most 2^-9 of their size: 0.2 % at
  // worst, 0.11 % root mean square each (uniform within a step, mean of the binade), and the first
  // of them averages out over keys. An output may be five times the root mean square of all.
  return {.max_relative = 0.02, .rms_relative = 0.003, .recall = 1.0};
}

}  // namespace foretoken::hwmodels::value
