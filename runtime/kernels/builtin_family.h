// The built-in kernels of one instruction set: the families rendered for xsimd, those of ternary products instantiated
// for any shape. The including translation unit defines
//   BITNET_XSIMD_ARCH       the xsimd architecture, e.g. xsimd::avx2
//   BITNET_BUILTIN_FAMILY   the record to define (builtin.h)
//   BITNET_GEMV_STREAMS, BITNET_GEMM_TOKENS, BITNET_GEMM_TILES   what fits its registers
//   BITNET_PACK_VECTOR      bytes of a register
#pragma once

#include "generated/dense_attention_xsimd.h"
#include "generated/dense_head_xsimd.h"
#include "generated/dense_rows_xsimd.h"
#include "generated/i2s_gemm_xsimd.h"
#include "generated/i2s_gemv_xsimd.h"
#include "runtime/kernels/builtin.h"
#include "runtime/kernels/half_rows.h"
#include "runtime/kernels/pack_rows.h"
#include "runtime/kernels/screen_row.h"

namespace bitnet::builtin {
namespace {

template <int Group>
void gemv(const bitnet_gemv_args* a) noexcept {
  bitnet_kernels::xsimd_family::i2s_gemv<0, 0, Group, BITNET_GEMV_STREAMS, 1024>(a);
}
template <int Group>
void gemm(const bitnet_gemm_args* a) noexcept {
  bitnet_kernels::xsimd_family::i2s_gemm<0, 0, Group, BITNET_GEMM_TOKENS, BITNET_GEMM_TILES>(a);
}
static_assert(bitnet_kernels::xsimd_family::i2s_gemm_scratch_bytes_for<BITNET_GEMM_TOKENS, BITNET_GEMM_TILES>(1
                                                                                                              << 20) ==
                  0,
              "a built-in GEMM serves any K and so cannot name its scratch");

}  // namespace

constinit const Family BITNET_BUILTIN_FAMILY = {
    .gemv = gemv<0>,
    .gemm = gemm<0>,
    .gemv_groups = {gemv<kGroups[0]>, gemv<kGroups[1]>, gemv<kGroups[2]>},
    .gemm_groups = {gemm<kGroups[0]>, gemm<kGroups[1]>, gemm<kGroups[2]>},
    .gemm_token_tile = BITNET_GEMM_TOKENS,
    .epilogue = bitnet_kernels::xsimd_family::epilogue_f32,
    .quantize = bitnet_kernels::xsimd_family::quantize_i8,
    .norm = bitnet_kernels::xsimd_family::norm_f32,
    .norm_quantize = bitnet_kernels::xsimd_family::norm_quantize_i8,
    .rope = bitnet_kernels::xsimd_family::rope_f32,
    .attention_f16 = bitnet_kernels::xsimd_family::attention_f16,
    .attention_i8 = bitnet_kernels::xsimd_family::attention_i8,
    .attention_f32 = bitnet_kernels::xsimd_family::attention_f32,
    .softmax = bitnet_kernels::xsimd_family::softmax_f32,
    .relu2_gate = bitnet_kernels::xsimd_family::relu2_gate_f32,
    .silu_gate = bitnet_kernels::xsimd_family::silu_gate_f32,
    .gelu_gate = bitnet_kernels::xsimd_family::gelu_gate_f32,
    .gelu = bitnet_kernels::xsimd_family::gelu_f32,
    .layer_norm = bitnet_kernels::xsimd_family::layer_norm_f32,
    .head_f16 = bitnet_kernels::xsimd_family::head_f16,
    .head_bf16 = bitnet_kernels::xsimd_family::head_bf16,
    .head_f32 = bitnet_kernels::xsimd_family::head_f32,
    .head_q8 = bitnet_kernels::xsimd_family::head_q8,
    .head_screen = bitnet_kernels::xsimd_family::head_screen_i8,
    .screen_row_f16 = screen_row<lanes::Half>,
    .screen_row_bf16 = screen_row<lanes::Bfloat>,
    .screen_row_f32 = screen_row<float>,
    .pack_t2 = pack_t2,
    .pack_t5 = pack_t5,
    .round_to_half = round_to_half,
    .convert_to_half = convert_to_half,
};

}  // namespace bitnet::builtin
