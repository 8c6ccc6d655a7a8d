// The probe loops of each instruction set. A file with ISA flags shares no inline function with others, so the loops
// are written once for each, on purpose, and this header declares data and one function only.
#pragma once

#include "runtime/probe/probes.h"

namespace bitnet::probe {

#if defined(__x86_64__)
extern const ProbeLoops kProbeLoopsBaseline;  // SSE2: pmaddwd, 8 products of 16 bits
extern const ProbeLoops kProbeLoopsAvx2;      // vpmaddubsw, 32 products
extern const ProbeLoops kProbeLoopsAvx512;    // vpdpbusd, 64 products
#elif defined(__aarch64__)
extern const ProbeLoops kProbeLoopsNeon;         // smlal, 8 products
extern const ProbeLoops kProbeLoopsNeonDotprod;  // sdot, 16 products
extern const ProbeLoops kProbeLoopsNeonI8mm;     // smmla, 32 products
// ProbeLoops::read of all three.
[[nodiscard]] std::uint64_t read_neon(const std::uint8_t* data, std::size_t bytes, int streams, int prefetch);
#endif

}  // namespace bitnet::probe
