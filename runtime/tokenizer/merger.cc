#include "runtime/tokenizer/merger.h"

#include <algorithm>

#include "runtime/tokenizer/utf8.h"

namespace bitnet::tokenizer {

Merger::Merger(const Vocabulary& vocabulary, bool special)
    : vocabulary_(vocabulary),
      special_(special),
      merges_(vocabulary.pipeline.byte_level && !vocabulary.pipeline.ignore_merges ? nullptr : &vocabulary.merges()) {}

void Merger::encode(std::string_view word, std::vector<std::int32_t>& ids) {
  word_ = word;
  if (vocabulary_.pipeline.ignore_merges) {
    const std::int32_t id = find(0, word.size());
    if (id != kNone) {
      ids.push_back(id);
      return;
    }
  }
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

std::int32_t Merger::find(std::size_t begin, std::size_t bytes) const {
  if (bytes > merges_->longest) return kNone;
  const auto found = merges_->pieces.find(word_.substr(begin, bytes));
  if (found == merges_->pieces.end() || !vocabulary_.may_emit(found->second, special_)) return kNone;
  return found->second;
}

// One symbol a character, or a byte; bytes that are no valid UTF-8 stand alone.
void Merger::split() {
  symbols_.clear();
  const bool byte_level = vocabulary_.pipeline.byte_level;
  for (std::size_t begin = 0; begin < word_.size();) {
    const std::size_t bytes = byte_level ? 1 : next_character(word_.substr(begin)).bytes;
    const std::int32_t id =
        byte_level ? vocabulary_.byte_ids[static_cast<unsigned char>(word_[begin])] : find(begin, bytes);
    const auto index = static_cast<std::int32_t>(symbols_.size());
    symbols_.push_back(
        {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(bytes), index - 1, index + 1, id});
    begin += bytes;
  }
  if (!symbols_.empty()) symbols_.back().next = kNone;
}

void Merger::offer(std::int32_t left, std::int32_t right) {
  if (left == kNone || right == kNone) return;
  const Symbol& a = at(left);
  const Symbol& b = at(right);
  const std::uint32_t bytes = a.bytes + b.bytes;
  if (vocabulary_.engine == Engine::kRanks) {
    if (a.id == kNone || b.id == kNone) return;
    const PairTable::Value* merged =
        vocabulary_.ranks.find(static_cast<std::uint32_t>(a.id), static_cast<std::uint32_t>(b.id));
    if (merged == nullptr || !vocabulary_.may_emit(static_cast<std::int32_t>(merged->second), special_)) return;
    queue_.push_back(
        {-static_cast<double>(merged->first), left, right, bytes, static_cast<std::int32_t>(merged->second)});
  } else {
    const std::int32_t id = find(a.begin, bytes);
    if (id == kNone) return;
    queue_.push_back({static_cast<double>(vocabulary_.score(id)), left, right, bytes, id});
  }
  std::push_heap(queue_.begin(), queue_.end(), WorsePair());
}

void Merger::merge(const Pair& pair) {
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

void Merger::emit(const Symbol& symbol, std::vector<std::int32_t>& ids) {
  const Vocabulary& v = vocabulary_;
  if (symbol.id != kNone) {
    ids.push_back(symbol.id);
  } else if (v.pipeline.byte_fallback && v.has_bytes) {
    for (const char c : word_.substr(symbol.begin, symbol.bytes)) {
      ids.push_back(v.byte_ids[static_cast<unsigned char>(c)]);
    }
  } else if (v.unknown != kNone) {
    ids.push_back(v.unknown);
  } else if (lost_ < 0) {
    lost_ = static_cast<unsigned char>(word_[symbol.begin]);
  }
}

}  // namespace bitnet::tokenizer
