// Weight layouts: sizes, packing and unpacking. One interface for all, since everything that moves weights (loader,
// tests, self-test, bench) only needs to know how large a tile is and how to make one; the bytes are each layout's own
// business (layout_t2.cc, layout_t5.cc, layout_tl.cc open with their definition).
//
// Common to all: a tile is 16 rows (BITNET_TILE_ROWS), contiguous, ceil(K / line_k) lines of line_bytes; a matrix is
// ceil(N / 16) tiles, tile after tile, base 64-byte aligned; rows beyond N and k beyond K hold weight 0 (code 1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime/base/math.h"
#include "runtime/kernels/kernel.h"
#include "runtime/kernels/kernel_abi.h"

namespace bitnet {

enum class Layout : std::uint8_t { kT2, kT5, kTl1, kTl2 };
inline constexpr Layout kAllLayouts[] = {Layout::kT2, Layout::kT5, Layout::kTl1, Layout::kTl2};

// One for each of ModelShapes::ternary (runtime/model/config.h), in its order.
using ProductLayouts = std::vector<Layout>;

struct LayoutInfo {
  std::string_view name;    // "t2": in kernel tables and bundles
  std::int64_t line_k;      // k of a line; K is padded to a multiple of it
  std::int64_t line_bytes;  // of 16 rows; a multiple of 64
  bool k_groups;            // whether kernels with K-groups exist: line_k divides 64
};
[[nodiscard]] const LayoutInfo& info(Layout layout);
[[nodiscard]] std::optional<Layout> parse_layout(std::string_view name);
// Precondition: is_ternary(format).
[[nodiscard]] constexpr Layout layout_of(Format format) { return static_cast<Layout>(format); }
[[nodiscard]] constexpr Format format_of(Layout layout) { return static_cast<Format>(layout); }

[[nodiscard]] constexpr std::int64_t row_tiles(std::int64_t n) { return ceil_div<std::int64_t>(n, BITNET_TILE_ROWS); }
[[nodiscard]] std::size_t tile_bytes(Layout layout, std::int64_t k);
[[nodiscard]] std::size_t matrix_bytes(Layout layout, std::int64_t n, std::int64_t k);
// Groups of a matrix of width k: 1 for group 0.
[[nodiscard]] constexpr std::int64_t group_count(std::int64_t k, std::int64_t group) {
  return group == 0 ? 1 : ceil_div<std::int64_t>(k, group);
}

// Packs rows row_begin..row_end (row_begin a multiple of 16) of a matrix given as codes 0..2 (t+1), row-major:
// row(r) = codes + (r - row_begin) * k. Rows up to the next multiple of 16 are filled with code 1. `out` is the base of
// the whole matrix. Different tile ranges may be packed by different threads at once.
void pack_codes(Layout layout, const std::uint8_t* codes, std::int64_t row_begin, std::int64_t row_end, std::int64_t k,
                std::uint8_t* out);

// Codes of one row back, k entries.
void unpack_row(Layout layout, const std::uint8_t* packed, std::int64_t row, std::int64_t k, std::uint8_t* codes);

// GEMM activations: rows [tokens][BITNET_ACTIVATION_WIDTH(k)] -> [ceil(tokens/mr)][width/4][mr][4], missing tokens
// zero. Packs token blocks block_begin..block_end (in units of mr tokens).
void pack_activations(const std::int8_t* rows, std::int64_t tokens, std::int64_t k, std::int32_t mr,
                      std::int64_t block_begin, std::int64_t block_end, std::int8_t* out);
// Of one token block, the k of [k_begin, k_end), multiples of 64 up to the width. `rows` is the block's first of
// `tokens` <= mr, `out` the base of the block.
void pack_block(const std::int8_t* rows, std::int64_t tokens, std::int64_t k, std::int32_t mr, std::int64_t k_begin,
                std::int64_t k_end, std::int8_t* out);

}  // namespace bitnet
