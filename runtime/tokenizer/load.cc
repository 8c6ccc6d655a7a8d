// Reading and checking a vocabulary: after this, encoder and decoder index without further checks.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"
#include "runtime/tokenizer/vocabulary.h"

namespace bitnet {
namespace tokenizer {
namespace {

constexpr std::uint64_t kNoId = std::numeric_limits<std::uint32_t>::max();  // writers' way to say "none"

// Spellings with which models end an answer, whatever their metadata name as the end of a text.
constexpr std::array<std::string_view, 8> kEndSpellings = {
    "</s>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|EOT|>"};

class Loader {
 public:
  explicit Loader(const gguf::File& file) : file_(file), vocabulary_(std::make_unique<Vocabulary>()) {}

  Result<std::shared_ptr<const Vocabulary>> load() {
    BITNET_RETURN_IF_ERROR(check_model());
    BITNET_RETURN_IF_ERROR(read_pieces());
    BITNET_RETURN_IF_ERROR(read_scores());
    BITNET_RETURN_IF_ERROR(read_types());
    BITNET_RETURN_IF_ERROR(index_bytes());
    index_pieces();
    BITNET_RETURN_IF_ERROR(read_ids());
    return std::shared_ptr<const Vocabulary>(std::move(vocabulary_));
  }

 private:
  Error fail(const std::string& what) const { return {ErrorCode::kTokenizer, file_.path() + ": " + what}; }
  // Errors of the container keep their message and get this room's code.
  static Error as_tokenizer(const Error& error) { return {ErrorCode::kTokenizer, error.message}; }

  Status check_model() const {
    if (file_.find("tokenizer.ggml.model") == nullptr) {
      return fail(
          "no tokenizer (key tokenizer.ggml.model is missing); give token ids with --prompt-ids instead of text");
    }
    const auto model = file_.get_string("tokenizer.ggml.model");
    if (!model.ok()) return as_tokenizer(model.error());
    if (*model != "llama") {
      return fail(
          "tokenizer.ggml.model is \"" + std::string(*model) +
          "\"; only \"llama\" (SentencePiece BPE) is supported; give token ids with --prompt-ids instead of text");
    }
    return {};
  }

  Status read_pieces() {
    const auto tokens = file_.get_array("tokenizer.ggml.tokens", gguf::ValueType::kString);
    if (!tokens.ok()) return as_tokenizer(tokens.error());
    const std::vector<std::string_view> views = tokens->strings();
    if (views.empty() || views.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
      return fail("tokenizer.ggml.tokens has " + std::to_string(views.size()) + " tokens; expected 1 to 2147483647");
    }
    std::size_t bytes = 0;
    for (const std::string_view view : views) bytes += view.size();
    vocabulary_->characters.reserve(bytes);
    for (const std::string_view view : views) vocabulary_->characters += view;
    vocabulary_->pieces.reserve(views.size());
    const char* next = vocabulary_->characters.data();
    for (const std::string_view view : views) {
      vocabulary_->pieces.emplace_back(next, view.size());
      next += view.size();
    }
    return {};
  }

  // An array that has one element for each token.
  Result<gguf::Array> parallel_array(std::string_view key, gguf::ValueType type) const {
    auto array = file_.get_array(key, type);
    if (!array.ok()) return as_tokenizer(array.error());
    if (array->count != vocabulary_->pieces.size()) {
      return fail(std::string(key) + " has " + std::to_string(array->count) + " entries; expected " +
                  std::to_string(vocabulary_->pieces.size()) + ", one for each of tokenizer.ggml.tokens");
    }
    return array;
  }

  Status read_scores() {
    BITNET_ASSIGN_OR_RETURN(const gguf::Array array, parallel_array("tokenizer.ggml.scores", gguf::ValueType::kF32));
    vocabulary_->scores = array.values<float>();
    for (std::size_t i = 0; i < vocabulary_->scores.size(); ++i) {
      if (!std::isfinite(vocabulary_->scores[i])) {
        return fail("tokenizer.ggml.scores[" + std::to_string(i) + "] is not finite");
      }
    }
    return {};
  }

  Status read_types() {
    BITNET_ASSIGN_OR_RETURN(const gguf::Array array,
                            parallel_array("tokenizer.ggml.token_type", gguf::ValueType::kI32));
    const std::vector<std::int32_t> types = array.values<std::int32_t>();
    vocabulary_->types.reserve(types.size());
    for (std::size_t i = 0; i < types.size(); ++i) {
      if (types[i] < 0 || types[i] > static_cast<std::int32_t>(TokenType::kByte)) {
        return fail("tokenizer.ggml.token_type[" + std::to_string(i) + "] is " + std::to_string(types[i]) +
                    "; expected 0 to 6");
      }
      vocabulary_->types.push_back(static_cast<TokenType>(types[i]));
    }
    return {};
  }

  Status index_bytes() {
    Vocabulary& v = *vocabulary_;
    v.byte_ids.fill(-1);
    for (std::int32_t id = 0; id < v.size(); ++id) {
      if (v.type(id) != TokenType::kByte) continue;
      const int value = byte_token_value(v.piece(id));
      if (value < 0) {
        return fail("token " + std::to_string(id) + " has type 6 (byte) but the spelling \"" +
                    std::string(v.piece(id)) + "\"; expected <0x00> to <0xFF>");
      }
      std::int32_t& slot = v.byte_ids[static_cast<std::size_t>(value)];
      if (slot >= 0) {
        return fail("tokens " + std::to_string(slot) + " and " + std::to_string(id) + " are both byte token " +
                    std::string(v.piece(id)));
      }
      slot = id;
    }
    for (std::size_t value = 0; value < v.byte_ids.size(); ++value) {
      if (v.byte_ids[value] >= 0) continue;
      char spelling[8];
      std::snprintf(spelling, sizeof spelling, "<0x%02X>", static_cast<unsigned>(value));
      return fail(std::string("byte token ") + spelling +
                  " is missing; a SentencePiece BPE vocabulary needs all 256 (type 6) to encode any text");
    }
    return {};
  }

  void index_pieces() {
    Vocabulary& v = *vocabulary_;
    for (std::int32_t id = 0; id < v.size(); ++id) {
      const std::string_view piece = v.piece(id);
      if (piece.empty()) continue;
      const TokenType type = v.type(id);
      const auto first = static_cast<unsigned char>(piece[0]);
      switch (type) {
        case TokenType::kUserDefined:
          v.user_defined[first].push_back(id);
          v.special[first].push_back(id);
          break;
        case TokenType::kControl:
        case TokenType::kUnknown:
          v.special[first].push_back(id);
          break;
        case TokenType::kUndefined:
        case TokenType::kNormal:
        case TokenType::kUnused:
        case TokenType::kByte:
          break;
      }
    }
    const auto longest_first = [&](std::int32_t a, std::int32_t b) {
      return v.piece(a).size() != v.piece(b).size() ? v.piece(a).size() > v.piece(b).size() : a < b;
    };
    for (auto& ids : v.user_defined) std::sort(ids.begin(), ids.end(), longest_first);
    for (auto& ids : v.special) std::sort(ids.begin(), ids.end(), longest_first);
  }

  // An optional id: absent, or the writer's -1, is nullopt.
  Result<std::optional<std::int32_t>> read_id(std::string_view key) const {
    if (file_.find(key) == nullptr) return std::optional<std::int32_t>{};
    const auto id = file_.get_uint(key);
    if (!id.ok()) return as_tokenizer(id.error());
    if (*id == kNoId) return std::optional<std::int32_t>{};
    if (*id >= vocabulary_->pieces.size()) {
      return fail(std::string(key) + " is " + std::to_string(*id) + "; expected less than the " +
                  std::to_string(vocabulary_->pieces.size()) + " tokens of the vocabulary");
    }
    return std::optional<std::int32_t>(static_cast<std::int32_t>(*id));
  }

  Result<bool> read_flag(std::string_view key, bool otherwise) const {
    if (file_.find(key) == nullptr) return otherwise;
    const auto flag = file_.get_bool(key);
    if (!flag.ok()) return as_tokenizer(flag.error());
    return *flag;
  }

  std::int32_t find_control(std::string_view spelling) const {
    for (const std::int32_t id : vocabulary_->special[static_cast<unsigned char>(spelling[0])]) {
      if (vocabulary_->piece(id) == spelling) return id;
    }
    return -1;
  }

  Status read_ids() {
    Vocabulary& v = *vocabulary_;
    BITNET_ASSIGN_OR_RETURN(const auto bos, read_id("tokenizer.ggml.bos_token_id"));
    BITNET_ASSIGN_OR_RETURN(const auto eos, read_id("tokenizer.ggml.eos_token_id"));
    BITNET_ASSIGN_OR_RETURN(const auto eot, read_id("tokenizer.ggml.eot_token_id"));
    BITNET_ASSIGN_OR_RETURN(const auto unknown, read_id("tokenizer.ggml.unknown_token_id"));
    // Nothing encodes to the unknown token (all bytes have tokens); its id is only checked, and marked for the decoder.
    if (unknown && v.type(*unknown) == TokenType::kUndefined) {
      v.types[static_cast<std::size_t>(*unknown)] = TokenType::kUnknown;
      v.mergeable_unknown = *unknown;
    }
    v.bos = bos.value_or(find_control("<s>"));
    v.eos = eos.value_or(find_control("</s>"));
    v.eot = eot.value_or(-1);
    BITNET_ASSIGN_OR_RETURN(v.add_bos, read_flag("tokenizer.ggml.add_bos_token", true));
    BITNET_ASSIGN_OR_RETURN(v.add_space_prefix, read_flag("tokenizer.ggml.add_space_prefix", true));
    return {};
  }

  const gguf::File& file_;
  std::unique_ptr<Vocabulary> vocabulary_;
};

void add_neighbours(Merges& merges, std::string_view piece) {
  Character left = next_character(piece);
  for (piece.remove_prefix(left.bytes); !piece.empty();) {
    const Character right = next_character(piece);
    merges.set_joins(left.code, right.code);
    piece.remove_prefix(right.bytes);
    left = right;
  }
}

}  // namespace

const Merges& Vocabulary::merges() const {
  std::call_once(merges_made_, [this] {
    merges_.pieces.reserve(pieces.size());
    for (std::int32_t id = 0; id < size(); ++id) {
      const TokenType kind = type(id);
      const std::string_view text = piece(id);
      if (text.empty() || kind == TokenType::kControl || kind == TokenType::kByte) continue;
      if (kind == TokenType::kUnknown && id != mergeable_unknown) continue;
      merges_.pieces[text] = id;  // of equal spellings the last, as in llama.cpp
      merges_.longest = std::max(merges_.longest, text.size());
      add_neighbours(merges_, text);
    }
  });
  return merges_;
}

int byte_token_value(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  const int high = digit(piece[3]);
  const int low = digit(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace tokenizer

Result<Tokenizer> Tokenizer::from_gguf(const gguf::File& file) {
  auto vocabulary = tokenizer::Loader(file).load();
  if (!vocabulary.ok()) return vocabulary.error();
  return Tokenizer(std::move(vocabulary).value());
}

bool Tokenizer::is_eos(std::int32_t id) const {
  const tokenizer::Vocabulary& v = *vocabulary_;
  if (!v.contains(id)) return false;
  if (id == v.eos || id == v.eot) return true;
  if (v.type(id) != tokenizer::TokenType::kControl && v.type(id) != tokenizer::TokenType::kUserDefined) return false;
  return std::find(tokenizer::kEndSpellings.begin(), tokenizer::kEndSpellings.end(), v.piece(id)) !=
         tokenizer::kEndSpellings.end();
}

}  // namespace bitnet
