// clang's frontend and code generator behind one function. The options are those that the driver would pass for
// `clang++ -O3 -std=c++20 -ffreestanding -fPIC -fvisibility=hidden -ffp-contract=off -fno-rtti -fno-exceptions`, given
// directly so that neither the environment nor the machine's configuration files are asked. With -ffreestanding no loop
// is turned into a call of memset or memcpy, which the image would have to import.
#include "codegen/clang_backend.h"

#include <clang/Basic/DiagnosticOptions.h>
#include <clang/Basic/Version.h>
#include <clang/CodeGen/CodeGenAction.h>
#include <clang/Frontend/CompilerInstance.h>
#include <clang/Frontend/CompilerInvocation.h>
#include <clang/Frontend/MultiplexConsumer.h>
#include <clang/Frontend/TextDiagnosticPrinter.h>
#include <clang/Frontend/Utils.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/VirtualFileSystem.h>
#include <llvm/Support/raw_ostream.h>

#include <algorithm>
#include <mutex>

#include "codegen/embedded.h"

namespace bitnet::codegen {
namespace {

// Root of the in-memory file system.
constexpr std::string_view kRoot = "/bitnet/";
constexpr std::string_view kClangHeaders = "/bitnet/clang/include";
constexpr std::string_view kOwnHeaders = "/bitnet/codegen/clang_headers";

void initialise_llvm() {
  static std::once_flag once;
  std::call_once(once, [] {
    llvm::InitializeAllTargetInfos();
    llvm::InitializeAllTargets();
    llvm::InitializeAllTargetMCs();
    llvm::InitializeAllAsmPrinters();
    llvm::InitializeAllAsmParsers();
  });
}

llvm::StringRef ref(std::string_view text) { return {text.data(), text.size()}; }

// The embedded text is copied by nobody: the buffers point into the program. (Each file is followed by a zero byte,
// which clang's lexer needs.)
llvm::IntrusiveRefCntPtr<llvm::vfs::FileSystem> file_system(const std::string& source, const std::string& source_name,
                                                            const std::map<std::string, std::string>& overrides) {
  auto files = llvm::makeIntrusiveRefCnt<llvm::vfs::InMemoryFileSystem>();
  [[maybe_unused]] const std::error_code never_fails = files->setCurrentWorkingDirectory(ref(kRoot));
  const auto add = [&](std::string_view path, std::string_view text) {
    files->addFile(std::string(kRoot) + std::string(path), 0, llvm::MemoryBuffer::getMemBuffer(ref(text), ref(path)));
  };
  for (const EmbeddedFile& file : embedded_files()) {
    if (!overrides.contains(std::string(file.path))) add(file.path, file.text);
  }
  for (const auto& [path, text] : overrides) add(path, text);
  add(source_name, source);
  return files;
}

std::vector<std::string> arguments_for(const Target& target, const std::string& source_name) {
  std::vector<std::string> arguments = {
      "-triple", std::string(target.triple), "-emit-obj", "-O3", "-x", "c++", "-std=c++20",
      // Headers.
      "-nostdsysteminc", "-nobuiltininc", "-internal-isystem", std::string(kOwnHeaders), "-internal-isystem",
      std::string(kClangHeaders), "-I", std::string(kRoot),
      // Code.
      "-ffreestanding", "-fno-builtin", "-ffp-contract=off", "-fno-rtti", "-fvisibility=hidden", "-mrelocation-model",
      "pic", "-pic-level", "2", "-mframe-pointer=none", "-ffunction-sections", "-fdata-sections", "-vectorize-loops",
      "-Qn", "-main-file-name", source_name};
  // Where kernels are written in intrinsics there is no straight-line code for it to find; looking takes a while.
  if (target.features.find("+avx2") == std::string_view::npos) arguments.emplace_back("-vectorize-slp");
  if (target.triple.starts_with("x86_64")) {
    // Without a frame pointer clang keeps spilled vectors where the caller's stack happens to put them, 16-byte
    // aligned. A slot that crosses a page costs a store-forward in every turn of a loop: avx2's small batches then ran
    // at 0.25 of their limit in place of 0.67, for one stack address in forty.
    arguments.insert(arguments.end(), {"-target-cpu", "x86-64", "-mstackrealign"});
  }
  for (std::size_t begin = 0; begin < target.features.size();) {
    std::size_t end = target.features.find(',', begin);
    if (end == std::string_view::npos) end = target.features.size();
    arguments.insert(arguments.end(), {"-target-feature", std::string(target.features.substr(begin, end - begin))});
    begin = end + 1;
  }
  arguments.push_back(source_name);
  return arguments;
}

// Code generation with the source audit looking on: one parse serves both.
class AuditedEmitObject : public clang::EmitObjAction {
 public:
  explicit AuditedEmitObject(SourceFacts& facts) : facts_(facts) {}

 protected:
  std::unique_ptr<clang::ASTConsumer> CreateASTConsumer(clang::CompilerInstance& compiler,
                                                        llvm::StringRef file) override {
    std::vector<std::unique_ptr<clang::ASTConsumer>> consumers;
    consumers.push_back(make_source_auditor(facts_));
    consumers.push_back(EmitObjAction::CreateASTConsumer(compiler, file));
    return std::make_unique<clang::MultiplexConsumer>(std::move(consumers));
  }

 private:
  SourceFacts& facts_;
};

// The audit alone.
class AuditOnly : public clang::ASTFrontendAction {
 public:
  explicit AuditOnly(SourceFacts& facts) : facts_(facts) {}

 protected:
  std::unique_ptr<clang::ASTConsumer> CreateASTConsumer(clang::CompilerInstance& /*compiler*/,
                                                        llvm::StringRef /*file*/) override {
    return make_source_auditor(facts_);
  }

 private:
  SourceFacts& facts_;
};

std::vector<std::string> project_headers(const std::vector<std::string>& dependencies, const std::string& source_name) {
  std::vector<std::string> headers;
  for (const std::string& dependency : dependencies) {
    std::string_view path = dependency;
    if (path.starts_with(kClangHeaders) || path.starts_with(kOwnHeaders)) continue;
    if (path.starts_with(kRoot)) path.remove_prefix(kRoot.size());
    if (path != source_name) headers.emplace_back(path);
  }
  std::ranges::sort(headers);
  return headers;
}

// Runs `action` on the unit; fills the object, if the action writes one, and the headers.
Status run_clang(clang::FrontendAction& action, const std::string& source, const std::string& source_name,
                 const Target& target, const std::map<std::string, std::string>& overrides, ClangOutput& output) {
  initialise_llvm();
  std::string messages;
  llvm::raw_string_ostream message_stream(messages);
  auto options = llvm::makeIntrusiveRefCnt<clang::DiagnosticOptions>();
  options->ShowColors = 0;
  auto* printer = new clang::TextDiagnosticPrinter(message_stream, options.get());  // owned by the engine below
  auto diagnostics = clang::CompilerInstance::createDiagnostics(options.get(), printer);

  const auto refused = [&] {
    return Error{ErrorCode::kFailure, "clang could not compile " + source_name + " for target " +
                                          std::string(target.name) + ":\n" + messages};
  };
  const std::vector<std::string> arguments = arguments_for(target, source_name);
  std::vector<const char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());
  auto invocation = std::make_shared<clang::CompilerInvocation>();
  if (!clang::CompilerInvocation::CreateFromArgs(*invocation, pointers, *diagnostics)) return refused();

  llvm::SmallVector<char, 0> object;
  clang::CompilerInstance compiler;
  compiler.setVerboseOutputStream(llvm::nulls());  // "1 error generated."
  compiler.setInvocation(invocation);
  compiler.setDiagnostics(diagnostics.get());
  compiler.createFileManager(file_system(source, source_name, overrides));
  compiler.setOutputStream(std::make_unique<llvm::raw_svector_ostream>(object));
  auto collector = std::make_shared<clang::DependencyCollector>();
  compiler.addDependencyCollector(collector);
  if (!compiler.ExecuteAction(action)) return refused();

  output.object.assign(object.data(), object.size());
  const auto dependencies = collector->getDependencies();
  output.headers = project_headers({dependencies.begin(), dependencies.end()}, source_name);
  return {};
}

}  // namespace

Result<ClangOutput> compile_with_clang(const std::string& source, const std::string& source_name, const Target& target,
                                       const std::map<std::string, std::string>& overrides) {
  ClangOutput output;
  AuditedEmitObject action(output.facts);
  BITNET_RETURN_IF_ERROR(run_clang(action, source, source_name, target, overrides, output));
  return output;
}

Result<SourceFacts> read_source_facts(const std::string& source, const std::string& source_name, const Target& target) {
  ClangOutput output;
  AuditOnly action(output.facts);
  BITNET_RETURN_IF_ERROR(run_clang(action, source, source_name, target, {}, output));
  return std::move(output.facts);
}

std::string clang_version() { return "clang " CLANG_VERSION_STRING; }

}  // namespace bitnet::codegen
