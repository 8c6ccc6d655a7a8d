// Conversations as prompts: by hand, and against the conversations of the assets.
#include "runtime/chat/prompt_template.h"

#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/assets.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

using nlohmann::json;

std::vector<Message> messages_of(const json& list) {
  std::vector<Message> messages;
  for (const json& entry : list) {
    const std::string role = entry.at("role");
    messages.push_back({role == "system" ? Role::kSystem
                        : role == "user" ? Role::kUser
                                         : Role::kAssistant,
                        entry.at("content")});
  }
  return messages;
}

std::string prompt(const char* name, const std::vector<Message>& messages) {
  const PromptTemplate* frame = find_prompt_template(name);
  REQUIRE_MESSAGE(frame != nullptr, name);
  const auto text = format_prompt(*frame, messages);
  REQUIRE_MESSAGE(text.ok(), (text.ok() ? "" : text.error().message));
  return *text;
}

TEST_CASE("raw is the text itself; unknown names are known to be unknown") {
  CHECK(prompt("raw", {{Role::kUser, " any text\n"}}) == " any text\n");
  CHECK(find_prompt_template("") == nullptr);
  CHECK(find_prompt_template("Raw") == nullptr);
  CHECK(known_prompt_templates().starts_with("raw, bitnet, "));
  for (const PromptTemplate& entry : prompt_templates()) CHECK(find_prompt_template(entry.name) == &entry);
}

TEST_CASE("a prompt has a message") {
  const auto text = format_prompt(prompt_templates().front(), {});
  REQUIRE(!text.ok());
  CHECK(text.error().code == ErrorCode::kUsage);
}

TEST_CASE("frames by hand") {
  CHECK(prompt("falcon3", {{Role::kSystem, "S"}, {Role::kUser, "U"}}) == "<|system|>\nS\n<|user|>\nU\n<|assistant|>\n");
  CHECK(prompt("falcon-e", {{Role::kUser, "U"}}) == "User: U\nFalcon:");
  CHECK(prompt("gemma", {{Role::kSystem, " S "}, {Role::kUser, "U"}}) ==
        "<start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\n");
}

TEST_CASE("the conversations of the assets") {
  const auto bitnet_path = test::asset("chat_templates/bitnet_templates.json", "BitNet's conversations");
  const auto cases_path = test::asset("chat_templates/chat_template_cases.json", "conversations of other models");
  if (!bitnet_path || !cases_path) return;
  const auto read = [](const std::string& path) {
    std::ifstream stream(path);
    return json::parse(stream);
  };
  const json bitnet = read(*bitnet_path);
  for (const json& entry : bitnet.at("bitnet_2b_4t_hf").at("cases")) {
    CHECK(prompt("bitnet", messages_of(entry.at("messages"))) == entry.at("expect").get<std::string>());
  }
  const json cases = read(*cases_path);
  const std::vector<Message> messages = messages_of(cases.at("messages"));
  int compared = 0;
  for (const auto& [model, name] : {std::pair{"Llama-3", "llama3"},
                                    {"teknium/OpenHermes-2.5-Mistral-7B", "chatml"},
                                    {"Phi-3-mini", "phi3"},
                                    {"google/gemma-7b-it", "gemma"}}) {
    for (const json& entry : cases.at("cases")) {
      if (entry.at("name") != model) continue;
      CHECK(prompt(name, messages) == entry.at("expected_native").get<std::string>());
      ++compared;
    }
  }
  CHECK(compared == 4);
}

// What a file with this template points to; `end` is its end token, the third.
TemplateChoice choice(const char* text, std::string end = "</s>") {
  gguf::Writer writer;
  if (text != nullptr) writer.set("tokenizer.chat_template", text);
  const std::vector<std::string> tokens = {"<unk>", "<s>", std::move(end)};
  writer.set("tokenizer.ggml.tokens", std::span<const std::string>(tokens));
  writer.set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
  const auto bytes = writer.header();
  REQUIRE(bytes.ok());
  const auto file = gguf::File::parse(*bytes, "t.gguf");
  REQUIRE(file.ok());
  return choose_prompt_template(*file);
}

TEST_CASE("a model's file points to its template") {
  CHECK(choice(nullptr).chosen->name == "raw");
  CHECK_FALSE(choice(nullptr).unknown);
  CHECK(choice("{{ something else }}").chosen->name == "raw");
  CHECK(choice("{{ something else }}").unknown);
  CHECK(choice("... <|im_start|> ... <|im_end|>").chosen->name == "chatml");
  CHECK(choice("... <|im_start|> ... <|im_sep|> ... <|im_end|>").unknown);
  CHECK(choice("{{ 'Human: ' + message['content'] + '\n\nBITNETAssistant: ' }}").chosen->name == "bitnet");
  for (const char* text : {"{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}",
                           "{{ message[\"role\"]|capitalize + \": \" + message[\"content\"] + \"<|eot_id|>\" }}"}) {
    CHECK(choice(text).chosen->name == "bitnet");
    CHECK_FALSE(choice(text).unknown);
  }
  CHECK(choice("<|start_header_id|> <|end_header_id|> <|eot_id|>").reason.find("<|start_header_id|>") !=
        std::string::npos);
}

TEST_CASE("relatives that mark turns alike are told apart, and a stranger is none of them") {
  const char* falcon3 = "{{- '<|user|>\\n' + message['content'] + '\\n' }}{{ '<|assistant|>\\n' }}";
  const char* zephyr = "{{ '<|user|>\n' + message['content'] + eos_token }}{{ '<|assistant|>' }}";
  CHECK(choice(falcon3).chosen->name == "falcon3");
  CHECK(choice(zephyr).chosen->name == "zephyr");
  CHECK(choice(zephyr, "<|endoftext|>").unknown);
  CHECK(choice("{{'<|user|>' + '\n' + message['content'] + '<|end|>' }}{{ '<|assistant|>\n' }}").chosen->name ==
        "phi3");
  CHECK(
      choice("{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>' }} <|assistant|>").chosen->name ==
      "phi3");
  CHECK(choice("{{'<|user|>' + message['content'] + '<|end|>' }}{{ '<|assistant|>' }}").unknown);
  CHECK(choice("{{'<|' + message['role'] + '|>' + message['content'] + '<|end|>' }} <|assistant|>").unknown);
  CHECK(choice("<|user|>\n{{ item['content'] }}<|assistant|>").unknown);
  CHECK(prompt("zephyr", {{Role::kSystem, "S"}, {Role::kUser, "U"}}) ==
        "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\n");
}

TEST_CASE("the templates of the assets: a frame that gives their prompt, or none at all") {
  const auto path = test::asset("chat_templates/chat_template_cases.json", "conversations of other models");
  if (!path) return;
  std::ifstream stream(*path);
  const json cases = json::parse(stream);
  const std::vector<Message> messages = messages_of(cases.at("messages"));
  int known = 0;
  for (const json& entry : cases.at("cases")) {
    const auto text = entry.at("template").get<std::string>();
    const TemplateChoice found = choice(text.c_str());
    INFO(entry.at("name").get<std::string>(), ": ", found.chosen->name);
    CHECK(found.unknown == (found.chosen->name == "raw"));
    if (found.unknown) continue;
    ++known;
    const auto made = format_prompt(*found.chosen, messages);
    REQUIRE(made.ok());
    CHECK(*made == entry.at("expected_native").get<std::string>());
  }
  CHECK(known == 7);  // OpenHermes, Gemma, Llama 3 and four of Phi-3
}

}  // namespace
}  // namespace bitnet
