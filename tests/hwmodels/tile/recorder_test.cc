// What a recorder keeps of a kernel's steps: engines, bytes, seconds, loops, and what does not fit.
#include "hwmodels/tile/recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/hwmodels/tile/programs.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels::tile {
namespace {

using test_support::plain_rates;
using test_support::ProgramKernel;

constexpr std::int64_t kSide = 8;

// One tensor and a buffer of each kind of memory, `kSide` square, in FP8.
struct Places {
  TensorId tensor;
  Buffer operand, other, accumulator, vector;
};

Places places(Machine& m, std::int64_t slots = 2) {
  Places p{};
  p.tensor = m.tensor({.name = "x", .dtype = Dtype::kFp8, .rows = 64, .cols = 64});
  const auto buffer = [&](std::string_view name, Local local, Dtype dtype) {
    return m.buffer({.name = name,
                     .local = local,
                     .dtype = dtype,
                     .rows = kSide,
                     .cols = kSide,
                     .slots = slots});
  };
  p.operand = buffer("operand", Local::kOperand, Dtype::kFp8);
  p.other = buffer("other", Local::kOperand, Dtype::kFp8);
  p.accumulator = buffer("sums", Local::kAccumulator, Dtype::kFp32);
  p.vector = buffer("vector", Local::kVector, Dtype::kFp32);
  return p;
}

// Records a program of one item and returns its only step.
Step only_step(const CoreRates& rates, const std::function<void(Machine&, const Places&)>& body) {
  Recorder recorder(rates);
  recorder.record(ProgramKernel(1, [&](Machine& m, std::int64_t) { body(m, places(m)); }));
  EXPECT_EQ(recorder.programs().size(), 1U);
  EXPECT_EQ(recorder.programs().front().steps.size(), 1U);
  return recorder.programs().front().steps.front();
}

constexpr Block kTile{0, kSide, 0, kSide};

TEST(Recorder, ALoadMovesWhatItAsksForItsShareAndItsPadding) {
  const CoreRates rates = plain_rates();
  const auto load = [&](int shared, double padding) {
    return only_step(rates, [&](Machine& m, const Places& p) {
      m.load(p.operand(), p.tensor, kTile, shared, padding);
    });
  };
  EXPECT_EQ(load(1, 1.0).engine, Engine::kLoad);
  EXPECT_EQ(load(1, 1.0).kind, StepKind::kLoad);
  EXPECT_DOUBLE_EQ(load(1, 1.0).bytes, 64.0);
  EXPECT_DOUBLE_EQ(load(1, 1.0).cache_bytes, 64.0);
  EXPECT_DOUBLE_EQ(load(2, 1.0).bytes, 32.0);
  EXPECT_DOUBLE_EQ(load(2, 1.0).cache_bytes, 32.0);
  EXPECT_DOUBLE_EQ(load(1, 1.5).bytes, 96.0);
}

TEST(Recorder, AGatherFetchesWholeSectorsOfRowsOrPages) {
  CoreRates rates = plain_rates();
  rates.sector = 32.0;
  const auto gather = [&](std::int64_t cols, std::int64_t page) {
    return only_step(rates, [&](Machine& m, const Places& p) {
      m.gather(p.operand(), p.tensor, p.vector(0, {0, 8, 0, 1}), 0, cols, page, 1);
    });
  };
  EXPECT_EQ(gather(8, 1).kind, StepKind::kGather);
  EXPECT_DOUBLE_EQ(gather(8, 1).bytes, 8.0 * 32.0);   // 8 B take a sector
  EXPECT_DOUBLE_EQ(gather(33, 1).bytes, 8.0 * 64.0);  // 33 B two
  EXPECT_DOUBLE_EQ(gather(8, 4).bytes, 8.0 * 32.0);   // pages of four rows lie together
  EXPECT_DOUBLE_EQ(gather(kAll, 1).bytes, 8.0 * 64.0);
  EXPECT_EQ(gather(8, 1).reads, 1);
}

TEST(Recorder, StoresGoThroughTheCacheAndAtomicOnesTwice) {
  const CoreRates rates = plain_rates();
  const Step store =
      only_step(rates, [](Machine& m, const Places& p) { m.store(p.tensor, kTile, p.operand()); });
  EXPECT_EQ(store.engine, Engine::kStore);
  EXPECT_DOUBLE_EQ(store.bytes, 64.0);
  EXPECT_DOUBLE_EQ(store.cache_bytes, 64.0);
  EXPECT_FALSE(store.writes);
  const Step reduce = only_step(
      rates, [](Machine& m, const Places& p) { m.reduce_store(p.tensor, kTile, p.operand()); });
  EXPECT_DOUBLE_EQ(reduce.bytes, 64.0);
  EXPECT_DOUBLE_EQ(reduce.cache_bytes, 128.0);
  const Step scatter = only_step(rates, [](Machine& m, const Places& p) {
    m.scatter(p.tensor, p.vector(0, {0, 8, 0, 1}), p.operand());
  });
  EXPECT_DOUBLE_EQ(scatter.bytes, 8.0 * 32.0);
}

TEST(Recorder, AProductTakesWholeInstructionsAtItsDtypesRate) {
  CoreRates rates = plain_rates();
  const auto matrix = [&](const MatrixStep& s) {
    return only_step(rates,
                     [&](Machine& m, const Places& p) {
                       m.matrix(p.accumulator(), p.operand(), p.other(), s);
                     })
        .seconds;
  };
  const MatrixStep eight{.m = 8, .n = 8, .k = 8, .compute = Dtype::kFp8};
  MatrixStep four = eight;
  four.compute = Dtype::kFp4;
  MatrixStep mixed = eight;
  mixed.mixed_fp4 = true;
  MatrixStep pair = eight;
  pair.pair = true;
  EXPECT_DOUBLE_EQ(matrix(eight), 1024e-9);
  EXPECT_DOUBLE_EQ(matrix(four), 512e-9);
  rates.fp4_fp8_rate = 2.0;
  EXPECT_DOUBLE_EQ(matrix(mixed), 512e-9);
  EXPECT_DOUBLE_EQ(matrix(eight), 1024e-9);
  rates.tile_rows = 16.0;
  rates.tile_columns = 12.0;
  EXPECT_DOUBLE_EQ(matrix(eight), 2.0 * 16 * 12 * 8 * 1e-9);
  EXPECT_DOUBLE_EQ(matrix(pair), 2.0 * 8 * 12 * 8 * 1e-9);  // the rows of both fill one
  rates.matrix_head = 5e-9;
  EXPECT_DOUBLE_EQ(matrix(eight), 2.0 * 16 * 12 * 8 * 1e-9 + 5e-9);
  // 16 rows and 12 columns of 8 numbers have to come from local memory.
  rates.operand_feed = 1e6;
  EXPECT_DOUBLE_EQ(matrix(eight), (16.0 + 12.0) * 8.0 / 1e6 + 5e-9);
  EXPECT_DOUBLE_EQ(matrix(pair), (8.0 + 6.0) * 8.0 / 1e6 + 5e-9);
}

TEST(Recorder, OperandsBesideTheSumsNeedNotBeFed) {
  CoreRates rates = plain_rates();
  rates.operand_feed = 1e6;
  const Step s = only_step(rates, [](Machine& m, const Places& p) {
    m.matrix(p.accumulator(), p.accumulator(1), p.other(),
             {.m = 8, .n = 8, .k = 8, .compute = Dtype::kFp8});
  });
  EXPECT_DOUBLE_EQ(s.seconds, 8.0 * 8.0 / 1e6);
}

TEST(Recorder, ADtypeTheMatrixUnitLacksIsAnErrorNamingKernelChipAndDtype) {
  EXPECT_EQ(base::thrown<base::UnsupportedError>([] {
              only_step(plain_rates(), [](Machine& m, const Places& p) {
                m.matrix(p.accumulator(), p.operand(), p.other(),
                         {.m = 8, .n = 8, .k = 8, .compute = Dtype::kBf16});
              });
            }),
            "program on plain: its matrix unit cannot multiply bf16");
}

TEST(Recorder, WhatMovesBetweenUnitsTakesTheChipsWay) {
  CoreRates rates = plain_rates();
  rates.cache_latency = 3e-9;
  const auto move = [&] {
    return only_step(rates,
                     [](Machine& m, const Places& p) { m.move(p.vector(), p.accumulator()); });
  };
  EXPECT_EQ(move().engine, Engine::kExchange);
  EXPECT_EQ(move().seconds, 0.0);  // read in place
  rates.exchange = Exchange::kDirect;
  rates.exchange_rate = 2e9;
  EXPECT_DOUBLE_EQ(move().seconds, 256.0 / 2e9);
  rates.exchange = Exchange::kCache;
  EXPECT_DOUBLE_EQ(move().seconds, 2.0 * 256.0 / 1e9 + 3e-9);
  EXPECT_DOUBLE_EQ(move().cache_bytes, 512.0);
}

TEST(Recorder, VectorStepsTakeTheirLanesOrTheirChain) {
  CoreRates rates = plain_rates();
  const auto add = [&](const VectorArgs& args = {}) {
    return only_step(rates,
                     [&](Machine& m, const Places& p) {
                       m.vector(VectorKind::kAdd, p.vector(), {p.vector(), p.vector(1)}, args);
                     })
        .seconds;
  };
  const auto exp = [&] {
    return only_step(rates,
                     [](Machine& m, const Places& p) {
                       m.vector(VectorKind::kExp, p.vector(), {p.vector()});
                     })
        .seconds;
  };
  EXPECT_DOUBLE_EQ(add(), 64e-9);
  EXPECT_DOUBLE_EQ(add({.shared = 2}), 32e-9);
  EXPECT_DOUBLE_EQ(exp(), 2.0 * 64e-9);  // an operation and a special result each
  rates.vector_latency = 1e-6;
  EXPECT_GE(add(), 1e-6);
}

TEST(Recorder, UpdatesReadWhatTheyWrite) {
  const CoreRates rates = plain_rates();
  const auto updates = [&](VectorKind kind) {
    return only_step(rates,
                     [&](Machine& m, const Places& p) {
                       m.vector(kind, p.vector(), {p.vector(1), p.vector(1)});
                     })
        .updates;
  };
  EXPECT_TRUE(updates(VectorKind::kFma));
  EXPECT_FALSE(updates(VectorKind::kAdd));
  const auto accumulates = [&](bool accumulate) {
    return only_step(
               rates,
               [&](Machine& m, const Places& p) {
                 m.matrix(
                     p.accumulator(), p.operand(), p.other(),
                     {.m = 8, .n = 8, .k = 8, .compute = Dtype::kFp8, .accumulate = accumulate});
               })
        .updates;
  };
  EXPECT_TRUE(accumulates(true));
  EXPECT_FALSE(accumulates(false));
}

TEST(Recorder, LoopsAreSectionsOfPhasesAndStraightStepsOneOfTheirOwn) {
  const CoreRates rates = plain_rates();
  Recorder recorder(rates);
  recorder.record(ProgramKernel(3, [](Machine& m, std::int64_t) {
    const Places p = places(m);
    m.vector(VectorKind::kFill, p.vector(), {});
    m.pipeline(10, {Phase{1, [&](std::int64_t i) { m.load(p.operand(i), p.tensor, kTile); }},
                    Phase{0, [&](std::int64_t i) {
                            m.matrix(p.accumulator(), p.operand(i), p.operand(i + 1),
                                     {.m = 8, .n = 8, .k = 8, .compute = Dtype::kFp8});
                          }}});
    m.move(p.vector(), p.accumulator());
    m.store(p.tensor, kTile, p.vector());
  }));
  ASSERT_EQ(recorder.programs().size(), 1U);
  const TileProgram& p = recorder.programs().front();
  EXPECT_EQ(p.items, 3);
  ASSERT_EQ(p.sections.size(), 3U);
  EXPECT_EQ(p.sections[0].iterations, 1);
  EXPECT_EQ(p.sections[1].iterations, 10);
  EXPECT_EQ(p.sections[1].count, 2U);
  EXPECT_EQ(p.sections[2].count, 1U);
  ASSERT_EQ(p.phases.size(), 4U);
  EXPECT_EQ(p.phases[1].ahead, 1);
  EXPECT_EQ(p.phases[2].ahead, 0);
  EXPECT_EQ(p.phases[3].count, 2U);
  ASSERT_EQ(p.steps.size(), 5U);
  EXPECT_EQ(p.steps[2].read[1].offset, 1);
  EXPECT_EQ(p.slots, 8U);
  // Every item and iteration counts.
  EXPECT_DOUBLE_EQ(recorder.tensors()[0].loaded, 3.0 * 10.0 * 64.0);
  EXPECT_DOUBLE_EQ(recorder.tensors()[0].stored, 3.0 * 64.0);
  EXPECT_DOUBLE_EQ(p.flops, 10.0 * 1024.0);
}

TEST(Recorder, ClassesWithoutItemsAndLoopsWithoutIterationsLeaveNothing) {
  const CoreRates rates = plain_rates();
  Recorder recorder(rates);
  recorder.record(ProgramKernel({2, 0, 5}, [](Machine& m, std::int64_t) {
    const Places p = places(m);
    m.pipeline(0, {Phase{0, [&](std::int64_t i) { m.load(p.operand(i), p.tensor, kTile); }}});
    m.load(p.operand(), p.tensor, kTile);
  }));
  ASSERT_EQ(recorder.programs().size(), 2U);
  EXPECT_EQ(recorder.programs()[0].items, 2);
  EXPECT_EQ(recorder.programs()[1].items, 5);
  EXPECT_EQ(recorder.programs()[0].steps.size(), 1U);
  // A second recording replaces the first.
  recorder.record(ProgramKernel(1, [](Machine& m, std::int64_t) { places(m); }));
  ASSERT_EQ(recorder.programs().size(), 1U);
  EXPECT_TRUE(recorder.programs()[0].steps.empty());
  EXPECT_DOUBLE_EQ(recorder.tensors()[0].loaded, 0.0);
}

TEST(Recorder, BuffersBeyondACoresMemoryAreAnErrorThatListsThem) {
  CoreRates rates = plain_rates();
  rates.capacity = {255.0, 1e6, 1e6};
  const auto error = [&](std::int64_t slots) {
    return base::thrown<base::UnsupportedError>([&] {
      Recorder(rates).record(ProgramKernel(1, [&](Machine& m, std::int64_t) { places(m, slots); }));
    });
  };
  EXPECT_EQ(error(2),
            "program does not fit plain: 256 B of operand memory asked (operand 128 B, other 128 "
            "B), 255 B there");
  rates.capacity = {256.0, 511.0, 1e6};
  EXPECT_EQ(error(2),
            "program does not fit plain: 512 B of accumulator memory asked (sums 512 B), 511 B "
            "there");
  rates.capacity = {256.0, 512.0, 512.0};
  EXPECT_NO_THROW(
      Recorder(rates).record(ProgramKernel(1, [](Machine& m, std::int64_t) { places(m, 2); })));
}

TEST(Recorder, SharedBuffersTakeTheirShareAndScalesTheirBytes) {
  CoreRates rates = plain_rates();
  rates.capacity = {100.0, 0.0, 0.0};
  const auto fits = [&](double share, double scales) {
    try {
      Recorder(rates).record(ProgramKernel(1, [&](Machine& m, std::int64_t) {
        m.buffer({.name = "b",
                  .local = Local::kOperand,
                  .dtype = Dtype::kFp8,
                  .rows = 10,
                  .cols = 10,
                  .scale_bytes = scales,
                  .share = share});
      }));
    } catch (const base::UnsupportedError&) {
      return false;
    }
    return true;
  };
  EXPECT_TRUE(fits(1.0, 0.0));
  EXPECT_FALSE(fits(1.0, 0.01));
  EXPECT_TRUE(fits(0.5, 1.0));
}

TEST(Recorder, OfAPeersTensorItsShareCrossesTheLinks) {
  const CoreRates rates = plain_rates();
  Recorder recorder(rates);
  recorder.record(ProgramKernel(3, [](Machine& m, std::int64_t) {
    const TensorId all = m.tensor({.name = "all",
                                   .dtype = Dtype::kFp8,
                                   .rows = 64,
                                   .cols = kSide,
                                   .home = Home::kPeer,
                                   .peer_share = 0.75});
    // The same name without peers is this device's own part.
    const TensorId own = m.tensor({.name = "all", .dtype = Dtype::kFp8, .rows = 16, .cols = kSide});
    const Buffer b = m.buffer({.name = "b",
                               .local = Local::kOperand,
                               .dtype = Dtype::kFp8,
                               .rows = kSide,
                               .cols = kSide});
    m.load(b(), all, kTile);
    m.store(all, kTile, b());
    m.store(all, kTile, b());
    m.load(b(), own, kTile);
  }));
  const TileProgram& p = recorder.programs().front();
  EXPECT_EQ(p.peer_loaded, 0.75 * kSide * kSide);
  EXPECT_EQ(p.peer_stored, 1.5 * kSide * kSide);
  ASSERT_EQ(recorder.tensors().size(), 2U);
  EXPECT_EQ(recorder.tensors()[0].loaded, 3.0 * kSide * kSide);
  EXPECT_EQ(recorder.tensors()[1].loaded, 3.0 * kSide * kSide);
}

TEST(Recorder, ASignalToAPeerTakesTheLinksLatency) {
  CoreRates rates = plain_rates();
  rates.cache_latency = 1e-7;
  rates.link_latency = 1e-6;
  const auto signal = [&](Home where) {
    return only_step(rates, [&](Machine& m, const Places&) { m.signal(1, where); }).seconds;
  };
  EXPECT_EQ(signal(Home::kCache), 1e-7);
  EXPECT_EQ(signal(Home::kPeer), 1e-6);
}

}  // namespace
}  // namespace foretoken::hwmodels::tile
