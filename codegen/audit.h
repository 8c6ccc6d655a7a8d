// The audit: what must hold of a linked image before its bytes may enter a bundle. A bundle is native code that is
// loaded without a dynamic linker, so everything that would need one, or that would let a kernel keep state, is refused
// here:
//   undefined symbols, needed libraries · dynamic relocations · initialisers and finalisers · thread-local storage ·
//   writable data · a missing, doubled or additional export · machine code beyond the target's features, or that enters
//   the system or changes the floating-point mode.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "codegen/elf_image.h"
#include "codegen/targets.h"
#include "runtime/base/result.h"

namespace bitnet::codegen {

// `kernels`: functions that must be exported; `constants`: 8-byte read-only objects that must be. Nothing else may be.
// kVerification; the message begins "audit of image TARGET: RULE".
[[nodiscard]] Status audit_image(const ElfImage& image, const Target& target, std::span<const std::string> kernels,
                                 std::span<const std::string> constants);

// The machine-code rule alone, on the bytes of one code section (audit_x86.cc, audit_exact.cc). `address` stands in
// messages.
[[nodiscard]] Status audit_code(std::span<const std::byte> code, std::uint64_t address, const Target& target);

}  // namespace bitnet::codegen
