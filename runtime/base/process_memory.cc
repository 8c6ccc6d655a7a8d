#include "runtime/base/process_memory.h"

#include <fstream>
#include <sstream>
#include <string>

namespace bitnet {

ProcessMemory process_memory() {
  std::ifstream file("/proc/self/status");
  ProcessMemory memory;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    std::uint64_t kilobytes = 0;
    words >> name >> kilobytes;
    if (name == "VmRSS:") memory.resident = kilobytes << 10;
    if (name == "VmHWM:") memory.peak = kilobytes << 10;
  }
  return memory;
}

bool reset_peak_memory() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

}  // namespace bitnet
