// One record of kernels for each translation unit of the built-in family. Constant data, no code: it can be read on a
// CPU that does not execute the unit, and the units that are built with ISA flags instantiate nothing of the standard
// library that the linker could share with the rest of the program.
#pragma once

#include "runtime/kernels/kernel_abi.h"

namespace bitnet::builtin {

// Of one row w of the head quantised to int8 (screened_head.h), with r = w / scale in floats and q = r rounded.
struct ScreenedSums {
  float largest;   // max |w|; that of the others if a weight is NaN
  float scale;     // largest / 127
  double errors;   // sum of (r - q)^2 within 1e-4 of itself, NaN if a weight is
  double squares;  // sum of q^2, exact
};
// Writes q [k rounded up to 16], zero beyond k, if smallest <= largest |w| <= largest; else only `out`, with zero scale
// and sums.
using ScreenRow = void (*)(const void* w, long long k, float smallest, float largest, int8_t* q,
                           ScreenedSums* out) noexcept;

// A row of a matrix in I2_S: the group of 128 codes that holds its first weight, and those that follow it.
struct PackRow {
  const uint8_t* group;
  long long step;  // bytes from group to group
  bool offset;     // the row begins with the second half of its first group
};
// 16 rows of k weights, a multiple of 64 -> a tile. Code 3 becomes 1; returns how many there were. Moves the rows on.
using PackTile = unsigned long long (*)(PackRow* rows, long long k, uint8_t* out) noexcept;

constexpr int kGroups[3] = {64, 128, 256};

struct Family {
  void (*gemv)(const bitnet_gemv_args*) noexcept;
  void (*gemm)(const bitnet_gemm_args*) noexcept;
  void (*gemv_groups[3])(const bitnet_gemv_args*) noexcept;  // K-groups of kGroups
  void (*gemm_groups[3])(const bitnet_gemm_args*) noexcept;
  int gemm_token_tile;  // MR of the packed activations; the GEMMs need no scratch
  void (*epilogue)(const bitnet_epilogue_args*) noexcept;
  void (*quantize)(const bitnet_quantize_args*) noexcept;
  void (*norm)(const bitnet_norm_args*) noexcept;
  void (*norm_quantize)(const bitnet_norm_quantize_args*) noexcept;
  void (*rope)(const bitnet_rope_args*) noexcept;
  void (*attention_f16)(const bitnet_attention_args*) noexcept;
  void (*attention_i8)(const bitnet_attention_args*) noexcept;
  void (*attention_f32)(const bitnet_attention_args*) noexcept;
  void (*softmax)(const bitnet_softmax_args*) noexcept;
  void (*relu2_gate)(const bitnet_gate_args*) noexcept;
  void (*silu_gate)(const bitnet_gate_args*) noexcept;
  void (*gelu_gate)(const bitnet_gate_args*) noexcept;
  void (*gelu)(const bitnet_gelu_args*) noexcept;
  void (*layer_norm)(const bitnet_layer_norm_args*) noexcept;
  void (*head_f16)(const bitnet_head_args*) noexcept;
  void (*head_bf16)(const bitnet_head_args*) noexcept;
  void (*head_f32)(const bitnet_head_args*) noexcept;
  void (*head_q8)(const bitnet_head_args*) noexcept;
  void (*head_screen)(const bitnet_head_screen_args*) noexcept;
  ScreenRow screen_row_f16;
  ScreenRow screen_row_bf16;
  ScreenRow screen_row_f32;
  PackTile pack_t2;
  PackTile pack_t5;
  void (*round_to_half)(float* x, long long count) noexcept;  // half_rows.h
  void (*convert_to_half)(const float* x, uint16_t* out, long long count) noexcept;
};

extern const Family kScalarFamily;  // builtin_scalar.cc
extern const Family kAvx2Family;    // builtin_avx2.cc, on x86-64

// The best of them that this CPU executes, for what is no step of a model's graph and so has no choice of kernel.
const Family& best_family();  // builtin.cc

}  // namespace bitnet::builtin
