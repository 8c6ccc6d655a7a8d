// I2_S. The x86 and the ARM layout differ in the size of a group alone: 4*F consecutive weights of the flattened matrix
// share F bytes, weight j of a group standing in byte j mod F at bit 6 - 2*(j div F), F = 32 or 16. Rows may begin
// inside a group (K = 8640), so everything goes by flat index: whole groups in a loop that compilers vectorise, the
// ends in runs that stay inside one field. In the 4-row layout the four codes of a byte are those of four rows.
#include "runtime/formats/i2s.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "runtime/formats/codec.h"

namespace bitnet::formats {
namespace {

constexpr std::int64_t kX86Field = 32;
constexpr std::int64_t kArmField = 16;

constexpr int field_shift(std::int64_t field) { return static_cast<int>(6 - 2 * field); }

std::uint8_t defined(std::uint8_t code, std::uint8_t& three) {
  three = static_cast<std::uint8_t>(code & code >> 1);
  return static_cast<std::uint8_t>(code - 2 * three);
}

template <std::int64_t kField>
std::uint64_t decode_group(const std::uint8_t* bytes, std::uint8_t* out) {
  for (std::int64_t field = 0; field < 4; ++field) {
    const int shift = field_shift(field);
    for (std::int64_t i = 0; i < kField; ++i) {
      const auto code = static_cast<std::uint8_t>(bytes[i] >> shift & 3);
      out[field * kField + i] = static_cast<std::uint8_t>(code - 2 * (code & code >> 1));
    }
  }
  std::uint64_t undefined = 0;
  for (std::int64_t i = 0; i < kField; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + i, sizeof word);
    undefined += static_cast<std::uint64_t>(std::popcount(word & word >> 1 & 0x5555555555555555U));
  }
  return undefined;
}

template <std::int64_t kField>
void encode_group(const std::uint8_t* codes, std::uint8_t* bytes) {
  for (std::int64_t i = 0; i < kField; ++i) {
    bytes[i] = static_cast<std::uint8_t>(codes[i] << 6 | codes[i + kField] << 4 | codes[i + 2 * kField] << 2 |
                                         codes[i + 3 * kField]);
  }
}

// Calls whole(group, done) for whole groups and part(byte, shift, done, length) for runs inside one field, `done` being
// the weights before it.
template <std::int64_t kField, typename Whole, typename Part>
void walk(std::int64_t flat, std::int64_t count, const Whole& whole, const Part& part) {
  constexpr std::int64_t kGroup = 4 * kField;
  std::int64_t done = 0;
  while (done < count) {
    const std::int64_t at = flat + done;
    const std::int64_t in_group = at % kGroup;
    if (in_group == 0 && count - done >= kGroup) {
      whole(at / kGroup * kField, done);
      done += kGroup;
      continue;
    }
    const std::int64_t in_field = in_group % kField;
    const std::int64_t length = std::min(kField - in_field, count - done);
    part(at / kGroup * kField + in_field, field_shift(in_group / kField), done, length);
    done += length;
  }
}

template <std::int64_t kField>
std::uint64_t decode_flat(const std::uint8_t* bytes, std::int64_t flat, std::int64_t count, std::uint8_t* out) {
  std::uint64_t undefined = 0;
  walk<kField>(
      flat, count,
      [&](std::int64_t byte, std::int64_t done) { undefined += decode_group<kField>(bytes + byte, out + done); },
      [&](std::int64_t byte, int shift, std::int64_t done, std::int64_t length) {
        for (std::int64_t i = 0; i < length; ++i) {
          std::uint8_t three = 0;
          out[done + i] = defined(static_cast<std::uint8_t>(bytes[byte + i] >> shift & 3), three);
          undefined += three;
        }
      });
  return undefined;
}

template <std::int64_t kField>
void encode_flat(const std::uint8_t* codes, std::int64_t flat, std::int64_t count, std::uint8_t* bytes) {
  walk<kField>(
      flat, count, [&](std::int64_t byte, std::int64_t done) { encode_group<kField>(codes + done, bytes + byte); },
      [&](std::int64_t byte, int shift, std::int64_t done, std::int64_t length) {
        for (std::int64_t i = 0; i < length; ++i) {
          bytes[byte + i] = static_cast<std::uint8_t>(bytes[byte + i] | codes[done + i] << shift);
        }
      });
}

class I2sDecoder final : public TernaryMatrix::Decoder {
 public:
  I2sDecoder(I2sLayout layout, const gguf::Tensor& tensor)
      : layout_(layout),
        bytes_(reinterpret_cast<const std::uint8_t*>(tensor.data.data())),
        columns_(static_cast<std::int64_t>(tensor.ne[0])) {}

  std::uint64_t decode(std::int64_t row_begin, std::int64_t row_end, std::uint8_t* codes) const override {
    return decode_i2s(layout_, bytes_, columns_, row_begin, row_end, codes);
  }

 private:
  I2sLayout layout_;
  const std::uint8_t* bytes_;
  std::int64_t columns_;
};

}  // namespace

const char* to_string(I2sLayout layout) {
  switch (layout) {
    case I2sLayout::kX86:
      return "x86";
    case I2sLayout::kArm:
      return "arm";
    case I2sLayout::k4Row:
      break;
  }
  return "4row";
}

Status check_i2s_shape(I2sLayout layout, std::int64_t rows, std::int64_t columns) {
  const auto refuse = [&](const std::string& expected) {
    return Error{ErrorCode::kTensorMapping, "I2_S in the layout " + std::string(to_string(layout)) + ": expected " +
                                                expected + ", found " + std::to_string(rows) + " x " +
                                                std::to_string(columns)};
  };
  if (layout == I2sLayout::k4Row) {
    if (rows % 4 != 0) return refuse("a multiple of 4 rows");
    return {};
  }
  const std::int64_t group = 4 * (layout == I2sLayout::kX86 ? kX86Field : kArmField);
  if (rows % group * (columns % group) % group != 0) {
    return refuse("rows x columns to be a multiple of " + std::to_string(group));
  }
  return {};
}

std::uint64_t decode_i2s(I2sLayout layout, const std::uint8_t* bytes, std::int64_t columns, std::int64_t row_begin,
                         std::int64_t row_end, std::uint8_t* codes) {
  if (layout == I2sLayout::kX86) {
    return decode_flat<kX86Field>(bytes, row_begin * columns, (row_end - row_begin) * columns, codes);
  }
  if (layout == I2sLayout::kArm) {
    return decode_flat<kArmField>(bytes, row_begin * columns, (row_end - row_begin) * columns, codes);
  }
  std::uint64_t undefined = 0;
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    const std::uint8_t* source = bytes + row / 4 * columns;
    const int shift = field_shift(row % 4);
    std::uint64_t threes = 0;
    for (std::int64_t i = 0; i < columns; ++i) {
      std::uint8_t three = 0;
      codes[i] = defined(static_cast<std::uint8_t>(source[i] >> shift & 3), three);
      threes += three;
    }
    undefined += threes;
    codes += columns;
  }
  return undefined;
}

void encode_i2s(I2sLayout layout, const std::uint8_t* codes, std::int64_t columns, std::int64_t row_begin,
                std::int64_t rows, std::uint8_t* bytes) {
  if (layout == I2sLayout::kX86) return encode_flat<kX86Field>(codes, row_begin * columns, rows * columns, bytes);
  if (layout == I2sLayout::kArm) return encode_flat<kArmField>(codes, row_begin * columns, rows * columns, bytes);
  for (std::int64_t row = row_begin; row < row_begin + rows; ++row) {
    std::uint8_t* target = bytes + row / 4 * columns;
    const int shift = field_shift(row % 4);
    for (std::int64_t i = 0; i < columns; ++i) target[i] = static_cast<std::uint8_t>(target[i] | codes[i] << shift);
    codes += columns;
  }
}

Result<Opened> open_i2s(const gguf::File& file, const gguf::Tensor& tensor, const ReadOptions& options,
                        std::vector<std::string>& notes) {
  const auto rows = static_cast<std::int64_t>(tensor.ne[1]);
  const auto columns = static_cast<std::int64_t>(tensor.ne[0]);
  if (const Status shape = check_i2s_shape(options.i2s_layout, rows, columns); !shape.ok()) {
    return bad_tensor(file, tensor, shape.error().message + "; choose the layout in which the file was written");
  }
  BITNET_ASSIGN_OR_RETURN(const float scale, read_scale(file, tensor, tensor.bytes - kScaleTailBytes));
  add_note(notes, options.i2s_layout == I2sLayout::kX86
                      ? "I2_S is read in its x86 layout, which published files have; the file does not say which it is "
                        "(--i2s-layout x86|arm|4row)"
                      : "I2_S is read in the layout " + std::string(to_string(options.i2s_layout)) + ", as asked for");
  Opened opened;
  opened.scales.push_back(scale);
  opened.decoder = std::make_unique<I2sDecoder>(options.i2s_layout, tensor);
  return opened;
}

}  // namespace bitnet::formats
