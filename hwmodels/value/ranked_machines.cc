#include "hwmodels/value/ranked_machines.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace foretoken::hwmodels::value {

namespace {

constexpr std::uint16_t kAll = std::numeric_limits<std::uint16_t>::max();

void merge(std::vector<std::uint16_t>& into, const std::vector<std::uint16_t>& from) {
  for (std::size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

}  // namespace

RankedMachines::RankedMachines(std::int64_t ranks) : ranks_(static_cast<std::size_t>(ranks)) {
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    ranks_[r].machine.ranks_ = this;
    ranks_[r].machine.rank_ = static_cast<std::int64_t>(r);
  }
}

void RankedMachines::bind_input(std::int64_t rank, std::string_view name, HostTensor& tensor,
                                std::int64_t launch) {
  ranks_[static_cast<std::size_t>(rank)].bindings[{launch, std::string(name)}] = {&tensor, 1, true};
}

void RankedMachines::bind(std::int64_t rank, std::string_view name, HostTensor& tensor,
                          std::int64_t launch) {
  tensor.accesses.assign(tensor.elements.size(), {});
  ranks_[static_cast<std::size_t>(rank)].bindings[{launch, std::string(name)}] = {&tensor, 1,
                                                                                  false};
}

void RankedMachines::bind_shared(std::string_view name, std::span<HostTensor> parts, bool input,
                                 std::int64_t launch) {
  for (HostTensor& part : parts) {
    if (!input) part.accesses.assign(part.elements.size(), {});
  }
  for (Rank& rank : ranks_) {
    rank.bindings[{launch, std::string(name)}] = {parts.data(),
                                                  static_cast<std::int64_t>(parts.size()), input};
  }
}

void RankedMachines::set_quantisation(tile::Dtype dtype, const Quantisation& how) {
  for (Rank& rank : ranks_) rank.machine.set_quantisation(dtype, how);
}

const RankedMachines::Binding& RankedMachines::binding(std::int64_t rank, std::string_view name,
                                                       std::int64_t launch) const {
  const Rank& r = ranks_[static_cast<std::size_t>(rank)];
  auto found = r.bindings.find(std::pair(launch, std::string(name)));
  if (found == r.bindings.end()) found = r.bindings.find(std::pair(kEvery, std::string(name)));
  if (found == r.bindings.end()) {
    throw Hazard(fmt::format("rank {}: nothing is bound to tensor {}", rank, name));
  }
  return found->second;
}

RankedMachines::Bound RankedMachines::find(std::int64_t rank, const tile::TensorSpec& spec) const {
  const Rank& r = ranks_[static_cast<std::size_t>(rank)];
  const Binding& b = binding(rank, spec.name, static_cast<std::int64_t>(r.launch));
  const bool spans = spec.home == tile::Home::kPeer;
  if (spans && b.parts != static_cast<std::int64_t>(ranks_.size())) {
    throw Hazard(fmt::format("rank {}: tensor {} is not shared by all ranks", rank, spec.name));
  }
  HostTensor* const own = b.tensor + (b.parts > 1 ? rank : 0);
  // A program may see a matrix in another shape of as many elements.
  const std::int64_t there = own->rows * own->cols * (spans ? b.parts : 1);
  if (there != spec.rows * spec.cols) {
    throw Hazard(fmt::format("rank {}: tensor {} is declared [{}, {}] but bound {} x [{}, {}]",
                             rank, spec.name, spec.rows, spec.cols, spans ? b.parts : 1, own->rows,
                             own->cols));
  }
  return spans ? Bound{b.tensor, spec.rows / b.parts} : Bound{own, 0};
}

std::string RankedMachines::name_of(std::int32_t id) const {
  const Origin& o = origins_[static_cast<std::size_t>(id)];
  const tile::Kernel& kernel = *launches_[static_cast<std::size_t>(o.rank)][o.launch];
  const std::string name = kernel.item_name(o.item);
  return fmt::format("work item {}{} of rank {}, launch {}", o.item,
                     name.empty() ? "" : " (" + name + ")", o.rank, o.launch);
}

void RankedMachines::refuse(const Touch& t, std::int64_t col, const std::string& what) const {
  throw Hazard(fmt::format(
      "{}: row {} column {} of {}{} {}", ranks_[static_cast<std::size_t>(t.rank)].machine.where(),
      t.row, col, t.spec.name,
      t.spec.home == tile::Home::kPeer && t.owner != t.rank ? fmt::format(" (at rank {})", t.owner)
                                                            : "",
      what));
}

void RankedMachines::count_bytes(const Touch& t, std::int64_t from, std::int64_t to) {
  if (t.spec.home != tile::Home::kPeer || from == to) return;
  Traffic& traffic = traffic_[std::string(t.spec.name)];
  traffic.sent.resize(ranks_.size());
  traffic.received.resize(ranks_.size());
  const double bytes =
      static_cast<double>(t.cols) *
      (static_cast<double>(workloads::element_bits(t.spec.dtype)) / 8.0 + t.spec.scale_bytes);
  traffic.sent[static_cast<std::size_t>(from)] += static_cast<std::int64_t>(bytes);
  traffic.received[static_cast<std::size_t>(to)] += static_cast<std::int64_t>(bytes);
}

void RankedMachines::read(const Touch& t) {
  count_bytes(t, t.owner, t.rank);
  if (t.tensor.accesses.empty()) return;
  const std::size_t launch = ranks_[static_cast<std::size_t>(t.rank)].launch;
  for (std::int64_t c = 0; c < t.cols; ++c) {
    Access& a = t.tensor.accesses[t.first + static_cast<std::size_t>(c)];
    if (a.writer < 0) refuse(t, c, "is read before it was written");
    if (a.writer != id_) {
      const std::size_t written = origins_[static_cast<std::size_t>(a.writer)].launch;
      if (written > launch) refuse(t, c, "is read after " + name_of(a.writer) + " overwrote it");
      if (written < launch) {
        refuse(t, c,
               "is read before it was written again since " + name_of(a.writer) + " left it there");
      }
      if (known_[static_cast<std::size_t>(a.writer)] <= a.signals) {
        refuse(t, c, "is read without waiting for " + name_of(a.writer) + ", which writes it");
      }
    }
    a.reader = id_;
  }
}

void RankedMachines::write(const Touch& t) {
  effect_ = true;
  count_bytes(t, t.rank, t.owner);
  if (t.tensor.accesses.empty()) refuse(t, 0, "is an input and is written");
  const std::size_t launch = ranks_[static_cast<std::size_t>(t.rank)].launch;
  for (std::int64_t c = 0; c < t.cols; ++c) {
    Access& a = t.tensor.accesses[t.first + static_cast<std::size_t>(c)];
    if (a.writer >= 0 && origins_[static_cast<std::size_t>(a.writer)].launch == launch) {
      refuse(t, c, "is written a second time, first by " + name_of(a.writer));
    }
    for (const std::int32_t before : {a.writer, a.reader}) {
      if (before >= 0 && known_[static_cast<std::size_t>(before)] == 0) {
        refuse(t, c, "is overwritten without waiting for " + name_of(before) + ", which uses it");
      }
    }
    a = {.writer = id_, .reader = -1, .signals = signals_};
  }
}

std::int64_t RankedMachines::count(std::int64_t flag) const {
  const auto found = flags_.find(flag);
  return found == flags_.end() ? 0 : static_cast<std::int64_t>(found->second.after.size());
}

void RankedMachines::signal(std::int64_t flag) {
  effect_ = true;
  known_[static_cast<std::size_t>(id_)] = static_cast<std::uint16_t>(++signals_);
  auto after = std::make_shared<Knowledge>(known_);
  Flag& f = flags_[flag];
  if (!f.after.empty()) merge(*after, *f.after.back());
  f.after.push_back(std::move(after));
}

void RankedMachines::wait(std::int64_t flag, std::int64_t needed) {
  if (needed <= 0) return;
  const std::int64_t now = count(flag);
  if (now < needed) {
    if (effect_) {
      throw Hazard(
          fmt::format("{}: waits for flag {} to reach {} (now {}) after it has stored or signalled",
                      ranks_[static_cast<std::size_t>(origins_[static_cast<std::size_t>(id_)].rank)]
                          .machine.where(),
                      flag, needed, now));
    }
    throw NotReady{flag, needed};
  }
  merge(known_, *flags_[flag].after[static_cast<std::size_t>(needed - 1)]);
}

void RankedMachines::reset(std::int64_t first, std::int64_t number) {
  effect_ = true;
  flags_.erase(flags_.lower_bound(first), flags_.lower_bound(first + number));
}

bool RankedMachines::ready(const Pending& p) const {
  return p.blocked.count == 0 || count(p.blocked.flag) >= p.blocked.count;
}

void RankedMachines::begin(Rank& rank) {
  rank.pending.clear();
  rank.machine.tensors_.clear();
  const auto r = static_cast<std::size_t>(rank.machine.rank_);
  // A launch without items ends at once.
  while (rank.launch < rank.launches && rank.pending.empty()) {
    const std::int64_t items = launches_[r][rank.launch]->launch().items;
    for (std::int64_t i = 0; i < items; ++i) rank.pending.push_back({i, {}});
    if (items == 0) ++rank.launch;
  }
}

// True when the item has ended, false when it was put back.
bool RankedMachines::run_next(Rank& rank, std::size_t at) {
  const auto r = static_cast<std::size_t>(rank.machine.rank_);
  Pending& p = rank.pending[at];
  id_ = first_id_[r][rank.launch] + static_cast<std::int32_t>(p.item);
  signals_ = 0;
  effect_ = false;
  known_ = rank.knowledge;
  // What it does runs to its end; a put-back one starts again with buffers nobody wrote.
  known_.resize(origins_.size());
  try {
    rank.machine.run_item(*launches_[r][rank.launch], p.item);
  } catch (const NotReady& missing) {
    p.blocked = missing;
    ++put_back_;
    return false;
  }
  rank.pending.erase(rank.pending.begin() + static_cast<std::ptrdiff_t>(at));
  known_[static_cast<std::size_t>(id_)] = kAll;
  // Of use to the rank's next launch only; kept aside until this one ends.
  merge(rank.ended, known_);
  if (rank.pending.empty()) {
    rank.knowledge = rank.ended;
    ++rank.launch;
    begin(rank);
  }
  return true;
}

void RankedMachines::stuck() const {
  std::string text;
  for (const Rank& rank : ranks_) {
    if (rank.pending.empty()) continue;
    const Pending& p = rank.pending.front();
    const auto r = static_cast<std::size_t>(rank.machine.rank_);
    const std::string name = launches_[r][rank.launch]->item_name(p.item);
    text +=
        fmt::format("{}rank {}, launch {}, work item {}{} waits for flag {} to reach {}, now {}",
                    text.empty() ? "no work item can go on: " : "; ", r, rank.launch, p.item,
                    name.empty() ? "" : " (" + name + ")", p.blocked.flag, p.blocked.count,
                    count(p.blocked.flag));
  }
  throw Hazard(text);
}

void RankedMachines::run(std::span<const std::vector<const tile::Kernel*>> launches,
                         const Schedule& schedule) {
  launches_ = launches;
  flags_.clear();
  traffic_.clear();
  origins_.clear();
  put_back_ = 0;
  first_id_.assign(ranks_.size(), {});
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    for (std::size_t l = 0; l < launches[r].size(); ++l) {
      first_id_[r].push_back(static_cast<std::int32_t>(origins_.size()));
      const std::int64_t items = launches[r][l]->launch().items;
      for (std::int64_t i = 0; i < items; ++i) {
        origins_.push_back({static_cast<std::int64_t>(r), l, i});
      }
    }
  }
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    ranks_[r].launch = 0;
    ranks_[r].launches = launches[r].size();
    ranks_[r].knowledge.assign(origins_.size(), 0);
    ranks_[r].ended.assign(origins_.size(), 0);
    begin(ranks_[r]);
  }

  std::mt19937 random(schedule.seed);
  const auto in_window = [&](const Rank& rank) {
    return schedule.window > 0
               ? std::min(rank.pending.size(), static_cast<std::size_t>(schedule.window))
               : rank.pending.size();
  };
  // Runs one item of the rank, in issue order or the latest first; false when none can.
  const auto step = [&](Rank& rank, bool latest) {
    const std::size_t n = in_window(rank);
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t at = latest ? n - 1 - i : i;
      if (ready(rank.pending[at]) && run_next(rank, at)) return true;
    }
    return false;
  };
  std::vector<std::pair<std::size_t, std::size_t>> candidates;
  const auto step_random = [&] {
    for (;;) {
      candidates.clear();
      for (std::size_t r = 0; r < ranks_.size(); ++r) {
        const std::size_t n = in_window(ranks_[r]);
        for (std::size_t i = 0; i < n; ++i) {
          if (ready(ranks_[r].pending[i])) candidates.emplace_back(r, i);
        }
      }
      if (candidates.empty()) return false;
      const auto [r, i] = candidates[random() % candidates.size()];
      if (run_next(ranks_[r], i)) return true;
    }
  };
  const auto unfinished = [&] {
    return std::any_of(ranks_.begin(), ranks_.end(),
                       [](const Rank& rank) { return !rank.pending.empty(); });
  };
  while (unfinished()) {
    bool went_on = false;
    switch (schedule.order) {
      case ItemOrder::kIssue:
        for (Rank& rank : ranks_) went_on = step(rank, false) || went_on;
        break;
      case ItemOrder::kLatest:
        for (std::size_t r = ranks_.size(); r-- > 0 && !went_on;) went_on = step(ranks_[r], true);
        break;
      case ItemOrder::kRandom:
        went_on = step_random();
        break;
    }
    if (!went_on) stuck();
  }
}

void RankedMachines::require_written(std::int64_t rank, std::string_view name) const {
  const Rank& r = ranks_[static_cast<std::size_t>(rank)];
  const auto last = static_cast<std::int64_t>(r.launches) - 1;
  const Binding& b = binding(rank, name, last);
  const HostTensor& t = b.tensor[b.parts > 1 ? rank : 0];
  std::int64_t missing = 0;
  std::int64_t first = -1;
  for (std::size_t i = 0; i < t.accesses.size(); ++i) {
    const std::int32_t writer = t.accesses[i].writer;
    if (writer >= 0 &&
        static_cast<std::int64_t>(origins_[static_cast<std::size_t>(writer)].launch) == last) {
      continue;
    }
    if (first < 0) first = static_cast<std::int64_t>(i);
    ++missing;
  }
  if (missing == 0) return;
  throw Hazard(
      fmt::format("rank {}: {} of {} elements of {} were never written, first row {} "
                  "column {}",
                  rank, missing, t.accesses.size(), name, first / t.cols, first % t.cols));
}

const RankedMachines::Traffic& RankedMachines::traffic(std::string_view tensor) const {
  static const Traffic none;
  const auto found = traffic_.find(tensor);
  return found == traffic_.end() ? none : found->second;
}

}  // namespace foretoken::hwmodels::value
