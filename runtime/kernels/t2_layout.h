// Layout t2: sizes, packing and unpacking (kernel_abi.h defines the bytes).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/base/math.h"
#include "runtime/kernels/kernel_abi.h"

namespace bitnet::t2 {

[[nodiscard]] constexpr std::int64_t tiles(std::int64_t n) { return ceil_div<std::int64_t>(n, BITNET_T2_TILE_ROWS); }
[[nodiscard]] constexpr std::int64_t lines(std::int64_t k) { return ceil_div<std::int64_t>(k, BITNET_T2_LINE_K); }
[[nodiscard]] constexpr std::size_t tile_bytes(std::int64_t k) {
  return static_cast<std::size_t>(lines(k)) * BITNET_T2_LINE_BYTES;
}
[[nodiscard]] constexpr std::size_t bytes(std::int64_t n, std::int64_t k) {
  return static_cast<std::size_t>(tiles(n)) * tile_bytes(k);
}

// Packs rows row_begin..row_end (row_begin a multiple of 16) of a matrix given as codes 0..2 (t+1), row-major:
// row(r) = codes + (r - row_begin) * k. Rows up to the next multiple of 16 are filled with code 1. `out` is the base of
// the whole matrix. Different tile ranges may be packed by different threads at once.
void pack_codes(const std::uint8_t* codes, std::int64_t row_begin, std::int64_t row_end, std::int64_t k,
                std::uint8_t* out);

// Codes of one row back, k entries.
void unpack_row(const std::uint8_t* packed, std::int64_t row, std::int64_t k, std::uint8_t* codes);

// GEMM activations: rows [tokens][round_up(k, 64)] -> [ceil(tokens/mr)][round_up(k, 64)/4][mr][4], missing tokens zero.
// Packs token blocks block_begin..block_end (in units of mr tokens).
void pack_activations(const std::int8_t* rows, std::int64_t tokens, std::int64_t k, std::int32_t mr,
                      std::int64_t block_begin, std::int64_t block_end, std::int8_t* out);

}  // namespace bitnet::t2
