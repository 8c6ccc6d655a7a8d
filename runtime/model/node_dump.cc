#include "runtime/model/node_dump.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
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

void norm_rows(Graph& graph, Rows& rows, const float* gain) {
  const Kernel* kernel = builtin(graph, Op::kNorm, Format::kF32, 0, rows.width);
  if (kernel == nullptr) return;
  for (std::int64_t t = 0; t < graph.tokens; ++t) {
    (*kernel)(bitnet_norm_args{rows[t], gain, rows[t], rows.width, graph.config.norm_eps});
  }
}

// "norm-0" (the norm before its gain) and the named product with the gain.
void dump_norm(Graph& graph, const std::string& name, const Rows& input, const float* gain) {
  Rows plain = input;
  const std::vector<float> ones(static_cast<std::size_t>(input.width), 1.0F);
  norm_rows(graph, plain, ones.data());
  graph.dump->node("norm-0", "RMS_NORM", {input.width, graph.tokens, 1, 1}, plain.data);
  Rows scaled = input;
  norm_rows(graph, scaled, gain);
  graph.dump->node(name, "MUL", {input.width, graph.tokens, 1, 1}, scaled.data);
}

// Rotated copies of the query (or key) heads in y, before their rounding to float16.
Rows rotated(const Graph& graph, std::int64_t first, std::int64_t heads) {
  const ModelConfig& config = graph.config;
  const Kernel& rope = graph.chosen(Step::kRope).kernel;
  Rows rows = gather(graph, graph.y + first, graph.y_width, heads * config.head_dim);
  for (std::int64_t t = 0; t < graph.tokens; ++t) {
    const std::int64_t at = (graph.past + t) * (config.rope_dim / 2);
    rope(bitnet_rope_args{rows[t], graph.cosines + at, graph.sines + at, heads, config.head_dim, config.rope_dim,
                          BITNET_ROPE_NEOX});
  }
  return rows;
}

}  // namespace

Result<NodeDump> NodeDump::create(const std::string& directory) {
  NodeDump dump;
  dump.directory_ = directory;
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  dump.list_.open(directory + "/nodes.txt", std::ios::trunc);
  if (!dump.list_) {
    return Error{ErrorCode::kFailure, directory + "/nodes.txt" + kCannotWrite};
  }
  return dump;
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

// After the qkv product, before RoPE.
void dump_qkv(Graph& graph, const LayerWeights& layer) {
  const ModelConfig& config = graph.config;
  const std::int64_t n = graph.tokens;
  const std::int64_t kv_width = config.kv_heads * config.head_dim;
  dump_norm(graph, "attn_norm-0", gather(graph, graph.x, config.hidden, config.hidden), layer.attn_norm);
  graph.dump->node("Qcur-0", "MUL_MAT", {graph.q_width, n, 1, 1},
                   gather(graph, graph.y, graph.y_width, graph.q_width).data);
  graph.dump->node("Qcur-0", "ROPE", {config.head_dim, config.heads, n, 1}, rotated(graph, 0, config.heads).data);
  graph.dump->node("Kcur-0", "MUL_MAT", {kv_width, n, 1, 1},
                   gather(graph, graph.y + graph.q_width, graph.y_width, kv_width).data);
  graph.dump->node("Kcur-0", "ROPE", {config.head_dim, config.kv_heads, n, 1},
                   rotated(graph, graph.q_width, config.kv_heads).data);
  graph.dump->node("Vcur-0", "MUL_MAT", {kv_width, n, 1, 1},
                   gather(graph, graph.y + graph.q_width + kv_width, graph.y_width, kv_width).data);
}

// After attention: y still holds the rounded queries, the cache the keys and values.
void dump_attention(Graph& graph, const LayerWeights& layer) {
  const ModelConfig& config = graph.config;
  const std::int64_t n = graph.tokens;
  const std::int64_t dim = config.head_dim;
  const std::int64_t length = graph.past + n;
  const std::int64_t padded = round_up(length, kCachePad);
  const std::int64_t group = config.heads / config.kv_heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  const Kernel& attention = graph.chosen(Step::kAttention).kernel;
  const Kernel* dot = builtin(graph, Op::kHead, Format::kF16, length, dim);  // q . k is a head of float16 rows
  if (dot == nullptr) return;

  Rows scores(config.heads * n, padded);         // [head][token][position], unmasked, unscaled
  Rows probabilities(config.heads * n, padded);  // masked
  Rows weighted(config.heads * n, dim);          // [head][token][dim]
  // The probabilities are the attention over one-hot values: element d of block b belongs to position b * dim + d.
  std::vector<std::uint16_t> one_hot(static_cast<std::size_t>(length * dim));
  std::vector<const void*> one_hot_pages;
  for (std::int64_t j = 0; j < length; j += BITNET_ATTENTION_CHUNK) one_hot_pages.push_back(one_hot.data() + j * dim);
  std::vector<float> block(static_cast<std::size_t>(dim));
  auto* work = reinterpret_cast<float*>(graph.scratch[0]);
  for (std::int64_t first = 0; first < length; first += dim) {
    std::fill(one_hot.begin(), one_hot.end(), std::uint16_t{0});
    for (std::int64_t d = 0; d < dim && first + d < length; ++d) {
      one_hot[static_cast<std::size_t>((first + d) * dim + d)] = 0x3C00;  // 1.0
    }
    for (std::int64_t head = 0; head < config.heads; ++head) {
      for (std::int64_t t = 0; t < n; ++t) {
        attention(bitnet_attention_args{graph.y + t * graph.y_width + head * dim,
                                        graph.cache.key_pages(0, head / group), one_hot_pages.data(), block.data(),
                                        work, 1, dim, 1, graph.past + t, 0, dim, dim, nullptr, scale});
        std::copy_n(block.data(), std::min(dim, length - first), probabilities[head * n + t] + first);
      }
    }
  }
  for (std::int64_t head = 0; head < config.heads; ++head) {
    for (std::int64_t t = 0; t < n; ++t) {
      const void* const* pages = graph.cache.key_pages(0, head / group);
      for (std::int64_t j = 0; j < length; j += BITNET_ATTENTION_CHUNK) {
        (*dot)(bitnet_head_args{pages[j / BITNET_ATTENTION_CHUNK], graph.y + t * graph.y_width + head * dim,
                                scores[head * n + t] + j, 0, std::min<std::int64_t>(BITNET_ATTENTION_CHUNK, length - j),
                                dim});
      }
      std::copy_n(graph.attended + t * graph.q_width + head * dim, dim, weighted[head * n + t]);
    }
  }
  graph.dump->view("q-0", "PERMUTE", {dim, n, config.heads, 1});
  graph.dump->node("kq-0", "MUL_MAT", {padded, n, config.heads, 1}, scores.data);
  graph.dump->node("kq_soft_max_ext-0", "SOFT_MAX", {padded, n, config.heads, 1}, probabilities.data);
  graph.dump->node("kqv-0", "MUL_MAT", {dim, n, config.heads, 1}, weighted.data);
  graph.dump->view("kqv_merged-0", "PERMUTE", {dim, config.heads, n, 1});
  const Rows attended = gather(graph, graph.attended, graph.q_width, graph.q_width);
  graph.dump->node("kqv_out-0", "CONT", {graph.q_width, n, 1, 1}, attended.data);
  dump_norm(graph, "attn_sub_norm-0", attended, layer.attn_sub_norm);
}

// Before a product that adds to the residual stream: its own result, computed into y, which holds nothing needed then.
void dump_product(Graph& graph, const LayerWeights& layer, FusedMatrix::Role role) {
  graph.product(role, layer, Graph::Output::kStore, {});
  graph.dump->node(role == FusedMatrix::Role::kDown ? "ffn_down-0" : "attn_o_out-0", "MUL_MAT",
                   {graph.config.hidden, graph.tokens, 1, 1},
                   gather(graph, graph.y, graph.y_width, graph.config.hidden).data);
}

void dump_ffn_input(Graph& graph, const LayerWeights& layer) {
  const Rows input = gather(graph, graph.x, graph.config.hidden, graph.config.hidden);
  graph.dump->node("ffn_inp-0", "ADD", {graph.config.hidden, graph.tokens, 1, 1}, input.data);
  dump_norm(graph, "ffn_norm-0", input, layer.ffn_norm);
}

// After the gate/up product, before the gate.
void dump_gate(Graph& graph) {
  const std::int64_t ffn = graph.config.ffn;
  const std::array<std::int64_t, 4> ne{ffn, graph.tokens, 1, 1};
  const Rows gate = gather(graph, graph.y, graph.y_width, ffn);
  const Rows up = gather(graph, graph.y + ffn, graph.y_width, ffn);
  graph.dump->node("ffn_gate-0", "MUL_MAT", ne, gate.data);
  const bool relu2 = graph.config.activation == Activation::kRelu2;
  if (relu2) {
    Rows relu = gate;
    for (float& value : relu.data) value = std::max(value, 0.0F);
    graph.dump->node("ffn_relu-0", "UNARY", ne, relu.data);
  }
  const Kernel& kernel = graph.chosen(Step::kGate).kernel;
  const auto gated = [&](const Rows& factor) {
    Rows out(graph.tokens, ffn);
    kernel(bitnet_gate_args{gate.data.data(), factor.data.data(), out.data.data(), ffn * graph.tokens});
    return out;
  };
  Rows ones(graph.tokens, ffn);
  std::fill(ones.data.begin(), ones.data.end(), 1.0F);
  graph.dump->node(relu2 ? "ffn_sqr(relu)-0" : "ffn_silu-0", relu2 ? "SQR" : "UNARY", ne, gated(ones).data);
  graph.dump->node("ffn_up-0", "MUL_MAT", ne, up.data);
  graph.dump->node(relu2 ? "ffn_out-0" : "ffn_sub_out-0", "MUL", ne, gated(up).data);
}

// After the gate/up product as well: the gate and the norm behind it are one step.
void dump_ffn_sub_norm(Graph& graph, const LayerWeights& layer) {
  const std::int64_t ffn = graph.config.ffn;
  Rows gated(graph.tokens, ffn);
  for (std::int64_t t = 0; t < graph.tokens; ++t) {
    const float* row = graph.y + t * graph.y_width;
    graph.chosen(Step::kGate).kernel(bitnet_gate_args{row, row + ffn, gated[t], ffn});
  }
  dump_norm(graph, "ffn_sub_norm-0", gated, layer.ffn_sub_norm);
}

void dump_layer_output(Graph& graph, std::int64_t layer) {
  graph.dump->node("l_out-" + std::to_string(layer), "ADD", {graph.config.hidden, graph.tokens, 1, 1},
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
