#include "sim/base/config_print.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

#include "tests/sim/base/sample_config.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::base {
namespace {

using sample::Chip;

Chip read(std::string_view text) { return read_config<Chip>(parse_yaml("printed.yaml", text)); }

TEST(ConfigPrint, WritesEveryValueResolved) {
  EXPECT_EQ(print_config(read(sample::kFull)), R"(name: h200_sxm
note: "yes: \"quoted\"\n#2"
dense: false
cores: 132
clock: 1.98 GHz
share: 0.25
peak: {value: 989 TFLOP/s, low: 900 TFLOP/s, high: 1 PFLOP/s}
price: {value: 30 kUSD, low: 25 kUSD, high: 30 kUSD}
policy: shortest_first
aliases: [gh200, "12"]
tiles: [64, 1024]
steps: [1 GHz, 1.5 GHz]
unit:
  m: 64
  efficiency: 0.9
spare:
  m: 32
  efficiency: {value: 0.5, low: 0.5, high: 0.6}
memory:
  - name: hbm
    capacity: 141 GB
    bandwidth: 4.8 TB/s
  - name: l2
    capacity: 50 MiB
    bandwidth: 5.5 TB/s
    latency: 200 ns
links:
  nvlink:
    bandwidth: 450 GB/s
  "pcie 5":
    bandwidth: 63 GB/s
)");
}

TEST(ConfigPrint, LeavesOutOptionalValuesThatWereNotGiven) {
  EXPECT_EQ(print_config(read(sample::kShort)), R"(name: a
note: ""
dense: true
cores: 2
clock: 1 GHz
share: 0.5
peak: 1 TFLOP/s
price: 0 USD
policy: fcfs
aliases: []
steps: []
unit:
  m: 1
  efficiency: 1
memory:
  - name: hbm
    capacity: 1 GB
    bandwidth: 1 GB/s
links: {}
)");
}

TEST(ConfigPrint, IsStableWhenReadAgain) {
  for (const std::string_view text : {sample::kFull, sample::kShort}) {
    const std::string printed = print_config(read(text));
    EXPECT_EQ(print_config(read(printed)), printed);
  }
}

TEST(ConfigPrint, ReadsBackAnyTextAndNumber) {
  std::mt19937_64 random(31);
  const std::vector<std::string> pieces = {
      "a", "1", " ", ":",    "#", "'",    "\"",   "\\",       "\n", "\t", "-", "é", "😀",   "\r",
      "{", "]", "&", "\x01", "~", "null", "true", "\xc2\x85", "%",  "e5", ".", "/", "\x7f"};
  const auto random_text = [&] {
    std::string text;
    for (std::size_t i = 0; i < random() % 6; ++i) text += pieces[random() % pieces.size()];
    return text;
  };
  const auto random_number = [&] {
    return std::ldexp(static_cast<double>(random() >> 11), static_cast<int>(random() % 200) - 150);
  };
  for (int i = 0; i < 2000; ++i) {
    Chip chip = read(sample::kFull);
    chip.name = random_text();
    chip.aliases = {random_text(), random_text()};
    chip.links.clear();
    chip.links["x" + random_text()] = {BytesPerSecond{1.0 + random_number()}};
    chip.links[random_text()] = {BytesPerSecond{1.0 + random_number()}};
    chip.clock = Hertz{1e-9 + random_number()};
    chip.steps = {1e-9 + random_number()};
    chip.memory[0].capacity = Bytes{1.0 + random_number()};
    chip.peak.high = chip.peak.value + random_number();
    chip.price.currency = i % 2 == 0 ? "CNY" : "USD";
    chip.price.amount.high = chip.price.amount.value + random_number();
    const std::string printed = print_config(chip);
    const Chip again = read(printed);
    EXPECT_EQ(again.name, chip.name) << printed;
    EXPECT_EQ(again.aliases, chip.aliases) << printed;
    EXPECT_EQ(again.clock.value(), chip.clock.value()) << printed;
    EXPECT_EQ(again.steps, chip.steps) << printed;
    EXPECT_EQ(again.memory[0].capacity.value(), chip.memory[0].capacity.value()) << printed;
    EXPECT_EQ(again.peak.high, chip.peak.high) << printed;
    EXPECT_EQ(again.price.amount.high, chip.price.amount.high) << printed;
    EXPECT_EQ(again.price.currency, chip.price.currency) << printed;
    ASSERT_EQ(again.links.size(), chip.links.size()) << printed;
    for (const auto& [key, link] : chip.links) {
      EXPECT_EQ(again.links.at(key).bandwidth.value(), link.bandwidth.value()) << printed;
    }
  }
}

TEST(ConfigPrint, HashesContent) {
  // Published FNV-1a values.
  EXPECT_EQ(content_hash(""), "cbf29ce484222325");
  EXPECT_EQ(content_hash("a"), "af63dc4c8601ec8c");
  EXPECT_EQ(content_hash("foobar"), "85944171f73967e8");
}

}  // namespace
}  // namespace foretoken::base
