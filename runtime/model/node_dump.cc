#include "runtime/model/node_dump.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "runtime/base/math.h"
#include "runtime/model/graph.h"

namespace bitnet {
namespace {

// bitnet.cpp rounds the cached positions of an attention up to this many.
constexpr std::int64_t kCachePad = 32;
constexpr const char* kCannotWrite = ": cannot be written; is the folder writable, the disk full?";

// A float matrix of the dump, [rows][width] without gaps.
struct Rows {
  std::vector<float> data;
  std::int64_t width = 0;
  Rows(std::int64_t rows, std::int64_t columns) : data(static_cast<std::size_t>(rows * columns)), width(columns) {}
  float* operator[](std::int64_t row) { return data.data() + row * width; }
};

Rows gather(const Graph& graph, const float* from, std::int64_t stride, std::int64_t width) {
  Rows rows(graph.tokens, width);
  for (std::int64_t t = 0; t < graph.tokens; ++t) std::copy_n(from + t * stride, width, rows[t]);
  return rows;
}

// A built-in kernel for a shape that the graph itself has no step for.
const Kernel* builtin(Graph& graph, Op op, Format format, std::int64_t n, std::int64_t k) {
  const std::vector<Isa> usable = executable_isas();
  const Kernel* kernel = find_kernel(builtin_kernels(), usable, {op, format, n, k});
  if (kernel == nullptr) {
    graph.dump->fail("no built-in kernel " + std::string(to_string(format)) + "_" + std::string(to_string(op)) +
                     " for K = " + std::to_string(k) + ", which the dump needs");
  }
  return kernel;
}

// A node of one layer: "ffn_inp" -> "ffn_inp-3".
std::string at(const char* name, std::int64_t index) { return name + ("-" + std::to_string(index)); }

// The norm of each row of `input`, `rows` of them beside each other in it.
Rows normed(Graph& graph, const Rows& input, const NormWeights& norm, std::int64_t rows = 1) {
  Rows out = input;
  const std::int64_t width = input.width / rows;
  for (std::int64_t t = 0; t < graph.tokens; ++t) {
    for (std::int64_t r = 0; r < rows; ++r) {
      graph.norm_row(norm, out[t] + r * width, out[t] + r * width, width, 0);
    }
  }
  return out;
}

// "norm-0" (the norm before its gain) and the named product with the gain; nothing for a norm that the model does not
// have.
void dump_norm(Graph& graph, std::int64_t index, const char* name, const Rows& input, const NormWeights& norm) {
  if (!norm.exists()) return;
  const std::vector<float> ones(static_cast<std::size_t>(input.width), 1.0F);
  const char* op = norm.kind == NormKind::kRms ? "RMS_NORM" : "NORM";
  const std::vector<float> zeros(static_cast<std::size_t>(input.width));
  const NormWeights plain{.kind = norm.kind, .gain = ones.data(), .bias = zeros.data()};
  graph.dump->node(at("norm", index), op, {input.width, graph.tokens, 1, 1}, normed(graph, input, plain).data);
  graph.dump->node(at(name, index), norm.kind == NormKind::kRms ? "MUL" : "ADD", {input.width, graph.tokens, 1, 1},
                   normed(graph, input, norm).data);
}

// Query or key heads in y from column `first` on: the product, the norm of each head, and the rotated heads before
// their rounding to float16.
void dump_heads(Graph& graph, std::int64_t index, const char* name, std::int64_t first, std::int64_t heads,
                const NormWeights& norm) {
  const ModelConfig& config = graph.config;
  const std::array<std::int64_t, 4> ne{config.head_dim, heads, graph.tokens, 1};
  Rows rows = gather(graph, graph.y + first, graph.y_width, heads * config.head_dim);
  graph.dump->node(at(name, index), "MUL_MAT", {rows.width, graph.tokens, 1, 1}, rows.data);
  if (norm.exists()) {
    rows = normed(graph, rows, norm, heads);
    graph.dump->node(at((std::string(name) + "_normed").c_str(), index), "MUL", ne, rows.data);
  }
  if (config.rope == RopeKind::kNone) return;
  const Kernel& rope = graph.chosen(Step::kRope).kernel;
  const Graph::Angles& turns = graph.angles_of(index);
  for (std::int64_t t = 0; t < graph.tokens; ++t) {
    const std::int64_t angle = (graph.past + t) * (config.rope_dim / 2);
    rope(bitnet_rope_args{rows[t], turns.cosines + angle, turns.sines + angle, heads, config.head_dim, config.rope_dim,
                          config.rope == RopeKind::kNorm ? BITNET_ROPE_NORM : BITNET_ROPE_NEOX});
  }
  graph.dump->node(at(name, index), "ROPE", ne, rows.data);
}

}  // namespace

Result<NodeDump> NodeDump::create(const std::string& directory, std::optional<std::vector<std::int64_t>> layers) {
  NodeDump dump;
  dump.layers_ = std::move(layers);
  dump.directory_ = directory;
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  dump.list_.open(directory + "/nodes.txt", std::ios::trunc);
  if (!dump.list_) {
    return Error{ErrorCode::kFailure, directory + "/nodes.txt" + kCannotWrite};
  }
  return dump;
}

bool NodeDump::wants(std::int64_t layer) const {
  return !layers_.has_value() || std::ranges::find(*layers_, layer) != layers_->end();
}

void NodeDump::open(const std::string& name, const std::string& op, std::array<std::int64_t, 4> ne, bool contiguous) {
  char index[16];
  std::snprintf(index, sizeof index, "%03d", index_++);
  list_ << index << ' ' << name << " op=" << op << " ne=[" << ne[0] << ',' << ne[1] << ',' << ne[2] << ',' << ne[3]
        << "] contiguous=" << (contiguous ? 1 : 0) << '\n';
  std::string file_name = name;
  for (char& c : file_name) {
    if (c == '(' || c == ')' || c == '/' || c == ' ') c = '_';
  }
  if (data_.is_open()) data_.close();
  data_path_ = directory_ + "/t." + index + "." + file_name + "." + op + ".f32";
  data_.open(data_path_, std::ios::binary | std::ios::trunc);
  if (!data_) fail(data_path_ + kCannotWrite);
}

void NodeDump::fail(const std::string& message) {
  if (failed_.empty()) failed_ = message;
}

void NodeDump::node(const std::string& name, const std::string& op, std::array<std::int64_t, 4> ne,
                    std::span<const float> data) {
  open(name, op, ne, true);
  append(data);
}

void NodeDump::view(const std::string& name, const std::string& op, std::array<std::int64_t, 4> ne) {
  open(name, op, ne, false);
}

void NodeDump::append(std::span<const float> data) {
  data_.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size_bytes()));
  if (!data_) fail(data_path_ + kCannotWrite);
}

Status NodeDump::finish() {
  list_.flush();
  data_.flush();
  if (!list_) fail(directory_ + "/nodes.txt" + kCannotWrite);
  if (!failed_.empty()) return Error{ErrorCode::kFailure, failed_};
  return {};
}

void dump_embedding(Graph& graph) {
  graph.dump->node("inp_embd", "GET_ROWS", {graph.config.hidden, graph.tokens, 1, 1},
                   gather(graph, graph.x, graph.config.hidden, graph.config.hidden).data);
}

// After the qkv product, before the norms of heads and RoPE.
void dump_qkv(Graph& graph, std::int64_t index, const LayerWeights& layer) {
  const ModelConfig& config = graph.config;
  const std::int64_t kv_width = config.kv_heads * config.head_dim;
  dump_norm(graph, index, "attn_norm", gather(graph, graph.x, config.hidden, config.hidden), layer.attn_norm);
  dump_heads(graph, index, "Qcur", 0, config.heads, layer.q_norm);
  dump_heads(graph, index, "Kcur", graph.q_width, config.kv_heads, layer.k_norm);
  graph.dump->node(at("Vcur", index), "MUL_MAT", {kv_width, graph.tokens, 1, 1},
                   gather(graph, graph.y + graph.q_width + kv_width, graph.y_width, kv_width).data);
}

// After attention: y still holds the rounded queries, the cache the keys and values.
void dump_attention(Graph& graph, std::int64_t index, const LayerWeights& layer) {
  const ModelConfig& config = graph.config;
  const std::int64_t n = graph.tokens;
  const std::int64_t dim = config.head_dim;
  const std::int64_t length = graph.past + n;
  const std::int64_t padded = round_up(length, kCachePad);
  const std::int64_t group = config.heads / config.kv_heads;
  const float scale = graph.attention_scale();
  const std::int64_t window = graph.window_of(index);
  const Kernel& attention = graph.chosen(graph.attention_step()).kernel;
  const bool single = graph.kv_type == KvType::kF32;
  // q . k is a head of float16 or float32 rows.
  const Kernel* dot = builtin(graph, Op::kHead, single ? Format::kF32 : Format::kF16, length, dim);
  if (dot == nullptr) return;

  Rows scores(config.heads * n, padded);         // [head][token][position], unmasked, unscaled
  Rows probabilities(config.heads * n, padded);  // masked
  Rows weighted(config.heads * n, dim);          // [head][token][dim]
  // The probabilities are the attention over one-hot values: element d of block b belongs to position b * dim + d.
  const std::int64_t row_bytes = kv_row_bytes(graph.kv_type, dim);
  std::vector<std::byte> one_hot(static_cast<std::size_t>(length * row_bytes));
  std::vector<const void*> one_hot_pages;
  for (std::int64_t j = 0; j < length; j += BITNET_ATTENTION_CHUNK) {
    one_hot_pages.push_back(one_hot.data() + j * row_bytes);
  }
  const auto set_one = [&](std::int64_t position, std::int64_t d) {
    std::byte* row = one_hot.data() + position * row_bytes;
    if (single) {
      constexpr float kOne = 1.0F;
      std::memcpy(row + d * std::int64_t{sizeof(kOne)}, &kOne, sizeof(kOne));
    } else {
      constexpr std::uint16_t kHalfOne = 0x3C00;
      std::memcpy(row + d * std::int64_t{sizeof(kHalfOne)}, &kHalfOne, sizeof(kHalfOne));
    }
  };
  std::vector<float> block(static_cast<std::size_t>(dim));
  auto* work = reinterpret_cast<float*>(graph.scratch[0]);
  for (std::int64_t first = 0; first < length; first += dim) {
    std::fill(one_hot.begin(), one_hot.end(), std::byte{0});
    for (std::int64_t d = 0; d < dim && first + d < length; ++d) set_one(first + d, d);
    for (std::int64_t head = 0; head < config.heads; ++head) {
      for (std::int64_t t = 0; t < n; ++t) {
        attention(bitnet_attention_args{.q = graph.y + t * graph.y_width + head * dim,
                                        .key_pages = graph.cache.key_pages(index, head / group),
                                        .value_pages = one_hot_pages.data(),
                                        .y = block.data(),
                                        .scratch = work,
                                        .heads = 1,
                                        .head_dim = dim,
                                        .tokens = 1,
                                        .past = graph.past + t,
                                        .window = window,
                                        .q_stride = dim,
                                        .y_stride = dim,
                                        .next = nullptr,
                                        .scale = scale});
        std::copy_n(block.data(), std::min(dim, length - first), probabilities[head * n + t] + first);
      }
    }
  }
  for (std::int64_t head = 0; head < config.heads; ++head) {
    for (std::int64_t t = 0; t < n; ++t) {
      const void* const* pages = graph.cache.key_pages(index, head / group);
      for (std::int64_t j = 0; j < length; j += BITNET_ATTENTION_CHUNK) {
        (*dot)(bitnet_head_args{pages[j / BITNET_ATTENTION_CHUNK], graph.y + t * graph.y_width + head * dim,
                                scores[head * n + t] + j, 0, std::min<std::int64_t>(BITNET_ATTENTION_CHUNK, length - j),
                                dim});
      }
      std::copy_n(graph.attended + t * graph.q_width + head * dim, dim, weighted[head * n + t]);
    }
  }
  graph.dump->view(at("q", index), "PERMUTE", {dim, n, config.heads, 1});
  graph.dump->node(at("kq", index), "MUL_MAT", {padded, n, config.heads, 1}, scores.data);
  graph.dump->node(at("kq_soft_max_ext", index), "SOFT_MAX", {padded, n, config.heads, 1}, probabilities.data);
  graph.dump->node(at("kqv", index), "MUL_MAT", {dim, n, config.heads, 1}, weighted.data);
  graph.dump->view(at("kqv_merged", index), "PERMUTE", {dim, config.heads, n, 1});
  const Rows attended = gather(graph, graph.attended, graph.q_width, graph.q_width);
  graph.dump->node(at("kqv_out", index), "CONT", {graph.q_width, n, 1, 1}, attended.data);
  dump_norm(graph, index, "attn_sub_norm", attended, layer.attn_sub_norm);
}

// Before a product that adds to the residual stream: its own result, computed into y, which holds nothing needed then.
void dump_product(Graph& graph, std::int64_t index, const LayerWeights& layer, FusedMatrix::Role role) {
  const bool down = role == FusedMatrix::Role::kDown;
  graph.product(role, layer, Graph::Output::kStore, {});
  const Rows rows = gather(graph, graph.y, graph.y_width, graph.config.hidden);
  graph.dump->node(at(down ? "ffn_down" : "attn_o_out", index), "MUL_MAT", {graph.config.hidden, graph.tokens, 1, 1},
                   rows.data);
  dump_norm(graph, index, down ? "ffn_post_norm" : "attn_post_norm", rows,
            down ? layer.post_ffn_norm : layer.post_attn_norm);
}

void dump_ffn_input(Graph& graph, std::int64_t index, const LayerWeights& layer) {
  const Rows input = gather(graph, graph.x, graph.config.hidden, graph.config.hidden);
  graph.dump->node(at("ffn_inp", index), "ADD", {graph.config.hidden, graph.tokens, 1, 1}, input.data);
  dump_norm(graph, index, "ffn_norm", input, layer.ffn_norm);
}

// After the gate and up products: they, the activation, and the norm behind it.
void dump_gate(Graph& graph, std::int64_t index, const LayerWeights& layer) {
  const ModelConfig& config = graph.config;
  const std::array<std::int64_t, 4> ne{config.ffn, graph.tokens, 1, 1};
  const Rows first = gather(graph, graph.y, graph.y_width, config.ffn);  // gate, or up without one
  const Rows up = config.gated ? gather(graph, graph.y + config.ffn, graph.y_width, config.ffn) : first;
  const bool relu2 = config.activation == Activation::kRelu2;
  const char* name = relu2 ? "ffn_sqr(relu)" : config.activation == Activation::kSilu ? "ffn_silu" : "ffn_gelu";
  graph.dump->node(at(config.gated ? "ffn_gate" : "ffn_up", index), "MUL_MAT", ne, first.data);
  if (relu2) {
    Rows relu = first;
    for (float& value : relu.data) value = std::max(value, 0.0F);
    graph.dump->node(at("ffn_relu", index), "UNARY", ne, relu.data);
  }
  const Kernel& kernel = graph.chosen(Step::kGate).kernel;
  const auto activated = [&](const Rows& factor) {
    Rows out(graph.tokens, config.ffn);
    const std::int64_t count = config.ffn * graph.tokens;
    if (config.gated) {
      kernel(bitnet_gate_args{first.data.data(), factor.data.data(), out.data.data(), count});
    } else {
      kernel(bitnet_gelu_args{first.data.data(), out.data.data(), count});
    }
    return out;
  };
  Rows ones(graph.tokens, config.ffn);
  std::fill(ones.data.begin(), ones.data.end(), 1.0F);
  graph.dump->node(at(name, index), relu2 ? "SQR" : "UNARY", ne, activated(ones).data);
  Rows result = activated(up);
  if (config.gated) {
    graph.dump->node(at("ffn_up", index), "MUL_MAT", ne, up.data);
    graph.dump->node(at(relu2 ? "ffn_out" : "ffn_sub_out", index), "MUL", ne, result.data);
  }
  dump_norm(graph, index, "ffn_sub_norm", result, layer.ffn_sub_norm);
}

void dump_layer_output(Graph& graph, std::int64_t index) {
  graph.dump->node(at("l_out", index), "ADD", {graph.config.hidden, graph.tokens, 1, 1},
                   gather(graph, graph.x, graph.config.hidden, graph.config.hidden).data);
}

void dump_result_norm(Graph& graph, NodeDump& dump) {
  dump.node("result_norm", "MUL", {graph.config.hidden, graph.tokens, 1, 1},
            gather(graph, graph.result, graph.config.hidden, graph.config.hidden).data);
}

void dump_result_output(Graph& graph, NodeDump& dump, std::int64_t first, std::int64_t rows) {
  const std::span<const float> logits(graph.logits, static_cast<std::size_t>(rows * graph.config.vocab));
  if (first == 0) {
    dump.node("result_output", "MUL_MAT", {graph.config.vocab, graph.tokens, 1, 1}, logits);
  } else {
    dump.append(logits);
  }
}

}  // namespace bitnet
