// Halide in a child process: the program bitnet-halide (schedules/) compiles the pipelines of one image to objects. A
// process of its own because Halide carries another LLVM, and so that a compiler that hangs or dies is an error
// message.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "codegen/plan.h"
#include "runtime/base/result.h"

namespace bitnet::codegen {

inline constexpr std::chrono::milliseconds kHalideTimeLimit{30'000};

// Path of bitnet-halide: the environment's BITNET_HALIDE_TOOL, else beside the running program. kFailure says where it
// was looked for.
[[nodiscard]] Result<std::string> find_halide_tool();

// "Halide 21.0.0": the library that this build's bitnet-halide is linked with.
[[nodiscard]] std::string halide_version();

// One object for each pipeline of the image's kernels, in order of its first kernel. kFailure: the tool cannot be
// started, ends with an error (its messages are given), runs longer than `limit` (0: kHalideTimeLimit for each
// pipeline; it is killed) or leaves an object out.
[[nodiscard]] Result<std::vector<std::string>> compile_with_halide(const std::string& tool, const ImagePlan& image,
                                                                   std::chrono::milliseconds limit = {});

}  // namespace bitnet::codegen
