// Reads /proc and /sys; see host.h.
#include "runtime/probe/host.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstring>
#endif

namespace bitnet::probe {
namespace {

// The value of the first line "NAME<blanks>: VALUE" of /proc/cpuinfo.
std::optional<std::string> cpuinfo(const std::string& name) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::size_t end = line.find_last_not_of(" \t", colon == 0 ? 0 : colon - 1);
    if (end == std::string::npos || line.substr(0, end + 1) != name) continue;
    const std::size_t value = line.find_first_not_of(" \t", colon + 1);
    return value == std::string::npos ? std::string() : line.substr(value);
  }
  return std::nullopt;
}

}  // namespace

std::string cpu_name() {
  if (std::optional<std::string> name = cpuinfo("model name")) return *name;
  const std::optional<std::string> implementer = cpuinfo("CPU implementer");
  const std::optional<std::string> part = cpuinfo("CPU part");
  if (!implementer.has_value() || !part.has_value()) return "unknown CPU";
  return "AArch64, implementer " + *implementer + ", part " + *part;
}

bool is_emulated() {
#if defined(__x86_64__)
  unsigned int a = 0;
  unsigned int words[3] = {};
  __cpuid(0x40000000U, a, words[0], words[1], words[2]);
  char signature[13] = {};
  std::memcpy(signature, words, 12);
  return std::string(signature) == "TCGTCGTCGTCG";
#elif defined(__aarch64__)
  return cpuinfo("vendor_id").has_value();  // an x86 CPU's
#else
  return false;
#endif
}

std::optional<std::uint64_t> largest_cache_bytes() {
  std::optional<std::uint64_t> largest;
  for (int index = 0;; ++index) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
    std::uint64_t size = 0;  // "32768K"
    std::string unit;
    if (!(file >> size)) return largest;
    file >> unit;
    const std::uint64_t bytes = unit == "K" ? size << 10 : unit == "M" ? size << 20 : size;
    largest = std::max(largest.value_or(0), bytes);
  }
}

}  // namespace bitnet::probe
