// What tokenizers ask of Unicode beyond regular expressions; the tables are utf8proc's. Private to this folder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace bitnet::tokenizer {

enum class NormalForm : std::uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// `text` is valid UTF-8. kMemory, or kTokenizer if the library refuses it.
[[nodiscard]] Result<std::string> normalize(NormalForm form, std::string_view text);

[[nodiscard]] bool is_white_space(std::uint32_t code);
// A letter, mark, decimal digit or connector: what \w means in regular expressions with Unicode.
[[nodiscard]] bool is_word_character(std::uint32_t code);

[[nodiscard]] bool is_utf8(std::string_view text);
// The spelling of a code point up to U+10FFFF.
void append_utf8(std::uint32_t code, std::string& text);

// SentencePiece's precompiled map of characters: a double array over the source strings, then the replacements, each
// ended by a zero. Source: the normalizer of google/sentencepiece, Darts-clone's unit format.
class Charsmap {
 public:
  Charsmap() = default;
  // `bytes` must outlive the map. kTokenizer, beginning with `where`: sizes that do not fit.
  [[nodiscard]] static Result<Charsmap> open(std::span<const std::uint8_t> bytes, const std::string& where);
  // The longest source string with which the text begins is replaced, one after the other; the rest stays.
  [[nodiscard]] std::string apply(std::string_view text) const;

 private:
  [[nodiscard]] std::uint32_t unit(std::size_t index) const;
  std::span<const std::uint8_t> units_;  // 4 bytes each, little-endian
  std::string_view replacements_;        // ends in a zero
};

}  // namespace bitnet::tokenizer
