// The subcommands of `bitnet`. Each file tools/cmd_<name>.cc adds its own to the application and sets the exit code in
// its callback; results go to standard output, everything else to standard error.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "runtime/base/result.h"

namespace bitnet::tools {

void add_bench_command(CLI::App& app, int& exit_code);
void add_compat_check_command(CLI::App& app, int& exit_code);
void add_convert_command(CLI::App& app, int& exit_code);
void add_embed_command(CLI::App& app, int& exit_code);
void add_inspect_command(CLI::App& app, int& exit_code);
void add_list_commands(CLI::App& app, int& exit_code);  // list-architectures, list-templates
void add_synth_command(CLI::App& app, int& exit_code);
void add_run_command(CLI::App& app, int& exit_code);
void add_score_command(CLI::App& app, int& exit_code);
void add_tokenize_command(CLI::App& app, int& exit_code);

// Prints "bitnet: MESSAGE" to standard error and returns the exit code of the error.
int report(const Error& error);

}  // namespace bitnet::tools
