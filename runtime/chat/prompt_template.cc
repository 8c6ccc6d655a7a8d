#include "runtime/chat/prompt_template.h"

#include <algorithm>
#include <array>
#include <vector>

namespace bitnet {
namespace {

constexpr PromptTemplate kTemplates[] = {
    {.name = "raw", .models = "base models; the text as it is", .system = {}, .user = {}, .assistant = {}},
    {.name = "bitnet",
     .models = "BitNet-b1.58-2B-4T",
     .system = {"System: ", "<|eot_id|>"},
     .user = {"User: ", "<|eot_id|>"},
     .assistant = {"Assistant: ", "<|eot_id|>"},
     .trims = true},
    {.name = "llama3",
     .models = "Llama 3 Instruct, Llama3-8B-1.58",
     .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
     .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
     .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
     .trims = true},
    {.name = "chatml",
     .models = "Qwen, Ternary-Bonsai, Falcon-E (as its file declares)",
     .system = {"<|im_start|>system\n", "<|im_end|>\n"},
     .user = {"<|im_start|>user\n", "<|im_end|>\n"},
     .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"}},
    {.name = "falcon3",
     .models = "Falcon3 Instruct 1.58",
     .system = {"<|system|>\n", "\n"},
     .user = {"<|user|>\n", "\n"},
     .assistant = {"<|assistant|>\n", "\n"},
     .stop = "<|user|>"},
    {.name = "falcon-e",
     .models = "Falcon-E Instruct, as one integrator found it to work better than chatml",
     .system = {"", "\n"},
     .user = {"User: ", "\n"},
     .assistant = {"Falcon:", "\n"},
     .stop = "User:"},
    {.name = "phi3",
     .models = "Phi-3 and Phi-3.5",
     .system = {"<|system|>\n", "<|end|>\n"},
     .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"}},
    {.name = "zephyr",
     .models = "Zephyr, TinyLlama Chat",
     .system = {"<|system|>\n", "</s>\n"},
     .user = {"<|user|>\n", "</s>\n"},
     .assistant = {"<|assistant|>\n", "</s>\n"}},
    {.name = "gemma",
     .models = "Gemma instruction-tuned",
     .system = {},
     .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},
     .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"},
     .has_system = false,
     .trims = true},
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\r\n\v\f";
  const std::size_t begin = text.find_first_not_of(kSpaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) + 1 - begin);
}

const PromptTemplate::Frame& frame_of(const PromptTemplate& frame, Role role) {
  if (role == Role::kSystem) return frame.system;
  return role == Role::kUser ? frame.user : frame.assistant;
}

// What in an embedded template tells of which frame: all of the marks, and not the one of a relative that differs. They
// are looked for in the template's text without blanks, a new line for each \n and one kind of quotes. The first row
// that fits is taken.
struct Marks {
  std::string_view name;
  std::array<std::string_view, 3> all;  // the first stands in messages
  std::string_view none = {};
  std::string_view end = {};  // what the vocabulary's end token must be, where the template only says eos_token
};
constexpr Marks kMarks[] = {
    {"bitnet", {"BITNETAssistant"}},
    {"bitnet", {"|capitalize+':'+message['content']", "<|eot_id|>"}},
    {"llama3", {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
    {"chatml", {"<|im_start|>", "<|im_end|>"}, "<|im_sep|>"},
    {"gemma", {"<start_of_turn>", "<end_of_turn>"}},
    {"phi3", {"<|assistant|>", "<|end|>", "<|user|>\n"}},
    {"phi3", {"<|assistant|>", "<|end|>", "'<|user|>'+'\n'"}},
    {"phi3", {"<|assistant|>", "<|end|>", "'<|'+message['role']+'|>'+'\n'"}},
    {"falcon3", {"<|assistant|>", "'<|user|>\n'+message['content']+'\n'"}},
    {"zephyr", {"<|assistant|>", "'<|user|>\n'+message['content']+eos_token"}, {}, "</s>"},
};

std::string without_blanks(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ' || text[i] == '\t') continue;
    if (text.substr(i).starts_with("\\n")) {
      out += '\n';
      ++i;
    } else {
      out += text[i] == '"' ? '\'' : text[i];
    }
  }
  return out;
}

// The spelling of the end token, or nothing.
std::string_view end_token(const gguf::File& file) {
  const auto id = file.get_uint("tokenizer.ggml.eos_token_id");
  const auto tokens = file.get_array("tokenizer.ggml.tokens", gguf::ValueType::kString);
  if (!id.ok() || !tokens.ok()) return {};
  const std::vector<std::string_view> all = tokens->strings();
  return *id < all.size() ? all[static_cast<std::size_t>(*id)] : std::string_view();
}

bool fits(const Marks& marks, std::string_view text, const gguf::File& file) {
  for (const std::string_view mark : marks.all) {
    if (text.find(mark) == std::string_view::npos) return false;
  }
  if (!marks.none.empty() && text.find(marks.none) != std::string_view::npos) return false;
  return marks.end.empty() || end_token(file) == marks.end;
}

}  // namespace

std::span<const PromptTemplate> prompt_templates() { return kTemplates; }

const PromptTemplate* find_prompt_template(std::string_view name) {
  const auto* found = std::find_if(std::begin(kTemplates), std::end(kTemplates),
                                   [&](const PromptTemplate& entry) { return entry.name == name; });
  return found == std::end(kTemplates) ? nullptr : found;
}

std::string known_prompt_templates() {
  std::string names;
  for (const PromptTemplate& entry : kTemplates) names += (names.empty() ? "" : ", ") + std::string(entry.name);
  return names;
}

TemplateChoice choose_prompt_template(const gguf::File& file) {
  constexpr const char* kKey = "tokenizer.chat_template";
  const auto text = file.get_string(kKey);
  if (!text.ok()) return {find_prompt_template("raw"), std::string(kKey) + " is missing"};
  const std::string plain = without_blanks(*text);
  for (const Marks& marks : kMarks) {
    if (!fits(marks, plain, file)) continue;
    return {find_prompt_template(marks.name), std::string(kKey) + " has \"" + std::string(marks.all[0]) + "\""};
  }
  return {find_prompt_template("raw"), std::string(kKey) + " is of no known kind", true};
}

Result<std::string> format_prompt(const PromptTemplate& frame, std::span<const Message> messages) {
  if (messages.empty()) return Error{ErrorCode::kUsage, "a prompt needs a message, found none"};
  std::string prompt;
  std::string system;  // waits for the first user message where the template has no place for it
  for (const Message& message : messages) {
    const std::string_view content = frame.trims ? trimmed(message.content) : std::string_view(message.content);
    if (message.role == Role::kSystem && !frame.has_system) {
      system += std::string(content) + "\n\n";
      continue;
    }
    const PromptTemplate::Frame& around = frame_of(frame, message.role);
    prompt += around.before;
    if (message.role == Role::kUser && !system.empty()) {
      prompt += system;
      system.clear();
    }
    prompt += content;
    prompt += around.after;
  }
  prompt += frame.assistant.before;
  return prompt;
}

}  // namespace bitnet
