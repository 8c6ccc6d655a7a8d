// Whether the end of a loop shows in its head.
#pragma once

#include <string>

namespace clang {
class ASTContext;
class ForStmt;
}  // namespace clang

namespace bitnet::codegen {

struct LoopVerdict {
  std::string problem;    // "" if the loop ends: its condition compares a counter, which only the head changes, by a
                          // positive constant towards a bound that the body does not change
  bool constant = false;  // and first value, bound and step are known at compile time
};
[[nodiscard]] LoopVerdict judge_loop(const clang::ForStmt& loop, clang::ASTContext& context);

}  // namespace bitnet::codegen
