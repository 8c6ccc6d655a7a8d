// The plan: which kernels a model needs on which targets, each with the constants that its family is instantiated with.
// Everything after this is mechanical; equal inputs give equal plans.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "codegen/points.h"
#include "codegen/targets.h"
#include "runtime/base/result.h"
#include "runtime/kernels/kernel.h"
#include "runtime/model/config.h"

namespace bitnet::codegen {

// One kernel to be made. `kernel` has everything but the function and, for a gemm, the scratch size, which only the
// compiled family knows (link.h reads it from the image).
struct KernelSpec {
  Kernel kernel;
  Point point;                  // gemv, gemm: the family's parameters
  std::string pipeline_symbol;  // norm_quantize: the Halide pipeline behind it; else ""

  [[nodiscard]] std::string name() const { return kernel.name(); }
  // Name of the constant beside a gemm kernel that holds its scratch size.
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

// For each image: gemv and gemm of every ternary shape, norm_quantize of every width. Errors: a shape without a point,
// a shape out of range (1 <= N <= 2^31 - 16, 1 <= K <= 132104), no ternary shape.
[[nodiscard]] Result<Plan> make_plan(const ModelShapes& shapes, const TargetSelection& selection, const Points& points);

}  // namespace bitnet::codegen
