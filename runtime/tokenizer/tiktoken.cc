#include "runtime/tokenizer/tiktoken.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/tokenizer/base64.h"
#include "runtime/tokenizer/byte_spelling.h"

namespace bitnet::tokenizer {
namespace {

constexpr std::size_t kLlama3Ranks = 128000;
constexpr std::size_t kSpecialTokens = 256;
constexpr std::size_t kLongestToken = 1024;  // bytes; the longest of Llama 3 has 128

// The special tokens that have names; every other one up to 256 is "<|reserved_special_token_N|>", N counting the
// unnamed ones. Source: the tokenizer of Meta's Llama 3.1 and later (Llama 3.0 had no use for 4 and 8 yet).
struct Special {
  std::size_t offset;
  std::string_view name;
};
constexpr std::array<Special, 8> kNamed = {{{0, "<|begin_of_text|>"},
                                            {1, "<|end_of_text|>"},
                                            {4, "<|finetune_right_pad_id|>"},
                                            {6, "<|start_header_id|>"},
                                            {7, "<|end_header_id|>"},
                                            {8, "<|eom_id|>"},
                                            {9, "<|eot_id|>"},
                                            {10, "<|python_tag|>"}}};

class TiktokenReader {
 public:
  TiktokenReader(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  Result<VocabularyData> run() {
    while (!text_.empty()) {
      const std::size_t end = std::min(text_.find('\n'), text_.size());
      std::string_view line = text_.substr(0, end);
      text_.remove_prefix(std::min(end + 1, text_.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      ++line_;
      if (line.empty() && text_.empty()) break;
      BITNET_RETURN_IF_ERROR(read_line(line));
    }
    if (tokens_.size() != kLlama3Ranks) {
      return Error{ErrorCode::kTokenizer, name_ + ": expected the 128000 ranks of Llama 3, found " +
                                              std::to_string(tokens_.size()) +
                                              "; a file of ranks does not say which words and special tokens belong to "
                                              "it: use the model's tokenizer.json"};
    }
    return finish();
  }

 private:
  [[nodiscard]] Error fail(const std::string& what) const {
    return {ErrorCode::kTokenizer, name_ + ": line " + std::to_string(line_) + ": " + what};
  }

  Status read_line(std::string_view line) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos) return fail("expected a token in base64, a space and its rank");
    std::optional<std::string> bytes = decode_base64(line.substr(0, space));
    if (!bytes)
      return fail("expected base64, found \"" + std::string(line.substr(0, std::min<std::size_t>(space, 60))) + "\"");
    if (bytes->size() > kLongestToken) {
      return fail("expected a token of at most 1024 bytes, found " + std::to_string(bytes->size()));
    }
    std::size_t rank = 0;
    const char* end = line.data() + line.size();
    const auto [stop, error] = std::from_chars(line.data() + space + 1, end, rank);
    if (error != std::errc{} || stop != end || rank != tokens_.size()) {
      return fail("expected rank " + std::to_string(tokens_.size()) + ", found \"" +
                  std::string(line.substr(space + 1).substr(0, 60)) + "\"");
    }
    if (tokens_.size() >= kLlama3Ranks) return fail("expected at most 128000 ranks, found more");
    tokens_.push_back(*std::move(bytes));
    return {};
  }

  Result<VocabularyData> finish() {
    std::unordered_map<std::string_view, std::uint32_t> ids;
    ids.reserve(tokens_.size());
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      const auto [entry, is_new] = ids.try_emplace(tokens_[id], static_cast<std::uint32_t>(id));
      if (!is_new) {
        return Error{ErrorCode::kTokenizer, name_ + ": ranks " + std::to_string(entry->second) + " and " +
                                                std::to_string(id) + " are the same token; the file is damaged"};
      }
    }
    VocabularyData data;
    data.model = "gpt2";
    data.pre = "llama-bpe";
    for (const std::string& token : tokens_) data.tokens.push_back(spell_bytes(token));
    std::vector<std::pair<std::uint32_t, std::uint32_t>> halves;
    for (const std::string& token : tokens_) {
      halves.clear();
      for (std::size_t cut = 1; cut < token.size(); ++cut) {
        const auto left = ids.find(std::string_view(token).substr(0, cut));
        if (left == ids.end()) continue;
        const auto right = ids.find(std::string_view(token).substr(cut));
        if (right != ids.end()) halves.emplace_back(left->second, right->second);
      }
      std::sort(halves.begin(), halves.end());
      for (const auto& [left, right] : halves) data.merges.push_back(data.tokens[left] + " " + data.tokens[right]);
    }
    data.types.assign(data.tokens.size(), 1);
    add_special(data);
    return data;
  }

  static void add_special(VocabularyData& data) {
    std::size_t reserved = 0;
    for (std::size_t i = 0; i < kSpecialTokens; ++i) {
      const auto named = std::find_if(kNamed.begin(), kNamed.end(), [&](const Special& s) { return s.offset == i; });
      data.tokens.push_back(named != kNamed.end() ? std::string(named->name)
                                                  : "<|reserved_special_token_" + std::to_string(reserved++) + "|>");
      data.types.push_back(3);
    }
    data.bos = static_cast<std::uint32_t>(kLlama3Ranks);
    data.eos = static_cast<std::uint32_t>(kLlama3Ranks + 1);
    data.eom = static_cast<std::uint32_t>(kLlama3Ranks + 8);
    data.eot = static_cast<std::uint32_t>(kLlama3Ranks + 9);
  }

  std::string_view text_;
  std::string name_;
  std::size_t line_ = 0;
  std::vector<std::string> tokens_;
};

}  // namespace

bool looks_like_tiktoken(std::string_view text) {
  const std::string_view line = text.substr(0, std::min(text.find('\n'), text.size()));
  const std::size_t space = line.find(' ');
  return space != std::string_view::npos && decode_base64(line.substr(0, space)).has_value();
}

Result<VocabularyData> read_tiktoken(std::string_view text, const std::string& name) {
  return TiktokenReader(text, name).run();
}

}  // namespace bitnet::tokenizer
