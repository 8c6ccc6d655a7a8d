// The binary contract between the runtime and every kernel, ABI version 5.
//
//   void NAME(const bitnet_<op>_args*)    noexcept, no allocation, no locks, no errors, no globals
//
// The file is C, includes nothing but <stdint.h>, and is also embedded into bitnet-codegen, where clang compiles the
// generated kernels against it. A change of any layout or meaning below raises BITNET_KERNEL_ABI_VERSION.
//
// Weights W [N][K] in {-1, 0, +1} are stored as codes t+1 in {0, 1, 2}, packed in one of the layouts of
// runtime/kernels/layout.h (t2, t5, tl1, tl2), which defines their bytes. In every layout a tile is 16 rows,
// contiguous; a matrix is ceil(N/16) tiles, tile after tile, base 64-byte aligned; rows beyond N and k beyond K hold
// weight 0.
//
// K-groups (G = 64, 128 or 256; kernels with a `g` in their name): a product is one exact int32 sum per group of G
// consecutive k (the last group may be shorter), ceil(K/G) sums a row. G = 0, no groups, is one sum over all of K.
//
// Float meaning, the same on every CPU: every product and every sum is rounded separately (no fused multiply-add, so
// that CPUs without FMA give the same bits; in attention to float16 and int8 products are exact, so that it makes no
// difference). A
// reduction over an index i keeps 16 running sums over i mod 16, each in ascending i starting from +0, and then adds
// lanes l and l+8, l and l+4, l and l+2, l and l+1, in this order.
#ifndef BITNET_RUNTIME_KERNELS_KERNEL_ABI_H_
#define BITNET_RUNTIME_KERNELS_KERNEL_ABI_H_

#include <stdint.h>

#define BITNET_KERNEL_ABI_VERSION 5

// Rows of a tile, in every layout; row ranges begin at multiples of it.
#define BITNET_TILE_ROWS 16
// Bytes of a row of quantised activations of length k, zero beyond k: whole 64-byte units, and one more, so that
// layouts whose lines do not divide 64 may read past the last k.
#define BITNET_ACTIVATION_WIDTH(k) (((k) + 63) / 64 * 64 + 64)
// Elements of a row of the screening head and of its activations, zero beyond k: whole 64-byte lines of int8.
#define BITNET_SCREEN_WIDTH(k) (((k) + 63) / 64 * 64)
// Positions per chunk of attention and per page of the key/value cache; both start at absolute positions that are
// multiples of it.
#define BITNET_ATTENTION_CHUNK 256
// The least argument of exp in attention: weights are at least 2^-100.
#define BITNET_ATTENTION_LEAST_EXPONENT (-69.0F)

#ifdef __cplusplus
extern "C" {
#endif

// op gemv: y[g][r] = sum over k of group g of W[r][k] * x[k], exact int32, for rows row_begin <= r < row_end.
//   weights  packed tiles of the whole matrix (row 0 first), 64-byte aligned
//   x        [BITNET_ACTIVATION_WIDTH(K)] int8 in [-127, 127], zero beyond K, 64-byte aligned
//   x_sums   [groups] sum of x over the k of each group; without groups one sum
//   y        [groups][y_stride] int32, y_stride >= round_up(N, 16); only whole tiles of the rows are written (pad rows
//            get 0); without groups y_stride is not read
//   scratch  scratch_bytes of the kernel table, 64-byte aligned, private to the call (NULL if 0)
//   row_begin multiple of 16; row_end multiple of 16 or N
// |y| <= 127 K, |codes . x| <= 254 K: exact in int32 for K < 8.4 million.
typedef struct bitnet_gemv_args {
  const uint8_t* weights;
  const int8_t* x;
  const int32_t* x_sums;
  int32_t* y;
  void* scratch;
  int64_t row_begin;
  int64_t row_end;
  int64_t y_stride;
  int64_t n;  // N and K of the matrix; a kernel with constant N, K ignores them
  int64_t k;
} bitnet_gemv_args;

// op gemm: y[t][g][r] = sum over k of group g of W[r][k] * x[t][k] for tokens 0 <= t < tokens and rows as above. A
// kernel with an `m` in its name takes at most m tokens, which is also its token tile.
//   x        packed activations [ceil(tokens/MR)][BITNET_ACTIVATION_WIDTH(K)/4][MR][4] int8, 64-byte aligned, zero in
//   all
//            padding; MR is the kernel's token tile (its column in the kernel table)
//   x_sums   [groups][sums_stride] int32 (sums_stride >= round_up(tokens, MR); not read without groups), zero beyond
//            tokens
//   y        int32 at y[t * y_stride + g * group_stride + r], strides >= the rows of the call in whole tiles,
//            group_stride not read without groups; whole row tiles of tokens < `tokens` are written, and of y nothing
//            else need exist
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
  int64_t group_stride;
  int64_t sums_stride;
  int64_t n;
  int64_t k;
} bitnet_gemm_args;

// op epilogue: v = acc[0][r] * (scale / s), then v = v + acc[g][r] * (scale / s) for g = 1, 2, ... in this order, each
// quotient, product and sum rounded; y[r] = v, or y[r] = y[r] + v with `add`.
//   acc     [groups][acc_stride] int32, |acc| < 2^24 so that the conversion to float is exact
//   scales  the weights' scale: BITNET_SCALE_TENSOR [1]; BITNET_SCALE_ROW [rows]; BITNET_SCALE_GROUP
//           [groups][scale_stride], one per row and group
typedef struct bitnet_epilogue_args {
  const int32_t* acc;
  const float* scales;
  float* y;  // [rows]
  int64_t rows;
  int64_t groups;  // 1 without K-groups
  int64_t acc_stride;
  int64_t scale_stride;
  float activation_scale;  // s
  int32_t scale_kind;      // BITNET_SCALE_*
  int32_t add;             // 0 or 1
} bitnet_epilogue_args;
#define BITNET_SCALE_TENSOR 0
#define BITNET_SCALE_ROW 1
#define BITNET_SCALE_GROUP 2

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

// op layer_norm: y[i] = ((x[i] - mean) * inv) * gain[i] + bias[i], mean = S / k, inv = 1 / sqrt(D / k + eps), S the
// 16-lane sum of x[i], D that of (x[i] - mean) * (x[i] - mean). y may be x.
typedef struct bitnet_layer_norm_args {
  const float* x;     // [k]
  const float* gain;  // [k]
  const float* bias;  // [k]
  float* y;           // [k]
  int64_t k;
  float eps;
} bitnet_layer_norm_args;

// op gelu: y[i] = g(x[i]), g(x) = x / (1 + exp(-v)), v = 1.5957691216057308f * (x + ((0.044715f * x) * x) * x), exp by
// the polynomial of reference.h: x * (1 + tanh(v / 2)) / 2. x finite; v may overflow. y may be x.
typedef struct bitnet_gelu_args {
  const float* x;  // [k]
  float* y;        // [k]
  int64_t k;
} bitnet_gelu_args;

// op relu2_gate: y[i] = (r * r) * up[i], r = max(gate[i], 0).
// op silu_gate:  y[i] = (gate[i] / (1 + exp(-gate[i]))) * up[i], exp by the polynomial of reference.h.
// op gelu_gate:  y[i] = g(gate[i]) * up[i], g as in op gelu.
typedef struct bitnet_gate_args {
  const float* gate;  // [k]
  const float* up;    // [k]
  float* y;           // [k], may be gate or up
  int64_t k;
} bitnet_gate_args;

// op softmax: m = max x, p[i] = exp(x[i] - m), l = 16-lane sum of p, y[i] = p[i] / l. y may be x.
typedef struct bitnet_softmax_args {
  const float* x;  // [k]
  float* y;        // [k]
  int64_t k;
} bitnet_softmax_args;

// op rope: rotates pairs (a, b) of each row in place by angle i: a' = a * cos_i - b * sin_i, b' = a * sin_i + b *
// cos_i, every product and sum rounded. NEOX pairs elements i and i + rope_dim/2, NORM elements 2i and 2i + 1, i <
// rope_dim/2; elements from rope_dim on stay.
typedef struct bitnet_rope_args {
  float* x;              // [rows][stride]
  const float* cosines;  // [rope_dim/2]
  const float* sines;    // [rope_dim/2]
  int64_t rows;          // heads
  int64_t stride;        // elements between rows, >= rope_dim
  int64_t rope_dim;      // even
  int32_t kind;          // BITNET_ROPE_*
} bitnet_rope_args;
#define BITNET_ROPE_NEOX 0
#define BITNET_ROPE_NORM 1

// op attention: one key/value head, the `heads` query heads that share it, `tokens` query positions; token t sees
// positions max(0, past + t - window + 1) .. past + t, all from 0 on if window is 0.
//   q    float at q[t * q_stride + h * head_dim + d]; formats f16 and i8: already rounded to float16 values
//   key_pages, value_pages  [ceil((past + tokens) / 256)] pages; page c holds positions 256 c .. 256 c + 255 of this
//   head:
//        format f16: [256][head_dim] float16 (IEEE bits)
//        format f32: [256][head_dim] float
//        format i8:  [256][head_dim] int8, behind them [256] float factors: value = int8 * factor; 64-byte aligned
//        nothing is read of positions behind the last one that a token sees, nor of pages before the first one; what
//        lies before it in its page may be read, without effect, be it what it may
//        factors are finite and at least 0, those of the values below 2^119
//   y    float at y[t * y_stride + h * head_dim + d]
//   next memory that the caller reads next, a page's rows (NULL: unknown); a kernel may bring it nearer, never read it
// For each chunk c of 256 absolute positions with a position that the token sees, over these positions alone:
// s_j = (q . k_j, 16-lane sum over d) * scale, finite; m_c = max_j s_j; p_j = r(exp(max(s_j - m_c, -69))); l_c =
// 16-lane sum of p_j over j mod 16; o_c[d] = sum_j p_j * v_j[d] in position order from +0. Format i8: s_j = (q . k8_j *
// factor_j) * scale and o_c[d] = sum_j r(p_j * factor_j) * v8_j[d], int8 converted exactly.
// r(x) rounds to 13 significant bits, ties away from zero: the bits of x, plus 0x400, without the lowest 11; format
// f32: r(x) = x, and every product is rounded before it is added, as everywhere else. In formats f16 and i8 all
// products of q . k and of o_c are exact, and a fused multiply-add gives the bits of a multiplication and an addition:
// float16 has 11 significant bits, int8 8, so that no product has more than 24; the largest, of q . k, is below 2^32;
// the smallest, of two float16, is a multiple of 2^-48, of a weight (>= 2^-100, so a multiple of 2^-112) and a float16
// one of 2^-136; weights with factors are multiples of 2^-138, even as subnormals, and so are their products.
//
// Merge in order, the first chunk as it is: m' = max(m, m_c), a = exp(m - m'), b = exp(m_c - m'),
// l = l * a + l_c * b, o[d] = o[d] * a + o_c[d] * b. Last, y[d] = o[d] / l.
//   scratch  [BITNET_ATTENTION_SCRATCH(heads, head_dim)] float, 64-byte aligned
typedef struct bitnet_attention_args {
  const float* q;
  const void* const* key_pages;
  const void* const* value_pages;
  float* y;
  float* scratch;
  int64_t heads;
  int64_t head_dim;
  int64_t tokens;
  int64_t past;
  int64_t window;  // positions that a token sees at most, its own included; 0: all
  int64_t q_stride;
  int64_t y_stride;
  const void* next;
  float scale;
} bitnet_attention_args;
// Query rows (token x head) that a kernel may work on side by side.
#define BITNET_ATTENTION_ROWS 16
#define BITNET_ATTENTION_SCRATCH(heads, head_dim)                        \
  (((heads) > BITNET_ATTENTION_ROWS ? (heads) : BITNET_ATTENTION_ROWS) * \
   (BITNET_ATTENTION_CHUNK + 2 * (((head_dim) + 15) / 16 * 16) + 32))

// op head: y[r] = sum_k W[r][k] * x[k] (16-lane sum) for rows row_begin <= r < row_end, any matrix that is not ternary;
// float16, bfloat16, float32 or q8 rows, converted exactly. Format q8: a row is ceil(k/32) blocks of 34 bytes, a
// float16 factor and 32 int8; element = factor * int8. Values beyond k are not read. Factors are finite.
typedef struct bitnet_head_args {
  const void* weights;  // [n][k] float16 or bfloat16 (bits), float32 or blocks (no alignment), row-major; the kernel's
                        // format says which
  const float* x;       // [k]
  float* y;             // [n]
  int64_t row_begin;
  int64_t row_end;
  int64_t k;
} bitnet_head_args;

// op head_screen: y[t][r] = float(sum_k W[r][k] * x[t][k]) * (row_scales[r] * x_scales[t]), the sum exact (int64,
// converted to float by rounding to nearest even), for rows row_begin <= r < row_end and tokens 0 <= t < tokens. The
// tokens share one pass over the rows.
//   weights  [n][BITNET_SCREEN_WIDTH(k)] int8 in [-127, 127], row-major, zero beyond k, 64-byte aligned
//   x        packed activations [BITNET_SCREEN_WIDTH(k)/64][tokens][64] int16 in [-32767, 32767], zero beyond k,
//   64-byte
//            aligned: each line of weights meets all tokens side by side
//   y        float at y[t * y_stride + r]
typedef struct bitnet_head_screen_args {
  const int8_t* weights;
  const int16_t* x;
  const float* row_scales;  // [n]
  const float* x_scales;    // [tokens]
  float* y;
  int64_t row_begin;
  int64_t row_end;
  int64_t tokens;  // >= 1
  int64_t y_stride;
  int64_t k;
} bitnet_head_screen_args;

#ifdef __cplusplus
}
#endif

#endif  // BITNET_RUNTIME_KERNELS_KERNEL_ABI_H_
