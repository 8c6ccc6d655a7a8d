// The commands of bitnet-codegen that need the compiler library.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "codegen/plan.h"
#include "runtime/base/result.h"

namespace bitnet::tools {

// --format: "auto" leaves the choice to the points. kUsage for a word that is no ternary format.
[[nodiscard]] Result<codegen::PlanOptions> read_format(const std::string& name);

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
  std::string emit = "bundle";
  std::string emit_sources;
  std::string emit_asm;
  int jobs = 0;
  int verbosity = 0;
  bool pack = false;
  bool json = false;
  bool quiet = false;
};

int list_targets_command(bool json);

// `bitnet-codegen explain NAME BUNDLE` or `explain NAME --model x.gguf --target T`: what a kernel is and does.
class ExplainCommand {
 public:
  void add_options(CLI::App& command);
  // Prints to standard output; exit code.
  [[nodiscard]] int run() const;

  std::string name;
  std::string bundle;
  std::string model;
  std::string target;
  std::string format = "auto";
  std::string points;
  bool json = false;
};

}  // namespace bitnet::tools
