#include "sim/base/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace foretoken::base {
namespace {

TEST(Progress, IsSilentWithoutATerminal) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress("sweep", 10);
    progress.advance(10);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

// Runs `work` with stderr on a pseudo-terminal and returns what was written there.
template <class Work>
std::string on_terminal(Work&& work) {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
  if (master < 0 || ::grantpt(master) != 0 || ::unlockpt(master) != 0) return "no terminal";
  const int slave = ::open(::ptsname(master), O_RDWR | O_NOCTTY);  // NOLINT(concurrency-mt-unsafe)
  if (slave < 0) return "no terminal";
  std::fflush(stderr);
  const int before = ::dup(STDERR_FILENO);
  ::dup2(slave, STDERR_FILENO);
  work();
  std::fflush(stderr);
  ::dup2(before, STDERR_FILENO);
  ::close(before);
  std::string out;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = ::read(master, buffer.data(), buffer.size())) > 0;) {
    out.append(buffer.data(), static_cast<std::size_t>(got));
  }
  ::close(slave);
  ::close(master);
  return out;
}

TEST(Progress, DrawsTheEndAndClearsTheLine) {
  const std::string out = on_terminal([] {
    Progress progress("sweep", 4);
    for (int i = 0; i < 6; ++i) progress.advance();
  });
  if (out == "no terminal") GTEST_SKIP() << "no pseudo-terminal here";
  EXPECT_NE(out.find("sweep [==============================] 4/4"), std::string::npos) << out;
  EXPECT_EQ(out.substr(out.size() - 4), "\r\x1b[K");
}

TEST(Progress, HasNothingToDoForNothing) {
  const std::string out = on_terminal([] {
    Progress progress(std::string(500, 'x'), 0);
    progress.advance(3);
  });
  if (out == "no terminal") GTEST_SKIP() << "no pseudo-terminal here";
  EXPECT_NE(out.find("0/0"), std::string::npos);
  EXPECT_LT(out.size(), 200U);
}

}  // namespace
}  // namespace foretoken::base
