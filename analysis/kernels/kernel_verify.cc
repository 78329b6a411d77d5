#include "analysis/kernels/kernel_verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>

#include "sim/base/error.h"

namespace foretoken::analysis::kernels {

namespace value = hwmodels::value;

namespace {

// Calls `work` for every index below `count`, on several threads; rethrows what one of them threw.
template <class Work>
void for_each_index(std::size_t count, Work&& work) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto loop = [&] {
    for (std::size_t i; (i = next.fetch_add(1)) < count;) {
      try {
        work(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (failure == nullptr) failure = std::current_exception();
      }
    }
  };
  std::vector<std::thread> threads;
  const std::size_t wanted = std::max(1U, std::thread::hardware_concurrency());
  for (std::size_t t = 1; t < std::min(wanted, count); ++t) threads.emplace_back(loop);
  loop();
  for (std::thread& t : threads) t.join();
  if (failure != nullptr) std::rethrow_exception(failure);
}

VerifyRow row_of(const Subject& s) {
  return {
      .design = s.design->name, .kernel = std::string(s.design->kernel()), .chip = s.chip->name};
}

void run(const VerifyCase& c, VerifyRow& row) {
  row.name = c.name;
  row.selection = c.selection;
  row.tolerance = c.tolerance;
  try {
    row.result = c.run();
  } catch (const base::UnsupportedError& error) {
    row.refused = error.what();
  }
}

// Neighbouring numbers have neighbouring positions.
std::int64_t position(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  return bits >= 0 ? std::int64_t{bits}
                   : std::int64_t{std::numeric_limits<std::int32_t>::min()} - bits;
}

}  // namespace

std::string VerifyRow::reason() const {
  if (passed()) return {};
  if (!refused.empty()) return refused;
  if (!result.hazard.empty()) return result.hazard;
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (result.max_relative > tolerance.max_relative) {
    add(fmt::format("largest error {:.2e} above {:.2e}", result.max_relative,
                    tolerance.max_relative));
  }
  if (result.rms_relative > tolerance.rms_relative) {
    add(fmt::format("RMS error {:.2e} above {:.2e}", result.rms_relative, tolerance.rms_relative));
  }
  if (result.recall < tolerance.recall) {
    add(fmt::format("recall {:.4f} below {:.4f}", result.recall, tolerance.recall));
  }
  return text.empty() ? "an error that is no number" : text;
}

std::vector<VerifyRow> verify(std::span<const Subject> subjects) {
  std::vector<VerifyRow> rows;
  std::vector<VerifyCase> cases;  // of the rows; one without a case has an empty `run`
  for (const Subject& s : subjects) {
    std::vector<VerifyCase> own = verify_cases(*s.design, s.chip->rates);
    if (own.empty()) {
      VerifyRow row = row_of(s);
      row.refused = fmt::format("{} can run none of its cases on {}: no format in common",
                                s.design->name, s.chip->name);
      rows.push_back(std::move(row));
      cases.emplace_back();
    }
    for (VerifyCase& c : own) {
      rows.push_back(row_of(s));
      cases.push_back(std::move(c));
    }
  }
  for_each_index(rows.size(), [&](std::size_t i) {
    if (cases[i].run) run(cases[i], rows[i]);
  });
  return rows;
}

double distance(float a, float b, OutputGrid grid) {
  if (std::isnan(a) && std::isnan(b)) return 0.0;
  if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<double>::infinity();
  const auto apart = static_cast<double>(std::abs(position(a) - position(b)));
  // BF16 numbers are FP32 numbers whose last 16 bits are zero, FP8 ones (times a power of two)
  // those whose last 20 are.
  return grid == OutputGrid::kFp8    ? apart / 0x1p20
         : grid == OutputGrid::kBf16 ? apart / 0x1p16
                                     : apart;
}

std::vector<PairRow> compare_pair(const Subject& first, const Subject& second) {
  if (first.design->kernel() != second.design->kernel()) {
    throw base::UsageError(fmt::format("--pair: {} is a design of {}, {} of {}", first.design->name,
                                       first.design->kernel(), second.design->name,
                                       second.design->kernel()));
  }
  const std::vector<VerifyCase> a = verify_cases(*first.design, first.chip->rates);
  const std::vector<VerifyCase> b = verify_cases(*second.design, second.chip->rates);
  std::vector<PairRow> rows;
  std::vector<std::pair<const VerifyCase*, const VerifyCase*>> both;
  for (const VerifyCase& x : a) {
    const auto y =
        std::find_if(b.begin(), b.end(), [&](const VerifyCase& c) { return c.name == x.name; });
    if (y == b.end()) continue;
    rows.push_back(
        {.name = x.name, .grid = x.grid, .first = row_of(first), .second = row_of(second)});
    both.emplace_back(&x, &*y);
  }
  if (rows.empty()) {
    throw base::UnsupportedError(fmt::format("{} on {} and {} on {} have no case in common",
                                             first.design->name, first.chip->name,
                                             second.design->name, second.chip->name));
  }
  for_each_index(2 * rows.size(), [&](std::size_t i) {
    PairRow& row = rows[i / 2];
    run(i % 2 == 0 ? *both[i / 2].first : *both[i / 2].second, i % 2 == 0 ? row.first : row.second);
  });
  for (PairRow& row : rows) {
    const std::vector<float>& x = row.first.result.output;
    const std::vector<float>& y = row.second.result.output;
    row.elements = static_cast<std::int64_t>(std::min(x.size(), y.size()));
    // Outputs that are not there on one side differ.
    row.different = static_cast<std::int64_t>(std::max(x.size(), y.size())) - row.elements;
    double square = 0.0;
    double largest = 0.0;
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      square += double{x[i]} * double{x[i]};
      largest = std::max(largest, std::abs(double{x[i]} - double{y[i]}));
      const double d = distance(x[i], y[i], row.grid);
      if (d > 0.0) ++row.different;
      row.largest_distance = std::max(row.largest_distance, d);
    }
    if (square > 0.0) {
      row.largest_relative = largest / std::sqrt(square / static_cast<double>(row.elements));
    }
  }
  return rows;
}

}  // namespace foretoken::analysis::kernels
