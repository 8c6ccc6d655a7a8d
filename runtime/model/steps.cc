// The steps of the forward pass (graph.h): how each is split over the threads, and what its kernel is handed.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include "runtime/base/half.h"
#include "runtime/base/mapped_file.h"
#include "runtime/base/math.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/graph.h"
#include "runtime/model/rope.h"

namespace bitnet {
namespace {

// y[r] (or y[r] +=) = acc[r] * (scale of the row's part / activation scale), rows [begin, end).
void epilogue(const Kernel& kernel, const ProductShape& shape, const std::array<float, 3>& scales,
              float activation_scale, const std::int32_t* acc, float* y, std::int64_t begin, std::int64_t end,
              Graph::Output output) {
  for (std::size_t part = 0; part < shape.part_ends.size() && begin < end; ++part) {
    const std::int64_t part_end = std::min(end, shape.part_ends[part]);
    if (part_end <= begin) continue;
    kernel(bitnet_epilogue_args{.acc = acc + begin,
                                .scales = &scales[part],
                                .y = y + begin,
                                .rows = part_end - begin,
                                .groups = 1,
                                .acc_stride = 0,
                                .scale_stride = 0,
                                .activation_scale = activation_scale,
                                .scale_kind = BITNET_SCALE_TENSOR,
                                .add = output == Graph::Output::kStore ? 0 : 1});
    begin = part_end;
  }
}

Graph::Width input_width(FusedMatrix::Role role) {
  using Role = FusedMatrix::Role;
  if (role == Role::kAttentionOutput) return Graph::kAttention;
  return role == Role::kDown ? Graph::kFfn : Graph::kHidden;
}

}  // namespace

// Each row read from the mapped file brings in more than its own pages; some rows at a time they are given back.
void Graph::give_back_rows() {
  constexpr std::int64_t kRows = 64;
  if (model.embedding.size() != 0 || ++rows_read < kRows) return;
  rows_read = 0;
  if (model.file.mapping() != nullptr) model.file.mapping()->release(model.tensors.token_embd->data);
}

void Graph::embed(std::span<const std::int32_t> ids) {
  tokens = static_cast<std::int64_t>(ids.size());
  for (std::int64_t t = 0; t < tokens; ++t) {
    give_back_rows();
    float* row = x + t * config.hidden;
    const std::int64_t first = ids[static_cast<std::size_t>(t)] * config.hidden;
    const auto* half = reinterpret_cast<const std::uint16_t*>(model.head) + first;
    switch (chosen(Step::kHead).kernel.format) {
      case Format::kF16:
        for (std::int64_t i = 0; i < config.hidden; ++i) row[i] = half_to_float(half[i]);
        break;
      case Format::kBf16:
        for (std::int64_t i = 0; i < config.hidden; ++i) row[i] = std::bit_cast<float>(std::uint32_t{half[i]} << 16);
        break;
      default:
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
    const Stopwatch watch(clock_of(step, thread));
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
  const Kernel& scale = chosen(Step::kEpilogue).kernel;
  const Step step = model.kernels.product(role, tokens);
  const Kernel& kernel = chosen(step).kernel;
  count(step, 1, static_cast<std::int64_t>(matrix_bytes(layout_of(kernel.format), shape.n, shape.k)),
        2 * shape.n * shape.k * tokens);
  count(Step::kEpilogue, tokens);

  if (kernel.op == Op::kGemv) {
    pool.parallel_for(shape.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int thread) {
      std::optional<Stopwatch> watch(clock_of(step, thread));
      kernel(bitnet_gemv_args{.weights = weights.weights,
                              .x = rows,
                              .x_sums = sum8,
                              .y = acc,
                              .scratch = scratch[static_cast<std::size_t>(thread)],
                              .row_begin = begin,
                              .row_end = end,
                              .y_stride = y_width,
                              .n = shape.n,
                              .k = shape.k});
      watch.emplace(clock_of(Step::kEpilogue, thread));
      epilogue(scale, shape, weights.scales, s8[0], acc, out, begin, end, output);
    });
    return;
  }

  const std::int64_t tile = kernel.token_tile;
  const std::int64_t blocks = ceil_div<std::int64_t>(tokens, tile);
  pool.parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end, int) {
    pack_activations(rows, tokens, shape.k, kernel.token_tile, begin, end, packed);
  });
  std::fill(sum8 + tokens, sum8 + blocks * tile, 0);
  const std::int64_t width = BITNET_ACTIVATION_WIDTH(shape.k);
  const std::int64_t chunk = std::max<std::int64_t>(kGemmTokens / tile, 1) * tile;
  // Rows whose integer products of one chunk stay in cache until the epilogue has read them. A kernel that makes tables
  // of the activations makes them once per call, so it gets more rows.
  const std::int64_t block_rows = kernel.format == Format::kTl1 || kernel.format == Format::kTl2 ? 1024 : 256;
  pool.parallel_for(shape.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t t = 0; t < tokens; t += chunk) {
      const std::int64_t many = std::min(chunk, tokens - t);
      for (std::int64_t row = begin; row < end; row += block_rows) {
        const std::int64_t row_end = std::min(row + block_rows, end);
        std::optional<Stopwatch> watch(clock_of(step, thread));
        kernel(bitnet_gemm_args{.weights = weights.weights,
                                .x = packed + t * width,
                                .x_sums = sum8 + t,
                                .y = acc,
                                .scratch = scratch[static_cast<std::size_t>(thread)],
                                .row_begin = row,
                                .row_end = row_end,
                                .tokens = many,
                                .y_stride = y_width,
                                .group_stride = y_width,
                                .sums_stride = 0,
                                .n = shape.n,
                                .k = shape.k});
        watch.emplace(clock_of(Step::kEpilogue, thread));
        for (std::int64_t i = 0; i < many; ++i) {
          epilogue(scale, shape, weights.scales, s8[t + i], acc + i * y_width, out + (t + i) * out_stride, row, row_end,
                   output);
        }
      }
    }
  });
}

void Graph::rope_and_store(std::int64_t layer) {
  const std::int64_t dim = config.head_dim;
  const std::int64_t group = config.heads / config.kv_heads;
  const Kernel& rope = chosen(Step::kRope).kernel;
  const Kernel& quantize = chosen(Step::kQuantizeHeads).kernel;
  // int8 keys or values of one head and position, x ~ int8 * factor.
  const auto store_int8 = [&](const float* row, const KvCache::Slot& slot) {
    float scale = 0.0F;
    std::int32_t sum = 0;
    quantize(bitnet_quantize_args{row, cache.int8_row(slot), &scale, &sum, dim});
    *cache.int8_factor(slot) = 1.0F / scale;
  };
  // A unit is a key/value head of a token, with the query heads that share it.
  pool.parallel_for(tokens * config.kv_heads, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
    const Stopwatch watch(clock_of(Step::kRope, thread));
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t t = unit / config.kv_heads;
      const std::int64_t head = unit % config.kv_heads;
      const std::int64_t position = past + t;
      const float* cosine = cosines + position * (config.rope_dim / 2);
      const float* sine = sines + position * (config.rope_dim / 2);
      float* q = y + t * y_width + head * group * dim;
      float* k = y + t * y_width + q_width + head * dim;
      const float* v = k + config.kv_heads * dim;
      rope(bitnet_rope_args{q, cosine, sine, group, dim, config.rope_dim, BITNET_ROPE_NEOX});
      rope(bitnet_rope_args{k, cosine, sine, 1, dim, config.rope_dim, BITNET_ROPE_NEOX});
      round_to_half({q, static_cast<std::size_t>(group * dim)});
      const KvCache::Slot key = cache.key_slot(layer, head, position);
      const KvCache::Slot value = cache.value_slot(layer, head, position);
      if (kv_type == KvType::kI8) {
        store_int8(k, key);
        store_int8(v, value);
      } else {
        convert_to_half({k, static_cast<std::size_t>(dim)}, cache.half_row(key));
        convert_to_half({v, static_cast<std::size_t>(dim)}, cache.half_row(value));
      }
    }
  });
  count(Step::kRope, 2 * tokens * config.kv_heads);
  if (kv_type == KvType::kI8) count(Step::kQuantizeHeads, 2 * tokens * config.kv_heads);
}

void Graph::attend(std::int64_t layer) {
  const Kernel& kernel = chosen(attention_step()).kernel;
  const std::int64_t dim = config.head_dim;
  const std::int64_t group = config.heads / config.kv_heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  // A unit is a block of tokens of one key/value head: the kernel reads keys and values once for the rows that it works
  // on side by side. Later tokens see more positions: threads take every size()-th block, which balances them.
  constexpr std::int64_t kBlock = BITNET_ATTENTION_ROWS;
  const std::int64_t blocks = ceil_div(tokens, kBlock);
  const std::int64_t units = blocks * config.kv_heads;
  pool.run([&](int thread) {
    auto* work = reinterpret_cast<float*>(scratch[static_cast<std::size_t>(thread)]);
    const Stopwatch watch(clock_of(attention_step(), thread));
    for (std::int64_t unit = thread; unit < units; unit += pool.size()) {
      const std::int64_t head = unit / blocks;
      const std::int64_t t = unit % blocks * kBlock;
      kernel(bitnet_attention_args{.q = y + t * y_width + head * group * dim,
                                   .key_pages = cache.key_pages(layer, head),
                                   .value_pages = cache.value_pages(layer, head),
                                   .y = attended + t * q_width + head * group * dim,
                                   .scratch = work,
                                   .heads = group,
                                   .head_dim = dim,
                                   .tokens = std::min(kBlock, tokens - t),
                                   .past = past + t,
                                   .q_stride = y_width,
                                   .y_stride = q_width,
                                   .scale = scale});
    }
  });
  std::int64_t positions = 0;  // of one key/value head, over its blocks
  for (std::int64_t t = 0; t < tokens; t += kBlock) positions += past + std::min(t + kBlock, tokens);
  const std::int64_t row_bytes =
      kv_type == KvType::kF16 ? dim * std::int64_t{sizeof(std::uint16_t)} : dim + std::int64_t{sizeof(float)};
  count(attention_step(), units, 2 * config.kv_heads * positions * row_bytes);
}

void Graph::gate() {
  const Kernel& kernel = chosen(Step::kGate).kernel;
  pool.parallel_for(tokens, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
    const Stopwatch watch(clock_of(Step::kGate, thread));
    for (std::int64_t t = begin; t < end; ++t) {
      float* row = y + t * y_width;
      kernel(bitnet_gate_args{row, row + config.ffn, row, config.ffn});
    }
  });
  count(Step::kGate, tokens);
}

void Graph::output_norm(std::int64_t first, std::int64_t count_tokens) {
  const Kernel& kernel = chosen(Step::kNorm).kernel;
  const Stopwatch watch(clock_of(Step::kNorm, 0));
  for (std::int64_t t = first; t < first + count_tokens; ++t) {
    kernel(bitnet_norm_args{x + t * config.hidden, model.output_norm, result + t * config.hidden, config.hidden,
                            config.norm_eps});
  }
  count(Step::kNorm, count_tokens);
}

}  // namespace bitnet
