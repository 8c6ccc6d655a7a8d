// The steps of the forward pass (graph.h): how each is split over the threads, and the epilogues around the kernels.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/base/math.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/graph.h"
#include "runtime/model/rope.h"

namespace bitnet {
namespace {

// y[r] (or y[r] +=) = acc[r] * (scale of the row's part / activation scale), rows [begin, end).
void epilogue(const ProductShape& shape, const std::array<float, 3>& scales, float activation_scale,
              const std::int32_t* acc, float* y, std::int64_t begin, std::int64_t end, Graph::Output output) {
  for (std::size_t part = 0; part < shape.part_ends.size() && begin < end; ++part) {
    const std::int64_t part_end = std::min(end, shape.part_ends[part]);
    const float factor = scales[part] / activation_scale;
    if (output == Graph::Output::kStore) {
      for (std::int64_t r = begin; r < part_end; ++r) y[r] = static_cast<float>(acc[r]) * factor;
    } else {
      for (std::int64_t r = begin; r < part_end; ++r) y[r] += static_cast<float>(acc[r]) * factor;
    }
    begin = std::max(begin, part_end);
  }
}

Graph::Width input_width(FusedMatrix::Role role) {
  using Role = FusedMatrix::Role;
  if (role == Role::kAttentionOutput) return Graph::kAttention;
  return role == Role::kDown ? Graph::kFfn : Graph::kHidden;
}

}  // namespace

void Graph::embed(std::span<const std::int32_t> ids) {
  tokens = static_cast<std::int64_t>(ids.size());
  for (std::int64_t t = 0; t < tokens; ++t) {
    float* row = x + t * config.hidden;
    const std::int64_t first = ids[static_cast<std::size_t>(t)] * config.hidden;
    if (model.head_f16) {
      const auto* half = reinterpret_cast<const std::uint16_t*>(model.head) + first;
      for (std::int64_t i = 0; i < config.hidden; ++i) row[i] = half_to_float(half[i]);
    } else {
      std::memcpy(row, reinterpret_cast<const float*>(model.head) + first,
                  static_cast<std::size_t>(config.hidden) * sizeof(float));
    }
  }
  for (; angles < past + tokens; ++angles) {
    const std::int64_t at = angles * (config.rope_dim / 2);
    rope_angles(angles, config.rope_dim, config.rope_base, cosines + at, sines + at);
  }
}

void Graph::norm_quantize(Width width, const float* in, const float* gain) {
  const Step step = width == kHidden      ? Step::kNormQuantizeHidden
                    : width == kAttention ? Step::kNormQuantizeAttention
                                          : Step::kNormQuantizeFfn;
  const Kernel& kernel = chosen(step).kernel;
  const std::int64_t k = width_of(width);
  const std::int64_t stride = width == kFfn ? y_width : k;
  const std::int64_t padded = BITNET_ACTIVATION_WIDTH(k);
  pool.parallel_for(tokens, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
    auto* work = reinterpret_cast<float*>(scratch[static_cast<std::size_t>(thread)]);
    for (std::int64_t t = begin; t < end; ++t) {
      kernel(bitnet_norm_quantize_args{in + t * stride, gain, q8[width] + t * padded, s8 + t, sum8 + t, work, k,
                                       config.norm_eps});
    }
  });
  count(step, tokens);
}

void Graph::product(FusedMatrix::Role role, const LayerWeights& layer, Output output) {
  const auto index = static_cast<std::size_t>(role);
  const ProductShape& shape = model.products[index];
  const LayerWeights::Product& weights = layer.products[index];
  const std::int8_t* rows = q8[input_width(role)];
  float* const out = output == Output::kStore ? y : x;
  const std::int64_t out_stride = output == Output::kStore ? y_width : config.hidden;

  if (tokens == 1) {
    const Kernel& gemv = chosen(gemv_step(role)).kernel;
    pool.parallel_for(shape.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int) {
      gemv(bitnet_gemv_args{weights.weights, rows, sum8, acc, nullptr, begin, end, 0, shape.n, shape.k});
      epilogue(shape, weights.scales, s8[0], acc, out, begin, end, output);
    });
    count(gemv_step(role), 1);
    return;
  }

  const Kernel& gemm = chosen(gemm_step(role)).kernel;
  const std::int64_t tile = gemm.token_tile;
  const std::int64_t blocks = ceil_div<std::int64_t>(tokens, tile);
  pool.parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end, int) {
    pack_activations(rows, tokens, shape.k, gemm.token_tile, begin, end, packed);
  });
  std::fill(sum8 + tokens, sum8 + blocks * tile, 0);
  const std::int64_t padded = BITNET_ACTIVATION_WIDTH(shape.k);
  const std::int64_t chunk = std::max<std::int64_t>(kGemmTokens / tile, 1) * tile;
  // Rows whose integer products of one chunk stay in cache until the epilogue has read them.
  constexpr std::int64_t kRows = 256;
  pool.parallel_for(shape.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t t = 0; t < tokens; t += chunk) {
      const std::int64_t many = std::min(chunk, tokens - t);
      for (std::int64_t row = begin; row < end; row += kRows) {
        const std::int64_t row_end = std::min(row + kRows, end);
        gemm(bitnet_gemm_args{weights.weights, packed + t * padded, sum8 + t, acc,
                              scratch[static_cast<std::size_t>(thread)], row, row_end, many, y_width, 0, 0, shape.n,
                              shape.k});
        for (std::int64_t i = 0; i < many; ++i) {
          epilogue(shape, weights.scales, s8[t + i], acc + i * y_width, out + (t + i) * out_stride, row, row_end,
                   output);
        }
      }
    }
  });
  count(gemm_step(role), 1);
}

void Graph::rope_and_store(std::int64_t layer) {
  const std::int64_t dim = config.head_dim;
  const std::int64_t group = config.heads / config.kv_heads;
  // A unit is a key/value head of a token, with the query heads that share it.
  pool.parallel_for(tokens * config.kv_heads, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t t = unit / config.kv_heads;
      const std::int64_t head = unit % config.kv_heads;
      const std::int64_t position = past + t;
      const float* cosine = cosines + position * (config.rope_dim / 2);
      const float* sine = sines + position * (config.rope_dim / 2);
      float* q = y + t * y_width + head * group * dim;
      float* k = y + t * y_width + q_width + head * dim;
      const float* v = k + config.kv_heads * dim;
      for (std::int64_t g = 0; g < group; ++g) rope_rotate(q + g * dim, config.rope_dim, cosine, sine);
      rope_rotate(k, config.rope_dim, cosine, sine);
      round_to_half({q, static_cast<std::size_t>(group * dim)});
      convert_to_half({k, static_cast<std::size_t>(dim)}, key_rows(layer, head) + position * dim);
      convert_to_half({v, static_cast<std::size_t>(dim)}, value_rows(layer, head) + position * dim);
    }
  });
}

void Graph::attend(std::int64_t layer) {
  const Kernel& kernel = chosen(Step::kAttention).kernel;
  const std::int64_t dim = config.head_dim;
  const std::int64_t group = config.heads / config.kv_heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  const std::int64_t units = tokens * config.kv_heads;
  // Later tokens see more positions: threads take every size()-th token of a head, which balances them.
  pool.run([&](int thread) {
    auto* work = reinterpret_cast<float*>(scratch[static_cast<std::size_t>(thread)]);
    for (std::int64_t unit = thread; unit < units; unit += pool.size()) {
      const std::int64_t head = unit / tokens;
      const std::int64_t t = unit % tokens;
      kernel(bitnet_attention_args{y + t * y_width + head * group * dim, key_pages(layer, head),
                                   value_pages(layer, head), attended + t * q_width + head * group * dim, work, group,
                                   dim, 1, past + t, q_width, q_width, scale});
    }
  });
  count(Step::kAttention, units);
}

void Graph::gate() {
  const Kernel& kernel = chosen(Step::kGate).kernel;
  pool.parallel_for(tokens, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t) {
      float* row = y + t * y_width;
      kernel(bitnet_gate_args{row, row + config.ffn, row, config.ffn});
    }
  });
  count(Step::kGate, tokens);
}

void Graph::output_norm(std::int64_t first, std::int64_t count_tokens) {
  const Kernel& kernel = chosen(Step::kNorm).kernel;
  for (std::int64_t t = first; t < first + count_tokens; ++t) {
    kernel(bitnet_norm_args{x + t * config.hidden, model.output_norm, result + t * config.hidden, config.hidden,
                            config.norm_eps});
  }
  count(Step::kNorm, count_tokens);
}

}  // namespace bitnet
