// The commands of bitnet-codegen that need the compiler library.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace bitnet::tools {

// `bitnet-codegen --model x.gguf --target T [...]`: model to bundle.
class CompileCommand {
 public:
  void add_options(CLI::App& app);
  // Exit code. The JSON report goes to standard output, progress and errors to standard error.
  [[nodiscard]] int run() const;

  std::string model;
  std::vector<std::string> targets;
  std::string output;
  std::string points;
  std::string format = "auto";
  std::string emit_sources;
  int jobs = 0;
  int verbosity = 0;
  bool pack = false;
  bool json = false;
  bool quiet = false;
};

int list_targets_command(bool json);

}  // namespace bitnet::tools
