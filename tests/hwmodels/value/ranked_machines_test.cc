// Several ranks' programs on shared memory and flags: what arrives, in which orders, and what no
// correct program does.
#include "hwmodels/value/ranked_machines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "tests/hwmodels/tile/programs.h"

namespace foretoken::hwmodels::value {
namespace {

using test_support::ProgramKernel;
using testing::AllOf;
using testing::HasSubstr;
using tile::Home;
using tile::Machine;

constexpr std::int64_t kRows = 2;
constexpr std::int64_t kCols = 4;

// Two ranks with a mailbox of kRows x kCols each, and a result on rank 1.
struct Pair {
  RankedMachines machines{2};
  std::vector<HostTensor> mail = std::vector<HostTensor>(2, HostTensor(kRows, kCols));
  HostTensor result{kRows, kCols};

  Pair() {
    machines.bind_shared("mail", mail, false);
    machines.bind(1, "result", result);
  }

  // What the machines refuse, empty when they ran.
  std::string run(const std::vector<std::vector<const tile::Kernel*>>& launches,
                  const RankedMachines::Schedule& schedule = {}) {
    try {
      machines.run(launches, schedule);
    } catch (const Hazard& hazard) {
      return hazard.what();
    }
    return {};
  }
};

tile::TensorId mailbox(Machine& m, Home home) {
  return m.tensor({.name = "mail",
                   .dtype = workloads::Dtype::kFp32,
                   .rows = home == Home::kPeer ? 2 * kRows : kRows,
                   .cols = kCols,
                   .home = home});
}

tile::Buffer buffer(Machine& m) {
  return m.buffer({.name = "rows",
                   .local = tile::Local::kVector,
                   .dtype = workloads::Dtype::kFp32,
                   .rows = kRows,
                   .cols = kCols});
}

// Rank 0 writes 7 into rank 1's mailbox.
void send(Machine& m, double value = 7.0) {
  const auto mail = mailbox(m, Home::kPeer);
  const auto rows = buffer(m);
  m.vector(tile::VectorKind::kFill, rows(), {}, {.scalar = value});
  m.store(mail, {kRows, kRows, 0, kCols}, rows());
}

// Rank 1 copies its mailbox to the result.
void receive(Machine& m) {
  const auto mail = mailbox(m, Home::kMemory);
  const auto result =
      m.tensor({.name = "result", .dtype = workloads::Dtype::kFp32, .rows = kRows, .cols = kCols});
  const auto rows = buffer(m);
  m.load(rows(), mail, {0, kRows, 0, kCols});
  m.store(result, {0, kRows, 0, kCols}, rows());
}

constexpr std::array kOrders = {ItemOrder::kIssue, ItemOrder::kLatest, ItemOrder::kRandom};

TEST(RankedMachines, WhatIsSentArrivesInEveryOrder) {
  for (const ItemOrder order : kOrders) {
    Pair pair;
    const ProgramKernel sender(1, [](Machine& m, std::int64_t) {
      send(m);
      m.signal(5, Home::kPeer);
    });
    const ProgramKernel receiver(1, [](Machine& m, std::int64_t) {
      m.wait(5, 1);
      receive(m);
    });
    EXPECT_EQ(pair.run({{&sender}, {&receiver}}, {.order = order}), "");
    EXPECT_EQ(pair.result.values(), std::vector<float>(kRows * kCols, 7.0F));
    pair.machines.require_written(1, "result");
    const RankedMachines::Traffic& t = pair.machines.traffic("mail");
    EXPECT_THAT(t.sent, testing::ElementsAre(4 * kRows * kCols, 0));
    EXPECT_THAT(t.received, testing::ElementsAre(0, 4 * kRows * kCols));
  }
}

TEST(RankedMachines, AMissingWaitIsFoundInEveryOrder) {
  for (const ItemOrder order : kOrders) {
    Pair pair;
    const ProgramKernel sender(1, [](Machine& m, std::int64_t) {
      send(m);
      m.signal(5, Home::kPeer);
    });
    const ProgramKernel receiver(1, [](Machine& m, std::int64_t) { receive(m); });
    EXPECT_THAT(pair.run({{&sender}, {&receiver}}, {.order = order}),
                AllOf(HasSubstr("rank 1"), HasSubstr("row 0 column 0 of mail is read")));
  }
}

TEST(RankedMachines, ASignalVouchesOnlyForWhatWasStoredBefore) {
  Pair pair;
  const ProgramKernel sender(1, [](Machine& m, std::int64_t) {
    m.signal(5, Home::kPeer);
    send(m);
  });
  const ProgramKernel receiver(1, [](Machine& m, std::int64_t) {
    m.wait(5, 1);
    receive(m);
  });
  EXPECT_THAT(pair.run({{&sender}, {&receiver}}), HasSubstr("is read without waiting for"));
}

TEST(RankedMachines, AWaitForOneOfTwoSignalsVouchesForOne) {
  Pair pair;
  const ProgramKernel sender(2, [](Machine& m, std::int64_t item) {
    if (item == 1) send(m);
    m.signal(5, Home::kPeer);
  });
  const ProgramKernel receiver(1, [](Machine& m, std::int64_t) {
    m.wait(5, 1);
    receive(m);
  });
  EXPECT_THAT(pair.run({{&sender}, {&receiver}}), HasSubstr("mail is read"));
}

TEST(RankedMachines, KnowledgeIsPassedOn) {
  Pair pair;
  // Item 0 sends, item 1 only says so.
  const ProgramKernel sender(2, [](Machine& m, std::int64_t item) {
    if (item == 0) {
      send(m);
      m.signal(1);
    } else {
      m.wait(1, 1);
      m.signal(5, Home::kPeer);
    }
  });
  const ProgramKernel receiver(1, [](Machine& m, std::int64_t) {
    m.wait(5, 1);
    receive(m);
  });
  EXPECT_EQ(pair.run({{&sender}, {&receiver}}, {.order = ItemOrder::kLatest}), "");
  EXPECT_GT(pair.machines.put_back(), 0);
}

TEST(RankedMachines, AnItemThatWaitsAfterAnEffectIsRefused) {
  Pair pair;
  const ProgramKernel sender(1, [](Machine& m, std::int64_t) {
    send(m);
    m.wait(5, 1);
  });
  const ProgramKernel other(1, [](Machine& m, std::int64_t) { m.signal(5, Home::kPeer); });
  EXPECT_THAT(pair.run({{&sender}, {&other}}), HasSubstr("after it has stored or signalled"));
}

TEST(RankedMachines, ItemsThatWaitForEverAreNamed) {
  Pair pair;
  const ProgramKernel first(1, [](Machine& m, std::int64_t) {
    m.wait(8, 2);
    m.signal(9);
  });
  const ProgramKernel second(1, [](Machine& m, std::int64_t) {
    m.wait(9, 1);
    m.signal(8);
  });
  EXPECT_THAT(pair.run({{&first}, {&second}}),
              AllOf(HasSubstr("rank 0, launch 0, work item 0 waits for flag 8 to reach 2, now 0"),
                    HasSubstr("rank 1, launch 0, work item 0 waits for flag 9")));
}

// A core holds an item until it is done: later ones cannot help it.
TEST(RankedMachines, AWindowOfOneItemFindsWaitsForLaterItems) {
  const ProgramKernel kernel(2, [](Machine& m, std::int64_t item) {
    if (item == 0) m.wait(1, 1);
    if (item == 1) m.signal(1);
  });
  const ProgramKernel none(0, [](Machine&, std::int64_t) {});
  Pair pair;
  EXPECT_EQ(pair.run({{&kernel}, {&none}}), "");
  EXPECT_THAT(pair.run({{&kernel}, {&none}}, {.window = 1}), HasSubstr("no work item can go on"));
}

TEST(RankedMachines, WhatAnEarlierLaunchLeftIsNotTakenForThisOnes) {
  Pair pair;
  const ProgramKernel sender(1, [](Machine& m, std::int64_t) {
    send(m);
    m.signal(5, Home::kPeer);
    m.signal(5, Home::kPeer);
  });
  const ProgramKernel idle(1, [](Machine& m, std::int64_t) { m.wait(6, 1); });
  HostTensor second(kRows, kCols);
  pair.machines.bind(1, "result", second, 1);
  const ProgramKernel receiver(1, [](Machine& m, std::int64_t) {
    m.wait(5, 1);
    receive(m);
  });
  const ProgramKernel again(1, [](Machine& m, std::int64_t) {
    m.wait(5, 2);
    receive(m);
    m.signal(6);
  });
  EXPECT_THAT(
      pair.run({{&sender, &idle}, {&receiver, &again}}),
      HasSubstr("is read before it was written again since work item 0 of rank 0, launch 0"));
}

TEST(RankedMachines, WhatAPeerMayStillReadIsNotOverwritten) {
  Pair pair;
  HostTensor second(kRows, kCols);
  pair.machines.bind(1, "result", second, 1);
  const ProgramKernel sender(1, [](Machine& m, std::int64_t) {
    send(m);
    m.signal(5, Home::kPeer);
  });
  // The second layer's row leaves before the first one is known to be read.
  const ProgramKernel hasty(1, [](Machine& m, std::int64_t) {
    send(m, 8.0);
    m.signal(7, Home::kPeer);
  });
  const ProgramKernel receiver(1, [](Machine& m, std::int64_t) {
    m.wait(5, 1);
    receive(m);
    m.signal(4, Home::kPeer);
  });
  const ProgramKernel again(1, [](Machine& m, std::int64_t) {
    m.wait(7, 1);
    receive(m);
  });
  EXPECT_THAT(pair.run({{&sender, &hasty}, {&receiver, &again}}),
              HasSubstr("is overwritten without waiting for work item 0 of rank 1, launch 0"));
  const ProgramKernel patient(1, [](Machine& m, std::int64_t) {
    m.wait(4, 1);
    send(m, 8.0);
    m.signal(7, Home::kPeer);
  });
  Pair other;
  other.machines.bind(1, "result", second, 1);
  EXPECT_EQ(other.run({{&sender, &patient}, {&receiver, &again}}), "");
  EXPECT_EQ(second.values(), std::vector<float>(kRows * kCols, 8.0F));
}

TEST(RankedMachines, AResetFlagStartsAtZero) {
  Pair pair;
  const ProgramKernel kernel(3, [](Machine& m, std::int64_t item) {
    if (item == 0) {
      m.signal(3);
      m.signal(1);
    } else if (item == 1) {
      m.wait(1, 1);
      m.reset(3, 2);
      m.signal(2);
    } else {
      m.wait(2, 1);
      m.wait(3, 1);
    }
  });
  const ProgramKernel none(0, [](Machine&, std::int64_t) {});
  EXPECT_THAT(pair.run({{&kernel}, {&none}}), HasSubstr("flag 3 to reach 1, now 0"));
}

TEST(RankedMachines, AnInputIsNotWritten) {
  RankedMachines machines(2);
  std::vector<HostTensor> mail(2, HostTensor(kRows, kCols));
  machines.bind_shared("mail", mail, true);
  const ProgramKernel sender(1, [](Machine& m, std::int64_t) { send(m); });
  const ProgramKernel none(0, [](Machine&, std::int64_t) {});
  const std::vector<std::vector<const tile::Kernel*>> launches = {{&sender}, {&none}};
  EXPECT_THROW(machines.run(launches, {}), Hazard);
}

}  // namespace
}  // namespace foretoken::hwmodels::value
