// bitnet list-architectures, bitnet list-templates: what the programs know, one line each or as JSON.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/chat/prompt_template.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/architectures.h"
#include "tools/commands.h"
#include "tools/output.h"

namespace bitnet::tools {
namespace {

using Json = nlohmann::ordered_json;
using Rows = std::vector<std::vector<std::string>>;

// Columns padded to their widest entry; the last one is not.
std::string table(const Rows& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      text += i + 1 < row.size() ? std::string(widths[i] - row[i].size() + 2, ' ') : "\n";
    }
  }
  return text;
}

std::string architectures_json() {
  Json list = Json::array();
  for (const Architecture& entry : architectures()) {
    list.push_back({{"name", entry.name},
                    {"activation", to_string(entry.activation)},
                    {"gated", entry.gated},
                    {"norm", to_string(entry.norm)},
                    {"rope", to_string(entry.rope)},
                    {"models", entry.models}});
  }
  return list.dump(2) + "\n";
}

std::string architectures_text() {
  Rows rows = {{"name", "activation", "norm", "rope", "models"}};
  for (const Architecture& entry : architectures()) {
    rows.push_back({std::string(entry.name), std::string(to_string(entry.activation)) + (entry.gated ? " gated" : ""),
                    std::string(to_string(entry.norm)), std::string(to_string(entry.rope)), std::string(entry.models)});
  }
  return table(rows) +
         "Sub-norms, QK norms, biases, norms of single projections, an untied head, RoPE scaling and windows are read "
         "from the model.\n";
}

struct TemplateOptions {
  std::string model;
  bool json = false;
};

Status list_templates(const TemplateOptions& options) {
  TemplateChoice choice;
  if (!options.model.empty()) {
    BITNET_ASSIGN_OR_RETURN(const gguf::File file, gguf::File::open(options.model));
    choice = choose_prompt_template(file);
  }
  if (options.json) {
    Json report = {{"templates", Json::array()}};
    for (const PromptTemplate& entry : prompt_templates()) {
      const auto frame = [](const PromptTemplate::Frame& f) { return Json{{"before", f.before}, {"after", f.after}}; };
      report["templates"].push_back({{"name", entry.name},
                                     {"models", entry.models},
                                     {"system", entry.has_system ? frame(entry.system) : Json()},
                                     {"user", frame(entry.user)},
                                     {"assistant", frame(entry.assistant)},
                                     {"stop", entry.stop}});
    }
    if (choice.chosen != nullptr) {
      report["model"] = {{"path", options.model}, {"template", choice.chosen->name}, {"reason", choice.reason}};
    }
    return write_output(report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  }
  Rows rows = {{"name", "prompt", "models"}};
  for (const PromptTemplate& entry : prompt_templates()) {
    const std::vector<Message> example = {{Role::kUser, "{prompt}"}};
    BITNET_ASSIGN_OR_RETURN(const std::string prompt, format_prompt(entry, example));
    rows.push_back({std::string(entry.name), Json(prompt).dump(), std::string(entry.models)});
  }
  std::string text = table(rows);
  if (choice.chosen != nullptr) {
    text += options.model + ": " + std::string(choice.chosen->name) + " (" + choice.reason + ")\n";
  }
  return write_output(text);
}

}  // namespace

void add_list_commands(CLI::App& app, int& exit_code) {
  CLI::App* list = app.add_subcommand("list-architectures", "Show the architectures of models that can be run");
  const auto json = std::make_shared<bool>(false);
  list->add_flag("--json", *json, "Print JSON");
  list->callback([json, &exit_code] {
    const Status status = write_output(*json ? architectures_json() : architectures_text());
    if (!status.ok()) exit_code = report(status.error());
  });

  CLI::App* templates = app.add_subcommand("list-templates", "Show the prompt templates for conversations");
  const auto options = std::make_shared<TemplateOptions>();
  templates->add_option("-m,--model", options->model, "Also say which one this GGUF file points to");
  templates->add_flag("--json", options->json, "Print JSON, with the text around each role's messages");
  templates->callback([options, &exit_code] {
    const Status status = list_templates(*options);
    if (!status.ok()) exit_code = report(status.error());
  });
}

}  // namespace bitnet::tools
