// bitnet tokenize: the token ids of a text, by the tokenizer of a model or of a tokenizer's own file.
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/tokenizer/tokenizer.h"
#include "tools/commands.h"
#include "tools/input.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace bitnet::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string path;
  std::optional<std::string> text;
  std::string file;
  bool no_bos = false;
  bool no_eos = false;
  bool parse_special = false;
  bool json = false;
  bool strict = false;
};

std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

Result<std::string> read_text(const Options& options) {
  if (options.text.has_value()) return *options.text;
  if (!options.file.empty()) return read_file(options.file);
  return read_all(std::cin, "standard input");
}

Status tokenize(const Options& options) {
  BITNET_RETURN_IF_ERROR(check_standard_output());
  BITNET_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::open(options.path, options.strict));
  print_tokenizer_notes(tokenizer);
  BITNET_ASSIGN_OR_RETURN(const std::string text, read_text(options));
  const bool add_bos = tokenizer.adds_bos() && !options.no_bos;
  const bool add_eos = tokenizer.adds_eos() && !options.no_eos;
  BITNET_ASSIGN_OR_RETURN(const std::vector<std::int32_t> ids,
                          tokenizer.encode(text, add_bos, options.parse_special, add_eos));
  if (options.json) {
    Json pieces = Json::array();
    for (const std::int32_t id : ids) pieces.push_back(std::string(tokenizer.piece(id)));
    const Json report = {{"tokens", ids},
                         {"pieces", std::move(pieces)},
                         {"count", ids.size()},
                         {"tokenizer",
                          {{"path", options.path},
                           {"model", tokenizer.data().model},
                           {"pre", tokenizer.data().pre},
                           {"size", tokenizer.size()},
                           {"sha256", tokenizer.digest()}}}};
    return write_output(dump(report) + "\n");
  }
  std::string out;
  for (const std::int32_t id : ids) {
    out += std::to_string(id) + "\t" + dump(Json(std::string(tokenizer.piece(id)))) + "\n";
  }
  return write_output(out);
}

}  // namespace

void add_tokenize_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("tokenize", "Show the token ids of a text, one line each");
  const auto options = std::make_shared<Options>();
  add_model_option(*command, options->path, "Model (GGUF), tokenizer.json, tokenizer.model or tiktoken ranks");
  CLI::Option* text = command->add_option("-p,--prompt", options->text, "The text");
  command
      ->add_option("-f,--file", options->file, "Read the text from this file, byte for byte (default: standard input)")
      ->excludes(text);
  command->add_flag("--no-bos", options->no_bos, "Put no beginning-of-text token in front");
  command->add_flag("--no-eos", options->no_eos, "Put no end-of-text token behind, where the vocabulary wants one");
  command->add_flag("--parse-special", options->parse_special,
                    "Read the spelling of a control token as that token, not as ordinary text");
  command->add_flag("--json", options->json, "Print {tokens, pieces, count, tokenizer}");
  command->add_flag("--strict", options->strict, "Refuse a tokenizer of which something would have to be assumed");
  command->callback([options, &exit_code] {
    const Status status = tokenize(*options);
    if (!status.ok()) exit_code = report(status.error());
  });
}

}  // namespace bitnet::tools
