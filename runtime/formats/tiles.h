// Tile parameters of TL1 and TL2. bitnet.cpp takes them from include/kernel_config.ini when it converts a model and
// does not write them into the file; a reader needs the same ones.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "runtime/base/result.h"

namespace bitnet::formats {

enum class TileFormat : std::uint8_t { kTl1, kTl2 };

struct TileShape {
  std::int64_t bm = 0;   // rows of a tile (ini: bm)
  std::int64_t by = 0;   // columns of a block (ini: bk)
  std::int64_t bmm = 0;  // rows that one table look-up serves (ini: bmm): 32 or 64, always 32 for TL2

  bool operator==(const TileShape&) const = default;
};

// A kernel_config.ini: tiles by shape. Immutable after reading, thread-safe.
class TileTable {
 public:
  // Sections of any name, each with integers m, k, bm, bk and bmm (other keys are ignored). kFailure: unreadable, not
  // of this form, or two tiles for one shape.
  [[nodiscard]] static Result<TileTable> read(const std::string& path);

  [[nodiscard]] std::optional<TileShape> find(std::int64_t rows, std::int64_t columns) const;

 private:
  std::map<std::pair<std::int64_t, std::int64_t>, TileShape> tiles_;
};

// The tiles that bitnet.cpp's setup_env.py generates for the models it knows; nullopt for every other shape.
[[nodiscard]] std::optional<TileShape> default_tile(TileFormat format, std::int64_t rows, std::int64_t columns);

// Whether a matrix of this shape can be cut like this. The message is what is wrong, without a place: "...: expected
// rows to be a multiple of bm = 256, found 640".
[[nodiscard]] Status check_tile(TileFormat format, std::int64_t rows, std::int64_t columns, const TileShape& tile);

}  // namespace bitnet::formats
