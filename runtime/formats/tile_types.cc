// Opening TL1 and TL2: which tiles, and, of TL2, whether the bytes could be what its writer wrote under these tiles.
#include <algorithm>

#include "runtime/formats/codec.h"
#include "runtime/formats/tiles.h"
#include "runtime/formats/tl.h"
#include "runtime/gguf/types.h"

namespace bitnet::formats {
namespace {

template <typename Codec>
class TileDecoder final : public TernaryMatrix::Decoder {
 public:
  TileDecoder(Codec codec, const gguf::Tensor& tensor)
      : codec_(std::move(codec)), bytes_(reinterpret_cast<const std::uint8_t*>(tensor.data.data())) {}

  std::uint64_t decode(std::int64_t row_begin, std::int64_t row_end, std::uint8_t* codes) const override {
    return codec_.decode(bytes_, row_begin, row_end, codes);
  }

 private:
  Codec codec_;
  const std::uint8_t* bytes_;
};

std::string shape_text(const gguf::Tensor& tensor) {
  return std::to_string(tensor.ne[1]) + " x " + std::to_string(tensor.ne[0]);
}

std::string tile_text(const TileShape& tile) {
  return "bm " + std::to_string(tile.bm) + ", bk " + std::to_string(tile.by) + ", bmm " + std::to_string(tile.bmm);
}

Result<TileShape> find_tile(TileFormat format, const gguf::File& file, const gguf::Tensor& tensor,
                            const ReadOptions& options, std::vector<std::string>& notes) {
  const auto rows = static_cast<std::int64_t>(tensor.ne[1]);
  const auto columns = static_cast<std::int64_t>(tensor.ne[0]);
  TileShape tile;
  if (!options.tile_config.empty()) {
    BITNET_ASSIGN_OR_RETURN(const TileTable table, TileTable::read(options.tile_config));
    const auto found = table.find(rows, columns);
    if (!found) {
      return bad_tensor(file, tensor,
                        "expected its tile parameters in " + options.tile_config + ", found none for " +
                            shape_text(tensor) + "; give the kernel_config.ini with which the model was converted");
    }
    tile = *found;
  } else {
    const auto known = default_tile(format, rows, columns);
    if (!known) {
      return bad_tensor(file, tensor,
                        "the file does not hold the tile parameters, and none are known for " + shape_text(tensor) +
                            "; give the kernel_config.ini with which the model was converted (--tile-config)");
    }
    tile = *known;
    const std::string assumed = std::string(gguf::type_name(tensor)) + " matrices of " + shape_text(tensor) +
                                ": tile parameters assumed (" + tile_text(tile) + "), the file does not hold them";
    if (options.strict) {
      Error error = bad_tensor(file, tensor,
                               assumed +
                                   "; give the kernel_config.ini with which the model was "
                                   "converted (--tile-config), or do without --strict");
      error.code = ErrorCode::kStrict;
      return error;
    }
    add_note(notes, assumed + " (--tile-config)");
  }
  if (const Status fits = check_tile(format, rows, columns, tile); !fits.ok()) {
    return bad_tensor(file, tensor, fits.error().message + "; the model was converted with other tile parameters");
  }
  return tile;
}

}  // namespace

Result<Opened> open_tl1(const gguf::File& file, const gguf::Tensor& tensor, const ReadOptions& options,
                        std::vector<std::string>& notes) {
  BITNET_ASSIGN_OR_RETURN(const TileShape tile, find_tile(TileFormat::kTl1, file, tensor, options, notes));
  BITNET_ASSIGN_OR_RETURN(const float scale, read_scale(file, tensor, tensor.bytes - kScaleTailBytes));
  Opened opened;
  opened.scales.push_back(scale);
  Tl1Codec codec(static_cast<std::int64_t>(tensor.ne[0]), tile);
  opened.decoder = std::make_unique<TileDecoder<Tl1Codec>>(std::move(codec), tensor);
  return opened;
}

Result<Opened> open_tl2(const gguf::File& file, const gguf::Tensor& tensor, const ReadOptions& options,
                        std::vector<std::string>& notes) {
  BITNET_ASSIGN_OR_RETURN(const TileShape tile, find_tile(TileFormat::kTl2, file, tensor, options, notes));
  BITNET_ASSIGN_OR_RETURN(const float scale, read_scale(file, tensor, tensor.bytes - kScaleTailBytes));
  Tl2Codec codec(static_cast<std::int64_t>(tensor.ne[1]), static_cast<std::int64_t>(tensor.ne[0]), tile);
  const auto wrong = [&](const std::string& what) {
    return bad_tensor(file, tensor,
                      what + "; the file is damaged or was written with other tile parameters than " + tile_text(tile) +
                          " (--tile-config)");
  };
  const auto codes = tensor.data.first(tensor.bytes - kScaleTailBytes);
  const auto data_end = static_cast<std::ptrdiff_t>(codec.data_bytes());
  const auto junk = std::find_if(codes.begin() + data_end, codes.end(), [](std::byte b) { return b != std::byte{0}; });
  if (junk != codes.end()) {
    return wrong("expected zeros behind the " + std::to_string(data_end) + " bytes of codes, found a byte " +
                 std::to_string(std::to_integer<int>(*junk)) + " at " + std::to_string(junk - codes.begin()));
  }
  if (const auto place = codec.find_signed_zero(reinterpret_cast<const std::uint8_t*>(codes.data()))) {
    return wrong("row " + std::to_string(place->row) + ", column " + std::to_string(place->column) +
                 ": expected no sign bit on three zeros, found one");
  }
  Opened opened;
  opened.scales.push_back(scale);
  opened.decoder = std::make_unique<TileDecoder<Tl2Codec>>(std::move(codec), tensor);
  return opened;
}

}  // namespace bitnet::formats
