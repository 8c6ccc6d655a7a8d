// The commands of bitnet-codegen that need the compiler library.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "codegen/plan.h"
#include "codegen/tune.h"
#include "runtime/base/result.h"
#include "runtime/formats/options.h"
#include "runtime/model/tensors.h"

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
  formats::ReadOptions read;
  std::vector<std::string> targets;
  std::string output;
  std::string points;
  std::string tune;  // "", "quick" or "full"
  std::string points_out;
  std::string format = "auto";
  std::string emit = "bundle";
  std::string emit_sources;
  std::string emit_asm;
  int jobs = 0;
  int verbosity = 0;
  bool pack = false;
  bool float32_cache = false;
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
  formats::ReadOptions read;
  std::string target;
  std::string format = "auto";
  std::string points;
  bool json = false;
};

// `bitnet-codegen tune`: points for this machine, by measurement.
class TuneCommand {
 public:
  void add_options(CLI::App& command);
  // Exit code. A comparison goes to standard output, progress and errors to standard error.
  [[nodiscard]] int run() const;

  std::vector<std::string> targets = {"native"};
  std::string model;
  formats::ReadOptions read;
  std::string shapes;
  std::string output;
  std::string points;
  std::string compare;
  std::string against = "defaults";
  int jobs = 0;
  bool quick = false;
  bool full = false;
  bool add = false;
  bool quiet = false;
};

// The products of a model, each shape once with the number of its layers.
[[nodiscard]] std::vector<codegen::TuneShape> shapes_to_tune(const ModelTensors& tensors);
struct TuneRequest {
  std::vector<codegen::TuneShape> shapes;
  std::string output;
  bool add = false;  // keep the rows of other shapes in `output`
  bool full = false;
  bool quiet = false;
  int jobs = 0;
};
// Tunes with progress on standard error and writes the points. Ctrl-C: kInterrupted, nothing written.
[[nodiscard]] Status tune_to_file(const TuneRequest& request, const codegen::TargetSelection& asked,
                                  const codegen::Points& base);

}  // namespace bitnet::tools
