// `foretoken reference` on checkpoints and tokens with one mistake each: exit code 3 and one line
// that names file and tensor.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "tests/cli/shell.h"

namespace foretoken {
namespace {

namespace fs = std::filesystem;
using base::content_of;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;
using Json = nlohmann::ordered_json;

// The small checkpoint "c" and tokens "t.json" in a shell's folder.
class ReferenceCli : public testing::Test {
 protected:
  void SetUp() override {
    const std::string config =
        std::string(FORETOKEN_SOURCE_DIR) + "/tests/reference/data/configs/tiny-v4-flash.json";
    ASSERT_EQ(foretoken_("checkpoint --model '" + config + "' --out c --seed 5").code, 0);
    foretoken_.folder.write("t.json", "[3, 141, 59, 26]");
  }
  [[nodiscard]] fs::path file() const { return foretoken_.folder / "c" / "model.safetensors"; }
  [[nodiscard]] Outcome run(const std::string& more = "") const {
    return foretoken_("reference --checkpoint c --tokens t.json --out o.safetensors " + more);
  }
  void expect_bad_checkpoint(const testing::Matcher<std::string>& message) const {
    expect_refused(run(), 3, message);
    EXPECT_FALSE(fs::exists(foretoken_.folder / "o.safetensors"));
  }

  Shell foretoken_;
};

// A safetensors file taken apart.
struct Parts {
  explicit Parts(const fs::path& path) {
    const std::string all = content_of(path);
    std::uint64_t length = 0;
    std::memcpy(&length, all.data(), sizeof(length));
    header = Json::parse(all.substr(8, length));
    data = all.substr(8 + length);
  }
  void write(const fs::path& path) const {
    const std::string text = header.dump();
    const std::uint64_t length = text.size();
    std::string all(8, '\0');
    std::memcpy(all.data(), &length, sizeof(length));
    std::ofstream(path, std::ios::binary) << all + text + data;
  }
  // The bytes of element `i` replaced.
  void put(const std::string& name, std::size_t i, const std::string& bytes) {
    const auto begin = header[name]["data_offsets"][0].get<std::size_t>();
    data.replace(begin + i * bytes.size(), bytes.size(), bytes);
  }

  Json header;
  std::string data;
};

TEST_F(ReferenceCli, TheSmallCheckpointRuns) {
  const Outcome o = run("--prefill 3");
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(o.err, "");
}

TEST_F(ReferenceCli, ATensorWithAMistakeIsNamed) {
  struct Mistake {
    const char* tensor;
    std::function<void(Parts&, const std::string&)> make;
    std::string message;  // after the tensor's name
  };
  const auto set = [](const char* key, const Json& value) {
    return [=](Parts& p, const std::string& name) { p.header[name][key] = value; };
  };
  const auto dtype = [](const char* text, const Json& shape) {
    return [=](Parts& p, const std::string& name) {
      p.header[name]["dtype"] = text;
      p.header[name]["shape"] = shape;
    };
  };
  const auto put = [](std::size_t i, const std::string& bytes) {
    return [=](Parts& p, const std::string& name) { p.put(name, i, bytes); };
  };
  const auto drop_as = [](const char* other) {
    return [=](Parts& p, const std::string& name) {
      p.header[other] = p.header[name];
      p.header.erase(name);
    };
  };
  const std::string nan32("\0\0\xc0\x7f", 4);
  const std::string infinity32("\0\0\x80\x7f", 4);
  const std::string nan16("\xc0\x7f", 2);
  const std::string far_expert("\x08\0\0\0\0\0\0\0", 8);
  const std::string negative_expert(8, '\xff');
  const std::vector<Mistake> mistakes = {
      // Missing.
      {"embed.weight", drop_as("mbed.weight"), " is missing"},
      {"layers.2.attn.indexer.compressor.ape", drop_as("x"), " is missing"},
      {"layers.4.ffn.experts.7.w2.weight", drop_as("x"), " is missing"},
      {"layers.4.ffn.experts.7.w2.scale", drop_as("x"), " is missing"},
      {"layers.0.ffn.gate.tid2eid", drop_as("x"), " is missing"},
      {"mtp.0.h_proj.weight", drop_as("x"), " is missing"},
      // A dtype that is none for this tensor; shapes fit the bytes.
      {"layers.0.attn.wq_a.weight", dtype("I32", {128, 64}), " has shape [128, 64] as I32"},
      {"layers.0.attn.wq_a.weight", dtype("BOOL", {128, 256}), " is BOOL; weights are "},
      {"layers.0.attn.wq_a.weight", dtype("F8_E5M2", {128, 256}), " is F8_E5M2; weights are "},
      {"layers.0.attn.wq_a.scale", dtype("I8", {1, 2}), " is I8; scales are "},
      {"layers.0.attn.attn_sink", dtype("I32", {4}), " is I32; F32, "},
      {"layers.0.ffn.gate.tid2eid", dtype("F64", {512, 2}), " is F64; expert tables are "},
      // A shape that is another one.
      {"layers.0.attn.wq_b.weight", set("shape", {128, 512}), " has shape [128, 512]"},
      {"layers.0.attn.wq_b.weight", set("shape", {512 * 128}), " has shape [65536]"},
      {"head.weight", set("shape", {256, 512}), " has shape [256, 512]"},
      {"layers.1.ffn.experts.0.w1.scale", set("shape", {8, 128}), " has shape [8, 128]"},
      {"layers.0.ffn.gate.tid2eid", set("shape", {2, 512}), " has shape [2, 512]"},
      // Bytes that do not fit.
      {"head.weight", set("shape", {512, 257}), ""},
      {"head.weight", set("shape", {-512, -256}), ""},
      {"head.weight", set("shape", {std::int64_t{1} << 62, 8}), ""},
      {"head.weight", set("dtype", "F13"), ""},
      {"head.weight", set("data_offsets", {0, std::int64_t{1} << 60}), ""},
      {"head.weight", set("data_offsets", {1 << 20, 0}), ""},
      // Numbers that are none.
      {"layers.0.attn.attn_sink", put(2, nan32), " has a NaN at element 2"},
      {"layers.3.hc_ffn_scale", put(1, infinity32), " has an infinity at element 1"},
      {"norm.weight", put(77, nan16), " has a NaN at element 77"},
      {"embed.weight", put(141 * 256 + 9, nan16), " has a NaN at element 36105"},
      {"head.weight", put(512 * 256 - 1, nan16), " has a NaN at element 131071"},
      {"layers.2.attn.compressor.wgate.weight", put(0, nan16), " has a NaN at element 0"},
      {"layers.0.attn.wq_a.weight", put(5, "\x7f"), " has a NaN at element 5"},
      {"layers.0.attn.wq_a.weight", put(5, "\xff"), " has a NaN at element 5"},
      {"layers.1.attn.wo_b.scale", put(1, "\xff"), " has a NaN at element 1"},
      // Experts that do not exist, for a token that is run.
      {"layers.0.ffn.gate.tid2eid", put(3 * 2, far_expert), " names expert 8 at row 3"},
      {"layers.0.ffn.gate.tid2eid", put(3 * 2, negative_expert), " names expert -1 at row 3"},
  };
  const Parts good(file());
  for (const Mistake& m : mistakes) {
    SCOPED_TRACE(std::string(m.tensor) + m.message);
    Parts bad = good;
    m.make(bad, m.tensor);
    bad.write(file());
    expect_bad_checkpoint(AllOf(
        StartsWith(m.message == " is missing" ? "c: error: " : "c/model.safetensors: error: "),
        HasSubstr("tensor '" + std::string(m.tensor) + "'" + m.message)));
  }
}

TEST_F(ReferenceCli, AShortenedFileIsRefused) {
  const std::string whole = content_of(file());
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{100},
                                 whole.size() / 2, whole.size() - 1}) {
    SCOPED_TRACE(size);
    std::ofstream(file(), std::ios::binary) << whole.substr(0, size);
    expect_bad_checkpoint(StartsWith("c/model.safetensors: error: "));
  }
  std::ofstream(file(), std::ios::binary) << whole << 'x';
  expect_bad_checkpoint(StartsWith("c/model.safetensors: error: "));
}

TEST_F(ReferenceCli, AnIndexThatDoesNotFitItsShardsIsRefused) {
  const fs::path index = foretoken_.folder / "c" / "model.safetensors.index.json";
  const auto write = [&](const std::string& text) { std::ofstream(index) << text; };
  write(R"({"weight_map": {"embed.weight": "model-00001-of-00002.safetensors"}})");
  expect_bad_checkpoint(AllOf(StartsWith("c/model.safetensors.index.json:1:"),
                              HasSubstr("model-00001-of-00002.safetensors")));
  write(R"({"weight_map": {"embed.weight": "../c/model.safetensors"}})");
  expect_bad_checkpoint(StartsWith("c/model.safetensors.index.json:1:"));
  write(R"({"weight_map": {"embd.weight": "model.safetensors"}})");
  expect_bad_checkpoint(
      AllOf(StartsWith("c/model.safetensors.index.json:1:"), HasSubstr("tensor 'embd.weight'")));
  write(R"({"weight_map": {"embed.weight": "model.safetensors"}})");
  expect_bad_checkpoint(AllOf(StartsWith("c: error: tensor '"), HasSubstr("is missing")));
  for (const char* text : {"", "{", "[]", "null", "{}", R"({"weight_map": []})"}) {
    write(text);
    expect_bad_checkpoint(StartsWith("c/model.safetensors.index.json"));
  }
}

// Seeded single-byte changes of what is parsed: the run succeeds or is refused in one line.
TEST_F(ReferenceCli, DamagedHeadersAndConfigurationsNeverCrash) {
  std::uint32_t state = 2024;
  const auto any = [&state](std::size_t below) {
    state = state * 1664525 + 1013904223;
    return static_cast<std::size_t>(state >> 8U) % below;
  };
  std::uint64_t header = 0;
  const std::string tensors = content_of(file());
  std::memcpy(&header, tensors.data(), sizeof(header));
  const fs::path config = foretoken_.folder / "c" / "config.json";
  int refused = 0;
  for (const auto& [path, good, size] : std::vector<std::tuple<fs::path, std::string, std::size_t>>{
           {file(), tensors, 8 + header}, {config, content_of(config), fs::file_size(config)}}) {
    for (int i = 0; i < 40; ++i) {
      std::string bad = good;
      const std::size_t at = any(i < 8 ? 8 : size);
      const char byte = "\0\x01 \"{}[],:-059.e\x7f\xff"[any(18)];
      SCOPED_TRACE(path.string() + " byte " + std::to_string(at) + " is " +
                   std::to_string(static_cast<int>(byte)));
      bad[at] = byte;
      std::ofstream(path, std::ios::binary) << bad;
      const Outcome o = run();
      if (o.code == 0) continue;
      ++refused;
      expect_refused(o, o.code == 4 ? 4 : 3, HasSubstr(o.code == 4 ? "foretoken: c" : ": error: "));
    }
    std::ofstream(path, std::ios::binary) << good;
  }
  EXPECT_GT(refused, 40);
  EXPECT_EQ(run().code, 0);
}

TEST_F(ReferenceCli, AFolderThatIsNoCheckpointIsRefused) {
  const fs::path config = foretoken_.folder / "c" / "config.json";
  const std::string good = content_of(config);
  for (const char* text : {"", "{", "[]", "{}", "{\"model_type\": \"llama\"}"}) {
    std::ofstream(config) << text;
    expect_bad_checkpoint(StartsWith("c/config.json"));
  }
  // A model of another size than the tensors.
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    std::ofstream(config) << text;
  };
  replaced("\"vocab_size\": 512", "\"vocab_size\": 513");
  expect_bad_checkpoint(AllOf(StartsWith("c/model.safetensors: error: tensor 'embed.weight'"),
                              HasSubstr("[513, 256]")));
  replaced("\"num_hidden_layers\": 5", "\"num_hidden_layers\": 4");
  expect_bad_checkpoint(AllOf(StartsWith("c/config.json:"), HasSubstr("compress_ratios")));
}

TEST_F(ReferenceCli, MissingFilesAreNamed) {
  fs::remove(foretoken_.folder / "c" / "config.json");
  expect_bad_checkpoint(AllOf(StartsWith("c: error: "), HasSubstr("config.json")));
  expect_refused(foretoken_("reference --checkpoint none --tokens t.json --out o"), 3,
                 StartsWith("none: error: no such folder"));
  expect_refused(foretoken_("reference --checkpoint t.json --tokens t.json --out o"), 3,
                 StartsWith("t.json: error: is no folder"));
}

TEST_F(ReferenceCli, TokensThatCannotBeRunAreRefusedWithTheirPlace) {
  struct Mistake {
    const char* text;
    const char* message;
  };
  for (const Mistake& m : std::vector<Mistake>{
           {"[1, 512]", "t.json:1:5: error: token id 512 is outside the vocabulary of 512"},
           {"[1, -1]", "t.json:1:5: error: token id -1 is outside"},
           {"[1, 99999999999999999999]", "t.json:1:5: error: "},
           {"[]", "t.json:1:1: error: the list of token ids is empty"},
           {"{\"input_ids\": []}", "t.json:1:15: error: the list of token ids is empty"},
           {"{\"ids\": [1]}", "t.json:1:1: error: missing key 'input_ids'"},
           {"[1, 2.5]", "t.json:1:5: error: a token id has to be an integer"},
           {"[1, 1e1]", "t.json:1:5: error: a token id has to be an integer"},
           {"[1, \"2\"]", "t.json:1:5: error: a token id has to be an integer"},
           {"[1, null]", "t.json:1:5: error: a token id has to be an integer"},
           {"[1, true]", "t.json:1:5: error: a token id has to be an integer"},
           {"[[1]]", "t.json:1:2: error: a token id has to be an integer"},
           {"7", "t.json:1:1: error: token ids have to be a list"},
           {"", "t.json: error: the file is empty"},
           {"[1, 2", "t.json:1:"},
       }) {
    SCOPED_TRACE(m.text);
    foretoken_.folder.write("t.json", m.text);
    expect_bad_checkpoint(StartsWith(m.message));
  }
  expect_refused(foretoken_("reference --checkpoint c --tokens none.json --out o"), 3,
                 StartsWith("none.json: error: "));
}

TEST_F(ReferenceCli, APrefillBeyondTheTokensIsAUsageError) {
  expect_refused(run("--prefill 5"), 2, HasSubstr("--prefill 5 is more than the 4 tokens given"));
  expect_refused(run("--prefill -1"), 2, HasSubstr("--prefill"));
  expect_refused(run("--prefill x"), 2, HasSubstr("--prefill"));
  expect_refused(foretoken_("reference --checkpoint c --tokens t.json"), 2,
                 HasSubstr("nothing to do"));
  EXPECT_FALSE(fs::exists(foretoken_.folder / "o.safetensors"));
}

TEST_F(ReferenceCli, OutputThatCannotBeWrittenIsNamed) {
  foretoken_.folder.write("plain", "kept");
  for (const char* out :
       {"/proc/out.safetensors", "none/out.safetensors", "plain/out.safetensors", "c"}) {
    SCOPED_TRACE(out);
    expect_refused(foretoken_("reference --checkpoint c --tokens t.json --out " + std::string(out)),
                   3, AllOf(StartsWith(out), HasSubstr(": error: ")));
  }
  EXPECT_EQ(content_of(foretoken_.folder / "plain"), "kept");
  if (::geteuid() == 0) return;  // may write anywhere
  fs::create_directory(foretoken_.folder / "locked");
  fs::permissions(foretoken_.folder / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  expect_refused(foretoken_("reference --checkpoint c --tokens t.json --out locked/o"), 3,
                 StartsWith("locked/o: error: "));
}

TEST_F(ReferenceCli, AnExistingFileIsReplacedAsAWholeAndOnlyWhenTheRunSucceeds) {
  ASSERT_EQ(run().code, 0);
  const fs::path out = foretoken_.folder / "o.safetensors";
  const std::string result = content_of(out);
  std::ofstream(out) << std::string(1'000'000, 'x');
  ASSERT_EQ(run().code, 0);
  EXPECT_EQ(content_of(out), result);
  std::ofstream(out) << "earlier";
  foretoken_.folder.write("t.json", "[3, 512]");
  EXPECT_EQ(run().code, 3);
  EXPECT_EQ(content_of(out), "earlier");
  EXPECT_EQ(foretoken_.folder.count(), 5U);  // c, t.json, o.safetensors, .out, .err
}

}  // namespace
}  // namespace foretoken
