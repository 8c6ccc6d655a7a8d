// A vocabulary as data: what a file says about text and token ids, before anything is made of it. Every reader
// (tokenizer.ggml.* of GGUF files, tokenizer.json, SentencePiece models, tiktoken ranks) ends here, every Tokenizer
// begins here, and set_vocabulary writes it: what set_vocabulary wrote, read_vocabulary reads back equal.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/gguf/gguf.h"

namespace bitnet {

// What an added token does with the text around it, bits of VocabularyData::flags. Source: AddedToken of Hugging Face's
// tokenizers.
enum TokenFlag : std::uint8_t {
  kTokenLstrip = 1,      // swallows the white space before it
  kTokenRstrip = 2,      // and after it
  kTokenSingleWord = 4,  // is found only where no letter, digit or underscore stands beside it
  kTokenNormalized = 8,  // is looked for in the normalised text, in its own normalised spelling
  kTokenPiece = 16,      // is one of the model's own tokens, too: words may become it where it was not cut out
};

struct VocabularyData {
  // "llama" (SentencePiece BPE: pieces merge by score), "gpt2" (byte-level BPE: pairs merge by rank) or "t5" (unigram).
  std::string model = "llama";
  // How "gpt2" cuts text into words (tokenizer.ggml.pre). Empty: the file does not say.
  std::string pre = "default";
  // [size] each; types as in tokenizer.ggml.token_type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6
  // byte. scores and types may be empty for "gpt2", which does not use scores; all are normal then. Tokens of "gpt2"
  // that are normal are spelled in the 256 printable stand-ins for bytes, all others as they are.
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  // "left right", best first; "gpt2" needs them. For "llama" they take the place of the scores (a key of ours: other
  // programs merge such a vocabulary by its scores).
  std::vector<std::string> merges;
  std::vector<std::uint8_t> flags;  // [size] of TokenFlag bits, or empty: none
  // Absent ids get no key.
  std::optional<std::uint32_t> bos, eos, eot, eom, unknown, pad, sep, mask;
  std::optional<bool> add_bos = true;
  std::optional<bool> add_eos;
  std::optional<bool> add_space_prefix;
  std::optional<bool> remove_extra_whitespaces;
  std::vector<std::uint8_t> charsmap;  // SentencePiece's precompiled map of characters ("t5"), or empty
  // Normaliser, pre-tokeniser and decoder of a tokenizer.json where model and pre do not say all of it: JSON, else
  // empty.
  std::string pipeline;
  std::string chat_template;  // Jinja text, or empty

  bool operator==(const VocabularyData&) const = default;
};

// Sets tokenizer.* and, where our own keys are needed, bitnet.tokenizer.*; among them bitnet.tokenizer.sha256, the
// digest, so that a file whose vocabulary was changed afterwards is refused.
void set_vocabulary(const VocabularyData& vocabulary, gguf::Writer& writer);

// The other direction; an id of -1, or of 2^32-1, is none. kTokenizer, with file and key: no tokenizer, a key of
// another type, a digest of another vocabulary. What the values mean is checked by Tokenizer.
[[nodiscard]] Result<VocabularyData> read_vocabulary(const gguf::File& file);
// Of these only tokenizer.ggml.<name>_token_id ("bos"), in a file with or without a tokenizer.
[[nodiscard]] Result<std::optional<std::uint32_t>> read_token_id(const gguf::File& file, std::string_view name);

// SHA-256 over all fields but the chat template, lower-case hexadecimal. Equal for equal vocabularies, whatever file
// they come from.
[[nodiscard]] std::string digest(const VocabularyData& vocabulary);

}  // namespace bitnet
