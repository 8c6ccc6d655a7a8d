// TL1 and TL2, both ways; private to this folder. `bytes` are a tensor's from its first code on; the scale is not
// touched here. Tiles have passed check_tile().
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/formats/tiles.h"

namespace bitnet::formats {

class Tl1Codec {
 public:
  Tl1Codec(std::int64_t columns, const TileShape& tile);

  // Rows [row_begin, row_end) into codes [rows][columns]; returns how many undefined codes became 1.
  std::uint64_t decode(const std::uint8_t* bytes, std::int64_t row_begin, std::int64_t row_end,
                       std::uint8_t* codes) const;
  // Codes 0..2 of rows [row_begin, row_begin + rows).
  void encode(const std::uint8_t* codes, std::int64_t row_begin, std::int64_t rows, std::uint8_t* bytes) const;

 private:
  [[nodiscard]] std::uint64_t row_term(std::int64_t row) const;

  TileShape tile_;
  // A byte holds four neighbouring weights of a row; its offset is the row's term and the columns'.
  std::vector<std::uint64_t> column_terms_;                 // [columns / 4]
  std::uint64_t tile_stride_, inner_stride_, half_stride_;  // of bm, bmm and 16 rows
};

class Tl2Codec {
 public:
  Tl2Codec(std::int64_t rows, std::int64_t columns, const TileShape& tile);

  [[nodiscard]] std::uint64_t data_bytes() const { return pairs_at_ + rows_ * pair_columns_ / 4; }
  std::uint64_t decode(const std::uint8_t* bytes, std::int64_t row_begin, std::int64_t row_end,
                       std::uint8_t* codes) const;
  // As of Tl1Codec; the sign bits of these rows are 0 so far.
  void encode(const std::uint8_t* codes, std::int64_t row_begin, std::int64_t rows, std::uint8_t* bytes) const;

  // The first weight (row, first column of its triple) that has a sign bit on magnitude 0.
  struct Place {
    std::int64_t row, column;
  };
  [[nodiscard]] std::optional<Place> find_signed_zero(const std::uint8_t* bytes) const;

 private:
  // Where a row's bytes begin in the three parts, before the terms of the columns.
  struct RowTerms {
    std::uint64_t magnitudes, signs, pairs;
    int sign_shift;  // of the sign word: brings the sign of triple j to bit 14 - 2j
  };
  [[nodiscard]] RowTerms row_terms(std::int64_t row) const;

  std::uint64_t rows_;
  std::uint64_t triple_columns_, pair_columns_;  // the split of the columns
  TileShape tile_;
  std::uint64_t signs_at_, pairs_at_;  // the parts' offsets
  // Of every 24 columns of the triple part: their four magnitude bytes, 32 apart, and their sign word.
  std::vector<std::uint64_t> magnitude_terms_, sign_terms_;
  std::vector<std::uint64_t> pair_terms_;  // of every four columns of the pair part
};

}  // namespace bitnet::formats
