// The built-in kernels of one instruction set: dense_xsimd.h and the rendered ternary families, instantiated for any
// shape. The including translation unit defines
//   BITNET_XSIMD_ARCH       the xsimd architecture, e.g. xsimd::avx2
//   BITNET_BUILTIN_FAMILY   the record to define (builtin.h)
//   BITNET_GEMV_STREAMS, BITNET_GEMM_TOKENS, BITNET_GEMM_TILES   what fits its registers
#pragma once

#include "generated/i2s_gemm_xsimd.h"
#include "generated/i2s_gemv_xsimd.h"
#include "runtime/kernels/builtin.h"
#include "runtime/kernels/dense_xsimd.h"

namespace bitnet::builtin {
namespace {

void gemv(const bitnet_gemv_args* a) noexcept {
  bitnet_kernels::xsimd_family::i2s_gemv<0, 0, 0, BITNET_GEMV_STREAMS, 1024>(a);
}
void gemm(const bitnet_gemm_args* a) noexcept {
  bitnet_kernels::xsimd_family::i2s_gemm<0, 0, 0, BITNET_GEMM_TOKENS, BITNET_GEMM_TILES>(a);
}
static_assert(bitnet_kernels::xsimd_family::i2s_gemm_scratch_bytes_for<BITNET_GEMM_TOKENS, BITNET_GEMM_TILES>(1
                                                                                                              << 20) ==
                  0,
              "a built-in GEMM serves any K and so cannot name its scratch");

}  // namespace

constinit const Family BITNET_BUILTIN_FAMILY = {
    .gemv = gemv,
    .gemm = gemm,
    .gemm_token_tile = BITNET_GEMM_TOKENS,
    .quantize = bitnet_kernels::xsimd_dense::quantize,
    .norm = bitnet_kernels::xsimd_dense::norm,
    .norm_quantize = bitnet_kernels::xsimd_dense::norm_quantize,
    .relu2_gate = bitnet_kernels::xsimd_dense::relu2_gate,
    .silu_gate = bitnet_kernels::xsimd_dense::silu_gate,
    .attention = bitnet_kernels::xsimd_dense::attention,
    .head_f16 = bitnet_kernels::xsimd_dense::head<std::uint16_t>,
    .head_f32 = bitnet_kernels::xsimd_dense::head<float>,
};

}  // namespace bitnet::builtin
