// Text to token ids and back for SentencePiece-BPE vocabularies (tokenizer.ggml.model = "llama").
//
// A Tokenizer owns everything it needs: the gguf::File may be closed after from_gguf(). It is an immutable, cheaply
// copied handle; all its const functions may be called from many threads at once. A Decoder belongs to one stream.
//
// Encoding: spaces become U+2581, one U+2581 is put before the text (if the vocabulary wants it), the text is cut into
// characters, and the adjacent pair that forms the piece with the highest score is merged, leftmost first on equal
// scores, until no pair forms a piece. A character that is no piece becomes its UTF-8 bytes as byte tokens, and so does
// every byte that is not valid UTF-8: any byte string can be encoded and comes back from the decoder (invalid UTF-8 as
// U+FFFD). User-defined tokens (type 4) are cut out of the text first, leftmost and longest first; control tokens only
// on request. As in llama.cpp, the text behind such a token gets its own U+2581.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/gguf/gguf.h"

namespace bitnet {

namespace tokenizer {
struct Vocabulary;
}

class Tokenizer {
 public:
  // Reads tokenizer.ggml.{model, tokens, scores, token_type, bos_token_id, eos_token_id, eot_token_id,
  // unknown_token_id, add_bos_token, add_space_prefix}. Where an id is missing, "<s>", "</s>" and the token of type
  // unknown are looked up; both flags are true where missing. Every failure is kTokenizer and names the file and key:
  // another tokenizer model, arrays of different lengths, ids outside the vocabulary, unknown token types, scores that
  // are not finite, byte tokens that are missing or doubled.
  [[nodiscard]] static Result<Tokenizer> from_gguf(const gguf::File& file);

  // Ids of `text` (any bytes, less than 1 GiB), with bos() in front if add_bos. Empty text gives no ids (but bos()).
  // parse_special: the text of control tokens ("</s>") stands for the token; otherwise it is ordinary text.
  // Errors (kTokenizer): text too long; add_bos for a vocabulary without one.
  [[nodiscard]] Result<std::vector<std::int32_t>> encode(std::string_view text, bool add_bos, bool parse_special) const;

  // Text of a whole sequence: a Decoder fed with all ids.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const;

  // The vocabulary's own spelling ("\u2581the", "<0x0A>"), valid as long as any copy of this tokenizer; empty for ids
  // outside [0, size()).
  [[nodiscard]] std::string_view piece(std::int32_t id) const;

  [[nodiscard]] std::int32_t size() const;
  [[nodiscard]] std::int32_t bos() const;  // -1 if there is none
  [[nodiscard]] std::int32_t eos() const;  // -1 if there is none
  // Whether the vocabulary wants bos() before a prompt: add_bos_token, and there is one.
  [[nodiscard]] bool adds_bos() const;
  // eos, the end-of-turn token, and control or user-defined tokens of a known end spelling ("<|eot_id|>", ...).
  [[nodiscard]] bool is_eos(std::int32_t id) const;
  // Control tokens (type 3): nothing when decoded.
  [[nodiscard]] bool is_control(std::int32_t id) const;

  // Incremental text of a stream of ids. What push() returns never ends inside a UTF-8 sequence: an incomplete one is
  // held back until it is complete, and every maximal invalid part of one becomes U+FFFD as soon as it is proven
  // invalid, or in finish(). Control tokens give nothing, the unknown token gives " \u2047 " as in SentencePiece, ids
  // outside the vocabulary give U+FFFD.
  class Decoder {
   public:
    // at_text_start: the first piece loses the space that encode() put before the text. false: ids continue a text.
    explicit Decoder(const Tokenizer& tokenizer, bool at_text_start = true);
    [[nodiscard]] std::string push(std::int32_t id);
    // Flushes what is held back; the decoder then goes on in the middle of the text.
    [[nodiscard]] std::string finish();

   private:
    std::string take_valid(bool at_end);
    std::shared_ptr<const tokenizer::Vocabulary> vocabulary_;
    std::string pending_;  // bytes that have not left yet; an incomplete UTF-8 sequence between calls
    bool strip_space_;
  };

 private:
  explicit Tokenizer(std::shared_ptr<const tokenizer::Vocabulary> vocabulary) : vocabulary_(std::move(vocabulary)) {}
  std::shared_ptr<const tokenizer::Vocabulary> vocabulary_;
};

}  // namespace bitnet
