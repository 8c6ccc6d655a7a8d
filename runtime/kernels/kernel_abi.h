// The binary contract between the runtime and every kernel, ABI version 1.
//
//   void NAME(const bitnet_<op>_args*)    noexcept, no allocation, no locks, no errors, no globals
//
// The file is C, includes nothing but <stdint.h>, and is also embedded into bitnet-codegen, where clang compiles the
// generated kernels against it. A change of any layout or meaning below raises BITNET_KERNEL_ABI_VERSION.
//
// Layout t2 (2 bits a weight). Weights W [N][K] in {-1, 0, +1} are stored as codes t+1 in {0, 1, 2}. A tile is 16 rows,
// contiguous: ceil(K/16) lines of 64 bytes. Line i holds 16 rows x 16 k: byte 4r+j, bits 2p+1:2p, is the code of row r,
// k = 16i + 4p + j (r 0..15, j 0..3, p 0..3). Rows beyond N and k beyond K are padded with code 1 (weight 0).
// A matrix is ceil(N/16) tiles, tile after tile, base 64-byte aligned.
//
// Float meaning, the same on every CPU: every product and every sum is rounded separately (no fused multiply-add, so
// that CPUs without FMA give the same bits). A reduction over an index i keeps 16 running sums over i mod 16, each in
// ascending i starting from +0, and then adds lanes l and l+8, l and l+4, l and l+2, l and l+1, in this order.
#ifndef BITNET_RUNTIME_KERNELS_KERNEL_ABI_H_
#define BITNET_RUNTIME_KERNELS_KERNEL_ABI_H_

#include <stdint.h>

#define BITNET_KERNEL_ABI_VERSION 1

#define BITNET_T2_TILE_ROWS 16
#define BITNET_T2_LINE_K 16
#define BITNET_T2_LINE_BYTES 64
// Quantised activation rows are zero-padded to a multiple of this many bytes.
#define BITNET_ACTIVATION_PAD 64
// Positions per chunk of attention; chunks start at absolute positions that are multiples of it.
#define BITNET_ATTENTION_CHUNK 256

#ifdef __cplusplus
extern "C" {
#endif

// op gemv: y[r] = sum_k W[r][k] * x[k], exact int32, for rows row_begin <= r < row_end.
//   weights  t2 tiles of the whole matrix (row 0 first), 64-byte aligned
//   x        [round_up(K, 64)] int8 in [-127, 127], zero beyond K, 64-byte aligned
//   x_sum    sum_k x[k]
//   y        [round_up(N, 16)] int32 of the whole matrix; only whole tiles of the rows are written (pad rows get 0)
//   row_begin multiple of 16; row_end multiple of 16 or N
// |y| <= 127 K, |codes . x| <= 254 K: exact in int32 for K < 8.4 million.
typedef struct bitnet_gemv_args {
  const uint8_t* weights;
  const int8_t* x;
  int32_t* y;
  int64_t row_begin;
  int64_t row_end;
  int64_t n;  // N and K of the matrix; a kernel with constant N, K ignores them
  int64_t k;
  int32_t x_sum;
} bitnet_gemv_args;

// op gemm: y[t][r] = sum_k W[r][k] * x[t][k] for tokens 0 <= t < tokens and rows as above.
//   x        packed activations [ceil(tokens/MR)][round_up(K, 64)/4][MR][4] int8, 64-byte aligned, zero in all padding;
//            MR is the kernel's token tile (its column in the kernel table)
//   x_sums   [round_up(tokens, MR)] int32, zero beyond tokens
//   y        [tokens][y_stride] int32; y_stride >= round_up(N, 16); whole row tiles of tokens < `tokens` are written
//   scratch  scratch_bytes of the kernel table, 64-byte aligned, private to the call (NULL if 0)
typedef struct bitnet_gemm_args {
  const uint8_t* weights;
  const int8_t* x;
  const int32_t* x_sums;
  int32_t* y;
  void* scratch;
  int64_t row_begin;
  int64_t row_end;
  int64_t tokens;
  int64_t y_stride;
  int64_t n;
  int64_t k;
} bitnet_gemm_args;

// op quantize: scale = 127 / max(max_i |x[i]|, 1e-5f); q[i] = round_half_even(x[i] * scale) in [-127, 127];
// q_sum = sum q. q: [k]; the caller keeps the padding beyond k zero. x finite.
typedef struct bitnet_quantize_args {
  const float* x;  // [k]
  int8_t* q;       // [k]
  float* scale;    // [1], activation units: x ~ q / scale
  int32_t* q_sum;  // [1]
  int64_t k;
} bitnet_quantize_args;

// op norm: y[i] = (x[i] * inv) * gain[i], inv = 1 / sqrt(S / k + eps), S = the 16-lane sum of x[i] * x[i]. y may be x.
typedef struct bitnet_norm_args {
  const float* x;     // [k]
  const float* gain;  // [k]
  float* y;           // [k]
  int64_t k;
  float eps;
} bitnet_norm_args;

// op norm_quantize: quantize(norm(x)), the same bits as the two operations one after the other.
//   scratch  [k] float, 64-byte aligned
typedef struct bitnet_norm_quantize_args {
  const float* x;     // [k]
  const float* gain;  // [k]
  int8_t* q;          // [k]
  float* scale;       // [1]
  int32_t* q_sum;     // [1]
  float* scratch;     // [k]
  int64_t k;
  float eps;
} bitnet_norm_quantize_args;

// op relu2_gate: y[i] = (r * r) * up[i], r = max(gate[i], 0).
// op silu_gate:  y[i] = (gate[i] / (1 + exp(-gate[i]))) * up[i], exp by the polynomial of reference.h.
typedef struct bitnet_gate_args {
  const float* gate;  // [k]
  const float* up;    // [k]
  float* y;           // [k], may be gate or up
  int64_t k;
} bitnet_gate_args;

// op attention: one key/value head, the `heads` query heads that share it, one query position that sees positions
// 0 .. length-1.
//   q    [heads][head_dim] float, already rounded to float16 values
//   key, value  [length] rows of head_dim float16 (IEEE bits), kv_stride elements apart
//   y    [heads][head_dim] float
// For each chunk c of 256 absolute positions: s_j = (q . k_j, 16-lane sum over d) * scale; m_c = max_j s_j;
// p_j = exp(s_j - m_c); l_c = 16-lane sum of p_j over j mod 16; o_c[d] = sum_j p_j * v_j[d] in position order from +0.
// Merge in order, the first chunk as it is: m' = max(m, m_c), a = exp(m - m'), b = exp(m_c - m'),
// l = l * a + l_c * b, o[d] = o[d] * a + o_c[d] * b. Last, y[d] = o[d] / l.
//   scratch  [heads * (256 + head_dim)] float, 64-byte aligned
typedef struct bitnet_attention_args {
  const float* q;
  const uint16_t* key;
  const uint16_t* value;
  float* y;
  float* scratch;
  int64_t heads;
  int64_t head_dim;
  int64_t length;
  int64_t kv_stride;
  float scale;
} bitnet_attention_args;

// op head: y[r] = sum_k W[r][k] * x[k] (16-lane sum), float16 or float32 rows, for rows row_begin <= r < row_end.
typedef struct bitnet_head_args {
  const void* weights;  // [n][k] float16 (IEEE bits) or float32, row-major; the kernel's format says which
  const float* x;       // [k]
  float* y;             // [n]
  int64_t row_begin;
  int64_t row_end;
  int64_t k;
} bitnet_head_args;

#ifdef __cplusplus
}
#endif

#endif  // BITNET_RUNTIME_KERNELS_KERNEL_ABI_H_
