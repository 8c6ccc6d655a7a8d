// TQ1_0, TQ2_0, Q2_0, PQ2_0 and Q1_0: the codes of a block, and the smallest scale kind that says what a tensor's
// blocks say.
//
// TQ1_0 packs five base-3 digits into a byte as the fraction digits/243 rounded up to 1/256, so that a digit is the
// integer part of three times the fraction. Bytes are taken across: digit n of 32 (16, 4) neighbouring bytes are 32
// (16, 4) neighbouring weights.
#include "runtime/formats/blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/formats/codec.h"

namespace bitnet::formats {
namespace {

constexpr std::uint8_t kZero = 1;  // the code of weight 0

template <std::size_t kBytes, std::size_t kDigits>
void trits(const std::uint8_t* bytes, std::uint8_t* out) {
  constexpr std::array<std::uint8_t, 5> kPowers = {1, 3, 9, 27, 81};
  for (std::size_t digit = 0; digit < kDigits; ++digit) {
    for (std::size_t i = 0; i < kBytes; ++i) {
      const auto fraction = static_cast<std::uint8_t>(bytes[i] * kPowers[digit]);
      out[digit * kBytes + i] = static_cast<std::uint8_t>(fraction * 3 >> 8);
    }
  }
}

void tq1_codes(const std::uint8_t* block, std::uint8_t* out) {
  trits<32, 5>(block, out);
  trits<16, 5>(block + 32, out + 160);
  trits<4, 4>(block + 48, out + 240);
}

void tq2_codes(const std::uint8_t* block, std::uint8_t* out) {
  for (std::size_t half = 0; half < 2; ++half) {
    for (unsigned field = 0; field < 4; ++field) {
      for (std::size_t i = 0; i < 32; ++i) {
        out[half * 128 + field * 32 + i] = static_cast<std::uint8_t>(block[half * 32 + i] >> 2 * field & 3);
      }
    }
  }
}

// Four codes of a byte, or eight of Q1_0's, as the bytes of a word: the first in the lowest bits.
constexpr std::array<std::uint32_t, 256> kPairsOfBits = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    for (unsigned i = 0; i < 4; ++i) table[byte] |= (byte >> 2 * i & 3U) << 8 * i;
  }
  return table;
}();
constexpr std::array<std::uint64_t, 256> kBits = [] {
  std::array<std::uint64_t, 256> table{};
  for (std::uint64_t byte = 0; byte < 256; ++byte) {
    for (unsigned i = 0; i < 8; ++i) table[byte] |= (byte >> i & 1U) << (8 * i + 1);  // -1 or +1: code 0 or 2
  }
  return table;
}();

template <std::size_t kBytes>
void q2_codes(const std::uint8_t* block, std::uint8_t* out) {
  for (std::size_t i = 0; i < kBytes; ++i) std::memcpy(out + 4 * i, &kPairsOfBits[block[2 + i]], 4);
}

void q1_codes(const std::uint8_t* block, std::uint8_t* out) {
  for (std::size_t i = 0; i < 16; ++i) std::memcpy(out + 8 * i, &kBits[block[2 + i]], 8);
}

class BlockDecoder final : public TernaryMatrix::Decoder {
 public:
  BlockDecoder(const BlockType& type, const gguf::Tensor& tensor)
      : type_(type),
        bytes_(reinterpret_cast<const std::uint8_t*>(tensor.data.data())),
        row_blocks_(static_cast<std::int64_t>(tensor.ne[0] / type.elements)) {}

  std::uint64_t decode(std::int64_t row_begin, std::int64_t row_end, std::uint8_t* codes) const override {
    for (std::int64_t b = row_begin * row_blocks_; b < row_end * row_blocks_; ++b) {
      const std::uint8_t* block = bytes_ + b * type_.bytes;
      if (block_scale(type_, block) == 0) {
        std::fill_n(codes, type_.elements, kZero);
      } else {
        type_.codes(block, codes);
      }
      codes += type_.elements;
    }
    return 0;  // every bit pattern means something; a tensor with a weight 2 d is not opened
  }

 private:
  BlockType type_;
  const std::uint8_t* bytes_;
  std::int64_t row_blocks_;
};

bool has_two(const BlockType& type, const std::uint8_t* block) {
  std::array<std::uint8_t, kMostBlockElements> codes;
  type.codes(block, codes.data());
  std::uint8_t any = 0;
  for (std::size_t i = 0; i < type.elements; ++i) any = static_cast<std::uint8_t>(any | (codes[i] & codes[i] >> 1));
  return any != 0;
}

// Merges blocks' scales d [n][blocks] into the smallest kind that is exact. Zero fits to everything.
void reduce_scales(const std::vector<float>& d, std::size_t rows, std::size_t blocks, std::int32_t elements,
                   Opened& opened) {
  std::vector<float> of_rows(rows, 0.0F);
  float of_tensor = 0;
  bool by_row = true;
  bool by_tensor = true;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t b = 0; b < blocks; ++b) {
      const float scale = d[row * blocks + b];
      if (scale == 0) continue;
      if (of_rows[row] == 0) of_rows[row] = scale;
      if (of_tensor == 0) of_tensor = scale;
      by_row = by_row && of_rows[row] == scale;
      by_tensor = by_tensor && of_tensor == scale;
    }
  }
  if (by_tensor) {
    opened.scales = {of_tensor};
    return;
  }
  if (by_row) {
    opened.kind = ScaleKind::kRow;
    opened.scales = std::move(of_rows);
    return;
  }
  opened.kind = ScaleKind::kGroup;
  opened.group = elements;
  opened.scales.resize(d.size());
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t b = 0; b < blocks; ++b) opened.scales[b * rows + row] = d[row * blocks + b];
  }
}

}  // namespace

BlockType block_type(gguf::TensorType type) {
  switch (type) {
    case gguf::TensorType::kTQ1_0:
      return {256, 54, 52, false, &tq1_codes};
    case gguf::TensorType::kTQ2_0:
      return {256, 66, 64, true, &tq2_codes};
    case gguf::TensorType::kQ2_0:
      return {64, 18, 0, true, &q2_codes<16>};
    case gguf::TensorType::kPQ2_0:
      return {128, 34, 0, true, &q2_codes<32>};
    case gguf::TensorType::kQ1_0:
      return {128, 18, 0, false, &q1_codes};
    default:
      return {};
  }
}

float block_scale(const BlockType& type, const std::uint8_t* block) {
  std::uint16_t half = 0;
  std::memcpy(&half, block + type.scale_at, sizeof half);
  return half_to_float(half);
}

Result<Opened> open_blocks(const gguf::File& file, const gguf::Tensor& tensor, const ReadOptions&,
                           std::vector<std::string>& notes) {
  const BlockType type = block_type(tensor.type);
  const auto rows = static_cast<std::size_t>(tensor.ne[1]);
  const auto blocks = static_cast<std::size_t>(tensor.ne[0] / type.elements);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(tensor.data.data());
  std::vector<float> d(rows * blocks);
  for (std::size_t b = 0; b < d.size(); ++b) {
    const std::uint8_t* block = bytes + b * type.bytes;
    d[b] = block_scale(type, block);
    if (!std::isfinite(d[b])) {
      return bad_tensor(file, tensor,
                        "row " + std::to_string(b / blocks) + ", block " + std::to_string(b % blocks) +
                            ": expected a finite scale, found " + number_text(d[b]) +
                            "; the file is damaged: convert the model again");
    }
    if (type.may_hold_two && d[b] != 0 && has_two(type, block)) {
      add_note(notes, "tensor " + std::string(tensor.name) + " of type " + std::string(gguf::type_name(tensor)) +
                          " holds weights of twice the scale: it is not ternary and is read as a dense matrix");
      return Opened();
    }
  }
  Opened opened;
  reduce_scales(d, rows, blocks, static_cast<std::int32_t>(type.elements), opened);
  opened.decoder = std::make_unique<BlockDecoder>(type, tensor);
  return opened;
}

}  // namespace bitnet::formats
