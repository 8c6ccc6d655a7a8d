// The walk: from each exported function through every call, each function once for all kernels; loops are then counted
// per kernel over what it reaches. Violations carry the place and the function that a reader has to look at.
#include "codegen/audit_source.h"

#include <clang/AST/ASTConsumer.h>
#include <clang/AST/ASTContext.h>
#include <clang/AST/Attr.h>
#include <clang/AST/RecursiveASTVisitor.h>
#include <clang/Basic/Builtins.h>
#include <clang/Basic/SourceManager.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "codegen/audit_int16.h"
#include "codegen/audit_loops.h"
#include "codegen/kernel_words.h"

namespace bitnet::codegen {
namespace {

constexpr std::string_view kRoot = "/bitnet/";  // of clang_backend.cc's file system
constexpr std::int64_t kMaxInt16 = 32767;
// From this count on, `#pragma GCC unroll` means the whole loop; less unrolls a long one in parts.
constexpr std::int64_t kFullUnroll = 8;

// clang's own builtins (those of a target are intrinsics, which the machine-code audit judges): they compute, or tell
// the compiler something. Whatever may become a call, a trap or an atomic is not here.
constexpr std::string_view kHarmlessBuiltins[] = {"__builtin_assume",        "__builtin_assume_aligned",
                                                  "__builtin_bit_cast",      "__builtin_bswap16",
                                                  "__builtin_bswap32",       "__builtin_bswap64",
                                                  "__builtin_clz",           "__builtin_clzll",
                                                  "__builtin_constant_p",    "__builtin_convertvector",
                                                  "__builtin_ctz",           "__builtin_ctzll",
                                                  "__builtin_expect",        "__builtin_fabs",
                                                  "__builtin_fabsf",         "__builtin_huge_valf",
                                                  "__builtin_inff",          "__builtin_is_constant_evaluated",
                                                  "__builtin_nanf",          "__builtin_popcount",
                                                  "__builtin_popcountll",    "__builtin_prefetch",
                                                  "__builtin_shufflevector", "__builtin_sqrtf",
                                                  "__builtin_unreachable"};
constexpr std::string_view kHarmlessFamilies[] = {"__builtin_elementwise_", "__builtin_reduce_"};

// Inline assembly by its exact text. The empty one holds a value where it is; it is no instruction.
constexpr std::string_view kAllowedAssembly[] = {""};

bool is_harmless(std::string_view builtin) {
  return std::ranges::find(kHarmlessBuiltins, builtin) != std::end(kHarmlessBuiltins) ||
         std::ranges::any_of(kHarmlessFamilies, [&](std::string_view prefix) { return builtin.starts_with(prefix); });
}

struct Facts {  // of one function, its callees not counted
  int loops = 0;
  int constant_loops = 0;
  std::set<const clang::FunctionDecl*> callees;
};

class Unit {
 public:
  Unit(clang::ASTContext& context, SourceFacts& facts) : context_(context), facts_(facts) {}

  void run() {
    declarations(context_.getTranslationUnitDecl());
    std::ranges::sort(facts_.calls);
    facts_.calls.erase(std::unique(facts_.calls.begin(), facts_.calls.end()), facts_.calls.end());
  }

  [[nodiscard]] clang::ASTContext& context() { return context_; }
  [[nodiscard]] bool is_ours(clang::SourceLocation place) const {
    return place.isValid() && !context_.getSourceManager().isInSystemHeader(place);
  }
  void violation(clang::SourceLocation place, const std::string& what) {
    const clang::SourceManager& sources = context_.getSourceManager();
    const clang::PresumedLoc presumed = sources.getPresumedLoc(sources.getExpansionLoc(place));
    std::string where = presumed.isValid() ? presumed.getFilename() : "?";
    if (where.starts_with(kRoot)) where.erase(0, kRoot.size());
    if (where.starts_with("./")) where.erase(0, 2);
    if (presumed.isValid()) {
      where += ":" + std::to_string(presumed.getLine()) + ":" + std::to_string(presumed.getColumn());
    }
    facts_.violations.push_back(where + ": " + what);
  }
  void call_outside(const std::string& name) { facts_.calls.push_back(name); }
  void variable(const clang::VarDecl& declaration);
  // The facts of a function, walked once. `from`: where it is called.
  const Facts& function(const clang::FunctionDecl& definition, clang::SourceLocation from);

 private:
  void declarations(const clang::DeclContext* scope);
  void exported(const clang::FunctionDecl& function);

  clang::ASTContext& context_;
  SourceFacts& facts_;
  std::map<const clang::FunctionDecl*, Facts> functions_;
  std::set<const clang::FunctionDecl*> open_;  // being walked: a call of one of them is recursion
  std::set<const clang::VarDecl*> variables_;  // judged
};

// One function's body.
class Walker : public clang::RecursiveASTVisitor<Walker> {
 public:
  Walker(Unit& unit, const clang::FunctionDecl& function, Facts& facts)
      : unit_(unit), function_(function), facts_(facts), bounded_(read_bound()) {}

  bool shouldVisitTemplateInstantiations() const { return true; }
  bool TraverseLambdaExpr(clang::LambdaExpr* /*lambda*/) { return true; }  // its body is walked where it is called

  bool VisitCallExpr(clang::CallExpr* call) {
    const clang::FunctionDecl* callee = call->getDirectCallee();
    if (callee == nullptr) {
      if (!call->isTypeDependent()) refuse(call->getBeginLoc(), "a call through a pointer");
      return true;
    }
    return called(*callee, call->getBeginLoc());
  }
  bool VisitCXXConstructExpr(clang::CXXConstructExpr* expression) {
    const clang::CXXConstructorDecl* constructor = expression->getConstructor();
    return constructor->isTrivial() || called(*constructor, expression->getBeginLoc());
  }
  bool VisitDeclRefExpr(clang::DeclRefExpr* reference) {
    const auto* variable = llvm::dyn_cast<clang::VarDecl>(reference->getDecl());
    if (variable != nullptr && variable->hasGlobalStorage() && unit_.is_ours(variable->getLocation())) {
      unit_.variable(*variable);
    }
    return true;
  }
  bool VisitVarDecl(clang::VarDecl* variable) {
    if (variable->hasGlobalStorage()) unit_.variable(*variable);
    if (variable->getType()->isVariablyModifiedType()) {
      refuse(variable->getLocation(), "array " + variable->getNameAsString() + " of a size known only at run time");
    }
    if (variable->needsDestruction(unit_.context()) != clang::QualType::DK_none) {
      refuse(variable->getLocation(), "variable " + variable->getNameAsString() + " with a destructor");
    }
    return true;
  }

  bool TraverseForStmt(clang::ForStmt* loop) {
    const LoopVerdict verdict = judge_loop(*loop, known_, unit_.context());
    ++facts_.loops;
    facts_.constant_loops += verdict.constant ? 1 : 0;
    if (!verdict.problem.empty()) refuse(loop->getForLoc(), verdict.problem);
    if (verdict.constant) known_.insert(verdict.counter);
    const std::optional<std::int64_t> last = verdict.constant ? last_value(*loop, *verdict.counter) : std::nullopt;
    if (last) last_.insert({verdict.counter, *last});
    const bool result = RecursiveASTVisitor::TraverseForStmt(loop);
    if (last) last_.erase(verdict.counter);
    if (verdict.constant) known_.erase(verdict.counter);
    return result;
  }
  // Elements beyond a local array: undefined, so the compiler drops them in silence.
  bool VisitArraySubscriptExpr(clang::ArraySubscriptExpr* element) {
    const clang::QualType type = element->getBase()->IgnoreParenImpCasts()->getType();
    const auto* array = unit_.context().getAsConstantArrayType(type);
    if (array == nullptr || element->getIdx()->isValueDependent()) return true;
    const clang::Expr* index = element->getIdx()->IgnoreParenImpCasts();
    std::optional<std::int64_t> most = integer(*index);
    if (const auto* reference = llvm::dyn_cast<clang::DeclRefExpr>(index); !most && reference != nullptr) {
      const auto found = last_.find(llvm::dyn_cast<clang::VarDecl>(reference->getDecl()));
      if (found != last_.end()) most = found->second;
    }
    const auto size = static_cast<std::int64_t>(array->getSize().getZExtValue());
    if (most && *most >= size) {
      refuse(element->getExprLoc(),
             "element " + std::to_string(*most) + " of an array of " + std::to_string(size) + " elements");
    }
    return true;
  }
  bool VisitCXXForRangeStmt(clang::CXXForRangeStmt* loop) {
    const clang::Expr* range = loop->getRangeInit();
    const bool array = range != nullptr && range->getType()->isConstantArrayType();
    ++facts_.loops;
    facts_.constant_loops += array ? 1 : 0;
    if (!array) refuse(loop->getForLoc(), "a loop over something that is no array of known size");
    return true;
  }
  bool VisitWhileStmt(clang::WhileStmt* loop) {
    refuse(loop->getWhileLoc(), "a while loop: write it as a for loop whose head shows its end");
    return true;
  }
  bool VisitDoStmt(clang::DoStmt* loop) {
    bool again = true;
    if (!loop->getCond()->EvaluateAsBooleanCondition(again, unit_.context()) || again) {
      refuse(loop->getDoLoc(), "a do loop: write it as a for loop whose head shows its end");
    }
    return true;
  }
  bool VisitAttributedStmt(clang::AttributedStmt* statement) {
    const auto* loop = llvm::dyn_cast<clang::ForStmt>(statement->getSubStmt());
    for (const clang::Attr* attribute : statement->getAttrs()) {
      const auto* hint = llvm::dyn_cast<clang::LoopHintAttr>(attribute);
      if (loop == nullptr || hint == nullptr || !unrolls(*hint)) continue;
      const LoopVerdict verdict = judge_loop(*loop, known_, unit_.context());
      if (verdict.problem.empty() && !verdict.constant) {
        refuse(loop->getForLoc(), "a loop that is to be unrolled, but whose trip count is no constant");
      }
    }
    return true;
  }

  bool VisitBinaryOperator(clang::BinaryOperator* expression) {
    switch (expression->getOpcode()) {
      case clang::BO_Add:
      case clang::BO_Sub:
      case clang::BO_AddAssign:
      case clang::BO_SubAssign:
        if (is_int16_vector(expression->getType())) sum(expression->getOperatorLoc(), "a sum of vectors of 16 bits");
        break;
      default:
        break;
    }
    return true;
  }
  bool VisitCompoundAssignOperator(clang::CompoundAssignOperator* expression) {
    const bool adds = expression->getOpcode() == clang::BO_AddAssign || expression->getOpcode() == clang::BO_SubAssign;
    if (adds && is_int16(expression->getLHS()->getType())) sum(expression->getOperatorLoc(), "a sum in 16 bits");
    return true;
  }

  bool VisitAsmStmt(clang::AsmStmt* statement) {
    const auto* text = llvm::dyn_cast<clang::GCCAsmStmt>(statement);
    const std::string found = text == nullptr ? "?" : text->getAsmString()->getString().str();
    if (std::ranges::find(kAllowedAssembly, found) == std::end(kAllowedAssembly)) {
      refuse(statement->getAsmLoc(), "inline assembly '" + found + "'");
    }
    return true;
  }
  bool VisitAtomicExpr(clang::AtomicExpr* expression) { return refuse(expression->getBeginLoc(), "an atomic"); }
  bool VisitGotoStmt(clang::GotoStmt* statement) { return refuse(statement->getGotoLoc(), "goto"); }
  bool VisitIndirectGotoStmt(clang::IndirectGotoStmt* statement) { return refuse(statement->getGotoLoc(), "goto"); }
  bool VisitCXXThrowExpr(clang::CXXThrowExpr* expression) { return refuse(expression->getThrowLoc(), "throw"); }
  bool VisitCXXTryStmt(clang::CXXTryStmt* statement) { return refuse(statement->getTryLoc(), "try"); }
  bool VisitCXXNewExpr(clang::CXXNewExpr* expression) { return refuse(expression->getBeginLoc(), "new"); }
  bool VisitCXXDeleteExpr(clang::CXXDeleteExpr* expression) { return refuse(expression->getBeginLoc(), "delete"); }

 private:
  bool refuse(clang::SourceLocation place, const std::string& what) {
    unit_.violation(place, "in " + function_.getNameAsString() + ": " + what);
    return true;
  }

  bool called(const clang::FunctionDecl& callee, clang::SourceLocation place) {
    if (callee.isTrivial()) return true;  // copies of structs
    const std::string name = callee.getNameAsString();
    if (const unsigned builtin = callee.getBuiltinID(); builtin != 0) {
      // The defaulted copy of a struct with an array is clang's own memcpy of a constant size.
      if (function_.isImplicit() && name == "__builtin_memcpy") return true;
      if (builtin < clang::Builtin::FirstTSBuiltin && !is_harmless(name)) {
        refuse(place, "builtin " + name + ", which may become a call, a trap or an atomic");
      }
      return true;
    }
    const clang::FunctionDecl* definition = nullptr;
    if (!callee.hasBody(definition)) {
      if (callee.isDefaulted()) return true;
      unit_.call_outside(name);
      return true;
    }
    if (!unit_.is_ours(definition->getLocation())) {
      const std::string_view hazard = int16_hazard(name);
      if (!hazard.empty()) sum(place, name + " (" + std::string(hazard) + ")");
      return true;
    }
    facts_.callees.insert(definition);
    unit_.function(*definition, place);
    return true;
  }

  [[nodiscard]] std::optional<std::int64_t> integer(const clang::Expr& expression) const {
    clang::Expr::EvalResult result;
    if (expression.isValueDependent() || !expression.EvaluateAsInt(result, unit_.context())) return std::nullopt;
    return result.Val.getInt().getExtValue();
  }
  // The largest value of the counter of "for (counter = first; counter < bound; ++counter)", also with <=; nothing for
  // a loop of another form or without a turn.
  [[nodiscard]] std::optional<std::int64_t> last_value(const clang::ForStmt& loop,
                                                       const clang::VarDecl& counter) const {
    const auto* condition = llvm::dyn_cast<clang::BinaryOperator>(loop.getCond()->IgnoreParenImpCasts());
    const auto* increment = llvm::dyn_cast_or_null<clang::UnaryOperator>(loop.getInc());
    if (condition == nullptr || increment == nullptr || !increment->isIncrementOp() || counter.getInit() == nullptr) {
      return std::nullopt;
    }
    const bool closed = condition->getOpcode() == clang::BO_LE;
    const auto* left = llvm::dyn_cast<clang::DeclRefExpr>(condition->getLHS()->IgnoreParenImpCasts());
    if ((!closed && condition->getOpcode() != clang::BO_LT) || left == nullptr || left->getDecl() != &counter) {
      return std::nullopt;
    }
    const auto first = integer(*counter.getInit());
    const auto bound = integer(*condition->getRHS());
    if (!first || !bound || *first > (closed ? *bound : *bound - 1)) return std::nullopt;
    return closed ? *bound : *bound - 1;
  }

  void sum(clang::SourceLocation place, const std::string& what) {
    if (!bounded_) {
      refuse(place, what + " outside a function marked BITNET_INT16_BOUND(chain, product)");
    }
  }
  [[nodiscard]] bool is_int16(clang::QualType type) const {
    return type->isIntegerType() && !type->isBooleanType() && unit_.context().getTypeSize(type) == 16;
  }
  [[nodiscard]] bool is_int16_vector(clang::QualType type) const {
    const auto* vector = type->getAs<clang::VectorType>();
    return vector != nullptr && is_int16(vector->getElementType());
  }
  [[nodiscard]] bool unrolls(const clang::LoopHintAttr& hint) const {
    if (hint.getOption() != clang::LoopHintAttr::Unroll && hint.getOption() != clang::LoopHintAttr::UnrollCount) {
      return false;
    }
    if (hint.getState() == clang::LoopHintAttr::Disable) return false;
    clang::Expr::EvalResult count;
    return hint.getValue() == nullptr || !hint.getValue()->EvaluateAsInt(count, unit_.context()) ||
           count.Val.getInt().getExtValue() >= kFullUnroll;
  }

  // Whether the function is marked, and each mark is true.
  bool read_bound() {
    bool found = false;
    for (const auto* attribute : function_.specific_attrs<clang::AnnotateAttr>()) {
      if (attribute->getAnnotation() != "bitnet.int16_bound") continue;
      found = true;
      std::int64_t values[2] = {0, 0};
      bool constant = attribute->args_size() == 2;
      for (unsigned i = 0; constant && i < 2; ++i) {
        clang::Expr::EvalResult result;
        const clang::Expr* argument = attribute->args_begin()[i];
        constant = !argument->isValueDependent() && argument->EvaluateAsInt(result, unit_.context());
        if (constant) values[i] = result.Val.getInt().getExtValue();
      }
      const std::string text = std::to_string(values[0]) + " products of at most " + std::to_string(values[1]);
      if (!constant || values[0] < 1 || values[1] < 1) {
        refuse(attribute->getLocation(), "BITNET_INT16_BOUND needs two positive constants: chain and largest product");
      } else if (values[0] > kMaxInt16 || values[1] > kMaxInt16 || values[0] * values[1] > kMaxInt16) {
        refuse(attribute->getLocation(), "an int16 sum of " + text + " can exceed " + std::to_string(kMaxInt16));
      }
    }
    return found;
  }

  Unit& unit_;
  const clang::FunctionDecl& function_;
  Facts& facts_;
  bool bounded_;
  std::set<const clang::VarDecl*> known_;               // counters of the constant loops around the place
  std::map<const clang::VarDecl*, std::int64_t> last_;  // of those that go up by one to a constant, the largest value
};

void Unit::variable(const clang::VarDecl& declaration) {
  const clang::VarDecl* first = declaration.getCanonicalDecl();
  if (declaration.isTemplated() || !variables_.insert(first).second) return;
  const clang::VarDecl* definition = declaration.getDefinition(context_);
  const clang::VarDecl& judged = definition == nullptr ? declaration : *definition;
  const std::string name = (judged.isStaticLocal() ? "static local " : "variable ") + judged.getNameAsString();
  if (judged.getTLSKind() != clang::VarDecl::TLS_None) {
    violation(judged.getLocation(), "thread-local " + name + ": a kernel keeps no state");
  } else if (definition == nullptr && judged.hasExternalStorage()) {
    violation(judged.getLocation(), name + " is defined outside the unit");
  } else if (!judged.getType().isConstant(context_)) {
    violation(judged.getLocation(), name + " is not constant: a kernel keeps no state");
  } else if (!judged.hasConstantInitialization()) {
    violation(judged.getLocation(), name + " is initialised at run time: nobody would do it");
  } else if (judged.isExternallyVisible() && is_ours(judged.getLocation()) &&
             !(judged.isInline() && judged.getVisibility() == clang::HiddenVisibility)) {
    facts_.constants.push_back(judged.getNameAsString());
  }
}

const Facts& Unit::function(const clang::FunctionDecl& definition, clang::SourceLocation from) {
  if (open_.contains(&definition)) {
    violation(from, "in " + definition.getNameAsString() + ": recursion");
    return functions_[&definition];
  }
  const auto [found, added] = functions_.try_emplace(&definition);
  if (!added) return found->second;
  open_.insert(&definition);
  Walker walker(*this, definition, found->second);
  walker.TraverseStmt(definition.getBody());
  if (const auto* constructor = llvm::dyn_cast<clang::CXXConstructorDecl>(&definition)) {
    for (const clang::CXXCtorInitializer* each : constructor->inits()) walker.TraverseStmt(each->getInit());
  }
  open_.erase(&definition);
  return found->second;
}

void Unit::exported(const clang::FunctionDecl& definition) {
  SourceKernel kernel;
  kernel.name = definition.getNameAsString();
  kernel.signature = definition.getType().getAsString();
  const auto* type = definition.getType()->getAs<clang::FunctionProtoType>();
  if (type != nullptr && type->isNothrow() && kernel.signature.find("noexcept") == std::string::npos) {
    kernel.signature += " noexcept";
  }
  if (!definition.isExternC()) kernel.signature = "C++ " + kernel.signature;
  function(definition, definition.getLocation());
  std::set<const clang::FunctionDecl*> reached = {&definition};
  for (std::vector<const clang::FunctionDecl*> todo = {&definition}; !todo.empty();) {
    const Facts& facts = functions_[todo.back()];
    todo.pop_back();
    kernel.loops += facts.loops;
    kernel.constant_loops += facts.constant_loops;
    for (const clang::FunctionDecl* callee : facts.callees) {
      if (reached.insert(callee).second) todo.push_back(callee);
    }
  }
  facts_.kernels.push_back(std::move(kernel));
}

void Unit::declarations(const clang::DeclContext* scope) {
  for (const clang::Decl* declaration : scope->decls()) {
    if (!is_ours(declaration->getLocation())) continue;
    if (const auto* inner = llvm::dyn_cast<clang::NamespaceDecl>(declaration)) {
      declarations(inner);
    } else if (const auto* linkage = llvm::dyn_cast<clang::LinkageSpecDecl>(declaration)) {
      declarations(linkage);
    } else if (const auto* variable_declaration = llvm::dyn_cast<clang::VarDecl>(declaration)) {
      variable(*variable_declaration);
    } else if (llvm::isa<clang::FileScopeAsmDecl>(declaration)) {
      violation(declaration->getLocation(), "inline assembly outside functions");
    } else if (const auto* candidate = llvm::dyn_cast<clang::FunctionDecl>(declaration)) {
      // Inline functions of headers have external linkage too, but nothing outside the unit can call them.
      const bool inner_inline = candidate->isInlined() && candidate->getVisibility() == clang::HiddenVisibility;
      if (candidate->isThisDeclarationADefinition() && candidate->isExternallyVisible() && !candidate->isTemplated() &&
          !inner_inline) {
        exported(*candidate);
      }
    }
  }
}

class Auditor : public clang::ASTConsumer {
 public:
  explicit Auditor(SourceFacts& facts) : facts_(facts) {}
  void HandleTranslationUnit(clang::ASTContext& context) override {
    if (!context.getDiagnostics().hasErrorOccurred()) Unit(context, facts_).run();
  }

 private:
  SourceFacts& facts_;
};

}  // namespace

std::unique_ptr<clang::ASTConsumer> make_source_auditor(SourceFacts& facts) { return std::make_unique<Auditor>(facts); }

Status audit_source(const SourceFacts& facts, const ImagePlan& plan) {
  const auto refuse = [&](const std::string& rule) {
    return Error{ErrorCode::kVerification,
                 "audit of the source of image " + std::string(plan.target->name) + ": " + rule};
  };
  if (!facts.violations.empty()) {
    const std::size_t more = facts.violations.size() - 1;
    return refuse(facts.violations.front() + (more == 0 ? "" : " (and " + std::to_string(more) + " more)"));
  }
  std::map<std::string, std::string> planned;  // kernel -> signature
  std::set<std::string> constants;
  std::set<std::string> pipelines;
  for (const KernelSpec& spec : plan.kernels) {
    planned[spec.name()] = "void (const " + arguments_of(spec.kernel.op) + " *) noexcept";
    if (is_ternary(spec.kernel.op)) constants.insert(spec.scratch_symbol());
    if (!spec.pipeline_symbol.empty()) pipelines.insert(spec.pipeline_symbol);
  }
  for (const SourceKernel& kernel : facts.kernels) {
    const auto found = planned.find(kernel.name);
    if (found == planned.end()) return refuse("it defines " + kernel.name + ", which was not planned");
    if (kernel.signature != found->second) {
      return refuse("kernel " + kernel.name + ": expected " + found->second + ", found " + kernel.signature);
    }
    planned.erase(found);
  }
  if (!planned.empty()) return refuse("planned kernel " + planned.begin()->first + " is missing");
  for (const std::string& name : facts.constants) {
    if (constants.erase(name) == 0) return refuse("it defines constant " + name + ", which was not planned");
  }
  if (!constants.empty()) return refuse("planned constant " + *constants.begin() + " is missing");
  for (const std::string& name : facts.calls) {
    if (!pipelines.contains(name)) {
      return refuse("it calls " + name + ", which it does not define (only the image's Halide pipelines may be)");
    }
  }
  return {};
}

}  // namespace bitnet::codegen
