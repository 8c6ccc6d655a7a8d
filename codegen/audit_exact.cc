// AArch64 and RISC-V: every instruction must decode with exactly the target's features. Those of the base architecture
// that enter the system, read the machine's state, change the floating-point mode, synchronise or trap are refused by
// their encoding class, which takes few words: both architectures keep them together.
#include <algorithm>
#include <string>

#include "codegen/audit.h"
#include "codegen/audit_code.h"
#include "codegen/machine_code.h"

namespace bitnet::codegen {
namespace {

constexpr std::string_view kSystem = "enters the system or reads the machine's state";
constexpr std::string_view kAtomic = "synchronises with other threads";
constexpr std::string_view kTrap = "traps";

// What the instruction does that no kernel may do; "" for everything else.
std::string_view aarch64_offence(std::uint32_t word) {
  if (word == 0xD503201F) return {};                      // nop
  if (word >> 16 == 0) return kTrap;                      // udf
  if ((word & 0xFFE00000) == 0xD4200000) return kTrap;    // brk
  if ((word & 0xFF000000) == 0xD4000000) return kSystem;  // svc, hvc, smc, hlt, dcps
  // msr, mrs, sys, hints (wfi, wfe, sev, yield), barriers.
  if ((word & 0xFFC00000) == 0xD5000000) return kSystem;
  if ((word & 0xFFFFFBFF) == 0xD69F03E0) return kSystem;  // eret, drps (opcode bits differ, both privileged)
  if ((word & 0x3F000000) == 0x08000000) return kAtomic;  // ldxr, stxr, ldar, stlr, cas
  if ((word & 0x3B200C00) == 0x38200000) return kAtomic;  // ldadd, swp, ldset ...
  return {};
}

std::string_view riscv_offence(std::uint32_t word, std::uint32_t size) {
  if (size == 2) return (word & 0xFFFF) == 0x9002 || (word & 0xFFFF) == 0 ? kTrap : std::string_view();  // c.ebreak
  switch (word & 0x7F) {
    case 0x73:
      // csrr rd, vlenb asks for the width of a vector register, which code for any width needs.
      return (word & 0xFFFFF07F) == 0xC2202073 ? std::string_view() : kSystem;
    case 0x0F:
    case 0x2F:
      return kAtomic;  // fence, lr, sc, amo
    default:
      return {};
  }
}

}  // namespace

Status audit_exact(std::span<const std::byte> code, std::uint64_t address, const Target& target) {
  const bool aarch64 = target.triple.starts_with("aarch64");
  BITNET_ASSIGN_OR_RETURN(const Disassembler exact, Disassembler::create(target.triple, target.features));
  for (std::size_t at = 0; at < code.size();) {
    const auto instruction = exact.decode(code.subspan(at), address + at);
    const std::string where = "at " + hex(address + at) + ": ";
    if (!instruction) {
      // "+all" exists for AArch64 alone; elsewhere the bytes stay without a name.
      BITNET_ASSIGN_OR_RETURN(const Disassembler all, Disassembler::create(target.triple, aarch64 ? "+all" : ""));
      const auto named = aarch64 ? all.decode(code.subspan(at), address + at) : std::nullopt;
      return Error{ErrorCode::kVerification,
                   where + (named ? "'" + named->text() + "' needs more than " +
                                        (target.features.empty() ? "the baseline" : std::string(target.features)) +
                                        ", which is all that the target has"
                                  : std::string("bytes that are no instruction of this target"))};
    }
    std::uint32_t word = 0;
    for (std::uint32_t i = 0; i < std::min<std::uint32_t>(instruction->size, 4); ++i) {
      word |= std::to_integer<std::uint32_t>(code[at + i]) << (8 * i);
    }
    const std::string_view offence = aarch64 ? aarch64_offence(word) : riscv_offence(word, instruction->size);
    if (!offence.empty()) {
      return Error{ErrorCode::kVerification, where + "'" + instruction->text() + "' " + std::string(offence)};
    }
    at += instruction->size;
  }
  return {};
}

Status audit_code(std::span<const std::byte> code, std::uint64_t address, const Target& target) {
  if (target.triple.starts_with("x86_64")) return audit_x86(code, address, target);
  if (target.triple.starts_with("aarch64") || target.triple.starts_with("riscv64")) {
    return audit_exact(code, address, target);
  }
  return Error{ErrorCode::kVerification, "no rules for machine code of " + std::string(target.triple)};
}

}  // namespace bitnet::codegen
