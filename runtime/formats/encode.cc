// Writers of tensor data. A TernaryEncoder keeps the whole tensor, since TL2 spreads a row over three parts of it.
#include "runtime/formats/encode.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "runtime/base/half.h"
#include "runtime/base/math.h"
#include "runtime/formats/blocks.h"
#include "runtime/formats/codec.h"
#include "runtime/formats/dense.h"
#include "runtime/formats/i2s.h"
#include "runtime/formats/tl.h"
#include "runtime/gguf/types.h"

namespace bitnet::formats {
namespace {

constexpr std::size_t kTqBlock = 256;
constexpr std::uint8_t kZero = 1;  // the code of weight 0
constexpr std::size_t kQ8Block = 32;
constexpr std::size_t kQ8Bytes = 34;

// Has a float16 scale for each block of a row.
bool has_blocks(gguf::TensorType type) { return block_type(type).elements != 0; }
bool is_tq(gguf::TensorType type) { return type == gguf::TensorType::kTQ1_0 || type == gguf::TensorType::kTQ2_0; }

void put_half(std::uint8_t* at, float value) {
  const std::uint16_t half = float_to_half(value);
  std::memcpy(at, &half, sizeof half);
}

// The first digit is the most significant; rounding up makes the reader's three times the fraction exact.
template <std::size_t kBytes, std::size_t kDigits>
void put_trits(const std::uint8_t* codes, std::uint8_t* bytes) {
  for (std::size_t i = 0; i < kBytes; ++i) {
    unsigned value = 0;
    for (std::size_t digit = 0; digit < 5; ++digit) {
      value = 3 * value + (digit < kDigits ? codes[digit * kBytes + i] : 0U);
    }
    bytes[i] = static_cast<std::uint8_t>((value * 256 + 242) / 243);
  }
}

void put_block(gguf::TensorType type, const std::uint8_t* codes, float scale, std::uint8_t* block) {
  const BlockType layout = block_type(type);
  if (type == gguf::TensorType::kQ2_0 || type == gguf::TensorType::kPQ2_0) {
    put_half(block, scale);
    for (std::size_t i = 0; i < layout.elements / 4; ++i, codes += 4) {
      block[2 + i] = static_cast<std::uint8_t>(codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6);
    }
    return;
  }
  if (type == gguf::TensorType::kQ1_0) {
    put_half(block, scale);
    for (std::size_t i = 0; i < layout.elements / 8; ++i, codes += 8) {
      unsigned bits = 0;
      for (unsigned bit = 0; bit < 8; ++bit) bits |= static_cast<unsigned>(codes[bit] >> 1) << bit;
      block[2 + i] = static_cast<std::uint8_t>(bits);
    }
    return;
  }
  if (type == gguf::TensorType::kTQ1_0) {
    put_trits<32, 5>(codes, block);
    put_trits<16, 5>(codes + 160, block + 32);
    put_trits<4, 4>(codes + 240, block + 48);
    put_half(block + 52, scale);
    return;
  }
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t i = 0; i < 32; ++i) {
      const std::uint8_t* from = codes + half * 128 + i;
      block[half * 32 + i] = static_cast<std::uint8_t>(from[0] | from[32] << 2 | from[64] << 4 | from[96] << 6);
    }
  }
  put_half(block + 64, scale);
}

// By the order of the bits, which is that of the magnitudes: std::max on floats does not vectorise.
template <std::size_t kCount>
float largest_magnitude(const float* values) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    largest = std::max(largest, std::bit_cast<std::uint32_t>(values[i]) & 0x7fffffffU);
  }
  return std::bit_cast<float>(largest);
}

// std::lround of a magnitude below 2^23, halves away from zero; the difference is exact.
int rounded(float value) {
  const int whole = static_cast<int>(value);
  const float rest = value - static_cast<float>(whole);
  return whole + (rest >= 0.5F ? 1 : 0) - (rest <= -0.5F ? 1 : 0);
}

void put_q8_block(const float* values, std::uint8_t* block) {
  const auto largest = largest_magnitude<kQ8Block>(values);
  const float scale = largest / 127.0F;
  const float inverse = scale != 0 ? 1.0F / scale : 0.0F;
  put_half(block, scale);
  for (std::size_t i = 0; i < kQ8Block; ++i) {
    block[2 + i] = static_cast<std::uint8_t>(rounded(values[i] * inverse));
  }
}

void quantize_tq_block(gguf::TensorType type, const float* values, std::uint8_t* block) {
  const auto largest = largest_magnitude<kTqBlock>(values);
  const float inverse = largest != 0 ? 1.0F / largest : 0.0F;
  std::array<std::uint8_t, kTqBlock> codes;
  for (std::size_t i = 0; i < kTqBlock; ++i) {
    codes[i] = static_cast<std::uint8_t>(rounded(values[i] * inverse) + 1);
  }
  put_block(type, codes.data(), largest, block);
}

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 64U);  // quiet
  return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

// float_to_half() with selections in place of branches, so that a loop over it vectorises. Magnitudes are compared as
// signed integers, which they are below 2^31 and which every processor can.
std::uint16_t to_f16(float value) {
  constexpr std::int32_t kInfinity = 0x7f800000;
  constexpr std::int32_t kOverflow = 0x477ff000;     // 65520
  constexpr std::int32_t kLeastNormal = 0x38800000;  // 2^-14
  constexpr std::int32_t kRebias = 112 << 23;
  constexpr std::int32_t kHalf = 0x3f000000;  // 0.5, one unit of whose last place is that of subnormal halves
  const auto bits = std::bit_cast<std::int32_t>(value);
  const std::int32_t magnitude = bits & 0x7fffffff;
  const std::int32_t normal = (magnitude - kRebias + 0xfff + (magnitude >> 13 & 1)) >> 13;
  // The addition rounds to even.
  const std::int32_t small = magnitude < kLeastNormal ? magnitude : 0;
  const std::int32_t subnormal = std::bit_cast<std::int32_t>(std::bit_cast<float>(small) + 0.5F) - kHalf;
  std::int32_t half = magnitude < kLeastNormal ? subnormal : normal;
  half = magnitude >= kOverflow ? 0x7c00 : half;
  half = magnitude > kInfinity ? 0x7e00 | (magnitude >> 13 & 0x3ff) : half;
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | half);
}

// The bytes need no alignment: numbers are made in an aligned piece first.
template <typename Round>
void put_16_bits(std::span<const float> values, std::uint8_t* bytes, const Round& round) {
  std::array<std::uint16_t, 1024> piece;
  for (std::size_t first = 0; first < values.size(); first += piece.size()) {
    const std::size_t count = std::min(piece.size(), values.size() - first);
    const float* from = values.data() + first;
    for (std::size_t i = 0; i < count; ++i) piece[i] = round(from[i]);
    std::memcpy(bytes + 2 * first, piece.data(), 2 * count);
  }
}

Error refused(const TernaryTarget& target, const std::string& what) {
  const std::string type =
      target.type == gguf::TensorType::kTL2OrMXFP4 ? "TL2" : std::string(gguf::to_string(target.type));
  return {ErrorCode::kTensorMapping,
          type + " of " + std::to_string(target.rows) + " x " + std::to_string(target.columns) + ": " + what};
}

std::optional<std::uint64_t> size_of(const TernaryTarget& target) {
  const std::array<std::uint64_t, 2> ne = {static_cast<std::uint64_t>(target.columns),
                                           static_cast<std::uint64_t>(target.rows)};
  if (target.type == gguf::TensorType::kTL2OrMXFP4) return gguf::tl2_bytes(ne);
  return gguf::tensor_bytes(target.type, ne);
}

}  // namespace

struct TernaryEncoder::State {
  TernaryTarget target;
  ScaleKind kind = ScaleKind::kTensor;
  std::int32_t group = 0;
  std::vector<float> scales;
  std::vector<std::byte> bytes;
  std::int64_t rows_done = 0;
  std::optional<Tl1Codec> tl1;
  std::optional<Tl2Codec> tl2;

  [[nodiscard]] std::uint8_t* data() { return reinterpret_cast<std::uint8_t*>(bytes.data()); }

  Status check_scales() const;
  Status put_blocks(const std::uint8_t* codes, std::int64_t rows);
};

Status TernaryEncoder::State::check_scales() const {
  const auto rows = static_cast<std::uint64_t>(target.rows);
  std::uint64_t expected = 1;
  if (kind == ScaleKind::kRow) expected = rows;
  if (kind == ScaleKind::kGroup) {
    if (group <= 0 || target.columns % group != 0) {
      return refused(target, "expected groups that divide the columns, found " + std::to_string(group));
    }
    expected = rows * static_cast<std::uint64_t>(target.columns / group);
  }
  if (scales.size() != expected) {
    return refused(target, "expected " + std::to_string(expected) + " scales, found " + std::to_string(scales.size()));
  }
  if (!has_blocks(target.type)) {
    if (kind != ScaleKind::kTensor) {
      return refused(target,
                     "the type has one scale for the whole matrix, and this one has several: choose tq2_0, q2_0, "
                     "pq2_0 or f16");
    }
    if (std::isfinite(scales[0]) && scales[0] > 0) return {};
    return refused(target, "expected a finite positive scale, found " + number_text(scales[0]));
  }
  const auto block = static_cast<std::int32_t>(block_type(target.type).elements);
  if (kind == ScaleKind::kGroup && group % block != 0) {
    return refused(target, "the type has one scale for " + std::to_string(block) +
                               " columns, and this matrix has one for " + std::to_string(group) + ": choose " +
                               (group % 128 == 0  ? "q2_0, pq2_0 or f16"
                                : group % 64 == 0 ? "q2_0 or f16"
                                                  : "f16"));
  }
  for (const float scale : scales) {
    if (std::isfinite(half_to_float(float_to_half(scale)))) continue;
    return refused(target, "expected scales that float16 can hold, found " + number_text(scale));
  }
  return {};
}

Result<TernaryEncoder> TernaryEncoder::make(const TernaryTarget& target, ScaleKind kind, std::int32_t group,
                                            std::span<const float> scales) {
  using enum gguf::TensorType;
  if (target.type != kI2_S && target.type != kTL1 && target.type != kTL2OrMXFP4 && !has_blocks(target.type)) {
    return refused(target, "expected I2_S, TL1, TL2, TQ1_0, TQ2_0, Q2_0, PQ2_0 or Q1_0");
  }
  if (target.rows <= 0 || target.columns <= 0) return refused(target, "expected a matrix that is not empty");
  const auto bytes = size_of(target);
  if (!bytes || *bytes > std::numeric_limits<std::ptrdiff_t>::max()) {
    return refused(target, has_blocks(target.type)
                               ? "expected a multiple of " + std::to_string(block_type(target.type).elements) +
                                     " columns: choose i2_s"
                               : "expected a multiple of 4 columns (TL2: at least 256): choose f16");
  }
  auto state = std::make_unique<State>();
  state->target = target;
  state->kind = kind;
  state->group = group;
  state->scales.assign(scales.begin(), scales.end());
  BITNET_RETURN_IF_ERROR(state->check_scales());
  if (target.type == kI2_S) BITNET_RETURN_IF_ERROR(check_i2s_shape(target.i2s_layout, target.rows, target.columns));
  if (target.type == kTL1 || target.type == kTL2OrMXFP4) {
    const TileFormat format = target.type == kTL1 ? TileFormat::kTl1 : TileFormat::kTl2;
    if (!target.tile) {
      return refused(target,
                     "no tile parameters are known for this shape: give bitnet.cpp's kernel_config.ini "
                     "(--tile-config), or choose i2_s");
    }
    BITNET_RETURN_IF_ERROR(check_tile(format, target.rows, target.columns, *target.tile));
    if (format == TileFormat::kTl1) state->tl1.emplace(target.columns, *target.tile);
    if (format == TileFormat::kTl2) state->tl2.emplace(target.rows, target.columns, *target.tile);
  }
  state->bytes.resize(static_cast<std::size_t>(*bytes));
  if (!has_blocks(target.type)) {
    std::memcpy(state->bytes.data() + *bytes - kScaleTailBytes, state->scales.data(), sizeof(float));
  }
  return TernaryEncoder(std::move(state));
}

TernaryEncoder::TernaryEncoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
TernaryEncoder::TernaryEncoder(TernaryEncoder&&) noexcept = default;
TernaryEncoder& TernaryEncoder::operator=(TernaryEncoder&&) noexcept = default;
TernaryEncoder::~TernaryEncoder() = default;

Status TernaryEncoder::State::put_blocks(const std::uint8_t* codes, std::int64_t rows) {
  const BlockType block = block_type(target.type);
  const std::size_t blocks = static_cast<std::size_t>(target.columns) / block.elements;
  std::uint8_t* out = data() + static_cast<std::size_t>(rows_done) * blocks * block.bytes;
  for (std::int64_t row = rows_done; row < rows_done + rows; ++row) {
    for (std::size_t b = 0; b < blocks; ++b) {
      std::size_t index = 0;
      if (kind == ScaleKind::kRow) index = static_cast<std::size_t>(row);
      if (kind == ScaleKind::kGroup) {
        index = b * block.elements / static_cast<std::size_t>(group) * static_cast<std::size_t>(target.rows) +
                static_cast<std::size_t>(row);
      }
      // As ggml, whose scale is the block's largest magnitude: 0 where there is none.
      const auto zeros = static_cast<std::size_t>(std::count(codes, codes + block.elements, kZero));
      if (target.type == gguf::TensorType::kQ1_0 && zeros != 0 && zeros != block.elements) {
        const auto at = static_cast<std::size_t>(std::find(codes, codes + block.elements, kZero) - codes);
        return refused(target, "row " + std::to_string(row) + ", column " + std::to_string(b * block.elements + at) +
                                   ": expected -1 or +1, found the weight 0, for which this type has no code: choose "
                                   "q2_0, pq2_0 or tq1_0");
      }
      put_block(target.type, codes, zeros == block.elements ? 0.0F : scales[index], out);
      codes += block.elements;
      out += block.bytes;
    }
  }
  return {};
}

Status TernaryEncoder::add_rows(std::span<const std::uint8_t> codes) {
  State& state = *state_;
  const auto columns = static_cast<std::size_t>(state.target.columns);
  const std::size_t rows = codes.size() / columns;
  if (codes.size() % columns != 0 || rows > static_cast<std::size_t>(state.target.rows - state.rows_done)) {
    return refused(state.target, "expected whole rows, at most " + std::to_string(state.target.rows - state.rows_done) +
                                     ", found " + std::to_string(codes.size()) + " codes");
  }
  std::uint8_t most = 0;
  for (const std::uint8_t code : codes) most = std::max(most, code);
  if (most > 2) {
    const auto at = static_cast<std::size_t>(std::find_if(codes.begin(), codes.end(), [](auto c) { return c > 2; }) -
                                             codes.begin());
    return refused(state.target, "row " + std::to_string(static_cast<std::size_t>(state.rows_done) + at / columns) +
                                     ", column " + std::to_string(at % columns) + ": expected code 0, 1 or 2, found " +
                                     std::to_string(codes[at]));
  }
  const auto count = static_cast<std::int64_t>(rows);
  if (state.tl1) {
    state.tl1->encode(codes.data(), state.rows_done, count, state.data());
  } else if (state.tl2) {
    state.tl2->encode(codes.data(), state.rows_done, count, state.data());
  } else if (state.target.type == gguf::TensorType::kI2_S) {
    encode_i2s(state.target.i2s_layout, codes.data(), state.target.columns, state.rows_done, count, state.data());
  } else {
    BITNET_RETURN_IF_ERROR(state.put_blocks(codes.data(), count));
  }
  state.rows_done += count;
  return {};
}

Result<std::span<const std::byte>> TernaryEncoder::finish() const {
  if (state_->rows_done != state_->target.rows) {
    return refused(state_->target, "only " + std::to_string(state_->rows_done) + " rows were given");
  }
  return std::span<const std::byte>(state_->bytes);
}

double TernaryEncoder::scale_loss() const {
  if (!has_blocks(state_->target.type)) return 0;
  double worst = 0;
  for (const float scale : state_->scales) {
    if (scale == 0) continue;
    const double stored = static_cast<double>(half_to_float(float_to_half(scale)));
    worst = std::max(worst, std::fabs(stored / static_cast<double>(scale) - 1));
  }
  return worst;
}

bool is_encodable(gguf::TensorType type) {
  using enum gguf::TensorType;
  return type == kF32 || type == kF16 || type == kBF16 || type == kQ8_0 || is_tq(type);
}

void encode_floats(gguf::TensorType type, std::span<const float> values, std::byte* out) {
  assert(is_encodable(type) && values.size() % block_elements(type) == 0);
  auto* bytes = reinterpret_cast<std::uint8_t*>(out);
  switch (type) {
    case gguf::TensorType::kF32:
      if (!values.empty()) std::memcpy(bytes, values.data(), values.size_bytes());
      return;
    case gguf::TensorType::kF16:
      put_16_bits(values, bytes, [](float value) { return to_f16(value); });
      return;
    case gguf::TensorType::kBF16:
      put_16_bits(values, bytes, [](float value) { return to_bf16(value); });
      return;
    case gguf::TensorType::kQ8_0:
      for (std::size_t b = 0; b < values.size() / kQ8Block; ++b) {
        put_q8_block(values.data() + b * kQ8Block, bytes + b * kQ8Bytes);
      }
      return;
    default:
      for (std::size_t b = 0; b < values.size() / kTqBlock; ++b) {
        quantize_tq_block(type, values.data() + b * kTqBlock, bytes + b * block_type(type).bytes);
      }
  }
}

}  // namespace bitnet::formats
