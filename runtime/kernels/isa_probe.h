// Between isa.cc, which guards and remembers, and the file of each processor architecture (isa_x86.cc, isa_arm.cc),
// which knows what a target's instructions are.
#pragma once

#include "runtime/kernels/kernel.h"

namespace bitnet::isa_detail {

// run(), or false if it met an illegal instruction. `run` executes a target's instructions and says whether they
// computed what they should. Not to be called from two threads at once: signal dispositions belong to the process.
[[nodiscard]] bool guarded(bool (*run)());

// Whether this CPU executes the target; of the architecture's own file.
[[nodiscard]] bool probe(Isa isa);

}  // namespace bitnet::isa_detail
