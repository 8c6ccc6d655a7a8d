// --emit-asm: an image as readable assembly, disassembled from the bytes that are in the bundle, with the names of its
// kernels and labels for every branch.
#pragma once

#include <span>
#include <string>

#include "runtime/bundle/bundle.h"

namespace bitnet::codegen {

// One `.s` of everything that the kernels of `table` for `isa` reach in `image`, in the order of addresses, and of the
// constants that they read.
[[nodiscard]] Result<std::string> assembly_text(std::span<const std::byte> image, Isa isa, const KernelTable& table);

}  // namespace bitnet::codegen
