// Reading input, checking it, and writing logits; see input.h.
#include "tools/input.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <istream>

namespace bitnet::tools {
namespace {

// A signal handler reaches nothing but a global.
volatile std::sig_atomic_t interrupt_seen = 0;

}  // namespace

Result<std::string> read_all(std::istream& stream, const std::string& name) {
  std::string text;
  char piece[4096];
  do {
    stream.read(piece, sizeof piece);
    text.append(piece, static_cast<std::size_t>(stream.gcount()));
  } while (stream);
  // A folder opens like a file and only fails here.
  if (stream.bad() || !stream.eof()) return Error{ErrorCode::kFailure, name + ": cannot be read"};
  return text;
}

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return read_all(file, path);
}

CLI::Option* add_ids(CLI::App& command, const std::string& name, std::vector<std::int32_t>& ids,
                     const std::string& help) {
  const auto parse = [name, &ids](const std::vector<std::string>& values) {
    for (const std::string& value : values) {
      for (std::size_t begin = 0; begin <= value.size();) {
        const std::size_t end = std::min(value.find(',', begin), value.size());
        const std::optional<std::int32_t> id =
            parse_number<std::int32_t>(std::string_view(value).substr(begin, end - begin));
        if (!id.has_value()) {
          throw CLI::ValidationError(name, "expected token ids N,N,... below 2^31, found \"" + value + "\"");
        }
        ids.push_back(*id);
        begin = end + 1;
      }
    }
  };
  return command.add_option_function<std::vector<std::string>>(name, parse, help)
      ->type_name("N,N,...")
      ->allow_extra_args(false);
}

Status check_ids(std::span<const std::int32_t> ids, std::int64_t vocab, const char* option) {
  for (const std::int32_t id : ids) {
    if (id >= 0 && id < vocab) continue;
    return Error{ErrorCode::kUsage, std::string(option) + ": token id " + std::to_string(id) +
                                        " is outside the vocabulary, expected 0.." + std::to_string(vocab - 1)};
  }
  return {};
}

Status check_standard_output() {
  if (fcntl(STDOUT_FILENO, F_GETFD) != -1) return {};
  return Error{ErrorCode::kFailure, "standard output is closed; send it to a file, a pipe or /dev/null"};
}

Status LogitsFile::open(const std::string& path, std::span<const std::string> inputs) {
  path_ = path;
  if (path.empty()) return {};
  for (const std::string& input : inputs) {
    std::error_code absent;
    if (!std::filesystem::equivalent(path, input, absent)) continue;
    return Error{ErrorCode::kUsage, "--dump-logits would overwrite " + input + ", which this run reads"};
  }
  file_.open(path, std::ios::binary | std::ios::trunc);
  return check();
}

Status LogitsFile::add(std::span<const float> logits) {
  if (path_.empty()) return {};
  file_.write(reinterpret_cast<const char*>(logits.data()), static_cast<std::streamsize>(logits.size_bytes()));
  return check();
}

Status LogitsFile::finish() {
  if (path_.empty()) return {};
  file_.flush();
  return check();
}

Status LogitsFile::check() const {
  if (!file_) return Error{ErrorCode::kFailure, path_ + ": cannot be written"};
  return {};
}

namespace {

void catch_signal(int signal) {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupt_seen = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(signal, &action, nullptr);
}

}  // namespace

void catch_interrupt() { catch_signal(SIGINT); }
void catch_termination() { catch_signal(SIGTERM); }

bool interrupted() { return interrupt_seen != 0; }

}  // namespace bitnet::tools
