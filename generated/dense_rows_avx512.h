// Dense operations on rows of floats, over Lanes: norms, quantize, RoPE, softmax, activations, gates, epilogue.
//
// GENERATED from templates/dense_rows.h.j2 and templates/dict/avx512/dense.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// Meaning, shapes and aliasing: runtime/kernels/kernel_abi.h. What limits them is the one running sum a lane: the
// squares of a norm are a chain of k / 16 additions on every target. The rest is done in as few walks over the row as
// possible.
#ifndef BITNET_GENERATED_DENSE_ROWS_AVX512_H_
#define BITNET_GENERATED_DENSE_ROWS_AVX512_H_

#include "generated/dense_lanes_avx512.h"

namespace bitnet_kernels::avx512_family {
namespace {
namespace dense_detail {

// 1 / sqrt(S / k + eps), S = the 16-lane sum of x[i] * x[i].
inline float inverse_norm(const float* x, long long k, float eps) {
  Lanes squares = broadcast(0.0F);
  for_blocks(k, [&](long long i, auto extent) {
    const Lanes v = load(x + i, extent);
    squares = squares + v * v;
  });
  return 1.0F / square_root(tree(squares) / static_cast<float>(k) + eps);
}

// Walks the row in groups of four blocks, each with a running maximum of its own: a maximum has no order.
template <typename Value>
[[gnu::always_inline]] inline float largest_magnitude(long long k, Value value) {
  Lanes most[4];
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) most[b] = broadcast(1e-5F);
  long long i = 0;
  for (; i + 4 * kLanes <= k; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) most[b] = maximum(most[b], magnitude(value(i + b * kLanes, Full{})));
  }
  for (; i + kLanes <= k; i += kLanes) most[0] = maximum(most[0], magnitude(value(i, Full{})));
  if (i < k) most[1] = maximum(most[1], magnitude(value(i, Tail{k - i})));
  return top_lane(maximum(maximum(most[0], most[1]), maximum(most[2], most[3])));
}

// q = round_half_even(x * 127 / top), |x| <= top.
inline void quantize_with(const float* x, long long k, float top, int8_t* q, float* scale_out, int32_t* q_sum) {
  const float scale = 127.0F / top;
  const Lanes factor = broadcast(scale);
  IntLanes sums = round_to_int(broadcast(0.0F));
  for_blocks(k, [&](long long i, auto extent) {
    const IntLanes rounded = round_to_int(load(x + i, extent) * factor);
    sums = sums + rounded;
    store_bytes(q + i, rounded, extent);
  });
  *scale_out = scale;
  *q_sum = sum(sums);
}

}  // namespace dense_detail

inline void quantize_i8(const bitnet_quantize_args* a) noexcept {
  using namespace dense_detail;
  const float* x = a->x;
  const float top = largest_magnitude(a->k, [x](long long i, auto extent) { return load(x + i, extent); });
  quantize_with(x, a->k, top, a->q, a->scale, a->q_sum);
}

inline void norm_f32(const bitnet_norm_args* a) noexcept {
  using namespace dense_detail;
  const Lanes inv = broadcast(inverse_norm(a->x, a->k, a->eps));
  for_blocks(a->k, [a, &inv](long long i, auto extent) {
    store(a->y + i, (load(a->x + i, extent) * inv) * load(a->gain + i, extent), extent);
  });
}

inline void layer_norm_f32(const bitnet_layer_norm_args* a) noexcept {
  using namespace dense_detail;
  const float* x = a->x;
  Lanes sums = broadcast(0.0F);
  for_blocks(a->k, [&](long long i, auto extent) { sums = sums + load(x + i, extent); });
  const Lanes mean = broadcast(tree(sums) / static_cast<float>(a->k));
  Lanes squares = broadcast(0.0F);
  for_blocks(a->k, [&](long long i, auto extent) {
    const Lanes centred = only(load(x + i, extent) - mean, extent);
    squares = squares + centred * centred;
  });
  const Lanes inv = broadcast(1.0F / square_root(tree(squares) / static_cast<float>(a->k) + a->eps));
  for_blocks(a->k, [&](long long i, auto extent) {
    const Lanes scaled = ((load(x + i, extent) - mean) * inv) * load(a->gain + i, extent);
    store(a->y + i, scaled + load(a->bias + i, extent), extent);
  });
}

inline void norm_quantize_i8(const bitnet_norm_quantize_args* a) noexcept {
  using namespace dense_detail;
  const Lanes inv = broadcast(inverse_norm(a->x, a->k, a->eps));
  const float top = largest_magnitude(a->k, [a, &inv](long long i, auto extent) {
    const Lanes y = (load(a->x + i, extent) * inv) * load(a->gain + i, extent);
    store(a->scratch + i, y, extent);
    return y;
  });
  quantize_with(a->scratch, a->k, top, a->q, a->scale, a->q_sum);
}

inline void rope_f32(const bitnet_rope_args* a) noexcept {
  using namespace dense_detail;
  const long long half = a->rope_dim / 2;
  for (long long row = 0; row < a->rows; ++row) {
    float* x = a->x + row * a->stride;
    if (a->kind == BITNET_ROPE_NEOX) {
      for_blocks(half, [&](long long i, auto extent) {
        const Lanes cosine = load(a->cosines + i, extent);
        const Lanes sine = load(a->sines + i, extent);
        const Lanes first = load(static_cast<const float*>(x + i), extent);
        const Lanes second = load(static_cast<const float*>(x + half + i), extent);
        store(x + i, first * cosine - second * sine, extent);
        store(x + half + i, first * sine + second * cosine, extent);
      });
    } else {
      for (long long i = 0; i < half; ++i) {
        const float first = x[2 * i];
        const float second = x[2 * i + 1];
        x[2 * i] = first * a->cosines[i] - second * a->sines[i];
        x[2 * i + 1] = first * a->sines[i] + second * a->cosines[i];
      }
    }
  }
}

inline void softmax_f32(const bitnet_softmax_args* a) noexcept {
  using namespace dense_detail;
  if (a->k == 0) return;
  const Lanes divisor = broadcast(exponentials(a->x, a->y, a->k, largest(a->x, a->k)));
  for_blocks(a->k, [a, &divisor](long long i, auto extent) {
    store(a->y + i, load(static_cast<const float*>(a->y + i), extent) / divisor, extent);
  });
}

inline void relu2_gate_f32(const bitnet_gate_args* a) noexcept {
  using namespace dense_detail;
  for_blocks(a->k, [a](long long i, auto extent) {
    const Lanes r = maximum(load(a->gate + i, extent), broadcast(0.0F));
    store(a->y + i, (r * r) * load(a->up + i, extent), extent);
  });
}

inline void silu_gate_f32(const bitnet_gate_args* a) noexcept {
  using namespace dense_detail;
  for_blocks(a->k, [a](long long i, auto extent) {
    const Lanes gate = load(a->gate + i, extent);
    const Lanes divisor = broadcast(1.0F) + exponential(negative(gate));
    store(a->y + i, (gate / divisor) * load(a->up + i, extent), extent);
  });
}

inline void gelu_gate_f32(const bitnet_gate_args* a) noexcept {
  using namespace dense_detail;
  for_blocks(a->k, [a](long long i, auto extent) {
    store(a->y + i, gelu(load(a->gate + i, extent)) * load(a->up + i, extent), extent);
  });
}

inline void gelu_f32(const bitnet_gelu_args* a) noexcept {
  using namespace dense_detail;
  for_blocks(a->k, [a](long long i, auto extent) { store(a->y + i, gelu(load(a->x + i, extent)), extent); });
}

inline void epilogue_f32(const bitnet_epilogue_args* a) noexcept {
  using namespace dense_detail;
  const Lanes divisor = broadcast(a->activation_scale);
  const Lanes tensor_factor = broadcast(a->scales[0]) / divisor;
  for_blocks(a->rows, [&](long long r, auto extent) {
    // With a scale a row or a tensor, all groups have the same factor.
    Lanes factor = a->scale_kind == BITNET_SCALE_TENSOR ? tensor_factor : load(a->scales + r, extent) / divisor;
    Lanes v = load(a->acc + r, extent) * factor;
    for (long long g = 1; g < a->groups; ++g) {
      if (a->scale_kind == BITNET_SCALE_GROUP) factor = load(a->scales + g * a->scale_stride + r, extent) / divisor;
      v = v + load(a->acc + g * a->acc_stride + r, extent) * factor;
    }
    float* y = a->y + r;
    store(y, a->add != 0 ? load(static_cast<const float*>(y), extent) + v : v, extent);
  });
}

}  // namespace
}  // namespace bitnet_kernels::avx512_family

#endif  // BITNET_GENERATED_DENSE_ROWS_AVX512_H_
