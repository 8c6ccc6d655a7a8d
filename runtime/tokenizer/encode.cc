// Merging characters to pieces: a linked list of symbols and a queue of the pairs that form a piece.
//
// Each merge takes the best pair from the queue, joins its two symbols and offers the two new pairs beside it: n log n
// for n characters. A queued pair is stale when one of its symbols has been merged since; their joint length tells.
//
// The text is cut first wherever two characters meet that stand beside each other in no piece: no merge crosses such a
// border, so that the parts are independent. In practice the parts are words (pieces have U+2581 in front only), the
// queues are short, and the ids of a part that was seen before are copied.
#include <algorithm>
#include <unordered_map>
#include <utility>

#include "runtime/tokenizer/utf8.h"
#include "runtime/tokenizer/vocabulary.h"

namespace bitnet::tokenizer {
namespace {

constexpr std::int32_t kNone = -1;

struct Symbol {
  std::uint32_t begin;  // into the chunk
  std::uint32_t bytes;  // 0: merged into its left neighbour
  std::int32_t previous;
  std::int32_t next;
  std::int32_t id;  // of its piece, or kNone: a character that is no piece
};

struct Pair {
  float score;
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

class Merger {
 public:
  explicit Merger(const Vocabulary& vocabulary) : vocabulary_(vocabulary), merges_(vocabulary.merges()) {}

  void encode(std::string_view chunk, std::vector<std::int32_t>& ids) {
    chunk_ = chunk;
    split();
    queue_.clear();
    for (std::size_t i = 1; i < symbols_.size(); ++i) {
      offer(static_cast<std::int32_t>(i) - 1, static_cast<std::int32_t>(i));
    }
    while (!queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end(), WorsePair());
      const Pair pair = queue_.back();
      queue_.pop_back();
      merge(pair);
    }
    for (std::int32_t i = symbols_.empty() ? kNone : 0; i != kNone; i = at(i).next) emit(at(i), ids);
  }

 private:
  Symbol& at(std::int32_t index) { return symbols_[static_cast<std::size_t>(index)]; }

  std::int32_t find(std::size_t begin, std::size_t bytes) const {
    if (bytes > merges_.longest) return kNone;
    const auto found = merges_.pieces.find(chunk_.substr(begin, bytes));
    return found == merges_.pieces.end() ? kNone : found->second;
  }

  // One symbol a character; bytes that are no valid UTF-8 stand alone.
  void split() {
    symbols_.clear();
    for (std::size_t begin = 0; begin < chunk_.size();) {
      const std::size_t bytes = next_character(chunk_.substr(begin)).bytes;
      const auto index = static_cast<std::int32_t>(symbols_.size());
      symbols_.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(bytes), index - 1, index + 1,
                          find(begin, bytes)});
      begin += bytes;
    }
    if (!symbols_.empty()) symbols_.back().next = kNone;
  }

  void offer(std::int32_t left, std::int32_t right) {
    if (left == kNone || right == kNone) return;
    const std::uint32_t bytes = at(left).bytes + at(right).bytes;
    const std::int32_t id = find(at(left).begin, bytes);
    if (id == kNone) return;
    queue_.push_back({vocabulary_.scores[static_cast<std::size_t>(id)], left, right, bytes, id});
    std::push_heap(queue_.begin(), queue_.end(), WorsePair());
  }

  void merge(const Pair& pair) {
    Symbol& left = at(pair.left);
    Symbol& right = at(pair.right);
    if (left.bytes == 0 || right.bytes == 0 || left.bytes + right.bytes != pair.bytes) return;  // stale
    left.bytes = pair.bytes;
    left.id = pair.id;
    left.next = right.next;
    right.bytes = 0;
    if (left.next != kNone) at(left.next).previous = pair.left;
    offer(left.previous, pair.left);
    offer(pair.left, left.next);
  }

  void emit(const Symbol& symbol, std::vector<std::int32_t>& ids) const {
    if (symbol.id != kNone) {
      ids.push_back(symbol.id);
      return;
    }
    for (const char c : chunk_.substr(symbol.begin, symbol.bytes)) {
      ids.push_back(vocabulary_.byte_ids[static_cast<unsigned char>(c)]);
    }
  }

  const Vocabulary& vocabulary_;
  const Merges& merges_;
  std::string_view chunk_;
  std::vector<Symbol> symbols_;
  std::vector<Pair> queue_;  // a heap
};

// End of the part of `text` that begins at `begin` < text.size().
std::size_t part_end(const Vocabulary& vocabulary, std::string_view text, std::size_t begin) {
  Character left = next_character(text.substr(begin));
  std::size_t end = begin + left.bytes;
  while (end < text.size()) {
    const Character right = next_character(text.substr(end));
    if (!vocabulary.merges().may_join(left.code, right.code)) break;
    end += right.bytes;
    left = right;
  }
  return end;
}

}  // namespace

void encode_text(const Vocabulary& vocabulary, std::string_view text, bool prefix, std::vector<std::int32_t>& ids) {
  if (text.empty()) return;
  std::string marked;
  marked.reserve(text.size() + text.size() / 2 + kSpaceMark.size());
  if (prefix) marked += kSpaceMark;
  for (const char c : text) {
    if (c == ' ') {
      marked += kSpaceMark;
    } else {
      marked += c;
    }
  }
  Merger merger(vocabulary);
  std::unordered_map<std::string_view, std::pair<std::size_t, std::size_t>> known;  // part -> its ids' place in `ids`
  for (std::size_t begin = 0; begin < marked.size();) {
    const std::size_t end = part_end(vocabulary, marked, begin);
    const std::string_view part = std::string_view(marked).substr(begin, end - begin);
    begin = end;
    const auto [entry, is_new] = known.try_emplace(part, ids.size(), 0);
    auto& [place, count] = entry->second;
    if (is_new) {
      merger.encode(part, ids);
      count = ids.size() - place;
    } else {
      for (std::size_t i = 0; i < count; ++i) ids.push_back(ids[place + i]);
    }
  }
}

}  // namespace bitnet::tokenizer
