// The chip, system and other files of configs/: published headline figures, sources, completeness.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "hwmodels/designs.h"
#include "sim/base/config.h"
#include "sim/base/config_print.h"
#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

namespace fs = std::filesystem;
using base::config_error;
using base::thrown;
using test_support::configs;
using workloads::Dtype;

ChipSpec chip(const std::string& name) {
  return base::load_config<ChipSpec>(configs() / "chips" / (name + ".yaml"));
}

double tflops(const ChipSpec& c, Dtype d) {
  return c.matrix.peak[static_cast<std::size_t>(d)].value() * 1e-12;
}

// As published, rounded as published; 0 = the chip has none. TFLOP/s, TB/s, GB, FLOP/B.
struct Headline {
  const char* name;
  int cores;
  double bf16, fp8, int8, fp4;
  double bandwidth, capacity;
  double ridge;  // BF16 peak over bandwidth
};

constexpr Headline kHeadlines[] = {
    {"a100_sxm", 108, 312, 0, 624, 0, 2.04, 80, 152.9},
    {"h100_sxm", 132, 989, 1979, 1979, 0, 3.35, 80, 295.2},
    {"h800_sxm", 132, 989, 1979, 1979, 0, 3.35, 80, 295.2},
    {"h200_sxm", 132, 989, 1979, 1979, 0, 4.8, 141, 206.0},
    {"h20_sxm", 78, 148, 296, 296, 0, 4.0, 96, 37.0},
    {"h20_141gb", 78, 148, 296, 296, 0, 4.8, 141, 30.8},
    {"b200_sxm", 148, 2250, 4500, 4500, 9000, 8.0, 180, 281.2},
    {"b300_sxm", 148, 2250, 4500, 153.5, 14000, 8.0, 288, 281.2},
    {"gb200", 148, 2500, 5000, 5000, 10000, 8.0, 186, 312.5},
    {"gb300", 148, 2500, 5000, 165, 15000, 8.0, 288, 312.5},
    {"rubin", 0, 4000, 16700, 0, 35000, 22.0, 288, 181.8},
    {"ascend_910b1", 24, 364, 0, 727, 0, 1.6, 64, 227.3},
    {"ascend_910b2", 24, 354, 0, 708, 0, 1.6, 64, 221.2},
    {"ascend_910b3", 20, 295, 0, 590, 0, 1.6, 64, 184.3},
    {"ascend_910b4", 20, 246, 0, 492, 0, 0.8, 32, 307.2},
    {"ascend_910c", 24, 376, 0, 752, 0, 1.6, 64, 235.0},  // one die
    {"ascend_950pr_28c", 28, 378, 756, 756, 1513, 1.6, 128, 236.5},
    {"ascend_950pr_32c", 32, 432, 865, 865, 1730, 1.6, 128, 270.3},
    {"atlas_350", 28, 378, 756, 756, 1513, 1.4, 112, 270.3},
    {"ascend_950dt_28c_96gb", 28, 378, 756, 756, 1513, 4.0, 96, 94.6},
    {"ascend_950dt_32c_96gb", 32, 432, 865, 865, 1730, 4.0, 96, 108.1},
    {"ascend_950dt_32c_144gb", 32, 432, 865, 865, 1730, 4.0, 144, 108.1},
    {"ascend_950dt_36c_144gb", 36, 486, 973, 973, 1946, 4.0, 144, 121.7},
    {"mlu590", 0, 330, 0, 660, 0, 2.4, 80, 137.5},
    {"mlu690", 0, 850, 1700, 1700, 0, 3.2, 128, 265.6},
};

TEST(Chips, EveryChipFileHasARowOfPublishedFiguresHere) {
  std::vector<std::string> names;
  for (const Headline& h : kHeadlines) names.emplace_back(h.name);
  EXPECT_THAT(names, testing::UnorderedElementsAreArray(list_configs(configs(), "chips")));
}

TEST(Chips, PeaksBandwidthCapacityAndRidgePointAreThePublishedOnes) {
  for (const Headline& h : kHeadlines) {
    SCOPED_TRACE(h.name);
    const ChipSpec c = chip(h.name);
    EXPECT_NEAR(tflops(c, Dtype::kBf16), h.bf16, 1.0);
    EXPECT_NEAR(tflops(c, Dtype::kFp8), h.fp8, 1.0);
    EXPECT_NEAR(tflops(c, Dtype::kInt8), h.int8, 1.0);
    EXPECT_NEAR(tflops(c, Dtype::kFp4), h.fp4, 1.0);
    EXPECT_DOUBLE_EQ(c.hbm().bandwidth.value() * 1e-12, h.bandwidth);
    EXPECT_DOUBLE_EQ(c.hbm().capacity.value() * 1e-9, h.capacity);
    EXPECT_NEAR(tflops(c, Dtype::kBf16) / (c.hbm().bandwidth.value() * 1e-12), h.ridge, 0.1);
    if (h.cores > 0) {
      EXPECT_EQ(c.cores, h.cores);
    }
  }
}

TEST(Chips, PeaksOfTheAscend950FollowFromCoresClockAndTheMatrixArray) {
  for (const Headline& h : kHeadlines) {
    const ChipSpec c = chip(h.name);
    if (c.family != "ascend_3510") continue;
    SCOPED_TRACE(h.name);
    // 16 x 16 x 16 multiply-adds a clock and core at BF16.
    const double bf16 = static_cast<double>(c.cores) * 4096.0 * 2.0 * c.clock.value();
    EXPECT_NEAR(c.clock.value(), 1.65e9, 1.0);
    EXPECT_NEAR(c.peak(Dtype::kBf16).value(), bf16, 1e6);
    EXPECT_NEAR(c.peak(Dtype::kFp8).value(), 2.0 * bf16, 1e6);
    EXPECT_NEAR(c.peak(Dtype::kInt8).value(), 2.0 * bf16, 1e6);
    EXPECT_NEAR(c.peak(Dtype::kFp4).value(), 4.0 * bf16, 1e6);
    EXPECT_NEAR(c.peak(Dtype::kHf32).value(), 0.5 * bf16, 1e6);
    EXPECT_NEAR(c.peak(Dtype::kFp32).value(), bf16 / 16.0, 1e6);
    EXPECT_EQ(c.matrix.fp4_widen, WidenPath::kVector);
  }
}

// Per clock of a core by family: bytes into the matrix unit and between matrix and vector units,
// clocks before a matrix instruction runs at its rate; bytes a read of one row fetches at least,
// and seconds of a dependent vector step.
struct CoreWays {
  const char* family;
  Exchange exchange;
  double feed, exchange_bytes, head, gather, step_clocks, step_ns;
};
constexpr CoreWays kWays[] = {
    {"ampere", Exchange::kRegisters, 128, 0, 0, 32, 6, 0},
    {"hopper", Exchange::kRegisters, 128, 0, 0, 32, 6, 0},
    {"blackwell", Exchange::kDirect, 128, 512, 0, 32, 6, 0},
    {"rubin", Exchange::kDirect, 128, 512, 0, 32, 6, 0},
    {"ascend_2201", Exchange::kCache, 384, 0, 21, 512, 0, 16},
    {"ascend_3510", Exchange::kDirect, 512, 256, 25, 128, 0, 6},
    {"cambricon", Exchange::kDirect, 256, 128, 20, 128, 0, 16},
};

TEST(Chips, WaysInsideACoreFollowFromItsFamilyAndClock) {
  for (const Headline& h : kHeadlines) {
    SCOPED_TRACE(h.name);
    const ChipSpec c = chip(h.name);
    const auto* const ways = std::find_if(std::begin(kWays), std::end(kWays),
                                          [&](const CoreWays& w) { return w.family == c.family; });
    ASSERT_NE(ways, std::end(kWays)) << c.family;
    const double clock = c.clock.value();
    EXPECT_EQ(c.exchange, ways->exchange);
    EXPECT_NEAR(c.matrix.operand_feed.value() / clock, ways->feed, 0.1);
    EXPECT_NEAR(c.exchange_rate.value() / clock, ways->exchange_bytes, 0.1);
    EXPECT_NEAR(c.matrix.head.value() * clock, ways->head, 0.01);
    EXPECT_EQ(c.gather_granularity.value(), ways->gather);
    EXPECT_NEAR(c.vector.step_latency.value(), ways->step_clocks / clock + ways->step_ns * 1e-9,
                1e-11);
  }
}

TEST(Chips, EveryCoreSaysWhatItsProgramsMayHold) {
  for (const Headline& h : kHeadlines) {
    SCOPED_TRACE(h.name);
    const tile::CoreRates r = derive_rates(load_chip(h.name, configs())).core;
    EXPECT_EQ(r.chip, h.name);
    for (const double bytes : r.capacity) {
      EXPECT_GE(bytes, 64.0 * 1024.0);
      EXPECT_LE(bytes, 1024.0 * 1024.0);
    }
    EXPECT_GE(r.power_limit, 0.0);  // 0: its calibration has no power constants
    EXPECT_LT(r.power_limit, chip(h.name).tdp_watts.value);
  }
}

TEST(Chips, NoChipMultipliesFp4WithFp8FasterThanFp8Today) {
  for (const Headline& h : kHeadlines) EXPECT_EQ(chip(h.name).matrix.fp4_fp8_rate, 1.0) << h.name;
}

TEST(Chips, AMissingDtypeIsAnErrorThatNamesChipAndDtype) {
  EXPECT_THAT(thrown<base::UnsupportedError>([] { (void)chip("h100_sxm").peak(Dtype::kFp4); }),
              testing::StartsWith("h100_sxm has no fp4 peak"));
  EXPECT_THAT(thrown<base::UnsupportedError>([] { (void)chip("ascend_910c").peak(Dtype::kFp8); }),
              testing::StartsWith("ascend_910c has no fp8 peak"));
  EXPECT_THAT(thrown<base::UnsupportedError>([] { (void)chip("a100_sxm").peak(Dtype::kFp8); }),
              testing::StartsWith("a100_sxm has no fp8 peak"));
  EXPECT_FALSE(chip("h100_sxm").supports(Dtype::kFp4));
  EXPECT_TRUE(chip("h100_sxm").supports(Dtype::kFp8));
}

TEST(Chips, EveryChipIsConsistentWithinItself) {
  for (const Headline& h : kHeadlines) {
    SCOPED_TRACE(h.name);
    const ChipSpec c = chip(h.name);
    ASSERT_EQ(c.memory.size(), 2U);
    EXPECT_EQ(c.hbm().name, "hbm");
    EXPECT_EQ(c.cache().name, "l2");
    EXPECT_LT(c.cache().capacity, c.hbm().capacity);
    EXPECT_GT(c.cache().bandwidth, c.hbm().bandwidth);
    EXPECT_LT(c.cache().latency, c.hbm().latency);
    // All cores together can draw what the memory gives.
    EXPECT_GE(c.core_bandwidth.value() * static_cast<double>(c.cores), c.hbm().bandwidth.value());
    EXPECT_LE(c.tdp_watts.low, c.tdp_watts.value);
    EXPECT_LE(c.tdp_watts.value, c.tdp_watts.high);
  }
}

// devices, devices that reach each other with memory semantics, devices under one host
struct SystemRow {
  const char* name;
  const char* chip;
  int devices, scale_up, per_node;
};
constexpr SystemRow kSystems[] = {
    {"atlas_350_x4", "atlas_350", 4, 4, 4},
    {"atlas_650e", "ascend_950dt_32c_96gb", 8, 8, 8},
    {"atlas_800_a2", "ascend_910b2", 8, 8, 8},
    {"atlas_850e", "ascend_950dt_32c_144gb", 96, 96, 8},
    {"atlas_950_1024", "ascend_950dt_32c_144gb", 1024, 1024, 8},
    {"atlas_950_8192", "ascend_950dt_32c_144gb", 8192, 8192, 8},
    {"atlas_950_cabinet", "ascend_950dt_32c_144gb", 64, 64, 8},
    {"atlas_a3_server", "ascend_910c", 16, 16, 16},
    {"cloudmatrix384", "ascend_910c", 768, 768, 16},
    {"gb200_nvl72", "gb200", 72, 72, 4},
    {"gb300_nvl72", "gb300", 72, 72, 4},
    {"vr_nvl72", "rubin", 72, 72, 4},
    {"hgx_a100", "a100_sxm", 8, 8, 8},
    {"hgx_b200", "b200_sxm", 8, 8, 8},
    {"hgx_b300", "b300_sxm", 8, 8, 8},
    {"hgx_h100", "h100_sxm", 8, 8, 8},
    {"hgx_h20", "h20_sxm", 8, 8, 8},
    {"hgx_h200", "h200_sxm", 8, 8, 8},
    {"hgx_h200_x4", "h200_sxm", 32, 8, 8},
    {"hgx_h20_141gb", "h20_141gb", 8, 8, 8},
    {"hgx_h20_141gb_x2", "h20_141gb", 16, 8, 8},
    {"hgx_h800", "h800_sxm", 8, 8, 8},
    {"mlu590_x8", "mlu590", 8, 8, 8},
    {"mlu690_x8", "mlu690", 8, 8, 8},
};

TEST(Systems, SizesMultiplyToDevicesAndScaleUpDomain) {
  std::vector<std::string> names;
  for (const SystemRow& row : kSystems) {
    SCOPED_TRACE(row.name);
    names.emplace_back(row.name);
    const Hardware h = test_support::hardware(row.name);
    EXPECT_EQ(h.system.chip, row.chip);
    EXPECT_EQ(h.system.devices(), row.devices);
    EXPECT_EQ(h.system.scale_up_domain(), row.scale_up);
    EXPECT_EQ(h.system.devices_per_node, row.per_node);
    EXPECT_EQ(h.system.devices_per_package, h.chip.name == "ascend_910c" ? 2 : 1);
    // Scale-up dimensions are inside the others: scale_up_domain() is a block of neighbours.
    EXPECT_TRUE(std::is_partitioned(h.system.fabric.begin(), h.system.fabric.end(),
                                    [](const FabricDimension& d) { return d.scale_up; }));
    EXPECT_GE(h.system.power_watts.value, h.chip.tdp_watts.value);
  }
  EXPECT_THAT(names, testing::UnorderedElementsAreArray(list_configs(configs(), "systems")));
}

TEST(Systems, LinksAreThePublishedOnesPerDirection) {
  const auto inner = [](const char* system) {
    return test_support::hardware(system).system.outside_package().bandwidth.value() * 1e-9;
  };
  EXPECT_EQ(inner("hgx_a100"), 300);
  EXPECT_EQ(inner("hgx_h100"), 450);
  EXPECT_EQ(inner("hgx_h800"), 200);
  EXPECT_EQ(inner("hgx_b200"), 900);
  EXPECT_EQ(inner("gb300_nvl72"), 900);
  EXPECT_EQ(inner("vr_nvl72"), 1800);
  EXPECT_EQ(inner("cloudmatrix384"), 196);
  // 18 ports of 56 GB/s: 7 on the board, 7 across boards, 4 to the Clos.
  const Hardware cabinet = test_support::hardware("atlas_950_cabinet");
  ASSERT_EQ(cabinet.system.fabric.size(), 3U);
  double ports = 0.0;
  for (const FabricDimension& d : cabinet.system.fabric) ports += d.bandwidth.value();
  EXPECT_DOUBLE_EQ(ports, 18.0 * 56e9);
  EXPECT_EQ(cabinet.system.fabric[0].topology, LinkTopology::kFullMesh);
  EXPECT_EQ(cabinet.system.fabric[1].topology, LinkTopology::kFullMesh);
  EXPECT_EQ(cabinet.system.fabric[2].topology, LinkTopology::kClos);
}

TEST(Systems, EveryChipIsInSomeSystemOrSharesItsFamilysCalibration) {
  for (const Headline& h : kHeadlines) {
    SCOPED_TRACE(h.name);
    const ChipSpec c = chip(h.name);
    const fs::path own = configs() / "calibration" / (c.name + ".yaml");
    const fs::path family = configs() / "calibration" / (c.family + ".yaml");
    ASSERT_TRUE(fs::exists(own) || fs::exists(family));
    const auto calibration = base::load_config<Calibration>(fs::exists(own) ? own : family);
    for (int d = 0; d < workloads::kDtypeCount; ++d) {
      if (!c.supports(static_cast<Dtype>(d))) continue;
      EXPECT_GT(calibration.matrix_efficiency[static_cast<std::size_t>(d)].value, 0.0)
          << workloads::to_string(static_cast<Dtype>(d));
    }
  }
}

TEST(Systems, APlaceholderOrPreliminaryChipIsNeverMoreThanAssumed) {
  EXPECT_EQ(test_support::hardware("mlu590_x8").basis(), base::Basis::kAssumed);
  EXPECT_EQ(test_support::hardware("vr_nvl72").basis(), base::Basis::kAssumed);
  EXPECT_EQ(test_support::hardware("hgx_h200").basis(), base::Basis::kCalibrated);
  EXPECT_EQ(test_support::hardware("hgx_h100").basis(), base::Basis::kAssumed);
}

void collect_sources(const base::ConfigTree& tree, const std::string& file,
                     std::vector<std::pair<std::string, std::string>>& used) {
  for (const auto& [key, value] : tree.entries) {
    if ((key == "source" || key.ends_with("_source")) &&
        value.kind == base::ConfigTree::Kind::kScalar) {
      used.emplace_back(value.scalar, file + ":" + std::to_string(value.line));
    }
    collect_sources(value, file, used);
  }
  for (const base::ConfigTree& item : tree.items) collect_sources(item, file, used);
}

TEST(Sources, EveryIdUsedInConfigsIsListedOnce) {
  std::set<std::string> known;
  const base::ConfigFile listed = base::read_config_file(configs() / "sources.yaml");
  const base::ConfigTree* list = listed.root.find("sources");
  ASSERT_NE(list, nullptr);
  for (const base::ConfigTree& item : list->items) {
    EXPECT_TRUE(known.insert(item.find("id")->scalar).second) << item.find("id")->scalar;
  }
  std::vector<std::pair<std::string, std::string>> used;
  for (const auto& entry : fs::recursive_directory_iterator(configs())) {
    if (entry.path().extension() != ".yaml") continue;
    const base::ConfigFile file = base::read_config_file(entry.path());
    collect_sources(file.root, entry.path().filename().string(), used);
  }
  ASSERT_GT(used.size(), 200U);
  for (const auto& [id, where] : used) EXPECT_TRUE(known.contains(id)) << id << " at " << where;
}

// What is printed can be read again and is the same.
template <class T>
void expect_read_back(const fs::path& path) {
  const T value = base::load_config<T>(path);
  const std::string printed = base::print_config(value);
  const T again = base::read_config<T>(base::parse_yaml(path.string(), printed));
  EXPECT_EQ(base::print_config(again), printed) << path;
}

TEST(Configs, ChipsSystemsCalibrationAndPrecisionPrintAndReadBackTheSame) {
  const auto each = [](const char* folder, auto&& check) {
    const auto names = list_configs(configs(), folder);
    EXPECT_FALSE(names.empty()) << folder;
    for (const std::string& n : names) check(configs() / folder / (n + ".yaml"));
  };
  each("chips", expect_read_back<ChipSpec>);
  each("systems", expect_read_back<SystemSpec>);
  each("calibration", [](const fs::path& path) {
    // Not constants of a chip, but how far predictions were off.
    if (path.stem() != "errors") expect_read_back<Calibration>(path);
  });
  each("precision", expect_read_back<workloads::PrecisionRecipe>);
  each("designs", expect_read_back<DesignFile>);
  each("stacks", [](const fs::path& path) {
    EXPECT_EQ(load_stack(path.stem().string(), configs()).name, path.stem().string());
  });
}

TEST(Configs, EveryFileIsNamedAfterItsName) {
  for (const char* folder : {"chips", "systems", "calibration", "precision", "stacks", "specdec",
                             "scenarios", "designs", "designs/sets"}) {
    for (const std::string& n : list_configs(configs(), folder)) {
      const base::ConfigFile file = base::read_config_file(configs() / folder / (n + ".yaml"));
      ASSERT_NE(file.root.find("name"), nullptr) << n;
      EXPECT_EQ(file.root.find("name")->scalar, n) << folder;
    }
  }
}

TEST(Hardware, AnUnknownSystemNamesTheKnownOnes) {
  EXPECT_THAT(config_error([] { test_support::hardware("hgx_h1000"); }),
              testing::AllOf(testing::StartsWith("hgx_h1000: error: no such system; known: "),
                             testing::HasSubstr("hgx_h100, "), testing::HasSubstr("vr_nvl72")));
}

// A copy of configs/ whose files a test may edit.
class EditedConfigs {
 public:
  EditedConfigs() { fs::copy(configs(), folder_ / "configs", fs::copy_options::recursive); }
  [[nodiscard]] fs::path path() const { return folder_ / "configs"; }
  void replace(const std::string& file, const std::string& from, const std::string& to) const {
    std::string text = base::content_of(path() / file);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << file << " lacks " << from;
    text.replace(at, from.size(), to);
    std::ofstream(path() / file, std::ios::binary) << text;
  }

 private:
  base::ScratchFolder folder_;
};

TEST(Hardware, MistakesInFilesAreReportedWithTheirPosition) {
  const auto error_of = [](const std::string& file, const std::string& from,
                           const std::string& to) {
    const EditedConfigs edited;
    edited.replace(file, from, to);
    const std::string text = config_error([&] { load_hardware("hgx_h100", edited.path()); });
    const std::string prefix = edited.path().string() + "/";
    return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
  };
  const std::string chip_file = "chips/h100_sxm.yaml";
  const std::string system_file = "systems/hgx_h100.yaml";
  EXPECT_THAT(error_of(chip_file, "    bandwidth: 3.35 TB/s", "    bandwith: 3.35 TB/s"),
              testing::MatchesRegex(
                  "chips/h100_sxm.yaml:[0-9]+:5: error: unknown key 'bandwith' in memory\\[0\\]; "
                  "did you mean 'bandwidth'\\?"));
  EXPECT_THAT(error_of(chip_file, "3.35 TB/s", "3.35 TB"),
              testing::MatchesRegex("chips/h100_sxm.yaml:[0-9]+:[0-9]+: error: .*3.35 TB.*B/s.*"));
  EXPECT_THAT(error_of(chip_file, "capacity: 80 GB", "capacity: -80 GB"),
              testing::MatchesRegex("chips/h100_sxm.yaml:[0-9]+:[0-9]+: error: .*capacity.*"));
  EXPECT_THAT(
      error_of(chip_file, "name: h100_sxm", "name: h100"),
      testing::MatchesRegex("chips/h100_sxm.yaml:[0-9]+:[0-9]+: error: 'name' is 'h100' but "
                            "the file is called 'h100_sxm'"));
  EXPECT_THAT(error_of(chip_file, "family: hopper", "family: hooper"),
              testing::HasSubstr("calibration/hooper.yaml"));
  EXPECT_THAT(error_of(chip_file, "path: registers", "path: register"),
              testing::MatchesRegex("chips/h100_sxm.yaml:[0-9]+:[0-9]+: error: .*register.*direct.*"
                                    "cache.*"));
  EXPECT_THAT(error_of(chip_file, "path: registers", "path: direct"),
              testing::MatchesRegex("chips/h100_sxm.yaml:[0-9]+:[0-9]+: error: a direct path needs "
                                    "its 'bandwidth'"));
  EXPECT_THAT(error_of(chip_file, "  gather_granularity: 32 B", "  gather_granularity: 0 B"),
              testing::HasSubstr("gather_granularity"));
  EXPECT_THAT(error_of(chip_file, "  operand_feed: ", "  operand_fed: "),
              testing::HasSubstr("unknown key 'operand_fed' in matrix_unit; did you mean "
                                 "'operand_feed'?"));
  EXPECT_THAT(error_of(chip_file, "  head: 0.0 ns", "  head: -1 ns"), testing::HasSubstr("head"));
  EXPECT_THAT(error_of(chip_file, "  step_latency: 3.28 ns", "  step_latency: 3.28 GB"),
              testing::MatchesRegex("chips/h100_sxm.yaml:[0-9]+:[0-9]+: error: .*3.28 GB.*"));
  EXPECT_THAT(error_of(chip_file, "    fp8: 1979 TFLOP/s", "    fp9: 1979 TFLOP/s"),
              testing::HasSubstr("unknown key 'fp9' in matrix_unit.peak; did you mean 'fp"));
  EXPECT_THAT(error_of(system_file, "chip: h100_sxm", "chip: h101_sxm"),
              testing::MatchesRegex("systems/hgx_h100.yaml:[0-9]+:[0-9]+: error: no chip "
                                    "'h101_sxm' in configs/chips"));
  EXPECT_THAT(error_of(system_file, "size: 8", "size: 1048577"),
              testing::MatchesRegex("systems/hgx_h100.yaml:[0-9]+:[0-9]+: error: .*size.*"));
  EXPECT_THAT(error_of("calibration/hopper.yaml", "    fp8: {", "    fp4: {"),
              testing::HasSubstr("efficiency.matrix lacks fp8, which h100_sxm can multiply"));
  EXPECT_THAT(
      error_of("calibration/hopper.yaml", "value: 0.88, low: 0.84", "value: 0.88, low: 0.89"),
      testing::MatchesRegex("calibration/hopper.yaml:[0-9]+:[0-9]+: error: .*"));
}

TEST(Hardware, ASystemFileMayStandAnywhere) {
  const base::ScratchFolder folder;
  std::string text = base::content_of(configs() / "systems/hgx_h100.yaml");
  text.replace(text.find("name: hgx_h100"), 14, "name: mine");
  const fs::path file = folder.write("mine.yaml", text);
  EXPECT_EQ(load_hardware(file.string(), configs()).system.name, "mine");
}

TEST(Hardware, AChipAloneHasTheRatesItHasInASystem) {
  Rates alone = derive_rates(load_chip("h200_sxm", configs()));
  const Rates beside = derive_rates(load_hardware("hgx_h200", configs()));
  EXPECT_NE(alone.core.link, beside.core.link);  // but no peers
  alone.core.link = beside.core.link;
  alone.core.link_latency = beside.core.link_latency;
  EXPECT_EQ(alone, beside);
  EXPECT_EQ(thrown<base::UnsupportedError>([] { load_chip("../systems/hgx_h200", configs()); }),
            "no chip '../systems/hgx_h200' in configs/chips");
}

TEST(DeriveRates, TheSlowEndIsNeverFasterThanTheFastEnd) {
  for (const char* system : {"hgx_h200", "gb300_nvl72", "cloudmatrix384", "atlas_950_cabinet"}) {
    const Hardware h = test_support::hardware(system);
    Tuning slow{};
    Tuning fast{};
    slow.fill(-1);
    fast.fill(1);
    const Rates s = derive_rates(h, slow);
    const Rates m = derive_rates(h);
    const Rates f = derive_rates(h, fast);
    SCOPED_TRACE(system);
    for (const auto member : {&Rates::memory, &Rates::cache, &Rates::vector_fp32,
                              &Rates::vector_fp16, &Rates::special, &Rates::link_efficiency}) {
      EXPECT_LE(s.*member, m.*member);
      EXPECT_LE(m.*member, f.*member);
    }
    for (const auto member : {&Rates::launch, &Rates::fill, &Rates::collective, &Rates::step}) {
      EXPECT_GE(s.*member, m.*member);
      EXPECT_GE(m.*member, f.*member);
    }
    for (const auto member :
         {&tile::CoreRates::memory, &tile::CoreRates::cache, &tile::CoreRates::lanes32,
          &tile::CoreRates::lanes16, &tile::CoreRates::special, &tile::CoreRates::link}) {
      EXPECT_LE(s.core.*member, m.core.*member);
      EXPECT_LE(m.core.*member, f.core.*member);
    }
    for (const auto member :
         {&tile::CoreRates::launch, &tile::CoreRates::start, &tile::CoreRates::memory_latency}) {
      EXPECT_GE(s.core.*member, m.core.*member);
      EXPECT_GE(m.core.*member, f.core.*member);
    }
    EXPECT_LE(m.memory, 1.1 * h.chip.hbm().bandwidth.value());
  }
}

}  // namespace
}  // namespace foretoken::hwmodels
