#include "runtime/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/base/mapped_file.h"
#include "runtime/tokenizer/encoder.h"
#include "runtime/tokenizer/sentencepiece.h"
#include "runtime/tokenizer/tiktoken.h"
#include "runtime/tokenizer/tokenizer_json.h"
#include "runtime/tokenizer/vocabulary.h"

namespace bitnet {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1}
                                      << 30;  // the encoder's positions are 32 bits of text three times as long

// Spellings with which models end an answer, whatever their metadata name as the end of a text.
constexpr std::array<std::string_view, 10> kEndSpellings = {
    "</s>",          "<|eot_id|>",      "<|im_end|>", "<|end|>",    "<end_of_turn>",
    "<|endoftext|>", "<|end_of_text|>", "<|EOT|>",    "<|eom_id|>", "<｜end▁of▁sentence｜>"};

Error no_token(const char* what, const char* key) {
  return {ErrorCode::kTokenizer,
          std::string("the vocabulary has no ") + what + " token (tokenizer.ggml." + key + "); encode without it"};
}

}  // namespace

Result<Tokenizer> Tokenizer::from_vocabulary(VocabularyData data, const std::string& name, bool strict) {
  auto vocabulary = tokenizer::make_vocabulary(std::move(data), name, strict);
  if (!vocabulary.ok()) return vocabulary.error();
  return Tokenizer(std::move(vocabulary).value());
}

Result<Tokenizer> Tokenizer::from_gguf(const gguf::File& file, bool strict) {
  BITNET_ASSIGN_OR_RETURN(VocabularyData data, read_vocabulary(file));
  return from_vocabulary(std::move(data), file.path(), strict);
}

Result<Tokenizer> Tokenizer::from_json(std::string_view json, const std::string& name) {
  BITNET_ASSIGN_OR_RETURN(VocabularyData data, tokenizer::read_tokenizer_json(json, name));
  return from_vocabulary(std::move(data), name);
}

Result<Tokenizer> Tokenizer::from_sentencepiece(std::span<const std::byte> bytes, const std::string& name) {
  BITNET_ASSIGN_OR_RETURN(tokenizer::SentencePieceModel model, tokenizer::parse_sentencepiece(bytes, name));
  return from_vocabulary(tokenizer::vocabulary_of(std::move(model)), name);
}

Result<Tokenizer> Tokenizer::from_tiktoken(std::string_view text, const std::string& name) {
  BITNET_ASSIGN_OR_RETURN(VocabularyData data, tokenizer::read_tiktoken(text, name));
  return from_vocabulary(std::move(data), name);
}

Result<Tokenizer> Tokenizer::open(const std::string& path, bool strict) {
  BITNET_ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::open(path));
  const std::string_view text(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  if (text.starts_with("GGUF")) {
    BITNET_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::open(path));
    return from_gguf(file, strict);
  }
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && text[first] == '{') return from_json(text, path);
  if (tokenizer::looks_like_tiktoken(text)) return from_tiktoken(text, path);
  return from_sentencepiece(mapped.bytes(), path);
}

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text, bool add_bos, bool parse_special,
                                                    bool add_eos) const {
  const tokenizer::Vocabulary& v = *vocabulary_;
  std::vector<std::int32_t> ids;
  if (text.size() >= kMaxTextBytes) {
    return Error{ErrorCode::kTokenizer, "text of " + std::to_string(text.size()) + " bytes; expected less than 1 GiB"};
  }
  if (add_bos && v.bos < 0) return no_token("beginning-of-text", "bos_token_id");
  if (add_eos && v.eos < 0) return no_token("end-of-text", "eos_token_id");
  if (add_bos) ids.push_back(v.bos);
  tokenizer::Encoder encoder(v, parse_special, ids);
  BITNET_RETURN_IF_ERROR(encoder.run(text));
  if (add_eos) ids.push_back(v.eos);
  return ids;
}

std::string_view Tokenizer::piece(std::int32_t id) const {
  return vocabulary_->contains(id) ? vocabulary_->piece(id) : std::string_view();
}

std::int32_t Tokenizer::size() const { return vocabulary_->size(); }
std::int32_t Tokenizer::bos() const { return vocabulary_->bos; }
std::int32_t Tokenizer::eos() const { return vocabulary_->eos; }
bool Tokenizer::adds_bos() const { return vocabulary_->add_bos && vocabulary_->bos >= 0; }
bool Tokenizer::adds_eos() const { return vocabulary_->add_eos && vocabulary_->eos >= 0; }

bool Tokenizer::is_control(std::int32_t id) const {
  return vocabulary_->contains(id) && vocabulary_->type(id) == tokenizer::TokenType::kControl;
}

bool Tokenizer::is_eos(std::int32_t id) const {
  const tokenizer::Vocabulary& v = *vocabulary_;
  if (!v.contains(id)) return false;
  if (id == v.eos || id == v.eot || id == v.eom) return true;
  if (v.type(id) != tokenizer::TokenType::kControl && v.type(id) != tokenizer::TokenType::kUserDefined) return false;
  return std::find(kEndSpellings.begin(), kEndSpellings.end(), v.piece(id)) != kEndSpellings.end();
}

const VocabularyData& Tokenizer::data() const { return vocabulary_->data; }
std::string Tokenizer::digest() const { return bitnet::digest(vocabulary_->data); }
const std::vector<std::string>& Tokenizer::notes() const { return vocabulary_->notes; }

Status check_pair(const Tokenizer& tokenizer, std::int64_t rows, const std::string& name) {
  if (tokenizer.size() <= rows) return {};
  return Error{ErrorCode::kTokenizer, name + ": the tokenizer has " + std::to_string(tokenizer.size()) +
                                          " tokens, but the model's embedding has " + std::to_string(rows) +
                                          " rows; they do not belong together: take the tokenizer of this model"};
}

}  // namespace bitnet
