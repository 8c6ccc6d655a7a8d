// The parts of tokenizer.json that say how text is cut, as steps. Source: the serialised forms of Hugging Face's
// tokenizers 0.21, and where a form has an older spelling (Metaspace's add_prefix_space), that too.
#include <array>

#include "runtime/tokenizer/json_reader.h"
#include "runtime/tokenizer/pipeline.h"
#include "runtime/tokenizer/utf8.h"
#include "runtime/tokenizer/vocabulary.h"

namespace bitnet::tokenizer {
namespace {

constexpr int kMostSteps = 64;
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kPunctuation = R"([!-/:-@\[-`{-~\p{P}])";

std::string escaped(std::string_view literal) {
  std::string pattern;
  while (!literal.empty()) {
    const Character c = next_character(literal);
    const bool plain = c.code >= 0x80 || c.code <= 0x20 || (c.code >= '0' && c.code <= '9') ||
                       (c.code >= 'A' && c.code <= 'Z') || (c.code >= 'a' && c.code <= 'z');
    if (!plain) pattern += '\\';
    pattern += literal.substr(0, c.bytes);
    literal.remove_prefix(c.bytes);
  }
  return pattern;
}

class PipelineParser {
 public:
  explicit PipelineParser(const std::string& where) : where_(where) {}

  Result<Pipeline> run(const Json& document) {
    const JsonReader reader(document, where_);
    BITNET_ASSIGN_OR_RETURN(pipeline_.ignore_merges, reader.flag_or("ignore_merges", false));
    BITNET_ASSIGN_OR_RETURN(pipeline_.fuse_unknown, reader.flag_or("fuse_unk", false));
    BITNET_ASSIGN_OR_RETURN(pipeline_.byte_fallback, reader.flag_or("byte_fallback", false));
    BITNET_RETURN_IF_ERROR(each(reader, "normalizer", "normalizers", &PipelineParser::normalizer));
    BITNET_RETURN_IF_ERROR(each(reader, "pre_tokenizer", "pretokenizers", &PipelineParser::pre_tokenizer));
    if (spelled_) add_kind(SplitStep::Kind::kUnspell);
    BITNET_RETURN_IF_ERROR(each(reader, "decoder", "decoders", &PipelineParser::decoder));
    return std::move(pipeline_);
  }

 private:
  using Step = Status (PipelineParser::*)(const JsonReader&, const std::string&);

  // One step, or all of a Sequence.
  Status each(const JsonReader& outer, const char* key, const char* list_key, Step step) {
    if (outer.find(key) == nullptr) return {};
    BITNET_ASSIGN_OR_RETURN(const Json* object, outer.object(key));
    const JsonReader reader(*object, outer.where() + ": " + key);
    BITNET_ASSIGN_OR_RETURN(const std::string type, reader.text("type"));
    if (type != "Sequence") return (this->*step)(reader, type);
    BITNET_ASSIGN_OR_RETURN(const Json* list, reader.list(list_key));
    if (list->size() > kMostSteps)
      return reader.fail("expected at most 64 steps, found " + std::to_string(list->size()));
    for (const Json& member : *list) {
      const JsonReader inner(member, reader.where());
      BITNET_ASSIGN_OR_RETURN(const std::string inner_type, inner.text("type"));
      BITNET_RETURN_IF_ERROR((this->*step)(inner, inner_type));
    }
    return {};
  }

  static Error unsupported(const JsonReader& reader, const std::string& type, const char* supported) {
    return reader.fail("type \"" + type + "\" is not supported; supported are " + supported);
  }

  // {"String": } or {"Regex": }; is_regex tells which.
  static Result<std::string> pattern(const JsonReader& reader, bool& is_regex) {
    BITNET_ASSIGN_OR_RETURN(const Json* object, reader.object("pattern"));
    const JsonReader inner(*object, reader.where() + ": pattern");
    is_regex = inner.find("Regex") != nullptr;
    BITNET_ASSIGN_OR_RETURN(std::string text, inner.text(is_regex ? "Regex" : "String"));
    if (text.empty()) return inner.fail("expected a pattern, found an empty one");
    return text;
  }

  Status normalizer(const JsonReader& reader, const std::string& type) {
    using Kind = NormalizerStep::Kind;
    NormalizerStep step;
    constexpr std::array<std::pair<const char*, NormalForm>, 4> kForms = {{{"NFC", NormalForm::kNfc},
                                                                           {"NFD", NormalForm::kNfd},
                                                                           {"NFKC", NormalForm::kNfkc},
                                                                           {"NFKD", NormalForm::kNfkd}}};
    for (const auto& [name, form] : kForms) {
      if (type != name) continue;
      step.form = form;
      pipeline_.normalizer.push_back(std::move(step));
      return {};
    }
    if (type == "Replace") {
      bool is_regex = false;
      BITNET_ASSIGN_OR_RETURN(step.pattern, pattern(reader, is_regex));
      BITNET_ASSIGN_OR_RETURN(step.content, reader.text("content"));
      step.kind = is_regex ? Kind::kReplaceRegex : Kind::kReplace;
    } else if (type == "Prepend") {
      step.kind = Kind::kPrepend;
      BITNET_ASSIGN_OR_RETURN(step.content, reader.text("prepend"));
    } else if (type == "Strip") {
      step.kind = Kind::kStrip;
      BITNET_ASSIGN_OR_RETURN(step.left, reader.flag_or("strip_left", true));
      BITNET_ASSIGN_OR_RETURN(step.right, reader.flag_or("strip_right", true));
    } else if (type == "Precompiled") {
      step.kind = Kind::kCharsmap;
    } else {
      return unsupported(reader, type, "NFC, NFD, NFKC, NFKD, Replace, Prepend, Strip, Precompiled and Sequence");
    }
    pipeline_.normalizer.push_back(std::move(step));
    return {};
  }

  void add_kind(SplitStep::Kind kind) {
    SplitStep step;
    step.kind = kind;
    pipeline_.splits.push_back(std::move(step));
  }

  void add_split(std::string pattern, Behaviour behaviour, bool invert = false) {
    // Behind ByteLevel a pattern sees the stand-ins of bytes; digits stand for themselves.
    if (pipeline_.byte_level && !spelled_ && pattern != "[0-9]" && pattern != "[0-9][0-9][0-9]") {
      add_kind(SplitStep::Kind::kSpell);
      spelled_ = true;
    }
    SplitStep step;
    step.pattern = std::move(pattern);
    step.behaviour = behaviour;
    step.invert = invert;
    pipeline_.splits.push_back(std::move(step));
  }

  static Result<Behaviour> behaviour(const JsonReader& reader) {
    BITNET_ASSIGN_OR_RETURN(const std::string name, reader.text_or("behavior", "Isolated"));
    if (name == "Isolated") return Behaviour::kIsolated;
    if (name == "Removed") return Behaviour::kRemoved;
    if (name == "MergedWithPrevious") return Behaviour::kMergedWithPrevious;
    if (name == "MergedWithNext") return Behaviour::kMergedWithNext;
    if (name == "Contiguous") return Behaviour::kContiguous;
    return reader.fail("behavior \"" + name + "\" is not known");
  }

  Status pre_tokenizer(const JsonReader& reader, const std::string& type) {
    if (type == "Split") {
      bool is_regex = false;
      BITNET_ASSIGN_OR_RETURN(const std::string text, pattern(reader, is_regex));
      BITNET_ASSIGN_OR_RETURN(const Behaviour how, behaviour(reader));
      BITNET_ASSIGN_OR_RETURN(const bool invert, reader.flag_or("invert", false));
      add_split(is_regex ? text : escaped(text), how, invert);
    } else if (type == "Digits") {
      BITNET_ASSIGN_OR_RETURN(const bool individual, reader.flag_or("individual_digits", false));
      add_split(individual ? R"(\p{N})" : R"(\p{N}+)", Behaviour::kIsolated);
    } else if (type == "Punctuation") {
      BITNET_ASSIGN_OR_RETURN(const Behaviour how, behaviour(reader));
      add_split(kPunctuation, how);
    } else if (type == "WhitespaceSplit") {
      add_split(R"(\s)", Behaviour::kRemoved);
    } else if (type == "ByteLevel") {
      return byte_level(reader);
    } else if (type == "Metaspace") {
      return metaspace(reader);
    } else {
      return unsupported(reader, type,
                         "Split, ByteLevel, Metaspace, Digits, Punctuation, WhitespaceSplit and Sequence");
    }
    return {};
  }

  Status byte_level(const JsonReader& reader) {
    if (pipeline_.byte_level) return reader.fail("expected ByteLevel once, found it again");
    BITNET_ASSIGN_OR_RETURN(const bool prefix, reader.flag_or("add_prefix_space", true));
    BITNET_ASSIGN_OR_RETURN(const bool use_regex, reader.flag_or("use_regex", true));
    if (prefix) add_kind(SplitStep::Kind::kPrepend);
    if (use_regex) add_split(kByteLevelPattern, Behaviour::kIsolated);
    pipeline_.byte_level = true;
    return {};
  }

  static Result<SplitStep::Prepend> prepend_scheme(const JsonReader& reader) {
    using Prepend = SplitStep::Prepend;
    BITNET_ASSIGN_OR_RETURN(const bool prefix, reader.flag_or("add_prefix_space", true));
    BITNET_ASSIGN_OR_RETURN(const std::string scheme, reader.text_or("prepend_scheme", prefix ? "always" : "never"));
    if (scheme == "always") return Prepend::kAlways;
    if (scheme == "first") return Prepend::kFirst;
    if (scheme == "never") return Prepend::kNever;
    return reader.fail("prepend_scheme \"" + scheme + "\" is not known");
  }

  static Status check_replacement(const JsonReader& reader) {
    BITNET_ASSIGN_OR_RETURN(const std::string replacement, reader.text_or("replacement", std::string(kSpaceMark)));
    if (replacement != kSpaceMark) return reader.fail("replacement is \"" + replacement + "\"; expected U+2581");
    return {};
  }

  Status metaspace(const JsonReader& reader) {
    BITNET_RETURN_IF_ERROR(check_replacement(reader));
    SplitStep step;
    step.kind = SplitStep::Kind::kMetaspace;
    BITNET_ASSIGN_OR_RETURN(step.prepend, prepend_scheme(reader));
    BITNET_ASSIGN_OR_RETURN(const bool split, reader.flag_or("split", true));
    pipeline_.splits.push_back(std::move(step));
    if (split) add_split(std::string(kSpaceMark), Behaviour::kMergedWithNext);
    return {};
  }

  Status decoder(const JsonReader& reader, const std::string& type) {
    if (type == "ByteLevel") {
      if (!pipeline_.byte_level) return reader.fail("ByteLevel, but the pre_tokenizer is not");
    } else if (type == "Metaspace") {
      BITNET_RETURN_IF_ERROR(check_replacement(reader));
      BITNET_ASSIGN_OR_RETURN(const SplitStep::Prepend prepend, prepend_scheme(reader));
      pipeline_.marks_spaces = true;
      pipeline_.strips_space = prepend != SplitStep::Prepend::kNever;
    } else if (type == "Replace") {
      bool is_regex = false;
      BITNET_ASSIGN_OR_RETURN(const std::string text, pattern(reader, is_regex));
      BITNET_ASSIGN_OR_RETURN(const std::string content, reader.text("content"));
      if (is_regex || text != kSpaceMark || content != " ") return reader.fail("expected Replace of U+2581 by a space");
      pipeline_.marks_spaces = true;
    } else if (type == "Strip") {
      BITNET_ASSIGN_OR_RETURN(const std::string content, reader.text("content"));
      const Json* start = reader.find("start");
      const Json* stop = reader.find("stop");
      if (content != " " || start == nullptr || *start != 1 || (stop != nullptr && *stop != 0)) {
        return reader.fail("expected Strip of one space at the start");
      }
      pipeline_.strips_space = true;
    } else if (type != "ByteFallback" && type != "Fuse") {
      return unsupported(reader, type, "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip and Sequence");
    }
    return {};
  }

  std::string where_;
  Pipeline pipeline_;
  bool spelled_ = false;
};

}  // namespace

Result<Pipeline> parse_pipeline(std::string_view json, const std::string& where) {
  BITNET_ASSIGN_OR_RETURN(const Json document, parse_json(json, where));
  if (!document.is_object()) return Error{ErrorCode::kTokenizer, where + ": expected a JSON object"};
  return PipelineParser(where).run(document);
}

}  // namespace bitnet::tokenizer
