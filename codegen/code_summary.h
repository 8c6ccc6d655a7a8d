// What a kernel's machine code does, counted: all of it, and the loop that the weights run through.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "codegen/targets.h"
#include "runtime/base/result.h"

namespace bitnet::codegen {

// Instructions by what they are for: "load", "store", "prefetch", "dot", "logic", "shuffle", "arithmetic" (vectors),
// "scalar", "branch". Each is in one class; one that computes with a memory operand is in that of its computation.
using InstructionMix = std::map<std::string, int>;

struct LoopSummary {
  std::uint64_t address = 0;  // in the image
  int instructions = 0;
  int loads = 0;                  // instructions that read memory, prefetches not counted
  int spills = 0;                 // of these and of the stores, those that go to the stack
  std::int64_t weight_bytes = 0;  // read through the kernel's pointer to the packed weights, each iteration
  InstructionMix mix;
};

struct CodeSummary {
  int instructions = 0;  // reached from the entry point
  std::size_t bytes = 0;
  int functions = 1;  // the kernel and what it calls
  int loops = 0;
  int vector_registers = 0;
  int general_registers = 0;
  bool indirect = false;  // a jump through a register: what lies behind it is not counted
  InstructionMix mix;
  // The innermost loop that reads the most weight bytes an iteration; without one that reads weights (they were
  // expanded into the scratch first, or the kernel has none), that with the most dot products, then the longest. No
  // loop: instructions = 0.
  LoopSummary hot;
};

// `entry`: the kernel's offset in the flat image. kVerification where its code cannot be followed.
[[nodiscard]] Result<CodeSummary> summarise_code(std::span<const std::byte> image, std::uint64_t entry,
                                                 const Target& target);

}  // namespace bitnet::codegen
