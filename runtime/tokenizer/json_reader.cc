#include "runtime/tokenizer/json_reader.h"

namespace bitnet::tokenizer {
namespace {

constexpr int kMostDepth = 32;
constexpr std::size_t kShownBytes = 60;

std::string shown(const Json* value) {
  if (value == nullptr) return "none";
  std::string text = value->dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kShownBytes) text = text.substr(0, kShownBytes) + "...";
  return text;
}

}  // namespace

Result<Json> parse_json(std::string_view text, const std::string& where) {
  bool too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMostDepth;
    return !too_deep;
  };
  Json document = Json::parse(text, watch, /*allow_exceptions=*/false);
  if (too_deep || document.is_discarded()) {
    return Error{ErrorCode::kTokenizer,
                 where + ": expected JSON" +
                     (too_deep ? " nested at most " + std::to_string(kMostDepth) + " deep" : "") +
                     ", found something else; the file is damaged or of another kind"};
  }
  return document;
}

const Json* JsonReader::find(const char* key) const {
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

Error JsonReader::wrong(const char* key, const char* expected, const Json* found) const {
  return fail("key '" + std::string(key) + "': expected " + expected + ", found " + shown(found));
}

Result<std::string> JsonReader::text(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr || !value->is_string()) return wrong(key, "a string", value);
  return value->get_ref<const std::string&>();
}

Result<std::string> JsonReader::text_or(const char* key, std::string otherwise) const {
  if (find(key) == nullptr) return otherwise;
  return text(key);
}

Result<bool> JsonReader::flag_or(const char* key, bool otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) return wrong(key, "true or false", value);
  return value->get<bool>();
}

Result<std::uint32_t> JsonReader::id(const char* key) const {
  const Json* value = find(key);
  constexpr std::uint64_t kLimit = std::uint64_t{1} << 31;
  if (value == nullptr || !value->is_number_unsigned() || value->get<std::uint64_t>() >= kLimit) {
    return wrong(key, "a token id from 0 to 2147483647", value);
  }
  return value->get<std::uint32_t>();
}

Result<const Json*> JsonReader::list(const char* key) const {
  static const Json kEmpty = Json::array();
  const Json* value = find(key);
  if (value == nullptr) return &kEmpty;
  if (!value->is_array()) return wrong(key, "a list", value);
  return value;
}

Result<const Json*> JsonReader::object(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr || !value->is_object()) return wrong(key, "an object", value);
  return value;
}

}  // namespace bitnet::tokenizer
