// JSON settings through nlohmann's parser, which would let a repeated key win silently and stop at a NUL: both are
// looked for here.
#include "runtime/convert/settings.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "runtime/base/mapped_file.h"
#include "runtime/gguf/types.h"

namespace bitnet::convert {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxBytes = std::size_t{16} << 20;
constexpr int kMaxDepth = 64;
constexpr std::string_view kExportAgain = "correct the file or export the checkpoint again";

// A value for a message, shortened.
std::string shown(const Json& value) {
  constexpr std::size_t kLongest = 80;
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

}  // namespace

Result<Settings> Settings::read(const std::string& path, ErrorCode code) {
  const auto mapped = MappedFile::open(path);
  if (!mapped.ok()) return Error{code, mapped.error().message};
  return parse({reinterpret_cast<const char*>(mapped->bytes().data()), mapped->bytes().size()}, path, code);
}

Result<Settings> Settings::parse(std::string_view text, const std::string& path, ErrorCode code) {
  const auto fail = [&](const std::string& expected, const std::string& found) {
    return Error{code, path + ": expected " + expected + ", found " + found + "; " + std::string(kExportAgain)};
  };
  if (text.size() > kMaxBytes) {
    return fail("at most " + std::to_string(kMaxBytes) + " bytes", std::to_string(text.size()));
  }
  const std::size_t nul = text.find('\0');
  if (nul != std::string_view::npos) return fail("JSON", "a NUL at byte " + std::to_string(nul));

  std::vector<std::set<std::string>> open;  // the keys of the objects around the place
  std::string twice;
  bool deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    deep = deep || depth > kMaxDepth;
    if (deep) return false;  // what is discarded takes no memory, and is not reported when it ends
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second) {
      twice = parsed.get<std::string>();
    }
    return true;
  };
  Json json = Json::parse(text, watch, /*allow_exceptions=*/false);
  if (deep) return fail("at most " + std::to_string(kMaxDepth) + " levels", "more");
  if (json.is_discarded()) return fail("JSON in UTF-8", "something else, or the file is cut short");
  if (!json.is_object()) return fail("an object", shown(json));
  if (!twice.empty()) return fail("each key once", gguf::quoted(twice) + " twice");
  Settings settings;
  settings.path_ = path;
  settings.code_ = code;
  settings.json_ = std::make_shared<const Json>(std::move(json));
  return settings;
}

const Json* Settings::find(std::string_view key) const {
  const Json* value = json_.get();
  while (value->is_object()) {
    const std::size_t dot = key.find('.');
    const auto found = value->find(std::string(key.substr(0, dot)));
    if (found == value->end() || found->is_null()) return nullptr;
    value = &*found;
    if (dot == std::string_view::npos) return value;
    key.remove_prefix(dot + 1);
  }
  return nullptr;
}

bool Settings::has(std::string_view key) const { return find(key) != nullptr; }

Error Settings::refuse(std::string_view key, std::string_view expected, std::string_view advice) const {
  const Json* value = find(key);
  return {code_, path_ + ": key " + gguf::quoted(key) + ": expected " + std::string(expected) + ", found " +
                     (value == nullptr ? std::string("no such key") : shown(*value)) + "; " + std::string(advice)};
}

Result<std::int64_t> Settings::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  const Json* value = find(key);
  if (value != nullptr && value->is_number_integer()) {
    const auto number = value->get<std::int64_t>();  // beyond int64: negative
    if (number >= low && number <= high) return number;
  }
  return refuse(key, "a whole number from " + std::to_string(low) + " to " + std::to_string(high), kExportAgain);
}

Result<float> Settings::positive(std::string_view key) const {
  const Json* value = find(key);
  if (value != nullptr && value->is_number()) {
    const auto number = static_cast<float>(value->get<double>());
    if (std::isfinite(number) && number > 0.0F) return number;
  }
  return refuse(key, "a finite number above 0", kExportAgain);
}

Result<float> Settings::number(std::string_view key) const {
  const Json* value = find(key);
  if (value != nullptr && value->is_number()) {
    const auto number = static_cast<float>(value->get<double>());
    if (std::isfinite(number)) return number;
  }
  return refuse(key, "a finite number", kExportAgain);
}

Result<std::vector<std::string>> Settings::texts(std::string_view key) const {
  const Json* value = find(key);
  std::vector<std::string> texts;
  bool right = value != nullptr && value->is_array();
  if (right) {
    for (const Json& item : *value) {
      right = right && item.is_string();
      if (right) texts.push_back(item.get<std::string>());
    }
  }
  if (right) return texts;
  return refuse(key, "an array of strings", kExportAgain);
}

Result<std::vector<float>> Settings::positives(std::string_view key) const {
  const Json* value = find(key);
  std::vector<float> numbers;
  bool right = value != nullptr && value->is_array();
  if (right) {
    for (const Json& item : *value) {
      numbers.push_back(item.is_number() ? static_cast<float>(item.get<double>()) : 0.0F);
      right = right && std::isfinite(numbers.back()) && numbers.back() > 0.0F;
    }
  }
  if (right) return numbers;
  return refuse(key, "an array of finite numbers above 0", kExportAgain);
}

Result<std::map<std::string, std::string>> Settings::text_members(std::string_view key) const {
  const Json* value = find(key);
  std::map<std::string, std::string> members;
  bool right = value != nullptr && value->is_object();
  if (right) {
    for (const auto& [name, item] : value->items()) {
      right = right && item.is_string();
      if (right) members[name] = item.get<std::string>();
    }
  }
  if (right) return members;
  return refuse(key, "an object of strings", kExportAgain);
}

bool Settings::is_array(std::string_view key) const {
  const Json* value = find(key);
  return value != nullptr && value->is_array();
}

bool Settings::is_object(std::string_view key) const {
  const Json* value = find(key);
  return value != nullptr && value->is_object();
}

std::vector<std::string> Settings::keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json_->items()) keys.push_back(key);
  return keys;
}

Result<bool> Settings::boolean(std::string_view key) const {
  const Json* value = find(key);
  if (value != nullptr && value->is_boolean()) return value->get<bool>();
  return refuse(key, "true or false", kExportAgain);
}

Result<std::string> Settings::text(std::string_view key) const {
  const Json* value = find(key);
  if (value != nullptr && value->is_string()) return value->get<std::string>();
  return refuse(key, "a string", kExportAgain);
}

Status Settings::require(std::string_view key, const Json& expected, std::string_view advice) const {
  const Json* value = find(key);
  if (value != nullptr && *value == expected) return {};
  return refuse(key, shown(expected), advice);
}

Status Settings::refuse_other(std::string_view key, const Json& neutral, std::string_view advice) const {
  const Json* value = find(key);
  if (value == nullptr || *value == neutral) return {};
  return refuse(key, (neutral.is_null() ? "" : shown(neutral) + " or ") + "no such key", advice);
}

}  // namespace bitnet::convert
