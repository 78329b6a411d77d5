#include "reference/checkpoint/safetensors.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/reference/checkpoint/test_support.h"

namespace foretoken::reference {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

// What is wrong with a header in a file with that many bytes of data, without "f: error: ".
std::string header_error(const std::string& header, std::uint64_t data = 0) {
  const std::string error =
      config_error([&] { parse_safetensors_header("f", 8 + header.size() + data, header); });
  const std::string start = "f: error: ";
  EXPECT_EQ(error.substr(0, start.size()), error.empty() ? "" : start) << header;
  EXPECT_EQ(error.find('\n'), std::string::npos);
  return error.empty() ? "" : error.substr(start.size());
}

// The same for a header with one tensor 'a'.
std::string entry_error(const std::string& fields, std::uint64_t data = 8) {
  return header_error(R"({"a":{)" + fields + "}}", data);
}

std::string file_error(const fs::path& path) {
  const std::string error = config_error([&] { const SafetensorsFile file(path); });
  const std::string start = path.string() + ": error: ";
  EXPECT_EQ(error.substr(0, start.size()), error.empty() ? "" : start);
  return error.empty() ? "" : error.substr(start.size());
}

TEST(StorageDtype, NamesAndSizes) {
  for (const auto& [name, bytes] : std::vector<std::pair<std::string, std::int64_t>>{{"F64", 8},
                                                                                     {"F32", 4},
                                                                                     {"F16", 2},
                                                                                     {"BF16", 2},
                                                                                     {"F8_E4M3", 1},
                                                                                     {"F8_E5M2", 1},
                                                                                     {"F8_E8M0", 1},
                                                                                     {"I64", 8},
                                                                                     {"I32", 4},
                                                                                     {"I16", 2},
                                                                                     {"I8", 1},
                                                                                     {"U8", 1},
                                                                                     {"BOOL", 1}}) {
    const auto dtype = parse_storage_dtype(name);
    ASSERT_TRUE(dtype.has_value()) << name;
    EXPECT_EQ(to_string(*dtype), name);
    EXPECT_EQ(element_size(*dtype), bytes) << name;
  }
  EXPECT_EQ(parse_storage_dtype("F8_E4M3FN"), StorageDtype::kF8E4M3);
  EXPECT_EQ(parse_storage_dtype("F8_E8M0FNU"), StorageDtype::kF8E8M0);
  for (const char* name : {"", "f32", "F4", "F4_E2M1", "U64", "F32 "}) {
    EXPECT_EQ(parse_storage_dtype(name), std::nullopt) << name;
  }
}

TEST(TensorBytes, RefusesWhatCannotBeMultiplied) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  const auto bytes = [](StorageDtype dtype, std::vector<std::int64_t> shape) {
    return tensor_bytes(dtype, shape);
  };
  EXPECT_EQ(bytes(StorageDtype::kF32, {}), 4);
  EXPECT_EQ(bytes(StorageDtype::kF32, {3, 5}), 60);
  EXPECT_EQ(bytes(StorageDtype::kF32, {3, 0, 5}), 0);
  EXPECT_EQ(bytes(StorageDtype::kU8, {kHuge}), kHuge);
  EXPECT_EQ(bytes(StorageDtype::kI16, {kHuge}), std::nullopt);
  EXPECT_EQ(bytes(StorageDtype::kU8, {0, kHuge, kHuge}), std::nullopt);
  EXPECT_EQ(bytes(StorageDtype::kU8, {-1}), std::nullopt);
  EXPECT_EQ(bytes(StorageDtype::kU8, {0, -1}), std::nullopt);
}

TEST(SafetensorsHeader, GivesTensorsByNameWithOffsetsInTheFile) {
  // A tensor of one byte leaves the next one unaligned; empty and scalar tensors are tensors.
  const std::string header =
      "{" + entry("w", "F32", "[1,2]", 1, 9) + "," + R"("__metadata__":{"format":"pt","k":""},)" +
      entry("flag", "BOOL", "[]", 0, 1) + "," + entry("empty", "BF16", "[0, 7]", 1, 1) + "}   ";
  const auto tensors = parse_safetensors_header("f", 8 + header.size() + 9, header);
  ASSERT_EQ(tensors.size(), 3U);
  const std::uint64_t data = 8 + header.size();
  EXPECT_EQ(tensors[0].name, "empty");
  EXPECT_THAT(tensors[0].shape, ElementsAre(0, 7));
  EXPECT_EQ(tensors[0].elements(), 0);
  EXPECT_EQ(tensors[1].name, "flag");
  EXPECT_EQ(tensors[1].dtype, StorageDtype::kBool);
  EXPECT_TRUE(tensors[1].shape.empty());
  EXPECT_EQ(tensors[1].elements(), 1);
  EXPECT_EQ(tensors[2].name, "w");
  EXPECT_EQ(tensors[2].dtype, StorageDtype::kF32);
  EXPECT_THAT(tensors[2].shape, ElementsAre(1, 2));
  EXPECT_EQ(tensors[2].elements(), 2);
  EXPECT_EQ(tensors[2].begin, data + 1);
  EXPECT_EQ(tensors[2].end, data + 9);
  EXPECT_EQ(parse_safetensors_header("f", 10, "{}").size(), 0U);
}

TEST(SafetensorsHeader, RefusesWhatIsNoJsonObject) {
  EXPECT_EQ(header_error(""), "the header does not start with '{'");
  EXPECT_EQ(header_error("[]"), "the header does not start with '{'");
  EXPECT_EQ(header_error(" {}"), "the header does not start with '{'");
  EXPECT_EQ(header_error("\xEF\xBB\xBF{}"), "the header does not start with '{'");
  EXPECT_EQ(header_error("{"),
            "the header is not valid JSON at byte 2: unexpected end of input; "
            "expected string literal");
  EXPECT_EQ(header_error("{}x"), "the header is not valid JSON at byte 3: invalid literal");
  EXPECT_EQ(header_error("{}{}"),
            "the header is not valid JSON at byte 3: unexpected '{'; expected end of input");
  EXPECT_EQ(header_error("{'a':1}"), "the header is not valid JSON at byte 2: invalid literal");
  EXPECT_EQ(header_error(R"({"a\xff":1})"),
            "the header is not valid JSON at byte 5: invalid string: forbidden character after "
            "backslash");
  EXPECT_EQ(header_error("{\"a\xFF\":1}"),
            "the header is not valid JSON at byte 4: invalid string: ill-formed UTF-8 byte");
  for (const std::string tail : {"", "}", "hidden"}) {
    EXPECT_EQ(header_error(std::string("{}\0", 3) + tail),
              "the header is not valid JSON at byte 3: a NUL character");
  }
  EXPECT_EQ(header_error(R"({"a":{"shape":[1e999]}})"),
            "the header is not valid JSON at byte 20: number too large");
}

TEST(SafetensorsHeader, RefusesDeepNestingAtOnce) {
  EXPECT_EQ(header_error(R"({"a":)" + std::string(100'000, '[')),
            "tensor 'a': its entry is no map but a list");
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += R"({"a":)";
  EXPECT_EQ(header_error(nested), "tensor 'a': unknown key 'a'");
  EXPECT_EQ(entry_error(R"("shape":)" + std::string(100'000, '[')),
            "tensor 'a': shape holds a list, which is no size");
}

TEST(SafetensorsHeader, RefusesNamesThatAreNone) {
  EXPECT_EQ(header_error("{" + entry("", "U8", "[0]", 0, 0) + "}"), "a tensor without a name");
  EXPECT_EQ(header_error("{" + entry("a\\u0000b", "U8", "[0]", 0, 0) + "}"),
            "tensor 'a\\x00b': a name with a NUL character");
  const std::string longest(kLongestTensorName, 'n');
  EXPECT_EQ(header_error("{" + entry(longest, "U8", "[0]", 0, 0) + "}"), "");
  EXPECT_EQ(
      header_error("{" + entry(longest + "n", "U8", "[0]", 0, 0) + "}"),
      "a tensor name of 1001 bytes, '" + std::string(60, 'n') + "...'; at most 1000 are read");
  EXPECT_EQ(
      header_error("{" + entry("a", "U8", "[0]", 0, 0) + "," + entry("a", "U8", "[0]", 0, 0) + "}"),
      "tensor 'a': stands twice");
}

TEST(SafetensorsHeader, KeepsAMessageOnOneLine) {
  EXPECT_EQ(header_error(R"({"a\n\u001b[31m\u0085\"":1})"),
            "tensor 'a\\n\\u001b[31m\\u0085\\\"': its entry is no map but 1");
  EXPECT_EQ(entry_error(R"("dtype":"\n\u0007")"), "tensor 'a': unknown dtype '\\n\\x07'");
  EXPECT_EQ(entry_error(R"("\r":1)"), "tensor 'a': unknown key '\\x0d'");
  EXPECT_EQ(header_error("{\"a\n\":1}").find('\n'), std::string::npos);
}

TEST(SafetensorsHeader, RefusesEntriesOfTheWrongKind) {
  for (const auto& [value, found] :
       std::vector<std::pair<std::string, std::string>>{{"null", "null"},
                                                        {"true", "true"},
                                                        {"false", "false"},
                                                        {"1", "1"},
                                                        {"-1", "-1"},
                                                        {"1.5", "'1.5'"},
                                                        {"\"x\"", "a text"},
                                                        {"[]", "a list"}}) {
    EXPECT_EQ(header_error(R"({"a":)" + value + "}"),
              "tensor 'a': its entry is no map but " + found);
  }
  EXPECT_EQ(entry_error(R"("dtype":1)"), "tensor 'a': dtype is no text but 1");
  EXPECT_EQ(entry_error(R"("dtype":[])"), "tensor 'a': dtype is no text but a list");
  EXPECT_EQ(entry_error(R"("shape":"[1]")"), "tensor 'a': shape is no list but a text");
  EXPECT_EQ(entry_error(R"("shape":{})"), "tensor 'a': shape is no list but a map");
  EXPECT_EQ(entry_error(R"("shape":["1"])"), "tensor 'a': shape holds a text, which is no size");
  EXPECT_EQ(entry_error(R"("shape":[1.0])"), "tensor 'a': shape holds '1.0', which is no size");
  EXPECT_EQ(entry_error(R"("data_offsets":8)"), "tensor 'a': data_offsets is no list but 8");
  EXPECT_EQ(entry_error(R"("data_offsets":[null,8])"),
            "tensor 'a': data_offsets holds null, which is no offset");
}

TEST(SafetensorsHeader, RefusesMissingDoubleAndUnknownKeys) {
  EXPECT_EQ(entry_error(""), "tensor 'a': dtype is missing");
  EXPECT_EQ(entry_error(R"("dtype":"F32","data_offsets":[0,8])"), "tensor 'a': shape is missing");
  EXPECT_EQ(entry_error(R"("dtype":"F32","shape":[2])"), "tensor 'a': data_offsets is missing");
  EXPECT_EQ(entry_error(R"("dtype":"F32","dtype":"F32")"), "tensor 'a': dtype stands twice");
  EXPECT_EQ(entry_error(R"("shape":[2],"shape":[2])"), "tensor 'a': shape stands twice");
  EXPECT_EQ(entry_error(R"("data_offsets":[0,8],"data_offsets":[0,8])"),
            "tensor 'a': data_offsets stands twice");
  EXPECT_EQ(entry_error(R"("dtype":"F32","strides":[1])"), "tensor 'a': unknown key 'strides'");
  EXPECT_EQ(entry_error(R"("dtype":"F31")"), "tensor 'a': unknown dtype 'F31'");
}

TEST(SafetensorsHeader, RefusesMetadataThatIsNoMapOfTexts) {
  EXPECT_EQ(header_error(R"({"__metadata__":{}})"), "");
  EXPECT_EQ(header_error(R"({"__metadata__":null})"), "__metadata__ is no map but null");
  EXPECT_EQ(header_error(R"({"__metadata__":["a"]})"), "__metadata__ is no map but a list");
  EXPECT_EQ(header_error(R"({"__metadata__":{"a":1}})"),
            "__metadata__: the value of 'a' is no text but 1");
  EXPECT_EQ(header_error(R"({"__metadata__":{"a":{"b":"c"}}})"),
            "__metadata__: the value of 'a' is no text but a map");
  EXPECT_EQ(header_error(R"({"__metadata__":{"a":"1","b":"","a":"2"}})"),
            "__metadata__: 'a' stands twice");
  EXPECT_EQ(header_error(R"({"__metadata__":{},"__metadata__":{}})"), "__metadata__ stands twice");
}

TEST(SafetensorsHeader, RefusesShapesThatCannotBe) {
  const auto shape_error = [](const std::string& shape) {
    return entry_error(R"("dtype":"F32","data_offsets":[0,8],"shape":)" + shape);
  };
  EXPECT_EQ(shape_error("[2]"), "");
  EXPECT_EQ(shape_error("[2,-0]"),
            "tensor 'a': F32 of shape [2, 0] takes 0 bytes, but data_offsets span 8");
  EXPECT_EQ(shape_error("[-2]"), "tensor 'a': shape holds -2, which is no size");
  EXPECT_EQ(shape_error("[9223372036854775808]"),
            "tensor 'a': shape holds 9223372036854775808, which is too large");
  EXPECT_EQ(shape_error("[18446744073709551618]"),
            "tensor 'a': shape holds '18446744073709551618', which is no size");
  // 2^63 elements, whose product is 2 modulo 2^63 once more; then the bytes alone overflow.
  EXPECT_EQ(shape_error("[4294967296,4294967296,2]"),
            "tensor 'a': shape [4294967296, 4294967296, 2] is too large");
  EXPECT_EQ(shape_error("[2305843009213693954]"),
            "tensor 'a': shape [2305843009213693954] is too large");
  EXPECT_EQ(shape_error("[0,4294967296,4294967296]"),
            "tensor 'a': shape [0, 4294967296, 4294967296] is too large");
  EXPECT_EQ(shape_error("[3]"),
            "tensor 'a': F32 of shape [3] takes 12 bytes, but data_offsets span 8");
  EXPECT_EQ(shape_error("[]"),
            "tensor 'a': F32 of shape [] takes 4 bytes, but data_offsets span 8");
  std::string ones = "[2";
  for (int i = 1; i < 32; ++i) ones += ",1";
  EXPECT_EQ(shape_error(ones + "]"), "");
  EXPECT_EQ(shape_error(ones + ",1]"), "tensor 'a': more than 32 dimensions");
}

TEST(SafetensorsHeader, RefusesOffsetsThatCannotBe) {
  const auto offsets_error = [](const std::string& offsets) {
    return entry_error(R"("dtype":"U8","shape":[8],"data_offsets":)" + offsets);
  };
  EXPECT_EQ(offsets_error("[0,8]"), "");
  EXPECT_EQ(offsets_error("[]"), "tensor 'a': data_offsets has 0 numbers, not 2");
  EXPECT_EQ(offsets_error("[0]"), "tensor 'a': data_offsets has 1 numbers, not 2");
  EXPECT_EQ(offsets_error("[0,8,8]"), "tensor 'a': data_offsets has 3 numbers, not 2");
  EXPECT_EQ(offsets_error("[8,0]"), "tensor 'a': data_offsets [8, 0] are reversed");
  EXPECT_EQ(offsets_error("[-8,0]"), "tensor 'a': data_offsets holds -8, which is no offset");
  EXPECT_EQ(offsets_error("[0.0,8]"), "tensor 'a': data_offsets holds '0.0', which is no offset");
  EXPECT_EQ(offsets_error("[1,9]"),
            "tensor 'a': data_offsets [1, 9] reach beyond the file, which has 8 bytes of data");
  EXPECT_EQ(offsets_error("[18446744073709551608,18446744073709551615]"),
            "tensor 'a': data_offsets [18446744073709551608, 18446744073709551615] reach beyond "
            "the file, which has 8 bytes of data");
}

TEST(SafetensorsHeader, RefusesOverlapsAndHoles) {
  const auto two = [](std::uint64_t end_a, std::uint64_t begin_b, std::uint64_t end_b) {
    return "{" + entry("a", "U8", "[" + std::to_string(end_a) + "]", 0, end_a) + "," +
           entry("b", "U8", "[" + std::to_string(end_b - begin_b) + "]", begin_b, end_b) + "}";
  };
  EXPECT_EQ(header_error(two(4, 4, 8), 8), "");
  EXPECT_EQ(header_error(two(4, 3, 8), 8), "tensor 'b': overlaps tensor 'a'");
  EXPECT_EQ(header_error(two(4, 0, 8), 8), "tensor 'b': overlaps tensor 'a'");
  EXPECT_EQ(header_error(two(8, 2, 4), 8), "tensor 'b': overlaps tensor 'a'");
  EXPECT_EQ(header_error(two(4, 2, 2), 4), "tensor 'b': overlaps tensor 'a'");  // b is empty
  EXPECT_EQ(header_error(two(4, 5, 8), 8), "tensor 'b': 1 bytes before it belong to no tensor");
  EXPECT_EQ(header_error(two(4, 4, 8), 9), "1 bytes after the last tensor belong to none");
  EXPECT_EQ(header_error("{}", 5), "5 bytes after the last tensor belong to none");
  EXPECT_EQ(header_error("{" + entry("a", "U8", "[2]", 1, 3) + "}", 3),
            "tensor 'a': 1 bytes before it belong to no tensor");
}

TEST(SafetensorsHeader, RefusesSizesThatCannotBe) {
  EXPECT_EQ(config_error([] { parse_safetensors_header("f", 9, "{}"); }),
            "f: error: the header has 2 bytes, but the file only 9");
  EXPECT_EQ(config_error([] { parse_safetensors_header("f", ~std::uint64_t{0}, "{}"); }),
            "f: error: a file of 18446744073709551615 bytes is too large");
}

TEST(SafetensorsHeader, ReadsAHeaderOf150000TensorsFast) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  constexpr int kTensors = 150'000;
  for (int i = 0; i < kTensors; ++i) {
    header += "," + entry("model.layers." + std::to_string(i % 61) + ".mlp.experts." +
                              std::to_string(i) + ".down_proj.weight_scale_inv",
                          "F8_E8M0", "[2,4]", std::uint64_t{8} * i, std::uint64_t{8} * (i + 1));
  }
  header += "}";
  const auto start = std::chrono::steady_clock::now();
  const auto tensors =
      parse_safetensors_header("f", 8 + header.size() + std::uint64_t{8} * kTensors, header);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(tensors.size(), std::size_t{kTensors});
  RecordProperty("milliseconds", static_cast<int>(seconds.count() * 1e3));
  // Some 0.2 s on a quiet machine; the bound leaves room for a busy one and for sanitizers.
  EXPECT_LT(seconds.count(), 5.0);
}

TEST(SafetensorsHeader, RefusesAnAbsurdNumberOfTensors) {
  std::string header = "{";
  for (std::size_t i = 0; i <= kMostTensors; ++i) {
    if (i > 0) header += ',';
    header += entry(std::to_string(i), "U8", "[0]", 0, 0);
  }
  header += "}";
  EXPECT_EQ(header_error(header), "more than 1000000 tensors");
}

TEST(SafetensorsFile, RefusesWhatIsNoFile) {
  const ScratchFolder folder;
  EXPECT_EQ(file_error(folder / "none"), "cannot open the file: No such file or directory");
  EXPECT_EQ(file_error(folder.path()), "is a folder, not a safetensors file");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(file_error(folder / "pipe"), "is not a regular file");
  EXPECT_EQ(file_error("/dev/zero"), "is not a regular file");
}

TEST(SafetensorsFile, RefusesLengthsThatCannotBe) {
  const ScratchFolder folder;
  for (const std::string& content : {std::string(), std::string("1234567")}) {
    EXPECT_EQ(file_error(folder.write("f", content)),
              "the file has " + std::to_string(content.size()) +
                  " bytes; a safetensors file starts with 8 that tell the length of its header");
  }
  EXPECT_EQ(file_error(folder.write("f", length_bytes(3) + "{}")),
            "the header has 3 bytes, but the file only 10");
  EXPECT_EQ(file_error(folder.write("f", length_bytes(~std::uint64_t{0}) + "{}")),
            "the header has 18446744073709551615 bytes, but the file only 10");
  EXPECT_EQ(file_error(folder.write("f", length_bytes(0))), "the header does not start with '{'");
  folder.write("f", length_bytes(kMostHeaderBytes + 1));
  fs::resize_file(folder / "f", 8 + kMostHeaderBytes + 1);
  EXPECT_EQ(file_error(folder / "f"), "the header has 100000001 bytes; at most 100000000 are read");
}

TEST(SafetensorsFile, MapsTensorsAndPartsOfThem) {
  const ScratchFolder folder;
  // Data that spans several pages, starting at an odd byte.
  std::string data(20'001, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31 >> 3);
  const fs::path path =
      folder.write("f", safetensors("{" + entry("one", "U8", "[1]", 0, 1) + "," +
                                        entry("rows", "F32", "[50,100]", 1, 20'001) + "," +
                                        entry("none", "F32", "[0]", 20'001, 20'001) + "}",
                                    data));
  const SafetensorsFile file(path);
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.find("two"), nullptr);
  EXPECT_EQ(file.find(""), nullptr);
  const TensorInfo* rows = file.find("rows");
  ASSERT_NE(rows, nullptr);
  EXPECT_EQ(as_text(file.map(*rows)), data.substr(1));
  EXPECT_EQ(as_text(file.map(*file.find("one"))), data.substr(0, 1));
  for (const std::uint64_t first : {0, 1, 4095, 4096, 8190, 19'999}) {
    EXPECT_EQ(as_text(file.map(*rows, first, 1)), data.substr(1 + first, 1));
    EXPECT_EQ(as_text(file.map(*rows, first, 20'000 - first)), data.substr(1 + first));
  }
  EXPECT_TRUE(file.map(*rows, 20'000, 0).bytes().empty());
  EXPECT_TRUE(file.map(*file.find("none")).bytes().empty());
  EXPECT_EQ(thrown<std::invalid_argument>([&] { (void)file.map(*rows, 19'999, 2); }),
            "bytes [19999, 19999 + 2) of tensor 'rows', which has 20000");
  EXPECT_NE(thrown<std::invalid_argument>([&] { (void)file.map(*rows, 20'001, 0); }), "");
  EXPECT_NE(thrown<std::invalid_argument>([&] { (void)file.map(*rows, 1, ~std::uint64_t{0}); }),
            "");
}

TEST(SafetensorsFile, AMappedPartMovesAndOutlivesTheFile) {
  const ScratchFolder folder;
  const fs::path path =
      folder.write("f", safetensors("{" + entry("a", "U8", "[4]", 0, 4) + "}", "abcd"));
  MappedBytes part;
  EXPECT_TRUE(part.bytes().empty());
  {
    const SafetensorsFile file(path);
    MappedBytes first = file.map(*file.find("a"));
    part = std::move(first);
    part = file.map(*file.find("a"), 1, 3);
  }
  const MappedBytes last(std::move(part));
  EXPECT_EQ(as_text(last), "bcd");
}

TEST(SafetensorsFile, SeesThatTheFileHasShrunk) {
  const ScratchFolder folder;
  const fs::path path = folder.write(
      "f", safetensors("{" + entry("a", "U8", "[9999]", 0, 9999) + "}", std::string(9999, 'x')));
  const SafetensorsFile file(path);
  fs::resize_file(path, 200);
  EXPECT_EQ(config_error([&] { (void)file.map(*file.find("a"), 0, 1); }),
            path.string() + ": error: tensor 'a': the file has become shorter since it was opened");
}

// 3 GB of zeros that take no room on the disk, read within 1 GB of addresses.
TEST(SafetensorsFile, ReadsAFileLargerThanTheAddressSpace) {
  if (FORETOKEN_UNDER_SANITIZER) GTEST_SKIP() << "sanitizers need the addresses themselves";
  const ScratchFolder folder;
  constexpr std::uint64_t kRow = 100'000'000;
  constexpr std::uint64_t kBytes = 30 * kRow;
  const fs::path path =
      folder.write("f", safetensors("{" + entry("big", "U8", "[30,100000000]", 0, kBytes) + "}"));
  fs::resize_file(path, fs::file_size(path) + kBytes);
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{.rlim_cur = 1'000'000'000, .rlim_max = 1'000'000'000};
    int result = ::setrlimit(RLIMIT_AS, &limit) == 0 ? 0 : 1;
    try {
      const SafetensorsFile file(path);
      const TensorInfo& big = *file.find("big");
      for (std::uint64_t row = 0; row < 30; ++row) {
        const MappedBytes part = file.map(big, row * kRow, kRow);
        if (part.bytes().size() != kRow || part.bytes().back() != std::byte{0}) result = 2;
      }
      const std::string error = config_error([&] { (void)file.map(big); });
      if (error !=
          path.string() +
              ": error: tensor 'big': cannot map 3000000000 bytes: Cannot allocate memory") {
        result = 3;
      }
    } catch (...) {
      result = 4;
    }
    ::_exit(result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0) << WEXITSTATUS(status);
}

// Opens, or refuses with a one-line error that names the file; whatever opens can be read.
TEST(SafetensorsFile, SurvivesRandomDamage) {
  const ScratchFolder folder;
  const std::string whole = safetensors(
      R"({"__metadata__":{"format":"pt"},)" + entry("a", "F32", "[2,3]", 0, 24) + "," +
          entry("b.c", "BF16", "[4]", 24, 32) + "," + entry("d", "F8_E4M3", "[]", 32, 33) + "}  ",
      std::string(33, 'x'));
  std::mt19937 random(20'240'601);
  const auto below = [&random](std::size_t limit) { return random() % limit; };
  int opened = 0;
  std::string buffer(64, '\0');
  const std::string path = (folder / "f").string();
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  for (int round = 0; round < 20'000; ++round) {
    std::string content = whole;
    for (std::size_t changes = 1 + below(3); changes > 0; --changes) {
      const std::size_t at = below(content.size());
      switch (below(6)) {
        case 0:
          content[at] = static_cast<char>(content[at] ^ (1 << below(8)));
          break;
        case 1:
          content[at] = static_cast<char>(below(256));
          break;
        case 2:  // a character that means something
          content[at] = R"("{}[],:0123456789-.eE\ )"[below(23)];
          break;
        case 3:
          content.erase(at, 1 + below(8));
          break;
        case 4:
          content.insert(at, content.substr(below(content.size()), 1 + below(40)));
          break;
        default:
          content.resize(at + 1);
      }
      if (content.empty()) content = "x";
    }
    if (below(2) == 0 && content.size() > 8) {
      // Past the length, so that damage inside is reached.
      content.replace(0, 8, length_bytes(std::min(content.size() - 8, whole.size() - 41)));
    }
    ASSERT_EQ(::ftruncate(fd, 0), 0);
    ASSERT_EQ(::pwrite(fd, content.data(), content.size(), 0),
              static_cast<ssize_t>(content.size()));
    try {
      const SafetensorsFile file(path);
      ++opened;
      for (const TensorInfo& tensor : file.tensors()) {
        const MappedBytes part = file.map(tensor);
        ASSERT_EQ(part.bytes().size(), tensor.bytes());
        for (const std::byte byte : part.bytes()) buffer[0] = static_cast<char>(byte);
      }
    } catch (const base::ConfigError& error) {
      const std::string text = error.what();
      ASSERT_TRUE(text.starts_with(path + ": error: ")) << text;
      ASSERT_TRUE(std::ranges::none_of(text, [](unsigned char c) { return c < 0x20; })) << text;
    }
  }
  ::close(fd);
  EXPECT_GT(opened, 100);  // damage to data and names goes unseen
  EXPECT_LT(opened, 19'000);
}

}  // namespace
}  // namespace foretoken::reference
