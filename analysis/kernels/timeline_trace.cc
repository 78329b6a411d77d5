#include "analysis/kernels/timeline_trace.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <vector>

#include "sim/base/text.h"

namespace foretoken::analysis::kernels {

namespace tile = hwmodels::tile;

namespace {

// Simulated time is whole picoseconds.
std::int64_t picoseconds(double seconds) { return std::llround(seconds * 1e12); }
std::string microseconds(std::int64_t ps) {
  return fmt::format("{}.{:06}", ps / 1'000'000, ps % 1'000'000);
}

}  // namespace

std::string timeline_json(const KernelTiming& timing, const std::string& title) {
  std::string out;
  auto to = std::back_inserter(out);
  fmt::format_to(to,
                 "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"title\":{}}},\"traceEvents\":[",
                 base::quote_json(title));
  const char* comma = "\n";
  const auto metadata = [&](std::string_view what, std::size_t pid, std::size_t tid,
                            const std::string& name) {
    fmt::format_to(
        to, "{}{{\"ph\":\"M\",\"name\":\"{}\",\"pid\":{},\"tid\":{},\"args\":{{\"name\":{}}}}}",
        comma, what, pid, tid, base::quote_json(name));
    comma = ",\n";
  };
  const auto event = [&](std::string_view name, std::string_view category, std::size_t pid,
                         std::size_t tid, std::int64_t start, std::int64_t end) {
    fmt::format_to(to,
                   "{}{{\"ph\":\"X\",\"name\":{},\"cat\":\"{}\",\"pid\":{},\"tid\":{},\"ts\":{},"
                   "\"dur\":{}}}",
                   comma, base::quote_json(name), category, pid, tid, microseconds(start),
                   microseconds(end - start));
    comma = ",\n";
  };
  constexpr std::size_t kHost = 0;
  metadata("process_name", kHost, 0, "launches");
  metadata("thread_name", kHost, 0, "kernels");
  std::size_t process = 1;
  std::int64_t origin = 0;
  for (const LaunchTiming& launch : timing.launches) {
    const std::vector<std::int64_t>& groups = launch.simulated.group_cores;
    const std::int64_t end = origin + picoseconds(launch.simulated.seconds);
    event(launch.kernel, "launch", kHost, 0, origin, end);
    std::vector<std::array<bool, tile::kEngines>> used(groups.size());
    for (const hwmodels::machine::Span& s : launch.simulated.spans) {
      used[s.group][static_cast<std::size_t>(s.engine)] = true;
    }
    const std::int64_t merged = launch.simulated.merged_iterations;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      metadata("process_name", process + g, 0,
               fmt::format("{}: one of {} cores{}", launch.kernel, groups[g],
                           merged > 1 ? fmt::format(", up to {} iterations a bar", merged) : ""));
      for (std::size_t e = 0; e < static_cast<std::size_t>(tile::kEngines); ++e) {
        if (used[g][e]) {
          metadata("thread_name", process + g, e + 1, std::string(tile::kEngineNames[e]));
        }
      }
    }
    for (const hwmodels::machine::Span& s : launch.simulated.spans) {
      const std::string_view name =
          s.kind == tile::StepKind::kVector ? tile::to_string(s.vector) : tile::to_string(s.kind);
      const auto e = static_cast<std::size_t>(s.engine);
      event(name, tile::kEngineNames[e], process + s.group, e + 1, origin + picoseconds(s.start),
            origin + picoseconds(s.end));
    }
    process += groups.size();
    origin = end;
  }
  out += "\n]}\n";
  return out;
}

}  // namespace foretoken::analysis::kernels
