// Tuned points: which variant of a family serves a shape. A point is a row of data with provenance, read from TOML; the
// defaults of schedules/points/defaults.toml are embedded in the program, --points replaces them.
//
//   provenance = "..."            # optional, one line: CPU, date, figure, reason
//   [[point]]
//   isa = "avx512"
//   op = "gemv"                   # gemv: streams 1..8, prefetch 0..65536 bytes (a multiple of 64)
//   streams = 4
//   prefetch = 1024
//   [[point]]
//   isa = "avx512"
//   op = "gemm"                   # gemm: token_tile 1..32, row_tiles 1..8
//   n = 13824                     # optional, both or none: this shape only; without: every shape of the isa
//   k = 2560
//   token_tile = 16
//   row_tiles = 1
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/kernels/kernel.h"

namespace bitnet::codegen {

struct Point {
  Isa isa = Isa::kScalar;
  Op op = Op::kGemv;
  std::int64_t n = 0;  // 0 with k 0: any shape
  std::int64_t k = 0;
  std::int32_t streams = 0;  // gemv
  std::int32_t prefetch = 0;
  std::int32_t token_tile = 0;  // gemm
  std::int32_t row_tiles = 0;
};

struct Points {
  std::vector<Point> points;
  std::string provenance;  // stands in the bundle

  // The point of exactly this shape, else the general one of the target, else an error that names what is missing.
  [[nodiscard]] Result<Point> choose(Isa isa, Op op, std::int64_t n, std::int64_t k) const;
};

// `path` stands in messages and, where the file gives no provenance, becomes it (file name only). Unknown keys, missing
// keys, values out of range and two points for the same (isa, op, n, k) are kUsage and name file, line and key.
[[nodiscard]] Result<Points> parse_points(std::string_view toml, const std::string& path);
[[nodiscard]] Result<Points> read_points(const std::string& path);
// The embedded defaults; their provenance is "defaults".
[[nodiscard]] Result<Points> default_points();

}  // namespace bitnet::codegen
