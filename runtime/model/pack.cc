// I2_S (x86 layout) -> the layouts of the kernels. Any layout can be made from decoded rows (runtime/kernels/layout.h);
// t2 and t5, the common ones, have a shorter way where K is a multiple of 64 (runtime/kernels/pack_rows.h); every other
// K is decoded by its flat index.
#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "runtime/kernels/builtin.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/tensors.h"

namespace bitnet {
namespace {

constexpr std::int64_t kGroup = 128;      // weights
constexpr std::int64_t kGroupBytes = 32;  // of I2_S

// A row of a part of the stacked product; `codes` is null for the pad rows behind the last part.
struct RowSource {
  const std::uint8_t* codes = nullptr;  // of the part
  std::int64_t row = 0;                 // in the part
};
RowSource find_row(const FusedMatrix& product, std::int64_t row) {
  for (const gguf::Tensor* part : product.parts) {
    const auto rows = static_cast<std::int64_t>(part->ne[1]);
    if (row < rows) return {reinterpret_cast<const std::uint8_t*>(part->data.data()), row};
    row -= rows;
  }
  return {};
}

constexpr std::array<std::uint8_t, kGroupBytes> kPadGroup = [] {
  std::array<std::uint8_t, kGroupBytes> group{};
  group.fill(0x55);
  return group;
}();

// Where a row's groups lie; those of a pad row are kPadGroup again and again.
builtin::PackRow locate(const FusedMatrix& product, std::int64_t row) {
  const RowSource source = find_row(product, row);
  if (source.codes == nullptr) return {kPadGroup.data(), 0, false};
  const std::int64_t first = source.row * product.k;
  return {source.codes + first / kGroup * kGroupBytes, kGroupBytes, first % kGroup != 0};
}

// One tile of t2 or t5 with K a multiple of 64.
std::uint64_t pack_groups(const FusedMatrix& product, builtin::PackTile pack, std::int64_t row, std::uint8_t* out) {
  std::array<builtin::PackRow, BITNET_TILE_ROWS> rows;
  for (std::size_t r = 0; r < rows.size(); ++r) rows[r] = locate(product, row + static_cast<std::int64_t>(r));
  return pack(rows.data(), product.k, out);
}

// Codes of weights [flat, flat + count) in runs that stay inside one field of one group.
std::uint64_t decode(const std::uint8_t* codes, std::int64_t flat, std::int64_t count, std::uint8_t* out) {
  std::uint64_t illegal = 0;
  while (count > 0) {
    const std::int64_t in_group = flat % kGroup;
    const std::int64_t first = in_group % 32;
    const std::int64_t run = std::min<std::int64_t>(32 - first, count);
    const int shift = static_cast<int>(6 - 2 * (in_group / 32));
    const std::uint8_t* source = codes + flat / kGroup * kGroupBytes + first;
    for (std::int64_t i = 0; i < run; ++i) {
      const auto code = static_cast<std::uint8_t>(source[i] >> shift & 3);
      const std::uint8_t three = code == 3 ? 1 : 0;
      illegal += three;
      out[i] = static_cast<std::uint8_t>(code - 2 * three);
    }
    flat += run;
    out += run;
    count -= run;
  }
  return illegal;
}

// One tile with any K, in any layout. `codes` is work space that is kept from tile to tile.
std::uint64_t pack_decoded(const FusedMatrix& product, Layout layout, std::int64_t tile_row,
                           std::vector<std::uint8_t>& codes, std::uint8_t* out) {
  const std::int64_t k = product.k;
  const std::int64_t rows = std::min<std::int64_t>(BITNET_TILE_ROWS, product.n - tile_row);
  codes.resize(static_cast<std::size_t>(k * BITNET_TILE_ROWS));
  std::uint64_t illegal = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const RowSource source = find_row(product, tile_row + r);
    illegal += decode(source.codes, source.row * k, k, codes.data() + r * k);
  }
  pack_codes(layout, codes.data(), 0, rows, k, out);
  return illegal;
}

std::uint64_t pack_any(const FusedMatrix& product, Layout layout, std::int64_t tile_row,
                       std::vector<std::uint8_t>& codes, std::uint8_t* out) {
  if (product.k % (kGroup / 2) == 0) {
    if (layout == Layout::kT2) return pack_groups(product, builtin::best_family().pack_t2, tile_row, out);
    if (layout == Layout::kT5) return pack_groups(product, builtin::best_family().pack_t5, tile_row, out);
  }
  return pack_decoded(product, layout, tile_row, codes, out);
}

}  // namespace

std::uint64_t pack_tile(const FusedMatrix& product, Layout layout, std::int64_t tile_row, std::uint8_t* out) {
  std::vector<std::uint8_t> codes;
  return pack_any(product, layout, tile_row, codes, out);
}

std::uint64_t pack_product(const FusedMatrix& product, Layout layout, std::int64_t row_begin, std::int64_t row_end,
                           std::uint8_t* out) {
  std::vector<std::uint8_t> codes;
  const std::size_t bytes = tile_bytes(layout, product.k);
  std::uint64_t illegal = 0;
  for (std::int64_t row = row_begin; row < row_end; row += BITNET_TILE_ROWS) {
    illegal += pack_any(product, layout, row, codes, out + static_cast<std::size_t>(row / BITNET_TILE_ROWS) * bytes);
  }
  return illegal;
}

}  // namespace bitnet
