// The pre-tokenisers by name. The patterns are those of the models' own tokenizer.json files; where llama.cpp rewrites
// one for its engine (it spells out (?i:...), and knows no "|\s+" at the end) the words come out the same, but for the
// characters U+017F and U+212A, which are an s and a k for (?i:...) and in the models' own tokenizers, not in
// llama.cpp.
//
// Facts of llama.cpp that these names imply: the names of the llama-bpe group switch ignore_merges on and put a
// beginning-of-text token before a prompt unless tokenizer.ggml.add_bos_token says otherwise; all others put none.
// Qwen2 models bring text into NFC first when they run elsewhere; llama.cpp does not, and a GGUF file that only says
// "qwen2" is read as llama.cpp reads it; names that it cuts like another name are here with that one. Falcon3, Falcon-E
// and Falcon-H1 are cut like Llama 3.
#include <array>
#include <span>

#include "runtime/tokenizer/pipeline.h"

namespace bitnet::tokenizer {
namespace {

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kNewline = "[\r\n]";
constexpr const char* kHan = "[一-龥ࠀ-一가-퟿]+";
constexpr const char* kPunctuation = R"([!-/:-@\[-`{-~\p{P}])";
// Letters with case, as DeepSeek LLM lists them.
constexpr const char* kCasedLetters =
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1F7Dᾀ-ᾴᾶ-"
    "ᾼ\u1FBE"
    "ῂ-ῄῆ-ῌῐ-\u1FD3ῖ-\u1FDBῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212A-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-"
    "ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀"
    "-𞥃]+";

struct Cut {
  const char* pattern;
  Behaviour behaviour = Behaviour::kIsolated;
};

constexpr Cut kGpt2Cuts[] = {{kGpt2}};
constexpr Cut kLlama3Cuts[] = {{kLlama3}};
constexpr Cut kQwen2Cuts[] = {{kQwen2}};
constexpr Cut kDeepseekCoderCuts[] = {{kNewline}, {R"(\s?\p{L}+)"}, {R"(\s?\p{P}+)"}, {kHan}, {R"(\p{N})"}};
constexpr Cut kDeepseekLlmCuts[] = {{kNewline},  {kCasedLetters}, {"\\s?[!-/:-~！-／：-～‘-‟　-。]+"},
                                    {R"(\s+$)"}, {kHan},          {R"(\p{N}+)"}};
constexpr Cut kFalconCuts[] = {{kPunctuation, Behaviour::kContiguous}, {kGpt2}, {"[0-9][0-9][0-9]"}};
constexpr Cut kDigitCuts[] = {{R"(\p{N})"}, {kGpt2}};

struct Named {
  std::string_view name;
  std::span<const Cut> cuts;
  bool like_llama3 = false;
};

constexpr Named kNamed[] = {
    {"gpt-2", kGpt2Cuts},
    {"gpt2", kGpt2Cuts},
    {"olmo", kGpt2Cuts},
    {"mpt", kGpt2Cuts},
    {"jais", kGpt2Cuts},
    {"llama-bpe", kLlama3Cuts, true},
    {"llama3", kLlama3Cuts, true},
    {"llama-v3", kLlama3Cuts, true},
    {"falcon3", kLlama3Cuts, true},
    {"falcon-h1", kLlama3Cuts, true},
    {"falcon_e", kLlama3Cuts, true},
    {"qwen2", kQwen2Cuts},
    {"stablelm2", kQwen2Cuts},
    {"deepseek-r1-qwen", kQwen2Cuts},
    {"megrez", kQwen2Cuts},
    {"deepseek-coder", kDeepseekCoderCuts},
    {"deepseek-llm", kDeepseekLlmCuts},
    {"falcon", kFalconCuts},
    {"starcoder", kDigitCuts},
    {"refact", kDigitCuts},
    {"command-r", kDigitCuts},
};

const Named* find_named(std::string_view pre) {
  for (const Named& named : kNamed) {
    if (named.name == pre) return &named;
  }
  return nullptr;
}

std::vector<SplitStep> steps_of(const Named& named) {
  std::vector<SplitStep> steps;
  for (const Cut& cut : named.cuts) {
    SplitStep step;
    step.pattern = cut.pattern;
    step.behaviour = cut.behaviour;
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace

Result<std::optional<Pipeline>> named_pipeline(std::string_view pre) {
  const Named* named = find_named(pre);
  if (named == nullptr) return std::optional<Pipeline>{};
  Pipeline pipeline;
  pipeline.splits = steps_of(*named);
  pipeline.byte_level = true;
  pipeline.ignore_merges = named->like_llama3;
  return std::optional<Pipeline>(std::move(pipeline));
}

bool name_ignores_merges(std::string_view pre) {
  const Named* named = find_named(pre);
  return named != nullptr && named->like_llama3;
}

std::string_view name_of(const Pipeline& pipeline) {
  for (const Named& named : kNamed) {
    const std::vector<SplitStep> steps = steps_of(named);
    bool same = steps.size() == pipeline.splits.size();
    for (std::size_t i = 0; same && i < steps.size(); ++i) same = steps[i].same_as(pipeline.splits[i]);
    if (same) return named.name;
  }
  return {};
}

std::string known_names() {
  std::string names;
  for (const Named& named : kNamed) {
    if (!names.empty()) names += ", ";
    names += named.name;
  }
  return names;
}

bool name_adds_bos(std::string_view pre) {
  const Named* named = find_named(pre);
  return named != nullptr && named->like_llama3;
}

}  // namespace bitnet::tokenizer
