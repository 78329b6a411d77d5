#include "reference/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/reference/checkpoint/test_support.h"

namespace foretoken::reference {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

// A file with tensors of one byte each, all holding `value`.
std::string bytes_file(const std::vector<std::string>& names, char value = 'x') {
  std::string header = "{";
  for (std::size_t i = 0; i < names.size(); ++i) {
    header += (i > 0 ? "," : "") + entry(names[i], "U8", "[1]", i, i + 1);
  }
  return safetensors(header + "}", std::string(names.size(), value));
}

// A file with one tensor 'a' of little-endian elements.
template <class Bits>
std::string tensor_file(const std::string& dtype, const std::vector<Bits>& elements) {
  std::string data(elements.size() * sizeof(Bits), '\0');
  std::memcpy(data.data(), elements.data(), data.size());
  return safetensors(
      "{" + entry("a", dtype, "[" + std::to_string(elements.size()) + "]", 0, data.size()) + "}",
      data);
}

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override { folder_.write("config.json", "{}"); }

  // Without "FOLDER/".
  [[nodiscard]] std::string error(const auto& call) const {
    const std::string text = config_error(call);
    const std::string start = folder_.path().string();
    EXPECT_EQ(text.substr(0, start.size()), text.empty() ? "" : start) << text;
    return text.empty() ? "" : text.substr(start.size());
  }
  [[nodiscard]] std::string open_error() const {
    return error([&] { const Checkpoint checkpoint(folder_.path()); });
  }
  [[nodiscard]] std::string index_error(const std::string& text) const {
    folder_.write("model.safetensors.index.json", text);
    return open_error();
  }
  [[nodiscard]] std::string value_of(const Checkpoint& checkpoint, const std::string& name) const {
    return as_text(checkpoint.map(checkpoint.require(name)));
  }
  // The error on mapping tensor 'a' of a single file.
  template <class Bits>
  [[nodiscard]] std::string map_error(const std::string& dtype,
                                      const std::vector<Bits>& elements) const {
    folder_.write("model.safetensors", tensor_file(dtype, elements));
    const Checkpoint checkpoint(folder_.path());
    return error([&] { (void)checkpoint.map(checkpoint.require("a")); });
  }

  ScratchFolder folder_;
};

TEST_F(CheckpointTest, ReadsASingleFile) {
  folder_.write("model.safetensors", bytes_file({"b", "a"}));
  folder_.write("other.safetensors", "no safetensors file at all");
  const Checkpoint checkpoint(folder_.path());
  EXPECT_EQ(checkpoint.folder(), folder_.path());
  EXPECT_EQ(checkpoint.config_path(), folder_ / "config.json");
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b"));
  EXPECT_EQ(checkpoint.bytes(), 2U);
  EXPECT_EQ(value_of(checkpoint, "a"), "x");
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  EXPECT_EQ(error([&] { (void)checkpoint.require("c\n"); }), ": error: tensor 'c\\n' is missing");
}

TEST_F(CheckpointTest, ReadsShardsByTheIndex) {
  folder_.write("model.safetensors", bytes_file({"a"}, '0'));  // the index goes before it
  folder_.write("s1.safetensors", bytes_file({"a", "unlisted"}, '1'));
  folder_.write("s2.safetensors", bytes_file({"a", "b"}, '2'));
  folder_.write("model.safetensors.index.json",
                R"({"metadata": {"total_size": 2},
                    "weight_map": {"b": "s2.safetensors", "a": "s1.safetensors"}})");
  Checkpoint checkpoint(folder_.path());
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b"));
  EXPECT_EQ(checkpoint.bytes(), 2U);
  EXPECT_EQ(value_of(checkpoint, "a"), "1");
  EXPECT_EQ(value_of(checkpoint, "b"), "2");
  const Checkpoint moved = std::move(checkpoint);
  EXPECT_EQ(value_of(moved, "b"), "2");
}

TEST_F(CheckpointTest, TakesEveryFileWithoutAnIndex) {
  folder_.write("p2.safetensors", bytes_file({"c", "a"}));
  folder_.write("p1.safetensors", bytes_file({"b"}));
  folder_.write("readme.txt", "nothing");
  EXPECT_THAT(Checkpoint(folder_.path()).names(), ElementsAre("a", "b", "c"));
  folder_.write("p3.safetensors", bytes_file({"a"}));
  EXPECT_EQ(open_error(), "/p3.safetensors: error: tensor 'a' is in 'p2.safetensors' too");
}

TEST_F(CheckpointTest, FollowsLinks) {
  const ScratchFolder blobs;
  fs::create_symlink(blobs.write("1234", bytes_file({"a"})), folder_ / "model.safetensors");
  EXPECT_EQ(value_of(Checkpoint(folder_.path()), "a"), "x");
  fs::remove(blobs / "1234");
  EXPECT_EQ(open_error(),
            "/model.safetensors: error: cannot open the file: No such file or directory");
}

TEST_F(CheckpointTest, RefusesAFolderThatIsNoCheckpoint) {
  EXPECT_EQ(open_error(), ": error: no safetensors file in this folder");
  EXPECT_EQ(error([&] { const Checkpoint checkpoint(folder_ / "none"); }),
            "/none: error: no such folder");
  EXPECT_EQ(error([&] { const Checkpoint checkpoint(folder_ / "config.json"); }),
            "/config.json: error: is no folder; a checkpoint is one");
  folder_.write("model.safetensors", bytes_file({"a"}));
  fs::remove(folder_ / "config.json");
  EXPECT_EQ(open_error(), ": error: no config.json in this folder");
}

TEST_F(CheckpointTest, NamesTheShardThatIsDamaged) {
  const std::string shard = bytes_file({"a", "b"});
  folder_.write("s1", shard.substr(0, shard.size() - 1));
  EXPECT_EQ(index_error(R"({"weight_map": {"a": "s1"}})"),
            "/s1: error: tensor 'b': data_offsets [1, 2] reach beyond the file, which has 1 bytes "
            "of data");
}

TEST_F(CheckpointTest, PointsAtWhatIsWrongInTheIndex) {
  folder_.write("s1", bytes_file({"a"}));
  const std::string index = "/model.safetensors.index.json:";
  EXPECT_EQ(index_error("[]"), index + "1:1: error: the index is no map");
  EXPECT_EQ(index_error("{}"), "/model.safetensors.index.json: error: weight_map is missing");
  EXPECT_EQ(index_error(R"({"weight_map": ["s1"]})"),
            index + "1:16: error: weight_map is no map of tensors to files");
  EXPECT_EQ(index_error("{\"weight_map\": {\n \"a\": 1}}"),
            index + "2:7: error: tensor 'a': no file name");
  EXPECT_EQ(index_error(R"({"weight_map": {"a": null}})"),
            index + "1:22: error: tensor 'a': no file name");
  EXPECT_EQ(index_error("{\"weight_map\": {\"a\": \"s1\",\n \"c\": \"s1\"}}"),
            index + "2:2: error: tensor 'c' is not in 's1'");
  EXPECT_EQ(index_error(R"({"weight_map": {"a": "s2"}})"),
            index + "1:22: error: 's2' is not in this folder");
  EXPECT_EQ(index_error(R"({"weight_map": {"a": "s1", "a": "s1"}})"),
            index + "1:28: error: duplicate key 'a'; first on line 1");
  for (const std::string name : {"", ".", "..", "../s1", "sub/s1", "/etc/passwd", "s1\\n"}) {
    const std::string in_index = R"({"weight_map": {"a": ")" + name + "\"}}";
    EXPECT_EQ(index_error(in_index), std::string(index).append("1:22: error: '").append(name) +
                                         "' is not the name of a file in this folder");
  }
}

TEST_F(CheckpointTest, FindsNumbersThatAreNotFinite) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr double kInf64 = std::numeric_limits<double>::infinity();
  const auto at = [](const std::string& what, int element) {
    return "/model.safetensors: error: tensor 'a' has " + what + " at element " +
           std::to_string(element);
  };
  EXPECT_EQ(map_error<float>("F32", {0.0F, -1e38F, 1e-45F}), "");
  EXPECT_EQ(map_error<float>("F32", {0.0F, -kInf, kNan}), at("an infinity", 1));
  EXPECT_EQ(map_error<float>("F32", {0.0F, 1.0F, -kNan}), at("a NaN", 2));
  EXPECT_EQ(map_error<double>("F64", {1e308}), "");
  EXPECT_EQ(map_error<double>("F64", {kInf64}), at("an infinity", 0));
  EXPECT_EQ(map_error<double>("F64", {0.0, std::nan("")}), at("a NaN", 1));
  EXPECT_EQ(map_error<std::uint16_t>("F16", {0x7BFF, 0xFBFF}), "");
  EXPECT_EQ(map_error<std::uint16_t>("F16", {0x7BFF, 0xFC00}), at("an infinity", 1));
  EXPECT_EQ(map_error<std::uint16_t>("F16", {0x7C01}), at("a NaN", 0));
  EXPECT_EQ(map_error<std::uint16_t>("BF16", {0x7F7F, 0x7C01}), "");
  EXPECT_EQ(map_error<std::uint16_t>("BF16", {0x7F80}), at("an infinity", 0));
  EXPECT_EQ(map_error<std::uint16_t>("BF16", {0x0000, 0xFFC0}), at("a NaN", 1));
  EXPECT_EQ(map_error<std::uint8_t>("F8_E4M3", {0x7E, 0xFE}), "");
  EXPECT_EQ(map_error<std::uint8_t>("F8_E4M3", {0x7E, 0xFF}), at("a NaN", 1));
  EXPECT_EQ(map_error<std::uint8_t>("F8_E4M3FN", {0x7F}), at("a NaN", 0));
  EXPECT_EQ(map_error<std::uint8_t>("F8_E5M2", {0x7B, 0xFB}), "");
  EXPECT_EQ(map_error<std::uint8_t>("F8_E5M2", {0xFC}), at("an infinity", 0));
  EXPECT_EQ(map_error<std::uint8_t>("F8_E5M2", {0x7D}), at("a NaN", 0));
  EXPECT_EQ(map_error<std::uint8_t>("F8_E8M0", {0x00, 0xFE, 0x7F}), "");
  EXPECT_EQ(map_error<std::uint8_t>("F8_E8M0", {0x00, 0xFF}), at("a NaN", 1));
  for (const char* dtype : {"I8", "U8", "BOOL"}) {
    EXPECT_EQ(map_error<std::uint8_t>(dtype, {0xFF, 0x7F}), "") << dtype;
  }
  EXPECT_EQ(map_error<std::uint16_t>("I16", {0xFFFF}), "");
  EXPECT_EQ(map_error<std::uint32_t>("I32", {0xFFFF'FFFF}), "");
  EXPECT_EQ(map_error<std::uint64_t>("I64", {~std::uint64_t{0}}), "");
}

TEST_F(CheckpointTest, FindsTheElementWhereverItStands) {
  constexpr std::size_t kCount = 10'000;
  std::vector<std::uint16_t> elements(kCount, 0x3F80);
  for (const std::size_t bad : {0, 1, 31, 4095, 4096, 4097, 8191, 9998, 9999}) {
    elements[bad] = 0x7FC0;
    const auto bytes = std::as_bytes(std::span(elements));
    const TensorInfo tensor{
        .name = "t", .dtype = StorageDtype::kBf16, .shape = {kCount}, .begin = 0, .end = 20'000};
    EXPECT_EQ(config_error([&] { require_finite("f", tensor, bytes, 70); }),
              "f: error: tensor 't' has a NaN at element " + std::to_string(bad + 70));
    elements[bad] = 0x3F80;
  }
}

TEST_F(CheckpointTest, LooksOnlyThroughWhatIsMapped) {
  std::vector<float> elements(100, 1.0F);
  elements[50] = std::numeric_limits<float>::quiet_NaN();
  folder_.write("model.safetensors", tensor_file("F32", elements));
  const Checkpoint checkpoint(folder_.path());
  const StoredTensor& a = checkpoint.require("a");
  const auto map = [&](std::uint64_t first, std::uint64_t count) {
    return error([&] { (void)checkpoint.map(a, first, count); });
  };
  const std::string nan = "/model.safetensors: error: tensor 'a' has a NaN at element 50";
  EXPECT_EQ(map(0, 200), "");
  EXPECT_EQ(map(204, 196), "");
  EXPECT_EQ(map(203, 10), nan);  // one byte of it
  EXPECT_EQ(map(150, 51), nan);
  EXPECT_EQ(map(0, 400), nan);
  EXPECT_EQ(map(200, 4), nan);  // as often as it is asked for
  EXPECT_EQ(map(0, 200), "");
  EXPECT_EQ(map(7, 0), "");
  EXPECT_EQ(as_text(checkpoint.map(a, 4, 4)), std::string("\x00\x00\x80\x3F", 4));
}

TEST_F(CheckpointTest, LooksThroughEachPartOnce) {
  std::vector<float> elements(1000, 1.0F);
  const fs::path path = folder_.write("model.safetensors", tensor_file("F32", elements));
  const Checkpoint checkpoint(folder_.path());
  const StoredTensor& a = checkpoint.require("a");
  (void)checkpoint.map(a, 400, 400);    // elements 100 to 199
  (void)checkpoint.map(a, 1200, 400);   // 300 to 399
  (void)checkpoint.map(a, 600, 700);    // joins both
  (void)checkpoint.map(a, 3000, 1000);  // 750 to 999
  // What comes later into a part that was seen to be finite goes unnoticed; elsewhere it does not.
  const auto damage = [&](std::size_t element) {
    elements.assign(1000, 1.0F);
    elements[element] = std::numeric_limits<float>::infinity();
    std::ofstream(path, std::ios::binary | std::ios::in) << tensor_file("F32", elements);
  };
  for (const std::size_t element : {100, 199, 250, 399, 750, 999}) {
    damage(element);
    EXPECT_EQ(error([&] { (void)checkpoint.map(a, 400, 1200); }), "") << element;
    EXPECT_EQ(error([&] { (void)checkpoint.map(a, 3000, 1000); }), "") << element;
  }
  for (const std::size_t element : {99, 400, 749}) {
    damage(element);
    EXPECT_EQ(error([&] { (void)checkpoint.map(a); }),
              "/model.safetensors: error: tensor 'a' has an infinity at element " +
                  std::to_string(element));
  }
}

TEST_F(CheckpointTest, ReadsUnalignedTensors) {
  const float value = 1.5F;
  std::string data = "x";
  data.append(reinterpret_cast<const char*>(&value), sizeof(value));
  folder_.write("model.safetensors", safetensors("{" + entry("flag", "BOOL", "[1]", 0, 1) + "," +
                                                     entry("w", "F32", "[1]", 1, 5) + "}",
                                                 data));
  const Checkpoint checkpoint(folder_.path());
  EXPECT_EQ(value_of(checkpoint, "w"), data.substr(1));
}

TEST_F(CheckpointTest, MapsFromSeveralThreads) {
  folder_.write("model.safetensors", tensor_file("F32", std::vector<float>(10'000, 1.0F)));
  const Checkpoint checkpoint(folder_.path());
  const StoredTensor& a = checkpoint.require("a");
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < 1000; ++i) {
        const std::uint64_t first = (i * 7919 + t * 31) % 9000 * 4;
        const MappedBytes part = checkpoint.map(a, first, 4 * (1 + i % 500));
        if (part.bytes().size() != 4 * (1 + i % 500)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace foretoken::reference
