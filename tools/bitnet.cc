// bitnet: run and measure ternary language models, look into their files, make synthetic ones.
#include <CLI/CLI.hpp>

#include "tools/commands.h"
#include "tools/output.h"

namespace bitnet::tools {

int report(const Error& error) { return report_error("bitnet", error); }

}  // namespace bitnet::tools

int main(int argc, char** argv) {
  bitnet::tools::report_file_size_limit_as_error();
  CLI::App app{"Runs ternary (BitNet b1.58) language models.", "bitnet"};
  app.set_version_flag("--version", BITNET_VERSION);
  app.require_subcommand(1);
  int exit_code = 0;
  bitnet::tools::add_run_command(app, exit_code);
  bitnet::tools::add_score_command(app, exit_code);
  bitnet::tools::add_embed_command(app, exit_code);
  bitnet::tools::add_tokenize_command(app, exit_code);
#if defined(BITNET_BENCH_COMMAND)
  bitnet::tools::add_bench_command(app, exit_code);
#endif
  bitnet::tools::add_inspect_command(app, exit_code);
  bitnet::tools::add_compat_check_command(app, exit_code);
  bitnet::tools::add_list_commands(app, exit_code);
  bitnet::tools::add_convert_command(app, exit_code);
  bitnet::tools::add_synth_command(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(bitnet::ErrorCode::kUsage);
  }
  return exit_code;
}
