// A message is a sequence of fields, each a tag (number << 3 | wire type) and a value: a varint (0), 8 bytes (1), a
// length and as many bytes (2), 4 bytes (5). Groups (3, 4) are long gone and are refused.
#include "runtime/tokenizer/sentencepiece.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <variant>

#include "runtime/gguf/types.h"
#include "runtime/tokenizer/unicode.h"

namespace bitnet::tokenizer {
namespace {

using gguf::quoted;

enum class WireType : std::uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

constexpr std::int32_t kUnknown = 2;
constexpr std::int32_t kControl = 3;
constexpr std::int32_t kByte = 6;
// Fields of the model.
constexpr std::uint32_t kPiecesField = 1;
constexpr std::uint32_t kTrainerField = 2;
constexpr std::uint32_t kNormalizerField = 3;
constexpr std::uint32_t kDenormalizerField = 5;
constexpr const char* kDamaged = "the file is damaged or no SentencePiece model: fetch or train it again";
constexpr const char* kUnsupported =
    "only SentencePiece models of the kinds unigram and BPE with byte fall-back are supported";

struct Source {
  std::span<const std::byte> bytes;
  const std::string& name;

  [[nodiscard]] Error refuse(const std::string& field, std::uint64_t at, const std::string& expected,
                             const std::string& found, const char* advice) const {
    return {ErrorCode::kTokenizer, name + ": " + field + " at byte " + std::to_string(at) + ": expected " + expected +
                                       ", found " + found + "; " + advice};
  }
};

struct Field {
  std::uint32_t number = 0;
  WireType type = WireType::kVarint;
  std::uint64_t at = 0;     // of the tag
  std::uint64_t value = 0;  // varint, fixed32 and fixed64
  std::uint64_t begin = 0;  // of the bytes
  std::uint64_t end = 0;
};

// The fields of one message, source.bytes[begin, end), one after the other.
class Fields {
 public:
  Fields(const Source& source, std::uint64_t begin, std::uint64_t end, std::string message)
      : source_(source), at_(begin), end_(end), message_(std::move(message)) {}

  [[nodiscard]] bool done() const { return at_ == end_; }

  Result<Field> next() {
    Field field;
    field.at = at_;
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t tag, varint());
    const std::uint64_t number = tag >> 3;
    constexpr std::uint64_t kMaxNumber = (1U << 29) - 1;
    if (number < 1 || number > kMaxNumber) {
      return source_.refuse(message_, field.at, "a field number from 1 to 2^29 - 1", std::to_string(number), kDamaged);
    }
    field.number = static_cast<std::uint32_t>(number);
    field.type = static_cast<WireType>(tag & 7);
    switch (field.type) {
      case WireType::kVarint: {
        BITNET_ASSIGN_OR_RETURN(field.value, varint());
        return field;
      }
      case WireType::kFixed64:
        return fixed(field, 8);
      case WireType::kFixed32:
        return fixed(field, 4);
      case WireType::kBytes: {
        BITNET_ASSIGN_OR_RETURN(const std::uint64_t length, varint());
        if (length > end_ - at_) return cut(field.at, length);
        field.begin = at_;
        field.end = at_ += length;
        return field;
      }
    }
    return source_.refuse(message_, field.at, "wire type 0, 1, 2 or 5", std::to_string(tag & 7), kDamaged);
  }

 private:
  [[nodiscard]] Error cut(std::uint64_t at, std::uint64_t length) const {
    return source_.refuse(message_, at, std::to_string(length) + " more bytes",
                          std::to_string(end_ - at_) + " before the end", kDamaged);
  }

  Result<Field> fixed(Field field, std::uint64_t bytes) {
    if (bytes > end_ - at_) return cut(field.at, bytes);
    static_assert(std::endian::native == std::endian::little);
    std::memcpy(&field.value, source_.bytes.data() + at_, bytes);
    at_ += bytes;
    return field;
  }

  Result<std::uint64_t> varint() {
    const std::uint64_t start = at_;
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == end_) return cut(start, 1);
      const auto byte = static_cast<std::uint64_t>(source_.bytes[at_++]);
      if (shift == 63 && byte > 1) break;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return source_.refuse(message_, start, "a number of at most 64 bits", "more", kDamaged);
  }

  const Source& source_;
  std::uint64_t at_;
  std::uint64_t end_;
  std::string message_;
};

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& name) : source_{bytes, name} {}

  Result<SentencePieceModel> run() {
    std::set<std::uint32_t> seen;
    Fields fields(source_, 0, source_.bytes.size(), "model");
    while (!fields.done()) {
      BITNET_ASSIGN_OR_RETURN(const Field field, fields.next());
      if (field.number != kPiecesField && !seen.insert(field.number).second) {
        return source_.refuse("model.field " + std::to_string(field.number), field.at, "it once", "it again", kDamaged);
      }
      switch (field.number) {
        case kPiecesField:
          BITNET_RETURN_IF_ERROR(read_piece(field));
          break;
        case kTrainerField:
          BITNET_RETURN_IF_ERROR(read_trainer(field));
          break;
        case kNormalizerField:
          BITNET_RETURN_IF_ERROR(read_normalizer(field));
          break;
        case kDenormalizerField:
          BITNET_RETURN_IF_ERROR(read_denormalizer(field));
          break;
        default:
          break;
      }
    }
    if (!seen.contains(kTrainerField)) {
      return source_.refuse("trainer_spec", source_.bytes.size(), "it", "the end of the file", kDamaged);
    }
    BITNET_RETURN_IF_ERROR(check_pieces());
    return std::move(model_);
  }

 private:
  // A field that is read, and where its value goes. Fields that are not listed are skipped.
  struct Wanted {
    std::uint32_t number;
    const char* name;
    std::variant<bool*, std::uint64_t*, float*, std::string*> target;
    bool found = false;
    std::uint64_t at = 0;
  };

  Status read_message(const Field& outer, const std::string& message, std::span<Wanted> wanted) {
    BITNET_RETURN_IF_ERROR(check_type(outer, message, WireType::kBytes));
    Fields fields(source_, outer.begin, outer.end, message);
    while (!fields.done()) {
      BITNET_ASSIGN_OR_RETURN(const Field field, fields.next());
      for (Wanted& want : wanted) {
        if (want.number != field.number) continue;
        const std::string name = message + "." + want.name;
        if (std::exchange(want.found, true)) return source_.refuse(name, field.at, "it once", "it again", kDamaged);
        want.at = field.at;
        BITNET_RETURN_IF_ERROR(std::visit([&](auto* target) { return store(field, name, *target); }, want.target));
      }
    }
    return {};
  }

  [[nodiscard]] Status check_type(const Field& field, const std::string& name, WireType type) const {
    if (field.type == type) return {};
    return source_.refuse(name, field.at, "wire type " + std::to_string(static_cast<int>(type)),
                          std::to_string(static_cast<int>(field.type)), kDamaged);
  }

  Status store(const Field& field, const std::string& name, std::uint64_t& target) const {
    BITNET_RETURN_IF_ERROR(check_type(field, name, WireType::kVarint));
    target = field.value;
    return {};
  }
  Status store(const Field& field, const std::string& name, bool& target) const {
    BITNET_RETURN_IF_ERROR(check_type(field, name, WireType::kVarint));
    if (field.value > 1) return source_.refuse(name, field.at, "0 or 1", std::to_string(field.value), kDamaged);
    target = field.value == 1;
    return {};
  }
  Status store(const Field& field, const std::string& name, float& target) const {
    BITNET_RETURN_IF_ERROR(check_type(field, name, WireType::kFixed32));
    target = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
    if (!std::isfinite(target)) return source_.refuse(name, field.at, "a finite number", "none", kDamaged);
    return {};
  }
  Status store(const Field& field, const std::string& name, std::string& target) const {
    BITNET_RETURN_IF_ERROR(check_type(field, name, WireType::kBytes));
    target.assign(reinterpret_cast<const char*>(source_.bytes.data()) + field.begin, field.end - field.begin);
    return {};
  }

  Status read_piece(const Field& outer) {
    const std::string message = "pieces[" + std::to_string(model_.pieces.size()) + "]";
    if (model_.pieces.size() >= INT32_MAX) {
      return source_.refuse(message, outer.at, "at most 2147483647 pieces", "more", kDamaged);
    }
    std::string piece;
    float score = 0.0F;
    std::uint64_t type = 1;
    Wanted wanted[] = {{1, "piece", &piece}, {2, "score", &score}, {3, "type", &type}};
    BITNET_RETURN_IF_ERROR(read_message(outer, message, wanted));
    if (piece.empty() || !is_utf8(piece)) {
      return source_.refuse(message + ".piece", wanted[0].found ? wanted[0].at : outer.at,
                            "at least one character in UTF-8", quoted(piece), kDamaged);
    }
    if (type < 1 || type > 6) {
      return source_.refuse(message + ".type", wanted[2].at, "a type from 1 to 6", std::to_string(type), kDamaged);
    }
    model_.pieces.push_back(std::move(piece));
    model_.scores.push_back(score);
    model_.types.push_back(static_cast<std::int32_t>(type));
    return {};
  }

  Status read_trainer(const Field& outer) {
    std::uint64_t model_type = 1;  // unigram
    bool suffix = false;
    constexpr std::uint64_t kBpe = 2;
    Wanted wanted[] = {{3, "model_type", &model_type},
                       {24, "treat_whitespace_as_suffix", &suffix},
                       {35, "byte_fallback", &model_.byte_fallback},
                       {46, "bos_piece", &model_.bos_piece},
                       {47, "eos_piece", &model_.eos_piece}};
    BITNET_RETURN_IF_ERROR(read_message(outer, "trainer_spec", wanted));
    const auto refuse = [&](const Wanted& want, const std::string& expected, const std::string& found) {
      return source_.refuse(std::string("trainer_spec.") + want.name, want.found ? want.at : outer.at, expected, found,
                            kUnsupported);
    };
    if (model_type != kBpe && model_type != 1) {
      return refuse(wanted[0], "1 (unigram) or 2 (BPE)", std::to_string(model_type));
    }
    model_.kind = model_type == kBpe ? SentencePieceModel::Kind::kBpe : SentencePieceModel::Kind::kUnigram;
    if (suffix) return refuse(wanted[1], "0", "1");
    if (model_type == kBpe && !model_.byte_fallback) return refuse(wanted[2], "1", "0");
    return {};
  }

  Status read_normalizer(const Field& outer) {
    bool escape = true;
    Wanted wanted[] = {{1, "name", &model_.normalizer},
                       {2, "precompiled_charsmap", &model_.charsmap},
                       {3, "add_dummy_prefix", &model_.add_dummy_prefix},
                       {4, "remove_extra_whitespaces", &model_.remove_extra_whitespaces},
                       {5, "escape_whitespaces", &escape}};
    BITNET_RETURN_IF_ERROR(read_message(outer, "normalizer_spec", wanted));
    if (escape) return {};
    return source_.refuse("normalizer_spec.escape_whitespaces", wanted[4].at, "1 (spaces become U+2581)", "0",
                          kUnsupported);
  }

  Status read_denormalizer(const Field& outer) {
    std::string map;
    Wanted wanted[] = {{2, "precompiled_charsmap", &map}};
    BITNET_RETURN_IF_ERROR(read_message(outer, "denormalizer_spec", wanted));
    model_.denormalizes = !map.empty();
    return {};
  }

  // As SentencePiece itself does, pieces of text and the others are two sets of names.
  Status check_pieces() {
    std::unordered_set<std::string_view> text;
    std::unordered_set<std::string_view> reserved;
    std::optional<std::uint32_t> unknown;
    for (std::size_t i = 0; i < model_.pieces.size(); ++i) {
      const std::int32_t type = model_.types[i];
      auto& names = type == kUnknown || type == kControl || type == kByte ? reserved : text;
      const auto fail = [&](const std::string& expected, const std::string& found) {
        std::string message = source_.name + ": pieces[" + std::to_string(i) + "]: expected ";
        message.append(expected).append(", found ").append(found).append("; ").append(kDamaged);
        return Error{ErrorCode::kTokenizer, std::move(message)};
      };
      if (!names.insert(model_.pieces[i]).second) {
        return fail("a piece that was not used before", quoted(model_.pieces[i]) + " again");
      }
      if (type != kUnknown) continue;
      if (unknown)
        return fail("one piece of type 2 (unknown)", "one more after pieces[" + std::to_string(*unknown) + "]");
      unknown = static_cast<std::uint32_t>(i);
    }
    if (!unknown) {
      return Error{ErrorCode::kTokenizer,
                   source_.name + ": pieces: expected one piece of type 2 (unknown), found none; " + kDamaged};
    }
    model_.unknown = *unknown;
    return {};
  }

  Source source_;
  SentencePieceModel model_;
};

}  // namespace

Result<SentencePieceModel> parse_sentencepiece(std::span<const std::byte> bytes, const std::string& name) {
  return Parser(bytes, name).run();
}

VocabularyData vocabulary_of(SentencePieceModel model) {
  const bool unigram = model.kind == SentencePieceModel::Kind::kUnigram;
  VocabularyData data;
  data.model = unigram ? "t5" : "llama";
  data.tokens = std::move(model.pieces);
  data.scores = std::move(model.scores);
  data.types = std::move(model.types);
  for (std::size_t id = 0; id < data.tokens.size(); ++id) {
    if (data.types[id] != kControl) continue;
    if (data.tokens[id] == model.bos_piece) data.bos = static_cast<std::uint32_t>(id);
    if (data.tokens[id] == model.eos_piece) data.eos = static_cast<std::uint32_t>(id);
  }
  data.unknown = model.unknown;
  data.add_bos = std::nullopt;
  data.add_space_prefix = model.add_dummy_prefix;
  if (unigram) {
    data.remove_extra_whitespaces = model.remove_extra_whitespaces;
    data.charsmap.assign(model.charsmap.begin(), model.charsmap.end());
  }
  return data;
}

}  // namespace bitnet::tokenizer
