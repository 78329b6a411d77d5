// Output files that appear whole or not at all.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace foretoken::base {

// A set of files for one folder. Nothing is visible until commit(): each file is written and synced
// under a temporary name in the same folder, then all are renamed. A failed or interrupted write
// leaves earlier files as they were and removes the temporaries. Throws ConfigError naming the path
// when the folder cannot be created or written.
class OutputSet {
 public:
  explicit OutputSet(std::filesystem::path folder);
  OutputSet(const OutputSet&) = delete;
  OutputSet& operator=(const OutputSet&) = delete;
  ~OutputSet();

  void add(std::string name, std::string content);
  void commit();

 private:
  void create_folder();
  void write_temporaries();
  void discard() noexcept;

  struct Pending {
    std::string name;
    std::filesystem::path temporary;
    std::string content;
  };
  std::filesystem::path folder_;
  std::vector<Pending> pending_;
  std::vector<std::filesystem::path> created_;  // folders, outermost first
};

// One file in an existing folder that is too large to be held as text: written piece by piece under
// a temporary name, visible from commit() on. A symbolic link stays one; a device or a pipe is
// written to as it is. Throws ConfigError naming the path when it cannot be written.
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  void append(std::string_view bytes);
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;  // empty for a device or a pipe
  int fd_ = -1;
};

// The descriptor of a new file without a name beside `path`, gone once closed: room to work in on
// the disk that will hold the result. Throws ConfigError naming `path`, also when that is a folder.
// For a device or a pipe the room is in the system's temporary folder.
int open_unnamed_beside(const std::filesystem::path& path);

// One file, whole or not at all. A device or a pipe is written to as it is.
void write_file(const std::filesystem::path& path, std::string_view content);

// Removes the temporaries of every live OutputSet and OutputFile; async-signal-safe, for SIGINT and
// SIGTERM.
void remove_temporaries_on_signal() noexcept;

}  // namespace foretoken::base
