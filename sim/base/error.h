// The errors that reach a user, and the exit code each one ends the program with.
#pragma once

#include <stdexcept>
#include <string>

namespace foretoken::base {

// Where in a file something stands. `line` and `column` count from 1; 0 means "the file as a
// whole".
struct Position {
  std::string file;
  int line = 0;
  int column = 0;
};

// "file:line:column", "file" when there is no line.
std::string to_string(const Position& position);

// Exit codes of the command line (docs/user-guide.md).
enum class ExitCode : int {
  kOk = 0,
  kGateFailed = 1,   // a gate, verification or comparison failed
  kUsage = 2,        // wrong command line
  kBadInput = 3,     // wrong file, with its position
  kUnsupported = 4,  // valid, but not possible here: memory, missing dtype
  kInternal = 70,
  kInterrupted = 130,
};

// A wrong input file. what() is one line: "file:line:column: error: message".
class ConfigError : public std::runtime_error {
 public:
  ConfigError(Position position, const std::string& message);
  [[nodiscard]] const Position& position() const { return position_; }
  [[nodiscard]] const std::string& message() const { return message_; }

 private:
  Position position_;
  std::string message_;
};

// A valid request that this model, chip or system cannot serve; the text says what is missing.
class UnsupportedError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A wrong command line.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace foretoken::base
