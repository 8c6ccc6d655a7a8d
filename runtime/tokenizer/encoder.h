// One call of Tokenizer::encode: what its parts share. Private to this folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/tokenizer/merger.h"
#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/vocabulary.h"

namespace bitnet::tokenizer {

// Finds added tokens in a text, leftmost and longest first.
class AddedTokens {
 public:
  struct Found {
    std::size_t begin;  // with the white space that the token swallows
    std::size_t end;
    std::int32_t id;
  };
  AddedTokens(const Vocabulary& vocabulary, const Trie& trie, bool special)
      : vocabulary_(vocabulary), trie_(trie), special_(special) {}
  // The next one from `begin` on; false: none.
  [[nodiscard]] bool next(std::string_view text, std::size_t begin, Found& found) const;

 private:
  [[nodiscard]] bool match(std::string_view text, std::size_t at, Found& found) const;
  const Vocabulary& vocabulary_;
  const Trie& trie_;
  bool special_;
};

class Encoder {
 public:
  Encoder(const Vocabulary& vocabulary, bool special, std::vector<std::int32_t>& ids)
      : vocabulary_(vocabulary), special_(special), ids_(ids), merger_(vocabulary, special) {}
  // Appends the ids of the whole text.
  [[nodiscard]] Status run(std::string_view text);

 private:
  [[nodiscard]] Status stretch(std::string_view text, bool at_start);
  [[nodiscard]] Status characters(std::string_view text, bool at_start);
  [[nodiscard]] Status words(std::string_view text, bool at_start);
  void word(std::string_view text);
  void part(std::string_view text, std::size_t word_start);
  void unigram(std::string_view text, std::vector<std::int32_t>& ids);
  void unknown(std::string_view text, std::vector<std::int32_t>& ids);
  [[nodiscard]] std::size_t part_end(std::string_view text, std::size_t begin) const;

  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(std::string_view a, std::string_view b) const { return a == b; }
  };

  const Vocabulary& vocabulary_;
  bool special_;
  std::vector<std::int32_t>& ids_;
  Merger merger_;
  MatchRoom room_;
  // Parts that were seen before, and where their ids stand in known_ids_.
  std::unordered_map<std::string, std::pair<std::size_t, std::size_t>, Hash, Equal> known_;
  std::vector<std::int32_t> known_ids_;
  struct Best {
    double score;
    std::uint32_t begin;
    std::int32_t id;
  };
  std::vector<Best> best_;  // of each end in a unigram part
  int lost_ = -1;           // a byte that no token stands for
};

}  // namespace bitnet::tokenizer
