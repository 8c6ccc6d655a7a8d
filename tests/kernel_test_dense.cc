// Wrong dense kernels, each wrong in a way that is easily written: the tester must object to all of them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/reference/reference.h"
#include "tests/broken_kernels.h"

namespace bitnet::test {
namespace {

float half(const void* weights, std::int64_t i) {
  bitnet_head_args args = {};
  const float one = 1.0F;
  float y = 0.0F;
  args.weights = static_cast<const std::uint16_t*>(weights) + i;
  args.x = &one;
  args.y = &y;
  args.row_end = 1;
  args.k = 1;
  builtin(Op::kHead)(args);
  return y;
}

// The head in plain loops: `lanes` running sums, folded from the farthest pair or from neighbours, fused or not.
template <int Lanes, bool Neighbours, bool Fused>
void plain_head(const bitnet_head_args* a) {
  for (std::int64_t r = a->row_begin; r < a->row_end; ++r) {
    std::vector<float> sums(Lanes, 0.0F);
    for (std::int64_t i = 0; i < a->k; ++i) {
      float& sum = sums[static_cast<std::size_t>(i % Lanes)];
      const float w = half(a->weights, r * a->k + i);
      sum = Fused ? std::fma(w, a->x[i], sum) : sum + w * a->x[i];
    }
    for (std::size_t count = Lanes; count > 1; count /= 2) {
      for (std::size_t l = 0; l < count / 2; ++l) {
        sums[l] = Neighbours ? sums[2 * l] + sums[2 * l + 1] : sums[l] + sums[l + count / 2];
      }
    }
    a->y[r] = sums[0];
  }
}

bitnet_attention_args with_pages(const bitnet_attention_args& a, const std::vector<const void*>& keys) {
  bitnet_attention_args args = a;
  args.key_pages = keys.data();
  return args;
}

float as_float(std::uint16_t half) { return half_to_float(half); }
float as_float(float value) { return value; }

// Attention to float16 or float32 (T) in plain loops, all products of queries, keys, weights and values fused with
// their sums or not; the weights rounded or not. One of these is the contract of each format, the others break it.
template <typename T, bool Rounded, bool Fused>
void plain_attention(const bitnet_attention_args* a) {
  const auto element = [a](const void* const* pages, std::int64_t j, std::int64_t d) {
    const auto* page = static_cast<const T*>(pages[j / BITNET_ATTENTION_CHUNK]);
    return as_float(page[j % BITNET_ATTENTION_CHUNK * a->head_dim + d]);
  };
  const auto add_product = [](float x, float y, float sum) { return Fused ? std::fma(x, y, sum) : x * y + sum; };
  for (std::int64_t row = 0; row < a->tokens * a->heads; ++row) {
    const std::int64_t token = row / a->heads;
    const float* q = a->q + token * a->q_stride + row % a->heads * a->head_dim;
    float* y = a->y + token * a->y_stride + row % a->heads * a->head_dim;
    const std::int64_t seen = a->past + token + 1;
    const std::int64_t first = a->window == 0 ? 0 : std::max<std::int64_t>(0, seen - a->window);
    float m = 0.0F;
    float l = 0.0F;
    std::int64_t end = 0;
    for (std::int64_t begin = first; begin < seen; begin = end) {
      end = std::min<std::int64_t>((begin / BITNET_ATTENTION_CHUNK + 1) * BITNET_ATTENTION_CHUNK, seen);
      std::vector<float> p;
      for (std::int64_t j = begin; j < end; ++j) {
        std::vector<float> lanes(16, 0.0F);
        for (std::int64_t d = 0; d < a->head_dim; ++d) {
          float& lane = lanes[static_cast<std::size_t>(d % 16)];
          lane = add_product(q[d], element(a->key_pages, j, d), lane);
        }
        p.push_back(reference::sum(lanes.data(), 16) * a->scale);
      }
      const float top = *std::max_element(p.begin(), p.end());
      for (float& s : p) {
        s = reference::exp(std::max(s - top, BITNET_ATTENTION_LEAST_EXPONENT));
        if (Rounded) s = std::bit_cast<float>((std::bit_cast<std::uint32_t>(s) + 0x400U) & ~0x7FFU);
      }
      const float old_share = begin == first ? 0.0F : reference::exp(m - std::max(m, top));
      const float new_share = begin == first ? 1.0F : reference::exp(top - std::max(m, top));
      for (std::int64_t d = 0; d < a->head_dim; ++d) {
        float o = 0.0F;
        for (std::int64_t j = begin; j < end; ++j) {
          o = add_product(p[static_cast<std::size_t>(j - begin)], element(a->value_pages, j, d), o);
        }
        y[d] = begin == first ? o : y[d] * old_share + o * new_share;
      }
      // Position j counts in lane j mod 16.
      p.insert(p.begin(), static_cast<std::size_t>(begin % 16), 0.0F);
      const float sum = reference::sum(p.data(), static_cast<std::int64_t>(p.size()));
      l = begin == first ? sum : l * old_share + sum * new_share;
      m = begin == first ? top : std::max(m, top);
    }
    for (std::int64_t d = 0; d < a->head_dim; ++d) y[d] /= l;
  }
}

}  // namespace

TEST_CASE("the plain head itself is right, so that what follows is caught for its own fault") {
  CHECK(test_kernel(broken<bitnet_head_args>(Op::kHead, plain_head<16, false, false>, Format::kF16), quick_plan())
            .empty());
}

TEST_CASE("the tester objects to another order of sums and to fused multiply-adds") {
  expect_caught(broken<bitnet_head_args>(Op::kHead, plain_head<8, false, false>, Format::kF16), "expected");
  expect_caught(broken<bitnet_head_args>(Op::kHead, plain_head<16, true, false>, Format::kF16), "expected");
  expect_caught(broken<bitnet_head_args>(Op::kHead, plain_head<16, false, true>, Format::kF16), "expected");
  expect_caught(broken<bitnet_rope_args>(Op::kRope,
                                         [](const bitnet_rope_args* a) {
                                           if (a->kind != BITNET_ROPE_NEOX) return builtin(Op::kRope)(*a);
                                           const std::int64_t half_dim = a->rope_dim / 2;
                                           for (std::int64_t r = 0; r < a->rows; ++r) {
                                             for (std::int64_t i = 0; i < half_dim; ++i) {
                                               float& x = a->x[r * a->stride + i];
                                               float& y = a->x[r * a->stride + i + half_dim];
                                               const float turned = std::fma(x, a->cosines[i], -(y * a->sines[i]));
                                               y = x * a->sines[i] + y * a->cosines[i];
                                               x = turned;
                                             }
                                           }
                                         }),
                "kind 0");
}

TEST_CASE("fused multiply-adds give the bits of attention to float16 because weights are rounded") {
  const auto kernel = [](auto* function) {
    return broken<bitnet_attention_args>(Op::kAttention, function, Format::kF16);
  };
  CHECK(test_kernel(kernel(plain_attention<std::uint16_t, true, true>), quick_plan()).empty());
  expect_caught(kernel(plain_attention<std::uint16_t, false, true>), "expected");
}

TEST_CASE("attention to float32 rounds its products and not its weights") {
  const auto kernel = [](auto* function) {
    return broken<bitnet_attention_args>(Op::kAttention, function, Format::kF32);
  };
  CHECK(test_kernel(kernel(plain_attention<float, false, false>), quick_plan()).empty());
  expect_caught(kernel(plain_attention<float, false, true>), "expected");
  expect_caught(kernel(plain_attention<float, true, false>), "expected");
}

TEST_CASE("the tester objects to wrong pages, positions and tokens of attention") {
  for (const Format format : {Format::kF16, Format::kI8}) {
    // Always the first page.
    expect_caught(broken<bitnet_attention_args>(
                      Op::kAttention,
                      format == Format::kF16 ? +[](const bitnet_attention_args* a) {
                        const auto pages = static_cast<std::size_t>((a->past + a->tokens + 255) / 256);
                        builtin(Op::kAttention)(with_pages(*a, std::vector<const void*>(pages, a->key_pages[0])));
                      } : +[](const bitnet_attention_args* a) {
                        const auto pages = static_cast<std::size_t>((a->past + a->tokens + 255) / 256);
                        builtin(Op::kAttention, Isa::kScalar, Format::kI8)(
                            with_pages(*a, std::vector<const void*>(pages, a->key_pages[0])));
                      },
                      format),
                  "expected");
  }
  // The tokens of a batch see each other whatever their order.
  expect_caught(broken<bitnet_attention_args>(
                    Op::kAttention,
                    [](const bitnet_attention_args* a) {
                      for (std::int64_t t = 0; t < a->tokens; ++t) {
                        bitnet_attention_args one = *a;
                        one.q += t * a->q_stride;
                        one.y += t * a->y_stride;
                        one.tokens = 1;
                        one.past = a->past + a->tokens - 1;
                        builtin(Op::kAttention)(one);
                      }
                    },
                    Format::kF16),
                "tokens");
  // The page behind the last one is looked up.
  expect_caught(broken<bitnet_attention_args>(
                    Op::kAttention,
                    [](const bitnet_attention_args* a) {
                      builtin(Op::kAttention)(*a);
                      const std::int64_t pages = (a->past + a->tokens + 255) / 256;
                      const void* const volatile* table = a->key_pages;
                      static_cast<void>(table[pages]);
                    },
                    Format::kF16),
                "outside");
  // A window that begins one position early, or with the first token's position for all tokens.
  expect_caught(broken<bitnet_attention_args>(
                    Op::kAttention,
                    [](const bitnet_attention_args* a) {
                      bitnet_attention_args wide = *a;
                      if (a->window != 0) ++wide.window;
                      builtin(Op::kAttention)(wide);
                    },
                    Format::kF16),
                "window 1,");
  expect_caught(broken<bitnet_attention_args>(
                    Op::kAttention,
                    [](const bitnet_attention_args* a) {
                      for (std::int64_t t = 0; t < a->tokens; ++t) {
                        bitnet_attention_args one = *a;
                        one.q += t * a->q_stride;
                        one.y += t * a->y_stride;
                        one.tokens = 1;
                        one.past = a->past + t;
                        if (a->window != 0) one.window = a->window + t;
                        builtin(Op::kAttention)(one);
                      }
                    },
                    Format::kF16),
                "window 1,");
  // A position that no token sees is read.
  expect_caught(broken<bitnet_attention_args>(
                    Op::kAttention,
                    [](const bitnet_attention_args* a) {
                      builtin(Op::kAttention)(*a);
                      const std::int64_t seen = a->past + a->tokens;
                      const auto* page = static_cast<const volatile std::uint16_t*>(a->value_pages[(seen - 1) / 256]);
                      static_cast<void>(page[((seen - 1) % 256 + 1) * a->head_dim]);
                    },
                    Format::kF16),
                "outside");
}

TEST_CASE("the tester objects to a screening sum of 32 bits") {
  expect_caught(broken<bitnet_head_screen_args>(
                    Op::kHeadScreen,
                    [](const bitnet_head_screen_args* a) {
                      const std::int64_t width = BITNET_SCREEN_WIDTH(a->k);
                      for (std::int64_t t = 0; t < a->tokens; ++t) {
                        for (std::int64_t r = a->row_begin; r < a->row_end; ++r) {
                          std::uint32_t sum = 0;
                          for (std::int64_t i = 0; i < a->k; ++i) {
                            sum += static_cast<std::uint32_t>(a->weights[r * width + i] *
                                                              a->x[(i / 64 * a->tokens + t) * 64 + i % 64]);
                          }
                          a->y[t * a->y_stride + r] =
                              static_cast<float>(static_cast<std::int32_t>(sum)) * (a->row_scales[r] * a->x_scales[t]);
                        }
                      }
                    }),
                "127 x");
}

TEST_CASE("the tester objects to screening that takes another token's scale, or one token too few") {
  expect_caught(broken<bitnet_head_screen_args>(Op::kHeadScreen,
                                                [](const bitnet_head_screen_args* a) {
                                                  const std::vector<float> same(static_cast<std::size_t>(a->tokens),
                                                                                a->x_scales[0]);
                                                  bitnet_head_screen_args one = *a;
                                                  one.x_scales = same.data();
                                                  builtin(Op::kHeadScreen)(one);
                                                }),
                "tokens");
  expect_caught(broken<bitnet_head_screen_args>(Op::kHeadScreen,
                                                [](const bitnet_head_screen_args* a) {
                                                  bitnet_head_screen_args less = *a;
                                                  if (a->tokens == 9) less.tokens = 8;
                                                  builtin(Op::kHeadScreen)(less);
                                                }),
                "9 tokens");
}

TEST_CASE("the tester objects to another order of operations in gelu, and to what layer_norm leaves out") {
  expect_caught(broken<bitnet_gelu_args>(Op::kGelu,
                                         [](const bitnet_gelu_args* a) {
                                           for (std::int64_t i = 0; i < a->k; ++i) {
                                             const float x = a->x[i];
                                             const float v = 1.5957691216057308F * (x + 0.044715F * (x * x * x));
                                             a->y[i] = x / (1.0F + reference::exp(-v));
                                           }
                                         }),
                "expected");
  expect_caught(broken<bitnet_gate_args>(Op::kGeluGate,
                                         [](const bitnet_gate_args* a) {
                                           const std::vector<float> gate(a->gate, a->gate + a->k);
                                           bitnet_gate_args turned = *a;
                                           turned.gate = a->up;
                                           turned.up = gate.data();
                                           builtin(Op::kGeluGate)(turned);
                                         }),
                "expected");
  // Squares of x, less that of the mean: cancels.
  expect_caught(broken<bitnet_layer_norm_args>(
                    Op::kLayerNorm,
                    [](const bitnet_layer_norm_args* a) {
                      const auto k = static_cast<float>(a->k);
                      const float mean = reference::sum(a->x, a->k) / k;
                      const float inv = 1.0F / std::sqrt(reference::dot(a->x, a->x, a->k) / k - mean * mean + a->eps);
                      for (std::int64_t i = 0; i < a->k; ++i) {
                        a->y[i] = ((a->x[i] - mean) * inv) * a->gain[i] + a->bias[i];
                      }
                    }),
                "expected");
  // The zeros of the last block, less the mean, count as elements.
  expect_caught(broken<bitnet_layer_norm_args>(
                    Op::kLayerNorm,
                    [](const bitnet_layer_norm_args* a) {
                      const float mean = reference::sum(a->x, a->k) / static_cast<float>(a->k);
                      std::vector<float> centred(static_cast<std::size_t>((a->k + 15) / 16 * 16), -mean);
                      for (std::int64_t i = 0; i < a->k; ++i) centred[static_cast<std::size_t>(i)] = a->x[i] - mean;
                      const float squares =
                          reference::dot(centred.data(), centred.data(), static_cast<std::int64_t>(centred.size()));
                      const float inv = 1.0F / std::sqrt(squares / static_cast<float>(a->k) + a->eps);
                      for (std::int64_t i = 0; i < a->k; ++i) {
                        a->y[i] = (centred[static_cast<std::size_t>(i)] * inv) * a->gain[i] + a->bias[i];
                      }
                    }),
                "expected");
}

TEST_CASE("the tester objects to rows of blocks that count values beyond k, or whose factor comes last") {
  expect_caught(broken<bitnet_head_args>(
                    Op::kHead,
                    [](const bitnet_head_args* a) {
                      std::vector<float> x(a->x, a->x + a->k);
                      x.resize(static_cast<std::size_t>((a->k + 31) / 32 * 32), 1e-6F);
                      bitnet_head_args whole = *a;
                      whole.x = x.data();
                      whole.k = static_cast<std::int64_t>(x.size());
                      builtin(Op::kHead, Isa::kScalar, Format::kQ8)(whole);
                    },
                    Format::kQ8),
                "expected");
  // Integer products of a block, then its factor: other roundings.
  expect_caught(broken<bitnet_head_args>(
                    Op::kHead,
                    [](const bitnet_head_args* a) {
                      const auto* blocks = static_cast<const std::uint8_t*>(a->weights);
                      const std::int64_t width = (a->k + 31) / 32;
                      for (std::int64_t r = a->row_begin; r < a->row_end; ++r) {
                        float y = 0.0F;
                        for (std::int64_t b = 0; b < width; ++b) {
                          const std::uint8_t* block = blocks + (r * width + b) * 34;
                          std::uint16_t factor = 0;
                          std::memcpy(&factor, block, sizeof factor);
                          float sum = 0.0F;
                          for (std::int64_t i = 0; i < 32 && 32 * b + i < a->k; ++i) {
                            sum += static_cast<float>(static_cast<std::int8_t>(block[2 + i])) * a->x[32 * b + i];
                          }
                          y += half_to_float(factor) * sum;
                        }
                        a->y[r] = y;
                      }
                    },
                    Format::kQ8),
                "expected");
}

TEST_CASE("the tester objects to an epilogue that forgets a group or adds them first") {
  expect_caught(broken<bitnet_epilogue_args>(Op::kEpilogue,
                                             [](const bitnet_epilogue_args* a) {
                                               bitnet_epilogue_args less = *a;
                                               if (a->groups == 5) less.groups = 4;
                                               builtin(Op::kEpilogue)(less);
                                             }),
                "groups 5");
  expect_caught(broken<bitnet_epilogue_args>(Op::kEpilogue,
                                             [](const bitnet_epilogue_args* a) {
                                               if (a->scale_kind != BITNET_SCALE_ROW) return builtin(Op::kEpilogue)(*a);
                                               for (std::int64_t r = 0; r < a->rows; ++r) {
                                                 float sum = 0.0F;
                                                 for (std::int64_t g = 0; g < a->groups; ++g) {
                                                   sum += static_cast<float>(a->acc[g * a->acc_stride + r]);
                                                 }
                                                 const float v = sum * (a->scales[r] / a->activation_scale);
                                                 a->y[r] = a->add != 0 ? a->y[r] + v : v;
                                               }
                                             }),
                "scale kind 1");
}

TEST_CASE("the tester objects to a softmax that writes a whole last block") {
  expect_caught(broken<bitnet_softmax_args>(Op::kSoftmax,
                                            [](const bitnet_softmax_args* a) {
                                              builtin(Op::kSoftmax)(*a);
                                              for (std::int64_t i = a->k; i % 16 != 0; ++i) a->y[i] = 0.0F;
                                            }),
                "outside");
}

}  // namespace bitnet::test
