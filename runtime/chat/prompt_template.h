// Prompt templates: how a conversation becomes the text that a model was trained to go on from. A template is a row of
// a table, the text around the messages of each role; models whose frame needs more are not in it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/gguf/gguf.h"

namespace bitnet {

enum class Role : std::uint8_t { kSystem, kUser, kAssistant };

struct Message {
  Role role = Role::kUser;
  std::string content;
};

struct PromptTemplate {
  struct Frame {
    std::string_view before;
    std::string_view after;
  };
  std::string_view name;
  std::string_view models;  // who was trained with it
  Frame system;
  Frame user;
  Frame assistant;         // `before` also ends a prompt: the model goes on from there
  bool has_system = true;  // false: a system message is put before the next user message, an empty line between them
  bool trims = false;      // white space around a message is taken away
  std::string_view stop = {};  // text that ends an answer, besides the vocabulary's end tokens; empty: none
};

// "raw" first: the messages as they are, one after the other.
[[nodiscard]] std::span<const PromptTemplate> prompt_templates();
[[nodiscard]] const PromptTemplate* find_prompt_template(std::string_view name);  // nullptr: not known
[[nodiscard]] std::string known_prompt_templates();                               // "raw, bitnet, ..." for messages

// The template that a model's file points to, and why.
struct TemplateChoice {
  const PromptTemplate* chosen = nullptr;  // "raw" where nothing points to another
  std::string reason;                      // "tokenizer.chat_template has <|im_start|>"
  bool unknown =
      false;  // the file has a template, but it is none of these: "raw" is not what the model was trained with
};
// From the marks in tokenizer.chat_template, which must all be there. The template that bitnet.cpp's converter embeds
// ("BITNETAssistant") is a known defect of it: the models that have it were trained with "bitnet", which is chosen.
[[nodiscard]] TemplateChoice choose_prompt_template(const gguf::File& file);

// The prompt of a conversation, its begin token left to the tokenizer; ends where the assistant is to go on. Special
// tokens stand in it as text. kUsage: no message.
[[nodiscard]] Result<std::string> format_prompt(const PromptTemplate& frame, std::span<const Message> messages);

}  // namespace bitnet
