// Shapes x targets x operations, in this order: the order of the kernel table and of the code in an image.
#include "codegen/plan.h"

#include "runtime/model/limits.h"

namespace bitnet::codegen {
namespace {

constexpr std::int64_t kMaxN = (std::int64_t{1} << 31) - 16;

std::string too_wide(std::int64_t k) {
  return "expected a width of at most " + std::to_string(kMaxWidth) + ", found " + std::to_string(k) +
         "; integer products of wider layers exceed 2^24 and would be rounded";
}

Status check_shapes(const ModelShapes& shapes) {
  if (shapes.ternary.empty()) {
    return Error{ErrorCode::kTensorMapping, "nothing to compile: the model has no ternary product"};
  }
  for (const KernelShape& shape : shapes.ternary) {
    if (shape.k > kMaxWidth) {
      return Error{ErrorCode::kTensorMapping, "ternary product of " + std::to_string(shape.n) + " x " +
                                                  std::to_string(shape.k) + ": " + too_wide(shape.k)};
    }
    if (shape.n < 1 || shape.n > kMaxN || shape.k < 1) {
      return Error{ErrorCode::kTensorMapping,
                   "ternary product of " + std::to_string(shape.n) + " x " + std::to_string(shape.k) +
                       ": expected 1 <= N <= " + std::to_string(kMaxN) + " and 1 <= K <= " + std::to_string(kMaxWidth)};
    }
  }
  for (const std::int64_t k : shapes.norm_quantize) {
    if (k > kMaxWidth) {
      return Error{ErrorCode::kTensorMapping, "norm of width " + std::to_string(k) + ": " + too_wide(k)};
    }
    if (k < 1) {
      return Error{ErrorCode::kTensorMapping,
                   "norm of width " + std::to_string(k) + ": expected 1 <= K <= " + std::to_string(kMaxWidth)};
    }
  }
  return {};
}

Result<KernelSpec> ternary_spec(const Target& target, Op op, const KernelShape& shape, const Points& points) {
  BITNET_ASSIGN_OR_RETURN(const Point point, points.choose(target.isa, op, shape.n, shape.k));
  KernelSpec spec;
  spec.kernel.format = Format::kI2s;
  spec.kernel.op = op;
  spec.kernel.n = shape.n;
  spec.kernel.k = shape.k;
  spec.kernel.isa = target.isa;
  spec.kernel.token_tile = op == Op::kGemm ? point.token_tile : 1;
  spec.point = point;
  return spec;
}

KernelSpec norm_quantize_spec(const Target& target, std::int64_t k) {
  KernelSpec spec;
  spec.kernel.format = Format::kI8;
  spec.kernel.op = Op::kNormQuantize;
  spec.kernel.k = k;
  spec.kernel.isa = target.isa;
  spec.kernel.technique = "halide";
  spec.pipeline_symbol = "halide_norm_quantize_k" + std::to_string(k) + "_" + std::string(target.name);
  return spec;
}

}  // namespace

Result<Plan> make_plan(const ModelShapes& shapes, const TargetSelection& selection, const Points& points) {
  BITNET_RETURN_IF_ERROR(check_shapes(shapes));
  Plan plan;
  plan.shapes = shapes;
  plan.target = selection.name;
  plan.points = points.provenance;
  for (const Target* target : selection.images) {
    ImagePlan image;
    image.target = target;
    for (const Op op : {Op::kGemv, Op::kGemm}) {
      for (const KernelShape& shape : shapes.ternary) {
        BITNET_ASSIGN_OR_RETURN(KernelSpec spec, ternary_spec(*target, op, shape, points));
        image.kernels.push_back(std::move(spec));
      }
    }
    for (const std::int64_t k : shapes.norm_quantize) image.kernels.push_back(norm_quantize_spec(*target, k));
    plan.images.push_back(std::move(image));
  }
  return plan;
}

}  // namespace bitnet::codegen
