// Ternary tensors -> the layouts of the kernels. Any layout can be made from decoded rows (runtime/kernels/layout.h);
// t2 and t5 of I2_S tensors, the common ones, have a shorter way where K is a multiple of 64
// (runtime/kernels/pack_rows.h).
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/kernels/builtin.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/tensors.h"

namespace bitnet {
namespace {

constexpr std::int64_t kGroup = 128;      // weights
constexpr std::int64_t kGroupBytes = 32;  // of I2_S

// A row of a part of the stacked product; `part` is null for the pad rows behind the last one.
struct RowSource {
  const MatrixPart* part = nullptr;
  std::int64_t row = 0;  // in the part
};
RowSource find_row(const FusedMatrix& product, std::int64_t row) {
  for (const MatrixPart& part : product.parts) {
    if (row < part.rows) return {&part, row};
    row -= part.rows;
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
  if (source.part == nullptr) return {kPadGroup.data(), 0, false};
  const std::int64_t first = source.row * product.k;
  const auto* codes = reinterpret_cast<const std::uint8_t*>(source.part->tensor->data.data());
  return {codes + first / kGroup * kGroupBytes, kGroupBytes, first % kGroup != 0};
}

// One tile of t2 or t5 with K a multiple of 64.
std::uint64_t pack_groups(const FusedMatrix& product, builtin::PackTile pack, std::int64_t row, std::uint8_t* out) {
  std::array<builtin::PackRow, BITNET_TILE_ROWS> rows;
  for (std::size_t r = 0; r < rows.size(); ++r) rows[r] = locate(product, row + static_cast<std::int64_t>(r));
  return pack(rows.data(), product.k, out);
}

// One tile of any type and K, in any layout. `codes` is work space that is kept from tile to tile.
std::uint64_t pack_decoded(const FusedMatrix& product, Layout layout, std::int64_t tile_row,
                           std::vector<std::uint8_t>& codes, std::uint8_t* out) {
  const std::int64_t k = product.k;
  const std::int64_t rows = std::min<std::int64_t>(BITNET_TILE_ROWS, product.n - tile_row);
  codes.resize(static_cast<std::size_t>(k * BITNET_TILE_ROWS));
  std::uint64_t illegal = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const RowSource source = find_row(product, tile_row + r);
    illegal += source.part->ternary->decode(source.row, source.row + 1, codes.data() + r * k);
  }
  pack_codes(layout, codes.data(), 0, rows, k, out);
  return illegal;
}

std::uint64_t pack_any(const FusedMatrix& product, Layout layout, std::int64_t tile_row,
                       std::vector<std::uint8_t>& codes, std::uint8_t* out) {
  const bool groups = product.k % (kGroup / 2) == 0 && std::ranges::all_of(product.parts, &MatrixPart::i2s_x86);
  if (groups) {
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

std::string undefined_codes(const gguf::File& file, const FusedMatrix& product, std::uint64_t undefined) {
  const gguf::Tensor& first = *product.parts.front().tensor;
  return file.path() + ": tensor " + std::string(first.name) +
         (product.parts.size() > 1 ? " and those stacked with it" : "") + ": " + std::to_string(undefined) +
         (first.type == gguf::TensorType::kI2_S
              ? " codes are 3, which I2_S does not define"
              : " codes are none that " + std::string(gguf::type_name(first)) + " defines");
}

}  // namespace bitnet
