// Runs a program with a time limit and keeps what it prints.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet::codegen {

// arguments[0] is the program's path; standard input is empty; the environment is inherited. Returns what it wrote to
// standard output and standard error, together. kFailure, with the tail of that text: it could not be started, ended
// with another status than 0, or ran past `limit` and was killed.
[[nodiscard]] Result<std::string> run_program(const std::vector<std::string>& arguments,
                                              std::chrono::milliseconds limit);

}  // namespace bitnet::codegen
