#include "sim/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

namespace foretoken::base {
namespace {

constexpr std::chrono::milliseconds kRedraw{100};
constexpr std::size_t kBarWidth = 30;
constexpr std::size_t kLongestLabel = 30;
constexpr std::string_view kClearLine = "\r\x1b[K";

void put(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

Progress::Progress(std::string label, std::size_t total)
    : label_(std::move(label)),
      total_(total),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      last_draw_(start_) {
  if (label_.size() > kLongestLabel) label_.resize(kLongestLabel);
}

Progress::~Progress() {
  if (terminal_) put(kClearLine);
}

void Progress::advance(std::size_t steps) {
  done_ += std::min(steps, total_ - done_);
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_draw_ < kRedraw && done_ < total_) return;
  last_draw_ = now;
  draw();
}

void Progress::draw() {
  const double share = total_ == 0 ? 1.0 : static_cast<double>(done_) / static_cast<double>(total_);
  const auto filled = static_cast<std::size_t>(share * static_cast<double>(kBarWidth));
  std::string rest;
  if (done_ > 0 && done_ < total_) {
    const std::chrono::duration<double> elapsed = last_draw_ - start_;
    rest = fmt::format(", {:.0f} s left", elapsed.count() / share * (1.0 - share));
  }
  put(fmt::format("{}{} [{}{}] {}/{}{}", kClearLine, label_, std::string(filled, '='),
                  std::string(kBarWidth - filled, ' '), done_, total_, rest));
}

}  // namespace foretoken::base
