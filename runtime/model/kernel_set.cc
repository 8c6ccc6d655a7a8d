#include "runtime/model/kernel_set.h"

#include <algorithm>
#include <optional>

namespace bitnet {
namespace {

// The format of the best gemv kernel among those whose format also has a gemm kernel: one copy of the weights serves
// decode and prefill. `kernels` ascend in preference, so the best is the last.
std::optional<Format> best_format(std::span<const Kernel> kernels, std::span<const Isa> usable,
                                  const KernelShape& shape) {
  const Kernel* best = nullptr;
  for (const Layout layout : kAllLayouts) {
    const Format format = format_of(layout);
    const Kernel* gemv = find_kernel(kernels, usable, {Op::kGemv, format, shape.n, shape.k, shape.group});
    if (gemv == nullptr || (best != nullptr && gemv < best)) continue;
    if (find_kernel(kernels, usable, {Op::kGemm, format, shape.n, shape.k, shape.group}) != nullptr) best = gemv;
  }
  if (best == nullptr) return std::nullopt;
  return best->format;
}

ChosenKernel chosen(const Kernel& kernel, bool from_bundle) { return {kernel, kernel.name(), from_bundle}; }

Error no_kernel(const KernelRequest& request) {
  return Error{ErrorCode::kFailure, "no kernel for " + std::string(to_string(request.format)) + "_" +
                                        std::string(to_string(request.op)) + " with N = " + std::to_string(request.n) +
                                        ", K = " + std::to_string(request.k) +
                                        (request.group == 0 ? "" : ", K-groups of " + std::to_string(request.group)) +
                                        " on a target that may be used here"};
}

// The kernels of one shape, one for each of kProductSteps.
Result<std::vector<ChosenKernel>> choose_product(const KernelShape& shape, std::span<const Kernel> bundle,
                                                 std::span<const Isa> usable) {
  std::optional<Format> format = best_format(bundle, usable, shape);
  const bool from_bundle = format.has_value();
  const std::span<const Kernel> kernels = from_bundle ? bundle : builtin_kernels();
  if (!from_bundle) format = best_format(kernels, usable, shape);
  KernelRequest request{.op = Op::kGemv, .n = shape.n, .k = shape.k, .group = shape.group};
  if (!format.has_value()) return no_kernel(request);
  request.format = *format;
  std::vector<ChosenKernel> steps;
  const auto pick = [&] {
    const Kernel* kernel = find_kernel(kernels, usable, request);
    steps.push_back(kernel != nullptr ? chosen(*kernel, from_bundle) : ChosenKernel{});
  };
  pick();
  request.op = Op::kGemm;
  for (const std::int32_t tokens : {2, 4, 8, 0}) {
    request.tokens = tokens;
    pick();
  }
  return steps;
}

Op gate_op(const ModelConfig& config) {
  switch (config.activation) {
    case Activation::kRelu2:
      return Op::kRelu2Gate;
    case Activation::kSilu:
      return Op::kSiluGate;
    case Activation::kGelu:
      break;
  }
  return config.gated ? Op::kGeluGate : Op::kGelu;
}

}  // namespace

bool has_dense_kernels(gguf::TensorType type) {
  return type == gguf::TensorType::kF16 || dense_format(type) != Format::kF16;
}

Format dense_format(gguf::TensorType type) {
  switch (type) {
    case gguf::TensorType::kF32:
      return Format::kF32;
    case gguf::TensorType::kBF16:
      return Format::kBf16;
    case gguf::TensorType::kQ8_0:
      return Format::kQ8;
    default:
      return Format::kF16;
  }
}

Step dense_step(Format format) {
  if (format == Format::kF16) return Step::kDenseF16;
  if (format == Format::kBf16) return Step::kDenseBf16;
  return format == Format::kQ8 ? Step::kDenseQ8 : Step::kDenseF32;
}

Result<KernelSet> KernelSet::choose(const ModelConfig& config, const ModelTensors& tensors,
                                    std::span<const Kernel> bundle, std::span<const Isa> usable) {
  KernelSet set;
  set.steps_.resize(kStepCount);
  for (const KernelShape& shape : kernel_shapes(tensors).ternary) {
    BITNET_ASSIGN_OR_RETURN(const std::vector<ChosenKernel> kernels, choose_product(shape, bundle, usable));
    set.layouts_.push_back(layout_of(kernels.front().kernel.format));
    set.steps_.insert(set.steps_.end(), kernels.begin(), kernels.end());
  }

  const auto at = [&](Step step) -> ChosenKernel& { return set.steps_[static_cast<std::size_t>(step)]; };
  const auto optional = [&](Step step, Op op, Format format, std::int64_t n, std::int64_t k) {
    const KernelRequest request{.op = op, .format = format, .n = n, .k = k};
    const Kernel* kernel = find_kernel(bundle, usable, request);
    const bool from_bundle = kernel != nullptr;
    if (kernel == nullptr) kernel = find_kernel(builtin_kernels(), usable, request);
    if (kernel != nullptr) at(step) = chosen(*kernel, from_bundle);
  };
  const auto pick = [&](Step step, Op op, Format format, std::int64_t n, std::int64_t k) -> Status {
    optional(step, op, format, n, k);
    if (!at(step).exists()) return no_kernel({.op = op, .format = format, .n = n, .k = k});
    return {};
  };
  const auto norm_quantize = [&](Step step, std::int64_t k) {
    return pick(step, Op::kNormQuantize, Format::kI8, 0, k);
  };
  if (!config.gated && config.activation != Activation::kGelu) {
    return Error{ErrorCode::kFailure, "architecture " + config.architecture +
                                          ": no kernel for a feed-forward without " + "a gate and activation " +
                                          std::string(to_string(config.activation))};
  }
  BITNET_RETURN_IF_ERROR(pick(Step::kEpilogue, Op::kEpilogue, Format::kF32, 0, 0));
  BITNET_RETURN_IF_ERROR(norm_quantize(Step::kNormQuantizeHidden, config.hidden));
  BITNET_RETURN_IF_ERROR(norm_quantize(Step::kNormQuantizeAttention, config.heads * config.head_dim));
  BITNET_RETURN_IF_ERROR(norm_quantize(Step::kNormQuantizeFfn, config.ffn));
  BITNET_RETURN_IF_ERROR(pick(Step::kQuantize, Op::kQuantize, Format::kI8, 0, 0));
  BITNET_RETURN_IF_ERROR(pick(Step::kNorm, Op::kNorm, Format::kF32, 0, 0));
  if (config.norm == NormKind::kLayer) {
    BITNET_RETURN_IF_ERROR(pick(Step::kLayerNorm, Op::kLayerNorm, Format::kF32, 0, 0));
  }
  if (config.rope != RopeKind::kNone) {
    BITNET_RETURN_IF_ERROR(pick(Step::kRope, Op::kRope, Format::kF32, 0, config.rope_dim));
  }
  BITNET_RETURN_IF_ERROR(pick(Step::kGate, gate_op(config), Format::kF32, 0, config.ffn));
  BITNET_RETURN_IF_ERROR(pick(Step::kAttention, Op::kAttention, Format::kF16, 0, config.head_dim));
  optional(Step::kAttentionI8, Op::kAttention, Format::kI8, 0, config.head_dim);
  optional(Step::kAttentionF32, Op::kAttention, Format::kF32, 0, config.head_dim);
  optional(Step::kQuantizeHeads, Op::kQuantize, Format::kI8, 0, config.head_dim);
  if (tensors.any_dense() || !has_dense_kernels(tensors.head->type)) {
    for (const Format format : {Format::kF16, Format::kBf16, Format::kF32, Format::kQ8}) {
      BITNET_RETURN_IF_ERROR(pick(dense_step(format), Op::kHead, format, 0, 0));
    }
  }
  // Rows of a type without kernels become float16, or float32 if that cannot hold them (expand_head).
  BITNET_RETURN_IF_ERROR(pick(Step::kHead, Op::kHead, dense_format(tensors.head->type), config.vocab, config.hidden));
  BITNET_RETURN_IF_ERROR(pick(Step::kHeadScreen, Op::kHeadScreen, Format::kI8, config.vocab, config.hidden));
  return set;
}

Step KernelSet::product(std::size_t shape, std::int64_t tokens) const {
  const std::size_t first = kStepCount + shape * kProductSteps;
  if (tokens == 1) return static_cast<Step>(first);
  const std::size_t batch = first + (tokens == 2 ? 1 : tokens <= 4 ? 2 : 3);
  return static_cast<Step>(tokens <= 8 && steps_[batch].exists() ? batch : first + kProductSteps - 1);
}

std::vector<std::string> KernelSet::products_without_bundle() const {
  std::vector<std::string> names;
  for (const ChosenKernel& kernel : products()) {
    if (kernel.exists() && !kernel.from_bundle) names.push_back(kernel.name);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

void KernelSet::expand_head(Format format) {
  steps_[static_cast<std::size_t>(Step::kHead)] = (*this)[dense_step(format)];
}

Isa KernelSet::isa() const {
  return products().empty() ? (*this)[Step::kHead].kernel.isa : products().front().kernel.isa;
}

ProductLayouts product_layouts(const ModelTensors& tensors, std::span<const Kernel> kernels,
                               std::span<const Isa> usable) {
  ProductLayouts layouts;
  for (const KernelShape& shape : kernel_shapes(tensors).ternary) {
    layouts.push_back(layout_of(best_format(kernels, usable, shape).value_or(Format::kI2s)));
  }
  return layouts;
}

}  // namespace bitnet
