// Resident memory of this process, as the system counts it.
#pragma once

#include <cstdint>

namespace bitnet {

// Bytes now and at their highest; 0 where the system does not tell.
struct ProcessMemory {
  std::uint64_t resident = 0;  // VmRSS
  std::uint64_t peak = 0;      // VmHWM
};
[[nodiscard]] ProcessMemory process_memory();
// The highest from now on; false where the system does not allow it.
[[nodiscard]] bool reset_peak_memory();

}  // namespace bitnet
