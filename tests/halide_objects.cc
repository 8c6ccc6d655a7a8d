#include "tests/halide_objects.h"

#include <dlfcn.h>
#include <doctest/doctest.h>
#include <elf.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

namespace bitnet::test {
namespace {

namespace fs = std::filesystem;

std::string shell_word(const std::string& word) {
  std::string quoted_word = "'";
  for (const char c : word) quoted_word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted_word + "'";
}

void expect_success(const Outcome& outcome) { REQUIRE_MESSAGE(outcome.code == 0, outcome.output); }

// Entries in the relocation sections of a 64-bit shared object.
std::uint64_t relocations(const std::string& elf) {
  REQUIRE(elf.size() > sizeof(Elf64_Ehdr));
  Elf64_Ehdr header;
  std::memcpy(&header, elf.data(), sizeof header);
  std::uint64_t count = 0;
  for (int i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section;
    std::memcpy(&section, elf.data() + header.e_shoff + static_cast<std::uint64_t>(i) * sizeof section, sizeof section);
    if (section.sh_type == SHT_RELA || section.sh_type == SHT_REL) count += section.sh_size / section.sh_entsize;
  }
  return count;
}

// Compiles folder/kernels.cc to folder/kernels.o with the features of the target.
void compile_wrappers(const TargetRow& target, const Folder& folder) {
  std::vector<std::string> compile = {BITNET_TEST_CLANG,
                                      "--target=" + target.triple,
                                      "-std=c++20",
                                      "-O3",
                                      "-ffreestanding",
                                      "-nostdinc",
                                      "-isystem",
                                      BITNET_TEST_CLANG_HEADERS,
                                      "-I",
                                      BITNET_TEST_SOURCE_DIR,
                                      "-fPIC",
                                      "-fno-exceptions",
                                      "-fvisibility=hidden",
                                      "-Wall",
                                      "-Wextra",
                                      "-Werror",
                                      "-c",
                                      folder.file("kernels.cc"),
                                      "-o",
                                      folder.file("kernels.o")};
  for (std::size_t begin = 0; begin < target.llvm_features.size();) {
    const std::size_t end = std::min(target.llvm_features.find(',', begin), target.llvm_features.size());
    for (const std::string& word : {std::string("-Xclang"), std::string("-target-feature"), std::string("-Xclang"),
                                    target.llvm_features.substr(begin, end - begin)}) {
      compile.push_back(word);
    }
    begin = end + 1;
  }
  expect_success(run(compile));
}

}  // namespace

std::vector<TargetRow> target_rows() {
  return {
#define BITNET_TARGET(id, name, triple, llvm_features, halide_target, implies, part_of, qemu_cpu) \
  {Isa::id, name, triple, llvm_features, halide_target},
#include "runtime/kernels/targets.def"
#undef BITNET_TARGET
  };
}

bool executable(const TargetRow& target) {
  if (probe_isa(target.isa)) return true;
  std::printf("SKIPPED: Halide kernels of target %s (this CPU does not execute it)\n", target.name.c_str());
  return false;
}

Folder::Folder() {
  std::string pattern = (fs::temp_directory_path() / "bitnet_halide_XXXXXX").string();
  REQUIRE(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

Folder::~Folder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

Outcome run(const std::vector<std::string>& arguments, const std::string& working_folder) {
  std::string command = "cd " + shell_word(working_folder) + " &&";
  for (const std::string& argument : arguments) command += " " + shell_word(argument);
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  Outcome outcome;
  std::array<char, 4096> block{};
  for (std::size_t n = 0; (n = std::fread(block.data(), 1, block.size(), pipe)) > 0;) {
    outcome.output.append(block.data(), n);
  }
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  return outcome;
}

std::string halide_tool() {
  const char* folder = std::getenv("BITNET_BIN");
  REQUIRE_MESSAGE(folder != nullptr, "BITNET_BIN names no folder with bitnet-halide; run the test through ctest");
  return std::string(folder) + "/bitnet-halide";
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string PipelineKernel::wrapper() const {
  const std::string matrix = std::to_string(kernel.n) + ", " + std::to_string(kernel.k) + ", ";
  std::string macro = "BITNET_HALIDE_NORM_QUANTIZE";
  std::string constants = std::to_string(kernel.k);
  if (kernel.op == Op::kGemv) {
    macro = "BITNET_HALIDE_GEMV";
    constants = matrix + std::to_string(streams);
  } else if (kernel.op == Op::kGemm) {
    macro = "BITNET_HALIDE_GEMM";
    constants = matrix + std::to_string(kernel.token_tile) + ", " + std::to_string(streams);
  }
  return macro + "(" + name + ", " + symbol() + ", " + constants + ")\n";
}

void compile_pipelines(const TargetRow& target, const std::vector<PipelineKernel>& kernels, const Folder& folder) {
  std::vector<std::string> halide = {halide_tool(), "--target", target.halide_target, "--out", folder.path()};
  for (const PipelineKernel& each : kernels) halide.push_back(each.request + ":SYMBOL=" + each.symbol());
  expect_success(run(halide));
}

SharedObject::SharedObject(const TargetRow& target, const std::vector<PipelineKernel>& kernels, const Folder& folder) {
  compile_pipelines(target, kernels, folder);
  std::string source = "#include \"runtime/kernels/kernel_abi.h\"\n#include \"schedules/halide_adapter.h\"\n";
  std::vector<std::string> link = {BITNET_TEST_CLANG,       "-shared", "-nostdlib",
                                   "-Wl,-z,defs",           "-o",      folder.file("kernels.so"),
                                   folder.file("kernels.o")};
  for (const PipelineKernel& each : kernels) {
    source += each.wrapper();
    link.push_back(folder.file(each.symbol() + ".o"));
  }
  std::ofstream(folder.file("kernels.cc")) << source;
  compile_wrappers(target, folder);
  expect_success(run(link));  // fails if anything is undefined: the objects import nothing
  CHECK(relocations(bytes_of(folder.file("kernels.so"))) == 0);
  handle_ = dlopen(folder.file("kernels.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  REQUIRE_MESSAGE(handle_ != nullptr, dlerror());
}

SharedObject::~SharedObject() {
  if (handle_ != nullptr) dlclose(handle_);
}

Kernel SharedObject::kernel(const PipelineKernel& kernel) const {
  Kernel result = kernel.kernel;
  result.technique = "halide";
  result.function = dlsym(handle_, kernel.name.c_str());
  REQUIRE_MESSAGE(result.function != nullptr, kernel.name);
  REQUIRE_MESSAGE(dlsym(handle_, kernel.symbol().c_str()) == nullptr, "the pipeline is exported");
  return result;
}

}  // namespace bitnet::test
