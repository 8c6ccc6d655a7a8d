// bitnet synth: writes a synthetic model.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "runtime/synth/synth.h"
#include "tools/commands.h"
#include "tools/progress.h"

namespace bitnet::tools {
namespace {

struct Options {
  std::string shape;
  std::string architecture;
  std::string output;
  std::uint64_t seed = 0;
  bool quiet = false;
};

Status synthesize(const Options& options) {
  BITNET_ASSIGN_OR_RETURN(SynthSpec spec, parse_synth_shape(options.shape));
  if (!options.architecture.empty()) spec.architecture = options.architecture;
  spec.seed = options.seed;
  SynthProgress progress;
  if (!options.quiet) progress = ProgressLine("synth");
  BITNET_RETURN_IF_ERROR(write_synthetic_model(spec, options.output, progress));
  std::error_code ignored;
  const auto bytes = std::filesystem::file_size(options.output, ignored);
  std::printf("%s: %s, %lld layers, hidden %lld, ffn %lld, heads %lld/%lld, vocabulary %lld, seed %llu, %llu bytes\n",
              options.output.c_str(), spec.architecture.c_str(), static_cast<long long>(spec.layers),
              static_cast<long long>(spec.hidden), static_cast<long long>(spec.ffn), static_cast<long long>(spec.heads),
              static_cast<long long>(spec.kv_heads), static_cast<long long>(spec.vocab),
              static_cast<unsigned long long>(spec.seed), static_cast<unsigned long long>(bytes));
  return {};
}

}  // namespace

void add_synth_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("synth", "Write a model with random ternary weights, of a real or any other shape");
  command
      ->add_option(
          "--shape", options->shape,
          "2b-4t, large, 3b, tiny, or LxHxFxQ/KVxV: layers x hidden x ffn x query/key-value heads x vocabulary")
      ->required();
  command->add_option("--arch", options->architecture, "Architecture (default: that of the shape)")
      ->check(CLI::IsMember({"bitnet-b1.58", "bitnet", "bitnet-25"}));
  command->add_option("--seed", options->seed, "Seed, 0 to 2^64 - 1; the same seed gives the same file")
      ->check([](const std::string& text) { return text.starts_with('-') ? "expected 0 to 2^64 - 1" : std::string(); })
      ->capture_default_str();
  command->add_option("-o,--output", options->output, "File to write")->required();
  command->add_flag("-q,--quiet", options->quiet, "No progress");
  command->callback([options, &exit_code] {
    const Status status = synthesize(*options);
    if (!status.ok()) exit_code = report(status.error());
  });
}

}  // namespace bitnet::tools
