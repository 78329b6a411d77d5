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

// One file, whole or not at all. A device or a pipe is written to as it is.
void write_file(const std::filesystem::path& path, std::string_view content);

// Removes the temporaries of every live OutputSet; async-signal-safe, for SIGINT and SIGTERM.
void remove_temporaries_on_signal() noexcept;

}  // namespace foretoken::base
