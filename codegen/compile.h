// The compiler: plan in, audited and self-tested images and their kernel table out. Nothing is written to the user's
// disk here (codegen/bundle_writer.h does that), and nothing is timed to decide anything: equal plans give equal bytes.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "codegen/bundle_writer.h"
#include "codegen/plan.h"
#include "runtime/base/result.h"
#include "runtime/bundle/bundle.h"

namespace bitnet::codegen {

struct CompileOptions {
  int jobs = 0;                                  // compilations at once; 0: one per CPU
  std::string halide_tool;                       // "": find_halide_tool()
  std::map<std::string, std::string> overrides;  // embedded headers to replace, by path: planted defects in tests
  bool self_test = true;                         // false only in tests, to hand a broken kernel to another check
};

struct SourceFile {
  std::string path;  // relative: "bitnet_kernels_avx2.cc", "generated/i2s_gemv_avx2.h"
  std::string text;
};
struct PhaseTime {
  std::string phase;  // "clang avx512", "link avx512", ...
  double milliseconds = 0;
};

struct CompiledBundle {
  std::vector<BundleImage> images;
  KernelTable table;
  std::vector<std::vector<std::string>> objects;  // of each image, relocatable ELF: for a static library
  std::string tools;                              // versions of what made it
  std::vector<SourceFile> sources;                // translation units and the headers that they include
  std::vector<PhaseTime> times;                   // in order of completion; phases overlap
  std::vector<std::string> self_tested;           // targets whose image was run against the scalar reference here
};

// Every image is audited; every image that this machine executes is self-tested (kVerification names the kernel and the
// element). Errors of clang, Halide and lld come with their messages. Thread-safe.
[[nodiscard]] Result<CompiledBundle> compile(const Plan& plan, const CompileOptions& options = {});

// Runs the self-test on the kernels of `table` that lie in `image`. Precondition: this CPU executes it.
[[nodiscard]] Status self_test_image(const BundleImage& image, const KernelTable& table);

}  // namespace bitnet::codegen
