// Progress of a command that writes a large file: one line on standard error, redrawn on a terminal at every percent,
// otherwise a line at every quarter. Small files are written at once and show none.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>

namespace bitnet::tools {

class ProgressLine {
 public:
  explicit ProgressLine(const char* command) : command_(command) {}

  void operator()(std::uint64_t done, std::uint64_t total) {
    if (total < kFrom) return;
    const int percent = static_cast<int>(done * 100 / total);
    const int step = terminal_ ? 1 : 25;
    if (percent / step == shown_) return;
    shown_ = percent / step;
    std::fprintf(stderr, "%sbitnet %s: %llu of %llu MB%s", terminal_ ? "\r" : "", command_,
                 static_cast<unsigned long long>(done / 1000000), static_cast<unsigned long long>(total / 1000000),
                 terminal_ && done < total ? "" : "\n");
  }

 private:
  static constexpr std::uint64_t kFrom = std::uint64_t{64} << 20;
  const char* command_;
  bool terminal_ = isatty(STDERR_FILENO) == 1;
  int shown_ = 0;
};

}  // namespace bitnet::tools
