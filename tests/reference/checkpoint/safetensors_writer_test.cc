#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "reference/checkpoint/safetensors.h"
#include "sim/base/output.h"
#include "tests/reference/checkpoint/test_support.h"

namespace foretoken::reference {
namespace {

namespace fs = std::filesystem;

constexpr std::array kAllDtypes = {
    StorageDtype::kF64,    StorageDtype::kF32,    StorageDtype::kF16,    StorageDtype::kBf16,
    StorageDtype::kF8E4M3, StorageDtype::kF8E5M2, StorageDtype::kF8E8M0, StorageDtype::kI64,
    StorageDtype::kI32,    StorageDtype::kI16,    StorageDtype::kI8,     StorageDtype::kU8,
    StorageDtype::kBool};

std::string usage_error(const auto& call) { return thrown<std::invalid_argument>(call); }

TEST(SafetensorsWriter, WritesWhatTheReaderReadsForEveryDtype) {
  const ScratchFolder folder;
  const fs::path path = folder / "f.safetensors";
  const auto content = [](std::size_t i) {
    std::string text(6 * static_cast<std::size_t>(element_size(kAllDtypes.at(i))), '\0');
    for (std::size_t k = 0; k < text.size(); ++k) text[k] = static_cast<char>(17 * i + 5 * k);
    return text;
  };
  SafetensorsWriter writer(path);
  for (const StorageDtype dtype : kAllDtypes) writer.add(std::string(to_string(dtype)), dtype);
  // Piece by piece, all tensors in turn.
  for (std::size_t k = 0; k < 6; ++k) {
    for (std::size_t i = 0; i < kAllDtypes.size(); ++i) {
      const auto size = static_cast<std::size_t>(element_size(kAllDtypes.at(i)));
      writer.append(i, as_bytes(content(i).substr(k * size, size)));
    }
  }
  for (std::size_t i = 0; i < kAllDtypes.size(); ++i) writer.finish(i, {2, 1, 3});
  writer.commit();

  const SafetensorsFile file(path);
  EXPECT_EQ(file.tensors().size(), kAllDtypes.size());
  for (std::size_t i = 0; i < kAllDtypes.size(); ++i) {
    const TensorInfo* tensor = file.find(to_string(kAllDtypes.at(i)));
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->dtype, kAllDtypes.at(i));
    EXPECT_EQ(tensor->shape, (std::vector<std::int64_t>{2, 1, 3}));
    EXPECT_EQ(tensor->begin % element_size(tensor->dtype), 0U);
    EXPECT_EQ(as_text(file.map(*tensor)), content(i)) << tensor->name;
  }
  EXPECT_EQ(folder.count(), 1U);
}

TEST(SafetensorsWriter, WritesTheSameBytesInAnyOrder) {
  const ScratchFolder folder;
  SafetensorsWriter one(folder / "one");
  one.add("b", StorageDtype::kF32);
  one.add("a", StorageDtype::kU8);
  one.append(0, as_bytes("12345678"));
  one.append(1, as_bytes("xyz"));
  one.finish(1, {3});
  one.finish(0, {2});
  one.commit();
  SafetensorsWriter two(folder / "two");
  two.add("a", StorageDtype::kU8);
  two.append(0, as_bytes("x"));
  two.add("b", StorageDtype::kF32);
  two.append(1, as_bytes("123"));
  two.append(0, as_bytes("yz"));
  two.append(1, {});
  two.append(1, as_bytes("45678"));
  two.finish(0, {3});
  two.finish(1, {2});
  two.commit();
  const std::string expected = R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                               R"("a":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})";
  const std::string padded = expected + std::string((8 - expected.size() % 8) % 8, ' ');
  EXPECT_EQ(content_of(folder / "one"), safetensors(padded, "12345678xyz"));
  EXPECT_EQ(content_of(folder / "one"), content_of(folder / "two"));
}

TEST(SafetensorsWriter, WritesEmptyScalarAndLargeTensorsAndOddNames) {
  const ScratchFolder folder;
  const std::string large(5'000'001, 'z');
  SafetensorsWriter writer(folder / "f");
  const std::vector<std::string> names = {"empty", "quote\"back\\slash\n\x1b", "\xC3\xA4", "large"};
  for (const std::string& name : names) writer.add(name, StorageDtype::kU8);
  writer.append(1, as_bytes("s"));
  writer.append(2, as_bytes("u"));
  writer.append(3, as_bytes(large));
  writer.finish(0, {3, 0});
  writer.finish(1, {});
  writer.finish(2, {1});
  writer.finish(3, {5'000'001});
  writer.commit();
  const SafetensorsFile file(folder / "f");
  ASSERT_EQ(file.tensors().size(), 4U);
  for (const std::string& name : names) ASSERT_NE(file.find(name), nullptr) << name;
  EXPECT_EQ(file.find("empty")->shape, (std::vector<std::int64_t>{3, 0}));
  EXPECT_EQ(as_text(file.map(*file.find(names[1]))), "s");
  EXPECT_EQ(as_text(file.map(*file.find("large"))), large);
  SafetensorsWriter nothing(folder / "nothing");
  nothing.commit();
  EXPECT_EQ(content_of(folder / "nothing"), safetensors("{}      "));
  EXPECT_TRUE(SafetensorsFile(folder / "nothing").tensors().empty());
}

TEST(SafetensorsWriter, RefusesWrongUse) {
  const ScratchFolder folder;
  SafetensorsWriter writer(folder / "f");
  writer.add("a", StorageDtype::kF32);
  EXPECT_EQ(usage_error([&] { writer.add("a", StorageDtype::kU8); }),
            "tensor 'a' is written twice");
  EXPECT_EQ(usage_error([&] { writer.add("", StorageDtype::kU8); }), "a tensor needs a name");
  EXPECT_EQ(usage_error([&] { writer.add("__metadata__", StorageDtype::kU8); }),
            "__metadata__ is no name for a tensor");
  EXPECT_EQ(usage_error([&] { writer.add("\xFF", StorageDtype::kU8); }),
            "a tensor name that is not UTF-8");
  EXPECT_EQ(usage_error([&] { writer.add(std::string("a\0", 2), StorageDtype::kU8); }),
            "a tensor name with a NUL character");
  EXPECT_EQ(usage_error([&] { writer.add(std::string(1001, 'n'), StorageDtype::kU8); }),
            "a tensor name of more than 1000 bytes");
  EXPECT_EQ(usage_error([&] { writer.append(1, as_bytes("x")); }), "no such tensor");
  writer.append(0, as_bytes("1234"));
  EXPECT_EQ(usage_error([&] { writer.finish(0, {2}); }),
            "tensor 'a': 4 bytes were written, but F32 of shape [2] takes 8");
  EXPECT_EQ(usage_error([&] { writer.finish(0, {-1}); }),
            "tensor 'a': a shape that cannot be: [-1]");
  EXPECT_EQ(usage_error([&] { writer.finish(0, std::vector<std::int64_t>(33, 1)); }),
            "tensor 'a': too many dimensions");
  EXPECT_EQ(usage_error([&] { writer.commit(); }), "tensor 'a' is not finished");
  writer.finish(0, {1});
  EXPECT_EQ(usage_error([&] { writer.append(0, as_bytes("x")); }),
            "tensor 'a' is already finished");
  EXPECT_EQ(usage_error([&] { writer.finish(0, {1}); }), "tensor 'a' is already finished");
  writer.commit();
  EXPECT_EQ(usage_error([&] { writer.commit(); }), (folder / "f").string() + " is already written");
  EXPECT_EQ(folder.count(), 1U);
}

TEST(SafetensorsWriter, LeavesAnEarlierFileUntilItIsDone) {
  const ScratchFolder folder;
  const fs::path path = folder.write("f", "old");
  fs::create_symlink("f", folder / "link");
  {
    SafetensorsWriter writer(path);
    writer.append(writer.add("a", StorageDtype::kU8), as_bytes("x"));
    EXPECT_EQ(folder.count(), 2U);  // the spool has no name
  }
  EXPECT_EQ(content_of(path), "old");
  SafetensorsWriter writer(folder / "link");
  writer.append(writer.add("a", StorageDtype::kU8), as_bytes("x"));
  writer.finish(0, {1});
  EXPECT_EQ(content_of(path), "old");
  writer.commit();
  EXPECT_NE(SafetensorsFile(path).find("a"), nullptr);
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(folder.count(), 2U);
}

TEST(SafetensorsWriter, NamesAPathThatCannotBeWritten) {
  const ScratchFolder folder;
  const auto create = [](const fs::path& path) {
    return config_error([&] { const SafetensorsWriter writer(path); });
  };
  EXPECT_EQ(create(folder / "none/f"), (folder / "none/f").string() +
                                           ": error: cannot create the file: "
                                           "No such file or directory");
  EXPECT_EQ(create(folder.path()), folder.path().string() + ": error: is a folder, not a file");
  EXPECT_EQ(create("/proc/self/f").substr(0, 47),
            "/proc/self/f: error: cannot create the file: No");
  EXPECT_EQ(folder.count(), 0U);
}

// A file size limit fails a write as a full disk does, also for root.
TEST(SafetensorsWriter, LeavesNothingBehindWhenTheDiskIsFull) {
  const ScratchFolder folder;
  const fs::path path = folder.write("f", "old");
  const std::string full = path.string() + ": error: cannot write the file: File too large";
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 1000, .rlim_max = 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int result = 0;
    {
      SafetensorsWriter spool_full(path);
      spool_full.add("a", StorageDtype::kU8);
      const std::string many(1001, 'x');
      if (config_error([&] { spool_full.append(0, as_bytes(many)); }) != full) result |= 1;
    }
    {
      SafetensorsWriter result_full(path);  // the header makes it too large
      result_full.add("a", StorageDtype::kU8);
      const std::string many(990, 'x');
      result_full.append(0, as_bytes(many));
      result_full.finish(0, {990});
      if (config_error([&] { result_full.commit(); }) != full) result |= 2;
    }
    ::_exit(result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0) << WEXITSTATUS(status);
  EXPECT_EQ(content_of(path), "old");
  EXPECT_EQ(folder.count(), 1U);
}

// The limit's signal arrives while commit() writes.
TEST(SafetensorsWriter, LeavesNothingBehindAfterASignal) {
  const ScratchFolder folder;
  const fs::path path = folder.write("f", "old");
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, [](int) {
      base::remove_temporaries_on_signal();
      ::_exit(42);
    });
    const rlimit limit{.rlim_cur = 1000, .rlim_max = 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    SafetensorsWriter writer(path);
    writer.add("a", StorageDtype::kU8);
    const std::string many(990, 'x');
    writer.append(0, as_bytes(many));
    writer.finish(0, {990});
    writer.commit();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 42);
  EXPECT_EQ(content_of(path), "old");
  EXPECT_EQ(folder.count(), 1U);
}

TEST(SafetensorsWriter, WritesToADeviceOrAPipeAsItIs) {
  const ScratchFolder folder;
  const auto write = [](const fs::path& path) {
    SafetensorsWriter writer(path);
    writer.append(writer.add("a", StorageDtype::kU8), as_bytes("x"));
    writer.finish(0, {1});
    writer.commit();
  };
  write(folder / "file");
  write("/dev/null");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_EQ(config_error([&] { write("/dev/full"); }),
            "/dev/full: error: cannot write the file: No space left on device");
  const fs::path pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::string received;
  std::thread reader([&] { received = content_of(pipe); });
  write(pipe);
  reader.join();
  EXPECT_EQ(received, content_of(folder / "file"));
  EXPECT_EQ(folder.count(), 2U);
}

}  // namespace
}  // namespace foretoken::reference
