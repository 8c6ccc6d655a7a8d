// The events of nlohmann's parser against the grammar
//   { "__metadata__": {KEY: STRING...}, NAME: {"dtype": STRING, "shape": [N...], "data_offsets": [N, N]}... }
// in which each state knows the one event it takes; any other ends the parse with the error.
#include "runtime/safetensors/header.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "runtime/gguf/types.h"

namespace bitnet::safetensors {
namespace {

// Not `quoted`: std::quoted would be found too.
std::string quote(std::string_view text) { return gguf::quoted(text); }

constexpr std::size_t kMaxDims = 64;
constexpr std::size_t kMaxNameBytes = 65535;
constexpr std::string_view kMetadataName = "__metadata__";
constexpr std::uint64_t kLengthBytes = 8;

class Events {
 public:
  explicit Events(const Refuse& refuse) : refuse_(refuse) {}

  // What nlohmann::json::sax_parse calls; false stops it.
  bool null() { return unexpected("null"); }
  bool boolean(bool value) { return unexpected(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) { return unexpected(std::to_string(value)); }
  bool number_float(double, const std::string& text) { return unexpected(number_text(text)); }
  bool binary(nlohmann::json::binary_t&) { return unexpected("binary data"); }

  bool number_unsigned(std::uint64_t value) {
    if (state_ == State::kShapeItems) {
      if (entry_.shape.size() == kMaxDims) {
        return stop(place(), "at most " + std::to_string(kMaxDims) + " dimensions", "more");
      }
      entry_.shape.push_back(value);
      return true;
    }
    if (state_ == State::kOffsetItems && offsets_ < 2) {
      (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
      return true;
    }
    return unexpected(std::to_string(value));
  }

  bool string(const std::string& value) {
    if (state_ == State::kDType) {
      const auto dtype = parse_dtype(value);
      if (!dtype) return stop(place(), "an element type such as F32, BF16, F16 or U8", quote(value));
      entry_.dtype = *dtype;
      state_ = State::kEntryKey;
      return true;
    }
    if (state_ == State::kMetadataValue) {
      header_.metadata[key_] = value;
      state_ = State::kMetadataKey;
      return true;
    }
    return unexpected("the string " + quote(value));
  }

  bool start_object(std::size_t) {
    switch (state_) {
      case State::kStart:
        state_ = State::kName;
        return true;
      case State::kMetadata:
        state_ = State::kMetadataKey;
        return true;
      case State::kEntry:
        state_ = State::kEntryKey;
        return true;
      default:
        return unexpected("an object");
    }
  }

  bool key(const std::string& key) {
    key_ = key;
    if (state_ == State::kName) return name();
    if (state_ == State::kMetadataKey) {
      if (header_.metadata.contains(key)) return stop(place(), "a key that was not used before", "it again");
      state_ = State::kMetadataValue;
      return true;
    }
    // The parser reports keys within objects only, and the third object with keys is a tensor's.
    return field();
  }

  bool end_object() {
    if (state_ == State::kEntryKey) {
      const char* missing = !has_dtype_ ? "dtype" : !has_shape_ ? "shape" : !has_offsets_ ? "data_offsets" : nullptr;
      key_.clear();
      if (missing != nullptr) return stop(place(), "dtype, shape and data_offsets", std::string("no ") + missing);
      header_.entries.push_back(std::move(entry_));
    }
    state_ = state_ == State::kName ? State::kEnd : State::kName;
    return true;
  }

  bool start_array(std::size_t) {
    if (state_ != State::kShape && state_ != State::kOffsets) return unexpected("an array");
    state_ = state_ == State::kShape ? State::kShapeItems : State::kOffsetItems;
    return true;
  }

  bool end_array() {
    if (state_ == State::kOffsetItems && offsets_ != 2) return unexpected(std::to_string(offsets_) + " of them");
    state_ = State::kEntryKey;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& last_token, const nlohmann::json::exception& error) {
    // position counts the characters read, the offending one included.
    const std::uint64_t at = kLengthBytes + (position > 0 ? position - 1 : 0);
    return stop("header at byte " + std::to_string(at), "JSON", quote(last_token) + " (" + reason(error.what()) + ")");
  }

  Result<Header> result(bool parsed) && {
    if (error_) return *std::move(error_);
    if (!parsed || state_ != State::kEnd) return refuse_("header", "one JSON object", "something else");
    return std::move(header_);
  }

 private:
  enum class State : std::uint8_t {
    kStart,
    kName,           // a tensor's name, "__metadata__", or the end of the header
    kMetadata,       // its object
    kMetadataKey,    // a key, or the end
    kMetadataValue,  // a string
    kEntry,          // a tensor's object
    kEntryKey,       // dtype, shape, data_offsets, or the end
    kDType,
    kShape,
    kShapeItems,
    kOffsets,
    kOffsetItems,
    kEnd,
  };

  bool name() {
    if (key_ == kMetadataName) {
      if (std::exchange(has_metadata_, true)) return stop(place(), "a key that was not used before", "it again");
      state_ = State::kMetadata;
      return true;
    }
    if (key_.empty() || key_.size() > kMaxNameBytes || key_.find('\0') != std::string::npos) {
      return stop("header: tensor " + quote(key_) + ": name", "1 to 65535 bytes without NUL",
                  std::to_string(key_.size()) + " bytes");
    }
    entry_ = Entry();
    entry_.name = std::exchange(key_, {});
    has_dtype_ = has_shape_ = has_offsets_ = false;
    offsets_ = 0;
    state_ = State::kEntry;
    return true;
  }

  bool field() {
    bool* seen = nullptr;
    if (key_ == "dtype") {
      seen = &has_dtype_;
      state_ = State::kDType;
    } else if (key_ == "shape") {
      seen = &has_shape_;
      state_ = State::kShape;
    } else if (key_ == "data_offsets") {
      seen = &has_offsets_;
      state_ = State::kOffsets;
    } else {
      const std::string found = quote(key_);
      key_.clear();
      return stop(place(), "dtype, shape and data_offsets", found);
    }
    if (std::exchange(*seen, true)) return stop(place(), "a key that was not used before", "it again");
    return true;
  }

  [[nodiscard]] bool in_metadata() const {
    return state_ == State::kMetadata || state_ == State::kMetadataKey || state_ == State::kMetadataValue;
  }

  [[nodiscard]] std::string place() const {
    if (in_metadata() || (state_ == State::kName && key_ == kMetadataName)) {
      return "header: __metadata__" +
             (state_ == State::kMetadataKey || state_ == State::kMetadataValue ? " key " + quote(key_) : std::string());
    }
    if (state_ == State::kStart || state_ == State::kEnd) return "header";
    return "header: tensor " + quote(entry_.name) + (key_.empty() ? "" : "." + key_);
  }

  [[nodiscard]] const char* expected() const {
    switch (state_) {
      case State::kDType:
      case State::kMetadataValue:
        return "a string";
      case State::kShape:
        return "an array of whole numbers from 0 on";
      case State::kShapeItems:
        return "whole numbers from 0 to 2^64 - 1";
      case State::kOffsets:
      case State::kOffsetItems:
        return "two whole numbers from 0 to 2^64 - 1";
      default:
        return "an object";
    }
  }

  bool unexpected(const std::string& found) { return stop(place(), expected(), found); }

  bool stop(const std::string& where, const std::string& wanted, const std::string& found) {
    error_ = refuse_(where, wanted, found);
    return false;
  }

  static std::string number_text(const std::string& text) {
    return text.empty() ? std::string("a number") : quote(text);
  }

  // The last part of nlohmann's message, behind its own place: "invalid literal; last read: ...".
  static std::string reason(std::string_view what) {
    const std::size_t at = what.find(": ");
    if (at != std::string_view::npos) what.remove_prefix(at + 2);
    std::string text = quote(what.substr(0, what.find("; last read")));
    return text.substr(1, text.size() - 2);
  }

  const Refuse& refuse_;
  State state_ = State::kStart;
  std::string key_;
  Entry entry_;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  bool has_metadata_ = false;
  int offsets_ = 0;
  Header header_;
  std::optional<Error> error_;
};

}  // namespace

Result<Header> parse_header(std::string_view text, const Refuse& refuse) {
  Events events(refuse);
  const bool parsed = nlohmann::json::sax_parse(text, &events);
  return std::move(events).result(parsed);
}

}  // namespace bitnet::safetensors
