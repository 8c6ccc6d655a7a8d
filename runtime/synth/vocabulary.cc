// Made-up words that a BPE tokenizer reaches. Syllables are consonant + vowel, with or without a final consonant; every
// longer piece is an earlier piece and a syllable, so that merging by score can build it. A word of such syllables can
// be read in one way only (each begins with a consonant that a vowel follows), and so all pieces are distinct.
#include <cstdio>

#include "runtime/synth/synth.h"

namespace bitnet {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
constexpr std::string_view kOnsets = "tsrndlmkpbhgvfwzj";
constexpr std::string_view kVowels = "eaiou";
constexpr std::string_view kCodas = "nrslt";
constexpr std::int32_t kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6;

class Builder {
 public:
  explicit Builder(std::int64_t size) : size_(static_cast<std::size_t>(size)) {
    vocabulary_.tokens.reserve(size_);
    vocabulary_.scores.reserve(size_);
    vocabulary_.types.reserve(size_);
  }

  SynthVocabulary build() && {
    add("<unk>", kUnknown);
    add("<s>", kControl);
    add("</s>", kControl);
    for (unsigned byte = 0; byte < 256; ++byte) {
      char spelling[8];
      std::snprintf(spelling, sizeof spelling, "<0x%02X>", byte);
      add(spelling, kByte);
    }
    add(std::string(kSpaceMark), kNormal);
    for (char c = '!'; c <= '~'; ++c) add(std::string(1, c), kNormal);
    add_syllables();
    for (const std::string& syllable : syllables_) add(std::string(kSpaceMark) + syllable, kNormal);
    add_words();
    return std::move(vocabulary_);
  }

 private:
  [[nodiscard]] bool full() const { return vocabulary_.tokens.size() == size_; }

  void add(std::string token, std::int32_t type) {
    if (full()) return;
    // As the trainer of SentencePiece numbers its merges: 0, -1, -2, ... from the first ordinary piece on.
    const std::size_t first_piece = 259;
    const std::size_t index = vocabulary_.tokens.size();
    vocabulary_.scores.push_back(type == kNormal ? 0.0F - static_cast<float>(index - first_piece) : 0.0F);
    vocabulary_.tokens.push_back(std::move(token));
    vocabulary_.types.push_back(type);
  }

  void add_syllables() {
    for (const char onset : kOnsets) {
      for (const char vowel : kVowels) syllables_.push_back({onset, vowel});
    }
    const std::size_t open = syllables_.size();
    for (std::size_t i = 0; i < open; ++i) {
      for (const char coda : kCodas) syllables_.push_back(syllables_[i] + coda);
    }
    for (const std::string& syllable : syllables_) add(syllable, kNormal);
  }

  // All words of two syllables, then of three, in an order that changes every syllable from word to word.
  void add_words() {
    const std::size_t n = syllables_.size();
    const auto second = [&](std::size_t i) { return (i / n + i % n * 37) % n; };
    const auto word = [&](std::size_t i) {
      return std::string(kSpaceMark) + syllables_[i % n] + syllables_[second(i)];
    };
    for (std::size_t i = 0; i < n * n && !full(); ++i) add(word(i), kNormal);
    for (std::size_t i = 0; !full(); ++i) {
      const std::size_t third = (i / (n * n) + i % n + second(i % (n * n))) % n;
      add(word(i % (n * n)) + syllables_[third], kNormal);
    }
  }

  std::size_t size_;
  std::vector<std::string> syllables_;
  SynthVocabulary vocabulary_;
};

}  // namespace

SynthVocabulary synth_vocabulary(std::int64_t size) { return Builder(size).build(); }

}  // namespace bitnet
