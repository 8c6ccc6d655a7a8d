// Pieces to bytes, and bytes to text that never breaks a UTF-8 sequence.
#include <utility>

#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"
#include "runtime/tokenizer/vocabulary.h"

namespace bitnet {
namespace {

void append_with_spaces(std::string_view piece, std::string& text) {
  while (true) {
    const std::size_t mark = piece.find(tokenizer::kSpaceMark);
    text += piece.substr(0, mark);
    if (mark == std::string_view::npos) return;
    text += ' ';
    piece.remove_prefix(mark + tokenizer::kSpaceMark.size());
  }
}

}  // namespace

Tokenizer::Decoder::Decoder(const Tokenizer& tokenizer, bool at_text_start)
    : vocabulary_(tokenizer.vocabulary_), strip_space_(at_text_start && tokenizer.vocabulary_->pipeline.strips_space) {}

std::string Tokenizer::Decoder::push(std::int32_t id) {
  using tokenizer::TokenType;
  const tokenizer::Vocabulary& v = *vocabulary_;
  if (!v.contains(id)) {
    pending_ += tokenizer::kReplacement;
    strip_space_ = false;
    return take_valid(false);
  }
  if (v.type(id) == TokenType::kControl) return {};
  std::string_view piece = v.text(id);
  const bool strip = std::exchange(strip_space_, false);
  switch (v.type(id)) {
    case TokenType::kByte:
      pending_ += static_cast<char>(tokenizer::byte_token_value(v.piece(id)));
      break;
    case TokenType::kUnknown:
      pending_ += tokenizer::kUnknownText;
      break;
    default:
      if (!v.pipeline.marks_spaces) {
        if (strip && piece.starts_with(' ')) piece.remove_prefix(1);
        pending_ += piece;
        break;
      }
      if (strip && piece.starts_with(tokenizer::kSpaceMark)) piece.remove_prefix(tokenizer::kSpaceMark.size());
      append_with_spaces(piece, pending_);
  }
  return take_valid(false);
}

std::string Tokenizer::Decoder::finish() {
  strip_space_ = false;
  return take_valid(true);
}

// Moves all complete characters out of pending_, with U+FFFD for what cannot become one; at_end nothing stays.
std::string Tokenizer::Decoder::take_valid(bool at_end) {
  std::string text;
  std::size_t begin = 0;
  while (begin < pending_.size()) {
    const auto [kind, bytes] = tokenizer::next_utf8(std::string_view(pending_).substr(begin));
    if (kind == tokenizer::Utf8Kind::kIncomplete && !at_end) break;
    if (kind == tokenizer::Utf8Kind::kComplete) {
      text.append(pending_, begin, bytes);
    } else {
      text += tokenizer::kReplacement;
    }
    begin += bytes;
  }
  pending_.erase(0, begin);
  return text;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  Decoder decoder(*this);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

}  // namespace bitnet
