// The options that say what a file of ternary weights does not say about itself; of both programs.
#pragma once

#include <CLI/CLI.hpp>

#include "runtime/formats/options.h"

namespace bitnet::tools {

// --i2s-layout and --tile-config, into `options`.
void add_read_options(CLI::App& command, formats::ReadOptions& options);

}  // namespace bitnet::tools
