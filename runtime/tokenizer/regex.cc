#include "runtime/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cctype>
#include <charconv>
#include <utility>

#include "runtime/tokenizer/utf8.h"

namespace bitnet::tokenizer {
namespace {

// Unicode's White_Space, and all the rest, as the inside of a class.
constexpr std::string_view kSpaces =
    R"(\t-\r\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kNoSpaces =
    R"(\x00-\x08\x0E-\x1F\x21-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027})"
    R"(\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{D7FF}\x{E000}-\x{10FFFF})";
constexpr std::uint32_t kMatchLimit = 20'000'000;
constexpr std::size_t kJitStackBytes = std::size_t{1} << 20;

Error refuse(std::string_view pattern, const std::string& what) {
  return {ErrorCode::kTokenizer, "regular expression \"" + std::string(pattern) + "\": " + what};
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        BITNET_RETURN_IF_ERROR(escape(false));
      } else if (c == '[') {
        BITNET_RETURN_IF_ERROR(bracket());
      } else if (c == '(') {
        BITNET_RETURN_IF_ERROR(group());
      } else if (c == '{') {
        BITNET_RETURN_IF_ERROR(count());
      } else {
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  [[nodiscard]] bool sees(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  [[nodiscard]] Error fail(const std::string& what) const { return refuse(pattern_, what); }
  void copy(std::size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  Status escape(bool in_class) {
    if (at_ + 1 >= pattern_.size()) return fail("it ends in a backslash");
    const char c = pattern_[at_ + 1];
    const auto space = [&](std::string_view inside) {
      if (!in_class) out_ += '[';
      out_ += inside;
      if (!in_class) out_ += ']';
      at_ += 2;
    };
    switch (c) {
      case 's':
        space(kSpaces);
        return {};
      case 'S':
        space(kNoSpaces);
        return {};
      case 'v':  // a vertical tab; all vertical space in PCRE2
        out_ += R"(\x0B)";
        at_ += 2;
        return {};
      case 'p':
      case 'P':
        return property();
      case 'u':
        if (hex_digits(at_ + 2, 4) != 4) return fail("\\u needs four hexadecimal digits");
        out_ += R"(\x{)" + std::string(pattern_.substr(at_ + 2, 4)) + "}";
        at_ += 6;
        return {};
      case 'x':
        return code_point();
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'd':
      case 'D':
        copy(2);
        return {};
      case 'A':
      case 'z':
        if (in_class) break;
        copy(2);
        return {};
      default:
        break;
    }
    const bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (word) return fail(std::string("\\") + c + " is not supported");
    out_ += '\\';
    ++at_;
    copy(next_character(pattern_.substr(at_)).bytes);
    return {};
  }

  // How many hexadecimal digits stand at `begin`, at most `most`.
  [[nodiscard]] std::size_t hex_digits(std::size_t begin, std::size_t most) const {
    std::size_t count = 0;
    while (count < most && begin + count < pattern_.size() &&
           std::isxdigit(static_cast<unsigned char>(pattern_[begin + count])) != 0) {
      ++count;
    }
    return count;
  }

  // \x{10FFFF}, and \x7F, which is a byte: from 80 on a part of a character only.
  Status code_point() {
    const std::size_t begin = at_ + 2;
    const bool braces = begin < pattern_.size() && pattern_[begin] == '{';
    const std::size_t digits = braces ? hex_digits(begin + 1, 8) : hex_digits(begin, 2);
    if (digits == 0) return fail("\\x needs hexadecimal digits");
    const std::string_view number = pattern_.substr(begin + (braces ? 1 : 0), digits);
    std::uint32_t code = 0;
    std::from_chars(number.data(), number.data() + number.size(), code, 16);
    if (braces && (begin + 1 + digits == pattern_.size() || pattern_[begin + 1 + digits] != '}')) {
      return fail("\\x{" + std::string(number) + ": expected one code point of at most eight digits and a brace");
    }
    if (braces && (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))) {
      return fail("\\x{" + std::string(number) + "} is no character");
    }
    if (!braces && code >= 0x80) {
      return fail("\\x" + std::string(number) + " is a part of a character; write the character, or \\x{" +
                  std::string(number) + "} for the code point");
    }
    out_ += R"(\x{)" + std::string(number) + "}";
    at_ = begin + digits + (braces ? 2 : 0);
    return {};
  }

  // \p{L}, \p{^L} and \pL; names of more than two letters are scripts.
  Status property() {
    const std::size_t start = at_ + 2;
    const std::size_t close = pattern_.find('}', start);
    if (start >= pattern_.size() || pattern_[start] != '{' || close == std::string_view::npos) {
      return fail("expected a property in braces behind \\p");
    }
    std::string_view name = pattern_.substr(start + 1, close - start - 1);
    const bool caret = name.starts_with('^');
    if (caret) name.remove_prefix(1);
    for (const char c : name) {
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
      if (!letter) return fail("property \"" + std::string(name) + "\" is not supported");
    }
    const bool negative = (pattern_[at_ + 1] == 'P') != caret;
    out_ += negative ? R"(\P{)" : R"(\p{)";
    if (name.size() > 2) out_ += "sc:";
    out_ += name;
    out_ += '}';
    at_ = close + 1;
    return {};
  }

  Status bracket() {
    copy(1);
    if (sees("^")) copy(1);
    if (sees("]")) copy(1);  // a bracket that stands first is one
    while (at_ < pattern_.size() && pattern_[at_] != ']') {
      if (pattern_[at_] == '\\') {
        BITNET_RETURN_IF_ERROR(escape(true));
      } else if (pattern_[at_] == '[') {
        return fail("classes inside classes are not supported");
      } else if (sees("&&")) {
        return fail("&& in a class is not supported");
      } else {
        copy(1);
      }
    }
    if (at_ == pattern_.size()) return fail("a class is not closed");
    copy(1);
    return {};
  }

  Status group() {
    copy(1);
    if (!sees("?")) return sees("*") ? Status(fail("verbs are not supported")) : Status();
    for (const std::string_view kind : {"?:", "?=", "?!", "?>", "?<=", "?<!", "?i:", "?i)", "?-i:", "?-i)"}) {
      if (!sees(kind)) continue;
      copy(kind.size());
      return {};
    }
    return fail("groups (" + std::string(pattern_.substr(at_, 3)) + "... are not supported");
  }

  // {n}, {n,}, {n,m} and {,m}; any other brace is a character.
  Status count() {
    std::size_t end = at_ + 1;
    while (end < pattern_.size() && ((pattern_[end] >= '0' && pattern_[end] <= '9') || pattern_[end] == ',')) ++end;
    if (end == at_ + 1 || end == pattern_.size() || pattern_[end] != '}') {
      out_ += R"(\{)";
      ++at_;
      return {};
    }
    if (end + 1 < pattern_.size()) {
      if (pattern_[end + 1] == '+') return fail("a count before + is not supported");
      const bool one = pattern_.substr(at_, end - at_).find(',') == std::string_view::npos;
      if (one && pattern_[end + 1] == '?') return fail("an exact count before ? is not supported");
    }
    copy(1);
    if (sees(",")) out_ += '0';
    copy(end + 1 - at_);
    return {};
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

Result<std::string> translate_pattern(std::string_view pattern) { return Translator(pattern).run(); }

struct Regex::Code {
  std::string pattern;
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

struct MatchRoom::State {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr);
  State() {
    if (context == nullptr) return;
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~State() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

MatchRoom::MatchRoom() : state_(std::make_unique<State>()) {}
MatchRoom::~MatchRoom() = default;

Result<Regex> Regex::compile(std::string_view pattern) {
  BITNET_ASSIGN_OR_RETURN(const std::string translated, translate_pattern(pattern));
  auto code = std::make_shared<Code>();
  code->pattern = pattern;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (context == nullptr) return Error{ErrorCode::kMemory, "no memory for a regular expression"};
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int number = 0;
  PCRE2_SIZE offset = 0;
  code->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &number, &offset, context);
  pcre2_compile_context_free(context);
  if (code->code == nullptr) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(number, text.data(), text.size());
    return refuse(pattern, reinterpret_cast<const char*>(text.data()));
  }
  // Where the JIT has no support for this machine, the interpreter does the same, slower.
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);
  return Regex(std::move(code));
}

Result<bool> Regex::next(std::string_view text, MatchRoom& room, std::size_t& begin, std::size_t& end) const {
  const MatchRoom::State& state = *room.state_;
  if (state.data == nullptr || state.context == nullptr || state.stack == nullptr) {
    return Error{ErrorCode::kMemory, "no memory to search with a regular expression"};
  }
  while (end < text.size()) {
    const int count = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), end,
                                  PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, state.data, state.context);
    if (count == PCRE2_ERROR_NOMATCH) return false;
    if (count < 0) {
      std::array<PCRE2_UCHAR, 256> message{};
      pcre2_get_error_message(count, message.data(), message.size());
      return refuse(code_->pattern, std::string("the search in a text of ") + std::to_string(text.size()) +
                                        " bytes was given up: " + reinterpret_cast<const char*>(message.data()));
    }
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(state.data);
    begin = found[0];
    end = found[1];
    return true;
  }
  return false;
}

}  // namespace bitnet::tokenizer
