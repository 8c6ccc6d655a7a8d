// bitnet convert: a checkpoint directory becomes a GGUF file.
#include <cstdio>
#include <memory>
#include <string>

#include "runtime/convert/convert.h"
#include "tools/commands.h"
#include "tools/output.h"
#include "tools/progress.h"

namespace bitnet::tools {
namespace {

struct Options {
  std::string directory;
  std::string output;
  std::string name;
  bool quiet = false;
};

Status convert(const Options& options) {
  ConvertOptions convert_options;
  convert_options.name = options.name;
  if (!options.quiet) convert_options.progress = ProgressLine("convert");
  BITNET_ASSIGN_OR_RETURN(const ConvertReport report,
                          convert_model(options.directory, options.output, convert_options));
  for (const std::string& warning : report.warnings) {
    std::fprintf(stderr, "bitnet convert: warning: %s\n", warning.c_str());
  }
  const ModelConfig& model = report.config;
  const auto text = [](std::int64_t number) { return std::to_string(number); };
  return write_output(options.output + ": " + model.architecture + ", " + text(model.layers) + " layers, hidden " +
                      text(model.hidden) + ", ffn " + text(model.ffn) + ", heads " + text(model.heads) + "/" +
                      text(model.kv_heads) + ", vocabulary " + text(model.vocab) + ", " + std::to_string(report.bytes) +
                      " bytes\n");
}

}  // namespace

void add_convert_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "convert", "Make a GGUF file from the directory of a packed BitNet checkpoint (safetensors, SentencePiece)");
  command->add_option("directory", options->directory, "config.json, model.safetensors, tokenizer.model, ...")
      ->required();
  command->add_option("-o,--output", options->output, "File to write")->required();
  command->add_option("--name", options->name, "general.name (default: config.json's, or the directory's name)");
  command->add_flag("-q,--quiet", options->quiet, "No progress");
  command->callback([options, &exit_code] {
    const Status status = convert(*options);
    if (!status.ok()) exit_code = report(status.error());
  });
}

}  // namespace bitnet::tools
