// A JSON file of settings, read with checks: each access states what it wants, and a refusal names file and key.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet::convert {

class Settings {
 public:
  // The file's one object: UTF-8, at most 16 MiB, nested at most 64 deep, no key twice. All errors, here and below,
  // have `code`.
  [[nodiscard]] static Result<Settings> read(const std::string& path, ErrorCode code);
  // The same of the text itself; `path` stands in messages.
  [[nodiscard]] static Result<Settings> parse(std::string_view text, const std::string& path, ErrorCode code);

  // Keys of nested objects are written "quantization_config.linear_class". A null counts as absent.
  [[nodiscard]] bool has(std::string_view key) const;
  // 0 <= low <= the number <= high.
  [[nodiscard]] Result<std::int64_t> integer(std::string_view key, std::int64_t low, std::int64_t high) const;
  [[nodiscard]] Result<float> positive(std::string_view key) const;  // finite and above 0 as a float32
  [[nodiscard]] Result<float> number(std::string_view key) const;    // finite as a float32
  [[nodiscard]] Result<bool> boolean(std::string_view key) const;
  [[nodiscard]] Result<std::string> text(std::string_view key) const;
  [[nodiscard]] Result<std::vector<std::string>> texts(std::string_view key) const;  // an array of strings
  // An array of finite numbers above 0, as float32.
  [[nodiscard]] Result<std::vector<float>> positives(std::string_view key) const;
  // An object of strings, in the order of its keys.
  [[nodiscard]] Result<std::map<std::string, std::string>> text_members(std::string_view key) const;
  [[nodiscard]] bool is_array(std::string_view key) const;
  [[nodiscard]] bool is_object(std::string_view key) const;
  // The keys of the outermost object, sorted.
  [[nodiscard]] std::vector<std::string> keys() const;
  // The error of a key that has another value than those that are wanted.
  [[nodiscard]] Error refuse(std::string_view key, std::string_view expected, std::string_view advice) const;
  // The key is there and equals the JSON value `expected`.
  [[nodiscard]] Status require(std::string_view key, const nlohmann::json& expected, std::string_view advice) const;
  // The key is absent or equals the JSON value `neutral`.
  [[nodiscard]] Status refuse_other(std::string_view key, const nlohmann::json& neutral, std::string_view advice) const;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  [[nodiscard]] const nlohmann::json* find(std::string_view key) const;

  std::string path_;
  ErrorCode code_ = ErrorCode::kFailure;
  std::shared_ptr<const nlohmann::json> json_;
};

}  // namespace bitnet::convert
