// Parity with bitnet.cpp on two small models: every node of layer 0, computed by our kernels from the reference's own
// inputs, and whole prompts end to end. Each set of kernels goes through the same checks: the built-in ones of every
// target that this CPU executes, and those of a bundle where bitnet-codegen has been built.
//
// Bounds. Ternary products: the integers are equal, and two or three float32 roundings differ, 3 * 2^-24 < 1e-6
// relative to each element. Other nodes: sums of up to 1024 float32 products in another order, within 1e-5 of the
// node's largest value. That holds for attention and head too, because bitnet.cpp rounds probabilities and the head's
// input to float16 only when it evaluates a single token, and these nodes are those of a batch.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "runtime/base/buffer.h"
#include "runtime/base/math.h"
#include "runtime/bundle/bundle.h"
#include "runtime/kernels/t2_layout.h"
#include "runtime/model/model.h"
#include "runtime/model/rope.h"
#include "tests/assets.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

using Floats = std::vector<float>;

struct ReferenceModel {
  const char* name;  // file name without .i2_s.gguf
  std::vector<std::int32_t> prompt_a;
  bool relu2;
  bool prompt_b;  // there is a reference for ids 1..33
};
const std::array<ReferenceModel, 2> kModels = {{{"tiny.b158", {5, 300, 17, 900, 33, 42, 700}, true, true},
                                                {"tiny.bitnet", {5, 300, 17, 400, 33, 42, 500}, false, false}}};

std::optional<std::string> reference_folder() { return test::asset("bitnet_cpp", "parity with bitnet.cpp"); }

template <typename T>
std::vector<T> read_array(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  REQUIRE_MESSAGE(file, path);
  std::vector<T> data(static_cast<std::size_t>(file.tellg()) / sizeof(T));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size() * sizeof(T)));
  REQUIRE(file.good());
  return data;
}

// A bundle for the model, made by bitnet-codegen in a temporary folder; empty (and said so) where that is not built.
std::optional<std::string> make_bundle(const test::TempFolder& folder, const std::string& model) {
  const char* bin = std::getenv("BITNET_BIN");
  const std::string tool = bin == nullptr ? std::string() : std::string(bin) + "/bitnet-codegen";
  if (bin == nullptr || !std::filesystem::exists(tool)) {
    std::printf("SKIPPED: parity of bundle kernels (bitnet-codegen has not been built)\n");
    return std::nullopt;
  }
  const std::string output = folder.file("model.bnk");
  const std::string command =
      "'" + tool + "' --model '" + model + "' --target native -o '" + output + "' > '" + folder.file("log") + "' 2>&1";
  REQUIRE_MESSAGE(std::system(command.c_str()) == 0, command);
  return output;
}

// One set of kernels under test.
struct KernelChoice {
  std::string label;
  std::span<const Kernel> first;  // a bundle's
  std::vector<Isa> usable;
  [[nodiscard]] const Kernel& find(Op op, Format format, std::int64_t n, std::int64_t k) const {
    const Kernel* kernel = find_kernel(first, usable, op, format, n, k);
    if (kernel == nullptr) kernel = find_kernel(builtin_kernels(), usable, op, format, n, k);
    REQUIRE_MESSAGE(kernel != nullptr, label);
    return *kernel;
  }
};

// The dumped nodes of one prompt, by name, operation and occurrence.
class Nodes {
 public:
  explicit Nodes(std::string beginning) : beginning_(std::move(beginning)) {
    std::ifstream list(beginning_ + "nodes.txt");
    REQUIRE_MESSAGE(list, beginning_);
    std::string index;
    std::string name;
    std::string rest;
    std::string operation;
    while (list >> index >> name >> operation && std::getline(list, rest)) {
      if (name == "ffn_sqr(relu)-0") name = "ffn_sqr_relu_-0";
      files_.push_back(
          {name + "." + operation.substr(3), "t." + index + "." + name + "." + operation.substr(3) + ".f32"});
    }
  }
  [[nodiscard]] Floats operator()(const std::string& key, int occurrence = 1) const {
    for (const auto& [name, file] : files_) {
      if (name == key && --occurrence == 0) return read_array<float>(beginning_ + file);
    }
    FAIL("no node " << key);
    return {};
  }

 private:
  std::string beginning_;
  std::vector<std::pair<std::string, std::string>> files_;
};

void check_near(const std::string& node, const Floats& ours, const Floats& reference, double bound) {
  REQUIRE_MESSAGE(ours.size() == reference.size(), node);
  double largest = 0.0;
  double magnitude = 0.0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    REQUIRE(std::isfinite(ours[i]));
    largest = std::max(largest, std::abs(static_cast<double>(ours[i]) - static_cast<double>(reference[i])));
    magnitude = std::max(magnitude, std::abs(static_cast<double>(reference[i])));
  }
  CHECK_MESSAGE(largest <= bound * magnitude, node, ": ", largest, " of ", magnitude);
}

void check_product(const std::string& node, const Floats& ours, const Floats& reference) {
  REQUIRE_MESSAGE(ours.size() == reference.size(), node);
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double difference = std::abs(static_cast<double>(ours[i]) - static_cast<double>(reference[i]));
    if (!(difference <= 1e-6 * std::abs(static_cast<double>(reference[i])))) {
      FAIL(node << ", element " << i << ": " << ours[i] << ", reference " << reference[i]);
    }
  }
}

// Layer 0 of a model with a set of kernels; every function takes the reference's nodes as its inputs.
class Layer {
 public:
  Layer(const gguf::File& file, const KernelChoice& kernels) : kernels_(kernels) {
    auto config = read_config(file);
    REQUIRE(config.ok());
    config_ = *config;
    auto tensors = map_tensors(file, config_);
    REQUIRE(tensors.ok());
    tensors_ = *tensors;
  }
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] const LayerTensors& layer() const { return tensors_.layers.front(); }

  static Floats gain(const gguf::Tensor& tensor) {
    Floats values(tensor.ne[0]);
    std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
    return values;
  }
  [[nodiscard]] Floats output_gain() const { return gain(*tensors_.output_norm); }

  [[nodiscard]] Floats norm(const Floats& x, const Floats& gains) const {
    const auto k = static_cast<std::int64_t>(gains.size());
    const Kernel& kernel = kernels_.find(Op::kNorm, Format::kF32, 0, k);
    Floats y(x.size());
    for (std::size_t at = 0; at < x.size(); at += gains.size()) {
      kernel(bitnet_norm_args{x.data() + at, gains.data(), y.data() + at, k, config_.norm_eps});
    }
    return y;
  }

  // [tokens][n] from [tokens][k], by the GEMV token by token and by the GEMM, which must agree in every bit.
  [[nodiscard]] Floats product(FusedMatrix::Role role, const Floats& x) const {
    const FusedMatrix& matrix = layer().products[static_cast<std::size_t>(role)];
    const std::int64_t n = matrix.n;
    const std::int64_t k = matrix.k;
    const std::int64_t tokens = static_cast<std::int64_t>(x.size()) / k;
    const std::int64_t padded = round_up<std::int64_t>(k, BITNET_ACTIVATION_PAD);
    const std::int64_t stride = round_up<std::int64_t>(n, BITNET_T2_TILE_ROWS);
    const Kernel& gemv = kernels_.find(Op::kGemv, Format::kI2s, n, k);
    const Kernel& gemm = kernels_.find(Op::kGemm, Format::kI2s, n, k);
    const std::int64_t tile = gemm.token_tile;
    const std::int64_t rows = round_up(tokens, tile);
    Buffer weights = allocate(t2::bytes(n, k));
    REQUIRE(pack_product(matrix, 0, n, weights.as<std::uint8_t>()) == 0);
    Buffer q = allocate(static_cast<std::size_t>(tokens * padded));
    Buffer packed = allocate(static_cast<std::size_t>(rows * padded));
    Buffer one = allocate(static_cast<std::size_t>(stride) * 4);
    Buffer all = allocate(static_cast<std::size_t>(tokens * stride) * 4);
    Buffer scratch = allocate(gemm.scratch_bytes + 64);
    Floats scales(static_cast<std::size_t>(tokens));
    std::vector<std::int32_t> sums(static_cast<std::size_t>(rows));
    const Kernel& quantize = kernels_.find(Op::kQuantize, Format::kI8, 0, k);
    for (std::int64_t t = 0; t < tokens; ++t) {
      quantize(bitnet_quantize_args{x.data() + t * k, q.as<std::int8_t>(static_cast<std::size_t>(t * padded)),
                                    &scales[static_cast<std::size_t>(t)], &sums[static_cast<std::size_t>(t)], k});
    }
    t2::pack_activations(q.as<std::int8_t>(), tokens, k, gemm.token_tile, 0, rows / tile, packed.as<std::int8_t>());
    gemm(bitnet_gemm_args{weights.as<std::uint8_t>(), packed.as<std::int8_t>(), sums.data(), all.as<std::int32_t>(),
                          scratch.data(), 0, n, tokens, stride, n, k});
    Floats y;
    for (std::int64_t t = 0; t < tokens; ++t) {
      gemv(bitnet_gemv_args{weights.as<std::uint8_t>(), q.as<std::int8_t>(static_cast<std::size_t>(t * padded)),
                            one.as<std::int32_t>(), 0, n, n, k, sums[static_cast<std::size_t>(t)]});
      const std::int32_t* row = all.as<std::int32_t>() + t * stride;
      REQUIRE(std::memcmp(one.data(), row, static_cast<std::size_t>(n) * 4) == 0);
      for (const gguf::Tensor* part : matrix.parts) {
        const float factor = i2s_scale(*part) / scales[static_cast<std::size_t>(t)];
        for (std::uint64_t r = 0; r < part->ne[1]; ++r) y.push_back(static_cast<float>(*row++) * factor);
      }
    }
    return y;
  }

  // Columns [first, first + width) of rows of `stride`.
  static Floats columns(const Floats& x, std::int64_t stride, std::int64_t first, std::int64_t width) {
    Floats y;
    for (std::int64_t at = first; at < static_cast<std::int64_t>(x.size()); at += stride) {
      y.insert(y.end(), x.begin() + at, x.begin() + at + width);
    }
    return y;
  }

  [[nodiscard]] Floats rope(Floats x, std::int64_t heads) const {
    const auto half = static_cast<std::size_t>(config_.rope_dim / 2);
    Floats cosines(half);
    Floats sines(half);
    const std::int64_t width = heads * config_.head_dim;
    for (std::int64_t t = 0; t < static_cast<std::int64_t>(x.size()) / width; ++t) {
      rope_angles(t, config_.rope_dim, config_.rope_base, cosines.data(), sines.data());
      for (std::int64_t head = 0; head < heads; ++head) {
        rope_rotate(x.data() + t * width + head * config_.head_dim, config_.rope_dim, cosines.data(), sines.data());
      }
    }
    return x;
  }

  // Attention of rotated q [tokens][heads * dim] over k, v [tokens][kv_heads * dim]; `values` replaces v where given,
  // as float16 [kv_heads][tokens][dim]. Result [tokens][heads * dim].
  [[nodiscard]] Floats attention(Floats q, const Floats& k, const Floats& v,
                                 const std::vector<std::uint16_t>* values = nullptr) const {
    const std::int64_t dim = config_.head_dim;
    const std::int64_t kv_width = config_.kv_heads * dim;
    const std::int64_t group = config_.heads / config_.kv_heads;
    const std::int64_t tokens = static_cast<std::int64_t>(k.size()) / kv_width;
    const Kernel& kernel = kernels_.find(Op::kAttention, Format::kF16, 0, dim);
    round_to_half(q);
    std::vector<std::uint16_t> k16(k.size());
    std::vector<std::uint16_t> v16(k.size());
    convert_to_half(k, k16.data());
    convert_to_half(v, v16.data());
    Buffer scratch = allocate(static_cast<std::size_t>(group * (BITNET_ATTENTION_CHUNK + dim)) * 4);
    Floats y(q.size());
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t head = 0; head < config_.kv_heads; ++head) {
        // Keys and values share one stride, so both are given in the same arrangement.
        std::vector<std::uint16_t> keys;
        std::vector<std::uint16_t> rows;
        for (std::int64_t s = 0; s < tokens; ++s) {
          const auto at = k16.begin() + s * kv_width + head * dim;
          keys.insert(keys.end(), at, at + dim);
          const auto from =
              values == nullptr ? v16.begin() + s * kv_width + head * dim : values->begin() + (head * tokens + s) * dim;
          rows.insert(rows.end(), from, from + dim);
        }
        const std::int64_t first = t * config_.heads * dim + head * group * dim;
        kernel(bitnet_attention_args{q.data() + first, keys.data(), rows.data(), y.data() + first, scratch.as<float>(),
                                     group, dim, t + 1, dim, 1.0F / std::sqrt(static_cast<float>(dim))});
      }
    }
    return y;
  }

  // [tokens][rows] dot products of float16 rows with float vectors of width k.
  [[nodiscard]] Floats head(const std::uint16_t* rows, std::int64_t n, const Floats& x, std::int64_t k) const {
    const Kernel& kernel = kernels_.find(Op::kHead, Format::kF16, n, k);
    Floats y(x.size() / static_cast<std::size_t>(k) * static_cast<std::size_t>(n));
    for (std::int64_t t = 0; t < static_cast<std::int64_t>(x.size()) / k; ++t) {
      kernel(bitnet_head_args{rows, x.data() + t * k, y.data() + t * n, 0, n, k});
    }
    return y;
  }
  [[nodiscard]] Floats logits(const Floats& x) const {
    REQUIRE(tensors_.token_embd->type == gguf::TensorType::kF16);
    return head(reinterpret_cast<const std::uint16_t*>(tensors_.token_embd->data.data()), config_.vocab, x,
                config_.hidden);
  }

  [[nodiscard]] Floats gate(const Floats& gates, const Floats& up) const {
    const Op op = config_.activation == Activation::kRelu2 ? Op::kRelu2Gate : Op::kSiluGate;
    const Kernel& kernel = kernels_.find(op, Format::kF32, 0, config_.ffn);
    Floats y(gates.size());
    for (std::size_t at = 0; at < gates.size(); at += static_cast<std::size_t>(config_.ffn)) {
      kernel(bitnet_gate_args{gates.data() + at, up.data() + at, y.data() + at, config_.ffn});
    }
    return y;
  }

 private:
  static Buffer allocate(std::size_t bytes) {
    auto buffer = Buffer::allocate(bytes);
    REQUIRE(buffer.ok());
    return std::move(buffer).value();
  }
  const KernelChoice& kernels_;
  ModelConfig config_;
  ModelTensors tensors_;
};

Floats sum(Floats a, const Floats& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

void check_attention(const Layer& layer, const Nodes& nodes, std::int64_t tokens) {
  const ModelConfig& c = layer.config();
  const std::int64_t dim = c.head_dim;
  const std::int64_t kv_width = c.kv_heads * dim;
  const Floats q = nodes("Qcur-0.ROPE");
  const Floats k = nodes("Kcur-0.ROPE");
  const Floats v = nodes("Vcur-0.MUL_MAT");
  check_near("Qcur-0 ROPE", layer.rope(nodes("Qcur-0.MUL_MAT"), c.heads), q, 1e-5);
  check_near("Kcur-0 ROPE", layer.rope(nodes("Kcur-0.MUL_MAT"), c.kv_heads), k, 1e-5);

  // kq and its softmax are [head][token][padded positions]; kqv is [head][token][dim].
  const Floats kq_reference = nodes("kq-0.MUL_MAT");
  const std::int64_t padded = static_cast<std::int64_t>(kq_reference.size()) / (c.heads * tokens);
  Floats q16 = q;
  round_to_half(q16);
  Floats kq(kq_reference.size());
  Floats probabilities(kq_reference.size());
  Floats kqv(q.size());
  // The probabilities are the attention over one-hot values.
  REQUIRE(tokens <= dim);
  std::vector<std::uint16_t> one_hot(static_cast<std::size_t>(c.kv_heads * tokens * dim));
  for (std::int64_t i = 0; i < c.kv_heads * tokens; ++i)
    one_hot[static_cast<std::size_t>(i * dim + i % tokens)] = 0x3C00;
  const Floats weights = layer.attention(q, k, v, &one_hot);
  const Floats attended = layer.attention(q, k, v);
  for (std::int64_t head = 0; head < c.heads; ++head) {
    const std::int64_t kv_head = head / (c.heads / c.kv_heads);
    std::vector<std::uint16_t> keys(static_cast<std::size_t>(tokens * dim));
    convert_to_half(Layer::columns(k, kv_width, kv_head * dim, dim), keys.data());
    const Floats scores = layer.head(keys.data(), tokens, Layer::columns(q16, c.heads * dim, head * dim, dim), dim);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t row = head * tokens + t;
      const std::int64_t from = (t * c.heads + head) * dim;
      std::copy_n(scores.begin() + t * tokens, tokens, kq.begin() + row * padded);
      std::copy_n(weights.begin() + from, tokens, probabilities.begin() + row * padded);
      std::copy_n(attended.begin() + from, dim, kqv.begin() + row * dim);
    }
  }
  check_near("kq-0", kq, kq_reference, 1e-5);
  check_near("kq_soft_max_ext-0", probabilities, nodes("kq_soft_max_ext-0.SOFT_MAX"), 1e-5);
  check_near("kqv-0", kqv, nodes("kqv-0.MUL_MAT"), 1e-5);
  check_near("kqv_out-0", attended, nodes("kqv_out-0.CONT"), 1e-5);
}

void check_layer(const Layer& layer, const Nodes& nodes, const ReferenceModel& model) {
  using Role = FusedMatrix::Role;
  const ModelConfig& c = layer.config();
  const auto tokens = static_cast<std::int64_t>(model.prompt_a.size());
  const auto check_norm = [&](const std::string& name, int occurrence, const Floats& input, const gguf::Tensor& gain) {
    const Floats ones(gain.ne[0], 1.0F);
    check_near("norm-0", layer.norm(input, ones), nodes("norm-0.RMS_NORM", occurrence), 1e-5);
    check_near(name, layer.norm(input, Layer::gain(gain)), nodes(name + ".MUL"), 1e-5);
  };
  const Floats embedding = nodes("inp_embd.GET_ROWS");
  check_norm("attn_norm-0", 1, embedding, *layer.layer().attn_norm);
  const std::int64_t q_width = c.heads * c.head_dim;
  const std::int64_t kv_width = c.kv_heads * c.head_dim;
  const std::int64_t stride = q_width + 2 * kv_width;
  const Floats qkv = layer.product(Role::kQkv, nodes("attn_norm-0.MUL"));
  check_product("Qcur-0", Layer::columns(qkv, stride, 0, q_width), nodes("Qcur-0.MUL_MAT"));
  check_product("Kcur-0", Layer::columns(qkv, stride, q_width, kv_width), nodes("Kcur-0.MUL_MAT"));
  check_product("Vcur-0", Layer::columns(qkv, stride, q_width + kv_width, kv_width), nodes("Vcur-0.MUL_MAT"));
  check_attention(layer, nodes, tokens);
  check_norm("attn_sub_norm-0", 2, nodes("kqv_out-0.CONT"), *layer.layer().attn_sub_norm);
  check_product("attn_o_out-0", layer.product(Role::kAttentionOutput, nodes("attn_sub_norm-0.MUL")),
                nodes("attn_o_out-0.MUL_MAT"));
  check_near("ffn_inp-0", sum(nodes("attn_o_out-0.MUL_MAT"), embedding), nodes("ffn_inp-0.ADD"), 1e-5);
  check_norm("ffn_norm-0", 3, nodes("ffn_inp-0.ADD"), *layer.layer().ffn_norm);
  const Floats gate_up = layer.product(Role::kGateUp, nodes("ffn_norm-0.MUL"));
  const Floats gate = nodes("ffn_gate-0.MUL_MAT");
  const Floats up = nodes("ffn_up-0.MUL_MAT");
  check_product("ffn_gate-0", Layer::columns(gate_up, 2 * c.ffn, 0, c.ffn), gate);
  check_product("ffn_up-0", Layer::columns(gate_up, 2 * c.ffn, c.ffn, c.ffn), up);
  const Floats activation = nodes(model.relu2 ? "ffn_sqr_relu_-0.SQR" : "ffn_silu-0.UNARY");
  const std::string gated = model.relu2 ? "ffn_out-0.MUL" : "ffn_sub_out-0.MUL";
  check_near("activation", layer.gate(gate, Floats(gate.size(), 1.0F)), activation, 1e-5);
  check_near(gated, layer.gate(gate, up), nodes(gated), 1e-5);
  check_norm("ffn_sub_norm-0", 4, nodes(gated), *layer.layer().ffn_sub_norm);
  check_product("ffn_down-0", layer.product(Role::kDown, nodes("ffn_sub_norm-0.MUL")), nodes("ffn_down-0.MUL_MAT"));
  check_near("l_out-0", sum(nodes("ffn_down-0.MUL_MAT"), nodes("ffn_inp-0.ADD")), nodes("l_out-0.ADD"), 1e-5);
  check_near("result_norm", layer.norm(nodes("l_out-" + std::to_string(c.layers - 1) + ".ADD"), layer.output_gain()),
             nodes("result_norm.MUL"), 1e-5);
  check_near("result_output", layer.logits(nodes("result_norm.MUL")), nodes("result_output.MUL_MAT"), 1e-5);
}

TEST_CASE("every node of layer 0, fed with bitnet.cpp's own inputs") {
  const auto folder = reference_folder();
  if (!folder.has_value()) return;
  for (const ReferenceModel& model : kModels) {
    const std::string path = *folder + "/" + model.name + ".i2_s.gguf";
    const auto file = gguf::File::open(path);
    REQUIRE(file.ok());
    std::vector<KernelChoice> choices;
    for (const Isa isa : all_isas()) {
      const bool listed = std::any_of(builtin_kernels().begin(), builtin_kernels().end(),
                                      [&](const Kernel& kernel) { return kernel.isa == isa; });
      if (!listed) continue;
      if (probe_isa(isa)) {
        choices.push_back({"built-in " + std::string(to_string(isa)), {}, {isa}});
      } else {
        std::printf("SKIPPED: parity of built-in %s (this CPU does not execute it)\n", to_string(isa).data());
      }
    }
    const test::TempFolder temporary;
    const auto bundle_path = make_bundle(temporary, path);
    std::optional<Bundle> bundle;
    if (bundle_path.has_value()) {
      auto opened = Bundle::open(*bundle_path, "", executable_isas());
      REQUIRE_MESSAGE(opened.ok(), (opened.ok() ? "" : opened.error().message));
      bundle.emplace(std::move(opened).value());
      choices.push_back({"bundle", bundle->kernels(), executable_isas()});
    }
    for (const KernelChoice& choice : choices) {
      INFO(model.name, ", ", choice.label);
      const Layer layer(*file, choice);
      check_layer(layer, Nodes(*folder + "/ref/" + model.name + ".i2_s.A.f16.batch."), model);
    }
  }
}

double cosine(std::span<const float> a, std::span<const float> b) {
  double ab = 0.0;
  double aa = 0.0;
  double bb = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return ab / std::sqrt(aa * bb);
}

std::int32_t arg_max(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::vector<std::int32_t> read_greedy(const std::string& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file, path);
  std::vector<std::int32_t> ids;
  std::int32_t id = 0;
  double logit = 0.0;
  while (file >> id >> logit) ids.push_back(id);
  return ids;
}

void check_prompt(Model& model, const std::string& beginning, const std::vector<std::int32_t>& prompt) {
  auto created = Context::create(model, {.size = 128});
  REQUIRE(created.ok());
  Context& context = **created;
  const auto vocab = static_cast<std::size_t>(model.config().vocab);
  Floats all;
  const Status done = context.eval_all(prompt, [&](std::int64_t, std::span<const float> logits) -> Status {
    all.insert(all.end(), logits.begin(), logits.end());
    return {};
  });
  REQUIRE(done.ok());
  const std::size_t expected_tokens = read_greedy(beginning + "batch.greedy.txt").size();
  std::vector<std::int32_t> greedy;
  Floats last(all.end() - static_cast<std::ptrdiff_t>(vocab), all.end());
  while (greedy.size() < expected_tokens) {
    greedy.push_back(arg_max(last));
    const auto logits = context.eval({&greedy.back(), 1});
    REQUIRE(logits.ok());
    last.assign(logits->begin(), logits->end());
  }
  for (const std::string mode : {"batch", "step"}) {
    const Floats reference = read_array<float>(beginning + mode + ".logits.f32");
    REQUIRE(reference.size() == all.size());
    double lowest = 1.0;
    for (std::size_t t = 0; t < prompt.size(); ++t) {
      const double similarity =
          cosine(std::span(all).subspan(t * vocab, vocab), std::span(reference).subspan(t * vocab, vocab));
      CHECK_MESSAGE(similarity >= 0.999, mode, " position ", t);
      lowest = std::min(lowest, similarity);
    }
    const std::vector<std::int32_t> expected = read_greedy(beginning + mode + ".greedy.txt");
    REQUIRE_FALSE(expected.empty());
    CHECK_MESSAGE(greedy.front() == expected.front(), mode);
    std::size_t agree = 0;
    while (agree < std::min(greedy.size(), expected.size()) && greedy[agree] == expected[agree]) ++agree;
    std::printf("%s%s on %s: lowest cosine %.6f, the first %zu of %zu greedy tokens agree\n",
                std::filesystem::path(beginning).filename().c_str(), mode.c_str(), std::string(model.target()).c_str(),
                lowest, agree, expected.size());
  }
}

TEST_CASE("whole prompts against bitnet.cpp") {
  const auto folder = reference_folder();
  if (!folder.has_value()) return;
  for (const ReferenceModel& reference : kModels) {
    const std::string path = *folder + "/" + reference.name + ".i2_s.gguf";
    const test::TempFolder temporary;
    std::vector<std::string> bundles{"none"};
    if (const auto bundle = make_bundle(temporary, path); bundle.has_value()) bundles.push_back(*bundle);
    for (const std::string& bundle : bundles) {
      ModelOptions options;
      options.threads = 2;
      options.bundle = bundle;
      const auto model = Model::load(path, options);
      REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().message));
      const std::string beginning = *folder + "/ref/" + reference.name + ".i2_s.";
      check_prompt(**model, beginning + "A.f16.", reference.prompt_a);
      if (!reference.prompt_b) continue;
      std::vector<std::int32_t> prompt_b(33);
      for (std::size_t i = 0; i < prompt_b.size(); ++i) prompt_b[i] = static_cast<std::int32_t>(i + 1);
      check_prompt(**model, beginning + "B.f16.", prompt_b);
    }
  }
}

}  // namespace
}  // namespace bitnet
