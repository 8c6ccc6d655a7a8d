// The dense operations of kernel_abi.h over Lanes, for any k. Each is memory- or latency-bound glue between the ternary
// products, except two that earn their structure:
//   head       reads the largest matrix of the model once per token: several rows side by side, each its own sequential
//              stream with prefetch, so that the conversion from float16 hides behind memory.
//   attention  takes the query heads that share a key/value head in groups of up to kHeadGroup, so that each row of
//   keys
//              and values is converted once per group; values are walked in slices that stay in the L1 cache.
#pragma once

#include "runtime/kernels/lanes_xsimd.h"

namespace bitnet_kernels::xsimd_dense {
namespace {

void quantize_row(const float* x, std::int64_t k, std::int8_t* q, float* scale_out, std::int32_t* q_sum) noexcept {
  Lanes largest = Lanes::broadcast(1e-5F);
  for_blocks(k, [&](std::int64_t i, auto extent) {
    largest = map(largest, load(x + i, extent), [](Reg m, Reg v) { return xsimd::max(m, xsimd::abs(v)); });
  });
  alignas(64) float maxima[kLanes];
  store(maxima, largest, Full{});
  float top = maxima[0];
  for (int l = 1; l < kLanes; ++l) top = maxima[l] > top ? maxima[l] : top;
  const float scale = 127.0F / top;
  const Reg factor(scale);

  IntReg sums(0);
  // round_half_even is the default rounding mode of the conversion; a padded 0 adds nothing.
  const auto round_block = [&](const Lanes& values, std::int8_t* out) {
    IntReg rounded[kRegs];
    for (int r = 0; r < kRegs; ++r) {
      rounded[r] = xsimd::nearbyint_as_int(values.v[r] * factor);
      sums = sums + rounded[r];
    }
    store_bytes(rounded, out);
  };
  std::int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) round_block(load(x + i, Full{}), q + i);
  if (i < k) {
    std::int8_t block[kLanes];
    round_block(load(x + i, Tail{k - i}), block);
    std::memcpy(q + i, block, static_cast<std::size_t>(k - i));
  }
  alignas(64) std::int32_t parts[kWidth];
  sums.store_aligned(parts);
  std::int32_t total = 0;
  for (const std::int32_t part : parts) total += part;
  *scale_out = scale;
  *q_sum = total;
}

void norm_row(const float* x, const float* gain, std::int64_t k, float eps, float* y) noexcept {
  Lanes squares = Lanes::broadcast(0.0F);
  for_blocks(k, [&](std::int64_t i, auto extent) {
    const Lanes v = load(x + i, extent);
    squares = squares + v * v;
  });
  const float mean_square = tree(squares) / static_cast<float>(k);
  const Lanes inv = Lanes::broadcast(1.0F / __builtin_sqrtf(mean_square + eps));
  for_blocks(k, [&](std::int64_t i, auto extent) {
    store(y + i, (load(x + i, extent) * inv) * load(gain + i, extent), extent);
  });
}

void quantize(const bitnet_quantize_args* a) noexcept { quantize_row(a->x, a->k, a->q, a->scale, a->q_sum); }
void norm(const bitnet_norm_args* a) noexcept { norm_row(a->x, a->gain, a->k, a->eps, a->y); }
void norm_quantize(const bitnet_norm_quantize_args* a) noexcept {
  norm_row(a->x, a->gain, a->k, a->eps, a->scratch);
  quantize_row(a->scratch, a->k, a->q, a->scale, a->q_sum);
}

void relu2_gate(const bitnet_gate_args* a) noexcept {
  for_blocks(a->k, [a](std::int64_t i, auto extent) {
    const Lanes r = map(load(a->gate + i, extent), [](Reg g) { return xsimd::max(g, Reg(0.0F)); });
    store(a->y + i, (r * r) * load(a->up + i, extent), extent);
  });
}

void silu_gate(const bitnet_gate_args* a) noexcept {
  for_blocks(a->k, [a](std::int64_t i, auto extent) {
    const Lanes gate = load(a->gate + i, extent);
    const Lanes negative = map(gate, [](Reg g) { return -g; });
    store(a->y + i, (gate / (Lanes::broadcast(1.0F) + exp(negative))) * load(a->up + i, extent), extent);
  });
}

// ---- head ----

constexpr int kHeadStreams = kWidth == 8 ? 4 : 2;  // two accumulator registers a row and stream, or four
constexpr std::uintptr_t kPrefetchBytes = 1024;

// y[row + s * step] for s = 0 .. Streams-1.
template <int Streams, typename T>
[[gnu::always_inline]] inline void head_rows(const T* weights, const float* x, float* y, std::int64_t row,
                                             std::int64_t step, std::int64_t k) {
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  const T* w[Streams];
  Lanes sums[Streams];
  for (int s = 0; s < Streams; ++s) {
    w[s] = weights + (row + s * step) * k;
    sums[s] = Lanes::broadcast(0.0F);
  }
  const auto add = [&](std::int64_t i, auto extent) {
    const Lanes v = load(x + i, extent);
    for (int s = 0; s < Streams; ++s) sums[s] = sums[s] + load(w[s] + i, extent) * v;
  };
  std::int64_t i = 0;
  for (; i + kLine <= k; i += kLine) {
    for (int s = 0; s < Streams; ++s) {
      // May point past the matrix: an address, never read.
      __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(w[s] + i) + kPrefetchBytes), 0,
                         2);
    }
    for (std::int64_t part = 0; part < kLine; part += kLanes) add(i + part, Full{});
  }
  for (; i + kLanes <= k; i += kLanes) add(i, Full{});
  if (i < k) add(i, Tail{k - i});
  for (int s = 0; s < Streams; ++s) y[row + s * step] = tree(sums[s]);
}

template <typename T>
void head(const bitnet_head_args* a) noexcept {
  const T* weights = static_cast<const T*>(a->weights);
  // The rows are cut into kHeadStreams equal runs that are read in parallel, each from its own end to end.
  const std::int64_t step = (a->row_end - a->row_begin) / kHeadStreams;
  for (std::int64_t i = 0; i < step; ++i) {
    head_rows<kHeadStreams>(weights, a->x, a->y, a->row_begin + i, step, a->k);
  }
  for (std::int64_t row = a->row_begin + kHeadStreams * step; row < a->row_end; ++row) {
    head_rows<1>(weights, a->x, a->y, row, 0, a->k);
  }
}

// ---- attention ----

constexpr int kHeadGroup = kWidth == 8 ? 4 : 2;
constexpr std::int64_t kChunk = BITNET_ATTENTION_CHUNK;
constexpr std::int64_t kValueSlice = 64;  // positions: 64 rows of 128 float16 are 16 KiB

// o[g][d] = sum_j p[g][j] * value[j][d] over the `count` positions of a chunk, in position order from +0.
template <int Heads>
[[gnu::always_inline]] inline void weigh_values(const float* p, const std::uint16_t* value, std::int64_t count,
                                                std::int64_t head_dim, std::int64_t kv_stride, float* o) {
  for (std::int64_t begin = 0; begin < count; begin += kValueSlice) {
    const std::int64_t end = begin + kValueSlice < count ? begin + kValueSlice : count;
    for_blocks(head_dim, [&](std::int64_t d, auto extent) {
      Lanes sums[Heads];
      for (int g = 0; g < Heads; ++g) {
        sums[g] = begin == 0 ? Lanes::broadcast(0.0F) : load(o + g * head_dim + d, extent);
      }
      for (std::int64_t j = begin; j < end; ++j) {
        const Lanes v = load(value + j * kv_stride + d, extent);
        for (int g = 0; g < Heads; ++g) sums[g] = sums[g] + Lanes::broadcast(p[g * kChunk + j]) * v;
      }
      for (int g = 0; g < Heads; ++g) store(o + g * head_dim + d, sums[g], extent);
    });
  }
}

// Query heads first .. first + Heads - 1. p: [Heads][256], o: [Heads][head_dim], both scratch.
template <int Heads>
void attend(const bitnet_attention_args* a, std::int64_t token, std::int64_t first) noexcept {
  const std::int64_t head_dim = a->head_dim;
  const float* q = a->q + token * a->q_stride + first * head_dim;
  float* y = a->y + token * a->y_stride + first * head_dim;
  const std::int64_t length = a->past + token + 1;
  float* p = a->scratch;
  float* o = a->scratch + a->heads * kChunk;
  float m[Heads] = {};
  float l[Heads] = {};
  for (std::int64_t begin = 0; begin < length; begin += kChunk) {
    const std::int64_t count = length - begin < kChunk ? length - begin : kChunk;
    const auto* key = static_cast<const std::uint16_t*>(a->key_pages[begin / kChunk]);
    const auto* value = static_cast<const std::uint16_t*>(a->value_pages[begin / kChunk]);
    float m_c[Heads];
    for (std::int64_t j = 0; j < count; ++j) {
      Lanes sums[Heads];
      for (int g = 0; g < Heads; ++g) sums[g] = Lanes::broadcast(0.0F);
      for_blocks(head_dim, [&](std::int64_t d, auto extent) {
        const Lanes row = load(key + j * head_dim + d, extent);
        for (int g = 0; g < Heads; ++g) sums[g] = sums[g] + load(q + g * head_dim + d, extent) * row;
      });
      for (int g = 0; g < Heads; ++g) {
        const float s = tree(sums[g]) * a->scale;
        p[g * kChunk + j] = s;
        m_c[g] = j == 0 || s > m_c[g] ? s : m_c[g];
      }
    }
    float l_c[Heads];
    for (int g = 0; g < Heads; ++g) {
      float* p_g = p + g * kChunk;
      const Lanes top = Lanes::broadcast(m_c[g]);
      for_blocks(count, [&](std::int64_t j, auto extent) {
        store(p_g + j, exp(map(load(p_g + j, extent), top, [](Reg s, Reg t) { return s - t; })), extent);
      });
      Lanes sums = Lanes::broadcast(0.0F);
      for_blocks(count, [&](std::int64_t j, auto extent) { sums = sums + load(p_g + j, extent); });
      l_c[g] = tree(sums);
    }
    if (begin == 0) {
      weigh_values<Heads>(p, value, count, head_dim, head_dim, y);
      for (int g = 0; g < Heads; ++g) {
        m[g] = m_c[g];
        l[g] = l_c[g];
      }
      continue;
    }
    weigh_values<Heads>(p, value, count, head_dim, head_dim, o);
    for (int g = 0; g < Heads; ++g) {
      const float top = m_c[g] > m[g] ? m_c[g] : m[g];
      const float old_share = exp(m[g] - top);
      const float new_share = exp(m_c[g] - top);
      l[g] = l[g] * old_share + l_c[g] * new_share;
      m[g] = top;
      const Lanes keep = Lanes::broadcast(old_share);
      const Lanes add = Lanes::broadcast(new_share);
      for_blocks(head_dim, [&](std::int64_t d, auto extent) {
        float* y_d = y + g * head_dim + d;
        store(y_d, load(y_d, extent) * keep + load(o + g * head_dim + d, extent) * add, extent);
      });
    }
  }
  for (int g = 0; g < Heads; ++g) {
    const Lanes divisor = Lanes::broadcast(l[g]);
    for_blocks(head_dim, [&](std::int64_t d, auto extent) {
      float* y_d = y + g * head_dim + d;
      store(y_d, load(y_d, extent) / divisor, extent);
    });
  }
}

void attention(const bitnet_attention_args* a) noexcept {
  for (std::int64_t token = 0; token < a->tokens; ++token) {
    std::int64_t first = 0;
    for (; first + kHeadGroup <= a->heads; first += kHeadGroup) attend<kHeadGroup>(a, token, first);
    if constexpr (kHeadGroup == 4) {
      if (first + 2 <= a->heads) {
        attend<2>(a, token, first);
        first += 2;
      }
    }
    if (first < a->heads) attend<1>(a, token, first);
  }
}

}  // namespace
}  // namespace bitnet_kernels::xsimd_dense
