// The machine that figures were taken on, as far as the system tells: its name, whether it is an emulation (whose times
// mean nothing), its largest cache (what fits into it is not limited by memory), and what this process takes of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace bitnet::probe {

// "AMD EPYC 9R14"; "unknown CPU" where the system does not tell.
[[nodiscard]] std::string cpu_name();

// True under qemu-user as far as that shows: an emulated x86 CPU says so; an emulated AArch64 CPU stands in front of
// another CPU's /proc/cpuinfo.
[[nodiscard]] bool is_emulated();

// Bytes of the largest cache of CPU 0; nothing where the system does not tell.
[[nodiscard]] std::optional<std::uint64_t> largest_cache_bytes();

// Resident memory of this process now and at its highest; 0 where the system does not tell.
struct Memory {
  std::uint64_t resident = 0;  // VmRSS
  std::uint64_t peak = 0;      // VmHWM
};
[[nodiscard]] Memory process_memory();
// The highest from now on; false where the system does not allow it.
[[nodiscard]] bool reset_peak_memory();

}  // namespace bitnet::probe
