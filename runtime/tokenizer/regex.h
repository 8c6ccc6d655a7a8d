// Regular expressions as tokenizer.json files write them (Oniguruma's Ruby syntax), run by PCRE2 with its JIT.
//
// The two dialects agree on almost everything that pre-tokenizers use; the rest is translated (white space is exactly
// Unicode's White_Space, ^ and $ match at lines, {,n} counts from 0, scripts are Script and not Script_Extensions) or
// refused by name, so that no pattern means something else here than in its model. Private to this folder.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace bitnet::tokenizer {

// The same pattern in PCRE2's dialect. kTokenizer: a construct that has no counterpart there.
[[nodiscard]] Result<std::string> translate_pattern(std::string_view pattern);

// Room for one thread's matching; may serve any number of patterns.
class MatchRoom {
 public:
  MatchRoom();
  ~MatchRoom();
  MatchRoom(const MatchRoom&) = delete;
  MatchRoom& operator=(const MatchRoom&) = delete;

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

class Regex {
 public:
  // kTokenizer with the pattern: what PCRE2 or the translation refuses.
  [[nodiscard]] static Result<Regex> compile(std::string_view pattern);
  // Calls found(begin, end) for every match that is not empty, from left to right. `text` is valid UTF-8, which is not
  // checked. kTokenizer: the search takes too long (patterns that try exponentially many ways).
  template <typename Found>
  [[nodiscard]] Status find_all(std::string_view text, MatchRoom& room, Found&& found) const {
    std::size_t begin = 0;
    std::size_t end = 0;
    while (true) {
      BITNET_ASSIGN_OR_RETURN(const bool more, next(text, room, begin, end));
      if (!more) return {};
      found(begin, end);
    }
  }

 private:
  struct Code;
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  // The next match that is not empty behind `end`.
  [[nodiscard]] Result<bool> next(std::string_view text, MatchRoom& room, std::size_t& begin, std::size_t& end) const;
  std::shared_ptr<const Code> code_;
};

}  // namespace bitnet::tokenizer
