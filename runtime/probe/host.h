// The machine that figures were taken on, as far as the system tells: its name, whether it is an emulation (whose times
// mean nothing), and its largest cache (what fits into it is not limited by memory).
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

}  // namespace bitnet::probe
