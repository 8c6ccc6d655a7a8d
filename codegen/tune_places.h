// What tuning and comparing share: groups of images that serve one CPU, the operations of a shape, and which format and
// point a set of points gives them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "codegen/points.h"
#include "codegen/targets.h"
#include "codegen/tune.h"

namespace bitnet::codegen {

struct Operation {
  Op op;
  std::int32_t m;
  const char* family;  // families.h
};
inline constexpr Operation kOperations[] = {{Op::kGemv, 0, "gemv"},
                                            {Op::kGemm, 0, "gemm"},
                                            {Op::kGemm, 2, "batch"},
                                            {Op::kGemm, 4, "batch"},
                                            {Op::kGemm, 8, "batch"}};
// Tokens of a gemm's calls that are timed: a short prompt, in which the last tile counts, and long ones.
inline constexpr std::int64_t kPrefillTokens[] = {16, 128, 512};
// Of those, the one that stands for all in a choice of layouts.
inline constexpr std::int64_t kLayoutTokens = 128;

// A target with its parts: they share a CPU, so they choose one layout for a shape.
struct TuneGroup {
  std::string name;
  std::vector<const Target*> images;  // ascending in preference
};
[[nodiscard]] std::vector<TuneGroup> groups_of(const TargetSelection& selection);

// The format that a CPU which executes all images of the group takes for a shape of a model with so many bytes.
[[nodiscard]] Format chosen_format(const Points& points, const TuneGroup& group, const TuneShape& shape,
                                   std::uint64_t bytes);
// The point for a place (isa, op, format, m of `place`) and shape; kUsage if there is none.
[[nodiscard]] Result<Point> choose_point(const Points& points, const Point& place, const TuneShape& shape);
// The point of such a format that serves an operation: of the best image that has the family; none if no image does
// (lookup formats have no small batches).
[[nodiscard]] Result<std::optional<Point>> serving(const Points& points, const TuneGroup& group, const TuneShape& shape,
                                                   const Operation& operation, Format format);
// The uses of an operation that are timed; their variant is 0.
[[nodiscard]] std::vector<Trial> uses_of(const Operation& operation, bool more_threads);
// Bytes of a model of these shapes whose weights come from memory: what is timed stands for such models.
[[nodiscard]] std::uint64_t memory_bytes(std::span<const TuneShape> shapes, const TuneOptions& options);
[[nodiscard]] std::string shape_name(const TuneShape& shape);  // "13824x2560"
[[nodiscard]] Status check_tune_shapes(std::span<const TuneShape> shapes);

}  // namespace bitnet::codegen
