// The outer part of encoding: cuts special tokens out of the raw text and hands the stretches between them on.
#include "runtime/tokenizer/tokenizer.h"

#include <utility>

#include "runtime/tokenizer/vocabulary.h"

namespace bitnet {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1}
                                      << 30;  // the encoder's positions are 32 bits of text three times as long

// The longest of `candidates` with which `text` begins, or -1.
std::int32_t match_token(const tokenizer::Vocabulary& vocabulary,
                         const std::array<std::vector<std::int32_t>, 256>& candidates, std::string_view text) {
  for (const std::int32_t id : candidates[static_cast<unsigned char>(text[0])]) {
    if (text.starts_with(vocabulary.piece(id))) return id;
  }
  return -1;
}

}  // namespace

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text, bool add_bos, bool parse_special) const {
  const tokenizer::Vocabulary& v = *vocabulary_;
  std::vector<std::int32_t> ids;
  if (text.size() >= kMaxTextBytes) {
    return Error{ErrorCode::kTokenizer, "text of " + std::to_string(text.size()) + " bytes; expected less than 1 GiB"};
  }
  if (add_bos) {
    if (v.bos < 0) {
      return Error{ErrorCode::kTokenizer,
                   "the vocabulary has no beginning-of-text token (tokenizer.ggml.bos_token_id); encode without it"};
    }
    ids.push_back(v.bos);
  }
  const auto& candidates = parse_special ? v.special : v.user_defined;
  std::size_t begin = 0;  // of the stretch of ordinary text that ends at `i`
  for (std::size_t i = 0; i < text.size();) {
    const std::int32_t id = match_token(v, candidates, text.substr(i));
    if (id < 0) {
      ++i;
      continue;
    }
    tokenizer::encode_text(v, text.substr(begin, i - begin), v.add_space_prefix, ids);
    ids.push_back(id);
    i += v.piece(id).size();
    begin = i;
  }
  tokenizer::encode_text(v, text.substr(begin), v.add_space_prefix, ids);
  return ids;
}

std::string_view Tokenizer::piece(std::int32_t id) const {
  return vocabulary_->contains(id) ? vocabulary_->piece(id) : std::string_view();
}

std::int32_t Tokenizer::size() const { return vocabulary_->size(); }
std::int32_t Tokenizer::bos() const { return vocabulary_->bos; }
std::int32_t Tokenizer::eos() const { return vocabulary_->eos; }
bool Tokenizer::adds_bos() const { return vocabulary_->add_bos && vocabulary_->bos >= 0; }

bool Tokenizer::is_control(std::int32_t id) const {
  return vocabulary_->contains(id) && vocabulary_->type(id) == tokenizer::TokenType::kControl;
}

}  // namespace bitnet
