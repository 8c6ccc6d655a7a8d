// From text to ids: added tokens are cut out of the raw text, each stretch between them is normalised, the added tokens
// that are looked for in normal text are cut out of that, the rest is cut into words, and words become tokens.
//
// Where the pipeline does not cut text into words (SentencePiece), it is cut wherever two characters meet that stand
// beside each other in no piece: no piece crosses such a border, so that the parts are independent. In practice the
// parts are words (pieces have U+2581 in front only), and the ids of a part that was seen before are copied.
#include "runtime/tokenizer/encoder.h"

#include <array>
#include <cstdio>

#include "runtime/tokenizer/utf8.h"

namespace bitnet::tokenizer {
namespace {

constexpr std::size_t kLongestKnown = 256;  // longer parts do not come twice
constexpr std::size_t kMostKnown = 1 << 20;

// The last character before `end`, which is not 0.
Character character_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  const Character c = next_character(text.substr(begin, end - begin));
  if (begin + c.bytes == end) return c;
  return next_character(text.substr(end - 1, 1));
}

}  // namespace

bool AddedTokens::next(std::string_view text, std::size_t begin, Found& found) const {
  if (trie_.empty()) return false;
  for (std::size_t at = begin; at < text.size();) {
    if (!match(text, at, found)) {
      ++at;
      continue;
    }
    const unsigned flags = vocabulary_.flags(found.id);
    const bool joined = (flags & kTokenSingleWord) != 0 &&
                        ((found.begin > 0 && is_word_character(character_before(text, found.begin).code)) ||
                         (found.end < text.size() && is_word_character(next_character(text.substr(found.end)).code)));
    if (joined) {
      at = found.end;
      continue;
    }
    while ((flags & kTokenLstrip) != 0 && found.begin > begin) {
      const Character c = character_before(text, found.begin);
      if (!is_white_space(c.code)) break;
      found.begin -= c.bytes;
    }
    while ((flags & kTokenRstrip) != 0 && found.end < text.size()) {
      const Character c = next_character(text.substr(found.end));
      if (!is_white_space(c.code)) break;
      found.end += c.bytes;
    }
    return true;
  }
  return false;
}

bool AddedTokens::match(std::string_view text, std::size_t at, Found& found) const {
  bool any = false;
  std::uint32_t node = Trie::kRoot;
  for (std::size_t i = at; i < text.size(); ++i) {
    const PairTable::Value* edge = trie_.step(node, text[i]);
    if (edge == nullptr) break;
    node = edge->first;
    if (edge->second == Trie::kNoId) continue;
    const auto id = static_cast<std::int32_t>(edge->second);
    if (!special_ && vocabulary_.type(id) != TokenType::kUserDefined) continue;
    found = {at, i + 1, id};
    any = true;
  }
  return any;
}

Status Encoder::run(std::string_view text) {
  const AddedTokens added(vocabulary_, vocabulary_.added, special_);
  AddedTokens::Found found{};
  std::size_t begin = 0;
  while (added.next(text, begin, found)) {
    BITNET_RETURN_IF_ERROR(stretch(text.substr(begin, found.begin - begin), begin == 0));
    ids_.push_back(found.id);
    begin = found.end;
  }
  BITNET_RETURN_IF_ERROR(stretch(text.substr(begin), begin == 0));
  const int lost = lost_ >= 0 ? lost_ : merger_.lost();
  if (lost < 0) return {};
  std::array<char, 16> byte{};
  std::snprintf(byte.data(), byte.size(), "0x%02X", static_cast<unsigned>(lost));
  return Error{ErrorCode::kTokenizer, std::string("the text has a character (byte ") + byte.data() +
                                          ") for which the vocabulary has no token, no bytes and no unknown token; "
                                          "take it out of the text"};
}

// Text between two added tokens. Where the pipeline reads characters, bytes that are none are words of their own.
Status Encoder::stretch(std::string_view text, bool at_start) {
  if (text.empty()) return {};
  if (!vocabulary_.needs_utf8) return characters(text, at_start);
  std::size_t begin = 0;
  std::size_t end = 0;
  while (end < text.size()) {
    const Utf8Sequence sequence = next_utf8(text.substr(end));
    if (sequence.kind == Utf8Kind::kComplete) {
      end += sequence.bytes;
      continue;
    }
    BITNET_RETURN_IF_ERROR(characters(text.substr(begin, end - begin), at_start && begin == 0));
    word(text.substr(end, sequence.bytes));
    begin = end = end + sequence.bytes;
  }
  return characters(text.substr(begin, end - begin), at_start && begin == 0);
}

Status Encoder::characters(std::string_view text, bool at_start) {
  if (text.empty()) return {};
  if (vocabulary_.pipeline.normalizer.empty() && vocabulary_.added_normalized.empty()) return words(text, at_start);
  BITNET_ASSIGN_OR_RETURN(const std::string normal,
                          apply_normalizer(vocabulary_.pipeline, vocabulary_.charsmap, text, room_));
  const std::string_view view = normal;
  const AddedTokens added(vocabulary_, vocabulary_.added_normalized, special_);
  AddedTokens::Found found{};
  std::size_t begin = 0;
  while (added.next(view, begin, found)) {
    BITNET_RETURN_IF_ERROR(words(view.substr(begin, found.begin - begin), at_start && begin == 0));
    ids_.push_back(found.id);
    begin = found.end;
  }
  return words(view.substr(begin), at_start && begin == 0);
}

Status Encoder::words(std::string_view text, bool at_start) {
  if (vocabulary_.pipeline.splits.empty()) {
    word(text);
    return {};
  }
  BITNET_ASSIGN_OR_RETURN(const Words cut, cut_words(vocabulary_.pipeline, std::string(text), at_start, room_));
  for (const auto& [begin, end] : cut.ranges) word(std::string_view(cut.text).substr(begin, end - begin));
  return {};
}

void Encoder::word(std::string_view text) {
  const std::size_t start = ids_.size();
  if (!vocabulary_.cuts_at_borders || vocabulary_.pipeline.ignore_merges) {
    if (!text.empty()) part(text, start);
    return;
  }
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = part_end(text, begin);
    part(text.substr(begin, end - begin), start);
    begin = end;
  }
}

// End of the part of `text` that begins at `begin` < text.size().
std::size_t Encoder::part_end(std::string_view text, std::size_t begin) const {
  const Merges& merges = vocabulary_.merges();
  Character left = next_character(text.substr(begin));
  std::size_t end = begin + left.bytes;
  while (end < text.size()) {
    const Character right = next_character(text.substr(end));
    if (!merges.may_join(left.code, right.code)) break;
    end += right.bytes;
    left = right;
  }
  return end;
}

// The ids of a part of the word whose ids begin at `word_start`.
void Encoder::part(std::string_view text, std::size_t word_start) {
  const auto known = known_.find(text);
  std::size_t place = known_ids_.size();
  std::size_t count = 0;
  if (known != known_.end()) {
    place = known->second.first;
    count = known->second.second;
  } else {
    if (vocabulary_.engine == Engine::kUnigram) {
      unigram(text, known_ids_);
    } else {
      merger_.encode(text, known_ids_);
    }
    count = known_ids_.size() - place;
  }
  const bool fuses = vocabulary_.pipeline.fuse_unknown || vocabulary_.engine == Engine::kUnigram;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t id = known_ids_[place + i];
    const bool again = fuses && id == vocabulary_.unknown && ids_.size() > word_start && ids_.back() == id;
    if (!again) ids_.push_back(id);
  }
  if (known != known_.end()) return;
  if (text.size() <= kLongestKnown && known_.size() < kMostKnown) {
    known_.emplace(text, std::pair(place, count));
  } else {
    known_ids_.resize(place);
  }
}

void Encoder::unknown(std::string_view text, std::vector<std::int32_t>& ids) {
  if (vocabulary_.pipeline.byte_fallback && vocabulary_.has_bytes) {
    for (const char c : text) ids.push_back(vocabulary_.byte_ids[static_cast<unsigned char>(c)]);
  } else if (vocabulary_.unknown != kNone) {
    ids.push_back(vocabulary_.unknown);
  } else if (lost_ < 0) {
    lost_ = static_cast<unsigned char>(text[0]);
  }
}

// Viterbi: the best way to each position, from left to right; of equal ways the one with the longest last piece. A
// character that is no piece may always be unknown.
void Encoder::unigram(std::string_view text, std::vector<std::int32_t>& ids) {
  best_.assign(text.size() + 1, {0, 0, kNone});
  std::vector<bool> reached(text.size() + 1, false);
  reached[0] = true;
  const auto offer = [&](std::size_t begin, std::size_t end, double score, std::int32_t id) {
    const double sum = best_[begin].score + score;
    if (reached[end] && sum <= best_[end].score) return;
    reached[end] = true;
    best_[end] = {sum, static_cast<std::uint32_t>(begin), id};
  };
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t bytes = next_character(text.substr(begin)).bytes;
    bool single = false;
    std::uint32_t node = Trie::kRoot;
    for (std::size_t i = begin; i < text.size(); ++i) {
      const PairTable::Value* edge = vocabulary_.pieces.step(node, text[i]);
      if (edge == nullptr) break;
      node = edge->first;
      if (edge->second == Trie::kNoId) continue;
      const auto id = static_cast<std::int32_t>(edge->second);
      if (!vocabulary_.may_emit(id, special_)) continue;
      offer(begin, i + 1, static_cast<double>(vocabulary_.score(id)), id);
      single = single || i + 1 - begin == bytes;
    }
    if (!single) offer(begin, begin + bytes, vocabulary_.unknown_score, kNone);
    begin += bytes;
  }
  std::vector<std::uint32_t> ends;
  for (auto end = static_cast<std::uint32_t>(text.size()); end > 0; end = best_[end].begin) ends.push_back(end);
  for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
    const Best& piece = best_[*end];
    if (piece.id != kNone) {
      ids.push_back(piece.id);
    } else {
      unknown(text.substr(piece.begin, *end - piece.begin), ids);
    }
  }
}

}  // namespace bitnet::tokenizer
