// Whether the end of a loop shows in its head.
#pragma once

#include <set>
#include <string>

namespace clang {
class ASTContext;
class ForStmt;
class VarDecl;
}  // namespace clang

namespace bitnet::codegen {

struct LoopVerdict {
  // "" if the loop ends: its condition compares a counter, which only the head changes, by a positive constant or a
  // const variable, towards a bound that the body does not change.
  std::string problem;
  const clang::VarDecl* counter = nullptr;
  bool constant = false;  // first value, bound and step are known at compile time
};
// `known`: counters of enclosing loops with constant trip counts; they count as constants, since those loops can be
// unrolled.
[[nodiscard]] LoopVerdict judge_loop(const clang::ForStmt& loop, const std::set<const clang::VarDecl*>& known,
                                     clang::ASTContext& context);

}  // namespace bitnet::codegen
