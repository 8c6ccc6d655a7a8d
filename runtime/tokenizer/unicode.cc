#include "runtime/tokenizer/unicode.h"

#include <utf8proc.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "runtime/tokenizer/utf8.h"

namespace bitnet::tokenizer {
namespace {

struct Free {
  void operator()(utf8proc_uint8_t* text) const { std::free(text); }
};

utf8proc_option_t options_of(NormalForm form) {
  switch (form) {
    case NormalForm::kNfc:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    case NormalForm::kNfd:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    case NormalForm::kNfkc:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
    case NormalForm::kNfkd:
      return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  }
  return UTF8PROC_STABLE;
}

bool is_ascii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

}  // namespace

Result<std::string> normalize(NormalForm form, std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  utf8proc_uint8_t* made = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &made, options_of(form));
  const std::unique_ptr<utf8proc_uint8_t, Free> owner(made);
  if (size < 0) {
    return Error{size == UTF8PROC_ERROR_NOMEM ? ErrorCode::kMemory : ErrorCode::kTokenizer,
                 "text of " + std::to_string(text.size()) +
                     " bytes cannot be brought into its Unicode normal form: " + utf8proc_errmsg(size)};
  }
  return std::string(reinterpret_cast<const char*>(made), static_cast<std::size_t>(size));
}

bool is_white_space(std::uint32_t code) {
  return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

bool is_word_character(std::uint32_t code) {
  if (code > 0x10FFFF) return false;
  if (code == 0x200C || code == 0x200D) return true;  // join controls
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Sequence sequence = next_utf8(text);
    if (sequence.kind != Utf8Kind::kComplete) return false;
    text.remove_prefix(sequence.bytes);
  }
  return true;
}

void append_utf8(std::uint32_t code, std::string& text) {
  const auto put = [&](std::uint32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

Result<Charsmap> Charsmap::open(std::span<const std::uint8_t> bytes, const std::string& where) {
  Charsmap map;
  if (bytes.empty()) return map;
  std::uint32_t trie_bytes = 0;
  if (bytes.size() > sizeof trie_bytes) std::memcpy(&trie_bytes, bytes.data(), sizeof trie_bytes);
  const bool fits = bytes.size() > 4 && trie_bytes % 4 == 0 && trie_bytes >= 4 && trie_bytes < bytes.size() - 4;
  if (!fits || bytes.back() != 0) {
    return Error{ErrorCode::kTokenizer,
                 where + ": expected the size of a trie, the trie and replacements that end in a zero, found " +
                     std::to_string(bytes.size()) + " bytes that are not; the map of characters is damaged"};
  }
  map.units_ = bytes.subspan(4, trie_bytes);
  map.replacements_ = {reinterpret_cast<const char*>(bytes.data()) + 4 + trie_bytes, bytes.size() - 4 - trie_bytes};
  return map;
}

std::uint32_t Charsmap::unit(std::size_t index) const {
  std::uint32_t value = 0;
  if (index < units_.size() / 4) std::memcpy(&value, units_.data() + index * 4, sizeof value);
  return value;
}

std::string Charsmap::apply(std::string_view text) const {
  if (units_.empty()) return std::string(text);
  std::string out;
  const auto offset_of = [](std::uint32_t u) { return u >> 10 << ((u & (1U << 9)) >> 6); };
  while (!text.empty()) {
    std::size_t longest = 0;
    std::uint32_t value = 0;
    std::size_t node = offset_of(unit(0));
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      node ^= byte;
      const std::uint32_t here = unit(node);
      constexpr std::uint32_t kLabelMask = (1U << 31) | 0xFF;
      if (byte == 0 || (here & kLabelMask) != byte) break;
      node ^= offset_of(here);
      const bool has_leaf = (here >> 8 & 1) != 0;
      if (!has_leaf) continue;
      longest = i + 1;
      value = unit(node) & ((1U << 31) - 1);
    }
    if (longest > 0 && value < replacements_.size()) {
      out += replacements_.data() + value;  // up to its zero
    } else {
      longest = next_character(text).bytes;
      out += text.substr(0, longest);
    }
    text.remove_prefix(longest);
  }
  return out;
}

}  // namespace bitnet::tokenizer
