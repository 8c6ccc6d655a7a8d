// What every program does with its results and errors: results go to standard output and are known to be there, errors
// to standard error under the program's name.
#pragma once

#include <csignal>
#include <cstdio>
#include <string_view>

#include "runtime/base/result.h"

namespace bitnet::tools {

// A file that outgrows its limit is then an error like a full disk, with a message and without remains; the default is
// sudden death.
inline void report_file_size_limit_as_error() { std::signal(SIGXFSZ, SIG_IGN); }

// Text of a stream: it may wait in a buffer for the next write_output(), which may also be one of nothing.
[[nodiscard]] inline Status buffer_output(std::string_view text) {
  if (text.empty() || std::fwrite(text.data(), 1, text.size(), stdout) == text.size()) return {};
  return Error{ErrorCode::kFailure,
               "cannot write to standard output: is the disk or pipe that it goes to full or closed?"};
}

[[nodiscard]] inline Status write_output(std::string_view text) {
  Status written = buffer_output(text);
  if (!written.ok() || std::fflush(stdout) == 0) return written;
  return Error{ErrorCode::kFailure,
               "cannot write to standard output: is the disk or pipe that it goes to full or closed?"};
}

// Prints "PROGRAM: MESSAGE" and returns the exit code of the error.
inline int report_error(const char* program, const Error& error) {
  std::fprintf(stderr, "%s: %s\n", program, error.message.c_str());
  return static_cast<int>(error.code);
}

// The exit code: 0, or that of text which could not be written.
inline int show_result(const char* program, std::string_view text) {
  const Status written = write_output(text);
  return written.ok() ? 0 : report_error(program, written.error());
}

}  // namespace bitnet::tools
