// bitnet embed: texts in, one vector each out.
#include <charconv>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/model/model.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tools/commands.h"
#include "tools/input.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace bitnet::tools {
namespace {

struct Options {
  std::string model;
  std::vector<std::string> texts;
  std::string file;
  std::vector<std::int32_t> ids;
  ModelOptions load;
  std::int64_t context = 0;
  Pooling pooling = Pooling::kNone;  // kNone: the model's
  bool raw = false;
  bool lines = false;
  bool no_bos = false;
  bool json = false;
};

struct Embedded {
  std::size_t tokens = 0;
  std::vector<float> values;
};

// One for each line, the empty ones left out.
std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

Result<std::vector<std::string>> read_texts(const Options& options) {
  if (!options.texts.empty() || !options.ids.empty()) return options.texts;
  std::string text;
  if (options.file.empty()) {
    BITNET_ASSIGN_OR_RETURN(text, read_all(std::cin, "standard input"));
  } else {
    BITNET_ASSIGN_OR_RETURN(text, read_file(options.file));
  }
  if (options.lines) return split_lines(text);
  return std::vector<std::string>{std::move(text)};
}

Result<Pooling> pooling_of(const Options& options, const Model& model) {
  if (options.pooling != Pooling::kNone) return options.pooling;
  if (model.config().pooling != Pooling::kNone) return model.config().pooling;
  return Error{ErrorCode::kUsage, model.path() + ": metadata key " + model.config().architecture +
                                      ".pooling_type: expected 1 (mean) or 3 (last token) of an embedding model, found "
                                      "none; choose with --pooling"};
}

void append_number(float value, std::string& out) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value);
  out.append(text, end.ptr);
}

std::string numbers(const std::vector<float>& values, char separator) {
  std::string out;
  for (const float value : values) {
    if (!out.empty()) out += separator;
    append_number(value, out);
  }
  return out;
}

Status embed(Options& options) {
  BITNET_RETURN_IF_ERROR(check_standard_output());
  BITNET_ASSIGN_OR_RETURN(const std::vector<std::string> texts, read_texts(options));
  if (texts.empty() && options.ids.empty()) {
    return Error{ErrorCode::kUsage, "there is no text; give -p, -f or text on standard input"};
  }
  options.load.log = log_to_stderr(false);
  options.load.head = HeadMode::kExact;  // it is not used, and needs no int8 rows
  BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::load(options.model, options.load));
  BITNET_ASSIGN_OR_RETURN(const Pooling pooling, pooling_of(options, *model));
  BITNET_ASSIGN_OR_RETURN(const std::unique_ptr<Context> context, Context::create(*model, {.size = options.context}));

  std::vector<std::vector<std::int32_t>> inputs;
  if (!options.ids.empty()) {
    BITNET_RETURN_IF_ERROR(check_ids(options.ids, model->config().vocab, "--prompt-ids"));
    inputs.push_back(options.ids);
  } else {
    BITNET_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::from_gguf(model->file(), options.load.strict));
    BITNET_RETURN_IF_ERROR(check_pair(tokenizer, model->config().vocab, options.model));
    for (const std::string& text : texts) {
      BITNET_ASSIGN_OR_RETURN(
          auto ids, tokenizer.encode(text, tokenizer.adds_bos() && !options.no_bos, true, tokenizer.adds_eos()));
      if (ids.empty()) return Error{ErrorCode::kUsage, "an empty text has no embedding"};
      inputs.push_back(std::move(ids));
    }
  }
  std::vector<Embedded> results;
  for (const std::vector<std::int32_t>& ids : inputs) {
    BITNET_ASSIGN_OR_RETURN(auto values, context->embed(ids, pooling, !options.raw));
    results.push_back({ids.size(), std::move(values)});
  }

  if (!options.json) {
    std::string out;
    for (const Embedded& result : results) out += numbers(result.values, ' ') + "\n";
    return write_output(out);
  }
  nlohmann::ordered_json report = {{"model", {{"path", model->path()}, {"architecture", model->config().architecture}}},
                                   {"pooling", pooling_name(pooling)},
                                   {"normalized", !options.raw},
                                   {"dimension", model->config().hidden},
                                   {"bundle", bundle_json(*model, context->kernel_uses())},
                                   {"embeddings", nlohmann::ordered_json::array()}};
  for (const Embedded& result : results) {
    report["embeddings"].push_back({{"tokens", result.tokens}, {"values", result.values}});
  }
  return write_output(report.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

}  // namespace

void add_embed_command(CLI::App& app, int& exit_code) {
  const auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = app.add_subcommand("embed", "Print the embedding vectors of texts");
  command->add_option("-m,--model", o.model, "GGUF file of an embedding model")->required();
  CLI::Option* text =
      command->add_option("-p,--prompt,--text", o.texts, "Text (repeatable); else --file, else standard input")
          ->allow_extra_args(false);
  CLI::Option* file = command->add_option("-f,--file", o.file, "File with the text, bytes as they are");
  CLI::Option* ids = add_ids(*command, "--prompt-ids", o.ids, "The text as token ids, used as they are");
  text->excludes(file)->excludes(ids);
  file->excludes(ids);
  command->add_flag("--lines", o.lines, "Each line of the file or of standard input is a text of its own");
  static const std::map<std::string, Pooling> kPooling{{"mean", Pooling::kMean}, {"last", Pooling::kLast}};
  command->add_option("--pooling", o.pooling, "Mean of all states or the last one (default: what the model says)")
      ->transform(CLI::CheckedTransformer(kPooling))
      ->option_text("mean|last");
  command->add_flag("--no-normalize", o.raw, "Leave the vector's length as it is (else 1)");
  add_load_options(*command, o.load);
  command->add_option("-C,--ctx-size", o.context, "Positions; 0: the model's, at most 4096");
  command->add_flag("--no-bos", o.no_bos, "No begin token before the text");
  command->add_flag("--json", o.json, "One JSON object instead of a line of numbers for each text");
  command->callback([options, &exit_code] {
    const Status status = embed(*options);
    if (!status.ok()) exit_code = report(status.error());
  });
}

}  // namespace bitnet::tools
