// Whether the end of a loop shows in its head.
#pragma once

#include <string>

namespace clang {
class ASTContext;
class ForStmt;
}  // namespace clang

namespace bitnet::codegen {

struct LoopVerdict {
  // "" if the loop ends: its condition compares a counter, which only the head changes, by a positive constant or a
  // const variable, towards a bound that the body does not change.
  std::string problem;
  bool constant = false;  // first value, bound and step are known at compile time
};
[[nodiscard]] LoopVerdict judge_loop(const clang::ForStmt& loop, clang::ASTContext& context);

}  // namespace bitnet::codegen
