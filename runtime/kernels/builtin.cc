// The list of built-in kernels, made from the record of each translation unit.
#include "runtime/kernels/builtin.h"

#include "runtime/kernels/kernel.h"

namespace bitnet {
namespace {

void append(const builtin::Family& family, Isa isa, std::vector<Kernel>& list) {
  const auto add = [&](Format format, Op op, auto function, int token_tile = 1, int group = 0) {
    Kernel kernel;
    kernel.group = group;
    kernel.format = format;
    kernel.op = op;
    kernel.token_tile = token_tile;
    kernel.isa = isa;
    kernel.technique = "xsimd";
    kernel.function = reinterpret_cast<void*>(function);
    list.push_back(std::move(kernel));
  };
  add(Format::kI2s, Op::kGemv, family.gemv);
  add(Format::kI2s, Op::kGemm, family.gemm, family.gemm_token_tile);
  for (std::size_t i = 0; i < std::size(builtin::kGroups); ++i) {
    add(Format::kI2s, Op::kGemv, family.gemv_groups[i], 1, builtin::kGroups[i]);
    add(Format::kI2s, Op::kGemm, family.gemm_groups[i], family.gemm_token_tile, builtin::kGroups[i]);
  }
  add(Format::kF32, Op::kEpilogue, family.epilogue);
  add(Format::kI8, Op::kQuantize, family.quantize);
  add(Format::kF32, Op::kNorm, family.norm);
  add(Format::kI8, Op::kNormQuantize, family.norm_quantize);
  add(Format::kF32, Op::kRope, family.rope);
  add(Format::kF16, Op::kAttention, family.attention_f16);
  add(Format::kI8, Op::kAttention, family.attention_i8);
  add(Format::kF32, Op::kAttention, family.attention_f32);
  add(Format::kF32, Op::kSoftmax, family.softmax);
  add(Format::kF32, Op::kRelu2Gate, family.relu2_gate);
  add(Format::kF32, Op::kSiluGate, family.silu_gate);
  add(Format::kF32, Op::kGeluGate, family.gelu_gate);
  add(Format::kF32, Op::kGelu, family.gelu);
  add(Format::kF32, Op::kLayerNorm, family.layer_norm);
  add(Format::kF16, Op::kHead, family.head_f16);
  add(Format::kBf16, Op::kHead, family.head_bf16);
  add(Format::kF32, Op::kHead, family.head_f32);
  add(Format::kQ8, Op::kHead, family.head_q8);
  add(Format::kI8, Op::kHeadScreen, family.head_screen);
}

}  // namespace

std::span<const Kernel> builtin_kernels() {
  static const std::vector<Kernel> kernels = [] {
    std::vector<Kernel> list;
    append(builtin::kScalarFamily, Isa::kScalar, list);
#if defined(BITNET_BUILTIN_AVX2)
    append(builtin::kAvx2Family, Isa::kAvx2, list);
#endif
    return list;
  }();
  return kernels;
}

namespace builtin {

const Family& best_family() {
#if defined(BITNET_BUILTIN_AVX2)
  static const bool avx2 = probe_isa(Isa::kAvx2);
  if (avx2) return kAvx2Family;
#endif
  return kScalarFamily;
}

}  // namespace builtin
}  // namespace bitnet
