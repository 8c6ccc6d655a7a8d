// Machine code read back: one instruction at a time through LLVM MC, and the code that a kernel can reach in a flat
// image. The audit, `explain` and --emit-asm look at what really lies in a bundle, not at what clang says it wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "codegen/targets.h"
#include "runtime/base/result.h"

namespace bitnet::codegen {

enum class Flow : std::uint8_t { kNext, kBranch, kJump, kCall, kReturn, kIndirect };

// An address in memory that an instruction reads or writes. Registers are numbers of general-purpose registers.
struct MemoryOperand {
  int base = -1;  // -1: none
  int index = -1;
  std::int64_t displacement = 0;
  std::uint32_t bytes = 0;                // 0: not known (scalar widths of AArch64 are)
  bool broadcast = false;                 // one element, repeated in all lanes
  std::optional<std::uint64_t> absolute;  // relative to the program counter, resolved
};

struct MachineInstruction {
  std::uint64_t address = 0;
  std::uint32_t size = 0;
  std::string hint;      // the encoding, where the mnemonic has several: "{vex}"; else ""
  std::string mnemonic;  // "vpdpbusd"
  std::string operands;  // "zmm0, zmm1, zmmword ptr [rdi]": Intel's order on x86
  Flow flow = Flow::kNext;
  std::optional<std::uint64_t> target;  // of a direct branch, jump or call
  bool loads = false;
  bool stores = false;
  std::optional<MemoryOperand> memory;
  // One bit per register, by its number in the machine: general-purpose (x86: rax 0, rsp 4; AArch64: x0 0, sp 31),
  // vector.
  std::uint32_t reads = 0;
  std::uint32_t writes = 0;
  std::uint32_t vector_reads = 0;
  std::uint32_t vector_writes = 0;

  [[nodiscard]] std::string text() const {
    const std::string name = hint.empty() ? mnemonic : hint + " " + mnemonic;
    return operands.empty() ? name : name + " " + operands;
  }
};

class Disassembler {
 public:
  // `features`: LLVM features. On AArch64 only instructions of these decode; x86 decodes every extension whatever is
  // asked for (audit_x86.cc tells them apart by encoding). kFailure where LLVM does not know the triple.
  [[nodiscard]] static Result<Disassembler> create(std::string_view triple, std::string_view features);
  Disassembler(Disassembler&&) noexcept;
  Disassembler& operator=(Disassembler&&) noexcept;
  ~Disassembler();

  // The instruction at the beginning of `code`, which lies at `address`; nothing if these bytes are none.
  [[nodiscard]] std::optional<MachineInstruction> decode(std::span<const std::byte> code, std::uint64_t address) const;

 private:
  struct Llvm;
  explicit Disassembler(std::unique_ptr<Llvm> llvm);
  std::unique_ptr<Llvm> llvm_;
};

// Registers that only the machine's calling convention knows.
struct CallingConvention {
  int argument = 0;  // the kernel's one argument
  int stack = 0;
  std::uint32_t preserved = 0;  // by a callee
};
[[nodiscard]] CallingConvention calling_convention(std::string_view triple);

// Everything that can be reached from some entry points of a flat image by direct branches and calls.
struct CodeMap {
  std::map<std::uint64_t, MachineInstruction> instructions;
  std::set<std::uint64_t> labels;     // targets of branches and jumps
  std::set<std::uint64_t> functions;  // entries and targets of calls
  std::set<std::uint64_t> constants;  // addresses of data that the code reads relative to itself
  bool indirect = false;              // a jump through a register: its targets are not in `instructions`
};
// kVerification names the address where bytes are no instruction or where control leaves the image.
[[nodiscard]] Result<CodeMap> trace_code(std::span<const std::byte> image, std::span<const std::uint64_t> entries,
                                         const Disassembler& disassembler);

// "0x1f0"
[[nodiscard]] std::string hex(std::uint64_t value);

}  // namespace bitnet::codegen
