// Runs perf and names kernels for it; see perf.h.
#include "tools/bench/perf.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

extern char** environ;

namespace bitnet::bench {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The program of this name on PATH, or "".
std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = (std::filesystem::path(folder) / name).string();
    if (access(candidate.c_str(), X_OK) == 0 && std::filesystem::is_regular_file(candidate)) return candidate;
  }
  return {};
}

Error refused(const std::string& said) {
  return Error{ErrorCode::kFailure,
               "--flamegraph: perf may not sample this process: " + (said.empty() ? "it said nothing" : said) +
                   "\nallow it (sysctl kernel.perf_event_paranoid=1, or run as root), or leave --flamegraph out"};
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

// Starts `arguments` with standard output and error into files. The child's process id, or -1.
pid_t spawn(const std::vector<std::string>& arguments, const std::string& out, const std::string& err) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  constexpr int kWrite = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out.c_str(), kWrite, 0600);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, err.c_str(), kWrite, 0600);
  pid_t child = -1;
  const int failed = posix_spawn(&child, argv.front(), &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  return failed == 0 ? child : -1;
}

// Waits until the child has ended; its exit code, -1 if it was killed.
int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string map_path() { return "/tmp/perf-" + std::to_string(getpid()) + ".map"; }

}  // namespace

std::vector<CodeRange> parse_code_ranges(std::string_view proc_maps) {
  std::vector<CodeRange> ranges;
  std::istringstream lines{std::string(proc_maps)};
  for (std::string line; std::getline(lines, line);) {
    CodeRange range;
    const char* end = line.data() + line.size();
    const auto begin = std::from_chars(line.data(), end, range.begin, 16);
    if (begin.ec != std::errc{} || begin.ptr == end || *begin.ptr != '-') continue;
    const auto last = std::from_chars(begin.ptr + 1, end, range.end, 16);
    if (last.ec != std::errc{} || end - last.ptr < 5 || last.ptr[3] != 'x') continue;  // " r-xp"
    ranges.push_back(range);
  }
  return ranges;
}

std::vector<MapEntry> size_entries(std::vector<MapEntry> kernels, const std::vector<CodeRange>& ranges) {
  std::ranges::sort(kernels, {}, &MapEntry::address);
  const auto same = std::ranges::unique(kernels, {}, &MapEntry::address);
  kernels.erase(same.begin(), same.end());
  std::vector<MapEntry> sized;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const std::uint64_t at = kernels[i].address;
    const auto range = std::ranges::find_if(ranges, [&](const CodeRange& r) { return r.begin <= at && at < r.end; });
    if (range == ranges.end()) continue;
    const std::uint64_t next = i + 1 < kernels.size() ? kernels[i + 1].address : range->end;
    sized.push_back({at, std::min(next, range->end) - at, kernels[i].name});
  }
  return sized;
}

std::string format_map(const std::vector<MapEntry>& entries) {
  std::ostringstream text;
  text << std::hex;
  for (const MapEntry& entry : entries) text << entry.address << ' ' << entry.bytes << ' ' << entry.name << '\n';
  return text.str();
}

Result<PerfMap> PerfMap::write(const Model& model) {
  std::vector<MapEntry> kernels;
  for (const ChosenKernel& chosen : model.kernels().all()) {
    if (!chosen.from_bundle) continue;
    kernels.push_back({reinterpret_cast<std::uint64_t>(chosen.kernel.function), 0, chosen.name});
  }
  const std::string text = format_map(size_entries(kernels, parse_code_ranges(read_file("/proc/self/maps"))));
  const std::string path = map_path();
  unlink(path.c_str());  // of an earlier process with this number; another user's stays, and then open fails
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  const bool written = file >= 0 && ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int reason = errno;
  if (file >= 0) close(file);
  if (!written) return Error{ErrorCode::kFailure, path + ": cannot be written: " + std::strerror(reason)};
  return PerfMap(path);
}

PerfMap::~PerfMap() {
  if (!path_.empty()) unlink(path_.c_str());
}

Status PerfRecording::check() {
  BITNET_ASSIGN_OR_RETURN(PerfRecording trial, start());
  BITNET_RETURN_IF_ERROR(trial.finish());
  return {};
}

Result<PerfRecording> PerfRecording::start() {
  const std::string perf = find_program("perf");
  if (perf.empty()) {
    return Error{ErrorCode::kFailure,
                 "--flamegraph needs the program perf, which is not on PATH; install it (Debian: apt install "
                 "linux-perf), or leave --flamegraph out"};
  }
  PerfRecording recording;
  std::string folder = (std::filesystem::temp_directory_path() / "bitnet_perf_XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) {
    return Error{ErrorCode::kFailure, folder + ": cannot be made: " + std::strerror(errno)};
  }
  recording.folder_ = folder;
  // perf says when it samples: two pipes, one with "enable" for it, one with its "ack".
  const std::string control = folder + "/control";
  const std::string answer = folder + "/answer";
  if (mkfifo(control.c_str(), 0600) != 0 || mkfifo(answer.c_str(), 0600) != 0) {
    return Error{ErrorCode::kFailure, folder + ": cannot make pipes: " + std::strerror(errno)};
  }
  const int out = open(control.c_str(), O_RDWR | O_CLOEXEC);  // read and write: opening never waits
  const int in = open(answer.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  recording.child_ = spawn({perf, "record", "-F", "999", "-g", "-D", "-1", "--control=fifo:" + control + "," + answer,
                            "-o", folder + "/data", "-p", std::to_string(getpid())},
                           folder + "/out", folder + "/err");
  bool ready = false;
  bool ended = recording.child_ < 0;
  static constexpr std::string_view kEnable = "enable\n";
  if (!ended && ::write(out, kEnable.data(), kEnable.size()) < 0) ended = true;
  for (int tenth = 0; !ready && !ended && tenth < 100; ++tenth) {
    std::array<char, 16> text{};
    const ssize_t got = read(in, text.data(), text.size());
    ready = got > 0 && std::string_view(text.data(), static_cast<std::size_t>(got)).starts_with("ack");
    if (ready) break;
    int status = 0;
    if (waitpid(recording.child_, &status, WNOHANG) == recording.child_) {
      recording.child_ = -1;
      ended = true;
      break;
    }
    usleep(100000);
  }
  if (out >= 0) close(out);
  if (in >= 0) close(in);
  if (!ready) return refused(trimmed(read_file(folder + "/err")));
  return recording;
}

Result<std::string> PerfRecording::finish() {
  const std::string perf = find_program("perf");
  const std::string data = folder_ + "/data";
  kill(child_, SIGINT);
  wait_for(child_);  // it ends by the signal, which is no failure: the data tells
  child_ = -1;
  if (!std::filesystem::exists(data)) return refused(trimmed(read_file(folder_ + "/err")));
  const std::string text = folder_ + "/script";
  const pid_t script = spawn({perf, "script", "-i", data}, text, folder_ + "/err");
  if (script < 0 || wait_for(script) != 0) {
    return Error{ErrorCode::kFailure, "--flamegraph: perf script fails: " + trimmed(read_file(folder_ + "/err"))};
  }
  return read_file(text);
}

PerfRecording::PerfRecording(PerfRecording&& other) noexcept : folder_(std::move(other.folder_)), child_(other.child_) {
  other.folder_.clear();
  other.child_ = -1;
}

PerfRecording::~PerfRecording() {
  if (child_ > 0) {
    kill(child_, SIGKILL);
    wait_for(child_);
  }
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
}

}  // namespace bitnet::bench
