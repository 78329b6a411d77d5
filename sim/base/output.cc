#include "sim/base/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "sim/base/error.h"

namespace foretoken::base {
namespace {

namespace fs = std::filesystem;

// The temporaries that a signal handler has to remove. A handler can reach globals only, and may
// neither lock nor allocate, hence fixed slots with their paths in place. Files beyond the last
// slot are written all the same, but stay behind after a signal.
constexpr std::size_t kSlots = 256;
constexpr std::size_t kLongestPath = 4096;
enum SlotState : int { kFree, kFilling, kArmed };
struct Slot {
  std::atomic<int> state{kFree};
  std::array<char, kLongestPath> path{};
};
std::array<Slot, kSlots> temporaries;

void remember(const fs::path& path) {
  const std::string text = path.string();
  if (text.size() >= kLongestPath) return;
  for (Slot& slot : temporaries) {
    int expected = kFree;
    if (!slot.state.compare_exchange_strong(expected, kFilling)) continue;
    std::memcpy(slot.path.data(), text.c_str(), text.size() + 1);
    slot.state.store(kArmed);
    return;
  }
}

void forget(const fs::path& path) {
  for (Slot& slot : temporaries) {
    if (slot.state.load() != kArmed || path.string() != slot.path.data()) continue;
    slot.state.store(kFree);
    return;
  }
}

// Holds back the signals that end the program, so that one does not come between two renames.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &stop, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

[[noreturn]] void fail(const fs::path& path, std::string_view what, int code) {
  throw ConfigError({path.string(), 0, 0},
                    fmt::format("{}: {}", what, std::generic_category().message(code)));
}

// Writes everything; 0 or the error's number.
int write_all(int fd, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written >= 0) {
      content.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

// Writes everything and closes; `path` names the file in errors.
void write_and_close(int fd, const fs::path& path, std::string_view content, bool sync) {
  int error = write_all(fd, content);
  if (error == 0 && sync && ::fsync(fd) != 0) error = errno;
  if (::close(fd) != 0 && error == 0) error = errno;
  if (error != 0) fail(path, "cannot write the file", error);
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);  // some file systems refuse; the files themselves are synced
  ::close(fd);
}

struct Temporary {
  fs::path path;
  int fd = -1;
};

// A new file in `folder`, an absolute path, that a signal removes; `target` names it in errors.
Temporary create_temporary(const fs::path& folder, const fs::path& target) {
  static std::atomic<unsigned> counter{0};
  while (true) {
    const fs::path path =
        folder / fmt::format(".foretoken-{}-{}.tmp", ::getpid(), counter.fetch_add(1));
    remember(path);
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return {path, fd};
    const int code = errno;
    forget(path);
    if (code != EEXIST) fail(target, "cannot create the file", code);
  }
}

// A symbolic link stays one: what it points to is replaced.
fs::path link_target(const fs::path& path) {
  std::error_code error;
  fs::path resolved = fs::canonical(path, error);
  return error ? path : resolved;
}

// Replacing /dev/null would be a surprise.
bool is_device_or_pipe(const fs::file_status& status) {
  return fs::exists(status) && !fs::is_regular_file(status) && !fs::is_directory(status);
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

OutputSet::OutputSet(fs::path folder) : folder_(std::move(folder)) {
  if (folder_.empty()) folder_ = ".";
}

OutputSet::~OutputSet() { discard(); }

void OutputSet::add(std::string name, std::string content) {
  if (!is_plain_name(name)) {
    throw ConfigError({(folder_ / name).string(), 0, 0}, "not the name of a file");
  }
  for (Pending& file : pending_) {
    if (file.name != name) continue;
    file.content = std::move(content);
    return;
  }
  pending_.push_back({std::move(name), {}, std::move(content)});
}

void OutputSet::commit() {
  try {
    create_folder();
    write_temporaries();
    const SignalsBlocked blocked;
    for (Pending& file : pending_) {
      const fs::path target = folder_ / file.name;
      if (std::rename(file.temporary.c_str(), target.c_str()) != 0) {
        fail(target, "cannot replace the file", errno);
      }
      forget(file.temporary);
      file.temporary.clear();
    }
  } catch (...) {
    discard();
    throw;
  }
  sync_folder(folder_);
  pending_.clear();
  created_.clear();
}

void OutputSet::create_folder() {
  std::error_code error;
  // A handler may run after the program has changed its folder.
  folder_ = fs::absolute(folder_, error);
  std::vector<fs::path> missing;
  for (fs::path folder = folder_.lexically_normal(); !fs::exists(folder, error);
       folder = folder.parent_path()) {
    if (error) fail(folder_, "cannot create the folder", error.value());
    if (folder.has_filename()) missing.push_back(folder);
    if (!folder.has_relative_path()) break;
  }
  for (; !missing.empty(); missing.pop_back()) {
    if (fs::create_directory(missing.back(), error)) {
      created_.push_back(missing.back());
    } else if (error) {
      fail(folder_, "cannot create the folder", error.value());
    }
  }
  if (!fs::is_directory(folder_, error)) fail(folder_, "cannot write here", ENOTDIR);
}

void OutputSet::write_temporaries() {
  for (Pending& file : pending_) {
    const fs::path target = folder_ / file.name;
    std::error_code error;
    const fs::file_status status = fs::status(target, error);
    if (fs::exists(status) && !fs::is_regular_file(status)) {
      throw ConfigError({target.string(), 0, 0}, "cannot replace this: it is not a plain file");
    }
    Temporary temporary = create_temporary(folder_, target);
    file.temporary = std::move(temporary.path);
    write_and_close(temporary.fd, target, file.content, true);
  }
}

void OutputSet::discard() noexcept {
  for (Pending& file : pending_) {
    if (file.temporary.empty()) continue;
    ::unlink(file.temporary.c_str());
    forget(file.temporary);
    file.temporary.clear();
  }
  for (; !created_.empty(); created_.pop_back()) ::rmdir(created_.back().c_str());
}

OutputFile::OutputFile(const fs::path& path) : target_(path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (is_device_or_pipe(status)) {
    fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd_ < 0) fail(path, "cannot open the file", errno);
    return;
  }
  if (fs::is_directory(status)) throw ConfigError({path.string(), 0, 0}, "is a folder, not a file");
  // A handler may run after the program has changed its folder.
  target_ = fs::absolute(link_target(path), error);
  Temporary temporary = create_temporary(target_.parent_path(), path);
  temporary_ = std::move(temporary.path);
  fd_ = temporary.fd;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (temporary_.empty()) return;
  ::unlink(temporary_.c_str());
  forget(temporary_);
}

void OutputFile::append(std::string_view bytes) {
  if (const int error = write_all(fd_, bytes); error != 0) {
    fail(target_, "cannot write the file", error);
  }
}

void OutputFile::commit() {
  write_and_close(std::exchange(fd_, -1), target_, {}, !temporary_.empty());
  if (temporary_.empty()) return;
  {
    const SignalsBlocked blocked;
    if (std::rename(temporary_.c_str(), target_.c_str()) != 0) {
      fail(target_, "cannot replace the file", errno);
    }
    forget(temporary_);
    temporary_.clear();
  }
  sync_folder(target_.parent_path());
}

int open_unnamed_beside(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) throw ConfigError({path.string(), 0, 0}, "is a folder, not a file");
  const fs::path folder = is_device_or_pipe(status)
                              ? fs::temp_directory_path(error)
                              : fs::absolute(link_target(path), error).parent_path();
  const Temporary temporary = create_temporary(folder, path);
  ::unlink(temporary.path.c_str());
  forget(temporary.path);
  return temporary.fd;
}

void write_file(const fs::path& path, std::string_view content) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (is_device_or_pipe(status)) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) fail(path, "cannot open the file", errno);
    write_and_close(fd, path, content, false);
    return;
  }
  const fs::path target = link_target(path);
  OutputSet files(target.parent_path());
  files.add(target.filename().string(), std::string(content));
  files.commit();
}

void remove_temporaries_on_signal() noexcept {
  for (Slot& slot : temporaries) {
    if (slot.state.load() == kArmed) ::unlink(slot.path.data());
  }
}

}  // namespace foretoken::base
