// The machine-code rule by architecture. Two ways, because LLVM's decoders differ: x86's decodes every extension
// whatever features it is told, so the extension is read from the encoding (audit_x86.cc); those of AArch64 and RISC-V
// decode exactly the features that they are built with, so what does not decode is refused (audit_exact.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "codegen/targets.h"
#include "runtime/base/result.h"

namespace bitnet::codegen {

[[nodiscard]] Status audit_x86(std::span<const std::byte> code, std::uint64_t address, const Target& target);
[[nodiscard]] Status audit_exact(std::span<const std::byte> code, std::uint64_t address, const Target& target);

}  // namespace bitnet::codegen
