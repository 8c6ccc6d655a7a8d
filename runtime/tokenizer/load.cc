// Checking a vocabulary and making its tables: after this, encoder and decoder index without further checks.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <utility>

#include "runtime/tokenizer/byte_spelling.h"
#include "runtime/tokenizer/vocabulary.h"

namespace bitnet::tokenizer {
namespace {

constexpr std::size_t kLlama3Tokens = 128256;
constexpr double kUnknownPenalty = 10;  // below the worst piece, as in SentencePiece

std::string quoted_text(std::string_view text) { return "\"" + std::string(text) + "\""; }

class Loader {
 public:
  Loader(VocabularyData data, std::string name, bool strict)
      : name_(std::move(name)), strict_(strict), vocabulary_(std::make_unique<Vocabulary>()) {
    vocabulary_->data = std::move(data);
  }

  Result<std::shared_ptr<const Vocabulary>> load() {
    BITNET_RETURN_IF_ERROR(check_model());
    BITNET_RETURN_IF_ERROR(check_tokens());
    BITNET_RETURN_IF_ERROR(check_scores());
    BITNET_RETURN_IF_ERROR(read_types());
    BITNET_RETURN_IF_ERROR(read_ids());
    BITNET_RETURN_IF_ERROR(choose_pipeline());
    BITNET_RETURN_IF_ERROR(index_bytes());
    switch (vocabulary_->engine) {
      case Engine::kScores:
        break;
      case Engine::kRanks:
        BITNET_RETURN_IF_ERROR(index_merges());
        break;
      case Engine::kUnigram:
        index_unigram();
        break;
    }
    BITNET_RETURN_IF_ERROR(index_added());
    return std::shared_ptr<const Vocabulary>(std::move(vocabulary_));
  }

 private:
  Error fail(const std::string& what) const { return {ErrorCode::kTokenizer, name_ + ": " + what}; }

  Status check_model() {
    const VocabularyData& data = vocabulary_->data;
    if (data.model == "llama") {
      vocabulary_->engine = data.merges.empty() ? Engine::kScores : Engine::kRanks;
    } else if (data.model == "gpt2") {
      vocabulary_->engine = Engine::kRanks;
    } else if (data.model == "t5") {
      vocabulary_->engine = Engine::kUnigram;
    } else {
      return fail("tokenizer.ggml.model is " + quoted_text(data.model) +
                  "; supported are \"llama\" (SentencePiece BPE), \"gpt2\" (byte-level BPE) and \"t5\" (unigram); give "
                  "token ids with --prompt-ids instead of text");
    }
    if (data.model == "gpt2" && data.merges.empty()) {
      return fail("tokenizer.ggml.merges is missing or empty; byte-level BPE needs it");
    }
    return {};
  }

  Status check_tokens() const {
    const std::size_t size = vocabulary_->data.tokens.size();
    if (size > 0 && size <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) return {};
    return fail("tokenizer.ggml.tokens has " + std::to_string(size) + " tokens; expected 1 to 2147483647");
  }

  Status check_parallel(const char* key, std::size_t count) const {
    const std::size_t size = vocabulary_->data.tokens.size();
    if (count == size) return {};
    return fail(std::string(key) + " has " + std::to_string(count) + " entries; expected " + std::to_string(size) +
                ", one for each of tokenizer.ggml.tokens");
  }

  Status check_scores() const {
    const std::vector<float>& scores = vocabulary_->data.scores;
    if (!(scores.empty() && vocabulary_->engine == Engine::kRanks)) {
      BITNET_RETURN_IF_ERROR(check_parallel("tokenizer.ggml.scores", scores.size()));
    }
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (!std::isfinite(scores[i])) return fail("tokenizer.ggml.scores[" + std::to_string(i) + "] is not finite");
    }
    return {};
  }

  Status read_types() {
    Vocabulary& v = *vocabulary_;
    if (v.data.types.empty() && v.data.model == "gpt2") {
      BITNET_RETURN_IF_ERROR(
          assume("tokenizer.ggml.token_type is missing; tokens spelled <|...|> and those that begin and end texts are "
                 "taken for control tokens, all others for normal ones"));
      v.types.assign(v.data.tokens.size(), TokenType::kNormal);
      for (std::size_t i = 0; i < v.types.size(); ++i) {
        const std::string_view token = v.data.tokens[i];
        if (token.size() > 4 && token.starts_with("<|") && token.ends_with("|>")) v.types[i] = TokenType::kControl;
      }
      for (const auto& id : {v.data.bos, v.data.eos, v.data.eot, v.data.eom}) {
        if (id && *id < v.types.size()) v.types[*id] = TokenType::kControl;
      }
    } else {
      BITNET_RETURN_IF_ERROR(check_parallel("tokenizer.ggml.token_type", v.data.types.size()));
    }
    v.types.reserve(v.data.types.size());
    for (std::size_t i = 0; i < v.data.types.size(); ++i) {
      if (v.data.types[i] < 0 || v.data.types[i] > static_cast<std::int32_t>(TokenType::kByte)) {
        return fail("tokenizer.ggml.token_type[" + std::to_string(i) + "] is " + std::to_string(v.data.types[i]) +
                    "; expected 0 to 6");
      }
      v.types.push_back(static_cast<TokenType>(v.data.types[i]));
    }
    if (!v.data.flags.empty()) {
      BITNET_RETURN_IF_ERROR(check_parallel("bitnet.tokenizer.token_flags", v.data.flags.size()));
    }
    return {};
  }

  Status check_id(const char* name, const std::optional<std::uint32_t>& id, std::int32_t& target) const {
    if (!id) return {};
    if (*id >= vocabulary_->data.tokens.size()) {
      return fail("tokenizer.ggml." + std::string(name) + "_token_id is " + std::to_string(*id) +
                  "; expected less than the " + std::to_string(vocabulary_->data.tokens.size()) +
                  " tokens of the vocabulary");
    }
    target = static_cast<std::int32_t>(*id);
    return {};
  }

  // An id that nothing here uses: told where it is wrong, and no reason to refuse the model but in strict mode.
  Status check_unused_id(const char* name, const std::optional<std::uint32_t>& id) {
    std::int32_t ignored = kNone;
    const Status checked = check_id(name, id, ignored);
    if (checked.ok()) return {};
    return assume(checked.error().message.substr(name_.size() + 2) + "; the id is ignored");
  }

  // Tells what is assumed, or refuses it in strict mode.
  Status assume(const std::string& what) {
    if (strict_) {
      return Error{ErrorCode::kStrict,
                   name_ + ": " + what + ": strict mode assumes nothing; convert the model again, or correct the key"};
    }
    vocabulary_->notes.push_back(what);
    return {};
  }

  std::int32_t find_control(std::string_view spelling) const {
    const Vocabulary& v = *vocabulary_;
    for (std::int32_t id = 0; id < v.size(); ++id) {
      const TokenType type = v.type(id);
      const bool fits = type == TokenType::kControl || type == TokenType::kUserDefined || type == TokenType::kUnknown;
      if (fits && v.piece(id) == spelling) return id;
    }
    return kNone;
  }

  Status read_ids() {
    Vocabulary& v = *vocabulary_;
    BITNET_RETURN_IF_ERROR(check_id("bos", v.data.bos, v.bos));
    BITNET_RETURN_IF_ERROR(check_id("eos", v.data.eos, v.eos));
    BITNET_RETURN_IF_ERROR(check_id("eot", v.data.eot, v.eot));
    BITNET_RETURN_IF_ERROR(check_id("eom", v.data.eom, v.eom));
    BITNET_RETURN_IF_ERROR(check_id("unknown", v.data.unknown, v.unknown));
    BITNET_RETURN_IF_ERROR(check_unused_id("padding", v.data.pad));
    BITNET_RETURN_IF_ERROR(check_unused_id("seperator", v.data.sep));
    BITNET_RETURN_IF_ERROR(check_unused_id("mask", v.data.mask));
    if (v.unknown != kNone && v.type(v.unknown) == TokenType::kUndefined) {
      v.types[static_cast<std::size_t>(v.unknown)] = TokenType::kUnknown;
      v.mergeable_unknown = v.unknown;
    }
    if (v.unknown == kNone) {
      const auto found = std::find(v.types.begin(), v.types.end(), TokenType::kUnknown);
      if (found != v.types.end()) v.unknown = static_cast<std::int32_t>(found - v.types.begin());
    }
    if (v.data.model == "llama") {
      if (v.bos == kNone) v.bos = find_control("<s>");
      if (v.eos == kNone) v.eos = find_control("</s>");
    }
    const bool is_gpt2 = v.data.model == "gpt2";
    const bool is_llama = v.data.model == "llama";
    v.add_bos = v.data.add_bos.value_or(is_llama || (is_gpt2 && (v.data.pre.empty() || name_adds_bos(v.data.pre))));
    v.add_eos = v.data.add_eos.value_or(v.data.model == "t5");
    return {};
  }

  Status choose_pipeline() {
    Vocabulary& v = *vocabulary_;
    if (!v.data.charsmap.empty()) {
      BITNET_ASSIGN_OR_RETURN(v.charsmap, Charsmap::open(v.data.charsmap, name_ + ": precompiled map of characters"));
    }
    if (!v.data.pipeline.empty()) {
      BITNET_ASSIGN_OR_RETURN(v.pipeline, parse_pipeline(v.data.pipeline, name_));
      if (v.pipeline.byte_level != (v.data.model == "gpt2")) {
        return fail("its pre_tokenizer is " + std::string(v.pipeline.byte_level ? "" : "not ") +
                    "ByteLevel; that does not fit tokenizer model " + quoted_text(v.data.model));
      }
    } else if (v.data.model == "gpt2") {
      BITNET_RETURN_IF_ERROR(choose_named());
    } else {
      sentencepiece_pipeline();
    }
    const Status compiled = compile_patterns(v.pipeline);
    if (!compiled.ok()) return Error{compiled.error().code, name_ + ": " + compiled.error().message};
    using Kind = NormalizerStep::Kind;
    v.needs_utf8 = !v.pipeline.splits.empty();
    for (const NormalizerStep& step : v.pipeline.normalizer) {
      v.needs_utf8 = v.needs_utf8 || (step.kind != Kind::kPrepend && step.kind != Kind::kReplace);
    }
    v.cuts_at_borders = !v.pipeline.byte_level;
    return {};
  }

  Status choose_named() {
    Vocabulary& v = *vocabulary_;
    std::string pre = v.data.pre;
    if (pre.empty() && v.data.tokens.size() == kLlama3Tokens) {
      pre = "llama-bpe";
      BITNET_RETURN_IF_ERROR(
          assume("tokenizer.ggml.pre is missing; for a byte-level BPE vocabulary of 128256 tokens llama-bpe (Llama 3) "
                 "is assumed"));
    }
    BITNET_ASSIGN_OR_RETURN(std::optional<Pipeline> pipeline, named_pipeline(pre));
    if (!pipeline) {
      // What llama.cpp's converter writes where it knows no name; text would be cut by a guess.
      const bool unnamed = pre.empty() || pre == "default";
      return fail("tokenizer.ggml.pre is " + (pre.empty() ? "missing" : quoted_text(pre)) + "; supported are " +
                  known_names() +
                  (unnamed ? "; convert the model from its Hugging Face directory, whose tokenizer.json says how text "
                             "is cut, or give token ids with --prompt-ids instead of text"
                           : "; give token ids with --prompt-ids instead of text"));
    }
    v.pipeline = *std::move(pipeline);
    return {};
  }

  // Spaces become U+2581, and there is one before the text.
  void sentencepiece_pipeline() {
    Vocabulary& v = *vocabulary_;
    const auto add = [&](NormalizerStep::Kind kind, std::string_view pattern, std::string_view content) {
      NormalizerStep step;
      step.kind = kind;
      step.pattern = pattern;
      step.content = content;
      v.pipeline.normalizer.push_back(std::move(step));
    };
    const bool prefix = v.data.add_space_prefix.value_or(true);
    // SentencePiece BPE files carry neither a map nor the wish to lose spaces where llama.cpp reads them, and it would
    // heed neither.
    if (v.engine == Engine::kUnigram) {
      if (!v.data.charsmap.empty()) add(NormalizerStep::Kind::kCharsmap, "", "");
      if (v.data.remove_extra_whitespaces.value_or(false)) add(NormalizerStep::Kind::kCollapseSpaces, "", "");
    }
    if (prefix) add(NormalizerStep::Kind::kPrepend, "", kSpaceMark);
    add(NormalizerStep::Kind::kReplace, " ", kSpaceMark);
    v.pipeline.marks_spaces = true;
    v.pipeline.strips_space = prefix;
    v.pipeline.byte_fallback = true;
    v.pipeline.fuse_unknown = true;
  }

  Status index_bytes() {
    Vocabulary& v = *vocabulary_;
    v.byte_ids.fill(kNone);
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
    if (v.pipeline.byte_level) {
      spell_tokens();
      return {};
    }
    const auto missing = std::count(v.byte_ids.begin(), v.byte_ids.end(), kNone);
    v.has_bytes = missing == 0;
    if (v.has_bytes || (missing == 256 && v.engine != Engine::kScores)) return {};
    const auto first =
        static_cast<unsigned>(std::find(v.byte_ids.begin(), v.byte_ids.end(), kNone) - v.byte_ids.begin());
    char spelling[8];
    std::snprintf(spelling, sizeof spelling, "<0x%02X>", first);
    return fail(std::string("byte token ") + spelling +
                " is missing; a SentencePiece BPE vocabulary needs all 256 (type 6) to encode any text");
  }

  // Byte-level: what every token stands for. A normal token with a character that stands for no byte (writers add such
  // tokens as plain text) stands for itself, and nothing merges to it.
  void spell_tokens() {
    Vocabulary& v = *vocabulary_;
    v.bytes.resize(v.data.tokens.size());
    for (std::int32_t id = 0; id < v.size(); ++id) {
      const TokenType type = v.type(id);
      const bool added = type == TokenType::kControl || type == TokenType::kUserDefined;
      if (added && !v.is_added_piece(id)) continue;
      std::optional<std::string> bytes = unspell_bytes(v.piece(id));
      if (bytes && bytes->size() == 1 && type != TokenType::kByte && type != TokenType::kUnknown) {
        v.byte_ids[static_cast<unsigned char>(bytes->front())] = id;
      }
      v.bytes[static_cast<std::size_t>(id)] = bytes ? *std::move(bytes) : std::string(v.piece(id));
    }
    v.has_bytes = std::count(v.byte_ids.begin(), v.byte_ids.end(), kNone) == 0;
  }

  Status index_merges() {
    Vocabulary& v = *vocabulary_;
    std::unordered_map<std::string_view, std::int32_t> ids;
    ids.reserve(v.data.tokens.size());
    for (std::int32_t id = 0; id < v.size(); ++id) ids[v.piece(id)] = id;
    std::string joined;
    for (std::size_t i = 0; i < v.data.merges.size(); ++i) {
      const std::string_view merge = v.data.merges[i];
      const std::size_t space = merge.find(' ');
      if (space == 0 || space == std::string_view::npos || space + 1 == merge.size() ||
          merge.find(' ', space + 1) != std::string_view::npos) {
        return fail("merge " + std::to_string(i) + " is " + quoted_text(merge) +
                    "; expected two tokens with a space between them");
      }
      joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
      const auto left = ids.find(merge.substr(0, space));
      const auto right = ids.find(merge.substr(space + 1));
      const auto whole = ids.find(joined);
      if (left == ids.end() || right == ids.end() || whole == ids.end()) {
        const std::string_view unknown =
            left == ids.end() ? merge.substr(0, space) : (right == ids.end() ? merge.substr(space + 1) : joined);
        return fail("merge " + std::to_string(i) + " is " + quoted_text(merge) + ", but " + quoted_text(unknown) +
                    " is no token; vocabulary and merges do not belong together");
      }
      if (v.type(whole->second) == TokenType::kControl && !v.is_added_piece(whole->second)) continue;
      v.ranks.insert(static_cast<std::uint32_t>(left->second), static_cast<std::uint32_t>(right->second),
                     {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(whole->second)});
    }
    return {};
  }

  void index_unigram() {
    Vocabulary& v = *vocabulary_;
    double worst = std::numeric_limits<double>::infinity();
    for (std::int32_t id = 0; id < v.size(); ++id) {
      const TokenType type = v.type(id);
      if (type == TokenType::kUnused || v.piece(id).empty()) continue;
      // For Hugging Face's tokenizers bytes are pieces like all others, for SentencePiece they are none.
      if (type == TokenType::kByte && v.data.pipeline.empty()) continue;
      worst = std::min(worst, static_cast<double>(v.score(id)));
      const bool added = type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kUserDefined;
      if (type == TokenType::kByte || (added && !v.is_added_piece(id))) continue;
      v.pieces.insert(v.piece(id), static_cast<std::uint32_t>(id));
    }
    v.unknown_score = (std::isfinite(worst) ? worst : 0) - kUnknownPenalty;
  }

  Status index_added() {
    Vocabulary& v = *vocabulary_;
    MatchRoom room;
    for (std::int32_t id = 0; id < v.size(); ++id) {
      const TokenType type = v.type(id);
      const bool added = type == TokenType::kUserDefined || type == TokenType::kControl || type == TokenType::kUnknown;
      if (!added || v.piece(id).empty() || id == v.mergeable_unknown) continue;
      if ((v.flags(id) & kTokenNormalized) == 0) {
        v.added.insert(v.piece(id), static_cast<std::uint32_t>(id));
        continue;
      }
      if (!is_utf8(v.piece(id))) return fail("added token " + std::to_string(id) + " is not UTF-8");
      BITNET_ASSIGN_OR_RETURN(const std::string text, apply_normalizer(v.pipeline, v.charsmap, v.piece(id), room));
      if (!text.empty()) v.added_normalized.insert(text, static_cast<std::uint32_t>(id));
    }
    return {};
  }

  std::string name_;
  bool strict_;
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

Result<std::shared_ptr<const Vocabulary>> make_vocabulary(VocabularyData data, const std::string& name, bool strict) {
  return Loader(std::move(data), name, strict).load();
}

const Merges& Vocabulary::merges() const {
  std::call_once(merges_made_, [this] {
    merges_.pieces.reserve(data.tokens.size());
    for (std::int32_t id = 0; id < size(); ++id) {
      const TokenType kind = type(id);
      const bool cut_out = kind == TokenType::kControl || kind == TokenType::kUserDefined ||
                           (kind == TokenType::kUnknown && id != mergeable_unknown);
      if (kind == TokenType::kByte || (cut_out && !is_added_piece(id))) continue;
      const std::string_view piece =
          pipeline.byte_level ? std::string_view(bytes[static_cast<std::size_t>(id)]) : text(id);
      if (piece.empty()) continue;
      merges_.pieces[piece] = id;  // of equal spellings the last, as in llama.cpp
      merges_.longest = std::max(merges_.longest, piece.size());
      if (cuts_at_borders) add_neighbours(merges_, piece);
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

}  // namespace bitnet::tokenizer
