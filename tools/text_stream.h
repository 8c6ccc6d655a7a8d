// Text of a generation as it may be shown: whole UTF-8 sequences only (the tokenizer's decoder sees to that), and never
// the text of a stop string, not even its beginning: what could still become one is held back.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bitnet::tools {

class StopFilter {
 public:
  // Empty stop strings are ignored.
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) { std::erase(stops_, std::string()); }

  // Returns the text that may be shown now. After a stop string has come, stopped() is true and nothing more is shown.
  [[nodiscard]] std::string push(std::string_view text) {
    if (stopped_) return {};
    held_ += text;
    std::size_t end = std::string::npos;
    for (const std::string& stop : stops_) end = std::min(end, held_.find(stop));
    if (end != std::string::npos) {
      stopped_ = true;
      return take(end);
    }
    std::size_t keep = 0;
    for (const std::string& stop : stops_) {
      for (std::size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length) {
        if (held_.ends_with(std::string_view(stop).substr(0, length))) keep = length;
      }
    }
    return take(held_.size() - keep);
  }

  // What is still held back, once nothing more will come.
  [[nodiscard]] std::string finish() { return stopped_ ? std::string() : take(held_.size()); }
  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  std::string take(std::size_t end) {
    std::string text = held_.substr(0, end);
    held_.erase(0, end);
    return text;
  }
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace bitnet::tools
