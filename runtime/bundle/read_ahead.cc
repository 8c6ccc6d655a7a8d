#include "runtime/bundle/read_ahead.h"

#include <system_error>

namespace bitnet {

ReadAhead::ReadAhead(const HashedBytes& first, const HashedBytes& second) : first_(first), second_(second) {
  try {
    thread_ = std::thread([this] { work(); });
  } catch (const std::system_error&) {
    stop_.store(true, std::memory_order_relaxed);  // every block is left to the caller
  }
}

void ReadAhead::work() {
  const auto check = [this](const HashedBytes& section, std::size_t& matching) {
    while (matching < section.hashes.size()) {
      if (stop_.load(std::memory_order_relaxed) || !section.matches(matching)) return false;
      ++matching;
    }
    return true;
  };
  if (check(first_, matching_.first)) check(second_, matching_.second);
}

ReadAhead::Matching ReadAhead::stop() {
  stop_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) thread_.join();
  return matching_;
}

}  // namespace bitnet
