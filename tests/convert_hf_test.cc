// Checkpoints of every family become GGUF files: each element against where it must come from, worked out here, and the
// configuration as the runtime reads it back. Also both meanings of weight_scale, masters, shards.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/convert/checkpoint.h"
#include "runtime/convert/convert.h"
#include "tests/hf_checkpoint.h"
#include "tests/model_files.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using namespace test;

constexpr std::int64_t kHeadDim = kHidden / kHeads;

// A checkpoint without tensors, of the small shapes, whose tokenizer is the usual one.
Checkpoint empty(const Json& config) {
  Checkpoint checkpoint;
  checkpoint.tensors.clear();
  checkpoint.config = {{"hidden_size", kHidden},
                       {"intermediate_size", kFfn},
                       {"num_hidden_layers", kLayers},
                       {"num_attention_heads", kHeads},
                       {"num_key_value_heads", kKvHeads},
                       {"rms_norm_eps", 1e-6},
                       {"max_position_embeddings", 128},
                       {"vocab_size", kVocab},
                       {"bos_token_id", 1},
                       {"eos_token_id", 2}};
  checkpoint.config.update(config);
  return checkpoint;
}

// A tensor of the result and where its elements come from.
struct Origin {
  std::string gguf, hf;
  std::int64_t columns = 0;
  std::int64_t rows = 1;
  std::int64_t heads = 0;  // rows of a head: first halves beside second ones
  bool transposed = false;
  bool plus_one = false;
};

struct Origins {
  std::vector<Origin> list;
  std::string prefix = "model.";  // of the checkpoint's names

  void global(const std::string& gguf, const std::string& hf, std::int64_t columns, std::int64_t rows = 1) {
    list.push_back({gguf, prefix + hf, columns, rows});
  }
  void layers(const std::string& gguf, const std::string& hf, std::int64_t columns, std::int64_t rows = 1,
              std::int64_t heads = 0) {
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      const std::string dotted = std::to_string(layer) + ".";
      list.push_back({"blk." + dotted + gguf, prefix + "layers." + dotted + hf, columns, rows, heads});
    }
  }
  // Norms and projections that Llama, Qwen and their like share.
  void llama(std::int64_t q, std::int64_t kv, bool permuted) {
    global("token_embd.weight", "embed_tokens.weight", kHidden, kVocab);
    global("output_norm.weight", "norm.weight", kHidden);
    layers("attn_norm.weight", "input_layernorm.weight", kHidden);
    layers("ffn_norm.weight", "post_attention_layernorm.weight", kHidden);
    projections(q, kv, permuted);
  }
  void projections(std::int64_t q, std::int64_t kv, bool permuted) {
    layers("attn_q.weight", "self_attn.q_proj.weight", kHidden, q, permuted ? kHeads : 0);
    layers("attn_k.weight", "self_attn.k_proj.weight", kHidden, kv, permuted ? kKvHeads : 0);
    layers("attn_v.weight", "self_attn.v_proj.weight", kHidden, kv);
    layers("attn_output.weight", "self_attn.o_proj.weight", q, kHidden);
    layers("ffn_gate.weight", "mlp.gate_proj.weight", kHidden, kFfn);
    layers("ffn_up.weight", "mlp.up_proj.weight", kHidden, kFfn);
    layers("ffn_down.weight", "mlp.down_proj.weight", kFfn, kHidden);
  }
  void write_into(Checkpoint& checkpoint) const {
    for (const Origin& origin : list) {
      std::vector<std::int64_t> shape = {origin.columns};
      if (origin.rows > 1) shape.insert(origin.transposed ? shape.end() : shape.begin(), origin.rows);
      checkpoint.tensors.push_back(floats(origin.hf, shape));
    }
  }
};

// Row of the checkpoint for row `row` of the result: pairs (2i, 2i + 1) come from halves (i, i + width / 2).
std::int64_t unpermuted(std::int64_t row, std::int64_t width) {
  const std::int64_t head = row / width;
  const std::int64_t in_head = row % width;
  const std::int64_t pair = in_head / 2;
  return head * width + (in_head % 2 == 0 ? pair : width / 2 + pair);
}

gguf::File opened(const std::string& path) {
  auto file = gguf::File::open(path);
  REQUIRE_MESSAGE(file.ok(), file.error().message);
  return *std::move(file);
}

const gguf::Tensor& tensor_of(const gguf::File& file, const std::string& name) {
  const gguf::Tensor* tensor = file.find_tensor(name);
  REQUIRE_MESSAGE(tensor != nullptr, name);
  return *tensor;
}

float float_at(const gguf::Tensor& tensor, std::int64_t i) {
  float result = 0;
  REQUIRE(static_cast<std::size_t>(i + 1) * sizeof result <= tensor.data.size());
  std::memcpy(&result, tensor.data.data() + static_cast<std::size_t>(i) * sizeof result, sizeof result);
  return result;
}

void check(const gguf::File& file, const Origins& origins) {
  for (const Origin& origin : origins.list) {
    CAPTURE(origin.gguf);
    const gguf::Tensor& tensor = tensor_of(file, origin.gguf);
    REQUIRE(tensor.type == gguf::TensorType::kF32);
    CHECK(tensor.ne[0] == static_cast<std::uint64_t>(origin.columns));
    CHECK(tensor.ne[1] == static_cast<std::uint64_t>(origin.rows));
    int wrong = 0;
    for (std::int64_t row = 0; row < origin.rows; ++row) {
      for (std::int64_t column = 0; column < origin.columns; ++column) {
        std::int64_t from = row * origin.columns + column;
        if (origin.transposed) from = column * origin.rows + row;
        if (origin.heads != 0 && origin.rows > 1) {
          from = unpermuted(row, origin.rows / origin.heads) * origin.columns + column;
        } else if (origin.heads != 0) {
          from = unpermuted(column, origin.columns / origin.heads);
        }
        const float expected = value(origin.hf, from) + (origin.plus_one ? 1.0F : 0.0F);
        wrong += float_at(tensor, row * origin.columns + column) != expected ? 1 : 0;
      }
    }
    CHECK(wrong == 0);
  }
}

ConvertReport converted(const std::string& input, const std::string& output, const std::string& type = "f32") {
  ConvertOptions options;
  options.type = parse_target_type(type);
  auto report = convert_model(input, output, options);
  REQUIRE_MESSAGE(report.ok(), report.error().message);
  return *std::move(report);
}

// Converts to float32, checks every element, and gives the configuration that the runtime reads.
ModelConfig converted_config(const Checkpoint& checkpoint, const Origins& origins, std::size_t more_tensors = 0) {
  const TempFolder folder;
  checkpoint.write(folder.file("hf"));
  const ConvertReport report = converted(folder.file("hf"), folder.file("x.gguf"));
  for (const std::string& warning : report.warnings) FAIL_CHECK(warning);
  CHECK(report.lossless());
  const gguf::File file = opened(folder.file("x.gguf"));
  check(file, origins);
  CHECK(file.tensors().size() == origins.list.size() + more_tensors);
  CHECK(report.tensors.size() == file.tensors().size());
  const auto config = read_config(file);
  REQUIRE_MESSAGE(config.ok(), config.error().message);

  // To SafeTensors and back: the same again.
  fs::create_directory(folder.file("out"));
  const ConvertReport out = converted(folder.file("x.gguf"), folder.file("out/model.safetensors"));
  CHECK(out.lossless());
  ConvertOptions options;
  options.type = parse_target_type("f32");
  options.weights_only = true;
  const auto back = convert_model(folder.file("out"), folder.file("back.gguf"), options);
  REQUIRE_MESSAGE(back.ok(), back.error().message);
  const gguf::File returned = opened(folder.file("back.gguf"));
  check(returned, origins);
  CHECK(returned.tensors().size() == file.tensors().size());
  return *config;
}

TEST_CASE("llama: permuted heads with biases, an untied head, llama3 scaling as factors") {
  Checkpoint checkpoint = empty({{"model_type", "llama"},
                                 {"architectures", {"LlamaForCausalLM"}},
                                 {"rope_theta", 500000.0},
                                 {"attention_bias", true},
                                 {"rope_scaling",
                                  {{"rope_type", "llama3"},
                                   {"factor", 8.0},
                                   {"low_freq_factor", 1.0},
                                   {"high_freq_factor", 4.0},
                                   {"original_max_position_embeddings", 64}}}});
  Origins origins;
  origins.llama(kHidden, kKv, true);
  origins.layers("attn_q.bias", "self_attn.q_proj.bias", kHidden, 1, kHeads);
  origins.layers("attn_k.bias", "self_attn.k_proj.bias", kKv, 1, kKvHeads);
  origins.list.push_back({"output.weight", "lm_head.weight", kHidden, kVocab});
  origins.write_into(checkpoint);
  checkpoint.tensors.push_back(floats("model.layers.0.self_attn.rotary_emb.inv_freq", {kHeadDim / 2}));
  const ModelConfig config = converted_config(checkpoint, origins, 1);
  CHECK(config.architecture == "llama");
  CHECK(config.rope == RopeKind::kNorm);
  CHECK(config.rope_base == 500000.0F);
  CHECK(config.norm_eps == 1e-6F);

  // The factors, by the rule as it is published: wave lengths against those that turn once and four times in 64.
  const TempFolder folder;
  checkpoint.write(folder.file("hf"));
  converted(folder.file("hf"), folder.file("x.gguf"));
  const gguf::File file = opened(folder.file("x.gguf"));
  const gguf::Tensor& factors = tensor_of(file, "rope_freqs.weight");
  REQUIRE(factors.ne[0] == kHeadDim / 2);
  bool seen[3] = {};
  for (std::int64_t i = 0; i < kHeadDim / 2; ++i) {
    const double frequency = 1.0 / std::pow(500000.0, 2.0 * static_cast<double>(i) / kHeadDim);
    const double wave = 2.0 * std::acos(-1.0) / frequency;
    double scaled = frequency;
    if (wave > 64.0 / 1.0) {
      scaled = frequency / 8.0;
      seen[0] = true;
    } else if (wave >= 64.0 / 4.0) {
      const double smooth = (64.0 / wave - 1.0) / (4.0 - 1.0);
      scaled = (1.0 - smooth) * frequency / 8.0 + smooth * frequency;
      seen[1] = true;
    } else {
      seen[2] = true;
    }
    CHECK(static_cast<double>(float_at(factors, i)) == doctest::Approx(frequency / scaled).epsilon(1e-6));
  }
  CHECK((seen[0] && seen[1] && seen[2]));
}

TEST_CASE("mistral: a window; scaling by rope_parameters") {
  Checkpoint checkpoint = empty({{"model_type", "mistral"},
                                 {"architectures", {"MistralForCausalLM"}},
                                 {"sliding_window", 32},
                                 {"tie_word_embeddings", true},
                                 {"rope_parameters",
                                  {{"rope_theta", 20000.0},
                                   {"rope_type", "yarn"},
                                   {"factor", 4.0},
                                   {"beta_slow", 2.0},
                                   {"original_max_position_embeddings", 32},
                                   {"attention_factor", 1.0}}}});
  Origins origins;
  origins.llama(kHidden, kKv, true);
  origins.write_into(checkpoint);
  checkpoint.tensors.push_back(floats("lm_head.weight", {kVocab, kHidden}));  // tied: says the same once more
  const ModelConfig config = converted_config(checkpoint, origins);
  CHECK(config.architecture == "llama");
  CHECK(config.window == 32);
  CHECK(config.windowed(0));
  CHECK(config.windowed(1));
  CHECK(config.rope_base == 20000.0F);
  CHECK(config.rope_scaling == RopeScaling::kYarn);
  CHECK(config.rope_factor == 4.0F);
  CHECK(config.rope_original_context == 32);
  CHECK(config.yarn_beta_slow == 2.0F);
  CHECK(config.rope_attention_factor == doctest::Approx(1.0 / (1.0 + 0.1 * std::log(4.0))));
}

TEST_CASE("qwen3: wide heads with norms, nothing permuted; qwen2: biases") {
  Checkpoint checkpoint = empty({{"model_type", "qwen3"},
                                 {"architectures", {"Qwen3ForCausalLM"}},
                                 {"head_dim", 32},
                                 {"rope_theta", 1000000},
                                 {"use_sliding_window", false},
                                 {"sliding_window", 4096},
                                 {"tie_word_embeddings", true}});
  Origins origins;
  origins.llama(128, 64, false);
  origins.layers("attn_q_norm.weight", "self_attn.q_norm.weight", 32);
  origins.layers("attn_k_norm.weight", "self_attn.k_norm.weight", 32);
  origins.write_into(checkpoint);
  ModelConfig config = converted_config(checkpoint, origins);
  CHECK(config.architecture == "qwen3");
  CHECK(config.head_dim == 32);
  CHECK(config.rope == RopeKind::kNeox);
  CHECK(config.window == 0);

  checkpoint = empty({{"model_type", "qwen2"}, {"architectures", {"Qwen2ForCausalLM"}}, {"tie_word_embeddings", true}});
  origins = {};
  origins.llama(kHidden, kKv, false);
  origins.layers("attn_q.bias", "self_attn.q_proj.bias", kHidden);
  origins.layers("attn_k.bias", "self_attn.k_proj.bias", kKv);
  origins.layers("attn_v.bias", "self_attn.v_proj.bias", kKv);
  origins.write_into(checkpoint);
  config = converted_config(checkpoint, origins);
  CHECK(config.architecture == "qwen2");
}

TEST_CASE("gemma3: norms plus 1, post norms, windows between global layers") {
  Checkpoint checkpoint = empty({{"model_type", "gemma3_text"},
                                 {"architectures", {"Gemma3ForCausalLM"}},
                                 {"hidden_activation", "gelu_pytorch_tanh"},
                                 {"query_pre_attn_scalar", 25},
                                 {"sliding_window", 16},
                                 {"layer_types", {"sliding_attention", "full_attention"}},
                                 {"rope_theta", 1000000.0},
                                 {"rope_local_base_freq", 5000.0},
                                 {"final_logit_softcapping", nullptr}});
  Origins origins;
  origins.global("token_embd.weight", "embed_tokens.weight", kHidden, kVocab);
  origins.projections(kHidden, kKv, false);
  const std::size_t plain = origins.list.size();
  origins.global("output_norm.weight", "norm.weight", kHidden);
  origins.layers("attn_norm.weight", "input_layernorm.weight", kHidden);
  origins.layers("post_attention_norm.weight", "post_attention_layernorm.weight", kHidden);
  origins.layers("ffn_norm.weight", "pre_feedforward_layernorm.weight", kHidden);
  origins.layers("post_ffw_norm.weight", "post_feedforward_layernorm.weight", kHidden);
  origins.layers("attn_q_norm.weight", "self_attn.q_norm.weight", kHeadDim);
  origins.layers("attn_k_norm.weight", "self_attn.k_norm.weight", kHeadDim);
  for (std::size_t i = plain; i < origins.list.size(); ++i) origins.list[i].plus_one = true;
  origins.write_into(checkpoint);
  const ModelConfig config = converted_config(checkpoint, origins);
  CHECK(config.architecture == "gemma3");
  CHECK(config.activation == Activation::kGelu);
  CHECK(config.embedding_scale == 8.0F);
  CHECK(config.attention_scale == 0.2F);
  CHECK(config.window == 16);
  CHECK(config.windowed(0));
  CHECK(!config.windowed(1));
  CHECK(config.window_rope_base == 5000.0F);
  CHECK(config.rope_base == 1000000.0F);
}

TEST_CASE("minicpm: scales and longrope") {
  std::vector<double> shorter(kHeadDim / 2, 1.0);
  std::vector<double> longer(kHeadDim / 2, 2.5);
  Checkpoint checkpoint = empty({{"model_type", "minicpm"},
                                 {"architectures", {"MiniCPMForCausalLM"}},
                                 {"scale_emb", 12},
                                 {"scale_depth", 1.4},
                                 {"dim_model_base", 32},
                                 {"rope_scaling",
                                  {{"rope_type", "longrope"},
                                   {"short_factor", shorter},
                                   {"long_factor", longer},
                                   {"original_max_position_embeddings", 64}}}});
  Origins origins;
  origins.llama(kHidden, kKv, true);
  origins.write_into(checkpoint);
  const ModelConfig config = converted_config(checkpoint, origins, 2);
  CHECK(config.architecture == "minicpm");
  CHECK(config.embedding_scale == 12.0F);
  CHECK(config.residual_scale == doctest::Approx(1.4 / std::sqrt(2.0)));
  CHECK(config.logit_scale == 0.5F);
  CHECK(config.rope_scaling == RopeScaling::kLongrope);
  CHECK(config.rope_original_context == 64);
  CHECK(config.rope_attention_factor == doctest::Approx(std::sqrt(1.0 + std::log(2.0) / std::log(64.0))));
}

TEST_CASE("gpt2: transposed matrices, masks that are no weights, with and without a prefix") {
  for (const char* prefix : {"transformer.", ""}) {
    Checkpoint checkpoint = empty(Json::object());
    checkpoint.config = {{"model_type", "gpt2"},
                         {"architectures", {"GPT2LMHeadModel"}},
                         {"n_embd", kHidden},
                         {"n_layer", kLayers},
                         {"n_head", kHeads},
                         {"n_positions", 128},
                         {"activation_function", "gelu_new"},
                         {"layer_norm_epsilon", 1e-5},
                         {"vocab_size", kVocab}};
    Origins origins;
    origins.prefix = prefix;
    origins.global("token_embd.weight", "wte.weight", kHidden, kVocab);
    origins.global("position_embd.weight", "wpe.weight", kHidden, 128);
    for (const char* kind : {"weight", "bias"}) {
      origins.global("output_norm." + std::string(kind), "ln_f." + std::string(kind), kHidden);
    }
    const auto layers = [&](const std::string& gguf, const std::string& hf, std::int64_t columns, std::int64_t rows) {
      for (std::int64_t layer = 0; layer < kLayers; ++layer) {
        const std::string dotted = std::to_string(layer) + ".";
        Origin origin{"blk." + dotted + gguf, prefix + ("h." + dotted + hf), columns, rows};
        origin.transposed = rows > 1;
        origins.list.push_back(origin);
      }
    };
    for (const auto& [gguf, hf] : {std::pair("attn_norm", "ln_1"), {"ffn_norm", "ln_2"}}) {
      for (const char* kind : {".weight", ".bias"})
        layers(std::string(gguf) + kind, std::string(hf) + kind, kHidden, 1);
    }
    layers("attn_qkv.weight", "attn.c_attn.weight", kHidden, 3 * kHidden);
    layers("attn_qkv.bias", "attn.c_attn.bias", 3 * kHidden, 1);
    layers("attn_output.weight", "attn.c_proj.weight", kHidden, kHidden);
    layers("attn_output.bias", "attn.c_proj.bias", kHidden, 1);
    layers("ffn_up.weight", "mlp.c_fc.weight", kHidden, 4 * kHidden);
    layers("ffn_up.bias", "mlp.c_fc.bias", 4 * kHidden, 1);
    layers("ffn_down.weight", "mlp.c_proj.weight", 4 * kHidden, kHidden);
    layers("ffn_down.bias", "mlp.c_proj.bias", kHidden, 1);
    origins.write_into(checkpoint);
    checkpoint.tensors.push_back(floats(std::string(prefix) + "h.0.attn.bias", {1, 1, 8, 8}));
    checkpoint.tensors.push_back(floats(std::string(prefix) + "h.0.attn.masked_bias", {1}));
    const ModelConfig config = converted_config(checkpoint, origins);
    CHECK(config.architecture == "gpt2");
    CHECK(config.norm == NormKind::kLayer);
    CHECK(config.ffn == 4 * kHidden);
    CHECK(config.learned_positions);
  }
}

// Code and scale of I2_S in its x86 layout.
int code_at(const gguf::Tensor& tensor, std::int64_t i) {
  const auto byte = static_cast<unsigned>(tensor.data[static_cast<std::size_t>(i / 128 * 32 + i % 32)]);
  return static_cast<int>(byte >> (6 - 2 * (i % 128 / 32)) & 3U) - 1;
}

TEST_CASE("weight_scale divides where linear_class is bitlinear, also when it is not stated") {
  for (const bool stated : {true, false}) {
    const TempFolder folder;
    Checkpoint checkpoint;
    checkpoint.config["model_type"] = "llama";
    checkpoint.config["architectures"] = {"LlamaForCausalLM"};
    checkpoint.config["hidden_act"] = "silu";
    checkpoint.config["quantization_config"] = {{"quant_method", "bitnet"},
                                                {"modules_to_not_convert", {"lm_head", "layers.1.mlp.down_proj"}}};
    if (stated) checkpoint.config["quantization_config"]["linear_class"] = "bitlinear";
    std::erase_if(checkpoint.tensors, [](const HfTensor& tensor) {
      return tensor.name.find("sub_norm") != std::string::npos ||
             tensor.name == "model.layers.1.mlp.down_proj.weight_scale";
    });
    // A module that is not converted: plain values, ternary as it happens.
    const std::string down = "model.layers.1.mlp.down_proj.weight";
    std::vector<float> values;
    for (std::int64_t i = 0; i < kHidden * kFfn; ++i) values.push_back(0.75F * static_cast<float>(ternary(down, i)));
    checkpoint.tensor(down) = {down, "F32", {kHidden, kFfn}, raw(values)};
    checkpoint.write(folder.file("hf"));
    converted(folder.file("hf"), folder.file("x.gguf"), "i2_s");
    const gguf::File file = opened(folder.file("x.gguf"));
    const std::string name = "model.layers.1.self_attn.q_proj.weight";
    const gguf::Tensor& q = tensor_of(file, "blk.1.attn_q.weight");
    int wrong = 0;
    for (std::int64_t row = 0; row < kHidden; ++row) {
      for (std::int64_t column = 0; column < kHidden; ++column) {
        const int expected = ternary(name, unpermuted(row, kHeadDim) * kHidden + column);
        wrong += code_at(q, row * kHidden + column) != expected ? 1 : 0;
      }
    }
    CHECK(wrong == 0);
    CHECK(float_at(q, kHidden * kHidden / 16) == 1.0F / scale_of(name));
    const gguf::Tensor& plain = tensor_of(file, "blk.1.ffn_down.weight");
    wrong = 0;
    for (std::int64_t i = 0; i < kHidden * kFfn; ++i) wrong += code_at(plain, i) != ternary(down, i) ? 1 : 0;
    CHECK(wrong == 0);
    CHECK(float_at(plain, kHidden * kFfn / 16) == 0.75F);
  }
}

// transformers multiplies the sum of an offline autobitlinear layer, with its bias, by the weights' scale.
TEST_CASE("biases of packed weights: scaled where the class scales sums") {
  for (const char* linear : {"autobitlinear", "bitlinear"}) {
    CAPTURE(std::string(linear));
    const TempFolder folder;
    Checkpoint checkpoint;
    checkpoint.config["attention_bias"] = true;
    checkpoint.config["quantization_config"]["linear_class"] = linear;
    for (const char* layer : {"0", "1"}) {
      checkpoint.tensors.push_back(floats("model.layers." + std::string(layer) + ".self_attn.v_proj.bias", {kKv}));
    }
    checkpoint.write(folder.file("hf"));
    ConvertOptions options;
    options.weights_only = true;
    const auto report = convert_model(folder.file("hf"), folder.file("x.gguf"), options);
    REQUIRE_MESSAGE(report.ok(), report.error().message);
    const gguf::File file = opened(folder.file("x.gguf"));
    const gguf::Tensor& bias = tensor_of(file, "blk.1.attn_v.bias");
    const bool scaled = std::string(linear) == "autobitlinear";
    const std::string name = "model.layers.1.self_attn.v_proj.";
    const float scale = scaled ? scale_of(name + "weight") : 1.0F;
    int wrong = 0;
    for (std::int64_t i = 0; i < kKv; ++i) wrong += float_at(bias, i) != value(name + "bias", i) * scale ? 1 : 0;
    CHECK(wrong == 0);

    // Floats again, bias and all.
    fs::create_directory(folder.file("out"));
    options.type = gguf::TensorType::kF32;
    const auto out = convert_model(folder.file("hf"), folder.file("out/model.safetensors"), options);
    REQUIRE_MESSAGE(out.ok(), out.error().message);
    options.type.reset();
    options.embedding = gguf::TensorType::kF32;
    const auto back = convert_model(folder.file("out"), folder.file("back.gguf"), options);
    REQUIRE_MESSAGE(back.ok(), back.error().message);
    const gguf::File returned = opened(folder.file("back.gguf"));
    for (const gguf::Tensor& tensor : file.tensors()) {
      if (tensor.name == "token_embd.weight") continue;  // float16 in the first
      const gguf::Tensor& same = tensor_of(returned, std::string(tensor.name));
      REQUIRE(same.data.size() == tensor.data.size());
      CHECK(std::memcmp(same.data.data(), tensor.data.data(), tensor.data.size()) == 0);
    }
  }
}

TEST_CASE("sliding_window counts where the class uses it") {
  const auto window_of = [](const Json& config) -> Result<ModelConfig> {
    const TempFolder folder;
    Checkpoint checkpoint = empty({{"tie_word_embeddings", true}});
    checkpoint.config.update(config);
    Origins origins;
    origins.llama(kHidden, kKv, false);
    if (config["model_type"] == "qwen3") {
      origins.layers("attn_q_norm.weight", "self_attn.q_norm.weight", kHeadDim);
      origins.layers("attn_k_norm.weight", "self_attn.k_norm.weight", kHeadDim);
    }
    origins.write_into(checkpoint);
    checkpoint.write(folder.file("hf"));
    ConvertOptions options;
    options.weights_only = true;
    const auto report = convert_model(folder.file("hf"), folder.file("x.gguf"), options);
    if (!report.ok()) return report.error();
    const bool warned = std::any_of(report->warnings.begin(), report->warnings.end(), [](const std::string& warning) {
      return warning.find("sliding_window is left out of account") != std::string::npos;
    });
    CHECK(warned == (config["model_type"] == "llama" || config["model_type"] == "minicpm"));
    return read_config(opened(folder.file("x.gguf")));
  };
  const Json llama = {{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}}, {"sliding_window", 16}};
  CHECK(window_of(llama)->window == 0);
  Json minicpm = {{"model_type", "minicpm"}, {"architectures", {"MiniCPMForCausalLM"}}, {"sliding_window", 16}};
  minicpm.update({{"scale_emb", 12}, {"scale_depth", 1.4}, {"dim_model_base", 32}});
  CHECK(window_of(minicpm)->window == 0);
  CHECK(window_of({{"model_type", "mistral"}, {"architectures", {"MistralForCausalLM"}}, {"sliding_window", 16}})
            ->window == 16);
  Json qwen = {{"model_type", "qwen3"}, {"architectures", {"Qwen3ForCausalLM"}}, {"sliding_window", 16}};
  CHECK(window_of(qwen)->window == 0);
  qwen.update({{"use_sliding_window", false}, {"max_window_layers", 0}});
  CHECK(window_of(qwen)->window == 0);
  qwen["use_sliding_window"] = true;
  CHECK(window_of(qwen)->window == 16);
  CHECK(window_of(qwen)->windowed(0));
  qwen["max_window_layers"] = kLayers;
  CHECK(window_of(qwen)->window == 0);
  qwen["max_window_layers"] = 1;
  CHECK(!window_of(qwen).ok());
  qwen["layer_types"] = {"sliding_attention", "full_attention"};
  CHECK(window_of(qwen)->windowed(0));
  CHECK(!window_of(qwen)->windowed(1));
  qwen.erase("sliding_window");
  CHECK(!window_of(qwen).ok());
}

// Masters are rounded by their mean magnitude, whatever says that they are masters.
TEST_CASE("masters: online quantisation, bitnet_b1_58 names, norms of single projections") {
  const auto convert_masters = [](Checkpoint checkpoint, const std::string& prefix) {
    for (HfTensor& tensor : checkpoint.tensors) {
      if (tensor.dtype == "U8") tensor = floats(tensor.name, {tensor.shape[0] * 4, tensor.shape[1]});
    }
    std::erase_if(checkpoint.tensors, [](const HfTensor& tensor) { return tensor.name.ends_with("_scale"); });
    for (HfTensor& tensor : checkpoint.tensors) tensor.name = prefix + tensor.name.substr(6);  // behind "model."
    const TempFolder folder;
    checkpoint.write(folder.file("hf"));
    const auto report = convert_model(folder.file("hf"), folder.file("x.gguf"), {});
    REQUIRE_MESSAGE(report.ok(), report.error().message);
    const gguf::File file = opened(folder.file("x.gguf"));
    const std::string name = "model.layers.0.mlp.up_proj.weight";  // its values were made under this name
    const gguf::Tensor& up = tensor_of(file, "blk.0.ffn_up.weight");
    REQUIRE(up.type == gguf::TensorType::kI2_S);
    double sum = 0;
    for (std::int64_t i = 0; i < kFfn * kHidden; ++i) sum += std::fabs(static_cast<double>(value(name, i)));
    const double mean = sum / static_cast<double>(kFfn * kHidden);
    CHECK(static_cast<double>(float_at(up, kFfn * kHidden / 16)) == doctest::Approx(mean).epsilon(1e-6));
    int wrong = 0;
    for (std::int64_t i = 0; i < kFfn * kHidden; ++i) {
      const double rounded = std::nearbyint(static_cast<double>(value(name, i)) / mean);
      wrong += code_at(up, i) != static_cast<int>(std::clamp(rounded, -1.0, 1.0)) ? 1 : 0;
    }
    CHECK(wrong == 0);
    if (prefix.empty()) {  // as the published files call them
      CHECK(tensor_of(file, "blk.1.attn_v_norm_in.weight").ne[0] == kHidden);
      CHECK(tensor_of(file, "blk.1.ffn_sub_norm.weight").ne[0] == kFfn);
    }
    for (const ConvertedTensor& tensor : report->tensors) {
      CHECK(tensor.rounded == (tensor.to_type == "I2_S"));
      if (tensor.rounded) CHECK(tensor.relative_error > 0.1);
    }
    return *read_config(file);
  };
  Checkpoint checkpoint;
  checkpoint.config["quantization_config"]["quantization_mode"] = "online";
  CHECK(convert_masters(checkpoint, "model.").architecture == "bitnet-b1.58");

  checkpoint.config.erase("quantization_config");
  checkpoint.config.update(Json{{"model_type", "llama"},
                                {"architectures", {"BitnetForCausalLM"}},
                                {"hidden_act", "silu"},
                                {"weight_bits", 1},
                                {"input_bits", 8}});
  for (HfTensor& tensor : checkpoint.tensors) {
    const std::size_t attention = tensor.name.find("attn_sub_norm");
    const std::size_t ffn = tensor.name.find("ffn_sub_norm");
    if (attention != std::string::npos) tensor.name.replace(attention, 13, "inner_attn_ln");
    if (ffn != std::string::npos) tensor.name.replace(ffn, 12, "ffn_layernorm");
  }
  const ModelConfig old = convert_masters(checkpoint, "model.");
  CHECK(old.architecture == "bitnet");
  CHECK(old.activation == Activation::kSilu);

  // An embedding model: no head, no prefix, pooling beside it.
  checkpoint.config.update(
      Json{{"model_type", "qwen3"}, {"architectures", {"Qwen3Model"}}, {"tie_word_embeddings", false}});
  checkpoint.config.erase("weight_bits");
  checkpoint.config.erase("input_bits");
  std::erase_if(checkpoint.tensors, [](const HfTensor& tensor) {
    return tensor.name.find("inner_attn_ln") != std::string::npos ||
           tensor.name.find("ffn_layernorm") != std::string::npos;
  });
  for (const char* layer : {"0", "1"}) {
    const std::string block = "model.layers." + std::string(layer) + ".";
    for (const char* name : {"q_norm", "k_norm"}) {
      checkpoint.tensors.push_back(floats(block + "self_attn." + name + ".weight", {kHeadDim}));
    }
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                             "mlp.gate_proj", "mlp.up_proj"}) {
      checkpoint.tensors.push_back(floats(block + name + ".norm.weight", {kHidden}));
    }
    checkpoint.tensors.push_back(floats(block + "mlp.down_proj.norm.weight", {kFfn}));
  }
  CHECK(convert_masters(checkpoint, "").architecture == "qwen3");
}

TEST_CASE("pooling of an embedding model") {
  const TempFolder folder;
  Checkpoint checkpoint = empty({{"model_type", "qwen3"}, {"architectures", {"Qwen3Model"}}});
  Origins origins;
  origins.llama(kHidden, kKv, false);
  origins.layers("attn_q_norm.weight", "self_attn.q_norm.weight", kHeadDim);
  origins.layers("attn_k_norm.weight", "self_attn.k_norm.weight", kHeadDim);
  origins.write_into(checkpoint);
  checkpoint.write(folder.file("hf"));
  fs::create_directory(folder.file("hf/1_Pooling"));
  const auto pooling = [&](const char* text) -> Result<Pooling> {
    write_file(folder.file("hf/1_Pooling/config.json"), text);
    const auto report = convert_model(folder.file("hf"), folder.file("x.gguf"), {});
    if (!report.ok()) return report.error();
    return read_config(opened(folder.file("x.gguf")))->pooling;
  };
  CHECK(*pooling(R"({"word_embedding_dimension": 64, "pooling_mode_lasttoken": true})") == Pooling::kLast);
  CHECK(*pooling(R"({"pooling_mode_mean_tokens": true, "pooling_mode_lasttoken": false})") == Pooling::kMean);
  CHECK(!pooling(R"({"pooling_mode_cls_token": true})").ok());
  CHECK(!pooling(R"({"pooling_mode_mean_tokens": true, "pooling_mode_lasttoken": true})").ok());
}

TEST_CASE("shards: each against the index, in both directions") {
  const TempFolder folder;
  const Checkpoint whole;
  whole.write(folder.file("one"));
  converted(folder.file("one"), folder.file("one.gguf"), "i2_s");
  std::vector<HfTensor> first(whole.tensors.begin(), whole.tensors.begin() + 9);
  std::vector<HfTensor> second(whole.tensors.begin() + 9, whole.tensors.end());
  const auto write = [&](const std::string& name, const Json& map) {
    Checkpoint sharded = whole;
    sharded.files["model.safetensors"] = "";
    sharded.files["model-1.safetensors"] = safetensors_bytes(first);
    sharded.files["model-2.safetensors"] = safetensors_bytes(second);
    sharded.files["model.safetensors.index.json"] = Json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump();
    sharded.write(folder.file(name));
    return convert_model(folder.file(name), folder.file(name + ".gguf"), {});
  };
  Json map;
  for (const HfTensor& tensor : first) map[tensor.name] = "model-1.safetensors";
  for (const HfTensor& tensor : second) map[tensor.name] = "model-2.safetensors";
  ConvertOptions options;
  REQUIRE(write("two", map).ok());
  options.name = "one";
  REQUIRE(convert_model(folder.file("two"), folder.file("two.gguf"), options).ok());
  CHECK(read_file(folder.file("one.gguf")) == read_file(folder.file("two.gguf")));

  const auto fails = [&](const Json& changed, std::string_view part) {
    const auto result = write("bad", changed);
    REQUIRE(!result.ok());
    CHECK(result.error().code == ErrorCode::kFailure);
    CHECK_MESSAGE(result.error().message.find(part) != std::string::npos, result.error().message);
    CHECK(!fs::exists(folder.file("bad.gguf")));
  };
  Json changed = map;
  changed.erase("model.norm.weight");
  fails(changed, "'model.norm.weight': expected it to be listed in model-2.safetensors, where it is, found no entry");
  changed = map;
  changed["model.norm.weight"] = "model-1.safetensors";
  fails(changed, "found 'model-1.safetensors'");
  changed = map;
  changed["more"] = "model-1.safetensors";
  fails(changed, "'more': expected it in model-1.safetensors, found no such tensor");
  changed = map;
  changed["model.norm.weight"] = "model-3.safetensors";
  fails(changed, "model-3.safetensors");
  changed["model.norm.weight"] = "../two/model-2.safetensors";
  fails(changed, "a file in the same folder");
  changed["model.norm.weight"] = 5;
  fails(changed, "an object of strings");
  second.push_back(first.back());  // a tensor in both
  fails(map, "'" + first.back().name + "'");
}

}  // namespace
}  // namespace bitnet
