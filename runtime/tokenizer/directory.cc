// The vocabulary comes from one file, tokenizer.json before all others, because it alone says everything; the rest of
// the directory corrects its flags and ids.
#include "runtime/tokenizer/directory.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <optional>
#include <utility>

#include "runtime/base/mapped_file.h"
#include "runtime/gguf/types.h"
#include "runtime/tokenizer/json_reader.h"
#include "runtime/tokenizer/sentencepiece.h"
#include "runtime/tokenizer/tiktoken.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/tokenizer_json.h"

namespace bitnet {
namespace tokenizer {
namespace {

constexpr std::int32_t kNormalType = 1;
constexpr std::int32_t kControlType = 3;
constexpr std::int32_t kUserType = 4;
constexpr std::int32_t kUnusedType = 5;
constexpr float kUnusedScore = -1000.0F;  // as other converters give it
constexpr std::size_t kMostAdded = 1 << 20;
constexpr std::array<std::string_view, 5> kTurnEnds = {"<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>",
                                                       "<|EOT|>"};

std::string_view view_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

class DirectoryReader {
 public:
  DirectoryReader(const std::string& directory, std::int64_t vocab_size, std::vector<std::string>& warnings)
      : directory_(directory),
        rows_(static_cast<std::size_t>(std::max<std::int64_t>(vocab_size, 0))),
        warnings_(warnings) {}

  Result<VocabularyData> run() {
    BITNET_RETURN_IF_ERROR(read_main());
    const auto framed_bos = data_.add_bos.value_or(false) ? data_.bos : std::nullopt;
    const auto framed_eos = data_.add_eos.value_or(false) ? data_.eos : std::nullopt;
    BITNET_RETURN_IF_ERROR(read_config());
    BITNET_RETURN_IF_ERROR(read_added_tokens());
    BITNET_RETURN_IF_ERROR(read_names("special_tokens_map.json"));
    BITNET_RETURN_IF_ERROR(read_names("tokenizer_config.json"));
    BITNET_RETURN_IF_ERROR(check_size());
    BITNET_RETURN_IF_ERROR(read_model_ids());
    keep_frame(framed_bos, framed_eos);
    find_turn_end();
    BITNET_RETURN_IF_ERROR(read_template());
    pad();
    // What every reader takes for granted needs no key; of "t5" it would take the contrary.
    if (data_.model != "t5" && !data_.add_eos.value_or(false)) data_.add_eos.reset();
    const auto tried = Tokenizer::from_vocabulary(data_, path_);
    if (!tried.ok()) return tried.error();
    return std::move(data_);
  }

 private:
  [[nodiscard]] std::string file(const char* name) const { return directory_ + "/" + name; }
  [[nodiscard]] bool has(const char* name) const {
    std::error_code ignored;
    return std::filesystem::exists(file(name), ignored);
  }
  [[nodiscard]] Error fail(const std::string& what) const { return {ErrorCode::kTokenizer, path_ + ": " + what}; }

  static Result<MappedFile> open(const std::string& path) {
    auto mapped = MappedFile::open(path);
    if (!mapped.ok()) return Error{ErrorCode::kTokenizer, mapped.error().message};
    return mapped;
  }

  // An object; empty where there is no such file.
  [[nodiscard]] Result<Json> read_json(const char* name) const {
    if (!has(name)) return Json(Json::object());
    BITNET_ASSIGN_OR_RETURN(const MappedFile mapped, open(file(name)));
    BITNET_ASSIGN_OR_RETURN(Json document, parse_json(view_of(mapped), file(name)));
    if (!document.is_object()) {
      return Error{ErrorCode::kTokenizer, file(name) + ": expected an object, found something else"};
    }
    return document;
  }

  Status read_main() {
    path_ = file("tokenizer.json");
    if (has("tokenizer.json")) {
      const Status read = read_fast();
      if (read.ok() || !has("tokenizer.model")) return read;
      warnings_.push_back(read.error().message + "; tokenizer.model is used in its place");
    }
    path_ = file("tokenizer.model");
    const auto mapped = MappedFile::open(path_);
    if (!mapped.ok()) {
      return Error{ErrorCode::kTokenizer, mapped.error().message +
                                              ": export the checkpoint with its tokenizer "
                                              "(tokenizer.json or tokenizer.model)"};
    }
    if (looks_like_tiktoken(view_of(*mapped))) {
      BITNET_ASSIGN_OR_RETURN(data_, read_tiktoken(view_of(*mapped), path_));
      data_.add_bos = true;
      return {};
    }
    BITNET_ASSIGN_OR_RETURN(SentencePieceModel model, parse_sentencepiece(mapped->bytes(), path_));
    return take_sentencepiece(std::move(model));
  }

  Status read_fast() {
    BITNET_ASSIGN_OR_RETURN(const MappedFile mapped, open(path_));
    BITNET_ASSIGN_OR_RETURN(data_, read_tokenizer_json(view_of(mapped), path_));
    BITNET_RETURN_IF_ERROR(Tokenizer::from_vocabulary(data_, path_));
    if (data_.model == "llama" && has("tokenizer.model")) BITNET_RETURN_IF_ERROR(take_scores());
    if (data_.model == "gpt2" && data_.pre == "default") {
      warnings_.emplace_back(
          "tokenizer.json: no name of tokenizer.ggml.pre cuts words as it does; they are described in a key of our "
          "own, "
          "and other programs will cut otherwise");
    }
    return {};
  }

  // For other programs, which merge by scores: those of the SentencePiece model that tokenizer.json was made from.
  Status take_scores() {
    BITNET_ASSIGN_OR_RETURN(const MappedFile mapped, open(file("tokenizer.model")));
    const auto model = parse_sentencepiece(mapped.bytes(), file("tokenizer.model"));
    if (!model.ok() || model->pieces.size() > data_.tokens.size() || data_.scores.size() != data_.tokens.size() ||
        !std::equal(model->pieces.begin(), model->pieces.end(), data_.tokens.begin())) {
      warnings_.emplace_back(
          "tokenizer.model has other pieces than tokenizer.json, which is used; other programs get scores in the order "
          "of its merges");
      return {};
    }
    std::copy(model->scores.begin(), model->scores.end(), data_.scores.begin());
    return {};
  }

  Status take_sentencepiece(SentencePieceModel model) {
    if (model.kind == SentencePieceModel::Kind::kBpe && !model.charsmap.empty()) {
      warnings_.push_back("tokenizer.model: its normalizer " + gguf::quoted(model.normalizer) +
                          " changes text; the runtime encodes text as it is");
    }
    if (model.denormalizes) {
      warnings_.emplace_back("tokenizer.model: its denormalizer changes text; the runtime decodes without it");
    }
    if (model.kind == SentencePieceModel::Kind::kBpe && model.remove_extra_whitespaces) {
      warnings_.emplace_back("tokenizer.model: it removes extra spaces; the runtime keeps them");
    }
    data_ = vocabulary_of(std::move(model));
    // The turns of a conversation are user-defined symbols of the model (Gemma); a text's author must not end one.
    for (std::size_t id = 0; id < data_.tokens.size(); ++id) {
      const std::string_view token = data_.tokens[id];
      const bool turn =
          token == "<start_of_turn>" || std::find(kTurnEnds.begin(), kTurnEnds.end(), token) != kTurnEnds.end();
      if (turn && data_.types[id] == kUserType) data_.types[id] = kControlType;
    }
    return {};
  }

  Status read_config() {
    BITNET_ASSIGN_OR_RETURN(const Json config, read_json("tokenizer_config.json"));
    const JsonReader reader(config, file("tokenizer_config.json"));
    for (const auto& [key, flag] :
         {std::pair("add_bos_token", &data_.add_bos), std::pair("add_eos_token", &data_.add_eos)}) {
      if (reader.find(key) == nullptr) continue;
      BITNET_ASSIGN_OR_RETURN(*flag, reader.flag_or(key, false));
    }
    if (!data_.add_bos) {
      data_.add_bos = data_.model == "llama";
      warnings_.push_back(std::string("tokenizer_config.json: add_bos_token is missing; ") +
                          (*data_.add_bos ? "true" : "false") + " is assumed");
    }
    const Json* added = reader.find("added_tokens_decoder");
    if (added == nullptr) return {};
    if (!added->is_object()) return reader.fail("added_tokens_decoder: expected an object");
    for (const auto& [text, token] : added->items()) {
      std::size_t id = 0;
      const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), id);
      const JsonReader inner(token, reader.where() + ": added_tokens_decoder: " + text);
      if (error != std::errc{} || stop != text.data() + text.size()) return inner.fail("expected a token id");
      BITNET_ASSIGN_OR_RETURN(const std::string content, inner.text("content"));
      BITNET_ASSIGN_OR_RETURN(const bool special, inner.flag_or("special", false));
      BITNET_RETURN_IF_ERROR(add_token(id, content, special ? kControlType : kUserType, inner));
    }
    return {};
  }

  // Tokens behind the vocabulary's own; one of these keeps its type, unless it is one of ordinary text, or user-defined
  // and special here (SentencePiece has user-defined symbols only, and texts never spell the special ones).
  Status add_token(std::size_t id, const std::string& content, std::int32_t type, const JsonReader& reader) {
    const std::size_t limit = rows_ > 0 ? rows_ : data_.tokens.size() + kMostAdded;
    if (id >= limit) {
      return reader.fail("expected an id below " + std::to_string(limit) + ", found " + std::to_string(id));
    }
    while (data_.tokens.size() <= id) add_unused();
    if (data_.types[id] == kUnusedType && data_.tokens[id] == unused_name(id)) {
      data_.tokens[id] = content;
      data_.types[id] = type;
      if (!data_.scores.empty()) data_.scores[id] = 0;
    } else if (data_.tokens[id] == content &&
               (data_.types[id] == kNormalType || (data_.types[id] == kUserType && type == kControlType))) {
      data_.types[id] = type;
      if (!data_.flags.empty()) data_.flags[id] |= kTokenPiece;
    } else if (data_.tokens[id] != content) {
      return reader.fail("token " + std::to_string(id) + " is " + gguf::quoted(content) + ", but " + path_ + " has " +
                         gguf::quoted(data_.tokens[id]));
    }
    return {};
  }

  static std::string unused_name(std::size_t id) { return "[PAD" + std::to_string(id) + "]"; }
  void add_unused() {
    data_.tokens.push_back(unused_name(data_.tokens.size()));
    data_.types.push_back(kUnusedType);
    if (!data_.scores.empty()) data_.scores.push_back(kUnusedScore);
    if (!data_.flags.empty()) data_.flags.push_back(0);
  }

  Status read_added_tokens() {
    BITNET_ASSIGN_OR_RETURN(const Json added, read_json("added_tokens.json"));
    const JsonReader reader(added, file("added_tokens.json"));
    for (const auto& [content, id] : added.items()) {
      if (!id.is_number_unsigned()) return reader.fail("expected an id for " + gguf::quoted(content));
      BITNET_RETURN_IF_ERROR(add_token(id.get<std::uint64_t>(), content, kUserType, reader));
    }
    return {};
  }

  [[nodiscard]] std::optional<std::uint32_t> find_token(std::string_view text) const {
    for (std::size_t id = 0; id < data_.tokens.size(); ++id) {
      if (data_.types[id] != kUnusedType && data_.tokens[id] == text) return static_cast<std::uint32_t>(id);
    }
    return std::nullopt;
  }

  // "bos_token": "<s>", or {"content": "<s>"}.
  Status read_names(const char* name) {
    BITNET_ASSIGN_OR_RETURN(const Json document, read_json(name));
    const JsonReader reader(document, file(name));
    for (const auto& [key, id] : {std::pair("bos_token", &data_.bos), std::pair("eos_token", &data_.eos),
                                  std::pair("pad_token", &data_.pad), std::pair("sep_token", &data_.sep),
                                  std::pair("mask_token", &data_.mask), std::pair("unk_token", &data_.unknown)}) {
      const Json* value = reader.find(key);
      if (value == nullptr) continue;
      std::string text;
      if (value->is_object()) {
        BITNET_ASSIGN_OR_RETURN(text, JsonReader(*value, reader.where() + ": " + key).text("content"));
      } else {
        BITNET_ASSIGN_OR_RETURN(text, reader.text(key));
      }
      const std::optional<std::uint32_t> found = find_token(text);
      if (!found) {
        warnings_.push_back(std::string(name) + ": " + key + " " + gguf::quoted(text) + " is no token; it is left out");
      } else if (std::string_view(key) != "unk_token" || !data_.unknown) {
        *id = found;
      }
    }
    return {};
  }

  [[nodiscard]] Status check_size() const {
    if (rows_ == 0 || data_.tokens.size() <= rows_) return {};
    return fail("expected at most the " + std::to_string(rows_) + " tokens of config.json's vocab_size, found " +
                std::to_string(data_.tokens.size()) + " pieces; the tokenizer belongs to another model");
  }

  // The tokens that tokenizer.json puts around a text are those, whatever else begins a text or ends an answer.
  void keep_frame(std::optional<std::uint32_t> bos, std::optional<std::uint32_t> eos) {
    if (bos && data_.add_bos.value_or(false)) data_.bos = bos;
    if (!eos || !data_.add_eos.value_or(false) || data_.eos == eos) return;
    if (!data_.eot) data_.eot = data_.eos;
    data_.eos = eos;
  }

  // config.json's ids, each a number or a list of them; what the model was trained with.
  Status read_model_ids() {
    BITNET_ASSIGN_OR_RETURN(const Json config, read_json("config.json"));
    for (const auto& [key, id] : {std::pair("bos_token_id", &data_.bos), std::pair("eos_token_id", &data_.eos)}) {
      const auto value = config.find(key);
      if (value == config.end() || value->is_null()) continue;
      const Json& first = value->is_array() && !value->empty() ? value->front() : *value;
      if (!first.is_number_unsigned()) continue;  // the reader of config.json refuses it
      const auto stated = first.get<std::uint64_t>();
      if (stated >= data_.tokens.size()) {
        return fail("expected a piece for config.json's " + std::string(key) + " " + std::to_string(stated) +
                    ", found " + std::to_string(data_.tokens.size()) +
                    " pieces; the tokenizer belongs to another model");
      }
      const bool listed = *id && value->is_array() && std::find(value->begin(), value->end(), **id) != value->end();
      if (*id && **id != stated && !listed) {
        warnings_.push_back("config.json: " + std::string(key) + " is " + std::to_string(stated) +
                            ", but the tokenizer's " + gguf::quoted(data_.tokens[**id]) + " is " +
                            std::to_string(**id) + "; config.json's is written");
      }
      if (!listed) *id = static_cast<std::uint32_t>(stated);
    }
    return {};
  }

  void find_turn_end() {
    for (const std::string_view text : kTurnEnds) {
      if (data_.eot) return;
      data_.eot = find_token(text);
      if (data_.eot && data_.types[*data_.eot] == kNormalType) data_.eot.reset();
    }
  }

  Status read_template() {
    if (has("chat_template.jinja")) {
      BITNET_ASSIGN_OR_RETURN(const MappedFile mapped, open(file("chat_template.jinja")));
      data_.chat_template = view_of(mapped);
      return {};
    }
    BITNET_ASSIGN_OR_RETURN(const Json config, read_json("tokenizer_config.json"));
    const JsonReader reader(config, file("tokenizer_config.json"));
    const Json* value = reader.find("chat_template");
    if (value == nullptr) return {};
    if (!value->is_array()) {
      BITNET_ASSIGN_OR_RETURN(data_.chat_template, reader.text("chat_template"));
      return {};
    }
    for (const Json& entry : *value) {
      const JsonReader inner(entry, reader.where() + ": chat_template");
      BITNET_ASSIGN_OR_RETURN(const std::string name, inner.text("name"));
      if (name != "default") continue;
      BITNET_ASSIGN_OR_RETURN(data_.chat_template, inner.text("template"));
      return {};
    }
    warnings_.emplace_back("tokenizer_config.json: no chat template is named \"default\"; none is written");
    return {};
  }

  void pad() {
    if (data_.tokens.size() >= rows_) return;
    warnings_.push_back(std::filesystem::path(path_).filename().string() + " has " +
                        std::to_string(data_.tokens.size()) + " pieces for a vocabulary of " + std::to_string(rows_) +
                        "; the rest is filled up with unused tokens");
    while (data_.tokens.size() < rows_) add_unused();
  }

  std::string directory_;
  std::size_t rows_;
  std::vector<std::string>& warnings_;
  std::string path_;  // of the vocabulary
  VocabularyData data_;
};

}  // namespace
}  // namespace tokenizer

Result<VocabularyData> read_tokenizer_directory(const std::string& directory, std::int64_t vocab_size,
                                                std::vector<std::string>& warnings) {
  return tokenizer::DirectoryReader(directory, vocab_size, warnings).run();
}

}  // namespace bitnet
