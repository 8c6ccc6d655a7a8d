#include "runtime/generation/ngram_draft.h"

#include <algorithm>
#include <bit>

namespace bitnet {
namespace {

constexpr std::size_t kFirstSlots = 256;  // a power of two; an index is at most half full

constexpr std::array<std::size_t, 4> kPassTokens = {1, 2, 4, 8};
// Until a pass of 2, 4 or 8 tokens has been timed: its cost in plain passes where weights come from memory and the
// arithmetic hides behind them. Rather too cheap than too dear, for only what is tried is timed.
constexpr std::array<double, 4> kFirstCost = {1.0, 1.2, 1.6, 2.8};
constexpr std::uint64_t kPlainFirst = 2;  // plain passes before the first draft: what it is compared with
constexpr double kWorthIt = 1.03;         // expected gain below which nothing is proposed

// A chance follows the last kMemory matches or so.
constexpr float kMemory = 32.0F;
constexpr float kFirstTrials = 4.0F;
constexpr std::array<float, 5> kFirstChance = {0.3F, 0.45F, 0.6F, 0.8F, 0.9F};

std::size_t kind_of(std::size_t length) {
  if (length < 4) return length - NgramDraft::kShortest;
  return length < 8 ? 2 : (length < 16 ? 3 : 4);
}

}  // namespace

NgramDraft::NgramDraft(std::size_t expected) {
  tokens_.reserve(expected);
  for (std::size_t n = kShortest; n <= kLongest; ++n) {
    indexes_[n - kShortest].slots.resize(std::max(kFirstSlots, std::bit_ceil(2 * expected)));
  }
  for (std::size_t kind = 0; kind < chances_.size(); ++kind) {
    chances_[kind] = {kFirstChance[kind] * kFirstTrials, kFirstTrials};
  }
}

// Of the n tokens in front of `end`.
std::uint64_t NgramDraft::hash(std::size_t end, std::size_t n) const {
  std::uint64_t h = 0;
  for (std::size_t i = end - n; i < end; ++i) {
    h = (h ^ static_cast<std::uint32_t>(tokens_[i])) * 0x9E3779B97F4A7C15U;
    h ^= h >> 29;
  }
  return h;
}

// The place of the n-gram in front of `end`: where an equal one stands, or a free one.
std::uint32_t& NgramDraft::slot(Index& index, std::size_t end, std::size_t n) const {
  const std::size_t mask = index.slots.size() - 1;
  const auto at = [&](std::size_t position) { return tokens_.begin() + static_cast<std::ptrdiff_t>(position); };
  for (std::size_t i = hash(end, n) & mask;; i = (i + 1) & mask) {
    std::uint32_t& entry = index.slots[i];
    if (entry == 0 || std::equal(at(entry - n), at(entry), at(end - n))) return entry;
  }
}

void NgramDraft::grow(Index& index, std::size_t n, std::size_t slots) const {
  std::vector<std::uint32_t> old(slots);
  old.swap(index.slots);
  for (const std::uint32_t end : old) {
    if (end != 0) slot(index, end, n) = end;
  }
}

// Notes that the last n tokens stand at the end, and returns the position behind their last place before; 0: none.
std::size_t NgramDraft::replace(std::size_t n) {
  Index& index = indexes_[n - kShortest];
  if (2 * (index.used + 1) > index.slots.size()) grow(index, n, 2 * index.slots.size());
  std::uint32_t& entry = slot(index, tokens_.size(), n);
  const std::size_t before = entry;
  entry = static_cast<std::uint32_t>(tokens_.size());
  index.used += before == 0 ? 1 : 0;
  return before;
}

void NgramDraft::append(std::int32_t id) {
  if (match_.length > 0) {
    Chance& chance = chances_[kind_of(match_.length)];
    chance.hits += tokens_[match_.next] == id ? 1.0F : 0.0F;
    chance.trials += 1.0F;
    if (chance.trials > kMemory) chance = {chance.hits / 2, chance.trials / 2};
  }
  tokens_.push_back(id);
  match_ = {};
  for (std::size_t n = std::min(kLongest, tokens_.size()); n >= kShortest; --n) {
    const std::size_t next = replace(n);
    if (next > 0 && match_.length == 0) match_ = {n, next};
  }
  if (match_.length < kLongest) return;
  const std::size_t most = std::min(kCounted, match_.next);
  const std::size_t end = tokens_.size();
  while (match_.length < most && tokens_[match_.next - match_.length - 1] == tokens_[end - match_.length - 1]) {
    ++match_.length;
  }
}

void NgramDraft::follow(std::span<std::int32_t> out) const {
  const std::size_t left = tokens_.size() - match_.next;  // the period, too
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = i < left ? tokens_[match_.next + i] : out[i - left];
}

// Of a pass of kPassTokens[pass] tokens, in seconds; a plain pass has been timed.
double NgramDraft::cost(std::size_t pass) const {
  return seconds_[pass] > 0.0 ? seconds_[pass] : kFirstCost[pass] * seconds_[0];
}

std::size_t NgramDraft::propose(std::span<std::int32_t> out) {
  if (match_.length == 0 || plain_passes_ < kPlainFirst) return 0;
  const Chance& chance = chances_[kind_of(match_.length)];
  const double hit = chance.hits / chance.trials;
  std::size_t best = 0;
  double best_rate = kWorthIt / cost(0);
  double expected = 1.0;  // tokens that a pass brings: 1 + hit + hit^2 + ...
  double reached = 1.0;
  for (std::size_t pass = 1; pass < kPassTokens.size() && kPassTokens[pass] <= out.size() + 1; ++pass) {
    for (std::size_t i = kPassTokens[pass - 1]; i < kPassTokens[pass]; ++i) expected += reached *= hit;
    if (expected / cost(pass) <= best_rate) continue;
    best_rate = expected / cost(pass);
    best = kPassTokens[pass] - 1;
  }
  follow(out.first(best));
  return best;
}

void NgramDraft::measured(std::size_t tokens, double seconds) {
  const auto found = std::find(kPassTokens.begin(), kPassTokens.end(), tokens);
  if (found == kPassTokens.end() || !(seconds > 0.0)) return;
  const auto pass = static_cast<std::size_t>(found - kPassTokens.begin());
  if (pass == 0) ++plain_passes_;
  if (seconds_[0] == 0.0) {
    if (pass == 0) seconds_[0] = seconds;
    return;
  }
  // What disturbs a pass makes it slower, never faster: down quickly, up slowly, and one step at most doubles.
  const double known = cost(pass);
  const double now = std::min(seconds, 2.0 * known);
  seconds_[pass] = known + (now - known) * (now < known ? 0.5 : 0.25);
}

}  // namespace bitnet
