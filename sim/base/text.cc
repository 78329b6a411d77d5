#include "sim/base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "sim/base/error.h"

namespace foretoken::base {
namespace {

constexpr std::size_t kLongestQuote = 60;
constexpr std::size_t kLongestWord = 64;  // no key is longer, and the distance costs its square

unsigned char byte_at(std::string_view text, std::size_t i) {
  return static_cast<unsigned char>(text[i]);
}

// Edit distance in which swapping two neighbours counts once ("bandwdith").
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

template <class Word>
std::string suggest(std::string_view word, std::span<const Word> words) {
  if (word.empty() || word.size() > kLongestWord) return "";
  // A third of the letters may differ; more than that is another word.
  std::size_t best = std::clamp<std::size_t>(word.size() / 3, 1, 3) + 1;
  std::string_view found;
  for (const std::string_view candidate : words) {
    if (candidate.empty() || candidate.size() > kLongestWord) continue;
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best && distance < candidate.size()) {
      best = distance;
      found = candidate;
    }
  }
  return found.empty() ? "" : fmt::format("; did you mean {}?", quote(found));
}

// Length of the valid UTF-8 sequence that starts at `i`, 0 when there is none.
std::size_t sequence_length(std::string_view text, std::size_t i) {
  const unsigned char first = byte_at(text, i);
  if (first < 0x80) return 1;
  std::size_t length = 0;
  if (first >= 0xC2 && first <= 0xDF) length = 2;
  if (first >= 0xE0 && first <= 0xEF) length = 3;
  if (first >= 0xF0 && first <= 0xF4) length = 4;
  if (length == 0 || i + length > text.size()) return 0;
  for (std::size_t k = 1; k < length; ++k) {
    if ((byte_at(text, i + k) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte_at(text, i + 1);
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool surrogate = first == 0xED && second > 0x9F;
  const bool beyond = first == 0xF4 && second > 0x8F;
  return overlong || surrogate || beyond ? 0 : length;
}

// C1 control characters other than NEL (U+0085), which YAML 1.2 allows in a file.
bool is_c1_control(std::string_view text, std::size_t i, std::size_t length) {
  return length == 2 && byte_at(text, i) == 0xC2 && byte_at(text, i + 1) < 0xA0 &&
         byte_at(text, i + 1) != 0x85;
}

}  // namespace

std::string quote(std::string_view text) {
  std::string out = "'";
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = sequence_length(text, i);
    if (i + std::max<std::size_t>(length, 1) > kLongestQuote) {
      out += "...";
      break;
    }
    const unsigned char byte = byte_at(text, i);
    if (byte == '\n') {
      out += "\\n";
    } else if (byte == '\t') {
      out += "\\t";
    } else if (length == 0 || byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else if (is_c1_control(text, i, length)) {
      out += fmt::format("\\u{:04x}", byte_at(text, i + 1));
    } else {
      out += text.substr(i, length);
    }
    i += std::max<std::size_t>(length, 1);
  }
  return out + "'";
}

std::string quote_json(std::string_view text) {
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = std::max<std::size_t>(sequence_length(text, i), 1);
    const unsigned char byte = byte_at(text, i);
    if (byte == '"' || byte == '\\') {
      out += '\\';
      out += text[i];
    } else if (byte == '\n') {
      out += "\\n";
    } else if (byte == '\t') {
      out += "\\t";
    } else if (byte == '\r') {
      out += "\\r";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\u{:04x}", byte);
    } else if (length == 2 && byte == 0xC2 && byte_at(text, i + 1) < 0xA0) {
      out += fmt::format("\\u{:04x}", byte_at(text, i + 1));
    } else {
      out += text.substr(i, length);
    }
    i += length;
  }
  return out + "\"";
}

std::string did_you_mean(std::string_view word, std::span<const std::string> words) {
  return suggest(word, words);
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> words) {
  return suggest(word, words);
}

void check_characters(const std::string& path, std::string_view text) {
  int line = 1;
  std::size_t line_start = 0;
  for (std::size_t i = 0; i < text.size();) {
    const unsigned char byte = byte_at(text, i);
    const Position position{path, line, static_cast<int>(i - line_start) + 1};
    if (byte == 0) throw ConfigError(position, "NUL byte; this is not a text file");
    const std::size_t length = sequence_length(text, i);
    if (length == 0) throw ConfigError(position, fmt::format("invalid UTF-8 byte 0x{:02X}", byte));
    if ((byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7F) {
      throw ConfigError(position, fmt::format("control character 0x{:02X}", byte));
    }
    if (is_c1_control(text, i, length)) {
      throw ConfigError(position,
                        fmt::format("control character U+00{:02X}", byte_at(text, i + 1)));
    }
    i += length;
    if (byte == '\n') {
      ++line;
      line_start = i;
    }
  }
}

void check_size(const std::string& path, std::uintmax_t bytes, std::uintmax_t limit) {
  if (bytes <= limit) return;
  throw ConfigError({path, 0, 0},
                    fmt::format("the file has {} bytes; at most {} are read", bytes, limit));
}

}  // namespace foretoken::base
