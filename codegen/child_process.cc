// posix_spawn, a pipe for the child's output, poll with the time that is left.
#include "codegen/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>

extern char** environ;

namespace bitnet::codegen {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kShownOutput = 4000;

class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_, O_CLOEXEC) != 0) ends_[0] = ends_[1] = -1;
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  [[nodiscard]] int read_end() const { return ends_[0]; }
  [[nodiscard]] int write_end() const { return ends_[1]; }
  void close_end(int which) {
    if (ends_[which] >= 0) close(ends_[which]);
    ends_[which] = -1;
  }

 private:
  int ends_[2] = {-1, -1};
};

int milliseconds_left(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 1'000'000));
}

// Reads until the child closes its end or the time is over; false if over.
bool read_output(int descriptor, Clock::time_point deadline, std::string& output) {
  for (;;) {
    pollfd entry{descriptor, POLLIN, 0};
    const int ready = poll(&entry, 1, milliseconds_left(deadline));
    if (ready == 0) return false;
    if (ready < 0 && errno == EINTR) continue;
    char bytes[4096];
    const ssize_t count = ready < 0 ? -1 : read(descriptor, bytes, sizeof bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return true;
    output.append(bytes, static_cast<std::size_t>(count));
  }
}

// False if the time is over and the child still runs.
bool wait_until(pid_t child, Clock::time_point deadline, int& status) {
  for (;;) {
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child) return true;
    if (ended < 0 && errno != EINTR) {
      status = 0xFF00;  // as exit status 255: somebody else has collected the child
      return true;
    }
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

std::string tail(const std::string& output) {
  if (output.empty()) return " (it printed nothing)";
  return ":\n" + (output.size() > kShownOutput ? "..." + output.substr(output.size() - kShownOutput) : output);
}

}  // namespace

Result<std::string> run_program(const std::vector<std::string>& arguments, std::chrono::milliseconds limit) {
  const std::string& program = arguments.front();
  const Clock::time_point deadline = Clock::now() + limit;
  Pipe pipe;
  if (pipe.read_end() < 0)
    return Error{ErrorCode::kFailure, "cannot make a pipe for " + program + ": " + std::strerror(errno)};

  std::vector<char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, pipe.write_end(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, pipe.write_end(), STDERR_FILENO);
  pid_t child = 0;
  const int failed = posix_spawn(&child, program.c_str(), &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return Error{ErrorCode::kFailure, "cannot start " + program + ": " + std::strerror(failed)};
  pipe.close_end(1);

  std::string output;
  int status = 0;
  if (!read_output(pipe.read_end(), deadline, output) || !wait_until(child, deadline, status)) {
    kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return Error{ErrorCode::kFailure,
                 program + " ran longer than " + std::to_string(limit.count()) + " ms and was ended" + tail(output)};
  }
  if (WIFSIGNALED(status)) {
    return Error{ErrorCode::kFailure,
                 program + " was ended by signal " + std::to_string(WTERMSIG(status)) + tail(output)};
  }
  if (WEXITSTATUS(status) != 0) {
    return Error{ErrorCode::kFailure,
                 program + " failed with exit status " + std::to_string(WEXITSTATUS(status)) + tail(output)};
  }
  return output;
}

}  // namespace bitnet::codegen
