// SentencePiece's tokenizer.model: a protobuf message, read by a small strict reader of the wire format. Fields that do
// not matter here are skipped; those that matter must have their type and stand once.
// Source: sentencepiece_model.proto of google/sentencepiece (proto2; the defaults below are its).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/tokenizer/vocabulary_data.h"

namespace bitnet::tokenizer {

struct SentencePieceModel {
  // [size] each; types as in the file, which are those of tokenizer.ggml.token_type: 1 normal, 2 unknown, 3 control,
  // 4 user-defined, 5 unused, 6 byte.
  std::vector<std::string> pieces;
  std::vector<float> scores;  // finite
  std::vector<std::int32_t> types;
  std::uint32_t unknown = 0;  // the one piece of type 2
  // trainer_spec
  enum class Kind : std::uint8_t { kUnigram = 1, kBpe = 2 } kind = Kind::kUnigram;
  bool byte_fallback = false;
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  // normalizer_spec
  std::string normalizer;  // its name
  std::string charsmap;    // its map of characters, or empty
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  // denormalizer_spec has a map of characters.
  bool denormalizes = false;
};

// All errors are kTokenizer, with the field, its byte in the file, expected and found: damage; a model that is neither
// unigram nor BPE with byte fall-back, or whose spaces are not U+2581 before words; pieces that are empty, not UTF-8,
// or doubled; no or several unknown pieces. `name` stands in messages.
[[nodiscard]] Result<SentencePieceModel> parse_sentencepiece(std::span<const std::byte> bytes, const std::string& name);

// The model as a vocabulary; flags of tokenizer_config.json are left absent.
[[nodiscard]] VocabularyData vocabulary_of(SentencePieceModel model);

}  // namespace bitnet::tokenizer
