// fork and a pipe. The answer is an error code (0: none) followed by the doubles, or by the message.
#include "codegen/fresh_process.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>

namespace bitnet::codegen {
namespace {

bool write_all(int file, const void* bytes, std::size_t count) {
  const char* at = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = ::write(file, at, count);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    at += written;
    count -= static_cast<std::size_t>(written);
  }
  return true;
}

[[noreturn]] void answer(int file, const Result<std::vector<double>>& result) {
  const int code = result.ok() ? 0 : static_cast<int>(result.error().code);
  bool whole = write_all(file, &code, sizeof code);
  if (result.ok()) {
    whole = whole && write_all(file, result->data(), result->size() * sizeof(double));
  } else {
    whole = whole && write_all(file, result.error().message.data(), result.error().message.size());
  }
  ::_exit(whole ? 0 : 1);  // not exit(): what is registered for the end belongs to the parent
}

int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

Result<std::vector<double>> in_fresh_process(const std::function<Result<std::vector<double>>()>& work,
                                             const std::function<bool()>& stop) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return Error{ErrorCode::kFailure, std::string("cannot make a pipe for a child process: ") + std::strerror(errno)};
  }
  std::fflush(nullptr);  // else the child has a copy of what waits to be written
  const pid_t child = ::fork();
  if (child < 0) {
    const int reason = errno;
    ::close(ends[0]);
    ::close(ends[1]);
    return Error{ErrorCode::kFailure, std::string("cannot start a child process: ") + std::strerror(reason)};
  }
  if (child == 0) {
    ::close(ends[0]);
    answer(ends[1], work());
  }
  ::close(ends[1]);
  std::string bytes;
  bool stopped = false;
  for (;;) {
    char part[4096];
    const ssize_t count = ::read(ends[0], part, sizeof part);
    if (count < 0 && errno == EINTR) {
      stopped = stop && stop();
      if (stopped) break;
      continue;
    }
    if (count <= 0) break;
    bytes.append(part, static_cast<std::size_t>(count));
  }
  ::close(ends[0]);
  if (stopped) ::kill(child, SIGKILL);
  const int status = wait_for(child);
  if (stopped) return Error{ErrorCode::kInterrupted, "interrupted; nothing was written"};
  int code = 0;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || bytes.size() < sizeof code) {
    return Error{
        ErrorCode::kFailure,
        "a child process " + (WIFSIGNALED(status) ? "was ended by signal " + std::to_string(WTERMSIG(status))
                                                  : "ended without an answer, status " + std::to_string(status))};
  }
  std::memcpy(&code, bytes.data(), sizeof code);
  if (code != 0) return Error{static_cast<ErrorCode>(code), bytes.substr(sizeof code)};
  std::vector<double> values((bytes.size() - sizeof code) / sizeof(double));
  if (!values.empty()) std::memcpy(values.data(), bytes.data() + sizeof code, values.size() * sizeof(double));
  return values;
}

}  // namespace bitnet::codegen
