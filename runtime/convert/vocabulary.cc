// The vocabulary is tried before it is used: its keys are written to memory and read by the runtime's own tokenizer.
#include "runtime/convert/vocabulary.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "runtime/base/mapped_file.h"
#include "runtime/convert/settings.h"
#include "runtime/gguf/types.h"
#include "runtime/tokenizer/sentencepiece.h"
#include "runtime/tokenizer/tokenizer.h"

namespace bitnet::convert {
namespace {

using tokenizer::SentencePieceModel;

constexpr std::int32_t kControl = 3;
constexpr std::int32_t kUnused = 5;
constexpr float kUnusedScore = -1000.0F;  // as other converters give it

Error tokenizer_error(const std::string& path, const std::string& what) {
  return {ErrorCode::kTokenizer, path + ": " + what};
}

Result<SentencePieceModel> read_model(const std::string& directory, const std::string& path) {
  const auto mapped = MappedFile::open(path);
  if (!mapped.ok()) {
    std::error_code ignored;
    const bool other = std::filesystem::exists(directory + "/tokenizer.json", ignored);
    return tokenizer_error(mapped.error().message,
                           other ? "only SentencePiece models can be converted, and the directory's tokenizer.json is "
                                   "none; export tokenizer.model too"
                                 : "export the checkpoint with its tokenizer");
  }
  return tokenizer::parse_sentencepiece(mapped->bytes(), path);
}

// Whether `stated` is the control piece of that spelling, if the tokenizer has one.
void compare_id(const SentencePieceModel& model, const std::string& spelling, std::int64_t stated, const char* key,
                std::vector<std::string>& warnings) {
  for (std::size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.types[id] != kControl || model.pieces[id] != spelling) continue;
    if (static_cast<std::int64_t>(id) == stated) return;
    warnings.push_back("config.json: " + std::string(key) + " is " + std::to_string(stated) + ", but the tokenizer's " +
                       gguf::quoted(spelling) + " is " + std::to_string(id) + "; config.json's is written");
    return;
  }
}

void warn_of_text(const SentencePieceModel& model, std::vector<std::string>& warnings) {
  if (!model.charsmap.empty()) {
    warnings.push_back("tokenizer.model: its normalizer " + gguf::quoted(model.normalizer) +
                       " changes text; the runtime encodes text as it is");
  }
  if (model.denormalizes) {
    warnings.emplace_back("tokenizer.model: its denormalizer changes text; the runtime decodes without it");
  }
  if (model.remove_extra_whitespaces) {
    warnings.emplace_back("tokenizer.model: it removes extra spaces; the runtime keeps them");
  }
}

Status read_flags(const std::string& directory, Vocabulary& vocabulary) {
  BITNET_ASSIGN_OR_RETURN(const Settings settings,
                          Settings::read(directory + "/tokenizer_config.json", ErrorCode::kTokenizer));
  if (settings.has("add_bos_token")) {
    BITNET_ASSIGN_OR_RETURN(vocabulary.data.add_bos, settings.boolean("add_bos_token"));
  } else {
    vocabulary.data.add_bos = true;
    vocabulary.warnings.emplace_back("tokenizer_config.json: add_bos_token is missing; true is assumed");
  }
  if (settings.has("add_eos_token")) {
    BITNET_ASSIGN_OR_RETURN(const bool add_eos, settings.boolean("add_eos_token"));
    if (add_eos) {
      vocabulary.warnings.emplace_back(
          "tokenizer_config.json: add_eos_token is true; the runtime puts no end token behind a prompt");
    }
  }
  std::error_code ignored;
  if (std::filesystem::exists(directory + "/added_tokens.json", ignored)) {
    vocabulary.warnings.emplace_back("added_tokens.json is not read; the tokens that it adds are unused ones");
  }
  return {};
}

// The runtime's tokenizer on these keys alone.
Status try_out(const VocabularyData& data, const std::string& path) {
  gguf::Writer writer;
  set_vocabulary(data, writer);
  BITNET_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, writer.header());
  BITNET_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::parse(bytes, path));
  const auto tokenizer = Tokenizer::from_gguf(file);
  if (!tokenizer.ok()) return tokenizer.error();
  return {};
}

}  // namespace

Result<Vocabulary> read_vocabulary(const std::string& directory, const HfConfig& config) {
  const std::string path = directory + "/tokenizer.model";
  BITNET_ASSIGN_OR_RETURN(SentencePieceModel model, read_model(directory, path));
  const auto size = static_cast<std::size_t>(config.model.vocab);
  const std::size_t pieces = model.pieces.size();
  if (pieces > size) {
    return tokenizer_error(path, "expected at most the " + std::to_string(size) +
                                     " tokens of config.json's vocab_size, found " + std::to_string(pieces) +
                                     " pieces; the tokenizer belongs to another model");
  }
  for (const auto& [key, id] : {std::pair("bos_token_id", config.bos), std::pair("eos_token_id", config.eos)}) {
    if (static_cast<std::size_t>(id) < pieces) continue;
    return tokenizer_error(path, "expected a piece for config.json's " + std::string(key) + " " + std::to_string(id) +
                                     ", found " + std::to_string(pieces) +
                                     " pieces; the tokenizer belongs to another model");
  }

  Vocabulary vocabulary;
  BITNET_RETURN_IF_ERROR(read_flags(directory, vocabulary));
  compare_id(model, model.bos_piece, config.bos, "bos_token_id", vocabulary.warnings);
  compare_id(model, model.eos_piece, config.eos, "eos_token_id", vocabulary.warnings);
  warn_of_text(model, vocabulary.warnings);
  if (pieces < size) {
    vocabulary.warnings.push_back("tokenizer.model has " + std::to_string(pieces) + " pieces for a vocabulary of " +
                                  std::to_string(size) + "; the rest is filled up with unused tokens");
  }
  VocabularyData& data = vocabulary.data;
  data.tokens = std::move(model.pieces);
  data.scores = std::move(model.scores);
  data.types = std::move(model.types);
  for (std::size_t id = pieces; id < size; ++id) data.tokens.push_back("[PAD" + std::to_string(id) + "]");
  data.scores.resize(size, kUnusedScore);
  data.types.resize(size, kUnused);
  data.bos = static_cast<std::uint32_t>(config.bos);
  data.eos = static_cast<std::uint32_t>(config.eos);
  data.unknown = model.unknown;
  data.add_space_prefix = model.add_dummy_prefix;
  BITNET_RETURN_IF_ERROR(try_out(data, path));
  return vocabulary;
}

}  // namespace bitnet::convert
