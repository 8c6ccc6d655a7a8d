// for (counter = first; counter < bound [&& ...]; counter += step): of several conditions joined by && one that
// qualifies is enough, since the loop ends with it. The counter may stand in a sum or product with constants. That a
// step which is a const variable is positive is not proved here; that it cannot change is.
#include "codegen/audit_loops.h"

#include <clang/AST/ASTContext.h>
#include <clang/AST/RecursiveASTVisitor.h>
#include <clang/AST/Stmt.h>

#include <algorithm>
#include <optional>

namespace bitnet::codegen {
namespace {

const clang::VarDecl* variable(const clang::Expr* expression) {
  if (expression == nullptr) return nullptr;
  const auto* reference = llvm::dyn_cast<clang::DeclRefExpr>(expression->IgnoreParenImpCasts());
  return reference == nullptr ? nullptr : llvm::dyn_cast<clang::VarDecl>(reference->getDecl());
}

// Variables that a statement writes to, or hands out a way to write to.
class Writes : public clang::RecursiveASTVisitor<Writes> {
 public:
  bool VisitBinaryOperator(clang::BinaryOperator* expression) {
    if (expression->isAssignmentOp()) note(expression->getLHS());
    return true;
  }
  bool VisitUnaryOperator(clang::UnaryOperator* expression) {
    if (expression->isIncrementDecrementOp() || expression->getOpcode() == clang::UO_AddrOf) {
      note(expression->getSubExpr());
    }
    return true;
  }
  bool VisitVarDecl(clang::VarDecl* declaration) {
    if (declaration->getType()->isReferenceType()) note(declaration->getInit());
    return true;
  }
  bool VisitCallExpr(clang::CallExpr* call) {
    const clang::FunctionDecl* callee = call->getDirectCallee();
    for (unsigned i = 0; callee != nullptr && i < call->getNumArgs() && i < callee->getNumParams(); ++i) {
      const clang::QualType type = callee->getParamDecl(i)->getType();
      if (type->isReferenceType() && !type.getNonReferenceType().isConstQualified()) note(call->getArg(i));
    }
    return true;
  }
  [[nodiscard]] bool contains(const clang::VarDecl* declaration) const {
    return written_.contains(declaration->getCanonicalDecl());
  }

 private:
  void note(const clang::Expr* expression) {
    if (const clang::VarDecl* found = variable(expression)) written_.insert(found->getCanonicalDecl());
  }
  std::set<const clang::VarDecl*> written_;
};

class Reads : public clang::RecursiveASTVisitor<Reads> {
 public:
  bool VisitDeclRefExpr(clang::DeclRefExpr* reference) {
    if (const auto* found = llvm::dyn_cast<clang::VarDecl>(reference->getDecl())) variables.push_back(found);
    return true;
  }
  bool VisitCallExpr(clang::CallExpr* /*call*/) { return opaque = true; }
  bool VisitMemberExpr(clang::MemberExpr* /*member*/) { return opaque = true; }
  bool VisitArraySubscriptExpr(clang::ArraySubscriptExpr* /*element*/) { return opaque = true; }
  std::vector<const clang::VarDecl*> variables;
  bool opaque = false;  // reads more than variables
};

std::optional<std::int64_t> constant(const clang::Expr* expression, clang::ASTContext& context) {
  clang::Expr::EvalResult result;
  if (expression == nullptr || expression->isValueDependent() || !expression->EvaluateAsInt(result, context)) {
    return std::nullopt;
  }
  return result.Val.getInt().getExtValue();
}

// The counter in "counter", "counter + 4", "256 * counter".
const clang::VarDecl* counter_in(const clang::Expr* expression, clang::ASTContext& context) {
  expression = expression->IgnoreParenImpCasts();
  const auto* binary = llvm::dyn_cast<clang::BinaryOperator>(expression);
  if (binary == nullptr) return variable(expression);
  const auto left = constant(binary->getLHS(), context);
  const auto right = constant(binary->getRHS(), context);
  switch (binary->getOpcode()) {
    case clang::BO_Add:
      return right ? counter_in(binary->getLHS(), context) : left ? counter_in(binary->getRHS(), context) : nullptr;
    case clang::BO_Sub:
      return right ? counter_in(binary->getLHS(), context) : nullptr;
    case clang::BO_Mul:
      if (right && *right > 0) return counter_in(binary->getLHS(), context);
      return left && *left > 0 ? counter_in(binary->getRHS(), context) : nullptr;
    default:
      return nullptr;
  }
}

// How the head moves `counter`: up or down, and by how much if that is a constant.
struct Step {
  int direction = 0;    // 0: not, or in no way that the audit can follow
  bool single = false;  // by one
  bool constant = false;
};

bool is_const_variable(const clang::Expr* expression) {
  const clang::VarDecl* found = variable(expression);
  return found != nullptr && found->getType().isConstQualified();
}

Step step_of(const clang::Expr* increment, const clang::VarDecl* counter, clang::ASTContext& context) {
  if (increment == nullptr) return {};
  increment = increment->IgnoreParenImpCasts();
  if (const auto* unary = llvm::dyn_cast<clang::UnaryOperator>(increment)) {
    if (!unary->isIncrementDecrementOp() || variable(unary->getSubExpr()) != counter) return {};
    return {unary->isIncrementOp() ? 1 : -1, true, true};
  }
  const auto* binary = llvm::dyn_cast<clang::BinaryOperator>(increment);
  if (binary == nullptr) return {};
  if (binary->getOpcode() == clang::BO_Comma) {
    const Step left = step_of(binary->getLHS(), counter, context);
    return left.direction != 0 ? left : step_of(binary->getRHS(), counter, context);
  }
  if (variable(binary->getLHS()) != counter) return {};
  const auto amount = constant(binary->getRHS(), context);
  if (!amount && !is_const_variable(binary->getRHS())) return {};
  const bool positive = !amount || *amount > 0;
  switch (binary->getOpcode()) {
    case clang::BO_AddAssign:
      return {positive ? 1 : 0, false, amount.has_value()};
    case clang::BO_SubAssign:
      return {positive ? -1 : 0, false, amount.has_value()};
    case clang::BO_DivAssign:  // towards zero, where the condition stops it
      return {amount && *amount >= 2 ? -1 : 0, false, true};
    default:
      return {};
  }
}

// What the counter begins with; nullptr if the head does not say.
const clang::Expr* first_value(const clang::Stmt* init, const clang::VarDecl* counter) {
  if (const auto* declaration = llvm::dyn_cast_or_null<clang::DeclStmt>(init)) {
    for (const clang::Decl* each : declaration->decls()) {
      if (each == counter) return counter->getInit();
    }
  }
  if (const auto* expression = llvm::dyn_cast_or_null<clang::BinaryOperator>(init)) {
    if (expression->getOpcode() == clang::BO_Assign && variable(expression->getLHS()) == counter) {
      return expression->getRHS();
    }
  }
  return nullptr;
}

class Judge {
 public:
  Judge(const clang::ForStmt& loop, const std::set<const clang::VarDecl*>& known, clang::ASTContext& context)
      : loop_(loop), known_(known), context_(context) {
    writes_.TraverseStmt(const_cast<clang::Stmt*>(loop.getBody()));
    writes_.TraverseStmt(const_cast<clang::Expr*>(loop.getCond()));
  }

  LoopVerdict condition(const clang::Expr* expression) {
    expression = expression->IgnoreParenImpCasts();
    const auto* binary = llvm::dyn_cast<clang::BinaryOperator>(expression);
    if (binary == nullptr) return {.problem = "a loop whose condition compares nothing"};
    if (binary->getOpcode() == clang::BO_LAnd) {
      LoopVerdict left = condition(binary->getLHS());
      if (left.problem.empty()) return {"", left.counter, false};
      left = condition(binary->getRHS());
      left.constant = false;
      return left;
    }
    if (!binary->isComparisonOp() || binary->getOpcode() == clang::BO_EQ) {
      return {.problem = "a loop whose condition compares nothing with a bound"};
    }
    LoopVerdict verdict = comparison(binary->getLHS(), binary->getOpcode(), binary->getRHS());
    if (verdict.problem.empty()) return verdict;
    const LoopVerdict swapped =
        comparison(binary->getRHS(), clang::BinaryOperator::reverseComparisonOp(binary->getOpcode()), binary->getLHS());
    return swapped.problem.empty() ? swapped : verdict;
  }

 private:
  LoopVerdict comparison(const clang::Expr* left, clang::BinaryOperatorKind kind, const clang::Expr* bound) {
    const clang::VarDecl* counter = counter_in(left, context_);
    if (counter == nullptr) return {.problem = "a loop whose condition does not compare a counter"};
    const std::string name = counter->getNameAsString();
    const Step step = step_of(loop_.getInc(), counter, context_);
    if (step.direction == 0) return {.problem = "a loop whose head does not move " + name + " by a constant"};
    const bool up = kind == clang::BO_LT || kind == clang::BO_LE || (kind == clang::BO_NE && step.single);
    const bool down = kind == clang::BO_GT || kind == clang::BO_GE || (kind == clang::BO_NE && step.single);
    if (step.direction > 0 ? !up : !down)
      return {.problem = "a loop whose head moves " + name + " away from its bound, or past it"};
    if (writes_.contains(counter)) return {.problem = "a loop whose body changes its counter " + name};
    Reads reads;
    reads.TraverseStmt(const_cast<clang::Expr*>(bound));
    for (const clang::VarDecl* read : reads.variables) {
      if (read == counter || writes_.contains(read))
        return {.problem = "a loop whose body changes its bound " + read->getNameAsString()};
    }
    return {"", counter, step.constant && is_known(bound) && is_known(first_value(loop_.getInit(), counter))};
  }

  // Constant, or made of constants and known counters.
  [[nodiscard]] bool is_known(const clang::Expr* expression) const {
    if (expression == nullptr) return false;
    if (constant(expression, context_)) return true;
    Reads reads;
    reads.TraverseStmt(const_cast<clang::Expr*>(expression));
    return !reads.opaque && std::ranges::all_of(reads.variables, [&](const clang::VarDecl* read) {
      return known_.contains(read) || read->isUsableInConstantExpressions(context_);
    });
  }

  const clang::ForStmt& loop_;
  const std::set<const clang::VarDecl*>& known_;
  clang::ASTContext& context_;
  Writes writes_;
};

}  // namespace

LoopVerdict judge_loop(const clang::ForStmt& loop, const std::set<const clang::VarDecl*>& known,
                       clang::ASTContext& context) {
  if (loop.getCond() == nullptr) return {.problem = "a loop without a condition"};
  return Judge(loop, known, context).condition(loop.getCond());
}

}  // namespace bitnet::codegen
