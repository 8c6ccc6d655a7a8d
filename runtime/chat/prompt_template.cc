#include "runtime/chat/prompt_template.h"

#include <algorithm>

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

// What in an embedded template tells of which frame; the first that is found.
struct Mark {
  std::string_view text;
  std::string_view name;
};
constexpr Mark kMarks[] = {
    {"BITNETAssistant", "bitnet"},    {"<|start_header_id|>", "llama3"}, {"<|im_start|>", "chatml"},
    {"<start_of_turn>", "gemma"},     {"<|assistant|>", "falcon3"},      {"| capitalize + ': '", "bitnet"},
    {"|capitalize + ': '", "bitnet"},
};

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
  for (const Mark& mark : kMarks) {
    if (text->find(mark.text) == std::string_view::npos) continue;
    return {find_prompt_template(mark.name), std::string(kKey) + " has \"" + std::string(mark.text) + "\""};
  }
  return {find_prompt_template("raw"), std::string(kKey) + " is of no known kind"};
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
