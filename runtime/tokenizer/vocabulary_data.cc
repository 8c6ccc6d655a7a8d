// The metadata keys of a vocabulary, in file order, both ways.
#include "runtime/tokenizer/vocabulary_data.h"

#include <cstddef>
#include <cstring>
#include <limits>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "runtime/base/sha256.h"

namespace bitnet {
namespace {

constexpr std::uint64_t kNoId = std::numeric_limits<std::uint32_t>::max();  // writers' way to say "none"
constexpr const char* kDigestKey = "bitnet.tokenizer.sha256";
constexpr const char* kOwnMerges = "bitnet.tokenizer.merges";
constexpr const char* kMerges = "tokenizer.ggml.merges";

bool is_minus_one(const gguf::KeyValue& entry) {
  return std::visit(
      [](const auto& value) {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) return value == T{-1};
        return false;
      },
      entry.value);
}

class Reader {
 public:
  explicit Reader(const gguf::File& file) : file_(file) {}

  Result<VocabularyData> run() {
    if (file_.find("tokenizer.ggml.model") == nullptr) {
      return Error{ErrorCode::kTokenizer, file_.path() +
                                              ": no tokenizer (key tokenizer.ggml.model is missing); give token ids "
                                              "with --prompt-ids instead of text"};
    }
    VocabularyData data;
    data.pre.clear();
    BITNET_RETURN_IF_ERROR(read_text("tokenizer.ggml.model", data.model));
    BITNET_RETURN_IF_ERROR(read_text("tokenizer.ggml.pre", data.pre));
    if (data.model == "llama" || data.model == "gpt2" || data.model == "t5") BITNET_RETURN_IF_ERROR(read_arrays(data));
    BITNET_RETURN_IF_ERROR(read_id("bos", data.bos));
    BITNET_RETURN_IF_ERROR(read_id("eos", data.eos));
    BITNET_RETURN_IF_ERROR(read_id("eot", data.eot));
    BITNET_RETURN_IF_ERROR(read_id("eom", data.eom));
    BITNET_RETURN_IF_ERROR(read_id("unknown", data.unknown));
    BITNET_RETURN_IF_ERROR(read_id("seperator", data.sep));
    BITNET_RETURN_IF_ERROR(read_id("padding", data.pad));
    BITNET_RETURN_IF_ERROR(read_id("mask", data.mask));
    BITNET_RETURN_IF_ERROR(read_flag("add_bos_token", data.add_bos));
    BITNET_RETURN_IF_ERROR(read_flag("add_eos_token", data.add_eos));
    BITNET_RETURN_IF_ERROR(read_flag("add_space_prefix", data.add_space_prefix));
    BITNET_RETURN_IF_ERROR(read_flag("remove_extra_whitespaces", data.remove_extra_whitespaces));
    BITNET_RETURN_IF_ERROR(read_text("tokenizer.chat_template", data.chat_template));
    BITNET_RETURN_IF_ERROR(read_text("bitnet.tokenizer.pipeline", data.pipeline));
    BITNET_RETURN_IF_ERROR(check_digest(data));
    return data;
  }

 private:
  // Errors of the container keep their message and get this room's code.
  static Error as_tokenizer(const Error& error) { return {ErrorCode::kTokenizer, error.message}; }

  Status read_text(const char* key, std::string& target) const {
    if (file_.find(key) == nullptr) return {};
    const auto text = file_.get_string(key);
    if (!text.ok()) return as_tokenizer(text.error());
    target = *text;
    return {};
  }

  template <typename T>
  Status read_values(const char* key, gguf::ValueType type, std::vector<T>& target) const {
    const auto array = file_.get_array(key, type);
    if (!array.ok()) return as_tokenizer(array.error());
    target = array->values<T>();
    return {};
  }

  Status read_strings(const char* key, std::vector<std::string>& target) const {
    const auto array = file_.get_array(key, gguf::ValueType::kString);
    if (!array.ok()) return as_tokenizer(array.error());
    const std::vector<std::string_view> views = array->strings();
    target.assign(views.begin(), views.end());
    return {};
  }

  Status read_arrays(VocabularyData& data) const {
    BITNET_RETURN_IF_ERROR(read_strings("tokenizer.ggml.tokens", data.tokens));
    if (data.model != "gpt2" || file_.find("tokenizer.ggml.token_type") != nullptr) {
      BITNET_RETURN_IF_ERROR(read_values("tokenizer.ggml.token_type", gguf::ValueType::kI32, data.types));
    }
    const char* merges = data.model == "gpt2" ? kMerges : kOwnMerges;
    if (data.model == "gpt2" || file_.find(merges) != nullptr) {
      BITNET_RETURN_IF_ERROR(read_strings(merges, data.merges));
    }
    if (data.model != "gpt2" || file_.find("tokenizer.ggml.scores") != nullptr) {
      BITNET_RETURN_IF_ERROR(read_values("tokenizer.ggml.scores", gguf::ValueType::kF32, data.scores));
    }
    if (file_.find("bitnet.tokenizer.token_flags") != nullptr) {
      BITNET_RETURN_IF_ERROR(read_values("bitnet.tokenizer.token_flags", gguf::ValueType::kU8, data.flags));
    }
    return read_charsmap(data);
  }

  Status read_charsmap(VocabularyData& data) const {
    const gguf::KeyValue* entry = file_.find("tokenizer.ggml.precompiled_charsmap");
    if (entry == nullptr) return {};
    const auto* array = std::get_if<gguf::Array>(&entry->value);
    // Writers use either; the bytes are the same.
    if (array != nullptr && array->type == gguf::ValueType::kI8) {
      data.charsmap.resize(array->bytes.size());
      if (!array->bytes.empty()) std::memcpy(data.charsmap.data(), array->bytes.data(), array->bytes.size());
      return {};
    }
    return read_values("tokenizer.ggml.precompiled_charsmap", gguf::ValueType::kU8, data.charsmap);
  }

  // Of a signed type: writers' other way to say "none".
  Status read_id(const char* name, std::optional<std::uint32_t>& target) const {
    BITNET_ASSIGN_OR_RETURN(target, read_token_id(file_, name));
    return {};
  }

  Status read_flag(const char* name, std::optional<bool>& target) const {
    const std::string key = "tokenizer.ggml." + std::string(name);
    target = std::nullopt;
    if (file_.find(key) == nullptr) return {};
    const auto flag = file_.get_bool(key);
    if (!flag.ok()) return as_tokenizer(flag.error());
    target = *flag;
    return {};
  }

  Status check_digest(const VocabularyData& data) const {
    if (file_.find(kDigestKey) == nullptr) return {};
    std::string stated;
    BITNET_RETURN_IF_ERROR(read_text(kDigestKey, stated));
    const std::string found = digest(data);
    if (stated == found) return {};
    return Error{ErrorCode::kTokenizer,
                 file_.path() + ": " + kDigestKey + " is \"" + stated +
                     "\", but the digest of its tokenizer.* keys is " + found +
                     ": the vocabulary was changed after the file was made; convert the model again"};
  }

  const gguf::File& file_;
};

// Every field as its length and bytes, so that no two vocabularies give one stream.
class Digester {
 public:
  void number(std::uint64_t value) { sha_.update(std::as_bytes(std::span(&value, 1))); }
  void text(std::string_view value) {
    number(value.size());
    sha_.update(std::as_bytes(std::span(value.data(), value.size())));
  }
  template <typename T>
  void values(const std::vector<T>& list) {
    number(list.size());
    sha_.update(std::as_bytes(std::span(list.data(), list.size())));
  }
  void strings(const std::vector<std::string>& list) {
    number(list.size());
    for (const std::string& value : list) text(value);
  }
  template <typename T>
  void optional(const std::optional<T>& value) {
    number(value ? std::uint64_t{*value} + 1 : 0);
  }
  std::string finish() {
    const Sha256Digest bytes = sha_.finish();
    return to_hex(bytes);
  }

 private:
  Sha256 sha_;
};

}  // namespace

std::string digest(const VocabularyData& vocabulary) {
  Digester digester;
  digester.text(vocabulary.model);
  digester.text(vocabulary.pre);
  digester.strings(vocabulary.tokens);
  digester.values(vocabulary.scores);
  digester.values(vocabulary.types);
  digester.strings(vocabulary.merges);
  digester.values(vocabulary.flags);
  for (const auto& id : {vocabulary.bos, vocabulary.eos, vocabulary.eot, vocabulary.eom, vocabulary.unknown,
                         vocabulary.pad, vocabulary.sep, vocabulary.mask}) {
    digester.optional(id);
  }
  for (const auto& flag :
       {vocabulary.add_bos, vocabulary.add_eos, vocabulary.add_space_prefix, vocabulary.remove_extra_whitespaces}) {
    digester.optional(flag);
  }
  digester.values(vocabulary.charsmap);
  digester.text(vocabulary.pipeline);
  return digester.finish();
}

Result<VocabularyData> read_vocabulary(const gguf::File& file) { return Reader(file).run(); }

Result<std::optional<std::uint32_t>> read_token_id(const gguf::File& file, std::string_view name) {
  using Id = std::optional<std::uint32_t>;
  const std::string key = "tokenizer.ggml." + std::string(name) + "_token_id";
  const gguf::KeyValue* entry = file.find(key);
  if (entry == nullptr || is_minus_one(*entry)) return Id();
  const auto id = file.get_uint(key);
  if (!id.ok()) return Error{ErrorCode::kTokenizer, id.error().message};
  if (*id == kNoId) return Id();
  if (*id > kNoId) {
    return Error{ErrorCode::kTokenizer,
                 file.path() + ": " + key + " is " + std::to_string(*id) + "; expected a token id below 4294967295"};
  }
  return Id(static_cast<std::uint32_t>(*id));
}

void set_vocabulary(const VocabularyData& vocabulary, gguf::Writer& writer) {
  writer.set("tokenizer.ggml.model", std::string_view(vocabulary.model));
  if (!vocabulary.pre.empty()) writer.set("tokenizer.ggml.pre", std::string_view(vocabulary.pre));
  writer.set("tokenizer.ggml.tokens", std::span<const std::string>(vocabulary.tokens));
  if (!vocabulary.scores.empty()) writer.set("tokenizer.ggml.scores", std::span<const float>(vocabulary.scores));
  if (!vocabulary.types.empty()) {
    writer.set("tokenizer.ggml.token_type", std::span<const std::int32_t>(vocabulary.types));
  }
  const auto set_id = [&](const char* name, const std::optional<std::uint32_t>& id) {
    if (id) writer.set("tokenizer.ggml." + std::string(name) + "_token_id", *id);
  };
  const auto set_flag = [&](const char* name, const std::optional<bool>& flag) {
    if (flag) writer.set("tokenizer.ggml." + std::string(name), *flag);
  };
  if (!vocabulary.merges.empty()) {
    writer.set(vocabulary.model == "gpt2" ? kMerges : kOwnMerges, std::span<const std::string>(vocabulary.merges));
  }
  set_id("bos", vocabulary.bos);
  set_id("eos", vocabulary.eos);
  set_id("eot", vocabulary.eot);
  set_id("eom", vocabulary.eom);
  set_id("unknown", vocabulary.unknown);
  set_id("seperator", vocabulary.sep);  // spelled like this in the field
  set_id("padding", vocabulary.pad);
  set_id("mask", vocabulary.mask);
  set_flag("add_bos_token", vocabulary.add_bos);
  set_flag("add_eos_token", vocabulary.add_eos);
  set_flag("add_space_prefix", vocabulary.add_space_prefix);
  set_flag("remove_extra_whitespaces", vocabulary.remove_extra_whitespaces);
  if (!vocabulary.charsmap.empty()) {
    writer.set("tokenizer.ggml.precompiled_charsmap", std::span<const std::uint8_t>(vocabulary.charsmap));
  }
  if (!vocabulary.chat_template.empty()) {
    writer.set("tokenizer.chat_template", std::string_view(vocabulary.chat_template));
  }
  if (!vocabulary.flags.empty()) {
    writer.set("bitnet.tokenizer.token_flags", std::span<const std::uint8_t>(vocabulary.flags));
  }
  if (!vocabulary.pipeline.empty()) {
    writer.set("bitnet.tokenizer.pipeline", std::string_view(vocabulary.pipeline));
  }
  writer.set(kDigestKey, std::string_view(digest(vocabulary)));
}

}  // namespace bitnet
