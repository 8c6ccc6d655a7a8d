// Shapes x targets x operations, in this order: the order of the kernel table and of the code in an image.
#include "codegen/plan.h"

#include <algorithm>

#include "codegen/families.h"
#include "runtime/kernels/layout.h"
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

constexpr Format kTernaryFormats[] = {Format::kI2s, Format::kT5, Format::kTl1, Format::kTl2};
constexpr std::int32_t kBatches[] = {2, 4, 8};
struct DenseKernel {
  Op op;
  Format format;
};
constexpr DenseKernel kDenseKernels[] = {
    {Op::kEpilogue, Format::kF32},    {Op::kQuantize, Format::kI8},   {Op::kNorm, Format::kF32},
    {Op::kNormQuantize, Format::kI8}, {Op::kRope, Format::kF32},      {Op::kAttention, Format::kF16},
    {Op::kAttention, Format::kI8},    {Op::kSoftmax, Format::kF32},   {Op::kRelu2Gate, Format::kF32},
    {Op::kSiluGate, Format::kF32},    {Op::kHead, Format::kF16},      {Op::kHead, Format::kBf16},
    {Op::kHead, Format::kF32},        {Op::kHeadScreen, Format::kI8}, {Op::kGeluGate, Format::kF32},
    {Op::kGelu, Format::kF32},        {Op::kLayerNorm, Format::kF32}, {Op::kHead, Format::kQ8},
    {Op::kAttention, Format::kF32},
};

bool has_format(const Target& target, Format format) { return has_family(target.isa, format, "gemv"); }

std::string quoted(Format format) { return "format " + std::string(to_string(format)); }

// K-groups of a layout whose lines cross them cannot exist.
Status check_group(Format format, std::int32_t group) {
  if (group != 0 && group != 64 && group != 128 && group != 256) {
    return Error{ErrorCode::kUsage, "K-groups of " + std::to_string(group) + ": expected 64, 128 or 256"};
  }
  const LayoutInfo& layout = info(layout_of(format));
  if (group == 0 || layout.k_groups) return {};
  return Error{ErrorCode::kUsage, quoted(format) + " cannot serve K-groups of " + std::to_string(group) +
                                      ": a line of " + std::string(layout.name) + " holds " +
                                      std::to_string(layout.line_k) +
                                      " weights of a row, which no group is a multiple of; use i2s or tl1"};
}

// The formats that one image gets for one shape.
class FormatRule {
 public:
  FormatRule(const TargetSelection& selection, const Points& points, const PlanOptions& options,
             std::uint64_t model_bytes)
      : selection_(selection), points_(points), options_(options), model_bytes_(model_bytes) {}

  // What the user asked for by name must serve every shape, and exist for every target that he asked for, or for a part
  // of it.
  [[nodiscard]] Status check(const ModelShapes& shapes) const {
    for (const KernelShape& shape : shapes.ternary) {
      BITNET_RETURN_IF_ERROR(check_group(options_.format.value_or(Format::kI2s), shape.group));
    }
    if (!options_.format) return {};
    for (const Target* target : selection_.asked) {
      if (!target->part_of.empty() || serves(*target)) continue;
      return Error{ErrorCode::kUsage, quoted(*options_.format) + " has no kernels for target " +
                                          std::string(target->name) +
                                          " (targets that have it: " + targets_with(*options_.format) + ")"};
    }
    return {};
  }

  [[nodiscard]] std::vector<Format> formats(const Target& target, const KernelShape& shape) const {
    std::vector<Format> list;
    for (const Format format : kTernaryFormats) {
      if (!has_format(target, format) || !check_group(format, shape.group).ok()) continue;
      if (options_.every_format || format == wanted(target, shape)) list.push_back(format);
    }
    return list;
  }

 private:
  // Whether the target or one of its parts has the format asked for.
  [[nodiscard]] bool serves(const Target& target) const {
    return std::ranges::any_of(selection_.images, [&](const Target* image) {
      return (image == &target || image->part_of == target.name) && has_format(*image, *options_.format);
    });
  }

  [[nodiscard]] Format wanted(const Target& target, const KernelShape& shape) const {
    if (options_.format && has_format(target, *options_.format)) return *options_.format;
    if (options_.format) return Format::kI2s;
    const Format best = points_.format(target.isa, shape.n, shape.k, model_bytes_).value_or(Format::kI2s);
    return check_group(best, shape.group).ok() ? best : Format::kI2s;
  }

  const TargetSelection& selection_;
  const Points& points_;
  const PlanOptions& options_;
  std::uint64_t model_bytes_;
};

// The pipeline of schedules/ternary.h behind a kernel, in the words of bitnet-halide; kernels of equal K share it.
// DOT=1 is what Halide needs to be told where the target has AVX-512 VNNI.
void use_halide(KernelSpec& spec) {
  const Target& target = target_of(spec.kernel.isa);
  const bool gemm = spec.kernel.op == Op::kGemm;
  const std::string op = "i2s_" + std::string(to_string(spec.kernel.op));
  const std::string k = std::to_string(spec.kernel.k);
  const std::string tokens = std::to_string(spec.point.token_tile);
  const std::string streams = std::to_string(gemm ? spec.point.row_tiles : spec.point.streams);
  spec.pipeline = op + ":K=" + k + (gemm ? ":TOKENS=" + tokens : "") + ":STREAMS=" + streams;
  if (target.features.find("+avx512vnni") != std::string_view::npos) spec.pipeline += ":DOT=1";
  spec.pipeline_symbol =
      "halide_" + op + "_k" + k + (gemm ? "t" + tokens : "") + "s" + streams + "_" + identifier(target.isa);
}

Result<KernelSpec> ternary_spec(const Target& target, Format format, Op op, std::int32_t m, const KernelShape& shape,
                                const Points& points, std::string_view technique = {}) {
  Kernel kernel;
  kernel.format = format;
  kernel.op = op;
  kernel.n = shape.n;
  kernel.k = shape.k;
  kernel.group = shape.group;
  kernel.m = m;
  kernel.isa = target.isa;
  kernel.technique = technique;
  BITNET_ASSIGN_OR_RETURN(const Point point, points.choose(kernel));
  return ternary_kernel(point, shape, point.technique);
}

// The Halide variants of i2s that the points have not chosen already.
Status add_halide(ImagePlan& image, const KernelShape& shape, const Points& points) {
  for (const Op op : {Op::kGemv, Op::kGemm}) {
    BITNET_ASSIGN_OR_RETURN(KernelSpec spec, ternary_spec(*image.target, Format::kI2s, op, 0, shape, points, "halide"));
    const bool known = std::ranges::any_of(
        image.kernels, [name = spec.name()](const KernelSpec& other) { return other.name() == name; });
    if (!known) image.kernels.push_back(std::move(spec));
  }
  return {};
}

Status add_ternary(ImagePlan& image, Format format, const KernelShape& shape, const Points& points) {
  const auto add = [&](Op op, std::int32_t m) -> Status {
    BITNET_ASSIGN_OR_RETURN(KernelSpec spec, ternary_spec(*image.target, format, op, m, shape, points));
    image.kernels.push_back(std::move(spec));
    return {};
  };
  BITNET_RETURN_IF_ERROR(add(Op::kGemv, 0));
  BITNET_RETURN_IF_ERROR(add(Op::kGemm, 0));
  if (shape.group != 0 || !has_family(image.target->isa, format, "batch")) return {};
  for (const std::int32_t m : kBatches) BITNET_RETURN_IF_ERROR(add(Op::kGemm, m));
  return {};
}

KernelSpec halide_norm_quantize(const Target& target, std::int64_t k) {
  KernelSpec spec;
  spec.kernel.format = Format::kI8;
  spec.kernel.op = Op::kNormQuantize;
  spec.kernel.k = k;
  spec.kernel.isa = target.isa;
  spec.kernel.technique = "halide";
  spec.pipeline = "norm_quantize:K=" + std::to_string(k);
  spec.pipeline_symbol = "halide_norm_quantize_k" + std::to_string(k) + "_" + identifier(target.isa);
  return spec;
}

void add_dense(ImagePlan& image, const ModelShapes& shapes, const Points& points, const PlanOptions& options) {
  const bool every_technique = options.every_format;
  const Target& target = *image.target;
  const bool templates = !dense_headers(target.isa).empty();
  const bool halide = points.technique(target.isa, Op::kNormQuantize) == "halide";
  for (const DenseKernel& dense : kDenseKernels) {
    if (!templates) break;
    if (dense.op == Op::kNormQuantize && halide && !every_technique) continue;
    const bool rare = dense.op == Op::kAttention && dense.format == Format::kF32;
    if (rare && !options.float32_cache && !every_technique) continue;
    KernelSpec spec;
    spec.kernel.format = dense.format;
    spec.kernel.op = dense.op;
    spec.kernel.isa = target.isa;
    image.kernels.push_back(std::move(spec));
  }
  if (!halide && !(every_technique && templates)) return;
  for (const std::int64_t k : shapes.norm_quantize) image.kernels.push_back(halide_norm_quantize(target, k));
}

}  // namespace

KernelSpec ternary_kernel(const Point& point, const KernelShape& shape, std::string_view technique) {
  KernelSpec spec;
  spec.kernel.format = point.format;
  spec.kernel.op = point.op;
  spec.kernel.n = shape.n;
  spec.kernel.k = shape.k;
  spec.kernel.group = shape.group;
  spec.kernel.m = point.m;
  spec.kernel.isa = point.isa;
  spec.kernel.technique = technique;
  spec.kernel.token_tile = point.op == Op::kGemv ? 1 : point.m != 0 ? point.m : point.token_tile;
  spec.point = point;
  if (!point.technique.empty()) use_halide(spec);
  return spec;
}

Result<Plan> make_plan(const ModelShapes& shapes, const TargetSelection& selection, const Points& points,
                       const PlanOptions& options) {
  BITNET_RETURN_IF_ERROR(check_shapes(shapes));
  const FormatRule rule(selection, points, options, shapes.ternary_bytes);
  BITNET_RETURN_IF_ERROR(rule.check(shapes));
  Plan plan;
  plan.shapes = shapes;
  plan.target = selection.name;
  plan.points = points.provenance;
  for (const Target* target : selection.images) {
    ImagePlan image;
    image.target = target;
    for (const KernelShape& shape : shapes.ternary) {
      for (const Format format : rule.formats(*target, shape)) {
        BITNET_RETURN_IF_ERROR(add_ternary(image, format, shape, points));
      }
      if (options.halide && shape.group == 0) BITNET_RETURN_IF_ERROR(add_halide(image, shape, points));
    }
    if (options.dense) add_dense(image, shapes, points, options);
    if (!image.kernels.empty()) plan.images.push_back(std::move(image));
  }
  return plan;
}

}  // namespace bitnet::codegen
