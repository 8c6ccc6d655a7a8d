// The built programs as their users see them: a command line in; the exit code, standard output and standard error out.
#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/model_files.h"

namespace bitnet::test {

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Path of a program of this build; empty, after printing that it is skipped, where it has not been built.
inline std::string program(const char* name) {
  const char* bin = std::getenv("BITNET_BIN");
  const std::string path = (bin == nullptr ? std::string() : std::string(bin) + "/") + name;
  if (bin == nullptr || !std::filesystem::exists(path)) {
    std::printf("SKIPPED: %s (it has not been built)\n", name);
    return {};
  }
  return path;
}

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

// Runs programs in a folder of its own.
class Programs {
 public:
  [[nodiscard]] Outcome shell(const std::string& command) const {
    const std::string out = folder.file("out");
    const std::string err = folder.file("err");
    const int status = std::system(("( " + command + " ) >'" + out + "' 2>'" + err + "'").c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text(out), read_text(err)};
  }
  // bitnet COMMAND ARGUMENTS; `before` is put in front: assignments, or a pipe.
  [[nodiscard]] Outcome bitnet(const std::string& command, const std::string& arguments,
                               const std::string& before = "") const {
    return shell(before + " '" + program("bitnet") + "' " + command + " " + arguments);
  }
  // The command refuses: this exit code, nothing on standard output, and `part` on standard error.
  void refuses(const std::string& command, const std::string& arguments, int code, const std::string& part,
               const std::string& before) const {
    const Outcome outcome = bitnet(command, arguments, before);
    INFO(arguments, ": ", outcome.err);
    CHECK(outcome.code == code);
    CHECK(outcome.out.empty());
    CHECK(outcome.err.find(part) != std::string::npos);
  }
  TempFolder folder;
};

}  // namespace bitnet::test
