// bitnet-halide --target <halide target> --out DIR PIPELINE:K=2560:SYMBOL=name ... writes DIR/<name>.o for each
// pipeline.
#include "codegen/halide_backend.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "codegen/child_process.h"
#include "codegen/temp_dir.h"

namespace bitnet::codegen {
namespace {

constexpr std::string_view kToolName = "bitnet-halide";

}  // namespace

Result<std::string> find_halide_tool() {
  const auto usable = [](const std::filesystem::path& path) {
    std::error_code ignored;
    return std::filesystem::is_regular_file(path, ignored);
  };
  if (const char* named = std::getenv("BITNET_HALIDE_TOOL"); named != nullptr && *named != '\0') {
    if (usable(named)) return std::string(named);
    return Error{ErrorCode::kFailure, "BITNET_HALIDE_TOOL names " + std::string(named) + ", which is no file"};
  }
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path beside = self.parent_path() / kToolName;
  if (!error && usable(beside)) return beside.string();
  return Error{ErrorCode::kFailure, std::string(kToolName) + " not found (looked for " + beside.string() +
                                        "): build it, or name it in the environment variable BITNET_HALIDE_TOOL"};
}

std::string halide_version() { return "Halide " BITNET_HALIDE_VERSION; }

Result<std::vector<std::string>> compile_with_halide(const std::string& tool, const ImagePlan& image,
                                                     std::chrono::milliseconds limit) {
  BITNET_ASSIGN_OR_RETURN(const TempDir folder, TempDir::create());
  std::vector<std::string> arguments = {tool, "--target", std::string(image.target->halide_target), "--out",
                                        folder.path()};
  std::vector<std::string> symbols;
  for (const KernelSpec& spec : image.kernels) {
    if (spec.pipeline.empty() || std::ranges::find(symbols, spec.pipeline_symbol) != symbols.end()) continue;
    symbols.push_back(spec.pipeline_symbol);
    arguments.push_back(spec.pipeline + ":SYMBOL=" + spec.pipeline_symbol);
  }
  std::vector<std::string> objects;
  if (symbols.empty()) return objects;
  if (limit == limit.zero()) limit = kHalideTimeLimit * symbols.size();
  const Result<std::string> output = run_program(arguments, limit);
  if (!output.ok()) {
    return Error{output.error().code,
                 "Halide pipelines for target " + std::string(image.target->name) + ": " + output.error().message};
  }
  for (const std::string& symbol : symbols) {
    BITNET_ASSIGN_OR_RETURN(std::string object, read_whole_file(folder.file(symbol + ".o")));
    objects.push_back(std::move(object));
  }
  return objects;
}

}  // namespace bitnet::codegen
