// Whether a file can be written, asked before any work is done.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/base/result.h"

namespace bitnet::convert {

// kFailure: the folder of `output` is not there. kUsage: `output` is a file of `directory` other than a *.gguf, under
// any name (links included). `directory` may be one file, which `output` may not be.
[[nodiscard]] Status check_output(const std::string& output, const std::string& directory);

// kFailure, with both numbers, if the file system of `output` has less than `bytes` for this user. A file system that
// cannot tell is believed to have them: the writer reports what is missing.
[[nodiscard]] Status check_space(const std::string& output, std::uint64_t bytes);

}  // namespace bitnet::convert
