// Two sets of points side by side: what each would run for a shape, timed in turn.
#include <algorithm>

#include "codegen/families.h"
#include "codegen/tune_places.h"
#include "codegen/tune_space.h"

namespace bitnet::codegen {
namespace {

constexpr int kRounds = 21;

std::string use_name(const Operation& operation, const Trial& use) {
  if (operation.op == Op::kGemv) return use.all_threads ? "gemv, all threads" : "gemv, 1 thread";
  return "gemm, " + std::to_string(use.tokens) + " tokens";
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

// The point that serves an operation in a group: of the best image that has the chosen format. A format without the
// family (lookup formats have no small batches) has none.
Result<std::optional<Point>> serving(const Points& points, const TuneGroup& group, const TuneShape& shape,
                                     const Operation& operation, std::uint64_t bytes) {
  Point place;
  place.op = operation.op;
  place.m = operation.m;
  place.format = chosen_format(points, group, shape, bytes);
  for (std::size_t i = group.images.size(); i-- > 0;) {
    place.isa = group.images[i]->isa;
    if (!has_family(place.isa, place.format, operation.family)) continue;
    BITNET_ASSIGN_OR_RETURN(Point point, choose_point(points, place, shape));
    return std::optional<Point>(std::move(point));
  }
  return std::optional<Point>();
}

std::string text(const Point& point) { return std::string(to_string(point.format)) + ", " + describe(point); }

// A use of two different kernels: which row it is, and both as trials.
struct Duel {
  std::size_t row = 0;
  Trial first;
  Trial second;
};

struct ShapeWork {
  std::vector<KernelSpec> variants;
  std::vector<Duel> duels;
};

}  // namespace

Result<std::vector<Comparison>> compare_points(std::span<const TuneShape> shapes, const TargetSelection& selection,
                                               const Points& first, const Points& second, TuneBench& bench,
                                               const TuneOptions& options) {
  BITNET_RETURN_IF_ERROR(check_tune_shapes(shapes));
  const std::uint64_t bytes = model_bytes(shapes);
  const std::vector<TuneGroup> groups = groups_of(selection);
  std::vector<Comparison> rows;
  TuneProgress progress;
  progress.total = shapes.size();
  for (const TuneShape& shape : shapes) {
    progress.now = "comparing " + shape_name(shape);
    if (options.progress) options.progress(progress);
    ShapeWork work;
    for (const TuneGroup& group : groups) {
      for (const Operation& operation : kOperations) {
        BITNET_ASSIGN_OR_RETURN(const std::optional<Point> a, serving(first, group, shape, operation, bytes));
        BITNET_ASSIGN_OR_RETURN(const std::optional<Point> b, serving(second, group, shape, operation, bytes));
        if (!a || !b) continue;
        const bool same = same_kernel(*a, *b);
        for (Trial use : uses_of(operation, options.more_threads)) {
          rows.push_back({shape, group.name, use_name(operation, use), text(*a), text(*b), 1, same});
          if (same) continue;
          use.variant = work.variants.size();
          Trial other = use;
          ++other.variant;
          work.duels.push_back({rows.size() - 1, use, other});
        }
        if (same) continue;
        const KernelShape size = {shape.n, shape.k};
        work.variants.push_back(ternary_kernel(*a, size, 0, a->technique + "va"));
        work.variants.push_back(ternary_kernel(*b, size, 0, b->technique + "vb"));
      }
    }
    ++progress.done;
    if (work.variants.empty()) continue;
    BITNET_RETURN_IF_ERROR(bench.prepare(work.variants));
    for (std::size_t v = 0; v < work.variants.size(); ++v) BITNET_RETURN_IF_ERROR(bench.check(v));
    for (const Duel& duel : work.duels) {
      BITNET_ASSIGN_OR_RETURN(rows[duel.row].ratio, time_ratio(bench, duel.first, duel.second, kRounds, options.stop));
    }
  }
  return rows;
}

}  // namespace bitnet::codegen
