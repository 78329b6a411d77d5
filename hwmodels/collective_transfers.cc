#include "hwmodels/collective_transfers.h"

#include <algorithm>
#include <cassert>

#include "sim/base/error.h"

namespace foretoken::hwmodels {

namespace {

using Id = TransferPlan::Id;

// One dimension's groups of devices: members are `stride` apart.
struct Level {
  std::int64_t count = 1;
  std::int64_t stride = 1;
  bool mesh = false;
};

std::vector<Level> levels_of(const SystemSpec& system, std::int64_t ranks) {
  std::vector<Level> levels;
  std::int64_t left = ranks;
  std::int64_t stride = 1;
  for (const FabricDimension& d : system.fabric) {
    if (left <= 1) break;
    const std::int64_t count = std::min(left, d.size);
    if (left % count != 0) {
      throw base::UnsupportedError("a collective of parts of groups has no schedule");
    }
    if (count > 1) levels.push_back({count, stride, d.topology == LinkTopology::kFullMesh});
    left /= count;
    stride *= d.size;
  }
  if (left > 1) throw base::UnsupportedError("more ranks than devices");
  return levels;
}

// Adds transfers of pieces that are all alike: a device sends a piece's part once the same part of
// the piece before has gone, so that pieces follow each other.
class Pieces {
 public:
  explicit Pieces(TransferPlan& plan) : plan_(plan) {}

  void next() {
    previous_ = first_;
    first_ = static_cast<Id>(plan_.transfers().size());
    any_before_ = first_ > 0;
  }
  Id add(const Transfer& transfer, std::span<const Id> after) {
    after_.assign(after.begin(), after.end());
    const Id place = static_cast<Id>(plan_.transfers().size()) - first_;
    if (any_before_) after_.push_back(previous_ + place);
    return plan_.add(transfer, after_);
  }

 private:
  TransferPlan& plan_;
  std::vector<Id> after_;
  Id first_ = 0;
  Id previous_ = 0;
  bool any_before_ = false;
};

// Builds the steps of one piece. ready_[rank] holds what a rank's next transfer waits for.
class Steps {
 public:
  Steps(Pieces& plan, std::int64_t ranks, double hop)
      : plan_(plan), ready_(static_cast<std::size_t>(ranks)), hop_(hop) {}

  // Every member passes a part on until all have been everywhere, or sends one to each at once.
  // `bytes`: of one part.
  void exchange(const Level& level, double bytes) {
    const auto ranks = static_cast<std::int64_t>(ready_.size());
    const std::int64_t rounds = level.mesh ? 1 : level.count - 1;
    for (std::int64_t round = 0; round < rounds; ++round) {
      std::vector<std::vector<Id>> arrived(ready_.size());
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        const std::int64_t place = rank / level.stride % level.count;
        const std::int64_t peers = level.mesh ? level.count - 1 : 1;
        for (std::int64_t k = 1; k <= peers; ++k) {
          const std::int64_t to = rank + ((place + k) % level.count - place) * level.stride;
          arrived[static_cast<std::size_t>(to)].push_back(
              plan_.add({rank, to, bytes, hop_}, ready_[static_cast<std::size_t>(rank)]));
        }
      }
      ready_ = std::move(arrived);
    }
  }

 private:
  Pieces& plan_;
  std::vector<std::vector<Id>> ready_;
  double hop_;
};

}  // namespace

Id TransferPlan::add(const Transfer& transfer, std::span<const Id> after) {
  const auto id = static_cast<Id>(transfers_.size());
  assert(std::all_of(after.begin(), after.end(), [id](Id other) { return other < id; }));
  transfers_.push_back(transfer);
  after_.insert(after_.end(), after.begin(), after.end());
  first_.push_back(static_cast<std::uint32_t>(after_.size()));
  return id;
}

std::vector<task::TaskId> add_transfers(task::TaskGraph& graph, task::LabelId label,
                                        const FabricGraph& fabric,
                                        const ClusterResources& resources, const TransferPlan& plan,
                                        std::span<const task::TaskId> dependencies) {
  std::vector<task::TaskId> tasks;
  tasks.reserve(plan.transfers().size());
  std::vector<task::TaskId> after;
  Traffic traffic(fabric, resources);
  for (Id id = 0; id < plan.transfers().size(); ++id) {
    const Transfer& t = plan.transfers()[id];
    traffic.clear();
    traffic.add(t.source, t.destination, t.bytes);
    after.clear();
    for (const Id other : plan.after(id)) after.push_back(tasks[other]);
    tasks.push_back(add_transfer(
        graph, label, traffic, after.empty() ? dependencies : std::span<const task::TaskId>(after),
        base::Seconds{t.start}));
  }
  return tasks;
}

TransferPlan collective_transfers(const SystemSpec& system, CollectiveOp op, double bytes,
                                  std::int64_t ranks, double hop, std::int64_t pieces) {
  TransferPlan plan;
  if (op == CollectiveOp::kAllToAll) {
    for (std::int64_t source = 0; source < ranks; ++source) {
      for (std::int64_t step = 1; step < ranks; ++step) {
        plan.add({source, (source + step) % ranks, bytes / static_cast<double>(ranks), hop}, {});
      }
    }
    return plan;
  }
  const std::vector<Level> levels = levels_of(system, ranks);
  // Bytes of a part in each dimension: what is left of the vector after the inner ones.
  std::vector<double> parts;
  double left = bytes / static_cast<double>(pieces);
  for (const Level& level : levels) {
    left /= static_cast<double>(level.count);
    parts.push_back(left);
  }
  Pieces sequence(plan);
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    sequence.next();
    Steps steps(sequence, ranks, hop);
    if (op != CollectiveOp::kAllGather) {
      for (std::size_t i = 0; i < levels.size(); ++i) steps.exchange(levels[i], parts[i]);
    }
    if (op != CollectiveOp::kReduceScatter) {
      for (std::size_t i = levels.size(); i-- > 0;) steps.exchange(levels[i], parts[i]);
    }
  }
  return plan;
}

TransferPlan expert_transfers(const Hardware& h, const TrafficShape& s, const TrafficDesign& d,
                              std::int64_t pieces) {
  TransferPlan plan;
  const bool normal = d.form == TrafficForm::kNormal;
  const Rates perfect;
  TrafficDesign counted = d;
  counted.engine = CopyEngine::kCores;  // counts do not depend on who copies
  const TrafficTime rows = expert_traffic(h, perfect, s, counted);
  const double header = normal || s.combine ? 0.0 : kTrafficRowHeader;
  const double row = (rows.row_bytes + header) / static_cast<double>(pieces);
  const std::int64_t domain = std::min(s.ranks, h.system.scale_up_domain());
  const std::int64_t nodes = (s.ranks + domain - 1) / domain;
  if (normal && s.ranks % domain != 0) {
    throw base::UnsupportedError("normal traffic of parts of domains has no schedule");
  }
  const double n = static_cast<double>(s.ranks);
  Pieces sequence(plan);
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    sequence.next();
    if (!normal) {
      for (std::int64_t source = 0; source < s.ranks; ++source) {
        for (std::int64_t step = 1; step < s.ranks; ++step) {
          sequence.add({source, (source + step) % s.ranks, rows.rows * row / n, 0.0}, {});
        }
      }
      continue;
    }
    // forwarded[device]: rows that came from its own place elsewhere.
    std::vector<std::vector<Id>> forwarded(static_cast<std::size_t>(s.ranks));
    for (std::int64_t source = 0; source < s.ranks; ++source) {
      for (std::int64_t step = 1; step < nodes; ++step) {
        const std::int64_t to = (source + step * domain) % s.ranks;
        forwarded[static_cast<std::size_t>(to)].push_back(
            sequence.add({source, to, rows.node_rows * row / static_cast<double>(nodes), 0.0}, {}));
      }
    }
    // Of the rows that reach a domain through a device, its own among them, each goes to the ranks
    // there that want it.
    for (std::int64_t from = 0; from < s.ranks; ++from) {
      const std::int64_t base = from / domain * domain;
      const double each = rows.rank_rows * row / static_cast<double>(domain);
      for (std::int64_t step = 1; step < domain; ++step) {
        const std::int64_t to = base + (from - base + step) % domain;
        sequence.add({from, to, each, 0.0}, forwarded[static_cast<std::size_t>(from)]);
      }
    }
  }
  return plan;
}

}  // namespace foretoken::hwmodels
