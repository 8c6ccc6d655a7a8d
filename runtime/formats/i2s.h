// The three byte layouts of I2_S, both ways; private to this folder. 2-bit codes t + 1 of the row-major matrix,
// rows*columns/4 bytes; the scale behind them is not touched here.
#pragma once

#include <cstdint>

#include "runtime/base/result.h"
#include "runtime/formats/options.h"

namespace bitnet::formats {

[[nodiscard]] const char* to_string(I2sLayout layout);  // as on the command line: "x86", "arm", "4row"

// Whether the layout holds a matrix of this shape without a broken last group. The message is what is wrong.
[[nodiscard]] Status check_i2s_shape(I2sLayout layout, std::int64_t rows, std::int64_t columns);

// Rows [row_begin, row_end) into codes [rows][columns]; returns how many undefined codes (3) became 1.
std::uint64_t decode_i2s(I2sLayout layout, const std::uint8_t* bytes, std::int64_t columns, std::int64_t row_begin,
                         std::int64_t row_end, std::uint8_t* codes);

// Puts rows [row_begin, row_begin + rows) into `bytes`, where their bits are 0 so far. Codes are 0..2.
void encode_i2s(I2sLayout layout, const std::uint8_t* codes, std::int64_t columns, std::int64_t row_begin,
                std::int64_t rows, std::uint8_t* bytes);

}  // namespace bitnet::formats
