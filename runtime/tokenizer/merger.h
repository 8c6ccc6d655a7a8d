// Merging characters (or bytes) to pieces: a linked list of symbols and a queue of the pairs that form a piece.
//
// Each merge takes the best pair from the queue, joins its two symbols and offers the two new pairs beside it: n log n
// for n characters. A queued pair is stale when one of its symbols has been merged since; their joint length tells.
// Private to this folder.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/vocabulary.h"

namespace bitnet::tokenizer {

class Merger {
 public:
  // special: characters may become control tokens that are pieces, too.
  Merger(const Vocabulary& vocabulary, bool special);
  // Appends the ids of a word of less than 2^31 bytes. A character without a token gives the ids of its bytes, or the
  // unknown token, or is counted as lost (the first byte of the first one).
  void encode(std::string_view word, std::vector<std::int32_t>& ids);
  [[nodiscard]] int lost() const { return lost_; }  // -1: nothing

 private:
  struct Symbol {
    std::uint32_t begin;  // into the word
    std::uint32_t bytes;  // 0: merged into its left neighbour
    std::int32_t previous;
    std::int32_t next;
    std::int32_t id;  // of its piece, or kNone: a character that is no piece
  };
  struct Pair {
    double score;
    std::int32_t left;
    std::int32_t right;
    std::uint32_t bytes;  // of both symbols when queued
    std::int32_t id;      // of the piece that they form
  };
  struct WorsePair {  // std heap order: the highest score, then the leftmost pair, comes out first
    bool operator()(const Pair& a, const Pair& b) const {
      return a.score != b.score ? a.score < b.score : a.left > b.left;
    }
  };

  Symbol& at(std::int32_t index) { return symbols_[static_cast<std::size_t>(index)]; }
  [[nodiscard]] std::int32_t find(std::size_t begin, std::size_t bytes) const;
  void split();
  void offer(std::int32_t left, std::int32_t right);
  void merge(const Pair& pair);
  void emit(const Symbol& symbol, std::vector<std::int32_t>& ids);

  const Vocabulary& vocabulary_;
  bool special_;
  const Merges* merges_;  // null: not needed
  std::string_view word_;
  std::vector<Symbol> symbols_;
  std::vector<Pair> queue_;  // a heap
  int lost_ = -1;
};

}  // namespace bitnet::tokenizer
