// The matrix products of the forward pass (graph.h): their inputs, how rows and tokens are cut into kernel calls, and
// what happens to the outputs behind the kernels. Ternary products are exact integer products of quantised inputs,
// scaled by op epilogue; dense ones are `head` kernels on float inputs, token by token over blocks of rows that stay in
// the L2 cache.
#include <algorithm>
#include <cstring>
#include <optional>

#include "runtime/base/math.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/graph.h"

namespace bitnet {

// Where the rows of a product go: rows[t * stride + r] = v, or += v with `add`.
struct Graph::Target {
  float* rows;
  std::int64_t stride;
  bool add;       // by the epilogue
  bool residual;  // behind it: x += rows * residual_scale
};

namespace {

using Role = FusedMatrix::Role;

// Integer products of a call for several tokens: they stay in L2 until the epilogue has read them.
constexpr std::int64_t kSums = std::int64_t{128} * 256;
// Tokens per GEMM call: enough to hide the decoding of weights, few enough that their activations stay in L2.
constexpr std::int64_t kGemmTokens = 128;
constexpr std::int64_t kGroupTokens = 16;  // the same with K-groups, where each token has many sums

// Tokens by which the epilogue of several tokens looks ahead.
constexpr std::int64_t kRowsAhead = 3;

// For writing: the lines of `count` 4-byte elements.
void prefetch_row(const void* row, std::int64_t count) {
  constexpr std::int64_t kLine = 64;
  const auto* bytes = static_cast<const std::byte*>(row);
  for (std::int64_t at = 0; at < count * 4; at += kLine) __builtin_prefetch(bytes + at, 1);
}

Graph::Width input_width(Role role) {
  if (role == Role::kAttentionOutput) return Graph::kAttention;
  return role == Role::kDown ? Graph::kFfn : Graph::kHidden;
}

const NormWeights& input_norm(Role role, const LayerWeights& layer) {
  switch (role) {
    case Role::kAttentionOutput:
      return layer.attn_sub_norm;
    case Role::kDown:
      return layer.ffn_sub_norm;
    case Role::kGateUp:
    case Role::kUp:
      return layer.ffn_norm;
    default:
      return layer.attn_norm;
  }
}

const NormWeights& post_norm(Role role, const LayerWeights& layer) {
  return role == Role::kDown ? layer.post_ffn_norm : layer.post_attn_norm;
}

Step norm_quantize_step(Graph::Width width) {
  if (width == Graph::kHidden) return Step::kNormQuantizeHidden;
  return width == Graph::kAttention ? Step::kNormQuantizeAttention : Step::kNormQuantizeFfn;
}
Step norm_step(const NormWeights& norm) { return norm.kind == NormKind::kRms ? Step::kNorm : Step::kLayerNorm; }

// y[r] (or y[r] +=) = products of row r with its scales, rows [begin, end); acc[g * acc_stride + r].
void epilogue(const Kernel& kernel, const ProductWeights& product, float activation_scale, const std::int32_t* acc,
              std::int64_t acc_stride, float* y, std::int64_t begin, std::int64_t end, bool add) {
  for (const PartWeights& part : product.parts) {
    const std::int64_t first = std::max(begin, part.begin);
    const std::int64_t last = std::min(end, part.end);
    if (first >= last) continue;
    kernel(bitnet_epilogue_args{
        .acc = acc + first,
        .scales = part.scale_kind == BITNET_SCALE_TENSOR ? &part.scale : part.scales + (first - part.begin),
        .y = y + first,
        .rows = last - first,
        .groups = group_count(product.k, product.group),
        .acc_stride = acc_stride,
        .scale_stride = part.end - part.begin,
        .activation_scale = activation_scale,
        .scale_kind = part.scale_kind,
        .add = add ? 1 : 0});
  }
}

}  // namespace

Graph::Calls Graph::calls_of(const Kernel& kernel, std::int64_t groups, std::int64_t tokens) {
  // A kernel that makes tables of the activations makes them once per call, so it gets more rows.
  const bool tables = kernel.format == Format::kTl1 || kernel.format == Format::kTl2;
  const std::int64_t room = kSums * (tables ? 4 : 1);
  const std::int64_t most = groups == 1 ? kGemmTokens : kGroupTokens;
  Calls calls{};
  calls.tokens = std::max<std::int64_t>(most / kernel.token_tile, 1) * kernel.token_tile;
  const std::int64_t row_sums = std::min(calls.tokens, tokens) * groups;
  calls.rows = std::max<std::int64_t>(room / row_sums / BITNET_TILE_ROWS, 1) * BITNET_TILE_ROWS;
  calls.most_sums = std::max(room, calls.tokens * groups * BITNET_TILE_ROWS);
  return calls;
}

// ---- inputs --------------------------------------------------------------------------------------------------------

// A token's row as it comes out of the step before: x, attended, or act(gate) * up, made in the thread's own buffer.
const float* Graph::input_row(Width width, std::int64_t t, int thread) {
  if (width == kHidden) return x + t * config.hidden;
  if (width == kAttention) return attended + t * q_width;
  const Stopwatch watch(clock_of(Step::kGate, thread));
  const Kernel& gate = chosen(Step::kGate).kernel;
  const float* row = y + t * y_width;
  float* out = gated[static_cast<std::size_t>(thread)];
  if (config.gated) {
    gate(bitnet_gate_args{row, row + config.ffn, out, config.ffn});
  } else {
    gate(bitnet_gelu_args{row, out, config.ffn});
  }
  return out;
}

void Graph::quantize_row(const ProductWeights& product, const NormWeights& norm, Width width, std::int64_t t,
                         int thread) {
  const Quantized& to = tokens == 1 ? quantized_by(thread) : q8;
  const std::int64_t k = product.k;
  std::int8_t* q = to.q[width] + t * BITNET_ACTIVATION_WIDTH(k);
  std::int32_t whole = 0;
  std::int32_t* sum = product.group == 0 ? to.sums + t : &whole;
  const float* in = input_row(width, t, thread);
  const NormWeights* last = &norm;
  if (product.in_norm.exists()) {
    float* out = normed[static_cast<std::size_t>(thread)];
    if (norm.exists()) norm_row(norm, in, out, k, thread);
    if (norm.exists()) in = out;
    last = &product.in_norm;
  }
  if (last->exists() && last->kind == NormKind::kRms) {
    const Step step = norm_quantize_step(width);
    const Stopwatch watch(clock_of(step, thread));
    chosen(step).kernel(bitnet_norm_quantize_args{in, last->gain, q, to.scales + t, sum,
                                                  reinterpret_cast<float*>(scratch[static_cast<std::size_t>(thread)]),
                                                  k, config.norm_eps});
  } else {
    if (last->exists()) {
      float* out = normed[static_cast<std::size_t>(thread)];
      norm_row(*last, in, out, k, thread);
      in = out;
    }
    const Stopwatch watch(clock_of(Step::kQuantize, thread));
    chosen(Step::kQuantize).kernel(bitnet_quantize_args{in, q, to.scales + t, sum, k});
  }
  if (product.group == 0) return;
  const std::int64_t stride = tokens == 1 ? 1 : sums_stride;
  for (std::int64_t g = 0; g * product.group < k; ++g) {
    std::int32_t total = 0;
    const std::int64_t end = std::min<std::int64_t>((g + 1) * product.group, k);
    for (std::int64_t i = g * product.group; i < end; ++i) total += q[i];
    to.sums[g * stride + (tokens == 1 ? 0 : t)] = total;
  }
}

// Of several tokens: whole token blocks are quantised and packed by one thread, if there are enough of them for all.
void Graph::pack_inputs(const ProductWeights& product, const NormWeights& norm, Width width, const Share& share) {
  const std::int64_t k = product.k;
  const std::int64_t padded = BITNET_ACTIVATION_WIDTH(k);
  const std::int32_t tile = chosen(model.kernels.product(product.shape, tokens)).kernel.token_tile;
  const std::int64_t blocks = ceil_div<std::int64_t>(tokens, tile);
  if (share.thread == 0) {
    for (std::int64_t g = 0; g < group_count(k, product.group); ++g) {
      std::int32_t* sums = q8.sums + g * sums_stride;
      std::fill(sums + tokens, sums + blocks * tile, 0);
    }
  }
  const auto quantize = [&](std::int64_t t) { quantize_row(product, norm, width, t, share.thread); };
  const auto pack = [&](std::int64_t block, std::int64_t k_begin, std::int64_t k_end) {
    const std::int64_t t = block * tile;
    pack_block(q8.q[width] + t * padded, std::min<std::int64_t>(tile, tokens - t), k, tile, k_begin, k_end,
               packed + t * padded);
  };
  if (blocks >= share.threads) {
    share.of(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block) {
        const std::int64_t stop = std::min(tokens, (block + 1) * tile);
        for (std::int64_t t = block * tile; t < stop; ++t) quantize(t);
        pack(block, 0, padded);
      }
    });
  } else {
    share.of(tokens, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) quantize(t);
    });
    pool.meet();
    share.of(padded, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = 0; block < blocks; ++block) pack(block, begin, end);
    });
  }
  pool.meet();
}

// Of a ternary product's inputs.
void Graph::count_norms(const ProductWeights& product, const NormWeights& norm, Width width) {
  const bool two = product.in_norm.exists();
  const NormWeights& last = two ? product.in_norm : norm;
  const bool fused = last.exists() && last.kind == NormKind::kRms;
  if (norm.exists() && (two || !fused)) count(norm_step(norm), tokens);
  count(fused ? norm_quantize_step(width) : Step::kQuantize, tokens);
}

void Graph::make_input(Role role, const LayerWeights& layer, const Share& share) {
  const ProductWeights& product = layer[role];
  const NormWeights& norm = input_norm(role, layer);
  const Width width = input_width(role);
  if (share.thread == 0 && width == kFfn) count(Step::kGate, tokens);
  if (product.ternary) {
    if (share.thread == 0) count_norms(product, norm, width);
    if (tokens == 1) return quantize_row(product, norm, width, 0, share.thread);
    return pack_inputs(product, norm, width, share);
  }
  // Both norms, if any; the row is copied where `to` is given.
  const auto make = [&](std::int64_t t, float* to) {
    const float* in = input_row(width, t, share.thread);
    float* out = to != nullptr ? to : normed[static_cast<std::size_t>(share.thread)];
    for (const NormWeights* each : {&norm, &product.in_norm}) {
      if (!each->exists()) continue;
      norm_row(*each, in, out, product.k, share.thread);
      in = out;
    }
    if (to != nullptr && in != to) std::memcpy(to, in, static_cast<std::size_t>(product.k) * sizeof(float));
    return in;
  };
  if (share.thread == 0) {
    if (norm.exists()) count(norm_step(norm), tokens);
    if (product.in_norm.exists()) count(Step::kNorm, tokens);
  }
  if (tokens == 1) {
    dense_input[static_cast<std::size_t>(share.thread)] = make(0, nullptr);
    return;
  }
  share.of(tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) make(t, dense_inputs + t * product.k);
  });
  pool.meet();
}

// ---- products ------------------------------------------------------------------------------------------------------

void Graph::product(Role role, const LayerWeights& layer, Output output, const Share& share) {
  const ProductWeights& product = layer[role];
  Target target{y + product.column, y_width, false, false};
  if (output == Output::kAddToResidual) {
    const bool post = post_norm(role, layer).exists();
    const bool at_once = product.ternary && !product.has_bias && !post && config.residual_scale == 1.0F;
    target = at_once ? Target{x, config.hidden, true, false} : Target{added, config.hidden, false, !post};
  }
  if (product.ternary) {
    ternary_product(product, input_width(role), target, share);
  } else {
    dense_product(product, target, share);
  }
}

// What is left to do to rows [begin, end) of token t once the kernels are done.
void Graph::finish_rows(const ProductWeights& product, const Target& target, std::int64_t t, std::int64_t begin,
                        std::int64_t end) {
  float* const row = target.rows + t * target.stride;
  if (product.has_bias) {
    for (const PartWeights& part : product.parts) {
      if (part.bias == nullptr) continue;
      const std::int64_t last = std::min(end, part.end);
      for (std::int64_t r = std::max(begin, part.begin); r < last; ++r) row[r] += part.bias[r - part.begin];
    }
  }
  if (!target.residual) return;
  float* const sum = x + t * config.hidden;
  const float scale = config.residual_scale;
  for (std::int64_t r = begin; r < end; ++r) sum[r] += row[r] * scale;
}

void Graph::ternary_product(const ProductWeights& product, Width input, const Target& target, const Share& share) {
  const Kernel& scale = chosen(Step::kEpilogue).kernel;
  const Step step = model.kernels.product(product.shape, tokens);
  const Kernel& kernel = chosen(step).kernel;
  std::byte* const work = scratch[static_cast<std::size_t>(share.thread)];
  const std::int64_t groups = group_count(product.k, product.group);
  const bool more = product.has_bias || target.residual;
  if (share.thread == 0) {
    count(step, 1, static_cast<std::int64_t>(matrix_bytes(layout_of(kernel.format), product.n, product.k)),
          2 * product.n * product.k * tokens);
    count(Step::kEpilogue, tokens);
  }

  const Calls calls = calls_of(kernel, groups, tokens);
  // Row r of a call's sums at sums[r - row], so that a row's number can be subtracted from the address.
  std::int32_t* const sums = acc_blocks.empty() ? nullptr : acc_blocks[static_cast<std::size_t>(share.thread)];
  if (kernel.op == Op::kGemv) {
    const Quantized& in = quantized_by(share.thread);
    share.of(product.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t rows = groups == 1 ? end - begin : calls.rows;
      for (std::int64_t row = begin; row < end; row += rows) {
        const std::int64_t row_end = std::min(row + rows, end);
        std::int32_t* const out = groups == 1 ? acc : sums + (y_width - row);
        const std::int64_t stride = groups == 1 ? y_width : rows;
        std::optional<Stopwatch> watch(clock_of(step, share.thread));
        kernel(bitnet_gemv_args{.weights = product.weights,
                                .x = in.q[input],
                                .x_sums = in.sums,
                                .y = out,
                                .scratch = work,
                                .row_begin = row,
                                .row_end = row_end,
                                .y_stride = stride,
                                .n = product.n,
                                .k = product.k});
        watch.emplace(clock_of(Step::kEpilogue, share.thread));
        epilogue(scale, product, in.scales[0], out, stride, target.rows, row, row_end, target.add);
        if (more) finish_rows(product, target, 0, row, row_end);
      }
    });
    return;
  }

  const std::int64_t width = BITNET_ACTIVATION_WIDTH(product.k);
  share.of(product.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < tokens; t += calls.tokens) {
      const std::int64_t many = std::min(calls.tokens, tokens - t);
      for (std::int64_t row = begin; row < end; row += calls.rows) {
        const std::int64_t row_end = std::min(row + calls.rows, end);
        std::int32_t* const out = sums + (y_width - row);
        std::optional<Stopwatch> watch(clock_of(step, share.thread));
        kernel(bitnet_gemm_args{.weights = product.weights,
                                .x = packed + t * width,
                                .x_sums = q8.sums + t,
                                .y = out,
                                .scratch = work,
                                .row_begin = row,
                                .row_end = row_end,
                                .tokens = many,
                                .y_stride = groups * calls.rows,
                                .group_stride = calls.rows,
                                .sums_stride = groups == 1 ? 0 : sums_stride,
                                .n = product.n,
                                .k = product.k});
        watch.emplace(clock_of(Step::kEpilogue, share.thread));
        for (std::int64_t i = 0; i < many; ++i) {
          // The rows of two tokens lie too far apart for the CPU to foresee the next.
          const std::int64_t ahead = std::min(i + kRowsAhead, many - 1);
          prefetch_row(target.rows + (t + ahead) * target.stride + row, row_end - row);
          epilogue(scale, product, q8.scales[t + i], out + i * groups * calls.rows, calls.rows,
                   target.rows + (t + i) * target.stride, row, row_end, target.add);
          if (more) finish_rows(product, target, t + i, row, row_end);
        }
      }
    }
  });
}

void Graph::dense_product(const ProductWeights& product, const Target& target, const Share& share) {
  constexpr std::int64_t kBlockBytes = std::int64_t{256} << 10;
  for (const PartWeights& part : product.parts) {
    const Step step = dense_step(part.dense.format);
    const Kernel& kernel = chosen(step).kernel;
    const auto row_bytes = static_cast<std::int64_t>(part.dense.row_bytes);
    const std::int64_t rows = part.end - part.begin;
    if (share.thread == 0) count(step, tokens, rows * row_bytes);
    const Stopwatch watch(clock_of(step, share.thread));
    share.of(rows, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t fit = std::max<std::int64_t>(kBlockBytes / row_bytes / BITNET_TILE_ROWS, 1) * BITNET_TILE_ROWS;
      const std::int64_t many = tokens == 1 ? end - begin : fit;
      for (std::int64_t row = begin; row < end; row += many) {
        const std::int64_t row_end = std::min(row + many, end);
        for (std::int64_t t = 0; t < tokens; ++t) {
          const float* in =
              tokens == 1 ? dense_input[static_cast<std::size_t>(share.thread)] : dense_inputs + t * product.k;
          float* const out = target.rows + t * target.stride + part.begin;
          kernel(bitnet_head_args{part.dense.rows, in, out, row, row_end, product.k});
          if (part.scale != 1.0F) {
            for (std::int64_t r = row; r < row_end; ++r) out[r] *= part.scale;
          }
          finish_rows(product, target, t, part.begin + row, part.begin + row_end);
        }
      }
    });
  }
}

void Graph::add_normed_block(const NormWeights& norm, const Share& share) {
  if (share.thread == 0) count(Step::kNorm, tokens);
  share.of(tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    float* const row = normed[static_cast<std::size_t>(share.thread)];
    for (std::int64_t t = begin; t < end; ++t) {
      norm_row(norm, added + t * config.hidden, row, config.hidden, share.thread);
      float* const sum = x + t * config.hidden;
      for (std::int64_t i = 0; i < config.hidden; ++i) sum[i] += row[i] * config.residual_scale;
    }
  });
}

}  // namespace bitnet
