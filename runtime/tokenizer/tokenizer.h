// Text to token ids and back: SentencePiece BPE, byte-level BPE and unigram vocabularies, from GGUF files,
// tokenizer.json, SentencePiece models and tiktoken ranks.
//
// A Tokenizer owns everything it needs: the file may be closed after it was read. It is an immutable, cheaply copied
// handle; all its const functions may be called from many threads at once. A Decoder belongs to one stream.
//
// SentencePiece BPE: spaces become U+2581, one U+2581 is put before the text (if the vocabulary wants it), the text is
// cut into characters, and the adjacent pair that forms the piece with the highest score is merged, leftmost first on
// equal scores, until no pair forms a piece. A character that is no piece becomes its UTF-8 bytes as byte tokens, and
// so does every byte that is not valid UTF-8. As in llama.cpp, the text behind a special token gets its own U+2581.
// Byte-level BPE: a regular expression cuts the text into words, and in the bytes of a word the adjacent pair that
// stands first in the list of merges is merged. Unigram: the pieces whose scores have the greatest sum. Any byte string
// can be encoded where the vocabulary has all bytes, and comes back from the decoder (invalid UTF-8 as U+FFFD).
// User-defined tokens (type 4) are cut out of the text first, leftmost and longest first; control tokens only on
// request.
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
#include "runtime/tokenizer/vocabulary_data.h"

namespace bitnet {

namespace tokenizer {
struct Vocabulary;
}

class Tokenizer {
 public:
  // Reads tokenizer.ggml.*, tokenizer.chat_template and bitnet.tokenizer.* (vocabulary_data.h). Where an id is missing
  // in a SentencePiece vocabulary, "<s>", "</s>" and the token of type unknown are looked up. Every failure is
  // kTokenizer and names the file and key: another tokenizer model or pre-tokeniser, arrays of different lengths, ids
  // outside the vocabulary, unknown token types, scores that are not finite, byte tokens that are missing or doubled,
  // merges of tokens that do not exist, a digest (bitnet.tokenizer.sha256) of another vocabulary. strict: kStrict
  // instead of an assumption that notes() would tell.
  [[nodiscard]] static Result<Tokenizer> from_gguf(const gguf::File& file, bool strict = false);
  // The other sources; `name` leads messages. tokenizer.json of Hugging Face (tokenizer_json.h), SentencePiece's
  // tokenizer.model (sentencepiece.h), tiktoken ranks with the special tokens of Llama 3 (tiktoken.h).
  [[nodiscard]] static Result<Tokenizer> from_json(std::string_view json, const std::string& name);
  [[nodiscard]] static Result<Tokenizer> from_sentencepiece(std::span<const std::byte> bytes, const std::string& name);
  [[nodiscard]] static Result<Tokenizer> from_tiktoken(std::string_view text, const std::string& name);
  [[nodiscard]] static Result<Tokenizer> from_vocabulary(VocabularyData data, const std::string& name,
                                                         bool strict = false);
  // A file of any of these kinds, told apart by its first bytes. kFailure: it cannot be read.
  [[nodiscard]] static Result<Tokenizer> open(const std::string& path, bool strict = false);

  // Ids of `text` (any bytes, less than 1 GiB), with bos() in front if add_bos and eos() behind if add_eos. Empty text
  // gives no others. parse_special: the text of control tokens ("</s>") stands for the token; otherwise it is ordinary
  // text. Errors (kTokenizer): text too long; add_bos or add_eos for a vocabulary without one; a character for which
  // the vocabulary has nothing; a regular expression that gives up.
  [[nodiscard]] Result<std::vector<std::int32_t>> encode(std::string_view text, bool add_bos, bool parse_special,
                                                         bool add_eos = false) const;

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
  // Whether it wants eos() behind a text: add_eos_token, and there is one.
  [[nodiscard]] bool adds_eos() const;
  // eos, the end-of-turn and end-of-message tokens, and control or user-defined tokens of a known end spelling
  // ("<|eot_id|>", ...).
  [[nodiscard]] bool is_eos(std::int32_t id) const;
  // Control tokens (type 3): nothing when decoded.
  [[nodiscard]] bool is_control(std::int32_t id) const;

  // What the vocabulary was made of, its chat template included; valid as long as any copy of this tokenizer.
  [[nodiscard]] const VocabularyData& data() const;
  // SHA-256 of the vocabulary, lower-case hexadecimal (vocabulary_data.h).
  [[nodiscard]] std::string digest() const;
  // What was assumed because the file does not say it, one sentence each.
  [[nodiscard]] const std::vector<std::string>& notes() const;

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

// Whether a model of `rows` rows of embeddings can run with this tokenizer: kTokenizer with both numbers where the
// tokenizer has more tokens. `name` leads the message. (Fewer are usual: matrices are padded.)
[[nodiscard]] Status check_pair(const Tokenizer& tokenizer, std::int64_t rows, const std::string& name);

}  // namespace bitnet
