// Two sets of points side by side: what each would run for a shape, timed in turn.
#include <algorithm>
#include <optional>

#include "codegen/families.h"
#include "codegen/tune_places.h"
#include "codegen/tune_space.h"
#include "runtime/probe/probes.h"

namespace bitnet::codegen {
namespace {

using probe::median;

std::string use_name(const Operation& operation, const Trial& use) {
  if (operation.op == Op::kGemv) return use.all_threads ? "gemv, all threads" : "gemv, 1 thread";
  return "gemm, " + std::to_string(use.tokens) + " tokens";
}

std::string text(const Point& point) { return std::string(to_string(point.format)) + ", " + describe(point); }

}  // namespace

Result<std::vector<Comparison>> compare_points(std::span<const TuneShape> shapes, const TargetSelection& selection,
                                               const Points& first, const Points& second, TuneBench& bench,
                                               const TuneOptions& options) {
  BITNET_RETURN_IF_ERROR(check_tune_shapes(shapes));
  const std::uint64_t bytes = model_bytes(shapes);
  std::vector<Comparison> rows;
  std::vector<Duel> duels;
  std::vector<std::size_t> row_of;  // beside duels
  for (const TuneShape& shape : shapes) {
    for (const TuneGroup& group : groups_of(selection)) {
      const Format first_format = chosen_format(first, group, shape, bytes);
      const Format second_format = chosen_format(second, group, shape, bytes);
      for (const Operation& operation : kOperations) {
        BITNET_ASSIGN_OR_RETURN(const std::optional<Point> a, serving(first, group, shape, operation, first_format));
        BITNET_ASSIGN_OR_RETURN(const std::optional<Point> b, serving(second, group, shape, operation, second_format));
        if (!a || !b) continue;
        const bool same = same_kernel(*a, *b);
        for (const Trial& use : uses_of(operation, options.more_threads)) {
          rows.push_back({shape, group.name, use_name(operation, use), text(*a), text(*b), 1, 1, 1, same});
          if (same) continue;
          duels.push_back({shape, *a, *b, use.tokens, use.all_threads});
          row_of.push_back(rows.size() - 1);
        }
      }
    }
  }
  if (duels.empty()) return rows;
  BITNET_ASSIGN_OR_RETURN(const std::vector<std::vector<double>> ratios, time_duels(duels, bench, options));
  for (std::size_t d = 0; d < duels.size(); ++d) {
    std::vector<double> of_processes;
    for (const std::vector<double>& process : ratios) of_processes.push_back(process[d]);
    std::ranges::sort(of_processes);
    Comparison& row = rows[row_of[d]];
    row.least = of_processes.front();
    row.most = of_processes.back();
    row.ratio = median(of_processes);
  }
  return rows;
}

}  // namespace bitnet::codegen
