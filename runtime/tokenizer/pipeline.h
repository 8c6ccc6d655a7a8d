// How text becomes the words that a model of tokens (BPE, unigram) encodes, and how tokens become text again: the
// normaliser, the pre-tokeniser and the decoder of Hugging Face's tokenizers, as data. The pre-tokenisers that GGUF
// files name are entries of one table in this form. Private to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/unicode.h"

namespace bitnet::tokenizer {

// What a match of a splitting pattern and the text between matches become.
enum class Behaviour : std::uint8_t { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct NormalizerStep {
  enum class Kind : std::uint8_t {
    kForm,            // to the Unicode normal form
    kReplace,         // every `pattern` by `content`
    kReplaceRegex,    // the same with a regular expression
    kPrepend,         // `content` before any text that is not empty
    kStrip,           // white space at the ends that are named
    kCharsmap,        // SentencePiece's map of characters
    kCollapseSpaces,  // no spaces at the ends, one between words
  };
  Kind kind = Kind::kForm;
  NormalForm form = NormalForm::kNfc;
  std::string pattern;
  std::string content;
  bool left = false;
  bool right = false;
  std::optional<Regex> regex;
};

struct SplitStep {
  enum class Kind : std::uint8_t {
    kSplit,      // at matches of the pattern
    kPrepend,    // a space before every word that does not begin with one
    kMetaspace,  // spaces become U+2581, and the text gets one in front
    kSpell,      // bytes become their printable stand-ins, for the steps behind it
    kUnspell,    // and back
  };
  Kind kind = Kind::kSplit;
  std::string pattern;
  Behaviour behaviour = Behaviour::kIsolated;
  bool invert = false;  // the pattern describes the words, not what is between them
  enum class Prepend : std::uint8_t { kNever, kFirst, kAlways } prepend = Prepend::kNever;
  std::optional<Regex> regex;

  [[nodiscard]] bool same_as(const SplitStep& other) const {
    return kind == other.kind && pattern == other.pattern && behaviour == other.behaviour && invert == other.invert &&
           prepend == other.prepend;
  }
};

struct Pipeline {
  std::vector<NormalizerStep> normalizer;
  std::vector<SplitStep> splits;
  bool byte_level = false;     // tokens are spelled in the stand-ins of bytes
  bool ignore_merges = false;  // a word that is a token is not merged from its characters
  bool fuse_unknown = false;   // neighbours without a token become one unknown token
  bool byte_fallback = false;  // a character without a token becomes its bytes
  bool marks_spaces = false;   // the decoder turns U+2581 into a space
  bool strips_space = false;   // and takes one from the beginning of the text
};

// A text and its words, which do not overlap.
struct Words {
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> ranges;  // [begin, end)
};

// The pipeline of `json`: {"normalizer": , "pre_tokenizer": , "decoder": , "ignore_merges": , "fuse_unk": ,
// "byte_fallback": }, each as in tokenizer.json, null or absent. kTokenizer, beginning with `where`: anything that is
// not supported, by name.
[[nodiscard]] Result<Pipeline> parse_pipeline(std::string_view json, const std::string& where);

// What tokenizer.ggml.pre says, for byte-level BPE; nullopt: a name that is not known.
[[nodiscard]] Result<std::optional<Pipeline>> named_pipeline(std::string_view pre);
// Whether words that are tokens are not merged under this name.
[[nodiscard]] bool name_ignores_merges(std::string_view pre);
// The first name whose words are cut as here, or empty.
[[nodiscard]] std::string_view name_of(const Pipeline& pipeline);
// All names, for messages: "gpt-2, llama-bpe, ...".
[[nodiscard]] std::string known_names();
// Whether llama.cpp puts a beginning-of-text token before a prompt for this name unless the file says otherwise.
[[nodiscard]] bool name_adds_bos(std::string_view pre);

// Builds the regular expressions of the steps.
[[nodiscard]] Status compile_patterns(Pipeline& pipeline);

// `text` is valid UTF-8.
[[nodiscard]] Result<std::string> apply_normalizer(const Pipeline& pipeline, const Charsmap& charsmap,
                                                   std::string_view text, MatchRoom& room);
// at_start: the text begins the whole text.
[[nodiscard]] Result<Words> cut_words(const Pipeline& pipeline, std::string text, bool at_start, MatchRoom& room);

}  // namespace bitnet::tokenizer
