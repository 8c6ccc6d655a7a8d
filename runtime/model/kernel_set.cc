#include "runtime/model/kernel_set.h"

#include <algorithm>
#include <optional>

namespace bitnet {
namespace {

// The format of the best gemv kernel among those whose format also has a gemm kernel: one copy of the weights serves
// decode and prefill. `kernels` ascend in preference, so the best is the last.
std::optional<Format> best_format(std::span<const Kernel> kernels, std::span<const Isa> usable,
                                  const FusedMatrix& product) {
  const Kernel* best = nullptr;
  for (const Layout layout : kAllLayouts) {
    const Format format = format_of(layout);
    const Kernel* gemv = find_kernel(kernels, usable, {Op::kGemv, format, product.n, product.k});
    if (gemv == nullptr || (best != nullptr && gemv < best)) continue;
    if (find_kernel(kernels, usable, {Op::kGemm, format, product.n, product.k}) != nullptr) best = gemv;
  }
  if (best == nullptr) return std::nullopt;
  return best->format;
}

ChosenKernel chosen(const Kernel& kernel, bool from_bundle) { return {kernel, kernel.name(), from_bundle}; }

Error no_kernel(Op op, Format format, std::int64_t n, std::int64_t k) {
  return Error{ErrorCode::kFailure, "no kernel for " + std::string(to_string(format)) + "_" +
                                        std::string(to_string(op)) + " with N = " + std::to_string(n) +
                                        ", K = " + std::to_string(k) + " on a target that may be used here"};
}

Format head_format(gguf::TensorType type) {
  if (type == gguf::TensorType::kF16) return Format::kF16;
  return type == gguf::TensorType::kBF16 ? Format::kBf16 : Format::kF32;
}

}  // namespace

Result<KernelSet> KernelSet::choose(const ModelConfig& config, const ModelTensors& tensors,
                                    std::span<const Kernel> bundle, std::span<const Isa> usable) {
  KernelSet set;
  const auto at = [&](Step step) -> ChosenKernel& { return set.steps_[static_cast<std::size_t>(step)]; };

  for (const FusedMatrix& product : tensors.layers.front().products) {
    std::optional<Format> format = best_format(bundle, usable, product);
    const bool from_bundle = format.has_value();
    const std::span<const Kernel> kernels = from_bundle ? bundle : builtin_kernels();
    if (!from_bundle) format = best_format(kernels, usable, product);
    if (!format.has_value()) return no_kernel(Op::kGemv, Format::kI2s, product.n, product.k);
    set.layouts_[static_cast<std::size_t>(product.role)] = layout_of(*format);
    const auto pick = [&](Step tokens, const KernelRequest& request) {
      const Kernel* kernel = find_kernel(kernels, usable, request);
      if (kernel != nullptr) at(product_step(tokens, product.role)) = chosen(*kernel, from_bundle);
    };
    KernelRequest request{.op = Op::kGemv, .format = *format, .n = product.n, .k = product.k};
    pick(Step::kGemv, request);
    request.op = Op::kGemm;
    pick(Step::kGemm, request);
    for (const auto& [step, tokens] : {std::pair{Step::kBatch2, 2}, {Step::kBatch4, 4}, {Step::kBatch8, 8}}) {
      request.tokens = tokens;
      pick(step, request);
    }
  }

  const auto optional = [&](Step step, Op op, Format format, std::int64_t n, std::int64_t k) {
    const KernelRequest request{.op = op, .format = format, .n = n, .k = k};
    const Kernel* kernel = find_kernel(bundle, usable, request);
    const bool from_bundle = kernel != nullptr;
    if (kernel == nullptr) kernel = find_kernel(builtin_kernels(), usable, request);
    if (kernel != nullptr) at(step) = chosen(*kernel, from_bundle);
  };
  const auto pick = [&](Step step, Op op, Format format, std::int64_t n, std::int64_t k) -> Status {
    optional(step, op, format, n, k);
    if (!at(step).exists()) return no_kernel(op, format, n, k);
    return {};
  };
  const auto norm_quantize = [&](Step step, std::int64_t k) {
    return pick(step, Op::kNormQuantize, Format::kI8, 0, k);
  };
  BITNET_RETURN_IF_ERROR(pick(Step::kEpilogue, Op::kEpilogue, Format::kF32, 0, 0));
  BITNET_RETURN_IF_ERROR(norm_quantize(Step::kNormQuantizeHidden, config.hidden));
  BITNET_RETURN_IF_ERROR(norm_quantize(Step::kNormQuantizeAttention, config.heads * config.head_dim));
  BITNET_RETURN_IF_ERROR(norm_quantize(Step::kNormQuantizeFfn, config.ffn));
  BITNET_RETURN_IF_ERROR(pick(Step::kNorm, Op::kNorm, Format::kF32, 0, config.hidden));
  BITNET_RETURN_IF_ERROR(pick(Step::kRope, Op::kRope, Format::kF32, 0, config.rope_dim));
  const Op gate = config.activation == Activation::kRelu2 ? Op::kRelu2Gate : Op::kSiluGate;
  BITNET_RETURN_IF_ERROR(pick(Step::kGate, gate, Format::kF32, 0, config.ffn));
  BITNET_RETURN_IF_ERROR(pick(Step::kAttention, Op::kAttention, Format::kF16, 0, config.head_dim));
  optional(Step::kAttentionI8, Op::kAttention, Format::kI8, 0, config.head_dim);
  optional(Step::kQuantizeHeads, Op::kQuantize, Format::kI8, 0, config.head_dim);
  BITNET_RETURN_IF_ERROR(
      pick(Step::kHead, Op::kHead, head_format(tensors.token_embd->type), config.vocab, config.hidden));
  BITNET_RETURN_IF_ERROR(pick(Step::kHeadScreen, Op::kHeadScreen, Format::kI8, config.vocab, config.hidden));
  return set;
}

Step KernelSet::product(FusedMatrix::Role role, std::int64_t tokens) const {
  if (tokens == 1) return product_step(Step::kGemv, role);
  if (tokens <= 8) {
    const Step batch = tokens == 2 ? Step::kBatch2 : tokens <= 4 ? Step::kBatch4 : Step::kBatch8;
    const Step step = product_step(batch, role);
    if ((*this)[step].exists()) return step;
  }
  return product_step(Step::kGemm, role);
}

std::vector<std::string> KernelSet::products_without_bundle() const {
  std::vector<std::string> names;
  for (std::size_t step = 0; step < kProductSteps; ++step) {
    if (steps_[step].exists() && !steps_[step].from_bundle) names.push_back(steps_[step].name);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

ProductLayouts product_layouts(const ModelTensors& tensors, std::span<const Kernel> kernels,
                               std::span<const Isa> usable) {
  ProductLayouts layouts{};
  for (const FusedMatrix& product : tensors.layers.front().products) {
    const std::optional<Format> format = best_format(kernels, usable, product);
    layouts[static_cast<std::size_t>(product.role)] = layout_of(format.value_or(Format::kI2s));
  }
  return layouts;
}

}  // namespace bitnet
