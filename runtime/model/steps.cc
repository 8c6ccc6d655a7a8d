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

// Tokens by which the epilogue of several tokens looks ahead.
constexpr std::int64_t kRowsAhead = 3;

// For writing: the lines of `count` 4-byte elements.
void prefetch_row(const void* row, std::int64_t count) {
  constexpr std::int64_t kLine = 64;
  const auto* bytes = static_cast<const std::byte*>(row);
  for (std::int64_t at = 0; at < count * 4; at += kLine) __builtin_prefetch(bytes + at, 1);
}

Graph::Width input_width(FusedMatrix::Role role) {
  using Role = FusedMatrix::Role;
  if (role == Role::kAttentionOutput) return Graph::kAttention;
  return role == Role::kDown ? Graph::kFfn : Graph::kHidden;
}

}  // namespace

// Each row read from the mapped file brings in more than its own pages; some rows at a time they are given back.
void Graph::give_back_rows() {
  constexpr std::int64_t kRows = 8;  // 16 MiB where the system keeps the file in large pages
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

void Graph::quantize_input(FusedMatrix::Role role, const LayerWeights& layer, const Share& share) {
  const Width width = input_width(role);
  const Step step = width == kHidden      ? Step::kNormQuantizeHidden
                    : width == kAttention ? Step::kNormQuantizeAttention
                                          : Step::kNormQuantizeFfn;
  const Kernel& kernel = chosen(step).kernel;
  const Kernel& gate = chosen(Step::kGate).kernel;
  const std::int64_t k = width_of(width);
  const std::int64_t padded = BITNET_ACTIVATION_WIDTH(k);
  const float* gain = role == FusedMatrix::Role::kQkv               ? layer.attn_norm
                      : role == FusedMatrix::Role::kAttentionOutput ? layer.attn_sub_norm
                      : role == FusedMatrix::Role::kGateUp          ? layer.ffn_norm
                                                                    : layer.ffn_sub_norm;
  const auto thread = static_cast<std::size_t>(share.thread);
  auto* const work = reinterpret_cast<float*>(scratch[thread]);
  const auto quantize = [&](const Quantized& to, std::int64_t t) {
    const float* in = width == kHidden ? x + t * k : attended + t * k;
    if (width == kFfn) {
      const Stopwatch watch(clock_of(Step::kGate, share.thread));
      const float* row = y + t * y_width;
      gate(bitnet_gate_args{row, row + config.ffn, gated[thread], config.ffn});
      in = gated[thread];
    }
    const Stopwatch watch(clock_of(step, share.thread));
    kernel(bitnet_norm_quantize_args{in, gain, to.q[width] + t * padded, to.scales + t, to.sums + t, work, k,
                                     config.norm_eps});
  };
  if (share.thread == 0) {
    count(step, tokens);
    if (width == kFfn) count(Step::kGate, tokens);
  }
  if (tokens == 1) return quantize(quantized_by(share.thread), 0);

  // Whole token blocks are quantised and packed by one thread, if there are enough of them for all.
  const std::int32_t tile = chosen(model.kernels.product(role, tokens)).kernel.token_tile;
  const std::int64_t blocks = ceil_div<std::int64_t>(tokens, tile);
  if (share.thread == 0) std::fill(q8.sums + tokens, q8.sums + blocks * tile, 0);
  const auto pack = [&](std::int64_t block, std::int64_t k_begin, std::int64_t k_end) {
    const std::int64_t t = block * tile;
    pack_block(q8.q[width] + t * padded, std::min<std::int64_t>(tile, tokens - t), k, tile, k_begin, k_end,
               packed + t * padded);
  };
  if (blocks >= share.threads) {
    share.of(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block) {
        const std::int64_t stop = std::min(tokens, (block + 1) * tile);
        for (std::int64_t t = block * tile; t < stop; ++t) quantize(q8, t);
        pack(block, 0, padded);
      }
    });
  } else {
    share.of(tokens, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) quantize(q8, t);
    });
    pool.meet();
    share.of(padded, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = 0; block < blocks; ++block) pack(block, begin, end);
    });
  }
  pool.meet();
}

void Graph::product(FusedMatrix::Role role, const LayerWeights& layer, Output output, const Share& share) {
  const auto index = static_cast<std::size_t>(role);
  const ProductShape& shape = model.products[index];
  const LayerWeights::Product& weights = layer.products[index];
  float* const out = output == Output::kStore ? y : x;
  const std::int64_t out_stride = output == Output::kStore ? y_width : config.hidden;
  const Kernel& scale = chosen(Step::kEpilogue).kernel;
  const Step step = model.kernels.product(role, tokens);
  const Kernel& kernel = chosen(step).kernel;
  std::byte* const work = scratch[static_cast<std::size_t>(share.thread)];
  if (share.thread == 0) {
    count(step, 1, static_cast<std::int64_t>(matrix_bytes(layout_of(kernel.format), shape.n, shape.k)),
          2 * shape.n * shape.k * tokens);
    count(Step::kEpilogue, tokens);
  }

  if (kernel.op == Op::kGemv) {
    const Quantized& in = quantized_by(share.thread);
    share.of(shape.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end) {
      std::optional<Stopwatch> watch(clock_of(step, share.thread));
      kernel(bitnet_gemv_args{.weights = weights.weights,
                              .x = in.q[input_width(role)],
                              .x_sums = in.sums,
                              .y = acc,
                              .scratch = work,
                              .row_begin = begin,
                              .row_end = end,
                              .y_stride = y_width,
                              .n = shape.n,
                              .k = shape.k});
      watch.emplace(clock_of(Step::kEpilogue, share.thread));
      epilogue(scale, shape, weights.scales, in.scales[0], acc, out, begin, end, output);
    });
    return;
  }

  const std::int64_t tile = kernel.token_tile;
  const std::int64_t width = BITNET_ACTIVATION_WIDTH(shape.k);
  const std::int64_t chunk = std::max<std::int64_t>(kGemmTokens / tile, 1) * tile;
  const std::int64_t block_rows = acc_count(kernel) / std::min(chunk, tokens) / BITNET_TILE_ROWS * BITNET_TILE_ROWS;
  std::int32_t* const products = acc_blocks[static_cast<std::size_t>(share.thread)];
  share.of(shape.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < tokens; t += chunk) {
      const std::int64_t many = std::min(chunk, tokens - t);
      for (std::int64_t row = begin; row < end; row += block_rows) {
        const std::int64_t row_end = std::min(row + block_rows, end);
        std::optional<Stopwatch> watch(clock_of(step, share.thread));
        kernel(bitnet_gemm_args{.weights = weights.weights,
                                .x = packed + t * width,
                                .x_sums = q8.sums + t,
                                .y = products + (y_width - row),
                                .scratch = work,
                                .row_begin = row,
                                .row_end = row_end,
                                .tokens = many,
                                .y_stride = block_rows,
                                .group_stride = block_rows,
                                .sums_stride = 0,
                                .n = shape.n,
                                .k = shape.k});
        watch.emplace(clock_of(Step::kEpilogue, share.thread));
        for (std::int64_t i = 0; i < many; ++i) {
          // The rows of two tokens lie too far apart for the CPU to foresee the next.
          const std::int64_t ahead = std::min(i + kRowsAhead, many - 1);
          prefetch_row(out + (t + ahead) * out_stride + row, row_end - row);
          epilogue(scale, shape, weights.scales, q8.scales[t + i], products + (y_width - row) + i * block_rows,
                   out + (t + i) * out_stride, row, row_end, output);
        }
      }
    }
  });
}

void Graph::rope_and_store(std::int64_t layer, const Share& share) {
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
  share.of(tokens * config.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    const Stopwatch watch(clock_of(Step::kRope, share.thread));
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
  if (share.thread != 0) return;
  count(Step::kRope, 2 * tokens * config.kv_heads);
  if (kv_type == KvType::kI8) count(Step::kQuantizeHeads, 2 * tokens * config.kv_heads);
}

void Graph::attend(std::int64_t layer, const Share& share) {
  const Kernel& kernel = chosen(attention_step()).kernel;
  const std::int64_t dim = config.head_dim;
  const std::int64_t group = config.heads / config.kv_heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  auto* const work = reinterpret_cast<float*>(scratch[static_cast<std::size_t>(share.thread)]);
  // Query heads [first, last) of one key/value head, `many` tokens from t on; `then` is the head that this thread takes
  // next, or kv_heads.
  const auto call = [&](std::int64_t kv_head, std::int64_t first, std::int64_t last, std::int64_t t, std::int64_t many,
                        std::int64_t then) {
    kernel(bitnet_attention_args{
        .q = y + t * y_width + first * dim,
        .key_pages = cache.key_pages(layer, kv_head),
        .value_pages = cache.value_pages(layer, kv_head),
        .y = attended + t * q_width + first * dim,
        .scratch = work,
        .heads = last - first,
        .head_dim = dim,
        .tokens = many,
        .past = past + t,
        .window = 0,
        .q_stride = y_width,
        .y_stride = q_width,
        .next = then == kv_head || then == config.kv_heads ? nullptr : *cache.key_pages(layer, then),
        .scale = scale});
  };
  const Stopwatch watch(clock_of(attention_step(), share.thread));
  constexpr std::int64_t kBlock = BITNET_ATTENTION_ROWS;
  const std::int64_t blocks = ceil_div(tokens, kBlock);
  if (tokens == 1) {
    // Query heads are split evenly, also those of one key/value head.
    share.of(config.heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t head = begin; head < end;) {
        const std::int64_t stop = std::min(end, (head / group + 1) * group);
        call(head / group, head, stop, 0, 1, stop < end ? stop / group : config.kv_heads);
        head = stop;
      }
    });
  } else {
    // A unit is a block of tokens of one key/value head: the kernel reads keys and values once for the rows that it
    // works on side by side. Later tokens see more positions: threads take every threads-th block, of every second head
    // from the other end, which balances them.
    for (std::int64_t unit = share.thread; unit < blocks * config.kv_heads; unit += share.threads) {
      const std::int64_t head = unit / blocks;
      const std::int64_t block = head % 2 == 0 ? unit % blocks : blocks - 1 - unit % blocks;
      const std::int64_t t = block * kBlock;
      const std::int64_t then = std::min((unit + share.threads) / blocks, config.kv_heads);
      call(head, head * group, (head + 1) * group, t, std::min(kBlock, tokens - t), then);
    }
  }
  if (share.thread != 0) return;
  std::int64_t positions = 0;  // of one key/value head, over its blocks
  for (std::int64_t t = 0; t < tokens; t += kBlock) positions += past + std::min(t + kBlock, tokens);
  const std::int64_t row_bytes =
      kv_type == KvType::kF16 ? dim * std::int64_t{sizeof(std::uint16_t)} : dim + std::int64_t{sizeof(float)};
  count(attention_step(), blocks * config.kv_heads, 2 * config.kv_heads * positions * row_bytes);
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
