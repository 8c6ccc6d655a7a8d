// The tables behind a Tokenizer; private to this folder.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/tokenizer/pair_table.h"
#include "runtime/tokenizer/pipeline.h"
#include "runtime/tokenizer/vocabulary_data.h"

namespace bitnet::tokenizer {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";      // U+2581, a space inside a piece
inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";    // U+FFFD
inline constexpr std::string_view kUnknownText = " \xE2\x81\x87 ";  // " U+2047 "

inline constexpr int kNeighbourBits = 20;  // 128 KiB
inline constexpr std::int32_t kNone = -1;  // no id

enum class TokenType : std::uint8_t {  // as in tokenizer.ggml.token_type
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// How words become tokens.
enum class Engine : std::uint8_t {
  kScores,   // SentencePiece BPE: the pair that forms the best piece is merged
  kRanks,    // BPE: the pair that stands first in the list of merges is merged
  kUnigram,  // the pieces whose scores have the greatest sum
};

// What characters may merge to. Only encoding needs it, and it takes longer to make than all the rest.
struct Merges {
  std::unordered_map<std::string_view, std::int32_t> pieces;  // normal, user-defined, unused
  std::size_t longest = 0;                                    // bytes
  // Which characters stand beside each other in these pieces: one bit for each hash of such a pair.
  std::vector<std::uint64_t> neighbours = std::vector<std::uint64_t>((std::size_t{1} << kNeighbourBits) / 64);

  // False: no piece has `right` behind `left`, so that no piece crosses this border. (True may be a collision.)
  [[nodiscard]] bool may_join(std::uint32_t left, std::uint32_t right) const {
    const std::size_t bit = neighbour_bit(left, right);
    return (neighbours[bit / 64] >> (bit % 64) & 1) != 0;
  }
  void set_joins(std::uint32_t left, std::uint32_t right) {
    const std::size_t bit = neighbour_bit(left, right);
    neighbours[bit / 64] |= std::uint64_t{1} << (bit % 64);
  }

 private:
  static std::size_t neighbour_bit(std::uint32_t left, std::uint32_t right) {
    return static_cast<std::size_t>(
        (left * std::uint64_t{0x9E3779B97F4A7C15} + right * std::uint64_t{0xC2B2AE3D27D4EB4F}) >>
        (64 - kNeighbourBits));
  }
};

struct Vocabulary {
  VocabularyData data;
  std::vector<std::string> bytes;  // [size], byte-level only: what a normal token stands for
  std::vector<TokenType> types;    // [size]

  Engine engine = Engine::kScores;
  Pipeline pipeline;
  Charsmap charsmap;
  bool needs_utf8 = false;       // the pipeline reads characters: bytes that are none go around it
  bool cuts_at_borders = false;  // words are long: cut them where no piece crosses

  // Of each byte: its token <0xXX>, or with byte-level BPE the token that is this byte; kNone where there is none.
  std::array<std::int32_t, 256> byte_ids{};
  bool has_bytes = false;  // all 256 of them

  PairTable ranks;           // kRanks: ids of two tokens -> rank, id
  Trie pieces;               // kUnigram
  double unknown_score = 0;  // kUnigram
  // Tokens that are found in the text as it is, and in the normalised text: user-defined ones always, control and
  // unknown tokens on request.
  Trie added;
  Trie added_normalized;

  bool add_bos = true;
  bool add_eos = false;
  std::int32_t bos = kNone;
  std::int32_t eos = kNone;
  std::int32_t eot = kNone;
  std::int32_t eom = kNone;
  std::int32_t unknown = kNone;
  std::int32_t mergeable_unknown = kNone;  // the unknown token, where only its id and not its type says so
  std::vector<std::string> notes;          // what was assumed

  Vocabulary() = default;
  Vocabulary(const Vocabulary&) = delete;  // views would point into the original
  Vocabulary& operator=(const Vocabulary&) = delete;

  // Made at the first call; any thread may make it.
  [[nodiscard]] const Merges& merges() const;

  [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(data.tokens.size()); }
  [[nodiscard]] bool contains(std::int32_t id) const { return id >= 0 && id < size(); }
  [[nodiscard]] std::string_view piece(std::int32_t id) const { return data.tokens[static_cast<std::size_t>(id)]; }
  [[nodiscard]] TokenType type(std::int32_t id) const { return types[static_cast<std::size_t>(id)]; }
  [[nodiscard]] float score(std::int32_t id) const { return data.scores[static_cast<std::size_t>(id)]; }
  [[nodiscard]] unsigned flags(std::int32_t id) const {
    return data.flags.empty() ? 0 : data.flags[static_cast<std::size_t>(id)];
  }
  // Whether words may become this token of a type that is cut out of texts. Where flags do not say it: of SentencePiece
  // BPE the user-defined ones, as in SentencePiece.
  [[nodiscard]] bool is_added_piece(std::int32_t id) const {
    if ((flags(id) & kTokenPiece) != 0) return true;
    return data.flags.empty() && type(id) == TokenType::kUserDefined && engine != Engine::kUnigram &&
           !pipeline.byte_level;
  }
  // Whether text may become this token where control tokens are (not) asked for.
  [[nodiscard]] bool may_emit(std::int32_t id, bool special) const {
    return special || (type(id) != TokenType::kControl && (type(id) != TokenType::kUnknown || id == mergeable_unknown));
  }
  // Text of the token, as it is merged and decoded: the bytes of byte-level tokens, else the piece.
  [[nodiscard]] std::string_view text(std::int32_t id) const {
    const bool spelled = pipeline.byte_level && type(id) != TokenType::kControl && type(id) != TokenType::kUserDefined;
    return spelled ? std::string_view(bytes[static_cast<std::size_t>(id)]) : piece(id);
  }

 private:
  mutable std::once_flag merges_made_;
  mutable Merges merges_;
};

// Checks the data and makes the tables. All errors are kTokenizer (kStrict: something would have to be assumed and
// `strict` forbids it) and begin with `name`.
[[nodiscard]] Result<std::shared_ptr<const Vocabulary>> make_vocabulary(VocabularyData data, const std::string& name,
                                                                        bool strict);

// Value of a byte token's spelling "<0xXX>", or -1.
[[nodiscard]] int byte_token_value(std::string_view piece);

}  // namespace bitnet::tokenizer
