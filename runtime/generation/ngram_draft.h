// NgramDraft: the text's own repetitions as a drafter. If the last n tokens (n = 4, else 3, else 2) have come before,
// what followed them then is proposed again. No model, no pass of its own: one look into a hash table a token.
//
// How many tokens are worth proposing is a bet. Every token that is appended shows whether the match before it foretold
// it, drafted or not, so the chance of a hit is known for free, for short and long matches apart; passes of 1, 2, 4 and
// 8 tokens are timed as they come. Proposed is the length with the most expected tokens a second, nothing where that is
// a plain pass. So drafts grow while they hit, and stop while they miss, and text without repetitions costs nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/generation/drafter.h"

namespace bitnet {

class NgramDraft final : public Drafter {
 public:
  static constexpr std::size_t kShortest = 2;
  static constexpr std::size_t kLongest = 4;
  static constexpr std::size_t kCounted = 32;  // of a match's length, no more is counted

  // Memory for so many tokens is taken at once; more are possible, up to 2^31 - 2.
  explicit NgramDraft(std::size_t expected = 0);

  // Constant time, but for the growth of the index (amortised).
  void append(std::int32_t id) override;
  // 0, 1, 3 or 7 tokens: with the last token they fill a kernel for a small batch.
  [[nodiscard]] std::size_t propose(std::span<std::int32_t> out) override;
  void measured(std::size_t tokens, double seconds) override;

  // Where the text's last tokens stood before: tokens [next - length, next) are the last `length` ones.
  struct Match {
    std::size_t length = 0;  // 0: nowhere; else kShortest..kCounted
    std::size_t next = 0;    // position of the token that followed
  };
  // Of the longest n-gram (kLongest..kShortest) the latest place, with all that matches in front of it.
  [[nodiscard]] Match match() const { return match_; }
  // The `count` tokens that follow if the text goes on as it did behind the match, to the front of `out`: where the
  // match overlaps the text's end, its period goes on. match().length > 0.
  void follow(std::span<std::int32_t> out) const;

 private:
  // The latest position of every n-gram of one length: open addressing, by the tokens that stand at the positions.
  struct Index {
    std::vector<std::uint32_t> slots;  // 0: free; else position behind the n-gram
    std::size_t used = 0;
  };
  struct Chance {
    float hits = 0.0F;
    float trials = 0.0F;
  };

  [[nodiscard]] std::uint64_t hash(std::size_t end, std::size_t n) const;
  [[nodiscard]] std::uint32_t& slot(Index& index, std::size_t end, std::size_t n) const;
  [[nodiscard]] std::size_t replace(std::size_t n);
  void grow(Index& index, std::size_t n, std::size_t slots) const;
  [[nodiscard]] double cost(std::size_t pass) const;

  std::vector<std::int32_t> tokens_;  // the text
  std::array<Index, kLongest - kShortest + 1> indexes_;
  Match match_;
  std::array<Chance, 5> chances_;    // of matches of 2, 3, 4..7, 8..15, 16.. tokens
  std::array<double, 4> seconds_{};  // of a pass of 1, 2, 4, 8 tokens; 0: none was timed
  std::uint64_t plain_passes_ = 0;
};

}  // namespace bitnet
