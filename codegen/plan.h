// The plan: which kernels a model needs on which targets, each with the constants that its family is instantiated with.
// Everything after this is mechanical; equal inputs give equal plans.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "codegen/points.h"
#include "codegen/targets.h"
#include "runtime/base/result.h"
#include "runtime/kernels/kernel.h"
#include "runtime/model/config.h"

namespace bitnet::codegen {

// One kernel to be made. `kernel` has everything but the function and, for a ternary kernel, the scratch size, which
// only the compiled family knows (compile.cc reads it from the image).
struct KernelSpec {
  Kernel kernel;
  Point point;                  // ternary: the family's parameters
  std::string pipeline;         // the Halide pipeline behind it, as bitnet-halide takes it, without SYMBOL; else ""
  std::string pipeline_symbol;  // its function; else ""

  [[nodiscard]] std::string name() const { return kernel.name(); }
  // Name of the constant beside a ternary kernel that holds its scratch size.
  [[nodiscard]] std::string scratch_symbol() const { return name() + "_scratch_bytes"; }
};

struct ImagePlan {
  const Target* target = nullptr;
  std::vector<KernelSpec> kernels;
};

struct Plan {
  ModelShapes shapes;
  std::string target;  // TargetSelection::name
  std::string points;  // provenance
  std::vector<ImagePlan> images;
};

struct PlanOptions {
  std::optional<Format> format;  // ternary; nullopt: what the points say for each shape, i2s where they say nothing
  bool every_format = false;     // all families and techniques of a target, beside each other: for tests and benches
  bool dense = true;             // the dense operations too
  bool float32_cache = false;    // among them attention to float32 keys and values, which few ask the runtime for
  bool halide = false;           // the Halide variants of i2s gemv and gemm too, beside the kernels chosen
};

// For each image: gemv, gemm and small batches of every ternary shape in the format chosen, the dense operations, and
// norm_quantize of every width where a Halide pipeline is the chosen technique. A target without a family of the format
// that it is asked for is refused by name; one that only comes along (implied) then serves i2s. Shapes with K-groups
// get i2s where the points name a format that cannot serve them. An image without any kernel is left out. Errors
// (kUsage): a format or K-group that a target has no kernels for, a shape without a point; (kTensorMapping) a shape out
// of range (1 <= N <= 2^31 - 16, 1 <= K <= 132104), no ternary shape.
[[nodiscard]] Result<Plan> make_plan(const ModelShapes& shapes, const TargetSelection& selection, const Points& points,
                                     const PlanOptions& options = {});

// The ternary kernel of a shape that `point` describes (its isa, op, format and m included). `technique` becomes part
// of the name; a point with technique halide names its pipeline.
[[nodiscard]] KernelSpec ternary_kernel(const Point& point, const KernelShape& shape, std::string_view technique = {});

}  // namespace bitnet::codegen
