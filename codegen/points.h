// Tuned points: which variant of a family serves a shape. A point is a row of data with provenance, read from TOML. The
// files of schedules/points are embedded in the program; defaults.toml is used where --points names no other one.
//
//   provenance = "..."            # optional, one line: CPU, date, figure, reason
//   base = "defaults"             # optional: where this file has no row for a place, the rows of that shipped file
//   serve
//   [[point]]
//   isa = "avx512"
//   op = "gemv"                   # gemv: streams 1..8, prefetch 0..65536 bytes (a multiple of 64)
//   streams = 4
//   prefetch = 1024
//   [[point]]
//   isa = "avx512"
//   op = "gemm"                   # gemm: token_tile 1..32, row_tiles 1..8
//   format = "i2s"                # optional: i2s (default), t5, tl1, tl2
//   n = 13824                     # optional, both or none: this shape only; without: every shape of the isa
//   k = 2560
//   token_tile = 16
//   row_tiles = 1
//   [[point]]
//   isa = "avx512"
//   op = "gemm"
//   m = 4                         # small batches of 2, 4 or 8 tokens: streams and prefetch, as for gemv
//   streams = 2
//   prefetch = 1024
//   [[point]]
//   isa = "avx512"
//   op = "gemv"
//   technique = "halide"          # i2s without m: the pipeline of schedules/ternary.h; default: the template
//   streams = 2                   # keys streams (gemv), token_tile and row_tiles (gemm). A place may have one point of
//                                 # each technique: the first one in the file is used, never halide for K-groups
//   [[layout]]                    # which format --format auto takes for a shape (without: i2s)
//   isa = "avx512-vbmi"
//   format = "t5"                 # n and k as above
//   min_model_bytes = 134217728   # optional: only for models whose ternary products take at least as many bytes in
//   layout
//                                 # t2. t5 is faster where weights come from memory and slower where they stay in a
//                                 # cache, so the choice belongs to the whole model and not only to the shape. Of rows
//                                 # for one place, that with the largest bound that the model reaches is used
//   [[dense]]                     # how a dense operation is made (without: template)
//   isa = "avx512"
//   op = "norm_quantize"
//   technique = "halide"          # or "template"
// Every table may carry a `note`: the figures behind it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/kernels/kernel.h"

namespace bitnet::codegen {

struct Point {
  Isa isa = Isa::kScalar;
  Op op = Op::kGemv;
  Format format = Format::kI2s;
  std::int32_t m = 0;  // gemm: small batches; 0: any number of tokens
  std::int64_t n = 0;  // 0 with k 0: any shape
  std::int64_t k = 0;
  std::int32_t streams = 0;  // gemv, small batches
  std::int32_t prefetch = 0;
  std::int32_t token_tile = 0;  // gemm
  std::int32_t row_tiles = 0;
  std::string technique;  // "" template, "halide"
  std::string note;
};

// One [[layout]] row.
struct LayoutPoint {
  Isa isa = Isa::kScalar;
  Format format = Format::kI2s;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t min_model_bytes = 0;
  std::string note;
};
// One [[dense]] row.
struct DensePoint {
  Isa isa = Isa::kScalar;
  Op op = Op::kNormQuantize;
  std::string technique;
};

struct Points {
  std::vector<Point> points;
  std::vector<LayoutPoint> layouts;
  std::vector<DensePoint> dense;
  std::string provenance;  // stands in the bundle

  // The point for the kernel's isa, op, format and m: that of exactly its shape, else the general one of the target,
  // else an error that names what is missing. (K-groups share the points of their shape.) A kernel with a technique
  // gets a point of that technique, one without gets the first point of any that can serve it.
  [[nodiscard]] Result<Point> choose(const Kernel& kernel) const;
  // The format that --format auto takes for a shape of a model with `model_bytes` of ternary weights in layout t2, the
  // exact shape before the general one; nullopt: none is named.
  [[nodiscard]] std::optional<Format> format(Isa isa, std::int64_t n, std::int64_t k, std::uint64_t model_bytes) const;
  // "template" unless a [[dense]] row says otherwise.
  [[nodiscard]] std::string technique(Isa isa, Op op) const;
};

// `path` stands in messages and, where the file gives no provenance, becomes it (file name only). Unknown keys, missing
// keys, values out of range and two rows for the same place are kUsage and name file, line and key.
[[nodiscard]] Result<Points> parse_points(std::string_view toml, const std::string& path);
[[nodiscard]] Result<Points> read_points(const std::string& path);
// The embedded defaults; their provenance is "defaults".
[[nodiscard]] Result<Points> default_points();
// Names of the embedded files, without folder and ending: "defaults", "znver4".
[[nodiscard]] std::vector<std::string> shipped_points();
// What --points takes: "" (the defaults), a shipped name, or a file. kUsage if it is none of them.
[[nodiscard]] Result<Points> find_points(const std::string& name_or_path);

}  // namespace bitnet::codegen
