#include "runtime/tokenizer/tokenizer_json.h"

#include <cmath>
#include <unordered_map>
#include <utility>

#include "runtime/tokenizer/base64.h"
#include "runtime/tokenizer/json_reader.h"
#include "runtime/tokenizer/pipeline.h"
#include "runtime/tokenizer/vocabulary.h"

namespace bitnet::tokenizer {
namespace {

constexpr std::int32_t kNormalType = 1;
constexpr std::int32_t kUnknownType = 2;
constexpr std::int32_t kControlType = 3;
constexpr std::int32_t kUserType = 4;
constexpr std::int32_t kUnusedType = 5;
constexpr std::int32_t kByteType = 6;
constexpr float kUnusedScore = -1000.0F;
constexpr std::size_t kMostGaps = 1 << 20;  // ids without a token, so that a wrong id does not ask for all memory

class TokenizerJson {
 public:
  TokenizerJson(const Json& document, const std::string& name) : reader_(document, name) {}

  Result<VocabularyData> run() {
    BITNET_ASSIGN_OR_RETURN(const Json* object, reader_.object("model"));
    const JsonReader model(*object, reader_.where() + ": model");
    BITNET_ASSIGN_OR_RETURN(const std::string type,
                            model.text_or("type", model.find("merges") != nullptr ? "BPE" : "(none)"));
    if (type == "BPE") {
      BITNET_RETURN_IF_ERROR(read_bpe(model));
    } else if (type == "Unigram") {
      BITNET_RETURN_IF_ERROR(read_unigram(model));
    } else {
      return model.fail("type \"" + type + "\" is not supported; supported are BPE and Unigram");
    }
    BITNET_RETURN_IF_ERROR(read_pipeline(model));
    if (type == "BPE") BITNET_RETURN_IF_ERROR(read_merges(model));
    BITNET_RETURN_IF_ERROR(read_added());
    name_gaps();
    BITNET_RETURN_IF_ERROR(mark_unknown(model, type));
    mark_bytes();
    data_.add_bos = data_.add_eos = false;
    return read_processor();
  }

 private:
  [[nodiscard]] Status put(std::size_t id, const std::string& token, std::int32_t type) {
    if (id >= known_ + kMostGaps) {
      return reader_.fail("token \"" + token + "\" has the id " + std::to_string(id) + "; expected less than " +
                          std::to_string(known_ + kMostGaps) + " with so few tokens");
    }
    if (id >= data_.tokens.size()) {
      data_.tokens.resize(id + 1);
      data_.types.resize(id + 1, kUnusedType);
      used_.resize(id + 1, false);
    }
    if (used_[id] && data_.tokens[id] != token) {
      return reader_.fail("tokens \"" + data_.tokens[id] + "\" and \"" + token + "\" have both the id " +
                          std::to_string(id));
    }
    data_.tokens[id] = token;
    data_.types[id] = type;
    used_[id] = true;
    return {};
  }

  Status read_bpe(const JsonReader& model) {
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      BITNET_ASSIGN_OR_RETURN(const std::string text, model.text_or(key, ""));
      if (!text.empty()) return model.fail(std::string(key) + " is not supported; found \"" + text + "\"");
    }
    const Json* dropout = model.find("dropout");
    if (dropout != nullptr && *dropout != 0.0) return model.fail("dropout is not supported; it draws by chance");
    BITNET_ASSIGN_OR_RETURN(const Json* vocab, model.object("vocab"));
    known_ = vocab->size();
    for (const auto& [token, id] : vocab->items()) {
      if (!id.is_number_unsigned()) return model.fail("vocab: expected an id for \"" + token + "\"");
      BITNET_RETURN_IF_ERROR(put(id.get<std::uint64_t>(), token, kNormalType));
    }
    return {};
  }

  Status read_unigram(const JsonReader& model) {
    data_.model = "t5";
    BITNET_ASSIGN_OR_RETURN(const Json* vocab, model.list("vocab"));
    known_ = vocab->size();
    for (std::size_t id = 0; id < vocab->size(); ++id) {
      const Json& entry = (*vocab)[id];
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
        return model.fail("vocab[" + std::to_string(id) + "]: expected [token, score]");
      }
      const float score = entry[1].get<float>();
      if (!std::isfinite(score)) return model.fail("vocab[" + std::to_string(id) + "]: the score is not finite");
      BITNET_RETURN_IF_ERROR(put(id, entry[0].get_ref<const std::string&>(), kNormalType));
      data_.scores.push_back(score);
    }
    return {};
  }

  // The steps are parsed here to be checked, and once more where the vocabulary is used.
  Status read_pipeline(const JsonReader& model) {
    Json steps = Json::object();
    for (const char* key : {"normalizer", "pre_tokenizer", "decoder"}) {
      if (const Json* value = reader_.find(key)) steps[key] = *value;
    }
    for (const char* key : {"ignore_merges", "fuse_unk", "byte_fallback"}) {
      BITNET_ASSIGN_OR_RETURN(const bool flag, model.flag_or(key, false));
      if (flag) steps[key] = true;
      if (std::string_view(key) == "byte_fallback") byte_fallback_ = flag;
    }
    if (const auto found = steps.find("normalizer"); found != steps.end()) {
      BITNET_RETURN_IF_ERROR(take_charsmap(*found, 0));
    }
    const std::string text = steps.dump(-1, ' ', false, Json::error_handler_t::replace);
    BITNET_ASSIGN_OR_RETURN(const Pipeline pipeline, parse_pipeline(text, reader_.where()));
    byte_level_ = pipeline.byte_level;
    if (byte_level_ && data_.model == "t5") return reader_.fail("Unigram with ByteLevel is not supported");
    if (!byte_level_) {
      data_.add_space_prefix = pipeline.strips_space;
      data_.pipeline = text;
      return {};
    }
    data_.model = "gpt2";
    const std::string_view pre = name_of(pipeline);
    data_.pre = pre.empty() ? "default" : pre;
    const bool told = !pre.empty() && pipeline.normalizer.empty() && !pipeline.marks_spaces && !pipeline.strips_space &&
                      name_ignores_merges(pre) == pipeline.ignore_merges;
    if (!told) data_.pipeline = text;
    return {};
  }

  // Precompiled carries its map in base64; it goes where other files have it.
  Status take_charsmap(Json& step, int depth) {
    if (!step.is_object() || depth > 4) return {};
    const JsonReader reader(step, reader_.where() + ": normalizer");
    if (const auto list = step.find("normalizers"); list != step.end() && list->is_array()) {
      for (Json& inner : *list) BITNET_RETURN_IF_ERROR(take_charsmap(inner, depth + 1));
      return {};
    }
    const auto type = step.find("type");
    if (type == step.end() || *type != "Precompiled") return {};
    BITNET_ASSIGN_OR_RETURN(const std::string text, reader.text_or("precompiled_charsmap", ""));
    std::optional<std::string> map = decode_base64(text);
    if (!map || !data_.charsmap.empty()) return reader.fail("Precompiled: expected one map of characters in base64");
    data_.charsmap.assign(map->begin(), map->end());
    step.erase("precompiled_charsmap");
    return {};
  }

  Status read_merges(const JsonReader& model) {
    BITNET_ASSIGN_OR_RETURN(const Json* merges, model.list("merges"));
    data_.merges.reserve(merges->size());
    for (const Json& merge : *merges) {
      if (merge.is_string()) {
        data_.merges.push_back(merge.get<std::string>());
        continue;
      }
      const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
      if (!pair) return model.fail("merges[" + std::to_string(data_.merges.size()) + "]: expected two tokens");
      data_.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    }
    if (data_.merges.empty()) return model.fail("merges: expected at least one, found none");
    if (!byte_level_) score_by_merges();
    return {};
  }

  // For programs that merge by scores: the earlier a token can be formed, the better.
  void score_by_merges() {
    std::unordered_map<std::string_view, std::size_t> ids;
    for (std::size_t id = 0; id < data_.tokens.size(); ++id) ids.emplace(data_.tokens[id], id);
    data_.scores.assign(data_.tokens.size(), 0.0F);
    float next = 0;
    std::string whole;
    for (const std::string& merge : data_.merges) {
      whole = merge;
      whole.erase(std::min(whole.find(' '), whole.size() - 1), 1);
      const auto found = ids.find(whole);
      if (found != ids.end() && data_.scores[found->second] == 0.0F) data_.scores[found->second] = --next;
    }
  }

  Status read_added() {
    BITNET_ASSIGN_OR_RETURN(const Json* list, reader_.list("added_tokens"));
    known_ += list->size();
    const std::vector<bool> in_model = used_;
    std::vector<std::pair<std::size_t, std::uint8_t>> flags;
    for (std::size_t i = 0; i < list->size(); ++i) {
      const JsonReader token((*list)[i], reader_.where() + ": added_tokens[" + std::to_string(i) + "]");
      BITNET_ASSIGN_OR_RETURN(const std::uint32_t id, token.id("id"));
      BITNET_ASSIGN_OR_RETURN(const std::string content, token.text("content"));
      BITNET_ASSIGN_OR_RETURN(const bool special, token.flag_or("special", false));
      BITNET_RETURN_IF_ERROR(put(id, content, special ? kControlType : kUserType));
      unsigned bits = 0;
      for (const auto& [key, bit] :
           {std::pair("lstrip", kTokenLstrip), std::pair("rstrip", kTokenRstrip),
            std::pair("single_word", kTokenSingleWord), std::pair("normalized", kTokenNormalized)}) {
        BITNET_ASSIGN_OR_RETURN(const bool flag, token.flag_or(key, bit == kTokenNormalized && !special));
        if (flag) bits |= bit;
      }
      // Texts do not become a special token in another way where only its whole spelling can be it.
      const bool matters = !special || !byte_level_ || (bits & kTokenSingleWord) != 0;
      if (matters && id < in_model.size() && in_model[id]) bits |= kTokenPiece;
      if (bits != 0) flags.emplace_back(id, static_cast<std::uint8_t>(bits));
    }
    if (!data_.scores.empty()) data_.scores.resize(data_.tokens.size(), 0.0F);
    if (!flags.empty()) data_.flags.resize(data_.tokens.size());
    for (const auto& [id, bits] : flags) data_.flags[id] = bits;
    return {};
  }

  void name_gaps() {
    for (std::size_t id = 0; id < data_.tokens.size(); ++id) {
      if (used_[id]) continue;
      data_.tokens[id] = "[PAD" + std::to_string(id) + "]";
      if (!data_.scores.empty()) data_.scores[id] = kUnusedScore;
    }
  }

  Status mark_unknown(const JsonReader& model, const std::string& type) {
    std::size_t id = data_.tokens.size();
    if (type == "Unigram") {
      if (model.find("unk_id") == nullptr) return {};
      BITNET_ASSIGN_OR_RETURN(id, model.id("unk_id"));
    } else {
      BITNET_ASSIGN_OR_RETURN(const std::string token, model.text_or("unk_token", ""));
      if (token.empty()) return {};
      for (id = 0; id < data_.tokens.size() && !(used_[id] && data_.tokens[id] == token);) ++id;
    }
    if (id >= data_.tokens.size()) return model.fail("the unknown token is not in the vocabulary");
    data_.unknown = static_cast<std::uint32_t>(id);
    // Only as an added token is its spelling looked for in texts.
    if (!byte_level_ && data_.types[id] == kControlType) data_.types[id] = kUnknownType;
    return {};
  }

  void mark_bytes() {
    if (!byte_fallback_ || byte_level_) return;
    for (std::size_t id = 0; id < data_.tokens.size(); ++id) {
      if (byte_token_value(data_.tokens[id]) >= 0 && data_.types[id] != kUserType) data_.types[id] = kByteType;
    }
  }

  Result<VocabularyData> read_processor() {
    if (reader_.find("post_processor") == nullptr) return std::move(data_);
    BITNET_ASSIGN_OR_RETURN(const Json* object, reader_.object("post_processor"));
    BITNET_RETURN_IF_ERROR(processor(JsonReader(*object, reader_.where() + ": post_processor"), 0));
    return std::move(data_);
  }

  Status processor(const JsonReader& reader, int depth) {
    BITNET_ASSIGN_OR_RETURN(const std::string type, reader.text("type"));
    if (type == "ByteLevel") return {};
    if (type == "Sequence" && depth < 4) {
      BITNET_ASSIGN_OR_RETURN(const Json* list, reader.list("processors"));
      for (const Json& inner : *list) BITNET_RETURN_IF_ERROR(processor(JsonReader(inner, reader.where()), depth + 1));
      return {};
    }
    if (type == "TemplateProcessing") return template_processor(reader);
    if (type == "RobertaProcessing" || type == "BertProcessing") {
      BITNET_RETURN_IF_ERROR(framing(reader, "cls", data_.bos, data_.add_bos));
      return framing(reader, "sep", data_.eos, data_.add_eos);
    }
    return reader.fail("type \"" + type +
                       "\" is not supported; supported are ByteLevel, TemplateProcessing, "
                       "RobertaProcessing, BertProcessing and Sequence");
  }

  // [token, id]
  static Status framing(const JsonReader& reader, const char* key, std::optional<std::uint32_t>& id,
                        std::optional<bool>& adds) {
    const Json* value = reader.find(key);
    if (value == nullptr || !value->is_array() || value->size() != 2 || !(*value)[1].is_number_unsigned() ||
        (*value)[1].get<std::uint64_t>() > INT32_MAX) {
      return reader.fail(std::string(key) + ": expected [token, id]");
    }
    id = (*value)[1].get<std::uint32_t>();
    adds = true;
    return {};
  }

  // "single": at most one special token before the text, and one behind it.
  Status template_processor(const JsonReader& reader) {
    BITNET_ASSIGN_OR_RETURN(const Json* list, reader.list("single"));
    bool behind = false;
    for (const Json& entry : *list) {
      if (entry.is_object() && entry.contains("Sequence")) {
        if (behind) return reader.fail("single: expected the text once");
        behind = true;
        continue;
      }
      const JsonReader outer(entry, reader.where() + ": single");
      BITNET_ASSIGN_OR_RETURN(const Json* special, outer.object("SpecialToken"));
      BITNET_ASSIGN_OR_RETURN(const std::string name, JsonReader(*special, outer.where()).text("id"));
      BITNET_ASSIGN_OR_RETURN(const Json* tokens, reader.object("special_tokens"));
      BITNET_ASSIGN_OR_RETURN(const Json* token, JsonReader(*tokens, reader.where()).object(name.c_str()));
      const JsonReader ids(*token, reader.where() + ": special_tokens: " + name);
      BITNET_ASSIGN_OR_RETURN(const Json* values, ids.list("ids"));
      auto& adds = behind ? data_.add_eos : data_.add_bos;
      const bool one = values->size() == 1 && (*values)[0].is_number_unsigned() &&
                       (*values)[0].get<std::uint64_t>() < data_.tokens.size();
      if (!one || *adds) return ids.fail("expected one token before the text and one behind it at most");
      (behind ? data_.eos : data_.bos) = (*values)[0].get<std::uint32_t>();
      adds = true;
    }
    return {};
  }

  JsonReader reader_;
  VocabularyData data_;
  std::vector<bool> used_;  // by id
  std::size_t known_ = 0;   // tokens so far
  bool byte_level_ = false;
  bool byte_fallback_ = false;
};

}  // namespace

Result<VocabularyData> read_tokenizer_json(std::string_view json, const std::string& name) {
  BITNET_ASSIGN_OR_RETURN(const Json document, parse_json(json, name));
  if (!document.is_object()) return Error{ErrorCode::kTokenizer, name + ": expected a JSON object"};
  return TokenizerJson(document, name).run();
}

}  // namespace bitnet::tokenizer
