#include "runtime/model/kernel_set.h"

#include <algorithm>

namespace bitnet {

Result<KernelSet> KernelSet::choose(const ModelConfig& config, const ModelTensors& tensors,
                                    std::span<const Kernel> bundle, std::span<const Isa> usable) {
  KernelSet set;
  const auto pick = [&](Step step, Op op, Format format, std::int64_t n, std::int64_t k) -> Status {
    ChosenKernel& chosen = set.steps_[static_cast<std::size_t>(step)];
    const Kernel* kernel = find_kernel(bundle, usable, {op, format, n, k});
    chosen.from_bundle = kernel != nullptr;
    if (kernel == nullptr) kernel = find_kernel(builtin_kernels(), usable, {op, format, n, k});
    if (kernel == nullptr) {
      return Error{ErrorCode::kFailure, "no kernel for " + std::string(to_string(format)) + "_" +
                                            std::string(to_string(op)) + " with N = " + std::to_string(n) +
                                            ", K = " + std::to_string(k) + " on a target that may be used here"};
    }
    chosen.kernel = *kernel;
    chosen.name = kernel->name();
    return {};
  };
  for (const FusedMatrix& product : tensors.layers.front().products) {
    BITNET_RETURN_IF_ERROR(pick(gemv_step(product.role), Op::kGemv, Format::kI2s, product.n, product.k));
    BITNET_RETURN_IF_ERROR(pick(gemm_step(product.role), Op::kGemm, Format::kI2s, product.n, product.k));
  }
  const auto norm_quantize = [&](Step step, std::int64_t k) {
    return pick(step, Op::kNormQuantize, Format::kI8, 0, k);
  };
  BITNET_RETURN_IF_ERROR(norm_quantize(Step::kNormQuantizeHidden, config.hidden));
  BITNET_RETURN_IF_ERROR(norm_quantize(Step::kNormQuantizeAttention, config.heads * config.head_dim));
  BITNET_RETURN_IF_ERROR(norm_quantize(Step::kNormQuantizeFfn, config.ffn));
  BITNET_RETURN_IF_ERROR(pick(Step::kNorm, Op::kNorm, Format::kF32, 0, config.hidden));
  const Op gate = config.activation == Activation::kRelu2 ? Op::kRelu2Gate : Op::kSiluGate;
  BITNET_RETURN_IF_ERROR(pick(Step::kGate, gate, Format::kF32, 0, config.ffn));
  BITNET_RETURN_IF_ERROR(pick(Step::kAttention, Op::kAttention, Format::kF16, 0, config.head_dim));
  const Format rows = tensors.token_embd->type == gguf::TensorType::kF16 ? Format::kF16 : Format::kF32;
  BITNET_RETURN_IF_ERROR(pick(Step::kHead, Op::kHead, rows, config.vocab, config.hidden));
  return set;
}

std::vector<std::string> KernelSet::products_without_bundle() const {
  std::vector<std::string> shapes;
  for (std::size_t step = 0; step < 8; ++step) {
    if (!steps_[step].from_bundle) shapes.push_back(steps_[step].name);
  }
  shapes.erase(std::unique(shapes.begin(), shapes.end()), shapes.end());
  return shapes;
}

}  // namespace bitnet
