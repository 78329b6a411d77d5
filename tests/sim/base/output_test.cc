#include "sim/base/output.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "tests/sim/base/test_support.h"

namespace foretoken::base {
namespace {

namespace fs = std::filesystem;

TEST(OutputSet, WritesAllFilesOnCommitOnly) {
  const ScratchFolder folder;
  OutputSet files(folder / "deep/er");
  files.add("a.txt", "one");
  files.add("b.txt", std::string(300'000, 'x'));
  EXPECT_FALSE(fs::exists(folder / "deep"));
  files.commit();
  EXPECT_EQ(content_of(folder / "deep/er/a.txt"), "one");
  EXPECT_EQ(content_of(folder / "deep/er/b.txt"), std::string(300'000, 'x'));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "deep/er"), {}), 2);
}

TEST(OutputSet, ForgetsFilesThatWereNeverCommitted) {
  const ScratchFolder folder;
  {
    OutputSet files(folder.path());
    files.add("a.txt", "one");
  }
  EXPECT_EQ(folder.count(), 0U);
}

TEST(OutputSet, TakesTheLastContentOfAName) {
  const ScratchFolder folder;
  OutputSet files(folder.path());
  files.add("a", "one");
  files.add("a", "two");
  files.commit();
  EXPECT_EQ(content_of(folder / "a"), "two");
}

TEST(OutputSet, LeavesEarlierFilesWhenOneCannotBeWritten) {
  const ScratchFolder folder;
  folder.write("a.txt", "old");
  fs::create_directory(folder / "b.txt");
  OutputSet files(folder.path());
  files.add("a.txt", "new");
  files.add("b.txt", "new");
  EXPECT_EQ(config_error([&] { files.commit(); }),
            (folder / "b.txt").string() + ": error: cannot replace this: it is not a plain file");
  EXPECT_EQ(content_of(folder / "a.txt"), "old");
  EXPECT_EQ(folder.count(), 2U);
}

TEST(OutputSet, NamesAFolderThatCannotBe) {
  const ScratchFolder folder;
  const fs::path file = folder.write("f", "x");
  OutputSet in_file(file);
  in_file.add("a", "1");
  EXPECT_EQ(config_error([&] { in_file.commit(); }),
            file.string() + ": error: cannot write here: Not a directory");
  OutputSet under_file(file / "sub/sub");
  under_file.add("a", "1");
  EXPECT_EQ(config_error([&] { under_file.commit(); }),
            (file / "sub/sub").string() + ": error: cannot create the folder: Not a directory");
  OutputSet in_proc("/proc/none");
  in_proc.add("a", "1");
  EXPECT_EQ(config_error([&] { in_proc.commit(); }).substr(0, 30),
            "/proc/none: error: cannot crea");
  EXPECT_EQ(content_of(file), "x");
}

TEST(OutputSet, NamesAFileThatCannotBeCreated) {
  OutputSet files("/proc/self");
  files.add("a.txt", "1");
  EXPECT_EQ(config_error([&] { files.commit(); }).substr(0, 49),
            "/proc/self/a.txt: error: cannot create the file: ");
}

TEST(OutputSet, RefusesNamesThatLeaveTheFolder) {
  const ScratchFolder folder;
  OutputSet files(folder.path());
  for (const char* name : {"", ".", "..", "a/b", "../a", "/a"}) {
    EXPECT_NE(config_error([&] { files.add(name, "x"); }), "") << name;
  }
}

// A file size limit fails a write as a full disk does, also for root.
TEST(OutputSet, RemovesEverythingWhenTheDiskIsFull) {
  const ScratchFolder folder;
  folder.write("old.txt", "old");
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 1000, .rlim_max = 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int result = 1;
    try {
      OutputSet existing(folder.path());
      existing.add("old.txt", "new");
      existing.add("big.txt", std::string(5000, 'x'));
      existing.commit();
    } catch (const ConfigError& error) {
      result = error.message() == "cannot write the file: File too large" ? 0 : 2;
    }
    try {
      OutputSet fresh(folder / "sub");
      fresh.add("big.txt", std::string(5000, 'x'));
      fresh.commit();
      result = 3;
    } catch (const ConfigError&) {
    }
    ::_exit(result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(content_of(folder / "old.txt"), "old");
  EXPECT_EQ(folder.count(), 1U);  // neither temporaries nor the new folder
}

TEST(OutputSet, RemovesTemporariesOnASignal) {
  const ScratchFolder folder;
  // Fails on the second file, with the first one's temporary on disk; the limit's signal arrives in
  // the middle of that write.
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, [](int) {
      remove_temporaries_on_signal();
      ::_exit(42);
    });
    const rlimit limit{.rlim_cur = 1000, .rlim_max = 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    OutputSet files(folder.path());
    files.add("a.txt", "small");
    files.add("b.txt", std::string(5000, 'x'));
    files.commit();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 42);
  EXPECT_EQ(folder.count(), 0U);
}

TEST(OutputSet, KeepsFinishedFilesOnASignal) {
  const ScratchFolder folder;
  OutputSet files(folder.path());
  files.add("a.txt", "1");
  files.commit();
  remove_temporaries_on_signal();
  EXPECT_EQ(content_of(folder / "a.txt"), "1");
}

TEST(OutputSet, WritesMoreFilesThanASignalCouldRemove) {
  const ScratchFolder folder;
  OutputSet files(folder.path());
  for (int i = 0; i < 300; ++i) files.add(std::to_string(i), "x");
  files.commit();
  EXPECT_EQ(folder.count(), 300U);
}

TEST(OutputFile, AppearsOnCommitOnly) {
  const ScratchFolder folder;
  const fs::path path = folder.write("a.txt", "old");
  {
    OutputFile abandoned(path);
    abandoned.append("new");
    EXPECT_EQ(folder.count(), 2U);
  }
  EXPECT_EQ(folder.count(), 1U);
  OutputFile file(path);
  file.append("new");
  file.append("er");
  EXPECT_EQ(content_of(path), "old");
  file.commit();
  EXPECT_EQ(content_of(path), "newer");
  EXPECT_EQ(folder.count(), 1U);
}

TEST(OutputFile, NamesThePathThatCannotBeWritten) {
  const ScratchFolder folder;
  EXPECT_EQ(config_error([&] { const OutputFile file(folder.path()); }),
            folder.path().string() + ": error: is a folder, not a file");
  EXPECT_EQ(config_error([&] { const OutputFile file(folder / "none/a.txt"); }),
            (folder / "none/a.txt").string() +
                ": error: cannot create the file: No such file or directory");
  OutputFile full("/dev/full");
  EXPECT_EQ(config_error([&] { full.append("x"); }),
            "/dev/full: error: cannot write the file: No space left on device");
}

TEST(OutputFile, IsRemovedOnASignal) {
  const ScratchFolder folder;
  OutputFile file(folder / "a.txt");
  file.append("x");
  EXPECT_EQ(folder.count(), 1U);
  remove_temporaries_on_signal();
  EXPECT_EQ(folder.count(), 0U);
}

TEST(OpenUnnamedBeside, LeavesNothingToSee) {
  const ScratchFolder folder;
  const int fd = open_unnamed_beside(folder / "a.txt");
  EXPECT_EQ(folder.count(), 0U);
  EXPECT_EQ(::write(fd, "abc", 3), 3);
  char back[3] = {};
  EXPECT_EQ(::pread(fd, back, 3, 0), 3);
  EXPECT_EQ(std::string(back, 3), "abc");
  ::close(fd);
  EXPECT_NE(config_error([&] { open_unnamed_beside(folder.path()); }), "");
}

TEST(WriteFile, ReplacesAFileAndKeepsALink) {
  const ScratchFolder folder;
  const fs::path file = folder.write("a.txt", "old");
  fs::create_symlink("a.txt", folder / "link");
  write_file(file, "new");
  EXPECT_EQ(content_of(file), "new");
  write_file(folder / "link", "newer");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(content_of(file), "newer");
  EXPECT_EQ(folder.count(), 2U);
}

TEST(WriteFile, LeavesADeviceADevice) {
  write_file("/dev/null", "nothing");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_EQ(config_error([] { write_file("/dev/full", "x"); }),
            "/dev/full: error: cannot write the file: No space left on device");
}

TEST(WriteFile, NamesAPathThatIsAFolderOrUnderAFile) {
  const ScratchFolder folder;
  EXPECT_EQ(config_error([&] { write_file(folder.path(), "x"); }),
            folder.path().string() + ": error: cannot replace this: it is not a plain file");
  const fs::path file = folder.write("f", "x");
  EXPECT_EQ(config_error([&] { write_file(file / "g", "x"); }),
            file.string() + ": error: cannot write here: Not a directory");
  EXPECT_NE(config_error([] { write_file("", "x"); }), "");
}

TEST(WriteFile, WritesIntoTheCurrentFolder) {
  const ScratchFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  write_file("here.txt", "x");
  fs::current_path(before);
  EXPECT_EQ(content_of(folder / "here.txt"), "x");
}

}  // namespace
}  // namespace foretoken::base
