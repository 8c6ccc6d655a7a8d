// The scalar meaning of the operations, one short loop each. Nothing here is tuned: it shares no code with the kernels,
// so that an error in a kernel cannot hide in its own oracle. Compiled with -ffp-contract=off like everything else.
#include "runtime/reference/reference.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "runtime/kernels/kernel_abi.h"

namespace bitnet::reference {
namespace {

constexpr int kLanes = 16;
using Lanes = std::array<float, kLanes>;

float tree(Lanes lanes) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    for (int l = 0; l < distance; ++l) {
      lanes[static_cast<std::size_t>(l)] += lanes[static_cast<std::size_t>(l) + static_cast<std::size_t>(distance)];
    }
  }
  return lanes[0];
}

// binary16 by its definition; independent of the runtime's own conversion.
float half(std::uint16_t h) {
  const int exponent = (h >> 10) & 31;
  const int fraction = h & 1023;
  const float sign = (h & 0x8000) != 0 ? -1.0F : 1.0F;
  if (exponent == 31) {
    return std::bit_cast<float>(((h & 0x8000U) << 16) | 0x7F800000U | (static_cast<unsigned>(fraction) << 13));
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

float bfloat(std::uint16_t b) { return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16); }

template <typename T, typename Convert>
std::vector<float> converted(const T* row, std::int64_t k, Convert convert) {
  std::vector<float> out(static_cast<std::size_t>(k));
  std::transform(row, row + k, out.begin(), convert);
  return out;
}

}  // namespace

std::int32_t ternary_dot(const std::int8_t* w, const std::int8_t* x, std::int64_t k) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < k; ++i) sum += w[i] * x[i];
  return sum;
}

float dot(const float* a, const float* b, std::int64_t k) {
  Lanes lanes{};
  for (std::int64_t i = 0; i < k; ++i) lanes[static_cast<std::size_t>(i % kLanes)] += a[i] * b[i];
  return tree(lanes);
}

float sum(const float* a, std::int64_t k) {
  Lanes lanes{};
  for (std::int64_t i = 0; i < k; ++i) lanes[static_cast<std::size_t>(i % kLanes)] += a[i];
  return tree(lanes);
}

float exp(float x) {
  x = std::min(std::max(x, -87.33654F), 88.72283F);
  const float n = std::nearbyint(x * 1.44269504088896341F);
  const float r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float y = ((p * (r * r)) + r) + 1.0F;
  const int power = static_cast<int>(n);
  const int first = power >> 1;
  return (y * std::ldexp(1.0F, first)) * std::ldexp(1.0F, power - first);
}

void quantize(const float* x, std::int64_t k, std::int8_t* q, float* scale, std::int32_t* q_sum) {
  float largest = 1e-5F;
  for (std::int64_t i = 0; i < k; ++i) largest = std::max(largest, std::fabs(x[i]));
  *scale = 127.0F / largest;
  *q_sum = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    q[i] = static_cast<std::int8_t>(std::nearbyint(x[i] * *scale));
    *q_sum += q[i];
  }
}

void norm(const float* x, const float* gain, std::int64_t k, float eps, float* y) {
  const float mean_square = dot(x, x, k) / static_cast<float>(k);
  const float inv = 1.0F / std::sqrt(mean_square + eps);
  for (std::int64_t i = 0; i < k; ++i) y[i] = (x[i] * inv) * gain[i];
}

void norm_quantize(const float* x, const float* gain, std::int64_t k, float eps, std::int8_t* q, float* scale,
                   std::int32_t* q_sum) {
  std::vector<float> y(static_cast<std::size_t>(k));
  norm(x, gain, k, eps, y.data());
  quantize(y.data(), k, q, scale, q_sum);
}

void relu2_gate(const float* gate, const float* up, std::int64_t k, float* y) {
  for (std::int64_t i = 0; i < k; ++i) {
    const float r = std::max(gate[i], 0.0F);
    y[i] = (r * r) * up[i];
  }
}

void silu_gate(const float* gate, const float* up, std::int64_t k, float* y) {
  for (std::int64_t i = 0; i < k; ++i) y[i] = (gate[i] / (1.0F + exp(-gate[i]))) * up[i];
}

namespace {

float gelu(float x) {
  const float cube = ((0.044715F * x) * x) * x;
  const float v = 1.5957691216057308F * (x + cube);
  return x / (1.0F + exp(-v));
}

}  // namespace

void gelu_gate(const float* gate, const float* up, std::int64_t k, float* y) {
  for (std::int64_t i = 0; i < k; ++i) y[i] = gelu(gate[i]) * up[i];
}

void gelu(const float* x, std::int64_t k, float* y) {
  for (std::int64_t i = 0; i < k; ++i) y[i] = gelu(x[i]);
}

void layer_norm(const float* x, const float* gain, const float* bias, std::int64_t k, float eps, float* y) {
  const float mean = sum(x, k) / static_cast<float>(k);
  std::vector<float> centred(static_cast<std::size_t>(k));
  std::transform(x, x + k, centred.begin(), [mean](float v) { return v - mean; });
  const float inv = 1.0F / std::sqrt(dot(centred.data(), centred.data(), k) / static_cast<float>(k) + eps);
  for (std::int64_t i = 0; i < k; ++i) y[i] = (centred[static_cast<std::size_t>(i)] * inv) * gain[i] + bias[i];
}

void softmax(const float* x, std::int64_t k, float* y) {
  const float m = *std::max_element(x, x + k);
  std::vector<float> p;
  for (std::int64_t i = 0; i < k; ++i) p.push_back(exp(x[i] - m));
  const float l = sum(p.data(), k);
  for (std::int64_t i = 0; i < k; ++i) y[i] = p[static_cast<std::size_t>(i)] / l;
}

void epilogue(const bitnet_epilogue_args& a) {
  for (std::int64_t r = 0; r < a.rows; ++r) {
    float v = 0.0F;
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const std::int64_t at = a.scale_kind == BITNET_SCALE_TENSOR ? 0
                              : a.scale_kind == BITNET_SCALE_ROW  ? r
                                                                  : g * a.scale_stride + r;
      const float term = static_cast<float>(a.acc[g * a.acc_stride + r]) * (a.scales[at] / a.activation_scale);
      v = g == 0 ? term : v + term;
    }
    a.y[r] = a.add != 0 ? a.y[r] + v : v;
  }
}

void rope(const bitnet_rope_args& args) {
  const std::int64_t half = args.rope_dim / 2;
  for (std::int64_t row = 0; row < args.rows; ++row) {
    for (std::int64_t i = 0; i < half; ++i) {
      float* a = args.x + row * args.stride + (args.kind == BITNET_ROPE_NEOX ? i : 2 * i);
      float* b = args.x + row * args.stride + (args.kind == BITNET_ROPE_NEOX ? i + half : 2 * i + 1);
      const float turned_a = *a * args.cosines[i] - *b * args.sines[i];
      const float turned_b = *a * args.sines[i] + *b * args.cosines[i];
      *a = turned_a;
      *b = turned_b;
    }
  }
}

namespace {

// r of op attention in kernel_abi.h.
float thirteen_bits(float x) { return std::bit_cast<float>((std::bit_cast<std::uint32_t>(x) + 0x400U) & ~0x7FFU); }

// One query row over the positions first .. seen-1. key(j), value(j): the row of position j as floats; the factors
// apply after the dot product and before the product with the value; `rounded` rounds weights.
template <typename Row, typename Factor>
void attend(const float* q, std::int64_t head_dim, std::int64_t first, std::int64_t seen, float scale, Row key,
            Row value, Factor key_factor, Factor value_factor, bool factors, float (*rounded)(float), float* y) {
  float m = 0.0F;
  float l = 0.0F;
  std::vector<float> o;
  const std::int64_t first_chunk = first / BITNET_ATTENTION_CHUNK;
  for (std::int64_t chunk = first_chunk; chunk * BITNET_ATTENTION_CHUNK < seen; ++chunk) {
    const std::int64_t begin = std::max<std::int64_t>(chunk * BITNET_ATTENTION_CHUNK, first);
    const std::int64_t end = std::min<std::int64_t>((chunk + 1) * BITNET_ATTENTION_CHUNK, seen);
    std::vector<float> p;
    for (std::int64_t j = begin; j < end; ++j) {
      const float product = dot(q, key(j).data(), head_dim);
      p.push_back((factors ? product * key_factor(j) : product) * scale);
    }
    const float m_c = *std::max_element(p.begin(), p.end());
    for (float& s : p) s = rounded(exp(std::max(s - m_c, BITNET_ATTENTION_LEAST_EXPONENT)));
    Lanes l_lanes{};
    for (std::int64_t j = begin; j < end; ++j) {
      l_lanes[static_cast<std::size_t>(j % kLanes)] += p[static_cast<std::size_t>(j - begin)];
    }
    const float l_c = tree(l_lanes);
    std::vector<float> o_c(static_cast<std::size_t>(head_dim), 0.0F);
    for (std::int64_t j = begin; j < end; ++j) {
      const std::vector<float> v = value(j);
      const float weight = p[static_cast<std::size_t>(j - begin)];
      const float scaled = factors ? rounded(weight * value_factor(j)) : weight;
      for (std::size_t d = 0; d < v.size(); ++d) o_c[d] += scaled * v[d];
    }
    if (chunk == first_chunk) {
      m = m_c;
      l = l_c;
      o = o_c;
      continue;
    }
    const float m_new = std::max(m, m_c);
    const float a = exp(m - m_new);
    const float b = exp(m_c - m_new);
    l = l * a + l_c * b;
    for (std::size_t d = 0; d < o.size(); ++d) o[d] = o[d] * a + o_c[d] * b;
    m = m_new;
  }
  for (std::int64_t d = 0; d < head_dim; ++d) y[d] = o[static_cast<std::size_t>(d)] / l;
}

// T: the element of a page; factors lie behind the rows of an int8 page.
template <typename T, typename Convert>
void attention(const bitnet_attention_args& a, Convert convert, bool factors, float (*rounded)(float)) {
  const auto row = [&](const void* const* pages) {
    return [&a, pages, convert](std::int64_t j) {
      const T* page = static_cast<const T*>(pages[j / BITNET_ATTENTION_CHUNK]);
      return converted(page + j % BITNET_ATTENTION_CHUNK * a.head_dim, a.head_dim, convert);
    };
  };
  const auto factor = [&](const void* const* pages) {
    return [&a, pages](std::int64_t j) {
      const T* page = static_cast<const T*>(pages[j / BITNET_ATTENTION_CHUNK]);
      const void* behind = page + BITNET_ATTENTION_CHUNK * a.head_dim;
      return static_cast<const float*>(behind)[j % BITNET_ATTENTION_CHUNK];
    };
  };
  for (std::int64_t t = 0; t < a.tokens; ++t) {
    for (std::int64_t h = 0; h < a.heads; ++h) {
      const std::int64_t seen = a.past + t + 1;
      const std::int64_t first = a.window == 0 ? 0 : std::max<std::int64_t>(0, seen - a.window);
      attend(a.q + t * a.q_stride + h * a.head_dim, a.head_dim, first, seen, a.scale, row(a.key_pages),
             row(a.value_pages), factor(a.key_pages), factor(a.value_pages), factors, rounded,
             a.y + t * a.y_stride + h * a.head_dim);
    }
  }
}

}  // namespace

void attention_f16(const bitnet_attention_args& args) { attention<std::uint16_t>(args, half, false, thirteen_bits); }

void attention_i8(const bitnet_attention_args& args) {
  attention<std::int8_t>(args, [](std::int8_t v) { return static_cast<float>(v); }, true, thirteen_bits);
}

void attention_f32(const bitnet_attention_args& args) {
  const auto same = [](float v) { return v; };
  attention<float>(args, same, false, same);
}

void head_f16(const std::uint16_t* w, const float* x, std::int64_t n, std::int64_t k, float* y) {
  for (std::int64_t r = 0; r < n; ++r) y[r] = dot(converted(w + r * k, k, half).data(), x, k);
}

void head_bf16(const std::uint16_t* w, const float* x, std::int64_t n, std::int64_t k, float* y) {
  for (std::int64_t r = 0; r < n; ++r) y[r] = dot(converted(w + r * k, k, bfloat).data(), x, k);
}

void head_f32(const float* w, const float* x, std::int64_t n, std::int64_t k, float* y) {
  for (std::int64_t r = 0; r < n; ++r) y[r] = dot(w + r * k, x, k);
}

void head_q8(const std::uint8_t* w, const float* x, std::int64_t n, std::int64_t k, float* y) {
  constexpr std::int64_t kBlock = 32;
  constexpr std::int64_t kBlockBytes = 34;
  for (std::int64_t r = 0; r < n; ++r) {
    std::vector<float> row(static_cast<std::size_t>(k));
    for (std::int64_t i = 0; i < k; ++i) {
      const std::uint8_t* block = w + (r * ((k + kBlock - 1) / kBlock) + i / kBlock) * kBlockBytes;
      const float factor = half(static_cast<std::uint16_t>(block[0] | block[1] << 8));
      row[static_cast<std::size_t>(i)] = factor * static_cast<float>(static_cast<std::int8_t>(block[2 + i % kBlock]));
    }
    y[r] = dot(row.data(), x, k);
  }
}

void head_screen(const bitnet_head_screen_args& a) {
  const std::int64_t width = BITNET_SCREEN_WIDTH(a.k);
  for (std::int64_t t = 0; t < a.tokens; ++t) {
    for (std::int64_t r = a.row_begin; r < a.row_end; ++r) {
      std::int64_t sum = 0;
      for (std::int64_t i = 0; i < a.k; ++i) {
        sum += static_cast<std::int64_t>(a.weights[r * width + i]) *
               static_cast<std::int64_t>(a.x[(i / 64 * a.tokens + t) * 64 + i % 64]);
      }
      a.y[t * a.y_stride + r] = static_cast<float>(sum) * (a.row_scales[r] * a.x_scales[t]);
    }
  }
}

}  // namespace bitnet::reference
