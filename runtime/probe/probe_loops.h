// The probe loops of each instruction set. A file with ISA flags shares no inline function with others, so the loops
// are written three times, on purpose, and this header declares data only.
#pragma once

#include "runtime/probe/probes.h"

namespace bitnet::probe {

extern const ProbeLoops kProbeLoopsBaseline;  // SSE2: pmaddwd, 8 products of 16 bits
extern const ProbeLoops kProbeLoopsAvx2;      // vpmaddubsw, 32 products
extern const ProbeLoops kProbeLoopsAvx512;    // vpdpbusd, 64 products

}  // namespace bitnet::probe
