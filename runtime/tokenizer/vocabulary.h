// The tables behind a Tokenizer; private to this folder.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace bitnet::tokenizer {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";      // U+2581, a space inside a piece
inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";    // U+FFFD
inline constexpr std::string_view kUnknownText = " \xE2\x81\x87 ";  // " U+2047 "

inline constexpr int kNeighbourBits = 20;  // 128 KiB

enum class TokenType : std::uint8_t {  // as in tokenizer.ggml.token_type
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// What characters may merge to. Only encoding needs it, and it takes longer to make than all the rest.
struct Merges {
  std::unordered_map<std::string_view, std::int32_t> pieces;  // normal, user-defined, unused
  std::size_t longest = 0;                                    // bytes
  // Which characters stand beside each other in these pieces: one bit for each hash of such a pair.
  std::vector<std::uint64_t> neighbours = std::vector<std::uint64_t>((std::size_t{1} << kNeighbourBits) / 64);

  // False: no piece has `right` behind `left`, so that no merge crosses this border. (True may be a collision.)
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
  std::string characters;                // all pieces, one after the other; the views below point into it
  std::vector<std::string_view> pieces;  // [size]
  std::vector<float> scores;             // [size]
  std::vector<TokenType> types;          // [size]

  std::array<std::int32_t, 256> byte_ids{};
  // Tokens that are found in the raw text, by first byte, longest first.
  std::array<std::vector<std::int32_t>, 256> user_defined;
  std::array<std::vector<std::int32_t>, 256> special;  // user-defined, control and unknown tokens

  bool add_space_prefix = true;
  bool add_bos = true;
  std::int32_t bos = -1;
  std::int32_t eos = -1;
  std::int32_t eot = -1;
  std::int32_t mergeable_unknown = -1;  // the unknown token, where only its id and not its type says so

  Vocabulary() = default;
  Vocabulary(const Vocabulary&) = delete;  // the views would point into the original
  Vocabulary& operator=(const Vocabulary&) = delete;

  // Made at the first call; any thread may make it.
  [[nodiscard]] const Merges& merges() const;

  [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(pieces.size()); }
  [[nodiscard]] bool contains(std::int32_t id) const { return id >= 0 && id < size(); }
  [[nodiscard]] std::string_view piece(std::int32_t id) const { return pieces[static_cast<std::size_t>(id)]; }
  [[nodiscard]] TokenType type(std::int32_t id) const { return types[static_cast<std::size_t>(id)]; }

 private:
  mutable std::once_flag merges_made_;
  mutable Merges merges_;
};

// Value of a byte token's spelling "<0xXX>", or -1.
[[nodiscard]] int byte_token_value(std::string_view piece);

// Ids of one stretch of ordinary text, appended to `ids`; `prefix`: put a U+2581 before it. Empty text: nothing.
void encode_text(const Vocabulary& vocabulary, std::string_view text, bool prefix, std::vector<std::int32_t>& ids);

}  // namespace bitnet::tokenizer
