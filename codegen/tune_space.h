// The space that the tuner searches: which points of a family are worth a race.
#pragma once

#include <string>
#include <vector>

#include "codegen/points.h"

namespace bitnet::codegen {

// Variants of one place (isa, op, format, m of `place`; the rest is not read), simplest first: fewer streams, smaller
// tiles, templates before Halide's pipelines. `known` points of the place (those that serve it today) are always among
// them. Gemv and small batches: streams x prefetch; gemm: tokens x row tiles.
[[nodiscard]] std::vector<Point> tune_space(const Point& place, const std::vector<Point>& known, bool full,
                                            bool halide);
// "4 streams, prefetch 1024", "16 x 1 tiles", "Halide, 2 streams"
[[nodiscard]] std::string describe(const Point& point);
// Whether two points make the same kernel of the same place.
[[nodiscard]] bool same_kernel(const Point& a, const Point& b);

}  // namespace bitnet::codegen
