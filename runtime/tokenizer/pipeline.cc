// Running a pipeline: text to normal text, normal text to words.
#include "runtime/tokenizer/pipeline.h"

#include <utility>

#include "runtime/tokenizer/byte_spelling.h"
#include "runtime/tokenizer/utf8.h"
#include "runtime/tokenizer/vocabulary.h"

namespace bitnet::tokenizer {
namespace {

using Range = std::pair<std::size_t, std::size_t>;

void replace_all(std::string& text, std::string_view pattern, std::string_view content) {
  if (pattern.empty() || text.find(pattern) == std::string::npos) return;
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  std::size_t begin = 0;
  for (std::size_t at = text.find(pattern); at != std::string::npos; at = text.find(pattern, begin)) {
    out.append(text, begin, at - begin);
    out += content;
    begin = at + pattern.size();
  }
  out.append(text, begin);
  text = std::move(out);
}

std::string_view stripped(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    const Character c = next_character(text);
    if (!is_white_space(c.code)) break;
    text.remove_prefix(c.bytes);
  }
  while (right && !text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!is_white_space(next_character(text.substr(begin)).code)) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

std::string collapsed(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == ' ' && (out.empty() || out.back() == ' ')) continue;
    out += c;
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

Status normalize_step(const NormalizerStep& step, const Charsmap& charsmap, std::string& text, MatchRoom& room) {
  using Kind = NormalizerStep::Kind;
  switch (step.kind) {
    case Kind::kForm: {
      BITNET_ASSIGN_OR_RETURN(text, normalize(step.form, text));
      return {};
    }
    case Kind::kReplace:
      replace_all(text, step.pattern, step.content);
      return {};
    case Kind::kReplaceRegex: {
      std::string out;
      std::size_t last = 0;
      BITNET_RETURN_IF_ERROR(step.regex->find_all(text, room, [&](std::size_t begin, std::size_t end) {
        out.append(text, last, begin - last);
        out += step.content;
        last = end;
      }));
      out.append(text, last);
      text = std::move(out);
      return {};
    }
    case Kind::kPrepend:
      if (!text.empty()) text.insert(0, step.content);
      return {};
    case Kind::kStrip:
      text = std::string(stripped(text, step.left, step.right));
      return {};
    case Kind::kCharsmap:
      text = charsmap.apply(text);
      return {};
    case Kind::kCollapseSpaces:
      text = collapsed(text);
      return {};
  }
  return {};
}

// One part of a text: what a pattern matched, or what lies between two matches.
struct Part {
  Range range;
  bool match;
};

// Source: what SplitDelimiterBehavior of Hugging Face's tokenizers does to a list of parts.
void merge_parts(std::vector<Part>& parts, Behaviour behaviour, std::vector<Range>& out) {
  const auto push = [&](const Range& range) {
    if (range.first < range.second) out.push_back(range);
  };
  switch (behaviour) {
    case Behaviour::kIsolated:
      for (const Part& part : parts) push(part.range);
      return;
    case Behaviour::kRemoved:
      for (const Part& part : parts) {
        if (!part.match) push(part.range);
      }
      return;
    case Behaviour::kContiguous: {
      const std::size_t first = out.size();
      bool previous = false;
      for (const Part& part : parts) {
        if (out.size() > first && part.match == previous) {
          out.back().second = part.range.second;
        } else {
          push(part.range);
        }
        previous = part.match;
      }
      return;
    }
    case Behaviour::kMergedWithPrevious: {
      const std::size_t first = out.size();
      bool previous = false;
      for (const Part& part : parts) {
        if (part.match && !previous && out.size() > first) {
          out.back().second = part.range.second;
        } else {
          push(part.range);
        }
        previous = part.match;
      }
      return;
    }
    case Behaviour::kMergedWithNext: {
      // A match joins the text behind it; of several in a row, the last.
      for (std::size_t i = 0; i < parts.size(); ++i) {
        Range range = parts[i].range;
        if (parts[i].match && i + 1 < parts.size() && !parts[i + 1].match) range.second = parts[++i].range.second;
        push(range);
      }
      return;
    }
  }
}

class Cutter {
 public:
  Cutter(MatchRoom& room, bool at_start) : room_(room), at_start_(at_start) {}

  Status apply(const SplitStep& step, Words& words) {
    switch (step.kind) {
      case SplitStep::Kind::kSplit:
        return split(step, words);
      case SplitStep::Kind::kPrepend:
        rewrite(words,
                [](std::string_view word, bool) { return (word.starts_with(' ') ? "" : " ") + std::string(word); });
        return {};
      case SplitStep::Kind::kMetaspace:
        rewrite(words, [&](std::string_view word, bool first) {
          std::string text(word);
          replace_all(text, " ", kSpaceMark);
          const bool wanted = step.prepend == SplitStep::Prepend::kAlways ||
                              (step.prepend == SplitStep::Prepend::kFirst && first && at_start_);
          if (wanted && !text.starts_with(kSpaceMark)) text.insert(0, kSpaceMark);
          return text;
        });
        return {};
      case SplitStep::Kind::kSpell:
        rewrite(words, [](std::string_view word, bool) { return spell_bytes(word); });
        return {};
      case SplitStep::Kind::kUnspell:
        // Splits between two characters of a spelling only, so that every word is one.
        rewrite(words, [](std::string_view word, bool) { return unspell_bytes(word).value_or(std::string(word)); });
        return {};
    }
    return {};
  }

 private:
  Status split(const SplitStep& step, Words& words) {
    std::vector<Range> out;
    out.reserve(words.ranges.size() * 2);
    for (const Range& range : words.ranges) {
      const std::string_view word = std::string_view(words.text).substr(range.first, range.second - range.first);
      parts_.clear();
      std::size_t last = 0;
      const auto add = [&](std::size_t begin, std::size_t end, bool match) {
        if (begin < end) parts_.push_back({{range.first + begin, range.first + end}, match != step.invert});
      };
      BITNET_RETURN_IF_ERROR(step.regex->find_all(word, room_, [&](std::size_t begin, std::size_t end) {
        add(last, begin, false);
        add(begin, end, true);
        last = end;
      }));
      add(last, word.size(), false);
      merge_parts(parts_, step.behaviour, out);
    }
    words.ranges = std::move(out);
    return {};
  }

  template <typename Change>
  static void rewrite(Words& words, Change&& change) {
    Words out;
    for (const Range& range : words.ranges) {
      const std::size_t begin = out.text.size();
      out.text +=
          change(std::string_view(words.text).substr(range.first, range.second - range.first), range.first == 0);
      out.ranges.emplace_back(begin, out.text.size());
    }
    words = std::move(out);
  }

  MatchRoom& room_;
  bool at_start_;
  std::vector<Part> parts_;
};

}  // namespace

Status compile_patterns(Pipeline& pipeline) {
  for (NormalizerStep& step : pipeline.normalizer) {
    if (step.kind != NormalizerStep::Kind::kReplaceRegex) continue;
    BITNET_ASSIGN_OR_RETURN(Regex regex, Regex::compile(step.pattern));
    step.regex.emplace(std::move(regex));
  }
  for (SplitStep& step : pipeline.splits) {
    if (step.kind != SplitStep::Kind::kSplit) continue;
    BITNET_ASSIGN_OR_RETURN(Regex regex, Regex::compile(step.pattern));
    step.regex.emplace(std::move(regex));
  }
  return {};
}

Result<std::string> apply_normalizer(const Pipeline& pipeline, const Charsmap& charsmap, std::string_view text,
                                     MatchRoom& room) {
  std::string out(text);
  for (const NormalizerStep& step : pipeline.normalizer) {
    BITNET_RETURN_IF_ERROR(normalize_step(step, charsmap, out, room));
  }
  return out;
}

Result<Words> cut_words(const Pipeline& pipeline, std::string text, bool at_start, MatchRoom& room) {
  Words words;
  words.text = std::move(text);
  if (words.text.empty()) return words;
  words.ranges.emplace_back(0, words.text.size());
  Cutter cutter(room, at_start);
  for (const SplitStep& step : pipeline.splits) BITNET_RETURN_IF_ERROR(cutter.apply(step, words));
  return words;
}

}  // namespace bitnet::tokenizer
