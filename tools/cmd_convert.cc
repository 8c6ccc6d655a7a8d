// bitnet convert: models between Hugging Face directories, SafeTensors and the types of GGUF files.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "runtime/base/new_file.h"
#include "runtime/convert/convert.h"
#include "runtime/convert/verify.h"
#include "tools/commands.h"
#include "tools/input.h"
#include "tools/model_options.h"
#include "tools/output.h"
#include "tools/progress.h"

namespace bitnet::tools {
namespace {

struct Options {
  std::string input;
  std::string positional;  // the older spelling of --input
  std::string output;
  std::string type, embedding, head, format, ternarize, report;
  ConvertOptions convert;
  bool verify = false;
  bool quiet = false;
};

Status read_type(const char* flag, const std::string& text, std::optional<gguf::TensorType>& type) {
  if (text.empty()) return {};
  type = parse_target_type(text);
  if (type) return {};
  const bool rows = std::string_view(flag) != "--type";
  return Error{ErrorCode::kUsage, std::string(flag) + ": expected " +
                                      std::string(rows ? row_type_names() : target_type_names()) + ", found '" + text +
                                      "'; choose one of them"};
}

Status complete(Options& options) {
  if (options.input.empty() == options.positional.empty()) {
    return Error{ErrorCode::kUsage, options.input.empty()
                                        ? "--input: expected a directory or file to convert, found none; name one"
                                        : "expected one input, found --input and a positional one; leave one out"};
  }
  if (options.input.empty()) options.input = options.positional;
  BITNET_RETURN_IF_ERROR(read_type("--type", options.type, options.convert.type));
  BITNET_RETURN_IF_ERROR(read_type("--embedding", options.embedding, options.convert.embedding));
  BITNET_RETURN_IF_ERROR(read_type("--head", options.head, options.convert.head));
  options.convert.ternarize = !options.ternarize.empty();
  for (const std::string& other : {options.input, options.output}) {
    std::error_code ignored;
    if (options.report.empty() ||
        (options.report != other && !std::filesystem::equivalent(options.report, other, ignored))) {
      continue;
    }
    return Error{ErrorCode::kUsage, "--report: expected a file of its own, found " + other + "; name another file"};
  }
  if (options.format == "gguf") options.convert.format = ConvertFormat::kGguf;
  if (options.format == "safetensors") options.convert.format = ConvertFormat::kSafetensors;
  return {};
}

Status write_report(const Options& options, const ConvertReport& report, const std::string& error) {
  if (options.report.empty()) return {};
  const std::string text = report.json(options.input, options.output, error);
  NewFile file(options.report);
  BITNET_RETURN_IF_ERROR(file.open());
  BITNET_RETURN_IF_ERROR(file.append(std::as_bytes(std::span(text))));
  return file.commit();
}

Status verify(const Options& options, const ConvertReport& report) {
  BITNET_ASSIGN_OR_RETURN(const Verification found,
                          verify_conversion(options.input, options.output, options.convert, report));
  char line[256];
  std::snprintf(line, sizeof line,
                "verify: logits of %lld positions: cosine %.9f (least), largest difference %.6g, conversion %s\n",
                static_cast<long long>(found.positions), found.cosine, found.largest_difference,
                report.lossless() ? "lossless" : "not lossless");
  BITNET_RETURN_IF_ERROR(write_output(line));
  if (!report.lossless() || found.largest_difference == 0.0) return {};
  return Error{ErrorCode::kVerification, options.output + ": expected the logits of " + options.input +
                                             ", because no weight was changed, found others; please report this"};
}

Status convert(Options& options) {
  BITNET_RETURN_IF_ERROR(complete(options));
  if (!options.quiet) options.convert.progress = ProgressLine("convert");
  catch_interrupt();
  catch_termination();
  options.convert.interrupted = interrupted;
  ConvertReport report;
  const Status status = convert_model(options.input, options.output, options.convert, report);
  for (const std::string& warning : report.warnings) {
    std::fprintf(stderr, "bitnet convert: warning: %s\n", warning.c_str());
  }
  const Status written = write_report(options, report, status.ok() ? "" : status.error().message);
  BITNET_RETURN_IF_ERROR(status);
  BITNET_RETURN_IF_ERROR(written);
  const ModelConfig& model = report.config;
  const auto text = [](std::int64_t number) { return std::to_string(number); };
  BITNET_RETURN_IF_ERROR(write_output(options.output + ": " + model.architecture + ", " + text(model.layers) +
                                      " layers, hidden " + text(model.hidden) + ", ffn " + text(model.ffn) +
                                      ", heads " + text(model.heads) + "/" + text(model.kv_heads) + ", vocabulary " +
                                      text(model.vocab) + ", " + std::to_string(report.bytes) + " bytes\n"));
  return options.verify ? verify(options, report) : Status();
}

}  // namespace

void add_convert_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "convert",
      "Convert a model: a Hugging Face directory, a SafeTensors or a GGUF file into a GGUF or SafeTensors file");
  command->add_option("-i,--input", options->input,
                      "Directory with config.json and model.safetensors (or shards and their index), a .safetensors "
                      "file in one, or a GGUF file");
  command->add_option("directory", options->positional, "The same")->option_text(" ");
  command->add_option("-o,--output", options->output, "File to write")->required();
  const std::string types(target_type_names());
  command->add_option("--type", options->type,
                      "Type of the projections: " + types +
                          " (default for checkpoints: i2_s, or f16 for plain floats of other classes than BitNet; i2_s "
                          "in a SafeTensors "
                          "file is four rows in a byte)");
  command->add_option("--embedding", options->embedding,
                      "Type of the embedding (default: --type where it is f32, f16 or bf16, else f16, or what a GGUF "
                      "file has)");
  command->add_option("--head", options->head, "Type of an untied head (default: like --embedding)");
  command->add_option("--out-format", options->format, "gguf or safetensors (default: by the name of the output)")
      ->check(CLI::IsMember({"gguf", "safetensors"}));
  command
      ->add_option("--ternarize", options->ternarize,
                   "absmean: round float matrices that are not ternary by their mean magnitude; the report has the "
                   "error of each")
      ->check(CLI::IsMember({"absmean"}));
  add_read_options(*command, options->convert.read);
  command->add_option("--output-tile-config", options->convert.tile_config,
                      "kernel_config.ini for a result in TL1 or TL2 (default: --tile-config)");
  command->add_flag("--strict", options->convert.read.strict, "Refuse what would have to be assumed");
  command->add_option("--name", options->convert.name,
                      "general.name, or _name_or_path of config.json (default: the source's)");
  command->add_option("--report", options->report, "File for a report in JSON: every tensor, its types and its error");
  command->add_flag("--verify", options->verify, "Run source and result, and compare their logits");
  command->add_flag("-q,--quiet", options->quiet, "No progress");
  command->callback([options, &exit_code] {
    const Status status = convert(*options);
    if (!status.ok()) exit_code = report(status.error());
  });
}

}  // namespace bitnet::tools
