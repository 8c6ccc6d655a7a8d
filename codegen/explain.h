// `bitnet-codegen explain`: what one kernel of a bundle is - formula, layout, shape, tuned point, source - and what its
// machine code does, read back from the image.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "codegen/code_summary.h"
#include "codegen/points.h"
#include "runtime/bundle/bundle.h"

namespace bitnet::codegen {

struct Explanation {
  KernelRecord record;
  std::string target;
  std::string formula;
  std::string layout;              // its text; "" for dense operations
  double bits_per_weight = 0;      // of the layout; 0 for dense operations
  double bits_with_padding = 0;    // of this shape, rows and k padded
  std::optional<Point> point;      // ternary, where the points at hand are those that the bundle was made with
  std::string points;              // provenance that the bundle states
  std::vector<std::string> files;  // generated header, templates or pipeline that it was made from
  CodeSummary code;

  // Of the hot loop, where that reads weights: instructions per byte of weights, and per 64 weights.
  [[nodiscard]] std::optional<double> instructions_per_byte() const;
  [[nodiscard]] std::optional<double> instructions_per_64_weights() const;
};

// `image`: the flat image that holds the kernel `name` of `table`; `provenance`: what the bundle states of its points.
// kUsage for a name that the table does not have; the message lists those that come near.
[[nodiscard]] Result<const KernelRecord*> find_record(const KernelTable& table, std::string_view name);
[[nodiscard]] Result<Explanation> explain(const KernelRecord& record, std::span<const std::byte> image,
                                          const Points& points, const std::string& provenance);

[[nodiscard]] std::string to_text(const Explanation& explanation);

}  // namespace bitnet::codegen
