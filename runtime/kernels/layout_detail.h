// What one layout is made of; layout.cc dispatches to these. Internal to runtime/kernels.
#pragma once

#include <cstdint>

#include "runtime/kernels/layout.h"

namespace bitnet::layout_detail {

struct LayoutCode {
  LayoutInfo info;
  // codes [rows][k] (0..2), 1 <= rows <= 16 -> the tile; missing rows and k beyond `k` become code 1.
  void (*pack_tile)(const std::uint8_t* codes, std::int64_t rows, std::int64_t k, std::uint8_t* tile);
  // Row r of the tile, k codes.
  void (*unpack_row)(const std::uint8_t* tile, std::int64_t r, std::int64_t k, std::uint8_t* codes);
};

extern const LayoutCode kT2;   // layout_t2.cc
extern const LayoutCode kT5;   // layout_t5.cc
extern const LayoutCode kTl1;  // layout_tl.cc
extern const LayoutCode kTl2;

}  // namespace bitnet::layout_detail
