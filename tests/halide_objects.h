// Halide pipelines as kernels in a shared object, made the way bitnet-codegen makes them: bitnet-halide compiles them
// in a child, clang wraps the objects with schedules/halide_adapter.h (freestanding, no libc), and the whole is linked
// without any other library.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/kernels/kernel.h"

namespace bitnet::test {

// A row of runtime/kernels/targets.def.
struct TargetRow {
  Isa isa;
  std::string name;
  std::string triple;
  std::string llvm_features;
  std::string halide_target;
};
[[nodiscard]] std::vector<TargetRow> target_rows();
// Whether this CPU executes the target; says so on standard output where it does not.
[[nodiscard]] bool executable(const TargetRow& target);

class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return (path_ / name).string(); }
  [[nodiscard]] std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

struct Outcome {
  int code = -1;
  std::string output;  // standard output and error
};
[[nodiscard]] Outcome run(const std::vector<std::string>& arguments, const std::string& working_folder = "/");
// Path of bitnet-halide.
[[nodiscard]] std::string halide_tool();
[[nodiscard]] std::string bytes_of(const std::string& path);

// One pipeline, and the kernel over it.
struct PipelineKernel {
  Kernel kernel;
  std::string request;  // of bitnet-halide, without SYMBOL
  std::string name;     // of the kernel in the shared object; a C identifier
  int streams = 1;      // gemv, gemm

  [[nodiscard]] std::string symbol() const { return "pipeline_" + name; }
  // The line of the adapter that defines it.
  [[nodiscard]] std::string wrapper() const;
};

// The object files of the pipelines, in `folder`, for any target.
void compile_pipelines(const TargetRow& target, const std::vector<PipelineKernel>& kernels, const Folder& folder);

// Compiled, linked and loaded; everything on the way is checked: no undefined symbol, no relocation, no export but the
// kernels. The CPU must execute the target for calls.
class SharedObject {
 public:
  SharedObject(const TargetRow& target, const std::vector<PipelineKernel>& kernels, const Folder& folder);
  ~SharedObject();
  SharedObject(const SharedObject&) = delete;
  SharedObject& operator=(const SharedObject&) = delete;

  [[nodiscard]] Kernel kernel(const PipelineKernel& kernel) const;

 private:
  void* handle_ = nullptr;
};

}  // namespace bitnet::test
