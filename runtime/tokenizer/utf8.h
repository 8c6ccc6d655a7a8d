// The next UTF-8 sequence of a byte string (Unicode 15, table 3-7: no overlong forms, no surrogates, up to U+10FFFF).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace bitnet::tokenizer {

enum class Utf8Kind { kComplete, kIncomplete, kInvalid };

// kComplete: `bytes` form a character. kIncomplete: all bytes that there are (`bytes` of them) could begin one.
// kInvalid: the first `bytes` (the maximal part that could begin one, at least 1) can belong to no character.
struct Utf8Sequence {
  Utf8Kind kind;
  std::size_t bytes;
};

// text must not be empty.
[[nodiscard]] inline Utf8Sequence next_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {Utf8Kind::kComplete, 1};
  std::size_t length = 0;
  unsigned low = 0x80;  // bounds of the second byte
  unsigned high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Utf8Kind::kInvalid, 1};
  }
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Utf8Kind::kIncomplete, i};
    if (byte(i) < low || byte(i) > high) return {Utf8Kind::kInvalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Kind::kComplete, length};
}

// A character of any byte string: a code point, or a byte that belongs to none, which counts as a character of its own
// beyond the code points.
struct Character {
  std::uint32_t code;
  std::size_t bytes;
};

// text must not be empty.
[[nodiscard]] inline Character next_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i])); };
  const Utf8Sequence sequence = next_utf8(text);
  if (sequence.kind != Utf8Kind::kComplete) return {0x110000 + byte(0), 1};
  constexpr std::uint32_t kLeadMask[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  std::uint32_t code = byte(0) & kLeadMask[sequence.bytes];
  for (std::size_t i = 1; i < sequence.bytes; ++i) code = code << 6 | (byte(i) & 0x3F);
  return {code, sequence.bytes};
}

}  // namespace bitnet::tokenizer
