// TL1 and TL2 are nests of loops over tiles, blocks and groups, frozen into bytes. An offset in such a nest is a sum of
// index times stride, so it splits into a term of the row and a term of the columns. The columns' terms are computed
// once for a shape; a row is then one table look-up for each byte (four weights of TL1 and of TL2's pairs, six of TL2's
// triples). Neighbouring rows share cache lines, so going row by row costs no more than tile by tile.
#include "runtime/formats/tl.h"

#include <array>
#include <cstring>

namespace bitnet::formats {
namespace {

constexpr std::uint64_t kLanes = 16;
constexpr std::uint64_t kInnerRows = 32;   // of TL2
constexpr std::uint64_t kTripleUnit = 24;  // columns of one sign word: 8 triples, 4 magnitude bytes
constexpr std::uint64_t kPairBlock = 32;   // columns of a block of TL2's pair part
constexpr std::uint8_t kPairZero = 4;      // 3 * t0 + t1 + 4 of two zeros

using Four = std::array<std::uint8_t, 4>;
using Eight = std::array<std::uint8_t, 8>;

// A byte of two pairs, the first in the high nibble: four codes, and how many of them the byte leaves undefined.
struct PairTables {
  std::array<Four, 256> codes;
  std::array<std::uint8_t, 256> undefined;
};
constexpr PairTables kPairs = [] {
  PairTables tables{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::array<unsigned, 2> nibbles = {byte >> 4, byte & 15};
    for (std::size_t i = 0; i < 2; ++i) {
      const bool defined = nibbles[i] <= 8;
      const unsigned pair = defined ? nibbles[i] : kPairZero;
      tables.codes[byte][2 * i] = static_cast<std::uint8_t>(pair / 3);
      tables.codes[byte][2 * i + 1] = static_cast<std::uint8_t>(pair % 3);
      if (!defined) tables.undefined[byte] = static_cast<std::uint8_t>(tables.undefined[byte] + 2);
    }
  }
  return tables;
}();

// Two triples: index = magnitude byte (first triple in the high nibble) * 8 + sign of the first * 4 + of the second.
// Six codes; the last byte counts the undefined ones.
constexpr std::array<Eight, 2048> kTriples = [] {
  std::array<Eight, 2048> tables{};
  for (unsigned index = 0; index < 2048; ++index) {
    const unsigned byte = index >> 3;
    const std::array<unsigned, 2> magnitudes = {byte >> 4, byte & 15};
    const std::array<bool, 2> negative = {(index & 4) != 0, (index & 1) != 0};
    for (std::size_t i = 0; i < 2; ++i) {
      const bool defined = magnitudes[i] <= 13;
      const unsigned magnitude = defined ? magnitudes[i] : 0;
      const unsigned digits = negative[i] && defined ? 13 - magnitude : 13 + magnitude;
      tables[index][3 * i] = static_cast<std::uint8_t>(digits / 9);
      tables[index][3 * i + 1] = static_cast<std::uint8_t>(digits / 3 % 3);
      tables[index][3 * i + 2] = static_cast<std::uint8_t>(digits % 3);
      if (!defined) tables[index][7] = static_cast<std::uint8_t>(tables[index][7] + 3);
    }
  }
  return tables;
}();

std::uint8_t pair_byte(const std::uint8_t* codes) {
  return static_cast<std::uint8_t>((3 * codes[0] + codes[1]) << 4 | (3 * codes[2] + codes[3]));
}

// 9 t0 + 3 t1 + t2 of three codes.
int triple_value(const std::uint8_t* codes) { return 9 * codes[0] + 3 * codes[1] + codes[2] - 13; }

}  // namespace

Tl1Codec::Tl1Codec(std::int64_t columns, const TileShape& tile) : tile_(tile) {
  const auto units = static_cast<std::uint64_t>(columns) / 4;
  const auto block = static_cast<std::uint64_t>(tile.by);
  const auto by = static_cast<std::uint64_t>(256 / tile.bmm);  // columns of a group: 8 or 4
  const std::uint64_t quads = by / 4;
  half_stride_ = quads * kLanes;
  const std::uint64_t group_stride = static_cast<std::uint64_t>(tile.bmm) / 16 * half_stride_;
  inner_stride_ = block / by * group_stride;
  const std::uint64_t block_stride = static_cast<std::uint64_t>(tile.bm / tile.bmm) * inner_stride_;
  tile_stride_ = static_cast<std::uint64_t>(columns) / block * block_stride;
  column_terms_.reserve(units);
  for (std::uint64_t unit = 0; unit < units; ++unit) {
    const std::uint64_t column = 4 * unit;
    const std::uint64_t in_block = column % block;
    column_terms_.push_back(column / block * block_stride + in_block / by * group_stride + in_block % by / 4 * kLanes);
  }
}

std::uint64_t Tl1Codec::row_term(std::int64_t row) const {
  const auto in_tile = static_cast<std::uint64_t>(row % tile_.bm);
  const auto in_inner = static_cast<std::uint64_t>(row % tile_.bm % tile_.bmm);
  return static_cast<std::uint64_t>(row / tile_.bm) * tile_stride_ +
         in_tile / static_cast<std::uint64_t>(tile_.bmm) * inner_stride_ + in_inner / kLanes * half_stride_ +
         in_inner % kLanes;
}

std::uint64_t Tl1Codec::decode(const std::uint8_t* bytes, std::int64_t row_begin, std::int64_t row_end,
                               std::uint8_t* codes) const {
  std::uint64_t undefined = 0;
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    const std::uint8_t* source = bytes + row_term(row);
    for (const std::uint64_t term : column_terms_) {
      const std::uint8_t byte = source[term];
      std::memcpy(codes, kPairs.codes[byte].data(), 4);
      undefined += kPairs.undefined[byte];
      codes += 4;
    }
  }
  return undefined;
}

void Tl1Codec::encode(const std::uint8_t* codes, std::int64_t row_begin, std::int64_t rows, std::uint8_t* bytes) const {
  for (std::int64_t row = row_begin; row < row_begin + rows; ++row) {
    std::uint8_t* target = bytes + row_term(row);
    for (const std::uint64_t term : column_terms_) {
      target[term] = pair_byte(codes);
      codes += 4;
    }
  }
}

Tl2Codec::Tl2Codec(std::int64_t rows, std::int64_t columns, const TileShape& tile)
    : rows_(static_cast<std::uint64_t>(rows)),
      triple_columns_(static_cast<std::uint64_t>(columns / tile.by * tile.by)),
      pair_columns_(static_cast<std::uint64_t>(columns % tile.by)),
      tile_(tile),
      signs_at_(rows_ * triple_columns_ / 6),
      pairs_at_(signs_at_ + rows_ * triple_columns_ / 24) {
  const auto block = static_cast<std::uint64_t>(tile.by);
  const auto inner = static_cast<std::uint64_t>(tile.bm) / kInnerRows;  // groups of 32 rows in a tile
  for (std::uint64_t column = 0; column < triple_columns_; column += kTripleUnit) {
    const std::uint64_t in_block = column % block;
    magnitude_terms_.push_back((column / block * inner * (block / 6) + in_block / 6) * kInnerRows);
    sign_terms_.push_back((column / block * inner * (block / 24) + in_block / 24) * kInnerRows);
  }
  for (std::uint64_t column = 0; column < pair_columns_; column += 4) {
    pair_terms_.push_back((column / kPairBlock * inner * (kPairBlock / 4) + column % kPairBlock / 4) * kInnerRows);
  }
}

Tl2Codec::RowTerms Tl2Codec::row_terms(std::int64_t row) const {
  const auto bm = static_cast<std::uint64_t>(tile_.bm);
  const auto block = static_cast<std::uint64_t>(tile_.by);
  const std::uint64_t tile = static_cast<std::uint64_t>(row) / bm;
  const std::uint64_t in_tile = static_cast<std::uint64_t>(row) % bm;
  const std::uint64_t r = in_tile % kInnerRows;
  // The second and the third group of eight rows have changed places.
  const std::uint64_t lane = r / 8 == 1 ? r + 8 : r / 8 == 2 ? r - 8 : r;
  const std::uint64_t inner = in_tile / kInnerRows;
  const std::uint64_t tile_rows = bm / kInnerRows;
  const auto part = [&](std::uint64_t width, std::uint64_t groups, std::uint64_t in_row) {
    return (tile * (width / block) * tile_rows * groups + inner * groups) * kInnerRows + in_row;
  };
  const std::uint64_t pair_groups = kPairBlock / 4;
  return {part(triple_columns_, block / 6, lane), signs_at_ + part(triple_columns_, block / 24, 2 * (r % kLanes)),
          pairs_at_ + (tile * (pair_columns_ / kPairBlock) * tile_rows + inner) * pair_groups * kInnerRows + lane,
          r < kLanes ? 1 : 0};
}

std::uint64_t Tl2Codec::decode(const std::uint8_t* bytes, std::int64_t row_begin, std::int64_t row_end,
                               std::uint8_t* codes) const {
  std::uint64_t undefined = 0;
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    const RowTerms terms = row_terms(row);
    for (std::size_t unit = 0; unit < magnitude_terms_.size(); ++unit) {
      const std::uint8_t* magnitudes = bytes + terms.magnitudes + magnitude_terms_[unit];
      std::uint16_t word = 0;
      std::memcpy(&word, bytes + terms.signs + sign_terms_[unit], sizeof word);
      const unsigned signs = static_cast<unsigned>(word) >> terms.sign_shift;
      for (unsigned g = 0; g < 4; ++g) {
        const Eight& entry = kTriples[magnitudes[g * kInnerRows] * 8U + (signs >> (12 - 4 * g) & 5U)];
        std::memcpy(codes, entry.data(), 6);
        undefined += entry[7];
        codes += 6;
      }
    }
    const std::uint8_t* pairs = bytes + terms.pairs;
    for (const std::uint64_t term : pair_terms_) {
      std::memcpy(codes, kPairs.codes[pairs[term]].data(), 4);
      undefined += kPairs.undefined[pairs[term]];
      codes += 4;
    }
  }
  return undefined;
}

void Tl2Codec::encode(const std::uint8_t* codes, std::int64_t row_begin, std::int64_t rows, std::uint8_t* bytes) const {
  for (std::int64_t row = row_begin; row < row_begin + rows; ++row) {
    const RowTerms terms = row_terms(row);
    for (std::size_t unit = 0; unit < magnitude_terms_.size(); ++unit) {
      std::uint8_t* magnitudes = bytes + terms.magnitudes + magnitude_terms_[unit];
      unsigned signs = 0;
      for (unsigned g = 0; g < 4; ++g) {
        const int first = triple_value(codes);
        const int second = triple_value(codes + 3);
        magnitudes[g * kInnerRows] =
            static_cast<std::uint8_t>((first < 0 ? -first : first) << 4 | (second < 0 ? -second : second));
        signs |= (first < 0 ? 4U : 0U) << (12 - 4 * g) | (second < 0 ? 1U : 0U) << (12 - 4 * g);
        codes += 6;
      }
      std::uint16_t word = 0;
      std::uint8_t* at = bytes + terms.signs + sign_terms_[unit];
      std::memcpy(&word, at, sizeof word);
      word = static_cast<std::uint16_t>(word | signs << terms.sign_shift);
      std::memcpy(at, &word, sizeof word);
    }
    for (const std::uint64_t term : pair_terms_) {
      bytes[terms.pairs + term] = pair_byte(codes);
      codes += 4;
    }
  }
}

std::optional<Tl2Codec::Place> Tl2Codec::find_signed_zero(const std::uint8_t* bytes) const {
  for (std::int64_t row = 0; row < static_cast<std::int64_t>(rows_); ++row) {
    const RowTerms terms = row_terms(row);
    for (std::size_t unit = 0; unit < magnitude_terms_.size(); ++unit) {
      const std::uint8_t* magnitudes = bytes + terms.magnitudes + magnitude_terms_[unit];
      std::uint16_t word = 0;
      std::memcpy(&word, bytes + terms.signs + sign_terms_[unit], sizeof word);
      const unsigned signs = static_cast<unsigned>(word) >> terms.sign_shift;
      for (unsigned triple = 0; triple < 8; ++triple) {
        const unsigned byte = magnitudes[triple / 2 * kInnerRows];
        const unsigned magnitude = triple % 2 == 0 ? byte >> 4 : byte & 15U;
        if (magnitude == 0 && (signs >> (14 - 2 * triple) & 1U) != 0) {
          return Place{row, static_cast<std::int64_t>(unit * kTripleUnit + triple * 3)};
        }
      }
    }
  }
  return std::nullopt;
}

}  // namespace bitnet::formats
