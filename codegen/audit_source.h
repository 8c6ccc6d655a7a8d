// The audit of the source: what must hold of the translation unit of an image, read from clang's AST while the unit is
// compiled (one parse for both). The machine-code audit sees what came out; this one sees what was meant, and catches
// what machine code does not show any more:
//   a kernel that is not `extern "C" void NAME(const bitnet_<op>_args*) noexcept` of the plan · a call that leaves the
//   unit, an indirect call, recursion · state: globals and static locals that are not constants made at compile time ·
//   inline assembly · exceptions, new, goto · a loop whose end does not show: no condition, a counter that the body
//   changes, a step that is no positive constant and no const variable; an unrolled loop whose trip count is no
//   constant · sums in 16 bits outside a function marked BITNET_INT16_BOUND(chain, product), or marked with chain *
//   product > 32767.
// The walk begins at the exported functions and follows calls into every function of the project's headers; clang's own
// intrinsics headers are leaves.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "codegen/plan.h"
#include "runtime/base/result.h"

namespace clang {
class ASTConsumer;
}

namespace bitnet::codegen {

struct SourceKernel {
  std::string name;
  std::string signature;   // "void (const bitnet_gemv_args *) noexcept"
  int loops = 0;           // of all functions that it reaches
  int constant_loops = 0;  // with a trip count known at compile time
};
// What the unit says of itself.
struct SourceFacts {
  std::vector<SourceKernel> kernels;    // exported functions, in source order
  std::vector<std::string> constants;   // exported constants
  std::vector<std::string> calls;       // functions that it calls and does not define, ascending
  std::vector<std::string> violations;  // "generated/i2s_gemv_avx2.h:61:5: in pass: ...", in order of discovery
};

// Fills `facts` (which must outlive it) when the unit has been parsed without errors.
[[nodiscard]] std::unique_ptr<clang::ASTConsumer> make_source_auditor(SourceFacts& facts);

// The facts against the plan: exactly its kernels with their arguments, its constants, calls of its Halide pipelines
// only, no violation. kVerification; the message begins "audit of the source of image TARGET: ".
[[nodiscard]] Status audit_source(const SourceFacts& facts, const ImagePlan& plan);

}  // namespace bitnet::codegen
