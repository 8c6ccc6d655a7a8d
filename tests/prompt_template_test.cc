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
                                    {"google/gemma-7b-it", "gemma"}}) {
    for (const json& entry : cases.at("cases")) {
      if (entry.at("name") != model) continue;
      CHECK(prompt(name, messages) == entry.at("expected_native").get<std::string>());
      ++compared;
    }
  }
  CHECK(compared == 3);
}

TEST_CASE("a model's file points to its template") {
  const test::TempFolder folder;
  const auto choice = [&](const char* text) {
    gguf::Writer writer;
    if (text != nullptr) writer.set("tokenizer.chat_template", text);
    const std::string path = folder.file("t.gguf");
    REQUIRE(writer.write(path, [](std::size_t, const gguf::Writer::Sink&) { return Status(); }).ok());
    const auto file = gguf::File::open(path);
    REQUIRE(file.ok());
    return choose_prompt_template(*file);
  };
  CHECK(choice(nullptr).chosen->name == "raw");
  CHECK(choice("{{ something else }}").chosen->name == "raw");
  CHECK(choice("... <|im_start|> ...").chosen->name == "chatml");
  CHECK(choice("{{ 'Human: ' + message['content'] + '\n\nBITNETAssistant: ' }}").chosen->name == "bitnet");
  CHECK(choice("{{ message['role'] | capitalize + ': ' }}").chosen->name == "bitnet");
  CHECK(choice("<|start_header_id|>").reason.find("<|start_header_id|>") != std::string::npos);
}

}  // namespace
}  // namespace bitnet
