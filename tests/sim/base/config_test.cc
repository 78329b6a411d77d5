#include "sim/base/config.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "sim/base/named_config.h"
#include "tests/sim/base/sample_config.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::base {
namespace {

using sample::Chip;
using sample::kFull;
using sample::kShort;

Chip read(std::string_view text) { return read_config<Chip>(parse_yaml("f.yaml", text)); }

std::string refusal(const std::string& text) {
  return config_error([&] { read(text); });
}

// The error for the short sample with `from` replaced by `to`.
std::string refusal(const std::string& from, const std::string& to) {
  std::string text(kShort);
  const std::size_t at = text.find(from);
  if (at == std::string::npos) return "no such text: " + from;
  return refusal(text.replace(at, from.size(), to));
}

std::string refusal_after(const std::string& more) { return refusal(std::string(kShort) + more); }

TEST(ConfigReader, FillsEveryKindOfField) {
  const Chip chip = read(kFull);
  EXPECT_EQ(chip.name, "h200_sxm");
  EXPECT_EQ(chip.note, "yes: \"quoted\"\n#2");
  EXPECT_FALSE(chip.dense);
  EXPECT_EQ(chip.cores, 132);
  EXPECT_EQ(chip.clock.value(), 1.98e9);
  EXPECT_EQ(chip.share, 0.25);
  EXPECT_EQ(chip.peak.low, 900e12);
  EXPECT_EQ(chip.peak.value, 989e12);
  EXPECT_EQ(chip.peak.high, 1e15);
  EXPECT_EQ(chip.price.amount.value, 30e3);
  EXPECT_EQ(chip.price.amount.low, 25e3);
  EXPECT_EQ(chip.price.amount.high, 30e3);
  EXPECT_EQ(chip.price.currency, "USD");
  EXPECT_EQ(chip.policy, sample::Policy::kShortest);
  EXPECT_EQ(chip.aliases, (std::vector<std::string>{"gh200", "12"}));
  EXPECT_EQ(chip.tiles, (std::vector<std::int64_t>{64, 1024}));
  EXPECT_EQ(chip.steps, (std::vector<double>{1e9, 1.5e9}));
  EXPECT_EQ(chip.unit.m, 64);
  EXPECT_EQ(chip.unit.efficiency.low, 0.9);
  EXPECT_EQ(chip.spare.efficiency.low, 0.5);
  EXPECT_EQ(chip.spare.efficiency.high, 0.6);
  ASSERT_EQ(chip.memory.size(), 2U);
  EXPECT_EQ(chip.memory[1].capacity.value(), 50 * 1048576.0);
  EXPECT_EQ(chip.memory[1].latency.value(), 200e-9);
  EXPECT_EQ(chip.links.at("pcie 5").bandwidth.value(), 63e9);
}

TEST(ConfigReader, LeavesAbsentOptionalFieldsAsTheyWere) {
  const Chip chip = read(kShort);
  EXPECT_TRUE(chip.dense);
  EXPECT_EQ(chip.share, 0.5);
  EXPECT_TRUE(chip.links.empty());
  EXPECT_TRUE(read(std::string(kShort) + "dense:\n").dense);
}

TEST(ConfigReader, EmptiesAListThatTheFileGivesEmpty) {
  const ConfigFile file = parse_yaml("f.yaml", "levels: []\nlinks: {}\nother: 1");
  std::vector<sample::Level> levels(2);
  std::vector<sample::Level> absent(2);
  std::map<std::string, sample::Link> links = {{"a", {}}};
  ConfigReader reader(file);
  const auto item = [](ConfigVisitor& v, sample::Level& level) { describe(v, level); };
  list(reader, {"levels", ""}, levels, item);
  list(reader, {"absent", "", Need::kOptional}, absent, item);
  table(reader, {"links", ""}, links, [](ConfigVisitor&, sample::Link&) {});
  EXPECT_TRUE(levels.empty());
  EXPECT_EQ(absent.size(), 2U);
  EXPECT_TRUE(links.empty());
}

TEST(ConfigReader, SuggestsTheKeyThatWasMeant) {
  EXPECT_EQ(refusal("bandwidth: 1 GB/s", "bandwith: 1 GB/s"),
            "f.yaml:6:38: error: unknown key 'bandwith' in memory[0]; did you mean 'bandwidth'?");
  EXPECT_EQ(refusal("cores", "core"),
            "f.yaml:2:1: error: unknown key 'core'; did you mean 'cores'?");
  EXPECT_EQ(refusal("m: 1,", "m: 1, zzzzzz: 2,"),
            "f.yaml:5:14: error: unknown key 'zzzzzz' in unit; known keys: m, efficiency");
  EXPECT_EQ(refusal_after("links: {nv: {bandwidth: 1 GB/s, x: 1}}"),
            "f.yaml:7:33: error: unknown key 'x' in links.nv; known keys: bandwidth");
}

TEST(ConfigReader, NamesAMissingKeyAndItsMap) {
  EXPECT_EQ(refusal("capacity: 1 GB, ", ""),
            "f.yaml:6:10: error: missing key 'capacity' in memory[0]");
  EXPECT_EQ(refusal("name: a\n", ""), "f.yaml:1:1: error: missing key 'name'");
  EXPECT_EQ(refusal("m: 1, ", ""), "f.yaml:5:7: error: missing key 'm' in unit");
  EXPECT_EQ(refusal("unit: {m: 1, efficiency: 1}\n", ""), "f.yaml:1:1: error: missing key 'unit'");
  EXPECT_EQ(refusal("efficiency: 1", "efficiency: {low: 0.5}"),
            "f.yaml:5:26: error: missing key 'value' in unit.efficiency");
}

TEST(ConfigReader, RefusesAWrongType) {
  EXPECT_EQ(refusal("name: a", "name: [a]"),
            "f.yaml:1:7: error: 'name' must be text, but is a list");
  EXPECT_EQ(refusal("cores: 2", "cores: {a: 1}"),
            "f.yaml:2:8: error: 'cores' must be a whole number, but is a map");
  EXPECT_EQ(refusal("cores: 2", "cores: \"2\""),
            "f.yaml:2:8: error: 'cores' must be a whole number, but is quoted text");
  EXPECT_EQ(refusal("cores: 2", "cores: two"),
            "f.yaml:2:8: error: 'cores': 'two' is not a count; write a whole number, also with K, "
            "M or G (128K = 131072)");
  EXPECT_EQ(refusal("cores: 2", "cores:"), "f.yaml:2:1: error: 'cores' has no value");
  EXPECT_EQ(refusal("unit: {m: 1, efficiency: 1}", "unit: big"),
            "f.yaml:5:7: error: 'unit' must be a map of keys, but is a single value");
  EXPECT_EQ(refusal("[{name: hbm", "[hbm, {name: hbm"),
            "f.yaml:6:10: error: 'memory[0]' must be a map of keys, but is a single value");
  EXPECT_EQ(refusal_after("share: \"0.5\""),
            "f.yaml:7:8: error: 'share' must be a number, but is quoted text");
  EXPECT_EQ(refusal_after("dense: yes"),
            "f.yaml:7:8: error: 'dense' must be true or false, not 'yes'");
  EXPECT_EQ(refusal_after("aliases: a"),
            "f.yaml:7:10: error: 'aliases' must be a list, but is a single value");
  EXPECT_EQ(refusal_after("aliases: [a, [b]]"),
            "f.yaml:7:14: error: 'aliases[1]' must be text, but is a list");
  EXPECT_EQ(refusal_after("links: [a]"),
            "f.yaml:7:8: error: 'links' must be a map of keys, but is a list");
  EXPECT_EQ(refusal_after("links: {a: 1}"),
            "f.yaml:7:12: error: 'links.a' must be a map of keys, but is a single value");
  EXPECT_EQ(refusal("- 1"), "f.yaml:1:1: error: the file must be a map of keys, but is a list");
}

TEST(ConfigReader, RefusesAWrongUnit) {
  EXPECT_EQ(refusal("bandwidth: 1 GB/s", "bandwidth: 4.8 TB"),
            "f.yaml:6:49: error: 'bandwidth' in memory[0]: '4.8 TB' is not in B/s, KB/s, MB/s, "
            "GB/s, TB/s, PB/s, KiB/s, MiB/s, GiB/s, TiB/s");
  EXPECT_EQ(refusal("clock: 1 GHz", "clock: 1"),
            "f.yaml:3:8: error: 'clock': '1' has no unit; it takes Hz, kHz, MHz, GHz");
  EXPECT_EQ(refusal("efficiency: 1", "efficiency: 90 %"),
            "f.yaml:5:26: error: 'efficiency' in unit: '90 %' is not a plain number");
}

TEST(ConfigReader, AcceptsAQuotedQuantityAsJsonHasIt) {
  std::string text(kShort);
  text.replace(text.find("1 GHz"), 5, "\"1 GHz\"");
  EXPECT_EQ(read(text).clock.value(), 1e9);
}

TEST(ConfigReader, RefusesAValueOutOfRangeAndShowsTheRange) {
  EXPECT_EQ(refusal("cores: 2", "cores: 0"),
            "f.yaml:2:8: error: 'cores': '0' is out of range; it must be from 1 to 1024");
  EXPECT_EQ(refusal("cores: 2", "cores: 1025"),
            "f.yaml:2:8: error: 'cores': '1025' is out of range; it must be from 1 to 1024");
  EXPECT_EQ(refusal("cores: 2", "cores: 1K"), "");
  EXPECT_EQ(refusal("cores: 2", "cores: -2"),
            "f.yaml:2:8: error: 'cores': '-2' is out of range; it must be from 1 to 1024");
  EXPECT_EQ(refusal("clock: 1 GHz", "clock: 0 GHz"),
            "f.yaml:3:8: error: 'clock': '0 GHz' is out of range; it must be above 0 Hz");
  EXPECT_EQ(refusal("efficiency: 1", "efficiency: 1.01"),
            "f.yaml:5:26: error: 'efficiency' in unit: '1.01' is out of range; it must be above 0 "
            "and at most 1");
  EXPECT_EQ(refusal("efficiency: 1", "efficiency: {value: 0.5, low: 0}"),
            "f.yaml:5:44: error: 'low' in unit.efficiency: '0' is out of range; it must be above "
            "0 and at most 1");
  EXPECT_EQ(refusal_after("tiles: [1, 0]"),
            "f.yaml:7:12: error: 'tiles[1]': '0' is out of range; it must be at least 1");
  EXPECT_EQ(refusal_after("steps: [1 GHz, -1 GHz]"),
            "f.yaml:7:16: error: 'steps[1]': '-1 GHz' is out of range; it must be above 0 Hz");
}

TEST(ConfigReader, AcceptsNegativeIntegersWhereTheRangeDoes) {
  const ConfigFile file = parse_yaml("f.yaml", "a: -3\nb: --3");
  ConfigReader reader(file);
  std::int64_t value = 0;
  reader.integer({"a", ""}, value, {.min = -3});
  EXPECT_EQ(value, -3);
  EXPECT_NE(config_error([&] { reader.integer({"b", ""}, value, {.min = -3}); }), "");
}

TEST(ConfigReader, RefusesListsOfTheWrongLength) {
  EXPECT_EQ(refusal_after("aliases: [a, b, c, d]"),
            "f.yaml:7:10: error: 'aliases' has 4 items; it must have from 0 to 3 items");
  EXPECT_EQ(refusal_after("tiles: []"),
            "f.yaml:7:8: error: 'tiles' has 0 items; it must have from 1 to 4 items");
  EXPECT_EQ(refusal("[{name: hbm, capacity: 1 GB, bandwidth: 1 GB/s}]", "[]"),
            "f.yaml:6:9: error: 'memory' has 0 items; it must have from 1 to 4 items");
  const std::string link = ": {bandwidth: 1 GB/s}";
  EXPECT_EQ(refusal_after("links: {a" + link + ", b" + link + ", c" + link + ", d" + link + "}"),
            "f.yaml:7:8: error: 'links' has 4 entries; it must have from 0 to 3 entries");
}

TEST(ConfigReader, ChecksTheOrderOfARange) {
  EXPECT_EQ(refusal("efficiency: 1", "efficiency: {value: 0.5, low: 0.6}"),
            "f.yaml:5:44: error: 'low' in unit.efficiency is above 'value'");
  EXPECT_EQ(refusal("efficiency: 1", "efficiency: {value: 0.5, high: 0.4}"),
            "f.yaml:5:45: error: 'high' in unit.efficiency is below 'value'");
  EXPECT_EQ(refusal("efficiency: 1", "efficiency: {value: 0.5, low: 0.5, high: 0.5}"), "");
  EXPECT_EQ(refusal("efficiency: 1", "efficiency: {value: 0.5, hihg: 0.6}"),
            "f.yaml:5:39: error: unknown key 'hihg' in unit.efficiency; did you mean 'high'?");
}

TEST(ConfigReader, ReadsMoneyInOneCurrency) {
  const Chip chip = read(std::string(kShort) + "price: 60 kCNY");
  EXPECT_EQ(chip.price.amount.value, 60e3);
  EXPECT_EQ(chip.price.amount.low, 60e3);
  EXPECT_EQ(chip.price.currency, "CNY");
  EXPECT_EQ(refusal_after("price: {value: 1 USD, high: 9 CNY}"),
            "f.yaml:7:29: error: 'high' in price is in CNY, but 'value' in USD");
  EXPECT_EQ(refusal_after("price: 5 EUR"),
            "f.yaml:7:8: error: 'price': '5 EUR' is not in USD, kUSD, MUSD, CNY, kCNY, MCNY");
  EXPECT_EQ(refusal_after("price: -5 USD"),
            "f.yaml:7:8: error: 'price': '-5 USD' is out of range; it must be at least 0 USD");
  EXPECT_EQ(refusal_after("price: {low: 1 CNY}"),
            "f.yaml:7:8: error: missing key 'value' in price");
  EXPECT_EQ(refusal_after("price: {value: 1 USD, low: 2 USD}"),
            "f.yaml:7:28: error: 'low' in price is above 'value'");
  EXPECT_EQ(refusal_after("price: [1]"),
            "f.yaml:7:8: error: 'price' must be an amount of money, but is a list");
}

TEST(ConfigReader, ListsTheChoices) {
  EXPECT_EQ(refusal_after("policy: fcsf"),
            "f.yaml:7:9: error: 'policy': 'fcsf' is not one of fcfs, shortest_first; did you mean "
            "'fcfs'?");
  EXPECT_EQ(refusal_after("policy: random"),
            "f.yaml:7:9: error: 'policy': 'random' is not one of fcfs, shortest_first");
}

TEST(ConfigReader, ReportsAConditionAtItsKey) {
  EXPECT_EQ(refusal("cores: 2", "cores: 3"), "f.yaml:2:1: error: 'cores' must be even");
  // Without the key, the map is to blame.
  const ConfigFile file = parse_yaml("f.yaml", "a: 1");
  ConfigReader reader(file);
  EXPECT_EQ(config_error([&] { reader.check(false, "b", "no good"); }),
            "f.yaml:1:1: error: no good");
}

TEST(ConfigReader, ReportsAMissingKeyRatherThanAConditionOnIt) {
  const ConfigFile file = parse_yaml("f.yaml", "a: 1");
  ConfigReader reader(file);
  std::int64_t a = 0;
  std::int64_t b = 0;
  reader.integer({"a", ""}, a, {});
  reader.integer({"b", ""}, b, {});
  reader.check(b > 0, "b", "'b' must be positive");
  EXPECT_EQ(config_error([&] { reader.finish(); }), "f.yaml:1:1: error: missing key 'b'");
}

TEST(ConfigReader, BlamesTheCommandLineForItsValues) {
  ConfigFile file = parse_yaml("f.yaml", kShort);
  apply_override(file, "cores=0");
  EXPECT_EQ(config_error([&] { read_config<Chip>(file); }),
            "f.yaml:--set: error: 'cores': '0' is out of range; it must be from 1 to 1024");
  apply_override(file, "cores=3");
  EXPECT_EQ(config_error([&] { read_config<Chip>(file); }),
            "f.yaml:--set: error: 'cores' must be even");
  apply_override(file, "cores=4");
  apply_override(file, "unit.mmm=4");
  EXPECT_EQ(config_error([&] { read_config<Chip>(file); }),
            "f.yaml:--set: error: unknown key 'mmm' in unit; known keys: m, efficiency");
}

TEST(ConfigReader, IgnoresUnknownKeysWhenAsked) {
  const ConfigFile file =
      parse_json("f.json", "{\"a\": 1, \"x\": {\"b\": 2, \"c\": null}, \"z\": 0}");
  ConfigReader reader(file);
  reader.ignore_unknown_keys();
  std::int64_t a = 0;
  std::int64_t b = 0;
  reader.integer({"a", ""}, a, {});
  group(reader, {"x", ""}, [&] { reader.integer({"b", ""}, b, {}); });
  reader.finish();
  EXPECT_EQ(a + b, 3);
}

TEST(ConfigReader, StillMissesKeysWhenItIgnoresUnknownOnes) {
  const ConfigFile file = parse_json("f.json", "{\"a\": 1}");
  ConfigReader reader(file);
  reader.ignore_unknown_keys();
  std::int64_t b = 0;
  reader.integer({"b", ""}, b, {});
  EXPECT_EQ(config_error([&] { reader.finish(); }), "f.json:1:1: error: missing key 'b'");
}

TEST(ConfigReader, ReadsALargeTableInReasonableTime) {
  std::string text = "links:\n";
  for (int i = 0; i < 50'000; ++i) {
    text += "  k";
    text += std::to_string(i);
    text += ": {bandwidth: 1 GB/s}\n";
  }
  const ConfigFile file = parse_yaml("f.yaml", text);
  ConfigReader reader(file);
  std::map<std::string, sample::Link> links;
  table(reader, {"links", ""}, links,
        [](ConfigVisitor& v, sample::Link& link) { describe(v, link); });
  reader.finish();
  EXPECT_EQ(links.size(), 50'000U);
}

TEST(ConfigReader, LoadsAStructureFromAFile) {
  const ScratchFolder folder;
  const auto path = folder.write("chip.yaml", std::string(kFull));
  EXPECT_EQ(load_config<Chip>(path).cores, 132);
}

TEST(ConfigReader, SurvivesRandomChangesOfAFile) {
  std::mt19937_64 random(21);
  const std::string letters = "a1 \n-:,[]{}#'\"~.";
  for (int i = 0; i < 3000; ++i) {
    std::string text(kFull);
    const std::size_t at = random() % text.size();
    if (random() % 2 == 0) {
      text[at] = letters[random() % letters.size()];
    } else {
      text.erase(at, random() % 12 + 1);
    }
    const std::string message = refusal(text);
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(RequireOwnName, NamesBothNamesOnOneLine) {
  const ConfigFile file = parse_yaml("configs/chips/a.yaml", "x: 1\nname: \"b\\nc\"\n");
  EXPECT_EQ(config_error([&] { require_own_name(file, "b\nc"); }),
            "configs/chips/a.yaml:2:7: error: 'name' is 'b\\nc' but the file is called 'a'");
  EXPECT_EQ(config_error([&] { require_own_name(file, "a"); }), "");
}

}  // namespace
}  // namespace foretoken::base
