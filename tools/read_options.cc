#include "tools/read_options.h"

#include <map>
#include <string>

namespace bitnet::tools {

void add_read_options(CLI::App& command, formats::ReadOptions& options) {
  using formats::I2sLayout;
  static const std::map<std::string, I2sLayout> kLayouts{
      {"x86", I2sLayout::kX86}, {"arm", I2sLayout::kArm}, {"4row", I2sLayout::k4Row}};
  command
      .add_option("--i2s-layout", options.i2s_layout,
                  "Byte layout of I2_S weights, which a file does not state: x86, as nearly every file has it; arm, "
                  "where bitnet.cpp quantised on ARM; 4row, where it was built without ACT_PARALLEL")
      ->transform(CLI::CheckedTransformer(kLayouts))
      ->option_text("x86|arm|4row");
  command.add_option("--tile-config", options.tile_config,
                     "bitnet.cpp's kernel_config.ini with the tile parameters of TL1 or TL2 weights, which a file does "
                     "not state (default: those of the models that bitnet.cpp knows)");
}

}  // namespace bitnet::tools
