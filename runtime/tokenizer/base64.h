// Base64 as RFC 4648 has it, padded. Private to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bitnet::tokenizer {

// Of one digit, or -1.
[[nodiscard]] inline int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  return c == '/' ? 63 : -1;
}

// nullopt: empty, or not base64.
[[nodiscard]] inline std::optional<std::string> decode_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); i += 4) {
    const bool last = i + 4 == text.size();
    const std::size_t padding = !last ? 0 : (text[i + 2] == '=' ? 2 : (text[i + 3] == '=' ? 1 : 0));
    std::uint32_t bits = 0;
    for (std::size_t j = 0; j < 4; ++j) {
      const int value = j >= 4 - padding && text[i + j] == '=' ? 0 : base64_value(text[i + j]);
      if (value < 0) return std::nullopt;
      bits = bits << 6 | static_cast<std::uint32_t>(value);
    }
    for (std::size_t j = 0; j < 3 - padding; ++j) {
      bytes += static_cast<char>(static_cast<unsigned char>(bits >> (16 - 8 * j)));
    }
  }
  return bytes;
}

}  // namespace bitnet::tokenizer
