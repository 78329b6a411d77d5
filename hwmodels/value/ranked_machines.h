// Value machines of several ranks that share memory and flags: their work items run interleaved, in
// orders that no correct program may depend on, and every access to what others write must be
// ordered by a flag.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hwmodels/value/value_machine.h"

namespace foretoken::hwmodels::value {

// Which of the work items that could run runs next.
enum class ItemOrder : std::uint8_t {
  kIssue,   // ranks in turn, each in the order its items are dealt
  kLatest,  // the last rank first, and of it the last item: consumers before producers
  kRandom,  // seeded
};

// Runs the launches of all ranks. A rank's next launch begins when its last one has ended, whatever
// the others do. An item whose wait is not satisfied is put back, as if it had not begun; one that
// waits after it had an effect, or that waits for ever, is a hazard.
//
// Besides values, who wrote what is followed. An item may read what itself wrote in this launch, or
// what it knows of: a signal passes on all that the signalling item did before and all it knew, a
// wait takes that over from as many signals as it asked for. So a missing wait is found in every
// order, not only in one where the data happens to be missing.
class RankedMachines {
 public:
  explicit RankedMachines(std::int64_t ranks);

  // `launch`: the one for which the name means this tensor; kEvery: all without one of their own.
  static constexpr std::int64_t kEvery = -1;
  // Tensors that programs only read.
  void bind_input(std::int64_t rank, std::string_view name, HostTensor& tensor,
                  std::int64_t launch = kEvery);
  // Tensors that programs write: what a launch did not write must not be read in it.
  void bind(std::int64_t rank, std::string_view name, HostTensor& tensor,
            std::int64_t launch = kEvery);
  // One part of each rank, of equal shapes. Declared at home kPeer a tensor spans all of them, else
  // the name means the rank's own part.
  void bind_shared(std::string_view name, std::span<HostTensor> parts, bool input,
                   std::int64_t launch = kEvery);
  void set_quantisation(tile::Dtype dtype, const Quantisation& how);

  struct Schedule {
    ItemOrder order = ItemOrder::kIssue;
    unsigned seed = 1;
    std::int64_t window = 0;  // items of a rank in flight, in the order they are dealt; 0: all
  };
  // launches[rank][i]: rank's i-th launch. Throws Hazard.
  void run(std::span<const std::vector<const tile::Kernel*>> launches, const Schedule& schedule);

  // Throws Hazard when something of a tensor was not written in the rank's last launch.
  void require_written(std::int64_t rank, std::string_view name) const;

  // Bytes that crossed links, of a tensor declared at home kPeer, by who sent and who received.
  struct Traffic {
    std::vector<std::int64_t> sent;
    std::vector<std::int64_t> received;
  };
  [[nodiscard]] const Traffic& traffic(std::string_view tensor) const;
  // Times that an item was put back, a measure of how adversarial an order was.
  [[nodiscard]] std::int64_t put_back() const { return put_back_; }

 private:
  friend class ValueMachine;

  struct Bound {
    HostTensor* first = nullptr;
    std::int64_t part_rows = 0;
  };
  struct Touch {
    std::int64_t rank = 0;  // who
    const tile::TensorSpec& spec;
    HostTensor& tensor;
    std::int64_t owner = 0;
    std::int64_t row = 0;
    std::size_t first = 0;  // element
    std::int64_t cols = 0;
  };
  // How many signals of each work item one knows of.
  using Knowledge = std::vector<std::uint16_t>;
  struct Flag {
    std::vector<std::shared_ptr<const Knowledge>>
        after;  // known after the first, second, ... signal
  };
  struct Binding {
    HostTensor* tensor = nullptr;
    std::int64_t parts = 1;
    bool input = false;
  };
  struct Pending {
    std::int64_t item = 0;
    NotReady blocked{};  // count 0: not known to be
  };
  struct Rank {
    ValueMachine machine;
    std::map<std::pair<std::int64_t, std::string>, Binding, std::less<>> bindings;
    std::vector<Pending> pending;  // of the launch in hand, in the order dealt
    std::size_t launch = 0;
    std::size_t launches = 0;
    Knowledge knowledge;  // of all items of launches that ended
    Knowledge ended;      // and of those of this launch that ended
  };
  // What a numbered item is, for messages.
  struct Origin {
    std::int64_t rank = 0;
    std::size_t launch = 0;
    std::int64_t item = 0;
  };

  Bound find(std::int64_t rank, const tile::TensorSpec& spec) const;
  const Binding& binding(std::int64_t rank, std::string_view name, std::int64_t launch) const;
  void read(const Touch& t);
  void write(const Touch& t);
  void signal(std::int64_t flag);
  void wait(std::int64_t flag, std::int64_t count);
  void reset(std::int64_t first, std::int64_t count);

  void begin(Rank& rank);
  bool run_next(Rank& rank, std::size_t at);
  [[nodiscard]] bool ready(const Pending& p) const;
  [[nodiscard]] std::int64_t count(std::int64_t flag) const;
  void count_bytes(const Touch& t, std::int64_t from, std::int64_t to);
  [[nodiscard]] std::string name_of(std::int32_t id) const;
  [[noreturn]] void refuse(const Touch& t, std::int64_t col, const std::string& what) const;
  [[noreturn]] void stuck() const;

  std::vector<Rank> ranks_;
  std::span<const std::vector<const tile::Kernel*>> launches_;
  std::vector<std::vector<std::int32_t>> first_id_;  // of a rank's launch
  std::vector<Origin> origins_;                      // by number
  std::map<std::int64_t, Flag> flags_;
  std::map<std::string, Traffic, std::less<>> traffic_;
  std::int64_t put_back_ = 0;
  // Of the item that runs.
  std::int32_t id_ = 0;
  std::int32_t signals_ = 0;
  bool effect_ = false;
  Knowledge known_;
};

}  // namespace foretoken::hwmodels::value
