// Dispatch over the layouts, and the packing of activations, which all of them share.
#include "runtime/kernels/layout.h"

#include <algorithm>
#include <cstring>

#include "runtime/kernels/layout_detail.h"

namespace bitnet {
namespace {

const layout_detail::LayoutCode& code_of(Layout layout) {
  constexpr const layout_detail::LayoutCode* kCodes[] = {&layout_detail::kT2, &layout_detail::kT5, &layout_detail::kTl1,
                                                         &layout_detail::kTl2};
  return *kCodes[static_cast<std::size_t>(layout)];
}

}  // namespace

const LayoutInfo& info(Layout layout) { return code_of(layout).info; }

std::optional<Layout> parse_layout(std::string_view name) {
  for (const Layout layout : kAllLayouts) {
    if (info(layout).name == name) return layout;
  }
  return std::nullopt;
}

std::size_t tile_bytes(Layout layout, std::int64_t k) {
  const LayoutInfo& of = info(layout);
  return static_cast<std::size_t>(ceil_div(k, of.line_k) * of.line_bytes);
}

std::size_t matrix_bytes(Layout layout, std::int64_t n, std::int64_t k) {
  return static_cast<std::size_t>(row_tiles(n)) * tile_bytes(layout, k);
}

void pack_codes(Layout layout, const std::uint8_t* codes, std::int64_t row_begin, std::int64_t row_end, std::int64_t k,
                std::uint8_t* out) {
  const layout_detail::LayoutCode& code = code_of(layout);
  const std::size_t bytes = tile_bytes(layout, k);
  for (std::int64_t row = row_begin; row < row_end; row += BITNET_TILE_ROWS) {
    const std::int64_t rows = std::min<std::int64_t>(BITNET_TILE_ROWS, row_end - row);
    code.pack_tile(codes + (row - row_begin) * k, rows, k,
                   out + static_cast<std::size_t>(row / BITNET_TILE_ROWS) * bytes);
  }
}

void unpack_row(Layout layout, const std::uint8_t* packed, std::int64_t row, std::int64_t k, std::uint8_t* codes) {
  const std::uint8_t* tile = packed + static_cast<std::size_t>(row / BITNET_TILE_ROWS) * tile_bytes(layout, k);
  code_of(layout).unpack_row(tile, row % BITNET_TILE_ROWS, k, codes);
}

void pack_block(const std::int8_t* rows, std::int64_t tokens, std::int64_t k, std::int32_t mr, std::int64_t k_begin,
                std::int64_t k_end, std::int8_t* out) {
  // 256 k of 16 tokens are 4 KiB: their lines of `out` stay in the L1 cache while all tokens are written into them.
  constexpr std::int64_t kStep = 256;
  const std::int64_t width = BITNET_ACTIVATION_WIDTH(k);
  for (std::int64_t begin = k_begin; begin < k_end; begin += kStep) {
    const std::int64_t end = std::min(begin + kStep, k_end);
    for (std::int64_t t = 0; t < mr; ++t) {
      std::int8_t* to = out + begin * mr + 4 * t;
      if (t >= tokens) {
        for (std::int64_t i = begin; i < end; i += 4, to += 4 * mr) std::memset(to, 0, 4);
        continue;
      }
      const std::int8_t* from = rows + t * width;
      for (std::int64_t i = begin; i < end; i += 4, to += 4 * mr) std::memcpy(to, from + i, 4);
    }
  }
}

void pack_activations(const std::int8_t* rows, std::int64_t tokens, std::int64_t k, std::int32_t mr,
                      std::int64_t block_begin, std::int64_t block_end, std::int8_t* out) {
  const std::int64_t width = BITNET_ACTIVATION_WIDTH(k);
  for (std::int64_t block = block_begin; block < block_end; ++block) {
    const std::int64_t first = block * mr;
    const std::int64_t many = std::clamp<std::int64_t>(tokens - first, 0, mr);
    pack_block(rows + first * width, many, k, mr, 0, width, out + first * width);
  }
}

}  // namespace bitnet
