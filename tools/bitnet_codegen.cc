// bitnet-codegen: compiles the kernels that a model needs into a bundle, and looks into bundles.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "tools/codegen_commands.h"
#include "tools/codegen_inspect.h"
#include "tools/output.h"
#include "tools/read_options.h"

namespace bitnet::tools {
namespace {

void add_inspect(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("inspect", "what is in a bundle: provenance, images, kernels");
  auto path = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  command->add_option("bundle", *path, "the bundle (.bnk)")->required();
  command->add_flag("--json", *json, "one JSON object");
  command->callback([path, json, &exit_code] { exit_code = inspect_command(*path, *json); });
}

void add_verify(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("verify", "checks every digest of a bundle, and the model that it belongs to");
  auto path = std::make_shared<std::string>();
  auto model = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  command->add_option("bundle", *path, "the bundle (.bnk)")->required();
  command->add_option("-m,--model", *model, "the model (.gguf) it was made for");
  auto read = std::make_shared<formats::ReadOptions>();
  add_read_options(*command, *read);
  command->add_flag("--json", *json, "one JSON object");
  command->callback([path, model, json, read, &exit_code] { exit_code = verify_command(*path, *model, *json, *read); });
}

void add_list_targets(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("list-targets", "the targets, and which of them this CPU executes");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "one JSON array");
  command->callback([json, &exit_code] { exit_code = list_targets_command(*json); });
}

void add_explain(CLI::App& app, int& exit_code) {
  auto* command =
      app.add_subcommand("explain", "one kernel: formula, layout, tuned point, source, and its machine code");
  auto explain = std::make_shared<ExplainCommand>();
  explain->add_options(*command);
  command->callback([explain, &exit_code] { exit_code = explain->run(); });
}

void add_tune(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("tune", "finds by measurement which variants serve each shape on this machine");
  auto tune = std::make_shared<TuneCommand>();
  tune->add_options(*command);
  command->callback([tune, &exit_code] { exit_code = tune->run(); });
}

}  // namespace
}  // namespace bitnet::tools

int main(int argc, char** argv) {
  bitnet::tools::report_file_size_limit_as_error();
  CLI::App app{"Compiles the kernels of a ternary model into a bundle.", "bitnet-codegen"};
  app.set_version_flag("--version", BITNET_VERSION);
  app.require_subcommand(0, 1);
  int exit_code = 0;
  bitnet::tools::CompileCommand compile;
  compile.add_options(app);
  bitnet::tools::add_explain(app, exit_code);
  bitnet::tools::add_inspect(app, exit_code);
  bitnet::tools::add_verify(app, exit_code);
  bitnet::tools::add_list_targets(app, exit_code);
  bitnet::tools::add_tune(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(bitnet::ErrorCode::kUsage);
  }
  return app.get_subcommands().empty() ? compile.run() : exit_code;
}
