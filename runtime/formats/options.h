// What a file of ternary weights does not say about itself, and the user may.
#pragma once

#include <cstdint>
#include <string>

namespace bitnet::formats {

// The byte layouts that go by the one type I2_S; nothing in the bytes tells them apart.
enum class I2sLayout : std::uint8_t {
  kX86,   // groups of 128 weights in 32 bytes: what every published file has
  kArm,   // groups of 64 weights in 16 bytes: written by bitnet.cpp's quantiser on ARM
  k4Row,  // four rows in a byte: written by bitnet.cpp built without ACT_PARALLEL
};

struct ReadOptions {
  I2sLayout i2s_layout = I2sLayout::kX86;
  std::string tile_config;  // path of bitnet.cpp's kernel_config.ini for TL1 and TL2; empty: the known tiles by shape
  bool strict = false;      // an assumed tile table is an error
};

}  // namespace bitnet::formats
