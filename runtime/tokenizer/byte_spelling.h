// GPT-2's stand-ins: every byte as a printable character, so that tokens of bytes can be spelled in a text file. Bytes
// that print stand for themselves, the others for the characters from U+0100 on, in order. Private to this folder.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/tokenizer/unicode.h"
#include "runtime/tokenizer/utf8.h"

namespace bitnet::tokenizer {

[[nodiscard]] constexpr bool stands_for_itself(std::uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct ByteSpelling {
  std::array<std::uint32_t, 256> of_byte{};
  std::array<std::int16_t, 324> of_character{};  // -1: stands for no byte

  constexpr ByteSpelling() {
    for (std::int16_t& byte : of_character) byte = -1;
    std::uint32_t next = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      of_byte[byte] = stands_for_itself(byte) ? byte : next++;
      of_character[of_byte[byte]] = static_cast<std::int16_t>(byte);
    }
  }
};
inline constexpr ByteSpelling kByteSpelling;

[[nodiscard]] inline std::string spell_bytes(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (const char c : bytes) append_utf8(kByteSpelling.of_byte[static_cast<unsigned char>(c)], text);
  return text;
}

// nullopt: a character that stands for no byte.
[[nodiscard]] inline std::optional<std::string> unspell_bytes(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const Character c = next_character(text);
    if (c.code >= kByteSpelling.of_character.size() || kByteSpelling.of_character[c.code] < 0) return std::nullopt;
    bytes += static_cast<char>(static_cast<unsigned char>(kByteSpelling.of_character[c.code]));
    text.remove_prefix(c.bytes);
  }
  return bytes;
}

}  // namespace bitnet::tokenizer
