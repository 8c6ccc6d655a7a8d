#include "codegen/tune_places.h"

#include <algorithm>
#include <utility>

#include "codegen/families.h"

namespace bitnet::codegen {

std::vector<TuneGroup> groups_of(const TargetSelection& selection) {
  std::vector<TuneGroup> groups;
  for (const Target* image : selection.images) {
    const std::string_view whole = image->part_of.empty() ? image->name : image->part_of;
    auto group = std::ranges::find(groups, whole, &TuneGroup::name);
    if (group == groups.end()) group = groups.insert(groups.end(), {std::string(whole), {}});
    group->images.push_back(image);
  }
  return groups;
}

Format chosen_format(const Points& points, const TuneGroup& group, const TuneShape& shape, std::uint64_t bytes) {
  for (std::size_t i = group.images.size(); i-- > 0;) {
    const Isa isa = group.images[i]->isa;
    const Format format = points.format(isa, shape.n, shape.k, bytes).value_or(Format::kI2s);
    if (has_family(isa, format, "gemv")) return format;
  }
  return Format::kI2s;
}

Result<Point> choose_point(const Points& points, const Point& place, const TuneShape& shape) {
  Kernel kernel;
  kernel.isa = place.isa;
  kernel.op = place.op;
  kernel.format = place.format;
  kernel.m = place.m;
  kernel.n = shape.n;
  kernel.k = shape.k;
  return points.choose(kernel);
}

Result<std::optional<Point>> serving(const Points& points, const TuneGroup& group, const TuneShape& shape,
                                     const Operation& operation, Format format) {
  Point place;
  place.op = operation.op;
  place.m = operation.m;
  place.format = format;
  for (std::size_t i = group.images.size(); i-- > 0;) {
    place.isa = group.images[i]->isa;
    if (!has_family(place.isa, place.format, operation.family)) continue;
    BITNET_ASSIGN_OR_RETURN(Point point, choose_point(points, place, shape));
    return std::optional<Point>(std::move(point));
  }
  return std::optional<Point>();
}

std::vector<Trial> uses_of(const Operation& operation, bool more_threads) {
  if (operation.m != 0) return {{0, operation.m, false}};
  std::vector<Trial> uses;
  if (operation.op == Op::kGemm) {
    for (const std::int64_t tokens : kPrefillTokens) uses.push_back({0, tokens, false});
    return uses;
  }
  uses.push_back({0, 1, false});
  if (more_threads) uses.push_back({0, 1, true});
  return uses;
}

std::uint64_t memory_bytes(std::span<const TuneShape> shapes, const TuneOptions& options) {
  return std::max(model_bytes(shapes), static_cast<std::uint64_t>(options.cached_bytes));
}

std::string shape_name(const TuneShape& shape) { return std::to_string(shape.n) + "x" + std::to_string(shape.k); }

Status check_tune_shapes(std::span<const TuneShape> shapes) {
  if (!shapes.empty()) return {};
  return Error{ErrorCode::kUsage, "nothing to tune: no shapes"};
}

}  // namespace bitnet::codegen
