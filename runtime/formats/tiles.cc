// Tile tables: bitnet.cpp's ini files happen to be TOML. The default tables are those of FORMATS.md sections 3 and 4.
#include "runtime/formats/tiles.h"

#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include <fstream>
#include <iterator>
#include <string_view>

#include "runtime/gguf/types.h"

namespace bitnet::formats {
namespace {

struct KnownTile {
  std::int64_t rows, columns;
  TileShape tile;
};

// bitnet_b1_58-large, bitnet_b1_58-3B, Llama3-8B-1.58 and Falcon3.
constexpr KnownTile kTl1Tiles[] = {
    {1536, 4096, {256, 128, 32}},  {1536, 1536, {128, 64, 64}},  {4096, 1536, {256, 128, 32}},
    {3200, 8640, {160, 64, 32}},   {3200, 3200, {320, 128, 64}}, {8640, 3200, {320, 64, 32}},
    {14336, 4096, {256, 128, 32}}, {4096, 14336, {128, 64, 64}}, {1024, 4096, {256, 128, 32}},
    {4096, 4096, {128, 64, 64}},
};
constexpr KnownTile kTl2Tiles[] = {
    {1536, 4096, {256, 96, 32}},  {1536, 1536, {128, 192, 32}}, {4096, 1536, {256, 96, 32}},
    {3200, 8640, {160, 96, 32}},  {3200, 3200, {320, 96, 32}},  {8640, 3200, {320, 96, 32}},
    {14336, 4096, {256, 96, 32}}, {4096, 14336, {128, 96, 32}}, {1024, 4096, {256, 96, 32}},
    {4096, 4096, {128, 96, 32}},
};

Error bad(const std::string& path, const toml::source_region& where, const std::string& what) {
  return {ErrorCode::kFailure, path + ":" + std::to_string(where.begin.line) + ": " + what};
}

Result<std::int64_t> positive(const std::string& path, std::string_view section, const toml::table& table,
                              std::string_view key) {
  const toml::node* node = table.get(key);
  const auto expected = "[" + std::string(section) + "]: expected a positive integer " + std::string(key) + ", found ";
  if (node == nullptr) return bad(path, table.source(), expected + "none");
  const auto value = node->value_exact<std::int64_t>();
  if (!value) return bad(path, node->source(), expected + "another type");
  if (*value <= 0) return bad(path, node->source(), expected + std::to_string(*value));
  return *value;
}

}  // namespace

Result<TileTable> TileTable::read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open() || file.bad()) {
    return Error{ErrorCode::kFailure,
                 path + ": cannot be read; the tile table is bitnet.cpp's include/kernel_config.ini"};
  }
  const toml::parse_result parsed = toml::parse(text, path);
  if (!parsed) return bad(path, parsed.error().source(), std::string(parsed.error().description()));
  TileTable result;
  for (const auto& [name, node] : parsed.table()) {
    const toml::table* section = node.as_table();
    if (section == nullptr) {
      return bad(
          path, node.source(),
          "expected sections with m, k, bm, bk and bmm, found a key '" + std::string(name.str()) + "' outside of them");
    }
    BITNET_ASSIGN_OR_RETURN(const std::int64_t rows, positive(path, name.str(), *section, "m"));
    BITNET_ASSIGN_OR_RETURN(const std::int64_t columns, positive(path, name.str(), *section, "k"));
    TileShape tile;
    BITNET_ASSIGN_OR_RETURN(tile.bm, positive(path, name.str(), *section, "bm"));
    BITNET_ASSIGN_OR_RETURN(tile.by, positive(path, name.str(), *section, "bk"));
    BITNET_ASSIGN_OR_RETURN(tile.bmm, positive(path, name.str(), *section, "bmm"));
    const auto [at, added] = result.tiles_.insert({{rows, columns}, tile});
    if (!added && at->second != tile) {
      return bad(path, section->source(),
                 "[" + std::string(name.str()) + "]: a second tile for " + std::to_string(rows) + " x " +
                     std::to_string(columns) + ": expected one for each shape");
    }
  }
  if (result.tiles_.empty())
    return Error{ErrorCode::kFailure, path + ": expected sections with m, k, bm, bk and bmm, found none"};
  return result;
}

std::optional<TileShape> TileTable::find(std::int64_t rows, std::int64_t columns) const {
  const auto found = tiles_.find({rows, columns});
  return found == tiles_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<TileShape> default_tile(TileFormat format, std::int64_t rows, std::int64_t columns) {
  const auto search = [&](const auto& tiles) -> std::optional<TileShape> {
    for (const KnownTile& known : tiles) {
      if (known.rows == rows && known.columns == columns) return known.tile;
    }
    return std::nullopt;
  };
  return format == TileFormat::kTl1 ? search(kTl1Tiles) : search(kTl2Tiles);
}

Status check_tile(TileFormat format, std::int64_t rows, std::int64_t columns, const TileShape& tile) {
  const bool tl2 = format == TileFormat::kTl2;
  const auto refuse = [&](const std::string& expected, std::int64_t found) {
    return Error{ErrorCode::kTensorMapping, std::string(tl2 ? "TL2" : "TL1") + " tile of " + std::to_string(rows) +
                                                " x " + std::to_string(columns) + ": expected " + expected +
                                                ", found " + std::to_string(found)};
  };
  const auto multiple = [&](const char* what, std::int64_t value, const char* of, std::int64_t divisor) -> Status {
    if (value % divisor == 0) return {};
    return refuse(std::string(what) + " to be a multiple of " + of + " = " + std::to_string(divisor), value);
  };
  if (rows <= 0 || columns <= 0) return refuse("a matrix", 0);
  if (tile.bm <= 0) return refuse("bm to be positive", tile.bm);
  if (tile.by <= 0) return refuse("bk to be positive", tile.by);
  if (tile.bmm != 32 && (tl2 || tile.bmm != 64)) return refuse(tl2 ? "bmm to be 32" : "bmm to be 32 or 64", tile.bmm);
  BITNET_RETURN_IF_ERROR(multiple("rows", rows, "bm", tile.bm));
  BITNET_RETURN_IF_ERROR(multiple("bm", tile.bm, "bmm", tile.bmm));
  if (tl2) {
    if (columns < 256) return refuse("at least 256 columns", columns);
    BITNET_RETURN_IF_ERROR(multiple("bk", tile.by, "eight triples", 24));
    BITNET_RETURN_IF_ERROR(
        multiple("the columns behind the last whole block", columns % tile.by, "a block of pairs", 32));
    // The size of the type allows for 256 columns of pairs; more of them take more than it has.
    const std::int64_t triples = columns / tile.by * tile.by;
    const std::int64_t data = rows * triples / 24 * 5 + rows * (columns - triples) / 4;
    const auto room = static_cast<std::int64_t>(
        gguf::tl2_code_bytes(static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns)));
    if (data > room) return refuse("at most " + std::to_string(room) + " bytes of codes under these tiles", data);
    return {};
  }
  BITNET_RETURN_IF_ERROR(multiple("columns", columns, "bk", tile.by));
  return multiple("bk", tile.by, "256 / bmm", 256 / tile.bmm);
}

}  // namespace bitnet::formats
