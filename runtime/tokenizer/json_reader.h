// JSON of tokenizers, read without exceptions: a value of another type than expected is an error with its place.
// Private to this folder.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace bitnet::tokenizer {

using Json = nlohmann::json;

// The document. kTokenizer: not JSON, or nested deeper than any tokenizer's.
[[nodiscard]] Result<Json> parse_json(std::string_view text, const std::string& where);

// Members of an object. `where` leads messages, as "tokenizer.json: model".
class JsonReader {
 public:
  JsonReader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] Error fail(const std::string& what) const { return {ErrorCode::kTokenizer, where_ + ": " + what}; }
  // nullptr: absent or null.
  [[nodiscard]] const Json* find(const char* key) const;
  [[nodiscard]] Result<std::string> text(const char* key) const;
  [[nodiscard]] Result<std::string> text_or(const char* key, std::string otherwise) const;
  [[nodiscard]] Result<bool> flag_or(const char* key, bool otherwise) const;
  // A number in [0, 2^31).
  [[nodiscard]] Result<std::uint32_t> id(const char* key) const;
  // An array; an empty one where the key is absent or null.
  [[nodiscard]] Result<const Json*> list(const char* key) const;
  [[nodiscard]] Result<const Json*> object(const char* key) const;

 private:
  [[nodiscard]] Error wrong(const char* key, const char* expected, const Json* found) const;
  const Json& object_;
  std::string where_;
};

}  // namespace bitnet::tokenizer
